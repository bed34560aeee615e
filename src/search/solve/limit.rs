//! Least harm within one limit of cost.
//!
//! Plans on the lower hull give the price of cost in harm and a first answer; a thinned pass with bounds improves it; a
//! pass that keeps every label that can still beat it proves the optimum (the bounds of a core algorithm, Kellerer,
//! Pferschy, Pisinger, "Knapsack Problems", 2004, section 5.4, on a tree of tables).

use super::{
    Best, Effort, Problem, Solution,
    bound::{Cuts, ROUNDING, Sweep},
    condition::{Fitted, fit, improve},
    curve,
    eliminate::{Found, Pass, run},
    list::MOST,
    model::{Goal, Model, Pair},
    within,
};

/// Labels that an exact pass may look at.
pub(super) const WORK: u64 = 40_000_000;
/// Labels of the pass that prepares the exact one.
const FIRST: usize = 1000;
/// Steps along the hull.
const STEPS: usize = 40;

/// The least harm under a goal with at most `limit` cost. `None` if nothing found keeps it.
pub(super) fn best(problem: &Problem, goal: &Goal, limit: f64, effort: Effort, work: u64) -> Option<Best> {
    let model = Model::new(problem, goal);
    let fitted = fit(&model, effort.states, &vec![0; problem.options.len()]);
    if fitted.whole {
        Search { problem, goal, limit, fitted: &fitted, best: None }.best(effort, work)
    } else {
        conditioned(problem, goal, &model, limit, effort)
    }
}

struct Search<'a> {
    problem: &'a Problem,
    goal: &'a Goal,
    limit: f64,
    fitted: &'a Fitted,
    best: Option<Solution>,
}

impl Search<'_> {
    fn best(mut self, effort: Effort, work: u64) -> Option<Best> {
        let (model, plan) = (&self.fitted.model, &self.fitted.plan);
        let price = self.hull()?;
        let prices: &[f64] = if price > 0.0 { &[price, 0.0, price / 2.0, price * 2.0] } else { &[0.0] };
        let mut cuts = Cuts::new(model, plan, self.limit - model.constant[0], prices);
        let mut exact = false;
        for (labels, budget) in [(FIRST.min(effort.labels), None), (MOST, Some(work)), (effort.labels, None)] {
            if let Some(best) = &self.best {
                cuts.known(self.goal.harm(best) - model.constant[1]);
            }
            if let Some(found) = run(model, plan, Some(&cuts), Pass { labels, exact: budget }) {
                exact = !found.lossy;
                self.look(&found);
            }
            if exact {
                break;
            }
        }
        self.best.map(|solution| Best { solution, exact })
    }

    /// Takes the best solution of a front that keeps the limit.
    fn look(&mut self, found: &Found) {
        let (model, plan) = (&self.fitted.model, &self.fitted.plan);
        let solution = |l| self.problem.priced(found.trace(model, plan, l));
        if let Some(solution) = (0..found.labels.len()).rev().filter_map(solution).find(|s| within(self.goal.cost(s), self.limit)) {
            self.offer(solution);
        }
    }

    fn offer(&mut self, solution: Solution) {
        let key = |s: &Solution| [self.goal.harm(s), self.goal.cost(s)];
        let better = |b: &Solution| key(&solution)[0].total_cmp(&key(b)[0]).then(key(&solution)[1].total_cmp(&key(b)[1])).is_lt();
        if within(self.goal.cost(&solution), self.limit) && self.best.as_ref().is_none_or(better) {
            self.best = Some(solution);
        }
    }

    fn least(&self, weigh: impl Fn(Pair) -> f64) -> Option<Solution> {
        self.problem.priced(Sweep::new(&self.fitted.model, &self.fitted.plan, weigh).least()?)
    }

    /// The price of cost in harm where the hull crosses the limit; plans on the way are offered.
    fn hull(&mut self) -> Option<f64> {
        let (goal, scale) = (self.goal, self.fitted.model.scale());
        let mut inside = self.least(|[cost, _]| cost)?;
        if !within(goal.cost(&inside), self.limit) {
            return None;
        }
        self.offer(inside.clone());
        let mut outside = self.least(|[_, harm]| harm)?;
        if within(goal.cost(&outside), self.limit) {
            self.offer(outside);
            return Some(0.0);
        }
        let mut price = 0.0;
        for _ in 0..STEPS {
            price = ((goal.harm(&inside) - goal.harm(&outside)) / (goal.cost(&outside) - goal.cost(&inside))).max(0.0);
            if !price.is_finite() {
                return Some(0.0);
            }
            let weight = |s: &Solution| goal.harm(s) + price * goal.cost(s);
            let next = self.least(|[cost, harm]| harm + price * cost)?;
            if weight(&next) >= weight(&inside) - ROUNDING * (scale[1] + price * scale[0]) {
                break;
            }
            if within(goal.cost(&next), self.limit) {
                self.offer(next.clone());
                inside = next;
            } else {
                outside = next;
            }
        }
        Some(price)
    }
}

/// The same where interactions had to be left out: the best of fronts around a few references, improved.
fn conditioned(problem: &Problem, goal: &Goal, model: &Model, limit: f64, effort: Effort) -> Option<Best> {
    let keeps = |s: &&Solution| within(goal.cost(s), limit);
    let (front, _) = curve::rounds(problem, goal, effort, |front| front.iter().rev().find(keeps).or(front.first()).cloned());
    let start = front.iter().rev().find(keeps).or(front.first()).map_or_else(|| vec![0; model.options.len()], |s| s.options.clone());
    let solution = problem.priced(improve(&[(model, limit)], start))?;
    keeps(&&solution).then_some(Best { solution, exact: false })
}
