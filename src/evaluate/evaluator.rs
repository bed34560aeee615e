//! The real objective: a network, a chip, data and a metric.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use ndarray::{ArrayD, Axis, Slice};
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use super::{
    Bet, Distance, Objective, Race, command,
    distance::mean,
    fuse::fast_session,
    held::{Held, Known},
    sites::by_site,
};
use crate::{
    compress::{Compressor, Outline, feed},
    data::{Dataset, Interval, Metric},
    device::{Prediction, Profile, predict},
    error::{Error, Result},
    runtime::{Runtime, Session},
    space::{Build, Candidate, Plan, Space},
    train::Outputs,
    trial::{Cost, Outcome, Part, Score},
};

/// Samples run at once: the batch at which ONNX Runtime was fastest on small networks.
pub(super) const BATCH: usize = 5;

/// The order in which every candidate meets the samples: the same for all, and for `gulliver evaluate`.
pub fn order(samples: usize) -> Vec<usize> {
    let mut all: Vec<usize> = (0..samples).collect();
    all.shuffle(&mut ChaCha8Rng::seed_from_u64(samples as u64));
    all
}

/// What an evaluator is made of.
pub struct Setup {
    /// The network, calibrated.
    pub compressor: Compressor,
    /// The space of its plans.
    pub space: Space,
    /// The chip.
    pub profile: Profile,
    /// Batch that latency is predicted for.
    pub batch: usize,
    /// The metric.
    pub metric: Metric,
    /// Validation samples.
    pub validation: Arc<Dataset>,
    /// Level of the intervals.
    pub confidence: f64,
}

/// A network, a chip, data and a metric.
pub struct Evaluator {
    setup: Setup,
    runtime: Runtime,
    order: Vec<usize>,
    float: Float,
    float_cost: Cost,
    distance: Distance,
    costs: Mutex<HashMap<Candidate, Cost>>,
    held: Held,
}

/// The float model's side of every comparison.
struct Float {
    outputs: ArrayD<f32>,
    scores: Vec<f64>,
    score: Score,
    seconds: f64,
}

impl Evaluator {
    /// Measures the float model and is then ready for candidates.
    ///
    /// # Errors
    /// If the float model cannot be run on the data or does not pass its own metric.
    pub fn new(runtime: &Runtime, setup: Setup) -> Result<Self> {
        let order = order(setup.validation.len());
        let started = Instant::now();
        let mut float = measure_float(runtime, &setup, &order)?;
        float.seconds = started.elapsed().as_secs_f64();
        let distance = Distance::of(&float.outputs, &setup.metric);
        let float_cost = Cost { latency_ms: 0.0, bytes: 0 };
        let mut evaluator =
            Self { runtime: runtime.clone(), order, float, float_cost, distance, costs: Mutex::default(), held: Held::default(), setup };
        evaluator.float_cost = evaluator.plan_cost(&Plan::identity(&evaluator.setup.compressor.layers))?;
        Ok(evaluator)
    }

    /// What it was made of.
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// Time of the float model's pass over the validation data, seconds.
    pub fn baseline_seconds(&self) -> f64 {
        self.float.seconds
    }

    /// Cost of a plan.
    ///
    /// # Errors
    /// If the plan's shapes cannot be inferred.
    pub fn plan_cost(&self, plan: &Plan) -> Result<Cost> {
        let (outline, prediction) = self.predict(plan)?;
        Ok(Cost { latency_ms: prediction.latency_ms, bytes: outline.bytes_on(&self.setup.profile) })
    }

    /// Latency of a plan, kernel by kernel, with the outline it was read from.
    ///
    /// # Errors
    /// As [`Evaluator::plan_cost`].
    pub fn predict(&self, plan: &Plan) -> Result<(Outline, Prediction)> {
        predict_plan(&self.setup.compressor, plan, &self.setup.profile, self.setup.batch)
    }

