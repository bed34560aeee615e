//! The additive strategy: the whole front predicted from the tables, and corrected where measurements move it.
//!
//! Damages add up over the axes ([`Surrogate`]), costs over small tables ([`Tables`](super::Tables)), so the front of both is a knapsack that is solved at once
//! ([`solve`](super::solve)). A batch takes points from the front that is expected after all trials so far and, in turn with it, from fronts of damages drawn from what is
//! believed of them: each time the point that would add most area to the front known so far, and every third time the fastest within the budget. The search
//! has ended when the expected front adds no more.

use std::collections::HashSet;

use rand_chacha::ChaCha8Rng;

use super::{Asked, View, peers::uniform, solve::Effort, surrogate::Surrogate};
use crate::{
    front::hypervolume,
    space::{Candidate, Kind},
    trial::{Trial, counting},
};

/// Labels kept by the solver for one front.
const LABELS: usize = 1500;
/// States of a separator of the solver.
const STATES: usize = 4096;
/// Share of the area of the front below which what is expected to be won is not worth a batch.
const WORTH: f64 = 0.005;
/// Batches before it may end.
const BATCHES: usize = 2;

/// How hard the solver works for one front.
pub const EFFORT: Effort = Effort { labels: LABELS, states: STATES };

/// A point of a predicted front.
#[derive(Debug, Clone, PartialEq)]
pub struct Expected {
    /// The candidate.
    pub candidate: Candidate,
    /// Expected drop.
    pub drop: f64,
    /// Predicted latency, ms.
    pub latency_ms: f64,
}

/// The front that is expected, by rising latency: of points that pass the limits and are neither slower nor larger than float.
pub fn expected_front(view: &View<'_>, surrogate: &Surrogate) -> Vec<Expected> {
    let front = view.tables.problem(surrogate.damage()).front_within(view.limits.bytes.map(|b| b as f64), EFFORT);
    let point = |s: super::solve::Solution| {
        let candidate = Candidate(s.options);
        let cost = (view.cost)(&candidate).ok().filter(|c| view.limits.broken(c).is_none())?;
        Some(Expected { drop: surrogate.drop_at(surrogate.of_sum(s.damage)), latency_ms: cost.latency_ms, candidate })
    };
    let step = front.solutions.len().div_ceil(POINTS).max(1);
    let last = front.solutions.len().saturating_sub(1);
    front.solutions.into_iter().enumerate().filter(|(i, _)| i % step == 0 || *i == last).filter_map(|(_, s)| point(s)).collect()
}

/// Points of a front that are looked at.
const POINTS: usize = 160;

/// Proposes the next candidates; none when the front no longer moves.
pub fn ask(view: &View<'_>, n: usize, rng: &mut ChaCha8Rng) -> Vec<Asked> {
    let surrogate = Surrogate::fit(view.space, view.tables, view.history);
    let worst = view.interest();
    let reference = [worst, view.limits.float.latency_ms];
    let mut known = measured(view, &surrogate);
    let mean = expected_front(view, &surrogate);
    let rounds = view.history.iter().map(|t| t.round).collect::<HashSet<_>>().len().saturating_sub(1);
    let area = |points: &[[f64; 2]]| hypervolume(points, reference);
    let all: Vec<[f64; 2]> = known.iter().copied().chain(mean.iter().map(|p| [p.drop.max(0.0), p.latency_ms])).collect();
    if rounds >= BATCHES && area(&all) < area(&known) * (1.0 + WORTH) {
        return Vec::new();
    }
    let mut seen: HashSet<Candidate> = view.history.iter().map(|t| t.candidate.clone()).collect();
    let mut out: Vec<Asked> = if rounds == 0 { probes(view, &surrogate, n) } else { Vec::new() };
    seen.extend(out.iter().map(|a| a.candidate.clone()));
    for turn in 0..2 * n {
        if out.len() == n {
            break;
        }
        let points = if turn % 2 == 0 { mean.clone() } else { expected_front(view, &surrogate.drawn(rng)) };
        let now = area(&known);
        let won = |p: &Expected| {
            let more: Vec<[f64; 2]> = known.iter().copied().chain([[p.drop.max(0.0), p.latency_ms]]).collect();
            area(&more) - now
        };
        let aims_at_budget = view.budget.filter(|_| turn % 3 == 2);
        let new = points.iter().filter(|p| !seen.contains(&p.candidate) && p.drop <= worst);
        let picked = match aims_at_budget {
            Some(budget) => new.filter(|p| p.drop <= budget).min_by(|a, b| a.latency_ms.total_cmp(&b.latency_ms)),
            None => new.map(|p| (won(p), p)).max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(w, _)| *w > 0.0).map(|(_, p)| p),
        };
        let Some(picked) = picked else { continue };
        let predicted = surrogate.drop(&picked.candidate);
        known.push([predicted.max(0.0), picked.latency_ms]);
        seen.insert(picked.candidate.clone());
        out.push(Asked { candidate: picked.candidate.clone(), samples: None, predicted: Some(predicted) });
    }
    out
}

/// What the first batch begins with: channels, ranks and zeros that are taken away are made up for by the layers behind, by how much only a network that
/// is built so can tell. So each of these kinds is measured once by itself, its mildest option everywhere.
fn probes(view: &View<'_>, surrogate: &Surrogate, n: usize) -> Vec<Asked> {
    let plan = |kind: Kind| uniform::at_level(view.space, &view.space.mildest(), kind, 1);
    let kinds = [Kind::Keep, Kind::Rank, Kind::Sparsity].into_iter().filter(|k| uniform::levels(view.space, *k) > 1);
    let asked = |candidate: Candidate| Asked { predicted: Some(surrogate.drop(&candidate)), candidate, samples: None };
    kinds.map(plan).filter(|c| view.affordable(c)).take(n / 2).map(asked).collect()
}

/// Drop, as estimated, and latency of what was measured.
fn measured(view: &View<'_>, surrogate: &Surrogate) -> Vec<[f64; 2]> {
    let point = |t: &Trial| {
        let (score, cost) = t.outcome.scored()?;
        Some([surrogate.estimate(score, &t.candidate).0.max(0.0), cost.latency_ms])
    };
    counting(view.history).into_iter().filter_map(point).collect()
}
