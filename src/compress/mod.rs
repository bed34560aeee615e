//! Plan to model: calibrate, prune, decompose, quantize.
//!
//! A [`Compressor`] holds one network, normalised, with what was learnt of it; [`Compressor::compress`] makes the
//! network of a plan. Order: channels go first, then what is left of a layer is split to its rank, then channels are balanced,
//! then weights and activations are rounded, with ranges measured on the network that the first steps made.

mod apply;
mod balance;
mod cache;
pub mod calibrate;
pub mod damage;
pub mod decompose;
mod feed;
mod lockstep;
mod moments;
mod original;
mod prepared;
mod probe;
pub mod prune;
pub mod quantize;
mod rebuild;
mod refit;
mod segment;
mod sequence;
pub mod sparse;
mod structure;
#[cfg(test)]
mod tests;
mod twin;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use apply::Calibrated;
use cache::Cache;
pub use cache::Shelf;
pub use calibrate::{Calibration, Effort, Store};
use decompose::LowRank;
pub use feed::{Run, feed};
pub use original::Original;
use original::skeleton;
pub use prepared::Prepared;
use prost::bytes::Bytes;
pub use rebuild::{Change, Rebuilt, mean_output};
pub(crate) use segment::{piece, reads};
use sha2::{Digest, Sha256};
pub use structure::Structured;
pub use twin::QuantizedLayer;
pub(crate) use twin::from_matrix;

use crate::{
    device::{Kernel, Profile, bytes_by_node, extract, mark_sparse},
    error::{Error, Result},
    graph::{
        Model, assume,
        group::Channels,
        layer::Layers,
        model::PLAN_KEY,
        shape::{self, Pins, Shapes},
    },
    normalise::{Merged, Normalised, normalise, with_plain_constants},
    precision::Precision,
    runtime::Runtime,
    space::Plan,
    spec::{QuantizeSpec, StructureSpec},
};

/// A network ready to be compressed by any plan. Shared between threads.
pub struct Compressor {
    /// The user's network.
    pub original: Original,
    /// The normalised network.
    pub model: Model,
    /// What of the user's network became part of its layers.
    pub merged: Merged,
    /// Inputs with unknown dimensions, and the sizes that were assumed for them; 0 for the batch.
    pub assumed: Pins,
    /// Why ONNX Runtime cannot run the network, if so.
    pub not_runnable: Option<String>,
    /// What compression can act on.
    pub layers: Layers,
    /// How its channels are tied.
    pub channels: Channels,
    /// How layers are quantized.
    pub quantize: QuantizeSpec,
    /// How channels and ranks are taken away.
    pub structure: StructureSpec,
    runtime: Runtime,
    skeleton: Model,
    as_given: Model,
    pins: Pins,
    /// Stands for the user's file.
    content: u64,
    orders: Cache<prune::Sweep>,
    low_rank: Cache<LowRank>,
    rebuilt: Cache<Rebuilt>,
    errors: Cache<damage::Expected>,
    rounded: Cache<quantize::Rounding>,
    calibrated: Option<Calibrated>,
}

/// A plan's network without its weights: enough for the device's cost.
#[derive(Debug)]
pub struct Outline {
    /// The skeleton with the plan's channels and ranks.
    pub structured: Structured,
    /// Shapes at the batch asked for.
    pub shapes: Shapes,
    /// Precision of each node that does a layer's work.
    pub precision: BTreeMap<String, Precision>,
    /// Nodes whose weights have 4:2 sparsity.
    pub sparse: BTreeSet<String>,
}

impl Outline {
    /// Its launches on the chip.
    pub fn kernels(&self) -> Vec<Kernel> {
        let mut kernels = extract(&self.structured.model, &self.shapes, &self.precision);
        mark_sparse(&mut kernels, &self.sparse);
        kernels
    }

    /// Bytes of its constants as a chip stores them.
    pub fn bytes_on(&self, profile: &Profile) -> u64 {
        self.bytes_by_node(profile).values().fold(0, |sum, &b| sum.saturating_add(b))
    }

    /// The same by the name of the node that first reads them; under no name what no node reads.
    pub fn bytes_by_node(&self, profile: &Profile) -> BTreeMap<&str, u64> {
        bytes_by_node(profile, &self.structured.model, &self.precision, &self.sparse)
    }
}

