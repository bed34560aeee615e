//! Steps from measured points: back, from the fastest points on the wrong side of the budget, until it holds; forward, from the chosen point,
//! as long as it holds.
//!
//! A step changes one axis by one option: back where most damage is saved for the time that it costs, forward where most time is won for the
//! damage. Damages are the surrogate's. Every step is measured, and its trial says which it started from: the chains are read off the history.

use super::{Surrogate, View, holds};
use crate::{
    front::front,
    space::Candidate,
    trial::{Cost, Origin, Trial, counting},
};

/// Points on the wrong side that a rollback starts from.
const STARTS: usize = 3;
/// Steps forward that may fail.
const FAILURES: usize = 3;
/// Steps forward at most.
const FORWARD: usize = 8;

/// A treatment taken back or forth by one option.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The candidate after the step.
    pub candidate: Candidate,
    /// The trial before the step.
    pub before: usize,
    /// Which axis moves, from which option.
    pub axis: usize,
    /// Option before the step.
    pub from: u16,
    /// Option after the step.
    pub to: u16,
}

/// The step that a trial of a rollback or of spending made.
pub fn step_of(trial: &Trial, history: &[Trial]) -> Option<Step> {
    let before = history.get(trial.from?)?;
    let moved = before.candidate.0.iter().zip(&trial.candidate.0).position(|(a, b)| a != b)?;
    let (from, to) = (before.candidate.0[moved], trial.candidate.0[moved]);
    Some(Step { candidate: trial.candidate.clone(), before: before.trial, axis: moved, from, to })
}

/// The next step back to measure, if any: where something keeps the budget already, only of a chain that is expected to end in something faster.
pub fn back(view: &View<'_>, surrogate: &Surrogate, budget: f64) -> Option<Step> {
    let damage = surrogate.damage();
    let search = view.history.iter().filter(|t| !matches!(t.origin, Origin::Rollback | Origin::Spend));
    let points = counting(search.filter(|t| view.space.contains(&t.candidate)));
    let steps: Vec<&Trial> = view.history.iter().filter(|t| t.origin == Origin::Rollback).collect();
    let within = points.iter().filter(|t| t.origin != Origin::Baseline).chain(&steps).filter_map(|t| t.outcome.measured());
    let held = within.filter(|(score, _)| holds(score, budget)).map(|(_, cost)| cost.latency_ms);
    let fastest = held.fold(view.limits.float.latency_ms, f64::min);
    for start in starts(&points, budget, fastest) {
        let mut tip = start;
        while let Some(next) = steps.iter().find(|t| t.from == Some(tip.trial)) {
            tip = next;
        }
        let Some((score, _)) = tip.outcome.scored().filter(|(score, _)| !holds(score, budget)) else { continue };
        let begin = (tip.trial, tip.candidate.clone());
        let mut chain = std::iter::successors(step_back(view, &damage, begin, fastest), |(step, _)| {
            step_back(view, &damage, (tip.trial, step.candidate.clone()), fastest)
        });
        let Some((first, _)) = chain.next() else { continue };
        // What the model expects to be saved, off what the tip was measured at.
        let now = surrogate.drop(&tip.candidate);
        let measured = tip.outcome.measured().is_some();
        let known = if measured { score.drop_high.unwrap_or(score.drop) } else { surrogate.estimate(score, &tip.candidate).0 };
        let reaches = |c: &Candidate| known - (now - surrogate.drop(c)) <= budget;
        let hopeful = reaches(&first.candidate) || chain.any(|(step, _)| reaches(&step.candidate));
        if hopeful || fastest >= view.limits.float.latency_ms {
            return Some(first);
        }
    }
    None
}

/// The step back from a candidate that saves most damage for its time, of those that stay faster than this and were not measured.
fn step_back(view: &View<'_>, damage: &[Vec<f64>], from: (usize, Candidate), fastest: f64) -> Option<(Step, Cost)> {
    let now = (view.cost)(&from.1).ok()?.latency_ms;
    let known = |c: &Candidate| view.history.iter().any(|t| t.candidate == *c && t.outcome.measured().is_some());
    let worth = |(step, cost): &(Step, Cost)| {
        let saved = damage[step.axis][usize::from(step.from)] - damage[step.axis][usize::from(step.to)];
        saved.max(0.0) / (cost.latency_ms - now).max(1e-9)
    };
    moves(view, from, false)
        .filter(|(step, cost)| cost.latency_ms < fastest && !known(&step.candidate))
        .max_by(|a, b| worth(a).total_cmp(&worth(b)).then(b.0.axis.cmp(&a.0.axis)))
}

