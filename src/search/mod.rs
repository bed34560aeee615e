//! Strategies: what to try next, given what was tried.
//!
//! A strategy is a function of the space, the history and a seed, and of nothing else: resuming a study needs no saved
//! strategy. It sees axes, costs and outcomes, never a network.

mod evolve;
mod random;
pub mod rollback;

use rand_chacha::ChaCha8Rng;

use crate::{
    error::Result,
    space::{Candidate, Space},
    spec::StrategyName,
    trial::{Cost, Limit, Trial},
};

/// Limits that can rule a candidate out without running a sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Largest predicted latency, milliseconds.
    pub latency_ms: Option<f64>,
    /// Largest deployed size, bytes.
    pub bytes: Option<u64>,
    /// The float model's cost: nothing slower or larger is wanted.
    pub float: Cost,
}

impl Limits {
    /// The limit that a cost breaks, if any.
    pub fn broken(&self, cost: &Cost) -> Option<Limit> {
        if cost.latency_ms > self.float.latency_ms {
            Some(Limit::SlowerThanFloat)
        } else if cost.bytes > self.float.bytes {
            Some(Limit::LargerThanFloat)
        } else if self.latency_ms.is_some_and(|l| cost.latency_ms > l) {
            Some(Limit::Latency)
        } else if self.bytes.is_some_and(|b| cost.bytes > b) {
            Some(Limit::Size)
        } else {
            None
        }
    }
}

/// What a strategy may look at.
pub struct View<'a> {
    /// The decisions.
    pub space: &'a Space,
    /// Predicted cost of any candidate.
    pub cost: &'a dyn Fn(&Candidate) -> Result<Cost>,
    /// Whether a candidate's network built sequentially is another than the one built in parallel.
    pub differs: &'a dyn Fn(&Candidate) -> bool,
    /// What rules a candidate out.
    pub limits: Limits,
    /// The drop above which a candidate is of no interest.
    pub horizon: f64,
    /// All trials so far, the float model's first.
    pub history: &'a [Trial],
}

impl View<'_> {
    /// Whether a candidate passes the limits that need no sample.
    pub fn affordable(&self, candidate: &Candidate) -> bool {
        (self.cost)(candidate).is_ok_and(|c| self.limits.broken(&c).is_none())
    }
}

/// Proposes up to `n` candidates that are not in the history; fewer only if there are no more.
pub fn ask(strategy: StrategyName, view: &View<'_>, n: usize, rng: &mut ChaCha8Rng) -> Vec<Candidate> {
    match strategy {
        StrategyName::Evolve => evolve::ask(view, n, rng),
        StrategyName::Random => random::ask(view, n, rng),
    }
}