    /// Latency (ms) and bytes of a plan by layer of the float network, then of what is in front of all layers and of the inference itself.
    ///
    /// # Errors
    /// As [`Evaluator::plan_cost`].
    pub fn parts(&self, plan: &Plan) -> Result<Vec<Part>> {
        let (outline, prediction) = self.predict(plan)?;
        Ok(by_site(&outline, &prediction, &self.setup.profile))
    }

    /// The network of a candidate, as it was measured.
    ///
    /// # Errors
    /// If it cannot be built.
    pub fn network(&self, candidate: &Candidate) -> Result<Arc<Vec<u8>>> {
        let build = || Ok(Arc::new(self.setup.compressor.compress(&self.setup.space.plan(candidate), Build::Sequential)?));
        self.held.model(candidate).map_or_else(build, Ok)
    }

    /// The score of any model that answers like the float one, on all samples.
    ///
    /// # Errors
    /// If it cannot be run.
    pub fn score_of(&self, model: Vec<u8>) -> Result<Score> {
        if self.setup.metric.is_command() {
            return self.measure_by_command(&model, &self.setup.compressor.model.name);
        }
        let race = Race { samples: self.order.len(), above: None, alpha: 0.0 };
        self.measure(&mut Known::new(Arc::new(model)), race).map(|(score, _)| score)
    }

    /// What the network's outputs are, for a loss.
    pub fn outputs(&self) -> Outputs {
        match self.distance {
            Distance::Logits => Outputs::Logits,
            Distance::Probabilities => Outputs::Probabilities,
            Distance::Noise => Outputs::Numbers,
        }
    }

    /// How outputs are compared without labels.
    pub(super) fn distance(&self) -> Distance {
        self.distance
    }

    /// The float model's first outputs for all samples.
    pub(super) fn float_outputs(&self) -> &ArrayD<f32> {
        &self.float.outputs
    }

    /// The order in which candidates meet the samples.
    pub(super) fn order(&self) -> &[usize] {
        &self.order
    }

    /// ONNX Runtime.
    pub(super) fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    fn measure_by_command(&self, model: &[u8], name: &str) -> Result<Score> {
        let metric = &self.setup.metric;
        let accuracy = command::score(metric, &self.runtime, name, model, &self.setup.validation)?;
        let drop = metric.loss(self.float.score.accuracy, accuracy);
        Ok(Score { accuracy, drop, drop_low: None, drop_high: None, distance: None, samples: self.order.len() })
    }

    /// Runs a candidate on, from what is known of it to the samples that the race allows; whether it was given up.
    fn measure(&self, known: &mut Known, race: Race) -> Result<(Score, bool)> {
        let (metric, total) = (&self.setup.metric, self.order.len());
        // Whole batches, so that one that goes on meets the same batches as one that never stopped.
        let wanted = race.samples.next_multiple_of(BATCH).min(total);
        let mut bet = race.above.filter(|_| metric.is_bounded()).map(|above| Bet::new(above, total, race.alpha));
        let mut lost = |scores: &[f64], from: usize| match &mut bet {
            Some(bet) => (from..scores.len()).any(|i| bet.push(metric.loss(self.float.scores[i], scores[i]))),
            None => false,
        };
        for at in (0..known.scores.len().min(wanted)).step_by(BATCH) {
            let to = (at + BATCH).min(wanted);
            if lost(&known.scores[..to], at) && to < total {
                return Ok((self.score(&known.scores[..to], &known.distances[..to])?, true));
            }
        }
        let mut stopped = false;
        if known.scores.len() < wanted {
            let model = Arc::clone(&known.model);
            self.beside_float(&model, known.scores.len(), |outputs, float, labels| {
                let at = known.scores.len();
                known.scores.extend(metric.sample_scores(outputs, Some(float), labels)?);
                known.distances.extend(self.distance.between(outputs, float)?);
                stopped = lost(&known.scores, at) && known.scores.len() < total;
                Ok(!stopped && known.scores.len() < wanted)
            })?;
        }
        let met = if stopped { known.scores.len() } else { wanted };
        Ok((self.score(&known.scores[..met], &known.distances[..met])?, stopped))
    }

