//! Simulated annealing on the additive model (Kirkpatrick et al. 1983, DOI 10.1126/science.220.4598.671; the walk is argmin's): each candidate of a batch is
//! the fastest that a walk finds for a drop of its own, from the budget's to the horizon's.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
};

use argmin::{
    core::{CostFunction, Error, Executor, State},
    solver::simulatedannealing::{Anneal, SimulatedAnnealing},
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Asked, Surrogate, View, random};
use crate::space::{Candidate, Space};

/// Steps of a walk.
const STEPS: u64 = 3000;
/// Latency in shares of the float model's that a walk accepts to lose at its start.
const TEMPERATURE: f64 = 0.05;
/// Shares of the latency that a drop of twice the aim costs.
const PENALTY: f64 = 5.0;

/// Proposes the next candidates; none when walks end at known ones only.
pub fn ask(view: &View<'_>, n: usize, rng: &mut ChaCha8Rng) -> Vec<Asked> {
    let surrogate = Surrogate::fit(view.space, view.tables, view.history);
    let most = view.interest();
    let mut seen: HashSet<Candidate> = view.history.iter().map(|t| t.candidate.clone()).collect();
    let mut out = Vec::new();
    for _ in 0..2 * n {
        if out.len() == n {
            break;
        }
        let aim = view.budget.filter(|_| rng.random_bool(0.4)).unwrap_or_else(|| most * rng.random_range(0.02..1.0_f64));
        let Some(candidate) = walk(view, &surrogate, aim, rng.random()) else { continue };
        if seen.insert(candidate.clone()) && view.affordable(&candidate) {
            out.push(Asked { predicted: Some(surrogate.drop(&candidate)), candidate, samples: None });
        }
    }
    out
}

/// The best candidate of a walk from a random one.
fn walk(view: &View<'_>, surrogate: &Surrogate, aim: f64, seed: u64) -> Option<Candidate> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let start = random::draw(view.space, &mut rng);
    let tables = view.tables.problem(surrogate.damage());
    let problem = Walk {
        space: view.space,
        price: &|c: &Candidate| {
            let of = tables.price(&c.0);
            let over = (surrogate.drop_at(surrogate.of_sum(of.damage)) / aim.max(1e-6) - 1.0).max(0.0);
            let large = view.limits.bytes.map_or(0.0, |b| (of.bytes / b as f64 - 1.0).max(0.0));
            of.ms / view.limits.float.latency_ms + PENALTY * (over + large)
        },
        rng: Mutex::new(ChaCha8Rng::seed_from_u64(rng.random())),
    };
    let solver = SimulatedAnnealing::new_with_rng(TEMPERATURE, rng).ok()?;
    let found = Executor::new(problem, solver).configure(|s| s.param(start).max_iters(STEPS)).run().ok()?;
    found.state().get_best_param().cloned()
}

struct Walk<'a> {
    space: &'a Space,
    price: &'a dyn Fn(&Candidate) -> f64,
    rng: Mutex<ChaCha8Rng>,
}

impl CostFunction for Walk<'_> {
    type Param = Candidate;
    type Output = f64;
    fn cost(&self, at: &Candidate) -> Result<f64, Error> {
        Ok((self.price)(at))
    }
}

impl Anneal for Walk<'_> {
    type Param = Candidate;
    type Output = Candidate;
    type Float = f64;
    fn anneal(&self, at: &Candidate, _: f64) -> Result<Candidate, Error> {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        let mut next = at.clone();
        let axis = rng.random_range(0..next.0.len());
        let others = self.space.axes[axis].len() - 1;
        let other = u16::try_from(rng.random_range(0..others)).unwrap_or(0);
        next.0[axis] = other + u16::from(other >= next.0[axis]);
        Ok(next)
    }
}
