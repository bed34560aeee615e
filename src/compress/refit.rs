//! A weight fitted again to the inputs that are left: ridge least squares on the moments of its inputs.
//!
//! With S the columns that stay and R those that go, W' = W_S + W_R·C_RS·(C_SS + λI)⁻¹ gives what W gave with the least error
//! E‖(W − W')x‖² + λ‖W' − W_S‖² (He et al. 2017, arXiv 1707.06168; the closed form of optimal brain compression, arXiv 2208.11580).

use faer::{Mat, Side, linalg::solvers::Solve};
use ndarray::{Array2, s};

use super::calibrate::{Block, Gram};

/// What is added to the diagonal of moments: this share of its mean, and the same for each column that comes on one column seen.
const RIDGE: (f64, f64) = (1e-3, 1.0);

/// What stabilises moments of so many columns, of which so many were seen, with this mean of the diagonal.
pub fn ridge(mean_diagonal: f64, columns: usize, seen: u64) -> f64 {
    (RIDGE.0 + RIDGE.1 * columns as f64 / seen.max(1) as f64) * mean_diagonal.max(1e-30)
}

/// Second moments of a block's columns, about their mean if centred.
pub fn moment(block: &Block, centred: bool) -> impl Fn(usize, usize) -> f64 + '_ {
    move |i, j| block.matrix[[i, j]] - if centred { block.mean[i] * block.mean[j] } else { 0.0 }
}

/// The weight (outputs × columns kept) that gives what `weight` (outputs × all columns) gives, from the kept columns alone. `kept` rises. With
/// `centred` a bias takes up the means. Of moments in several blocks each is used by itself; columns of which nothing is known keep their weights.
pub fn refit(weight: &Array2<f32>, gram: &Gram, kept: &[usize], centred: bool) -> Array2<f32> {
    let mut out = weight.select(ndarray::Axis(1), kept);
    let [blocks] = gram.groups.as_slice() else { return out };
    for block in blocks.iter().filter(|b| b.columns().end <= weight.ncols()) {
        let from = kept.partition_point(|&c| c < block.columns().start);
        let to = kept.partition_point(|&c| c < block.columns().end);
        let stay: Vec<usize> = kept[from..to].iter().map(|c| c - block.start).collect();
        if stay.is_empty() || stay.len() == block.mean.len() {
            continue;
        }
        let mut is_kept = vec![false; block.mean.len()];
        stay.iter().for_each(|&c| is_kept[c] = true);
        let gone: Vec<usize> = (0..block.mean.len()).filter(|&c| !is_kept[c]).collect();
        let lost = weight.slice(s![.., block.columns()]).select(ndarray::Axis(1), &gone);
        if let Some(change) = taken_over(&lost, block, (&stay, &gone), gram.count, centred) {
            let mut part = out.slice_mut(s![.., from..to]);
            part.indexed_iter_mut().for_each(|((r, c), w)| *w = (f64::from(*w) + change[(c, r)]) as f32);
        }
    }
    out
}

/// (kept × outputs) what the kept columns take over of the weights that go.
fn taken_over(lost: &Array2<f32>, block: &Block, (stay, gone): (&[usize], &[usize]), seen: u64, centred: bool) -> Option<Mat<f64>> {
    let c = moment(block, centred);
    let mut own = Mat::from_fn(stay.len(), stay.len(), |i, j| c(stay[i], stay[j]));
    damp(&mut own, seen);
    let across = Mat::from_fn(stay.len(), gone.len(), |i, j| c(stay[i], gone[j]));
    let weights = Mat::from_fn(gone.len(), lost.nrows(), |j, r| f64::from(lost[[r, j]]));
    let right = &across * &weights;
    own.llt(Side::Lower).ok().map(|factor| factor.solve(&right))
}

/// Adds the ridge to moments, and to columns that were always the same.
pub fn damp(moments: &mut Mat<f64>, seen: u64) {
    let n = moments.nrows();
    let mean = (0..n).map(|i| moments[(i, i)].max(0.0)).sum::<f64>() / n.max(1) as f64;
    let ridge = ridge(mean, n, seen);
    (0..n).for_each(|i| moments[(i, i)] = moments[(i, i)].max(0.0) + ridge);
}

#[cfg(test)]
pub(super) mod tests {
    use ndarray::{Array1, Axis};

    use super::*;
    use crate::compress::quantize::output_energy;

