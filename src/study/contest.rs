//! Strategies side by side: the same network, evaluator, space, budget of samples and seeds.
//!
//! What is compared is the hypervolume of the points that met all samples, in drop and latency, as a share of the box between the origin and a reference
//! point, over the samples that were run to get there. Drops below zero count as zero: luck is no merit.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::atomic::AtomicBool,
    time::Instant,
};

use serde::{Deserialize, Serialize};

use super::{Fingerprint, Journal, Observe, Settings, Stop, run};
use crate::{
    error::{Error, Result},
    evaluate::{Evaluator, Objective},
    front::{front, hypervolume},
    search::{Tables, holds},
    space::Candidate,
    spec::{SearchSpec, Spec, StrategyName},
    trial::{Origin, Outcome, Trial, inferred},
};

/// Drop of the reference point where there is no accuracy budget, as a share of the float model's metric.
const WORST: f64 = 0.2;

/// What is the same for all who take part.
pub struct Terms<'a> {
    /// The study's spec; its strategy and seed are replaced.
    pub spec: &'a Spec,
    /// Network, chip and data.
    pub evaluator: &'a Evaluator,
    /// What is known of the space before.
    pub tables: &'a Tables,
    /// What journals begin with.
    pub fingerprint: &'a Fingerprint,
    /// Samples that a search may infer; certification and steps come on top, and are counted.
    pub samples: u64,
    /// Evaluations at once.
    pub jobs: usize,
    /// Set from outside to end.
    pub interrupt: &'a AtomicBool,
}

/// How one strategy did with one seed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Ran {
    /// Who.
    pub strategy: StrategyName,
    /// Seed.
    pub seed: u64,
    /// Why it ended.
    pub stop: Stop,
    /// Trials.
    pub trials: usize,
    /// Samples inferred.
    pub samples: u64,
    /// Samples inferred and the share of the reference box that the points measured until then dominate.
    pub hypervolume: Vec<(u64, f64)>,
    /// Latency of the fastest point that keeps the budget as measured, ms.
    pub fastest_ms: Option<f64>,
    /// The same of those that keep it for certain.
    pub fastest_certain_ms: Option<f64>,
    /// Wall time of this session, seconds.
    pub seconds: f64,
}

/// The reference point: drop and latency (ms).
pub fn reference(evaluator: &Evaluator, spec: &Spec) -> [f64; 2] {
    let accuracy = evaluator.baseline().measured().map_or(1.0, |(score, _)| score.accuracy.abs());
    let horizon = spec.constraints.budget(accuracy).map(|b| b * spec.search.give_up_at);
    [horizon.unwrap_or(WORST * accuracy), evaluator.float_cost().latency_ms]
}

