//! What ONNX Runtime's basic optimiser makes of a model.

use std::{collections::HashSet, path::Path};

use super::{
    scratch::Scratch,
    session::{Level, Runtime, SessionOptions, builder, internal, reason, refused},
};
use crate::{
    error::{Error, Result},
    graph::{Model, external::fits_one_file, proto::GraphProto},
};

/// What ONNX Runtime's basic optimiser made of a model.
#[derive(Debug)]
pub enum Optimised {
    /// The model it made.
    Model(Vec<u8>),
    /// It cannot run the model, since it has no implementation of some operator: its own words.
    Unknown(String),
}

/// Rewrites that we make ourselves, so that names stay the user's and constants their own.
const NOT_WANTED: &str = "MatMulAddFusion;ConstantSharing";

/// The model after ONNX Runtime's own basic optimiser: constants folded, what does nothing removed, transposes moved
/// together; operators standard, names of layers kept. Operator sets that no node uses are not declared. `name` stands
/// for the model in messages.
///
/// # Errors
/// If ONNX Runtime refuses the model, it is larger than 2 GiB, or there is no room for temporary files.
pub fn optimise_basic(runtime: &Runtime, name: &str, bytes: &[u8]) -> Result<Optimised> {
    optimise_in(&std::env::temp_dir(), runtime, name, bytes)
}

/// [`optimise_basic`], its files written below `folder` while it works.
pub(super) fn optimise_in(folder: &Path, runtime: &Runtime, name: &str, bytes: &[u8]) -> Result<Optimised> {
    fits_one_file(name, bytes.len() as u64)?;
    let scratch = Scratch::new(folder)?;
    let path = scratch.path.join("model.onnx");
    let options = SessionOptions { threads: 1, optimisation: Level::Basic };
    let mut builder = builder(runtime, options)
        .and_then(|b| b.with_optimized_model_path(&path).map_err(ort::Error::from))
        .and_then(|b| b.with_config_entry("optimization.disable_specified_optimizers", NOT_WANTED).map_err(ort::Error::from))
        .map_err(|e| internal(&e))?;
    if let Err(e) = builder.commit_from_memory(bytes) {
        let why = reason(&e);
        let unknown =
            ["is not a registered function/op", "No opset import for domain", "Could not find an implementation", "NOT_IMPLEMENTED"];
        return if unknown.iter().any(|u| why.contains(u)) { Ok(Optimised::Unknown(why)) } else { Err(refused(name, &e)) };
    }
    let bytes = std::fs::read(&path).map_err(Error::io("read", &path))?;
    let mut model = Model::parse(name, &bytes)?;
    keep_used_operator_sets(&mut model);
    Ok(Optimised::Model(model.to_bytes()?))
}

/// ONNX Runtime declares every operator set it knows; other tools refuse a model for sets they do not know.
fn keep_used_operator_sets(model: &mut Model) {
    let standard = |domain: &str| matches!(domain, "" | "ai.onnx");
    let mut used = HashSet::new();
    domains(model.graph(), &mut used);
    for function in &model.proto.functions {
        used.extend(function.node.iter().map(|n| n.domain().to_string()));
    }
    model.proto.opset_import.retain(|set| standard(set.domain()) || used.contains(set.domain()));
}

fn domains(graph: &GraphProto, used: &mut HashSet<String>) {
    for node in &graph.node {
        used.insert(node.domain().to_string());
        for inner in node.attribute.iter().flat_map(|a| a.g.iter().chain(&a.graphs)) {
            domains(inner, used);
        }
    }
}
