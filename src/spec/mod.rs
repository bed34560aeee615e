//! The study's spec: YAML, typed, defaulted, checked before any work.

mod method;
mod pattern;
mod recover;
mod rule;
mod structure;
#[cfg(test)]
mod tests;
mod units;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

pub use method::{Balance, Method, QuantizeSpec, RangeRule, Round, Settled, WeightRule};
pub use pattern::Patterns;
pub use recover::{Augment, Optimizer, RecoverSpec};
pub use rule::{Form, Keep, PlanRule, Rank, SpaceRule, Sparsity};
pub use structure::{Repair, Score, StructureSpec, Whiten};
pub use units::{MaxDrop, Seconds, Share};

use crate::{
    data::{Input, Metric, Source},
    error::{Error, Result},
    graph::shape::Pins,
};

/// A study, as the user writes it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The ONNX file; relative paths are relative to the spec's folder.
    pub model: PathBuf,
    /// Whole shapes of inputs by name, `input: [1, 3, 224, 224]`, for models that leave them open; 0 stands for the batch.
    #[serde(default, skip_serializing_if = "Pins::is_empty")]
    pub shapes: Pins,
    /// Where samples come from.
    pub data: DataSpec,
    /// How accuracy is measured.
    #[serde(default)]
    pub metric: Metric,
    /// The chip.
    pub device: DeviceSpec,
    /// What must hold.
    #[serde(default)]
    pub constraints: Constraints,
    /// Options by layer; later rules win.
    #[serde(default = "default_space")]
    pub space: Vec<SpaceRule>,
    /// How layers are quantized.
    #[serde(default)]
    pub quantize: QuantizeSpec,
    /// How channels and ranks are taken away.
    #[serde(default)]
    pub structure: StructureSpec,
    /// How the space is searched.
    #[serde(default)]
    pub search: SearchSpec,
    /// How compressed networks are trained.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub recover: Option<RecoverSpec>,
}

impl Spec {
    /// Positions of a sample that moments are measured at: more where the space lets channels, ranks or weights go, since weights are fitted by them.
    pub fn positions(&self) -> usize {
        let reduces = |r: &SpaceRule| {
            let keep = r.keep.iter().flatten().any(|k| k.0 < 1.0);
            let rank = r.rank.iter().flatten().any(|r| *r != Rank::Full);
            keep || rank || r.sparsity.iter().flatten().any(|s| *s != Sparsity::None)
        };
        let reduces = self.space.iter().any(reduces);
        if reduces { self.quantize.positions.max(self.structure.positions) } else { self.quantize.positions }
    }
}

/// Samples and how they become the network's input.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DataSpec {
    /// Samples that ranges are calibrated on; no labels needed.
    pub calibration: Source,
    /// Samples that accuracy is measured on.
    pub validation: Source,
    /// Samples that compressed networks are trained on; no labels needed. Those of the calibration if it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub training: Option<Source>,
    /// Preprocessing of all.
    #[serde(default)]
    pub input: Input,
}

/// The chip and the batch that latency is predicted for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeviceSpec {
    /// Name of a profile, or path of a profile's YAML.
    pub name: String,
    /// Batch.
    #[serde(default = "one")]
    pub batch: usize,
}

/// What must hold; a limit that is left out is no limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Constraints {
    /// Largest drop of the metric: `1.0%` is a point of top1, top5 or agreement; for other metrics a number in their own units.
    pub accuracy_drop: Option<MaxDrop>,
    /// Largest drop as a share of the float model's metric: `1.0%` of 0.80 is 0.008. Where both limits stand, both hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub relative_drop: Option<Share>,
    /// Largest predicted latency of a batch, milliseconds.
    pub latency_ms: Option<f64>,
    /// Largest deployed size, megabytes (10⁶ bytes).
    pub size_mb: Option<f64>,
    /// Level of the intervals.
    pub confidence: Share,
}

impl Default for Constraints {
    fn default() -> Self {
        Self { accuracy_drop: None, relative_drop: None, latency_ms: None, size_mb: None, confidence: Share(0.95) }
    }
}

impl Constraints {
    /// The largest drop that keeps all limits, given the float model's metric; none without a limit.
    pub fn budget(&self, float: f64) -> Option<f64> {
        let relative = self.relative_drop.map(|r| r.0 * float.abs());
        self.accuracy_drop.map(|d| d.0).into_iter().chain(relative).reduce(f64::min)
    }
}

/// A search strategy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StrategyName {
    /// The front predicted from tables by an exact knapsack, corrected by measurements.
    #[default]
    Additive,
    /// NSGA-II on the additive model and its residual.
    Evolve,
    /// Simulated annealing on the additive model.
    Anneal,
    /// Uniformly random candidates.
    Random,
    /// Plain NSGA-II, seeded by uniform plans and single-layer changes.
    Nsga2,
    /// Uniform plans alone.
    Uniform,
    /// AMCT's binary search over a cosine order, then its pruning by a tolerance.
    Amct,
    /// AIMET's and Quark's flips along a list of sensitivities.
    Aimet,
    /// NNCF's removal of quantizers with re-ranking.
    Nncf,
}

