//! Brings a network into one plain form before anything else looks at it; nothing is approximated.
//!
//! In this order, since each step makes work for the next:
//!
//! 1. `constants`: constants become initializers and are no inputs of the graph any more;
//! 2. `widen`: half floats become single floats;
//! 3. ONNX Runtime's own basic optimiser folds constants, drops Identity and Dropout, moves transposes together, all in
//!    standard ONNX; weights are put `aside` for it;
//! 4. `sizes`: sizes that are computed from fixed shapes become constants;
//! 5. `linear`: weights lose what stands between them and their layer;
//! 6. `share`: weights that layers share come apart;
//! 7. `behind`: BatchNorm and its like behind a layer become part of it;
//! 8. `after_activation`: so does a BatchNorm after ReLU;
//! 9. `own`: constants that pruning may have to cut are read by one node only.
//!
//! Nothing a user relies on is lost: names of layers, metadata, the graph's inputs and outputs. [`Merged`] says which of the
//! user's nodes became part of which layer.

mod affine;
mod after_activation;
mod aside;
mod behind;
mod constants;
mod linear;
mod own;
mod share;
mod sizes;
#[cfg(test)]
mod tests;
mod widen;

use std::collections::BTreeMap;

use crate::{
    error::Result,
    graph::{
        Model,
        proto::ModelProto,
        shape::{self, Pins},
    },
    runtime::{Optimised, Runtime, optimise_basic},
};

/// By layer, the names of the user's nodes that became part of it.
pub type Merged = BTreeMap<String, Vec<String>>;

/// A network in plain form.
#[derive(Debug, Clone)]
pub struct Normalised {
    /// The network.
    pub model: Model,
    /// What became part of its layers.
    pub merged: Merged,
    /// Weights that hold the same, in groups, by name: copies for layers that shared one.
    pub same: Vec<Vec<String>>,
    /// Why ONNX Runtime cannot run the network, if so: an operator it does not know.
    pub not_runnable: Option<String>,
}

/// The network in plain form.
///
/// # Errors
/// If ONNX Runtime refuses the model, or the shape of an input is not known.
pub fn normalise(runtime: &Runtime, model: &Model, pins: &Pins) -> Result<Normalised> {
    let plain = widen::widen(&constants::lift(model)?)?;
    let (light, aside) = aside::put_aside(&plain);
    let (model, not_runnable) = match optimise_basic(runtime, &model.name, &light.to_bytes()?)? {
        Optimised::Model(bytes) => {
            let mut optimised = Model::parse(&model.name, &bytes)?;
            keep_words(&model.proto, &mut optimised.proto);
            (aside::put_back(optimised, aside), None)
        }
        Optimised::Unknown(reason) => (plain, Some(reason)),
    };
    finish(model, pins, not_runnable)
}

/// What a file says of itself stays as the user has it.
fn keep_words(from: &ModelProto, to: &mut ModelProto) {
    to.metadata_props.clone_from(&from.metadata_props);
    to.producer_name.clone_from(&from.producer_name);
    to.producer_version.clone_from(&from.producer_version);
    to.domain.clone_from(&from.domain);
    to.model_version = from.model_version;
    to.doc_string.clone_from(&from.doc_string);
    if let (Some(from), Some(to)) = (&from.graph, &mut to.graph) {
        to.name.clone_from(&from.name);
        to.doc_string.clone_from(&from.doc_string);
    }
}

/// As [`normalise`], with the steps that need no ONNX Runtime.
///
/// # Errors
/// If the model is malformed, or the shape of an input is not known.
pub fn normalise_without_runtime(model: &Model, pins: &Pins) -> Result<Normalised> {
    finish(widen::widen(&constants::lift(model)?)?, pins, None)
}

fn finish(model: Model, pins: &Pins, not_runnable: Option<String>) -> Result<Normalised> {
    let model = sizes::fold(&model, pins)?;
    let shapes = shape::infer(&model, 1, pins)?;
    let mut merged = Merged::new();
    let model = linear::fold(&model, &shapes)?;
    let (model, copies) = share::apart(&model)?;
    let model = behind::fold(&model, &shapes, &mut merged)?;
    let model = after_activation::fold(&model, &shapes, &mut merged)?;
    let model = own::constants(&model, &shapes)?;
    let same = share::still_same(&model, &copies);
    Ok(Normalised { model, merged, same, not_runnable })
}

/// The network as the user gave it, but for constants, which are all initializers: what stands for it in sizes and latencies.
///
/// # Errors
/// If the model is malformed.
pub fn with_plain_constants(model: &Model) -> Result<Model> {
    constants::lift(model)
}
