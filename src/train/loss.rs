//! What training lowers, written as standard operators behind a network, so that the rules differentiate it like anything else.
//!
//! Classes: T²·KL(softmax(z_t/T) ‖ softmax(z_s/T)) from the teacher (Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network",
//! 1503.02531) and cross entropy from labels. Other outputs, and values inside that are to match: ‖y − y_t‖² / ‖y_t‖².

use super::differentiate::{Tape, float_value};
use crate::{
    error::{Error, Result},
    graph::{Model, proto::NodeProto, shape::Shapes, tensor::int},
};

/// What a network's outputs are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outputs {
    /// Numbers whose softmax are classes.
    Logits,
    /// Shares of classes that sum to one.
    Probabilities,
    /// Anything else.
    Numbers,
}

/// What is lowered: a weighted sum.
#[derive(Debug, Clone, PartialEq)]
pub struct Loss {
    /// What the outputs are; the first is that of classes.
    pub outputs: Outputs,
    /// Weight of what the teacher says, 0 without one.
    pub teacher: f32,
    /// Temperature of the softmax of both.
    pub temperature: f32,
    /// Weight of the labels' cross entropy.
    pub labels: f32,
    /// Values inside that are to be those of the teacher, and their weight.
    pub matched: Vec<(String, f32)>,
}

/// Input of the labels, one-hot (batch × classes).
pub const LABELS: &str = "train/labels";
/// Value of the loss, a number.
pub const LOSS: &str = "train/loss";
/// Probabilities below this count as this.
const LEAST: f32 = 1e-12;

/// Input of what the teacher says of a value, of the value's shape.
pub fn taught(value: &str) -> String {
    format!("train/teacher/{value}")
}

impl Loss {
    /// Values of the teacher that are compared.
    pub fn compared<'a>(&'a self, model: &'a Model) -> Vec<&'a str> {
        let outputs: &[_] = if self.teacher > 0.0 { &model.graph().output } else { &[] };
        let outputs = outputs.iter().take(if self.outputs == Outputs::Numbers { usize::MAX } else { 1 }).map(|o| o.name());
        outputs.chain(self.matched.iter().map(|(v, _)| v.as_str())).collect()
    }

    /// The network with the loss behind it: one more output, and inputs for what it is compared with. The constant 1 that its gradient starts from is `one`.
    ///
    /// # Errors
    /// If a value's shape is not known.
    pub fn append(&self, model: &Model, shapes: &Shapes, one: &str) -> Result<Model> {
        let dims = |v: &str| {
            shapes.dims(v).map(<[usize]>::to_vec).ok_or_else(|| {
                Error::model(&model.name, format!("the shape of {v} is not known"), "export it with fixed shapes besides the batch")
            })
        };
        let mut out = model.clone();
        let mut tape = Tape::named("train", model.opset(), false);
        let mut terms = Vec::new();
        let first = model.graph().output.first().map(|o| o.name().to_string()).unwrap_or_default();
        for value in self.compared(model) {
            out.graph_mut().input.push(float_value(&taught(value), Some(&dims(value)?)));
        }
        if self.outputs == Outputs::Numbers {
            for value in model.graph().output.iter().filter(|_| self.teacher > 0.0) {
                let distance = noise(&mut tape, value.name());
                terms.push(tape.scaled(&distance, self.teacher));
            }
        } else {
            let classes = Classes::of(&dims(&first)?);
            let logits = self.logits(&mut tape, &first, &classes);
            if self.teacher > 0.0 {
                let taught = self.logits(&mut tape, &taught(&first), &classes);
                let divergence = self.divergence(&mut tape, &logits, &taught, &classes);
                terms.push(tape.scaled(&divergence, self.teacher));
            }
            if self.labels > 0.0 {
                out.graph_mut().input.push(float_value(LABELS, Some(&classes.dims)));
                let log = tape.op("LogSoftmax", &[&logits], vec![int("axis", classes.axis as i64)]);
                let hit = tape.mul(&log, LABELS);
                terms.push(classes.mean(&mut tape, &hit, -self.labels));
            }
        }
        for (value, weight) in &self.matched {
            let distance = noise(&mut tape, value);
            terms.push(tape.scaled(&distance, *weight));
        }
        let sum = terms.into_iter().reduce(|a, b| tape.add(&a, &b));
        let sum = sum.ok_or_else(|| Error::Internal("a loss of nothing".into()))?;
        tape.nodes.push(crate::graph::tensor::node("Identity", LOSS, &[&sum], &[LOSS], vec![]));
        out.graph_mut().initializer.push(crate::graph::tensor::scalar_f32(one, 1.0));
        let constants = tape.tensors.into_values();
        out.graph_mut().initializer.extend(constants);
        let nodes: Vec<NodeProto> = tape.nodes;
        out.graph_mut().node.extend(nodes);
        out.graph_mut().output.push(float_value(LOSS, Some(&[])));
        Ok(out)
    }

