//! From gradients to new parameters: stochastic gradient descent with momentum, and Adam.
//!
//! Networks come with weights of any size (inputs from 0 to 255, normalisations folded into the layer before or behind), so a rate is relative to a
//! parameter's size at the start. A weight's size is Adafactor's estimate of its root mean square from those of its output and its input channel (Shazeer
//! and Stern, 1804.04235): one for the whole tensor would wreck a layer whose inputs differ a thousandfold. Steps of quantizers are multiplied by the
//! exponential of their step, which keeps them positive.

use ndarray::{ArrayD, ArrayViewD, Axis, Zip};
use serde::{Deserialize, Serialize};

use super::network::{Parameter, Role};
use crate::spec::Optimizer;

/// How parameters are changed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// Momentum (Polyak, 1964): v ← m·v + g; or Adam (Kingma and Ba, 1412.6980) with decay apart from the gradient (Loshchilov and Hutter, 1711.05101).
    pub method: Optimizer,
    /// Momentum of the mean gradient.
    pub momentum: f32,
    /// Share of a weight that goes with every step, times the rate.
    pub decay: f32,
    /// Gradients longer than this many times their usual length are shortened to it; 0 for never.
    pub clip: f32,
}

/// Momentum of the mean square in Adam.
const SQUARES: f32 = 0.999;
/// Momentum of the usual length of gradients.
const USUAL: f64 = 0.98;
/// Biases smaller than this are treated as if they were as large.
const SMALLEST_BIAS: f32 = 1e-3;
/// A weight's size is at least this share of its tensor's.
const SMALLEST_SHARE: f32 = 1e-3;
const EPSILON: f32 = 1e-8;

/// The memory of an optimiser.
#[derive(Debug, Clone)]
pub struct Optimiser {
    rule: Rule,
    /// Mean and mean square of each parameter's gradient.
    pub(super) moments: Vec<(ArrayD<f32>, ArrayD<f32>)>,
    /// Steps taken.
    pub(super) steps: u64,
    /// Usual length of the gradient.
    pub(super) usual: f64,
    /// Size of each parameter's elements at the start.
    sizes: Vec<ArrayD<f32>>,
}

impl Optimiser {
    /// For parameters as they are at the start.
    pub fn new(rule: Rule, start: &[Parameter]) -> Self {
        let size = |p: &Parameter| (p.value.iter().map(|v| v * v).sum::<f32>() / p.value.len().max(1) as f32).sqrt();
        let of = |p: &Parameter| match p.role {
            Role::Step | Role::Statistic => ArrayD::ones(p.value.raw_dim()),
            Role::Weight => by_channels(&p.value),
            // A bias of zeros has no size of its own.
            Role::Bias => ArrayD::from_elem(p.value.raw_dim(), size(p).max(SMALLEST_BIAS)),
        };
        let moments = start.iter().map(|p| (ArrayD::zeros(p.value.raw_dim()), ArrayD::zeros(p.value.raw_dim()))).collect();
        Self { rule, moments, steps: 0, usual: 0.0, sizes: start.iter().map(of).collect() }
    }

