//! A fit and all that speaks for it: errors before, after and held out, by network and kind of kernel, on other chips, and INT8 beside FP16.

use std::collections::BTreeMap;

use super::{
    Case, Hold, What, fit, implausible,
    validate::{Held, LeftOut, Score, anchored, leave_families_out, quantile, score},
};
use crate::{
    device::{
        coefficients::Coefficients,
        evidence::{Evidence, Range},
        kernel::{Kernel, Op},
        latency::kernel_us,
        profile::Profile,
    },
    precision::Precision,
};

/// What is judged.
pub struct Question<'a> {
    /// The profile that the fit starts from.
    pub profile: &'a Profile,
    /// Measurements that the fit sees and is judged by.
    pub judged: &'a [Case],
    /// Measurements that it sees only: other precisions.
    pub also: &'a [Case],
    /// Measurements on other chips, by their profiles, that it never sees: the coefficients are carried over.
    pub others: &'a [(Profile, Vec<Case>)],
    /// How strongly the fit holds to its start.
    pub hold: Hold,
    /// What is done with the coefficients.
    pub task: Task,
    /// What was measured, in words.
    pub data: String,
    /// Day, YYYY-MM-DD.
    pub date: String,
    /// By how much two measurements of one point differ in the median, 0 if unknown.
    pub noise_floor: f64,
}

/// What is done with the coefficients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// They are fitted.
    Fit,
    /// They are fitted, and every family is left out in turn.
    Validate,
    /// They stay; predictions are judged as they are.
    Keep,
}

/// A fit with its evidence.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Judgement {
    /// The chip.
    pub device: String,
    /// What was measured.
    pub data: String,
    /// Coefficients it started from.
    pub before: Coefficients,
    /// Fitted coefficients.
    pub after: Coefficients,
    /// Score of the start.
    pub score_before: Score,
    /// Score of the fit on what it has seen.
    pub score_after: Score,
    /// Score on families it has not seen.
    pub score_held_out: Option<Score>,
    /// Predictions on what it has seen.
    pub fitted: Vec<Held>,
    /// Predictions by fits without the family; empty if nothing was left out.
    pub held_out: Vec<Held>,
    /// Measurements that the fit left out because no chip explains them.
    pub implausible: Vec<Held>,
    /// Time and error by kind of kernel.
    pub kinds: Vec<Kind>,
    /// Speed-ups of other precisions.
    pub ratios: Vec<Ratio>,
    /// Other chips.
    pub others: Vec<Other>,
    /// What the profile says of its predictions.
    pub evidence: Evidence,
}

/// A kind of kernel.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Kind {
    /// The kind.
    pub op: Op,
    /// Kernels in all cases.
    pub kernels: usize,
    /// Their share of the predicted time.
    pub share: f64,
    /// Median absolute relative error of cases that are one kernel of this kind, before and after; none for whole networks.
    pub errors: Option<[f64; 2]>,
}

/// How much faster a network runs in another precision than in FP16.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Ratio {
    /// The network.
    pub network: String,
    /// Samples of an inference.
    pub batch: usize,
    /// The precision.
    pub precision: Precision,
    /// Measured FP16 time over measured time.
    pub measured: f64,
    /// Predicted FP16 time over predicted time.
    pub predicted: f64,
}

/// A chip that the coefficients were carried over to.
#[derive(Debug, Clone, PartialEq, serde::Serialize)]
pub struct Other {
    /// The chip.
    pub device: String,
    /// Errors there.
    pub score: Score,
    /// Predictions there.
    pub predictions: Vec<Held>,
}

/// Fits and judges.
pub fn judge(question: &Question) -> Judgement {
    let Question { profile, judged, also, hold, task, .. } = *question;
    let seen: Vec<&Case> = judged.iter().chain(also).collect();
    let after = if task == Task::Keep { profile.coefficients } else { fit(&seen, profile, hold) };
    let fitted_profile = Profile { coefficients: after, ..profile.clone() };
    let predict = |cases: &[Case], profile: &Profile| cases.iter().map(|c| Held::of(c, profile)).collect::<Vec<_>>();
    let judged_by =
        |cases: &[Case], profile: &Profile| score(&predict(cases, profile), &anchored(&cases.iter().collect::<Vec<_>>(), profile));
    let fitted = predict(judged, &fitted_profile);
    let score_after = judged_by(judged, &fitted_profile);
    let LeftOut { held: held_out, anchored } = match task {
        Task::Validate => leave_families_out(judged, also, profile, hold),
        Task::Fit | Task::Keep => LeftOut::default(),
    };
    let score_held_out = (task == Task::Validate).then(|| score(&held_out, &anchored));
    let others = question.others.iter().map(|(other, cases)| {
        let carried = Profile { coefficients: after, ..other.clone() };
        Other { device: other.name.clone(), score: judged_by(cases, &carried), predictions: predict(cases, &carried) }
    });
    let (best, held) = score_held_out.as_ref().map_or((&score_after, &fitted), |s| (s, &held_out));
    let evidence = evidence(question, best, held);
    Judgement {
        device: profile.name.clone(),
        data: question.data.clone(),
        before: profile.coefficients,
        after,
        score_before: judged_by(judged, profile),
        score_after,
        score_held_out,
        implausible: implausible(&seen, &fitted_profile).into_iter().map(|i| Held::of(seen[i], &fitted_profile)).collect(),
        kinds: kinds(judged, profile, &fitted_profile),
        ratios: ratios(&fitted, &predict(also, &fitted_profile)),
        others: others.collect(),
        evidence,
        fitted,
        held_out,
    }
}

