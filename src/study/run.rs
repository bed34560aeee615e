//! The loop: ask, evaluate in parallel, write down in the order of asking. After the search, the front's points are built again the
//! accurate way and measured; then the rollback.
//!
//! Everything random is drawn from the seed and the number of trials at the start of a batch; the batch's size is the
//! spec's. Hence the journal does not depend on the number of workers, nor on where a study was stopped.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
    time::Instant,
};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{Event, Journal, Observe, Stop, summarise::non_dominated};
use crate::{
    error::Result,
    evaluate::{GiveUp, Objective},
    search::{self, Limits, View, rollback},
    space::{Build, Candidate},
    spec::{Constraints, SearchSpec},
    trial::{Origin, Outcome, Trial},
};

/// Share of a time budget that is left to what follows the search: refinement and rollback.
const AFTER_SEARCH: f64 = 0.15;

/// How to run a study.
pub struct Settings<'a> {
    /// Strategy and budgets.
    pub search: &'a SearchSpec,
    /// What must hold.
    pub constraints: &'a Constraints,
    /// Evaluations at once.
    pub jobs: usize,
    /// Seconds that earlier sessions of the study took.
    pub spent: f64,
    /// Set from outside to end the study after the trials at hand.
    pub interrupt: &'a AtomicBool,
}

/// Limits of a study's constraints.
pub fn limits(objective: &dyn Objective, constraints: &Constraints) -> Limits {
    Limits { latency_ms: constraints.latency_ms, bytes: constraints.size_mb.map(|mb| (mb * 1e6) as u64), float: objective.float_cost() }
}

/// The drop beyond which a candidate is of no interest.
pub fn horizon(search: &SearchSpec, constraints: &Constraints) -> f64 {
    constraints.accuracy_drop.map_or(f64::INFINITY, |d| (d.0 * search.give_up_at).max(1e-6))
}

/// Runs a study until its budget, its space or the user ends it; the journal holds every trial that ended.
///
/// # Errors
/// If the journal cannot be written; what was written before stays.
pub fn run(
    objective: &dyn Objective,
    settings: &Settings<'_>,
    journal: &mut Journal,
    history: &mut Vec<Trial>,
    observe: &mut dyn Observe,
) -> Result<Stop> {
    let started = Instant::now();
    let elapsed = || settings.spent + started.elapsed().as_secs_f64();
    let budget = settings.search.time.map(|t| t.0);
    let mut loop_ = Loop {
        objective,
        settings,
        limits: limits(objective, settings.constraints),
        horizon: horizon(settings.search, settings.constraints),
        out: (journal, history, observe),
    };
    if loop_.out.1.is_empty() {
        let mildest = objective.space().mildest();
        let baseline = if objective.space().plan(&mildest).is_identity() { mildest } else { Candidate(Vec::new()) };
        loop_.commit(Origin::Baseline, baseline, objective.baseline())?;
    }
    let search_ends = |e: f64| budget.is_some_and(|b| e >= b * (1.0 - AFTER_SEARCH));
    let stop = loop_.search(&|| search_ends(elapsed()))?;
    if matches!(stop, Stop::Interrupted { .. }) {
        return Ok(stop);
    }
    let all_ends = |e: f64| budget.is_some_and(|b| e >= b);
    loop_.refine(&|| all_ends(elapsed()))?;
    loop_.roll_back(&|| all_ends(elapsed()))?;
    if settings.interrupt.load(Ordering::Relaxed) {
        return Ok(Stop::Interrupted { trials: loop_.out.1.len() });
    }
    Ok(stop)
}

struct Loop<'a, 'b> {
    objective: &'a dyn Objective,
    settings: &'a Settings<'a>,
    limits: Limits,
    horizon: f64,
    out: (&'b mut Journal, &'b mut Vec<Trial>, &'b mut dyn Observe),
}

impl Loop<'_, '_> {
    fn commit(&mut self, origin: Origin, candidate: Candidate, outcome: Outcome) -> Result<()> {
        let (journal, history, observe) = &mut self.out;
        let trial = Trial { trial: history.len(), origin, candidate, outcome };
        journal.append(&trial)?;
        history.push(trial);
        if let Some(trial) = history.last() {
            observe.event(Event::Trial { trial, history: history.as_slice() });
        }
        Ok(())
    }

