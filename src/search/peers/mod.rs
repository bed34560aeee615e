//! What other tools do, true to their papers or code, over the same space and evaluator: the baselines that a search must beat.
//!
//! They measure on all samples and compare the drop as measured with the budget; only what their rule looks at decides, so latency is none of their
//! business. Each is a state machine over the history: it asks for the first thing that it needs to know and does not.

pub mod aimet;
pub mod amct;
pub mod nncf;
pub mod nsga2;
pub mod uniform;

use super::{Asked, View};
use crate::{
    precision::Precision,
    space::{Candidate, Choice},
    trial::{Outcome, Score, Trial},
};

/// What the history says of a candidate that is to meet so many samples; nothing yet where it met fewer.
fn known<'a>(view: &View<'a>, candidate: &Candidate, samples: usize) -> Option<Known<'a>> {
    let all = || view.history.iter().filter(|t| t.candidate == *candidate);
    let enough = |score: &&Score| score.samples >= samples.min(view.samples);
    let unfit = |t: &Trial| !matches!(t.outcome, Outcome::Measured { .. } | Outcome::Sampled { .. });
    match all().find_map(|t| t.outcome.scored().map(|(s, _)| s).filter(enough)) {
        Some(score) => Some(Known::Scored(score)),
        None => all().any(unfit).then_some(Known::Unfit),
    }
}

/// A candidate that was tried.
#[derive(Clone, Copy)]
enum Known<'a> {
    Scored(&'a Score),
    /// It cannot be built, breaks a limit, or was given up: it does not do.
    Unfit,
}

impl Known<'_> {
    fn keeps(self, budget: f64) -> bool {
        matches!(self, Self::Scored(score) if score.drop <= budget)
    }

    fn drop(self) -> f64 {
        match self {
            Self::Scored(score) => score.drop,
            Self::Unfit => f64::INFINITY,
        }
    }

    fn distance(self) -> f64 {
        match self {
            Self::Scored(score) => score.distance.unwrap_or(score.drop),
            Self::Unfit => f64::INFINITY,
        }
    }
}

/// Asks for candidates on all samples.
fn on_all(view: &View<'_>, candidates: Vec<Candidate>) -> Vec<Asked> {
    candidates.into_iter().map(|candidate| Asked { candidate, samples: Some(view.samples), predicted: None }).collect()
}

/// The axes of precision, each with its option of plain INT8, else the strongest one that is no stronger.
fn int8(view: &View<'_>) -> Vec<(usize, u16)> {
    let option = |(a, axis): (usize, &crate::space::Axis)| match &axis.choice {
        Choice::Precision(_, options) => {
            let at = options.iter().rposition(|p| *p <= Precision::Int8).filter(|o| *o > 0)?;
            Some((a, u16::try_from(at).ok()?))
        }
        _ => None,
    };
    view.space.axes.iter().enumerate().filter_map(option).collect()
}

/// The budget; peers that work towards one are refused a spec without it.
fn budget(view: &View<'_>) -> f64 {
    view.budget.unwrap_or(f64::INFINITY)
}
