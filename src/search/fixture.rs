//! A made-up objective for tests of strategies and studies: drops add up, and nothing is run.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::{Limits, Tables, View, solve::Term};
use crate::{
    device::Target,
    error::Result,
    evaluate::{Objective, Race},
    front::hypervolume,
    graph::{fixture::Net, group::Channels, layer::Layers, shape},
    space::{Candidate, Space},
    spec::{Constraints, MaxDrop, SpaceRule},
    trial::{Cost, Origin, Outcome, Score, Trial},
};

/// The space of a chain of matrix products: what the rule gives to each of them.
pub(crate) fn space(layers: usize, rule: &str) -> Space {
    let net = (0..layers).fold(Net::new(&[-1, 64]), |net, i| {
        let from = if i == 0 { "x".to_string() } else { format!("l{}", i - 1) };
        net.matmul(&format!("l{i}"), &from, (64, 64))
    });
    let model = net.build(&format!("l{}", layers - 1));
    let shapes = shape::infer(&model, 1, &BTreeMap::new()).unwrap();
    let layers = Layers::find(&model, &shapes);
    let channels = Channels::analyse(&model, &layers, &shapes);
    let rule: SpaceRule = serde_yaml::from_str(rule).unwrap();
    Space::new(&[rule], (&model, &layers, &channels), &Target::unknown(), (Path::new("spec.yaml"), "")).unwrap()
}

pub(crate) const BITS: &str = "{layers: '*', precision: [fp16, int8]}";
pub(crate) const BITS_AND_CHANNELS: &str = "{layers: '*', precision: [fp16, int8, int4], keep: [1.0, 0.75, 0.5]}";

/// Milliseconds of the float model.
pub(crate) const FLOAT_MS: f64 = 100.0;

/// The float model's metric.
pub(crate) const ACCURACY: f64 = 0.9;

/// Validation samples.
pub(crate) const SAMPLES: usize = 1000;

pub(crate) fn within(drop: f64) -> Constraints {
    Constraints { accuracy_drop: Some(MaxDrop(drop)), ..Constraints::default() }
}

/// Every option of every axis adds its drop and its distance and takes off its milliseconds; a megabyte goes with every millisecond. On a part of the
/// samples drop and distance are a little off.
pub(crate) struct Made {
    pub space: Space,
    pub drop: Vec<Vec<f64>>,
    pub distance: Vec<Vec<f64>>,
    pub gain: Vec<Vec<f64>>,
    /// What the tables say of an axis' distance, as a multiple of the truth.
    pub off: Vec<f64>,
    pub evaluated: AtomicUsize,
    /// Number of evaluations after which to interrupt.
    pub stop: Option<(usize, &'static AtomicBool)>,
}

impl Made {
    /// The distance is twice the drop.
    pub fn new(space: Space, drop: Vec<Vec<f64>>, gain: Vec<Vec<f64>>) -> Self {
        let distance = drop.iter().map(|of| of.iter().map(|d| 2.0 * d).collect()).collect();
        let off = vec![1.0; drop.len()];
        Self { space, drop, distance, gain, off, evaluated: AtomicUsize::new(0), stop: None }
    }

    /// Layers of two precisions each, with the drop and the milliseconds that the second makes.
    pub fn layers(of: &[(f64, f64)]) -> Self {
        let table = |pick: fn(&(f64, f64)) -> f64| of.iter().map(|l| vec![0.0, pick(l)]).collect();
        Self::new(space(of.len(), BITS), table(|l| l.0), table(|l| l.1))
    }

    /// Random drops and gains that grow with the option. Some gains are below zero where `slower`.
    pub fn random(space: Space, seed: u64, slower: bool) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut rising = |top: f64| -> Vec<Vec<f64>> {
            let steps = |len: usize, rng: &mut ChaCha8Rng| {
                let mut sum = 0.0;
                (0..len)
                    .map(|o| {
                        if o == 0 {
                            0.0
                        } else {
                            sum += rng.random_range(0.05..1.0) * top;
                            sum
                        }
                    })
                    .collect()
            };
            space.axes.iter().map(|a| steps(a.len(), &mut rng)).collect()
        };
        let (drop, mut gain) = (rising(0.01), rising(3.0));
        if slower {
            gain.iter_mut().step_by(3).flatten().for_each(|g| *g = -*g);
        }
        Self::new(space, drop, gain)
    }

