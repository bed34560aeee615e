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
    device::{Profile, deployed_bytes},
    error::Result,
    evaluate::predict_plan,
    graph::layer::Layers,
    space::{Build, Plan, limits},
    spec::{QuantizeSpec, Spec, StructureSpec, parse_yaml},
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
    /// How channels and ranks are taken away, as YAML like a spec's `structure`, e.g. '{score: balanced_norm, repair: none}'
    #[arg(long)]
    structure: Option<String>,
    /// Chip whose predicted latency decides where a plan's share of all channels goes; without one, multiply-adds do
    #[arg(long)]
    device: Option<String>,
    /// Batch of that latency
    #[arg(long, default_value_t = 1)]
    batch: usize,
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
    /// A plan whose share of all channels is spread over its groups.
    fn spread(&self, compressor: &Compressor, plan: &Plan, share: f64, device: Option<&(String, usize)>) -> Result<Plan> {
        let plan = match device {
            Some((name, batch)) => {
                let profile = Profile::load(name)?;
                compressor.spread(plan, share, &|p| Ok(predict_plan(compressor, p, &profile, *batch)?.1.latency_ms))?
            }
            None => compressor.spread(plan, share, &|p| {
                let outline = compressor.outline_normalised(p, 1)?;
                Ok(Layers::find(&outline.structured.model, &outline.shapes).layers.iter().map(|l| l.macs as f64).sum())
            })?,
        };
        for group in compressor.channels.groups.iter().filter(|g| g.frozen.is_none()) {
            let keep = plan.treatments[group.layers[0]].1.keep;
            eprintln!("{}: {} of {} channels stay", group.name, limits::kept_in_group(group, keep), group.units());
        }
        Ok(plan)
    }

    /// Writes the compressed model.
    pub fn run(&self) -> Result<Done> {
        let runtime = start_runtime()?;
        let pins = self.data.pins(pins(&self.shape))?;
        let mut compressor = Compressor::load(&runtime, &self.model, &pins)?;
        compressor.require_layers()?;
        compressor.require_runnable()?;
        let (mut plan, written) = Plan::load(&self.plan, &compressor.model, &compressor.layers, &compressor.channels)?;
        let (data, _, spec) = self.data.open(&compressor.model, &pins, Which::Calibration)?;
        let given = self.quantize.as_ref().map(|text| parse_yaml::<QuantizeSpec>(&PathBuf::from("--quantize"), text)).transpose()?;
        compressor.quantize = given.or(spec.as_ref().map(|s| s.quantize)).unwrap_or_default();
        let given = self.structure.as_ref().map(|text| parse_yaml::<StructureSpec>(&PathBuf::from("--structure"), text)).transpose()?;
        compressor.structure = given.or(spec.as_ref().map(|s| s.structure)).unwrap_or_default();
        let device = self.device.clone().map(|name| (name, self.batch)).or(spec.as_ref().map(|s| (s.device.name.clone(), s.device.batch)));
        let samples = data.len();
        let share = written.channels;
        let reduces = share.is_some() || plan.changes_structure();
        // With a study's spec the moments are the study's, whatever this plan needs.
        let of_study = spec.as_ref().map_or(0, Spec::positions);
        let positions =
            if reduces { compressor.quantize.positions.max(compressor.structure.positions) } else { compressor.quantize.positions }
                .max(of_study);
        let widest = if reduces { Effort::WIDEST } else { compressor.widest_moments(&plan) };
        let effort = Effort { threads: self.jobs.unwrap_or_else(cores), max_memory: self.max_memory.0, positions, widest };
        let begun = Instant::now();
        compressor.calibrate(Arc::new(data), samples, effort, None)?;
        let calibration_seconds = begun.elapsed().as_secs_f64();
        if let Some(share) = share {
            plan = self.spread(&compressor, &plan, share, device.as_ref())?;
        }
        let bytes = compressor.compress(&plan, if self.parallel { Build::Parallel } else { written.build.unwrap_or(Build::Sequential) })?;
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
