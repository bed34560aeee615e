//! Weights that several layers share come apart, so that each layer can be treated by itself.
//!
//! Detectors run the same head over several maps, siamese networks the same trunk over two images, and exporters merge equal weights.
//! The chip's integer products take no shared weights. Here each layer gets a weight of its own (the same bytes, not a second time in
//! memory); where a plan leaves several of them untouched, they are one again in what is written and counted.

use std::collections::{BTreeMap, HashSet};

use crate::{
    error::Result,
    graph::{
        Index, Model,
        model::captured,
        patch::Patch,
        proto::{NodeProto, TensorProto},
        tensor,
    },
};

/// By the name of a copy that of what it is a copy of.
pub(super) type Copies = BTreeMap<String, String>;

/// The model with a weight for each layer, and which of them are copies.
///
/// # Errors
/// If the rewrite breaks the graph: a bug.
pub(super) fn apart(model: &Model) -> Result<(Model, Copies)> {
    let index = Index::new(model);
    let inner: HashSet<&str> = model.graph().node.iter().flat_map(captured).collect();
    let nodes = &model.graph().node;
    let weighs = |&(n, slot): &(usize, usize)| nodes.get(n).is_some_and(|node| is_weight_slot(node, slot));
    let (mut patch, mut copies) = (Patch::new("a weight for each layer"), Copies::new());
    for (i, node) in nodes.iter().enumerate() {
        for (slot, name) in node.input.iter().enumerate().filter(|(slot, _)| is_weight_slot(node, *slot)) {
            let Some(tensor) = index.constants.get(name.as_str()).filter(|t| tensor::is_float(t)) else { continue };
            let readers = index.readers(name);
            // One layer keeps the original, unless something that is no layer reads it too.
            let keeps = readers.iter().all(weighs) && readers.first() == Some(&(i, slot));
            if readers.len() < 2 || keeps || inner.contains(name.as_str()) {
                continue;
            }
            let copy = format!("{name}.of.{}", node.name());
            patch.tensors.insert(copy.clone(), TensorProto { name: Some(copy.clone()), ..(*tensor).clone() });
            let mut own = node.clone();
            own.input[slot].clone_from(&copy);
            patch.replace.insert(i, vec![own]);
            copies.insert(copy, name.clone());
        }
    }
    if copies.is_empty() {
        return Ok((model.clone(), copies));
    }
    Ok((patch.apply(model)?, copies))
}

fn is_weight_slot(node: &NodeProto, slot: usize) -> bool {
    slot == 1 && matches!(node.op_type(), "Conv" | "ConvTranspose" | "Gemm" | "MatMul") && matches!(node.domain(), "" | "ai.onnx")
}

/// Groups of weights that still hold the same after all has been folded.
pub(super) fn still_same(model: &Model, copies: &Copies) -> Vec<Vec<String>> {
    let tensors: BTreeMap<&str, &TensorProto> = model.graph().initializer.iter().map(|t| (t.name(), t)).collect();
    let mut families: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for (copy, original) in copies {
        families.entry(original).or_insert_with(|| vec![original]).push(copy);
    }
    let same = |a: &str, b: &str| match (tensors.get(a), tensors.get(b)) {
        (Some(a), Some(b)) => TensorProto { name: None, ..(*a).clone() } == TensorProto { name: None, ..(*b).clone() },
        _ => false,
    };
    let mut groups: Vec<Vec<String>> = Vec::new();
    for family in families.into_values() {
        let start = groups.len();
        for name in family.into_iter().filter(|n| tensors.contains_key(n)) {
            match groups[start..].iter_mut().find(|g| g.first().is_some_and(|first| same(first, name))) {
                Some(group) => group.push(name.to_string()),
                None => groups.push(vec![name.to_string()]),
            }
        }
    }
    groups.retain(|g| g.len() > 1);
    groups
}
