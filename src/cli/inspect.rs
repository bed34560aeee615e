//! `gulliver inspect`: a model's layers and groups, and what can be done to each.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use serde::Serialize;

use super::{Done, Pin, inspect_text::text, pins, print_json, start_runtime};
use crate::{
    compress::Compressor,
    device::{Profile, Split, Target},
    error::Result,
    evaluate::predict_plan,
    graph::{
        layer::Layer,
        shape::{Pins, Shapes},
    },
    precision::Precision,
    space::{Plan, limits},
    spec::{Form, Rank},
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

/// What is known of a model.
#[derive(Serialize)]
pub(super) struct Inspection {
    pub layers: Vec<LayerInfo>,
    pub groups: Vec<GroupInfo>,
    pub skipped: Vec<SkippedInfo>,
    /// Sizes assumed for inputs that the model leaves open.
    pub assumed: Pins,
    /// Why ONNX Runtime cannot run the model, if so.
    pub not_runnable: Option<String>,
}

#[derive(Serialize)]
pub(super) struct LayerInfo {
    pub name: String,
    pub op: String,
    /// The user's nodes that it is made of, its own first.
    pub nodes: Vec<String>,
    pub input_shape: Option<Vec<usize>>,
    pub output_shape: Option<Vec<usize>>,
    pub weight: Vec<usize>,
    pub weights: u64,
    pub macs: u64,
    pub latency_share: f64,
    pub group: Option<String>,
    pub options: Options,
    pub why_not: BTreeMap<&'static str, String>,
}

#[derive(Serialize)]
pub(super) struct Options {
    pub precision: Vec<Precision>,
    pub keep: Vec<f64>,
    pub rank: Vec<usize>,
    /// Decompositions of other forms.
    pub forms: Vec<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub sparsity_4_to_2: bool,
}

#[derive(Serialize)]
pub(super) struct GroupInfo {
    pub name: String,
    pub layers: Vec<String>,
    /// Parts that can go one by one: channels, heads, groups of a convolution.
    pub channels: usize,
    pub why_not: Option<String>,
}

#[derive(Serialize)]
pub(super) struct SkippedInfo {
    pub name: String,
    pub op: String,
    pub why_not: String,
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
        let total = prediction.kernels.iter().map(|k| k.us).sum::<f64>().max(f64::MIN_POSITIVE);
        let share = |name: &str| prediction.kernels.iter().filter(|k| k.layer.as_deref() == Some(name)).map(|k| k.us).sum::<f64>() / total;
        let float = compressor.outline_normalised(&Plan::identity(&compressor.layers), self.batch)?;
        let target = Target::new(profile, float.kernels());
        let layers = compressor.layers.layers.iter().enumerate();
        let layers = layers
            .map(|(l, layer)| LayerInfo { latency_share: share(&layer.name), ..layer_info(compressor, l, layer, &float.shapes, &target) });
        let groups = compressor.channels.groups.iter().map(|g| GroupInfo {
            name: g.name.clone(),
            layers: g.layers.iter().map(|&l| compressor.layers.layers[l].name.clone()).collect(),
            channels: g.units(),
            why_not: g.frozen.clone(),
        });
        let skipped =
            compressor.layers.skipped.iter().map(|s| SkippedInfo { name: s.name.clone(), op: s.op.clone(), why_not: s.reason.clone() });
        Ok(Inspection {
            layers: layers.collect(),
            groups: groups.collect(),
            skipped: skipped.collect(),
            assumed: compressor
                .assumed
                .iter()
                .map(|(n, d)| (n.clone(), d.iter().map(|&d| if d == 0 { self.batch } else { d }).collect()))
                .collect(),
            not_runnable: compressor.not_runnable.clone(),
        })
    }
}

/// Ranks that a layer can be decomposed to, and decompositions of other forms in words.
fn ranks(
    compressor: &Compressor,
    layer: &Layer,
    target: &Target,
    why_not: &mut BTreeMap<&'static str, String>,
) -> (Vec<usize>, Vec<String>) {
    let (mut rank, mut forms) = (Vec::new(), Vec::new());
    for form in Form::ALL {
        for fraction in [0.5, 0.25] {
            let Ok(Some(split)) = limits::split(&compressor.model, layer, form, Rank::Fraction(fraction)) else { continue };
            match (limits::why_not_split(layer, split).or_else(|| target.why_not_split(&layer.name, split)), split) {
                (None, Split::Channel { rank: r }) => rank.push(usize::try_from(r).unwrap_or(usize::MAX)),
                (None, _) => forms.push(limits::describe(split)),
                (Some(reason), _) => drop(why_not.entry("rank").or_insert(reason)),
            }
        }
    }
    rank.dedup();
    forms.dedup();
    if !rank.is_empty() || !forms.is_empty() {
        why_not.remove("rank");
    }
    (rank, forms)
}

fn layer_info(compressor: &Compressor, l: usize, layer: &Layer, shapes: &Shapes, target: &Target) -> LayerInfo {
    let mut why_not = BTreeMap::new();
    let mut precision = vec![Precision::Fp16];
    for p in Precision::ALL.into_iter().filter(|p| p.is_quantized()) {
        match limits::why_not_precision(layer, p).or_else(|| target.why_not_precision(&layer.name, p)) {
            None => precision.push(p),
            Some(reason) => drop(why_not.insert(p.name(), reason)),
        }
    }
    let group = compressor.channels.group_of[l].map(|g| &compressor.channels.groups[g]);
    let keep = match limits::why_not_keep(l, &compressor.channels) {
        Some(reason) => {
            why_not.insert("keep", reason);
            vec![1.0]
        }
        None => {
            let fewer = |k: &f64| *k == 1.0 || group.is_some_and(|g| limits::kept_in_group(g, *k) < g.units());
            [1.0, 0.75, 0.5].into_iter().filter(fewer).collect()
        }
    };
    let (rank, forms) = ranks(compressor, layer, target, &mut why_not);
    let sparsity_4_to_2 = match limits::why_not_sparse(layer).or_else(|| target.why_not_sparse(&layer.name, Precision::Int8)) {
        None => true,
        Some(reason) => why_not.insert("4:2", reason).is_some(),
    };
    let add = layer.bias_node.map(|n| compressor.model.graph().node[n].name().to_string());
    let merged = compressor.merged.get(&layer.name).cloned().unwrap_or_default();
    let others = add.into_iter().filter(|a| !merged.contains(a)).chain(merged.clone());
    LayerInfo {
        name: layer.name.clone(),
        op: layer.op.name().into(),
        nodes: std::iter::once(layer.name.clone()).chain(others).collect(),
        input_shape: shapes.dims(&layer.input).map(<[usize]>::to_vec),
        output_shape: shapes.dims(&layer.output).map(<[usize]>::to_vec),
        weight: layer.weight_dims.clone(),
        weights: layer.weight_dims.iter().map(|&d| d as u64).product(),
        macs: layer.macs,
        latency_share: 0.0,
        group: group.map(|g| g.name.clone()),
        options: Options { precision, keep, rank, forms, sparsity_4_to_2 },
        why_not,
    }
}
