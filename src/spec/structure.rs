//! How channels and ranks are taken away.

use serde::{Deserialize, Serialize};

/// Which channels go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Score {
    /// Those whose loss is least after the layers that read them were fitted again.
    #[default]
    Refit,
    /// Those with the smallest filters (L2).
    Norm,
    /// AMCT's balanced L2 norm: scaled to 0..1 within each layer.
    BalancedNorm,
    /// Those with the smallest mean square.
    Energy,
}

/// What is done for the outputs of layers that lose input channels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// Their weights are fitted to the channels that stay, and their biases take up the mean.
    #[default]
    Refit,
    /// Their biases take up the mean.
    Bias,
    /// Nothing, as with AMCT before training.
    None,
}

/// What a decomposition keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Whiten {
    /// The outputs, by the moments of the inputs.
    #[default]
    Inputs,
    /// The weights, as AMCT.
    None,
}

/// How channels and ranks are taken away, and what is measured for it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct StructureSpec {
    /// Which channels go first.
    pub score: Score,
    /// What is done for the outputs of the layers that read them.
    pub repair: Repair,
    /// What a decomposition keeps.
    pub whiten: Whiten,
    /// Positions of each calibration sample that a layer's Gram matrix is measured at, where channels or ranks may go.
    pub positions: usize,
    /// Calibration samples that are run to build a network layer by layer behind the layers treated before.
    pub samples: usize,
}

impl Default for StructureSpec {
    fn default() -> Self {
        Self { score: Score::Refit, repair: Repair::Refit, whiten: Whiten::Inputs, positions: 256, samples: 512 }
    }
}
