//! How far a plan's network is from the float model, beyond its metric.

use super::{Evaluator, distance::mean};
use crate::{
    data::Metric,
    error::{Error, Result},
    space::{Build, Plan},
    trial::Score,
};

/// A plan's network beside the float model on the same samples.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Comparison {
    /// The metric.
    pub score: Score,
    /// For classifiers: mean Kullback-Leibler divergence of the classes' probabilities from the float model's, nats.
    pub kl: Option<f64>,
    /// Mean of ‖y − y′‖² / ‖y‖² over the samples, y the float model's first output.
    pub noise: f64,
}

impl Evaluator {
    /// Compresses a plan and compares its first output with the float model's on every sample. Needs no labels but for the
    /// metric, which must not be a command.
    ///
    /// # Errors
    /// If the plan cannot be compressed, its network not be run, or its outputs are not numbers.
    pub fn compare(&self, plan: &Plan) -> Result<Comparison> {
        let metric = &self.setup().metric;
        if metric.is_command() {
            return Err(Error::Internal("a command scores whole models and keeps no outputs to compare with".into()));
        }
        let model = self.setup().compressor.compress(plan, Build::Parallel)?;
        let (mut scores, mut distances, mut noise) = (Vec::new(), Vec::new(), Vec::new());
        self.beside_float(&model, 0, |outputs, float, labels| {
            scores.extend(metric.sample_scores(outputs, Some(float), labels)?);
            noise.extend(Metric::Sqnr.sample_scores(outputs, Some(float), None)?);
            distances.extend(self.distance().between(outputs, float)?);
            Ok(true)
        })?;
        let kl = self.distance().is_of_classes().then(|| mean(&distances));
        Ok(Comparison { score: self.score(&scores, &distances)?, kl, noise: mean(&noise) })
    }
}
