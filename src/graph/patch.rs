//! Rewrites as values: a patch says which nodes become which and which constants change; applying it makes a new
//! model and checks it, in release builds too.

use std::collections::{BTreeMap, HashSet};

use super::{
    model::{Model, captured},
    proto::{NodeProto, StringStringEntryProto, TensorProto},
};
use crate::error::{Error, Result};

/// A rewrite of a model, not yet applied.
#[derive(Debug, Default)]
pub struct Patch {
    /// What the patch is for; names it in errors.
    pub context: String,
    /// Nodes (by index in the old graph) and what stands in their place; an empty list removes the node.
    pub replace: BTreeMap<usize, Vec<NodeProto>>,
    /// Constants to add or to replace, by name.
    pub tensors: BTreeMap<String, TensorProto>,
    /// Metadata entries to set.
    pub metadata: BTreeMap<String, String>,
}

impl Patch {
    /// An empty patch.
    pub fn new(context: impl Into<String>) -> Self {
        Self { context: context.into(), ..Self::default() }
    }

    /// The patched model. Constants that nothing reads any more are dropped, and shapes of inner values, which may
    /// have changed, are forgotten.
    ///
    /// # Errors
    /// If the result is not a well-formed graph: a bug in whoever made the patch.
    pub fn apply(self, model: &Model) -> Result<Model> {
        let mut out = model.clone();
        let graph = out.graph_mut();
        let mut replace = self.replace;
        let old = std::mem::take(&mut graph.node);
        for (i, node) in old.into_iter().enumerate() {
            match replace.remove(&i) {
                Some(nodes) => graph.node.extend(nodes),
                None => graph.node.push(node),
            }
        }
        let mut tensors = self.tensors;
        for slot in &mut graph.initializer {
            if let Some(new) = tensors.remove(slot.name()) {
                *slot = new;
            }
        }
        graph.initializer.extend(tensors.into_values());
        let used = used_values(graph.node.iter());
        let outputs: HashSet<String> = graph.output.iter().map(|o| o.name().to_string()).collect();
        graph.initializer.retain(|t| used.contains(t.name()) || outputs.contains(t.name()));
        graph.value_info.clear();
        for (key, value) in self.metadata {
            match out.proto.metadata_props.iter_mut().find(|p| p.key() == key) {
                Some(entry) => entry.value = Some(value),
                None => out.proto.metadata_props.push(StringStringEntryProto { key: Some(key), value: Some(value) }),
            }
        }
        check(&out).map_err(|e| Error::Internal(format!("the rewrite \"{}\" broke the graph: {e}", self.context)))?;
        Ok(out)
    }
}

/// Names read by nodes, subgraphs included.
fn used_values<'a>(nodes: impl Iterator<Item = &'a NodeProto>) -> HashSet<String> {
    nodes.flat_map(|n| n.input.iter().map(String::as_str).chain(captured(n))).map(String::from).collect()
}

/// Checks that every value is made once, before it is read, and that the graph's outputs exist.
///
/// # Errors
/// Names the node and the value that break the rule.
pub fn check(model: &Model) -> Result<()> {
    let graph = model.graph();
    let fail = |message: String| {
        Error::model(&model.name, message, "export the model again; onnx.checker.check_model in Python shows the same fault")
    };
    let mut known: HashSet<&str> = graph.input.iter().map(|v| v.name()).collect();
    known.extend(graph.initializer.iter().map(|t| t.name()));
    known.extend(graph.sparse_initializer.iter().filter_map(|s| s.values.as_ref()).map(|t| t.name()));
    for node in &graph.node {
        for input in node.input.iter().filter(|i| !i.is_empty()) {
            if !known.contains(input.as_str()) {
                return Err(fail(format!("node {} reads {input}, which nothing before it makes", node.name())));
            }
        }
        for output in node.output.iter().filter(|o| !o.is_empty()) {
            if !known.insert(output) {
                return Err(fail(format!("{output} is made twice, the second time by node {}", node.name())));
            }
        }
    }
    for output in &graph.output {
        if !known.contains(output.name()) {
            return Err(fail(format!("the graph output {} is made by no node", output.name())));
        }
    }
    if graph.output.is_empty() {
        return Err(fail("the graph has no output".into()));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{
        proto::{GraphProto, ModelProto, ValueInfoProto},
        tensor::node,
    };

    fn chain() -> Model {
        let value = |name: &str| ValueInfoProto { name: Some(name.into()), ..Default::default() };
        let graph = GraphProto {
            node: vec![node("Relu", "a", &["x"], &["m"], vec![]), node("Relu", "b", &["m"], &["y"], vec![])],
            input: vec![value("x")],
            output: vec![value("y")],
            ..Default::default()
        };
        Model { name: "chain".into(), proto: ModelProto { graph: Some(graph), ..Default::default() } }
    }

    #[test]
    fn a_patch_replaces_a_node_and_leaves_the_old_model_alone() {
        let model = chain();
        let mut patch = Patch::new("split b");
        patch.replace.insert(1, vec![node("Neg", "n", &["m"], &["k"], vec![]), node("Relu", "b", &["k"], &["y"], vec![])]);
        let new = patch.apply(&model).unwrap();
        assert_eq!(new.graph().node.len(), 3);
        assert_eq!(model.graph().node.len(), 2);
    }

    #[test]
    fn a_patch_that_breaks_the_graph_is_refused_by_name() {
        let mut patch = Patch::new("remove a");
        patch.replace.insert(0, vec![]);
        let message = patch.apply(&chain()).unwrap_err().to_string();
        assert!(message.contains("remove a") && message.contains("reads m"), "{message}");
    }
}
