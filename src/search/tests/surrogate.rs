//! The surrogate against objectives whose truth is known.

use rand::Rng;

use super::*;
use crate::{
    search::{Surrogate, random::draw},
    space::Candidate,
    trial::Score,
};

fn fit(made: &Made, trials: &[Trial]) -> Surrogate {
    Surrogate::fit(&made.space, &made.tables(), trials)
}

fn wrong(seed: u64) -> Made {
    Made::random(space(6, BITS_AND_CHANNELS), seed, false).wrong(seed, (0.3, 3.0))
}

fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

fn spread(of: &[f64]) -> f64 {
    let mean = of.iter().sum::<f64>() / of.len() as f64;
    (of.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / of.len() as f64).sqrt()
}

/// Median factor by which predicted distances of new candidates are off.
fn off(made: &Made, surrogate: &Surrogate) -> f64 {
    let mut rng = ChaCha8Rng::seed_from_u64(99);
    let ratio = |_| {
        let c = draw(&made.space, &mut rng);
        (surrogate.distance(&c) / made.score(&c).distance.unwrap()).ln().abs()
    };
    median((0..200).map(ratio).collect()).exp()
}

/// Every option of every axis alone, then all options one above them in turn, measured.
fn alone(made: &Made) -> Vec<Trial> {
    let options = |a: usize| 1..made.space.axes[a].len();
    let one = |(a, o): (usize, usize)| (0..made.space.axes.len()).map(|b| if a == b { o as u16 } else { 0 }).collect::<Vec<u16>>();
    let all: Vec<Vec<u16>> = (0..made.space.axes.len()).flat_map(|a| options(a).map(move |o| (a, o))).map(one).collect();
    made.history(&all.iter().map(|c| (c.as_slice(), SAMPLES)).collect::<Vec<_>>())
}

#[test]
fn without_a_trial_the_distance_is_the_sum_of_the_tables() {
    let made = wrong(1);
    let surrogate = fit(&made, &[]);
    let tables = made.tables();
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    for _ in 0..50 {
        let c = draw(&made.space, &mut rng);
        let sum: f64 = c.0.iter().enumerate().map(|(a, &o)| tables.damage[a][usize::from(o)]).sum();
        assert!((surrogate.distance(&c) - sum).abs() <= 1e-12 + 1e-9 * sum, "{} is not {sum}", surrogate.distance(&c));
    }
    assert_eq!(surrogate.damage(), tables.damage);
}

#[test]
fn measured_candidates_correct_a_table_that_is_wrong_by_a_factor_for_every_axis() {
    for seed in 0..4 {
        let made = wrong(seed);
        let (before, after) = (off(&made, &fit(&made, &[])), off(&made, &fit(&made, &made.measured(40, seed))));
        assert!(before > 1.1 && after < 1.04 && after - 1.0 < (before - 1.0) / 4.0, "seed {seed}: {before}, then {after}");
    }
}

#[test]
fn a_few_candidates_on_some_samples_correct_it_too() {
    for seed in 0..4 {
        let made = wrong(seed);
        let mut history = made.measured(16, seed);
        history = history.iter().map(|t| made.trial(t.trial, t.origin, &t.candidate.0, FIRST)).collect();
        let (before, after) = (off(&made, &fit(&made, &[])), off(&made, &fit(&made, &history)));
        assert!(after - 1.0 < 0.7 * (before - 1.0), "seed {seed}: {before}, then {after}");
    }
}

#[test]
fn the_factors_of_the_axes_are_found() {
    for seed in 0..4 {
        let made = wrong(seed);
        let mut history = alone(&made);
        history.extend(made.measured(40, seed).into_iter().skip(1));
        let (found, table) = (fit(&made, &history).damage(), made.tables().damage);
        // Up to what all have in common, which the power and the scale of the sum share with them.
        let factor = |a: usize| found[a][1] / table[a][1] * made.off[a];
        let common = median((0..found.len()).map(factor).collect());
        for a in 0..found.len() {
            assert!((factor(a) / common).ln().abs() < 0.25, "seed {seed}, axis {a}: {} of {common}", factor(a));
        }
    }
}