impl StrategyName {
    /// All of them.
    pub const ALL: [Self; 9] =
        [Self::Additive, Self::Evolve, Self::Anneal, Self::Random, Self::Nsga2, Self::Uniform, Self::Amct, Self::Aimet, Self::Nncf];

    /// The name in files.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Additive => "additive",
            Self::Evolve => "evolve",
            Self::Anneal => "anneal",
            Self::Random => "random",
            Self::Nsga2 => "nsga2",
            Self::Uniform => "uniform",
            Self::Amct => "amct",
            Self::Aimet => "aimet",
            Self::Nncf => "nncf",
        }
    }

    /// Whether it comes to an end by itself.
    pub const fn ends(self) -> bool {
        !matches!(self, Self::Evolve | Self::Random | Self::Nsga2)
    }

    /// Whether it works towards an accuracy budget and nothing else.
    pub const fn needs_budget(self) -> bool {
        matches!(self, Self::Amct | Self::Aimet | Self::Nncf)
    }

    /// Whether it looks at the tables of damage and cost.
    pub const fn needs_tables(self) -> bool {
        !matches!(self, Self::Random | Self::Nsga2 | Self::Uniform)
    }
}

/// How the space is searched.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SearchSpec {
    /// Strategy.
    pub strategy: StrategyName,
    /// Trials the search may make; those that certify, roll back and spend are on top.
    pub trials: usize,
    /// Time the study may take, over all its sessions.
    pub time: Option<Seconds>,
    /// Seed of every random choice.
    pub seed: u64,
    /// Candidates asked for at once. It decides what the search knows when it asks, hence the result: it is the spec's, never the machine's.
    pub asked_together: usize,
    /// A candidate is given up as soon as its drop is certainly above this many times the accuracy budget.
    pub give_up_at: f64,
    /// Validation samples that a search trial meets; what leads then meets more, up to all.
    pub samples: usize,
    /// Points of the front that meet all samples, at most.
    pub certify: usize,
}

impl Default for SearchSpec {
    fn default() -> Self {
        Self {
            strategy: StrategyName::default(),
            trials: 300,
            time: None,
            seed: 0,
            asked_together: 8,
            give_up_at: 4.0,
            samples: 512,
            certify: 10,
        }
    }
}

fn one() -> usize {
    1
}

/// All precisions, a quarter and half of the channels off, half and quarter rank; the network's ends only to 8 bits.
fn default_space() -> Vec<SpaceRule> {
    use crate::precision::Precision::{Fp16, Int4, Int8};
    let patterns = |names: &[&str]| Patterns(names.iter().map(ToString::to_string).collect());
    vec![
        SpaceRule {
            layers: patterns(&["*"]),
            precision: Some(vec![Fp16, Int8, Int4]),
            keep: Some([1.0, 0.75, 0.5].map(Keep).to_vec()),
            rank: Some(vec![Rank::Full, Rank::Fraction(0.5), Rank::Fraction(0.25)]),
            ..SpaceRule::default()
        },
        SpaceRule {
            layers: patterns(&["first", "last"]),
            precision: Some(vec![Fp16, Int8]),
            keep: Some(vec![Keep(1.0)]),
            rank: Some(vec![Rank::Full]),
            ..SpaceRule::default()
        },
    ]
}

