//! 4:2 structured sparsity: of four neighbouring input channels at the same tap of the window two weights stay, as `atc --sparsity=1` and
//! AMCT have it. Channels count as padded to a multiple of four, so that of a last group of fewer at most two stay.
//!
//! AMCT keeps the two largest magnitudes. With the moments H of the layer's inputs SparseGPT (Frantar and Alistarh, 2023, arXiv 2301.00774)
//! does better: group by group the weights go whose removal the weights that are left can best make up for, which they do at once. We score
//! pairs as the optimal brain surgeon does (Hassibi and Stork, 1993), not each weight alone: there are six of them. What the pass leaves is
//! fitted again by least squares.

use faer::{Mat, Side, prelude::Solve};
use ndarray::{Array2, ArrayView1};

use super::{
    calibrate::{Block, Gram},
    quantize::{Factor, damped, entry},
};

/// Neighbours that share what stays.
const GROUP: usize = 4;
/// How many of them stay.
const STAY: usize = 2;
/// Weights of a row that are fitted by least squares at most; the time grows with the cube of their number.
const MOST_FITTED: usize = 1536;
/// Weights of a row up to which both masks are fitted before one is chosen; of more, the one that is better before.
const FEW: usize = 256;

/// The weight with the two largest magnitudes of each four kept, others 0; of equals the first.
///
/// The matrix is (outputs × inputs·taps), column = channel·taps + tap.
pub fn by_magnitude(weight: &Array2<f32>, taps: usize) -> Array2<f32> {
    let groups = groups(weight.ncols(), taps);
    let mut sparse = weight.clone();
    for mut row in sparse.rows_mut() {
        for group in &groups {
            let mut order = group.clone();
            order.sort_by(|&a, &b| row[b].abs().total_cmp(&row[a].abs()));
            order.iter().skip(STAY).for_each(|&column| row[column] = 0.0);
        }
    }
    sparse
}

/// A sparse weight whose outputs are near those of the dense one on inputs of these moments, about their mean if `centred`: SparseGPT's
/// choice or that of [`by_magnitude`], whichever ends nearer, what stays fitted by least squares.
///
/// On the moments no row is worse than that of [`by_magnitude`], which comes back where the moments do not fit the weight. Each block of moments
/// is treated alone; groups of four that lie in two blocks keep their largest magnitudes.
pub fn refitted(weight: &Array2<f32>, taps: usize, gram: &Gram, centred: bool) -> Array2<f32> {
    let mut sparse = by_magnitude(weight, taps);
    let (rows, columns) = weight.dim();
    if !gram.groups.iter().all(|blocks| covers(blocks, columns)) {
        return sparse;
    }
    let groups = groups(columns, taps);
    let per_group = rows.div_ceil(gram.groups.len().max(1)).max(1);
    for (g, blocks) in gram.groups.iter().enumerate() {
        for block in blocks {
            let Some(fit) = Fit::of(block, &groups, gram.count, centred) else { continue };
            for r in g * per_group..((g + 1) * per_group).min(rows) {
                let part = |row: ArrayView1<'_, f32>| -> Vec<f64> { block.columns().map(|c| f64::from(row[c])).collect() };
                let best = fit.best(&part(weight.row(r)), part(sparse.row(r)));
                block.columns().zip(best).for_each(|(c, w)| sparse[[r, c]] = w as f32);
            }
        }
    }
    sparse
}

/// Whether of each four weights at most two are not 0.
pub fn is_sparse(weight: &Array2<f32>, taps: usize) -> bool {
    let groups = groups(weight.ncols(), taps);
    weight.rows().into_iter().all(|row| groups.iter().all(|group| group.iter().filter(|&&c| row[c] != 0.0).count() <= STAY))
}

/// Columns of each group, tap by tap.
fn groups(columns: usize, taps: usize) -> Vec<Vec<usize>> {
    let taps = taps.max(1);
    let of_tap = |tap: usize| (tap..columns).step_by(taps).collect::<Vec<usize>>();
    (0..taps).flat_map(|tap| of_tap(tap).chunks(GROUP).map(<[usize]>::to_vec).collect::<Vec<_>>()).collect()
}

