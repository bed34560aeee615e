//! Choice of one option for every axis of a network: least damage within limits of time and size, and the whole front.
//!
//! A multiple-choice knapsack with neighbour interactions: damage adds up over the axes, time and size are sums of
//! tables over a few axes each. Solved by variable elimination (Dechter, "Bucket elimination", Artificial Intelligence
//! 113, 1999) with lists of non-dominated labels in place of single values (Kellerer, Pferschy, Pisinger, "Knapsack
//! Problems", 2004, chapters 11 and 13). Exact as long as the lists fit; otherwise lists are thinned by buckets, and
//! where the tables do not fit either, weak interactions are fixed at a reference.
//!
//! - `order`: the order of elimination, as a tree of tables;
//! - `list`: lists of labels and their union;
//! - `eliminate`: the pass through the tree and the way back;
//! - `bound`: bounds on the rest of a plan;
//! - `condition`: what to leave out when tables get too large;
//! - `limit`, `sizes` and `curve`: one limit, two limits, and fronts.

mod bound;
mod condition;
mod curve;
mod eliminate;
mod limit;
mod list;
mod model;
mod order;
mod sizes;
#[cfg(test)]
mod tests;

use model::Goal;
use serde::{Deserialize, Serialize};

/// Share of a limit by which sums may exceed it, since their rounding depends on the order of the terms.
const TOLERANCE: f64 = 1e-12;

/// A table of time and size over a few axes.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Term {
    /// The axes, each once; an empty list makes a constant.
    pub axes: Vec<usize>,
    /// Milliseconds for every combination of options, row-major, last axis fastest; may be negative. Empty: all zero.
    /// An entry that is not finite forbids its combination.
    pub ms: Vec<f64>,
    /// Bytes in the same order, under the same rules.
    pub bytes: Vec<f64>,
}

/// Axes with their options, what they damage, and the tables that give time and size.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Problem {
    /// Number of options of every axis; option 0 is the mildest.
    pub options: Vec<usize>,
    /// Damage of every option of every axis, in any unit that adds up. An entry that is not finite forbids its option.
    pub damage: Vec<Vec<f64>>,
    /// Tables that sum to time and size.
    pub terms: Vec<Term>,
    /// Milliseconds that no option changes.
    pub fixed_ms: f64,
    /// Bytes that no option changes.
    pub fixed_bytes: f64,
}

/// A choice for every axis with its figures.
#[derive(Debug, Clone, PartialEq)]
pub struct Solution {
    /// The option of every axis.
    pub options: Vec<u16>,
    /// Milliseconds.
    pub ms: f64,
    /// Bytes.
    pub bytes: f64,
    /// Sum of the damages.
    pub damage: f64,
}

/// Solutions of which none is at least as good as another in both objectives.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Front {
    /// By ascending milliseconds.
    pub solutions: Vec<Solution>,
    /// Whether this is the whole front, as far as f64 can tell costs apart.
    pub exact: bool,
}

/// The least damage within limits.
#[derive(Debug, Clone, PartialEq)]
pub struct Best {
    /// The solution.
    pub solution: Solution,
    /// Whether nothing within the limits damages less: proven, not estimated.
    pub exact: bool,
}

/// How much memory and time a solve may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Labels kept in a list, at most 65 536; fewer where all lists together would take more than about 300 MB.
    pub labels: usize,
    /// Entries of the largest table that a combination of axes may need.
    pub states: usize,
}

impl Default for Effort {
    fn default() -> Self {
        Self { labels: 10_000, states: 4096 }
    }
}

impl Problem {
    /// Figures of a choice by summing the tables; infinite if the choice or the problem has the wrong shape.
    pub fn price(&self, options: &[u16]) -> Solution {
        let fits = options.len() == self.options.len() && options.iter().zip(&self.options).all(|(&o, &n)| usize::from(o) < n);
        let mut solution = Solution { options: options.to_vec(), ms: f64::INFINITY, bytes: f64::INFINITY, damage: f64::INFINITY };
        if fits && self.sound() {
            self.sum(&mut solution);
        }
        solution
    }

