//! Reverse-mode differentiation of ONNX graphs: a graph in, a graph out that also computes gradients.
//!
//! One rule an operator (Griewank and Walther, "Evaluating Derivatives", 2008, chapter 3): given the gradients of a node's outputs it
//! writes nodes that compute those of its inputs. Shapes are those of one batch, so that what a shape decides is decided here. Files by
//! kind of operator:
//!
//! * [`tape`]: nodes being written; [`site`]: a node and what is known of it.
//! * `conv`, `matrix`: layers; `binary`, `unary`: element by element; `norm`, `pool`, `reduce`: statistics and windows; `movement`,
//!   `index`, `resize`: what only rearranges.
//!
//! Gradients of what is not smooth are those of the usual frameworks: 0 at the corner of a ReLU, the first of equal maxima of a window
//! or of operands; equal maxima of a reduction share.

mod binary;
#[cfg(test)]
mod check;
mod conv;
mod index;
mod matrix;
mod movement;
mod norm;
mod pool;
pub mod quantize;
mod reduce;
#[cfg(test)]
mod reference;
mod resize;
pub mod site;
pub mod tape;
mod unary;
pub mod window;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use site::Site;
pub use tape::Tape;

use crate::{
    error::{Error, Result},
    graph::{
        Index, Model,
        proto::{NodeProto, OperatorSetIdProto, TensorShapeProto, TypeProto, ValueInfoProto, type_proto},
        shape::Shapes,
    },
};

/// A rule's answer: the gradient of each input, in order; none where there is no gradient or none was wanted.
pub(crate) type Gradients = Result<Vec<Option<String>>>;

/// A graph with its gradients.
#[derive(Debug, Clone)]
pub struct Differentiated {
    /// The network and behind it the nodes that compute gradients. Its outputs are those asked for, then the gradients, in the order of
    /// `gradients`.
    pub model: Model,
    /// The gradient of each value that was asked for, by the value's name; none for values that nothing depends on.
    pub gradients: BTreeMap<String, String>,
}

/// What to differentiate.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// Values, and the gradients that they have: names of values of the graph, of the same shape. A loss that is one number
    /// has a constant 1.
    pub seeds: &'a [(String, String)],
    /// Values whose gradients are wanted.
    pub of: &'a [String],
    /// Values that the new graph gives besides.
    pub outputs: &'a [String],
    /// Whether operators of ours may stand for chains of standard ones.
    pub own: bool,
}

/// Writes the nodes that compute gradients behind a network. `shapes` are those of its values at the batch it is to run with.
///
/// # Errors
/// If an operator between what is wanted and the seeds has no rule, or a shape is not known: the node is named, before any work.
pub fn differentiate(model: &Model, shapes: &Shapes, wanted: Wanted<'_>) -> Result<Differentiated> {
    let index = Index::new(model);
    let path = path(model, &index, wanted);
    let without = model.graph().node.iter().enumerate().filter(|(i, n)| path.contains(i) && rule_of(n).is_none());
    let without: BTreeMap<&str, &str> = without.map(|(_, n)| (n.op_type(), n.name())).collect();
    if let Some((op, name)) = without.iter().next() {
        let all: Vec<&str> = without.keys().copied().collect();
        let remedy = format!(
            "only networks without {} in between can be trained; what of it is compressed can be measured all the same",
            all.join(", ")
        );
        return Err(Error::layer(*name, format!("the operator {op} cannot be differentiated"), remedy));
    }
    let mut tape = Tape::named("grad", model.opset(), wanted.own);
    let mut found: HashMap<String, Vec<String>> = HashMap::new();
    for (value, seed) in wanted.seeds {
        found.entry(value.clone()).or_default().push(seed.clone());
    }
    let depends = dependants(model, &index, wanted.of);
    for (i, node) in model.graph().node.iter().enumerate().rev().filter(|(i, _)| path.contains(i)) {
        let given: Vec<Option<String>> = node.output.iter().map(|o| total(&mut tape, found.get_mut(o))).collect();
        if given.iter().all(Option::is_none) {
            continue;
        }
        let needs: Vec<bool> = node.input.iter().map(|v| depends.contains(v.as_str())).collect();
        let site = Site { node, shapes, index: &index, opset: model.opset(), needs, at: i };
        let Some(rule) = rule_of(node) else { continue };
        let gradients = rule(&site, &mut tape, &given)?;
        for ((input, gradient), needed) in node.input.iter().zip(gradients).zip(&site.needs) {
            if let Some(gradient) = gradient.filter(|_| *needed) {
                found.entry(input.clone()).or_default().push(gradient);
            }
        }
    }
    let mut gradients = BTreeMap::new();
    for value in wanted.of {
        if let Some(gradient) = total(&mut tape, found.get_mut(value)) {
            gradients.insert(value.clone(), gradient);
        }
    }
    let outputs: Vec<&str> = wanted.outputs.iter().chain(gradients.values()).map(String::as_str).collect();
    let mut forward = model.clone();
    if wanted.own {
        let site = |(at, node)| Site { node, shapes, index: &index, opset: model.opset(), needs: vec![], at };
        let quick = model.graph().node.iter().enumerate().map(|n| (n.1.op_type() == "Conv").then(|| conv::own_node(&site(n))).flatten());
        forward.graph_mut().node.iter_mut().zip(quick).for_each(|(node, quick)| *node = quick.unwrap_or_else(|| node.clone()));
    }
    let model = assembled(forward, tape, &outputs)?;
    Ok(Differentiated { model, gradients })
}