impl Spec {
    /// Reads and checks a spec; paths in it become relative to the current folder.
    ///
    /// # Errors
    /// Names the line and the remedy for unknown keys, wrong types, values out of range and files that do not exist.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(Error::io("read", path))?;
        Self::parse(path, &text)
    }

    fn parse(path: &Path, text: &str) -> Result<Self> {
        let mut spec: Self = parse_yaml(path, text)?;
        let fail = |key: &str, message: String, remedy: &str| Error::spec(path, line_of(text, key), message, remedy);
        let base = path.parent().unwrap_or(Path::new(""));
        let as_written = spec.model.clone();
        spec.model = base.join(&spec.model);
        if !spec.model.is_file() {
            let message = format!("model: there is no file {}", as_written.display());
            return Err(fail("model", message, "give the path of an .onnx file, relative to the spec's folder"));
        }
        let training = spec.data.training.as_mut().map(|t| ("training", t));
        let sources = [("calibration", &mut spec.data.calibration), ("validation", &mut spec.data.validation)];
        for (key, source) in sources.into_iter().chain(training) {
            source.resolve(base);
            if let Some(missing) = source.paths().into_iter().find(|p| !p.exists()) {
                let message = format!("data.{key}: there is no {}", missing.display());
                return Err(fail(key, message, "give a path that exists, relative to the spec's folder"));
            }
        }
        let profile = base.join(&spec.device.name);
        if matches!(profile.extension().and_then(|e| e.to_str()), Some("yaml" | "yml")) {
            spec.device.name = profile.display().to_string();
        }
        if spec.device.batch == 0 {
            return Err(fail("batch", "device.batch is 0".into(), "give the batch the network will run with, e.g. 1 or 32"));
        }
        for (key, value) in [("latency_ms", spec.constraints.latency_ms), ("size_mb", spec.constraints.size_mb)] {
            if value.is_some_and(|v| v.is_nan() || v <= 0.0) {
                return Err(fail(key, format!("constraints.{key} must be above 0"), "give a limit above 0, or null for none"));
            }
        }
        if let Some(drop) = spec.constraints.accuracy_drop.filter(|d| spec.metric.is_bounded() && d.0 >= 1.0) {
            let message =
                format!("constraints.accuracy_drop of {0} would be {1} points of {2}", drop.0, 100.0 * drop.0, spec.metric.name());
            return Err(fail("accuracy_drop", message, &format!("write {}% if points are meant", drop.0)));
        }
        if spec.constraints.relative_drop.is_some() && !spec.metric.is_bounded() && !spec.metric.is_command() {
            let message = format!("constraints.relative_drop: {} of the float model is no scale to measure by", spec.metric.name());
            return Err(fail("relative_drop", message, "give accuracy_drop, in the metric's units"));
        }
        if spec.search.strategy.needs_budget() && spec.constraints.accuracy_drop.is_none() && spec.constraints.relative_drop.is_none() {
            let message = format!("search.strategy {} works towards an accuracy budget, and there is none", spec.search.strategy.name());
            return Err(fail("strategy", message, "give constraints.accuracy_drop, or take another strategy"));
        }
        if !(0.5..1.0).contains(&spec.constraints.confidence.0) {
            return Err(fail("confidence", "constraints.confidence must be from 50% to below 100%".into(), "95% is usual"));
        }
        if spec.search.trials == 0 {
            return Err(fail(
                "trials",
                "search.trials is 0".into(),
                "give at least 1; to measure a model alone there is `gulliver evaluate`",
            ));
        }
        let counts = [spec.search.asked_together, spec.search.samples, spec.search.certify];
        if counts.contains(&0) || spec.search.give_up_at.is_nan() || spec.search.give_up_at < 1.0 {
            return Err(fail(
                "search",
                "search.asked_together, give_up_at, samples and certify must be at least 1".into(),
                "leave them out for the defaults",
            ));
        }
        if let Some(recover) = &spec.recover {
            recover.check().map_err(|(key, message, remedy)| fail(key, format!("recover.{key} {message}"), remedy))?;
        }
        if spec.space.is_empty() {
            return Err(fail("space", "the space has no rules".into(), "leave `space` out for the default space"));
        }
        for rule in &spec.space {
            if rule.has_an_empty_list() {
                let line = rule.layers.0.first().and_then(|p| line_of(text, p));
                return Err(Error::spec(path, line, "a rule of the space has an empty list of options", "list at least one option"));
            }
        }
        Ok(spec)
    }

    /// The spec as YAML, all defaults written out.
    ///
    /// # Errors
    /// Only if a value cannot be written as YAML, which would be a bug.
    pub fn to_yaml(&self) -> Result<String> {
        serde_yaml::to_string(self).map_err(|e| Error::Internal(format!("the spec cannot be written: {e}")))
    }
}

/// Parses YAML with the line in the error.
///
/// # Errors
/// If the text is not YAML or does not have the type's form.
pub fn parse_yaml<T: serde::de::DeserializeOwned>(path: &Path, text: &str) -> Result<T> {
    serde_yaml::from_str(text).map_err(|e| {
        let line = e.location().map(|l| l.line());
        let message = e.to_string();
        let message = message.split(" at line ").next().unwrap_or(&message).to_string();
        let message = ["usize", "u64", "f64", "f32"]
            .iter()
            .zip(["a whole number", "a whole number", "a number", "a number"])
            .fold(message, |m, (rust, plain)| m.replace(&format!("expected {rust}"), &format!("expected {plain}")));
        let remedy = if message.contains("unknown field") {
            "check the spelling, or remove the key"
        } else {
            "see search_spaces/ for working files"
        };
        Error::spec(path, line, message, remedy)
    })
}

/// The line on which a key or value first stands.
pub fn line_of(text: &str, needle: &str) -> Option<usize> {
    let uncommented = |line: &str| line.split(" #").next().unwrap_or("").to_string();
    text.lines().position(|l| !l.trim_start().starts_with('#') && uncommented(l).contains(needle)).map(|i| i + 1)
}
