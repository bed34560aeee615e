//! The precisions a layer can run in.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Number formats of a layer's weights and of the activations it reads, from the mildest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Precision {
    /// Half floats: what ATC makes of a float model, and the baseline of every figure.
    Fp16,
    /// 8-bit weights that become half floats on the chip; activations stay half floats (weight-only quantization).
    W8a16,
    /// 8-bit integers for weights and activations (W8A8).
    #[serde(alias = "w8a8")]
    Int8,
    /// 4-bit weights that become 8-bit integers on the chip, 8-bit activations.
    W4a8,
    /// 4-bit integers for weights and activations (W4A4), what the cube's `s4s4` multiply-add takes.
    #[serde(alias = "w4a4")]
    Int4,
}

impl Precision {
    /// All of them, from the widest.
    pub const ALL: [Self; 5] = [Self::Fp16, Self::W8a16, Self::Int8, Self::W4a8, Self::Int4];

    /// Bits of a stored weight.
    pub const fn weight_bits(self) -> u32 {
        match self {
            Self::Fp16 => 16,
            Self::W8a16 | Self::Int8 => 8,
            Self::W4a8 | Self::Int4 => 4,
        }
    }

    /// Bits of the integers that activations are rounded to; none where they stay floats.
    pub const fn activation_bits(self) -> Option<u32> {
        match self {
            Self::Fp16 | Self::W8a16 => None,
            Self::Int8 | Self::W4a8 => Some(8),
            Self::Int4 => Some(4),
        }
    }

    /// Format of the activations a layer reads, which is that of its products too: `fp16`, `int8` or `int4`.
    pub const fn activations(self) -> Self {
        match self {
            Self::Fp16 | Self::W8a16 => Self::Fp16,
            Self::Int8 | Self::W4a8 => Self::Int8,
            Self::Int4 => Self::Int4,
        }
    }

    /// Whether weights are stored narrower than the products are, and become wider on the chip.
    pub fn widens_weights(self) -> bool {
        self != self.activations()
    }

    /// Whether weights are rounded to integers.
    pub const fn is_quantized(self) -> bool {
        !matches!(self, Self::Fp16)
    }

    /// The name in files: `fp16`, `w8a16`, `int8`, `w4a8`, `int4`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fp16 => "fp16",
            Self::W8a16 => "w8a16",
            Self::Int8 => "int8",
            Self::W4a8 => "w4a8",
            Self::Int4 => "int4",
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}
