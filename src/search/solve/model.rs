//! The problem as the elimination sees it: every table entry is a pair of cost and harm.

use super::{Problem, Solution};

/// A pair of cost, which is limited or traded, and harm, which is minimised.
pub(super) type Pair = [f64; 2];

/// What cost and harm are made of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Goal {
    /// Weights of milliseconds and bytes in the cost.
    pub cost: [f64; 2],
    /// Weights of damage, milliseconds and bytes in the harm.
    pub harm: [f64; 3],
}

impl Goal {
    /// Milliseconds as cost, damage as harm.
    pub const MS: Self = Self { cost: [1.0, 0.0], harm: [1.0, 0.0, 0.0] };
    /// Bytes as cost, damage as harm.
    pub const BYTES: Self = Self { cost: [0.0, 1.0], harm: [1.0, 0.0, 0.0] };

    pub fn cost(&self, s: &Solution) -> f64 {
        self.cost[0] * s.ms + self.cost[1] * s.bytes
    }

    pub fn harm(&self, s: &Solution) -> f64 {
        self.harm[0] * s.damage + self.harm[1] * s.ms + self.harm[2] * s.bytes
    }

    fn pair(&self, ms: f64, bytes: f64) -> Pair {
        [self.cost[0] * ms + self.cost[1] * bytes, self.harm[1] * ms + self.harm[2] * bytes]
    }
}

/// A table over a few axes, row-major with the last axis fastest.
#[derive(Debug, Clone)]
pub(super) struct Factor {
    pub axes: Vec<usize>,
    pub table: Vec<Pair>,
}

/// Factors over axes, harm of every option, and what no option changes.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub options: Vec<usize>,
    pub harm: Vec<Vec<f64>>,
    pub factors: Vec<Factor>,
    pub constant: Pair,
}

impl Model {
    /// The problem under a goal. Entries that are not finite stay so and forbid their combination.
    pub fn new(problem: &Problem, goal: &Goal) -> Self {
        let mut constant = goal.pair(problem.fixed_ms, problem.fixed_bytes);
        let mut factors = Vec::with_capacity(problem.terms.len());
        for term in &problem.terms {
            let size = term.axes.iter().map(|&a| problem.options[a]).product();
            let table: Vec<Pair> = (0..size).map(|i| goal.pair(super::entry(&term.ms, i), super::entry(&term.bytes, i))).collect();
            match table.first() {
                Some(pair) if term.axes.is_empty() => constant = add(constant, *pair),
                _ => factors.push(Factor { axes: term.axes.clone(), table }),
            }
        }
        let harm = problem.damage.iter().map(|d| d.iter().map(|x| x * goal.harm[0]).collect()).collect();
        Self { options: problem.options.clone(), harm, factors, constant }
    }

    /// Largest magnitudes that cost and harm can reach on the way: the measure for rounding.
    pub fn scale(&self) -> Pair {
        let most = |values: &mut dyn Iterator<Item = f64>| values.filter(|v| v.is_finite()).fold(0.0, |m: f64, v| m.max(v.abs()));
        let tables =
            [0, 1].map(|k| self.factors.iter().map(|f| most(&mut f.table.iter().map(|p| p[k]))).sum::<f64>() + self.constant[k].abs());
        [tables[0], tables[1] + self.harm.iter().map(|h| most(&mut h.iter().copied())).sum::<f64>()]
    }

    /// What the factors and the harm of one axis add, for every assignment of `scope` and then every option of `axis`.
    pub fn local(&self, scope: &[usize], axis: usize, factors: &[usize]) -> Vec<Pair> {
        let cluster: Vec<usize> = scope.iter().copied().chain([axis]).collect();
        let states: usize = scope.iter().map(|&a| self.options[a]).product();
        let mut local: Vec<Pair> = (0..states).flat_map(|_| self.harm[axis].iter().map(|&h| [0.0, h])).collect();
        for factor in factors.iter().map(|&f| &self.factors[f]) {
            local.iter_mut().zip(Offsets::new(&self.options, &cluster, &factor.axes)).for_each(|(l, at)| *l = add(*l, factor.table[at]));
        }
        local
    }
}

impl Model {
    /// The same for one assignment only: what every option of `axis` adds where the scope's axes are as in `plan`.
    pub fn slice(&self, axis: usize, factors: &[usize], plan: &[u16]) -> Vec<Pair> {
        let mut slice: Vec<Pair> = self.harm[axis].iter().map(|&h| [0.0, h]).collect();
        for factor in factors.iter().map(|&f| &self.factors[f]) {
            let stride: usize = factor.axes.iter().skip_while(|&&a| a != axis).skip(1).map(|&a| self.options[a]).product();
            let first = offset(&self.options, &factor.axes, plan) - usize::from(plan[axis]) * stride;
            slice.iter_mut().enumerate().for_each(|(o, s)| *s = add(*s, factor.table[first + o * stride]));
        }
        slice
    }
}

pub(super) fn add(a: Pair, b: Pair) -> Pair {
    [a[0] + b[0], a[1] + b[1]]
}

/// Walks all assignments of some axes, last fastest, and gives the offset of each in a table over other axes.
pub(super) struct Offsets {
    dims: Vec<usize>,
    strides: Vec<usize>,
    digits: Vec<usize>,
    at: Option<usize>,
}

impl Offsets {
    /// Assignments of `over`, offsets into a table over `table`; axes of the table that are not walked stay at 0.
    pub fn new(options: &[usize], over: &[usize], table: &[usize]) -> Self {
        let stride =
            |axis: usize| table.iter().position(|&a| a == axis).map_or(0, |p| table[p + 1..].iter().map(|&a| options[a]).product());
        let dims: Vec<usize> = over.iter().map(|&a| options[a]).collect();
        let at = dims.iter().all(|&d| d > 0).then_some(0);
        Self { strides: over.iter().map(|&a| stride(a)).collect(), digits: vec![0; dims.len()], dims, at }
    }
}

impl Iterator for Offsets {
    type Item = usize;

    fn next(&mut self) -> Option<usize> {
        let now = self.at?;
        let mut at = now;
        for k in (0..self.dims.len()).rev() {
            if self.digits[k] + 1 < self.dims[k] {
                self.digits[k] += 1;
                self.at = Some(at + self.strides[k]);
                return Some(now);
            }
            at -= self.digits[k] * self.strides[k];
            self.digits[k] = 0;
        }
        self.at = None;
        Some(now)
    }
}

/// The offset of a plan in a table over `axes`.
pub(super) fn offset(options: &[usize], axes: &[usize], plan: &[u16]) -> usize {
    axes.iter().fold(0, |at, &a| at * options[a] + usize::from(plan[a]))
}
