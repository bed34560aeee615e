//! The loop: budgets, workers, cuts and interruptions.

use super::*;

fn made() -> Made {
    of_seed(5)
}

fn of_seed(seed: u64) -> Made {
    Made::random(space(4, BITS_AND_CHANNELS), seed, true).wrong(seed, (0.3, 3.0))
}

fn few(strategy: StrategyName) -> SearchSpec {
    SearchSpec { strategy, asked_together: 4, certify: 4, ..spec(14) }
}

/// Strategy, seed of the objective and budget of studies that together reach into every phase.
const STUDIES: [(StrategyName, u64, f64); 4] =
    [(StrategyName::Nsga2, 5, 0.007), (StrategyName::Nsga2, 7, 0.05), (StrategyName::Random, 5, 0.03), (StrategyName::Additive, 5, 0.02)];

#[test]
fn the_budget_of_trials_is_kept() {
    for trials in [0, 1, 7, 8, 9, 20] {
        for strategy in [StrategyName::Nsga2, StrategyName::Evolve] {
            let (stop, history, _) = fresh(&made(), &SearchSpec { strategy, ..spec(trials) }, &within(0.01), 3);
            assert_eq!((by(Origin::Baseline, &history), by(Origin::Search, &history)), (1, trials));
            assert_eq!(stop, Stop::Trials { trials });
        }
    }
}

#[test]
fn search_trials_meet_a_part_of_the_samples_and_those_that_certify_step_by_step_all() {
    let (_, trials, _) = fresh(&made(), &few(StrategyName::Nsga2), &within(0.01), 2);
    let met = |origin: Origin| of(origin, &trials).into_iter().filter_map(|t| t.outcome.scored()).map(|(s, _)| s.samples);
    assert!(met(Origin::Search).all(|n| n <= 100));
    assert!(met(Origin::Certify).all(|n| n <= 400 || n == SAMPLES) && met(Origin::Certify).max() == Some(SAMPLES));
    let of_steps = of(Origin::Rollback, &trials).into_iter().chain(of(Origin::Spend, &trials));
    assert!(of_steps.into_iter().all(|t| t.from.is_some() && !matches!(t.outcome, Outcome::Sampled { .. })));
}

#[test]
fn trials_of_a_round_have_its_number_and_rounds_follow_each_other() {
    let (_, trials, _) = fresh(&made(), &few(StrategyName::Additive), &within(0.02), 2);
    assert!(trials.windows(2).all(|w| w[1].round == w[0].round || w[1].round == w[0].round + 1));
    assert!(trials.windows(2).all(|w| w[1].round > w[0].round || w[1].origin == w[0].origin));
    assert!(trials[1..].iter().filter(|t| t.origin == Origin::Search).all(|t| t.predicted.is_some()));
}

#[test]
fn the_journal_does_not_depend_on_the_number_of_workers() {
    for strategy in StrategyName::ALL {
        let search = SearchSpec { strategy, ..spec(40) };
        let journals = [1, 4].map(|jobs| fresh(&made(), &search, &within(0.01), jobs).2);
        assert!(journals[0] == journals[1], "{strategy:?}");
    }
}

#[test]
fn another_seed_gives_another_journal() {
    for strategy in [StrategyName::Random, StrategyName::Additive, StrategyName::Anneal, StrategyName::Evolve] {
        let journals = [1, 2].map(|seed| fresh(&made(), &SearchSpec { strategy, seed, ..spec(20) }, &within(0.01), 1).2);
        assert!(journals[0] != journals[1], "{strategy:?}");
    }
}

#[test]
fn a_study_cut_anywhere_and_resumed_has_the_journal_of_one_never_cut() {
    let mut phases = [0; 3];
    for (strategy, seed, budget) in STUDIES {
        let search = few(strategy);
        let (_, trials, whole) = fresh(&of_seed(seed), &search, &within(budget), 1);
        phases = std::array::from_fn(|i| phases[i] + by([Origin::Certify, Origin::Rollback, Origin::Spend][i], &trials));
        let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
        // Nothing, after every line, and within the line that follows.
        let cuts = std::iter::once(0).chain(ends.iter().copied()).chain(ends.iter().step_by(4).map(|e| (e + 9).min(whole.len())));
        for cut in cuts {
            let folder = folder();
            let path = folder.path().join("journal.jsonl");
            std::fs::write(&path, &whole[..cut]).unwrap();
            study(&of_seed(seed), &search, &within(budget), 2, folder.path());
            assert!(std::fs::read(&path).unwrap() == whole, "{strategy:?}, cut at byte {cut} of {}", whole.len());
        }
    }
    assert!(phases.iter().all(|n| *n >= 2), "the cuts must reach into certification, steps back and steps forward: {phases:?}");
}

