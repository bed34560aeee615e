//! Studies of a made-up objective: drops add up, without noise, and nothing is run.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    device::Target,
    error::Result,
    evaluate::{GiveUp, Objective},
    front::hypervolume,
    graph::{fixture::Net, group::Channels, layer::Layers, shape},
    search::{Limits, View, ask, rollback},
    space::{Build, Candidate, Plan, Space},
    spec::{Constraints, MaxDrop, SearchSpec, Seconds, SpaceRule, StrategyName},
    trial::{Cost, Limit, Origin, Outcome, Score, Trial},
};

/// The space of a chain of matrix products: what the rule gives to each of them.
fn space(layers: usize, rule: &str) -> Space {
    let net = (0..layers).fold(Net::new(&[-1, 64]), |net, i| {
        let from = if i == 0 { "x".to_string() } else { format!("l{}", i - 1) };
        net.matmul(&format!("l{i}"), &from, (64, 64))
    });
    let model = net.build(&format!("l{}", layers - 1));
    let shapes = shape::infer(&model, 1, &BTreeMap::new()).unwrap();
    let layers = Layers::find(&model, &shapes);
    let channels = Channels::analyse(&model, &layers, &shapes);
    let rule: SpaceRule = serde_yaml::from_str(rule).unwrap();
    Space::new(&[rule], (&model, &layers, &channels), &Target::unknown(), (Path::new("spec.yaml"), "")).unwrap()
}

const BITS: &str = "{layers: '*', precision: [fp16, int8]}";
const BITS_AND_CHANNELS: &str = "{layers: '*', precision: [fp16, int8, int4], keep: [1.0, 0.75, 0.5]}";

/// Milliseconds of the float model.
const FLOAT_MS: f64 = 100.0;

/// Every option of every axis adds its drop and takes off its milliseconds; a megabyte goes with every millisecond.
struct Made {
    space: Space,
    drop: Vec<Vec<f64>>,
    gain: Vec<Vec<f64>>,
    /// What a drop is multiplied by in a network with fewer channels that is built sequentially; none where both ways give the same.
    sequential: Option<f64>,
    evaluated: AtomicUsize,
    /// Number of evaluations after which to interrupt.
    stop: Option<(usize, &'static AtomicBool)>,
}

impl Made {
    fn new(space: Space, drop: Vec<Vec<f64>>, gain: Vec<Vec<f64>>) -> Self {
        Self { space, drop, gain, sequential: None, evaluated: AtomicUsize::new(0), stop: None }
    }

    /// Random drops and gains that grow with the option. Some gains are below zero where `slower`.
    fn random(space: Space, seed: u64, slower: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut rising = |top: f64| -> Vec<Vec<f64>> {
            let steps = |len: usize, rng: &mut ChaCha8Rng| {
                let mut sum = 0.0;
                (0..len)
                    .map(|o| {
                        if o == 0 {
                            0.0
                        } else {
                            sum += rng.random_range(0.05..1.0) * top;
                            sum
                        }
                    })
                    .collect()
            };
            space.axes.iter().map(|a| steps(a.len(), &mut rng)).collect()
        };
        let (drop, mut gain) = (rising(0.01), rising(3.0));
        if slower {
            gain.iter_mut().step_by(3).flatten().for_each(|g| *g = -*g);
        }
        Self::new(space, drop, gain)
    }

    fn sum(table: &[Vec<f64>], candidate: &Candidate) -> f64 {
        table.iter().zip(&candidate.0).map(|(axis, &o)| axis[usize::from(o)]).sum()
    }

    fn score(&self, candidate: &Candidate) -> Score {
        self.score_built(candidate, Build::Parallel)
    }

    fn score_built(&self, candidate: &Candidate, build: Build) -> Score {
        let factor = self.sequential.filter(|_| build == Build::Sequential && self.differs(candidate)).unwrap_or(1.0);
        let drop = factor * Self::sum(&self.drop, candidate);
        Score { accuracy: 0.9 - drop, drop, drop_low: Some(drop), drop_high: Some(drop), samples: 1000 }
    }

