//! Constants of a node's own, and nothing dead.
//!
//! Pruning cuts constants and corrects the numbers that shapes are made of. Exporters and optimisers share equal constants
//! between nodes; here each reader of a small one gets a copy. A Split into equal parts gets its sizes written out.

use std::collections::{BTreeMap, HashSet};

use crate::{
    error::Result,
    graph::{
        Index, Model,
        model::{attribute, captured, int_attribute},
        patch::Patch,
        proto::{NodeProto, TensorProto},
        shape::Shapes,
        tensor,
    },
};

/// Above this many bytes a constant stays shared.
const SMALL: u64 = 64 << 10;

/// The model with constants of each node's own.
///
/// # Errors
/// If a rewrite breaks the graph: a bug.
pub(super) fn constants(model: &Model, shapes: &Shapes) -> Result<Model> {
    let model = without_dead_nodes(model)?;
    let index = Index::new(&model);
    let inner: HashSet<&str> = model.graph().node.iter().flat_map(captured).collect();
    let shared = |name: &str| {
        let tensor = *index.constants.get(name)?;
        let several = index.readers(name).len() > 1 && !inner.contains(name) && !index.outputs.contains(name);
        let cut = tensor::elements(tensor).is_ok_and(|n| n > 1) || tensor.data_type() == 7;
        (several && cut && tensor::size_in_bytes(tensor) <= SMALL).then_some(tensor)
    };
    let mut patch = Patch::new("constants of each node's own");
    for (i, node) in model.graph().node.iter().enumerate() {
        let mut own = node.clone();
        for (slot, input) in node.input.iter().enumerate() {
            let is_weight = slot == 1 && matches!(node.op_type(), "Conv" | "ConvTranspose" | "Gemm" | "MatMul");
            let Some(tensor) = shared(input).filter(|_| !is_weight) else { continue };
            if index.readers(input).first() != Some(&(i, slot)) {
                let name = format!("{input}.{}.{slot}", node.name());
                patch.tensors.insert(name.clone(), TensorProto { name: Some(name.clone()), ..tensor.clone() });
                own.input[slot] = name;
            }
        }
        if let Some((sizes, with_sizes)) = explicit_split(&own, model.opset(), shapes) {
            own = with_sizes;
            patch.tensors.extend(sizes.map(|t| (t.name().to_string(), t)));
        }
        if own != *node {
            patch.replace.insert(i, vec![own]);
        }
    }
    if patch.replace.is_empty() { Ok(model) } else { patch.apply(&model) }
}

/// A Split along another axis than the batch that does not say how large its parts are, with their sizes.
fn explicit_split(node: &NodeProto, opset: i64, shapes: &Shapes) -> Option<(Option<TensorProto>, NodeProto)> {
    let given = node.input.get(1).is_some_and(|s| !s.is_empty()) || attribute(node, "split").is_some();
    let axis = int_attribute(node, "axis", 0);
    if node.op_type() != "Split" || given || !matches!(node.domain(), "" | "ai.onnx") {
        return None;
    }
    let rank = shapes.dims(node.input.first()?)?.len() as i64;
    let axis = usize::try_from(if axis < 0 { axis + rank } else { axis }).ok().filter(|&a| a > 0)?;
    let sizes = node.output.iter().map(|o| Some(*shapes.dims(o)?.get(axis)? as i64)).collect::<Option<Vec<i64>>>()?;
    let mut out = node.clone();
    if opset < 13 {
        out.attribute.push(tensor::ints("split", &sizes));
        return Some((None, out));
    }
    out.attribute.retain(|a| a.name() != "num_outputs");
    let name = format!("{}.sizes", node.name());
    out.input.truncate(1);
    out.input.push(name.clone());
    Some((Some(tensor::from_i64(&name, &sizes)), out))
}

/// The model without nodes whose results nobody reads.
fn without_dead_nodes(model: &Model) -> Result<Model> {
    let nodes = &model.graph().node;
    let mut wanted: HashSet<&str> = model.graph().output.iter().map(|o| o.name()).collect();
    let mut replace: BTreeMap<usize, Vec<NodeProto>> = BTreeMap::new();
    for (i, node) in nodes.iter().enumerate().rev() {
        if node.output.iter().any(|o| wanted.contains(o.as_str())) {
            wanted.extend(node.input.iter().map(String::as_str).chain(captured(node)));
        } else {
            replace.insert(i, vec![]);
        }
    }
    if replace.is_empty() || replace.len() == nodes.len() {
        return Ok(model.clone());
    }
    Patch { replace, ..Patch::new("nodes that nobody reads") }.apply(model)
}
