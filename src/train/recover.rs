//! A plan's network trained to answer like the float network.

use super::{
    checkpoint::Checkpoint,
    loss::{Loss, Outputs},
    network::Network,
    optimise::Rule,
    run::{Lesson, Progress, Settings, Trained, train},
};
use crate::{
    compress::{Compressor, Prepared},
    data::Dataset,
    error::Result,
    runtime::Runtime,
    spec::RecoverSpec,
};

/// A plan's network after training.
#[derive(Debug)]
pub struct Recovered {
    /// Floats and integers: its twin is what is measured and exported.
    pub prepared: Prepared,
    /// How training went.
    pub trained: Trained,
}

/// What is trained, on what.
#[derive(Clone, Copy)]
pub struct Task<'a> {
    /// The float network, the teacher.
    pub compressor: &'a Compressor,
    /// The plan's network as compression made it.
    pub prepared: &'a Prepared,
    /// The samples.
    pub data: &'a Dataset,
    /// What the outputs are.
    pub outputs: Outputs,
    /// How it is trained.
    pub spec: &'a RecoverSpec,
    /// Of the order of samples and of what is done to images.
    pub seed: u64,
    /// Threads of an operator; the result does not depend on them.
    pub threads: usize,
    /// Bytes that training may take.
    pub max_memory: u64,
}

/// Trains a plan's network. With a checkpoint it goes on where it stopped; none if `tell` said to stop.
///
/// # Errors
/// As [`train`].
pub fn recover(
    runtime: &Runtime,
    task: Task<'_>,
    checkpoint: Option<&Checkpoint>,
    tell: &mut dyn FnMut(Progress) -> bool,
) -> Result<Option<Recovered>> {
    let (spec, pins) = (task.spec, task.compressor.pins());
    let mut network = Network::of_plan(task.prepared, pins)?;
    let loss = Loss {
        outputs: task.outputs,
        teacher: 1.0 - spec.labels,
        temperature: spec.temperature,
        labels: if task.outputs == Outputs::Numbers { 0.0 } else { spec.labels },
        matched: spec.matched.clone(),
    };
    let settings = Settings {
        epochs: spec.epochs,
        batch: spec.batch,
        at_once: network.at_once(spec.batch, task.max_memory, pins)?,
        rule: Rule { method: spec.optimizer, momentum: spec.momentum, decay: spec.decay, clip: spec.clip },
        rate: spec.rate,
        augment: spec.augment,
        held_back: spec.held_back.0 as f32,
        patience: spec.patience,
        seed: task.seed,
        threads: task.threads,
    };
    let teacher = (loss.teacher > 0.0 || !loss.matched.is_empty()).then_some(&task.compressor.model);
    let lesson = Lesson { data: task.data, teacher, loss: &loss, pins };
    let trained = train(runtime, &mut network, lesson, &settings, checkpoint, tell)?;
    trained.map(|trained| Ok(Recovered { prepared: network.settle(task.prepared)?, trained })).transpose()
}
