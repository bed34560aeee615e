//! `gulliver evaluate`: score a model on data.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::{
    Done, Pin,
    data::{DataArguments, Which},
    pins, print_json, start_runtime,
};
use crate::{
    data::Metric,
    error::{Error, Result},
    evaluate::evaluate_model,
    graph::Model,
    spec::parse_yaml,
};

/// Arguments of `evaluate`.
#[derive(Debug, Args)]
pub struct Evaluate {
    /// The ONNX file: float, or compressed by gulliver
    model: PathBuf,
    #[command(flatten)]
    data: DataArguments,
    /// top1, top5, agreement, kl, cosine, sqnr, or a map such as '{command: [python3, eval.py]}'
    #[arg(long)]
    metric: Option<String>,
    /// The float model, to compare with sample by sample (needed by agreement, kl, cosine, sqnr)
    #[arg(long)]
    reference: Option<PathBuf>,
    /// Fix an input's whole shape, e.g. input:1,3,224,224
    #[arg(long)]
    shape: Vec<Pin>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A model in one piece: its file, or what stands for it where its weights lie in other files.
fn whole(path: &PathBuf, model: &Model) -> Result<Vec<u8>> {
    if model.has_external_data() { model.to_bytes() } else { std::fs::read(path).map_err(Error::io("read", path)) }
}

impl Evaluate {
    /// Prints the score.
    pub fn run(&self) -> Result<Done> {
        let model = Model::load(&self.model)?;
        let bytes = whole(&self.model, &model)?;
        let given = self.metric.as_ref().map(|text| parse_yaml::<Metric>(&PathBuf::from("--metric"), text)).transpose()?;
        let pins = self.data.pins(pins(&self.shape))?;
        let (data, of_spec, spec) = self.data.open(&model, &pins, Which::Validation)?;
        let metric = given.or(of_spec).unwrap_or_default();
        let confidence = spec.as_ref().map_or(0.95, |s| s.constraints.confidence.0);
        let path = self.reference.clone().or(spec.map(|s| s.model));
        let reference = path.map(|p| whole(&p, &Model::load(&p)?)).transpose()?;
        if metric.needs_float_outputs() && reference.is_none() {
            return Err(Error::metric(format!("{} compares with the float model", metric.name()), "give it with --reference float.onnx"));
        }
        let score = evaluate_model(&start_runtime()?, (&model.name, &bytes), reference.as_deref(), &metric, &data, confidence)?;
        if self.json {
            let compared = reference.is_some();
            print_json(&json!({
                "metric": metric.name(), "accuracy": score.accuracy, "samples": score.samples,
                "drop": compared.then_some(score.drop), "drop_low": score.drop_low, "drop_high": score.drop_high,
            }))?;
        } else {
            println!("{} {:.6} on {} samples", metric.name(), score.accuracy, score.samples);
            if let (Some(low), Some(high)) = (score.drop_low, score.drop_high) {
                println!("drop against the reference {:.6}, {:.0} % interval {low:.6} … {high:.6}", score.drop, 100.0 * confidence);
            }
        }
        Ok(Done::Well)
    }
}