    fn logits(&self, tape: &mut Tape, value: &str, classes: &Classes) -> String {
        let flat = tape.reshape(value, &classes.dims);
        if self.outputs != Outputs::Probabilities {
            return flat;
        }
        let (least, most) = (tape.scalar(LEAST), tape.scalar(1.0));
        let safe = tape.op("Clip", &[&flat, &least, &most], vec![]);
        tape.op("Log", &[&safe], vec![])
    }

    /// T²·Σ p_t·(log p_t − log p_s), the mean over the samples.
    fn divergence(&self, tape: &mut Tape, logits: &str, taught: &str, classes: &Classes) -> String {
        let axis = || vec![int("axis", classes.axis as i64)];
        let cold = 1.0 / self.temperature;
        let (student, teacher) = (tape.scaled(logits, cold), tape.scaled(taught, cold));
        let student = tape.op("LogSoftmax", &[&student], axis());
        let teacher = tape.op("LogSoftmax", &[&teacher], axis());
        let share = tape.op("Exp", &[&teacher], vec![]);
        let apart = tape.sub(&teacher, &student);
        let product = tape.mul(&share, &apart);
        classes.mean(tape, &product, self.temperature * self.temperature)
    }
}

/// How the classes lie.
struct Classes {
    dims: Vec<usize>,
    axis: usize,
}

impl Classes {
    /// Of outputs of these dimensions: behind the batch, behind the batch of a map of pixels, or last.
    fn of(dims: &[usize]) -> Self {
        let batch = dims.first().copied().unwrap_or(1);
        let all: usize = dims.iter().skip(1).product();
        if dims.iter().skip(1).filter(|&&d| d != 1).count() <= 1 {
            return Self { dims: vec![batch, all], axis: 1 };
        }
        Self { dims: dims.to_vec(), axis: if dims.len() >= 4 { 1 } else { dims.len() - 1 } }
    }

    /// k times the sum over the classes, the mean over all else.
    fn mean(&self, tape: &mut Tape, x: &str, k: f32) -> String {
        let places = self.dims.iter().product::<usize>() / self.dims[self.axis].max(1);
        let axes: Vec<i64> = (0..self.dims.len() as i64).collect();
        let sum = tape.sum(x, &axes, false);
        tape.scaled(&sum, k / places.max(1) as f32)
    }
}

/// ‖y − y_t‖² / ‖y_t‖².
fn noise(tape: &mut Tape, value: &str) -> String {
    let taught = taught(value);
    let apart = tape.sub(value, &taught);
    let (lost, whole) = (tape.mul(&apart, &apart), tape.mul(&taught, &taught));
    let (lost, whole) =
        (tape.op("ReduceSum", &[&lost], vec![int("keepdims", 0)]), tape.op("ReduceSum", &[&whole], vec![int("keepdims", 0)]));
    let whole = tape.plus(&whole, LEAST);
    tape.div(&lost, &whole)
}
