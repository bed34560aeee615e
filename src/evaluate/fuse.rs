//! The fake-quant twin made fast: what rounds an activation becomes one operator, and that operator takes the layout it finds.
//!
//! The file keeps its standard operators (QuantizeLinear, Cast, Clip, Sub); for an evaluation each such chain is rewritten in memory to
//! our operator [`ROUND`], which gives the same floats to the bit. ONNX Runtime then optimises the whole. As it does not know our operator, it
//! brings values into the plain layout in front of it, and back into its blocked one (NCHWc) behind it; rounding looks at every value by
//! itself, so both changes of layout are taken out again. All other operators stay as ONNX Runtime chose them for the file, hence the same numbers.

use std::collections::BTreeSet;

use crate::{
    error::Result,
    graph::{
        Model,
        model::{Index, SIMULATION_MARK, int_attribute},
        patch::Patch,
        proto::{NodeProto, OperatorSetIdProto, TensorProto, tensor_proto::DataType},
        tensor,
    },
    runtime::{DOMAIN, Level, ROUND, Runtime, Session, SessionOptions},
};

/// Bytes of a model up to which its optimised graph is written out once more: in larger ones rounding takes no part of the time.
const SMALL: usize = 256 << 20;

/// Steps of 1.5·2²³: adding it rounds half to even.
const ROUNDER: f64 = 12_582_912.0;

/// A session for any model, a twin of ours in its fastest form. Outputs are the same as from [`Session::from_bytes`].
///
/// # Errors
/// If ONNX Runtime refuses the model, or it is larger than 2 GiB.
pub fn fast_session(runtime: &Runtime, name: &str, bytes: &[u8]) -> Result<Session> {
    match fused_session(runtime, name, bytes) {
        Ok(Some(session)) => return Ok(session),
        Ok(None) => {}
        Err(error) => tracing::debug!(%error, "the model is run as its file has it"),
    }
    Session::from_bytes(runtime, name, bytes, SessionOptions::default())
}

fn fused_session(runtime: &Runtime, name: &str, bytes: &[u8]) -> Result<Option<Session>> {
    let Some(fused) = fuse(&Model::parse(name, bytes)?)? else { return Ok(None) };
    let fused = fused.to_bytes()?;
    if fused.len() > SMALL {
        return Session::from_bytes(runtime, name, &fused, SessionOptions::default()).map(Some);
    }
    let (session, graph) = Session::with_graph(runtime, name, &fused)?;
    let Some(blocked) = stay_blocked(&Model::parse(name, &graph)?)? else { return Ok(Some(session)) };
    drop(session);
    let as_it_is = SessionOptions { optimisation: Level::Off, ..SessionOptions::default() };
    Session::from_bytes(runtime, name, &blocked.to_bytes()?, as_it_is).map(Some)
}

/// A chain of standard operators that rounds a value.
struct Chain {
    nodes: Vec<usize>,
    scale: f32,
    before: Option<f32>,
    low: f32,
    high: f32,
}

/// The model with every chain of `.fakequant.` nodes that rounds a value as one operator; `None` if there is none.
///
/// # Errors
/// If the result is not a well-formed graph, a bug.
pub fn fuse(model: &Model) -> Result<Option<Model>> {
    if !model.graph().node.iter().any(|n| n.name().contains(SIMULATION_MARK)) {
        return Ok(None);
    }
    let index = Index::new(model);
    let nodes = &model.graph().node;
    let mut patch = Patch::new("one operator that rounds");
    for start in 0..nodes.len() {
        let Some(chain) = quantizer(model, &index, start).or_else(|| arithmetic(model, &index, start)) else { continue };
        let (Some(first), Some(last)) = (chain.nodes.first(), chain.nodes.last()) else { continue };
        let attributes = [("scale", Some(chain.scale)), ("before", chain.before), ("low", Some(chain.low)), ("high", Some(chain.high))];
        let attributes = attributes.into_iter().filter_map(|(name, value)| Some(tensor::float(name, value?))).collect();
        let mut round = tensor::node(ROUND, nodes[*first].name(), &[&nodes[*first].input[0]], &[&nodes[*last].output[0]], attributes);
        round.domain = Some(DOMAIN.into());
        chain.nodes.iter().for_each(|&i| _ = patch.replace.insert(i, Vec::new()));
        patch.replace.insert(*last, vec![round]);
    }
    if patch.replace.is_empty() {
        return Ok(None);
    }
    let mut fused = patch.apply(model)?;
    fused.proto.opset_import.push(OperatorSetIdProto { domain: Some(DOMAIN.into()), version: Some(1) });
    Ok(Some(fused))
}

