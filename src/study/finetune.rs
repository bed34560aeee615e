//! A plan's network trained, and measured before and after.

use std::{path::Path, time::Instant};

use serde::{Deserialize, Serialize};

use super::{
    Bench, Fingerprint,
    bench::{dataset, sha256},
    folder::write_atomically,
};
use crate::{
    data::Dataset,
    error::{Error, Result},
    evaluate::{Evaluator, Objective},
    runtime::Runtime,
    space::{Build, Plan},
    spec::{RecoverSpec, Spec},
    train::{Checkpoint, Epoch, Progress, Task, recover},
    trial::{Cost, Outcome, Score},
};

/// What training made of a plan, with the samples and the time that it took.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Finetuned {
    /// The float network's metric.
    pub float_accuracy: f64,
    /// The float network's cost.
    pub float_cost: Cost,
    /// The plan's cost, which training does not change.
    pub cost: Cost,
    /// The plan as compression made it.
    pub before: Score,
    /// The plan after training.
    pub after: Score,
    /// What each epoch came to; the first before training.
    pub epochs: Vec<Epoch>,
    /// The epoch that was kept: the best of the samples held back.
    pub best: usize,
    /// Training samples.
    pub training_samples: usize,
    /// Samples that went forward and backward.
    pub samples_trained: u64,
    /// Seconds of this session's training.
    pub seconds: f64,
    /// How it was trained.
    pub recover: RecoverSpec,
}

/// How a plan is trained, besides what its spec says.
#[derive(Debug, Clone, Copy)]
pub struct How<'a> {
    /// The spec's part.
    pub spec: &'a RecoverSpec,
    /// Seed of every random choice.
    pub seed: u64,
    /// Threads of an operator; the result does not depend on them.
    pub threads: usize,
    /// Bytes that training may take.
    pub max_memory: u64,
}

/// The samples that a spec's networks are trained on.
///
/// # Errors
/// If they do not fit the network.
pub fn training_data(spec: &Spec, bench: &Bench) -> Result<Dataset> {
    let source = spec.data.training.as_ref().unwrap_or(&spec.data.calibration);
    dataset(source, &spec.data.input, &bench.compressor.model, &spec.shapes)
}

/// The key of a run's checkpoint: all that its result depends on.
///
/// # Errors
/// If the data cannot be read.
pub fn checkpoint_key(fingerprint: &Fingerprint, (plan, build): (&Plan, Build), training: &Dataset, how: How<'_>) -> Result<String> {
    let text =
        |value: std::result::Result<String, serde_json::Error>| value.map_err(|e| Error::Internal(format!("a checkpoint's key: {e}")));
    let parts = [
        text(serde_json::to_string(fingerprint))?,
        plan.to_yaml()?,
        format!("{build:?}"),
        training.sha256()?,
        text(serde_json::to_string(how.spec))?,
        how.seed.to_string(),
        how.max_memory.to_string(),
    ];
    Ok(sha256(parts.join("\n").as_bytes()))
}

/// Trains the network of a plan and measures it on all validation samples; the trained network, as an ONNX file, goes to `out`. With a checkpoint it goes on
/// where it stopped; the checkpoint is removed when all is done. None if `tell` said to stop.
///
/// # Errors
/// If the plan changes nothing, the network cannot be differentiated, or a file cannot be written.
pub fn finetune(
    runtime: &Runtime,
    evaluator: &Evaluator,
    (plan, build): (&Plan, Build),
    training: &Dataset,
    how: How<'_>,
    (checkpoint, out): (Option<&Checkpoint>, &Path),
    tell: &mut dyn FnMut(Progress) -> bool,
) -> Result<Option<Finetuned>> {
    let compressor = &evaluator.setup().compressor;
    let prepared = compressor.prepare(plan, build)?;
    let prepared =
        prepared.ok_or_else(|| Error::model(&compressor.model.name, "the plan changes nothing", "give a plan that compresses a layer"))?;
    let Outcome::Measured { score: float, cost: float_cost } = evaluator.baseline() else {
        return Err(Error::Internal("the float model was not measured".into()));
    };
    let before = evaluator.score_of(prepared.twin()?.to_bytes()?)?;
    let begun = Instant::now();
    let task = Task {
        compressor,
        prepared: &prepared,
        data: training,
        outputs: evaluator.outputs(),
        spec: how.spec,
        seed: how.seed,
        threads: how.threads,
        max_memory: how.max_memory,
    };
    let Some(recovered) = recover(runtime, task, checkpoint, tell)? else { return Ok(None) };
    let seconds = begun.elapsed().as_secs_f64();
    let bytes = recovered.prepared.twin()?.to_bytes()?;
    write_atomically(out, &bytes)?;
    let after = evaluator.score_of(bytes)?;
    if let Some(checkpoint) = checkpoint {
        let _ = std::fs::remove_file(&checkpoint.path);
    }
    Ok(Some(Finetuned {
        float_accuracy: float.accuracy,
        float_cost,
        cost: evaluator.plan_cost(plan)?,
        before,
        after,
        epochs: recovered.trained.epochs,
        best: recovered.trained.best,
        training_samples: training.len(),
        samples_trained: recovered.trained.samples,
        seconds,
        recover: how.spec.clone(),
    }))
}
