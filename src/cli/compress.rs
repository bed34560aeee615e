//! `gulliver compress`: apply a plan, no search.

use std::{path::PathBuf, sync::Arc, time::Instant};

use clap::Args;
use serde_json::json;

use super::{
    Done, Memory, Pin, cores,
    data::{DataArguments, Which},
    pins, print_json, start_runtime,
};
use crate::{
    compress::{Compressor, Effort},
    device::deployed_bytes,
    error::Result,
    space::{Build, Plan},
    spec::{QuantizeSpec, parse_yaml},
    study,
};

/// Arguments of `compress`.
#[derive(Debug, Args)]
pub struct Compress {
    /// The float ONNX file
    model: PathBuf,
    /// The plan (YAML)
    plan: PathBuf,
    #[command(flatten)]
    data: DataArguments,
    /// Where the compressed model goes
    #[arg(long)]
    out: PathBuf,
    /// How layers are quantized where the plan does not say it, as YAML like a spec's `quantize`, e.g. '{weights: min_max, bias_correction: false}'
    #[arg(long)]
    quantize: Option<String>,
    /// Reconstruct each layer by the float network's inputs, as a search does, in place of those it really gets
    #[arg(long)]
    parallel: bool,
    /// Memory that calibration may take, e.g. 512MB
    #[arg(long, default_value_t)]
    max_memory: Memory,
    /// Threads (the machine's)
    #[arg(long)]
    jobs: Option<usize>,
    /// Fix an input's whole shape, e.g. input:1,3,224,224
    #[arg(long)]
    shape: Vec<Pin>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Compress {
    /// Writes the compressed model.
    pub fn run(&self) -> Result<Done> {
        let runtime = start_runtime()?;
        let pins = self.data.pins(pins(&self.shape))?;
        let mut compressor = Compressor::load(&runtime, &self.model, &pins)?;
        compressor.require_layers()?;
        compressor.require_runnable()?;
        let plan = Plan::load(&self.plan, &compressor.model, &compressor.layers, &compressor.channels)?;
        let (data, _, spec) = self.data.open(&compressor.model, &pins, Which::Calibration)?;
        let given = self.quantize.as_ref().map(|text| parse_yaml::<QuantizeSpec>(&PathBuf::from("--quantize"), text)).transpose()?;
        compressor.quantize = given.or(spec.map(|s| s.quantize)).unwrap_or_default();
        let samples = data.len();
        let (positions, widest) = (compressor.quantize.positions, compressor.widest_moments(&plan));
        let effort = Effort { threads: self.jobs.unwrap_or_else(cores), max_memory: self.max_memory.0, positions, widest };
        let begun = Instant::now();
        compressor.calibrate(Arc::new(data), samples, effort, None)?;
        let calibration_seconds = begun.elapsed().as_secs_f64();
        let bytes = compressor.compress(&plan, if self.parallel { Build::Parallel } else { Build::Sequential })?;
        study::write_atomically(&self.out, &bytes)?;
        let size = |plan: &Plan| compressor.outline(plan, 1).map(|o| deployed_bytes(&o.structured.model, &o.precision));
        let (before, after) = (size(&Plan::identity(&compressor.layers))?, size(&plan)?);
        if self.json {
            print_json(
                &json!({ "out": self.out, "float_bytes": before, "bytes": after, "calibration_samples": samples, "calibration_seconds": calibration_seconds, "seconds": begun.elapsed().as_secs_f64() }),
            )?;
        } else {
            println!(
                "written: {} (the fake-quant twin, for ONNX Runtime); on the chip {after} bytes, float {before} bytes, {:.2} x",
                self.out.display(),
                after as f64 / before as f64
            );
        }
        Ok(Done::Well)
    }
}