    /// Runs a model over the samples from `first` on, batch by batch, as long as `each` wants more: it gets the first outputs, the float model's, and
    /// labels.
    pub(super) fn beside_float(
        &self,
        model: &[u8],
        first: usize,
        mut each: impl FnMut(&ArrayD<f32>, &ArrayD<f32>, Option<&[u32]>) -> Result<bool>,
    ) -> Result<()> {
        let mut session = fast_session(&self.runtime, &self.setup.compressor.model.name, model)?;
        let mut at = first;
        for chunk in self.order[first..].chunks(BATCH) {
            let outputs = run_batch(&mut session, &self.setup.validation, chunk)?;
            let float = self.float.outputs.slice_axis(Axis(0), Slice::from(at..at + chunk.len())).to_owned();
            at += chunk.len();
            if !each(&outputs, &float, labels(&self.setup, chunk).as_deref())? {
                break;
            }
        }
        Ok(())
    }

    pub(super) fn score(&self, scores: &[f64], distances: &[f64]) -> Result<Score> {
        let n = scores.len();
        let Interval { drop, low, high } = self.setup.metric.paired(&self.float.scores[..n], scores, self.setup.confidence)?;
        let distance = Some(mean(distances)).filter(|d| d.is_finite());
        Ok(Score { accuracy: self.setup.metric.value(scores), drop, drop_low: Some(low), drop_high: Some(high), distance, samples: n })
    }
}

impl Objective for Evaluator {
    fn space(&self) -> &Space {
        &self.setup.space
    }

    fn cost(&self, candidate: &Candidate) -> Result<Cost> {
        let lock = || self.costs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(cost) = lock().get(candidate) {
            return Ok(*cost);
        }
        let cost = self.plan_cost(&self.setup.space.plan(candidate))?;
        lock().insert(candidate.clone(), cost);
        Ok(cost)
    }

    fn float_cost(&self) -> Cost {
        self.float_cost
    }

    fn baseline(&self) -> Outcome {
        Outcome::Measured { score: self.float.score, cost: self.float_cost }
    }

    fn samples(&self) -> usize {
        self.order.len()
    }

    fn evaluate(&self, candidate: &Candidate, race: Race) -> Outcome {
        let run = || -> Result<Outcome> {
            let cost = self.cost(candidate)?;
            if self.setup.metric.is_command() {
                let score = self.measure_by_command(&self.network(candidate)?, &self.setup.compressor.model.name)?;
                return Ok(Outcome::Measured { score, cost });
            }
            let mut known = self.held.take(candidate).map_or_else(|| self.network(candidate).map(Known::new), Ok)?;
            let (score, stopped) = self.measure(&mut known, race)?;
            let all = score.samples == self.order.len();
            self.held.put(candidate, known);
            Ok(match (stopped, all) {
                (true, _) => Outcome::Stopped { score, cost },
                (false, false) => Outcome::Sampled { score, cost },
                (false, true) => Outcome::Measured { score, cost },
            })
        };
        run().unwrap_or_else(|e| Outcome::Failed { reason: chain(&e) })
    }
}

/// Latency of a plan on a chip, with the outline it was read from.
///
/// # Errors
/// If the plan's shapes cannot be inferred at that batch.
pub fn predict_plan(compressor: &Compressor, plan: &Plan, profile: &Profile, batch: usize) -> Result<(Outline, Prediction)> {
    let outline = compressor.outline(plan, batch)?;
    let prediction = predict(&outline.kernels(), profile);
    Ok((outline, prediction))
}

