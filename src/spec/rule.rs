//! Rules: which options some layers have (in a space), or which treatment they get (in a plan).

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{Balance, Patterns, RangeRule, Round};
use crate::precision::Precision;

/// Into what a layer is decomposed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Form {
    /// k×k to the rank, then 1×1; two products for a matrix.
    #[default]
    Channel,
    /// k×1 to the rank, then 1×k, or the other way round, as AMCT does.
    Spatial,
    /// 1×1, k×k, 1×1 (Tucker-2): inputs and outputs get a rank each.
    Tucker,
}

impl Form {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Channel, Self::Spatial, Self::Tucker];

    /// The name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Channel => "channel",
            Self::Spatial => "spatial",
            Self::Tucker => "tucker",
        }
    }
}

/// Which weights of a layer are zero by pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub enum Sparsity {
    /// None.
    #[default]
    #[serde(rename = "none")]
    None,
    /// Two of four neighbours along the input channels.
    #[serde(rename = "4:2")]
    FourToTwo,
}

impl fmt::Display for Sparsity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::FourToTwo => "4:2",
        })
    }
}

/// A rank as written: `full`, a fraction of the full rank, a number of components, two of them, or `amct`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Rank {
    /// Not decomposed.
    Full,
    /// A fraction of the full rank, in (0, 1).
    Fraction(f64),
    /// A number of components.
    Components(usize),
    /// Components after the first and after the second part of a Tucker-2 decomposition.
    Pair(usize, usize),
    /// What AMCT's rule chooses, in the spatial form.
    Amct,
}

impl<'de> Deserialize<'de> for Rank {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Rank;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a rank: full, amct, a fraction below 1 such as 0.5, a whole number of components, or two such as [32, 48] for form tucker")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Rank, E> {
                match v {
                    "full" => Ok(Rank::Full),
                    "amct" => Ok(Rank::Amct),
                    _ => Err(E::custom(format!("\"{v}\" is not a rank: write full, amct, 0.5 or 48"))),
                }
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Rank, A::Error> {
                let mut list = Vec::new();
                while let Some(n) = seq.next_element::<usize>()? {
                    list.push(n);
                }
                match list[..] {
                    [input, output] if input > 0 && output > 0 => Ok(Rank::Pair(input, output)),
                    _ => Err(de::Error::custom("two ranks above 0 are written as [32, 48]: inputs first, then outputs")),
                }
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
            Self::Pair(input, output) => [input, output].serialize(s),
            Self::Amct => s.serialize_str("amct"),
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
    /// What a rank may mean.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Vec<Form>>,
    /// Patterns of zeros to try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Vec<Sparsity>>,
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
        bits || empty(&self.keep) || empty(&self.rank) || empty(&self.form) || empty(&self.sparsity)
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
    /// What the rank means.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Form>,
    /// Pattern of zeros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
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
