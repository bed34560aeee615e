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
///
/// Measurements that are [`implausible`] beside a fit that holds tightly, and cannot bend to them, are left out until none is left.
pub fn fit(cases: &[&Case], profile: &Profile, hold: Hold) -> Coefficients {
    let mut kept = cases.to_vec();
    loop {
        let tight = Profile { coefficients: fit_all(&kept, profile, Hold(hold.0.max(1.0))), ..profile.clone() };
        let bad = implausible(&kept, &tight);
        if bad.is_empty() || 2 * (kept.len() - bad.len()) < cases.len() {
            return if hold.0 < 1.0 { fit_all(&kept, profile, hold) } else { tight.coefficients };
        }
        kept = kept.into_iter().enumerate().filter(|(i, _)| !bad.contains(i)).map(|(_, c)| c).collect();
    }
}

/// Measurements that no chip explains, by index: more than 2.5 times off and more than five times as far off as the median is. Batches a second in
/// place of samples, the total of a card with four chips, a host's time.
pub fn implausible(cases: &[&Case], profile: &Profile) -> Vec<usize> {
    let errors: Vec<f64> = cases.iter().map(|c| c.error(profile).abs()).collect();
    let mut sorted = errors.clone();
    sorted.sort_by(f64::total_cmp);
    let limit = 2.5f64.ln().max(5.0 * validate::quantile(&sorted, 0.5));
    errors.iter().enumerate().filter(|(_, e)| cases.len() > 2 && **e > limit).map(|(i, _)| i).collect()
}

fn fit_all(cases: &[&Case], profile: &Profile, hold: Hold) -> Coefficients {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::fixture;

    /// A chip that reaches less of its cube and more of its vector units than the profile says.
    fn chip(profile: &Profile) -> Profile {
        let c = profile.coefficients;
        let coefficients = Coefficients { cube: c.cube * 0.75, vector: c.vector * 1.5, launch_cycles: c.launch_cycles * 1.6, ..c };
        Profile { coefficients, ..profile.clone() }
    }

    /// Networks as a chip takes them.
    fn measured(chip: &Profile) -> Vec<Case> {
        let case = |(network, batch): (&str, usize)| {
            let kernels = fixture::kernels(network, batch, Precision::Fp16);
            let ms = latency_ms(&kernels, chip);
            Case { network: network.into(), family: network.into(), batch, precision: Precision::Fp16, what: What::Network(kernels), ms }
        };
        let networks = ["resnet18", "resnet50", "vgg16", "googlenet", "mobilenet_v2", "mobilenet_v3_large", "squeezenet1_1", "regnety_016"];
        networks.into_iter().flat_map(|n| [1, 4, 16].map(|b| (n, b))).map(case).collect()
    }

    fn worst(cases: &[Case], profile: &Profile) -> f64 {
        cases.iter().map(|c| c.error(profile).abs()).fold(0.0, f64::max)
    }

    #[test]
    fn bad_rows_do_not_pull_the_fit_away_from_the_good_ones() {
        let profile = Profile::load("ascend310p3").unwrap();
        let good = measured(&chip(&profile));
        assert!(worst(&good, &profile) > 0.2);
        let fitted =
            |cases: &[Case]| Profile { coefficients: fit(&cases.iter().collect::<Vec<_>>(), &profile, Hold(0.1)), ..profile.clone() };
        assert!(worst(&good, &fitted(&good)) < 0.03, "{}", worst(&good, &fitted(&good)));
        // Batches a second in place of samples, a card's total, a host's time.
        let mut spoilt = good.clone();
        for (row, by) in [(2, 16.0), (9, 0.25), (17, 3.0)] {
            spoilt[row].ms *= by;
        }
        let found = fitted(&spoilt);
        assert!(worst(&good, &found) < 0.05, "{}", worst(&good, &found));
        assert_eq!(implausible(&spoilt.iter().collect::<Vec<_>>(), &found), [2, 9, 17]);
    }

    #[test]
    fn an_anchor_is_met_exactly_and_brings_the_other_batches_closer() {
        let profile = Profile::load("ascend310p3").unwrap();
        let cases = measured(&chip(&profile));
        for network in cases.chunks(3) {
            let bent = anchor(&network[1], &profile);
            assert!(network[1].error(&bent).abs() < 1e-9);
            assert!(worst(network, &bent) < worst(network, &profile), "{}", network[0].network);
        }
    }
}
