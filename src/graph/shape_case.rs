//! One-node models for the tests of shape rules.

use std::collections::BTreeMap;

use super::{
    Model,
    proto::{AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, attribute_proto::AttributeType},
    shape,
    tensor::{from_i64, int, ints, node, without_data},
};

/// Shape of an output; `None` if unknown.
pub(super) type Found = Option<Vec<usize>>;

/// A node under construction.
pub(super) struct Case {
    node: NodeProto,
    constants: Vec<TensorProto>,
    opset: i64,
}

/// A node of the default domain without inputs.
pub(super) fn case(op: &str) -> Case {
    Case { node: node(op, "n", &[], &[], vec![]), constants: vec![], opset: 21 }
}

impl Case {
    pub(super) fn opset(mut self, opset: i64) -> Self {
        self.opset = opset;
        self
    }

    /// Makes it a node of ONNX Runtime's domain.
    pub(super) fn contrib(mut self) -> Self {
        self.node.domain = Some("com.microsoft".into());
        self
    }

    fn input(mut self, tensor: TensorProto) -> Self {
        self.node.input.push(tensor.name().to_string());
        self.constants.push(tensor);
        self
    }

    /// The next input, of which dimensions alone are known.
    pub(super) fn of(self, dims: &[usize]) -> Self {
        let name = format!("i{}", self.node.input.len());
        self.input(without_data(&name, dims))
    }

    /// The next input, a constant.
    pub(super) fn is(self, values: &[i64]) -> Self {
        let name = format!("i{}", self.node.input.len());
        self.input(from_i64(&name, values))
    }

    /// The next input, a constant without dimensions.
    pub(super) fn scalar(self, value: i64) -> Self {
        let mut tensor = from_i64(&format!("i{}", self.node.input.len()), &[value]);
        tensor.dims.clear();
        self.input(tensor)
    }

    /// Leaves the next input out.
    pub(super) fn without(mut self) -> Self {
        self.node.input.push(String::new());
        self
    }

    pub(super) fn int(self, name: &str, value: i64) -> Self {
        self.attribute(int(name, value))
    }

    pub(super) fn ints(self, name: &str, values: &[i64]) -> Self {
        self.attribute(ints(name, values))
    }

    pub(super) fn string(self, name: &str, value: &str) -> Self {
        let kind = Some(AttributeType::String as i32);
        self.attribute(AttributeProto { name: Some(name.into()), r#type: kind, s: Some(value.into()), ..Default::default() })
    }

    pub(super) fn attribute(mut self, attribute: AttributeProto) -> Self {
        self.node.attribute.push(attribute);
        self
    }

    /// Shapes of the first `n` outputs.
    pub(super) fn outputs(mut self, n: usize) -> Vec<Found> {
        self.node.output = (0..n).map(|i| format!("o{i}")).collect();
        let names = self.node.output.clone();
        let graph = GraphProto { node: vec![self.node], initializer: self.constants, ..Default::default() };
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(self.opset) }];
        let proto = ModelProto { graph: Some(graph), opset_import, ..Default::default() };
        let shapes = shape::infer(&Model { name: "case".into(), proto }, 1, &BTreeMap::new()).unwrap();
        names.iter().map(|n| shapes.dims(n).map(<[usize]>::to_vec)).collect()
    }

    /// Shape of the first output.
    pub(super) fn shape(self) -> Found {
        self.outputs(1).remove(0)
    }
}

/// A known shape.
pub(super) fn is(dims: &[usize]) -> Found {
    Some(dims.to_vec())
}
