//! The fake-quant twin: a float model that computes what the integers on the chip would.
//!
//! A quantized layer reads `QuantizeLinear → Cast (→ Clip → Sub)` of its input, the integers as floats, and has the
//! activation's step folded into its fake-quantized weights: W' = s_x·s_w·q_w. This is standard ONNX from opset 11 (for
//! older networks the same in plain arithmetic), gives the same values under every optimisation level and setting of ONNX Runtime (a QuantizeLinear–DequantizeLinear
//! pair would be fused into INT8 kernels that saturate on x86 without VNNI), and costs no more than such a pair.
//! Padding with 0 after the offset is taken off is padding with the quantized zero.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::ArrayD;

use super::{
    cache::{Cache, key},
    calibrate::Statistics,
    quantize::{Grid, activation_grid, fake_quantize_weight},
};
use crate::{
    error::{Error, Result},
    graph::{
        Model,
        layer::{Layer, Layers},
        model::{PLAN_KEY, PRECISION_KEY, SIMULATION_MARK},
        patch::Patch,
        proto::{NodeProto, TensorProto},
        tensor,
    },
    precision::Precision,
    spec::QuantizeSpec,
};

/// Makes the twin of a float model whose nodes get these precisions.
///
/// # Errors
/// If a quantized layer's input was not calibrated.
pub fn quantize(
    model: &Model,
    layers: &Layers,
    precision: &BTreeMap<String, Precision>,
    statistics: &BTreeMap<String, Statistics>,
    (spec, rounded): (&QuantizeSpec, &Cache<ArrayD<f32>>),
    plan: &str,
) -> Result<Model> {
    let quantized: Vec<(&Layer, u32)> =
        layers.layers.iter().filter_map(|l| precision.get(&l.name).and_then(|p| p.integer_bits()).map(|bits| (l, bits))).collect();
    let mut patch = Patch::new("the fake-quant twin");
    let weights: BTreeMap<&str, &TensorProto> = model.graph().initializer.iter().map(|t| (t.name(), t)).collect();
    let mut done: BTreeSet<String> = BTreeSet::new();
    for (layer, bits) in quantized {
        let stats = statistics
            .get(&layer.input)
            .ok_or_else(|| Error::Internal(format!("the input {} of {} was not calibrated", layer.input, layer.name)))?;
        let grid = activation_grid(&stats.histogram, bits, spec);
        let integers = format!("{}{SIMULATION_MARK}int{bits}", layer.input);
        let mut nodes = Vec::new();
        if done.insert(integers.clone()) {
            let make = if model.opset() < 11 { simulate_by_arithmetic } else { simulate };
            nodes = make(&layer.input, &integers, grid, &mut patch);
        }
        let weight = weights.get(layer.weight.as_str()).ok_or_else(|| Error::Internal(format!("no weight {}", layer.weight)))?;
        let per_channel = layer.op.is_convolution().then_some(layer.out_axis);
        let weight = tensor::to_f32(weight)?;
        let settings = [u64::from(bits), per_channel.map_or(u64::MAX, |a| a as u64), spec.weights as u64];
        let make = || Ok(fake_quantize_weight(&weight, per_channel, bits, spec.weights));
        let folded = rounded.get(key(&weight, &settings), make, |w| 4 * w.len())?.mapv(|w| w * grid.scale);
        patch.tensors.insert(layer.weight.clone(), tensor::from_f32(&layer.weight, &folded));
        let mut node = model.graph().node[layer.node].clone();
        node.input[layer.data_slot()] = integers;
        nodes.push(node);
        patch.replace.insert(layer.node, nodes);
    }
    let precision: BTreeMap<&str, &str> = precision.iter().map(|(n, p)| (n.as_str(), p.name())).collect();
    patch.metadata.insert(PLAN_KEY.into(), plan.to_string());
    patch.metadata.insert(PRECISION_KEY.into(), serde_json::to_string(&precision).unwrap_or_default());
    patch.apply(model)
}

/// As [`simulate`], for networks older than opset 11, which has no rounding and no Clip with inputs: adding and taking away
/// 1.5·2²³ rounds a small float half to even.
fn simulate_by_arithmetic(value: &str, integers: &str, grid: Grid, patch: &mut Patch) -> Vec<NodeProto> {
    const ROUND: f32 = 12_582_912.0;
    let (low, high) = grid.limits();
    let steps = [
        ("Div", Some(grid.scale)),
        ("Add", Some(grid.offset as f32)),
        ("Clip", None),
        ("Add", Some(ROUND)),
        ("Sub", Some(ROUND + grid.offset as f32)),
    ];
    let mut current = value.to_string();
    let mut nodes = Vec::new();
    for (i, (op, constant)) in steps.iter().enumerate() {
        let output = if i + 1 == steps.len() { integers.to_string() } else { format!("{integers}.step{i}") };
        let operand = constant.map(|c| {
            let name = format!("{integers}.constant{i}");
            patch.tensors.insert(name.clone(), tensor::scalar_f32(&name, c));
            name
        });
        let inputs: Vec<&str> = std::iter::once(current.as_str()).chain(operand.as_deref()).collect();
        let limits = || vec![tensor::float("min", low as f32), tensor::float("max", high as f32)];
        let attributes = if constant.is_none() { limits() } else { vec![] };
        nodes.push(tensor::node(op, &format!("{integers}.step{i}.node"), &inputs, &[&output], attributes));
        current = output;
    }
    nodes
}

/// The chain that turns a value into its integers, less the offset, as floats.
fn simulate(value: &str, integers: &str, grid: Grid, patch: &mut Patch) -> Vec<NodeProto> {
    let name = |part: &str| format!("{integers}.{part}");
    let (low, _) = grid.limits();
    // With the lowest integer as zero, unsigned integers from 0 need no subtraction.
    let unsigned = grid.offset == low;
    let mut constant = |part: &str, t: fn(&str, f32) -> TensorProto, v: f32| {
        let n = name(part);
        patch.tensors.insert(n.clone(), t(&n, v));
        n
    };
    let scale = constant("scale", tensor::scalar_f32, grid.scale);
    let zero = name("zero");
    let (bottom, top) = if unsigned { (0, (1 << grid.bits) - 1) } else { grid.limits() };
    let clip =
        (grid.bits < 8).then(|| (constant("low", tensor::scalar_f32, bottom as f32), constant("high", tensor::scalar_f32, top as f32)));
    let offset = (!unsigned && grid.offset != 0).then(|| constant("offset", tensor::scalar_f32, grid.offset as f32));
    patch.tensors.insert(zero.clone(), tensor::scalar_8bit(&zero, if unsigned { 0 } else { grid.offset }, !unsigned));
    let mut steps: Vec<(&str, Vec<String>)> = vec![("QuantizeLinear", vec![scale, zero]), ("Cast", vec![])];
    steps.extend(clip.map(|(l, h)| ("Clip", vec![l, h])));
    steps.extend(offset.map(|o| ("Sub", vec![o])));
    let count = steps.len();
    let mut current = value.to_string();
    let mut nodes = Vec::new();
    for (i, (op, constants)) in steps.into_iter().enumerate() {
        let output = if i + 1 == count { integers.to_string() } else { name(&op.to_lowercase()) };
        let inputs: Vec<&str> = std::iter::once(current.as_str()).chain(constants.iter().map(String::as_str)).collect();
        let attributes = if op == "Cast" { vec![tensor::int("to", 1)] } else { vec![] };
        nodes.push(tensor::node(op, &format!("{}.node", name(&op.to_lowercase())), &inputs, &[&output], attributes));
        current = output;
    }
    nodes
}
