//! The objective: from a plan to its outcome.
//!
//! [`Objective`] is the seam between the search and the world: the study knows nothing else of networks, so that it
//! can be tested on a synthetic one. [`Evaluator`] is the real one: size and latency from the device profile first,
//! then accuracy on the fake-quant twin, sample by sample beside the float model. [`fuse`] makes the twin fast.

mod command;
mod compare;
mod evaluator;
pub mod fuse;
mod racing;
#[cfg(test)]
mod tests;

pub use compare::Comparison;
pub use evaluator::{Evaluator, Setup, evaluate_model, order, predict_plan};
pub use racing::Bet;

use crate::{
    error::Result,
    space::{Build, Candidate, Space},
    trial::{Cost, Outcome},
};

/// When to give a candidate up before it has met every sample.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct GiveUp {
    /// The drop that a candidate must certainly exceed; none means never.
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

    /// Measures the float model.
    fn baseline(&self) -> Outcome;

    /// Whether the network of a candidate built sequentially is another than the one built in parallel. Cheap.
    fn differs(&self, candidate: &Candidate) -> bool;

    /// Measures a candidate, built as asked. Must depend on nothing but its arguments.
    fn evaluate(&self, candidate: &Candidate, build: Build, give_up: GiveUp) -> Outcome;
}
