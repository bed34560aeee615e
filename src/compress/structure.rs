//! The part of a plan that changes tensors' shapes: channels are cut out, layers are split in two.
//!
//! The same code works on a model with data and on its *skeleton* (weights without data), from which the device's
//! cost of a plan is read without touching a weight.

use std::collections::{BTreeMap, HashSet};

use ndarray::{ArrayD, Axis, IxDyn};

use super::{
    decompose::{SvdCache, as_matrix},
    prune,
};
use crate::{
    error::{Error, Result},
    graph::{
        Model,
        group::{Channels, EntryPlace},
        layer::{Layer, LayerOp, Layers},
        model::ints_attribute,
        patch::Patch,
        proto::{NodeProto, TensorProto},
        tensor,
    },
    precision::Precision,
    space::Plan,
};

/// A model whose channels and ranks are those of a plan, still in float.
#[derive(Debug, Clone)]
pub struct Structured {
    /// The model.
    pub model: Model,
    /// Node names that now do the work of each layer, in order: one, or two for a decomposed layer.
    pub parts: Vec<Vec<String>>,
    /// Output channels of each layer that stayed.
    pub channels: Vec<usize>,
    /// Input channels of each layer that stayed; none where all did.
    pub inputs: Vec<Option<Vec<usize>>>,
}

/// Mean of every input channel of a layer, for the correction of biases: by the value's name.
pub type Means = BTreeMap<String, Vec<f64>>;

/// Applies a plan's channels and ranks.
///
/// `means` corrects the biases of layers that lose input channels by what those channels gave on average; without it
/// the channels count as zero. A skeleton gets the biases that the correction would make, without data.
///
/// # Errors
/// If the plan asks for what the model cannot take; [`Plan::check`] finds such plans beforehand.
pub fn restructure(
    model: &Model,
    layers: &Layers,
    channels: &Channels,
    plan: &Plan,
    means: Option<&Means>,
    svd: &SvdCache,
) -> Result<Structured> {
    let gone = prune::removed_units(model, layers, channels, plan)?;
    let mut patch = Patch::new("channels and ranks of a plan");
    let mut out = Structured { model: model.clone(), parts: Vec::new(), channels: Vec::new(), inputs: Vec::new() };
    let initial: BTreeMap<&str, &TensorProto> = model.graph().initializer.iter().map(|t| (t.name(), t)).collect();
    let find = |tensors: &BTreeMap<String, TensorProto>, name: &str| -> Result<TensorProto> {
        tensors
            .get(name)
            .or_else(|| initial.get(name).copied())
            .cloned()
            .ok_or_else(|| Error::Internal(format!("{name} is not an initializer of the normalised model")))
    };
    let mut nodes: BTreeMap<usize, NodeProto> = BTreeMap::new();
    if !gone.is_empty() {
        for (l, layer) in layers.layers.iter().enumerate() {
            let lost: Vec<usize> =
                (0..channels.columns[l].len()).filter(|&c| channels.columns[l][c].is_some_and(|u| gone.contains(&u))).collect();
            if lost.is_empty() || layer.groups > 1 || layer.is_batched() || (layer.op == LayerOp::MatMul && layer.bias.is_none()) {
                continue;
            }
            let node = &model.graph().node[layer.node];
            if let Some((mut bias, node)) = corrected_bias(layer, node, &lost, means, &find)? {
                if layer.bias.is_none() {
                    bias = select(&bias, 0, &kept_indices(&channels.rows[l], &gone))?;
                }
                patch.tensors.insert(bias.name().to_string(), bias);
                nodes.insert(layer.node, node);
            }
        }
        for slice in &channels.slices {
            let kept: Vec<usize> = kept_indices(&slice.units, &gone);
            if kept.len() < slice.units.len() {
                let cut = select(&find(&patch.tensors, &slice.tensor)?, slice.axis, &kept)?;
                patch.tensors.insert(slice.tensor.clone(), cut);
            }
        }
        for entry in &channels.shape_entries {
            let kept = kept_indices(&entry.units, &gone).len() as i64;
            match &entry.place {
                EntryPlace::Constant(name) => {
                    let old = find(&patch.tensors, name)?;
                    let mut list = tensor::to_i64(&old).unwrap_or_default();
                    list.get_mut(entry.position).into_iter().for_each(|slot| *slot = kept);
                    patch.tensors.insert(name.clone(), tensor::like_integers(&old, &list));
                }
                EntryPlace::Attribute(node, name) => {
                    let node = nodes.entry(*node).or_insert_with(|| model.graph().node[*node].clone());
                    let attribute = node.attribute.iter_mut().find(|a| a.name() == name);
                    attribute.and_then(|a| a.ints.get_mut(entry.position)).into_iter().for_each(|slot| *slot = kept);
                }
            }
        }
    }
    for (l, layer) in layers.layers.iter().enumerate() {
        let stayed = kept_indices(&channels.rows[l], &gone).len();
        out.channels.push(stayed);
        let inputs = kept_indices(&channels.columns[l], &gone);
        out.inputs.push((inputs.len() < channels.columns[l].len()).then_some(inputs));
        let mut node = nodes.remove(&layer.node).unwrap_or_else(|| model.graph().node[layer.node].clone());
        let mut parts = vec![layer.name.clone()];
        if layer.groups > 1 && stayed < layer.channels_out {
            set_int(&mut node, "group", (stayed / (layer.channels_out / layer.groups)) as i64);
        }
        if let Some(rank) = plan.treatments[l].1.rank {
            let weight = find(&patch.tensors, &layer.weight)?;
            let (first, last, factors) = split(layer, &node, &weight, rank, model.opset(), svd)?;
            parts = vec![first.name().to_string(), last.name().to_string()];
            patch.tensors.extend(factors.into_iter().map(|t| (t.name().to_string(), t)));
            patch.replace.insert(layer.node, vec![first, last]);
        } else if node != model.graph().node[layer.node] {
            patch.replace.insert(layer.node, vec![node]);
        }
        out.parts.push(parts);
    }
    share_again(layers, plan, model, &mut patch);
    patch.replace.extend(nodes.into_iter().map(|(i, node)| (i, vec![node])));
    out.model = patch.apply(model)?;
    Ok(out)
}

