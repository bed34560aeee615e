//! What other tools do, on spaces small enough to follow by hand.

use rand::Rng;

use super::*;

/// Drop and milliseconds of INT8 in each of four layers.
const LAYERS: [(f64, f64); 4] = [(0.020, 10.0), (0.030, 30.0), (0.010, 1.0), (0.004, 20.0)];

#[test]
fn amct_finds_the_shortest_prefix_of_layers_that_has_to_stay_float() {
    let made = Made::layers(&LAYERS);
    let history = driven(&made, StrategyName::Amct, &within(0.015), 0);
    // The most damaged first: 0.064 with all quantized, 0.034 without the second, 0.014 without the first too.
    let steps: [&[u16]; 3] = [&[1, 1, 1, 1], &[0, 0, 1, 1], &[1, 0, 1, 1]];
    assert_eq!(tried(&history), steps.map(|s| (s, SAMPLES)));
}

#[test]
fn amct_takes_about_as_many_evaluations_as_the_layers_have_binary_digits() {
    for seed in 0..6 {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let layers: Vec<(f64, f64)> = (0..16).map(|_| (rng.random_range(0.001..0.01), rng.random_range(0.1..5.0))).collect();
        let made = Made::layers(&layers);
        let history = driven(&made, StrategyName::Amct, &within(0.03), seed);
        assert!(history.len() - 1 <= 6, "seed {seed}: {} evaluations", history.len() - 1);
        let mut drops: Vec<f64> = layers.iter().map(|l| l.0).collect();
        drops.sort_by(|a, b| b.total_cmp(a));
        let shortest = (0..=16).find(|&p| drops[p..].iter().sum::<f64>() <= 0.03).unwrap();
        let quantized = |t: &Trial| t.candidate.0.iter().filter(|o| **o == 1).count();
        let kept = history[1..].iter().filter(|t| t.outcome.measured().is_some_and(|(s, _)| s.drop <= 0.03));
        assert_eq!(kept.map(quantized).max(), Some(16 - shortest), "seed {seed}");
    }
}

#[test]
fn amct_then_prunes_all_groups_alike_as_far_as_the_budget_goes() {
    let space = space(3, BITS_AND_CHANNELS);
    // Three axes of precision, then two of channels, each with three options.
    let (bits, channels) = (vec![0.0, 0.001, 0.005], vec![0.0, 0.002, 0.02]);
    let drop: Vec<Vec<f64>> = space.axes.iter().map(|a| if a.describe(0) == "fp16" { bits.clone() } else { channels.clone() }).collect();
    let made = Made::new(space, drop, vec![vec![0.0, 1.0, 2.0]; 5]);
    let keeps: Vec<bool> = made.space.axes.iter().map(|a| a.describe(0) != "fp16").collect();
    let plan = |level: u16| keeps.iter().map(|k| if *k { level } else { 1 }).collect::<Vec<u16>>();
    // INT8 alone 0.003, with three quarters of the channels 0.007, with half of them 0.043.
    let history = driven(&made, StrategyName::Amct, &within(0.01), 0);
    assert_eq!(tried(&history), [plan(0), plan(2), plan(1)].iter().map(|p| (p.as_slice(), SAMPLES)).collect::<Vec<_>>());
}

#[test]
fn aimet_measures_every_option_alone_and_flips_the_longest_prefix_that_keeps_the_budget() {
    let made = Made::layers(&LAYERS);
    let history = driven(&made, StrategyName::Aimet, &within(0.035), 0);
    // The least harmful first: 0.004, 0.014, 0.034, 0.064 together. Half of the list, then three, then all.
    let alone: [&[u16]; 4] = [&[1, 0, 0, 0], &[0, 1, 0, 0], &[0, 0, 1, 0], &[0, 0, 0, 1]];
    let together: [&[u16]; 3] = [&[0, 0, 1, 1], &[1, 0, 1, 1], &[1, 1, 1, 1]];
    assert_eq!(tried(&history), alone.into_iter().chain(together).map(|c| (c, SAMPLES)).collect::<Vec<_>>());
    assert_eq!(history.iter().filter(|t| t.round == 1).count(), 4);
}

