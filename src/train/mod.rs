//! Training: gradients as graphs that ONNX Runtime runs, and what is done with them.
//!
//! * [`differentiate`](mod@differentiate): reverse mode, graph in, graph out.

pub mod differentiate;

pub use differentiate::{Differentiated, Wanted, differentiate};
