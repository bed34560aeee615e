//! The loop: ask, evaluate, commit, in four phases. Search; certification of what leads; steps back where nothing keeps the budget, and forward where
//! there is slack.
//!
//! Workers take candidates in order and may finish in any; trials are committed in the order they were asked for. So the
//! journal's bytes do not depend on the number of workers, nor on where a study was stopped and resumed. What is asked for is a function of the
//! history as it was when the round began.

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

use super::{Event, Journal, Observe, Stop};
use crate::{
    error::Result,
    evaluate::{Objective, Race},
    search::{
        self, Asked, Limits, Surrogate, Tables, View, additive,
        certify::{self, ceiling},
        rollback::{self, Step},
    },
    space::Candidate,
    spec::{Constraints, SearchSpec},
    trial::{Origin, Outcome, Trial, inferred},
};

/// Share of a time budget that is left to what follows the search.
const AFTER_SEARCH: f64 = 0.3;

/// How to run a study.
pub struct Settings<'a> {
    /// Strategy and budgets.
    pub search: &'a SearchSpec,
    /// What must hold.
    pub constraints: &'a Constraints,
    /// What is known of the space before.
    pub tables: &'a Tables,
    /// Samples that the search may infer; none for no limit.
    pub samples: Option<u64>,
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

/// Runs a study until its strategy, its budget, its space or the user ends it; the journal holds every trial that ended.
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
    let time = settings.search.time.map(|t| t.0);
    let mut loop_ = Loop { objective, settings, limits: limits(objective, settings.constraints), out: (journal, history, observe) };
    if loop_.out.1.is_empty() {
        let mildest = objective.space().mildest();
        let baseline = if objective.space().plan(&mildest).is_identity() { mildest } else { Candidate(Vec::new()) };
        let none = (0, Origin::Baseline, None);
        loop_.commit(none, baseline.into(), objective.baseline())?;
    }
    loop_.relax();
    loop_.tell_expected();
    let search_ends = |e: f64| time.is_some_and(|b| e >= b * (1.0 - AFTER_SEARCH));
    let stop = loop_.search(&|| search_ends(elapsed()))?;
    let all_ends = |e: f64| time.is_some_and(|b| e >= b);
    let done = matches!(stop, Stop::Interrupted { .. })
        || loop_.certify(&|| all_ends(elapsed()))?
        || loop_.step(Origin::Rollback, &|| all_ends(elapsed()))?
        || loop_.step(Origin::Spend, &|| all_ends(elapsed()))?;
    if done && settings.interrupt.load(Ordering::Relaxed) {
        return Ok(Stop::Interrupted { trials: loop_.out.1.len() });
    }
    Ok(stop)
}

struct Loop<'a, 'b> {
    objective: &'a dyn Objective,
    settings: &'a Settings<'a>,
    limits: Limits,
    out: (&'b mut Journal, &'b mut Vec<Trial>, &'b mut dyn Observe),
}

/// What the trials of a round have in common: its number, who asked, and the trial that they are a step from.
type Round = (usize, Origin, Option<usize>);

impl Loop<'_, '_> {
    fn commit(&mut self, (round, origin, from): Round, asked: Asked, outcome: Outcome) -> Result<()> {
        let (journal, history, observe) = &mut self.out;
        let Asked { candidate, predicted, .. } = asked;
        let trial = Trial { trial: history.len(), round, origin, candidate, predicted, from, outcome };
        journal.append(&trial)?;
        history.push(trial);
        if let Some(trial) = history.last() {
            observe.event(Event::Trial { trial, history: history.as_slice() });
        }
        Ok(())
    }

