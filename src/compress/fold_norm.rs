//! BatchNorm after an activation, folded exactly into the layers on both sides.
//!
//! Runtimes and compilers fold BatchNorm(Conv(x)). A network trained with BatchNorm *after* ReLU keeps it as a kernel of
//! its own. Where the activation is positively homogeneous (ReLU, LeakyReLU) and the norm's scale k is positive, the
//! scale moves into the layer before, k·ReLU(Wx + b) = ReLU(kWx + kb), and the shift t, a constant for every channel, through
//! pooling into the biases of the layers behind: W(x + t) + b = Wx + (b + Wt). Nothing is approximated; a convolution
//! that pads is left alone, because its zeros are not shifted.

use ndarray::{ArrayD, Axis, IxDyn};

use crate::{
    error::Result,
    graph::{
        Index, Model,
        layer::{Layer, LayerOp, Layers},
        model::{attribute, float_attribute, int_attribute, ints_attribute},
        patch::Patch,
        proto::NodeProto,
        shape::Shapes,
        tensor,
    },
};

/// Folds every BatchNorm that can be; the model as it was if there is none.
///
/// # Errors
/// If a weight cannot be read.
pub fn fold(model: &Model, shapes: &Shapes) -> Result<Model> {
    let mut model = model.clone();
    let mut tried = 0;
    loop {
        let found = model.graph().node.iter().enumerate().skip(tried).find(|(_, n)| n.op_type() == "BatchNormalization").map(|(i, _)| i);
        let Some(i) = found else { return Ok(model) };
        match fold_one(&model, shapes, i) {
            Some(patch) => model = patch.apply(&model)?,
            None => tried = i + 1,
        }
    }
}

fn fold_one(model: &Model, shapes: &Shapes, i: usize) -> Option<Patch> {
    let index = Index::new(model);
    let layers = Layers::find(model, shapes).layers;
    let norm = &model.graph().node[i];
    let (scale, shift) = affine(norm, &index)?;
    if !scale.iter().all(|&k| k > 0.0 && k.is_finite()) || !shift.iter().all(|t| t.is_finite()) {
        return None;
    }
    let producer = producer(norm, model, &index, &layers)?;
    let mut consumers = Vec::new();
    readers(norm.output.first()?, 1, model, &index, shapes, &layers, &mut consumers)?;
    let mut patch = Patch::new(format!("fold {} into the layers around it", norm.name()));
    scale_outputs(producer, &scale, &index, &mut patch)?;
    for (layer, repeat) in consumers {
        shift_bias(layer, &shift, repeat, model, &index, &mut patch)?;
    }
    let (from, to) = (norm.output.first()?.clone(), norm.input.first()?.clone());
    for (n, node) in model.graph().node.iter().enumerate().filter(|(n, node)| *n != i && node.input.contains(&from)) {
        let mut node = patch.replace.get(&n).and_then(|v| v.first()).unwrap_or(node).clone();
        node.input.iter_mut().filter(|v| **v == from).for_each(|v| v.clone_from(&to));
        patch.replace.insert(n, vec![node]);
    }
    patch.replace.insert(i, vec![]);
    Some(patch)
}

/// Scale and shift of a norm: y = scale·x + shift.
fn affine(norm: &NodeProto, index: &Index<'_>) -> Option<(Vec<f64>, Vec<f64>)> {
    if int_attribute(norm, "training_mode", 0) != 0 || norm.output.iter().skip(1).any(|o| !o.is_empty()) {
        return None;
    }
    let constant = |slot: usize| index.floats(norm.input.get(slot)?).map(|a| a.iter().map(|&v| f64::from(v)).collect::<Vec<_>>());
    let (gamma, beta, mean, variance) = (constant(1)?, constant(2)?, constant(3)?, constant(4)?);
    let epsilon = f64::from(float_attribute(norm, "epsilon", 1e-5));
    let scale: Vec<f64> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
    let shift = beta.iter().zip(&mean).zip(&scale).map(|((b, m), k)| b - m * k).collect();
    Some((scale, shift))
}

/// The layer whose activation the norm reads, if nobody else reads either.
fn producer<'a>(norm: &NodeProto, model: &Model, index: &Index<'_>, layers: &'a [Layer]) -> Option<&'a Layer> {
    let activation = *index.producer.get(norm.input.first()?.as_str())?;
    let node = &model.graph().node[activation];
    if !matches!(node.op_type(), "Relu" | "LeakyRelu") {
        return None;
    }
    index.sole_reader(node.output.first()?)?;
    index.sole_reader(node.input.first()?)?;
    let made_by = *index.producer.get(node.input.first()?.as_str())?;
    layers.iter().find(|l| l.node == made_by && (l.groups == 1 || l.is_depthwise()))
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
                LayerOp::Gemm => shapes.dims(value).is_some_and(|d| d.len() == 2),
                LayerOp::ConvTranspose | LayerOp::MatMul => false,
            };
            if slot != 0 || !plain || (layer.groups > 1 && !layer.is_depthwise()) {
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

fn scale_outputs(layer: &Layer, scale: &[f64], index: &Index<'_>, patch: &mut Patch) -> Option<()> {
    if scale.len() != layer.channels_out {
        return None;
    }
    let mut weight = index.floats(&layer.weight)?;
    for (mut filter, &k) in weight.axis_iter_mut(Axis(layer.out_axis)).zip(scale) {
        filter.mapv_inplace(|w| (f64::from(w) * k) as f32);
    }
    patch.tensors.insert(layer.weight.clone(), tensor::from_f32(&layer.weight, &weight));
    if let Some(name) = &layer.bias {
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
        let folded = fold(&model, &shapes).unwrap();
        let norms = |m: &Model| m.graph().node.iter().filter(|n| n.op_type() == "BatchNormalization").count();
        assert_eq!((norms(&model), norms(&folded)), (6, 0));
        let x = ArrayD::from_shape_fn(IxDyn(&[8, 3, 32, 32]), |i| ((i[0] * 131 + i[1] * 71 + i[2] * 37 + i[3] * 17) % 256) as f32);
        let run = |m: &Model| {
            let mut session = Session::from_bytes(&runtime, "vgg", &m.to_bytes(), SessionOptions::default()).unwrap();
            session.run(&[("input", x.view())]).unwrap().remove(0)
        };
        let (a, b) = (run(&model), run(&folded));
        let range = a.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
        assert!(a.iter().zip(&b).all(|(a, b)| (a - b).abs() <= 1e-4 * range));
    }
}