    fn cost_of(&self, candidate: &Candidate) -> Cost {
        let latency_ms = FLOAT_MS - Self::sum(&self.gain, candidate);
        Cost { latency_ms, bytes: (latency_ms * 1e6) as u64 }
    }
}

impl Objective for Made {
    fn space(&self) -> &Space {
        &self.space
    }

    fn cost(&self, candidate: &Candidate) -> Result<Cost> {
        Ok(self.cost_of(candidate))
    }

    fn float_cost(&self) -> Cost {
        self.cost_of(&self.space.mildest())
    }

    fn baseline(&self) -> Outcome {
        Outcome::Measured { score: self.score(&self.space.mildest()), cost: self.float_cost() }
    }

    fn differs(&self, candidate: &Candidate) -> bool {
        self.sequential.is_some() && self.space.plan(candidate).changes_structure()
    }

    fn evaluate(&self, candidate: &Candidate, build: Build, give_up: GiveUp) -> Outcome {
        let count = self.evaluated.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some((after, interrupt)) = self.stop
            && count >= after
        {
            interrupt.store(true, Ordering::Relaxed);
        }
        // Not all candidates take as long, so that those of one batch end in another order than they began.
        std::thread::sleep(std::time::Duration::from_micros(u64::from(candidate.0.iter().sum::<u16>() % 4) * 100));
        let (score, cost) = (self.score_built(candidate, build), self.cost_of(candidate));
        if give_up.above.is_some_and(|above| score.drop > above) {
            return Outcome::Stopped { score: Score { samples: 100, ..score }, cost };
        }
        Outcome::Measured { score, cost }
    }
}

fn fingerprint() -> Fingerprint {
    let s = || "x".to_string();
    Fingerprint { journal: 1, gulliver: s(), onnxruntime: s(), spec: s(), model: s(), calibration: s(), validation: s(), device: s() }
}

fn spec(trials: usize) -> SearchSpec {
    SearchSpec { trials, ..SearchSpec::default() }
}

fn within(drop: f64) -> Constraints {
    Constraints { accuracy_drop: Some(MaxDrop(drop)), ..Constraints::default() }
}

/// A study in a folder, begun or resumed: why it ended, and all its trials.
fn study(made: &Made, search: &SearchSpec, constraints: &Constraints, jobs: usize, folder: &Path) -> (Stop, Vec<Trial>) {
    static NEVER: AtomicBool = AtomicBool::new(false);
    let interrupt = made.stop.map_or(&NEVER, |(_, flag)| flag);
    let (mut journal, mut history) = Journal::open(folder, &fingerprint()).unwrap();
    let settings = Settings { search, constraints, jobs, spent: 0.0, interrupt };
    let stop = run(made, &settings, &mut journal, &mut history, &mut ()).unwrap();
    (stop, history)
}

fn fresh(made: &Made, search: &SearchSpec, constraints: &Constraints, jobs: usize) -> (Stop, Vec<Trial>, Vec<u8>) {
    let folder = tempfile::tempdir().unwrap();
    let (stop, trials) = study(made, search, constraints, jobs, folder.path());
    (stop, trials, std::fs::read(folder.path().join("journal.jsonl")).unwrap())
}

fn by(origin: Origin, trials: &[Trial]) -> usize {
    trials.iter().filter(|t| t.origin == origin).count()
}

/// Non-dominated (drop, latency) of all candidates, axis by axis: sums of dominated parts are dominated.
fn true_front(made: &Made) -> Vec<[f64; 2]> {
    let mut front = vec![[0.0, FLOAT_MS]];
    for (drop, gain) in made.drop.iter().zip(&made.gain) {
        let mut sums: Vec<[f64; 2]> = front.iter().flat_map(|p| drop.iter().zip(gain).map(move |(d, g)| [p[0] + d, p[1] - g])).collect();
        sums.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
        let mut best = f64::INFINITY;
        sums.retain(|p| {
            p[1] < best && {
                best = p[1];
                true
            }
        });
        front = sums;
    }
    front
}

/// Share of the true front's hypervolume that the measured trials have.
fn share(made: &Made, trials: &[Trial]) -> f64 {
    let truth = true_front(made);
    let reference = [truth.iter().map(|p| p[0]).fold(0.0, f64::max), FLOAT_MS];
    let found: Vec<[f64; 2]> = trials.iter().filter_map(|t| t.outcome.measured()).map(|(s, c)| [s.drop, c.latency_ms]).collect();
    hypervolume(&found, reference) / hypervolume(&truth, reference)
}

mod searching {
    use super::*;

