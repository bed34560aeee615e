//! What a network costs on an Ascend chip: predicted, from a profile of the chip.
//!
//! * [`profile`]: the chips, as YAML a user can copy and change; [`kernel`]: what runs as one launch after ATC's fusion
//!   (`fuse` says what joins, `work` and `traffic` how much there is to do); [`latency`]: the time of each kernel; [`size`]: bytes of the deployed model;
//!   [`msprof`]: the profiler's measured times, row by kernel.
//!
//! The seam is `extract` then `predict`: kernels depend on the network alone, their times on the profile.

mod fuse;
pub mod kernel;
pub mod latency;
pub mod msprof;
pub mod profile;
pub mod size;
mod traffic;
mod work;

pub use kernel::{Kernel, extract};
pub use latency::{KernelTime, Prediction, predict};
pub use profile::Profile;
pub use size::deployed_bytes;
