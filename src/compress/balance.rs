//! Channels of a layer's input brought to one scale, x/f and W·f, so that they can share a grid of few bits.
//!
//! SmoothQuant (Xiao et al., 2022, arXiv 2211.10438), AMCT's DMQ: f = max|x|^s / max|w|^(1−s) for each input channel. Cross-layer
//! equalisation (Nagel et al., 2019, arXiv 1906.04721): f = √(max|w before| / max|w|). Where a layer stands before, with at most a ReLU between,
//! its outputs take the division up; else a Mul does, which the chip joins to the kernel before.

use ndarray::{ArrayD, Axis};

use super::calibrate::Gram;
use crate::{
    error::{Error, Result},
    graph::{
        Index, Model,
        layer::{Layer, LayerOp, Layers},
        patch::Patch,
        tensor,
    },
    spec::Balance,
};

/// Strengths that `auto` tries: AMCT's range.
const STRENGTHS: [f64; 7] = [0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8];
/// Factors of a layer are kept within this ratio of their mean, so that a dead channel does not blow up another's weights.
const WIDEST: f32 = 1e4;

/// A layer to be balanced and what is known of its input.
pub struct Balanced<'a> {
    /// The layer, of the model to be changed.
    pub layer: &'a Layer,
    /// How.
    pub balance: Balance,
    /// Largest magnitude of each input channel.
    pub magnitudes: Option<Vec<f32>>,
    /// Moments of its inputs.
    pub gram: Option<&'a Gram>,
    /// Bits of weights and activations.
    pub bits: (u32, u32),
}

/// A model with balanced layers.
pub struct Outcome {
    /// The model.
    pub model: Model,
    /// What each layer's input was divided by, by the layer's name; empty on a skeleton.
    pub factors: Vec<(String, Vec<f32>)>,
    /// Whether values flow through it that did not before.
    pub changed: bool,
}