    #[test]
    fn the_true_front_of_two_axes_by_hand() {
        let made = Made::new(space(2, BITS), vec![vec![0.0, 1.0], vec![0.0, 3.0]], vec![vec![0.0, 2.0], vec![0.0, 1.0]]);
        // The second axis alone, (3, 99), costs more and gains less than the first alone, (1, 98).
        assert_eq!(true_front(&made), [[0.0, 100.0], [1.0, 98.0], [4.0, 97.0]]);
    }

    #[test]
    fn evolution_finds_most_of_the_front_and_beats_chance_with_every_seed() {
        for seed in 0..5 {
            let made = Made::random(space(6, BITS_AND_CHANNELS), seed, false);
            assert_eq!(made.space.axes.len(), 11);
            let shares = [StrategyName::Evolve, StrategyName::Random].map(|strategy| {
                let (_, trials, _) = fresh(&made, &SearchSpec { strategy, seed, ..spec(300) }, &Constraints::default(), 2);
                share(&made, &trials)
            });
            assert!(shares[0] > 0.9 && shares[0] > shares[1], "seed {seed}: evolution {}, chance {}", shares[0], shares[1]);
        }
    }

    #[test]
    fn no_candidate_is_tried_twice_and_a_small_space_is_exhausted() {
        for strategy in [StrategyName::Evolve, StrategyName::Random] {
            let made = Made::random(space(5, BITS), 3, false);
            let (stop, trials, _) = fresh(&made, &SearchSpec { strategy, ..spec(100) }, &Constraints::default(), 1);
            let different: BTreeSet<&Candidate> = trials.iter().map(|t| &t.candidate).collect();
            assert_eq!((different.len(), trials.len()), (32, 32), "{strategy:?}");
            assert_eq!(stop, Stop::Exhausted { candidates: 32 });
        }
    }

    #[test]
    fn limits_reject_without_a_sample() {
        let made = Made::random(space(6, BITS_AND_CHANNELS), 1, true);
        let constraints = Constraints { latency_ms: Some(90.0), size_mb: Some(88.0), ..Constraints::default() };
        for strategy in [StrategyName::Evolve, StrategyName::Random] {
            let before = made.evaluated.load(Ordering::Relaxed);
            let (_, trials, _) = fresh(&made, &SearchSpec { strategy, ..spec(80) }, &constraints, 1);
            let measured: Vec<&Trial> = trials[1..].iter().filter(|t| t.outcome.scored().is_some()).collect();
            let keeps = |c: &Cost| c.latency_ms <= 90.0 && c.bytes <= 88_000_000;
            assert!(measured.iter().all(|t| t.outcome.cost().is_some_and(keeps)));
            assert_eq!(made.evaluated.load(Ordering::Relaxed) - before, measured.len());
            // The strategies see the cost, so that they hardly ever propose what is rejected.
            assert!(measured.len() > 60, "{strategy:?}: {}", measured.len());
        }
    }

