//! Low-rank decomposition: one layer becomes two.
//!
//! The weight is read as a matrix W (outputs × inputs·kernel) and cut to rank r by its singular value decomposition,
//! which is the best r-rank matrix in the Frobenius norm (Eckart and Young, 1936). A convolution becomes a k×k
//! convolution to r channels and a 1×1 convolution to the outputs; a matrix product becomes two.

use std::sync::Arc;

use faer::Mat;
use ndarray::{Array2, ArrayD, IxDyn};

use super::cache::{Cache, key};
use crate::error::{Error, Result};

/// Singular vectors and values of a matrix: W = U·diag(s)·Vᵀ, values falling.
#[derive(Debug)]
pub struct Svd {
    u: Array2<f32>,
    s: Vec<f64>,
    vt: Array2<f32>,
}

impl Svd {
    /// Decomposes a matrix (m × n).
    ///
    /// # Errors
    /// If the iteration does not converge, as with values that are not finite.
    pub fn of(matrix: &Array2<f32>) -> Result<Self> {
        let (m, n) = matrix.dim();
        let a = Mat::from_fn(m, n, |i, j| f64::from(matrix[[i, j]]));
        let svd = a.thin_svd().map_err(|e| Error::Internal(format!("the singular value decomposition failed: {e:?}")))?;
        let k = m.min(n);
        let (u, v, s) = (svd.U(), svd.V(), svd.S().column_vector());
        Ok(Self {
            u: Array2::from_shape_fn((m, k), |(i, j)| u[(i, j)] as f32),
            s: (0..k).map(|i| s[i]).collect(),
            vt: Array2::from_shape_fn((k, n), |(i, j)| v[(j, i)] as f32),
        })
    }

    /// Factors of rank r: (m × r) and (r × n), the singular values shared between them by their square roots.
    pub fn factors(&self, rank: usize) -> (Array2<f32>, Array2<f32>) {
        let root = |k: usize| self.s[k].sqrt() as f32;
        let left = Array2::from_shape_fn((self.u.nrows(), rank), |(i, k)| self.u[[i, k]] * root(k));
        let right = Array2::from_shape_fn((rank, self.vt.ncols()), |(k, j)| self.vt[[k, j]] * root(k));
        (left, right)
    }

    /// Squared error of the best matrix of rank r: the sum of the squared values left out.
    pub fn error(&self, rank: usize) -> f64 {
        self.s[rank.min(self.s.len())..].iter().map(|s| s * s).sum()
    }

    fn bytes(&self) -> usize {
        4 * (self.u.len() + self.vt.len()) + 8 * self.s.len()
    }
}

/// Decompositions already made.
pub type SvdCache = Cache<Svd>;

impl SvdCache {
    /// The decomposition of a matrix, made or found.
    ///
    /// # Errors
    /// As [`Svd::of`].
    pub fn svd(&self, matrix: &Array2<f32>) -> Result<Arc<Svd>> {
        self.get(key(matrix, &[]), || Svd::of(matrix), Svd::bytes)
    }
}

/// A weight as the matrix (outputs × rest), given the axis of its outputs.
pub fn as_matrix(weight: &ArrayD<f32>, out_axis: usize) -> Array2<f32> {
    let outputs = weight.shape()[out_axis];
    let rest = weight.len() / outputs.max(1);
    let mut axes: Vec<usize> = (0..weight.ndim()).collect();
    axes.remove(out_axis);
    axes.insert(0, out_axis);
    let values: Vec<f32> = weight.view().permuted_axes(IxDyn(&axes)).iter().copied().collect();
    Array2::from_shape_vec((outputs, rest), values).unwrap_or_else(|_| unreachable!("a permutation keeps the size"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix() -> Array2<f32> {
        Array2::from_shape_fn((6, 9), |(i, j)| ((i * 7 + j * 5) % 11) as f32 - 5.0 + (i as f32) * 0.1)
    }

    #[test]
    fn full_rank_gives_the_matrix_back() {
        let w = matrix();
        let (a, b) = Svd::of(&w).unwrap().factors(6);
        assert!((a.dot(&b) - &w).iter().all(|e| e.abs() < 1e-4));
    }

    #[test]
    fn the_error_of_a_rank_is_the_sum_of_the_squares_left_out() {
        let w = matrix();
        let svd = Svd::of(&w).unwrap();
        for rank in 1..6 {
            let (a, b) = svd.factors(rank);
            let measured: f64 = (a.dot(&b) - &w).iter().map(|e| f64::from(*e).powi(2)).sum();
            assert!((measured - svd.error(rank)).abs() < 1e-3 * (1.0 + measured), "rank {rank}: {measured} {}", svd.error(rank));
        }
    }

    #[test]
    fn a_weight_with_outputs_on_the_second_axis_is_turned() {
        let w = ArrayD::from_shape_vec(vec![2, 3], vec![1.0, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap();
        assert_eq!(as_matrix(&w, 1), ndarray::array![[1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]);
    }
}