/// Scores any model on data: the same samples in the same order as a study's candidates meet them. The interval of the
/// difference to the reference is at `confidence`.
///
/// # Errors
/// If the model or the reference cannot be run, or the metric needs what is not there.
pub fn evaluate_model(
    runtime: &Runtime,
    model: (&str, &[u8]),
    reference: Option<&[u8]>,
    metric: &Metric,
    data: &Dataset,
    confidence: f64,
) -> Result<Score> {
    if metric.is_command() {
        let accuracy = command::score(metric, runtime, model.0, model.1, data)?;
        return Ok(Score { accuracy, drop: 0.0, drop_low: None, drop_high: None, distance: None, samples: data.len() });
    }
    let order = order(data.len());
    let outputs = run_all(runtime, model.0, model.1, data, &order)?;
    let float = reference.map(|r| run_all(runtime, "reference", r, data, &order)).transpose()?;
    let labels = pick_labels(data, metric, &order)?;
    let scores = metric.sample_scores(&outputs, float.as_ref(), labels.as_deref())?;
    let (mut drop, mut low, mut high, mut distance) = (0.0, None, None, None);
    if let Some(float) = &float {
        distance = Some(mean(&Distance::of(float, metric).between(&outputs, float)?));
        let own = metric.sample_scores(float, Some(float), labels.as_deref())?;
        let interval = metric.paired(&own, &scores, confidence)?;
        (drop, low, high) = (interval.drop, Some(interval.low), Some(interval.high));
    }
    Ok(Score { accuracy: metric.value(&scores), drop, drop_low: low, drop_high: high, distance, samples: scores.len() })
}

fn measure_float(runtime: &Runtime, setup: &Setup, order: &[usize]) -> Result<Float> {
    let (metric, name, bytes) = (&setup.metric, &setup.compressor.model.name, &setup.compressor.original.to_bytes()?);
    let exact = |accuracy: f64, zero: Option<f64>| {
        let samples = order.len();
        Score { accuracy, drop: 0.0, drop_low: zero, drop_high: zero, distance: zero, samples }
    };
    if metric.is_command() {
        let value = command::score(metric, runtime, name, bytes, &setup.validation)?;
        return Ok(Float { outputs: ArrayD::zeros(vec![0]), scores: Vec::new(), score: exact(value, None), seconds: 0.0 });
    }
    let labels = pick_labels(&setup.validation, metric, order)?;
    let outputs = run_all(runtime, name, bytes, &setup.validation, order)?;
    let scores = metric.sample_scores(&outputs, Some(&outputs), labels.as_deref())?;
    let score = exact(metric.value(&scores), Some(0.0));
    Ok(Float { outputs, scores, score, seconds: 0.0 })
}

fn run_all(runtime: &Runtime, name: &str, bytes: &[u8], data: &Dataset, order: &[usize]) -> Result<ArrayD<f32>> {
    let mut session = fast_session(runtime, name, bytes)?;
    let parts: Vec<ArrayD<f32>> = order.chunks(BATCH).map(|chunk| run_batch(&mut session, data, chunk)).collect::<Result<_>>()?;
    let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
    ndarray::concatenate(Axis(0), &views)
        .map_err(|e| Error::model(name, format!("its outputs cannot be put together: {e}"), "export it with a dynamic batch"))
}

/// The first output for a batch of samples.
fn run_batch(session: &mut Session, data: &Dataset, chunk: &[usize]) -> Result<ArrayD<f32>> {
    let mut parts = Vec::new();
    feed(session, data, chunk, None, |run| {
        parts.extend(run.outputs.first().map(|o| o.to_owned()));
        Ok(())
    })?;
    let views: Vec<_> = parts.iter().map(|p| p.view()).collect();
    let whole = ndarray::concatenate(Axis(0), &views).ok().filter(|o| o.shape().first() == Some(&chunk.len()));
    whole.ok_or_else(|| {
        Error::model("", "its first output does not have the batch as its first dimension", "use a {command: …} metric for such a model")
    })
}

fn labels(setup: &Setup, chunk: &[usize]) -> Option<Vec<u32>> {
    setup.validation.labels().map(|all| chunk.iter().map(|&i| all[i]).collect())
}

fn pick_labels(data: &Dataset, metric: &Metric, order: &[usize]) -> Result<Option<Vec<u32>>> {
    let all = if metric.needs_labels() { Some(data.require_labels()?) } else { data.labels() };
    Ok(all.map(|all| order.iter().map(|&i| all[i]).collect()))
}

/// An error and its causes in one line.
fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(c) = cause {
        text.push_str(": ");
        text.push_str(&c.to_string());
        cause = c.source();
    }
    text
}
