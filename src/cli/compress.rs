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
    space::Plan,
    spec::{QuantizeSpec, RangeRule},
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
    /// How ranges of activations are chosen where the plan does not say it: min_max, percentile, mse, kl, ifmr or hfmg
    #[arg(long, value_parser = range_rule)]
    ranges: Option<RangeRule>,
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

fn range_rule(text: &str) -> Result<RangeRule, String> {
    let names = || RangeRule::ALL.map(RangeRule::name).join(", ");
    RangeRule::ALL.into_iter().find(|r| r.name() == text).ok_or_else(|| format!("\"{text}\" is not one of {}", names()))
}

impl Compress {
    /// Writes the compressed model.
    pub fn run(&self) -> Result<Done> {
        let runtime = start_runtime()?;
        let pins = self.data.pins(pins(&self.shape))?;
        let mut compressor = Compressor::load(&runtime, &self.model, &pins)?;
        compressor.require_layers()?;
        compressor.require_runnable()?;
        let plan = Plan::load(&self.plan, &compressor.layers, &compressor.channels)?;
        let (data, _, spec) = self.data.open(&compressor.model, &pins, Which::Calibration)?;
        compressor.quantize = spec.map_or_else(QuantizeSpec::default, |s| s.quantize);
        if let Some(rule) = self.ranges {
            compressor.quantize.activations = Some(rule);
        }
        let samples = data.len();
        let (positions, widest) = (compressor.quantize.positions, compressor.widest_moments(&plan));
        let effort = Effort { threads: self.jobs.unwrap_or_else(cores), max_memory: self.max_memory.0, positions, widest };
        let begun = Instant::now();
        compressor.calibrate(Arc::new(data), samples, effort, None)?;
        let calibration_seconds = begun.elapsed().as_secs_f64();
        let bytes = compressor.compress(&plan)?;
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
