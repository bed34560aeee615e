//! An ONNX model as the file has it, and an index over its graph.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use prost::{Message, bytes::Bytes};

use super::{
    external,
    proto::{AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, tensor_proto::DataLocation},
    tensor,
};
use crate::error::{Error, Result};

/// Metadata key under which a compressed model carries its plan; its presence marks the model as compressed.
pub const PLAN_KEY: &str = "gulliver.plan";
/// Metadata key for the precision of each node of a compressed model (JSON: node name → precision).
pub const PRECISION_KEY: &str = "gulliver.precision";
/// Metadata key for the nodes of a compressed model whose weights have 4:2 sparsity (JSON: a list of names); absent where there are none.
pub const SPARSE_KEY: &str = "gulliver.sparse";

/// In the names of nodes and constants that only simulate integers: the chip neither runs nor stores them.
pub const SIMULATION_MARK: &str = ".fakequant.";

/// A parsed ONNX model.
#[derive(Debug, Clone)]
pub struct Model {
    /// File name or given name, for messages.
    pub name: String,
    /// The message tree, complete.
    pub proto: ModelProto,
}

impl Model {
    /// Reads a model file. External data stays on disk until it is asked for; that it is there, and long enough, is checked now.
    ///
    /// # Errors
    /// If the file cannot be read, is not an ONNX model, or its external data is missing.
    pub fn load(path: &Path) -> Result<Self> {
        Self::from_file(path, std::fs::read(path).map_err(Error::io("read", path))?.into())
    }

    /// The model of a file whose bytes were read.
    ///
    /// # Errors
    /// As [`Model::load`].
    pub fn from_file(path: &Path, bytes: Bytes) -> Result<Self> {
        let mut model = Self::from_bytes(&path.display().to_string(), bytes)?;
        let (name, folder) = (model.name.clone(), path.parent().unwrap_or(Path::new(".")));
        tensors_mut(model.graph_mut(), &mut |t| external::resolve(t, folder, &name))?;
        Ok(model)
    }

    /// Parses the bytes of an ONNX file.
    ///
    /// # Errors
    /// If the bytes are not an ONNX model, or its graph is empty or inconsistent.
    pub fn parse(name: &str, bytes: &[u8]) -> Result<Self> {
        Self::from_bytes(name, Bytes::copy_from_slice(bytes))
    }

    /// As [`Model::parse`]; the weights of the model are parts of `bytes`, not copies.
    ///
    /// # Errors
    /// As [`Model::parse`].
    pub fn from_bytes(name: &str, bytes: Bytes) -> Result<Self> {
        let fail = |message: &str, source| Error::Model {
            name: name.to_string(),
            message: message.to_string(),
            remedy: Some("give a complete .onnx file; if it was downloaded or copied, compare its size with the original's".into()),
            source,
        };
        if bytes.is_empty() {
            return Err(fail("the file is empty", None));
        }
        let proto = ModelProto::decode(bytes).map_err(|e| fail("not an ONNX model, or cut short", Some(Box::new(e))))?;
        if proto.graph.as_ref().is_none_or(|g| g.node.is_empty()) {
            return Err(fail("not an ONNX model: it has no graph with nodes", None));
        }
        let mut model = Self { name: name.to_string(), proto };
        tensors_mut(model.graph_mut(), &mut |t| {
            tensor::forget_fill(t);
            Ok(())
        })?;
        model.name_nodes();
        model.sort_nodes();
        super::patch::check(&model)?;
        Ok(model)
    }

