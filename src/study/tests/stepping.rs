//! Steps back and forth in whole studies.

use super::*;
use crate::search::{holds, rollback};

/// A study of four layers that begins with the float model, every layer alone, and all together, all measured on all samples; drops and milliseconds
/// of INT8.
fn four() -> (Made, Vec<Trial>) {
    let made = Made::layers(&[(0.020, 10.0), (0.030, 30.0), (0.010, 1.0), (0.004, 20.0)]);
    let tried: [&[u16]; 5] = [&[1, 0, 0, 0], &[0, 1, 0, 0], &[0, 0, 1, 0], &[0, 0, 0, 1], &[1, 1, 1, 1]];
    let history = made.history(&tried.map(|t| (t, SAMPLES)));
    (made, history)
}

/// The study after these trials.
fn after(made: &Made, history: &[Trial], budget: f64) -> (Stop, Vec<Trial>) {
    let trials = by(Origin::Search, history);
    let folder = folder();
    let (mut journal, _) = Journal::open(folder.path(), &fingerprint()).unwrap();
    history.iter().for_each(|t| journal.append(t).unwrap());
    drop(journal);
    study(made, &spec(trials), &within(budget), 1, folder.path())
}

fn options(trials: &[Trial], origin: Origin) -> Vec<&[u16]> {
    of(origin, trials).into_iter().map(|t| t.candidate.0.as_slice()).collect()
}

#[test]
fn what_hurts_most_per_millisecond_goes_back_first_until_the_budget_holds() {
    let (made, history) = four();
    let (stop, trials) = after(&made, &history, 0.050);
    assert_eq!(stop, Stop::Trials { trials: 5 });
    // All together drop 0.064. Damage per millisecond: 0.002, 0.001, 0.01, 0.0002. The third layer goes back (0.054), then the
    // first (0.034).
    assert_eq!(options(&trials, Origin::Rollback), [[1, 1, 0, 1], [0, 1, 0, 1]]);
    let (score, cost) = of(Origin::Rollback, &trials)[1].outcome.measured().unwrap();
    assert!(holds(score, 0.050) && (cost.latency_ms - 50.0).abs() < 1e-9);
    // Of the 0.016 that is left the third layer takes 0.01, and for the rest there is nothing.
    assert_eq!(options(&trials, Origin::Spend), [[0, 1, 1, 1]]);
}

#[test]
fn the_steps_of_a_finished_rollback_are_found_again() {
    let (made, history) = four();
    let (_, trials) = after(&made, &history, 0.050);
    let steps: Vec<(usize, usize, u16, u16)> =
        trials.iter().filter_map(|t| rollback::step_of(t, &trials)).map(|s| (s.before, s.axis, s.from, s.to)).collect();
    assert_eq!(steps, [(5, 2, 1, 0), (6, 0, 1, 0), (7, 2, 0, 1)]);
    assert_eq!(after(&made, &trials, 0.050).1, trials);
}

#[test]
fn a_step_that_is_over_the_budget_for_certain_is_stopped_and_the_next_goes_on_from_it() {
    let (made, history) = four();
    let alone = [history[0].clone(), made.trial(1, Origin::Search, &[1, 1, 1, 1], SAMPLES)];
    let (_, trials) = after(&made, &alone, 0.012);
    let back = of(Origin::Rollback, &trials);
    assert!(matches!(back[0].outcome, Outcome::Stopped { .. }), "{:?}", back[0].outcome);
    assert_eq!((back[0].from, back[1].from), (Some(1), Some(2)));
}

#[test]
fn what_is_left_of_the_budget_is_spent_where_most_time_is_won_for_it() {
    let (made, mut history) = four();
    history.truncate(5);
    // Without all together: the fastest within 0.036 is the second layer alone, 70 ms at 0.03. The fourth layer fits on top, the third does not.
    let (_, trials) = after(&made, &history, 0.036);
    assert_eq!(options(&trials, Origin::Spend), [[0, 1, 0, 1]]);
    let (score, cost) = trials.last().unwrap().outcome.measured().unwrap();
    assert!(holds(score, 0.036) && (cost.latency_ms - 50.0).abs() < 1e-9);
}

#[test]
fn it_ends_within_the_budget_or_at_the_fastest_known_point() {
    // A study has no steps back where the first would already be slower than the fastest point within the budget.
    let mut rolled = 0;
    for seed in 0..8 {
        let made = Made::random(space(6, BITS_AND_CHANNELS), seed, false);
        let search = SearchSpec { seed, strategy: StrategyName::Nsga2, ..spec(40) };
        let (_, trials, _) = fresh(&made, &search, &within(0.02), 1);
        let held = trials[1..].iter().filter_map(|t| t.outcome.measured()).filter(|(s, _)| s.drop <= 0.02);
        assert!(held.map(|(_, c)| c.latency_ms).fold(f64::INFINITY, f64::min) < FLOAT_MS, "seed {seed}");
        rolled += usize::from(by(Origin::Rollback, &trials) + by(Origin::Spend, &trials) > 0);
    }
    assert!(rolled >= 5, "{rolled} of 8");
}

#[test]
fn without_an_accuracy_budget_nothing_goes_back_or_forth() {
    let made = Made::random(space(6, BITS_AND_CHANNELS), 2, false);
    let (_, trials, _) = fresh(&made, &spec(20), &Constraints::default(), 1);
    assert_eq!((by(Origin::Rollback, &trials), by(Origin::Spend, &trials)), (0, 0));
    assert!(by(Origin::Certify, &trials) > 3);
}
