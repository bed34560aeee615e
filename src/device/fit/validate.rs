//! How good predictions are for networks whose family the fit has not seen.

use super::{Case, Hold, anchor, fit};
use crate::{device::profile::Profile, precision::Precision};

/// A prediction by a fit that left the network's family out.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Held {
    /// The network.
    pub network: String,
    /// Its family.
    pub family: String,
    /// Samples of an inference.
    pub batch: usize,
    /// Precision of its layers.
    pub precision: Precision,
    /// Measured, ms.
    pub measured_ms: f64,
    /// Predicted, ms.
    pub predicted_ms: f64,
}

impl Held {
    /// A case beside what a profile says of it.
    pub fn of(case: &Case, profile: &Profile) -> Self {
        Self {
            network: case.network.clone(),
            family: case.family.clone(),
            batch: case.batch,
            precision: case.precision,
            measured_ms: case.ms,
            predicted_ms: case.ms * case.error(profile).exp(),
        }
    }

    /// ln(predicted / measured).
    pub fn error(&self) -> f64 {
        (self.predicted_ms / self.measured_ms).ln()
    }
}

/// Predictions for families that the fits behind them have not seen.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LeftOut {
    /// A prediction for every case.
    pub held: Vec<Held>,
    /// Absolute relative errors at the other batches of a network, each batch taken as the measured one in turn.
    pub anchored: Vec<f64>,
}

/// Predicts every judged case by a fit to the cases of the other families, all starting from the same profile.
///
/// `also` are cases that every fit sees unless they are of the family left out, and that nothing is judged by.
pub fn leave_families_out(judged: &[Case], also: &[Case], profile: &Profile, hold: Hold) -> LeftOut {
    let mut families: Vec<&str> = judged.iter().map(|c| c.family.as_str()).collect();
    families.sort_unstable();
    families.dedup();
    let mut out = LeftOut::default();
    for family in families {
        let seen: Vec<&Case> = judged.iter().chain(also).filter(|c| c.family != family).collect();
        let fitted = Profile { coefficients: fit(&seen, profile, hold), ..profile.clone() };
        let unseen: Vec<&Case> = judged.iter().filter(|c| c.family == family).collect();
        out.held.extend(unseen.iter().map(|c| Held::of(c, &fitted)));
        out.anchored.extend(anchored(&unseen, &fitted));
    }
    out
}

/// Absolute relative errors at the other batches of each network once one batch is measured, over all choices of it.
pub fn anchored(cases: &[&Case], profile: &Profile) -> Vec<f64> {
    let from = |a: &&Case| {
        let others: Vec<&&Case> = cases.iter().filter(|c| c.network == a.network && c.batch != a.batch).collect();
        if others.is_empty() {
            return Vec::new();
        }
        let bent = anchor(a, profile);
        others.iter().map(|c| (c.error(&bent).exp() - 1.0).abs()).collect()
    };
    cases.iter().flat_map(from).collect()
}

/// Errors of predictions in figures.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Score {
    /// Predictions.
    pub rows: usize,
    /// Median of the absolute relative error.
    pub median: f64,
    /// Its upper quartile.
    pub p75: f64,
    /// Its ninth decile.
    pub p90: f64,
    /// Share of predictions within 25 %.
    pub within_25: f64,
    /// Spearman's rank correlation over the networks at batch 1, 8 and 32; none with fewer than four networks.
    pub spearman: [Option<f64>; 3],
    /// Share of pairs at one batch and more than 20 % apart that are in the right order.
    pub pairs: Option<f64>,
    /// Median error of a batch's time relative to batch 8 of its network.
    pub curve: Option<f64>,
    /// Median error at the other batches of a network once one of them is measured, over all choices of it.
    pub anchored: Option<f64>,
}

/// Scores predictions; `anchored` are the errors once one batch is measured, or none.
pub fn score(held: &[Held], anchored: &[f64]) -> Score {
    let mut anchored = anchored.to_vec();
    anchored.sort_by(f64::total_cmp);
    let mut errors: Vec<f64> = held.iter().map(|h| (h.error().exp() - 1.0).abs()).collect();
    errors.sort_by(f64::total_cmp);
    let within = errors.iter().filter(|e| **e <= 0.25).count() as f64 / errors.len().max(1) as f64;
    Score {
        rows: held.len(),
        median: quantile(&errors, 0.5),
        p75: quantile(&errors, 0.75),
        p90: quantile(&errors, 0.9),
        within_25: within,
        spearman: [1, 8, 32].map(|batch| {
            let at: Vec<&Held> = held.iter().filter(|h| h.batch == batch).collect();
            (at.len() > 3).then(|| spearman(&at.iter().map(|h| (h.measured_ms, h.predicted_ms)).collect::<Vec<_>>()))
        }),
        pairs: ordered_pairs(held),
        curve: curve(held),
        anchored: (!anchored.is_empty()).then(|| quantile(&anchored, 0.5)),
    }
}