/// Whether the blocks are moments of all columns, one after the other.
fn covers(blocks: &[Block], columns: usize) -> bool {
    let next = |at: usize, b: &Block| (b.start == at && b.matrix.dim() == (b.mean.len(), b.mean.len())).then(|| b.columns().end);
    blocks.iter().try_fold(0, next) == Some(columns)
}

/// The least squares of the rows over one block.
struct Fit {
    /// Groups in the order of the factor.
    groups: Vec<Cut>,
    factor: Factor,
    /// Moments, damped.
    damped: Array2<f64>,
    /// Moments as measured.
    moments: Array2<f64>,
}

/// A group within a block.
struct Cut {
    positions: std::ops::Range<usize>,
    /// What can go; empty where all stay.
    removals: Vec<Removal>,
    /// Whether the whole group lies in the block.
    whole: bool,
}

/// One or two weights that go together, and what that costs: a·w₀² + 2·b·w₀·w₁ + c·w₁².
struct Removal {
    positions: [usize; 2],
    loss: [f64; 3],
}

impl Fit {
    fn of(block: &Block, groups: &[Vec<usize>], seen: u64, centred: bool) -> Option<Self> {
        let n = block.mean.len();
        let inside =
            |group: &Vec<usize>| -> Vec<usize> { group.iter().filter(|c| block.columns().contains(c)).map(|c| c - block.start).collect() };
        let parts: Vec<(Vec<usize>, bool)> = groups.iter().map(|g| (inside(g), g.iter().all(|c| block.columns().contains(c)))).collect();
        let damped = damped(block, seen, 0.0, centred);
        let factor = Factor::of(&damped, parts.iter().flat_map(|(columns, _)| columns.clone()).collect())?;
        let mut from = 0;
        let cut = |(columns, whole): &(Vec<usize>, bool)| {
            let positions = from..from + columns.len();
            from = positions.end;
            Cut { removals: removals(&factor, positions.clone()), positions, whole: *whole }
        };
        let groups = parts.iter().map(cut).collect();
        let moments = Array2::from_shape_fn((n, n), |(i, j)| entry(block, i, j, centred));
        Some(Self { groups, factor, damped, moments })
    }

    /// The best of what can be made of a row; at worst the sparse row that is given.
    fn best(&self, row: &[f64], simple: Vec<f64>) -> Vec<f64> {
        let stays: Vec<bool> = simple.iter().map(|w| *w != 0.0).collect();
        let mut tried = [true, false].map(|chooses| self.pass(row, &stays, chooses)).to_vec();
        let count = |w: &[f64]| w.iter().filter(|w| **w != 0.0).count();
        tried.sort_by(|a, b| error(&self.damped, row, a).total_cmp(&error(&self.damped, row, b)));
        let few = tried.iter().all(|w| count(w) <= FEW);
        let fitted: Vec<Vec<f64>> = tried.iter().take(if few { 2 } else { 1 }).filter_map(|w| self.fitted(row, w)).collect();
        let single = |w: Vec<f64>| w.into_iter().map(|w| f64::from(w as f32)).collect::<Vec<f64>>();
        let mut best = (error(&self.moments, row, &simple), simple);
        for next in fitted.into_iter().chain(tried).map(single) {
            let e = error(&self.moments, row, &next);
            if e < best.0 && next.iter().all(|w| w.is_finite()) {
                best = (e, next);
            }
        }
        best.1
    }

    /// SparseGPT's pass over a row: what goes is made up for by the columns that follow. Where it does not choose, and in groups cut by the
    /// block's end, `stays` says what goes.
    fn pass(&self, row: &[f64], stays: &[bool], chooses: bool) -> Vec<f64> {
        let order = &self.factor.order;
        let mut w: Vec<f64> = order.iter().map(|&c| row[c]).collect();
        for group in &self.groups {
            let least = group.removals.iter().min_by(|a, b| a.cost(&w).total_cmp(&b.cost(&w)));
            let chosen = least.filter(|_| chooses && group.whole).map(|r| r.positions);
            for i in group.positions.clone() {
                let goes = chosen.map_or_else(|| !stays[order[i]], |gone| gone.contains(&i));
                if goes {
                    let u = &self.factor.rows[i];
                    let e = w[i] / u[0];
                    w[i..].iter_mut().zip(u).for_each(|(w, u)| *w -= e * u);
                    w[i] = 0.0;
                }
            }
        }
        let mut sparse = vec![0.0; w.len()];
        order.iter().zip(w).for_each(|(&c, w)| sparse[c] = w);
        sparse
    }

