//! `gulliver latency`: predicted time of a model, kernel by kernel.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{
    Done, Pin, pins, print_json,
    table::{aligned, word},
};
use crate::{
    device::{KernelTime, Profile, extract, predict},
    error::{Error, Result},
    graph::{Model, model::PRECISION_KEY, shape},
    precision::Precision,
};

/// Arguments of `latency`.
#[derive(Debug, Args)]
pub struct Latency {
    /// The ONNX file: a float model (predicted in FP16) or one that gulliver compressed (in its own precisions)
    model: PathBuf,
    /// Chip: a name from `gulliver device list`, or the path of a profile
    #[arg(long)]
    device: String,
    /// Batches, e.g. 1,8,32
    #[arg(long, value_delimiter = ',', default_value = "1")]
    batch: Vec<usize>,
    /// Fix an input's whole shape, e.g. input:1,3,224,224
    #[arg(long)]
    shape: Vec<Pin>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Answer {
    device: String,
    known_error: String,
    batches: Vec<OfBatch>,
}

#[derive(Serialize)]
struct OfBatch {
    batch: usize,
    latency_ms: f64,
    fps: f64,
    kernels: Vec<KernelTime>,
}

impl Latency {
    /// Prints the kernels of each batch.
    pub fn run(&self) -> Result<Done> {
        let profile = Profile::load(&self.device)?;
        let model = Model::load(&self.model)?;
        let precision: BTreeMap<String, Precision> = match model.metadata(PRECISION_KEY) {
            Some(text) => serde_json::from_str(text)
                .map_err(|e| Error::model(&model.name, format!("its gulliver metadata is damaged: {e}"), "compress the model again"))?,
            None => BTreeMap::new(),
        };
        let mut batches = Vec::new();
        for &batch in &self.batch {
            if batch == 0 {
                return Err(Error::device(&self.device, "a batch of 0 takes no time", "give batches of at least 1, e.g. --batch 1,8,32"));
            }
            let shapes = shape::infer(&model, batch, &pins(&self.shape))?;
            let prediction = predict(&extract(&model, &shapes, &precision), &profile);
            let fps = batch as f64 / prediction.latency_ms * 1e3;
            batches.push(OfBatch { batch, latency_ms: prediction.latency_ms, fps, kernels: prediction.kernels });
        }
        let answer = Answer { device: profile.name.clone(), known_error: profile.known_error.clone(), batches };
        if self.json {
            print_json(&answer)?;
        } else {
            print(&answer, profile.inference_us());
        }
        Ok(Done::Well)
    }
}

fn print(answer: &Answer, inference_us: f64) {
    for of in &answer.batches {
        println!("{}, batch {}: {:.3} ms predicted, {:.0} samples/s", answer.device, of.batch, of.latency_ms, of.fps);
        let mut kernels: Vec<&KernelTime> = of.kernels.iter().collect();
        kernels.sort_by(|a, b| b.us.total_cmp(&a.us));
        let mut rows = vec![["kernel", "op", "precision", "us", "share", "bound by", "nodes"].map(String::from).to_vec()];
        let total = of.latency_ms * 1e3;
        for k in kernels {
            rows.push(vec![
                k.name.clone(),
                word(&k.op),
                k.precision.to_string(),
                format!("{:.1}", k.us),
                format!("{:.1}%", 100.0 * k.us / total),
                word(&k.bound),
                k.nodes.join(" "),
            ]);
        }
        rows.push(
            [
                "(fixed cost of an inference)",
                "",
                "",
                &format!("{inference_us:.1}"),
                &format!("{:.1}%", 100.0 * inference_us / total),
                "",
                "",
            ]
            .map(String::from)
            .to_vec(),
        );
        println!("{}", aligned(&rows));
    }
    println!("predicted, not measured. Known error of this profile: {}", answer.known_error);
}
