//! Sensitivity: every option of the space alone, everything else in float, measured and predicted.

use std::{
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc,
    },
};

use serde::{Deserialize, Serialize};

use crate::{
    data::Metric,
    device::predict,
    error::{Error, Result},
    evaluate::{Evaluator, Objective},
    precision::Precision,
    space::{Alone, Choice, Plan, Treatment},
    spec::{Form, Sparsity},
    study::LayerTreatment,
    trial::Cost,
};

/// What every option of a space does alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sensitivity {
    /// The network's file.
    pub model: String,
    /// The chip.
    pub device: String,
    /// Batch of the predicted times.
    pub batch: usize,
    /// The metric's name.
    pub metric: String,
    /// Validation samples that each option met.
    pub samples: usize,
    /// Level of the intervals.
    pub confidence: f64,
    /// The float model's metric.
    pub accuracy: f64,
    /// Predicted latency of the normalised float model, milliseconds: what time saved is counted from.
    pub latency_ms: f64,
    /// Its deployed size, bytes.
    pub bytes: u64,
    /// Which distance options are compared by.
    pub distance: Distance,
    /// Options there are; fewer are in `rows` if it was interrupted.
    pub options: usize,
    /// How well the predicted error ranks the measured distance.
    pub rank_correlation: RankCorrelation,
    /// An option each, in the order of layers.
    pub rows: Vec<SensitivityRow>,
}

/// A distance of outputs to the float model's that needs no labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Distance {
    /// Mean Kullback-Leibler divergence of class probabilities, nats.
    Kl,
    /// Mean of ‖y − y′‖² / ‖y‖².
    Noise,
}

/// Spearman's rank correlation of predicted error and measured distance, −1 to 1; none where fewer than three options have both.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RankCorrelation {
    /// Over all options.
    pub all: Option<f64>,
    /// Over the precisions.
    pub precision: Option<f64>,
    /// Over the shares of channels.
    pub keep: Option<f64>,
    /// Over the ranks.
    pub rank: Option<f64>,
}

/// One option of one layer or group, alone. One of `precision`, `keep` and `rank` is given.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SensitivityRow {
    /// The layer, or the first of a group.
    pub layer: String,
    /// All layers that the option treats.
    pub layers: Vec<String>,
    /// The option in words.
    pub option: String,
    /// Its precision.
    pub precision: Option<Precision>,
    /// Its share of channels kept.
    pub keep: Option<f64>,
    /// Its rank, of a Tucker-2 decomposition that of the outputs.
    pub rank: Option<usize>,
    /// Form of the decomposition, if it is not the plain one by channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Form>,
    /// Its pattern of zeros.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
    /// Predicted squared error of the layer's output per its variance; summed over the readers of lost channels.
    pub predicted_error: Option<f64>,
    /// What was measured; none if that failed.
    pub measured: Option<Measured>,
    /// Why it could not be measured.
    pub failed: Option<String>,
    /// Predicted time saved for a batch, microseconds.
    pub us_saved: f64,
    /// Deployed bytes saved.
    pub bytes_saved: i64,
}

/// What the samples said of one option.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Mean Kullback-Leibler divergence from the float model, nats; for classifiers.
    pub kl: Option<f64>,
    /// Mean of ‖y − y′‖² / ‖y‖².
    pub noise: f64,
    /// The same as decibel of signal to noise, 200 at most.
    pub sqnr_db: f64,
    /// The metric.
    pub accuracy: f64,
    /// What of it is lost, in the metric's unit (shares of samples for top1, top5, agreement).
    pub drop: f64,
    /// Lower end of the drop's paired interval.
    pub drop_low: Option<f64>,
    /// Upper end.
    pub drop_high: Option<f64>,
}

impl SensitivityRow {
    /// The measured distance.
    pub fn distance(&self, which: Distance) -> Option<f64> {
        self.measured.and_then(|m| if which == Distance::Kl { m.kl } else { Some(m.noise) })
    }
}

