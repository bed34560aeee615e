//! Uniformly random candidates: the baseline every strategy must beat.

use std::collections::HashSet;

use rand::Rng;
use rand_chacha::ChaCha8Rng;

use super::View;
use crate::space::{Candidate, Space};

/// Draws before giving up on finding something new and affordable.
const PATIENCE: usize = 2000;

/// A random candidate.
pub fn draw(space: &Space, rng: &mut ChaCha8Rng) -> Candidate {
    Candidate(space.axes.iter().map(|a| u16::try_from(rng.random_range(0..a.len())).unwrap_or(0)).collect())
}

/// Proposes candidates not seen before that pass the limits; when none turn up for long, ones that do not.
pub fn ask(view: &View<'_>, n: usize, rng: &mut ChaCha8Rng) -> Vec<Candidate> {
    let mut seen: HashSet<Candidate> = view.history.iter().map(|t| t.candidate.clone()).collect();
    let mut out = Vec::new();
    for patience in 0..2 * PATIENCE {
        if out.len() == n {
            break;
        }
        let candidate = draw(view.space, rng);
        if !seen.contains(&candidate) && (patience >= PATIENCE || view.affordable(&candidate)) {
            seen.insert(candidate.clone());
            out.push(candidate);
        }
    }
    out
}
