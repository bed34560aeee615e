//! What the strategies find, and what they leave alone.

use std::collections::HashSet;

use proptest::prelude::*;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::search::{Limits, ask};

#[test]
fn the_true_front_of_two_axes_by_hand() {
    let made = Made::layers(&[(1.0, 2.0), (3.0, 1.0)]);
    // The second axis alone, (3, 99), costs more and gains less than the first alone, (1, 98).
    assert_eq!(made.true_front(), [[0.0, 100.0], [1.0, 98.0], [4.0, 97.0]]);
}

#[test]
fn nsga2_finds_most_of_the_front_and_beats_chance_with_every_seed() {
    for seed in 0..5 {
        let made = Made::random(space(6, BITS_AND_CHANNELS), seed, false);
        assert_eq!(made.space.axes.len(), 11);
        let shares = [StrategyName::Nsga2, StrategyName::Random].map(|strategy| {
            let search = SearchSpec { strategy, seed, certify: 1, ..spec(300) };
            share(&made, &fresh(&made, &search, &Constraints::default(), 2).1)
        });
        assert!(shares[0] > 0.88 && shares[0] > shares[1], "seed {seed}: evolution {}, chance {}", shares[0], shares[1]);
    }
}

#[test]
fn evolution_and_annealing_on_the_model_beat_chance_at_as_many_evaluations() {
    for strategy in [StrategyName::Evolve, StrategyName::Anneal] {
        for seed in 0..3 {
            let made = Made::random(space(6, BITS_AND_CHANNELS), seed, false).wrong(seed, (0.3, 3.0));
            let trials = fresh(&made, &SearchSpec { strategy, seed, certify: 1, ..spec(32) }, &Constraints::default(), 2).1;
            let evaluations = by(Origin::Search, &trials);
            let chance = SearchSpec { strategy: StrategyName::Random, seed, certify: 1, ..spec(evaluations) };
            let chance = fresh(&made, &chance, &Constraints::default(), 2).1;
            assert_eq!((evaluations, by(Origin::Search, &chance)), (32, 32));
            let shares = [&trials, &chance].map(|t| share(&made, t));
            assert!(shares[0] > shares[1], "{strategy:?}, seed {seed}: {shares:?}");
        }
    }
}

#[test]
fn no_candidate_is_searched_twice_and_a_small_space_is_exhausted() {
    for strategy in [StrategyName::Nsga2, StrategyName::Random, StrategyName::Evolve] {
        let made = Made::random(space(5, BITS), 3, false);
        let (stop, trials, _) = fresh(&made, &SearchSpec { strategy, ..spec(100) }, &Constraints::default(), 1);
        let searched: BTreeSet<&Candidate> = of(Origin::Search, &trials).into_iter().map(|t| &t.candidate).collect();
        assert_eq!(searched.len(), by(Origin::Search, &trials), "{strategy:?}");
        let Stop::Exhausted { candidates } = stop else { panic!("{strategy:?}: {stop:?}") };
        // Evolution leaves out what its model is sure of.
        assert!(candidates == searched.len() + 1 && (candidates == 32 || strategy == StrategyName::Evolve), "{strategy:?}: {candidates}");
    }
}

#[test]
fn strategies_with_an_end_settle_or_exhaust_a_small_space_and_repeat_no_candidate_on_as_many_samples() {
    for strategy in StrategyName::ALL.into_iter().filter(|s| s.ends()) {
        let made = Made::random(space(5, BITS), 3, false);
        let (stop, trials, _) = fresh(&made, &SearchSpec { strategy, ..spec(100) }, &within(0.01), 1);
        let met = |t: &&Trial| (t.candidate.clone(), t.outcome.scored().map(|(s, _)| s.samples));
        let searched = of(Origin::Search, &trials);
        assert_eq!(searched.iter().map(met).collect::<BTreeSet<_>>().len(), searched.len(), "{strategy:?}");
        assert!(matches!(stop, Stop::Settled { .. } | Stop::Exhausted { .. }), "{strategy:?}: {stop:?}");
        assert!(searched.len() < 32, "{strategy:?}: {}", searched.len());
    }
}

#[test]
fn limits_reject_without_a_sample() {
    let constraints = Constraints { latency_ms: Some(90.0), size_mb: Some(88.0), ..Constraints::default() };
    for strategy in [StrategyName::Nsga2, StrategyName::Random, StrategyName::Evolve, StrategyName::Anneal, StrategyName::Additive] {
        let made = Made::random(space(6, BITS_AND_CHANNELS), 1, true);
        let (_, trials, _) = fresh(&made, &SearchSpec { strategy, ..spec(60) }, &constraints, 1);
        let measured: Vec<&Trial> = trials[1..].iter().filter(|t| t.outcome.scored().is_some()).collect();
        let keeps = |c: &Cost| c.latency_ms <= 90.0 && c.bytes <= 88_000_000;
        assert!(measured.iter().all(|t| t.outcome.cost().is_some_and(keeps)), "{strategy:?}");
        assert_eq!(made.evaluated.load(Ordering::Relaxed), measured.len());
        // The strategies see the cost, so that they hardly ever propose what is rejected.
        let searched = of(Origin::Search, &trials);
        let rejected = searched.iter().filter(|t| t.outcome.scored().is_none()).count();
        assert!(searched.len() >= 10 && 4 * rejected < searched.len(), "{strategy:?}: {rejected} of {}", searched.len());
    }
}

#[test]
fn the_limit_that_is_named_is_the_first_that_is_broken() {
    let float = Cost { latency_ms: 10.0, bytes: 100 };
    let limits = Limits { latency_ms: Some(5.0), bytes: Some(50), float };
    let broken = |latency_ms: f64, bytes: u64| limits.broken(&Cost { latency_ms, bytes });
    assert_eq!(broken(10.1, 100), Some(Limit::SlowerThanFloat));
    assert_eq!(broken(10.0, 101), Some(Limit::LargerThanFloat));
    assert_eq!(broken(5.1, 50), Some(Limit::Latency));
    assert_eq!(broken(5.0, 51), Some(Limit::Size));
    assert_eq!(broken(5.0, 50), None);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn what_is_proposed_is_new_of_the_space_and_a_function_of_the_history(seed in 0_u64..1000, n in 1_usize..20, past in 1_usize..40) {
        let made = Made::random(space(3, BITS_AND_CHANNELS), seed, false).wrong(seed, (0.5, 2.0));
        let history = made.measured(past, seed);
        let tried: HashSet<&Candidate> = history.iter().map(|t| &t.candidate).collect();
        for strategy in StrategyName::ALL {
            let again = || {
                let mut rng = ChaCha8Rng::seed_from_u64(seed);
                made.with_view(&within(0.02), &history, |view| ask(strategy, view, n, &mut rng))
            };
            let asked = again();
            prop_assert_eq!(&asked, &again());
            prop_assert!(asked.iter().all(|a| made.space.contains(&a.candidate) && !tried.contains(&a.candidate)), "{:?}", strategy);
            prop_assert_eq!(asked.iter().map(|a| &a.candidate).collect::<HashSet<_>>().len(), asked.len());
            if matches!(strategy, StrategyName::Random | StrategyName::Nsga2) {
                prop_assert_eq!(asked.len(), n);
            } else if !matches!(strategy, StrategyName::Uniform | StrategyName::Amct | StrategyName::Aimet | StrategyName::Nncf) {
                prop_assert!(asked.len() <= n);
            }
        }
    }
}