/// Measures every option, so many at once, each on one thread; `each` hears how many of how many are done. When `interrupt` is
/// set, the options at hand are finished and what was measured is given back. The result depends neither on threads nor on time.
///
/// # Errors
/// If the network has no cost on the chip; an option that fails is a row of its own kind.
pub fn sensitivity(evaluator: &Evaluator, jobs: usize, interrupt: &AtomicBool, each: &mut dyn FnMut(usize, usize)) -> Result<Sensitivity> {
    let setup = evaluator.setup();
    let compressor = &setup.compressor;
    // The float network as options change it: what normalising alone saves is no option's merit.
    let plain = compressor.outline_normalised(&Plan::identity(&compressor.layers), setup.batch)?;
    let float = Cost { latency_ms: predict(&plain.kernels(), &setup.profile).latency_ms, bytes: plain.bytes_on(&setup.profile) };
    let options = setup.space.alone();
    let rows = in_order(options.len(), jobs, interrupt, each, |i| row(evaluator, &options[i], float))?;
    let classes = rows.iter().filter_map(|r| r.measured).all(|m| m.kl.is_some());
    let distance = if classes && !rows.is_empty() { Distance::Kl } else { Distance::Noise };
    let baseline = evaluator.baseline();
    Ok(Sensitivity {
        model: Path::new(&compressor.model.name).file_name().map_or_else(String::new, |n| n.to_string_lossy().into_owned()),
        device: setup.profile.name.clone(),
        batch: setup.batch,
        metric: setup.metric.name().into(),
        samples: setup.validation.len(),
        confidence: setup.confidence,
        accuracy: baseline.measured().map_or(f64::NAN, |(score, _)| score.accuracy),
        latency_ms: float.latency_ms,
        bytes: float.bytes,
        distance,
        options: options.len(),
        rank_correlation: RankCorrelation::of(&rows, distance),
        rows,
    })
}

/// What `make` gives for 0 to `n`, made by several threads, in order; without those not begun when interrupted.
fn in_order<T: Send>(
    n: usize,
    jobs: usize,
    interrupt: &AtomicBool,
    each: &mut dyn FnMut(usize, usize),
    make: impl Fn(usize) -> Result<T> + Sync,
) -> Result<Vec<T>> {
    let next = AtomicUsize::new(0);
    let made: Mutex<Vec<(usize, T)>> = Mutex::new(Vec::new());
    let failed: Mutex<Option<Error>> = Mutex::new(None);
    std::thread::scope(|scope| {
        let (send, receive) = mpsc::channel();
        for _ in 0..jobs.clamp(1, n.max(1)) {
            let send = send.clone();
            let (next, made, failed, make) = (&next, &made, &failed, &make);
            scope.spawn(move || {
                while !interrupt.load(Ordering::Relaxed) {
                    let i = next.fetch_add(1, Ordering::Relaxed);
                    if i >= n {
                        break;
                    }
                    match make(i) {
                        Ok(one) => made.lock().unwrap_or_else(PoisonError::into_inner).push((i, one)),
                        Err(e) => {
                            next.store(n, Ordering::Relaxed);
                            failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(e);
                        }
                    }
                    let _ = send.send(());
                }
            });
        }
        drop(send);
        receive.iter().enumerate().for_each(|(i, ())| each(i + 1, n));
    });
    if let Some(e) = failed.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(e);
    }
    let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
    made.sort_by_key(|(i, _)| *i);
    Ok(made.into_iter().map(|(_, one)| one).collect())
}

fn row(evaluator: &Evaluator, option: &Alone, float: Cost) -> Result<SensitivityRow> {
    let compressor = &evaluator.setup().compressor;
    let cost = evaluator.plan_cost(&option.plan)?;
    let predicted = compressor.damage(&option.plan)?;
    let (measured, failed) = match evaluator.compare(&option.plan) {
        Ok(c) => {
            let sqnr_db = Metric::Sqnr.value(&[c.noise]);
            let score = c.score;
            let (drop, drop_low, drop_high) = (score.drop, score.drop_low, score.drop_high);
            (Some(Measured { kl: c.kl, noise: c.noise, sqnr_db, accuracy: score.accuracy, drop, drop_low, drop_high }), None)
        }
        Err(e) => (None, Some(e.to_string())),
    };
    let (mut precision, mut keep) = (None, None);
    let mut other = Treatment::NONE;
    match &option.axis.choice {
        Choice::Precision(_, o) => precision = o.first().copied(),
        Choice::Keep(_, o) => keep = o.first().copied(),
        Choice::Rank(_, o) => other.split = o.first().copied().flatten(),
        Choice::Sparsity(_, o) => other.sparsity = o.first().copied().unwrap_or_default(),
        Choice::Activations(..) | Choice::Round(..) | Choice::Balance(..) => {}
    }
    let LayerTreatment { rank, form, sparsity, .. } = LayerTreatment::of(&other);
    Ok(SensitivityRow {
        layer: option.axis.name.clone(),
        layers: option.layers.iter().map(|&l| compressor.layers.layers[l].name.clone()).collect(),
        option: option.axis.describe(0),
        precision,
        keep,
        rank,
        form,
        sparsity,
        predicted_error: predicted,
        measured,
        failed,
        us_saved: (float.latency_ms - cost.latency_ms) * 1e3,
        bytes_saved: float.bytes.cast_signed() - cost.bytes.cast_signed(),
    })
}