#[test]
fn nncf_reverts_the_most_harmful_group_until_the_budget_holds() {
    let made = Made::layers(&LAYERS);
    let history = driven(&made, StrategyName::Nncf, &within(0.015), 0);
    // 0.064 with all; 0.034 without the second; 0.014 without the first too. One ranking serves both steps.
    let whole: [&[u16]; 3] = [&[1, 1, 1, 1], &[1, 0, 1, 1], &[0, 0, 1, 1]];
    let ranked: [&[u16]; 4] = [&[0, 1, 1, 1], &[1, 0, 1, 1], &[1, 1, 0, 1], &[1, 1, 1, 0]];
    let expected: Vec<(&[u16], usize)> =
        [(whole[0], SAMPLES)].into_iter().chain(ranked.map(|c| (c, 300))).chain([(whole[1], SAMPLES), (whole[2], SAMPLES)]).collect();
    assert_eq!(tried(&history), expected);
}

#[test]
fn nncf_undoes_a_step_that_made_it_worse_and_ranks_what_is_left_anew() {
    // The second layer changes the outputs, but for the better; by the outputs it comes second.
    let mut made = Made::layers(&[(0.020, 1.0), (-0.005, 1.0), (0.030, 1.0), (0.004, 1.0)]);
    made.distance = [0.10, 0.05, 0.03, 0.01].map(|d| vec![0.0, d]).to_vec();
    let history = driven(&made, StrategyName::Nncf, &within(0.003), 0);
    let met = |samples: usize| move |c: [u16; 4]| (c.to_vec(), samples);
    let (all, some) = (met(SAMPLES), met(300));
    let expected = [
        all([1, 1, 1, 1]),
        some([0, 1, 1, 1]),
        some([1, 0, 1, 1]),
        some([1, 1, 0, 1]),
        some([1, 1, 1, 0]),
        // 0.049 becomes 0.029.
        all([0, 1, 1, 1]),
        // 0.034: undone.
        all([0, 0, 1, 1]),
        some([0, 1, 0, 1]),
        some([0, 1, 1, 0]),
        // −0.001.
        all([0, 1, 0, 1]),
    ];
    assert_eq!(tried(&history).into_iter().map(|(c, n)| (c.to_vec(), n)).collect::<Vec<_>>(), expected);
}

#[test]
fn uniform_asks_for_every_uniform_plan_once() {
    let made = Made::random(space(3, BITS_AND_CHANNELS), 1, false);
    let history = driven(&made, StrategyName::Uniform, &Constraints::default(), 0);
    // Three precisions, each alone and with two levels of channels, less the float model itself.
    assert_eq!((history.len() - 1, history.last().unwrap().round), (8, 1));
    let keeps: Vec<bool> = made.space.axes.iter().map(|a| a.describe(0) != "fp16").collect();
    for (options, samples) in tried(&history) {
        let of = |keep: bool| keeps.iter().zip(options).filter(|(k, _)| **k == keep).map(|(_, o)| *o).collect::<Vec<u16>>();
        assert!(samples == SAMPLES && [of(true), of(false)].iter().all(|o| o.windows(2).all(|w| w[0] == w[1])), "{options:?}");
    }
}

#[test]
fn every_peer_comes_to_its_end_and_measures_on_all_samples_what_it_keeps() {
    for strategy in [StrategyName::Uniform, StrategyName::Amct, StrategyName::Aimet, StrategyName::Nncf] {
        for budget in [1e-6, 0.005, 0.02, 1.0] {
            let made = Made::random(space(5, BITS_AND_CHANNELS), 3, false).wrong(3, (0.3, 3.0));
            let history = driven(&made, strategy, &within(budget), 0);
            assert!(history.iter().all(|t| t.outcome.scored().is_some()), "{strategy:?}");
            let last = history.last().and_then(|t| t.outcome.measured());
            assert!(last.is_some(), "{strategy:?} at {budget}: {:?}", history.last());
        }
    }
}
