//! What a spec becomes before the loop can start: network, chip, data, space.

use std::{path::Path, sync::Arc};

use sha2::{Digest, Sha256};

use super::{
    Context, Event, Facts, Fingerprint, Folder, Judged, LayerRow, LayerTreatment, Observe, Stop, Summary, folder::Clock, summarise,
};
use crate::{
    compress::{Compressor, Effort, Outline, Shelf, Store},
    data::{Dataset, Input, InputSpec, Source},
    device::{KernelTime, Prediction, Profile, Target, predict},
    error::{Error, Result},
    evaluate::{Evaluator, Objective, Setup, predict_plan},
    graph::{
        Model,
        proto::ValueInfoProto,
        shape::{self, Pins},
    },
    runtime::Runtime,
    space::{Plan, Space},
    spec::Spec,
    trial::{Cost, Trial},
};

/// Version of the journal's format.
const JOURNAL: u32 = 3;

/// A spec with its network, chip and space; what `report` needs, and `tune` begins with.
pub struct Bench {
    /// The spec.
    pub spec: Spec,
    /// The network.
    pub compressor: Compressor,
    /// The chip.
    pub profile: Profile,
    /// The space.
    pub space: Space,
    runtime: Runtime,
}

/// The samples of a study, and what its journal begins with.
pub struct Data {
    /// Samples for ranges.
    pub calibration: Arc<Dataset>,
    /// Samples for accuracy.
    pub validation: Arc<Dataset>,
    /// What the trials depend on.
    pub fingerprint: Fingerprint,
    /// The same for people.
    pub facts: Facts,
}

impl Bench {
    /// Loads what a spec names; no data is read yet.
    ///
    /// # Errors
    /// If the model, the device or the space is wrong; names the place.
    pub fn open(runtime: &Runtime, spec_path: &Path, spec: Spec) -> Result<Self> {
        let profile = Profile::load(&spec.device.name)?;
        let mut compressor = Compressor::load(runtime, &spec.model, &spec.shapes)?;
        compressor.require_layers()?;
        compressor.require_runnable()?;
        compressor.require_shapes()?;
        compressor.quantize = spec.quantize;
        compressor.structure = spec.structure;
        let text = std::fs::read_to_string(spec_path).map_err(Error::io("read", spec_path))?;
        compressor.outline(&Plan::identity(&compressor.layers), spec.device.batch)?;
        let float = compressor.outline_normalised(&Plan::identity(&compressor.layers), spec.device.batch)?;
        let target = Target::new(&profile, float.kernels());
        let space = {
            let of = (&compressor.model, &compressor.layers, &compressor.channels);
            Space::new(&spec.space, of, &target, (spec_path, &text))?
        };
        Ok(Self { spec, compressor, profile, space, runtime: runtime.clone() })
    }

    /// Opens the data and fingerprints everything trials depend on.
    ///
    /// # Errors
    /// If the data does not fit the network or the metric.
    pub fn data(&self) -> Result<Data> {
        let spec = &self.spec;
        let calibration = Arc::new(dataset(&spec.data.calibration, &spec.data.input, &self.compressor.model, &spec.shapes)?);
        let validation = Arc::new(dataset(&spec.data.validation, &spec.data.input, &self.compressor.model, &spec.shapes)?);
        if spec.metric.needs_labels() {
            validation.require_labels()?;
        }
        let fingerprint = Fingerprint {
            journal: JOURNAL,
            gulliver: env!("CARGO_PKG_VERSION").into(),
            onnxruntime: self.runtime.version().to_string(),
            spec: spec_hash(spec)?,
            model: self.model_hash()?,
            calibration: calibration.sha256()?,
            validation: validation.sha256()?,
            device: sha256(self.profile.to_yaml()?.as_bytes()),
        };
        let facts = facts(spec, &self.profile, &self.space, &fingerprint);
        Ok(Data { calibration, validation, fingerprint, facts })
    }

    /// Hash of the model's file and of the files its weights lie in.
    fn model_hash(&self) -> Result<String> {
        let original = &self.compressor.original;
        let mut hash = Sha256::new();
        hash.update(&original.file);
        original.external_data().try_for_each(|data| data.map(|d| hash.update(&d)))?;
        Ok(hex(&hash.finalize()))
    }