/// Layers that shared a weight and that nothing is done to share it again.
fn share_again(layers: &Layers, plan: &Plan, model: &Model, patch: &mut Patch) {
    for group in &layers.same {
        let untouched = layers.layers.iter().zip(&plan.treatments).filter(|(l, (_, t))| {
            group.contains(&l.weight) && t.precision == Precision::Fp16 && t.rank.is_none() && !patch.tensors.contains_key(&l.weight)
        });
        let untouched: Vec<&Layer> = untouched.map(|(l, _)| l).collect();
        let Some((first, others)) = untouched.split_first() else { continue };
        for layer in others {
            let nodes = patch.replace.entry(layer.node).or_insert_with(|| vec![model.graph().node[layer.node].clone()]);
            nodes.iter_mut().for_each(|n| n.input[layer.slot].clone_from(&first.weight));
        }
    }
}

fn kept_indices(units: &[Option<usize>], gone: &HashSet<usize>) -> Vec<usize> {
    units.iter().enumerate().filter(|(_, u)| u.is_none_or(|u| !gone.contains(&u))).map(|(i, _)| i).collect()
}

/// A layer's bias with what its lost input channels gave on average, and the node that reads it.
fn corrected_bias(
    layer: &Layer,
    node: &NodeProto,
    lost: &[usize],
    means: Option<&Means>,
    find: &impl Fn(&BTreeMap<String, TensorProto>, &str) -> Result<TensorProto>,
) -> Result<Option<(TensorProto, NodeProto)>> {
    let none = BTreeMap::new();
    let name = layer.bias.clone().unwrap_or_else(|| format!("{}.bias.corrected", layer.name));
    let mut node = node.clone();
    if layer.bias.is_none() && layer.op != LayerOp::MatMul {
        node.input.truncate(2);
        node.input.push(name.clone());
    }
    let weight = find(&none, &layer.weight)?;
    if !tensor::has_data(&weight) {
        return Ok(layer.bias.is_none().then(|| (tensor::without_data(&name, &[layer.channels_out]), node)));
    }
    let Some(mean) = means.and_then(|m| m.get(&layer.input)).filter(|m| lost.iter().all(|&c| c < m.len())) else { return Ok(None) };
    // A transposed convolution spreads its taps over that many outputs.
    let spread = match layer.op {
        LayerOp::ConvTranspose => ints_attribute(&node, "strides").map_or(1.0, |s| s.iter().product::<i64>() as f64),
        _ => 1.0,
    };
    let weight = tensor::to_f32(&weight)?;
    let mut shift = vec![0.0_f64; layer.channels_out];
    for &c in lost {
        let column = weight.index_axis(Axis(layer.in_axis), c);
        let out_axis = if layer.out_axis > layer.in_axis { layer.out_axis - 1 } else { layer.out_axis };
        for (o, taps) in column.axis_iter(Axis(out_axis)).enumerate() {
            shift[o] += mean[c] / spread * taps.iter().map(|&w| f64::from(w)).sum::<f64>();
        }
    }
    let mut bias = match &layer.bias {
        Some(bias) => tensor::to_f32(&find(&none, bias)?)?,
        None => ArrayD::zeros(IxDyn(&[layer.channels_out])),
    };
    bias.iter_mut().zip(&shift).for_each(|(b, s)| *b = (f64::from(*b) + s) as f32);
    Ok(Some((tensor::from_f32(&name, &bias), node)))
}

