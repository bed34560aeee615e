//! Studies of a made-up objective: drops add up, little is left to chance, and nothing is run.

mod running;
mod searching;
mod stepping;
mod summarising;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

use super::*;
use crate::{
    error::Result,
    search::fixture::{BITS, BITS_AND_CHANNELS, FLOAT_MS, Made, SAMPLES, space, within},
    space::{Candidate, Plan},
    spec::{Constraints, SearchSpec, Seconds, StrategyName},
    trial::{Cost, Limit, Origin, Outcome, Score, Trial},
};

/// A folder for a study, in memory where there is room for one: a journal waits for the disk at every line.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn fingerprint() -> Fingerprint {
    let s = || "x".to_string();
    Fingerprint { journal: 1, gulliver: s(), onnxruntime: s(), spec: s(), model: s(), calibration: s(), validation: s(), device: s() }
}

/// A tenth of the samples at first.
fn spec(trials: usize) -> SearchSpec {
    SearchSpec { trials, samples: SAMPLES / 10, ..SearchSpec::default() }
}

/// A study in a folder, begun or resumed: why it ended, and all its trials.
fn study(made: &Made, search: &SearchSpec, constraints: &Constraints, jobs: usize, folder: &Path) -> (Stop, Vec<Trial>) {
    static NEVER: AtomicBool = AtomicBool::new(false);
    let interrupt = made.stop.map_or(&NEVER, |(_, flag)| flag);
    let (mut journal, mut history) = Journal::open(folder, &fingerprint()).unwrap();
    let settings = Settings { search, constraints, tables: &made.tables(), samples: None, jobs, spent: 0.0, interrupt };
    let stop = run(made, &settings, &mut journal, &mut history, &mut ()).unwrap();
    (stop, history)
}

fn fresh(made: &Made, search: &SearchSpec, constraints: &Constraints, jobs: usize) -> (Stop, Vec<Trial>, Vec<u8>) {
    let folder = folder();
    let (stop, trials) = study(made, search, constraints, jobs, folder.path());
    (stop, trials, std::fs::read(folder.path().join("journal.jsonl")).unwrap())
}

fn of(origin: Origin, trials: &[Trial]) -> Vec<&Trial> {
    trials.iter().filter(|t| t.origin == origin).collect()
}

fn by(origin: Origin, trials: &[Trial]) -> usize {
    of(origin, trials).len()
}

/// Share of the true front's hypervolume that the search reached.
fn share(made: &Made, trials: &[Trial]) -> f64 {
    let scored = of(Origin::Search, trials).into_iter().filter(|t| t.outcome.scored().is_some());
    made.share(scored.map(|t| &t.candidate))
}
