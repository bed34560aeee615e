//! Measured times: the profiler's table of tasks, and which of its rows are which of our kernels.
//!
//! [`read`] takes an `op_summary_*.csv` of msprof or a `kernel_details.csv` of torch_npu, [`one_inference`] makes one list of
//! operators of the inferences in it, and [`match_rows`] pairs that list with [`extract`](super::extract)'s kernels: by the node
//! names that a fused operator's name is made of, then by kind, shapes and place, and never where two pairings are as good.
//!
//! Headers: CANN's profiling guide ("op_summary"), msprof's own tests (timestamps end in a tab, shapes carry quotes within the
//! cell), torch_npu's `OP_SUMMARY_KERNEL_BASE_HEADERS`. Names of fused operators: the tests of msaccucmp and of the om parser.

mod family;
mod matching;
mod names;
mod repeat;
mod table;
#[cfg(test)]
mod tests;

pub use matching::{Evidence, Matching, Pair, match_rows};
pub use repeat::{OneInference, one_inference};
pub use table::{Row, Table, parse, read};