impl RankCorrelation {
    fn of(rows: &[SensitivityRow], distance: Distance) -> Self {
        let over = |kind: &dyn Fn(&SensitivityRow) -> bool| {
            let both = |r: &SensitivityRow| Some((r.predicted_error?, r.distance(distance)?));
            let pairs: Vec<(f64, f64)> = rows.iter().filter(|r| kind(r)).filter_map(both).collect();
            spearman(&pairs)
        };
        Self {
            all: over(&|_| true),
            precision: over(&|r| r.precision.is_some()),
            keep: over(&|r| r.keep.is_some()),
            rank: over(&|r| r.rank.is_some()),
        }
    }
}

/// Spearman's rank correlation: Pearson's of the ranks, equal values sharing the mean of theirs. None of fewer than three pairs, or
/// where one side is all the same.
pub fn spearman(pairs: &[(f64, f64)]) -> Option<f64> {
    if pairs.len() < 3 {
        return None;
    }
    let (a, b) = (ranks(pairs.iter().map(|p| p.0)), ranks(pairs.iter().map(|p| p.1)));
    let mean = (pairs.len() as f64 - 1.0) / 2.0;
    let product = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| (a - mean) * (b - mean)).sum::<f64>();
    let spread = (product(&a, &a) * product(&b, &b)).sqrt();
    (spread > 0.0).then(|| product(&a, &b) / spread)
}

/// Rank of every value, from 0.
fn ranks(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let values: Vec<f64> = values.collect();
    let rank = |v: &f64| {
        let below = values.iter().filter(|o| o.total_cmp(v).is_lt()).count() as f64;
        let equal = values.iter().filter(|o| o.total_cmp(v).is_eq()).count() as f64;
        below + (equal - 1.0) / 2.0
    };
    values.iter().map(rank).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spearman_by_hand() {
        // Ranks 1 2 3 4 5 against 2 1 4 3 5: d² sums to 4, 1 − 6·4/(5·24) = 0.8.
        let pairs = [(1.0, 20.0), (2.0, 10.0), (30.0, 400.0), (31.0, 300.0), (32.0, 1e9)];
        assert!((spearman(&pairs).unwrap() - 0.8).abs() < 1e-12);
        let turned = pairs.map(|(a, b)| (a, -b));
        assert!((spearman(&turned).unwrap() + 0.8).abs() < 1e-12);
    }

    #[test]
    fn equal_values_share_their_ranks() {
        // Ranks 1, 2.5, 2.5, 4 against 1 2 3 4: sums of products 4.5 over sqrt(4.5·5).
        let pairs = [(1.0, 1.0), (2.0, 2.0), (2.0, 3.0), (9.0, 4.0)];
        assert!((spearman(&pairs).unwrap() - 4.5 / (4.5_f64 * 5.0).sqrt()).abs() < 1e-12);
    }

    #[test]
    fn there_is_no_correlation_of_two_pairs_or_of_equal_values() {
        assert_eq!(spearman(&[(1.0, 1.0), (2.0, 2.0)]), None);
        assert_eq!(spearman(&[(1.0, 1.0), (1.0, 2.0), (1.0, 3.0)]), None);
    }

    #[test]
    fn results_are_in_order_for_any_number_of_threads() {
        let make = |i: usize| {
            std::thread::sleep(std::time::Duration::from_micros((7 - i % 7) as u64 * 100));
            Ok(i * i)
        };
        for jobs in [1, 3, 50] {
            let mut heard = Vec::new();
            let found = in_order(20, jobs, &AtomicBool::new(false), &mut |done, of| heard.push((done, of)), make).unwrap();
            assert_eq!(found, (0..20).map(|i| i * i).collect::<Vec<_>>());
            assert_eq!(heard, (1..=20).map(|i| (i, 20)).collect::<Vec<_>>());
        }
    }

    #[test]
    fn an_interrupt_keeps_what_was_measured() {
        let stop = AtomicBool::new(false);
        let make = |i: usize| {
            stop.store(i == 4, Ordering::Relaxed);
            Ok(i)
        };
        assert_eq!(in_order(20, 1, &stop, &mut |_, _| (), make).unwrap(), [0, 1, 2, 3, 4]);
    }

    #[test]
    fn an_error_ends_it() {
        let make = |i: usize| if i == 2 { Err(Error::Internal("two".into())) } else { Ok(i) };
        assert!(in_order(9, 2, &AtomicBool::new(false), &mut |_, _| (), make).unwrap_err().to_string().contains("two"));
    }
}