/// The next step forward from the fastest point that certainly keeps the budget, if one may keep it too.
pub fn forth(view: &View<'_>, surrogate: &Surrogate, budget: f64) -> Option<Step> {
    let spent: Vec<&Trial> = view.history.iter().filter(|t| t.origin == Origin::Spend).collect();
    let held = |t: &&&Trial| t.outcome.measured().is_some_and(|(s, _)| holds(s, budget));
    if spent.len() >= FORWARD || spent.iter().filter(|t| !held(t)).count() >= FAILURES {
        return None;
    }
    let measured = counting(view.history).into_iter().filter(|t| t.origin != Origin::Baseline && view.space.contains(&t.candidate));
    let keeps = measured.filter_map(|t| t.outcome.measured().filter(|(s, _)| holds(s, budget)).map(|(s, c)| (t, s, c)));
    let (point, score, cost) = keeps.min_by(|a, b| a.2.latency_ms.total_cmp(&b.2.latency_ms).then(a.0.trial.cmp(&b.0.trial)))?;
    // What the model expects more, on top of what the point was measured at.
    let slack = budget - score.drop_high.unwrap_or(score.drop);
    let now = surrogate.drop(&point.candidate);
    let seen = |c: &Candidate| view.history.iter().any(|t| t.candidate == *c);
    let faster = moves(view, (point.trial, point.candidate.clone()), true)
        .filter(|(step, after)| after.latency_ms < cost.latency_ms && !seen(&step.candidate));
    let priced = faster.map(|(step, after)| {
        let more = (surrogate.drop(&step.candidate) - now).max(1e-9);
        (more, (cost.latency_ms - after.latency_ms) / more, step)
    });
    let best = priced.filter(|(more, ..)| *more <= slack).max_by(|a, b| a.1.total_cmp(&b.1).then(b.2.axis.cmp(&a.2.axis)));
    best.map(|(.., step)| step)
}

/// Every move of one axis of a trial's candidate by one option that passes the limits, with its cost.
fn moves<'a>(view: &'a View<'_>, (before, at): (usize, Candidate), forward: bool) -> impl Iterator<Item = (Step, Cost)> + 'a {
    (0..at.0.len()).filter_map(move |axis| {
        let from = at.0[axis];
        let to = if forward { from.checked_add(1).filter(|o| usize::from(*o) < view.space.axes[axis].len()) } else { from.checked_sub(1) }?;
        let mut candidate = at.clone();
        candidate.0[axis] = to;
        let cost = (view.cost)(&candidate).ok().filter(|c| view.limits.broken(c).is_none())?;
        Some((Step { candidate, before, axis, from, to }, cost))
    })
}

/// Non-dominated points over the budget that are faster than all within it, those with the smallest drop first.
fn starts<'a>(points: &[&'a Trial], budget: f64, fastest: f64) -> Vec<&'a Trial> {
    let any_measured = points.iter().any(|t| t.origin != Origin::Baseline && t.outcome.measured().is_some());
    let known = |t: &Trial| if any_measured { t.outcome.measured().is_some() } else { t.outcome.scored().is_some() };
    let mut over: Vec<(f64, f64, &Trial)> = points
        .iter()
        .filter(|t| known(t))
        .filter_map(|t| t.outcome.scored().map(|(score, cost)| (score, cost, *t)))
        .filter(|(score, cost, t)| t.origin != Origin::Baseline && !holds(score, budget) && cost.latency_ms < fastest)
        .map(|(score, cost, t)| (score.drop, cost.latency_ms, t))
        .collect();
    over.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.candidate.cmp(&b.2.candidate)));
    let points: Vec<[f64; 2]> = over.iter().map(|(drop, ms, _)| [*drop, *ms]).collect();
    front(&points).into_iter().take(STARTS).map(|i| over[i].2).collect()
}
