//! Plan to model: calibrate, prune, decompose, quantize.
//!
//! A [`Compressor`] holds one network, normalised, with what was learnt of it; [`Compressor::compress`] makes the
//! network of a plan. Order: channels go first, then what is left of a layer is split to its rank, then weights and
//! activations are rounded, with ranges measured on the network that the first two steps made.

mod cache;
mod calibrate;
pub mod decompose;
mod feed;
mod histogram;
mod probe;
mod prune;
pub mod quantize;
mod structure;
#[cfg(test)]
mod tests;
mod twin;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

pub use calibrate::{Statistics, Watch};
pub use feed::{Run, feed};
pub use histogram::Histogram;
pub use structure::{Means, Structured};

use crate::{
    data::Dataset,
    error::{Error, Result},
    graph::{
        Model, assume,
        group::Channels,
        layer::{Layer, Layers},
        model::{self, PLAN_KEY},
        proto::tensor_proto::DataLocation,
        shape::{self, Pins, Shapes},
        tensor,
    },
    normalise::{Merged, Normalised, normalise, with_plain_constants},
    precision::Precision,
    runtime::Runtime,
    space::Plan,
    spec::QuantizeSpec,
};
use cache::Cache;
use decompose::SvdCache;
use ndarray::ArrayD;
use prost::bytes::Bytes;

/// Calibration samples that a network with changed channels or ranks is measured on again.
const RECALIBRATION: usize = 32;

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
    runtime: Runtime,
    skeleton: Model,
    as_given: Model,
    pins: Pins,
    svd: SvdCache,
    rounded: Cache<ArrayD<f32>>,
    calibration: Option<Calibration>,
}

/// The user's network as it came.
#[derive(Debug)]
pub struct Original {
    /// The file.
    pub file: Bytes,
    model: Model,
}

impl Original {
    /// The network in one piece: the file, or what stands for it where its weights lie in other files.
    ///
    /// # Errors
    /// If they cannot be read or are too large for one piece.
    pub fn to_bytes(&self) -> Result<Vec<u8>> {
        if self.model.has_external_data() { self.model.to_bytes() } else { Ok(self.file.to_vec()) }
    }

    /// Bytes of the file and of the data that lies in other files.
    pub fn bytes(&self) -> u64 {
        let outside = model::tensors(self.model.graph()).filter(|t| t.data_location() == DataLocation::External);
        self.file.len() as u64 + outside.map(tensor::size_in_bytes).sum::<u64>()
    }

    /// Parts of the network that lie in other files, in order.
    ///
    /// # Errors
    /// If they cannot be read.
    pub fn external_data(&self) -> impl Iterator<Item = Result<Bytes>> {
        let outside = model::tensors(self.model.graph()).filter(|t| t.data_location() == DataLocation::External);
        outside.map(|t| Ok(tensor::content(t)?.unwrap_or_default()))
    }
}

struct Calibration {
    data: Arc<Dataset>,
    again: Vec<usize>,
    statistics: BTreeMap<String, Statistics>,
    means: Means,
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
            runtime: runtime.clone(),
            skeleton,
            as_given,
            pins,
            svd: SvdCache::default(),
            rounded: Cache::default(),
            calibration: None,
        })
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

    /// Measures ranges and means of the float network; needed before a plan is compressed.
    ///
    /// # Errors
    /// If the data or the network cannot be run.
    pub fn calibrate(&mut self, data: Arc<Dataset>, samples: usize, threads: usize) -> Result<()> {
        self.require_runnable()?;
        let all = spread(data.len(), samples);
        let statistics = calibrate::calibrate(&self.runtime, &self.model, &watches(self.layers.layers.iter()), &data, &all, threads)?;
        let means = statistics.iter().map(|(name, s)| (name.clone(), s.means.clone())).collect();
        let again = spread(all.len(), RECALIBRATION).into_iter().map(|i| all[i]).collect();
        self.calibration = Some(Calibration { data, again, statistics, means });
        Ok(())
    }

    /// The network of a plan as the bytes of an ONNX file: the user's own file if the plan changes nothing.
    ///
    /// # Errors
    /// If the plan asks for the impossible, or there was no calibration.
    pub fn compress(&self, plan: &Plan) -> Result<Vec<u8>> {
        plan.check(&self.layers, &self.channels)?;
        if plan.is_identity() {
            return self.original.to_bytes();
        }
        let calibration = self.calibration.as_ref().ok_or_else(|| Error::Internal("compress was called before calibrate".into()))?;
        let structured = structure::restructure(&self.model, &self.layers, &self.channels, plan, Some(&calibration.means), &self.svd)?;
        let precision = part_precisions(plan, &structured);
        let shapes = shape::infer(&structured.model, 1, &self.pins)?;
        let layers = Layers::find(&structured.model, &shapes);
        let measured;
        let statistics = if plan.changes_structure() && precision.values().any(|p| p.integer_bits().is_some()) {
            let quantized = |l: &Layer| precision.get(&l.name).is_some_and(|p| p.integer_bits().is_some());
            let watch = watches(layers.layers.iter().filter(|l| quantized(l)));
            measured = calibrate::calibrate(&self.runtime, &structured.model, &watch, &calibration.data, &calibration.again, 1)?;
            &measured
        } else {
            &calibration.statistics
        };
        let text = plan.to_yaml()?;
        twin::quantize(&structured.model, &layers, &precision, statistics, (&self.quantize, &self.rounded), &text)?.to_bytes()
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
            let structured = Structured { model: self.as_given.clone(), parts, channels };
            let shapes = shape::infer(&structured.model, batch, &self.pins)?;
            return Ok(Outline { structured, shapes, precision: BTreeMap::new() });
        }
        self.outline_normalised(plan, batch)
    }

    /// As [`Compressor::outline`], of the normalised network also for the plan that changes nothing.
    ///
    /// # Errors
    /// If the shapes at that batch cannot be inferred.
    pub fn outline_normalised(&self, plan: &Plan, batch: usize) -> Result<Outline> {
        let structured = structure::restructure(&self.skeleton, &self.layers, &self.channels, plan, None, &self.svd)?;
        let precision = part_precisions(plan, &structured);
        let shapes = shape::infer(&structured.model, batch, &self.pins)?;
        Ok(Outline { structured, shapes, precision })
    }
}

fn part_precisions(plan: &Plan, structured: &Structured) -> BTreeMap<String, Precision> {
    let parts = plan.treatments.iter().zip(&structured.parts);
    parts.flat_map(|((_, t), names)| names.iter().map(|n| (n.clone(), t.precision))).collect()
}

fn watches<'a>(layers: impl Iterator<Item = &'a Layer>) -> BTreeSet<Watch> {
    let mut seen = BTreeSet::new();
    layers.filter(|l| seen.insert(&l.input)).map(|l| Watch { value: l.input.clone(), axis: l.input_axis() }).collect()
}

/// Indices of `n` of `len` samples, evenly spread, in order.
pub fn spread(len: usize, n: usize) -> Vec<usize> {
    let n = n.min(len);
    (0..n).map(|i| i * len / n).collect()
}

/// A model whose float weights have dimensions but no data.
fn skeleton(model: &Model) -> Model {
    let mut bare = Model { name: model.name.clone(), proto: model.proto.clone() };
    for t in &mut bare.graph_mut().initializer {
        if tensor::is_float(t) && tensor::elements(t).is_ok_and(|n| n > 1) {
            let kind = t.data_type;
            *t = tensor::without_data(&t.name.clone().unwrap_or_default(), &tensor::dims(t));
            t.data_type = kind;
        }
    }
    bare
}
