//! The whole front of cost and harm.

use super::{
    Effort, Front, Problem, Solution,
    condition::{fit, improve},
    eliminate::{Pass, run},
    model::{Goal, Model},
};

/// Solves when interactions have to be left out, each around the middle of the front before.
const ROUNDS: usize = 3;
/// Labels of all tables together in such a solve, which would gain nothing by more.
const LABELS: usize = 12_000_000;

/// Solutions of such solves that are improved afterwards.
const POLISHED: usize = 500;

/// The front under a goal.
pub(super) fn front(problem: &Problem, goal: &Goal, effort: Effort) -> Front {
    let (found, exact) = rounds(problem, goal, effort, |front| front.get(front.len() / 2).cloned());
    Front { solutions: by_time(found), exact }
}

/// Non-dominated solutions of one solve, or of a few around references that `pick` chooses; by ascending cost.
pub(super) fn rounds(
    problem: &Problem,
    goal: &Goal,
    effort: Effort,
    pick: impl Fn(&[Solution]) -> Option<Solution>,
) -> (Vec<Solution>, bool) {
    let model = Model::new(problem, goal);
    let mut reference = vec![0; problem.options.len()];
    let mut front: Vec<Solution> = Vec::new();
    for _ in 0..ROUNDS {
        let fitted = fit(&model, effort.states, &reference);
        let room = if fitted.whole { effort.labels } else { (LABELS / fitted.plan.states()).max(64).min(effort.labels) };
        let Some(found) = run(&fitted.model, &fitted.plan, None, Pass { labels: room, exact: None }) else { break };
        front.extend((0..found.labels.len()).filter_map(|l| problem.priced(found.trace(&fitted.model, &fitted.plan, l))));
        front = non_dominated(front, |s| [goal.cost(s), goal.harm(s)]);
        if fitted.whole {
            return (front, !found.lossy);
        }
        match pick(&front) {
            Some(next) if next.options != reference => reference = next.options,
            _ => break,
        }
    }
    let step = front.len().div_ceil(POLISHED).max(1);
    let better = |s: &Solution| problem.priced(improve(&[(&model, goal.cost(s))], s.options.clone()));
    let polished: Vec<Solution> = front.iter().step_by(step).filter_map(better).collect();
    front.extend(polished);
    (non_dominated(front, |s| [goal.cost(s), goal.harm(s)]), false)
}

/// Solutions that none is as good as in both figures, by ascending first figure; of equal ones the lowest options.
pub(super) fn non_dominated(mut solutions: Vec<Solution>, figures: impl Fn(&Solution) -> [f64; 2]) -> Vec<Solution> {
    let order = |a: &Solution, b: &Solution| {
        let (x, y) = (figures(a), figures(b));
        x[0].total_cmp(&y[0]).then(x[1].total_cmp(&y[1])).then_with(|| a.options.cmp(&b.options))
    };
    solutions.sort_by(order);
    let mut least = f64::INFINITY;
    solutions.retain(|s| {
        figures(s)[1] < least && {
            least = figures(s)[1];
            true
        }
    });
    solutions
}

pub(super) fn by_time(mut solutions: Vec<Solution>) -> Vec<Solution> {
    solutions.sort_by(|a, b| a.ms.total_cmp(&b.ms).then(a.damage.total_cmp(&b.damage)).then_with(|| a.options.cmp(&b.options)));
    solutions
}
