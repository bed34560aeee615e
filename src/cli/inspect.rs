//! `gulliver inspect`: a model's layers and groups, and what can be done to each.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{Done, Pin, pins, print_json, start_runtime, table::aligned};
use crate::{
    compress::Compressor,
    device::Profile,
    error::Result,
    evaluate::predict_plan,
    precision::Precision,
    space::{Plan, limits},
    spec::Rank,
    study,
};

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// The ONNX file
    model: PathBuf,
    /// Chip for the share of latency
    #[arg(long, default_value = "ascend310p3")]
    device: String,
    /// Batch for the share of latency
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Fix an input's whole shape, e.g. input:1,3,224,224
    #[arg(long)]
    shape: Vec<Pin>,
    /// Write the network in the plain form that compression starts from
    #[arg(long, value_name = "PATH")]
    normalised: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

#[derive(Serialize)]
struct Inspection {
    layers: Vec<LayerInfo>,
    groups: Vec<GroupInfo>,
    skipped: Vec<SkippedInfo>,
}

#[derive(Serialize)]
struct LayerInfo {
    name: String,
    op: String,
    weight: Vec<usize>,
    macs: u64,
    latency_share: f64,
    group: Option<String>,
    options: Options,
    why_not: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
struct Options {
    precision: Vec<Precision>,
    keep: Vec<f64>,
    rank: Vec<usize>,
}

#[derive(Serialize)]
struct GroupInfo {
    name: String,
    layers: Vec<String>,
    channels: usize,
    why_not: Option<String>,
}

#[derive(Serialize)]
struct SkippedInfo {
    name: String,
    op: String,
    why_not: String,
}

impl Inspect {
    /// Prints the table.
    pub fn run(&self) -> Result<Done> {
        let profile = Profile::load(&self.device)?;
        let compressor = Compressor::load(&start_runtime()?, &self.model, &pins(&self.shape))?;
        if let Some(path) = &self.normalised {
            study::write_atomically(path, &compressor.model.to_bytes()?)?;
        }
        let inspection = self.examine(&compressor, &profile)?;
        if self.json {
            print_json(&inspection)?;
        } else {
            println!("{}", text(&inspection));
        }
        Ok(Done::Well)
    }

    fn examine(&self, compressor: &Compressor, profile: &Profile) -> Result<Inspection> {
        let (_, prediction) = predict_plan(compressor, &Plan::identity(&compressor.layers), profile, self.batch)?;
        let total: f64 = prediction.kernels.iter().map(|k| k.us).sum();
        let share = |name: &str| prediction.kernels.iter().filter(|k| k.layer.as_deref() == Some(name)).map(|k| k.us).sum::<f64>() / total;
        let channels = &compressor.channels;
        let layers = compressor.layers.layers.iter().enumerate().map(|(l, layer)| {
            let mut why_not = BTreeMap::new();
            let mut precision = vec![Precision::Fp16];
            for p in [Precision::Int8, Precision::Int4] {
                match limits::why_not_precision(layer, p) {
                    None => precision.push(p),
                    Some(reason) => drop(why_not.insert(p.name(), reason)),
                }
            }
            let group = channels.group_of[l].map(|g| &channels.groups[g]);
            let keep = match limits::why_not_keep(l, channels) {
                Some(reason) => {
                    why_not.insert("keep", reason);
                    vec![1.0]
                }
                None => vec![1.0, 0.75, 0.5],
            };
            let mut rank = Vec::new();
            for fraction in [0.5, 0.25] {
                let r = limits::components(layer, Rank::Fraction(fraction));
                match limits::why_not_rank(layer, r) {
                    None => rank.push(r),
                    Some(reason) => drop(why_not.entry("rank").or_insert(reason)),
                }
            }
            rank.dedup();
            if !rank.is_empty() {
                why_not.remove("rank");
            }
            LayerInfo {
                name: layer.name.clone(),
                op: layer.op.name().into(),
                weight: layer.weight_dims.clone(),
                macs: layer.macs,
                latency_share: share(&layer.name),
                group: group.map(|g| g.name.clone()),
                options: Options { precision, keep, rank },
                why_not,
            }
        });
        let groups = channels.groups.iter().map(|g| GroupInfo {
            name: g.name.clone(),
            layers: g.layers.iter().map(|&l| compressor.layers.layers[l].name.clone()).collect(),
            channels: g.units(),
            why_not: g.frozen.clone(),
        });
        let skipped =
            compressor.layers.skipped.iter().map(|s| SkippedInfo { name: s.name.clone(), op: s.op.clone(), why_not: s.reason.clone() });
        Ok(Inspection { layers: layers.collect(), groups: groups.collect(), skipped: skipped.collect() })
    }
}

fn text(inspection: &Inspection) -> String {
    let heading = ["layer", "op", "weight", "MACs", "latency", "group", "precision", "keep", "rank", "why not"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    for l in &inspection.layers {
        let join = |v: Vec<String>| v.join(" ");
        rows.push(vec![
            l.name.clone(),
            l.op.clone(),
            l.weight.iter().map(ToString::to_string).collect::<Vec<_>>().join("×"),
            l.macs.to_string(),
            format!("{:.1}%", 100.0 * l.latency_share),
            l.group.clone().unwrap_or_default(),
            join(l.options.precision.iter().map(ToString::to_string).collect()),
            join(l.options.keep.iter().map(ToString::to_string).collect()),
            join(l.options.rank.iter().map(ToString::to_string).collect()),
            l.why_not.iter().map(|(what, why)| format!("{what}: {why}")).collect::<Vec<_>>().join("; "),
        ]);
    }
    let mut text = aligned(&rows);
    let several: Vec<_> = inspection.groups.iter().filter(|g| g.layers.len() > 1).collect();
    if !several.is_empty() {
        text.push_str("\nchannels that go together:\n");
        for g in several {
            text.push_str(&format!("  {}: {} channels of {}\n", g.name, g.channels, g.layers.join(", ")));
        }
    }
    if !inspection.skipped.is_empty() {
        text.push_str("\nleft in float:\n");
        inspection.skipped.iter().for_each(|s| text.push_str(&format!("  {} ({}): {}\n", s.name, s.op, s.why_not)));
    }
    text.trim_end().to_string()
}
