//! Weights put aside while ONNX Runtime's optimiser looks at the graph.
//!
//! In their place it gets graph inputs of the same shape, so it neither copies gigabytes nor folds anything into them: that is
//! done here, in double precision, with a record of what became part of which layer. And a model of any size fits.

use std::collections::{BTreeMap, BTreeSet, HashSet};

use crate::graph::{
    Index, Model,
    proto::{TensorProto, TensorShapeProto, TypeProto, ValueInfoProto, tensor_proto::DataType, tensor_shape_proto, type_proto},
    tensor,
};

/// Tensors above this many bytes are put aside whatever they are for.
const LARGE: u64 = 256 << 10;

/// The model without its weights, and the weights.
pub(super) fn put_aside(model: &Model) -> (Model, BTreeMap<String, TensorProto>) {
    let index = Index::new(model);
    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    for node in &model.graph().node {
        let weights = weight_slots(node.op_type()).iter().filter_map(|&s| node.input.get(s));
        wanted.extend(weights.filter_map(|v| root(v, model, &index)));
    }
    let outputs: HashSet<&str> = model.graph().output.iter().map(|o| o.name()).collect();
    let mut light = Model { name: model.name.clone(), proto: model.proto.clone() };
    let graph = light.graph_mut();
    let mut aside = BTreeMap::new();
    for t in std::mem::take(&mut graph.initializer) {
        let large = tensor::size_in_bytes(&t) > LARGE || tensor::fill(&t).is_some();
        if (large || wanted.contains(t.name())) && tensor::size_in_bytes(&t) > 0 && !outputs.contains(t.name()) {
            graph.input.push(stand_in(&t));
            aside.insert(t.name().to_string(), t);
        } else {
            graph.initializer.push(t);
        }
    }
    (light, aside)
}

/// The model with its weights again.
pub(super) fn put_back(mut light: Model, aside: BTreeMap<String, TensorProto>) -> Model {
    let graph = light.graph_mut();
    graph.input.retain(|v| !aside.contains_key(v.name()));
    let mut used: HashSet<&str> = graph.node.iter().flat_map(|n| &n.input).map(String::as_str).collect();
    used.extend(graph.node.iter().flat_map(crate::graph::model::captured));
    let back: Vec<TensorProto> = aside.iter().filter(|(name, _)| used.contains(name.as_str())).map(|(_, t)| t.clone()).collect();
    graph.initializer.extend(back);
    light
}

/// Input slots that weights come in by.
fn weight_slots(op: &str) -> &'static [usize] {
    match op {
        "Conv" | "ConvTranspose" | "ConvInteger" | "MatMulInteger" | "LSTM" | "GRU" | "RNN" => &[1],
        "Gemm" | "MatMul" => &[0, 1],
        "QLinearConv" | "QLinearMatMul" => &[3],
        _ => &[],
    }
}

/// The constant that a value is made of by operators that only change its form.
fn root<'m>(value: &'m str, model: &'m Model, index: &Index<'m>) -> Option<&'m str> {
    let mut at = value;
    while let Some(&made_by) = index.producer.get(at) {
        let node = &model.graph().node[made_by];
        let op = node.op_type();
        if !matches!(op, "Transpose" | "Cast" | "DequantizeLinear" | "Identity" | "Reshape" | "Squeeze" | "Unsqueeze" | "Mul" | "Sub") {
            return None;
        }
        at = node.input.first()?;
    }
    index.constants.contains_key(at).then_some(at)
}

fn stand_in(t: &TensorProto) -> ValueInfoProto {
    let dim =
        |&d: &i64| tensor_shape_proto::Dimension { value: Some(tensor_shape_proto::dimension::Value::DimValue(d)), ..Default::default() };
    let shape = Some(TensorShapeProto { dim: t.dims.iter().map(dim).collect() });
    let kind = type_proto::Tensor { elem_type: Some(DataType::try_from(t.data_type()).map_or(1, |k| k as i32)), shape };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(kind)), ..Default::default() };
    ValueInfoProto { name: t.name.clone(), r#type: Some(kind), ..Default::default() }
}