    /// Fills in the figures of a choice that fits.
    fn sum(&self, solution: &mut Solution) {
        let options = &solution.options;
        let at = |t: &Term| model::offset(&self.options, &t.axes, options);
        let sums = self.terms.iter().map(|t| (t, at(t))).map(|(t, i)| (entry(&t.ms, i), entry(&t.bytes, i)));
        (solution.ms, solution.bytes) = sums.fold((self.fixed_ms, self.fixed_bytes), |s, e| (s.0 + e.0, s.1 + e.1));
        solution.damage = self.damage.iter().zip(options).map(|(d, &o)| d[usize::from(o)]).sum();
    }

    /// The figures of a choice that came out of this problem, unless it is forbidden.
    fn priced(&self, options: Vec<u16>) -> Option<Solution> {
        let mut solution = Solution { options, ms: 0.0, bytes: 0.0, damage: 0.0 };
        self.sum(&mut solution);
        [solution.ms, solution.bytes, solution.damage].iter().all(|x| x.is_finite()).then_some(solution)
    }

    /// The front of milliseconds + `price_of_byte` * bytes against damage; `price_of_byte` in milliseconds per byte.
    ///
    /// Empty if every choice is forbidden or the problem has the wrong shape.
    pub fn front(&self, price_of_byte: f64, effort: Effort) -> Front {
        let goal = Goal { cost: [1.0, price_of_byte], ..Goal::MS };
        if self.sound() { curve::front(self, &goal, effort) } else { Front::default() }
    }

    /// The front of milliseconds against damage among the choices of at most `max_bytes` bytes.
    ///
    /// With a limit it is the union of what twelve prices of a byte reach, exact only if the limit excludes nothing.
    pub fn front_within(&self, max_bytes: Option<f64>, effort: Effort) -> Front {
        match max_bytes {
            _ if !self.sound() => Front::default(),
            None => curve::front(self, &Goal::MS, effort),
            Some(bytes) => sizes::front(self, bytes, effort),
        }
    }

    /// The least damage within limits of milliseconds and bytes; of equal damage the fastest.
    ///
    /// `None` if nothing found keeps the limits (nothing does, unless the lists or tables overflowed), or the problem
    /// has the wrong shape. Sums may exceed a limit by 1e-12 of it.
    pub fn best(&self, max_ms: Option<f64>, max_bytes: Option<f64>, effort: Effort) -> Option<Best> {
        if !self.sound() {
            return None;
        }
        match (max_ms, max_bytes) {
            (Some(ms), Some(bytes)) => sizes::best(self, ms, bytes, effort),
            (None, Some(bytes)) => limit::best(self, &Goal::BYTES, bytes, effort, limit::WORK),
            (ms, None) => limit::best(self, &Goal::MS, ms.unwrap_or(f64::INFINITY), effort, limit::WORK),
        }
    }

    /// [`Problem::best`] without the word on whether it is exact.
    pub fn best_within(&self, max_ms: Option<f64>, max_bytes: Option<f64>, effort: Effort) -> Option<Solution> {
        self.best(max_ms, max_bytes, effort).map(|b| b.solution)
    }

    /// Whether every table has the size that its axes say.
    fn sound(&self) -> bool {
        let size = |axes: &[usize]| axes.iter().try_fold(1_usize, |n, &a| n.checked_mul(*self.options.get(a)?));
        let full = |table: &[f64], n: usize| table.is_empty() || table.len() == n;
        let once = |axes: &[usize]| axes.iter().enumerate().all(|(i, a)| !axes[..i].contains(a));
        self.options.iter().all(|n| (1..=list::MOST).contains(n))
            && self.damage.iter().map(Vec::len).eq(self.options.iter().copied())
            && self.terms.iter().all(|t| once(&t.axes) && size(&t.axes).is_some_and(|n| full(&t.ms, n) && full(&t.bytes, n)))
    }
}

/// An entry of a table, zero if the table is empty.
fn entry(table: &[f64], at: usize) -> f64 {
    table.get(at).copied().unwrap_or(0.0)
}

/// Whether a figure keeps a limit.
fn within(figure: f64, limit: f64) -> bool {
    figure <= limit + if limit.is_finite() { TOLERANCE * limit.abs() } else { 0.0 }
}