    /// Calls with what a strategy may see of a history.
    fn with_view<T>(&self, history: &[Trial], then: impl FnOnce(&View<'_>) -> T) -> T {
        let (cost, differs) = (|c: &Candidate| self.objective.cost(c), |c: &Candidate| self.objective.differs(c));
        let space = self.objective.space();
        then(&View { space, cost: &cost, differs: &differs, limits: self.limits, horizon: self.horizon, history })
    }

    /// Gives a candidate up once it is beyond this drop for certain.
    fn give_up(&self, above: f64) -> GiveUp {
        GiveUp { above: Some(above).filter(|a| a.is_finite()), alpha: 1.0 - self.settings.constraints.confidence.0 }
    }

    fn search(&mut self, time_is_up: &dyn Fn() -> bool) -> Result<Stop> {
        let (spec, size) = (self.settings.search, self.settings.search.asked_together);
        loop {
            let searched: Vec<usize> = (0..self.out.1.len()).filter(|&i| self.out.1[i].origin == Origin::Search).collect();
            if searched.len() >= spec.trials {
                return Ok(Stop::Trials { trials: spec.trials });
            }
            if self.settings.interrupt.load(Ordering::Relaxed) {
                return Ok(Stop::Interrupted { trials: self.out.1.len() });
            }
            if time_is_up() {
                return Ok(Stop::Time { seconds: spec.time.map_or(0.0, |t| t.0) });
            }
            // A batch is asked for with what was known when it began, also when it is resumed half-way; after a refinement or a
            // rollback a new one begins.
            let since = self.out.1.iter().rposition(|t| matches!(t.origin, Origin::Refine | Origin::Rollback)).map_or(0, |i| i + 1);
            let done = searched.iter().filter(|&&i| i >= since).count() % size;
            let known = if done == 0 { self.out.1.len() } else { searched[searched.len() - done] };
            let mut rng = ChaCha8Rng::seed_from_u64(spec.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(known as u64));
            let asked = self.with_view(&self.out.1[..known], |view| search::ask(spec.strategy, view, size, &mut rng));
            let wanted: Vec<Candidate> = asked.into_iter().skip(done).take(spec.trials - searched.len()).collect();
            if wanted.is_empty() {
                let tried: BTreeSet<&Candidate> = self.out.1.iter().map(|t| &t.candidate).collect();
                return Ok(Stop::Exhausted { candidates: tried.len() });
            }
            self.evaluate_all(Origin::Search, &wanted, self.give_up(self.horizon), time_is_up)?;
        }
    }

    /// Evaluates candidates on several threads and commits them in order; stops taking up new ones when time is up.
    fn evaluate_all(&mut self, origin: Origin, wanted: &[Candidate], give_up: GiveUp, time_is_up: &dyn Fn() -> bool) -> Result<()> {
        let next = AtomicUsize::new(0);
        let ended = AtomicBool::new(false);
        let (objective, limits, interrupt) = (self.objective, self.limits, self.settings.interrupt);
        let jobs = self.settings.jobs.clamp(1, wanted.len());
        std::thread::scope(|scope| {
            let (send, receive) = mpsc::channel();
            for _ in 0..jobs {
                let (send, next, ended) = (send.clone(), &next, &ended);
                scope.spawn(move || {
                    while !ended.load(Ordering::Relaxed) && !interrupt.load(Ordering::Relaxed) {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let Some(candidate) = wanted.get(i) else { break };
                        let outcome = judge(objective, &limits, (candidate, origin.build()), give_up);
                        if send.send((i, outcome)).is_err() {
                            break;
                        }
                    }
                });
            }
            drop(send);
            let mut waiting: BTreeMap<usize, Outcome> = BTreeMap::new();
            let mut due = 0;
            for (i, outcome) in receive {
                waiting.insert(i, outcome);
                while let Some(outcome) = waiting.remove(&due) {
                    if let Err(e) = self.commit(origin, wanted[due].clone(), outcome) {
                        ended.store(true, Ordering::Relaxed);
                        return Err(e);
                    }
                    due += 1;
                }
                if time_is_up() {
                    ended.store(true, Ordering::Relaxed);
                }
            }
            Ok(())
        })
    }

    /// Measures again, built sequentially, what is on the search's front and becomes another network by it.
    fn refine(&mut self, time_is_up: &dyn Fn() -> bool) -> Result<()> {
        let wanted = to_refine(self.objective, self.out.1);
        if wanted.is_empty() || time_is_up() || self.settings.interrupt.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.out.2.event(Event::Refining { points: wanted.len() });
        self.evaluate_all(Origin::Refine, &wanted, self.give_up(self.horizon), time_is_up)
    }

    fn roll_back(&mut self, time_is_up: &dyn Fn() -> bool) -> Result<()> {
        let Some(budget) = self.settings.constraints.accuracy_drop else { return Ok(()) };
        let (objective, give_up) = (self.objective, self.give_up(budget.0));
        loop {
            if time_is_up() || self.settings.interrupt.load(Ordering::Relaxed) {
                return Ok(());
            }
            let Some(step) = self.with_view(self.out.1, |view| rollback::next(view, budget.0)) else { return Ok(()) };
            self.out.2.event(Event::RollingBack { axis: &objective.space().axes[step.axis], step: &step });
            let outcome = judge(objective, &self.limits, (&step.candidate, Origin::Rollback.build()), give_up);
            self.commit(Origin::Rollback, step.candidate, outcome)?;
        }
    }
}

/// What the refinement has yet to measure, fastest first: points of the search's front that become another network and were never
/// built sequentially. The front is of search trials alone, like beside like, so it stays as it is until the search goes on.
fn to_refine(objective: &dyn Objective, history: &[Trial]) -> Vec<Candidate> {
    let done: BTreeSet<&Candidate> = history.iter().filter(|t| t.origin.build() == Build::Sequential).map(|t| &t.candidate).collect();
    let searched = history.iter().filter(|t| t.origin == Origin::Search);
    let front = non_dominated(searched, &objective.float_cost()).into_iter().map(|(t, ..)| &t.candidate);
    front.filter(|c| !done.contains(c) && objective.differs(c)).cloned().collect()
}

/// Cheap rejections first, then the samples.
fn judge(objective: &dyn Objective, limits: &Limits, (candidate, build): (&Candidate, Build), give_up: GiveUp) -> Outcome {
    match objective.cost(candidate) {
        Err(e) => Outcome::Failed { reason: e.to_string() },
        Ok(cost) => match limits.broken(&cost) {
            Some(limit) => Outcome::Rejected { limit, cost },
            None => objective.evaluate(candidate, build, give_up),
        },
    }
}