    /// Calibrates and measures the float model, with so many threads and so much memory for the calibration. A folder keeps
    /// the calibration for the next time, and with `keeps_options` all that is made of layers.
    ///
    /// # Errors
    /// If the network cannot be run on the data.
    pub fn prepare(
        self,
        data: &Data,
        (jobs, max_memory): (usize, u64),
        folder: Option<&Folder>,
        keeps_options: bool,
        observe: &mut dyn Observe,
    ) -> Result<Evaluator> {
        let store = folder.map(|f| self.store(f, data, max_memory)).transpose()?;
        let Self { spec, mut compressor, profile, space, runtime } = self;
        observe.event(Event::Preparing { what: "calibrating the float model" });
        let effort = Effort { threads: jobs, max_memory, positions: spec.positions(), widest: Effort::WIDEST };
        compressor.calibrate(Arc::clone(&data.calibration), data.calibration.len(), effort, store.as_ref())?;
        if let Some(folder) = folder {
            compressor.keep_in(&Shelf { folder: folder.options(), writes: keeps_options });
        }
        observe.event(Event::Preparing { what: "measuring the float model" });
        let setup = Setup {
            compressor,
            space,
            profile,
            batch: spec.device.batch,
            metric: spec.metric.clone(),
            validation: Arc::clone(&data.validation),
            confidence: spec.constraints.confidence.0,
        };
        Evaluator::new(&runtime, setup)
    }

    /// Where the study keeps its calibration, under the hash of all that it depends on.
    fn store(&self, folder: &Folder, data: &Data, max_memory: u64) -> Result<Store> {
        let input = serde_json::to_string(&self.spec.data.input).map_err(|e| Error::Internal(format!("preprocessing: {e}")))?;
        let f = &data.fingerprint;
        let parts = [
            f.gulliver.clone(),
            f.onnxruntime.clone(),
            f.model.clone(),
            f.calibration.clone(),
            input,
            format!("{:?}", self.spec.shapes),
            data.calibration.len().to_string(),
            self.spec.positions().to_string(),
            max_memory.to_string(),
        ];
        Ok(Store { path: folder.calibration(), key: sha256(parts.join("\n").as_bytes()) })
    }

    /// The result of a study from its journal, without its data.
    ///
    /// # Errors
    /// If the journal does not fit the spec's network.
    pub fn summary(&self, trials: &[Trial], fingerprint: &Fingerprint, stop: Stop, clock: Clock) -> Result<Summary> {
        let of_this_space = |t: &Trial| t.candidate.0.is_empty() || self.space.contains(&t.candidate);
        if !trials.iter().all(of_this_space) {
            return Err(Error::model(
                &self.compressor.model.name,
                "is not the one the study was begun with",
                "put the model back that the study's spec names",
            ));
        }
        let plan_cost = |plan: &Plan| -> Result<Cost> {
            let (outline, prediction) = predict_plan(&self.compressor, plan, &self.profile, self.spec.device.batch)?;
            Ok(Cost { latency_ms: prediction.latency_ms, bytes: outline.bytes_on(&self.profile) })
        };
        let float = plan_cost(&Plan::identity(&self.compressor.layers))?;
        let facts = facts(&self.spec, &self.profile, &self.space, fingerprint);
        let Self { spec, compressor, profile, space, .. } = self;
        summary_of(trials, &Parts { spec, compressor, profile, space, float }, stop, clock, facts)
    }

    /// Where the study keeps its tables, under the hash of all that they depend on.
    ///
    /// # Errors
    /// If the spec cannot be written.
    pub fn tables_key(&self, data: &Data) -> Result<String> {
        let f = &data.fingerprint;
        let axes = format!("{:?}", self.space.axes);
        let settings = format!("{:?} {:?} {}", self.spec.quantize, self.spec.structure, self.spec.device.batch);
        let parts = [&f.gulliver, &f.onnxruntime, &f.model, &f.calibration, &f.device, &axes, &settings];
        let input = serde_json::to_string(&self.spec.data.input).map_err(|e| Error::Internal(format!("preprocessing: {e}")))?;
        Ok(sha256((parts.map(String::as_str).join("\n") + &input).as_bytes()))
    }
}

struct Parts<'a> {
    spec: &'a Spec,
    compressor: &'a Compressor,
    profile: &'a Profile,
    space: &'a Space,
    float: Cost,
}

/// The result of a running study.
///
/// # Errors
/// As [`summarise`].
pub fn summary_of_run(spec: &Spec, evaluator: &Evaluator, trials: &[Trial], stop: Stop, clock: Clock, facts: Facts) -> Result<Summary> {
    let setup = evaluator.setup();
    let float = evaluator.float_cost();
    let parts = Parts { spec, compressor: &setup.compressor, profile: &setup.profile, space: &setup.space, float };
    summary_of(trials, &parts, stop, clock, facts)
}

fn summary_of(trials: &[Trial], parts: &Parts<'_>, stop: Stop, clock: Clock, facts: Facts) -> Result<Summary> {
    let Parts { spec, compressor, profile, space, float } = *parts;
    let rows = |plan: &Plan| layer_rows(compressor, profile, spec.device.batch, plan);
    let plain = compressor.outline_normalised(&Plan::identity(&compressor.layers), spec.device.batch)?;
    let normalised_latency_ms = predict(&plain.kernels(), profile).latency_ms;
    let predicted = |plan: &Plan| Ok(predict_plan(compressor, plan, profile, spec.device.batch)?.1);
    let judge = |evidence| Ok(Judged { evidence, float: predicted(&Plan::identity(&compressor.layers))?, predict: &predicted });
    let judged = profile.evidence.as_ref().map(judge).transpose()?;
    let file_name = spec.model.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    summarise(
        trials,
        &Context {
            space,
            constraints: &spec.constraints,
            float,
            layers: &rows,
            stop,
            clock,
            facts,
            names: (file_name, profile.name.clone(), spec.device.batch, spec.metric.name().to_string()),
            file_bytes: compressor.original.bytes(),
            normalised_latency_ms,
            judged,
        },
    )
}

