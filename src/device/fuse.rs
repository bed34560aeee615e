//! What ATC joins into one kernel: a read-only view of the graph after constants and free operators are taken away, and
//! the growth of a kernel along it.

use std::collections::{HashMap, HashSet};

use super::kernel::Vector;
use crate::graph::{
    Index, Model,
    model::{SIMULATION_MARK, ints_attribute},
    proto::NodeProto,
    shape::Shapes,
};

/// How an operator behaves for fusion.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Only constants go in, or only a shape is read: done by the compiler.
    Constant,
    /// The output is the input in other words.
    Free,
    /// Convolution or matrix product.
    Cube,
    /// One result per element; joins chains.
    Elementwise,
    /// BatchNorm that is not folded: its own kernel, or part of an elementwise chain.
    BatchNorm,
    /// Sums, means and extremes over axes, softmax, normalisations.
    Reduce,
    /// Pooling.
    Pool,
    /// Data movement.
    Move,
    /// Anything else: priced as a pass over its data.
    Other,
}

/// The graph as fusion sees it. Values are named by their *root*: the value that free operators only rename.
pub(super) struct View<'m> {
    pub(super) nodes: &'m [NodeProto],
    pub(super) shapes: &'m Shapes,
    pub(super) role: Vec<Role>,
    root: HashMap<&'m str, &'m str>,
    constants: HashSet<&'m str>,
    five: HashSet<&'m str>,
    readers: HashMap<&'m str, Vec<usize>>,
    inputs: HashSet<&'m str>,
    outputs: HashSet<&'m str>,
}

impl<'m> View<'m> {
    /// Classifies the nodes of a model.
    pub(super) fn new(model: &'m Model, shapes: &'m Shapes) -> Self {
        let graph = model.graph();
        let index = Index::new(model);
        let mut view = Self {
            nodes: &graph.node,
            shapes,
            role: Vec::with_capacity(graph.node.len()),
            root: HashMap::new(),
            constants: index.constants.keys().copied().collect(),
            five: HashSet::new(),
            readers: HashMap::new(),
            inputs: model.inputs().map(|i| i.name()).collect(),
            outputs: HashSet::new(),
        };
        for (i, node) in graph.node.iter().enumerate() {
            let role = view.classify(node);
            view.role.push(role);
            let input = node.input.first().map_or("", String::as_str);
            let outputs = node.output.iter().filter(|o| !o.is_empty()).map(String::as_str);
            match role {
                Role::Constant => view.constants.extend(outputs),
                Role::Free => {
                    let root = view.root(input);
                    view.root.extend(outputs.map(|o| (o, root)));
                }
                _ => {
                    if view.keeps_channels(node, role) {
                        view.five.extend(outputs);
                    }
                    for input in view.variable_inputs(i) {
                        let readers = view.readers.entry(input).or_default();
                        if readers.last() != Some(&i) {
                            readers.push(i);
                        }
                    }
                }
            }
        }
        view.outputs = graph.output.iter().map(|o| view.root(o.name())).collect();
        view
    }

