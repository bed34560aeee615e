//! The front's points built again sequentially, and measured.

use super::*;
use crate::study::summarise::non_dominated;

/// A study whose plans with fewer channels get a part of their drop back, or more of it, when they are built sequentially.
fn made(seed: u64, factor: f64) -> Made {
    Made { sequential: Some(factor), ..Made::random(space(4, BITS_AND_CHANNELS), seed, false) }
}

fn search_spec(trials: usize) -> SearchSpec {
    SearchSpec { asked_together: 4, ..spec(trials) }
}

fn of(origin: Origin, trials: &[Trial]) -> Vec<&Candidate> {
    trials.iter().filter(|t| t.origin == origin).map(|t| &t.candidate).collect()
}

/// Points of the search's front that are another network when built sequentially, fastest first.
fn expected<'a>(made: &Made, trials: &'a [Trial]) -> Vec<&'a Candidate> {
    let searched = trials.iter().filter(|t| t.origin == Origin::Search);
    non_dominated(searched, &made.float_cost()).into_iter().map(|(t, ..)| &t.candidate).filter(|c| made.differs(c)).collect()
}

#[test]
fn the_front_is_measured_again_fastest_first_where_the_sequential_network_is_another() {
    let made = made(1, 0.5);
    let (stop, trials, _) = fresh(&made, &search_spec(40), &Constraints::default(), 2);
    let refined = of(Origin::Refine, &trials);
    assert!(refined.len() > 3);
    assert_eq!(refined, expected(&made, &trials));
    assert_eq!((stop, trials.len()), (Stop::Trials { trials: 40 }, 41 + refined.len()));
    let latencies: Vec<f64> = refined.iter().map(|c| made.cost_of(c).latency_ms).collect();
    assert!(latencies.is_sorted());
    for trial in trials.iter().filter(|t| t.origin == Origin::Refine) {
        let (score, _) = trial.outcome.measured().unwrap();
        assert!((score.drop - 0.5 * made.score(&trial.candidate).drop).abs() < 1e-12);
    }
    // A sequential drop is half of any other with fewer channels, so no refined point is beaten by an unrefined one of its kind.
    let front = non_dominated(crate::trial::counting(&trials), &made.float_cost());
    assert!(front.iter().any(|(t, ..)| t.origin == Origin::Refine));
    assert!(front.iter().all(|(t, ..)| t.origin == Origin::Refine || !refined.contains(&&t.candidate)));
}

#[test]
fn a_point_over_the_horizon_by_its_sequential_measurement_is_stopped_and_the_parallel_one_stays() {
    let made = made(1, 50.0);
    let (_, trials, _) = fresh(&made, &search_spec(30), &within(0.01), 2);
    let stopped = |t: &&Trial| t.origin == Origin::Refine && matches!(t.outcome, Outcome::Stopped { .. });
    let stopped: Vec<&Candidate> = trials.iter().filter(stopped).map(|t| &t.candidate).collect();
    assert!(!stopped.is_empty());
    let counted = crate::trial::counting(&trials);
    assert!(counted.iter().filter(|t| stopped.contains(&&t.candidate)).all(|t| t.origin == Origin::Search));
}

#[test]
fn nothing_is_measured_twice_where_both_ways_give_the_same() {
    for factor in [None, Some(0.5)] {
        let made = Made { sequential: factor, ..made(2, 1.0) };
        let (_, trials, _) = fresh(&made, &search_spec(40), &within(0.01), 2);
        let mut seen: HashSet<(&Candidate, Build)> = HashSet::new();
        for trial in &trials {
            let build = if made.differs(&trial.candidate) { trial.origin.build() } else { Build::Parallel };
            assert!(seen.insert((&trial.candidate, build)), "{factor:?}: {trial:?}");
        }
        assert_eq!(by(Origin::Refine, &trials) > 0, factor.is_some());
    }
}

