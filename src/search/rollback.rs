//! Rollback: from the best points on the wrong side of the budget, treatments go back a step, those first that hurt
//! most per microsecond, until the budget holds.
//!
//! What an option hurts is estimated from the search's own trials by an additive model, fitted by ridge regression.
//! The chain of steps is a function of the history: points already measured are walked through, the first that is not
//! is proposed. Steps are built sequentially, so a measurement of the network built in parallel counts only where both
//! are the same.

use std::collections::HashMap;

use faer::{Mat, prelude::Solve};

use super::View;
use crate::{
    front::front,
    space::{Build, Candidate},
    trial::{Origin, Score, Trial, counting},
};

/// Points on the wrong side that a rollback starts from.
const STARTS: usize = 3;
/// Weight of the ridge, in full trials.
const RIDGE: f64 = 0.05;

/// A treatment taken back one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// The candidate after the step.
    pub candidate: Candidate,
    /// The candidate before the step.
    pub before: Candidate,
    /// Which axis went back, from which option.
    pub axis: usize,
    /// Option before the step; after it, one less.
    pub from: u16,
    /// Latency given back, milliseconds; negative if the step made it faster.
    pub cost_ms: f64,
}

/// Whether a score keeps the budget: by the upper end of its interval where it has one.
pub fn holds(score: &Score, budget: f64) -> bool {
    score.drop_high.unwrap_or(score.drop) <= budget
}

/// The next candidate to measure, if any.
pub fn next(view: &View<'_>, budget: f64) -> Option<Step> {
    let known = known(view);
    walk(view, budget, |step| !known.contains_key(&step.candidate))
}

/// The trials that measured what a step to their candidate would measure.
fn known<'a>(view: &View<'a>) -> HashMap<&'a Candidate, &'a Trial> {
    let same = |t: &&Trial| t.origin == Origin::Baseline || t.origin.build() == Build::Sequential || !(view.differs)(&t.candidate);
    view.history.iter().filter(same).map(|t| (&t.candidate, t)).collect()
}

/// Every step that the history holds, with the trial that measured it.
pub fn steps(view: &View<'_>, budget: f64) -> Vec<(Step, usize)> {
    let rollback: HashMap<&Candidate, usize> =
        view.history.iter().filter(|t| t.origin == Origin::Rollback).map(|t| (&t.candidate, t.trial)).collect();
    let mut found: Vec<(Step, usize)> = Vec::new();
    walk(view, budget, |step| {
        if let Some(&trial) = rollback.get(&step.candidate)
            && found.iter().all(|(_, t)| *t != trial)
        {
            found.push((step.clone(), trial));
        }
        false
    });
    found
}

/// Walks the chains and stops at the first step that `stop` wants.
fn walk(view: &View<'_>, budget: f64, mut stop: impl FnMut(&Step) -> bool) -> Option<Step> {
    let known = known(view);
    let before: Vec<&Trial> = view.history.iter().filter(|t| t.origin != Origin::Rollback && view.space.contains(&t.candidate)).collect();
    let search: Vec<&Trial> = before.iter().copied().filter(|t| t.origin != Origin::Refine).collect();
    let damage = damages(view, &search);
    let points = counting(before);
    let mut fastest = fastest_within(points.iter().copied(), budget);
    for start in starts(&points, budget, fastest) {
        let mut current = start.clone();
        while let Some(step) = step_back(view, &current, &damage) {
            let Ok(cost) = (view.cost)(&step.candidate) else { break };
            if cost.latency_ms >= fastest || cost.latency_ms >= view.limits.float.latency_ms {
                break;
            }
            if stop(&step) {
                return Some(step);
            }
            let Some(trial) = known.get(&step.candidate) else { break };
            if trial.outcome.measured().is_some_and(|(score, _)| holds(score, budget)) {
                fastest = fastest.min(cost.latency_ms);
                break;
            }
            current = step.candidate;
        }
    }
    None
}

