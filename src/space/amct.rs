//! The rank that AMCT's own tensor decomposition gives a convolution, so that a study can start from it and be compared with it.
//!
//! AMCT makes a convolution into two, one along each side of its window. The rank is the number of components that variational Bayesian
//! matrix factorization finds in the weight, in closed form but for the noise (Nakajima, Tomioka, Sugiyama and Babacan, *Perfect
//! dimensionality recovery by variational Bayesian PCA*, 2012; Nakajima, Sugiyama, Babacan and Tomioka, *Global analytic solution of
//! fully-observed variational Bayesian matrix factorization*, 2013), held between two fractions of the full rank and rounded to 16.

use argmin::{
    core::{CostFunction, Executor},
    solver::brent::BrentOpt,
};
use faer::Mat;
use ndarray::ArrayD;

use super::limits::UNIT;

/// Where the closed form of the recovery threshold has its zero, over √α (Nakajima et al., 2013).
const THRESHOLD: f64 = 2.5129;
/// How near the noise is found; AMCT's figure.
const TOLERANCE: f64 = 1e-5;
/// Steps the search for the noise may take.
const STEPS: u64 = 500;

/// The rank at which AMCT splits a convolution into a k×1 and a 1×k convolution.
///
/// The weight is (cout, cin / groups, kh, kw); strides and dilations are those of its two sides.
///
/// # Errors
/// In words why AMCT leaves the layer whole.
pub fn split(weight: &ArrayD<f32>, strides: &[i64], dilations: &[i64], groups: usize) -> Result<usize, String> {
    let &[cout, cin, kh, kw] = weight.shape() else { return Err("it is no convolution of two dimensions".into()) };
    let (side, channels) = (kh.min(kw), cin.min(cout));
    let stride = strides.iter().copied().max().unwrap_or(1);
    if dilations.iter().any(|&d| d > 1) {
        return Err("AMCT splits no dilated convolution".into());
    }
    if groups > 1 {
        return Err("AMCT splits no grouped convolution".into());
    }
    if side < 3 {
        return Err(format!("AMCT splits windows from 3×3 on, it has {kh}×{kw}"));
    }
    if stride > 2 {
        return Err(format!("AMCT splits convolutions up to stride 2, it has {stride}"));
    }
    if side * channels < UNIT {
        return Err(format!("AMCT splits convolutions of a rank from {UNIT} on, it has {}", side * channels));
    }
    if side < 7 && channels < 64 {
        return Err(format!("AMCT splits windows below 7×7 from 64 channels on, it has {cin} and {cout}"));
    }
    let matrix = unfolded(weight, [cout, cin, kh, kw]);
    let singular = matrix.singular_values().map_err(|_| "the singular values of its weight cannot be computed".to_string())?;
    let rank = evbmf(matrix.nrows(), matrix.ncols(), &singular);
    Ok(clamped(rank, side * channels, channels).min(singular.len()))
}

/// Whether the first of AMCT's two convolutions runs along the height.
pub const fn vertical_first(cout: usize, cin: usize, kh: usize, kw: usize) -> bool {
    (cout >= cin) == (kh <= kw)
}

/// The weight as AMCT lays it out: the first convolution's side of the window beside the channels it takes, the other side beside the
/// others, with the fewer channels and their side as rows.
fn unfolded(weight: &ArrayD<f32>, [cout, cin, kh, kw]: [usize; 4]) -> Mat<f64> {
    let along_height = kh <= kw;
    let (side, other) = if along_height { (kh, kw) } else { (kw, kh) };
    let window = |a: usize, b: usize| if along_height { [a, b] } else { [b, a] };
    let by_input = cout >= cin;
    let (few, many) = if by_input { (cin, cout) } else { (cout, cin) };
    Mat::from_fn(few * side, many * other, |row, column| {
        let [y, x] = window(row % side, column % other);
        let (few, many) = (row / side, column / other);
        let (o, i) = if by_input { (many, few) } else { (few, many) };
        f64::from(weight[[o, i, y, x]])
    })
}

/// AMCT's bounds of a rank and its rounding, `full` being the smaller side of the window times the fewer channels.
fn clamped(rank: usize, full: usize, channels: usize) -> usize {
    let parts = if channels >= 256 { 4 } else { 6 };
    let rank = rank.min(full / parts).max(full / (parts + 1));
    let rounded = ((rank + UNIT / 2) / UNIT * UNIT).max(UNIT);
    // AMCT gives back what rounding took where that is more than a tenth.
    if (rounded as f64) < 0.9 * rank as f64 { rounded + UNIT } else { rounded }
}

