//! How far a network's first output is from the float model's, without labels.

use ndarray::{ArrayD, Axis};

use crate::{data::Metric, error::Result};

/// Probabilities below this count as this, so that one that vanished does not make the mean infinite.
const LEAST_PROBABILITY: f32 = 1e-12;

/// Which distance suits a network's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distance {
    /// Kullback-Leibler divergence of the softmax, nats.
    Logits,
    /// The same of outputs that are probabilities already.
    Probabilities,
    /// ‖y − y′‖² / ‖y‖².
    Noise,
}

impl Distance {
    /// That of a network with such outputs, scored by such a metric.
    pub fn of(outputs: &ArrayD<f32>, metric: &Metric) -> Self {
        if are_probabilities(outputs) {
            Self::Probabilities
        } else if matches!(metric, Metric::Top1 | Metric::Top5 | Metric::Agreement | Metric::Kl) {
            Self::Logits
        } else {
            Self::Noise
        }
    }

    /// Whether it is a divergence of classes.
    pub const fn is_of_classes(self) -> bool {
        !matches!(self, Self::Noise)
    }

    /// The distance of every sample from a reference.
    ///
    /// # Errors
    /// If the outputs have other shapes or are not numbers.
    pub fn between(self, outputs: &ArrayD<f32>, reference: &ArrayD<f32>) -> Result<Vec<f64>> {
        match self {
            Self::Logits => Metric::Kl.sample_scores(outputs, Some(reference), None),
            Self::Probabilities => Metric::Kl.sample_scores(&logits(outputs), Some(&logits(reference)), None),
            Self::Noise => Metric::Sqnr.sample_scores(outputs, Some(reference), None),
        }
    }
}

/// The mean of some numbers, 0 of none.
pub fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Whether every sample's row is of shares that sum to one, over more than one class.
fn are_probabilities(outputs: &ArrayD<f32>) -> bool {
    let classes = outputs.ndim() > 0 && outputs.shape().iter().skip(1).filter(|d| **d != 1).count() == 1;
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
        let kl = Distance::Probabilities.between(&q, &p).unwrap()[0];
        assert!((kl - 0.5 * (2.0_f64.ln() + (2.0_f64 / 3.0).ln())).abs() < 1e-6);
    }
}