    #[test]
    fn the_limit_that_is_named_is_the_first_that_is_broken() {
        let float = Cost { latency_ms: 10.0, bytes: 100 };
        let limits = Limits { latency_ms: Some(5.0), bytes: Some(50), float };
        let broken = |latency_ms: f64, bytes: u64| limits.broken(&Cost { latency_ms, bytes });
        assert_eq!(broken(10.1, 100), Some(Limit::SlowerThanFloat));
        assert_eq!(broken(10.0, 101), Some(Limit::LargerThanFloat));
        assert_eq!(broken(5.1, 50), Some(Limit::Latency));
        assert_eq!(broken(5.0, 51), Some(Limit::Size));
        assert_eq!(broken(5.0, 50), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn what_is_proposed_is_new_of_the_space_and_a_function_of_the_history(seed in 0_u64..1000, n in 1_usize..20, past in 1_usize..60) {
            let made = Made::random(space(3, BITS_AND_CHANNELS), seed, false);
            for strategy in [StrategyName::Evolve, StrategyName::Random] {
                let (_, history, _) = fresh(&made, &SearchSpec { strategy, seed, ..spec(past) }, &Constraints::default(), 1);
                let cost = |c: &Candidate| made.cost(c);
                let limits = limits(&made, &Constraints::default());
                let view = View { space: &made.space, cost: &cost, differs: &|_| false, limits, horizon: f64::INFINITY, history: &history };
                let again = || ask(strategy, &view, n, &mut ChaCha8Rng::seed_from_u64(seed));
                let asked = again();
                prop_assert_eq!(&asked, &again());
                prop_assert_eq!(asked.len(), n);
                let tried: HashSet<&Candidate> = history.iter().map(|t| &t.candidate).collect();
                prop_assert!(asked.iter().all(|c| made.space.contains(c) && !tried.contains(c)));
                prop_assert_eq!(asked.iter().collect::<HashSet<_>>().len(), n);
            }
        }
    }
}

mod rolling_back {
    use super::*;

    /// Four layers: drop and milliseconds of INT8 in each.
    const LAYERS: [(f64, f64); 4] = [(0.020, 10.0), (0.030, 30.0), (0.010, 1.0), (0.004, 20.0)];

    fn four() -> Made {
        let table = |pick: fn((f64, f64)) -> f64| LAYERS.map(|l| vec![0.0, pick(l)]).to_vec();
        Made::new(space(4, BITS), table(|l| l.0), table(|l| l.1))
    }

    /// The float model, every layer alone, and all together.
    fn history(made: &Made) -> Vec<Trial> {
        let singles = (0..4).map(|l| Candidate((0..4).map(|i| u16::from(i == l)).collect()));
        let candidates = std::iter::once(made.space.mildest()).chain(singles).chain([Candidate(vec![1; 4])]);
        let trial = |(trial, candidate): (usize, Candidate)| Trial {
            trial,
            origin: if trial == 0 { Origin::Baseline } else { Origin::Search },
            outcome: Outcome::Measured { score: made.score(&candidate), cost: made.cost_of(&candidate) },
            candidate,
        };
        candidates.enumerate().map(trial).collect()
    }

    #[test]
    fn what_hurts_most_per_microsecond_goes_back_first_until_the_budget_holds() {
        let made = four();
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path(), &fingerprint()).unwrap();
        history(&made).iter().for_each(|t| journal.append(t).unwrap());
        drop(journal);
        let (stop, trials) = study(&made, &spec(5), &within(0.035), 1, folder.path());
        assert_eq!(stop, Stop::Trials { trials: 5 });
        // All together drop 0.064. Damage per millisecond: 0.002, 0.001, 0.01, 0.0002. The third layer goes back (0.054), then the
        // first (0.034).
        let back: Vec<&[u16]> = trials.iter().filter(|t| t.origin == Origin::Rollback).map(|t| t.candidate.0.as_slice()).collect();
        assert_eq!(back, [[1, 1, 0, 1], [0, 1, 0, 1]]);
        let (score, cost) = trials.last().unwrap().outcome.measured().unwrap();
        assert!(rollback::holds(score, 0.035) && (cost.latency_ms - 50.0).abs() < 1e-9);
    }

    #[test]
    fn the_steps_of_a_finished_rollback_are_found_again() {
        let made = four();
        let folder = tempfile::tempdir().unwrap();
        let (mut journal, _) = Journal::open(folder.path(), &fingerprint()).unwrap();
        history(&made).iter().for_each(|t| journal.append(t).unwrap());
        drop(journal);
        let (_, trials) = study(&made, &spec(5), &within(0.035), 1, folder.path());
        let cost = |c: &Candidate| made.cost(c);
        let limits = limits(&made, &within(0.035));
        let view = View { space: &made.space, cost: &cost, differs: &|_| false, limits, horizon: 0.14, history: &trials };
        let steps: Vec<(usize, u16, usize)> = rollback::steps(&view, 0.035).iter().map(|(s, t)| (s.axis, s.from, *t)).collect();
        assert_eq!(steps, [(2, 1, 6), (0, 1, 7)]);
    }

