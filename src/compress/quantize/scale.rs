//! Scales of weights.

use ndarray::ArrayView1;

use super::{
    grid::{Grid, SMALLEST_SCALE},
    least::least,
};
use crate::spec::WeightRule;

/// Some rows of a weight that share a scale, each with the weights of its columns' errors (all alike if none).
pub(super) type Rows<'a> = [(ArrayView1<'a, f64>, Option<&'a [f64]>)];

/// The scale of rows that share one.
///
/// AMCT's ARQ takes the largest magnitude; the other rule the least squared error, each column weighted by the mean square of
/// what it is multiplied with.
pub(super) fn scale(rows: &Rows<'_>, bits: u32, rule: WeightRule) -> f64 {
    let all = || rows.iter().flat_map(|(r, _)| r.iter().copied());
    let (min, max) = all().fold((0.0_f64, 0.0_f64), |(lo, hi), v| (lo.min(v), hi.max(v)));
    let widest = f64::from(Grid::symmetric(min as f32, max as f32, bits).scale);
    if rule == WeightRule::MinMax || (min == 0.0 && max == 0.0) {
        return widest;
    }
    let (low, high) = limits(bits);
    let error = |s: f64| -> f64 {
        let of_row = |(row, weights): &(ArrayView1<'_, f64>, Option<&[f64]>)| -> f64 {
            let e = |w: f64| (w - round(w / s).clamp(low, high) * s).powi(2);
            match weights {
                Some(weights) => row.iter().zip(*weights).map(|(&w, h)| h * e(w)).sum(),
                None => row.iter().map(|&w| e(w)).sum(),
            }
        };
        rows.iter().map(of_row).sum()
    };
    let narrow = if bits > 4 { 0.6 } else { 0.35 };
    let best = least(|cut| error(widest * cut), (narrow, 1.0), if bits > 4 { 20 } else { 40 });
    let s = widest * best;
    if s < f64::from(SMALLEST_SCALE) { widest } else { f64::from(s as f32) }
}

/// Lowest and highest integer.
pub(super) fn limits(bits: u32) -> (f64, f64) {
    (-f64::from(1_u32 << (bits - 1)), f64::from((1_u32 << (bits - 1)) - 1))
}

/// Half to even, without a call into the maths library.
pub(super) fn round(x: f64) -> f64 {
    const ROUND: f64 = 6_755_399_441_055_744.0;
    (x + ROUND) - ROUND
}
