//! NSGA-II over drop, latency and size (Deb et al., 2002, DOI 10.1109/4235.996017), without a model of the network: seeded with what a person
//! would try first, uniform plans, then single changes to the milder of them.
//!
//! Parents are the best of the whole history by non-dominated rank and crowding, so that no population has to be saved.

use std::collections::HashSet;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::uniform::{at_level, plans};
use crate::{
    front::{crowding, ranks},
    search::{View, random},
    space::{Candidate, Kind, Space},
    trial::{Outcome, Trial},
};

/// Parents kept.
const POPULATION: usize = 32;
/// Children drawn for one that is new and affordable.
const PATIENCE: usize = 200;

/// Proposes the next candidates.
pub fn ask(view: &View<'_>, n: usize, rng: &mut ChaCha8Rng) -> Vec<Candidate> {
    let mut seen: HashSet<Candidate> = view.history.iter().map(|t| t.candidate.clone()).collect();
    let mut out: Vec<Candidate> = Vec::new();
    for seed in seeds(view.space) {
        if out.len() == n {
            return out;
        }
        if !seen.contains(&seed) && view.affordable(&seed) {
            seen.insert(seed.clone());
            out.push(seed);
        }
    }
    let parents = parents(view);
    while out.len() < n {
        let child = (0..PATIENCE).find_map(|_| {
            let child = child(view.space, &parents, rng);
            (!seen.contains(&child) && view.affordable(&child)).then_some(child)
        });
        let Some(child) = child else { break };
        seen.insert(child.clone());
        out.push(child);
    }
    if out.len() < n {
        let fresh = random::ask(view, n - out.len(), rng);
        out.extend(fresh.into_iter().filter(|c| seen.insert(c.clone())));
    }
    out
}

/// Uniform plans, then every single change to the mildest candidate and to the milder uniform plans, each once.
fn seeds(space: &Space) -> Vec<Candidate> {
    let mut found = plans(space);
    let bases = [at_level(space, &space.mildest(), Kind::Precision, 1), space.mildest()];
    for base in bases {
        for (a, axis) in space.axes.iter().enumerate() {
            for option in 0..axis.len() {
                let mut single = base.clone();
                single.0[a] = u16::try_from(option).unwrap_or(0);
                found.push(single);
            }
        }
    }
    let mut seen = HashSet::new();
    found.retain(|p| seen.insert(p.clone()));
    found
}

/// The best candidates of the history, best first. Of a candidate that was measured twice, the first measurement counts: the search's own,
/// like those it is compared with.
fn parents(view: &View<'_>) -> Vec<Candidate> {
    let mut seen = HashSet::new();
    let of_space = view.history.iter().filter(|t| view.space.contains(&t.candidate) && seen.insert(&t.candidate));
    let scored: Vec<(&Trial, [f64; 3])> = of_space.filter_map(|t| objectives(t, view.horizon).map(|o| (t, o))).collect();
    let points: Vec<[f64; 3]> = scored.iter().map(|(_, o)| *o).collect();
    let rank = ranks(&points);
    let crowd = crowding(&points, &rank);
    let mut best: Vec<usize> = (0..points.len()).collect();
    best.sort_by(|&a, &b| rank[a].cmp(&rank[b]).then(crowd[b].total_cmp(&crowd[a])).then(a.cmp(&b)));
    best.into_iter().take(POPULATION).map(|i| scored[i].0.candidate.clone()).collect()
}

/// Drop, latency and size; candidates beyond the horizon keep their drop but lose what latency they win.
fn objectives(trial: &Trial, horizon: f64) -> Option<[f64; 3]> {
    let (score, cost) = trial.outcome.scored()?;
    let over = matches!(trial.outcome, Outcome::Stopped { .. }) || score.drop > horizon;
    let penalty = if over { 1e6 * (1.0 + score.drop) } else { 0.0 };
    Some([score.drop + penalty, cost.latency_ms + penalty, cost.bytes as f64 + penalty * 1e6])
}

/// Crossover of two tournament winners, then mutation of one axis on average, mostly to a neighbouring option.
pub(in crate::search) fn child(space: &Space, parents: &[Candidate], rng: &mut ChaCha8Rng) -> Candidate {
    if parents.is_empty() {
        return random::draw(space, rng);
    }
    let mut pick = || {
        let (a, b) = (rng.random_range(0..parents.len()), rng.random_range(0..parents.len()));
        &parents[a.min(b)]
    };
    let (mother, father) = (pick(), pick());
    let rate = 1.0 / space.axes.len() as f64;
    let mut child = Candidate(mother.0.iter().zip(&father.0).map(|(&m, &f)| if rng.random_bool(0.5) { m } else { f }).collect());
    let forced = rng.random_range(0..space.axes.len());
    for (a, axis) in space.axes.iter().enumerate() {
        if a != forced && !rng.random_bool(rate) {
            continue;
        }
        let last = u16::try_from(axis.len() - 1).unwrap_or(0);
        let old = child.0[a];
        child.0[a] = match rng.random_range(0..4_u8) {
            0 => rng.random_range(0..=last),
            1 | 2 if old < last => old + 1,
            _ => old.saturating_sub(1),
        };
    }
    child
}
