//! A run of training: epochs over the samples, judged by some that were held back, kept on disk after each.

use ndarray::ArrayD;
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

use super::{
    checkpoint::{Checkpoint, State},
    loss::{LABELS, Loss, Outputs},
    network::{Network, Parameter, Role, shapes},
    optimise::{Optimiser, Rule, cosine},
    step::{Feeds, Measure, Step, Teacher},
};
use crate::{
    data::Dataset,
    error::{Error, Result},
    graph::{Model, shape::Pins},
    runtime::Runtime,
    spec::Augment,
};

/// How a network is trained.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Settings {
    /// Times that each sample is met.
    pub epochs: usize,
    /// Samples of a step.
    pub batch: usize,
    /// Samples of it that go through the network at once: fewer need less memory.
    pub at_once: usize,
    /// How parameters are changed.
    pub rule: Rule,
    /// Share of its size that a parameter moves in a step, at most.
    pub rate: f32,
    /// What is done to images.
    pub augment: Augment,
    /// Share of the samples that judge and are not learned from.
    pub held_back: f32,
    /// Epochs without a better loss of the samples held back after which training ends; 0 for never.
    pub patience: usize,
    /// Of the order of samples and of what is done to images.
    pub seed: u64,
    /// Threads of an operator.
    pub threads: usize,
}

/// Most samples that are held back.
const MOST_HELD_BACK: usize = 2000;
/// Share of the steps in which the rate rises.
const RISE: f64 = 0.02;

/// What an epoch came to; epoch 0 is the network before training.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Epoch {
    /// Mean loss of the samples learned from, while they were learned from; none before training.
    pub loss: Option<f64>,
    /// Mean loss of the samples held back.
    pub held_back: f64,
    /// Share of them whose best class is the label's, or the teacher's where there are no labels; none without classes.
    pub right: Option<f64>,
}

/// What is told while training runs.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Progress {
    /// Steps done of all.
    Step(u64, u64),
    /// An epoch was measured: its number, and what it came to.
    Epoch(usize, Epoch),
}

/// The end of a run.
#[derive(Debug, Clone)]
pub struct Trained {
    /// What each epoch came to, the first before training.
    pub epochs: Vec<Epoch>,
    /// The epoch whose parameters the network has now.
    pub best: usize,
    /// Samples that went forward and backward, in all.
    pub samples: u64,
}

/// What a network learns from.
#[derive(Debug, Clone, Copy)]
pub struct Lesson<'a> {
    /// The samples, with labels if the loss has a weight for them.
    pub data: &'a Dataset,
    /// The network whose answers are learned, if the loss has a weight for them.
    pub teacher: Option<&'a Model>,
    /// What is lowered.
    pub loss: &'a Loss,
    /// Whole shapes of inputs.
    pub pins: &'a Pins,
}

/// Trains a network; its parameters become the best that were seen. With a checkpoint it goes on where it stopped. `tell` says whether to go on;
/// none if it did not.
///
/// # Errors
/// If an operator cannot be differentiated (before any work), samples cannot be read, or the loss is no number.
pub fn train(
    runtime: &Runtime,
    network: &mut Network,
    lesson: Lesson<'_>,
    settings: &Settings,
    checkpoint: Option<&Checkpoint>,
    tell: &mut dyn FnMut(Progress) -> bool,
) -> Result<Option<Trained>> {
    let mut run = Run::new(runtime, network, lesson, settings)?;
    let mut optimiser = Optimiser::new(settings.rule, &network.parameters);
    let parameters = &mut network.parameters;
    let mut state = match checkpoint.and_then(|c| c.load(parameters, &mut optimiser)) {
        Some(state) => state,
        None => {
            let first = run.judge(parameters)?;
            if !tell(Progress::Epoch(0, first)) {
                return Ok(None);
            }
            State { epochs: vec![first], best: (0, values(parameters)) }
        }
    };
    for epoch in state.epochs.len()..=settings.epochs {
        let Some(loss) = run.epoch(epoch, parameters, &mut optimiser, tell)? else { return Ok(None) };
        let found = Epoch { loss: Some(loss), ..run.judge(parameters)? };
        if found.held_back < state.epochs[state.best.0].held_back {
            state.best = (epoch, values(parameters));
        }
        state.epochs.push(found);
        checkpoint.map_or(Ok(()), |c| c.save(parameters, &optimiser, &state))?;
        if !tell(Progress::Epoch(epoch, found)) && epoch < settings.epochs {
            return Ok(None);
        }
        if settings.patience > 0 && epoch - state.best.0 >= settings.patience {
            break;
        }
    }
    let samples = (state.epochs.len() as u64 - 1) * run.steps as u64 * settings.batch as u64;
    let (best, kept) = state.best;
    parameters.iter_mut().zip(kept).for_each(|(p, value)| p.value = value);
    Ok(Some(Trained { epochs: state.epochs, best, samples }))
}

