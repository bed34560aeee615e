//! `gulliver compress`: apply a plan, no search.

use std::{path::PathBuf, sync::Arc};

use clap::Args;
use serde_json::json;

use super::{
    Done, Pin, cores,
    data::{DataArguments, Which},
    pins, print_json, start_runtime,
};
use crate::{
    compress::Compressor,
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
    /// How ranges of activations are chosen: min_max, percentile or mse (else the spec's, or mse)
    #[arg(long, value_parser = range_rule)]
    ranges: Option<RangeRule>,
    /// Fix an input's whole shape, e.g. input:1,3,224,224
    #[arg(long)]
    shape: Vec<Pin>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

fn range_rule(text: &str) -> Result<RangeRule, String> {
    serde_yaml::from_str(text).map_err(|_| format!("\"{text}\" is not one of min_max, percentile, mse"))
}

impl Compress {
    /// Writes the compressed model.
    pub fn run(&self) -> Result<Done> {
        let runtime = start_runtime()?;
        let mut compressor = Compressor::load(&runtime, &self.model, &pins(&self.shape))?;
        compressor.require_layers()?;
        compressor.require_runnable()?;
        let plan = Plan::load(&self.plan, &compressor.layers, &compressor.channels)?;
        let (data, _, spec) = self.data.open(&compressor.model, Which::Calibration)?;
        compressor.quantize = spec.map_or_else(QuantizeSpec::default, |s| s.quantize);
        if let Some(rule) = self.ranges {
            compressor.quantize.activations = rule;
        }
        let samples = data.len();
        compressor.calibrate(Arc::new(data), samples, cores())?;
        let bytes = compressor.compress(&plan)?;
        study::write_atomically(&self.out, &bytes)?;
        let size = |plan: &Plan| compressor.outline(plan, 1).map(|o| deployed_bytes(&o.structured.model, &o.precision));
        let (before, after) = (size(&Plan::identity(&compressor.layers))?, size(&plan)?);
        if self.json {
            print_json(&json!({ "out": self.out, "float_bytes": before, "bytes": after, "calibration_samples": samples }))?;
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