/// A row for every layer: its treatment and what its kernels take, beside the float model.
fn layer_rows(compressor: &Compressor, profile: &Profile, batch: usize, plan: &Plan) -> Result<Vec<LayerRow>> {
    let (outline, now) = predict_plan(compressor, plan, profile, batch)?;
    let (_, float) = predict_plan(compressor, &Plan::identity(&compressor.layers), profile, batch)?;
    let Outline { structured, .. } = outline;
    let time = |prediction: &Prediction, parts: &[String]| -> f64 {
        let of_layer = |k: &&KernelTime| k.layer.as_ref().is_some_and(|l| parts.contains(l));
        prediction.kernels.iter().filter(of_layer).map(|k| k.us).sum()
    };
    let rows = compressor.layers.layers.iter().enumerate().map(|(l, layer)| {
        let (_, t) = &plan.treatments[l];
        LayerRow {
            layer: layer.name.clone(),
            op: layer.op.name().into(),
            weight: layer.weight_dims.clone(),
            channels: (structured.channels[l], layer.channels_out),
            treatment: LayerTreatment::of(t),
            us: time(&now, &structured.parts[l]),
            float_us: time(&float, std::slice::from_ref(&layer.name)),
        }
    });
    Ok(rows.collect())
}

/// Opens a source of samples for a model's inputs, cut to the number of samples it asks for.
///
/// # Errors
/// If the data does not fit.
pub fn dataset(source: &Source, input: &Input, model: &Model, pins: &Pins) -> Result<Dataset> {
    Dataset::open(source, input, &input_specs(model, pins))
}

/// The model's inputs as data must fit them. An input without a batch, as scalars and states are, gets one whole array a sample.
/// `pins` are the whole shapes of inputs by name, where they are given.
pub fn input_specs(model: &Model, pins: &Pins) -> Vec<InputSpec> {
    let dims = |v: &ValueInfoProto| {
        let declared = shape::declared(v).unwrap_or_default();
        let pinned = |pin: &Vec<usize>| {
            let settled = |(i, &d): (usize, &usize)| declared.get(i).copied().flatten().or((i > 0 && d > 0).then_some(d));
            pin.iter().enumerate().map(settled).collect()
        };
        pins.get(v.name()).map_or_else(|| declared.clone(), pinned)
    };
    let declared: Vec<(String, Vec<Option<usize>>)> = model.inputs().map(|v| (v.name().to_string(), dims(v))).collect();
    let batch = declared.first().and_then(|(_, dims)| dims.first().copied()).flatten();
    let spec = |(name, dims): (String, Vec<Option<usize>>)| {
        let batched = dims.first().is_some_and(|d| d.is_none() || *d == batch);
        let sample = if batched { dims[1..].to_vec() } else { dims };
        InputSpec { name, dims: std::iter::once(None).chain(sample).collect() }
    };
    declared.into_iter().map(spec).collect()
}

fn facts(spec: &Spec, profile: &Profile, space: &Space, fingerprint: &Fingerprint) -> Facts {
    Facts {
        version: fingerprint.gulliver.clone(),
        onnxruntime: fingerprint.onnxruntime.clone(),
        seed: spec.search.seed,
        strategy: spec.search.strategy.name().into(),
        spec_sha256: fingerprint.spec.clone(),
        model_sha256: fingerprint.model.clone(),
        data_sha256: fingerprint.validation.clone(),
        latency_model: profile.known_error.clone(),
        space_log10: space.log10_size(),
    }
}

/// Hash of what a spec decides about trials: paths, names of files and budgets left out.
fn spec_hash(spec: &Spec) -> Result<String> {
    let mut spec = spec.clone();
    spec.model = "model".into();
    spec.device.name = "device".into();
    spec.data.calibration.map_paths(|_| "calibration".into());
    spec.data.validation.map_paths(|_| "validation".into());
    // Trials are not trained.
    (spec.data.training, spec.recover) = (None, None);
    spec.search.trials = 0;
    spec.search.time = None;
    Ok(sha256(spec.to_yaml()?.as_bytes()))
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A folder's spec, opened.
///
/// # Errors
/// As [`Bench::open`].
pub fn open_folder(runtime: &Runtime, folder: &Folder) -> Result<Bench> {
    Bench::open(runtime, &folder.0.join("spec.yaml"), folder.spec()?)
}
