//! ONNX graphs: what the file says, and what follows from it.
//!
//! * [`proto`]: the messages; [`model`]: a parsed file and an index over it; [`tensor`]: constants as arrays.
//! * [`external`]: weights in files beside the model.
//! * [`shape`]: the shape of every value at a given batch; [`fold`]: the small constants it needs.
//! * [`layer`]: the nodes compression acts on; [`group`]: which channels can only be removed together.
//! * [`patch`]: rewrites as checked values.
//!
//! This module mirrors ONNX and knows nothing of plans, chips or searches.

mod channel_forms;
mod channel_rules;
mod channels;
pub mod external;
#[cfg(test)]
pub(crate) mod fixture;
pub mod fold;
mod grid;
pub mod group;
pub mod layer;
pub mod model;
pub mod patch;
pub mod proto;
pub mod shape;
mod shape_rule;
mod shape_window;
pub mod tensor;

pub use model::{Index, Model};
