//! Strategies: what to try next, given what was tried.
//!
//! A strategy is a function of the space, its tables, the history and a seed, and of nothing else: resuming a study needs no saved
//! strategy. It sees axes, costs and outcomes, never a network.
//!
//! * [`additive`]: the default, a knapsack ([`solve`]) over tables ([`Tables`]) that a [`Surrogate`] corrects; `evolve`, `anneal` and `random`
//!   beside it; [`peers`]: what other tools do, as baselines.
//! * [`certify`]: who meets more samples; [`rollback`]: steps back from points over the budget, and forward from points within it.

pub mod additive;
mod anneal;
pub mod certify;
mod evolve;
#[cfg(test)]
pub(crate) mod fixture;
pub mod peers;
pub mod probe;
mod random;
pub mod rollback;
pub mod solve;
mod surrogate;
mod tables;
#[cfg(test)]
mod tests;

use rand_chacha::ChaCha8Rng;

pub use surrogate::Surrogate;
pub use tables::Tables;

use crate::{
    error::Result,
    space::{Candidate, Space},
    spec::StrategyName,
    trial::{Cost, Limit, Score, Trial},
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
    /// What is known of their options.
    pub tables: &'a Tables,
    /// Predicted cost of any candidate.
    pub cost: &'a dyn Fn(&Candidate) -> Result<Cost>,
    /// What rules a candidate out.
    pub limits: Limits,
    /// The largest drop that is wanted, if there is a limit.
    pub budget: Option<f64>,
    /// The drop above which a candidate is of no interest.
    pub horizon: f64,
    /// Validation samples there are.
    pub samples: usize,
    /// All trials so far, the float model's first.
    pub history: &'a [Trial],
}

/// Drop up to which points are of interest where there is no accuracy budget.
const INTEREST: f64 = 0.2;

impl View<'_> {
    /// The largest drop that a search looks at.
    fn interest(&self) -> f64 {
        if self.horizon.is_finite() { self.horizon } else { INTEREST }
    }

    /// Whether a candidate passes the limits that need no sample.
    pub fn affordable(&self, candidate: &Candidate) -> bool {
        (self.cost)(candidate).is_ok_and(|c| self.limits.broken(&c).is_none())
    }
}

/// A candidate that is to be measured.
#[derive(Debug, Clone, PartialEq)]
pub struct Asked {
    /// The candidate.
    pub candidate: Candidate,
    /// Samples it is to meet; none for as many as a search's candidates usually meet.
    pub samples: Option<usize>,
    /// Drop that is expected of it.
    pub predicted: Option<f64>,
}

impl From<Candidate> for Asked {
    fn from(candidate: Candidate) -> Self {
        Self { candidate, samples: None, predicted: None }
    }
}

/// The model of all trials but a candidate's own.
fn without_own(view: &View<'_>, candidate: &Candidate) -> Surrogate {
    Surrogate::fit(view.space, view.tables, view.history.iter().filter(|t| t.candidate != *candidate))
}

/// Whether a score keeps the budget: by the upper end of its interval where it has one.
pub fn holds(score: &Score, budget: f64) -> bool {
    score.drop_high.unwrap_or(score.drop) <= budget
}

/// Proposes up to `n` candidates; none when the strategy has come to its end.
pub fn ask(strategy: StrategyName, view: &View<'_>, n: usize, rng: &mut ChaCha8Rng) -> Vec<Asked> {
    let plain = |found: Vec<Candidate>| found.into_iter().map(Asked::from).collect();
    match strategy {
        StrategyName::Additive => additive::ask(view, n, rng),
        StrategyName::Evolve => evolve::ask(view, n, rng),
        StrategyName::Anneal => anneal::ask(view, n, rng),
        StrategyName::Random => plain(random::ask(view, n, rng)),
        StrategyName::Nsga2 => plain(peers::nsga2::ask(view, n, rng)),
        StrategyName::Uniform => peers::uniform::ask(view),
        StrategyName::Amct => peers::amct::ask(view),
        StrategyName::Aimet => peers::aimet::ask(view),
        StrategyName::Nncf => peers::nncf::ask(view),
    }
}
