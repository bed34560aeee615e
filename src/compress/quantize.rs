//! Scales, offsets and fake quantization, by AMCT's numeric rule.
//!
//! q = clip(round_half_even(x / scale + offset), −2^(b−1), 2^(b−1) − 1). Weights are symmetric (offset 0), one scale
//! per output channel for convolutions and one per tensor for matrix products, as Ascend runs them; activations have
//! one scale and one offset per tensor.

use ndarray::{ArrayD, Axis};

use super::histogram::Histogram;
use crate::spec::{QuantizeSpec, RangeRule};

/// Scales below this become 1, as AMCT has it.
const SMALLEST_SCALE: f32 = f32::EPSILON;

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

/// The activation grid of a tensor by the spec's rule.
pub fn activation_grid(histogram: &Histogram, bits: u32, spec: &QuantizeSpec) -> Grid {
    let (min, max) = (histogram.min.min(0.0), histogram.max.max(0.0));
    match spec.activations {
        RangeRule::MinMax => Grid::asymmetric(min, max, bits),
        RangeRule::Percentile => {
            let (low, high) = histogram.percentile(spec.percentile.0);
            Grid::asymmetric(low, high, bits)
        }
        RangeRule::Mse => best_activation_grid(histogram, min, max, bits),
    }
}

/// Cuts the range in steps and keeps the cut with the least squared error over the histogram.
fn best_activation_grid(histogram: &Histogram, min: f32, max: f32, bits: u32) -> Grid {
    let bins: Vec<(f64, u64)> = histogram.bins().collect();
    let error = |grid: Grid| -> f64 {
        let (low, high) = grid.limits();
        let (scale, offset) = (f64::from(grid.scale), f64::from(grid.offset));
        bins.iter()
            .map(|&(x, n)| {
                let q = (x / scale + offset).round_ties_even().clamp(f64::from(low), f64::from(high));
                let e = x - (q - offset) * scale;
                e * e * n as f64
            })
            .sum()
    };
    let mut best = Grid::asymmetric(min, max, bits);
    let mut least = error(best);
    for step in 1..=80 {
        let cut = 1.0 - step as f32 / 100.0;
        let grid = Grid::asymmetric(min * cut, max * cut, bits);
        let e = error(grid);
        if e < least {
            (best, least) = (grid, e);
        }
    }
    best
}

/// The grid of a weight row (or of a whole weight) by the spec's rule.
pub fn weight_grid(values: &[f32], bits: u32, rule: RangeRule) -> Grid {
    let (min, max) = values.iter().fold((0.0_f32, 0.0_f32), |(lo, hi), &v| (lo.min(v), hi.max(v)));
    let widest = Grid::symmetric(min, max, bits);
    if rule == RangeRule::MinMax {
        return widest;
    }
    let error = |grid: Grid| -> f64 { values.iter().map(|&v| f64::from(v - grid.fake(v)).powi(2)).sum() };
    let mut best = widest;
    let mut least = error(widest);
    for step in 1..=50 {
        let grid = Grid { scale: widest.scale * (1.0 - step as f32 / 100.0), ..widest };
        if grid.scale < SMALLEST_SCALE {
            break;
        }
        let e = error(grid);
        if e < least {
            (best, least) = (grid, e);
        }
    }
    best
}

/// Fake-quantizes a weight: one grid for each index along `per_axis`, or one for the whole.
pub fn fake_quantize_weight(weight: &ArrayD<f32>, per_axis: Option<usize>, bits: u32, rule: RangeRule) -> ArrayD<f32> {
    let mut out = weight.clone();
    let apply = |mut part: ndarray::ArrayViewMutD<'_, f32>| {
        let values: Vec<f32> = part.iter().copied().collect();
        let grid = weight_grid(&values, bits, rule);
        part.mapv_inplace(|v| grid.fake(v));
    };
    match per_axis {
        Some(axis) => out.axis_iter_mut(Axis(axis)).for_each(apply),
        None => apply(out.view_mut()),
    }
    out
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

    #[test]
    fn the_mse_rule_never_does_worse_than_min_max() {
        let values: Vec<f32> = (0..1000).map(|i| ((i * 37 % 100) as f32 / 100.0 - 0.5).powi(3)).chain([4.0]).collect();
        let error = |g: Grid| values.iter().map(|&v| f64::from(v - g.fake(v)).powi(2)).sum::<f64>();
        for bits in [4, 8] {
            let mse = error(weight_grid(&values, bits, RangeRule::Mse));
            assert!(mse <= error(weight_grid(&values, bits, RangeRule::MinMax)));
        }
        let mut h = Histogram::default();
        h.add(&values);
        let spec = |activations| QuantizeSpec { activations, ..QuantizeSpec::default() };
        assert!(error(activation_grid(&h, 4, &spec(RangeRule::Mse))) < error(activation_grid(&h, 4, &spec(RangeRule::MinMax))));
    }

    #[test]
    fn weights_are_rounded_row_by_row() {
        let w = ArrayD::from_shape_vec(vec![2, 2], vec![1.0, 0.3, 100.0, 50.0]).unwrap();
        let q = fake_quantize_weight(&w, Some(0), 8, RangeRule::MinMax);
        assert!((q[[0, 1]] - 0.3).abs() <= 0.5 / 127.0);
        let q = fake_quantize_weight(&w, None, 8, RangeRule::MinMax);
        assert_eq!(q[[0, 1]], 0.0);
    }
}
