//! Axes of the space, as a search sees them: a name, a kind, and options from the mildest to the strongest.

use super::limits;
use crate::{
    device::Split,
    precision::Precision,
    spec::{Balance, RangeRule, Round, Sparsity},
};

/// What an axis decides.
#[derive(Debug, Clone, PartialEq)]
pub enum Choice {
    /// Precision of a layer (position among the layers).
    Precision(usize, Vec<Precision>),
    /// Share of channels kept in a group (position among the groups).
    Keep(usize, Vec<f64>),
    /// Decomposition of a layer (position among the layers); none is the undecomposed layer.
    Rank(usize, Vec<Option<Split>>),
    /// Zeros of a layer's weight by pattern.
    Sparsity(usize, Vec<Sparsity>),
    /// Range of a layer's activations.
    Activations(usize, Vec<RangeRule>),
    /// Rounding of a layer's weights.
    Round(usize, Vec<Round>),
    /// Balancing of a layer's input channels.
    Balance(usize, Vec<Balance>),
}

/// One decision of the search. Option 0 is the mildest; where "no change" is among the options, it is option 0.
#[derive(Debug, Clone, PartialEq)]
pub struct Axis {
    /// Layer's or group's name.
    pub name: String,
    /// The options.
    pub choice: Choice,
}

impl Axis {
    /// Number of options, at least 2 for an axis of a space.
    pub fn len(&self) -> usize {
        match &self.choice {
            Choice::Precision(_, o) => o.len(),
            Choice::Keep(_, o) => o.len(),
            Choice::Rank(_, o) => o.len(),
            Choice::Sparsity(_, o) => o.len(),
            Choice::Activations(_, o) => o.len(),
            Choice::Round(_, o) => o.len(),
            Choice::Balance(_, o) => o.len(),
        }
    }

    /// Whether there are no options.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The kind: axes of one kind can be moved together in a uniform plan.
    pub const fn kind(&self) -> Kind {
        match self.choice {
            Choice::Precision(..) => Kind::Precision,
            Choice::Keep(..) => Kind::Keep,
            Choice::Rank(..) => Kind::Rank,
            Choice::Sparsity(..) => Kind::Sparsity,
            Choice::Activations(..) => Kind::Activations,
            Choice::Round(..) => Kind::Round,
            Choice::Balance(..) => Kind::Balance,
        }
    }

    /// An option in words.
    pub fn describe(&self, option: usize) -> String {
        match &self.choice {
            Choice::Precision(_, o) => o[option].to_string(),
            Choice::Keep(_, o) => format!("keep {}", o[option]),
            Choice::Rank(_, o) => o[option].map_or_else(|| "full rank".into(), limits::describe),
            Choice::Sparsity(_, o) => format!("sparsity {}", o[option]),
            Choice::Activations(_, o) => format!("range {}", o[option].name()),
            Choice::Round(_, o) => format!("round {}", o[option].name()),
            Choice::Balance(_, o) => format!("balance {}", o[option]),
        }
    }
}

/// Kind of an axis.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Bits.
    Precision,
    /// Channels.
    Keep,
    /// Decomposition.
    Rank,
    /// Zeros by pattern.
    Sparsity,
    /// Range of activations.
    Activations,
    /// Rounding of weights.
    Round,
    /// Balancing of channels.
    Balance,
}
