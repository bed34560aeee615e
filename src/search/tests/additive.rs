//! The additive strategy: what it finds with exact tables and with wrong ones.

use std::collections::HashSet;

use super::*;
use crate::{
    search::{Surrogate, additive::expected_front},
    space::Candidate,
};

fn share(made: &Made, history: &[Trial]) -> f64 {
    made.share(history[1..].iter().map(|t| &t.candidate))
}

#[test]
fn with_exact_tables_two_batches_have_nearly_all_of_the_front_and_a_few_dozen_end_it() {
    for seed in 0..5 {
        let made = Made::random(space(6, BITS_AND_CHANNELS), seed, false);
        let history = driven(&made, StrategyName::Additive, &Constraints::default(), seed);
        let until = |round: usize| share(&made, &history.iter().filter(|t| t.round <= round).cloned().collect::<Vec<_>>());
        let shares = [until(1), until(2), until(3), share(&made, &history)];
        // What the best eight of the expected front have, by the truth.
        let greedy = made.with_view(&Constraints::default(), &made.history(&[]), |view| {
            let front = expected_front(view, &Surrogate::fit(view.space, view.tables, []));
            let mut kept: Vec<Candidate> = Vec::new();
            for _ in 0..8 {
                let with = |c: &Candidate| made.share(kept.iter().chain([c]));
                let best = front.iter().max_by(|a, b| with(&a.candidate).total_cmp(&with(&b.candidate))).unwrap().candidate.clone();
                kept.push(best);
            }
            made.share(&kept)
        });
        assert!(greedy > 0.92, "seed {seed}: {greedy}");
        // It takes its points from fronts of damages drawn about the tables', which cost it some of the first batch.
        assert!(shares.iter().zip([0.78, 0.9, 0.94, 0.98]).all(|(s, least)| *s > least), "seed {seed}: {shares:?}");
        assert!(history.len() < 100, "seed {seed}: {} trials", history.len());
    }
}

#[test]
fn with_tables_that_are_wrong_by_a_factor_for_every_axis_it_corrects_itself() {
    for seed in 0..5 {
        let made = Made::random(space(6, BITS_AND_CHANNELS), seed, false).wrong(seed, (0.3, 3.0));
        let history = driven(&made, StrategyName::Additive, &Constraints::default(), seed);
        assert!(share(&made, &history) > 0.95 && history.len() < 150, "seed {seed}: {} after {}", share(&made, &history), history.len());
    }
}

#[test]
fn with_exact_tables_the_expected_front_is_the_true_one() {
    let made = Made::random(space(3, BITS_AND_CHANNELS), 4, false);
    let truth = made.true_front();
    made.with_view(&Constraints::default(), &made.history(&[]), |view| {
        let surrogate = Surrogate::fit(view.space, view.tables, []);
        let front = expected_front(view, &surrogate);
        assert!(front.windows(2).all(|w| w[0].latency_ms < w[1].latency_ms && w[0].drop > w[1].drop));
        // The solver tells costs apart as far as f64 does; the true front has every point that is expected.
        let known = |ms: f64| truth.iter().any(|t| (t[1] - ms).abs() < 1e-9);
        assert!(front.iter().all(|p| known(p.latency_ms)));
        assert_eq!(front.len(), truth.len().div_ceil(truth.len().div_ceil(160)));
    });
}

#[test]
fn what_it_proposes_is_new_affordable_and_a_function_of_the_history() {
    let constraints = Constraints { latency_ms: Some(95.0), size_mb: Some(94.0), ..within(0.04) };
    for seed in 0..3 {
        let made = Made::random(space(5, BITS_AND_CHANNELS), seed, true).wrong(seed, (0.3, 3.0));
        let history = driven(&made, StrategyName::Additive, &constraints, seed);
        assert!(history.len() > 5);
        let candidates: HashSet<_> = history[1..].iter().map(|t| &t.candidate).collect();
        assert_eq!(candidates.len(), history.len() - 1);
        let keeps = |t: &Trial| t.outcome.cost().is_some_and(|c| c.latency_ms <= 95.0 && c.bytes <= 94_000_000);
        assert!(history[1..].iter().all(keeps));
        assert_eq!(driven(&made, StrategyName::Additive, &constraints, seed), history);
    }
}

#[test]
fn a_limit_of_size_is_kept_and_reached() {
    // Bytes go with milliseconds: below 90 MB everything is below 90 ms.
    let made = Made::random(space(6, BITS_AND_CHANNELS), 1, false);
    let history = driven(&made, StrategyName::Additive, &Constraints { size_mb: Some(90.0), ..Constraints::default() }, 1);
    let most = history[1..].iter().filter_map(|t| t.outcome.cost()).map(|c| c.bytes).max();
    assert!(most.is_some_and(|b| b <= 90_000_000 && b > 85_000_000), "{most:?}");
}

#[test]
fn a_budget_draws_candidates_to_it() {
    let made = Made::random(space(6, BITS_AND_CHANNELS), 2, false).wrong(2, (0.3, 3.0));
    let history = driven(&made, StrategyName::Additive, &within(0.02), 2);
    let truth = made.true_front().into_iter().filter(|p| p[0] <= 0.02).map(|p| p[1]).fold(f64::INFINITY, f64::min);
    let kept = history[1..].iter().map(|t| (made.score(&t.candidate).drop, made.cost_of(&t.candidate).latency_ms)).filter(|p| p.0 <= 0.02);
    let found = kept.map(|p| p.1).fold(f64::INFINITY, f64::min);
    assert!(FLOAT_MS - found > 0.9 * (FLOAT_MS - truth), "{found} ms where {truth} ms are possible");
    let beyond = history[1..].iter().filter(|t| made.score(&t.candidate).drop > 0.16).count();
    assert_eq!(beyond, 0, "candidates at twice the horizon");
}
