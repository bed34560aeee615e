//! Small networks for tests, built node by node; a node bears the name of the value it makes.

use ndarray::{ArrayD, IxDyn};

use super::{
    Model,
    proto::{
        AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
        tensor_proto::DataType,
        tensor_shape_proto::{Dimension, dimension},
        type_proto,
    },
    tensor::{self, int, ints},
};

/// Numbers that differ from each other, between −1 and 1.
pub(crate) fn some(dims: &[usize], seed: usize) -> ArrayD<f32> {
    let mut n = seed + 1;
    ArrayD::from_shape_simple_fn(IxDyn(dims), || {
        n = (n * 7919 + 104_729) % 65_537;
        n as f32 / 32_768.5 - 1.0
    })
}

/// A network with the one input `x`, being built.
pub(crate) struct Net {
    graph: GraphProto,
    opset: i64,
}

impl Net {
    /// A network whose input has these dimensions; the batch is left open.
    pub(crate) fn new(dims: &[i64]) -> Self {
        let open = Dimension { value: Some(dimension::Value::DimParam("n".into())), ..Default::default() };
        let fixed = |&d: &i64| Dimension { value: Some(dimension::Value::DimValue(d)), ..Default::default() };
        let shape = Some(TensorShapeProto { dim: std::iter::once(open).chain(dims[1..].iter().map(fixed)).collect() });
        let tensor = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape };
        let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
        let input = ValueInfoProto { name: Some("x".into()), r#type: Some(kind), ..Default::default() };
        Self { graph: GraphProto { name: Some("test".into()), input: vec![input], ..Default::default() }, opset: 17 }
    }

    /// The same network as one of another operator set.
    pub(crate) fn opset(self, opset: i64) -> Self {
        Self { opset, ..self }
    }

    /// A node with several outputs, named after the first.
    pub(crate) fn several(mut self, op: &str, outputs: &[&str], inputs: &[&str], attributes: Vec<AttributeProto>) -> Self {
        self.graph.node.push(tensor::node(op, outputs[0], inputs, outputs, attributes));
        self
    }

    /// A grouped 3×3 convolution with bias of `channels` = (in, out).
    pub(crate) fn grouped(self, output: &str, input: &str, (c_in, c_out): (usize, usize), groups: usize) -> Self {
        let (w, b) = (format!("{output}.w"), format!("{output}.b"));
        let attributes = vec![ints("pads", &[1, 1, 1, 1]), int("group", groups as i64)];
        self.weight(&w, &[c_out, c_in / groups, 3, 3]).weight(&b, &[c_out]).node("Conv", output, &[input, &w, &b], attributes)
    }

    pub(crate) fn node(mut self, op: &str, output: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> Self {
        self.graph.node.push(tensor::node(op, output, inputs, &[output], attributes));
        self
    }

    pub(crate) fn constant(mut self, tensor: TensorProto) -> Self {
        self.graph.initializer.push(tensor);
        self
    }

    /// A constant of numbers that depend on its place in the network.
    pub(crate) fn weight(self, name: &str, dims: &[usize]) -> Self {
        let seed = 31 * self.graph.initializer.len();
        self.constant(tensor::from_f32(name, &some(dims, seed)))
    }

    /// A convolution with bias of `channels` = (in, out), its window padded to keep the image's size.
    pub(crate) fn conv(self, output: &str, input: &str, (c_in, c_out): (usize, usize), window: usize) -> Self {
        let (w, b, p) = (format!("{output}.w"), format!("{output}.b"), (window / 2) as i64);
        self.weight(&w, &[c_out, c_in, window, window]).weight(&b, &[c_out]).node(
            "Conv",
            output,
            &[input, &w, &b],
            vec![ints("pads", &[p, p, p, p])],
        )
    }

    /// A depthwise 3×3 convolution with bias.
    pub(crate) fn depthwise(self, output: &str, input: &str, channels: usize) -> Self {
        let (w, b) = (format!("{output}.w"), format!("{output}.b"));
        let attributes = vec![ints("pads", &[1, 1, 1, 1]), int("group", channels as i64)];
        self.weight(&w, &[channels, 1, 3, 3]).weight(&b, &[channels]).node("Conv", output, &[input, &w, &b], attributes)
    }

    /// A matrix product with bias of (in, out), the weight as (out, in).
    pub(crate) fn gemm(self, output: &str, input: &str, (c_in, c_out): (usize, usize)) -> Self {
        let (w, b) = (format!("{output}.w"), format!("{output}.b"));
        self.weight(&w, &[c_out, c_in]).weight(&b, &[c_out]).node("Gemm", output, &[input, &w, &b], vec![int("transB", 1)])
    }

    /// A matrix product without bias.
    pub(crate) fn matmul(self, output: &str, input: &str, (c_in, c_out): (usize, usize)) -> Self {
        let w = format!("{output}.w");
        self.weight(&w, &[c_in, c_out]).node("MatMul", output, &[input, &w], vec![])
    }

    pub(crate) fn relu(self, output: &str, input: &str) -> Self {
        self.node("Relu", output, &[input], vec![])
    }

    /// The network with this output.
    pub(crate) fn build(mut self, output: &str) -> Model {
        let kind = type_proto::Tensor { elem_type: Some(DataType::Float as i32), shape: None };
        let kind = TypeProto { value: Some(type_proto::Value::TensorType(kind)), ..Default::default() };
        self.graph.output = vec![ValueInfoProto { name: Some(output.into()), r#type: Some(kind), ..Default::default() }];
        let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(self.opset) };
        let proto = ModelProto { ir_version: Some(8), opset_import: vec![opset], graph: Some(self.graph), ..Default::default() };
        Model { name: "test".into(), proto }
    }
}