fn values(parameters: &[Parameter]) -> Vec<ArrayD<f32>> {
    parameters.iter().map(|p| p.value.clone()).collect()
}

/// All that stays the same from epoch to epoch.
struct Run<'a> {
    lesson: Lesson<'a>,
    settings: &'a Settings,
    step: Step,
    measure: Measure,
    teacher: Option<Teacher>,
    learned: Vec<usize>,
    held_back: Vec<usize>,
    /// Samples that judge at once.
    judged: usize,
    /// Steps of an epoch.
    steps: usize,
    classes: Option<usize>,
}

impl<'a> Run<'a> {
    fn new(runtime: &Runtime, network: &Network, lesson: Lesson<'a>, settings: &'a Settings) -> Result<Self> {
        let (loss, pins, threads) = (lesson.loss, lesson.pins, settings.threads);
        let mut order: Vec<usize> = (0..lesson.data.len()).collect();
        order.shuffle(&mut ChaCha8Rng::seed_from_u64(settings.seed));
        let back = ((order.len() as f32 * settings.held_back) as usize).clamp(1, MOST_HELD_BACK);
        let learned = order.split_off(back.min(order.len()));
        let steps = learned.len() / settings.batch;
        if steps == 0 {
            let message =
                format!("has {} samples, less than a batch of {} besides the {back} held back", lesson.data.len(), settings.batch);
            return Err(Error::data(lesson.data.path(), message, "give more training samples, or a smaller batch"));
        }
        let judged = settings.at_once.min(order.len());
        order.truncate(order.len() / judged * judged);
        let compared = loss.compared(&network.model);
        let teacher = lesson.teacher.map(|t| Teacher::new(runtime, t, &compared, threads)).transpose()?;
        let shapes = shapes(&network.model, judged, pins)?;
        let first = network.model.graph().output.first().and_then(|o| shapes.elements(o.name()));
        let classes = (loss.outputs != Outputs::Numbers).then(|| first.map_or(1, |n| n / judged.max(1)));
        Ok(Self {
            step: Step::new(runtime, network, loss, (settings.at_once, pins), threads)?,
            measure: Measure::new(runtime, network, loss, (judged, pins), threads)?,
            lesson,
            settings,
            teacher,
            learned,
            held_back: order,
            judged,
            steps,
            classes,
        })
    }

    /// Samples with what is to be learned of them.
    fn feeds(&mut self, samples: &[usize], augment: Option<&mut ChaCha8Rng>) -> Result<Feeds> {
        let mut feeds = self.lesson.data.batch(samples)?;
        if let (Some(random), [(_, images)]) = (augment, feeds.as_mut_slice()) {
            self.settings.augment.apply(images, random);
        }
        let taught = self.teacher.as_mut().map(|t| t.run(&feeds)).transpose()?;
        feeds.extend(taught.into_iter().flatten());
        if let Some(classes) = self.classes.filter(|_| self.lesson.loss.labels > 0.0) {
            let labels = self.lesson.data.require_labels()?;
            let mut hot = ArrayD::zeros(vec![samples.len(), classes]);
            for (row, &sample) in samples.iter().enumerate() {
                let class = labels[sample] as usize;
                let slot = hot.get_mut([row, class]);
                *slot.ok_or_else(|| {
                    let message =
                        format!("sample {} has the label {class}, and the network has {classes} classes", self.lesson.data.name(sample));
                    Error::data(self.lesson.data.path(), message, "give the labels of this network's classes")
                })? = 1.0;
            }
            feeds.push((LABELS.into(), hot));
        }
        Ok(feeds)
    }