    /// The model as the bytes of an ONNX file, external data inside.
    ///
    /// # Errors
    /// If external data cannot be read, or all together is more than one file of ONNX holds.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        let mut whole = None;
        if self.has_external_data() {
            let bytes = self.graph().initializer.iter().map(tensor::size_in_bytes).fold(0u64, u64::saturating_add);
            external::fits_one_file(&self.name, bytes)?;
            let mut proto = self.proto.clone();
            tensors_mut(proto.graph.get_or_insert_default(), &mut |t| {
                *t = tensor::inlined(t)?;
                Ok(())
            })?;
            whole = Some(proto);
        }
        Ok(whole.as_ref().unwrap_or(&self.proto).encode_to_vec())
    }

    /// Whether some tensor's data is not in the message.
    pub fn has_external_data(&self) -> bool {
        tensors(self.graph()).any(|t| t.data_location() == DataLocation::External)
    }

    /// The graph; [`Model::parse`] made sure that there is one.
    pub fn graph(&self) -> &GraphProto {
        self.proto.graph.as_ref().unwrap_or_else(|| unreachable!("a parsed model has a graph"))
    }

    /// The graph, to be changed by whoever builds a new model; rewrites of existing ones go through a patch.
    pub fn graph_mut(&mut self) -> &mut GraphProto {
        self.proto.graph.get_or_insert_default()
    }

    /// Version of the default operator set, 0 if there is none.
    pub fn opset(&self) -> i64 {
        self.proto.opset_import.iter().filter(|o| matches!(o.domain(), "" | "ai.onnx")).map(|o| o.version()).max().unwrap_or(0)
    }

    /// Value of a metadata entry.
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.proto.metadata_props.iter().find(|p| p.key() == key).map(|p| p.value())
    }

    /// Inputs that a caller feeds: graph inputs that are not initializers too.
    pub fn inputs(&self) -> impl Iterator<Item = &ValueInfoProto> {
        let constants: HashSet<&str> = self.graph().initializer.iter().map(|t| t.name()).collect();
        self.graph().input.iter().filter(move |v| !constants.contains(v.name()))
    }

    /// Puts nodes behind those whose results they read. ONNX wants it so; some converters do not do it.
    fn sort_nodes(&mut self) {
        let nodes = &self.graph().node;
        let maker: HashMap<&str, usize> =
            nodes.iter().enumerate().flat_map(|(i, n)| n.output.iter().filter(|o| !o.is_empty()).map(move |o| (o.as_str(), i))).collect();
        let needs: Vec<Vec<usize>> = nodes
            .iter()
            .map(|n| n.input.iter().map(String::as_str).chain(captured(n)).filter_map(|v| maker.get(v).copied()).collect())
            .collect();
        if needs.iter().enumerate().all(|(i, list)| list.iter().all(|&m| m <= i)) {
            return;
        }
        let mut readers = vec![Vec::new(); nodes.len()];
        let mut missing: Vec<usize> = vec![0; nodes.len()];
        for (i, list) in needs.iter().enumerate() {
            for &m in list.iter().filter(|&&m| m != i) {
                readers[m].push(i);
                missing[i] += 1;
            }
        }
        let mut ready: std::collections::BTreeSet<usize> = (0..nodes.len()).filter(|&i| missing[i] == 0).collect();
        let mut order = Vec::with_capacity(nodes.len());
        while let Some(i) = ready.pop_first() {
            order.push(i);
            for &r in &readers[i] {
                missing[r] -= 1;
                if missing[r] == 0 {
                    ready.insert(r);
                }
            }
        }
        // A circle stays as it is: the check that follows names it.
        if order.len() == nodes.len() {
            let mut old: Vec<Option<NodeProto>> = std::mem::take(&mut self.graph_mut().node).into_iter().map(Some).collect();
            self.graph_mut().node = order.into_iter().filter_map(|i| old[i].take()).collect();
        }
    }

    /// Gives nodes without a name one made of their first output, which is unique; names already there stay.
    fn name_nodes(&mut self) {
        let mut seen: HashSet<String> = HashSet::new();
        for node in &mut self.graph_mut().node {
            let wanted = match node.name() {
                "" => node.output.iter().find(|o| !o.is_empty()).cloned().unwrap_or_else(|| node.op_type().to_string()),
                name => name.to_string(),
            };
            let mut name = wanted.clone();
            let mut n = 1;
            while !seen.insert(name.clone()) {
                n += 1;
                name = format!("{wanted}#{n}");
            }
            if node.name() != name {
                node.name = Some(name);
            }
        }
    }
}

/// Who makes and who reads every value of a model's main graph. Borrowed from the model, built once for a pass.
#[derive(Debug)]
pub struct Index<'m> {
    /// Constant tensors by name: initializers and the outputs of `Constant` nodes.
    pub constants: HashMap<&'m str, &'m TensorProto>,
    /// Node that makes a value.
    pub producer: HashMap<&'m str, usize>,
    /// (node, input slot) pairs that read a value, in node order; a slot of `usize::MAX` is a read from a subgraph.
    pub consumers: HashMap<&'m str, Vec<(usize, usize)>>,
    /// Names of the graph's outputs.
    pub outputs: HashSet<&'m str>,
}