impl Compressor {
    /// Loads and normalises a network. `pins` fixes the whole shape of inputs; for other unknown dimensions a usual size is assumed.
    ///
    /// # Errors
    /// If the file is not a network we can load, or is already compressed by us.
    pub fn load(runtime: &Runtime, path: &Path, pins: &Pins) -> Result<Self> {
        let file: Bytes = std::fs::read(path).map_err(Error::io("read", path))?.into();
        let model = Model::from_file(path, file.clone())?;
        if model.metadata(PLAN_KEY).is_some() {
            let remedy = "start from the float model; to change a compressed model, change its plan (plans/trial-N.yaml of the study)";
            return Err(Error::model(&model.name, "was already compressed by gulliver", remedy));
        }
        let (pins, assumed) = assume::assume(&model, pins);
        let as_given = skeleton(&with_plain_constants(&model)?);
        let content = Sha256::digest(&file).iter().take(8).fold(0_u64, |h, &b| h << 8 | u64::from(b));
        let original = Original { file, model };
        let Normalised { model, merged, same, not_runnable } = normalise(runtime, &original.model, &pins)?;
        let shapes = shape::infer(&model, 1, &pins)?;
        let layers = Layers { same, ..Layers::find(&model, &shapes) };
        let mut channels = Channels::analyse(&model, &layers, &shapes);
        let skeleton = skeleton(&model);
        probe::probe(&skeleton, &layers, &mut channels, &pins)?;
        Ok(Self {
            original,
            model,
            merged,
            assumed,
            not_runnable,
            layers,
            channels,
            quantize: QuantizeSpec::default(),
            structure: StructureSpec::default(),
            runtime: runtime.clone(),
            skeleton,
            as_given,
            pins,
            content,
            orders: Cache::default(),
            low_rank: Cache::default(),
            rebuilt: Cache::default(),
            errors: Cache::default(),
            rounded: Cache::default(),
            calibrated: None,
        })
    }

    /// From now on what becomes of layers is also looked for in a folder, and written there if it says so.
    pub fn keep_in(&mut self, shelf: &Shelf) {
        self.orders.keep_in(shelf.clone());
        self.rebuilt.keep_in(shelf.clone());
        self.rounded.keep_in(shelf.clone());
        self.errors.keep_in(shelf.clone());
    }

    /// Whole shapes of inputs that were given or assumed.
    pub fn pins(&self) -> &Pins {
        &self.pins
    }

    /// Refuses a network without a layer to compress.
    ///
    /// # Errors
    /// If there is none, with the reason of the first that looked like one.
    pub fn require_layers(&self) -> Result<()> {
        if !self.layers.layers.is_empty() {
            return Ok(());
        }
        let first = self.layers.skipped.first();
        let why =
            first.map_or_else(|| "it has no Conv, Gemm or MatMul with a constant weight".into(), |s| format!("{}: {}", s.name, s.reason));
        let message = format!("has no layer that can be compressed ({why})");
        Err(Error::model(&self.model.name, message, "`gulliver inspect` lists what was found"))
    }

    /// Refuses a network that ONNX Runtime cannot run, which ranges and accuracy need.
    ///
    /// # Errors
    /// Names the operator, in ONNX Runtime's words.
    pub fn require_runnable(&self) -> Result<()> {
        let Some(reason) = &self.not_runnable else { return Ok(()) };
        Err(Error::Model {
            name: self.model.name.clone(),
            message: "onnx runtime cannot run it, so neither ranges nor accuracy can be measured".into(),
            remedy: Some("replace or remove the operator it names; `gulliver inspect` and `latency` work without".into()),
            source: Some(reason.clone().into()),
        })
    }

    /// Refuses assumed sizes, where figures depend on them.
    ///
    /// # Errors
    /// Names the first such input, and the key of the spec that gives its shape.
    pub fn require_shapes(&self) -> Result<()> {
        let Some((name, dims)) = self.assumed.iter().next() else { return Ok(()) };
        let dims: Vec<String> = dims.iter().map(ToString::to_string).collect();
        let message = format!("input {name} has unknown dimensions besides the batch");
        Err(Error::model(
            &self.model.name,
            message,
            format!("give its shape in the spec, for example shapes: {{{name}: [{}]}}", dims.join(", ")),
        ))
    }

    /// The plan's network without weights, with shapes at a batch. The plan that changes nothing stands for the network
    /// as the user gave it, before it was normalised.
    ///
    /// # Errors
    /// If the shapes at that batch cannot be inferred.
    pub fn outline(&self, plan: &Plan, batch: usize) -> Result<Outline> {
        if plan.is_identity() {
            let parts = self.layers.layers.iter().map(|l| vec![l.name.clone()]).collect();
            let channels = self.layers.layers.iter().map(|l| l.channels_out).collect();
            let changes = vec![None; self.layers.layers.len()];
            let structured = Structured { model: self.as_given.clone(), parts, channels, changes };
            let shapes = shape::infer(&structured.model, batch, &self.pins)?;
            return Ok(Outline { structured, shapes, precision: BTreeMap::new(), sparse: BTreeSet::new() });
        }
        self.outline_normalised(plan, batch)
    }

    /// As [`Compressor::outline`], of the normalised network also for the plan that changes nothing.
    ///
    /// # Errors
    /// If the shapes at that batch cannot be inferred.
    pub fn outline_normalised(&self, plan: &Plan, batch: usize) -> Result<Outline> {
        let gone = prune::removed_units(&self.channels, plan, &|g| Ok(prune::from_the_end(&self.channels.groups[g])))?;
        let structure = structure::structure(&self.skeleton, &self.layers, &self.channels, plan, &gone, None)?;
        let mut structured = structure.on(&self.skeleton)?;
        let precision = apply::part_precisions(plan, &structured);
        let mut shapes = shape::infer(&structured.model, batch, &self.pins)?;
        if let Some(balanced) = self.balanced_outline(plan, &structured, &shapes)? {
            structured.model = balanced;
            shapes = shape::infer(&structured.model, batch, &self.pins)?;
        }
        let sparse = structured.sparse();
        Ok(Outline { structured, shapes, precision, sparse })
    }
}
