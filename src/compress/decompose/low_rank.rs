//! A matrix as a sum of products of rank one, those that matter most for the outputs first.
//!
//! Of all matrices of rank r the one with the least error of the outputs, E‖(W − W')x‖², is W' = U_r U_rᵀ W, with U_r the leading principal
//! directions of the outputs, the eigenvectors of W C Wᵀ; the error is the sum of the eigenvalues left out. This is the same matrix as the
//! truncated singular value decomposition of W L with C = L Lᵀ, unwhitened by L⁻¹ (SVD-LLM, arXiv 2403.07378: U are its left singular
//! vectors), without an inverse. Only a weight with more outputs than columns goes the way by L.

use faer::{Mat, Side};
use ndarray::{Array2, s};

use crate::{
    compress::{
        calibrate::Gram,
        refit::{damp, moment},
    },
    error::{Error, Result},
};

/// W = Σ left_k right_k, in falling order; the scale of each product is shared between both by its square root, for the sake of their grids.
#[derive(Debug, Clone, PartialEq)]
pub struct LowRank {
    /// (outputs × full rank).
    left: Array2<f32>,
    /// (full rank × columns).
    right: Array2<f32>,
    /// Squared error of the outputs for each rank, from 0 to the full one; of the weights where the inputs are unknown.
    errors: Vec<f64>,
}

impl LowRank {
    /// By the weight alone: the singular value decomposition, best in the Frobenius norm (Eckart and Young, 1936).
    ///
    /// # Errors
    /// If the iteration does not converge, as with values that are not finite.
    pub fn plain(weight: &Array2<f32>) -> Result<Self> {
        let (m, n) = weight.dim();
        let a = Mat::from_fn(m, n, |i, j| f64::from(weight[[i, j]]));
        let svd = a.thin_svd().map_err(|e| failed(&format!("{e:?}")))?;
        let (u, v, s) = (svd.U(), svd.V(), svd.S().column_vector());
        let values: Vec<f64> = (0..m.min(n)).map(|k| s[k]).collect();
        let root = |k: usize| values[k].max(0.0).sqrt();
        Ok(Self {
            left: Array2::from_shape_fn((m, values.len()), |(i, k)| (u[(i, k)] * root(k)) as f32),
            right: Array2::from_shape_fn((values.len(), n), |(k, j)| (v[(j, k)] * root(k)) as f32),
            errors: tails(values.iter().map(|s| s * s)),
        })
    }

    /// By what the inputs make of the weight. `gram` are the moments of its columns, of one convolution group; with `centred` a bias
    /// takes up the means. Of moments in several blocks, what lies between them counts as 0.
    ///
    /// # Errors
    /// As [`LowRank::plain`].
    pub fn by_inputs(weight: &Array2<f32>, gram: &Gram, centred: bool) -> Result<Self> {
        let (m, n) = weight.dim();
        let [blocks] = gram.groups.as_slice() else { return Self::plain(weight) };
        if m > n && blocks.len() == 1 {
            return Self::by_whitening(weight, gram, centred);
        }
        let mut outputs = Mat::<f64>::zeros(m, m);
        for block in blocks.iter().filter(|b| b.columns().end <= n) {
            let part = weight.slice(s![.., block.columns()]);
            let part = Mat::from_fn(m, part.ncols(), |i, j| f64::from(part[[i, j]]));
            let c = moment(block, centred);
            let c = Mat::from_fn(block.mean.len(), block.mean.len(), &c);
            outputs += (&part * &c) * part.transpose();
        }
        let (values, vectors) = eigen(&outputs)?;
        let k = m.min(n);
        // U_rᵀ W: an output that never changes has no scale to share.
        let weight = Mat::from_fn(m, n, |i, j| f64::from(weight[[i, j]]));
        let right = vectors.transpose() * &weight;
        let floor = values.first().copied().unwrap_or(0.0).max(1e-30) * 1e-12;
        let root = |k: usize| values[k].max(floor).sqrt().sqrt();
        Ok(Self {
            left: Array2::from_shape_fn((m, k), |(i, k)| (vectors[(i, k)] * root(k)) as f32),
            right: Array2::from_shape_fn((k, n), |(k, j)| (right[(k, j)] / root(k)) as f32),
            errors: tails(values.into_iter().take(k)),
        })
    }

    fn by_whitening(weight: &Array2<f32>, gram: &Gram, centred: bool) -> Result<Self> {
        let (m, n) = weight.dim();
        let block = gram.groups.first().and_then(|g| g.first()).filter(|b| b.mean.len() == n);
        let Some(block) = block else { return Self::plain(weight) };
        let c = moment(block, centred);
        let mut c = Mat::from_fn(n, n, &c);
        let mean = (0..n).map(|i| c[(i, i)]).sum::<f64>() / n.max(1) as f64;
        (0..n).for_each(|i| c[(i, i)] += 1e-9 * mean.max(1e-30));
        let factor = match c.llt(Side::Lower) {
            Ok(factor) => factor,
            Err(_) => {
                damp(&mut c, gram.count);
                let Ok(factor) = c.llt(Side::Lower) else { return Self::plain(weight) };
                factor
            }
        };
        let lower = factor.L();
        let weight = Mat::from_fn(m, n, |i, j| f64::from(weight[[i, j]]));
        let whitened = &weight * lower;
        let (values, vectors) = eigen(&(whitened.transpose() * &whitened))?;
        let left = &whitened * &vectors;
        // Vᵀ L⁻¹ by solving Lᵀ X = V.
        let mut right = vectors;
        faer::linalg::triangular_solve::solve_upper_triangular_in_place(lower.transpose(), right.as_mut(), faer::Par::Seq);
        let floor = values.first().copied().unwrap_or(0.0).max(1e-30) * 1e-12;
        let root = |k: usize| values[k].max(floor).sqrt().sqrt();
        Ok(Self {
            left: Array2::from_shape_fn((m, n), |(i, k)| (left[(i, k)] / root(k)) as f32),
            right: Array2::from_shape_fn((n, n), |(k, j)| (right[(j, k)] * root(k)) as f32),
            errors: tails(values.into_iter()),
        })
    }