/// Balances layers, one after the other.
///
/// # Errors
/// If a weight cannot be read, or a layer cannot be equalised for want of a layer before it.
pub fn balance(model: &Model, layers: &Layers, wanted: &[Balanced<'_>]) -> Result<Outcome> {
    let mut out = Outcome { model: model.clone(), factors: Vec::new(), changed: false };
    for one in wanted.iter().filter(|w| w.balance != Balance::None) {
        let before = before(&out.model, layers, one.layer);
        if before.is_none() && one.balance == Balance::Equalize {
            let remedy = "balance it by a strength or `auto`, which work anywhere";
            let message = "cannot be equalised: no layer with at most a ReLU behind it makes its input, and that alone";
            return Err(Error::layer(&one.layer.name, message, remedy));
        }
        let weight = constant(&out.model, &one.layer.weight)?;
        if !tensor::has_data(weight) {
            if before.is_none() {
                out.model = with_mul(&out.model, one.layer, None)?;
            }
            continue;
        }
        let weight = tensor::to_f32(weight)?;
        let rows = before.map(|b| tensor::to_f32(constant(&out.model, &b.weight)?).map(|w| magnitudes(&w, b.out_axis))).transpose()?;
        // A Mul is counted before anything is known of the data, so there it is always used.
        let Some(factors) = factors(one, &weight, rows.as_deref(), before.is_none()) else { continue };
        out.model = match before {
            Some(before) => absorbed(&out.model, one.layer, before, &weight, &factors)?,
            None => with_mul(&out.model, one.layer, Some((&weight, &factors)))?,
        };
        out.changed = true;
        out.factors.push((one.layer.name.clone(), factors));
    }
    Ok(out)
}

/// The factors of a layer; none if it stays as it is, which with `always` it only does if nothing is known of its input.
fn factors(one: &Balanced<'_>, weight: &ArrayD<f32>, before: Option<&[f32]>, always: bool) -> Option<Vec<f32>> {
    let columns = input_magnitudes(weight, one.layer);
    let inputs = one.magnitudes.as_deref().filter(|m| m.len() == columns.len())?;
    match one.balance {
        Balance::None => None,
        Balance::Equalize => before.filter(|b| b.len() == columns.len()).map(|rows| powers(rows, &columns, 0.5)),
        Balance::Strength(s) => Some(powers(inputs, &columns, s)),
        Balance::Auto => {
            let plain = error(one, weight, inputs, &vec![1.0; inputs.len()]);
            let tried = STRENGTHS.iter().map(|&s| powers(inputs, &columns, s)).map(|f| (error(one, weight, inputs, &f), f));
            tried.filter(|(e, _)| always || *e < 0.95 * plain).reduce(|a, b| if b.0 < a.0 { b } else { a }).map(|b| b.1)
        }
    }
}

/// Expected error of the layer's output for factors, with evenly spread rounding errors: those of activations through the weights, and those
/// of weights through the inputs.
fn error(one: &Balanced<'_>, weight: &ArrayD<f32>, inputs: &[f32], factors: &[f32]) -> f64 {
    let (w_bits, x_bits) = one.bits;
    let reach = inputs.iter().zip(factors).map(|(m, f)| m / f).fold(0.0, f32::max);
    let step = f64::from(reach) / f64::from((1_u32 << x_bits) - 1);
    let scaled = scale_inputs(weight, one.layer, factors);
    let squares: f64 = scaled.iter().map(|w| f64::from(*w).powi(2)).sum();
    let through_weights = step * step / 12.0 * squares;
    let moments = one.gram.map(|g| mean_squares(g, factors.len()));
    let levels = f64::from((1_u32 << w_bits) - 1);
    let per_row = one.layer.op.is_convolution();
    let whole = scaled.iter().fold(0.0_f32, |m, w| m.max(w.abs()));
    let row_axis = Axis(one.layer.out_axis);
    let through_inputs: f64 = scaled
        .axis_iter(row_axis)
        .map(|row| {
            let top = if per_row { row.iter().fold(0.0_f32, |m, w| m.max(w.abs())) } else { whole };
            let step = 2.0 * f64::from(top) / levels;
            let taps = row.len() as f64 / factors.len().max(1) as f64;
            let energy: f64 = match &moments {
                Some(m) => m.iter().zip(factors).map(|(m, f)| taps.max(1.0) * m / f64::from(*f).powi(2)).sum(),
                None => inputs.iter().zip(factors).map(|(m, f)| taps.max(1.0) * f64::from(m / f).powi(2) / 3.0).sum(),
            };
            step * step / 12.0 * energy
        })
        .sum();
    through_weights + through_inputs
}

/// Mean square of each input channel over its taps.
fn mean_squares(gram: &Gram, channels: usize) -> Vec<f64> {
    let columns: Vec<f64> = gram.groups.iter().flatten().flat_map(|b| b.matrix.diag().to_vec()).collect();
    let taps = (columns.len() / channels.max(1)).max(1);
    columns.chunks(taps).map(|c| c.iter().sum::<f64>() / c.len() as f64).collect()
}

/// a^s / b^(1−s), scaled so that their geometric mean is 1. A channel that is never used keeps 1.
fn powers(a: &[f32], b: &[f32], strength: f64) -> Vec<f32> {
    let raw: Vec<Option<f64>> = a
        .iter()
        .zip(b)
        .map(|(&a, &b)| {
            let f = f64::from(a).powf(strength) / f64::from(b).powf(1.0 - strength);
            (a > 0.0 && b > 0.0 && f.is_finite() && f > 0.0).then_some(f)
        })
        .collect();
    let used = raw.iter().flatten().count().max(1) as f64;
    let mean = (raw.iter().flatten().map(|f| f.ln()).sum::<f64>() / used).exp();
    raw.into_iter().map(|f| f.map_or(1.0, |f| ((f / mean) as f32).clamp(1.0 / WIDEST, WIDEST))).collect()
}

fn magnitudes(weight: &ArrayD<f32>, axis: usize) -> Vec<f32> {
    weight.axis_iter(Axis(axis)).map(|part| part.iter().fold(0.0_f32, |m, w| m.max(w.abs()))).collect()
}

/// Input channel of each index along the weight's input axis, for an output.
fn channel(layer: &Layer, output: usize, index: usize) -> usize {
    if layer.op == LayerOp::Conv && layer.groups > 1 {
        let (outputs, inputs) = (layer.channels_out / layer.groups, layer.channels_in / layer.groups);
        (output / outputs.max(1)) * inputs + index
    } else {
        index
    }
}

/// Largest weight of each input channel.
fn input_magnitudes(weight: &ArrayD<f32>, layer: &Layer) -> Vec<f32> {
    let mut out = vec![0.0_f32; layer.channels_in];
    for (at, w) in weight.indexed_iter() {
        let c = channel(layer, at[layer.out_axis], at[layer.in_axis]);
        if let Some(slot) = out.get_mut(c) {
            *slot = slot.max(w.abs());
        }
    }
    out
}

fn scale_inputs(weight: &ArrayD<f32>, layer: &Layer, factors: &[f32]) -> ArrayD<f32> {
    let mut out = weight.clone();
    for (at, w) in out.indexed_iter_mut() {
        *w *= factors[channel(layer, at[layer.out_axis], at[layer.in_axis])];
    }
    out
}

fn constant<'m>(model: &'m Model, name: &str) -> Result<&'m crate::graph::proto::TensorProto> {
    let found = model.graph().initializer.iter().find(|t| t.name() == name);
    found.ok_or_else(|| Error::Internal(format!("no constant {name}")))
}