#[test]
fn the_law_of_the_drop_is_found_from_drops_without_noise() {
    for (scale, power) in [(0.5, 1.0), (0.3, 0.8), (1.0, 1.1)] {
        let made = Made::random(space(6, BITS_AND_CHANNELS), 1, false);
        let law = |distance: f64| scale * distance.powf(power);
        let mut history = made.measured(40, 1);
        for trial in &mut history {
            let Outcome::Measured { score, .. } = &mut trial.outcome else { panic!("{trial:?}") };
            score.drop = law(score.distance.unwrap());
            (score.drop_low, score.drop_high) = (Some(score.drop), Some(score.drop));
        }
        let surrogate = fit(&made, &history);
        for distance in [0.08, 0.12, 0.16] {
            assert!((surrogate.drop_at(distance) / law(distance) - 1.0).abs() < 0.05, "{scale} {power}: {}", surrogate.drop_at(distance));
        }
    }
}

#[test]
fn drawn_damages_have_the_spread_of_the_prior_and_draw_together_with_data() {
    let made = wrong(2);
    let drawn = |surrogate: &Surrogate, of: &dyn Fn(&[Vec<f64>]) -> f64| {
        let mut rng = ChaCha8Rng::seed_from_u64(3);
        spread(&(0..3000).map(|_| of(&surrogate.drawn(&mut rng).damage()).ln()).collect::<Vec<f64>>())
    };
    let one = |d: &[Vec<f64>]| d[0][1];
    // Two axes of precision: what belongs to the kind falls out.
    let ratio = |d: &[Vec<f64>]| d[0][1] / d[1][1];
    let before = fit(&made, &[]);
    // Kind 0.7, axis 0.5, option 0.3.
    assert!((drawn(&before, &one) - 0.83_f64.sqrt()).abs() < 0.03, "{}", drawn(&before, &one));
    assert!((drawn(&before, &ratio) - (2.0 * 0.34_f64).sqrt()).abs() < 0.03, "{}", drawn(&before, &ratio));
    let after = fit(&made, &alone(&made));
    assert!(drawn(&after, &one) < drawn(&before, &one) && drawn(&after, &ratio) < 0.25, "{}", drawn(&after, &ratio));
}

#[test]
fn options_without_damage_stay_so_and_those_that_cannot_be_built_too() {
    let made = wrong(2);
    let mut tables = made.tables();
    tables.damage[0][1] = 0.0;
    tables.damage[1][2] = f64::NAN;
    let history = made.measured(20, 4);
    let surrogate = Surrogate::fit(&made.space, &tables, &history);
    let drawn = surrogate.drawn(&mut ChaCha8Rng::seed_from_u64(1));
    for damage in [surrogate.damage(), drawn.damage()] {
        assert!(damage[0][1] == 0.0 && damage[1][2].is_nan() && damage[2][1] > 0.0);
    }
}

#[test]
fn an_estimate_lies_between_measured_and_predicted_and_tends_to_the_measured_one() {
    let made = wrong(3);
    let surrogate = fit(&made, &made.measured(20, 3));
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    for _ in 0..20 {
        let candidate = draw(&made.space, &mut rng);
        let distance = made.score(&candidate).distance;
        let predicted = surrogate.drop_at(distance.unwrap());
        let drop = predicted + rng.random_range(-0.03..0.03);
        let estimate = |half: f64| {
            let score = Score { accuracy: 0.9, drop, drop_low: Some(drop - half), drop_high: Some(drop + half), distance, samples: 1 };
            surrogate.estimate(&score, &candidate)
        };
        let all: Vec<(f64, f64)> = [10.0, 0.1, 0.03, 0.01, 0.001, 0.0].map(estimate).to_vec();
        let between = |e: f64| e >= predicted.min(drop) - 1e-9 && e <= predicted.max(drop) + 1e-9;
        assert!(all.iter().all(|(e, _)| between(*e)), "{all:?} between {predicted} and {drop}");
        assert!(all.windows(2).all(|w| (w[1].0 - drop).abs() <= (w[0].0 - drop).abs() && w[1].1 <= w[0].1), "{all:?}");
        assert!((all[0].0 - predicted).abs() < 1e-4 && (all[5].0 - drop).abs() < 1e-6, "{all:?} between {predicted} and {drop}");
    }
}

#[test]
fn a_candidate_of_another_space_teaches_nothing() {
    let made = wrong(3);
    let mut history = made.measured(5, 3);
    let before = fit(&made, &history).damage();
    history.push(Trial { candidate: Candidate(vec![]), ..history[1].clone() });
    assert_eq!(fit(&made, &history).damage(), before);
}
