//! A network run piece by piece over samples whose inner values are kept: two of its forms, the float one and the quantized one,
//! go forward side by side.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use ndarray::ArrayD;

use super::feed::feed;
use crate::{
    data::Dataset,
    error::{Error, Result},
    graph::{
        Model,
        model::captured,
        patch::Patch,
        proto::{GraphProto, ModelProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, type_proto},
    },
    runtime::{Element, Runtime, Session, SessionOptions},
};

/// Values of one batch, by name.
pub(super) type Values = HashMap<String, ArrayD<f32>>;

/// Samples on their way through a network, in batches.
pub(super) struct Frontier<'m> {
    runtime: &'m Runtime,
    model: &'m Model,
    /// Each batch: its number of samples, values of the float form, and those of the quantized form that differ.
    pub(super) batches: Vec<(usize, Values, Values)>,
    elements: HashMap<String, Element>,
    /// Values that the quantized form has made differently.
    differ: BTreeSet<String>,
    last_reader: HashMap<String, usize>,
    at: usize,
}

impl<'m> Frontier<'m> {
    /// Reads the samples; none has gone anywhere yet.
    ///
    /// # Errors
    /// If the data cannot be read, or does not fit the model.
    pub(super) fn begin(runtime: &'m Runtime, model: &'m Model, data: &Dataset, samples: &[usize], batch: usize) -> Result<Self> {
        let mut last_reader = HashMap::new();
        for (i, node) in model.graph().node.iter().enumerate() {
            last_reader.extend(reads(node).map(|v| (v.to_string(), i)));
        }
        // A session with all inputs knows which batches the model takes.
        let mut session = Session::from_bytes(runtime, &model.name, &model.to_bytes()?, SessionOptions::default())?;
        let elements = session.inputs().iter().map(|p| (p.name.clone(), p.element)).collect();
        let mut batches = Vec::new();
        for chunk in samples.chunks(batch) {
            feed(&mut session, data, chunk, Some(&[]), |run| {
                let inputs = run.inputs.into_iter().map(|(n, a)| (n.to_string(), a.to_owned())).collect();
                batches.push((run.samples, inputs, Values::new()));
                Ok(())
            })?;
        }
        // Of a network whose batch is fixed inside, a last batch that is smaller could not go on.
        let whole = batches.first().map_or(0, |b: &(usize, Values, Values)| b.0);
        batches.retain(|b| b.0 == whole);
        Ok(Self { runtime, model, batches, elements, differ: BTreeSet::new(), last_reader, at: 0 })
    }

    /// Runs the nodes before `node` that were not run yet; `quantized` has the nodes and constants that stand for nodes in the quantized form.
    ///
    /// # Errors
    /// If ONNX Runtime cannot run a piece of the network.
    pub(super) fn advance(&mut self, node: usize, quantized: &Patch) -> Result<()> {
        let range = self.at..node;
        self.at = node;
        if range.is_empty() {
            return Ok(());
        }
        let nodes: Vec<&NodeProto> = self.model.graph().node[range.clone()].iter().collect();
        let wanted: Vec<String> =
            outputs(&nodes).filter(|v| self.last_reader.get(*v).is_some_and(|&r| r >= node)).map(String::from).collect();
        let constants: HashMap<&str, &TensorProto> = self.model.graph().initializer.iter().map(|t| (t.name(), t)).collect();
        let float = self.piece(&nodes, &constants, &wanted)?;
        // Integers that an earlier piece made are made again: they were not kept.
        let mut made = BTreeSet::new();
        let replaced: Vec<&NodeProto> = range
            .clone()
            .flat_map(|i| quantized.replace.get(&i).map_or_else(|| vec![&self.model.graph().node[i]], |n| n.iter().collect()))
            .filter(|n| made.insert(n.output.clone()))
            .collect();
        let other = |v: &str| self.differ.contains(v) || quantized.tensors.contains_key(v);
        let differs = range.clone().any(|i| quantized.replace.contains_key(&i)) || nodes.iter().any(|n| reads(n).any(other));
        let other = if differs {
            let mut constants = constants;
            constants.extend(quantized.tensors.iter().map(|(n, t)| (n.as_str(), t)));
            Some(self.piece(&replaced, &constants, &wanted)?)
        } else {
            None
        };
        self.run(float, false, &wanted)?;
        if let Some(piece) = other {
            self.differ.extend(wanted.iter().cloned());
            self.run(piece, true, &wanted)?;
        }
        let last_reader = &self.last_reader;
        let stays = |v: &String| last_reader.get(v).is_some_and(|&r| r >= node);
        for (_, float, quantized) in &mut self.batches {
            float.retain(|v, _| stays(v));
            quantized.retain(|v, _| stays(v));
        }
        Ok(())
    }

    /// Whether the quantized form has made a value differently.
    pub(super) fn differs(&self, value: &str) -> bool {
        self.differ.contains(value)
    }

