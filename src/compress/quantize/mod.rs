//! From floats to integers: grids, ranges of activations, scales and rounding of weights.

mod error;
mod factor;
pub mod grid;
mod least;
mod range;
mod round;
mod scale;

pub use error::{output_energy, weight_error};
pub(super) use factor::{Factor, damped, entry};
pub use grid::Grid;
pub use range::{activation_grid, grid_error};
pub use round::{Rounding, Weight, quantize_weight};

#[cfg(test)]
mod tests;