/// The layer that makes a layer's input and nothing else, with at most a ReLU or LeakyReLU between.
fn before<'l>(model: &Model, layers: &'l Layers, layer: &Layer) -> Option<&'l Layer> {
    let index = Index::new(model);
    let graph = model.graph();
    let mut value = layer.input.as_str();
    for _ in 0..2 {
        let outside = graph.output.iter().any(|o| o.name() == value);
        if index.sole_reader(value).is_none() || outside {
            return None;
        }
        if let Some(found) = layers.layers.iter().find(|l| l.output == value) {
            let plain = found.slot == 1 && !found.is_batched() && !(found.op == LayerOp::ConvTranspose && found.groups > 1);
            return (plain && !found.shares_weight && found.channels_out == layer.channels_in).then_some(found);
        }
        let node = graph.node.iter().find(|n| n.output.first().is_some_and(|o| o == value))?;
        if !matches!(node.op_type(), "Relu" | "LeakyRelu") {
            return None;
        }
        value = node.input.first()?;
    }
    None
}

/// The division goes into the outputs of the layer before.
fn absorbed(model: &Model, layer: &Layer, before: &Layer, weight: &ArrayD<f32>, factors: &[f32]) -> Result<Model> {
    let mut patch = Patch::new("balanced channels");
    let divide = |name: &str, axis: usize| -> Result<crate::graph::proto::TensorProto> {
        let mut values = tensor::to_f32(constant(model, name)?)?;
        values.axis_iter_mut(Axis(axis)).zip(factors).for_each(|(mut part, f)| part.mapv_inplace(|v| v / f));
        Ok(tensor::from_f32(name, &values))
    };
    patch.tensors.insert(before.weight.clone(), divide(&before.weight, before.out_axis)?);
    if let Some(bias) = &before.bias {
        let axis = tensor::dims(constant(model, bias)?).len().saturating_sub(1);
        patch.tensors.insert(bias.clone(), divide(bias, axis)?);
    }
    patch.tensors.insert(layer.weight.clone(), tensor::from_f32(&layer.weight, &scale_inputs(weight, layer, factors)));
    patch.apply(model)
}

/// A Mul before the layer, named as AMCT names it; without data on a skeleton.
fn with_mul(model: &Model, layer: &Layer, known: Option<(&ArrayD<f32>, &[f32])>) -> Result<Model> {
    let mut patch = Patch::new("balanced channels");
    let factor = format!("{}.tensor_balance_factor", layer.name);
    let trailing = if layer.op.is_convolution() { layer.weight_dims.len() - 2 } else { 0 };
    let dims: Vec<usize> = std::iter::once(layer.channels_in).chain(std::iter::repeat_n(1, trailing)).collect();
    let constant = match known {
        Some((weight, factors)) => {
            let scaled = scale_inputs(weight, layer, factors);
            patch.tensors.insert(layer.weight.clone(), tensor::from_f32(&layer.weight, &scaled));
            let inverse = ArrayD::from_shape_vec(dims, factors.iter().map(|f| 1.0 / f).collect());
            tensor::from_f32(&factor, &inverse.map_err(|e| Error::Internal(format!("factors of {}: {e}", layer.name)))?)
        }
        None => tensor::without_data(&factor, &dims),
    };
    patch.tensors.insert(factor.clone(), constant);
    let at = layer_node(model, &layer.name)?;
    let mut node = model.graph().node[at].clone();
    let output = format!("{}.mul.output", layer.name);
    let mul = tensor::node("Mul", &format!("{}.mul", layer.name), &[&layer.input, &factor], &[&output], vec![]);
    node.input[layer.data_slot()] = output;
    patch.replace.insert(at, vec![mul, node]);
    patch.apply(model)
}

fn layer_node(model: &Model, name: &str) -> Result<usize> {
    let found = model.graph().node.iter().position(|n| n.name() == name);
    found.ok_or_else(|| Error::Internal(format!("no node {name}")))
}