/// Components of a matrix (rows × columns) that stand out of its noise, from its singular values, falling: the empirical variational
/// Bayesian matrix factorization of Nakajima et al. (2013).
///
/// The noise is found as AMCT finds it, to an absolute tolerance: the rank of a matrix of tiny values is a rough one.
pub fn evbmf(rows: usize, columns: usize, singular: &[f64]) -> usize {
    let (l, m) = (rows.min(columns), rows.max(columns) as f64);
    let squares: Vec<f64> = singular.iter().take(l).map(|s| s * s).collect();
    let sum: f64 = squares.iter().sum();
    if squares.len() < l || l == 0 || !sum.is_finite() || sum <= 0.0 {
        return 0;
    }
    let alpha = l as f64 / m;
    let root = THRESHOLD * alpha.sqrt();
    let bar = (1.0 + root) * (1.0 + alpha / root);
    let edge = ((l as f64 / (1.0 + alpha)).ceil() as usize).saturating_sub(1).min(l).saturating_sub(1);
    let tail = &squares[edge..];
    let beyond = squares.get(edge + 1).map_or(0.0, |s| s / (m * bar));
    let low = beyond.max(tail.iter().sum::<f64>() / tail.len() as f64 / m);
    let high = sum / (l as f64 * m);
    let noise = Noise { scaled: squares.iter().map(|s| s / m).collect(), alpha, bar };
    let found = noise.between(low, high.max(low));
    let least = (m * found * bar).sqrt();
    singular.iter().take(l).filter(|s| **s > least).count()
}

/// The free energy as a function of the variance of the noise.
struct Noise {
    /// Squares of the singular values over the longer side of the matrix.
    scaled: Vec<f64>,
    /// Shorter over longer side.
    alpha: f64,
    /// From this on, in units of the noise, a component is kept.
    bar: f64,
}

impl Noise {
    /// The variance of the least free energy between two, to [`TOLERANCE`].
    fn between(self, low: f64, high: f64) -> f64 {
        // A third, and the root of the machine's precision: where the bounded minimisation stops that AMCT calls.
        let solver = BrentOpt::new(low, high).set_tolerance(f64::EPSILON.sqrt(), TOLERANCE / 3.0);
        let run = Executor::new(self, solver).configure(|state| state.max_iters(STEPS)).timer(false).run();
        run.ok().and_then(|r| r.state.param).unwrap_or(low)
    }
}

impl CostFunction for Noise {
    type Param = f64;
    type Output = f64;

