//! A second limit, of bytes, by a Lagrange multiplier (Everett, Operations Research 11, 1963).

use super::{
    Best, Effort, Front, Problem, Solution,
    bound::ROUNDING,
    condition::{fit, improve},
    curve::{self, by_time, non_dominated},
    limit,
    model::{Goal, Model},
    within,
};

/// Labels that every solve of a series may look at for a proof.
const WORK: u64 = 4_000_000;
/// Solves along the multiplier, for each of the two limits.
const STEPS: usize = 10;
/// Prices of a byte for a front, relative to the slope of its ends; later ones are placed between them.
const PRICES: [f64; 5] = [0.03, 0.3, 1.0, 3.0, 30.0];
/// Prices placed between those before.
const BETWEEN: usize = 5;

/// One limit is kept by the solve, the other one is priced.
#[derive(Clone, Copy)]
struct Role {
    goal: Goal,
    limit: f64,
    /// Weights of milliseconds and bytes in the priced figure.
    priced: [f64; 2],
    most: f64,
}

impl Role {
    fn figure(&self, s: &Solution) -> f64 {
        self.priced[0] * s.ms + self.priced[1] * s.bytes
    }

    /// A solve with weights of damage and of the priced figure in the harm.
    fn solve(&self, problem: &Problem, damage: f64, price: f64, effort: Effort) -> Option<Best> {
        let harm = [damage, price * self.priced[0], price * self.priced[1]];
        limit::best(problem, &Goal { harm, ..self.goal }, self.limit, effort, WORK)
    }
}

/// Less effort for a series of solves where interactions have to be left out, and more of each would gain little.
fn lighter(problem: &Problem, effort: Effort) -> Effort {
    let whole = fit(&Model::new(problem, &Goal::MS), effort.states, &vec![0; problem.options.len()]).whole;
    if whole { effort } else { Effort { labels: effort.labels.min(300), states: effort.states.min(256) } }
}

/// The least damage found within both limits: each is priced in turn, and the better answer improved axis by axis.
pub(super) fn best(problem: &Problem, ms: f64, bytes: f64, effort: Effort) -> Option<Best> {
    let effort = lighter(problem, effort);
    let time = Role { goal: Goal::MS, limit: ms, priced: [0.0, 1.0], most: bytes };
    let size = Role { goal: Goal::BYTES, limit: bytes, priced: [1.0, 0.0], most: ms };
    let mut found: Option<Best> = None;
    for role in [time, size] {
        if let Some(best) = search(problem, &role, effort)
            && found.as_ref().is_none_or(|f| best.exact || best.solution.damage < f.solution.damage)
        {
            found = Some(best);
        }
        if found.as_ref().is_some_and(|f| f.exact) {
            return found;
        }
    }
    let best = found?;
    let models = [Model::new(problem, &Goal::MS), Model::new(problem, &Goal::BYTES)];
    let better = problem.priced(improve(&[(&models[0], ms), (&models[1], bytes)], best.solution.options.clone()));
    let better = better.filter(|s| within(s.ms, ms) && within(s.bytes, bytes) && s.damage < best.solution.damage);
    Some(better.map_or(best, |solution| Best { solution, exact: false }))
}

