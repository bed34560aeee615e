//! Tucker-2: 1×1 to a channels, k×k to b channels, 1×1 to the outputs (Kim et al. 2015, arXiv 1511.06530).
//!
//! The first part spans the input channels that matter most for the outputs, whitened by their moments; given it, the k×k weight is the exact least
//! squares for the layer's inputs, and its own decomposition by channel is the best there is for every b.

use faer::{Mat, Side, linalg::solvers::Solve};
use ndarray::Array2;

use super::{FindOrMake, Geometry, averaged, low_rank::eigen};
use crate::{
    compress::{
        calibrate::{Block, Gram},
        refit::{damp, moment},
    },
    error::Result,
};

/// Three parts: (a × inputs), (b × a·taps), (outputs × b).
pub(super) fn split(
    weight: &Array2<f32>,
    geometry: Geometry,
    (input, output): (usize, usize),
    inputs: Option<(&Gram, bool)>,
    low: &FindOrMake<'_>,
) -> Result<Vec<Array2<f32>>> {
    let (taps, cin, cout) = (geometry.taps(), geometry.cin, geometry.cout);
    let input = input.min(cin);
    let unfolded = Mat::from_fn(cin, cout * taps, |c, j| f64::from(weight[[j / taps, c * taps + j % taps]]));
    let block = inputs.and_then(|(gram, centred)| match gram.groups.as_slice() {
        [blocks] if blocks.len() == 1 && blocks[0].mean.len() == weight.ncols() => Some((&blocks[0], gram.count, centred)),
        _ => None,
    });
    let plain = || -> Result<Vec<Array2<f32>>> {
        let (_, vectors) = eigen(&(&unfolded * unfolded.transpose()))?;
        let first = Array2::from_shape_fn((input, cin), |(a, c)| vectors[(c, a)] as f32);
        let inner = weight.dot(&windows(&first, taps).t());
        let (left, right) = low(&inner, None)?.factors(output);
        Ok(vec![first, right, left])
    };
    let Some((block, seen, centred)) = block else { return plain() };
    let lists: Vec<Vec<usize>> = (0..taps).map(|t| vec![t]).collect();
    let read = averaged(block, geometry, &lists);
    let c = moment(&read, centred);
    let mut c = Mat::from_fn(cin, cin, &c);
    damp(&mut c, seen);
    let Ok(factor) = c.llt(Side::Lower) else { return plain() };
    let whitened = factor.L().transpose() * &unfolded;
    let (values, vectors) = eigen(&(&whitened * whitened.transpose()))?;
    let mut p = Mat::from_fn(cin, input, |i, r| vectors[(i, r)]);
    faer::linalg::triangular_solve::solve_upper_triangular_in_place(factor.L().transpose(), p.as_mut(), faer::Par::Seq);
    // Outputs of the first part as large as what they make of the second: its fourth root of the energy.
    let floor = values.first().copied().unwrap_or(0.0).max(1e-30) * 1e-12;
    let first = Array2::from_shape_fn((input, cin), |(r, i)| (p[(i, r)] * values[r].max(floor).sqrt().sqrt()) as f32);
    let b = windows(&first, taps);
    let b = Mat::from_fn(b.nrows(), b.ncols(), |i, j| f64::from(b[[i, j]]));
    let n = weight.ncols();
    let c = moment(block, centred);
    let c = Mat::from_fn(n, n, &c);
    let bc = &b * &c;
    let matrix = &bc * b.transpose();
    let mut own = matrix.clone();
    let mean = (0..own.nrows()).map(|i| own[(i, i)]).sum::<f64>() / own.nrows().max(1) as f64;
    (0..own.nrows()).for_each(|i| own[(i, i)] += 1e-9 * mean.max(1e-30));
    let w = Mat::from_fn(cout, n, |i, j| f64::from(weight[[i, j]]));
    let Ok(factor) = own.llt(Side::Lower) else { return plain() };
    let fitted = factor.solve(&bc * w.transpose());
    let inner = Array2::from_shape_fn((cout, input * taps), |(o, q)| fitted[(q, o)] as f32);
    // Moments about the mean, so that nothing needs centring again.
    let matrix = Array2::from_shape_fn((matrix.nrows(), matrix.ncols()), |(i, j)| matrix[(i, j)]);
    let mean = vec![0.0; matrix.nrows()];
    let seen = Gram { groups: vec![vec![Block { start: 0, matrix, mean }]], count: seen };
    let (left, right) = low(&inner, Some((&seen, false)))?.factors(output);
    Ok(vec![first, right, left])
}

/// The columns (a·taps) that the second part reads, from the layer's columns.
pub(super) fn windows(first: &Array2<f32>, taps: usize) -> Array2<f32> {
    let mut out = Array2::zeros((first.nrows() * taps, first.ncols() * taps));
    for ((a, c), &v) in first.indexed_iter() {
        (0..taps).for_each(|t| out[[a * taps + t, c * taps + t]] = v);
    }
    out
}