    fn cost(&self, variance: &f64) -> Result<f64, argmin::core::Error> {
        let alpha = self.alpha;
        let term = |x: f64| {
            if x <= self.bar {
                return x - x.ln();
            }
            let over = x - (1.0 + alpha);
            let tau = 0.5 * (over + over.mul_add(over, -4.0 * alpha).max(0.0).sqrt());
            x - tau + ((tau + 1.0) / x).ln() + alpha * (tau / alpha + 1.0).ln()
        };
        let energy: f64 = self.scaled.iter().map(|s| term(s / variance)).sum();
        // A singular value of 0 makes it infinite everywhere; the differences that the minimisation takes must stay numbers.
        Ok(energy.min(f64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::IxDyn;

    /// Numbers in (-1, 1), the same in every language: the middle bits of Knuth's linear congruence.
    fn numbers(seed: u64) -> impl FnMut() -> f64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as f64 / f64::from(1u32 << 30) - 1.0
        }
    }

    /// A product of two random matrices (rows × rank and rank × columns, row by row, one after the other) and noise.
    fn planted(rows: usize, columns: usize, rank: usize, noise: f64, seed: u64) -> Vec<f64> {
        let mut next = numbers(seed);
        let a: Vec<f64> = (0..rows * rank).map(|_| next()).collect();
        let b: Vec<f64> = (0..rank * columns).map(|_| next()).collect();
        let n: Vec<f64> = (0..rows * columns).map(|_| noise * next()).collect();
        let product = |i: usize, j: usize| (0..rank).map(|k| a[i * rank + k] * b[k * columns + j]).sum::<f64>();
        Mat::from_fn(rows, columns, |i, j| product(i, j) + n[i * columns + j]).singular_values().unwrap()
    }

    /// Rows, columns, planted rank, noise, seed, and the rank found by numpy's SVD and scipy.optimize.minimize_scalar (bounded, xatol 1e-5,
    /// 500 iterations).
    const SCIPY: [(usize, usize, usize, f64, u64, usize); 10] = [
        (76, 89, 19, 0.0015, 1, 19),
        (25, 12, 0, 2.6046, 2, 0),
        (59, 127, 15, 1.1585, 3, 15),
        (36, 81, 13, 0.1609, 14, 13),
        (52, 57, 26, 0.0024, 25, 11),
        (87, 129, 29, 0.0012, 37, 29),
        (15, 52, 7, 2.8443, 40, 0),
        (22, 68, 3, 2.3329, 41, 2),
        (22, 21, 10, 0.0131, 42, 7),
        (72, 82, 31, 2.5164, 53, 5),
    ];

    fn weight(dims: [usize; 4], seed: u64) -> ArrayD<f32> {
        let mut next = numbers(seed);
        ArrayD::from_shape_fn(IxDyn(&dims), |_| next() as f32)
    }

    #[test]
    fn the_rank_is_the_one_that_scipy_finds() {
        for (rows, columns, rank, noise, seed, expected) in SCIPY {
            let singular = planted(rows, columns, rank, noise, seed);
            assert_eq!(evbmf(rows, columns, &singular), expected, "{rows}×{columns} of rank {rank} with noise {noise}");
            assert_eq!(evbmf(columns, rows, &singular), expected, "it does not matter which side is longer");
        }
    }

    #[test]
    fn planted_components_are_recovered_and_of_nothing_none_is() {
        assert_eq!(evbmf(60, 100, &planted(60, 100, 7, 0.1, 3)), 7);
        assert_eq!(evbmf(60, 100, &planted(60, 100, 0, 1.0, 3)), 0);
        assert_eq!(evbmf(4, 4, &[0.0; 4]), 0);
        assert_eq!(evbmf(0, 4, &[]), 0);
    }

    #[test]
    fn ranks_lie_between_two_fractions_of_the_full_one_in_steps_of_16() {
        // 64×64×3×3: 192 / 7 = 27 to 192 / 6 = 32, both rounded to 32.
        assert_eq!([0, 30, 192].map(|r| clamped(r, 192, 64)), [32; 3]);
        // 512×512×3×3: 1536 / 5 = 307 to 1536 / 4 = 384; 307 is rounded to 304, 312 to 320.
        assert_eq!([0, 312, 1536].map(|r| clamped(r, 1536, 512)), [304, 320, 384]);
        // 128×128×3×3: 384 / 7 = 54 is rounded to 48, less than nine tenths of it, and so to 64.
        assert_eq!(clamped(0, 384, 128), 64);
        // 7×7 of 3 channels: 21 / 7 = 3, and 16 is the least.
        assert_eq!(clamped(0, 21, 3), 16);
    }

    #[test]
    fn a_convolution_of_64_channels_is_split_at_32() {
        assert_eq!(split(&weight([64, 64, 3, 3], 1), &[1, 1], &[1, 1], 1), Ok(32));
        assert_eq!(split(&ArrayD::zeros(IxDyn(&[64, 64, 3, 3])), &[1, 1], &[1, 1], 1), Ok(32));
        // 7×7 of one channel has fewer singular values than 16.
        assert!(split(&weight([64, 1, 7, 7], 1), &[1, 1], &[1, 1], 1).unwrap_err().contains("it has 7"));
    }

    #[test]
    fn what_amct_skips_is_said_in_words() {
        let why = |dims, strides: &[i64], dilations: &[i64], groups| split(&weight(dims, 1), strides, dilations, groups).unwrap_err();
        assert!(why([64, 64, 3, 3], &[1, 1], &[1, 2], 1).contains("dilated"));
        assert!(why([64, 64, 3, 3], &[1, 1], &[1, 1], 2).contains("grouped"));
        assert!(why([64, 64, 1, 3], &[1, 1], &[1, 1], 1).contains("1×3"));
        assert!(why([64, 64, 3, 3], &[1, 3], &[1, 1], 1).contains("stride 2, it has 3"));
        assert!(why([64, 63, 3, 3], &[1, 1], &[1, 1], 1).contains("63 and 64"));
        assert!(split(&ArrayD::zeros(IxDyn(&[64, 64, 3])), &[1], &[1], 1).is_err());
        assert_eq!(split(&weight([64, 3, 7, 7], 1), &[2, 2], &[1, 1], 1), Ok(16));
    }

    #[test]
    fn the_unfolding_separates_what_the_two_convolutions_see() {
        // A weight that a single pair of convolutions makes has rank 1 in its own layout: first (cin, a), then (cout, b).
        for (dims, vertical) in [
            ([5, 4, 3, 4], true),
            ([5, 4, 4, 3], false),
            ([4, 5, 3, 4], false),
            ([4, 5, 4, 3], true),
            ([4, 4, 3, 3], true),
            ([4, 5, 3, 3], false),
        ] {
            let [cout, cin, kh, kw] = dims;
            assert_eq!(vertical_first(cout, cin, kh, kw), vertical, "{dims:?}");
            let mut next = numbers(2);
            let first: Vec<f64> = (0..cin * 4).map(|_| next()).collect();
            let last: Vec<f64> = (0..cout * 4).map(|_| next()).collect();
            let made = ArrayD::from_shape_fn(IxDyn(&dims), |at| {
                let (a, b) = if vertical { (at[2], at[3]) } else { (at[3], at[2]) };
                (first[at[1] * 4 + a] * last[at[0] * 4 + b]) as f32
            });
            let matrix = unfolded(&made, dims);
            assert_eq!(matrix.nrows(), kh.min(kw) * cin.min(cout), "{dims:?}");
            let singular = matrix.singular_values().unwrap();
            assert!(singular[1] < 1e-5 * singular[0], "{dims:?}: {singular:?}");
        }
    }
}
