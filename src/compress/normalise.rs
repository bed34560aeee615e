//! Brings a network into one plain form before anything else looks at it.
//!
//! ONNX Runtime's own basic optimiser does the work: it folds constants and BatchNorm after a convolution, drops
//! Identity and Dropout, joins MatMul and Add, all in standard ONNX. Here we see to it that nothing a user relies on is
//! lost: node names of layers, the metadata, the graph's inputs and outputs.

use crate::{
    error::Result,
    graph::{Index, Model, patch::Patch},
    runtime::{Runtime, optimise_basic},
};

/// The normalised model.
///
/// # Errors
/// If ONNX Runtime refuses the model.
pub fn normalise(runtime: &Runtime, model: &Model) -> Result<Model> {
    let bytes = optimise_basic(runtime, &model.name, &model.to_bytes())?;
    let mut plain = Model::parse(&model.name, &bytes)?;
    plain.proto.metadata_props.clone_from(&model.proto.metadata_props);
    plain.proto.producer_name.clone_from(&model.proto.producer_name);
    plain.proto.producer_version.clone_from(&model.proto.producer_version);
    own_biases(&plain)
}

/// Gives each layer a bias of its own where an optimiser or exporter merged equal ones: pruning cuts them apart.
fn own_biases(model: &Model) -> Result<Model> {
    let index = Index::new(model);
    let mut patch = Patch::new("a bias for each layer");
    for (i, node) in model.graph().node.iter().enumerate() {
        if !matches!(node.op_type(), "Conv" | "ConvTranspose" | "Gemm") {
            continue;
        }
        let Some(bias) = node.input.get(2).filter(|b| index.readers(b).len() > 1) else { continue };
        let Some(tensor) = index.constants.get(bias.as_str()) else { continue };
        let mut own = (*tensor).clone();
        let name = format!("{}.bias.own", node.name());
        own.name = Some(name.clone());
        patch.tensors.insert(name.clone(), own);
        let mut node = node.clone();
        node.input[2] = name;
        patch.replace.insert(i, vec![node]);
    }
    if patch.replace.is_empty() { Ok(model.clone()) } else { patch.apply(model) }
}