    /// Samples of columns that share two causes, and their moments.
    pub fn correlated(n: usize, columns: usize) -> (Array2<f64>, Gram) {
        let mut state = 11_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 40) as f64 / f64::from(1 << 24) - 0.5
        };
        let causes = Array2::from_shape_simple_fn((n, 3), &mut next);
        let mix = Array2::from_shape_simple_fn((3, columns), &mut next);
        let own = Array2::from_shape_simple_fn((n, columns), &mut next);
        let x = causes.dot(&mix) * 3.0 + own * 0.3 + &Array1::from_iter((0..columns).map(|c| c as f64 * 0.2));
        let mean = x.mean_axis(Axis(0)).unwrap().to_vec();
        let matrix = x.t().dot(&x) / n as f64;
        (x, Gram { groups: vec![vec![Block { start: 0, matrix, mean }]], count: 1 << 40 })
    }

    /// Weights of the least squares of y − W' x_S over the samples, by the normal equations solved with Gauss elimination.
    fn by_samples(x: &Array2<f64>, y: &Array2<f64>) -> Array2<f64> {
        let n = x.ncols();
        let mut a = x.t().dot(x);
        let mut b = x.t().dot(y);
        for i in 0..n {
            let d = a[[i, i]];
            for k in (0..n).filter(|&k| k != i) {
                let f = a[[k, i]] / d;
                for j in 0..n {
                    a[[k, j]] -= f * a[[i, j]];
                }
                for j in 0..b.ncols() {
                    b[[k, j]] -= f * b[[i, j]];
                }
            }
        }
        Array2::from_shape_fn((b.ncols(), n), |(r, c)| b[[c, r]] / a[[c, c]])
    }

    #[test]
    fn what_is_left_is_fitted_as_by_least_squares_over_the_samples() {
        let (x, gram) = correlated(400, 8);
        let w = Array2::from_shape_fn((5, 8), |(i, j)| ((i * 3 + j * 5) % 7) as f32 - 3.0);
        let kept = [0, 2, 3, 6, 7];
        for centred in [false, true] {
            let found = refit(&w, &gram, &kept, centred);
            let mean = if centred { x.mean_axis(Axis(0)).unwrap() } else { Array1::zeros(8) };
            let about = &x - &mean;
            let y = about.dot(&w.mapv(f64::from).t());
            let best = by_samples(&about.select(Axis(1), &kept), &y);
            // The ridge is a thousandth of the diagonal.
            let far = |a: &Array2<f64>| (y.clone() - about.select(Axis(1), &kept).dot(&a.t())).mapv(|v| v * v).sum();
            let (got, least) = (far(&found.mapv(f64::from)), far(&best));
            assert!(got < least * 1.01 && got >= least * (1.0 - 1e-9), "centred {centred}: {got} {least}");
        }
    }

    #[test]
    fn all_columns_kept_is_the_weight_itself() {
        let (_, gram) = correlated(50, 6);
        let w = Array2::from_shape_fn((3, 6), |(i, j)| (i + j) as f32);
        assert_eq!(refit(&w, &gram, &[0, 1, 2, 3, 4, 5], true), w);
    }

    #[test]
    fn blocks_are_fitted_each_by_itself() {
        let (_, gram) = correlated(200, 6);
        let whole = &gram.groups[0][0];
        let cut = |start: usize, end: usize| Block {
            start,
            matrix: whole.matrix.slice(s![start..end, start..end]).to_owned(),
            mean: whole.mean[start..end].to_vec(),
        };
        let blocks = Gram { groups: vec![vec![cut(0, 4), cut(4, 6)]], count: gram.count };
        let w = Array2::from_shape_fn((2, 6), |(i, j)| (i as f32 + 1.0) * (j as f32 - 2.5));
        let found = refit(&w, &blocks, &[1, 2, 3, 4, 5], false);
        let first = Gram { groups: vec![vec![cut(0, 4)]], count: gram.count };
        let alone = refit(&w.slice(s![.., ..4]).to_owned(), &first, &[1, 2, 3], false);
        assert_eq!(found.slice(s![.., ..3]), alone);
        assert_eq!(found.slice(s![.., 3..]), w.slice(s![.., 4..]));
        let mut zeros = w.clone();
        zeros.slice_mut(s![.., 0]).fill(0.0);
        zeros.slice_mut(s![.., 1..]).assign(&found);
        assert!(output_energy(&(&w - &zeros), &blocks, false) < output_energy(&w.slice(s![.., ..]).to_owned(), &blocks, false));
    }
}
