//! Conv, ConvTranspose, Gemm and MatMul with their weight as an initializer of plain form, α = β = 1.
//!
//! Exporters that fold no constants leave weights behind Transpose, Cast, Reshape and the like.

use std::collections::BTreeMap;

use ndarray::{ArrayD, IxDyn};

use crate::{
    error::Result,
    graph::{
        Index, Model,
        model::{float_attribute, int_attribute, ints_attribute},
        patch::Patch,
        proto::{NodeProto, TensorProto},
        shape::Shapes,
        tensor,
    },
};

/// Folds what stands between a weight and its layer.
///
/// # Errors
/// If a weight cannot be read.
pub(super) fn fold(model: &Model, shapes: &Shapes) -> Result<Model> {
    let index = Index::new(model);
    let mut made: BTreeMap<String, TensorProto> = BTreeMap::new();
    let mut patch = Patch::new("weights in plain form");
    for node in &model.graph().node {
        let slots: &[usize] = match node.op_type() {
            "Conv" | "ConvTranspose" => &[1, 2],
            "Gemm" => &[0, 1, 2],
            "MatMul" => &[0, 1],
            _ => continue,
        };
        for value in slots.iter().filter_map(|&s| node.input.get(s)) {
            chain(value, model, &index, shapes, &mut made)?;
        }
    }
    for name in made.keys() {
        if let Some(&i) = index.producer.get(name.as_str()) {
            patch.replace.insert(i, vec![]);
        }
    }
    patch.tensors = made;
    let model = if patch.replace.is_empty() { model.clone() } else { patch.apply(model)? };
    plain_gemms(&model)
}

/// Evaluates the operators that a constant goes through on its way to `value`.
fn chain(value: &str, model: &Model, index: &Index<'_>, shapes: &Shapes, made: &mut BTreeMap<String, TensorProto>) -> Result<()> {
    let mut path = Vec::new();
    let mut at = value;
    while !index.constants.contains_key(at) && !made.contains_key(at) {
        let Some(&i) = index.producer.get(at) else { return Ok(()) };
        let node = &model.graph().node[i];
        let form_only = matches!(node.op_type(), "Transpose" | "Cast" | "Identity" | "Reshape" | "Squeeze" | "Unsqueeze");
        let (Some(input), true) = (node.input.first(), form_only) else { return Ok(()) };
        path.push(node);
        at = input;
    }
    let Some(mut current) = made.get(at).or_else(|| index.constants.get(at).copied()).cloned() else { return Ok(()) };
    if !tensor::is_float(&current) {
        return Ok(());
    }
    for node in path.into_iter().rev() {
        let Some(name) = node.output.first() else { return Ok(()) };
        let Some(next) = step(node, &current, shapes.dims(name))? else { return Ok(()) };
        current = TensorProto { name: Some(name.clone()), ..next };
        made.insert(name.clone(), current.clone());
    }
    Ok(())
}

fn step(node: &NodeProto, from: &TensorProto, to: Option<&[usize]>) -> Result<Option<TensorProto>> {
    let dims: Option<Vec<i64>> = to.map(|d| d.iter().map(|&d| d as i64).collect());
    let turned = |perm: &[usize]| -> Result<Option<TensorProto>> {
        if let Some(value) = tensor::fill(from) {
            let dims: Vec<i64> = perm.iter().map(|&p| from.dims[p]).collect();
            return Ok(Some(tensor::filled("", &dims, value)));
        }
        Ok(Some(tensor::from_f32("", &tensor::to_f32(from)?.permuted_axes(IxDyn(perm)))))
    };
    Ok(match node.op_type() {
        "Identity" => Some(from.clone()),
        "Cast" if int_attribute(node, "to", 0) == 1 => {
            if tensor::fill(from).is_some() {
                Some(from.clone())
            } else {
                Some(tensor::from_f32("", &tensor::to_f32(from)?))
            }
        }
        "Transpose" => {
            let rank = from.dims.len();
            let perm: Option<Vec<usize>> = match ints_attribute(node, "perm") {
                Some(p) => p.iter().map(|&a| usize::try_from(a).ok().filter(|&a| a < rank)).collect(),
                None => Some((0..rank).rev().collect()),
            };
            let is_permutation = |p: &Vec<usize>| p.len() == rank && (0..rank).all(|a| p.contains(&a));
            match perm.filter(is_permutation) {
                Some(perm) => turned(&perm)?,
                None => None,
            }
        }
        "Reshape" | "Squeeze" | "Unsqueeze" => {
            dims.map(|dims| TensorProto { dims, ..from.clone() }).filter(|t| tensor::elements(t).ok() == tensor::elements(from).ok())
        }
        _ => None,
    })
}

/// Gemms with α = β = 1 and a bias of their outputs' length, where these are constants that nobody else reads.
fn plain_gemms(model: &Model) -> Result<Model> {
    let index = Index::new(model);
    let mut patch = Patch::new("matrix products without factors");
    for (i, node) in model.graph().node.iter().enumerate().filter(|(_, n)| n.op_type() == "Gemm") {
        let own = |slot: usize| {
            let name = node.input.get(slot).filter(|n| index.readers(n).len() == 1)?;
            index.constants.get(name.as_str()).copied().filter(|t| tensor::is_float(t))
        };
        let (alpha, beta) = (float_attribute(node, "alpha", 1.0), float_attribute(node, "beta", 1.0));
        let Some(weight) = own(1).filter(|w| w.dims.len() == 2) else { continue };
        let outputs = tensor::dims(weight)[usize::from(int_attribute(node, "transB", 0) == 0)];
        let has_bias = node.input.get(2).is_some_and(|n| !n.is_empty());
        let bias = own(2);
        let single = bias.is_some_and(|b| tensor::elements(b).ok() == Some(1) && outputs > 1);
        let factors = alpha != 1.0 || (has_bias && beta != 1.0);
        if (!factors && !single) || (has_bias && bias.is_none()) {
            continue;
        }
        if alpha != 1.0 {
            patch.tensors.insert(weight.name().into(), tensor::from_f32(weight.name(), &tensor::to_f32(weight)?.mapv(|v| v * alpha)));
        }
        if let Some(bias) = bias {
            let mut values = tensor::to_f32(bias)?.mapv(|v| v * beta);
            if single {
                values = ArrayD::from_elem(IxDyn(&[outputs]), values.first().copied().unwrap_or_default());
            }
            patch.tensors.insert(bias.name().into(), tensor::from_f32(bias.name(), &values));
        }
        let mut plain = node.clone();
        plain.attribute.retain(|a| !matches!(a.name(), "alpha" | "beta"));
        patch.replace.insert(i, vec![plain]);
    }
    if patch.replace.is_empty() { Ok(model.clone()) } else { patch.apply(model) }
}
