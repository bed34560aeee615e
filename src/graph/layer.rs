//! Layers: nodes with a constant weight that compression acts on, and why the other candidates are left alone.

use std::collections::{BTreeMap, HashSet};

use super::{
    Index, Model,
    model::{attribute, int_attribute, ints_attribute},
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
    /// Matrix product with a constant side: weight (…, in, out) on the right, (…, out, in) on the left.
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

    /// Conv or ConvTranspose.
    pub const fn is_convolution(self) -> bool {
        matches!(self, Self::Conv | Self::ConvTranspose)
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
    /// Its bias, if it has one; for MatMul that of the Add behind it.
    pub bias: Option<String>,
    /// The Add that brings the bias of a MatMul.
    pub bias_node: Option<usize>,
    /// Input slot of the weight: 0 for a constant left side of a matrix product, else 1.
    pub slot: usize,
    /// Whether another node, or a subgraph, reads the weight as well.
    pub shares_weight: bool,
    /// Whether a 3-D convolution has gaps along its depth.
    pub deep_dilation: bool,
    /// Whether the layer transposes its input first (`transA` of Gemm).
    pub transposed_input: bool,
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
    /// Number of dimensions of its output; none if unknown.
    pub output_rank: Option<usize>,
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

    /// Whether the weight is a batch of matrices instead of one.
    pub fn is_batched(&self) -> bool {
        !self.op.is_convolution() && self.weight_dims.len() > 2
    }

    /// Input slot of the activation.
    pub const fn data_slot(&self) -> usize {
        1 - self.slot
    }

    /// Axis of the input that runs over channels, counted from the front, or from the end if negative.
    pub const fn input_axis(&self) -> isize {
        match self.op {
            LayerOp::Conv | LayerOp::ConvTranspose => 1,
            LayerOp::Gemm if self.transposed_input => 0,
            LayerOp::Gemm | LayerOp::MatMul => -1 - (self.slot == 0) as isize,
        }
    }

    /// As [`Layer::input_axis`], of the output.
    pub const fn output_axis(&self) -> isize {
        match self.op {
            LayerOp::Conv | LayerOp::ConvTranspose => 1,
            LayerOp::Gemm | LayerOp::MatMul => -1 - (self.slot == 0) as isize,
        }
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
    /// Weights that hold the same, in groups, by name: where nothing is done to several, one is enough.
    pub same: Vec<Vec<String>>,
}

impl Layers {
    /// Finds the layers of a model's main graph. Weights may be without data.
    pub fn find(model: &Model, shapes: &Shapes) -> Self {
        let index = Index::new(model);
        let mut found = Self { layers: Vec::new(), skipped: Vec::new(), same: Vec::new() };
        for (i, node) in model.graph().node.iter().enumerate() {
            match examine(i, node, model, &index, shapes) {
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

fn examine(i: usize, node: &NodeProto, model: &Model, index: &Index<'_>, shapes: &Shapes) -> Result<Option<Layer>, String> {
    let standard = matches!(node.domain(), "" | "ai.onnx");
    let op = match (standard, node.op_type()) {
        (true, "Conv") => LayerOp::Conv,
        (true, "ConvTranspose") => LayerOp::ConvTranspose,
        (true, "Gemm") => LayerOp::Gemm,
        (true, "MatMul") => LayerOp::MatMul,
        _ => return left_alone(node, index).map_or(Ok(None), Err),
    };
    let input = |slot: usize| node.input.get(slot).map(String::as_str).filter(|s| !s.is_empty());
    let (Some(first), Some(second)) = (input(0), input(1)) else { return Err("has no weight input".into()) };
    let known = |v: &str| index.constants.get(v).copied();
    let (slot, tensor) = match (known(first), known(second)) {
        (Some(_), Some(_)) => return Err("both sides are constants".into()),
        (None, Some(t)) => (1, t),
        (Some(t), None) if op == LayerOp::MatMul => (0, t),
        (Some(_), None) if op == LayerOp::Gemm => return Err("its constant stands on the left".into()),
        _ => return Err(not_constant(op, first, second, model, index)),
    };
    let (data, weight) = if slot == 1 { (first, second) } else { (second, first) };
    if !tensor::is_float(tensor) {
        return Err("already quantized: its weight is stored in integers".into());
    }
    if tensor.data_type() != DataType::Float as i32 {
        return Err("its weight is not stored in 32-bit floats".into());
    }
    let dims = tensor::dims(tensor);
    let groups = usize::try_from(int_attribute(node, "group", 1)).unwrap_or(0);
    let rank = dims.len();
    if tensor::elements(tensor).is_err() || dims.contains(&0) || groups == 0 || rank < 2 || (op.is_convolution() && rank < 3) {
        return Err(format!("its weight has the shape {dims:?}"));
    }
    let (out_axis, in_axis) = match (op, slot) {
        (LayerOp::Conv, _) => (0, 1),
        (LayerOp::ConvTranspose, _) => (1, 0),
        (LayerOp::Gemm, _) if rank != 2 => return Err(format!("its weight has the shape {dims:?}")),
        (LayerOp::Gemm, _) if int_attribute(node, "transB", 0) == 1 => (0, 1),
        (LayerOp::Gemm | LayerOp::MatMul, 1) => (rank - 1, rank - 2),
        (LayerOp::Gemm | LayerOp::MatMul, _) => (rank - 2, rank - 1),
    };
    if op == LayerOp::Gemm {
        let plain = |name: &str| attribute(node, name).is_none_or(|a| (a.f() - 1.0).abs() < f32::EPSILON);
        if !plain("alpha") || (!plain("beta") && input(2).is_some()) {
            return Err("alpha or beta is set, and its weight or bias is shared".into());
        }
    }
    let (channels_out, channels_in) = match op {
        LayerOp::Conv => (dims[0], dims[1].saturating_mul(groups)),
        LayerOp::ConvTranspose => (dims[1].saturating_mul(groups), dims[0]),
        LayerOp::Gemm | LayerOp::MatMul => (dims[out_axis], dims[in_axis]),
    };
    if op.is_convolution() && (channels_out % groups != 0 || channels_in % groups != 0) {
        return Err(format!("{channels_in} channels to {channels_out} do not go into {groups} groups"));
    }
    if channels_out.max(channels_in) > MOST_CHANNELS {
        return Err(format!("{channels_in} channels to {channels_out} are too many to follow"));
    }
    if let Some(x) = shapes.dims(data)
        && op.is_convolution()
        && (x.len() != rank || x[1] != channels_in)
    {
        return Err(format!("its input of shape {x:?} does not fit its weight {dims:?}"));
    }
    let output = node.output.first().cloned().unwrap_or_default();
    let made = shapes.dims(&output).map(|y| if op.is_convolution() { y.get(1) } else { y.get((y.len() + slot).wrapping_sub(2)) });
    if let Some(made) = made
        && made != Some(&channels_out)
    {
        return Err(format!("its output is not told to have the {channels_out} channels that its weight makes"));
    }
    let vector = |b: &str| known(b).is_some_and(|t| tensor::is_float(t) && tensor::elements(t).ok() == Some(channels_out));
    let (bias, bias_node) = match input(2) {
        Some(b) if op != LayerOp::MatMul => {
            if !vector(b) {
                return Err("its bias is not a constant vector over the output channels".into());
            }
            (Some(b), None)
        }
        _ if op == LayerOp::MatMul && slot == 1 => bias_behind(&output, channels_out, model, index),
        _ => (None, None),
    };
    let (bias, bias_node) = (bias.map(str::to_string), bias_node);
    let macs = match op {
        LayerOp::ConvTranspose => shapes.dims(data).map_or(0, |d| product(d) / d.get(1).copied().unwrap_or(1).max(1) as u64),
        _ => shapes.dims(&output).map_or(0, |d| product(d) / channels_out as u64),
    }
    .saturating_mul(if op.is_convolution() { product(&dims) } else { (channels_in as u64).saturating_mul(channels_out as u64) });
    Ok(Some(Layer {
        node: i,
        name: node.name().to_string(),
        op,
        input: data.to_string(),
        weight: weight.to_string(),
        bias,
        bias_node,
        slot,
        shares_weight: index.readers(weight).len() > 1,
        deep_dilation: rank == 5 && ints_attribute(node, "dilations").is_some_and(|d| d.first().is_some_and(|&d| d > 1)),
        transposed_input: op == LayerOp::Gemm && int_attribute(node, "transA", 0) == 1,
        weight_dims: dims,
        out_axis,
        in_axis,
        groups,
        channels_out,
        channels_in,
        macs,
        output_rank: shapes.dims(&output).map(<[usize]>::len),
        output,
        first: false,
        last: false,
    }))
}

/// The vector that an Add right behind a matrix product brings, and the Add.
fn bias_behind<'m>(output: &str, channels: usize, model: &'m Model, index: &Index<'m>) -> (Option<&'m str>, Option<usize>) {
    let found = index.sole_reader(output).and_then(|next| {
        let add = &model.graph().node[next];
        let constant = add.input.iter().find(|v| v.as_str() != output)?;
        let tensor = *index.constants.get(constant.as_str())?;
        let is_vector = tensor.dims.last().is_some_and(|&d| d == channels as i64) && tensor::elements(tensor).ok() == Some(channels);
        (add.op_type() == "Add" && is_vector && tensor::is_float(tensor)).then_some((constant.as_str(), next))
    });
    found.unzip()
}

/// Why a layer whose weight is no constant is left alone.
fn not_constant(op: LayerOp, first: &str, second: &str, model: &Model, index: &Index<'_>) -> String {
    if let Some(by) = [second, first].iter().find_map(|v| integers_behind(v, model, index)) {
        return format!("already quantized: its weight comes in integers through {by}");
    }
    match op {
        LayerOp::MatMul | LayerOp::Gemm if index.producer.contains_key(second) => "both sides of the product are activations".into(),
        _ => "its weight is not a constant".into(),
    }
}

/// The operator that turns integer constants into the value, if they are what it is made of.
fn integers_behind(value: &str, model: &Model, index: &Index<'_>) -> Option<String> {
    let (mut at, mut by) = (value, None);
    for _ in 0..8 {
        if let Some(t) = index.constants.get(at) {
            return by.filter(|_| !tensor::is_float(t));
        }
        let node = &model.graph().node[*index.producer.get(at)?];
        let op = node.op_type();
        if !matches!(
            op,
            "DequantizeLinear" | "Cast" | "Mul" | "Sub" | "Add" | "Transpose" | "Reshape" | "Identity" | "Squeeze" | "Unsqueeze"
        ) {
            return None;
        }
        by = Some(op.to_string());
        let inner = |v: &&String| !index.constants.get(v.as_str()).is_some_and(|t| tensor::is_float(t));
        at = node.input.iter().find(inner)?;
    }
    None
}

/// Why a node that is no layer is left alone; none for those that have nothing to compress.
fn left_alone(node: &NodeProto, index: &Index<'_>) -> Option<String> {
    let op = node.op_type();
    if op.starts_with("QLinear") || op.ends_with("Integer") || op.starts_with("DynamicQuantize") && op != "DynamicQuantizeLinear" {
        return Some("already quantized".into());
    }
    let inside: Vec<&NodeProto> = super::model::inner_nodes(node);
    if !inside.is_empty() {
        let held = |kind: &str| inside.iter().filter(|n| n.op_type() == kind).count();
        let kinds = ["Conv", "ConvTranspose", "Gemm", "MatMul", "LSTM", "GRU"];
        let list: Vec<String> = kinds.iter().map(|&k| (held(k), k)).filter(|c| c.0 > 0).map(|(n, k)| format!("{n} {k}")).collect();
        let holds = if list.is_empty() { String::new() } else { format!("; it holds {}", list.join(", ")) };
        return Some(format!("its subgraphs are kept whole{holds}"));
    }
    if !matches!(node.domain(), "" | "ai.onnx") {
        return Some(format!("an operator of the domain {} is passed through", node.domain()));
    }
    let weight =
        node.input.iter().filter_map(|i| index.constants.get(i.as_str())).find(|t| {
            tensor::is_float(t) && t.dims.iter().filter(|&&d| d > 1).count() > 1 && tensor::elements(t).is_ok_and(|n| n >= LARGE)
        })?;
    Some(match op {
        "LSTM" | "GRU" | "RNN" => "recurrent layers are not compressed".into(),
        "Gather" => format!("a table of {:?} is looked up, not multiplied", weight.dims),
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "Max" | "Min" | "Where" | "Concat" | "Expand" | "Tile" => return None,
        _ => format!("{op} with a constant of {:?} is not an operator that is compressed", weight.dims),
    })
}

/// Layers with more channels than this are left alone: a table of words, or nonsense.
const MOST_CHANNELS: usize = 1 << 18;

/// Constants from this many elements on are told of where their operator is not compressed.
const LARGE: usize = 1024;

fn product(dims: &[usize]) -> u64 {
    dims.iter().fold(1_u64, |p, &d| p.saturating_mul(d as u64))
}
