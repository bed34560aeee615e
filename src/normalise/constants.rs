//! Constants where they belong: all of them initializers, none of them an input of the graph.
//!
//! Before IR version 4 every initializer had to be a graph input as well, which keeps runtimes from folding it; some exporters
//! write weights as `Constant` nodes; topologies without weights have `ConstantOfShape` in their place.

use std::collections::HashSet;

use ndarray::{ArrayD, IxDyn};

use crate::{
    error::Result,
    graph::{
        Index, Model,
        model::attribute,
        patch::Patch,
        proto::{NodeProto, TensorProto, tensor_proto::DataType},
        tensor,
    },
};

/// Initializers that are no inputs are allowed from this version of the format on.
const IR_VERSION: i64 = 4;
/// Above this many elements a tensor of one repeated value stays one value.
const SMALL: usize = 4096;

/// The model with every constant as an initializer.
///
/// # Errors
/// If the model is malformed.
pub(super) fn lift(model: &Model) -> Result<Model> {
    let mut out = model.clone();
    let constants: HashSet<String> = out.graph().initializer.iter().map(|t| t.name().to_string()).collect();
    out.graph_mut().input.retain(|v| !constants.contains(v.name()));
    out.proto.ir_version = Some(out.proto.ir_version().max(IR_VERSION));
    let index = Index::new(&out);
    let mut patch = Patch::new("constants as initializers");
    for (i, node) in out.graph().node.iter().enumerate() {
        let Some(name) = node.output.first().filter(|n| !constants.contains(*n)) else { continue };
        let found = match (node.domain(), node.op_type()) {
            ("" | "ai.onnx", "Constant") => literal(node),
            ("" | "ai.onnx", "ConstantOfShape") => repeated(node, &index),
            _ => None,
        };
        if let Some(mut tensor) = found {
            tensor.name = Some(name.clone());
            patch.tensors.insert(name.clone(), tensor);
            patch.replace.insert(i, vec![]);
        }
    }
    if patch.replace.is_empty() {
        return Ok(out);
    }
    patch.apply(&out)
}

fn literal(node: &NodeProto) -> Option<TensorProto> {
    let a = node.attribute.first()?;
    let scalar = |v: ArrayD<f32>| tensor::from_f32("", &v);
    match a.name() {
        "value" => a.t.clone(),
        "value_float" => Some(scalar(ArrayD::from_elem(IxDyn(&[]), a.f()))),
        "value_floats" => Some(scalar(ArrayD::from_shape_vec(IxDyn(&[a.floats.len()]), a.floats.clone()).ok()?)),
        "value_ints" => Some(tensor::from_i64("", &a.ints)),
        "value_int" => Some(TensorProto { dims: vec![], ..tensor::from_i64("", &[a.i()]) }),
        _ => None,
    }
}

fn repeated(node: &NodeProto, index: &Index<'_>) -> Option<TensorProto> {
    let dims = index.ints(node.input.first()?)?;
    let mut out = match attribute(node, "value").and_then(|a| a.t.as_ref()) {
        None => tensor::filled("", &dims, 0.0),
        Some(t) if t.data_type() == DataType::Float as i32 => tensor::filled("", &dims, *tensor::to_f32(t).ok()?.first()?),
        Some(t) if t.data_type() == DataType::Int64 as i32 => {
            let count = tensor::elements(&TensorProto { dims: dims.clone(), ..Default::default() }).ok().filter(|&n| n <= SMALL)?;
            tensor::from_i64("", &vec![*tensor::to_i64(t)?.first()?; count])
        }
        Some(_) => return None,
    };
    out.dims.clone_from(&dims);
    if tensor::elements(&out).ok()? <= SMALL { tensor::inlined(&out).ok() } else { Some(out) }
}
