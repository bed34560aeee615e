//! The score of each sample, from the model's outputs.

use ndarray::{ArrayD, ArrayView1, ArrayView2};

use super::metric::Metric;
use crate::error::{Error, Result};

const OVERFLOW: &str = "the model overflows on this sample: run it there by hand; if only a compressed model does, report it";

impl Metric {
    /// The score of each sample of `outputs` `[n, …]`, in the metric's own direction. Classes are ranked by output, and the
    /// lower index wins a tie. The float model's own scores are had by giving its outputs twice.
    ///
    /// # Errors
    /// An output is not a number; a label is not below the number of classes; outputs are not `[n, classes]` for a metric of classes;
    /// `float_outputs` or `labels` are missing or of another number (a bug of the caller), as is asking a command.
    pub fn sample_scores(&self, outputs: &ArrayD<f32>, float_outputs: Option<&ArrayD<f32>>, labels: Option<&[u32]>) -> Result<Vec<f64>> {
        let candidate = rows(outputs)?;
        no_nan(&candidate)?;
        match self {
            Self::Top1 => ranks(&class_rows(outputs)?, labels, 1),
            Self::Top5 => ranks(&class_rows(outputs)?, labels, 5),
            Self::Command(_) => Err(Error::Internal("a command scores whole models, not samples".into())),
            Self::Agreement | Self::Kl | Self::Cosine | Self::Sqnr => {
                let float_outputs = float_outputs.ok_or_else(|| Error::Internal("the float model's outputs are missing".into()))?;
                if float_outputs.shape() != outputs.shape() {
                    let message = format!("outputs are {:?} and the float model's {:?}", outputs.shape(), float_outputs.shape());
                    return Err(Error::Internal(message));
                }
                if matches!(self, Self::Agreement | Self::Kl) {
                    class_rows(outputs)?;
                }
                let float = rows(float_outputs)?;
                no_nan(&float)?;
                let score = |(sample, (y, y2)): (usize, (Vec<f64>, Vec<f64>))| {
                    let score = match self {
                        Self::Agreement => f64::from(u8::from(argmax(&y) == argmax(&y2))),
                        Self::Kl => kl(&y, &y2),
                        Self::Cosine => cosine(&y, &y2),
                        _ => noise_to_signal(&y, &y2),
                    };
                    let undefined = || Error::metric(format!("{} of sample {sample} is not a number", self.name()), OVERFLOW);
                    if score.is_nan() { Err(undefined()) } else { Ok(score) }
                };
                let wide = |row: ArrayView1<'_, f32>| row.iter().map(|v| f64::from(*v)).collect::<Vec<f64>>();
                let pairs = float.rows().into_iter().map(wide).zip(candidate.rows().into_iter().map(wide));
                pairs.enumerate().map(score).collect()
            }
        }
    }
}

/// Outputs as one row a sample.
fn rows(outputs: &ArrayD<f32>) -> Result<ArrayView2<'_, f32>> {
    let samples = outputs.shape().first().copied().unwrap_or(0);
    let width = outputs.len().checked_div(samples).unwrap_or(0);
    outputs.view().into_shape_with_order((samples, width)).map_err(|e| Error::Internal(format!("outputs of {:?}: {e}", outputs.shape())))
}

/// Outputs as `[n, classes]`; further dimensions may only be 1.
fn class_rows(outputs: &ArrayD<f32>) -> Result<ArrayView2<'_, f32>> {
    let shape = outputs.shape();
    if shape.iter().skip(1).filter(|d| **d != 1).count() != 1 {
        let message = format!("outputs of {shape:?} are not one row of classes a sample");
        return Err(Error::metric(message, "choose cosine or sqnr, or a command of your own"));
    }
    rows(outputs)
}

fn no_nan(outputs: &ArrayView2<'_, f32>) -> Result<()> {
    match outputs.rows().into_iter().position(|row| row.iter().any(|v| v.is_nan())) {
        Some(sample) => Err(Error::metric(format!("the model's output for sample {sample} is not a number"), OVERFLOW)),
        None => Ok(()),
    }
}