    #[test]
    fn a_parallel_measurement_stands_for_a_step_only_where_the_sequential_network_is_the_same() {
        let made = four();
        let mut trials = history(&made);
        let mut add = |origin: Origin, options: [u16; 4]| {
            let candidate = Candidate(options.to_vec());
            let outcome = Outcome::Measured { score: made.score(&candidate), cost: made.cost_of(&candidate) };
            trials.push(Trial { trial: trials.len(), origin, candidate, outcome });
            trials.clone()
        };
        let cost = |c: &Candidate| made.cost(c);
        let next = |history: &[Trial], differs: bool| {
            let limits = limits(&made, &within(0.035));
            let view = View { space: &made.space, cost: &cost, differs: &|_| differs, limits, horizon: 0.14, history };
            rollback::next(&view, 0.035).map(|step| step.candidate.0)
        };
        // The first step was searched already; what follows it holds.
        add(Origin::Search, [1, 1, 0, 1]);
        let trials = (add(Origin::Rollback, [0, 1, 0, 1]), add(Origin::Rollback, [1, 1, 0, 1]));
        assert_eq!(next(&trials.0, false), None);
        assert_eq!(next(&trials.0, true), Some(vec![1, 1, 0, 1]));
        assert_eq!(next(&trials.1, true), None);
    }

    #[test]
    fn it_ends_within_the_budget_or_at_the_fastest_known_point() {
        // A study has no steps back where the first would already be slower than the fastest point within the budget.
        let mut rolled = 0;
        for seed in 0..8 {
            let made = Made::random(space(6, BITS_AND_CHANNELS), seed, false);
            let (_, trials, _) = fresh(&made, &SearchSpec { seed, ..spec(40) }, &within(0.02), 1);
            let kept = |origin: Origin| {
                let held =
                    trials.iter().filter(|t| t.origin == origin).filter_map(|t| t.outcome.measured()).filter(|(s, _)| s.drop <= 0.02);
                held.map(|(_, c)| c.latency_ms).fold(f64::INFINITY, f64::min)
            };
            rolled += usize::from(by(Origin::Rollback, &trials) > 0);
            assert!(kept(Origin::Rollback).min(kept(Origin::Search)) < FLOAT_MS, "seed {seed}");
        }
        assert!(rolled >= 5, "{rolled} of 8");
    }

    #[test]
    fn without_an_accuracy_budget_nothing_goes_back() {
        let made = Made::random(space(6, BITS_AND_CHANNELS), 2, false);
        let (_, trials, _) = fresh(&made, &spec(20), &Constraints::default(), 1);
        assert_eq!((trials.len(), by(Origin::Rollback, &trials)), (21, 0));
    }
}

mod running {
    use super::*;

    fn made() -> Made {
        Made::random(space(4, BITS_AND_CHANNELS), 5, true)
    }

    #[test]
    fn the_budget_of_trials_is_kept() {
        for trials in [0, 1, 7, 8, 9, 20] {
            let (stop, history, _) = fresh(&made(), &spec(trials), &within(0.01), 3);
            assert_eq!((by(Origin::Baseline, &history), by(Origin::Search, &history)), (1, trials));
            assert_eq!(stop, Stop::Trials { trials });
        }
    }

    #[test]
    fn the_journal_does_not_depend_on_the_number_of_workers() {
        for strategy in [StrategyName::Evolve, StrategyName::Random] {
            let journals = [1, 4].map(|jobs| fresh(&made(), &SearchSpec { strategy, ..spec(60) }, &within(0.01), jobs).2);
            assert!(journals[0] == journals[1], "{strategy:?}");
        }
    }

    #[test]
    fn another_seed_gives_another_journal() {
        let journals =
            [1, 2].map(|seed| fresh(&made(), &SearchSpec { strategy: StrategyName::Random, seed, ..spec(20) }, &within(0.01), 1).2);
        assert!(journals[0] != journals[1]);
    }

