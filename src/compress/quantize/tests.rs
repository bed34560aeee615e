//! Ranges and roundings against brute force and hand-made cases.

use ndarray::Array2;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{
    error::weight_error,
    grid::Grid,
    range::activation_grid,
    round::{Rounding, Weight, quantize_weight},
};
use crate::{
    compress::{
        calibrate::{Block, Gram, Histogram},
        sparse,
    },
    spec::{QuantizeSpec, RangeRule, Round, WeightRule},
};

/// Values like those behind a ReLU with a few outliers.
fn skewed() -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let body = (0..40_000).map(|_| rng.random_range(-1.0_f32..1.0).max(0.0) * rng.random_range(0.0_f32..1.0));
    body.chain([6.0, 7.5, 9.0]).collect()
}

fn both_sides() -> Vec<f32> {
    let mut rng = ChaCha8Rng::seed_from_u64(4);
    (0..40_000).map(|_| rng.random_range(-1.0_f32..1.0).powi(3) * 2.0 + rng.random_range(-0.5_f32..1.0)).collect()
}

fn histogram(values: &[f32]) -> Histogram {
    let mut h = Histogram::default();
    h.add(values);
    h
}

fn squared(values: &[f32], grid: Grid) -> f64 {
    values.iter().map(|&v| f64::from(v - grid.fake(v)).powi(2)).sum::<f64>()
}

#[test]
fn the_mse_range_is_the_best_of_a_fine_search_over_the_values_themselves() {
    for values in [skewed(), both_sides()] {
        let h = histogram(&values);
        for bits in [4, 8] {
            let found = squared(&values, activation_grid(&h, bits, RangeRule::Mse, &QuantizeSpec::default()));
            let cut = |low: u32, high: u32| Grid::asymmetric(h.min * low as f32 / 50.0, h.max * high as f32 / 50.0, bits);
            let best = (1..=50)
                .flat_map(|l| (1..=50).map(move |u| (l, u)))
                .map(|(l, u)| squared(&values, cut(l, u)))
                .fold(f64::INFINITY, f64::min);
            assert!(found < 1.05 * best, "{bits} bits: {found} against {best}");
        }
    }
}

#[test]
fn every_rule_gives_a_range_within_the_values_and_without_offset_one_around_zero() {
    for values in [skewed(), both_sides(), vec![0.0; 100], vec![-3.0, -1.0, -2.0]] {
        let h = histogram(&values);
        for rule in RangeRule::ALL {
            for bits in [4, 8] {
                let grid = activation_grid(&h, bits, rule, &QuantizeSpec::default());
                let (low, high) = grid.limits();
                let ends = ((low - grid.offset) as f32 * grid.scale, (high - grid.offset) as f32 * grid.scale);
                let slack = 1.31 * (h.max.max(0.0) - h.min.min(0.0)) + grid.scale;
                assert!(values[0] == 0.0 || (ends.0 >= -slack && ends.1 <= slack), "{rule:?} {ends:?}");
                assert_eq!(grid.fake(0.0), 0.0, "{rule:?} cannot say 0");
                let symmetric = activation_grid(&h, bits, rule, &QuantizeSpec { offset: false, ..QuantizeSpec::default() });
                assert_eq!(symmetric.offset, 0, "{rule:?}");
            }
        }
    }
}

#[test]
fn ifmr_keeps_the_minimum_and_takes_the_best_of_its_sixty_candidates() {
    let values = both_sides();
    let h = histogram(&values);
    let (min, max) = (h.min, h.max);
    let candidates = (0..60).map(|i| Grid::asymmetric(min, max * (0.7 + 0.01 * i as f32), 4));
    let best = candidates.map(|g| squared(&values, g)).fold(f64::INFINITY, f64::min);
    let found = squared(&values, activation_grid(&h, 4, RangeRule::Ifmr, &QuantizeSpec::default()));
    assert!((found - best).abs() < 0.01 * best, "{found} {best}");
}

#[test]
fn hfmg_cuts_outliers_that_cost_more_than_they_are_worth() {
    let values = skewed();
    let h = histogram(&values);
    let grid = activation_grid(&h, 4, RangeRule::Hfmg, &QuantizeSpec::default());
    assert!(grid.scale * 15.0 < 5.0, "{grid:?}");
    assert!(squared(&values, grid) < squared(&values, activation_grid(&h, 4, RangeRule::MinMax, &QuantizeSpec::default())));
}

