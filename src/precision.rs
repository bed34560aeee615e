//! The precisions a layer can run in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number format of a layer's weights and of the activations it reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Half floats: what ATC makes of a float model, and the baseline of every figure.
    Fp16,
    /// 8-bit integers for weights and activations (W8A8).
    Int8,
    /// 4-bit integers for weights and activations (W4A4), what the cube's `s4s4` multiply-add takes.
    Int4,
}

impl Precision {
    /// All of them, from the widest.
    pub const ALL: [Self; 3] = [Self::Fp16, Self::Int8, Self::Int4];

    /// Bits of a stored weight.
    pub const fn weight_bits(self) -> u64 {
        match self {
            Self::Fp16 => 16,
            Self::Int8 => 8,
            Self::Int4 => 4,
        }
    }

    /// Bits of the integers that weights and activations are rounded to; none for floats.
    pub const fn integer_bits(self) -> Option<u32> {
        match self {
            Self::Fp16 => None,
            Self::Int8 => Some(8),
            Self::Int4 => Some(4),
        }
    }

    /// The name in files: `fp16`, `int8`, `int4`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp16 => "fp16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