    /// Calls with what a strategy may see of a history.
    fn with_view<T>(&self, history: &[Trial], then: impl FnOnce(&View<'_>) -> T) -> T {
        let cost = |c: &Candidate| self.objective.cost(c);
        let budget = self.budget();
        let view = View {
            space: self.objective.space(),
            tables: self.settings.tables,
            cost: &cost,
            limits: self.limits,
            budget,
            horizon: budget.map_or(f64::INFINITY, |b| (b * self.settings.search.give_up_at).max(1e-6)),
            samples: self.objective.samples(),
            history,
        };
        then(&view)
    }

    /// The largest drop that is wanted.
    fn budget(&self) -> Option<f64> {
        let float = self.out.1.first().and_then(|t| t.outcome.measured()).map(|(score, _)| score.accuracy);
        self.settings.constraints.budget(float.unwrap_or(0.0))
    }

    fn interrupted(&self) -> bool {
        self.settings.interrupt.load(Ordering::Relaxed)
    }

    /// Where no plan at all is expected to keep the limits of latency and size they reject nobody: what comes nearest is measured.
    fn relax(&mut self) {
        let limited = self.limits.latency_ms.is_some() || self.limits.bytes.is_some();
        if !limited || !self.settings.search.strategy.needs_tables() {
            return;
        }
        let any = self.with_view(&self.out.1[..1], |view| {
            let surrogate = Surrogate::fit(view.space, view.tables, view.history);
            !additive::expected_front(view, &surrogate).is_empty()
        });
        if !any {
            (self.limits.latency_ms, self.limits.bytes) = (None, None);
        }
    }

    /// Tells what front is expected before anything was measured.
    fn tell_expected(&mut self) {
        if self.out.1.len() > 1 || !self.settings.search.strategy.needs_tables() {
            return;
        }
        let points = self.with_view(self.out.1, |view| {
            let surrogate = Surrogate::fit(view.space, view.tables, view.history);
            additive::expected_front(view, &surrogate)
        });
        let (_, history, observe) = &mut self.out;
        observe.event(Event::Expected { points: &points, history: history.as_slice() });
    }

    fn search(&mut self, time_is_up: &dyn Fn() -> bool) -> Result<Stop> {
        let spec = self.settings.search;
        let mut begins = true;
        loop {
            // Strategies know what the search itself measured: what is done with its front afterwards does not change where it goes.
            let own = self.known_by(Origin::Search);
            let searched = own.len() - 1;
            if searched >= spec.trials {
                return Ok(Stop::Trials { trials: spec.trials });
            }
            if let Some(most) = self.settings.samples.filter(|most| inferred(&own) >= *most) {
                return Ok(Stop::Samples { samples: most });
            }
            if self.interrupted() {
                return Ok(Stop::Interrupted { trials: self.out.1.len() });
            }
            if time_is_up() {
                return Ok(Stop::Time { seconds: spec.time.map_or(0.0, |t| t.0) });
            }
            let ask = |known: &[Trial]| {
                let seed = spec.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(known.len() as u64);
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                self.with_view(known, |view| search::ask(spec.strategy, view, spec.asked_together, &mut rng))
            };
            // A round that an earlier session did not finish is asked for again, with what was known when it began.
            let last = own.last().map_or(0, |t| t.round);
            let begun = own.iter().position(|t| t.round == last).unwrap_or(0);
            let again = if begun > 0 && std::mem::take(&mut begins) { ask(&own[..begun]) } else { Vec::new() };
            let (round, mut wanted) =
                if again.len() > own.len() - begun { (last, again[own.len() - begun..].to_vec()) } else { (self.next_round(), ask(&own)) };
            wanted.truncate(spec.trials - searched);
            if wanted.is_empty() {
                let tried: BTreeSet<&Candidate> = own.iter().map(|t| &t.candidate).collect();
                let rounds = own.iter().map(|t| t.round).collect::<BTreeSet<_>>().len() - 1;
                let whole = spec.strategy.ends() && (tried.len() as f64).log10() < self.objective.space().log10_size() - 1e-9;
                return Ok(if whole { Stop::Settled { rounds } } else { Stop::Exhausted { candidates: tried.len() } });
            }
            self.evaluate_all((round, Origin::Search, None), &wanted, time_is_up)?;
        }
    }

    /// A number that no round has: the last trial may be of an earlier round that went on.
    fn next_round(&self) -> usize {
        self.out.1.iter().map(|t| t.round + 1).max().unwrap_or(0)
    }

    /// Trials of all phases up to one: what a later one did does not change, in a study that is resumed, what an earlier one does.
    fn known_by(&self, phase: Origin) -> Vec<Trial> {
        of_phases_to(phase, self.out.1)
    }

    /// Evaluates candidates on several threads and commits them in order; stops taking up new ones when time is up.
    fn evaluate_all(&mut self, round: Round, wanted: &[Asked], time_is_up: &dyn Fn() -> bool) -> Result<()> {
        // A round may be resumed half-way: how far its candidates go depends on what was known when it began.
        let begun = self.out.1.iter().position(|t| t.round == round.0).unwrap_or(self.out.1.len());
        let known = of_phases_to(round.1, &self.out.1[..begun]);
        let races: Vec<Race> = self.with_view(&known, |view| wanted.iter().map(|w| self.race(view, round.1, w)).collect());
        let next = AtomicUsize::new(0);
        let ended = AtomicBool::new(false);
        let (objective, limits, interrupt) = (self.objective, self.limits, self.settings.interrupt);
        let jobs = self.settings.jobs.clamp(1, wanted.len().max(1));
        std::thread::scope(|scope| {
            let (send, receive) = mpsc::channel();
            for _ in 0..jobs {
                let (send, next, ended, races) = (send.clone(), &next, &ended, &races);
                scope.spawn(move || {
                    while !ended.load(Ordering::Relaxed) && !interrupt.load(Ordering::Relaxed) {
                        let i = next.fetch_add(1, Ordering::Relaxed);
                        let Some(asked) = wanted.get(i) else { break };
                        if send.send((i, judge(objective, &limits, &asked.candidate, races[i]))).is_err() {
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
                    if let Err(e) = self.commit(round, wanted[due].clone(), outcome) {
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

    /// How far a candidate may go.
    fn race(&self, view: &View<'_>, origin: Origin, asked: &Asked) -> Race {
        let samples = asked.samples.unwrap_or(self.settings.search.samples).min(view.samples);
        let steps = matches!(origin, Origin::Rollback | Origin::Spend);
        let above = match (steps, (view.cost)(&asked.candidate)) {
            (true, _) => view.budget.unwrap_or(f64::INFINITY),
            // Strategies that need a figure on all samples get it, whatever it is.
            _ if origin == Origin::Search && asked.samples.is_some() => f64::INFINITY,
            (false, Ok(cost)) => ceiling(view, &cost),
            (false, Err(_)) => view.horizon,
        };
        Race { samples, above: Some(above).filter(|a| a.is_finite()), alpha: 1.0 - self.settings.constraints.confidence.0 }
    }

    /// Leads what is in front through more samples, up to all; whether it was ended before.
    fn certify(&mut self, time_is_up: &dyn Fn() -> bool) -> Result<bool> {
        let most = self.settings.search.certify;
        let mut begins = true;
        loop {
            let ask = |known: &[Trial]| -> Vec<Asked> {
                self.with_view(known, |view| {
                    let surrogate = Surrogate::fit(view.space, view.tables, view.history);
                    certify::ask(view, &surrogate, most)
                })
            };
            let own = self.known_by(Origin::Certify);
            let last = own.last().filter(|t| t.origin == Origin::Certify).map(|t| t.round);
            let begun = last.filter(|_| std::mem::take(&mut begins)).and_then(|r| own.iter().position(|t| t.round == r));
            let again = begun.map_or_else(Vec::new, |b| ask(&own[..b]));
            let done = begun.map_or(0, |b| own.len() - b);
            let (round, wanted) =
                if again.len() > done { (last.unwrap_or(0), again[done..].to_vec()) } else { (self.next_round(), ask(&own)) };
            if wanted.is_empty() {
                return Ok(self.interrupted());
            }
            if time_is_up() || self.interrupted() {
                return Ok(true);
            }
            let samples = wanted[0].samples.unwrap_or(0);
            let (_, history, observe) = &mut self.out;
            observe.event(Event::Certifying { points: wanted.len(), samples, history: history.as_slice() });
            self.evaluate_all((round, Origin::Certify, None), &wanted, time_is_up)?;
        }
    }

    /// Goes steps back or forth, each measured; whether it was ended before.
    fn step(&mut self, origin: Origin, time_is_up: &dyn Fn() -> bool) -> Result<bool> {
        let Some(budget) = self.budget() else { return Ok(false) };
        loop {
            let next: Option<(f64, Step)> = self.with_view(&self.known_by(origin), |view| {
                let surrogate = Surrogate::fit(view.space, view.tables, view.history);
                let step = match origin {
                    Origin::Rollback => rollback::back(view, &surrogate, budget),
                    _ => rollback::forth(view, &surrogate, budget),
                };
                step.map(|step| (surrogate.drop(&step.candidate), step))
            });
            let Some((predicted, step)) = next else { return Ok(self.interrupted()) };
            if time_is_up() || self.interrupted() {
                return Ok(true);
            }
            self.out.2.event(Event::Stepping { axis: &self.objective.space().axes[step.axis], step: &step });
            let asked = Asked { candidate: step.candidate, samples: Some(self.objective.samples()), predicted: Some(predicted) };
            self.evaluate_all((self.next_round(), origin, Some(step.before)), &[asked], time_is_up)?;
        }
    }
}

fn of_phases_to(phase: Origin, trials: &[Trial]) -> Vec<Trial> {
    let phases = [Origin::Baseline, Origin::Search, Origin::Certify, Origin::Rollback, Origin::Spend];
    let last = phases.iter().position(|p| *p == phase).unwrap_or(phases.len() - 1);
    trials.iter().filter(|t| phases[..=last].contains(&t.origin)).cloned().collect()
}

/// Cheap rejections first, then the samples.
pub fn judge(objective: &dyn Objective, limits: &Limits, candidate: &Candidate, race: Race) -> Outcome {
    match objective.cost(candidate) {
        Err(e) => Outcome::Failed { reason: e.to_string() },
        Ok(cost) => match limits.broken(&cost) {
            Some(limit) => Outcome::Rejected { limit, cost },
            None => objective.evaluate(candidate, race),
        },
    }
}