#[test]
fn the_divergence_of_evenly_spread_values_cuts_nothing() {
    let values: Vec<f32> = (0..100_000).map(|i| i as f32 / 100_000.0).collect();
    let grid = activation_grid(&histogram(&values), 8, RangeRule::Kl, &QuantizeSpec::default());
    assert!((grid.scale * 255.0 - 1.0).abs() < 0.03, "{grid:?}");
}

/// Moments of made-up inputs that hang together.
fn gram(n: usize, rng: &mut ChaCha8Rng) -> Gram {
    let mix = Array2::from_shape_fn((n, n), |_| rng.random_range(-1.0..1.0));
    let x = Array2::from_shape_fn((400, n), |_| rng.random_range(-1.0..1.0_f64)).dot(&mix);
    let mean = x.columns().into_iter().map(|c| c.sum() / 400.0).collect();
    Gram { groups: vec![vec![Block { start: 0, matrix: x.t().dot(&x) / 400.0, mean }]], count: 400_000 }
}

fn rounded(matrix: &Array2<f32>, gram: &Gram, bits: u32, round: Round, per_row: bool) -> Rounding {
    let rule = WeightRule::MinMax;
    quantize_weight(&Weight { matrix, per_row, bits, rule, round, gram: Some(gram), noise: 0.0, centred: false, keeps_zeros: false })
}

/// (w − s·q) (H + damping) (w − s·q)ᵀ of one row.
fn error(w: &[f32], q: &[f64], s: f64, h: &Array2<f64>) -> f64 {
    let n = w.len();
    let damping = (0.01 + 0.5 * n as f64 / 400_000.0) * h.diag().sum() / n as f64;
    let e: Vec<f64> = w.iter().zip(q).map(|(w, q)| f64::from(*w) - s * q).collect();
    (0..n).map(|i| (0..n).map(|j| e[i] * (h[[i, j]] + if i == j { damping } else { 0.0 }) * e[j]).sum::<f64>()).sum()
}

#[test]
fn rounding_by_moments_comes_near_the_best_of_all_integers() {
    let mut rng = ChaCha8Rng::seed_from_u64(11);
    let (mut of_nearest, mut of_gptq, mut of_adaround, mut of_best) = (0.0, 0.0, 0.0, 0.0);
    for _ in 0..20 {
        let gram = gram(4, &mut rng);
        let h = &gram.groups[0][0].matrix;
        let w = Array2::from_shape_fn((1, 4), |_| rng.random_range(-1.0_f32..1.0));
        let row: Vec<f32> = w.iter().copied().collect();
        let of = |round: Round| {
            // One scale for the tensor, so that all are on the same grid.
            let r = rounded(&w, &gram, 3, round, false);
            error(&row, &r.integers.iter().map(|q| f64::from(*q)).collect::<Vec<_>>(), f64::from(r.scales[0]), h)
        };
        let s = f64::from(rounded(&w, &gram, 3, Round::Nearest, false).scales[0]);
        let all = (0..8_i32.pow(4)).map(|i| (0..4).map(|k| f64::from(i / 8_i32.pow(k) % 8 - 4)).collect::<Vec<f64>>());
        of_best += all.map(|q| error(&row, &q, s, h)).fold(f64::INFINITY, f64::min);
        of_nearest += of(Round::Nearest);
        of_gptq += of(Round::Gptq);
        of_adaround += of(Round::Adaround);
    }
    assert!(of_best <= of_adaround && of_adaround < of_gptq && of_gptq < of_nearest, "{of_best} {of_adaround} {of_gptq} {of_nearest}");
    assert!(of_adaround < 1.25 * of_best, "{of_adaround} {of_best}");
}

