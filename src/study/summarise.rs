//! From the trials to the result. A pure function of the journal, the network and the device profile.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Baseline, Budget, CloudPoint, Facts, FrontPoint, LayerRow, LayerTreatment, RollbackStep, SearchCost, Stop, Summary, Verdict,
    folder::Clock, latency_error::Judged, spearman,
};
use crate::{
    error::{Error, Result},
    front::{front, knee},
    search::{holds, rollback},
    space::{Candidate, Plan, Space},
    spec::Constraints,
    trial::{Cost, Limit, Origin, Outcome, Score, Trial, counting, inferred},
};

/// What a summary needs beside the trials.
pub struct Context<'a> {
    /// The space.
    pub space: &'a Space,
    /// What must hold.
    pub constraints: &'a Constraints,
    /// Cost of the float model.
    pub float: Cost,
    /// Rows of the layers for a plan.
    pub layers: &'a dyn Fn(&Plan) -> Result<Vec<LayerRow>>,
    /// Why the search ended.
    pub stop: Stop,
    /// Time.
    pub clock: Clock,
    /// Names and hashes.
    pub facts: Facts,
    /// The model's file name, the chip, the batch, the metric.
    pub names: (String, String, usize, String),
    /// Size of the user's file.
    pub file_bytes: u64,
    /// Predicted latency of the float network after the exact rewrites.
    pub normalised_latency_ms: f64,
    /// How well latencies are known; none where the profile has no evidence.
    pub judged: Option<Judged<'a>>,
}

/// The result of a study.
///
/// # Errors
/// If the journal does not begin with the float model.
pub fn summarise(trials: &[Trial], context: &Context<'_>) -> Result<Summary> {
    let (score, cost) = match trials.first().map(|t| (t.origin, t.outcome.measured())) {
        Some((Origin::Baseline, Some(measured))) => measured,
        _ => return Err(Error::Internal("the journal does not begin with the float model".into())),
    };
    let mut baseline = Baseline {
        accuracy: score.accuracy,
        latency_ms: cost.latency_ms,
        latency_interval_ms: None,
        normalised_latency_ms: context.normalised_latency_ms,
        bytes: cost.bytes,
        file_bytes: context.file_bytes,
    };
    let constraints = context.constraints;
    let budget = Budget {
        accuracy_drop: constraints.budget(score.accuracy),
        latency_ms: constraints.latency_ms,
        bytes: constraints.size_mb.map(|mb| (mb * 1e6) as u64),
        confidence: constraints.confidence.0,
    };
    let mut front = front_points(trials, context);
    let (chosen, verdict) = choose(&front, &budget);
    let shown = chosen.or_else(|| nearest_miss(&front, &budget));
    let plan_of = |trial: usize| trials.get(trial).map(|t| context.space.plan(&t.candidate));
    let judge = |judged: &Judged<'_>| judged.mark(&mut baseline, &mut front, &plan_of, shown);
    let latency_error = context.judged.as_ref().map(judge).transpose()?;
    let shown = shown.and_then(plan_of);
    let layers = shown.map_or_else(|| Ok(Vec::new()), |plan| (context.layers)(&plan))?;
    let counted = |f: fn(&Outcome) -> bool| trials.iter().filter(|t| f(&t.outcome)).count();
    let (model, device, batch, metric) = context.names.clone();
    Ok(Summary {
        model,
        device,
        batch,
        metric,
        samples: score.samples,
        baseline,
        chosen,
        verdict,
        stop: context.stop.clone(),
        cost: SearchCost {
            trials: trials.len(),
            rejected_by_limit: counted(|o| matches!(o, Outcome::Rejected { .. })),
            stopped_early: counted(|o| matches!(o, Outcome::Stopped { .. })),
            failed: counted(|o| matches!(o, Outcome::Failed { .. })),
            samples_inferred: inferred(trials),
            seconds: context.clock.seconds,
            baseline_pass_seconds: context.clock.baseline_pass_seconds,
        },
        cloud: cloud(trials, &front),
        rollback: rollback_steps(trials, context, budget.accuracy_drop),
        predicted_rank_correlation: predicted_rank_correlation(&front),
        front,
        latency_error,
        layers,
        budget,
        facts: context.facts.clone(),
    })
}

