//! The fake-quant twin: a float model that computes what the integers on the chip would.
//!
//! A quantized layer reads `QuantizeLinear → Cast (→ Clip → Sub)` of its input, the integers as floats, and has the
//! activation's step folded into its fake-quantized weights: W' = s_x·s_w·q_w. This is standard ONNX from opset 11 (for
//! older networks the same in plain arithmetic), gives the same values under every optimisation level and setting of ONNX Runtime (a QuantizeLinear–DequantizeLinear
//! pair would be fused into INT8 kernels that saturate on x86 without VNNI), and costs no more than such a pair.
//! Padding with 0 after the offset is taken off is padding with the quantized zero. Biases are multiples of s_x·s_w, as the
//! chip's INT32 biases are.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{Array2, ArrayD, IxDyn};

use super::{
    decompose::as_matrix,
    quantize::{Grid, Rounding},
};
use crate::{
    error::{Error, Result},
    graph::{
        Model,
        layer::Layer,
        model::{PLAN_KEY, PRECISION_KEY, SIMULATION_MARK, SPARSE_KEY},
        patch::Patch,
        proto::{NodeProto, TensorProto},
        tensor,
    },
    precision::Precision,
};

/// A layer with its integers.
#[derive(Debug, Clone)]
pub struct QuantizedLayer {
    /// Node name.
    pub name: String,
    /// Precision.
    pub precision: Precision,
    /// Grid of the activations it reads; none where they stay floats.
    pub activations: Option<Grid>,
    /// Integers and scales of its weight, as the matrix (outputs × inputs·kernel).
    pub weight: std::sync::Arc<Rounding>,
    /// Its bias, corrected for what rounding changed on average; none if it has none.
    pub bias: Option<Vec<f32>>,
}

/// Makes the twin of a float model whose layers get these integers. Its metadata hold the plan, the precision of each node and those that are sparse.
///
/// # Errors
/// If a bias does not fit INT32 at the layer's scales.
pub fn twin(
    model: &Model,
    layers: &[(Layer, QuantizedLayer)],
    (precision, sparse): (&BTreeMap<String, Precision>, &BTreeSet<String>),
    plan: &str,
) -> Result<Model> {
    let mut patch = Patch::new("the fake-quant twin");
    let mut done = BTreeSet::new();
    for (layer, quantized) in layers {
        let nodes = simulated(model, layer, quantized, &mut done, &mut patch)?;
        patch.replace.insert(layer.node, nodes);
    }
    let precision: BTreeMap<&str, &str> = precision.iter().map(|(n, p)| (n.as_str(), p.name())).collect();
    patch.metadata.insert(PLAN_KEY.into(), plan.to_string());
    patch.metadata.insert(PRECISION_KEY.into(), serde_json::to_string(&precision).unwrap_or_default());
    if !sparse.is_empty() {
        patch.metadata.insert(SPARSE_KEY.into(), serde_json::to_string(sparse).unwrap_or_default());
    }
    patch.apply(model)
}

/// The nodes that stand for a quantized layer; its constants go into the patch. `done` are the integers already made.
///
/// # Errors
/// As [`twin`].
pub(super) fn simulated(
    model: &Model,
    layer: &Layer,
    quantized: &QuantizedLayer,
    done: &mut BTreeSet<String>,
    patch: &mut Patch,
) -> Result<Vec<NodeProto>> {
    let constant = |name: &str| model.graph().initializer.iter().find(|t| t.name() == name);
    let step = quantized.activations.map_or(1.0, |g| g.scale);
    let mut nodes = Vec::new();
    let mut node = model.graph().node[layer.node].clone();
    if let Some(grid) = quantized.activations {
        let integers = integers(&layer.input, grid);
        if done.insert(integers.clone()) {
            let make = if model.opset() < 11 { simulate_by_arithmetic } else { simulate };
            nodes = make(&layer.input, &integers, grid, patch);
        }
        node.input[layer.data_slot()] = integers;
    }
    let dims = constant(&layer.weight).map(tensor::dims).ok_or_else(|| Error::Internal(format!("no weight {}", layer.weight)))?;
    let folded = from_matrix(&quantized.weight.values_with(step), &dims, layer.out_axis)?;
    patch.tensors.insert(layer.weight.clone(), tensor::from_f32(&layer.weight, &folded));
    if let (Some(name), Some(bias)) = (&layer.bias, &quantized.bias)
        && let Some(old) = constant(name)
    {
        let bias = if quantized.activations.is_some() { whole_bias(layer, bias, step, &quantized.weight.scales)? } else { bias.clone() };
        let array = ArrayD::from_shape_vec(IxDyn(&tensor::dims(old)), bias).map_err(|e| Error::Internal(format!("{name}: {e}")))?;
        patch.tensors.insert(name.clone(), tensor::from_f32(name, &array));
    }
    nodes.push(node);
    Ok(nodes)
}

/// Name of a value's integers: values read by several layers are rounded once for each grid.
fn integers(value: &str, grid: Grid) -> String {
    format!("{value}{SIMULATION_MARK}int{}.{:08x}.{}", grid.bits, grid.scale.to_bits(), grid.offset)
}

/// A bias as the multiples of s_x·s_w that are nearest to it.
fn whole_bias(layer: &Layer, bias: &[f32], step: f32, scales: &[f32]) -> Result<Vec<f32>> {
    let scale = |i: usize| f64::from(step * scales.get(i).or(scales.first()).copied().unwrap_or(1.0));
    let whole = |(i, &b): (usize, &f32)| {
        let q = (f64::from(b) / scale(i)).round_ties_even();
        if q.abs() > f64::from(i32::MAX) {
            let message = format!("its bias {b} does not fit INT32 at the scale {:e}", scale(i));
            return Err(Error::layer(
                &layer.name,
                message,
                "give this layer fp16, or check the calibration data: its inputs hardly differ from 0",
            ));
        }
        Ok((q * scale(i)) as f32)
    };
    bias.iter().enumerate().map(whole).collect()
}

/// The inverse of [`as_matrix`].
pub(crate) fn from_matrix(matrix: &Array2<f32>, dims: &[usize], out_axis: usize) -> Result<ArrayD<f32>> {
    let mut turned = dims.to_vec();
    let outputs = turned.remove(out_axis);
    turned.insert(0, outputs);
    let fail = |e: ndarray::ShapeError| Error::Internal(format!("a matrix back to {dims:?}: {e}"));
    let array = ArrayD::from_shape_vec(IxDyn(&turned), matrix.iter().copied().collect()).map_err(fail)?;
    let mut axes: Vec<usize> = (1..dims.len()).collect();
    axes.insert(out_axis, 0);
    let array = array.permuted_axes(IxDyn(&axes)).as_standard_layout().into_owned();
    debug_assert_eq!(as_matrix(&array, out_axis), *matrix);
    Ok(array)
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
