//! Brings a network into one plain form before anything else looks at it.
//!
//! ONNX Runtime's own basic optimiser does the work: it folds constants and BatchNorm after a convolution, drops
//! Identity and Dropout, joins MatMul and Add, all in standard ONNX. Here we see to it that nothing a user relies on is
//! lost: node names of layers, the metadata, the graph's inputs and outputs.

use crate::{
    error::Result,
    graph::Model,
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
    Ok(plain)
}
