//! Half-precision networks in single precision.
//!
//! ONNX Runtime's CPU kernels have no half floats: it computes FP16 networks in FP32 behind inserted casts, and cannot run BF16 ones.
//! All else here works on FP32 as well, so the whole graph is widened, which is exact; inputs and outputs keep their
//! type behind a cast. The chip's compiler makes FP16 of it again.

use crate::{
    error::Result,
    graph::{
        Model,
        model::tensors,
        proto::{AttributeProto, GraphProto, NodeProto, TensorProto, TypeProto, ValueInfoProto, tensor_proto::DataType, type_proto},
        tensor,
    },
};

const FLOAT: i32 = DataType::Float as i32;

fn is_half(kind: i32) -> bool {
    kind == DataType::Float16 as i32 || kind == DataType::Bfloat16 as i32
}

/// The model in single precision; as it was if none of its constants is a half float.
///
/// # Errors
/// If a constant cannot be read.
pub(super) fn widen(model: &Model) -> Result<Model> {
    if !tensors(model.graph()).any(|t| is_half(t.data_type())) {
        return Ok(model.clone());
    }
    let mut out = model.clone();
    let cast_in: Vec<(String, i32)> = out.graph().input.iter().filter_map(half_port).collect();
    let cast_out: Vec<(String, i32)> = out.graph().output.iter().filter_map(half_port).collect();
    let (inputs, outputs) = (out.graph().input.clone(), out.graph().output.clone());
    widen_graph(out.graph_mut())?;
    for function in &mut out.proto.functions {
        function.node.iter_mut().try_for_each(widen_node)?;
    }
    let graph = out.graph_mut();
    (graph.input, graph.output) = (inputs, outputs);
    let mut first = Vec::new();
    for (name, _) in &cast_in {
        let wide = format!("{name}.fp32");
        rename(graph, name, &wide);
        first.push(cast(name, &wide, FLOAT));
    }
    for (name, kind) in &cast_out {
        let wide = format!("{name}.fp32");
        rename(graph, name, &wide);
        graph.node.iter_mut().flat_map(|n| &mut n.output).filter(|o| *o == name).for_each(|o| o.clone_from(&wide));
        graph.node.push(cast(&wide, name, *kind));
    }
    graph.node.splice(0..0, first);
    crate::graph::patch::check(&out)?;
    Ok(out)
}

fn half_port(port: &ValueInfoProto) -> Option<(String, i32)> {
    let Some(type_proto::Value::TensorType(t)) = port.r#type.as_ref()?.value.as_ref() else { return None };
    is_half(t.elem_type()).then(|| (port.name().to_string(), t.elem_type()))
}

fn cast(from: &str, to: &str, kind: i32) -> NodeProto {
    tensor::node("Cast", &format!("{to}.cast"), &[from], &[to], vec![tensor::int("to", i64::from(kind))])
}

fn widen_graph(graph: &mut GraphProto) -> Result<()> {
    graph.initializer.iter_mut().try_for_each(widen_tensor)?;
    graph.input.iter_mut().chain(&mut graph.output).chain(&mut graph.value_info).for_each(|v| widen_type(&mut v.r#type));
    graph.node.iter_mut().try_for_each(widen_node)
}

fn widen_node(node: &mut NodeProto) -> Result<()> {
    node.attribute.iter_mut().try_for_each(widen_attribute)
}

fn widen_attribute(attribute: &mut AttributeProto) -> Result<()> {
    if matches!(attribute.name(), "to" | "dtype") && i32::try_from(attribute.i()).is_ok_and(is_half) {
        attribute.i = Some(i64::from(FLOAT));
    }
    attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(widen_tensor)?;
    attribute.g.iter_mut().chain(&mut attribute.graphs).try_for_each(widen_graph)
}

fn widen_tensor(t: &mut TensorProto) -> Result<()> {
    if is_half(t.data_type()) {
        *t = tensor::from_f32(t.name(), &tensor::to_f32(t)?);
    }
    Ok(())
}

fn widen_type(kind: &mut Option<TypeProto>) {
    if let Some(type_proto::Value::TensorType(t)) = kind.as_mut().and_then(|k| k.value.as_mut())
        && is_half(t.elem_type())
    {
        t.elem_type = Some(FLOAT);
    }
}

/// Renames a value wherever it is read, subgraphs and their outputs included.
fn rename(graph: &mut GraphProto, from: &str, to: &str) {
    for node in &mut graph.node {
        node.input.iter_mut().filter(|i| *i == from).for_each(|i| *i = to.to_string());
        for inner in node.attribute.iter_mut().flat_map(|a| a.g.iter_mut().chain(&mut a.graphs)) {
            rename(inner, from, to);
            inner.output.iter_mut().filter(|o| o.name() == from).for_each(|o| o.name = Some(to.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::fixture::{Net, some};

    #[test]
    fn halves_become_floats_and_the_ports_keep_their_type() {
        let mut half = tensor::from_f32("w", &some(&[4, 3, 1, 1], 1));
        let bits = |v: f32| half::f16::from_f32(v).to_le_bytes();
        half.raw_data = Some(tensor::to_f32(&half).unwrap().iter().flat_map(|&v| bits(v)).collect::<Vec<u8>>().into());
        half.data_type = Some(DataType::Float16 as i32);
        let mut model = Net::new(&[1, 3, 4, 4]).constant(half).node("Conv", "y", &["x", "w"], vec![]).build("y");
        let Some(type_proto::Value::TensorType(t)) = model.graph_mut().input[0].r#type.as_mut().unwrap().value.as_mut() else { panic!() };
        t.elem_type = Some(DataType::Float16 as i32);
        let wide = widen(&model).unwrap();
        let ops: Vec<&str> = wide.graph().node.iter().map(|n| n.op_type()).collect();
        assert_eq!(ops, ["Cast", "Conv"], "the input is float16, the output float already");
        assert_eq!(half_port(&wide.graph().input[0]).unwrap().1, DataType::Float16 as i32);
        assert_eq!(wide.graph().initializer[0].data_type(), FLOAT);
        let (a, b) = (tensor::to_f32(&model.graph().initializer[0]).unwrap(), tensor::to_f32(&wide.graph().initializer[0]).unwrap());
        assert_eq!(a, b);
    }
}
