//! The objective: from a plan to its outcome.
//!
//! [`Objective`] is the seam between the search and the world: the study knows nothing else of networks, so that it
//! can be tested on a synthetic one. [`Evaluator`] is the real one: size and latency from the device profile first,
//! then accuracy on the fake-quant twin, sample by sample beside the float model. [`fuse`] makes the twin fast.

mod anchors;
mod command;
mod compare;
mod distance;
mod evaluator;
pub mod exhaust;
pub mod fuse;
mod held;
mod prefix;
mod racing;
mod sites;
#[cfg(test)]
mod tests;

pub use compare::Comparison;
pub use distance::Distance;
pub use evaluator::{Evaluator, Setup, evaluate_model, order, predict_plan};
pub use racing::Bet;

use crate::{
    error::Result,
    space::{Candidate, Space},
    trial::{Cost, Outcome},
};

/// How far a candidate may go.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Race {
    /// Samples that it meets at most.
    pub samples: usize,
    /// It ends before them as soon as its drop is certainly above this; none means never.
    pub above: Option<f64>,
    /// How often that may be wrong.
    pub alpha: f64,
}

/// What a study minimises.
pub trait Objective: Sync {
    /// The decisions.
    fn space(&self) -> &Space;

    /// Predicted latency and size of a candidate, without running a sample. Cheap.
    ///
    /// # Errors
    /// If the candidate cannot be built.
    fn cost(&self, candidate: &Candidate) -> Result<Cost>;

    /// Cost of the float model.
    fn float_cost(&self) -> Cost;

    /// Validation samples there are.
    fn samples(&self) -> usize;

    /// Measures the float model.
    fn baseline(&self) -> Outcome;

    /// Measures a candidate. Must depend on nothing but its arguments: a candidate that goes on gets what it would have got at once.
    fn evaluate(&self, candidate: &Candidate, race: Race) -> Outcome;
}