/// Runs a strategy with a seed; its journal is kept in a folder, and gone on with if it is there.
///
/// # Errors
/// If the folder cannot be written or has the journal of something else.
pub fn enter(terms: &Terms<'_>, (strategy, seed): (StrategyName, u64), dir: &Path, observe: &mut dyn Observe) -> Result<Ran> {
    std::fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    let started = Instant::now();
    let all = terms.evaluator.samples();
    let own = &terms.spec.search;
    // Who does not race gets what it knows it by: all samples.
    let samples = if strategy.needs_tables() && !strategy.needs_budget() { own.samples } else { all };
    let search = SearchSpec { strategy, seed, samples, trials: usize::MAX, time: None, ..own.clone() };
    let fingerprint = Fingerprint { spec: format!("{} {} {seed}", terms.fingerprint.spec, strategy.name()), ..terms.fingerprint.clone() };
    let (mut journal, mut history) = Journal::open(dir, &fingerprint)?;
    let settings = Settings {
        search: &search,
        constraints: &terms.spec.constraints,
        tables: terms.tables,
        // Who has a procedure of its own goes through with it.
        samples: (!strategy.needs_budget()).then_some(terms.samples),
        jobs: terms.jobs,
        spent: 0.0,
        interrupt: terms.interrupt,
    };
    let stop = run(terms.evaluator, &settings, &mut journal, &mut history, observe)?;
    let accuracy = history.first().and_then(|t| t.outcome.measured()).map_or(0.0, |(score, _)| score.accuracy);
    let budget = terms.spec.constraints.budget(accuracy);
    let keeping = |certain: bool| {
        let measured = history.iter().filter(|t| t.origin != Origin::Baseline).filter_map(|t| t.outcome.measured());
        let keeps = measured.filter(|(s, _)| budget.is_some_and(|b| if certain { holds(s, b) } else { s.drop <= b }));
        keeps.map(|(_, cost)| cost.latency_ms).reduce(f64::min)
    };
    Ok(Ran {
        strategy,
        seed,
        stop,
        trials: history.len() - 1,
        samples: inferred(&history),
        hypervolume: grown(&history, reference(terms.evaluator, terms.spec)),
        fastest_ms: keeping(false),
        fastest_certain_ms: keeping(true),
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// A whole space, measured.
pub struct Truth {
    outcomes: HashMap<Candidate, [f64; 2]>,
    reference: [f64; 2],
}

impl Truth {
    /// From every candidate's outcome. The reference point is the float model's latency and the largest drop on the front.
    pub fn new(all: Vec<(Candidate, Outcome)>, float_ms: f64) -> Self {
        let point = |(c, o): (Candidate, Outcome)| o.measured().map(|(s, cost)| [s.drop.max(0.0), cost.latency_ms]).map(|p| (c, p));
        let outcomes: HashMap<Candidate, [f64; 2]> = all.into_iter().filter_map(point).collect();
        let points: Vec<[f64; 2]> = outcomes.values().copied().collect();
        let worst = front(&points).into_iter().map(|i| points[i][0]).fold(0.0, f64::max);
        Self { outcomes, reference: [worst, float_ms] }
    }

    /// Candidates.
    pub fn candidates(&self) -> usize {
        self.outcomes.len()
    }

    /// Points of the front.
    pub fn front(&self) -> usize {
        front(&self.outcomes.values().copied().collect::<Vec<_>>()).len()
    }

    /// The share of the whole space's hypervolume that the candidates have that a run measured on all samples, how many these are, and how many it
    /// measured on any. Drops are those of the whole.
    ///
    /// # Errors
    /// If the run's journal cannot be read.
    pub fn share(&self, dir: &Path) -> Result<(f64, usize, usize)> {
        let (_, trials) = Journal::read(dir)?;
        let tried: HashSet<&Candidate> =
            trials.iter().filter(|t| t.origin != Origin::Baseline && t.outcome.scored().is_some()).map(|t| &t.candidate).collect();
        let measured: HashSet<&Candidate> = trials.iter().filter(|t| t.outcome.measured().is_some()).map(|t| &t.candidate).collect();
        let found: Vec<[f64; 2]> = measured.iter().filter_map(|c| self.outcomes.get(*c)).copied().collect();
        let all: Vec<[f64; 2]> = self.outcomes.values().copied().collect();
        Ok((hypervolume(&found, self.reference) / hypervolume(&all, self.reference), measured.len(), tried.len()))
    }
}

/// How the hypervolume grew with the samples inferred: an entry for every trial that it grew with.
fn grown(history: &[Trial], reference: [f64; 2]) -> Vec<(u64, f64)> {
    let mut points: Vec<[f64; 2]> = Vec::new();
    let mut found: Vec<(u64, f64)> = Vec::new();
    for (i, trial) in history.iter().enumerate().filter(|(_, t)| t.origin != Origin::Baseline) {
        let Some((score, cost)) = trial.outcome.measured() else { continue };
        points.push([score.drop.max(0.0), cost.latency_ms]);
        let now = hypervolume(&points, reference) / (reference[0] * reference[1]);
        if found.last().is_none_or(|(_, before)| now > *before) {
            found.push((inferred(&history[..=i]), now));
        }
    }
    found
}

impl Ran {
    /// The hypervolume in the end.
    pub fn last(&self) -> f64 {
        self.hypervolume.last().map_or(0.0, |h| h.1)
    }

    /// The samples after which it had a hypervolume; none if it never had.
    pub fn reached(&self, hypervolume: f64) -> Option<u64> {
        self.hypervolume.iter().find(|(_, h)| *h >= hypervolume).map(|(samples, _)| *samples)
    }
}
