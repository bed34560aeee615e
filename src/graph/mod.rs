//! ONNX graphs: what the file says, and what follows from it.
//!
//! * [`proto`]: the messages; [`model`]: a parsed file and an index over it; [`tensor`]: constants as arrays.
//! * [`external`]: weights in files beside the model.
//! * [`shape`]: the shape of every value at a given batch; [`fold`]: the small constants it needs.
//! * [`assume`](mod@assume): usual sizes for inputs that leave theirs open.
//! * [`layer`]: the nodes compression acts on; [`group`]: which channels can only be removed together.
//! * [`patch`]: rewrites as checked values.
//!
//! This module mirrors ONNX and knows nothing of plans, chips or searches.

pub mod assume;
mod channel_forms;
mod channel_rules;
mod channels;
pub mod external;
#[cfg(test)]
pub(crate) mod fixture;
pub mod fold;
mod fold_arrange;
mod grid;
pub mod group;
pub mod layer;
pub mod model;
pub mod patch;
pub mod proto;
pub mod shape;
mod shape_arrange;
mod shape_attention;
mod shape_body;
#[cfg(test)]
mod shape_case;
mod shape_contrib;
mod shape_matrix;
mod shape_recurrent;
mod shape_reduce;
mod shape_rule;
mod shape_signal;
mod shape_trips;
mod shape_window;
pub mod tensor;

pub use model::{Index, Model};
