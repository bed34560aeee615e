//! What is known of a space before a candidate is measured: what every option does to the outputs, and what every candidate costs, in
//! tables small enough to be searched exactly.

use serde::{Deserialize, Serialize};

use super::solve::{Problem, Term};
use crate::space::{Candidate, Kind, Space};

/// Damage and cost of a space's options.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Tables {
    /// Squared error of the layers' outputs per their variance that an option alone makes, for every axis and option; 0 where it is free, NaN
    /// where it cannot be built.
    pub error: Vec<Vec<f64>>,
    /// The same as a distance of the network's output from the float model's, in the units of [`Score::distance`](crate::trial::Score).
    pub damage: Vec<Vec<f64>>,
    /// Latency (ms) and bytes, as a sum of tables over a few axes each.
    pub terms: Vec<Term>,
    /// Latency that no option changes, ms.
    pub fixed_ms: f64,
    /// Bytes that no option changes.
    pub fixed_bytes: f64,
}

impl Tables {
    /// Tables that know nothing: no damage, no cost. For strategies that need none.
    pub fn unknown(space: &Space) -> Self {
        let zeros = || space.axes.iter().map(|a| vec![0.0; a.len()]).collect();
        Self { error: zeros(), damage: zeros(), ..Self::default() }
    }

    /// The knapsack of these costs with another damage.
    pub fn problem(&self, damage: Vec<Vec<f64>>) -> Problem {
        Problem {
            options: damage.iter().map(Vec::len).collect(),
            damage,
            terms: self.terms.clone(),
            fixed_ms: self.fixed_ms,
            fixed_bytes: self.fixed_bytes,
        }
    }

    /// Error of a candidate's options, summed; axes of one kind alone, if one is given.
    pub fn total_error(&self, space: &Space, candidate: &Candidate, kind: Option<Kind>) -> f64 {
        let wanted = |a: usize| kind.is_none_or(|k| space.axes[a].kind() == k);
        candidate.0.iter().enumerate().filter(|(a, _)| wanted(*a)).map(|(a, &o)| self.error[a][usize::from(o)]).sum()
    }
}
