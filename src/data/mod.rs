//! The user's data: samples as the model takes them, and the metrics that judge what the model makes of them.
//!
//! [`Source`] says where samples are and [`Input`] how they become model inputs; both are parts of a study's spec.
//! [`Dataset::open`] reads them. Samples stay as stored (bytes, or files on disk) and become floats a batch at a time, so
//! that 10,000 CIFAR images take 30 MB. [`Metric`] scores outputs sample by sample, [`Interval`] compares two models on
//! the same samples, and [`run_command`] asks a metric of the user's own.

mod arrange;
mod command;
mod dataset;
mod images;
mod input;
mod interval;
mod labels;
mod metric;
mod npz;
mod open;
mod raw;
mod score;
mod source;

pub use command::run_command;
pub use dataset::Dataset;
pub use input::{Channels, Input, InputSpec, Layout};
pub use interval::{Interval, inverse_normal, paired, paired_means, paired_proportions, student_quantile};
pub use metric::{Command, CommandInput, Direction, Metric};
pub use raw::Dtype;
pub use source::Source;