fn evidence(question: &Question, score: &Score, held: &[Held]) -> Evidence {
    let count = |of: fn(&Held) -> &str| {
        let mut names: Vec<&str> = held.iter().map(of).collect();
        names.sort_unstable();
        names.dedup();
        names.len()
    };
    let mut logs: Vec<f64> = held.iter().map(|h| h.error().abs()).collect();
    logs.sort_by(f64::total_cmp);
    let mut seen: BTreeMap<Op, Range> = BTreeMap::new();
    for kernel in question.judged.iter().chain(question.also).flat_map(|c| c.what.kernels()) {
        let range = Range::of(kernel);
        seen.entry(kernel.op).and_modify(|r| *r = r.join(range)).or_insert(range);
    }
    seen.remove(&Op::Other);
    let three = |v: f64| (v * 1e3).round() / 1e3;
    Evidence {
        data: question.data.clone(),
        date: question.date.clone(),
        rows: held.len(),
        networks: count(|h| &h.network),
        families: count(|h| &h.family),
        median_error: three(score.median),
        p90_error: three(score.p90),
        ratio_error: three(score.anchored.unwrap_or(score.median)),
        noise_floor: question.noise_floor,
        factor_90: three(quantile(&logs, 0.9).exp()),
        seen,
    }
}

fn kinds(cases: &[Case], before: &Profile, after: &Profile) -> Vec<Kind> {
    let mut found: BTreeMap<Op, (usize, f64, Vec<[f64; 2]>)> = BTreeMap::new();
    for case in cases {
        for kernel in case.what.kernels() {
            let entry = found.entry(kernel.op).or_default();
            entry.0 += 1;
            // Relative to its case, so that large batches do not drown small ones.
            entry.1 += kernel_us(kernel, after).0 / 1e3 / case.ms;
        }
        if let What::Kernels(kernels) = &case.what
            && let [kernel] = kernels.as_slice()
        {
            let error = |p: &Profile| (case.error(p).exp() - 1.0).abs();
            found.entry(kernel.op).or_default().2.push([error(before), error(after)]);
        }
    }
    let total: f64 = found.values().map(|f| f.1).sum::<f64>().max(f64::MIN_POSITIVE);
    let median = |errors: &[[f64; 2]], which: usize| {
        let mut sorted: Vec<f64> = errors.iter().map(|e| e[which]).collect();
        sorted.sort_by(f64::total_cmp);
        quantile(&sorted, 0.5)
    };
    let mut kinds: Vec<Kind> = found
        .into_iter()
        .map(|(op, (kernels, time, errors))| Kind {
            op,
            kernels,
            share: time / total,
            errors: (!errors.is_empty()).then(|| [median(&errors, 0), median(&errors, 1)]),
        })
        .collect();
    kinds.sort_by(|a, b| b.share.total_cmp(&a.share));
    kinds
}

fn ratios(half: &[Held], others: &[Held]) -> Vec<Ratio> {
    let of = |o: &Held| {
        let float = half.iter().find(|h| h.network == o.network && h.batch == o.batch && h.precision == Precision::Fp16)?;
        Some(Ratio {
            network: o.network.clone(),
            batch: o.batch,
            precision: o.precision,
            measured: float.measured_ms / o.measured_ms,
            predicted: float.predicted_ms / o.predicted_ms,
        })
    };
    others.iter().filter_map(of).collect()
}

impl What {
    /// The kernels that ran.
    pub fn kernels(&self) -> &[Kernel] {
        match self {
            Self::Network(kernels) | Self::Kernels(kernels) => kernels,
        }
    }
}
