//! The profiler's rows of a model as cases for a fit: a case for each kernel that was found again.

use super::{Case, What};
use crate::{
    device::{
        kernel::Kernel,
        msprof::{Matching, OneInference, Table, match_rows, one_inference},
    },
    precision::Precision,
};

/// Kernels that are left out in turn when the fit to the others is judged.
const FOLDS: usize = 5;

/// What became of the profiler's rows.
pub struct Profiled {
    /// A measurement for each kernel, or group of kernels, that was found; its family is its fold.
    pub cases: Vec<Case>,
    /// The rows of one inference.
    pub inference: OneInference,
    /// Which row belongs to which kernel.
    pub matching: Matching,
}

/// Finds a model's kernels among the profiler's rows. `network` and `batch` are for the report.
pub fn cases(kernels: &[Kernel], table: &Table, network: &str, batch: usize) -> Profiled {
    let inference = one_inference(&table.rows);
    let matching = match_rows(kernels, &inference.rows);
    let case = |(i, pair): (usize, &crate::device::msprof::Pair)| Case {
        network: pair.kernels.iter().map(|&k| kernels[k].name.as_str()).collect::<Vec<_>>().join(" + "),
        family: format!("{network}, fold {}", i % FOLDS),
        batch,
        precision: pair.kernels.first().map_or(Precision::Fp16, |&k| kernels[k].precision),
        what: What::Kernels(pair.kernels.iter().map(|&k| kernels[k].clone()).collect()),
        ms: pair.us / 1e3,
    };
    let cases = matching.pairs.iter().enumerate().filter(|(_, p)| p.us > 0.0).map(case).collect();
    Profiled { cases, inference, matching }
}