    /// A value of a batch in the float and in the quantized form.
    pub(super) fn pair(&self, batch: usize, value: &str) -> Option<(&ArrayD<f32>, &ArrayD<f32>)> {
        let (_, float, quantized) = self.batches.get(batch)?;
        let plain = float.get(value)?;
        Some((plain, quantized.get(value).unwrap_or(plain)))
    }

    fn piece(&self, nodes: &[&NodeProto], constants: &HashMap<&str, &TensorProto>, wanted: &[String]) -> Result<Session> {
        let element = |v: &str| self.elements.get(v).copied();
        let bytes = piece(self.model, nodes, constants, (&element, wanted))?;
        Session::from_bytes(self.runtime, &self.model.name, &bytes, SessionOptions::default())
    }

    fn run(&mut self, mut session: Session, quantized: bool, wanted: &[String]) -> Result<()> {
        self.elements.extend(session.outputs().iter().map(|p| (p.name.clone(), p.element)));
        let names: Vec<String> = session.inputs().iter().map(|p| p.name.clone()).collect();
        for (_, float, other) in &mut self.batches {
            let value = |v: &String| {
                let found = if quantized { other.get(v).or_else(|| float.get(v)) } else { float.get(v) };
                found.ok_or_else(|| Error::Internal(format!("{v} was not kept")))
            };
            let inputs = names.iter().map(|v| Ok((v.as_str(), value(v)?.view()))).collect::<Result<Vec<_>>>()?;
            let outputs = session.run(&inputs)?;
            drop(inputs);
            let target = if quantized { &mut *other } else { &mut *float };
            target.extend(wanted.iter().cloned().zip(outputs));
        }
        Ok(())
    }
}

/// Type of a value's elements, by its name.
type Elements<'a> = &'a dyn Fn(&str) -> Option<Element>;

/// Some nodes of a model as a network of their own, with the outputs that are wanted; what they read and is no constant are its inputs, floats
/// where nothing else is known of them.
///
/// # Errors
/// If it cannot be written.
pub(crate) fn piece(
    model: &Model,
    nodes: &[&NodeProto],
    constants: &HashMap<&str, &TensorProto>,
    (element, wanted): (Elements<'_>, &[String]),
) -> Result<Vec<u8>> {
    let inside: BTreeSet<&str> = outputs(nodes).collect();
    let read: BTreeSet<&str> = nodes.iter().flat_map(|n| reads(n)).filter(|v| !inside.contains(v)).collect();
    let (fixed, open): (Vec<&str>, Vec<&str>) = read.into_iter().partition(|v| constants.contains_key(v));
    let input = |v: &str| {
        let elem_type = element(v).map_or(1, Element::onnx);
        let tensor = type_proto::Tensor { elem_type: Some(elem_type), shape: None };
        let r#type = Some(TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None });
        ValueInfoProto { name: Some(v.into()), r#type, ..Default::default() }
    };
    let graph = GraphProto {
        name: Some("piece".into()),
        node: nodes.iter().map(|n| (*n).clone()).collect(),
        input: open.iter().map(|v| input(v)).collect(),
        output: wanted.iter().map(|v| ValueInfoProto { name: Some(v.clone()), ..Default::default() }).collect(),
        initializer: fixed.iter().map(|v| constants[v].clone()).collect(),
        ..Default::default()
    };
    let proto = ModelProto {
        ir_version: model.proto.ir_version,
        opset_import: model.proto.opset_import.clone(),
        functions: model.proto.functions.clone(),
        graph: Some(graph),
        ..Default::default()
    };
    Model { name: model.name.clone(), proto }.to_bytes()
}

/// What a node reads, by its subgraphs too.
pub(crate) fn reads(node: &NodeProto) -> impl Iterator<Item = &str> {
    node.input.iter().map(String::as_str).filter(|v| !v.is_empty()).chain(captured(node))
}

fn outputs<'n>(nodes: &[&'n NodeProto]) -> impl Iterator<Item = &'n str> {
    nodes.iter().flat_map(|n| n.output.iter().map(String::as_str)).filter(|v| !v.is_empty()).collect::<Vec<_>>().into_iter()
}

/// Bytes of the values that are alive at once at most, for one sample, given the bytes of each.
pub(super) fn widest(model: &Model, bytes: impl Fn(&str) -> u64) -> u64 {
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, node) in model.graph().node.iter().enumerate() {
        last.extend(reads(node).map(|v| (v, i)));
    }
    let mut alive: BTreeMap<&str, u64> = model.inputs().map(|v| (v.name(), bytes(v.name()))).collect();
    let mut most = 0;
    for (i, node) in model.graph().node.iter().enumerate() {
        alive.extend(node.output.iter().filter(|v| last.get(v.as_str()).is_some_and(|&r| r > i)).map(|v| (v.as_str(), bytes(v))));
        most = most.max(alive.values().sum::<u64>());
        alive.retain(|v, _| last.get(v).is_some_and(|&r| r > i));
    }
    most
}