/// A quantile of sorted values, linear between them; 0 of none.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = q * last as f64;
    let below = at.floor();
    let (low, high) = (sorted[below as usize], sorted[(below as usize + 1).min(last)]);
    low + (high - low) * (at - below)
}

/// Spearman's rank correlation of pairs; ties share their mean rank.
pub fn spearman(pairs: &[(f64, f64)]) -> f64 {
    let ranks = |values: Vec<f64>| -> Vec<f64> {
        let rank = |v: &f64| {
            let below = values.iter().filter(|w| *w < v).count() as f64;
            let equal = values.iter().filter(|w| *w == v).count() as f64;
            below + (equal - 1.0) / 2.0
        };
        values.iter().map(rank).collect()
    };
    let (a, b) = (ranks(pairs.iter().map(|p| p.0).collect()), ranks(pairs.iter().map(|p| p.1).collect()));
    let mean = (pairs.len() as f64 - 1.0) / 2.0;
    let product = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(p, q)| (p - mean) * (q - mean)).sum::<f64>();
    product(&a, &b) / (product(&a, &a) * product(&b, &b)).sqrt()
}

fn ordered_pairs(held: &[Held]) -> Option<f64> {
    let (mut all, mut right) = (0usize, 0usize);
    for (i, a) in held.iter().enumerate() {
        for b in held[..i].iter().filter(|b| b.batch == a.batch) {
            let per_sample = (a.measured_ms / b.measured_ms).ln();
            if per_sample.abs() > 1.2f64.ln() {
                all += 1;
                right += usize::from(per_sample.signum() == (a.predicted_ms / b.predicted_ms).ln().signum());
            }
        }
    }
    (all > 0).then(|| right as f64 / all as f64)
}

fn curve(held: &[Held]) -> Option<f64> {
    let mut errors = Vec::new();
    for a in held.iter().filter(|h| h.batch == 8) {
        let others = held.iter().filter(|h| h.network == a.network && h.batch != a.batch);
        errors.extend(others.map(|h| ((h.error() - a.error()).exp() - 1.0).abs()));
    }
    errors.sort_by(f64::total_cmp);
    (!errors.is_empty()).then(|| quantile(&errors, 0.5))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(network: &str, batch: usize, measured_ms: f64, predicted_ms: f64) -> Held {
        Held { network: network.into(), family: "f".into(), batch, precision: Precision::Fp16, measured_ms, predicted_ms }
    }

    #[test]
    fn quantiles_are_linear_between_values() {
        assert_eq!(quantile(&[1.0, 2.0, 3.0, 5.0], 0.5), 2.5);
        assert_eq!(quantile(&[1.0, 2.0], 0.9), 1.9);
        assert_eq!(quantile(&[], 0.5), 0.0);
    }

    #[test]
    fn rank_correlation_is_one_in_order_minus_one_in_reverse_and_shares_tied_ranks() {
        assert_eq!(spearman(&[(1.0, 10.0), (2.0, 20.0), (3.0, 90.0)]), 1.0);
        assert_eq!(spearman(&[(1.0, 9.0), (2.0, 2.0), (3.0, 1.0)]), -1.0);
        let tied = spearman(&[(1.0, 1.0), (2.0, 2.0), (2.0, 3.0), (3.0, 4.0)]);
        assert!((tied - 4.5 / (4.5f64 * 5.0).sqrt()).abs() < 1e-12, "{tied}");
    }

    #[test]
    fn a_score_counts_errors_pairs_and_curves() {
        let rows = [held("a", 8, 1.0, 1.1), held("a", 1, 0.5, 0.5), held("b", 8, 2.0, 1.0), held("c", 8, 1.05, 0.4)];
        let score = score(&rows, &[0.1, 0.3]);
        assert_eq!(score.rows, 4);
        assert_eq!(score.within_25, 0.5);
        // At batch 8: a-b and b-c are more than 20 % apart; a-b is in the wrong order.
        assert_eq!(score.pairs, Some(0.5));
        // a at batch 1 is exact, at batch 8 10 % slow: relative to it 1/1.1.
        assert!((score.curve.unwrap() - (1.0 - 1.0 / 1.1)).abs() < 1e-12);
        assert_eq!(score.spearman, [None, None, None]);
        assert_eq!(score.anchored, Some(0.2));
    }
}
