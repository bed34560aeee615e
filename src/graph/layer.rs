//! Layers: nodes with a constant weight that compression acts on, and why the other candidates are left alone.

use std::collections::{BTreeMap, HashSet};

use super::{
    Index, Model,
    model::{attribute, int_attribute},
    proto::{NodeProto, tensor_proto::DataType},
    shape::Shapes,
    tensor,
};

/// Operator of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayerOp {
    /// Convolution; weight (c_out, c_in / groups, k…).
    Conv,
    /// Transposed convolution; weight (c_in, c_out / groups, k…).
    ConvTranspose,
    /// Matrix product with bias; weight (out, in) or (in, out) by `transB`.
    Gemm,
    /// Matrix product with a constant right side; weight (in, out).
    MatMul,
}

impl LayerOp {
    /// The ONNX operator's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Conv => "Conv",
            Self::ConvTranspose => "ConvTranspose",
            Self::Gemm => "Gemm",
            Self::MatMul => "MatMul",
        }
    }
}

/// A node that compression acts on.
#[derive(Debug, Clone)]
pub struct Layer {
    /// Index of the node in the graph.
    pub node: usize,
    /// Name of the node, which is the layer's name everywhere.
    pub name: String,
    /// Operator.
    pub op: LayerOp,
    /// The activation it reads.
    pub input: String,
    /// The value it makes.
    pub output: String,
    /// Its weight.
    pub weight: String,
    /// Its bias, if it has one.
    pub bias: Option<String>,
    /// Shape of the weight.
    pub weight_dims: Vec<usize>,
    /// Axis of the weight that runs over output channels.
    pub out_axis: usize,
    /// Axis of the weight that runs over input channels.
    pub in_axis: usize,
    /// Convolution groups; 1 for matrix products.
    pub groups: usize,
    /// Output channels.
    pub channels_out: usize,
    /// Input channels.
    pub channels_in: usize,
    /// Multiply-adds for one batch of the shapes it was found with; 0 if a shape is unknown.
    pub macs: u64,
    /// No other layer stands between a graph input and this one.
    pub first: bool,
    /// No other layer stands between this one and a graph output.
    pub last: bool,
}

impl Layer {
    /// A convolution with one input channel per group and as many outputs as inputs.
    pub fn is_depthwise(&self) -> bool {
        self.op == LayerOp::Conv && self.groups > 1 && self.groups == self.channels_in && self.channels_out == self.channels_in
    }
}

/// A node that looks like a layer but is left in float, with the reason.
#[derive(Debug, Clone)]
pub struct Skipped {
    /// Node name.
    pub name: String,
    /// Operator.
    pub op: String,
    /// Why it is left alone.
    pub reason: String,
}

/// What compression can act on in a model.
#[derive(Debug, Clone)]
pub struct Layers {
    /// Layers in graph order.
    pub layers: Vec<Layer>,
    /// Nodes left in float, with reasons.
    pub skipped: Vec<Skipped>,
}

impl Layers {
    /// Finds the layers of a model's main graph. Weights may be without data.
    pub fn find(model: &Model, shapes: &Shapes) -> Self {
        let index = Index::new(model);
        let mut found = Self { layers: Vec::new(), skipped: Vec::new() };
        for (i, node) in model.graph().node.iter().enumerate() {
            match examine(i, node, &index, shapes) {
                Ok(Some(layer)) => found.layers.push(layer),
                Ok(None) => {}
                Err(reason) => found.skipped.push(Skipped { name: node.name().into(), op: node.op_type().into(), reason }),
            }
        }
        found.mark_ends(model);
        found
    }

    /// Position of a layer by name.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.layers.iter().position(|l| l.name == name)
    }

    fn mark_ends(&mut self, model: &Model) {
        let by_node: BTreeMap<usize, usize> = self.layers.iter().enumerate().map(|(l, layer)| (layer.node, l)).collect();
        let nodes = &model.graph().node;
        let mut after_layer: HashSet<&str> = HashSet::new();
        for (i, node) in nodes.iter().enumerate() {
            let tainted = node.input.iter().any(|v| after_layer.contains(v.as_str()));
            if let Some(&l) = by_node.get(&i) {
                self.layers[l].first = !tainted;
            }
            if tainted || by_node.contains_key(&i) {
                after_layer.extend(node.output.iter().map(String::as_str));
            }
        }
        let mut before_layer: HashSet<&str> = HashSet::new();
        for (i, node) in nodes.iter().enumerate().rev() {
            let tainted = node.output.iter().any(|v| before_layer.contains(v.as_str()));
            if let Some(&l) = by_node.get(&i) {
                self.layers[l].last = !tainted;
            }
            if tainted || by_node.contains_key(&i) {
                before_layer.extend(node.input.iter().map(String::as_str));
            }
        }
    }
}

