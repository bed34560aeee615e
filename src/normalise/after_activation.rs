//! BatchNorm after an activation, folded exactly into the layers on both sides.
//!
//! Runtimes and compilers fold BatchNorm(Conv(x)). A network trained with BatchNorm *after* ReLU keeps it as a kernel of
//! its own. Where the activation is positively homogeneous (ReLU, LeakyReLU) and the norm's scale k is positive, the
//! scale moves into the layer before, k·ReLU(Wx + b) = ReLU(kWx + kb), and the shift t, a constant for every channel, through
//! pooling into the biases of the layers behind: W(x + t) + b = Wx + (b + Wt). Nothing is approximated; a convolution
//! that pads is left alone, because its zeros are not shifted.

use ndarray::{ArrayD, Axis, IxDyn};

use super::{
    Merged,
    affine::{Affine, Place},
    behind::scale_outputs,
};
use crate::{
    error::Result,
    graph::{
        Index, Model,
        layer::{Layer, LayerOp, Layers},
        model::{attribute, int_attribute, ints_attribute},
        patch::Patch,
        proto::NodeProto,
        shape::Shapes,
        tensor,
    },
};

/// Folds every norm that can be; the model as it was if there is none. A norm is one node or, written out, several.
///
/// # Errors
/// If a weight cannot be read.
pub(super) fn fold(model: &Model, shapes: &Shapes, merged: &mut Merged) -> Result<Model> {
    let mut model = model.clone();
    let mut tried = 0;
    loop {
        let (index, layers) = (Index::new(&model), Layers::find(&model, shapes).layers);
        let found = (tried..model.graph().node.len()).find_map(|i| {
            tried = i;
            fold_one(&model, &index, &layers, shapes, i)
        });
        let Some((layer, names, patch)) = found else { return Ok(model) };
        model = patch.apply(&model)?;
        merged.entry(layer).or_default().extend(names);
    }
}

fn may_be_affine(op: &str) -> bool {
    matches!(op, "BatchNormalization" | "Add" | "Sub" | "Mul" | "Div")
}

/// The layer before, the nodes that vanish, and how.
fn fold_one(model: &Model, index: &Index<'_>, layers: &[Layer], shapes: &Shapes, first: usize) -> Option<(String, Vec<String>, Patch)> {
    let nodes = &model.graph().node;
    if !may_be_affine(nodes[first].op_type()) {
        return None;
    }
    let from = nodes[first].input.iter().find(|v| index.producer.contains_key(v.as_str()))?;
    let relu = &nodes[*index.producer.get(from.as_str())?];
    if !matches!(relu.op_type(), "Relu" | "LeakyRelu") {
        return None;
    }
    let producer = producer(from, model, index, layers)?;
    let place = Place { rank: shapes.dims(from)?.len(), axis: 1, channels: producer.channels_out };
    let (mut run, mut to, mut total) = (Vec::new(), from, Affine::identity(producer.channels_out));
    while let Some(next) = index.sole_reader(to) {
        let Some(step) = Affine::of(&nodes[next], to, place, index) else { break };
        total = total.then(&step);
        run.push(next);
        to = nodes[next].output.first()?;
    }
    if run.is_empty() || !total.is_finite() || !total.scale.iter().all(|&k| k > 0.0) {
        return None;
    }
    let mut consumers = Vec::new();
    readers(to, 1, model, index, shapes, layers, &mut consumers)?;
    let names: Vec<String> = run.iter().map(|&n| nodes[n].name().to_string()).collect();
    let mut patch = Patch::new(format!("fold {} into the layers around it", names.join(", ")));
    scale_layer(producer, &total.scale, index, &mut patch)?;
    for (layer, repeat) in consumers {
        shift_bias(layer, &total.shift, repeat, model, index, &mut patch)?;
    }
    for (n, node) in nodes.iter().enumerate().filter(|(n, node)| !run.contains(n) && node.input.contains(to)) {
        let mut node = patch.replace.get(&n).and_then(|v| v.first()).unwrap_or(node).clone();
        node.input.iter_mut().filter(|v| *v == to).for_each(|v| v.clone_from(from));
        patch.replace.insert(n, vec![node]);
    }
    patch.replace.extend(run.into_iter().map(|n| (n, vec![])));
    Some((producer.name.clone(), names, patch))
}

/// The layer whose activation is this value, if nobody else reads either.
fn producer<'a>(value: &str, model: &Model, index: &Index<'_>, layers: &'a [Layer]) -> Option<&'a Layer> {
    let node = &model.graph().node[*index.producer.get(value)?];
    index.sole_reader(value)?;
    index.sole_reader(node.input.first()?)?;
    let made_by = *index.producer.get(node.input.first()?.as_str())?;
    let plain = |l: &&Layer| l.node == made_by && l.op != LayerOp::MatMul && !l.shares_weight && l.slot == 1;
    layers.iter().find(plain)
}

