//! Measured times: the profiler's table of tasks.
//!
//! [`read`] takes an `op_summary_*.csv` of msprof or a `kernel_details.csv` of torch_npu, [`one_inference`] makes one list of
//! operators of the inferences in it.
//!
//! Headers: CANN's profiling guide ("op_summary"), msprof's own tests (timestamps end in a tab, shapes carry quotes within the
//! cell), torch_npu's `OP_SUMMARY_KERNEL_BASE_HEADERS`.

mod repeat;
mod table;

pub use repeat::{OneInference, one_inference};
pub use table::{Row, Table, parse, read};
