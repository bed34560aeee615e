//! Evolution where the additive model is wrong: NSGA-II on the model's prediction times what the neighbours' measurements say it is off by.
//!
//! The first batch is the expected front of the [additive](super::additive) strategy. After that a population of measured candidates and expected
//! ones breeds for some generations on drop and latency as predicted, where the logarithm of the ratio of measured to predicted distance (the residual)
//! is a weighted mean over the measured candidates, by the number of axes in which they differ. The best of what is new is measured (as NSGANetV2 does
//! with its surrogate, Lu et al. 2020, arXiv 2007.10396).

use std::collections::HashSet;

use rand_chacha::ChaCha8Rng;

use super::{Asked, Surrogate, View, additive, peers::nsga2};
use crate::{
    front::{crowding, ranks},
    space::Candidate,
};

/// Candidates that breed.
const POPULATION: usize = 48;
/// Generations between two batches.
const GENERATIONS: usize = 12;
/// Axes in which a candidate differs for its residual to count a third as much.
const REACH: f64 = 3.0;

/// Proposes the next candidates.
pub fn ask(view: &View<'_>, n: usize, rng: &mut ChaCha8Rng) -> Vec<Asked> {
    let surrogate = Surrogate::fit(view.space, view.tables, view.history);
    let residuals = residuals(view, &surrogate);
    let predicted = |c: &Candidate| surrogate.drop_at(surrogate.distance(c) * correction(&residuals, c));
    let objectives = |c: &Candidate| {
        let cost = (view.cost)(c).ok().filter(|cost| view.limits.broken(cost).is_none())?;
        let drop = predicted(c);
        (drop <= view.horizon || !view.horizon.is_finite()).then_some([drop, cost.latency_ms])
    };
    let measured = view.history.iter().filter(|t| view.space.contains(&t.candidate)).map(|t| t.candidate.clone());
    let start = additive::expected_front(view, &surrogate).into_iter().map(|p| p.candidate).chain(measured);
    let mut seen = HashSet::new();
    let mut population: Vec<(Candidate, [f64; 2])> =
        start.filter(|c| seen.insert(c.clone())).filter_map(|c| objectives(&c).map(|o| (c, o))).collect();
    for _ in 0..GENERATIONS {
        population = best(population, POPULATION);
        let parents: Vec<Candidate> = population.iter().map(|(c, _)| c.clone()).collect();
        for _ in 0..POPULATION {
            let child = nsga2::child(view.space, &parents, rng);
            if seen.insert(child.clone())
                && let Some(at) = objectives(&child)
            {
                population.push((child, at));
            }
        }
    }
    let tried: HashSet<&Candidate> = view.history.iter().map(|t| &t.candidate).collect();
    let new: Vec<(Candidate, [f64; 2])> = population.into_iter().filter(|(c, _)| !tried.contains(c)).collect();
    let asked = |(candidate, at): (Candidate, [f64; 2])| Asked { candidate, samples: None, predicted: Some(at[0]) };
    best(new, n).into_iter().map(asked).collect()
}

/// The best by rank and crowding, best first.
fn best(population: Vec<(Candidate, [f64; 2])>, n: usize) -> Vec<(Candidate, [f64; 2])> {
    let points: Vec<[f64; 2]> = population.iter().map(|(_, o)| *o).collect();
    let rank = ranks(&points);
    let crowd = crowding(&points, &rank);
    let mut order: Vec<usize> = (0..points.len()).collect();
    order.sort_by(|&a, &b| rank[a].cmp(&rank[b]).then(crowd[b].total_cmp(&crowd[a])).then(a.cmp(&b)));
    order.into_iter().take(n).map(|i| population[i].clone()).collect()
}

/// Measured candidates with the logarithm of what the model was off by.
fn residuals<'a>(view: &View<'a>, surrogate: &Surrogate) -> Vec<(&'a Candidate, f64)> {
    let of = |t: &'a crate::trial::Trial| {
        let distance = t.outcome.scored()?.0.distance.filter(|d| *d > 0.0)?;
        let expected = surrogate.distance(&t.candidate);
        (view.space.contains(&t.candidate) && expected > 0.0).then(|| (&t.candidate, (distance / expected).ln().clamp(-2.0, 2.0)))
    };
    view.history.iter().filter_map(of).collect()
}

/// What the model's distance is multiplied by for a candidate: near measured ones by what they were off by, far from all of them by one.
fn correction(residuals: &[(&Candidate, f64)], candidate: &Candidate) -> f64 {
    let (mut sum, mut weights) = (0.0, 1.0);
    for (other, residual) in residuals {
        let apart = other.0.iter().zip(&candidate.0).filter(|(a, b)| a != b).count();
        let weight = 10.0 * (-(apart as f64) / REACH).exp();
        sum += weight * residual;
        weights += weight;
    }
    (sum / weights).exp()
}