    #[test]
    fn a_study_cut_anywhere_and_resumed_has_the_journal_of_one_never_cut() {
        for strategy in [StrategyName::Evolve, StrategyName::Random] {
            let search = SearchSpec { strategy, asked_together: 4, ..spec(14) };
            let (_, trials, whole) = fresh(&made(), &search, &within(0.01), 1);
            assert!(by(Origin::Rollback, &trials) >= 2, "the cuts must reach into the rollback");
            let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
            // Nothing, after every line, and within the line that follows.
            let cuts = std::iter::once(0).chain(ends.iter().copied()).chain(ends.iter().map(|e| (e + 9).min(whole.len())));
            for cut in cuts {
                let folder = tempfile::tempdir().unwrap();
                let path = folder.path().join("journal.jsonl");
                std::fs::write(&path, &whole[..cut]).unwrap();
                study(&made(), &search, &within(0.01), 2, folder.path());
                assert!(std::fs::read(&path).unwrap() == whole, "{strategy:?}, cut at byte {cut} of {}", whole.len());
            }
        }
    }

    #[test]
    fn a_study_interrupted_after_any_evaluation_and_resumed_has_the_same_journal() {
        let search = SearchSpec { asked_together: 4, ..spec(14) };
        let (_, _, whole) = fresh(&made(), &search, &within(0.01), 1);
        let all = made();
        fresh(&all, &search, &within(0.01), 1);
        let evaluations = all.evaluated.load(Ordering::Relaxed);
        for after in 1..=evaluations {
            let folder = tempfile::tempdir().unwrap();
            let flag: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
            let mut made = made();
            made.stop = Some((after, flag));
            let (stop, trials) = study(&made, &search, &within(0.01), 3, folder.path());
            assert_eq!(stop, Stop::Interrupted { trials: trials.len() }, "after {after}");
            made.stop = None;
            study(&made, &search, &within(0.01), 3, folder.path());
            assert!(std::fs::read(folder.path().join("journal.jsonl")).unwrap() == whole, "after {after} of {evaluations}");
        }
    }

    #[test]
    fn a_finished_study_run_again_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let first = study(&made(), &spec(20), &within(0.01), 1, folder.path());
        let again = study(&made(), &spec(20), &within(0.01), 1, folder.path());
        assert_eq!(first, again);
    }

    #[test]
    fn more_trials_go_on_from_those_that_are_there_and_repeat_none() {
        for few in [10, 12, 16] {
            let folder = tempfile::tempdir().unwrap();
            let (_, before) = study(&made(), &spec(few), &within(0.01), 1, folder.path());
            let (_, after) = study(&made(), &spec(40), &within(0.01), 1, folder.path());
            assert_eq!(after[..before.len()], before);
            assert_eq!(by(Origin::Search, &after), 40);
            let different: BTreeSet<&Candidate> = after.iter().map(|t| &t.candidate).collect();
            assert_eq!(different.len(), after.len(), "{few} trials, then 40");
        }
    }

    #[test]
    fn a_time_budget_that_is_used_up_ends_with_the_baseline_alone() {
        let search = SearchSpec { time: Some(Seconds(1e-9)), ..spec(20) };
        let (stop, trials, _) = fresh(&made(), &search, &within(0.01), 2);
        assert_eq!((stop, trials.len()), (Stop::Time { seconds: 1e-9 }, 1));
    }
}

mod summarising {
    use super::*;

    fn point(trial: usize, drop: f64, high: Option<f64>, latency_ms: f64, bytes: u64) -> FrontPoint {
        FrontPoint {
            trial,
            accuracy: 0.9 - drop,
            drop,
            drop_low: high.map(|h| 2.0 * drop - h),
            drop_high: high,
            samples: 1000,
            latency_ms,
            latency_interval_ms: None,
            not_told_apart: Vec::new(),
            told_from_float: None,
            bytes,
            predicted_drop: None,
            finetuned: false,
            build: Build::Parallel,
            layers: BTreeMap::new(),
        }
    }

    const NO_LIMIT: Budget = Budget { accuracy_drop: None, latency_ms: None, bytes: None, confidence: 0.95 };

    fn drop_of(limit: f64) -> Budget {
        Budget { accuracy_drop: Some(limit), ..NO_LIMIT }
    }