    /// The same, but the tables are wrong by a random factor between `least` and `most` for every axis.
    pub fn wrong(self, seed: u64, (least, most): (f64, f64)) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
        let off = self.off.iter().map(|_| rng.random_range(least.ln()..most.ln()).exp()).collect();
        Self { off, ..self }
    }

    fn sum(table: &[Vec<f64>], candidate: &Candidate) -> f64 {
        table.iter().zip(&candidate.0).map(|(axis, &o)| axis[usize::from(o)]).sum()
    }

    /// What is measured on so many samples.
    pub fn score_on(&self, candidate: &Candidate, samples: usize) -> Score {
        let (drop, distance) = (Self::sum(&self.drop, candidate), Self::sum(&self.distance, candidate));
        // As far as a mean over some of the samples is from that over all.
        let spread = (1.0 / samples as f64 - 1.0 / SAMPLES as f64).sqrt();
        let seed = candidate.0.iter().fold(samples as u64, |h, &o| (h ^ u64::from(o)).wrapping_mul(0x0100_0000_01b3));
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let mut off = || rng.random_range(-1.0..1.0) * spread;
        let error = (0.04 * drop.abs()).sqrt();
        let (drop, distance) = (drop + error * off(), distance * (1.0 + off()));
        let half = 1.96 * error * spread;
        let (drop_low, drop_high) = (Some(drop - half), Some(drop + half));
        Score { accuracy: ACCURACY - drop, drop, drop_low, drop_high, distance: Some(distance), samples }
    }

    /// The truth.
    pub fn score(&self, candidate: &Candidate) -> Score {
        self.score_on(candidate, SAMPLES)
    }

    pub fn cost_of(&self, candidate: &Candidate) -> Cost {
        let latency_ms = FLOAT_MS - Self::sum(&self.gain, candidate);
        Cost { latency_ms, bytes: (latency_ms * 1e6) as u64 }
    }

    /// What the race makes of a candidate.
    pub fn outcome(&self, candidate: &Candidate, race: Race) -> Outcome {
        let cost = self.cost_of(candidate);
        let met = race.samples.min(SAMPLES);
        let looks = [50, 100, 200, 400, 800].into_iter().filter(|&l| l < met).chain((met < SAMPLES).then_some(met));
        let over = |score: &Score| race.above.zip(score.drop_low).is_some_and(|(above, low)| low > above);
        match looks.map(|l| self.score_on(candidate, l)).find(over) {
            Some(score) => Outcome::Stopped { score, cost },
            None if met < SAMPLES => Outcome::Sampled { score: self.score_on(candidate, met), cost },
            None => Outcome::Measured { score: self.score(candidate), cost },
        }
    }

    /// A trial of a round of its own that met so many samples, or all.
    pub fn trial(&self, trial: usize, origin: Origin, options: &[u16], samples: usize) -> Trial {
        let candidate = Candidate(options.to_vec());
        let outcome = self.outcome(&candidate, Race { samples, above: None, alpha: 0.05 });
        Trial { trial, round: trial, origin, candidate, predicted: None, from: None, outcome }
    }

    /// The float model, then what the search tried on so many samples.
    pub fn history(&self, tried: &[(&[u16], usize)]) -> Vec<Trial> {
        let float = self.trial(0, Origin::Baseline, &self.space.mildest().0, SAMPLES);
        let search = tried.iter().enumerate().map(|(i, (options, samples))| self.trial(i + 1, Origin::Search, options, *samples));
        std::iter::once(float).chain(search).collect()
    }

    /// The float model, then so many random candidates on all samples.
    pub fn measured(&self, n: usize, seed: u64) -> Vec<Trial> {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let drawn: Vec<Vec<u16>> = (0..n).map(|_| super::random::draw(&self.space, &mut rng).0).collect();
        self.history(&drawn.iter().map(|d| (d.as_slice(), SAMPLES)).collect::<Vec<_>>())
    }

    /// Exact costs, and distances as far as they are right.
    pub fn tables(&self) -> Tables {
        let wrong = |(of, off): (&Vec<f64>, &f64)| of.iter().map(|d| (d * off).max(0.0)).collect::<Vec<f64>>();
        let damage: Vec<Vec<f64>> = self.distance.iter().zip(&self.off).map(wrong).collect();
        let term = |(a, of): (usize, &Vec<f64>)| Term {
            axes: vec![a],
            ms: of.iter().map(|g| -g).collect(),
            bytes: of.iter().map(|g| -g * 1e6).collect(),
        };
        let terms = self.gain.iter().enumerate().map(term).collect();
        Tables { error: damage.clone(), damage, terms, fixed_ms: FLOAT_MS, fixed_bytes: FLOAT_MS * 1e6 }
    }

    /// Calls with what a strategy may see.
    pub fn with_view<T>(&self, constraints: &Constraints, history: &[Trial], then: impl FnOnce(&View<'_>) -> T) -> T {
        let cost = |c: &Candidate| self.cost(c);
        let (tables, budget) = (self.tables(), constraints.budget(ACCURACY));
        let limits =
            Limits { latency_ms: constraints.latency_ms, bytes: constraints.size_mb.map(|mb| (mb * 1e6) as u64), float: self.float_cost() };
        then(&View {
            space: &self.space,
            tables: &tables,
            cost: &cost,
            limits,
            budget,
            horizon: budget.map_or(f64::INFINITY, |b| 4.0 * b),
            samples: SAMPLES,
            history,
        })
    }

    /// Non-dominated (drop, latency) of all candidates, axis by axis: sums of dominated parts are dominated.
    pub fn true_front(&self) -> Vec<[f64; 2]> {
        let mut front = vec![[0.0, FLOAT_MS]];
        for (drop, gain) in self.drop.iter().zip(&self.gain) {
            let mut sums: Vec<[f64; 2]> =
                front.iter().flat_map(|p| drop.iter().zip(gain).map(move |(d, g)| [p[0] + d, p[1] - g])).collect();
            sums.sort_by(|a, b| a[0].total_cmp(&b[0]).then(a[1].total_cmp(&b[1])));
            let mut best = f64::INFINITY;
            sums.retain(|p| {
                p[1] < best && {
                    best = p[1];
                    true
                }
            });
            front = sums;
        }
        front
    }

    /// Share of the true front's hypervolume that candidates have, in truth.
    pub fn share<'a>(&self, candidates: impl IntoIterator<Item = &'a Candidate>) -> f64 {
        let truth = self.true_front();
        let reference = [truth.iter().map(|p| p[0]).fold(0.0, f64::max), FLOAT_MS];
        let at = |c: &Candidate| [self.score(c).drop, self.cost_of(c).latency_ms];
        hypervolume(&candidates.into_iter().map(at).collect::<Vec<_>>(), reference) / hypervolume(&truth, reference)
    }
}

impl Objective for Made {
    fn space(&self) -> &Space {
        &self.space
    }

    fn cost(&self, candidate: &Candidate) -> Result<Cost> {
        Ok(self.cost_of(candidate))
    }

    fn float_cost(&self) -> Cost {
        self.cost_of(&self.space.mildest())
    }

    fn samples(&self) -> usize {
        SAMPLES
    }

    fn baseline(&self) -> Outcome {
        Outcome::Measured { score: self.score(&self.space.mildest()), cost: self.float_cost() }
    }

    fn evaluate(&self, candidate: &Candidate, race: Race) -> Outcome {
        let count = self.evaluated.fetch_add(1, Ordering::Relaxed) + 1;
        if let Some((after, interrupt)) = self.stop
            && count >= after
        {
            interrupt.store(true, Ordering::Relaxed);
        }
        // Not all candidates take as long, so that those of one batch end in another order than they began.
        std::thread::sleep(std::time::Duration::from_micros(u64::from(candidate.0.iter().sum::<u16>() % 4) * 100));
        self.outcome(candidate, race)
    }
}