    /// The value this one is another name of.
    pub(super) fn root<'a>(&self, value: &'a str) -> &'a str
    where
        'm: 'a,
    {
        self.root.get(value).copied().unwrap_or(value)
    }

    /// Whether a value is known when the model is compiled.
    pub(super) fn is_constant(&self, value: &str) -> bool {
        self.constants.contains(value)
    }

    /// Whether a value lies in memory as NC1HWC0, its channels in blocks.
    pub(super) fn is_five(&self, value: &str) -> bool {
        self.five.contains(self.root(value))
    }

    /// Roots of a node's inputs that are not constants.
    pub(super) fn variable_inputs(&self, node: usize) -> Vec<&'m str> {
        let inputs = self.nodes[node].input.iter().filter(|n| !n.is_empty() && !self.constants.contains(n.as_str()));
        inputs.map(|n| self.root(n.as_str())).collect()
    }

    /// Whether something besides the given nodes needs the value.
    fn leaves(&self, value: &str, inside: &[usize]) -> bool {
        self.outputs.contains(value) || self.readers.get(value).is_some_and(|r| r.iter().any(|n| !inside.contains(n)))
    }

    /// Whether the value is one of the graph's outputs.
    pub(super) fn is_output(&self, value: &str) -> bool {
        self.outputs.contains(value)
    }

    /// Whether the value is one of the graph's inputs.
    pub(super) fn is_input(&self, value: &str) -> bool {
        self.inputs.contains(value)
    }

    /// Whether a node begins x·σ(x), in one operator or two: it needs its input twice and stays out of the kernel that makes it.
    pub(super) fn is_swish(&self, node: usize) -> bool {
        let kind = |n: usize| self.nodes[n].op_type();
        match kind(node) {
            "HardSwish" | "Swish" | "QuickGelu" | "Mish" => true,
            "Sigmoid" | "HardSigmoid" | "Tanh" => {
                let (Some(&x), Some(y)) = (self.variable_inputs(node).first(), self.nodes[node].output.first()) else { return false };
                let readers = self.readers.get(y.as_str()).map_or(&[][..], Vec::as_slice);
                readers.iter().any(|&r| kind(r) == "Mul" && self.variable_inputs(r).contains(&x))
            }
            _ => false,
        }
    }

    /// Values made inside a set of nodes and needed outside it.
    pub(super) fn results(&self, inside: &[usize]) -> Vec<&'m str> {
        let made = inside.iter().flat_map(|&n| &self.nodes[n].output).filter(|o| !o.is_empty()).map(String::as_str);
        made.filter(|v| self.leaves(v, inside)).collect()
    }

    /// Adds the bias, BatchNorm and constant scale that directly follow a linear layer: they vanish into its weights.
    pub(super) fn fold_linear(&self, inside: &mut Vec<usize>) {
        while let Some(next) = inside.last().and_then(|&n| self.sole_reader(n)) {
            let node = &self.nodes[next];
            let scale = matches!(node.op_type(), "Add" | "Sub" | "Mul" | "Div") && self.variable_inputs(next).len() == 1;
            let weights = node.input.iter().filter(|i| self.is_constant(i)).filter_map(|i| self.shapes.elements(i)).max().unwrap_or(0);
            let channels = node
                .output
                .first()
                .and_then(|o| self.shapes.dims(o))
                .map_or(0, |d| if d.len() > 3 { d[1] } else { d.last().copied().unwrap_or(0) });
            if self.role[next] != Role::BatchNorm && !(scale && weights <= channels.max(1)) {
                return;
            }
            inside.push(next);
        }
    }

    /// Grows a kernel along its readers by up to `limit` nodes that `allowed` accepts and whose other operands are there
    /// already, and keeps the longest growth that leaves one result.
    pub(super) fn grow(&self, inside: &mut Vec<usize>, limit: usize, made: &HashSet<&str>, allowed: impl Fn(usize) -> bool) {
        let start = inside.len();
        let mut best = start;
        while inside.len() < start + limit {
            let outputs = inside.iter().flat_map(|&n| &self.nodes[n].output);
            let readers = outputs.filter_map(|o| self.readers.get(o.as_str())).flatten();
            let ready = |n: usize| {
                let own = |v: &str| inside.iter().any(|&k| self.nodes[k].output.iter().any(|o| o == v));
                !inside.contains(&n) && allowed(n) && self.variable_inputs(n).iter().all(|v| made.contains(v) || own(v))
            };
            let Some(next) = readers.copied().filter(|&n| ready(n)).min() else { break };
            inside.push(next);
            if self.results(inside).len() == 1 {
                best = inside.len();
            }
        }
        inside.truncate(best);
    }

    fn sole_reader(&self, node: usize) -> Option<usize> {
        let out = self.nodes[node].output.first()?.as_str();
        match self.readers.get(out).map(Vec::as_slice) {
            Some([reader]) if !self.outputs.contains(out) => Some(*reader),
            _ => None,
        }
    }

    fn classify(&self, node: &NodeProto) -> Role {
        let op = node.op_type();
        if node.input.iter().all(|i| i.is_empty() || self.constants.contains(i.as_str())) || matches!(op, "Shape" | "Size") {
            return Role::Constant;
        }
        if node.name().contains(SIMULATION_MARK) {
            return Role::Free;
        }
        match op {
            "Identity" | "Dropout" | "Cast" | "QuantizeLinear" | "DequantizeLinear" => Role::Free,
            "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => {
                if self.unpacks(node) {
                    Role::Move
                } else {
                    Role::Free
                }
            }
            "Conv" | "FusedConv" | "ConvTranspose" | "Gemm" | "MatMul" | "Attention" => Role::Cube,
            "BatchNormalization" => Role::BatchNorm,
            "MaxPool" | "AveragePool" | "LpPool" | "GlobalAveragePool" | "GlobalMaxPool" => Role::Pool,
            "Softmax"
            | "LogSoftmax"
            | "LayerNormalization"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "LRN"
            | "LpNormalization"
            | "MeanVarianceNormalization"
            | "ArgMax"
            | "ArgMin"
            | "RMSNormalization" => Role::Reduce,
            "Concat" | "Slice" | "Split" | "Transpose" | "Pad" | "Resize" | "Upsample" | "Gather" | "GatherElements" | "GatherND"
            | "Expand" | "Tile" | "DepthToSpace" | "SpaceToDepth" => Role::Move,
            _ if op.starts_with("Reduce") => Role::Reduce,
            _ if pass_of(op).is_some() => Role::Elementwise,
            _ => Role::Other,
        }
    }

    /// Whether a reshape takes NC1HWC0 with more than one pixel apart. The five-dimensional step of a channel shuffle does not.
    fn unpacks(&self, node: &NodeProto) -> bool {
        let (Some(input), Some(output)) = (node.input.first(), node.output.first()) else { return false };
        let (Some(from), Some(to)) = (self.shapes.dims(input), self.shapes.dims(output)) else { return false };
        let pixels = from.iter().skip(2).fold(1usize, |n, &d| n.saturating_mul(d));
        self.is_five(input) && pixels > 1 && !(4..=5).contains(&to.len())
    }

    fn keeps_channels(&self, node: &NodeProto, role: Role) -> bool {
        let rank = node.output.first().and_then(|o| self.shapes.dims(o)).map_or(0, <[usize]>::len);
        match role {
            Role::Cube => rank >= 4 && !matches!(node.op_type(), "Gemm" | "MatMul" | "Attention"),
            Role::Move if node.op_type() == "Transpose" => {
                rank == 5 && ints_attribute(node, "perm").is_some() && self.is_five(&node.input[0])
            }
            _ => rank >= 4 && node.input.iter().any(|i| self.is_five(i)),
        }
    }
}

