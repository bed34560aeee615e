//! Strategies on a made-up objective, against what is known of it.

mod additive;
mod certify;
mod peers;
mod rollback;
mod surrogate;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{
    ask,
    fixture::{BITS_AND_CHANNELS, FLOAT_MS, Made, SAMPLES, space, within},
};
use crate::{
    spec::{Constraints, StrategyName},
    trial::{Origin, Outcome, Trial},
};

/// Samples of a search's candidates.
const FIRST: usize = SAMPLES / 10;

/// What a strategy tries until it comes to its end, the float model first, by rounds of eight.
fn driven(made: &Made, strategy: StrategyName, constraints: &Constraints, seed: u64) -> Vec<Trial> {
    let mut history = made.history(&[]);
    for round in 1.. {
        assert!(round < 100, "{strategy:?} does not end");
        let mut rng = ChaCha8Rng::seed_from_u64(seed.wrapping_mul(1000) + history.len() as u64);
        let asked = made.with_view(constraints, &history, |view| ask(strategy, view, 8, &mut rng));
        if asked.is_empty() {
            break;
        }
        for a in asked {
            let trial = made.trial(history.len(), Origin::Search, &a.candidate.0, a.samples.unwrap_or(FIRST));
            history.push(Trial { round, predicted: a.predicted, ..trial });
        }
    }
    history
}

/// Options and samples of the trials after the first.
fn tried(history: &[Trial]) -> Vec<(&[u16], usize)> {
    history[1..].iter().map(|t| (t.candidate.0.as_slice(), t.outcome.scored().map_or(0, |(s, _)| s.samples))).collect()
}