#[test]
fn columns_that_do_not_hang_together_are_rounded_to_the_nearest() {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let n = 12;
    let gram = Gram { groups: vec![vec![Block { start: 0, matrix: Array2::eye(n), mean: vec![0.0; n] }]], count: 1_000_000 };
    let w = Array2::from_shape_fn((5, n), |_| rng.random_range(-1.0_f32..1.0));
    let nearest = rounded(&w, &gram, 4, Round::Nearest, true);
    assert_eq!(rounded(&w, &gram, 4, Round::Gptq, true), nearest);
}

#[test]
fn blocks_and_groups_are_rounded_by_their_own_moments() {
    let mut rng = ChaCha8Rng::seed_from_u64(6);
    let (a, b) = (gram(6, &mut rng), gram(6, &mut rng));
    let of = |g: &Gram, start| Block { start, ..g.groups[0][0].clone() };
    let w = Array2::from_shape_fn((4, 6), |_| rng.random_range(-1.0_f32..1.0));
    let grouped = Gram { groups: vec![vec![of(&a, 0)], vec![of(&b, 0)]], count: 400_000 };
    let both = rounded(&w, &grouped, 4, Round::Adaround, true);
    let half = |from: usize| w.slice(ndarray::s![from..from + 2, ..]).to_owned();
    let (first, second) = (rounded(&half(0), &a, 4, Round::Adaround, true), rounded(&half(2), &b, 4, Round::Adaround, true));
    assert_eq!(both.scales, [first.scales, second.scales].concat());
    assert_eq!(both.integers.slice(ndarray::s![2.., ..]), second.integers);
    let wide = ndarray::concatenate![ndarray::Axis(1), w, w];
    let blocks = Gram { groups: vec![vec![of(&a, 0), of(&b, 6)]], count: 400_000 };
    let found = rounded(&wide, &blocks, 4, Round::Gptq, true);
    assert_eq!(found.integers.slice(ndarray::s![.., ..6]), rounded(&w, &a, 4, Round::Gptq, true).integers);
    assert_eq!(found.integers.slice(ndarray::s![.., 6..]), rounded(&w, &b, 4, Round::Gptq, true).integers);
}

#[test]
fn a_weight_of_zeros_and_an_input_never_seen_are_harmless() {
    let mut rng = ChaCha8Rng::seed_from_u64(8);
    let mut seen = gram(5, &mut rng);
    seen.groups[0][0].matrix.row_mut(2).fill(0.0);
    seen.groups[0][0].matrix.column_mut(2).fill(0.0);
    let mut w = Array2::from_shape_fn((3, 5), |_| rng.random_range(-1.0_f32..1.0));
    w.row_mut(1).fill(0.0);
    for round in [Round::Nearest, Round::Gptq, Round::Adaround] {
        let r = rounded(&w, &seen, 4, round, true);
        assert!(r.values().row(1).iter().all(|v| *v == 0.0) && r.values().iter().all(|v| v.is_finite()), "{round:?}");
        assert!((r.values()[[0, 2]] - w[[0, 2]]).abs() <= 0.51 * r.scales[0], "{round:?}: a weight whose input was never seen");
    }
}

#[test]
fn a_sparse_weight_stays_sparse_and_what_is_left_still_makes_up_for_it() {
    let mut rng = ChaCha8Rng::seed_from_u64(9);
    let gram = gram(24, &mut rng);
    let dense = Array2::from_shape_fn((6, 24), |_| rng.random_range(-1.0_f32..1.0));
    for matrix in [sparse::by_magnitude(&dense, 1), sparse::refitted(&dense, 1, &gram, false)] {
        let of = |round: Round, keeps_zeros: bool| {
            let rule = WeightRule::MinMax;
            let asked = Weight {
                matrix: &matrix,
                per_row: false,
                bits: 4,
                rule,
                round,
                gram: Some(&gram),
                noise: 0.0,
                centred: false,
                keeps_zeros,
            };
            let values = quantize_weight(&asked).values();
            (sparse::is_sparse(&values, 1), weight_error(&matrix, &values, &gram, false).0)
        };
        let nearest = of(Round::Nearest, true);
        assert!(nearest.0);
        for round in [Round::Gptq, Round::Adaround] {
            let (kept, error) = of(round, true);
            assert!(kept && error <= nearest.1, "{round:?}: {error} {}", nearest.1);
            assert!(!of(round, false).0, "{round:?} would have filled zeros unasked");
        }
    }
}