    /// The weights of a row that are not 0 in `sparse`, fitted to the whole row.
    fn fitted(&self, row: &[f64], sparse: &[f64]) -> Option<Vec<f64>> {
        let columns: Vec<usize> = (0..row.len()).filter(|&c| sparse[c] != 0.0).collect();
        if columns.len() > MOST_FITTED {
            return None;
        }
        let h = |i: usize, j: usize| self.damped[[columns[i], columns[j]]];
        let wanted = |i: usize| self.damped.row(columns[i]).iter().zip(row).map(|(h, w)| h * w).sum::<f64>();
        let factor = Mat::from_fn(columns.len(), columns.len(), h).llt(Side::Lower).ok()?;
        let solved = factor.solve(&Mat::from_fn(columns.len(), 1, |i, _| wanted(i)));
        let mut fitted = vec![0.0; row.len()];
        columns.iter().enumerate().for_each(|(i, &c)| fitted[c] = solved[(i, 0)]);
        Some(fitted)
    }
}

impl Removal {
    fn cost(&self, w: &[f64]) -> f64 {
        let [first, second] = self.positions.map(|p| w[p]);
        let [a, b, c] = self.loss;
        a * first * first + 2.0 * b * first * second + c * second * second
    }
}

/// All that can go of a group so that two stay, with all columns behind it to make up for it: w ([H⁻¹]ₛₛ)⁻¹ wᵀ, the inverse that of what the
/// columns before have left.
fn removals(factor: &Factor, positions: std::ops::Range<usize>) -> Vec<Removal> {
    let from = positions.start;
    let inverse = |i: usize, j: usize| -> f64 { (from..=i.min(j)).map(|k| factor.rows[k][i - k] * factor.rows[k][j - k]).sum() };
    let pair = |i: usize, j: usize| {
        let (ii, ij, jj) = (inverse(i, i), inverse(i, j), inverse(j, j));
        let determinant = ii * jj - ij * ij;
        Removal { positions: [i, j], loss: [jj / determinant, -ij / determinant, ii / determinant] }
    };
    match positions.len() - STAY.min(positions.len()) {
        0 => Vec::new(),
        1 => positions.map(|i| Removal { positions: [i, i], loss: [1.0 / inverse(i, i), 0.0, 0.0] }).collect(),
        _ => positions.clone().flat_map(|i| (i + 1..positions.end).map(move |j| (i, j))).map(|(i, j)| pair(i, j)).collect(),
    }
}

