//! Grids: scale, offset and rounding by AMCT's numeric rule.
//!
//! q = clip(round_half_even(x / scale + offset), −2^(b−1), 2^(b−1) − 1). Weights are symmetric (offset 0), one scale
//! per output channel for convolutions and one per tensor for matrix products, as Ascend runs them; activations have
//! one scale and one offset per tensor.

/// Scales below this become 1, as AMCT has it.
pub(super) const SMALLEST_SCALE: f32 = f32::EPSILON;

/// A step and an integer zero for b-bit integers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Grid {
    /// Step.
    pub scale: f32,
    /// The integer that stands for 0.
    pub offset: i32,
    /// Bits.
    pub bits: u32,
}

impl Grid {
    /// Lowest and highest integer.
    pub const fn limits(self) -> (i32, i32) {
        (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1)
    }

    /// The grid with offset for a range that is widened to hold 0.
    pub fn asymmetric(min: f32, max: f32, bits: u32) -> Self {
        let (min, max) = (min.min(0.0), max.max(0.0));
        let levels = ((1_u32 << bits) - 1) as f32;
        let lowest = -(1 << (bits - 1));
        let scale = (max - min) / levels;
        if !(scale.is_finite() && scale >= SMALLEST_SCALE) {
            return Self { scale: 1.0, offset: lowest, bits };
        }
        let offset = (lowest as f32 - min / scale).round_ties_even() as i32;
        Self { scale, offset: offset.clamp(lowest, -lowest - 1), bits }
    }

    /// The grid without offset for a range; the negative extreme may use the lowest integer.
    pub fn symmetric(min: f32, max: f32, bits: u32) -> Self {
        let (min, max) = (min.min(0.0).abs(), max.max(0.0));
        let top = ((1_u32 << (bits - 1)) - 1) as f32;
        let divisor = if min > max { top + 1.0 } else { top };
        let scale = min.max(max) / divisor;
        let scale = if scale.is_finite() && scale >= SMALLEST_SCALE { scale } else { 1.0 };
        Self { scale, offset: 0, bits }
    }

    /// The integer of a value.
    pub fn quantize(self, x: f32) -> i32 {
        self.nearest(x) as i32
    }

    /// The value of the nearest grid point.
    pub fn fake(self, x: f32) -> f32 {
        (self.nearest(x) - self.offset as f32) * self.scale
    }

    /// The integer of a value, as a float. Clipped before it is rounded, which is the same for whole limits, so that adding
    /// and taking away 1.5·2²³ rounds half to even in two instructions.
    fn nearest(self, x: f32) -> f32 {
        const ROUND: f32 = 12_582_912.0;
        let (low, high) = self.limits();
        let clipped = (x / self.scale + self.offset as f32).max(low as f32).min(high as f32);
        (clipped + ROUND) - ROUND
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asymmetric_grids_follow_amct_by_hand() {
        // range [0, 25.5] in 8 bits: step 0.1, offset -128
        let g = Grid::asymmetric(0.0, 25.5, 8);
        assert!((g.scale - 0.1).abs() < 1e-7);
        assert_eq!(g.offset, -128);
        assert_eq!((g.quantize(0.0), g.quantize(25.5), g.quantize(100.0), g.quantize(-1.0)), (-128, 127, 127, -128));
        // a range above zero is widened to zero
        assert_eq!(Grid::asymmetric(3.0, 25.5, 8), g);
        // range [-1, 3] in 4 bits: step 4/15, offset round(-8 + 3.75) = -4
        let g = Grid::asymmetric(-1.0, 3.0, 4);
        assert_eq!(g.offset, -4);
        assert_eq!((g.quantize(3.0), g.quantize(-1.0), g.quantize(0.0)), (7, -8, -4));
    }

    #[test]
    fn symmetric_grids_let_a_negative_extreme_use_the_lowest_integer() {
        assert!((Grid::symmetric(-1.0, 1.27, 8).scale - 0.01).abs() < 1e-8);
        let g = Grid::symmetric(-1.28, 1.0, 8);
        assert!((g.scale - 0.01).abs() < 1e-8);
        assert_eq!(g.quantize(-1.28), -128);
    }

    #[test]
    fn rounding_is_half_to_even_everywhere() {
        let g = Grid { scale: 1.0, offset: 3, bits: 8 };
        for i in -2000..2000 {
            let x = i as f32 / 8.0;
            assert_eq!(g.quantize(x), (x + 3.0).round_ties_even().clamp(-128.0, 127.0) as i32, "{x}");
        }
    }

    #[test]
    fn ties_go_to_the_even_integer() {
        let g = Grid { scale: 1.0, offset: 0, bits: 8 };
        assert_eq!((g.quantize(0.5), g.quantize(1.5), g.quantize(2.5), g.quantize(-0.5)), (0, 2, 2, 0));
    }

    #[test]
    fn zero_and_tiny_ranges_get_the_scale_one() {
        assert_eq!(Grid::asymmetric(0.0, 0.0, 8), Grid { scale: 1.0, offset: -128, bits: 8 });
        assert_eq!(Grid::symmetric(0.0, 1e-9, 8).scale, 1.0);
    }
}
