//! Small random problems against brute force. All figures are small integers, so that sums are exact and ties common.

use proptest::prelude::*;

use super::*;

fn figures(low: i32, high: i32, count: usize) -> impl Strategy<Value = Vec<f64>> {
    proptest::collection::vec((low..=high).prop_map(f64::from), count)
}

fn term(options: Vec<usize>) -> impl Strategy<Value = Term> {
    let axes = options.len();
    proptest::sample::subsequence((0..axes).collect::<Vec<usize>>(), 1..=axes.min(3)).prop_shuffle().prop_flat_map(move |axes| {
        let size = axes.iter().map(|&a| options[a]).product();
        (Just(axes), figures(-5, 20, size), figures(-3, 30, size)).prop_map(|(axes, ms, bytes)| Term { axes, ms, bytes })
    })
}

fn problem() -> impl Strategy<Value = Problem> {
    proptest::collection::vec(2..=4_usize, 1..=7).prop_flat_map(|options| {
        let damage: Vec<_> = options.iter().map(|&n| figures(0, 12, n)).collect();
        let terms = proptest::collection::vec(term(options.clone()), 0..=8);
        (Just(options), damage, terms, -5..5_i32).prop_map(|(options, damage, terms, fixed)| {
            let fixed = f64::from(fixed);
            Problem { options, damage, terms, fixed_ms: fixed, fixed_bytes: 2.0 * fixed }
        })
    })
}

/// A limit at a share of the range of a figure.
fn share(all: &[Solution], share: f64, figure: impl Fn(&Solution) -> f64) -> f64 {
    let low = all.iter().map(&figure).fold(f64::INFINITY, f64::min);
    let high = all.iter().map(&figure).fold(f64::NEG_INFINITY, f64::max);
    (low + share * (high - low)).floor()
}

/// Least damage, then least of a figure, among what a limit leaves.
fn least(all: &[Solution], keeps: impl Fn(&Solution) -> bool, figure: impl Fn(&Solution) -> f64) -> Option<[f64; 2]> {
    all.iter().filter(|s| keeps(s)).map(|s| [s.damage, figure(s)]).min_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn the_front_is_that_of_brute_force(problem in problem(), price in 0..3_i32) {
        let (all, price) = (all(&problem), f64::from(price));
        let front = problem.front(price, Effort { labels: 20_000, states: 4096 });
        prop_assert!(front.exact);
        prop_assert!(front.solutions.iter().all(|s| problem.price(&s.options) == *s));
        let cost = |s: &Solution| [s.ms + price * s.bytes, s.damage];
        prop_assert_eq!(pareto(&front.solutions, cost).len(), front.solutions.len());
        prop_assert_eq!(pareto(&front.solutions, cost), pareto(&all, cost));
    }

    #[test]
    fn one_limit_gives_the_optimum_of_brute_force(problem in problem(), at in 0.0..1.0_f64, labels in 2..40_usize) {
        let all = all(&problem);
        let effort = Effort { labels, states: 4096 };
        let (ms, bytes) = (share(&all, at, |s| s.ms), share(&all, at, |s| s.bytes));
        let time = problem.best(Some(ms), None, effort).unwrap();
        prop_assert!(time.exact);
        prop_assert_eq!(Some([time.solution.damage, time.solution.ms]), least(&all, |s| s.ms <= ms, |s| s.ms));
        let size = problem.best(None, Some(bytes), effort).unwrap();
        prop_assert_eq!(Some([size.solution.damage, size.solution.bytes]), least(&all, |s| s.bytes <= bytes, |s| s.bytes));
        let free = problem.best(None, None, effort).unwrap();
        prop_assert_eq!(Some([free.solution.damage, free.solution.ms]), least(&all, |_| true, |s| s.ms));
        prop_assert!(problem.best(Some(share(&all, 0.0, |s| s.ms) - 1.0), None, effort).is_none());
    }

    #[test]
    fn two_limits_are_kept_whenever_they_can_be(problem in problem(), at in 0.0..1.0_f64, small in 0.0..1.0_f64) {
        let all = all(&problem);
        let (ms, bytes) = (share(&all, at, |s| s.ms), share(&all, small, |s| s.bytes));
        let optimum = least(&all, |s| s.ms <= ms && s.bytes <= bytes, |s| s.ms);
        let found = problem.best(Some(ms), Some(bytes), EFFORT);
        prop_assert_eq!(found.is_some(), optimum.is_some());
        if let (Some(found), Some([damage, _])) = (found, optimum) {
            prop_assert!(found.solution.ms <= ms && found.solution.bytes <= bytes && found.solution.damage >= damage);
            prop_assert!(!found.exact || found.solution.damage == damage);
            let free = least(&all, |s| s.ms <= ms, |s| s.ms).unwrap();
            prop_assert!(free[0] < damage || found.solution.damage == damage);
        }
    }

    #[test]
    fn a_front_within_a_size_is_kept_and_found_whenever_it_can_be(problem in problem(), small in 0.0..1.0_f64) {
        let all = all(&problem);
        let bytes = share(&all, small, |s| s.bytes);
        let front = problem.front_within(Some(bytes), EFFORT);
        let inside: Vec<Solution> = all.into_iter().filter(|s| s.bytes <= bytes).collect();
        prop_assert!(!front.solutions.is_empty());
        prop_assert!(front.solutions.iter().all(|s| inside.contains(s)));
        prop_assert_eq!(points(&front), pareto(&front.solutions, |s| [s.ms, s.damage]));
        if front.exact {
            prop_assert_eq!(points(&front), pareto(&inside, |s| [s.ms, s.damage]));
        }
    }

    #[test]
    fn tables_that_do_not_fit_never_break_the_answer(problem in problem(), at in 0.0..1.0_f64, states in 0..6_usize) {
        let all = all(&problem);
        let effort = Effort { labels: 50, states };
        let front = problem.front(0.0, effort);
        prop_assert!(front.solutions.iter().all(|s| problem.price(&s.options) == *s) && !front.solutions.is_empty());
        prop_assert!(!front.exact || points(&front) == pareto(&all, |s| [s.ms, s.damage]));
        let ms = share(&all, at, |s| s.ms);
        if let Some(best) = problem.best(Some(ms), None, effort) {
            let optimum = least(&all, |s| s.ms <= ms, |s| s.ms).unwrap();
            prop_assert!(best.solution.ms <= ms && best.solution.damage >= optimum[0]);
            prop_assert!(!best.exact || best.solution.damage == optimum[0]);
        }
    }
}