/// The sum of the gradients that a value has from its readers; what was several is one from then on.
fn total(tape: &mut Tape, found: Option<&mut Vec<String>>) -> Option<String> {
    let found = found?;
    while found.len() > 1 {
        let (a, b) = (found.remove(0), found.remove(0));
        let sum = tape.add(&a, &b);
        found.insert(0, sum);
    }
    found.first().cloned()
}

/// Values that depend on some of those wanted, these included; nothing goes through operators whose results are piecewise constant.
fn dependants<'m>(model: &'m Model, index: &Index<'m>, of: &'m [String]) -> HashSet<&'m str> {
    let mut reached: HashSet<&str> = of.iter().map(String::as_str).collect();
    let mut todo: BTreeSet<usize> = of.iter().flat_map(|v| index.readers(v)).map(|&(n, _)| n).collect();
    while let Some(n) = todo.pop_first() {
        let node = &model.graph().node[n];
        if is_flat(node.op_type()) {
            continue;
        }
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if reached.insert(output) {
                todo.extend(index.readers(output).iter().map(|&(n, _)| n));
            }
        }
    }
    reached
}

/// Nodes between what is wanted and the seeds.
fn path(model: &Model, index: &Index<'_>, wanted: Wanted<'_>) -> HashSet<usize> {
    let depends = dependants(model, index, wanted.of);
    let mut path = HashSet::new();
    let mut todo: Vec<&str> = wanted.seeds.iter().map(|(v, _)| v.as_str()).collect();
    while let Some(value) = todo.pop() {
        let Some(&n) = index.producer.get(value).filter(|_| depends.contains(value)) else { continue };
        if path.insert(n) {
            todo.extend(model.graph().node[n].input.iter().map(String::as_str));
        }
    }
    path
}

/// Operators whose results do not change with small changes of their inputs, so that no gradient goes through.
fn is_flat(op: &str) -> bool {
    matches!(
        op,
        "Shape"
            | "Size"
            | "Equal"
            | "Greater"
            | "GreaterOrEqual"
            | "Less"
            | "LessOrEqual"
            | "Not"
            | "And"
            | "Or"
            | "Xor"
            | "ArgMax"
            | "ArgMin"
            | "IsNaN"
            | "IsInf"
            | "NonZero"
            | "Ceil"
            | "Floor"
            | "Round"
            | "Sign"
            | "ConstantOfShape"
    )
}

type Rule = fn(&Site<'_>, &mut Tape, &[Option<String>]) -> Gradients;

/// The rule of a node's operator.
fn rule_of(node: &NodeProto) -> Option<Rule> {
    if !matches!(node.domain(), "" | "ai.onnx" | crate::runtime::DOMAIN) && node.op_type() != "Gelu" {
        return None;
    }
    Some(match node.op_type() {
        "Conv" => conv::conv,
        "ConvTranspose" => conv::conv_transpose,
        "Gemm" => matrix::gemm,
        "MatMul" => matrix::matmul,
        quantize::FAKE_QUANTIZE => quantize::rule,
        "Add" | "Sub" | "Mul" | "Div" | "Pow" | "PRelu" | "Where" | "Max" | "Min" | "Sum" => binary::rule_of(node.op_type())?,
        op => {
            let kinds = [unary::rule_of, pool::rule_of, norm::rule_of, movement::rule_of, index::rule_of, resize::rule_of, reduce::rule_of];
            kinds.iter().find_map(|kind| kind(op))?
        }
    })
}

/// The network with the nodes of a tape behind its own.
fn assembled(model: Model, tape: Tape, outputs: &[&str]) -> Result<Model> {
    let mut out = model;
    let graph = out.graph_mut();
    graph.node.extend(tape.nodes);
    graph.initializer.extend(tape.tensors.into_values());
    graph.value_info.clear();
    graph.output = outputs.iter().map(|name| float_value(name, None)).collect();
    for (domain, version) in [("com.microsoft", 1), (crate::runtime::DOMAIN, 1)] {
        if !out.proto.opset_import.iter().any(|o| o.domain() == domain) {
            out.proto.opset_import.push(OperatorSetIdProto { domain: Some(domain.into()), version: Some(version) });
        }
    }
    crate::graph::patch::check(&out).map_err(|e| Error::Internal(format!("the gradients broke the graph: {e}")))?;
    Ok(out)
}

/// A float value of a graph, of known dimensions or any.
pub(crate) fn float_value(name: &str, dims: Option<&[usize]>) -> ValueInfoProto {
    use crate::graph::proto::tensor_shape_proto::{Dimension, dimension::Value};
    let dimension = |&d: &usize| Dimension { value: Some(Value::DimValue(d as i64)), ..Default::default() };
    let shape = dims.map(|dims| TensorShapeProto { dim: dims.iter().map(dimension).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(1), shape };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), denotation: None };
    ValueInfoProto { name: Some(name.into()), r#type: Some(kind), ..Default::default() }
}