/// (w − v) H (w − v)ᵀ.
fn error(h: &Array2<f64>, w: &[f64], v: &[f64]) -> f64 {
    let gone: Vec<f64> = w.iter().zip(v).map(|(w, v)| w - v).collect();
    let of_row = |(h, e): (ArrayView1<'_, f64>, &f64)| e * h.iter().zip(&gone).map(|(h, g)| h * g).sum::<f64>();
    h.rows().into_iter().zip(&gone).filter(|(_, e)| **e != 0.0).map(of_row).sum()
}

#[cfg(test)]
mod tests {
    use ndarray::{Axis, concatenate, s};
    use proptest::prelude::*;
    use rand::{Rng, SeedableRng};
    use rand_chacha::ChaCha8Rng;

    use super::*;
    use crate::compress::quantize::weight_error;

    /// Samples of inputs that hang together and are not centred.
    fn samples(n: usize, rng: &mut ChaCha8Rng) -> Array2<f64> {
        let mix = Array2::from_shape_fn((n, n), |_| rng.random_range(-1.0..1.0));
        Array2::from_shape_fn((300, n), |_| rng.random_range(-1.0..1.0_f64)).dot(&mix) + 0.3
    }

    fn block(x: &Array2<f64>, start: usize) -> Block {
        let mean = x.mean_axis(Axis(0)).unwrap().to_vec();
        Block { start, matrix: x.t().dot(x) / x.nrows() as f64, mean }
    }

    fn gram(blocks: Vec<Block>) -> Gram {
        Gram { groups: vec![blocks], count: 400_000 }
    }

    fn weight(rows: usize, columns: usize, rng: &mut ChaCha8Rng) -> Array2<f32> {
        Array2::from_shape_fn((rows, columns), |_| rng.random_range(-1.0_f32..1.0))
    }

    #[test]
    fn the_two_largest_of_four_channels_stay_at_each_tap() {
        // Three taps of five channels: channel by channel.
        let w = ndarray::array![[1.0_f32, -9.0, 3.0, -2.0, 8.0, 3.0, 3.0, 7.0, -3.0, -4.0, -6.0, 3.0, 0.5, 0.25, 0.1]];
        let kept = ndarray::array![[0.0_f32, -9.0, 3.0, 0.0, 8.0, 3.0, 3.0, 0.0, 0.0, -4.0, 0.0, 0.0, 0.5, 0.25, 0.1]];
        assert_eq!(by_magnitude(&w, 3), kept);
        assert!(is_sparse(&kept, 3) && !is_sparse(&w, 3));
        assert!(!is_sparse(&kept, 1), "neighbours along the window are no group");
    }

    /// Least squares over the kept columns of one row, by Gauss elimination: (v − w) H (v − w)ᵀ.
    fn least(w: &[f64], kept: &[usize], h: &Array2<f64>) -> f64 {
        let k = kept.len();
        let mut m: Vec<Vec<f64>> =
            kept.iter().map(|&i| kept.iter().map(|&j| h[[i, j]]).chain([(0..w.len()).map(|j| h[[i, j]] * w[j]).sum()]).collect()).collect();
        for i in 0..k {
            for r in (0..k).filter(|r| *r != i) {
                let by = m[r][i] / m[i][i];
                (0..=k).for_each(|c| m[r][c] -= by * m[i][c]);
            }
        }
        let mut e = w.to_vec();
        kept.iter().enumerate().for_each(|(i, &c)| e[c] -= m[i][k] / m[i][i]);
        let e = ndarray::Array1::from(e);
        e.dot(&h.dot(&e))
    }

    /// The least error of all masks of one or two groups of four.
    fn brute_force(w: &[f64], h: &Array2<f64>) -> f64 {
        let pairs: Vec<[usize; 2]> = (0..4).flat_map(|i| (i + 1..4).map(move |j| [i, j])).collect();
        let masks: Vec<Vec<usize>> = match w.len() {
            4 => pairs.iter().map(|p| p.to_vec()).collect(),
            _ => pairs.iter().flat_map(|p| pairs.iter().map(|q| vec![p[0], p[1], 4 + q[0], 4 + q[1]])).collect(),
        };
        masks.iter().map(|kept| least(w, kept, h)).fold(f64::INFINITY, f64::min)
    }

    #[test]
    fn of_one_group_the_best_of_all_masks_is_found_and_of_two_nearly() {
        let mut rng = ChaCha8Rng::seed_from_u64(1);
        for (n, slack, together) in [(4, 1.2, 1.02), (8, 5.0, 1.6)] {
            let (mut of_best, mut of_found, mut of_simple) = (0.0, 0.0, 0.0);
            for _ in 0..50 {
                let gram = gram(vec![block(&samples(n, &mut rng), 0)]);
                let w = weight(1, n, &mut rng);
                let best = brute_force(&w.iter().map(|w| f64::from(*w)).collect::<Vec<_>>(), &gram.groups[0][0].matrix);
                let found = weight_error(&w, &refitted(&w, 1, &gram, false), &gram, false).0;
                assert!(best < found * (1.0 + 1e-5) && found < slack * best, "{n} columns: {found} {best}");
                of_best += best;
                of_found += found;
                of_simple += weight_error(&w, &by_magnitude(&w, 1), &gram, false).0;
            }
            assert!(of_found < together * of_best && of_found < 0.7 * of_simple, "{n} columns: {of_found} {of_best} {of_simple}");
        }
    }

    #[test]
    fn the_error_is_that_of_running_the_samples_and_no_row_is_worse_than_by_magnitude() {
        let mut rng = ChaCha8Rng::seed_from_u64(2);
        let x = samples(36, &mut rng);
        let gram = gram(vec![block(&x, 0)]);
        let w = weight(10, 36, &mut rng);
        for centred in [false, true] {
            let (simple, found) = (by_magnitude(&w, 3), refitted(&w, 3, &gram, centred));
            let of_row = |v: &Array2<f32>, r: usize| {
                let y = x.dot(&(&w.row(r) - &v.row(r)).mapv(f64::from));
                let mean = if centred { y.mean().unwrap() } else { 0.0 };
                y.mapv(|y| (y - mean).powi(2)).mean().unwrap()
            };
            let rows = |v: &Array2<f32>| (0..10).map(|r| of_row(v, r)).sum::<f64>();
            assert!((0..10).all(|r| of_row(&found, r) <= of_row(&simple, r) * (1.0 + 1e-9)));
            assert!(rows(&found) < 0.6 * rows(&simple), "{} {}", rows(&found), rows(&simple));
            let expected = weight_error(&w, &found, &gram, centred).0;
            assert!((rows(&found) - expected).abs() < 1e-5 * expected, "{} {expected}", rows(&found));
        }
    }

    #[test]
    fn blocks_and_convolution_groups_are_treated_by_their_own_moments() {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        let (a, b) = (block(&samples(8, &mut rng), 0), block(&samples(8, &mut rng), 0));
        let w = weight(4, 8, &mut rng);
        let by = |rows: std::ops::Range<usize>, b: &Block| refitted(&w.slice(s![rows, ..]).to_owned(), 2, &gram(vec![b.clone()]), true);
        let grouped = Gram { groups: vec![vec![a.clone()], vec![b.clone()]], count: 400_000 };
        assert_eq!(refitted(&w, 2, &grouped, true), concatenate![Axis(0), by(0..2, &a), by(2..4, &b)]);
        let blocks = gram(vec![a.clone(), Block { start: 8, ..b.clone() }]);
        let wide = concatenate![Axis(1), w, w];
        assert_eq!(refitted(&wide, 2, &blocks, true), concatenate![Axis(1), by(0..4, &a), by(0..4, &b)]);
    }

    #[test]
    fn without_moments_of_all_columns_magnitudes_decide() {
        let mut rng = ChaCha8Rng::seed_from_u64(4);
        let (w, short) = (weight(3, 12, &mut rng), block(&samples(8, &mut rng), 0));
        let lost = Block { matrix: Array2::from_elem((12, 12), f64::NAN), mean: vec![0.0; 12], start: 0 };
        for gram in [Gram::default(), gram(vec![]), gram(vec![short.clone()]), gram(vec![short.clone(), short]), gram(vec![lost])] {
            assert_eq!(refitted(&w, 1, &gram, false), by_magnitude(&w, 1));
        }
    }

    proptest! {
        #[test]
        fn the_pattern_holds_for_any_size_and_blocks_cut_anywhere(
            rows in 1_usize..4, channels in 1_usize..11, taps in 1_usize..4, cut in 0_usize..11, seed in any::<u64>(),
        ) {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let (columns, cut) = (channels * taps, cut.min(channels) * taps);
            let x = samples(columns, &mut rng);
            let part = |from: usize, to: usize| block(&x.slice(s![.., from..to]).to_owned(), from);
            let blocks = [(0, cut), (cut, columns)].into_iter().filter(|(a, b)| a < b).map(|(a, b)| part(a, b)).collect();
            let gram = gram(blocks);
            let w = weight(rows, columns, &mut rng);
            let (simple, found) = (by_magnitude(&w, taps), refitted(&w, taps, &gram, true));
            prop_assert!(is_sparse(&simple, taps) && is_sparse(&found, taps));
            let of = |v: &Array2<f32>| weight_error(&w, v, &gram, true).0;
            prop_assert!(of(&found) <= of(&simple) * (1.0 + 1e-9) + 1e-12);
        }
    }
}
