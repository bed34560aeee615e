//! ONNX graphs: what the file says, and what follows from it.
//!
//! * [`proto`]: the messages; [`model`]: a parsed file and an index over it; [`tensor`]: constants as arrays.
//! * [`normalise`]: brings constants and BatchNorm into one plain form.
//! * [`shape`]: the shape of every value at a given batch.
//! * [`layer`]: the nodes compression acts on; [`group`]: which channels can only be removed together.
//! * [`patch`]: rewrites as checked values.
//!
//! This module mirrors ONNX and knows nothing of plans, chips or searches.

pub mod group;
pub mod layer;
pub mod model;
pub mod patch;
pub mod proto;
pub mod shape;
pub mod tensor;

pub use model::{Index, Model};
