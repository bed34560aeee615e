//! Sizes computed from shapes that never change become constants.
//!
//! Exporters write `x.view(x.size(0), x.size(1) // 2, …)` as Shape, Gather, Div, Concat and Reshape. Where all dimensions but the batch are
//! fixed, what does not depend on the batch is one number, and as a constant it can be corrected when channels are cut.

use crate::{
    error::Result,
    graph::{
        Index, Model,
        fold::Small,
        patch::Patch,
        proto::NodeProto,
        shape::{self, Pins},
        tensor,
    },
};

/// Batches that a number is computed for; if it is the same for all, it does not depend on the batch.
const BATCHES: [usize; 3] = [1, 2, 5];

/// The model with its fixed sizes as constants.
///
/// # Errors
/// If the shape of an input is not known.
pub(super) fn fold(model: &Model, pins: &Pins) -> Result<Model> {
    let fixed = |dims: Vec<Option<usize>>| dims.iter().skip(1).all(Option::is_some);
    if !model.inputs().all(|i| shape::declared(i).is_some_and(fixed)) {
        return Ok(model.clone());
    }
    let found = BATCHES.map(|batch| shape::integers(model, batch, pins));
    let [first, second, third] = found;
    let (first, second, third) = (first?, second?, third?);
    let same = |name: &str| {
        let value = first.get(name)?;
        (second.get(name) == Some(value) && third.get(name) == Some(value) && !value.float).then_some(value)
    };
    let index = Index::new(model);
    let mut patch = Patch::new("sizes that never change");
    for (i, node) in model.graph().node.iter().enumerate() {
        let slots = size_slots(node, model, &index);
        let mut fixed = node.clone();
        for slot in slots {
            let Some(input) = node.input.get(slot).filter(|n| index.producer.contains_key(n.as_str())) else { continue };
            if let Some(value) = same(input) {
                let name = format!("{input}.fixed");
                patch.tensors.insert(name.clone(), constant(&name, value));
                fixed.input[slot] = name;
            }
        }
        if node.op_type() == "Slice" && fixed != *node && !uniform(&fixed, &index, &patch) {
            continue;
        }
        if fixed != *node {
            patch.replace.insert(i, vec![fixed]);
        }
    }
    if patch.replace.is_empty() { Ok(model.clone()) } else { patch.apply(model) }
}

fn constant(name: &str, value: &Small) -> crate::graph::proto::TensorProto {
    let mut t = tensor::from_i64(name, &value.ints());
    t.dims = value.dims.iter().map(|&d| d as i64).collect();
    t
}

/// Input slots by which a node reads sizes, all of type INT64.
fn size_slots(node: &NodeProto, model: &Model, index: &Index<'_>) -> Vec<usize> {
    if !matches!(node.domain(), "" | "ai.onnx") {
        return vec![];
    }
    match node.op_type() {
        "Reshape" | "Expand" | "Split" | "Tile" | "Pad" => vec![1],
        "Slice" => vec![1, 2, 3, 4],
        "Resize" => vec![3],
        "ConstantOfShape" => vec![0],
        // The parts of a size that as a whole depends on the batch.
        "Concat" if node.output.first().is_some_and(|o| feeds_a_size(o, model, index)) => (0..node.input.len()).collect(),
        _ => vec![],
    }
}

fn feeds_a_size(value: &str, model: &Model, index: &Index<'_>) -> bool {
    index.readers(value).iter().any(|&(n, slot)| {
        slot == 1 && matches!(model.graph().node[n].op_type(), "Reshape" | "Expand") && model.graph().node[n].domain().is_empty()
    })
}

/// Whether all bounds of a Slice are INT64 now; they must be of one type.
fn uniform(node: &NodeProto, index: &Index<'_>, patch: &Patch) -> bool {
    node.input
        .iter()
        .skip(1)
        .filter(|n| !n.is_empty())
        .all(|n| patch.tensors.contains_key(n) || index.constants.get(n.as_str()).is_some_and(|t| t.data_type() == 7))
}