/// A constant cut to some indices of an axis; dims only for a constant without data.
fn select(tensor: &TensorProto, axis: usize, kept: &[usize]) -> Result<TensorProto> {
    if !tensor::has_data(tensor) {
        let mut out = tensor.clone();
        if let Some(d) = out.dims.get_mut(axis) {
            *d = kept.len() as i64;
        }
        return Ok(out);
    }
    Ok(tensor::from_f32(tensor.name(), &tensor::to_f32(tensor)?.select(Axis(axis), kept)))
}

/// Two nodes and their weights in place of one.
fn split(
    layer: &Layer,
    node: &NodeProto,
    weight: &TensorProto,
    rank: usize,
    opset: i64,
    svd: &SvdCache,
) -> Result<(NodeProto, NodeProto, Vec<TensorProto>)> {
    let dims = tensor::dims(weight);
    let outputs = dims[layer.out_axis];
    let rest: usize = dims.iter().product::<usize>() / outputs.max(1);
    let rank = rank.min(outputs.min(rest));
    let mut first_dims = dims.clone();
    first_dims[layer.out_axis] = rank;
    let mut last_dims: Vec<usize> = vec![1; dims.len()];
    last_dims[layer.out_axis] = outputs;
    last_dims[layer.in_axis] = rank;
    let (first_weight, last_weight) = (format!("{}.first", layer.weight), format!("{}.last", layer.weight));
    let mut factors = if tensor::has_data(weight) {
        let w = tensor::to_f32(weight)?;
        let (left, right) = svd.svd(&as_matrix(&w, layer.out_axis))?.factors(rank);
        let transposed = layer.out_axis != 0;
        let shaped = |m: ndarray::Array2<f32>, dims: &[usize]| -> Result<ArrayD<f32>> {
            let values: Vec<f32> = if transposed { m.t().iter().copied().collect() } else { m.iter().copied().collect() };
            ArrayD::from_shape_vec(IxDyn(dims), values).map_err(|e| Error::Internal(format!("factor of {}: {e}", layer.name)))
        };
        vec![tensor::from_f32(&first_weight, &shaped(right, &first_dims)?), tensor::from_f32(&last_weight, &shaped(left, &last_dims)?)]
    } else {
        vec![tensor::without_data(&first_weight, &first_dims), tensor::without_data(&last_weight, &last_dims)]
    };
    let middle = format!("{}.rank", layer.output);
    let mut first = node.clone();
    first.name = Some(format!("{}.first", layer.name));
    let sides = |data: String, weight: String| if layer.slot == 1 { vec![data, weight] } else { vec![weight, data] };
    first.input = sides(layer.input.clone(), first_weight);
    if layer.op == LayerOp::Gemm && opset < 11 {
        // The bias of a Gemm may be left out from opset 11 on.
        let zero = format!("{}.zero", layer.weight);
        factors.push(tensor::from_f32(&zero, &ArrayD::zeros(IxDyn(&[rank]))));
        first.input.push(zero);
    }
    first.output = vec![middle.clone()];
    let mut last = node.clone();
    last.name = Some(format!("{}.last", layer.name));
    last.input = sides(middle, last_weight).into_iter().chain(node.input.get(2).cloned()).collect();
    last.attribute.retain(|a| a.name() != "transA");
    if layer.op == LayerOp::Conv {
        last.attribute = vec![tensor::ints("kernel_shape", &vec![1; dims.len() - 2])];
    }
    Ok((first, last, factors))
}

fn set_int(node: &mut NodeProto, name: &str, value: i64) {
    node.attribute.retain(|a| a.name() != name);
    node.attribute.push(tensor::int(name, value));
}