/// `QuantizeLinear → Cast (→ Clip) (→ Sub)`.
fn quantizer(model: &Model, index: &Index<'_>, start: usize) -> Option<Chain> {
    let nodes = &model.graph().node;
    let first = simulating(nodes, start, "QuantizeLinear").filter(|n| n.attribute.is_empty() && n.input.len() == 3)?;
    let scale = scalar(index, &first.input[1], DataType::Float)? as f32;
    let zero = index.constants.get(first.input[2].as_str())?;
    let (zero, mut low, mut high) = match DataType::try_from(zero.data_type()) {
        Ok(DataType::Uint8) => (f64::from(byte(zero)?), 0.0, 255.0),
        Ok(DataType::Int8) => (f64::from(byte(zero)?.cast_signed()), -128.0, 127.0),
        _ => return None,
    };
    let cast = next(nodes, index, start, "Cast").filter(|&c| int_attribute(&nodes[c], "to", 0) == DataType::Float as i64)?;
    let mut chain = vec![start, cast];
    if let Some((clip, limits)) = next(nodes, index, cast, "Clip").and_then(|c| Some((c, limits(index, &nodes[c])?))) {
        chain.push(clip);
        (low, high) = (limits.0.max(low), limits.1.min(high));
    }
    let sub = next(nodes, index, chain[chain.len() - 1], "Sub").filter(|&s| operand(index, &nodes[s]) == Some(zero));
    chain.extend(sub);
    let same = sub.is_some() || zero == 0.0;
    (same && low <= high).then_some(Chain { nodes: chain, scale, before: None, low: (low - zero) as f32, high: (high - zero) as f32 })
}

/// `Div → Add → Clip → Add → Sub`, the form before operator set 11.
fn arithmetic(model: &Model, index: &Index<'_>, start: usize) -> Option<Chain> {
    let nodes = &model.graph().node;
    let scale = operand(index, simulating(nodes, start, "Div")?)? as f32;
    let mut chain = vec![start];
    for op in ["Add", "Clip", "Add", "Sub"] {
        chain.push(next(nodes, index, chain[chain.len() - 1], op)?);
    }
    let before = operand(index, &nodes[chain[1]])?;
    let (low, high) = limits(index, &nodes[chain[2]])?;
    let same = operand(index, &nodes[chain[3]])? == ROUNDER && operand(index, &nodes[chain[4]])? == ROUNDER + before;
    (same && low <= high).then_some(Chain { nodes: chain, scale, before: Some(before as f32), low: low as f32, high: high as f32 })
}

/// A node of this kind that simulates integers, and gives one value.
fn simulating<'n>(nodes: &'n [NodeProto], node: usize, op: &str) -> Option<&'n NodeProto> {
    let node = nodes.get(node).filter(|n| n.op_type() == op && n.domain().is_empty() && n.name().contains(SIMULATION_MARK))?;
    (node.output.len() == 1 && !node.input.is_empty()).then_some(node)
}

/// The only reader of a node's value, if it is of this kind and reads the value first.
fn next(nodes: &[NodeProto], index: &Index<'_>, node: usize, op: &str) -> Option<usize> {
    let reader = index.sole_reader(&nodes[node].output[0])?;
    simulating(nodes, reader, op).filter(|n| n.input[0] == nodes[node].output[0]).map(|_| reader)
}

