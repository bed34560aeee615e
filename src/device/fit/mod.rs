//! Coefficients of the cost model from measurements: of whole networks, or of single kernels.
//!
//! * [`table`]: measured throughputs as cases; [`profiled`]: the profiler's rows as cases.
//! * [`validate`]: how good predictions are for families that the fit has not seen; [`judgement`]: a fit and all that speaks for it.
//!
//! The fit minimises Σ ρ(ln predicted − ln measured) plus a quadratic penalty on the logarithms of the coefficients, by Levenberg–Marquardt
//! with reweighting (ρ is the soft L1 loss, so that a bad row pulls with bounded force). Coefficients are positive because their logarithms
//! are what is fitted: a plain least squares can give a negative term, which misranks networks.

pub mod judgement;
pub mod profiled;
pub mod table;
pub mod validate;

use faer::{Mat, linalg::solvers::Solve};
use rayon::prelude::*;

use super::{
    coefficients::{Coefficients, NAMES},
    kernel::Kernel,
    latency::{kernel_us, latency_ms},
    profile::Profile,
};
use crate::precision::Precision;

/// Where the soft L1 loss turns from squares to absolutes, in units of ln(time).
const SOFT: f64 = 0.15;

/// What was measured.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// A network at a batch, the fixed cost of an inference included.
    Network(Vec<Kernel>),
    /// Kernels that ran as one, launches included.
    Kernels(Vec<Kernel>),
}

/// A measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Case {
    /// The network's name.
    pub network: String,
    /// Networks that resemble one another share a family.
    pub family: String,
    /// Samples of an inference.
    pub batch: usize,
    /// Precision of its layers.
    pub precision: Precision,
    /// What was measured.
    pub what: What,
    /// Its time, ms.
    pub ms: f64,
}

impl Case {
    /// ln(predicted / measured).
    pub fn error(&self, profile: &Profile) -> f64 {
        let predicted = match &self.what {
            What::Network(kernels) => latency_ms(kernels, profile),
            What::Kernels(kernels) => kernels.iter().map(|k| kernel_us(k, profile).0).sum::<f64>() / 1e3,
        };
        (predicted / self.ms).ln()
    }
}

/// How strongly a fit holds to what it starts from: the penalty of a coefficient one of its standard deviations away, in units of a
/// row that is 0.15 off in ln(time).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Hold(pub f64);

impl Hold {
    /// For whole networks, of which there are never enough to tell all coefficients apart.
    pub const NETWORKS: Self = Self(1.0);
    /// For one measurement of one network.
    pub const ONE: Self = Self(0.1);
    /// For single kernels, of which there are many: what no kernel tells of stays as it was, the rest is free.
    pub const KERNELS: Self = Self(0.001);
}

/// Fits the coefficients of a profile to measurements, starting from its own.
pub fn fit(cases: &[&Case], profile: &Profile, hold: Hold) -> Coefficients {
    let start = profile.coefficients.values().map(f64::ln);
    let mut at = start;
    let mut errors = errors(cases, profile, &at);
    let mut cost = cost(&errors, &at, &start, hold);
    let mut damping = 1e-3;
    for _ in 0..60 {
        let (matrix, gradient) = normal(cases, profile, &at, &errors, &start, hold);
        let mut moved = false;
        for _ in 0..8 {
            let next = step(&matrix, &gradient, &at, damping);
            let tried = self::errors(cases, profile, &next);
            let value = self::cost(&tried, &next, &start, hold);
            if value < cost {
                moved = cost - value > 1e-9 * cost;
                (at, errors, cost) = (next, tried, value);
                damping *= 0.3;
                break;
            }
            damping *= 4.0;
        }
        if !moved {
            break;
        }
    }
    Coefficients::of(at.map(f64::exp))
}

/// The profile for one network of which one batch was measured: its coefficients bent as little as explains the measurement, and what
/// they leave over as a factor. Right at that batch; better at the others than a factor alone.
#[must_use]
pub fn anchor(case: &Case, profile: &Profile) -> Profile {
    let coefficients = fit(&[case], profile, Hold::ONE);
    let bent = Profile { coefficients, ..profile.clone() };
    Profile { scale: bent.scale * (-case.error(&bent)).exp(), ..bent }
}

type Logs = [f64; NAMES.len()];

fn errors(cases: &[&Case], profile: &Profile, at: &Logs) -> Vec<f64> {
    let tried = Profile { coefficients: Coefficients::of(at.map(f64::exp)), evidence: None, ..profile.clone() };
    cases.par_iter().map(|c| c.error(&tried)).collect()
}

fn cost(errors: &[f64], at: &Logs, start: &Logs, hold: Hold) -> f64 {
    let soft = |e: f64| 2.0 * SOFT * SOFT * ((1.0 + (e / SOFT).powi(2)).sqrt() - 1.0);
    errors.iter().map(|e| soft(*e)).sum::<f64>() + (0..NAMES.len()).map(|i| penalty(i, hold) * (at[i] - start[i]).powi(2)).sum::<f64>()
}

/// Weight of a coefficient's squared distance from its start.
fn penalty(index: usize, hold: Hold) -> f64 {
    hold.0 * (SOFT / NAMES[index].1).powi(2)
}

/// The normal equations JᵀWJ and JᵀWr with the penalty in them; W weakens rows that are far off.
fn normal(cases: &[&Case], profile: &Profile, at: &Logs, errors: &[f64], start: &Logs, hold: Hold) -> (Vec<Logs>, Logs) {
    const STEP: f64 = 1e-4;
    let columns: Vec<Vec<f64>> = (0..NAMES.len())
        .map(|i| {
            let mut beside = *at;
            beside[i] += STEP;
            self::errors(cases, profile, &beside).iter().zip(errors).map(|(b, e)| (b - e) / STEP).collect()
        })
        .collect();
    let weight = |e: f64| 1.0 / (1.0 + (e / SOFT).powi(2)).sqrt();
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).zip(errors).map(|((x, y), e)| x * y * weight(*e)).sum::<f64>();
    let mut matrix = vec![[0.0; NAMES.len()]; NAMES.len()];
    let mut gradient = [0.0; NAMES.len()];
    for i in 0..NAMES.len() {
        for j in 0..NAMES.len() {
            matrix[i][j] = dot(&columns[i], &columns[j]);
        }
        matrix[i][i] += penalty(i, hold);
        gradient[i] = dot(&columns[i], errors) + penalty(i, hold) * (at[i] - start[i]);
    }
    (matrix, gradient)
}

fn step(matrix: &[Logs], gradient: &Logs, at: &Logs, damping: f64) -> Logs {
    let n = NAMES.len();
    let left = Mat::from_fn(n, n, |i, j| matrix[i][j] * if i == j { 1.0 + damping } else { 1.0 });
    let right = Mat::from_fn(n, 1, |i, _| -gradient[i]);
    let delta = left.partial_piv_lu().solve(&right);
    std::array::from_fn(|i| at[i] + delta[(i, 0)].clamp(-0.7, 0.7))
}
