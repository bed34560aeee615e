//! What a network costs on an Ascend chip: predicted, from a profile of the chip.
//!
//! * [`profile`]: the chips, as YAML a user can copy and change, with fitted [`coefficients`] and the [`evidence`] for them; [`platform`]: a
//!   chip's file of CANN, and the profile that comes of it.
//! * [`kernel`]: what runs as one launch after ATC's fusion (`extract` finds it, `fuse` says what joins, `work` and `traffic` how much there is to do);
//!   [`latency`]: the time of each kernel; [`treat`]: the kernels of a treated layer; [`size`]: bytes of the deployed model.
//! * [`breakdown`]: a prediction by kind of kernel; [`mod@compare`]: where the time went between two; [`anchor`]: what a measurement of the user's does to one.
//! * [`target`]: what brings nothing on a chip.
//! * [`fit`]: coefficients from measurements; [`msprof`]: the profiler's measured times, row by kernel.
//!
//! The seam is `extract` then `predict`: kernels depend on the network alone, their times on the profile.

pub mod anchor;
pub mod breakdown;
pub mod coefficients;
pub mod compare;
pub mod evidence;
mod extract;
pub mod fit;
#[cfg(test)]
mod fixture;
mod fuse;
pub mod kernel;
pub mod latency;
pub mod msprof;
pub mod platform;
pub mod profile;
pub mod size;
pub mod target;
mod traffic;
pub mod treat;
mod work;

pub use anchor::Anchor;
pub use breakdown::{Kind, by_kind};
pub use coefficients::Coefficients;
pub use compare::{Comparison, compare};
pub use evidence::Evidence;
pub use extract::{extract, extract_under};
pub use kernel::{Conditions, Kernel, mark_sparse};
pub use latency::{Extrapolated, KernelTime, Prediction, predict};
pub use platform::Platform;
pub use profile::Profile;
pub use size::{bytes_by_node, deployed_bytes, sparse_bytes};
pub use target::Target;
pub use treat::{Split, Treated};