    /// One pass over the samples learned from; their mean loss, none if it was stopped.
    fn epoch(
        &mut self,
        epoch: usize,
        parameters: &mut [Parameter],
        optimiser: &mut Optimiser,
        tell: &mut dyn FnMut(Progress) -> bool,
    ) -> Result<Option<f64>> {
        let settings = self.settings;
        let all = (settings.epochs * self.steps) as u64;
        let rise = (all as f64 * RISE) as u64;
        // Of the seed and the epoch alone, so that a run that goes on draws what one never stopped does.
        let mut random = ChaCha8Rng::seed_from_u64(settings.seed);
        random.set_stream(epoch as u64);
        let mut order = self.learned.clone();
        order.shuffle(&mut random);
        let mut sum = 0.0;
        for samples in order.chunks_exact(settings.batch) {
            let rate = settings.rate * cosine(optimiser.steps, all, rise);
            sum += self.learn(samples, &mut random, parameters, optimiser, rate)?;
            if !tell(Progress::Step(optimiser.steps, all)) {
                return Ok(None);
            }
        }
        Ok(Some(sum / self.steps as f64))
    }

    /// One step; its loss.
    fn learn(
        &mut self,
        samples: &[usize],
        random: &mut ChaCha8Rng,
        parameters: &mut [Parameter],
        optimiser: &mut Optimiser,
        rate: f32,
    ) -> Result<f64> {
        let parts = (samples.len() / self.settings.at_once).max(1);
        let mut total = 0.0;
        let mut sums: Vec<Option<ArrayD<f32>>> = Vec::new();
        let mut follow: Vec<Option<ArrayD<f32>>> = Vec::new();
        for part in samples.chunks(self.settings.at_once) {
            let feeds = self.feeds(part, Some(random))?;
            self.step.run(parameters, &feeds, |found| {
                total += f64::from(found.loss);
                follow = found.statistics.iter().map(|s| s.as_ref().map(|s| s.to_owned())).collect();
                let scale = 1.0 / parts as f32;
                if sums.is_empty() {
                    sums = found.gradients.iter().map(|g| g.as_ref().map(|g| g.mapv(|v| scale * v))).collect();
                } else {
                    sums.iter_mut().zip(&found.gradients).for_each(|(sum, g)| {
                        if let (Some(sum), Some(g)) = (sum, g) {
                            sum.scaled_add(scale, g);
                        }
                    });
                }
            })?;
        }
        if !total.is_finite() {
            let message = "the loss is no number any more".to_string();
            return Err(Error::data(self.lesson.data.path(), message, "train with a lower rate, or look at the inputs' scale"));
        }
        let views: Vec<_> = sums.iter().map(|g| g.as_ref().map(|g| g.view())).collect();
        optimiser.step(parameters, &views, rate);
        for (parameter, new) in parameters.iter_mut().zip(follow) {
            if let Some(new) = new.filter(|_| parameter.role == Role::Statistic) {
                parameter.value = new;
            }
        }
        Ok(total / parts as f64)
    }

    /// Loss and right answers of the samples held back.
    fn judge(&mut self, parameters: &[Parameter]) -> Result<Epoch> {
        let (mut sum, mut right, mut n) = (0.0, 0, 0);
        let samples = self.held_back.clone();
        for part in samples.chunks_exact(self.judged) {
            let feeds = self.feeds(part, None)?;
            let (loss, outputs) = self.measure.run(parameters, &feeds)?;
            sum += f64::from(loss) * part.len() as f64;
            n += part.len();
            right += self.right(part, &outputs, &feeds);
        }
        let held_back = sum / n.max(1) as f64;
        Ok(Epoch { loss: None, held_back, right: self.classes.map(|_| right as f64 / n.max(1) as f64) })
    }

    fn right(&self, samples: &[usize], outputs: &ArrayD<f32>, feeds: &Feeds) -> usize {
        let best = |row: &[f32]| row.iter().enumerate().fold(0, |b, (i, v)| if *v > row[b] { i } else { b });
        let rows = |array: &ArrayD<f32>| -> Vec<usize> {
            let classes = array.len() / samples.len().max(1);
            let flat: Vec<f32> = array.iter().copied().collect();
            flat.chunks(classes.max(1)).map(best).collect()
        };
        let expected: Vec<usize> = match self.lesson.data.labels() {
            Some(labels) => samples.iter().map(|&s| labels[s] as usize).collect(),
            None => feeds.iter().find(|(n, _)| n.starts_with("train/teacher/")).map(|(_, a)| rows(a)).unwrap_or_default(),
        };
        rows(outputs).iter().zip(&expected).filter(|(a, b)| a == b).count()
    }
}
