//! Affine operators behind a layer become part of it: k·(Wx + b) + t = (kW)x + (kb + t).
//!
//! The operators vanish, the layer keeps its name and makes the value that the last of them made. Where a matrix product (MatMul) gets a
//! shift, an Add stays behind it: ONNX has no MatMul with bias, the chip has, and the two count as one layer.

use ndarray::{ArrayD, Axis, IxDyn};

use super::{
    Merged,
    affine::{Affine, Place},
};
use crate::{
    error::Result,
    graph::{
        Index, Model,
        layer::{Layer, LayerOp, Layers},
        patch::Patch,
        proto::NodeProto,
        shape::Shapes,
        tensor,
    },
};

/// Folds all that can be.
///
/// # Errors
/// If a weight cannot be read.
pub(super) fn fold(model: &Model, shapes: &Shapes, merged: &mut Merged) -> Result<Model> {
    let index = Index::new(model);
    let mut patch = Patch::new("affine operators behind layers");
    for layer in Layers::find(model, shapes).layers.iter().filter(|l| !l.shares_weight && l.slot == 1) {
        if let Some((names, nodes)) = fold_one(layer, model, &index, &mut patch) {
            patch.replace.insert(layer.node, nodes);
            merged.entry(layer.name.clone()).or_default().extend(names);
        }
    }
    if patch.replace.is_empty() { Ok(model.clone()) } else { patch.apply(model) }
}

/// Names of the operators that vanish, and the nodes that stand for all.
fn fold_one(layer: &Layer, model: &Model, index: &Index<'_>, patch: &mut Patch) -> Option<(Vec<String>, Vec<NodeProto>)> {
    let nodes = &model.graph().node;
    let rank = if layer.op.is_convolution() { layer.weight_dims.len() } else { layer.output_rank? };
    let axis = if layer.op.is_convolution() { 1 } else { rank.checked_sub(1)? };
    let place = Place { rank, axis, channels: layer.channels_out };
    let mut total = Affine::identity(layer.channels_out);
    let (mut value, mut chain) = (layer.output.as_str(), Vec::new());
    while let Some(next) = index.sole_reader(value) {
        let Some(step) = Affine::of(&nodes[next], value, place, index) else { break };
        let sum = total.then(&step);
        let Some(output) = nodes[next].output.first().filter(|_| sum.is_finite()) else { break };
        total = sum;
        chain.push(next);
        value = output;
    }
    let only_a_bias = layer.op == LayerOp::MatMul && chain.len() == 1 && total.scale.iter().all(|&k| k == 1.0);
    if chain.is_empty() || only_a_bias {
        return None;
    }
    let weight = index.constants.get(layer.weight.as_str())?;
    if total.scale.iter().any(|&k| k != 1.0) {
        let mut w = tensor::to_f32(weight).ok()?;
        scale_outputs(&mut w, layer, &total.scale);
        patch.tensors.insert(layer.weight.clone(), tensor::from_f32(&layer.weight, &w));
    }
    let mut node = nodes[layer.node].clone();
    let mut made = vec![];
    let bias_name = match &layer.bias {
        Some(b) if layer.op != LayerOp::MatMul && index.readers(b).len() == 1 => b.clone(),
        _ => format!("{}.bias.folded", layer.name),
    };
    let old = match &layer.bias {
        Some(b) if layer.op != LayerOp::MatMul => index.floats(b)?,
        _ => ArrayD::zeros(IxDyn(&[layer.channels_out])),
    };
    let bias = old.iter().zip(total.scale.iter().zip(&total.shift)).map(|(b, (k, t))| (f64::from(*b) * k + t) as f32).collect::<Vec<f32>>();
    let needed = bias.iter().any(|&b| b != 0.0) || (layer.bias.is_some() && layer.op != LayerOp::MatMul);
    let bias = tensor::from_f32(&bias_name, &ArrayD::from_shape_vec(IxDyn(&[layer.channels_out]), bias).ok()?);
    match (layer.op, needed) {
        (_, false) => node.output[0] = value.to_string(),
        (LayerOp::MatMul, true) => {
            let mut names = chain.iter().map(|&c| &nodes[c]);
            let add = names
                .find(|n| matches!(n.op_type(), "Add" | "Sub"))
                .map_or_else(|| format!("{}.bias.add", layer.name), |n| n.name().to_string());
            made.push(tensor::node("Add", &add, &[&layer.output, &bias_name], &[value], vec![]));
            patch.tensors.insert(bias_name, bias);
        }
        (_, true) => {
            node.input.truncate(2);
            node.input.push(bias_name.clone());
            node.output[0] = value.to_string();
            patch.tensors.insert(bias_name, bias);
        }
    }
    made.insert(0, node);
    for &gone in &chain {
        patch.replace.insert(gone, vec![]);
    }
    Some((chain.iter().map(|&c| nodes[c].name().to_string()).collect(), made))
}

/// Multiplies the weights of every output channel by its scale.
pub(super) fn scale_outputs(weight: &mut ArrayD<f32>, layer: &Layer, scale: &[f64]) {
    let times = |mut part: ndarray::ArrayViewMutD<'_, f32>, k: f64| part.mapv_inplace(|w| (f64::from(w) * k) as f32);
    if layer.op == LayerOp::ConvTranspose && layer.groups > 1 {
        // (c_in, c_out / groups, k…): the outputs of a group are made of its own inputs only.
        let (inputs, outputs) = (layer.channels_in / layer.groups, layer.channels_out / layer.groups);
        for (i, mut input) in weight.axis_iter_mut(Axis(0)).enumerate() {
            for (o, part) in input.axis_iter_mut(Axis(0)).enumerate() {
                times(part, scale[i / inputs * outputs + o]);
            }
        }
        return;
    }
    for (filter, &k) in weight.axis_iter_mut(Axis(layer.out_axis)).zip(scale) {
        times(filter, k);
    }
}