impl<'m> Index<'m> {
    /// Indexes the model's main graph.
    pub fn new(model: &'m Model) -> Self {
        let graph = model.graph();
        let mut index = Self {
            constants: graph.initializer.iter().map(|t| (t.name(), t)).collect(),
            producer: HashMap::new(),
            consumers: HashMap::new(),
            outputs: graph.output.iter().map(|o| o.name()).collect(),
        };
        for (i, node) in graph.node.iter().enumerate() {
            for out in node.output.iter().filter(|o| !o.is_empty()) {
                index.producer.insert(out, i);
            }
            for (slot, input) in node.input.iter().enumerate().filter(|(_, n)| !n.is_empty()) {
                index.consumers.entry(input).or_default().push((i, slot));
            }
            for name in captured(node) {
                index.consumers.entry(name).or_default().push((i, usize::MAX));
            }
            if node.op_type() == "Constant"
                && let (Some(t), Some(out)) =
                    (node.attribute.iter().find(|a| a.name() == "value").and_then(|a| a.t.as_ref()), node.output.first())
            {
                index.constants.insert(out, t);
            }
        }
        index
    }

    /// The nodes that read a value.
    pub fn readers(&self, value: &str) -> &[(usize, usize)] {
        self.consumers.get(value).map_or(&[], Vec::as_slice)
    }

    /// The only reader of a value that is not a graph output.
    pub fn sole_reader(&self, value: &str) -> Option<usize> {
        match self.readers(value) {
            [(node, _)] if !self.outputs.contains(value) => Some(*node),
            _ => None,
        }
    }

    /// A constant as floats, whatever its stored type.
    pub fn floats(&self, name: &str) -> Option<ndarray::ArrayD<f32>> {
        self.constants.get(name).and_then(|t| tensor::to_f32(t).ok())
    }

    /// A constant as integers.
    pub fn ints(&self, name: &str) -> Option<Vec<i64>> {
        self.constants.get(name).and_then(|t| tensor::to_i64(t))
    }
}

/// All tensors of a graph: initializers, those in attributes, and those of subgraphs.
pub fn tensors(graph: &GraphProto) -> impl Iterator<Item = &TensorProto> {
    let mut found: Vec<&TensorProto> = Vec::new();
    let mut todo = vec![graph];
    while let Some(graph) = todo.pop() {
        found.extend(&graph.initializer);
        for attribute in graph.node.iter().flat_map(|n| &n.attribute) {
            found.extend(attribute.t.iter().chain(&attribute.tensors));
            todo.extend(attribute.g.iter().chain(&attribute.graphs));
        }
    }
    found.into_iter()
}

/// Calls `change` with every tensor of a graph, as [`tensors`] lists them.
///
/// # Errors
/// The first that `change` gives.
pub fn tensors_mut(graph: &mut GraphProto, change: &mut impl FnMut(&mut TensorProto) -> Result<()>) -> Result<()> {
    graph.initializer.iter_mut().try_for_each(&mut *change)?;
    for attribute in graph.node.iter_mut().flat_map(|n| &mut n.attribute) {
        attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(&mut *change)?;
        attribute.g.iter_mut().chain(&mut attribute.graphs).try_for_each(|g| tensors_mut(g, change))?;
    }
    Ok(())
}

/// Values that a node's subgraphs read, those they make themselves included.
pub fn captured(node: &NodeProto) -> Vec<&str> {
    let mut names = Vec::new();
    let mut todo: Vec<&NodeProto> = vec![node];
    while let Some(at) = todo.pop() {
        for graph in at.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
            names.extend(graph.node.iter().flat_map(|n| &n.input).filter(|i| !i.is_empty()).map(String::as_str));
            names.extend(graph.output.iter().map(|o| o.name()));
            todo.extend(&graph.node);
        }
    }
    names
}

/// All nodes of a node's subgraphs.
pub fn inner_nodes(node: &NodeProto) -> Vec<&NodeProto> {
    let mut found = Vec::new();
    let mut todo = vec![node];
    while let Some(at) = todo.pop() {
        for inner in at.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)).flat_map(|g| &g.node) {
            found.push(inner);
            todo.push(inner);
        }
    }
    found
}

/// Attribute of a node by name.
pub fn attribute<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name() == name)
}

/// Integer attribute, or its default.
pub fn int_attribute(node: &NodeProto, name: &str, default: i64) -> i64 {
    attribute(node, name).map_or(default, |a| a.i())
}

/// Integer list attribute, or `None` if it is not there.
pub fn ints_attribute(node: &NodeProto, name: &str) -> Option<Vec<i64>> {
    attribute(node, name).map(|a| a.ints.clone())
}

/// Float attribute, or its default.
pub fn float_attribute(node: &NodeProto, name: &str, default: f32) -> f32 {
    attribute(node, name).map_or(default, |a| a.f())
}

/// String attribute, or its default.
pub fn string_attribute(node: &NodeProto, name: &str, default: &str) -> String {
    attribute(node, name).map_or_else(|| default.to_string(), |a| String::from_utf8_lossy(a.s()).into_owned())
}