#[test]
fn a_study_interrupted_after_any_evaluation_and_resumed_has_the_same_journal() {
    for (strategy, seed, budget) in STUDIES {
        let search = few(strategy);
        let all = of_seed(seed);
        let (_, _, whole) = fresh(&all, &search, &within(budget), 1);
        let evaluations = all.evaluated.load(Ordering::Relaxed);
        for after in 1..=evaluations {
            let folder = folder();
            let flag: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
            let mut made = of_seed(seed);
            made.stop = Some((after, flag));
            let (stop, trials) = study(&made, &search, &within(budget), 3, folder.path());
            assert_eq!(stop, Stop::Interrupted { trials: trials.len() }, "{strategy:?} after {after}");
            made.stop = None;
            study(&made, &search, &within(budget), 3, folder.path());
            let resumed = std::fs::read(folder.path().join("journal.jsonl")).unwrap();
            assert!(resumed == whole, "{strategy:?} after {after} of {evaluations}");
        }
    }
}

#[test]
fn a_finished_study_run_again_changes_nothing() {
    for strategy in StrategyName::ALL {
        let folder = folder();
        let run = || study(&made(), &SearchSpec { strategy, ..spec(20) }, &within(0.01), 1, folder.path());
        assert_eq!(run(), run(), "{strategy:?}");
    }
}

#[test]
fn more_trials_go_on_from_those_that_are_there_and_search_none_twice() {
    for few in [10, 12, 16] {
        let folder = folder();
        let search = |trials| SearchSpec { strategy: StrategyName::Nsga2, ..spec(trials) };
        let (_, before) = study(&made(), &search(few), &within(0.01), 1, folder.path());
        let (_, after) = study(&made(), &search(40), &within(0.01), 1, folder.path());
        assert_eq!(after[..before.len()], before);
        let searched: BTreeSet<&Candidate> = of(Origin::Search, &after).into_iter().map(|t| &t.candidate).collect();
        assert_eq!((searched.len(), by(Origin::Search, &after)), (40, 40), "{few} trials, then 40");
        // The same candidates as if 40 had been allowed at once.
        let (_, at_once, _) = fresh(&made(), &search(40), &within(0.01), 1);
        let candidates = |trials: &[Trial]| of(Origin::Search, trials).into_iter().map(|t| t.candidate.clone()).collect::<Vec<_>>();
        assert_eq!(candidates(&after), candidates(&at_once));
        let rounds: BTreeSet<(usize, &str)> = after.iter().map(|t| (t.round, name(t.origin))).collect();
        let numbers: BTreeSet<usize> = after.iter().map(|t| t.round).collect();
        assert_eq!(rounds.len(), numbers.len(), "two phases share a round");
    }
}

fn name(origin: Origin) -> &'static str {
    match origin {
        Origin::Baseline => "baseline",
        Origin::Search => "search",
        Origin::Certify => "certify",
        Origin::Rollback => "rollback",
        Origin::Spend => "spend",
    }
}

#[test]
fn a_study_that_went_on_and_was_cut_after_that_ends_the_same() {
    let folder = folder();
    let path = folder.path().join("journal.jsonl");
    let search = |trials| SearchSpec { trials, ..few(StrategyName::Nsga2) };
    let (_, before) = study(&made(), &search(10), &within(0.01), 1, folder.path());
    study(&made(), &search(20), &within(0.01), 1, folder.path());
    let whole = std::fs::read(&path).unwrap();
    let ends: Vec<usize> = whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1).collect();
    // The first line is the fingerprint.
    for cut in &ends[before.len() + 1..] {
        std::fs::write(&path, &whole[..*cut]).unwrap();
        study(&made(), &search(20), &within(0.01), 2, folder.path());
        assert!(std::fs::read(&path).unwrap() == whole, "cut at byte {cut} of {}", whole.len());
    }
}

#[test]
fn a_time_budget_that_is_used_up_ends_with_the_baseline_alone() {
    let search = SearchSpec { time: Some(Seconds(1e-9)), ..spec(20) };
    let (stop, trials, _) = fresh(&made(), &search, &within(0.01), 2);
    assert_eq!((stop, trials.len()), (Stop::Time { seconds: 1e-9 }, 1));
}