#[test]
fn steps_back_are_measured_sequentially() {
    let mut steps = 0;
    for seed in 0..12 {
        let made = made(seed, 0.9);
        let (_, trials, _) = fresh(&made, &search_spec(40), &within(0.012), 1);
        for trial in trials.iter().filter(|t| t.origin == Origin::Rollback) {
            let drop = trial.outcome.scored().unwrap().0.drop;
            assert!((drop - made.score_built(&trial.candidate, Build::Sequential).drop).abs() < 1e-12, "seed {seed}");
            steps += 1;
        }
        let view_cost = |c: &Candidate| made.cost(c);
        let differs = |c: &Candidate| made.differs(c);
        let limits = limits(&made, &within(0.012));
        let view = View { space: &made.space, cost: &view_cost, differs: &differs, limits, horizon: 0.048, history: &trials };
        assert_eq!(rollback::next(&view, 0.012), None, "seed {seed}");
        let found: Vec<usize> = rollback::steps(&view, 0.012).iter().map(|(_, trial)| *trial).collect();
        assert!(found.iter().all(|&t| trials[t].origin == Origin::Rollback), "seed {seed}");
        assert_eq!(found.len(), by(Origin::Rollback, &trials), "seed {seed}");
    }
    assert!(steps > 10, "{steps} steps");
}

#[test]
fn a_study_interrupted_while_refining_and_resumed_has_the_journal_of_one_never_interrupted() {
    for factor in [0.5, 1.5] {
        let search = search_spec(18);
        let all = made(5, factor);
        let (_, trials, whole) = fresh(&all, &search, &within(0.01), 1);
        let evaluations = all.evaluated.load(Ordering::Relaxed);
        assert!(by(Origin::Refine, &trials) >= 2, "{} refined", by(Origin::Refine, &trials));
        for jobs in [1, 3] {
            assert!(fresh(&made(5, factor), &search, &within(0.01), jobs).2 == whole, "{jobs} at once");
            for after in 1..=evaluations {
                let folder = tempfile::tempdir().unwrap();
                let flag: &'static AtomicBool = Box::leak(Box::new(AtomicBool::new(false)));
                let mut made = made(5, factor);
                made.stop = Some((after, flag));
                let (stop, trials) = study(&made, &search, &within(0.01), jobs, folder.path());
                assert_eq!(stop, Stop::Interrupted { trials: trials.len() }, "after {after}");
                made.stop = None;
                study(&made, &search, &within(0.01), jobs, folder.path());
                let resumed = std::fs::read(folder.path().join("journal.jsonl")).unwrap();
                assert!(resumed == whole, "after {after} of {evaluations}, {jobs} at once");
            }
        }
    }
}

#[test]
fn a_journal_cut_at_any_line_is_completed_to_the_same_bytes() {
    let search = search_spec(18);
    let (_, _, whole) = fresh(&made(5, 0.5), &search, &within(0.01), 1);
    for cut in whole.iter().enumerate().filter(|(_, b)| **b == b'\n').map(|(i, _)| i + 1) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("journal.jsonl");
        std::fs::write(&path, &whole[..cut]).unwrap();
        study(&made(5, 0.5), &search, &within(0.01), 3, folder.path());
        assert!(std::fs::read(&path).unwrap() == whole, "cut at byte {cut} of {}", whole.len());
    }
}

#[test]
fn a_finished_study_refines_nothing_again_and_more_trials_search_on_and_refine_what_is_new() {
    let made = made(4, 0.8);
    let folder = tempfile::tempdir().unwrap();
    let run = |trials: usize| study(&made, &search_spec(trials), &within(0.01), 2, folder.path()).1;
    let first = run(10);
    assert_eq!(run(10), first);
    let second = run(60);
    assert_eq!(second[..first.len()], first);
    assert_eq!(by(Origin::Search, &second), 60);
    assert_eq!(second[first.len()].origin, Origin::Search);
    let searched: HashSet<&Candidate> = of(Origin::Search, &second).into_iter().collect();
    assert_eq!(searched.len(), 60, "a candidate was asked for twice");
    let refined = of(Origin::Refine, &second);
    assert_eq!(refined.iter().collect::<HashSet<_>>().len(), refined.len());
    assert!(by(Origin::Refine, &second) > by(Origin::Refine, &first));
    let sequential: HashSet<&Candidate> = second.iter().filter(|t| t.origin.build() == Build::Sequential).map(|t| &t.candidate).collect();
    assert!(expected(&made, &second).iter().all(|c| sequential.contains(c)));
}