/// The chosen trial and what can be said of it: the fastest point that keeps every limit for certain, else the fastest
/// that keeps them as measured; without an accuracy budget the knee of drop against latency.
pub fn choose(front: &[FrontPoint], budget: &Budget) -> (Option<usize>, Verdict) {
    let within: Vec<&FrontPoint> =
        front.iter().filter(|p| budget.latency_ms.is_none_or(|l| p.latency_ms <= l) && budget.bytes.is_none_or(|b| p.bytes <= b)).collect();
    let fastest = |points: Vec<&FrontPoint>| {
        let key = |p: &FrontPoint| (p.latency_ms, p.bytes as f64, p.drop);
        points.into_iter().min_by(|a, b| key(a).partial_cmp(&key(b)).unwrap_or(std::cmp::Ordering::Equal)).map(|p| p.trial)
    };
    let Some(limit) = budget.accuracy_drop else {
        let points: Vec<[f64; 2]> = within.iter().map(|p| [p.drop, p.latency_ms]).collect();
        let verdict = if within.is_empty() { Verdict::Missed } else { Verdict::Unjudged };
        return (knee(&points).map(|i| within[i].trial), verdict);
    };
    let kept: Vec<&FrontPoint> = within.into_iter().filter(|p| p.drop <= limit).collect();
    let certain: Vec<&FrontPoint> = kept.iter().copied().filter(|p| p.drop_high.is_some_and(|h| h <= limit)).collect();
    if kept.is_empty() {
        (None, Verdict::Missed)
    } else if !certain.is_empty() {
        (fastest(certain), Verdict::Certain)
    } else if kept.iter().all(|p| p.drop_high.is_none()) {
        (fastest(kept), Verdict::Unjudged)
    } else {
        (fastest(kept), Verdict::Likely)
    }
}

/// The front's point that misses the limits by the least, each measured in its limit.
pub(super) fn nearest_miss(front: &[FrontPoint], budget: &Budget) -> Option<usize> {
    let over = |value: f64, limit: Option<f64>| limit.map_or(0.0, |l| ((value - l) / l.max(1e-6)).max(0.0));
    let miss = |p: &FrontPoint| {
        over(p.drop, budget.accuracy_drop)
            .max(over(p.latency_ms, budget.latency_ms))
            .max(over(p.bytes as f64, budget.bytes.map(|b| b as f64)))
    };
    front.iter().min_by(|a, b| miss(a).total_cmp(&miss(b)).then(a.trial.cmp(&b.trial))).map(|p| p.trial)
}

fn front_points(trials: &[Trial], context: &Context<'_>) -> Vec<FrontPoint> {
    let found = non_dominated(counting(trials), &context.float);
    found.into_iter().map(|p| FrontPoint { predicted_drop: predicted(trials, &p.0.candidate), ..point(p, context.space) }).collect()
}

/// Trials that met every sample, are neither slower nor larger than the float model, and that no other of them beats in drop, latency
/// and bytes; by rising latency. The float model is not among them. As long as nothing was certified, those that met some samples stand for them.
pub(super) fn non_dominated<'a>(trials: impl IntoIterator<Item = &'a Trial>, float: &Cost) -> Vec<(&'a Trial, &'a Score, &'a Cost)> {
    let guard = |cost: &Cost| cost.latency_ms < float.latency_ms && cost.bytes <= float.bytes;
    let compressed: Vec<&Trial> = trials.into_iter().filter(|t| t.origin != Origin::Baseline).collect();
    let certified = compressed.iter().any(|t| t.outcome.measured().is_some());
    let known = |t: &'a Trial| match &t.outcome {
        Outcome::Measured { score, cost } => Some((t, score, cost)),
        Outcome::Sampled { score, cost } if !certified => Some((t, score, cost)),
        _ => None,
    };
    let measured: Vec<(&Trial, &Score, &Cost)> = compressed.into_iter().filter_map(known).filter(|(_, _, cost)| guard(cost)).collect();
    let points: Vec<[f64; 3]> = measured.iter().map(|(_, s, c)| [s.drop, c.latency_ms, c.bytes as f64]).collect();
    let mut out: Vec<(&Trial, &Score, &Cost)> = front(&points).into_iter().map(|i| measured[i]).collect();
    out.sort_by(|a, b| a.2.latency_ms.total_cmp(&b.2.latency_ms).then(a.0.trial.cmp(&b.0.trial)));
    out
}

