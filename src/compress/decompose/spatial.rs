//! The spatial form: k×1 to r channels, then 1×k, or the other way round.
//!
//! W\[o, c, i, j\] ≈ Σ_r V\[r, c, i\]·U\[o, r, j\] is a matrix (inputs·height × outputs·width) of rank r (Jaderberg et al. 2014, arXiv 1405.3866). V
//! comes from its singular value decomposition, whitened by the moments of the columns that V reads; U is then the exact least squares for all
//! of the layer's inputs, given V.

use faer::{Mat, Side, linalg::solvers::Solve};
use ndarray::Array2;

use super::{Geometry, averaged, low_rank::eigen};
use crate::{
    compress::{
        calibrate::Gram,
        refit::{damp, moment},
    },
    error::Result,
};

/// Column of the layer for (channel, tap along the first part, tap along the second).
fn column(geometry: Geometry, c: usize, first: usize, second: usize) -> usize {
    let (i, j) = if geometry.vertical_first() { (first, second) } else { (second, first) };
    (c * geometry.kh + i) * geometry.kw + j
}

/// Taps of the first part and of the second.
fn lengths(geometry: Geometry) -> (usize, usize) {
    if geometry.vertical_first() { (geometry.kh, geometry.kw) } else { (geometry.kw, geometry.kh) }
}

/// Both parts: (rank × inputs·k) and (outputs × rank·k).
pub(super) fn split(weight: &Array2<f32>, geometry: Geometry, rank: usize, inputs: Option<(&Gram, bool)>) -> Result<Vec<Array2<f32>>> {
    let (near, far) = lengths(geometry);
    let (cin, cout) = (geometry.cin, geometry.cout);
    let unfolded = Mat::from_fn(cin * near, cout * far, |i, j| f64::from(weight[[j / far, column(geometry, i / near, i % near, j % far)]]));
    let block = inputs.and_then(|(gram, centred)| match gram.groups.as_slice() {
        [blocks] if blocks.len() == 1 && blocks[0].mean.len() == weight.ncols() => Some((&blocks[0], gram.count, centred)),
        _ => None,
    });
    let Some((block, seen, centred)) = block else { return plain(&unfolded, geometry, rank) };
    let lists: Vec<Vec<usize>> = (0..far).map(|s| (0..near).map(|f| column(geometry, 0, f, s)).collect()).collect();
    let read = averaged(block, geometry, &lists);
    let c = moment(&read, centred);
    let mut c = Mat::from_fn(cin * near, cin * near, &c);
    damp(&mut c, seen);
    let Ok(factor) = c.llt(Side::Lower) else { return plain(&unfolded, geometry, rank) };
    let whitened = factor.L().transpose() * &unfolded;
    let (_, vectors) = eigen(&(&whitened * whitened.transpose()))?;
    let rank = rank.min(vectors.ncols());
    let mut v = Mat::from_fn(cin * near, rank, |i, r| vectors[(i, r)]);
    faer::linalg::triangular_solve::solve_upper_triangular_in_place(factor.L().transpose(), v.as_mut(), faer::Par::Seq);
    let first = Array2::from_shape_fn((rank, cin * near), |(r, i)| v[(i, r)] as f32);
    // U = W C Bᵀ (B C Bᵀ)⁻¹ with B the windows that V leaves.
    let b = windows(&first, geometry);
    let b = Mat::from_fn(b.nrows(), b.ncols(), |i, j| f64::from(b[[i, j]]));
    let n = weight.ncols();
    let c = moment(block, centred);
    let c = Mat::from_fn(n, n, &c);
    let bc = &b * &c;
    let mut own = &bc * b.transpose();
    let w = Mat::from_fn(cout, n, |i, j| f64::from(weight[[i, j]]));
    let right = &bc * w.transpose();
    let size: Vec<f64> = (0..rank).map(|r| (0..far).map(|s| own[(r * far + s, r * far + s)]).sum::<f64>() / far as f64).collect();
    let mean = (0..own.nrows()).map(|i| own[(i, i)]).sum::<f64>() / own.nrows().max(1) as f64;
    (0..own.nrows()).for_each(|i| own[(i, i)] += 1e-9 * mean.max(1e-30));
    let Ok(factor) = own.llt(Side::Lower) else { return plain(&unfolded, geometry, rank) };
    let u = factor.solve(&right);
    let last = Array2::from_shape_fn((cout, rank * far), |(o, q)| u[(q, o)] as f32);
    Ok(shared(first, last, &size, far))
}

/// Both parts of the singular value decomposition of the weight alone, as AMCT's.
fn plain(unfolded: &Mat<f64>, geometry: Geometry, rank: usize) -> Result<Vec<Array2<f32>>> {
    let far = lengths(geometry).1;
    let weight = Array2::from_shape_fn((unfolded.nrows(), unfolded.ncols()), |(i, j)| unfolded[(i, j)] as f32);
    let (left, right) = super::LowRank::plain(&weight)?.factors(rank);
    let last = Array2::from_shape_fn((geometry.cout, right.nrows() * far), |(o, q)| right[[q / far, o * far + q % far]]);
    Ok(vec![left.t().to_owned(), last])
}

/// Brings what flows between the parts to a scale that both sides share: its size and that of the weights behind it alike.
fn shared(mut first: Array2<f32>, mut last: Array2<f32>, mean_squares: &[f64], far: usize) -> Vec<Array2<f32>> {
    for (r, square) in mean_squares.iter().enumerate() {
        let weights: f64 = (0..far).flat_map(|s| last.column(r * far + s).to_vec()).map(|v| f64::from(v).powi(2)).sum();
        let factor = (weights / square.max(1e-30)).sqrt().sqrt();
        if factor.is_finite() && factor > 1e-6 && factor < 1e6 {
            first.row_mut(r).mapv_inplace(|v| v * factor as f32);
            (0..far).for_each(|s| last.column_mut(r * far + s).mapv_inplace(|v| v / factor as f32));
        }
    }
    vec![first, last]
}

/// The columns (rank·k) that the second part reads, from the layer's columns.
pub(super) fn windows(first: &Array2<f32>, geometry: Geometry) -> Array2<f32> {
    let (near, far) = lengths(geometry);
    let mut out = Array2::zeros((first.nrows() * far, geometry.cin * geometry.taps()));
    for ((r, i), &v) in first.indexed_iter() {
        (0..far).for_each(|s| out[[r * far + s, column(geometry, i / near, i % near, s)]] = v);
    }
    out
}
