//! The part of a plan that changes tensors' shapes: channels are cut out, layers are split in parts.
//!
//! The same code works on a model with data and on its *skeleton* (weights without data), from which the device's
//! cost of a plan is read without touching a weight.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use ndarray::{ArrayD, Axis, IxDyn};

use super::{
    rebuild::{Change, Rebuilt, takes_bias},
    twin::from_matrix,
};
use crate::{
    device::Split,
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
    spec::Sparsity,
};

/// A model whose channels and ranks are those of a plan, still in float.
#[derive(Debug, Clone)]
pub struct Structured {
    /// The model.
    pub model: Model,
    /// Node names that now do the work of each layer, in order: one, or several for a decomposed layer.
    pub parts: Vec<Vec<String>>,
    /// Output channels of each layer that stayed.
    pub channels: Vec<usize>,
    /// What is done to the weight of each layer that changes.
    pub changes: Vec<Option<Change>>,
}

impl Structured {
    /// Nodes whose weights have 4:2 sparsity.
    pub fn sparse(&self) -> BTreeSet<String> {
        let thinned = self.parts.iter().zip(&self.changes).filter(|(_, c)| c.as_ref().is_some_and(|c| c.sparse));
        thinned.flat_map(|(names, _)| names.iter().cloned()).collect()
    }
}

/// The structure of a plan as a rewrite of the float model.
pub(super) struct Structure {
    /// The rewrite.
    pub(super) patch: Patch,
    pub(super) parts: Vec<Vec<String>>,
    pub(super) channels: Vec<usize>,
    pub(super) changes: Vec<Option<Change>>,
}

impl Structure {
    /// Applies it.
    ///
    /// # Errors
    /// If the rewritten model does not hold together, which would be a bug.
    pub(super) fn on(self, model: &Model) -> Result<Structured> {
        Ok(Structured { model: self.patch.apply(model)?, parts: self.parts, channels: self.channels, changes: self.changes })
    }
}

/// Makes the new weights of a change.
pub(super) type Rebuild<'a> = dyn Fn(&Change) -> Result<Arc<Rebuilt>> + 'a;