/// The last drop that was predicted of a candidate, nothing measured of itself among what it is predicted from.
fn predicted(trials: &[Trial], candidate: &Candidate) -> Option<f64> {
    trials.iter().rev().filter(|t| t.candidate == *candidate).find_map(|t| t.predicted)
}

fn point((trial, score, cost): (&Trial, &Score, &Cost), space: &Space) -> FrontPoint {
    FrontPoint {
        trial: trial.trial,
        accuracy: score.accuracy,
        drop: score.drop,
        drop_low: score.drop_low,
        drop_high: score.drop_high,
        samples: score.samples,
        latency_ms: cost.latency_ms,
        latency_interval_ms: None,
        not_told_apart: Vec::new(),
        told_from_float: None,
        bytes: cost.bytes,
        predicted_drop: None,
        finetuned: false,
        layers: layer_map(&space.plan(&trial.candidate)),
    }
}

/// Of predicted and measured drops; none of fewer than three points.
fn predicted_rank_correlation(front: &[FrontPoint]) -> Option<f64> {
    let pairs: Vec<(f64, f64)> = front.iter().filter_map(|p| Some((p.predicted_drop?, p.drop))).collect();
    spearman(&pairs)
}

fn layer_map(plan: &Plan) -> BTreeMap<String, LayerTreatment> {
    plan.treatments.iter().map(|(name, t)| (name.clone(), LayerTreatment::of(t))).collect()
}

fn cloud(trials: &[Trial], front: &[FrontPoint]) -> Vec<CloudPoint> {
    let counts: BTreeSet<usize> = counting(trials).iter().map(|t| t.trial).collect();
    let off_front = trials.iter().filter(|t| t.origin != Origin::Baseline && front.iter().all(|p| p.trial != t.trial));
    off_front
        .filter_map(|t| {
            let cost = t.outcome.cost()?;
            let score = t.outcome.scored().map(|(s, _)| s);
            let (status, why) = match &t.outcome {
                Outcome::Measured { .. } | Outcome::Sampled { .. } if !counts.contains(&t.trial) => return None,
                Outcome::Measured { .. } => ("measured", "dominated"),
                Outcome::Sampled { .. } => ("sampled", "dominated as far as known"),
                Outcome::Stopped { .. } => ("stopped", "over the budget or dominated, for certain"),
                Outcome::Rejected { limit, .. } => ("rejected", limit_name(*limit)),
                Outcome::Failed { .. } => return None,
            };
            Some(CloudPoint {
                trial: t.trial,
                status: status.into(),
                drop: score.map(|s| s.drop),
                predicted_drop: predicted(trials, &t.candidate),
                samples: score.map_or(0, |s| s.samples),
                latency_ms: cost.latency_ms,
                bytes: cost.bytes,
                why: why.into(),
            })
        })
        .collect()
}

const fn limit_name(limit: Limit) -> &'static str {
    match limit {
        Limit::Latency => "latency limit",
        Limit::Size => "size limit",
        Limit::SlowerThanFloat => "slower than float",
        Limit::LargerThanFloat => "larger than float",
    }
}

fn rollback_steps(trials: &[Trial], context: &Context<'_>, budget: Option<f64>) -> Vec<RollbackStep> {
    let Some(budget) = budget else { return Vec::new() };
    let steps = trials.iter().filter(|t| matches!(t.origin, Origin::Rollback | Origin::Spend)).filter_map(|trial| {
        let step = rollback::step_of(trial, trials)?;
        let axis = &context.space.axes[step.axis];
        let score = trial.outcome.scored().map(|(s, _)| s);
        let latency_ms = trial.outcome.cost()?.latency_ms;
        Some(RollbackStep {
            trial: trial.trial,
            before: step.before,
            layer: axis.name.clone(),
            from: axis.describe(usize::from(step.from)),
            to: axis.describe(usize::from(step.to)),
            drop: score.map(|s| s.drop),
            drop_high: score.and_then(|s| s.drop_high),
            latency_ms,
            cost_ms: latency_ms - trials.get(step.before)?.outcome.cost()?.latency_ms,
            held: trial.outcome.measured().is_some_and(|(s, _)| holds(s, budget)),
        })
    });
    steps.collect()
}