fn ranks(outputs: &ArrayView2<'_, f32>, labels: Option<&[u32]>, best: usize) -> Result<Vec<f64>> {
    let labels = labels.ok_or_else(|| Error::Internal("labels are missing".into()))?;
    if labels.len() != outputs.nrows() {
        return Err(Error::Internal(format!("{} labels for {} outputs", labels.len(), outputs.nrows())));
    }
    let classes = outputs.ncols();
    if best >= classes {
        return Err(Error::metric(format!("top{best} of {classes} classes is always right"), "choose another metric"));
    }
    let score = |(sample, (row, label)): (usize, (ArrayView1<'_, f32>, &u32))| {
        let label = *label as usize;
        let Some(own) = row.get(label) else {
            let message = format!("sample {sample} has label {label}, and the model has {classes} classes, 0 to {}", classes - 1);
            return Err(Error::metric(message, "check that the labels are this model's, and count from 0"));
        };
        let ahead = row.iter().enumerate().filter(|(class, v)| *v > own || (*v == own && *class < label)).count();
        Ok(f64::from(u8::from(ahead < best)))
    };
    outputs.rows().into_iter().zip(labels).enumerate().map(score).collect()
}

fn argmax(row: &[f64]) -> usize {
    row.iter().enumerate().fold(0, |best, (at, v)| if *v > row[best] { at } else { best })
}

/// Σ p·ln(p/q) of the softmax p of `y` and q of `y2`.
fn kl(y: &[f64], y2: &[f64]) -> f64 {
    let (log_p, log_q) = (log_softmax(y), log_softmax(y2));
    let sum: f64 = log_p.iter().zip(&log_q).map(|(p, q)| if p.exp() == 0.0 { 0.0 } else { p.exp() * (p - q) }).sum();
    if sum < 0.0 { 0.0 } else { sum }
}

fn log_softmax(row: &[f64]) -> Vec<f64> {
    let max = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let log_sum = row.iter().map(|v| (v - max).exp()).sum::<f64>().ln();
    row.iter().map(|v| v - max - log_sum).collect()
}

/// 1 for two zero vectors, 0 where only one is zero.
fn cosine(y: &[f64], y2: &[f64]) -> f64 {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    let norms = dot(y, y).sqrt() * dot(y2, y2).sqrt();
    if norms == 0.0 { f64::from(u8::from(y == y2)) } else { dot(y, y2) / norms }
}

/// ‖y − y′‖² / ‖y‖²; noise on a silent output counts as 1.
fn noise_to_signal(y: &[f64], y2: &[f64]) -> f64 {
    let signal: f64 = y.iter().map(|v| v * v).sum();
    let noise: f64 = y.iter().zip(y2).map(|(a, b)| (a - b) * (a - b)).sum();
    match (signal, noise) {
        (_, 0.0) => 0.0,
        (0.0, _) => 1.0,
        _ => noise / signal,
    }
}

#[cfg(test)]
mod tests {
    use ndarray::array;

    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    fn complaint(metric: &Metric, outputs: ArrayD<f32>, labels: &[u32]) -> String {
        metric.sample_scores(&outputs, Some(&outputs), Some(labels)).unwrap_err().to_string()
    }

    fn against(metric: &Metric, float: ArrayD<f32>, candidate: ArrayD<f32>) -> f64 {
        metric.sample_scores(&candidate, Some(&float), None).unwrap()[0]
    }

    #[test]
    fn the_lower_index_wins_a_tie() {
        let outputs = array![[1.0_f32, 3.0, 3.0], [2.0, 2.0, 2.0]].into_dyn();
        let score = |labels: &[u32]| Metric::Top1.sample_scores(&outputs, None, Some(labels)).unwrap();
        assert_eq!(score(&[1, 0]), [1.0, 1.0]);
        assert_eq!(score(&[2, 1]), [0.0, 0.0]);
    }

    #[test]
    fn top5_counts_the_five_highest() {
        let outputs = array![[0.0_f32, 1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]].into_dyn();
        assert_eq!(Metric::Top5.sample_scores(&outputs, None, Some(&[0, 1])).unwrap(), [0.0, 1.0]);
        assert!(complaint(&Metric::Top5, array![[0.0_f32; 5]].into_dyn(), &[0]).contains("top5 of 5 classes is always right"));
    }

    #[test]
    fn a_label_outside_the_classes_is_named_with_its_sample() {
        let message = complaint(&Metric::Top1, array![[0.0_f32, 1.0], [0.0, 1.0]].into_dyn(), &[1, 2]);
        assert_eq!(message, "metric: sample 1 has label 2, and the model has 2 classes, 0 to 1");
    }

    #[test]
    fn an_output_that_is_not_a_number_is_an_error_for_every_metric() {
        for metric in Metric::NAMED {
            let message = complaint(&metric, array![[0.0_f32; 6], [f32::NAN; 6]].into_dyn(), &[0, 0]);
            assert_eq!(message, "metric: the model's output for sample 1 is not a number");
        }
        assert_eq!(complaint(&Metric::Cosine, array![[f32::INFINITY, 1.0]].into_dyn(), &[]), "metric: cosine of sample 0 is not a number");
    }

    #[test]
    fn classes_may_have_further_dimensions_of_one_only() {
        let pooled = array![[[[0.0_f32]], [[1.0]]]].into_dyn();
        assert_eq!(Metric::Top1.sample_scores(&pooled, None, Some(&[1])).unwrap(), [1.0]);
        let message = complaint(&Metric::Agreement, array![[[0.0_f32, 1.0], [1.0, 0.0]]].into_dyn(), &[]);
        assert_eq!(message, "metric: outputs of [1, 2, 2] are not one row of classes a sample");
    }

    #[test]
    fn agreement_is_with_the_float_models_choice() {
        assert_eq!(against(&Metric::Agreement, array![[1.0_f32, 2.0]].into_dyn(), array![[5.0_f32, 9.0]].into_dyn()), 1.0);
        assert_eq!(against(&Metric::Agreement, array![[1.0_f32, 2.0]].into_dyn(), array![[9.0_f32, 5.0]].into_dyn()), 0.0);
    }

    #[test]
    fn kl_is_of_the_softmaxes_in_nats() {
        // p = (1/2, 1/2), q = (1/4, 3/4): ½·ln 2 + ½·ln(2/3).
        let q = array![[0.0_f32, 3.0_f32.ln()]].into_dyn();
        let kl = against(&Metric::Kl, array![[0.0_f32, 0.0]].into_dyn(), q.clone());
        assert!((kl - 0.5 * (2.0_f64.ln() + (2.0_f64 / 3.0).ln())).abs() < 1e-7);
        near(against(&Metric::Kl, q.clone(), q), 0.0);
        near(against(&Metric::Kl, array![[900.0_f32, 0.0]].into_dyn(), array![[0.0_f32, 900.0]].into_dyn()), 900.0);
    }

    #[test]
    fn cosine_and_noise_are_of_the_flattened_outputs() {
        let (y, y2) = (array![[[3.0_f32, 4.0]]].into_dyn(), array![[[4.0_f32, 3.0]]].into_dyn());
        near(against(&Metric::Cosine, y.clone(), y2.clone()), 24.0 / 25.0);
        near(against(&Metric::Sqnr, y.clone(), y2), 2.0 / 25.0);
        let silent = array![[[0.0_f32, 0.0]]].into_dyn();
        assert_eq!(against(&Metric::Sqnr, silent.clone(), y.clone()), 1.0);
        assert_eq!((against(&Metric::Cosine, silent.clone(), y), against(&Metric::Cosine, silent.clone(), silent)), (0.0, 1.0));
    }
}