    #[test]
    fn the_fastest_point_that_is_certain_is_chosen_before_a_faster_that_is_likely() {
        let front = [point(1, 0.009, Some(0.012), 1.0, 10), point(2, 0.006, Some(0.009), 2.0, 10), point(3, 0.001, Some(0.002), 3.0, 10)];
        assert_eq!(choose(&front, &drop_of(0.01)), (Some(2), Verdict::Certain));
    }

    #[test]
    fn a_point_within_the_budget_only_as_measured_is_likely() {
        let front = [point(1, 0.02, Some(0.03), 1.0, 10), point(2, 0.009, Some(0.012), 2.0, 10)];
        assert_eq!(choose(&front, &drop_of(0.01)), (Some(2), Verdict::Likely));
    }

    #[test]
    fn a_metric_without_intervals_is_unjudged() {
        let front = [point(1, 0.02, None, 1.0, 10), point(2, 0.009, None, 2.0, 10)];
        assert_eq!(choose(&front, &drop_of(0.01)), (Some(2), Verdict::Unjudged));
    }

    #[test]
    fn a_budget_that_nothing_keeps_is_missed_and_the_nearest_miss_known() {
        let front = [point(1, 0.05, Some(0.06), 1.0, 10), point(2, 0.02, Some(0.03), 2.0, 10)];
        assert_eq!(choose(&front, &drop_of(0.01)), (None, Verdict::Missed));
        assert_eq!(summarise::nearest_miss(&front, &drop_of(0.01)), Some(2));
        assert_eq!(choose(&[], &drop_of(0.01)), (None, Verdict::Missed));
        assert_eq!(choose(&[], &NO_LIMIT), (None, Verdict::Missed));
    }

    #[test]
    fn latency_and_size_limits_count_too() {
        let front = [point(1, 0.001, Some(0.002), 1.0, 90), point(2, 0.002, Some(0.003), 2.0, 50)];
        assert_eq!(choose(&front, &Budget { bytes: Some(60), ..drop_of(0.01) }), (Some(2), Verdict::Certain));
        assert_eq!(choose(&front, &Budget { bytes: Some(60), latency_ms: Some(1.5), ..drop_of(0.01) }), (None, Verdict::Missed));
    }

    #[test]
    fn without_an_accuracy_budget_the_knee_is_chosen() {
        let front = [point(1, 0.10, Some(0.2), 1.0, 10), point(2, 0.01, Some(0.02), 1.5, 10), point(3, 0.0, Some(0.01), 9.0, 10)];
        assert_eq!(choose(&front, &NO_LIMIT), (Some(2), Verdict::Unjudged));
    }

    const FLOAT: Cost = Cost { latency_ms: 10.0, bytes: 100 };

    /// Measured trials with these (drop, milliseconds, bytes), the float model's before them.
    fn trials(measured: &[(f64, f64, u64)]) -> Vec<Trial> {
        let score = |drop: f64| Score { accuracy: 0.9 - drop, drop, drop_low: Some(drop), drop_high: Some(drop), samples: 10 };
        let all = std::iter::once(&(0.0, FLOAT.latency_ms, FLOAT.bytes)).chain(measured).enumerate();
        all.map(|(trial, &(drop, latency_ms, bytes))| Trial {
            trial,
            origin: if trial == 0 { Origin::Baseline } else { Origin::Search },
            candidate: Candidate((0..3).map(|bit| u16::from(trial >> bit & 1 == 1)).collect()),
            outcome: Outcome::Measured { score: score(drop), cost: Cost { latency_ms, bytes } },
        })
        .collect()
    }

