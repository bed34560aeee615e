//! Tests against brute force, published tables and degenerate problems.

mod published;
mod random;

use super::{Effort, Front, Problem, Solution, Term};

const EFFORT: Effort = Effort { labels: 2000, states: 4096 };

/// Every choice that is not forbidden.
fn all(problem: &Problem) -> Vec<Solution> {
    let mut choices: Vec<Vec<u16>> = vec![vec![]];
    for &n in &problem.options {
        choices = choices.into_iter().flat_map(|c| (0..n as u16).map(move |o| [c.as_slice(), &[o]].concat())).collect();
    }
    let finite = |s: &Solution| [s.ms, s.bytes, s.damage].iter().all(|x| x.is_finite());
    choices.iter().map(|c| problem.price(c)).filter(finite).collect()
}

/// The non-dominated pairs of figures.
fn pareto(solutions: &[Solution], figures: impl Fn(&Solution) -> [f64; 2]) -> Vec<[f64; 2]> {
    let mut pairs: Vec<[f64; 2]> = solutions.iter().map(figures).collect();
    pairs.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
    let mut least = f64::INFINITY;
    pairs
        .into_iter()
        .filter(|p| {
            p[1] < least && {
                least = p[1];
                true
            }
        })
        .collect()
}

fn points(front: &Front) -> Vec<[f64; 2]> {
    front.solutions.iter().map(|s| [s.ms, s.damage]).collect()
}

/// A deterministic stream of numbers in 0..1.
fn stream(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as f64 / (1_u64 << 31) as f64
    }
}

/// Axes in a ring of neighbours, with more damage and less time for higher options.
fn ring(axes: usize, options: usize, reach: usize) -> Problem {
    let mut next = stream(7);
    let damage = (0..axes).map(|_| (0..options).map(|o| o as f64 * next()).collect()).collect();
    let mut term = |a: usize, b: usize| Term {
        axes: if a == b { vec![a] } else { vec![a, b] },
        ms: (0..options.pow(if a == b { 1 } else { 2 })).map(|i| 2.0 * next() - (i % options + i / options) as f64).collect(),
        bytes: vec![],
    };
    let terms = (0..axes).flat_map(|a| (0..=reach).map(move |d| (a, (a + d) % axes))).map(|(a, b)| term(a, b)).collect();
    Problem { options: vec![options; axes], damage, terms, fixed_ms: 1.0, fixed_bytes: 0.0 }
}

#[test]
fn a_thinned_front_lies_close_to_the_whole_one() {
    let problem = ring(20, 4, 1);
    let whole = problem.front(0.0, Effort { labels: 60_000, states: 4096 });
    let thinned = problem.front(0.0, Effort { labels: 100, states: 4096 });
    assert!(whole.exact && !thinned.exact && whole.solutions.len() > 200 && thinned.solutions.len() <= 100);
    let (first, last) = (&whole.solutions[0], &whole.solutions[whole.solutions.len() - 1]);
    for s in &whole.solutions {
        let near = thinned.solutions.iter().rev().find(|t| t.ms <= s.ms + 0.01 * (last.ms - first.ms)).unwrap();
        assert!(near.damage <= s.damage + 0.02 * first.damage, "{} {} {} {}", s.ms, s.damage, near.ms, near.damage);
    }
    assert_eq!(thinned.solutions[0].ms, first.ms);
    assert_eq!(thinned.solutions[thinned.solutions.len() - 1].damage, last.damage);
}

#[test]
fn a_limit_is_met_exactly_where_the_front_is_thinned() {
    let problem = ring(14, 3, 1);
    let whole = problem.front(0.0, Effort { labels: 60_000, states: 4096 });
    for s in whole.solutions.iter().step_by(97) {
        let best = problem.best(Some(s.ms), None, Effort { labels: 50, states: 4096 }).unwrap();
        assert!(best.exact);
        assert!((best.solution.damage - s.damage).abs() < 1e-9 && best.solution.ms <= s.ms + 1e-9);
    }
}

#[test]
fn a_fully_connected_graph_is_answered_and_not_called_exact() {
    let problem = ring(60, 3, 59);
    let effort = Effort { labels: 50, states: 27 };
    let front = problem.front(0.0, effort);
    assert!(!front.exact && front.solutions.len() > 1);
    for s in &front.solutions {
        assert_eq!(problem.price(&s.options), *s);
    }
    let (fast, mild) = (front.solutions[0].ms, problem.price(&[0; 60]).ms);
    let best = problem.best(Some((fast + mild) / 2.0), None, effort).unwrap();
    assert!(!best.exact && best.solution.ms <= (fast + mild) / 2.0);
}