/// The best multiplier from the plans on both sides of the priced limit.
fn search(problem: &Problem, role: &Role, effort: Effort) -> Option<Best> {
    let keeps = |s: &Solution| within(role.figure(s), role.most);
    let mildest = role.solve(problem, 1.0, 0.0, effort)?;
    if keeps(&mildest.solution) {
        return Some(mildest);
    }
    let mut inside = role.solve(problem, 0.0, 1.0, effort)?.solution;
    if !keeps(&inside) {
        return None;
    }
    let mut bound = if mildest.exact { mildest.solution.damage } else { f64::NEG_INFINITY };
    let (mut outside, mut best) = (mildest.solution, inside.clone());
    for _ in 0..STEPS {
        let price = (inside.damage - outside.damage) / (role.figure(&outside) - role.figure(&inside));
        if !(price.is_finite() && price > 0.0) {
            break;
        }
        let Some(next) = role.solve(problem, 1.0, price, effort) else { break };
        let weight = |s: &Solution| s.damage + price * role.figure(s);
        if next.exact {
            bound = bound.max(weight(&next.solution) - price * role.most);
        }
        if keeps(&next.solution) && next.solution.damage < best.damage {
            best = next.solution.clone();
        }
        let slack = ROUNDING.sqrt() * (weight(&inside).abs() + price * role.most.abs());
        if weight(&next.solution) >= weight(&inside) - slack {
            break;
        }
        if keeps(&next.solution) { inside = next.solution } else { outside = next.solution }
    }
    let exact = best.damage <= bound + ROUNDING * best.damage.abs();
    Some(Best { solution: best, exact })
}

/// The front of milliseconds and damage among what fits, over prices of a byte.
pub(super) fn front(problem: &Problem, bytes: f64, effort: Effort) -> Front {
    let free = curve::front(problem, &Goal::MS, effort);
    if free.solutions.iter().all(|s| within(s.bytes, bytes)) {
        return free;
    }
    let effort = lighter(problem, effort);
    let small = curve::front(problem, &Goal::BYTES, effort);
    let span = |figure: fn(&Solution) -> f64| {
        let all = || free.solutions.iter().chain(&small.solutions).map(figure);
        all().fold(f64::NEG_INFINITY, f64::max) - all().fold(f64::INFINITY, f64::min)
    };
    let slope = span(|s| s.ms) / span(|s| s.bytes);
    let mut kept: Vec<(Solution, usize)> = Vec::new();
    let merge = |kept: &mut Vec<(Solution, usize)>, solutions: Vec<Solution>, solve: usize| {
        kept.extend(solutions.into_iter().filter(|s| within(s.bytes, bytes)).map(|s| (s, solve)));
        kept.sort_by(|(a, i), (b, j)| {
            a.ms.total_cmp(&b.ms).then(a.damage.total_cmp(&b.damage)).then_with(|| (&a.options, i).cmp(&(&b.options, j)))
        });
        let mut least = f64::INFINITY;
        kept.retain(|(s, _)| {
            s.damage < least && {
                least = s.damage;
                true
            }
        });
    };
    merge(&mut kept, free.solutions, 0);
    merge(&mut kept, small.solutions, 1);
    let mut prices: Vec<f64> = Vec::new();
    for step in 0..PRICES.len() + BETWEEN {
        let next = PRICES.get(step).map(|p| p * slope).or_else(|| between(&prices, &kept));
        let Some(price) = next.filter(|p| p.is_finite() && *p > 0.0) else { break };
        prices.push(price);
        merge(&mut kept, curve::front(problem, &Goal { cost: [1.0, price], ..Goal::MS }, effort).solutions, prices.len() + 1);
    }
    let solutions = non_dominated(kept.into_iter().map(|(s, _)| s).collect(), |s| [s.ms, s.damage]);
    Front { solutions: by_time(solutions), exact: false }
}

/// The middle of the two neighbouring prices that gave most of the front.
fn between(prices: &[f64], kept: &[(Solution, usize)]) -> Option<f64> {
    let given = |i: usize| kept.iter().filter(|(_, solve)| *solve == i + 2).count();
    let mut sorted: Vec<(f64, usize)> = prices.iter().enumerate().map(|(i, &p)| (p, given(i))).collect();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    let pairs = sorted.windows(2).map(|w| ((w[0].0 * w[1].0).sqrt(), w[0].1 + w[1].1, w[1].0 / w[0].0));
    pairs.max_by(|a, b| a.1.cmp(&b.1).then(a.2.total_cmp(&b.2))).map(|(price, ..)| price)
}