fn fastest_within<'a>(trials: impl Iterator<Item = &'a Trial>, budget: f64) -> f64 {
    trials
        .filter(|t| t.origin != Origin::Baseline)
        .filter_map(|t| t.outcome.measured())
        .filter(|(score, _)| holds(score, budget))
        .map(|(_, cost)| cost.latency_ms)
        .fold(f64::INFINITY, f64::min)
}

/// Non-dominated points over the budget that are faster than all within it, those with the smallest drop first.
fn starts(points: &[&Trial], budget: f64, fastest: f64) -> Vec<Candidate> {
    let mut over: Vec<(f64, f64, &Candidate)> = points
        .iter()
        .filter_map(|t| t.outcome.scored().map(|(score, cost)| (score, cost, &t.candidate)))
        .filter(|(score, cost, _)| !holds(score, budget) && cost.latency_ms < fastest)
        .map(|(score, cost, c)| (score.drop, cost.latency_ms, c))
        .collect();
    over.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.total_cmp(&b.1)).then(a.2.cmp(b.2)));
    let points: Vec<[f64; 2]> = over.iter().map(|(drop, ms, _)| [*drop, *ms]).collect();
    front(&points).into_iter().take(STARTS).map(|i| over[i].2.clone()).collect()
}

/// The step back that saves most damage for its microseconds.
fn step_back(view: &View<'_>, current: &Candidate, damage: &[Vec<f64>]) -> Option<Step> {
    let before = (view.cost)(current).ok()?.latency_ms;
    let mut best: Option<(f64, Step)> = None;
    for (axis, &from) in current.0.iter().enumerate().filter(|(_, o)| **o > 0) {
        let mut candidate = current.clone();
        candidate.0[axis] = from - 1;
        let Ok(after) = (view.cost)(&candidate) else { continue };
        let cost_ms = after.latency_ms - before;
        let saved = (damage[axis][usize::from(from)] - damage[axis][usize::from(from) - 1]).max(0.0);
        let worth = saved / cost_ms.max(1e-6);
        if best.as_ref().is_none_or(|(w, _)| worth > *w) {
            best = Some((worth, Step { candidate, before: current.clone(), axis, from, cost_ms }));
        }
    }
    best.map(|(_, step)| step)
}

/// Estimated drop of every option of every axis, option 0 as the zero.
fn damages(view: &View<'_>, search: &[&Trial]) -> Vec<Vec<f64>> {
    let axes = &view.space.axes;
    let offsets: Vec<usize> = axes.iter().scan(0, |at, a| Some(std::mem::replace(at, *at + a.len() - 1))).collect();
    let columns: usize = axes.iter().map(|a| a.len() - 1).sum();
    let most = search.iter().filter_map(|t| t.outcome.scored()).map(|(s, _)| s.samples).max().unwrap_or(1) as f64;
    let mut gram = Mat::<f64>::zeros(columns, columns);
    let mut right = Mat::<f64>::zeros(columns, 1);
    for trial in search {
        let Some((score, _)) = trial.outcome.scored() else { continue };
        let weight = score.samples as f64 / most;
        let on: Vec<usize> =
            trial.candidate.0.iter().enumerate().filter(|(_, o)| **o > 0).map(|(a, &o)| offsets[a] + usize::from(o) - 1).collect();
        for &i in &on {
            right[(i, 0)] += weight * score.drop.min(view.horizon);
            for &j in &on {
                gram[(i, j)] += weight;
            }
        }
    }
    (0..columns).for_each(|i| gram[(i, i)] += RIDGE);
    let solved = gram.full_piv_lu().solve(&right);
    let value = |i: usize| Some(solved[(i, 0)]).filter(|v| v.is_finite()).unwrap_or(0.0).max(0.0);
    axes.iter()
        .zip(&offsets)
        .map(|(axis, &at)| {
            let mut worst = 0.0_f64;
            std::iter::once(0.0)
                .chain((0..axis.len() - 1).map(|o| value(at + o)))
                .map(|v| {
                    worst = worst.max(v);
                    worst
                })
                .collect()
        })
        .collect()
}
