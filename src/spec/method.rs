//! How a layer is quantized: ranges, rounding, balancing. Every key may be left out, for the default of its precision.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::Share;
use crate::precision::Precision;

/// How the range of activations is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RangeRule {
    /// From the smallest to the largest value seen.
    MinMax,
    /// Cut at a percentile of both tails.
    Percentile,
    /// The range with the least squared error over the histogram.
    Mse,
    /// The range whose rounded histogram has the least Kullback-Leibler divergence from the clipped one (Migacz, GTC 2017).
    Kl,
    /// AMCT's IFMR: the largest value, less a millionth of outliers, times 0.7 to 1.3, by squared error.
    Ifmr,
    /// AMCT's HFMG: ends of the histogram dropped greedily, by the squared error of evenly filled bins.
    Hfmg,
}

/// How the scale of a weight is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WeightRule {
    /// From the largest magnitude: AMCT's ARQ.
    MinMax,
    /// The scale with the least squared error, weighted by the inputs' second moments where they are known.
    #[default]
    Mse,
}

/// How weights become integers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Round {
    /// Each to the nearest.
    Nearest,
    /// Column by column, what one rounding loses given to the columns that follow (GPTQ, arXiv 2210.17323).
    Gptq,
    /// As `gptq`, then every rounding reconsidered until none can be changed for the better (the loss of AdaRound, arXiv 2004.10568).
    Adaround,
    /// As `adaround`, each layer fitted to its float outputs behind the layers already quantized; costs a run of some samples.
    Reconstruct,
}

/// How the channels of a layer's input are brought to one scale before they share a grid.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Balance {
    /// They stay as they are.
    None,
    /// The strength is searched, no balancing among the options.
    Auto,
    /// Cross-layer equalisation (arXiv 1906.04721) with the layer before; for layers behind a layer and a ReLU.
    Equalize,
    /// Factors max|x|^s / max|w|^(1−s) of this strength s (SmoothQuant, arXiv 2211.10438; AMCT's DMQ).
    Strength(f64),
}

/// How one layer is quantized; what is none has the default of the spec, or else of the precision.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Method {
    /// Range of activations.
    pub activations: Option<RangeRule>,
    /// Rounding of weights.
    pub round: Option<Round>,
    /// Balancing of input channels.
    pub balance: Option<Balance>,
}

/// How layers are quantized where their treatment does not say it, and what is measured for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct QuantizeSpec {
    /// Range of activations.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub activations: Option<RangeRule>,
    /// For `percentile`: share of values inside, e.g. 99.99%.
    pub percentile: Share,
    /// Whether activations have an offset; without one their integers are symmetric around 0.
    pub offset: bool,
    /// Scale of weights.
    pub weights: WeightRule,
    /// Rounding of weights.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub round: Option<Round>,
    /// Balancing of input channels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub balance: Option<Balance>,
    /// Whether biases take up what rounding changes on average.
    pub bias_correction: bool,
    /// Positions of each calibration sample that a layer's Gram matrix is measured at.
    pub positions: usize,
    /// Calibration samples that `reconstruct` runs.
    pub reconstruction: usize,
}

impl Default for QuantizeSpec {
    fn default() -> Self {
        Self {
            activations: None,
            percentile: Share(0.9999),
            offset: true,
            weights: WeightRule::Mse,
            round: None,
            balance: None,
            bias_correction: true,
            positions: 16,
            reconstruction: 512,
        }
    }
}

/// A [`Method`] with nothing left open.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Settled {
    /// Range of activations.
    pub activations: RangeRule,
    /// Rounding of weights.
    pub round: Round,
    /// Balancing of input channels.
    pub balance: Balance,
}

impl QuantizeSpec {
    /// What a treatment's method means: its own words, else the spec's, else what is best for the precision.
    pub fn settle(&self, method: &Method, precision: Precision) -> Settled {
        let few = precision.activation_bits() == Some(4);
        let default = Settled {
            activations: RangeRule::Mse,
            round: if precision.weight_bits() == 4 { Round::Adaround } else { Round::Nearest },
            balance: if few { Balance::Auto } else { Balance::None },
        };
        Settled {
            activations: method.activations.or(self.activations).unwrap_or(default.activations),
            round: method.round.or(self.round).unwrap_or(default.round),
            balance: method.balance.or(self.balance).unwrap_or(default.balance),
        }
    }
}

impl RangeRule {
    /// All of them.
    pub const ALL: [Self; 6] = [Self::MinMax, Self::Percentile, Self::Mse, Self::Kl, Self::Ifmr, Self::Hfmg];

    /// The name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::MinMax => "min_max",
            Self::Percentile => "percentile",
            Self::Mse => "mse",
            Self::Kl => "kl",
            Self::Ifmr => "ifmr",
            Self::Hfmg => "hfmg",
        }
    }
}

impl Round {
    /// The name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nearest => "nearest",
            Self::Gptq => "gptq",
            Self::Adaround => "adaround",
            Self::Reconstruct => "reconstruct",
        }
    }
}

impl fmt::Display for Balance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::Auto => f.write_str("auto"),
            Self::Equalize => f.write_str("equalize"),
            Self::Strength(s) => write!(f, "{s}"),
        }
    }
}

impl fmt::Display for Method {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let activations = self.activations.map(|r| format!("range {}", r.name()));
        let round = self.round.map(|r| format!("round {}", r.name()));
        let balance = self.balance.map(|b| format!("balance {b}"));
        let words: Vec<String> = [activations, round, balance].into_iter().flatten().collect();
        f.write_str(&words.join(", "))
    }
}

impl Serialize for Balance {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match *self {
            Self::Strength(strength) => s.serialize_f64(strength),
            word => s.serialize_str(&word.to_string()),
        }
    }
}

impl<'de> Deserialize<'de> for Balance {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Balance;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("none, auto, equalize, or a strength from 0 to 1 such as 0.5")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Balance, E> {
                match v {
                    "none" => Ok(Balance::None),
                    "auto" => Ok(Balance::Auto),
                    "equalize" => Ok(Balance::Equalize),
                    _ => Err(E::custom(format!("\"{v}\" is no balance: write none, auto, equalize, or a strength such as 0.5"))),
                }
            }
            fn visit_f64<E: de::Error>(self, v: f64) -> Result<Balance, E> {
                match v {
                    v if (0.0..=1.0).contains(&v) => Ok(Balance::Strength(v)),
                    v => Err(E::custom(format!("a balance of strength {v} is not between 0 and 1"))),
                }
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Balance, E> {
                self.visit_f64(v as f64)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}
