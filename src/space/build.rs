//! The two ways to build the network of a plan.

use serde::{Deserialize, Serialize};

/// How a plan's network is built. Where a plan changes no structure, both are the same network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Build {
    /// Each layer is reconstructed by the float network's inputs: cheap, and the same for a layer in many plans.
    #[default]
    Parallel,
    /// Each layer is reconstructed by the inputs it really gets from the treated layers before it: slower, more accurate.
    Sequential,
}