    /// Moves parameters against their gradients; none for those without. `rate` is relative to a parameter's size.
    pub fn step(&mut self, parameters: &mut [Parameter], gradients: &[Option<ArrayViewD<'_, f32>>], rate: f32) {
        let shorter = self.shortening(parameters, gradients);
        self.steps += 1;
        let n = i32::try_from(self.steps).unwrap_or(i32::MAX);
        let (m, rule) = (self.rule.momentum, self.rule);
        let (unbiased, unbiased_squares) = (1.0 - m.powi(n), 1.0 - SQUARES.powi(n));
        for (((parameter, gradient), (mean, squares)), size) in parameters.iter_mut().zip(gradients).zip(&mut self.moments).zip(&self.sizes)
        {
            let Some(gradient) = gradient else { continue };
            let decay = if parameter.role == Role::Weight { rate * rule.decay } else { 0.0 };
            let (keeps_zeros, multiplies) = (parameter.keeps_zeros, parameter.role == Role::Step);
            Zip::from(&mut parameter.value).and(gradient).and(mean).and(squares).and(size).for_each(|p, &g, mean, squares, &size| {
                // The slope by the logarithm of a step.
                let g = if multiplies { g * shorter * *p } else { g * shorter };
                let towards = match rule.method {
                    Optimizer::Adam => {
                        *mean = m * *mean + (1.0 - m) * g;
                        *squares = SQUARES * *squares + (1.0 - SQUARES) * g * g;
                        *mean / unbiased / ((*squares / unbiased_squares).sqrt() + EPSILON)
                    }
                    Optimizer::Sgd => {
                        *mean = m * *mean + g;
                        *mean
                    }
                };
                if multiplies {
                    *p *= (-rate * towards).exp();
                } else if !(keeps_zeros && *p == 0.0) {
                    *p -= rate * size * towards + decay * *p;
                }
            });
        }
    }

    /// What the gradients are multiplied with, so that one batch does not undo many.
    fn shortening(&mut self, parameters: &[Parameter], gradients: &[Option<ArrayViewD<'_, f32>>]) -> f32 {
        // Relative to the parameters, as the steps are.
        let of = |((g, p), size): ((&Option<ArrayViewD<'_, f32>>, &Parameter), &ArrayD<f32>)| -> f64 {
            let Some(g) = g else { return 0.0 };
            let scale = if p.role == Role::Step { &p.value } else { size };
            g.iter().zip(scale).map(|(v, scale)| f64::from(v * scale).powi(2)).sum()
        };
        let length = gradients.iter().zip(parameters).zip(&self.sizes).map(of).sum::<f64>().sqrt();
        let before = self.usual;
        if !length.is_finite() {
            return 0.0;
        }
        let most = if before > 0.0 && self.rule.clip > 0.0 { f64::from(self.rule.clip) * before } else { f64::INFINITY };
        self.usual = if before > 0.0 { USUAL * before + (1.0 - USUAL) * length.min(most) } else { length };
        if length > most { (most / length) as f32 } else { 1.0 }
    }
}

/// The size of a weight's elements: √(mean square of the output channel · that of the input channel / that of all), channels being the first two axes.
fn by_channels(weight: &ArrayD<f32>) -> ArrayD<f32> {
    let squares = weight.mapv(|w| w * w);
    let all = squares.mean().unwrap_or(0.0);
    if all == 0.0 {
        return ArrayD::from_elem(weight.raw_dim(), SMALLEST_BIAS);
    }
    let mut sizes = ArrayD::from_elem(weight.raw_dim(), all);
    for axis in 0..weight.ndim().min(2) {
        for (mut sizes, squares) in sizes.axis_iter_mut(Axis(axis)).zip(squares.axis_iter(Axis(axis))) {
            let share = squares.mean().unwrap_or(0.0) / all;
            sizes.mapv_inplace(|s| s * share);
        }
    }
    let least = SMALLEST_SHARE * all.sqrt();
    sizes.mapv_into(|s| s.sqrt().max(least))
}

/// The share of the full rate at a step of a run: a short rise, then half a cosine down to 0 (Loshchilov and Hutter, 1608.03983).
pub fn cosine(step: u64, all: u64, rise: u64) -> f32 {
    if step < rise {
        return (step + 1) as f32 / (rise + 1) as f32;
    }
    let done = (step - rise) as f64 / all.saturating_sub(rise).max(1) as f64;
    (0.5 * (1.0 + (std::f64::consts::PI * done.min(1.0)).cos())) as f32
}

#[cfg(test)]
mod tests {
    use ndarray::{arr1, arr2};

    use super::*;

    fn parameter(role: Role, value: &[f32]) -> Parameter {
        Parameter { name: "p".into(), role, value: arr1(value).into_dyn(), keeps_zeros: false }
    }

    const ADAM: Rule = Rule { method: Optimizer::Adam, momentum: 0.9, decay: 0.0, clip: 0.0 };

    #[test]
    fn the_first_step_of_adam_is_the_rate_times_the_size_against_the_sign() {
        let mut p = [parameter(Role::Bias, &[3.0, -4.0, 0.0, 0.0])];
        let mut adam = Optimiser::new(ADAM, &p);
        adam.step(&mut p, &[Some(arr1(&[0.5_f32, -7.0, 1e-3, 0.0]).into_dyn().view())], 0.01);
        // The root mean square is 2.5.
        let expected = [3.0 - 0.025, -4.0 + 0.025, -0.025, 0.0];
        assert!(p[0].value.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-5), "{:?}", p[0].value);
    }

    #[test]
    fn a_weight_moves_relative_to_its_channels() {
        // Rows of 1 and 2, columns of 1 and 100: a product, so that the estimate is exact.
        let mut p = [Parameter { value: arr2(&[[1.0, 100.0], [2.0, 200.0]]).into_dyn(), ..parameter(Role::Weight, &[]) }];
        let mut adam = Optimiser::new(ADAM, &p);
        adam.step(&mut p, &[Some(arr2(&[[1.0_f32, 1.0], [1.0, 1.0]]).into_dyn().view())], 0.01);
        let expected = [0.99, 99.0, 1.98, 198.0];
        assert!(p[0].value.iter().zip(expected).all(|(a, b)| (a / b - 1.0).abs() < 1e-5), "{:?}", p[0].value);
    }

    #[test]
    fn momentum_adds_up_and_steps_of_quantizers_stay_positive() {
        let mut p = [parameter(Role::Weight, &[1.0, 1.0]), parameter(Role::Step, &[0.5])];
        let mut sgd = Optimiser::new(Rule { method: Optimizer::Sgd, ..ADAM }, &p);
        let (g, s) = (arr1(&[1.0_f32, -1.0]).into_dyn(), arr1(&[1000.0_f32]).into_dyn());
        for _ in 0..2 {
            sgd.step(&mut p, &[Some(g.view()), Some(s.view())], 0.1);
        }
        // 1 − 0.1·(1 + 1.9).
        assert!((p[0].value[[0]] - 0.71).abs() < 1e-6 && (p[0].value[[1]] - 1.29).abs() < 1e-6);
        assert!(p[1].value[[0]] >= 0.0);
    }

    #[test]
    fn a_gradient_far_longer_than_usual_is_shortened() {
        let mut p = [parameter(Role::Weight, &[1.0])];
        let mut sgd = Optimiser::new(Rule { method: Optimizer::Sgd, momentum: 0.0, decay: 0.0, clip: 2.0 }, &p);
        sgd.step(&mut p, &[Some(arr1(&[0.1_f32]).into_dyn().view())], 1.0);
        let before = p[0].value[[0]];
        sgd.step(&mut p, &[Some(arr1(&[100.0_f32]).into_dyn().view())], 1.0);
        assert!((before - p[0].value[[0]] - 0.2).abs() < 1e-6);
    }

    #[test]
    fn the_rate_rises_then_falls_to_nothing() {
        assert_eq!(cosine(0, 100, 4), 0.2);
        assert_eq!(cosine(4, 100, 4), 1.0);
        assert!((cosine(52, 100, 4) - 0.5).abs() < 1e-6);
        assert!(cosine(100, 100, 4) < 1e-6);
    }
}
