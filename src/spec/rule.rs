//! Rules: which options some layers have (in a space), or which treatment they get (in a plan).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Balance, Patterns, RangeRule, Round};
use crate::precision::Precision;

/// A rank as written: `full`, a fraction of the full rank, or a number of components.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rank {
    /// Not decomposed.
    Full,
    /// A fraction of the full rank, in (0, 1).
    Fraction(f64),
    /// A number of components.
    Components(usize),
}

impl<'de> Deserialize<'de> for Rank {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Rank;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rank: full, a fraction below 1 such as 0.5, or a whole number of components")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Rank, E> {
                if v == "full" { Ok(Rank::Full) } else { Err(E::custom(format!("\"{v}\" is not a rank: write full, 0.5 or 48"))) }
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Rank, E> {
                match v {
                    v if v > 0.0 && v < 1.0 => Ok(Rank::Fraction(v)),
                    1.0 => Ok(Rank::Full),
                    v => Err(E::custom(format!("{v} is not a rank: fractions lie between 0 and 1, numbers of components are whole"))),
                }
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Rank, E> {
                match usize::try_from(v) {
                    Ok(0) | Err(_) => Err(E::custom(format!("{v} is not a rank"))),
                    Ok(n) => Ok(Rank::Components(n)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl Serialize for Rank {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Full => s.serialize_str("full"),
            Self::Fraction(f) => s.serialize_f64(f),
            Self::Components(n) => s.serialize_u64(n as u64),
        }
    }
}

/// A share of channels to keep, in (0, 1].
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Keep(pub f64);

impl<'de> Deserialize<'de> for Keep {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let share = super::Share::deserialize(deserializer)?.0;
        if share > 0.0 { Ok(Self(share)) } else { Err(de::Error::custom("keep must be above 0")) }
    }
}

/// The options of some layers; a key that is left out stays as an earlier rule had it.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpaceRule {
    /// Which layers.
    pub layers: Patterns,
    /// Precisions to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Vec<Precision>>,
    /// Shares of output channels to keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Vec<Keep>>,
    /// Ranks to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<Vec<Rank>>,
    /// Ranges of activations to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<Vec<RangeRule>>,
    /// Ways of rounding weights to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Vec<Round>>,
    /// Ways of balancing input channels to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<Vec<Balance>>,
}

impl SpaceRule {
    /// Whether a list of options is there but empty.
    pub fn has_an_empty_list(&self) -> bool {
        fn empty<T>(list: &Option<Vec<T>>) -> bool {
            list.as_ref().is_some_and(Vec::is_empty)
        }
        let bits = empty(&self.precision) || empty(&self.activations) || empty(&self.round) || empty(&self.balance);
        bits || empty(&self.keep) || empty(&self.rank)
    }
}

/// The treatment of some layers; a key that is left out stays as an earlier rule had it, at first FP16, all channels, full rank.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanRule {
    /// Which layers.
    pub layers: Patterns,
    /// Precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub precision: Option<Precision>,
    /// Share of output channels to keep.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep: Option<Keep>,
    /// Rank.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<Rank>,
    /// Range of activations.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub activations: Option<RangeRule>,
    /// Rounding of weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
    /// Balancing of input channels.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
}