/// All layers that read a value, through pooling and flattening; `repeat` counts how often a channel's shift recurs in the
/// layer's inputs. None if somebody reads it who cannot take the shift.
fn readers<'a>(
    value: &str,
    repeat: usize,
    model: &Model,
    index: &Index<'_>,
    shapes: &Shapes,
    layers: &'a [Layer],
    out: &mut Vec<(&'a Layer, usize)>,
) -> Option<()> {
    if index.outputs.contains(value) || index.readers(value).is_empty() {
        return None;
    }
    for &(n, slot) in index.readers(value) {
        let node = &model.graph().node[n];
        if let Some(layer) = layers.iter().find(|l| l.node == n) {
            let plain = match layer.op {
                LayerOp::Conv => repeat == 1 && unpadded(node),
                LayerOp::Gemm => layer.slot == 1 && !layer.transposed_input && shapes.dims(value).is_some_and(|d| d.len() == 2),
                LayerOp::ConvTranspose | LayerOp::MatMul => false,
            };
            if slot != 0 || !plain || layer.shares_weight || (layer.groups > 1 && !layer.is_depthwise()) {
                return None;
            }
            out.push((layer, repeat));
            continue;
        }
        let next = node.output.first()?;
        match node.op_type() {
            "MaxPool" if node.output.len() == 1 => readers(next, repeat, model, index, shapes, layers, out)?,
            "AveragePool" if unpadded(node) => readers(next, repeat, model, index, shapes, layers, out)?,
            "GlobalAveragePool" | "GlobalMaxPool" | "Identity" | "Dropout" => readers(next, repeat, model, index, shapes, layers, out)?,
            "Flatten" if int_attribute(node, "axis", 1) == 1 => {
                let inner: usize = shapes.dims(value)?.get(2..)?.iter().product();
                readers(next, repeat * inner, model, index, shapes, layers, out)?;
            }
            _ => return None,
        }
    }
    Some(())
}

fn unpadded(node: &NodeProto) -> bool {
    let explicit = ints_attribute(node, "pads").is_none_or(|p| p.iter().all(|&v| v == 0));
    let automatic = attribute(node, "auto_pad").is_some_and(|a| !matches!(a.s(), b"NOTSET" | b"VALID"));
    explicit && !automatic && int_attribute(node, "ceil_mode", 0) == 0
}

fn scale_layer(layer: &Layer, scale: &[f64], index: &Index<'_>, patch: &mut Patch) -> Option<()> {
    let mut weight = index.floats(&layer.weight)?;
    scale_outputs(&mut weight, layer, scale);
    patch.tensors.insert(layer.weight.clone(), tensor::from_f32(&layer.weight, &weight));
    if let Some(name) = &layer.bias {
        if index.readers(name).len() > 1 {
            return None;
        }
        let mut bias = patch.tensors.get(name).and_then(|t| tensor::to_f32(t).ok()).or_else(|| index.floats(name))?;
        bias.iter_mut().zip(scale).for_each(|(b, &k)| *b = (f64::from(*b) * k) as f32);
        patch.tensors.insert(name.clone(), tensor::from_f32(name, &bias));
    }
    Some(())
}

fn shift_bias(layer: &Layer, shift: &[f64], repeat: usize, model: &Model, index: &Index<'_>, patch: &mut Patch) -> Option<()> {
    let inputs = if layer.is_depthwise() { layer.channels_out } else { layer.channels_in };
    if shift.len() * repeat != inputs {
        return None;
    }
    let weight = index.floats(&layer.weight)?;
    let mut delta = vec![0.0_f64; layer.channels_out];
    for (o, filter) in weight.axis_iter(Axis(layer.out_axis)).enumerate() {
        let in_axis = if layer.in_axis > layer.out_axis { layer.in_axis - 1 } else { layer.in_axis };
        for (c, taps) in filter.axis_iter(Axis(in_axis)).enumerate() {
            let channel = if layer.is_depthwise() { o } else { c / repeat };
            delta[o] += shift[channel] * taps.iter().map(|&w| f64::from(w)).sum::<f64>();
        }
    }
    let name = layer.bias.clone().unwrap_or_else(|| format!("{}.bias.folded", layer.name));
    let old = match &layer.bias {
        Some(bias) => patch.tensors.get(bias).and_then(|t| tensor::to_f32(t).ok()).or_else(|| index.floats(bias))?,
        None => ArrayD::zeros(IxDyn(&[layer.channels_out])),
    };
    if index.readers(&name).len() > 1 {
        return None;
    }
    let mut new = old;
    new.iter_mut().zip(&delta).for_each(|(b, d)| *b = (f64::from(*b) + d) as f32);
    patch.tensors.insert(name.clone(), tensor::from_f32(&name, &new));
    if layer.bias.is_none() {
        let mut node = model.graph().node[layer.node].clone();
        node.input.truncate(2);
        node.input.push(name);
        patch.replace.insert(layer.node, vec![node]);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        graph::shape,
        runtime::{Runtime, Session, SessionOptions},
    };

    #[test]
    fn the_demo_network_loses_its_norms_and_keeps_its_outputs() {
        let runtime = Runtime::start(&mut |_| ()).unwrap();
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/cifar10-vgg.onnx");
        let model = Model::load(&path).unwrap();
        let shapes = shape::infer(&model, 1, &std::collections::BTreeMap::new()).unwrap();
        let mut merged = Merged::new();
        let folded = fold(&model, &shapes, &mut merged).unwrap();
        assert_eq!(merged.values().map(Vec::len).sum::<usize>(), 6);
        let norms = |m: &Model| m.graph().node.iter().filter(|n| n.op_type() == "BatchNormalization").count();
        assert_eq!((norms(&model), norms(&folded)), (6, 0));
        let x = ArrayD::from_shape_fn(IxDyn(&[8, 3, 32, 32]), |i| ((i[0] * 131 + i[1] * 71 + i[2] * 37 + i[3] * 17) % 256) as f32);
        let run = |m: &Model| {
            let mut session = Session::from_bytes(&runtime, "vgg", &m.to_bytes().unwrap(), SessionOptions::default()).unwrap();
            session.run(&[("input", x.view())]).unwrap().remove(0)
        };
        let (a, b) = (run(&model), run(&folded));
        let range = a.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-4 * range));
    }
}
