//! One step of training as ONNX Runtime runs it: a batch in, the loss and all gradients out.

use std::collections::BTreeSet;

use ndarray::{ArrayD, ArrayViewD};

use super::{
    differentiate::{Wanted, differentiate},
    loss::{LOSS, Loss},
    network::{Network, Parameter, Role, shapes},
};
use crate::{
    error::{Error, Result},
    graph::{Model, proto::ValueInfoProto, shape::Pins},
    runtime::{Level, Runtime, Session, SessionOptions},
};

/// Named arrays.
pub type Feeds = Vec<(String, ArrayD<f32>)>;

/// What a step found: the loss, the gradient of each parameter, and the new value of those that follow the batches.
pub struct Found<'a> {
    /// The loss.
    pub loss: f32,
    /// A gradient for each parameter, in order; none where nothing depends on it.
    pub gradients: Vec<Option<ArrayViewD<'a, f32>>>,
    /// New values of statistics, in the order of the parameters.
    pub statistics: Vec<Option<ArrayViewD<'a, f32>>>,
}

/// The graph of a step, ready to run at one batch.
#[derive(Debug)]
pub struct Step {
    session: Session,
    gradients: Vec<Option<usize>>,
    statistics: Vec<Option<usize>>,
}

/// The constant that gradients start from.
const ONE: &str = "train/one";

impl Step {
    /// The step of a network, a loss and a batch.
    ///
    /// # Errors
    /// If an operator cannot be differentiated, or ONNX Runtime refuses the graph.
    pub fn new(runtime: &Runtime, network: &Network, loss: &Loss, (batch, pins): (usize, &Pins), threads: usize) -> Result<Self> {
        let with_loss = loss.append(&network.model, &shapes(&network.model, batch, pins)?, ONE)?;
        let of: Vec<String> = network.parameters.iter().filter(|p| p.role != Role::Statistic).map(|p| p.name.clone()).collect();
        let seeds = [(LOSS.to_string(), ONE.to_string())];
        let outputs: Vec<String> = std::iter::once(LOSS.to_string()).chain(network.statistics.values().cloned()).collect();
        let found =
            differentiate(&with_loss, &shapes(&with_loss, batch, pins)?, Wanted { seeds: &seeds, of: &of, outputs: &outputs, own: true })?;
        let place = |name: &String| found.model.graph().output.iter().position(|o| o.name() == name);
        let gradients = network.parameters.iter().map(|p| found.gradients.get(&p.name).and_then(place)).collect();
        let statistics = network.parameters.iter().map(|p| network.statistics.get(&p.name).and_then(place)).collect();
        let session = load(runtime, found.model, threads)?;
        Ok(Self { session, gradients, statistics })
    }

    /// Runs the step.
    ///
    /// # Errors
    /// If ONNX Runtime fails.
    pub fn run<R>(&mut self, parameters: &[Parameter], feeds: &Feeds, each: impl FnOnce(Found<'_>) -> R) -> Result<R> {
        let inputs = inputs(parameters, feeds);
        self.session.run_viewing(&inputs, None, |outputs| {
            let pick = |places: &[Option<usize>]| places.iter().map(|p| p.and_then(|p| outputs.get(p)).cloned()).collect();
            let loss = outputs.first().and_then(|l| l.first().copied()).unwrap_or(f32::NAN);
            each(Found { loss, gradients: pick(&self.gradients), statistics: pick(&self.statistics) })
        })
    }
}

/// The network as it answers, with its loss, at one batch.
#[derive(Debug)]
pub struct Measure {
    session: Session,
}

impl Measure {
    /// As [`Step::new`].
    ///
    /// # Errors
    /// If ONNX Runtime refuses the graph.
    pub fn new(runtime: &Runtime, network: &Network, loss: &Loss, (batch, pins): (usize, &Pins), threads: usize) -> Result<Self> {
        let mut model = loss.append(&network.answering(), &shapes(&network.model, batch, pins)?, ONE)?;
        let wanted: BTreeSet<String> =
            std::iter::once(LOSS.to_string()).chain(model.graph().output.first().map(|o| o.name().to_string())).collect();
        model.graph_mut().output.retain(|o| wanted.contains(o.name()));
        Ok(Self { session: load(runtime, model, threads)? })
    }

    /// The loss of a batch, and the first output.
    ///
    /// # Errors
    /// If ONNX Runtime fails.
    pub fn run(&mut self, parameters: &[Parameter], feeds: &Feeds) -> Result<(f32, ArrayD<f32>)> {
        let inputs = inputs(parameters, feeds);
        let known: Vec<_> = inputs.into_iter().filter(|(n, _)| self.session.inputs().iter().any(|p| p.name == *n)).collect();
        let first = self.session.outputs().iter().position(|o| o.name != LOSS).unwrap_or(0);
        let loss = 1 - first.min(1);
        self.session.run_viewing(&known, None, |outputs| {
            let loss = outputs.get(loss).and_then(|l| l.first().copied()).unwrap_or(f32::NAN);
            (loss, outputs.get(first).map(ArrayViewD::to_owned).unwrap_or_default())
        })
    }
}

/// A network that says what another is to learn.
#[derive(Debug)]
pub struct Teacher {
    session: Session,
    names: Vec<String>,
}

impl Teacher {
    /// The teacher of a loss: it gives the values that are compared.
    ///
    /// # Errors
    /// If a value is not the teacher's too, or ONNX Runtime refuses it.
    pub fn new(runtime: &Runtime, teacher: &Model, compared: &[&str], threads: usize) -> Result<Self> {
        let mut model = teacher.clone();
        let made: BTreeSet<&str> = teacher.graph().node.iter().flat_map(|n| &n.output).map(String::as_str).collect();
        if let Some(lost) = compared.iter().find(|v| !made.contains(*v)) {
            return Err(Error::model(
                &teacher.name,
                format!("has no value {lost} to be matched"),
                "match values that the plan leaves their shape",
            ));
        }
        let outputs: Vec<ValueInfoProto> = compared.iter().map(|v| super::differentiate::float_value(v, None)).collect();
        model.graph_mut().output = outputs;
        let session = load(runtime, model, threads)?;
        Ok(Self { session, names: compared.iter().map(|v| super::loss::taught(v)).collect() })
    }

    /// What it says of a batch, named as the step wants it.
    ///
    /// # Errors
    /// If ONNX Runtime fails.
    pub fn run(&mut self, samples: &Feeds) -> Result<Feeds> {
        let inputs: Vec<_> = samples.iter().map(|(n, a)| (n.as_str(), a.view())).collect();
        Ok(self.names.iter().cloned().zip(self.session.run(&inputs)?).collect())
    }
}

fn inputs<'a>(parameters: &'a [Parameter], feeds: &'a Feeds) -> Vec<(&'a str, ArrayViewD<'a, f32>)> {
    let samples = feeds.iter().map(|(n, a)| (n.as_str(), a.view()));
    parameters.iter().map(|p| (p.name.as_str(), p.value.view())).chain(samples).collect()
}

fn load(runtime: &Runtime, model: Model, threads: usize) -> Result<Session> {
    let (name, bytes) = (model.name.clone(), model.to_bytes()?);
    drop(model);
    Session::from_bytes(runtime, &name, &bytes, SessionOptions { threads, optimisation: Level::All })
}
