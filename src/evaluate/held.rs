//! Candidates that may go on: their networks and what every sample said of them, as long as there is room.

use std::sync::{Arc, Mutex, PoisonError};

use crate::space::Candidate;

/// Bytes that candidates are held in at most.
const ROOM: usize = 256 << 20;

/// What is known of a candidate.
pub(super) struct Known {
    /// Its network.
    pub(super) model: Arc<Vec<u8>>,
    /// Scores of the samples that it has met, in their order.
    pub(super) scores: Vec<f64>,
    /// Distances of the same samples.
    pub(super) distances: Vec<f64>,
}

impl Known {
    /// Nothing but the network.
    pub(super) fn new(model: Arc<Vec<u8>>) -> Self {
        Self { model, scores: Vec::new(), distances: Vec::new() }
    }

    fn bytes(&self) -> usize {
        self.model.len() + 16 * self.scores.len()
    }
}

/// Candidates by the time they were put here, the oldest first.
#[derive(Default)]
pub(super) struct Held(Mutex<Vec<(Candidate, Known)>>);

impl Held {
    /// Takes a candidate out.
    pub(super) fn take(&self, candidate: &Candidate) -> Option<Known> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|(c, _)| c == candidate)?;
        Some(all.remove(at).1)
    }

    /// A candidate's network.
    pub(super) fn model(&self, candidate: &Candidate) -> Option<Arc<Vec<u8>>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().find(|(c, _)| c == candidate).map(|(_, known)| Arc::clone(&known.model))
    }

    /// Puts a candidate here; the oldest make room.
    pub(super) fn put(&self, candidate: &Candidate, known: Known) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.push((candidate.clone(), known));
        let mut bytes: usize = all.iter().map(|(_, k)| k.bytes()).sum();
        while bytes > ROOM && !all.is_empty() {
            bytes -= all.remove(0).1.bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let held = Held::default();
        for i in 0..5 {
            held.put(&Candidate(vec![i]), Known::new(Arc::new(vec![0; ROOM / 3])));
        }
        let there = |i| held.take(&Candidate(vec![i])).is_some();
        assert_eq!([0, 1, 2, 3, 4].map(there), [false, false, true, true, true]);
        assert!(held.take(&Candidate(vec![4])).is_none());
    }
}