fn examine(i: usize, node: &NodeProto, index: &Index<'_>, shapes: &Shapes) -> Result<Option<Layer>, String> {
    let op = match (node.domain(), node.op_type()) {
        ("" | "ai.onnx", "Conv") => LayerOp::Conv,
        ("" | "ai.onnx", "ConvTranspose") => LayerOp::ConvTranspose,
        ("" | "ai.onnx", "Gemm") => LayerOp::Gemm,
        ("" | "ai.onnx", "MatMul") => LayerOp::MatMul,
        (_, op) if op.starts_with("QLinear") || op.ends_with("Integer") => return Err("already quantized".into()),
        _ if node.attribute.iter().any(|a| a.g.is_some()) => return Err("has a subgraph, which is kept whole".into()),
        _ => return Ok(None),
    };
    let input = |slot: usize| node.input.get(slot).map(String::as_str).filter(|s| !s.is_empty());
    let (Some(data), Some(weight)) = (input(0), input(1)) else { return Err("has no weight input".into()) };
    if index.constants.contains_key(data) && op == LayerOp::MatMul {
        return Err("the constant stands on the left side of the product".into());
    }
    let Some(tensor) = index.constants.get(weight) else {
        let made_by = index.producer.contains_key(weight);
        return match op {
            LayerOp::MatMul if made_by => Err("both sides of the product are activations".into()),
            _ => Err("its weight is not a constant".into()),
        };
    };
    if !tensor::is_float(tensor) {
        return Err("its weight is not a float tensor: already quantized".into());
    }
    if tensor.data_type() != DataType::Float as i32 {
        return Err("its weight is not stored in 32-bit floats".into());
    }
    if index.readers(weight).len() > 1 {
        return Err(format!("its weight {weight} is shared with another node"));
    }
    let dims = tensor::dims(tensor);
    let groups = usize::try_from(int_attribute(node, "group", 1)).unwrap_or(0);
    let (out_axis, in_axis) = match op {
        LayerOp::Conv => (0, 1),
        LayerOp::ConvTranspose => (1, 0),
        LayerOp::Gemm if int_attribute(node, "transB", 0) == 1 => (0, 1),
        LayerOp::Gemm | LayerOp::MatMul => (1, 0),
    };
    let convolution = matches!(op, LayerOp::Conv | LayerOp::ConvTranspose);
    if dims.contains(&0) || groups == 0 || (convolution && dims.len() < 3) || (!convolution && dims.len() != 2) {
        return Err(format!("its weight has the shape {dims:?}"));
    }
    if op == LayerOp::Gemm {
        let plain = |name: &str| attribute(node, name).is_none_or(|a| (a.f() - 1.0).abs() < f32::EPSILON);
        if int_attribute(node, "transA", 0) != 0 || !plain("alpha") || !plain("beta") {
            return Err("transA, alpha or beta is set".into());
        }
    }
    let (channels_out, channels_in) = match op {
        LayerOp::Conv => (dims[0], dims[1] * groups),
        LayerOp::ConvTranspose => (dims[1] * groups, dims[0]),
        LayerOp::Gemm | LayerOp::MatMul => (dims[out_axis], dims[in_axis]),
    };
    let bias = match input(2) {
        Some(b) if index.constants.get(b).is_some_and(|t| tensor::is_float(t) && t.dims.iter().product::<i64>() == channels_out as i64) => {
            Some(b)
        }
        Some(_) => return Err("its bias is not a constant vector over the output channels".into()),
        None => None,
    };
    let output = node.output.first().cloned().unwrap_or_default();
    let macs = match op {
        LayerOp::ConvTranspose => shapes.dims(data).map_or(0, |d| product(d) / d.get(1).copied().unwrap_or(1).max(1) as u64),
        _ => shapes.dims(&output).map_or(0, |d| product(d) / channels_out as u64),
    } * product(&dims);
    Ok(Some(Layer {
        node: i,
        name: node.name().to_string(),
        op,
        input: data.to_string(),
        output,
        weight: weight.to_string(),
        bias: bias.map(str::to_string),
        weight_dims: dims,
        out_axis,
        in_axis,
        groups,
        channels_out,
        channels_in,
        macs,
        first: false,
        last: false,
    }))
}

fn product(dims: &[usize]) -> u64 {
    dims.iter().fold(1_u64, |p, &d| p.saturating_mul(d as u64))
}