fn scalar(index: &Index<'_>, name: &str, kind: DataType) -> Option<f64> {
    let constant = index.constants.get(name).filter(|t| t.data_type() == kind as i32 && t.dims.is_empty())?;
    tensor::to_f32(constant).ok()?.first().map(|&v| f64::from(v))
}

fn byte(constant: &TensorProto) -> Option<u8> {
    constant.raw_data.as_ref().filter(|raw| raw.len() == 1 && constant.dims.is_empty()).map(|raw| raw[0])
}

/// The constant that is a node's second input.
fn operand(index: &Index<'_>, node: &NodeProto) -> Option<f64> {
    (node.input.len() == 2).then(|| scalar(index, &node.input[1], DataType::Float)).flatten()
}

/// Whole limits of a Clip: its second and third input, or its attributes.
fn limits(index: &Index<'_>, clip: &NodeProto) -> Option<(f64, f64)> {
    let (low, high) = match clip.input.len() {
        3 => (scalar(index, &clip.input[1], DataType::Float)?, scalar(index, &clip.input[2], DataType::Float)?),
        1 => {
            let attribute = |name: &str| clip.attribute.iter().find(|a| a.name() == name).map(|a| f64::from(a.f()));
            (attribute("min")?, attribute("max")?)
        }
        _ => return None,
    };
    (low.fract() == 0.0 && high.fract() == 0.0 && low.abs().max(high.abs()) < 4096.0).then_some((low, high))
}

/// A graph that ONNX Runtime optimised, less the changes of layout around our operator; `None` if there are none.
///
/// # Errors
/// If the result is not a well-formed graph, a bug.
pub fn stay_blocked(model: &Model) -> Result<Option<Model>> {
    let index = Index::new(model);
    let nodes = &model.graph().node;
    let is = |i: usize, op: &str| nodes[i].op_type() == op && nodes[i].domain() == "com.microsoft.nchwc";
    let mut patch = Patch::new("rounding in the blocked layout");
    let mut left: BTreeSet<usize> = BTreeSet::new();
    let mut moved: BTreeSet<usize> = BTreeSet::new();
    for (i, round) in nodes.iter().enumerate().filter(|(_, n)| n.op_type() == ROUND && n.domain() == DOMAIN) {
        let Some(&unblock) = index.producer.get(round.input[0].as_str()).filter(|&&p| is(p, "ReorderOutput")) else { continue };
        let (blocking, others): (Vec<_>, Vec<_>) =
            index.readers(&round.output[0]).iter().partition(|(reader, _)| is(*reader, "ReorderInput"));
        let [(block, _)] = blocking[..] else { continue };
        if int_attribute(&nodes[unblock], "channels_last", 0) != 0 || int_attribute(&nodes[block], "channels_last", 0) != 0 {
            continue;
        }
        let mut blocked = round.clone();
        blocked.input[0].clone_from(&nodes[unblock].input[0]);
        blocked.output[0].clone_from(&nodes[block].output[0]);
        let mut instead = vec![blocked];
        if !others.is_empty() || index.outputs.contains(round.output[0].as_str()) {
            let mut plain = nodes[unblock].clone();
            plain.name = Some(format!("{}.plain", round.name()));
            plain.input[0].clone_from(&nodes[block].output[0]);
            plain.output[0].clone_from(&round.output[0]);
            instead.push(plain);
        }
        patch.replace.insert(i, instead);
        patch.replace.insert(block, Vec::new());
        left.insert(unblock);
        moved.insert(i);
    }
    if moved.is_empty() {
        return Ok(None);
    }
    for unblock in left {
        let value = nodes[unblock].output[0].as_str();
        if !index.outputs.contains(value) && index.readers(value).iter().all(|(reader, _)| moved.contains(reader)) {
            patch.replace.insert(unblock, Vec::new());
        }
    }
    patch.apply(model).map(Some)
}