#[test]
fn two_limits_of_a_fully_connected_graph_are_kept() {
    let (problem, effort) = (ring(20, 3, 19), Effort { labels: 50, states: 27 });
    let (fast, mild) = (problem.front(0.0, effort).solutions[0].ms, problem.price(&[0; 20]).ms);
    let both = problem.best(Some((fast + mild) / 2.0), Some(0.0), effort).unwrap();
    assert!(!both.exact && both.solution.ms <= (fast + mild) / 2.0);
    assert!(problem.best_within(None, Some(-1.0), effort).is_none());
}

#[test]
fn problems_without_choices_have_one_solution() {
    let nothing = Problem { fixed_ms: 2.0, fixed_bytes: 3.0, ..Problem::default() };
    let front = nothing.front(0.0, EFFORT);
    assert!(front.exact);
    assert_eq!(front.solutions, vec![Solution { options: vec![], ms: 2.0, bytes: 3.0, damage: 0.0 }]);
    assert_eq!(nothing.best_within(Some(2.0), Some(3.0), EFFORT), Some(nothing.price(&[])));
    assert_eq!(nothing.best_within(Some(1.0), None, EFFORT), None);
    let single = Problem { options: vec![1; 3], damage: vec![vec![1.0]; 3], ..Problem::default() };
    assert_eq!(single.front(0.0, EFFORT).solutions, vec![single.price(&[0; 3])]);
    assert_eq!(single.best_within(None, None, EFFORT).map(|s| s.damage), Some(3.0));
}

#[test]
fn without_tables_the_mildest_options_win() {
    let problem = Problem { options: vec![3; 4], damage: vec![vec![0.0, 1.0, 2.0]; 4], ..Problem::default() };
    assert_eq!(points(&problem.front(0.0, EFFORT)), vec![[0.0, 0.0]]);
    assert_eq!(problem.best_within(Some(0.0), Some(0.0), EFFORT).map(|s| s.options), Some(vec![0; 4]));
}

#[test]
fn limits_that_nothing_keeps_give_nothing() {
    let problem = ring(6, 2, 1);
    assert_eq!(problem.best_within(Some(-1e6), None, EFFORT), None);
    assert_eq!(problem.best_within(None, Some(-1.0), EFFORT), None);
    assert_eq!(problem.best_within(Some(1e6), Some(-1.0), EFFORT), None);
    assert_eq!(problem.best_within(Some(f64::NAN), None, EFFORT), None);
    assert!(problem.front_within(Some(-1.0), EFFORT).solutions.is_empty());
}

#[test]
fn options_without_finite_figures_are_never_chosen() {
    let term = |ms: Vec<f64>| Term { axes: vec![0, 1], ms, bytes: vec![] };
    let damage = vec![vec![f64::NAN, 1.0], vec![0.0, 1.0]];
    let problem =
        Problem { options: vec![2, 2], damage, terms: vec![term(vec![0.0, 0.0, f64::NEG_INFINITY, 5.0])], fixed_ms: 0.0, fixed_bytes: 0.0 };
    assert_eq!(points(&problem.front(0.0, EFFORT)), vec![[5.0, 2.0]]);
    assert_eq!(problem.best_within(Some(9.0), Some(9.0), EFFORT).map(|s| s.options), Some(vec![1, 1]));
    let none = Problem { damage: vec![vec![f64::INFINITY; 2]; 2], ..problem };
    assert!(none.front(0.0, EFFORT).solutions.is_empty() && none.best_within(None, None, EFFORT).is_none());
}

#[test]
fn problems_of_the_wrong_shape_have_no_solutions() {
    let good = ring(4, 2, 1);
    let mut wrong = vec![good.clone(); 4];
    wrong[0].terms[0].axes = vec![9];
    wrong[1].terms[1].ms.pop();
    wrong[2].damage.pop();
    wrong[3].terms[1].axes = vec![1, 1];
    for problem in wrong {
        assert!(problem.front(0.0, EFFORT).solutions.is_empty() && problem.best_within(None, None, EFFORT).is_none());
        assert!(problem.price(&[0; 4]).ms.is_infinite());
    }
    assert!(good.price(&[0; 3]).ms.is_infinite() && good.price(&[2; 4]).ms.is_infinite());
}
