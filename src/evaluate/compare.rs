//! How far a plan's network is from the float model, beyond its metric.

use ndarray::{ArrayD, Axis};

use super::Evaluator;
use crate::{
    data::Metric,
    error::{Error, Result},
    space::{Build, Plan},
    trial::Score,
};

/// Probabilities below this count as this, so that one that vanished does not make the mean infinite.
const LEAST_PROBABILITY: f32 = 1e-12;

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
        let probabilities = are_probabilities(self.float_outputs());
        let classes = probabilities || matches!(metric, Metric::Top1 | Metric::Top5 | Metric::Agreement | Metric::Kl);
        let (mut scores, mut kl, mut noise) = (Vec::new(), Vec::new(), Vec::new());
        self.beside_float(&model, |outputs, float, labels| {
            scores.extend(metric.sample_scores(outputs, Some(float), labels)?);
            noise.extend(Metric::Sqnr.sample_scores(outputs, Some(float), None)?);
            if probabilities {
                kl.extend(Metric::Kl.sample_scores(&logits(outputs), Some(&logits(float)), None)?);
            } else if classes {
                kl.extend(Metric::Kl.sample_scores(outputs, Some(float), None)?);
            }
            Ok(true)
        })?;
        let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
        Ok(Comparison { score: self.score(&scores)?, kl: (!kl.is_empty()).then(|| mean(&kl)), noise: mean(&noise) })
    }
}

/// Whether every sample's row is of shares that sum to one, over more than one class.
fn are_probabilities(outputs: &ArrayD<f32>) -> bool {
    let classes = outputs.shape().iter().skip(1).filter(|d| **d != 1).count() == 1;
    let of_row = |row: ndarray::ArrayViewD<'_, f32>| row.iter().all(|p| *p >= 0.0) && (row.sum() - 1.0).abs() < 1e-3;
    classes && outputs.axis_iter(Axis(0)).all(of_row)
}

/// Numbers whose softmax is the given probabilities.
fn logits(probabilities: &ArrayD<f32>) -> ArrayD<f32> {
    probabilities.mapv(|p| if p.is_nan() { p } else { p.max(LEAST_PROBABILITY).ln() })
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    #[test]
    fn probabilities_are_told_from_logits() {
        assert!(are_probabilities(&array![[0.25_f32, 0.75], [1.0, 0.0]].into_dyn()));
        assert!(are_probabilities(&array![[[[0.25_f32]], [[0.75]]]].into_dyn()));
        assert!(!are_probabilities(&array![[0.25_f32, 0.75], [1.5, -0.5]].into_dyn()));
        assert!(!are_probabilities(&array![[1.0_f32], [1.0]].into_dyn()), "one class is none");
    }

    #[test]
    fn the_divergence_of_probabilities_is_their_own() {
        // ½·ln((1/2)/(1/4)) + ½·ln((1/2)/(3/4)); a second softmax would give another number.
        let (p, q) = (array![[0.5_f32, 0.5]].into_dyn(), array![[0.25_f32, 0.75]].into_dyn());
        let kl = Metric::Kl.sample_scores(&logits(&q), Some(&logits(&p)), None).unwrap()[0];
        assert!((kl - 0.5 * (2.0_f64.ln() + (2.0_f64 / 3.0).ln())).abs() < 1e-6);
    }
}
