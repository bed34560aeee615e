//! Single steps back and forth, from histories made by hand.

use super::*;
use crate::search::{
    Surrogate,
    rollback::{self, Step, step_of},
};

/// Drop and milliseconds of INT8 in each of four layers.
fn made() -> Made {
    Made::layers(&[(0.020, 10.0), (0.030, 30.0), (0.010, 1.0), (0.004, 20.0)])
}

fn next(history: &[Trial], budget: f64, forward: bool) -> Option<Step> {
    made().with_view(&within(budget), history, |view| {
        let surrogate = Surrogate::fit(view.space, view.tables, view.history);
        if forward { rollback::forth(view, &surrogate, budget) } else { rollback::back(view, &surrogate, budget) }
    })
}

/// A measured step from a trial.
fn step(history: &mut Vec<Trial>, origin: Origin, from: usize, options: &[u16]) {
    let trial = made().trial(history.len(), origin, options, SAMPLES);
    history.push(Trial { from: Some(from), ..trial });
}

#[test]
fn a_step_back_starts_from_what_is_over_the_budget_and_goes_on_from_the_last_step() {
    let mut history = made().history(&[(&[1, 1, 1, 1], SAMPLES)]);
    let first = next(&history, 0.02, false).unwrap();
    // The third layer: a hundredth for a millisecond.
    assert_eq!((first.before, first.axis, first.from, first.to, first.candidate.0.as_slice()), (1, 2, 1, 0, &[1, 1, 0, 1][..]));
    step(&mut history, Origin::Rollback, 1, &[1, 1, 0, 1]);
    let second = next(&history, 0.02, false).unwrap();
    assert_eq!((second.before, second.axis), (2, 0));
    step(&mut history, Origin::Rollback, 2, &[0, 1, 0, 1]);
    step(&mut history, Origin::Rollback, 3, &[0, 0, 0, 1]);
    // 0.004 keeps the budget.
    assert_eq!(next(&history, 0.02, false), None);
}

#[test]
fn nothing_goes_back_where_all_is_within_the_budget_or_no_slower_point_is_hopeful() {
    assert_eq!(next(&made().history(&[(&[1, 1, 1, 1], SAMPLES)]), 0.1, false), None);
    // The fourth layer alone, 80 ms, keeps the budget, and all steps from all layers that are faster lose more.
    assert_eq!(next(&made().history(&[(&[0, 0, 0, 1], SAMPLES), (&[1, 1, 1, 1], SAMPLES)]), 0.01, false), None);
    assert_eq!(next(&made().history(&[]), 0.01, false), None);
}

#[test]
fn a_point_that_met_some_samples_is_a_start_only_where_none_met_all() {
    let some = made().history(&[(&[1, 1, 1, 1], FIRST)]);
    assert_eq!(next(&some, 0.02, false).map(|s| s.before), Some(1));
    let all = made().history(&[(&[1, 1, 1, 1], FIRST), (&[1, 1, 0, 1], SAMPLES)]);
    assert_eq!(next(&all, 0.02, false).map(|s| s.before), Some(2));
}

#[test]
fn a_step_forward_wins_most_time_for_the_damage_within_what_is_left() {
    // 0.03 is spent on the second layer. Of 0.045 another 0.015 is left: the fourth layer wins 5 ms a thousandth, the third a tenth of one.
    let history = made().history(&[(&[0, 1, 0, 0], SAMPLES)]);
    let found = next(&history, 0.045, true).unwrap();
    assert_eq!((found.before, found.axis, found.from, found.to), (1, 3, 0, 1));
    // Of 0.031 nothing can be had.
    assert_eq!(next(&history, 0.031, true), None);
}

#[test]
fn steps_forward_start_from_the_fastest_that_holds_and_repeat_none() {
    let mut history = made().history(&[(&[0, 1, 0, 0], SAMPLES), (&[0, 1, 0, 1], FIRST)]);
    // What met some samples does not hold for certain, and is not asked for again.
    assert_eq!(next(&history, 0.045, true).map(|s| s.axis), Some(2));
    step(&mut history, Origin::Spend, 1, &[0, 1, 1, 0]);
    let found = next(&history, 0.045, true).unwrap();
    assert_eq!((found.before, found.candidate.0.as_slice()), (3, &[0, 1, 1, 1][..]));
    step(&mut history, Origin::Spend, 3, &[0, 1, 1, 1]);
    assert_eq!(next(&history, 0.045, true), None);
}

#[test]
fn steps_forward_end_after_three_that_failed_or_eight() {
    let start = made().history(&[(&[0, 0, 0, 1], SAMPLES)]);
    let after = |origin: Origin, n: usize, options: &[u16]| {
        let mut history = start.clone();
        (0..n).for_each(|_| step(&mut history, origin, 1, options));
        next(&history, 0.02, true).map(|s| s.axis)
    };
    // All layers together fail; the fourth alone holds.
    assert_eq!(after(Origin::Spend, 2, &[1, 1, 1, 1]), Some(2));
    assert_eq!(after(Origin::Spend, 3, &[1, 1, 1, 1]), None);
    assert_eq!(after(Origin::Rollback, 3, &[1, 1, 1, 1]), Some(2));
    assert_eq!(after(Origin::Spend, 7, &[0, 0, 0, 1]), Some(2));
    assert_eq!(after(Origin::Spend, 8, &[0, 0, 0, 1]), None);
}

#[test]
fn a_step_is_read_off_the_trial_that_it_is_from() {
    let mut history = made().history(&[(&[1, 1, 1, 1], SAMPLES)]);
    step(&mut history, Origin::Rollback, 1, &[1, 0, 1, 1]);
    let found = step_of(&history[2], &history).unwrap();
    assert_eq!((found.before, found.axis, found.from, found.to, &found.candidate), (1, 1, 1, 0, &history[2].candidate));
    assert_eq!(step_of(&history[1], &history), None);
}