/// What the passes of an elementwise operator cost on the vector unit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pass {
    /// So many passes.
    Plain(f64),
    /// A ReLU: mostly free on the way out of the cube.
    Relu,
    /// HardSigmoid and HardSwish.
    HardSigmoid,
    /// One exponential or logarithm.
    Sigmoid,
    /// More than one, or a polynomial.
    Erf,
}

/// The passes of an elementwise operator; none for operators that are not elementwise.
pub(super) fn pass_of(op: &str) -> Option<Pass> {
    Some(match op {
        "Relu" => Pass::Relu,
        "Add" | "Sub" | "Mul" | "Max" | "Min" | "Sum" | "Mean" | "Abs" | "Neg" | "And" | "Or" | "Not" | "Equal" | "Greater" | "Less"
        | "GreaterOrEqual" | "LessOrEqual" => Pass::Plain(1.0),
        "Clip" | "LeakyRelu" | "PRelu" | "ThresholdedRelu" | "Where" | "Reciprocal" | "Floor" | "Ceil" | "Round" | "Sign" => {
            Pass::Plain(2.0)
        }
        "Div" | "Sqrt" | "Pow" | "BatchNormalization" => Pass::Plain(3.0),
        "HardSigmoid" | "HardSwish" => Pass::HardSigmoid,
        "Sigmoid" | "Exp" | "Log" | "Mod" | "Elu" | "Selu" | "Celu" | "Softplus" | "Softsign" | "Swish" | "QuickGelu" => Pass::Sigmoid,
        "Tanh" | "Gelu" | "FastGelu" | "BiasGelu" | "Mish" | "Erf" | "Sin" | "Cos" => Pass::Erf,
        _ => return None,
    })
}

impl Vector {
    /// Adds the passes of an elementwise operator over so many elements.
    pub(super) fn add(&mut self, op: &str, elements: f64) {
        match pass_of(op) {
            Some(Pass::Plain(passes)) => self.plain += passes * elements,
            Some(Pass::Relu) => self.relu += elements,
            Some(Pass::HardSigmoid) => self.hard_sigmoid += elements,
            Some(Pass::Sigmoid) => self.sigmoid += elements,
            Some(Pass::Erf) => self.erf += elements,
            None => {}
        }
    }
}