/// The rewrite of a plan that removes the units `gone`. `rebuild` makes the new weights; a skeleton has none.
///
/// # Errors
/// If the plan asks for what the model cannot take; [`Plan::check`] finds such plans beforehand.
pub(super) fn structure(
    model: &Model,
    layers: &Layers,
    channels: &Channels,
    plan: &Plan,
    gone: &HashSet<usize>,
    rebuild: Option<&Rebuild<'_>>,
) -> Result<Structure> {
    let mut patch = Patch::new("channels and ranks of a plan");
    let mut nodes: BTreeMap<usize, NodeProto> = BTreeMap::new();
    let initial: BTreeMap<&str, &TensorProto> = model.graph().initializer.iter().map(|t| (t.name(), t)).collect();
    let weights: BTreeSet<&str> = layers.layers.iter().filter(|l| is_matrix(l)).map(|l| l.weight.as_str()).collect();
    let find = |patch: &Patch, name: &str| -> Result<TensorProto> {
        let found = patch.tensors.get(name).or_else(|| initial.get(name).copied());
        found.cloned().ok_or_else(|| Error::Internal(format!("{name} is not an initializer of the normalised model")))
    };
    if !gone.is_empty() {
        // Weights are made anew below.
        for slice in channels.slices.iter().filter(|s| rebuild.is_none() || !weights.contains(s.tensor.as_str())) {
            let kept: Vec<usize> = kept_indices(&slice.units, gone);
            if kept.len() < slice.units.len() {
                let cut = select(&find(&patch, &slice.tensor)?, slice.axis, &kept)?;
                patch.tensors.insert(slice.tensor.clone(), cut);
            }
        }
        for entry in &channels.shape_entries {
            let kept = kept_indices(&entry.units, gone).len() as i64;
            match &entry.place {
                EntryPlace::Constant(name) => {
                    let old = find(&patch, name)?;
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
    let (mut parts, mut stayed, mut changes) = (Vec::new(), Vec::new(), Vec::new());
    for (l, layer) in layers.layers.iter().enumerate() {
        let Some(change) = change_of((l, layer), channels, plan, gone) else {
            stayed.push(layer.channels_out);
            parts.push(vec![layer.name.clone()]);
            changes.push(None);
            if let Some(node) = nodes.remove(&layer.node) {
                patch.replace.insert(layer.node, vec![node]);
            }
            continue;
        };
        stayed.push(change.rows.len());
        let mut node = nodes.remove(&layer.node).unwrap_or_else(|| model.graph().node[layer.node].clone());
        if layer.groups > 1 {
            set_int(&mut node, "group", change.geometry(layer).groups as i64);
        }
        let corrects = (change.loses_inputs(layer) || change.split.is_some() || change.sparse) && takes_bias(model, layer);
        if corrects && layer.bias.is_none() {
            let name = format!("{}.bias.corrected", layer.name);
            node.input.truncate(2);
            node.input.push(name.clone());
            let bias = match rebuild {
                Some(_) => tensor::from_f32(&name, &ArrayD::zeros(IxDyn(&[change.rows.len()]))),
                None => tensor::without_data(&name, &[change.rows.len()]),
            };
            patch.tensors.insert(name, bias);
        }
        let made = part_nodes(layer, &node, &change, model.opset(), &mut patch);
        for (_, weight, dims) in made.iter().filter(|_| rebuild.is_none() && is_matrix(layer)) {
            patch.tensors.insert(weight.clone(), tensor::without_data(weight, dims));
        }
        if let Some(rebuild) = rebuild.filter(|_| is_matrix(layer)) {
            fill(model, layer, &change, rebuild(&change)?.as_ref(), &mut patch)?;
        }
        parts.push(made.iter().map(|(node, ..)| node.name().to_string()).collect());
        let now: Vec<NodeProto> = made.into_iter().map(|(node, ..)| node).collect();
        if now != [model.graph().node[layer.node].clone()] {
            patch.replace.insert(layer.node, now);
        }
        changes.push(Some(change));
    }
    share_again(layers, plan, model, &mut patch);
    patch.replace.extend(nodes.into_iter().map(|(i, node)| (i, vec![node])));
    Ok(Structure { patch, parts, channels: stayed, changes })
}

/// What a plan that removes the units `gone` does to a layer's weight, if anything.
pub(super) fn change_of((l, layer): (usize, &Layer), channels: &Channels, plan: &Plan, gone: &HashSet<usize>) -> Option<Change> {
    let treatment = &plan.treatments[l].1;
    // Channels that could not be traced all stay.
    let kept = |units: &[Option<usize>], all: usize| if units.is_empty() { (0..all).collect() } else { kept_indices(units, gone) };
    let (rows, inputs) = (kept(&channels.rows[l], layer.channels_out), kept(&channels.columns[l], layer.channels_in));
    let whole = rows.len() == layer.channels_out && inputs.len() == layer.channels_in;
    let sparse = treatment.sparsity == Sparsity::FourToTwo;
    if whole && treatment.split.is_none() && !sparse {
        return None;
    }
    let mut change = Change { layer: l, rows, inputs, split: None, sparse };
    change.split = treatment.split.map(|split| change.geometry(layer).capped(split));
    Some(change)
}

/// Puts a layer's new weights and its bias into the rewrite; the bias there is the cut one.
///
/// # Errors
/// If a weight does not have the layer's shape, which would be a bug.
pub(super) fn fill(model: &Model, layer: &Layer, change: &Change, rebuilt: &Rebuilt, patch: &mut Patch) -> Result<()> {
    let shapes = part_dims(layer, change);
    for ((name, dims), matrix) in part_weights(layer, change).into_iter().zip(&shapes).zip(&rebuilt.parts) {
        let array = from_matrix(matrix, dims, layer.out_axis)?;
        patch.tensors.insert(name.clone(), tensor::from_f32(&name, &array));
    }
    let Some(shift) = &rebuilt.shift else { return Ok(()) };
    let name = layer.bias.clone().unwrap_or_else(|| format!("{}.bias.corrected", layer.name));
    let known = patch.tensors.get(&name).or_else(|| model.graph().initializer.iter().find(|t| t.name() == name));
    let Some(known) = known.filter(|t| tensor::elements(t).is_ok_and(|n| n == shift.len())) else { return Ok(()) };
    let mut bias = tensor::to_f32(known)?;
    bias.iter_mut().zip(shift).for_each(|(b, s)| *b = (f64::from(*b) + s) as f32);
    patch.tensors.insert(name.clone(), tensor::from_f32(&name, &bias));
    Ok(())
}

/// Layers that shared a weight and that nothing is done to share it again.
fn share_again(layers: &Layers, plan: &Plan, model: &Model, patch: &mut Patch) {
    for group in &layers.same {
        let untouched = layers.layers.iter().zip(&plan.treatments).filter(|(l, (_, t))| {
            let plain = t.precision == Precision::Fp16 && t.split.is_none() && t.sparsity == Sparsity::None;
            group.contains(&l.weight) && plain && !patch.tensors.contains_key(&l.weight)
        });
        let untouched: Vec<&Layer> = untouched.map(|(l, _)| l).collect();
        let Some((first, others)) = untouched.split_first() else { continue };
        for layer in others {
            let nodes = patch.replace.entry(layer.node).or_insert_with(|| vec![model.graph().node[layer.node].clone()]);
            nodes.iter_mut().for_each(|n| n.input[layer.slot].clone_from(&first.weight));
        }
    }
}

/// Whether a layer's weight is one matrix, with a row for each output channel.
fn is_matrix(layer: &Layer) -> bool {
    !(layer.is_batched() || layer.op == LayerOp::ConvTranspose && layer.groups > 1)
}

fn kept_indices(units: &[Option<usize>], gone: &HashSet<usize>) -> Vec<usize> {
    units.iter().enumerate().filter(|(_, u)| u.is_none_or(|u| !gone.contains(&u))).map(|(i, _)| i).collect()
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

/// Names of the weights of a layer's parts.
fn part_weights(layer: &Layer, change: &Change) -> Vec<String> {
    let named = |part: &&str| format!("{}.{part}", layer.weight);
    match change.split {
        None => vec![layer.weight.clone()],
        Some(split) => part_names(split).iter().map(named).collect(),
    }
}

const fn part_names(split: Split) -> &'static [&'static str] {
    match split {
        Split::Tucker { .. } => &["first", "core", "last"],
        Split::Channel { .. } | Split::Spatial { .. } => &["first", "last"],
    }
}

/// Shapes of the weights of a layer's parts.
pub(super) fn part_dims(layer: &Layer, change: &Change) -> Vec<Vec<usize>> {
    let geometry = change.geometry(layer);
    let with = |cin: usize, cout: usize, window: &[usize]| {
        let mut dims = layer.weight_dims.clone();
        dims[layer.out_axis] = if layer.op == LayerOp::ConvTranspose { cout } else { cout * geometry.groups };
        dims[layer.in_axis] = cin;
        if layer.op.is_convolution() {
            dims[2..].copy_from_slice(window);
        }
        dims
    };
    let window = layer.weight_dims.get(2..).filter(|_| layer.op.is_convolution()).unwrap_or(&[]);
    let Some(split) = change.split else {
        let cin = if layer.op == LayerOp::ConvTranspose { change.inputs.len() } else { geometry.cin };
        return vec![with(cin, geometry.cout, window)];
    };
    let flat = vec![1; window.len()];
    let of = |(kh, kw, cin, cout): (usize, usize, usize, usize)| match split {
        Split::Spatial { .. } => with(cin, cout, &[kh, kw]),
        _ if (kh, kw) == (geometry.kh, geometry.kw) => with(cin, cout, window),
        _ => with(cin, cout, &flat),
    };
    let list = geometry.parts(split);
    // The last part of a layer without a window looks like its first.
    list.into_iter().map(of).collect()
}

/// The nodes of a layer's parts, with name and shape of their weights. Constants that they need besides go into the patch.
fn part_nodes(layer: &Layer, node: &NodeProto, change: &Change, opset: i64, patch: &mut Patch) -> Vec<(NodeProto, String, Vec<usize>)> {
    let (names, dims) = (part_weights(layer, change), part_dims(layer, change));
    let Some(split) = change.split else {
        return names.into_iter().zip(dims).map(|(name, dims)| (node.clone(), name, dims)).collect();
    };
    let parts = part_names(split);
    let last = parts.len() - 1;
    let sides = |data: String, weight: String| if layer.slot == 1 { vec![data, weight] } else { vec![weight, data] };
    let mut value = layer.input.clone();
    let mut made = Vec::new();
    for (i, ((part, weight), dims)) in parts.iter().zip(names).zip(dims).enumerate() {
        let mut own = node.clone();
        own.name = Some(format!("{}.{part}", layer.name));
        own.input = sides(value.clone(), weight.clone());
        if i > 0 {
            own.attribute.retain(|a| a.name() != "transA");
        }
        if layer.op == LayerOp::Conv {
            window_of_part(&mut own, layer, split, i, &dims[2..]);
        }
        if i == last {
            own.input.extend(node.input.get(2).cloned());
        } else {
            if layer.op == LayerOp::Gemm && opset < 11 {
                // The bias of a Gemm may be left out from opset 11 on.
                let zero = format!("{weight}.zero");
                patch.tensors.insert(zero.clone(), tensor::from_f32(&zero, &ArrayD::zeros(IxDyn(&[dims[layer.out_axis]]))));
                own.input.push(zero);
            }
            value = if i == 0 { format!("{}.rank", layer.output) } else { format!("{}.rank.{i}", layer.output) };
            own.output = vec![value.clone()];
        }
        made.push((own, weight, dims));
    }
    made
}

/// Attributes of a convolution's part: of its window along each axis, or of a window of 1.
fn window_of_part(node: &mut NodeProto, layer: &Layer, split: Split, part: usize, window: &[usize]) {
    let n = window.len();
    // Axes along which this part does the layer's work.
    let works: Vec<bool> = match split {
        Split::Channel { .. } => vec![part == 0; n],
        Split::Tucker { .. } => vec![part == 1; n],
        Split::Spatial { .. } => {
            let along_height = window.first() == layer.weight_dims.get(2) && window.get(1) == Some(&1);
            vec![along_height, !along_height]
        }
    };
    node.attribute.retain(|a| a.name() != "kernel_shape");
    node.attribute.push(tensor::ints("kernel_shape", &window.iter().map(|&k| k as i64).collect::<Vec<_>>()));
    for (name, neutral) in [("strides", 1), ("dilations", 1), ("pads", 0)] {
        let Some(mut list) = ints_attribute(node, name) else { continue };
        for (i, v) in list.iter_mut().enumerate() {
            if !works[i % n.max(1)] {
                *v = neutral;
            }
        }
        node.attribute.retain(|a| a.name() != name);
        node.attribute.push(tensor::ints(name, &list));
    }
}

fn set_int(node: &mut NodeProto, name: &str, value: i64) {
    node.attribute.retain(|a| a.name() != name);
    node.attribute.push(tensor::int(name, value));
}