    fn summary(all: &[Trial]) -> Result<Summary> {
        let space = space(3, BITS);
        let float = FLOAT;
        let cost = |_: &Candidate| Ok(float);
        let limits = Limits { latency_ms: None, bytes: None, float };
        let view = View { space: &space, cost: &cost, differs: &|_| false, limits, horizon: f64::INFINITY, history: all };
        let (layers, text) = (|_: &Plan| Ok(Vec::new()), String::new);
        let facts = Facts {
            version: text(),
            onnxruntime: text(),
            seed: 0,
            strategy: text(),
            spec_sha256: text(),
            model_sha256: text(),
            data_sha256: text(),
            latency_model: text(),
            space_log10: 0.0,
        };
        let context = Context {
            space: &space,
            constraints: &Constraints::default(),
            view: &view,
            layers: &layers,
            stop: Stop::Trials { trials: all.len() },
            clock: Clock::default(),
            facts,
            names: (text(), text(), 1, text()),
            file_bytes: 0,
            normalised_latency_ms: 10.0,
            judged: None,
        };
        summarise(all, &context)
    }

    #[test]
    fn of_a_candidate_measured_twice_the_second_measurement_stands_for_it() {
        let mut all = trials(&[(0.01, 8.0, 90), (0.02, 8.5, 95), (0.03, 6.0, 80)]);
        let again = |trial: usize, origin: Origin, of: &Trial, drop: f64| Trial {
            trial,
            origin,
            outcome: trials(&[(drop, of.outcome.cost().unwrap().latency_ms, of.outcome.cost().unwrap().bytes)]).remove(1).outcome,
            ..of.clone()
        };
        // The first gets worse by it, so that the second is no longer dominated.
        all.push(again(4, Origin::Refine, &all[1], 0.025));
        all.push(again(5, Origin::Rollback, &all[3], 0.028));
        let summary = summary(&all).unwrap();
        let front: Vec<(usize, Build)> = summary.front.iter().map(|p| (p.trial, p.build)).collect();
        assert_eq!(front, [(5, Build::Sequential), (4, Build::Sequential), (2, Build::Parallel)]);
        let cloud: Vec<(usize, &str)> = summary.cloud.iter().map(|p| (p.trial, p.why.as_str())).collect();
        assert_eq!(cloud, [(1, "measured again"), (3, "measured again")]);
    }

    fn front_of(measured: &[(f64, f64, u64)]) -> Vec<usize> {
        summary(&trials(measured)).unwrap().front.iter().map(|p| p.trial).collect()
    }

    #[test]
    fn nothing_slower_or_larger_than_the_float_model_enters_the_front() {
        // Slower with a gain in accuracy; larger; faster but dominated by the last; good.
        assert_eq!(front_of(&[(-0.01, 10.1, 50), (-0.01, 5.0, 101), (0.02, 8.0, 90), (0.01, 8.0, 90)]), [4]);
    }

    #[test]
    fn the_front_is_sorted_by_latency_and_never_has_the_float_model() {
        assert_eq!(front_of(&[(0.01, 8.0, 90), (0.02, 6.0, 90), (0.03, 7.0, 20)]), [2, 3, 1]);
        assert_eq!(front_of(&[]), [0_usize; 0]);
    }

    #[test]
    fn every_trial_is_counted_and_those_off_the_front_are_in_the_cloud() {
        let mut all = trials(&[(0.01, 8.0, 90), (0.02, 8.5, 95)]);
        let more = [
            Outcome::Rejected { limit: Limit::Latency, cost: FLOAT },
            Outcome::Failed { reason: "why".into() },
            Outcome::Stopped { score: *all[1].outcome.measured().unwrap().0, cost: FLOAT },
        ];
        all.extend(more.map(|outcome| Trial { trial: 0, outcome, ..all[1].clone() }));
        all.iter_mut().enumerate().for_each(|(i, t)| t.trial = i);
        let summary = summary(&all).unwrap();
        let c = &summary.cost;
        assert_eq!((c.trials, c.rejected_by_limit, c.failed, c.stopped_early, c.samples_inferred), (6, 1, 1, 1, 40));
        let cloud: Vec<(usize, &str)> = summary.cloud.iter().map(|p| (p.trial, p.status.as_str())).collect();
        assert_eq!(cloud, [(2, "measured"), (3, "rejected"), (5, "stopped")]);
    }

    #[test]
    fn a_journal_that_does_not_begin_with_the_float_model_is_refused() {
        let all = trials(&[(0.01, 8.0, 90)]);
        assert!(summary(&all[1..]).is_err() && summary(&[]).is_err() && summary(&all).is_ok());
    }
}
