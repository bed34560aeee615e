//! Damped moments, and the factor of their inverse by which columns make up for what was done to those before them.

use faer::{Mat, Side};
use ndarray::Array2;

use super::scale::{limits, round};
use crate::compress::calibrate::Block;

/// Share of the mean diagonal that is added to the diagonal of H.
const DAMPING: f64 = 0.01;
/// The same for each column that comes on one sample of it: moments of few samples are not to be believed.
const DAMPING_PER_COLUMN: f64 = 0.5;

/// An entry of the moments, about the mean if `centred`.
pub(in crate::compress) fn entry(block: &Block, i: usize, j: usize, centred: bool) -> f64 {
    block.matrix[[i, j]] - if centred { block.mean[i] * block.mean[j] } else { 0.0 }
}

/// The moments of a block that count for the error, `noise` added to each mean square, damped as `seen` samples of them deserve.
pub(in crate::compress) fn damped(block: &Block, seen: u64, noise: f64, centred: bool) -> Array2<f64> {
    let n = block.mean.len();
    let damping = DAMPING + DAMPING_PER_COLUMN * n as f64 / seen.max(1) as f64;
    let mut h = Array2::from_shape_fn((n, n), |(i, j)| entry(block, i, j, centred) + if i == j { noise } else { 0.0 });
    let mean = h.diag().sum() / n.max(1) as f64;
    h.diag_mut().iter_mut().for_each(|d| *d = d.max(0.0) + damping * mean);
    h
}

/// Columns by falling mean square: those that matter most are rounded while many can still make up for it.
pub(super) fn by_weight(h: &Array2<f64>) -> Vec<usize> {
    let mut order: Vec<usize> = (0..h.nrows()).collect();
    order.sort_by(|&a, &b| h[[b, b]].total_cmp(&h[[a, a]]).then(a.cmp(&b)));
    order
}

/// The upper triangular U with H⁻¹ = UᵀU, row by row, its columns in some order.
pub(in crate::compress) struct Factor {
    /// Row i from its diagonal on.
    pub(in crate::compress) rows: Vec<Vec<f64>>,
    /// Columns of H in the order in which they are taken.
    pub(in crate::compress) order: Vec<usize>,
}

impl Factor {
    /// None where H is not positive definite. The order must name each column once.
    pub(in crate::compress) fn of(h: &Array2<f64>, order: Vec<usize>) -> Option<Self> {
        let n = h.nrows();
        // H = R Rᵀ with R upper, by the Cholesky factor of H with its order reversed; U = R⁻¹.
        let at = |i: usize| order[n - 1 - i];
        let reversed = Mat::from_fn(n, n, |i, j| h[[at(i), at(j)]]);
        let lower = reversed.llt(Side::Lower).ok()?;
        let mut inverse = Mat::<f64>::zeros(n, n);
        faer::linalg::triangular_inverse::invert_lower_triangular(inverse.as_mut(), lower.L(), faer::Par::Seq);
        let rows = (0..n).map(|i| (i..n).map(|j| inverse[(n - 1 - i, n - 1 - j)]).collect()).collect();
        Some(Self { rows, order })
    }

    /// GPTQ of one row; with `keeps_zeros` a weight of 0 stays 0.
    pub(super) fn round(&self, row: &[f64], s: f64, bits: u32, keeps_zeros: bool) -> Vec<f64> {
        let (low, high) = limits(bits);
        let mut w: Vec<f64> = self.order.iter().map(|&j| row[j]).collect();
        let mut q = vec![0.0; w.len()];
        for (i, u) in self.rows.iter().enumerate() {
            let stays = keeps_zeros && row[self.order[i]] == 0.0;
            let integer = if stays { 0.0 } else { round(w[i] / s).clamp(low, high) };
            q[self.order[i]] = integer;
            let e = (w[i] - integer * s) / u[0];
            w[i..].iter_mut().zip(u).for_each(|(w, u)| *w -= e * u);
        }
        q
    }
}