    /// Factors of rank r: (outputs × r) and (r × columns).
    pub fn factors(&self, rank: usize) -> (Array2<f32>, Array2<f32>) {
        let rank = rank.min(self.left.ncols());
        (self.left.slice(s![.., ..rank]).to_owned(), self.right.slice(s![..rank, ..]).to_owned())
    }

    /// Squared error of the outputs at a rank.
    pub fn error(&self, rank: usize) -> f64 {
        self.errors.get(rank).copied().unwrap_or(0.0)
    }

    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        4 * (self.left.len() + self.right.len()) + 8 * self.errors.len()
    }
}

fn failed(why: &str) -> Error {
    Error::Internal(format!("a decomposition of a weight failed: {why}"))
}

/// Sums of all but the first r, for r from 0.
fn tails(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut sums = vec![0.0];
    for v in values.collect::<Vec<_>>().into_iter().rev() {
        sums.push(sums.last().copied().unwrap_or(0.0) + v.max(0.0));
    }
    sums.reverse();
    sums
}

/// Eigenvalues of a symmetric matrix, falling, and their vectors as columns.
///
/// # Errors
/// If the iteration does not converge.
pub fn eigen(symmetric: &Mat<f64>) -> Result<(Vec<f64>, Mat<f64>)> {
    let n = symmetric.nrows();
    let found = symmetric.self_adjoint_eigen(Side::Lower).map_err(|e| failed(&format!("{e:?}")))?;
    let (values, vectors) = (found.S().column_vector(), found.U());
    Ok(((0..n).rev().map(|k| values[k]).collect(), Mat::from_fn(n, n, |i, k| vectors[(i, n - 1 - k)])))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compress::{quantize::output_energy, refit::tests::correlated};

    fn matrix(m: usize, n: usize) -> Array2<f32> {
        Array2::from_shape_fn((m, n), |(i, j)| ((i * 7 + j * 5) % 11) as f32 - 5.0 + (i as f32) * 0.1)
    }

    #[test]
    fn full_rank_gives_the_matrix_back() {
        for (m, n) in [(6, 9), (9, 6)] {
            let (_, gram) = correlated(300, n);
            let w = matrix(m, n);
            for low in
                [LowRank::plain(&w).unwrap(), LowRank::by_inputs(&w, &gram, true).unwrap(), LowRank::by_inputs(&w, &gram, false).unwrap()]
            {
                let (a, b) = low.factors(6);
                assert!((a.dot(&b) - &w).iter().all(|e| e.abs() < 1e-4), "{m}×{n}");
            }
        }
    }

    #[test]
    fn the_error_of_a_rank_is_that_of_the_outputs() {
        for (m, n) in [(6, 9), (9, 6)] {
            let (_, gram) = correlated(300, n);
            let w = matrix(m, n);
            for centred in [false, true] {
                let low = LowRank::by_inputs(&w, &gram, centred).unwrap();
                for rank in 0..6 {
                    let (a, b) = low.factors(rank);
                    let measured = output_energy(&(&w - &a.dot(&b)), &gram, centred);
                    assert!(
                        (measured - low.error(rank)).abs() < 1e-3 * low.error(rank) + 1e-6,
                        "rank {rank}: {measured} {}",
                        low.error(rank)
                    );
                }
            }
        }
    }

    #[test]
    fn no_other_matrix_of_the_rank_found_by_the_weight_alone_or_by_chance_does_better() {
        let (_, gram) = correlated(300, 9);
        let w = matrix(6, 9);
        let low = LowRank::by_inputs(&w, &gram, false).unwrap();
        for rank in 1..6 {
            let energy = |(a, b): (Array2<f32>, Array2<f32>)| output_energy(&(&w - &a.dot(&b)), &gram, false);
            let best = energy(low.factors(rank));
            assert!(best <= energy(LowRank::plain(&w).unwrap().factors(rank)) * (1.0 + 1e-6));
            let (a, b) = low.factors(rank);
            for step in 0..20 {
                let bump = |m: &Array2<f32>, k: usize| {
                    Array2::from_shape_fn(m.dim(), |(i, j)| m[[i, j]] * (1.0 + 0.02 * (((i * 5 + j * 3 + k) % 7) as f32 - 3.0)))
                };
                assert!(energy((bump(&a, step), bump(&b, step + 1))) >= best * (1.0 - 1e-6));
            }
        }
    }

    #[test]
    fn by_the_weight_alone_the_error_is_the_sum_of_the_squares_left_out() {
        let w = matrix(6, 9);
        let low = LowRank::plain(&w).unwrap();
        for rank in 1..6 {
            let (a, b) = low.factors(rank);
            let measured: f64 = (a.dot(&b) - &w).iter().map(|e| f64::from(*e).powi(2)).sum();
            assert!((measured - low.error(rank)).abs() < 1e-3 * (1.0 + measured), "rank {rank}: {measured} {}", low.error(rank));
        }
    }
}
