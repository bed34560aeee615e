//! The study's result as plain data: what `front.json` holds and every report is a pure function of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    device::{Extrapolated, Split},
    precision::Precision,
    space::{Treatment, limits},
    spec::{Form, Method, Sparsity},
};

/// The whole result. Fractions are fractions (0.01 is 1 %), times are milliseconds unless the name says otherwise.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// The model's file name.
    pub model: String,
    /// The chip.
    pub device: String,
    /// Batch the latency is predicted for.
    pub batch: usize,
    /// The metric's name.
    pub metric: String,
    /// Validation samples.
    pub samples: usize,
    /// Trial 0.
    pub baseline: Baseline,
    /// What was asked for.
    pub budget: Budget,
    /// Trial number of the chosen point; none if nothing meets the limits.
    pub chosen: Option<usize>,
    /// What can be said of the chosen point, or of the nearest miss.
    pub verdict: Verdict,
    /// Why the search ended.
    pub stop: Stop,
    /// What the search cost.
    pub cost: SearchCost,
    /// Non-dominated points in drop, latency and bytes, by rising latency. The float model is not among them.
    pub front: Vec<FrontPoint>,
    /// How wrong predicted latencies are; none where the device profile has no measurements to judge them by.
    #[serde(default)]
    pub latency_error: Option<LatencyError>,
    /// Trials that are not on the front and have a known cost.
    pub cloud: Vec<CloudPoint>,
    /// Treatments taken a step back or forth after the search, in order.
    pub rollback: Vec<RollbackStep>,
    /// How well the drops of the front were predicted: Spearman's rank correlation of predicted and measured; none of fewer than three points.
    #[serde(default)]
    pub predicted_rank_correlation: Option<f64>,
    /// Layers of the model in order, with the chosen point's treatment beside the float model.
    pub layers: Vec<LayerRow>,
    /// Where the numbers come from.
    pub facts: Facts,
}

/// The uncompressed model, measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Baseline {
    /// The metric.
    pub accuracy: f64,
    /// Predicted, FP16.
    pub latency_ms: f64,
    /// A measurement lies between these nine times in ten; none where nothing can be said.
    #[serde(default)]
    pub latency_interval_ms: Option<[f64; 2]>,
    /// Predicted, FP16, after the exact rewrites that every compressed model gets (BatchNorm folded, constants folded): what
    /// of the gain costs no accuracy at all.
    pub normalised_latency_ms: f64,
    /// Deployed bytes, FP16 weights.
    pub bytes: u64,
    /// Size of the user's file.
    pub file_bytes: u64,
}

/// Limits of the spec; none where there is no limit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Budget {
    /// Largest allowed drop, in the metric's units.
    pub accuracy_drop: Option<f64>,
    /// Largest allowed predicted latency.
    pub latency_ms: Option<f64>,
    /// Largest allowed deployed size.
    pub bytes: Option<u64>,
    /// Level of the intervals.
    pub confidence: f64,
}

/// What can be said of the chosen point.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Within the budget by the upper end of its interval.
    Certain,
    /// Within the budget as measured, but the samples are too few to be sure.
    Likely,
    /// There is no accuracy budget, or the metric has no interval; the other limits hold.
    Unjudged,
    /// Nothing meets the limits; the front has the nearest miss.
    Missed,
}

/// Why the search ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reason", rename_all = "snake_case")]
pub enum Stop {
    /// All trials of the budget are done.
    Trials {
        /// The budget.
        trials: usize,
    },
    /// The samples that the search may infer are used up.
    Samples {
        /// The budget.
        samples: u64,
    },
    /// The time is used up.
    Time {
        /// The budget, seconds.
        seconds: f64,
    },
    /// The strategy expects nothing more: the front no longer moves, or its procedure is done.
    Settled {
        /// Rounds that the search took.
        rounds: usize,
    },
    /// Every candidate of the space has been tried.
    Exhausted {
        /// How many there are.
        candidates: usize,
    },
    /// The user stopped it; running the same command again goes on.
    Interrupted {
        /// Trials done.
        trials: usize,
    },
}

/// What the search cost.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SearchCost {
    /// Trials in the journal.
    pub trials: usize,
    /// Of these, rejected by size or latency alone.
    pub rejected_by_limit: usize,
    /// Of these, stopped before all samples.
    pub stopped_early: usize,
    /// Of these, failed.
    pub failed: usize,
    /// Samples inferred over all trials but the float model's.
    pub samples_inferred: u64,
    /// Wall time over all sessions of the study.
    pub seconds: f64,
    /// Time of one validation pass of the float model.
    pub baseline_pass_seconds: f64,
}

/// A point of the front.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FrontPoint {
    /// Trial number.
    pub trial: usize,
    /// The metric.
    pub accuracy: f64,
    /// Paired loss against the float model.
    pub drop: f64,
    /// Lower end of the interval.
    pub drop_low: Option<f64>,
    /// Upper end of the interval.
    pub drop_high: Option<f64>,
    /// Samples seen.
    pub samples: usize,
    /// Predicted.
    pub latency_ms: f64,
    /// A measurement lies between these nine times in ten; none where nothing can be said.
    #[serde(default)]
    pub latency_interval_ms: Option<[f64; 2]>,
    /// Trials of the front whose latency differs from this one's by less than the latency model's error of a ratio.
    #[serde(default)]
    pub not_told_apart: Vec<usize>,
    /// Whether its latency differs from the float model's by more than that error; none where nothing can be said.
    #[serde(default)]
    pub told_from_float: Option<bool>,
    /// Deployed bytes.
    pub bytes: u64,
    /// The drop that the search predicted from what other candidates were measured at, nothing of this one, where its strategy predicts.
    pub predicted_drop: Option<f64>,
    /// Whether weights were trained after compression.
    pub finetuned: bool,
    /// Treatment of every layer.
    pub layers: BTreeMap<String, LayerTreatment>,
}

/// How wrong the latency model's predictions were for networks that it was not fitted to. Errors are fractions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LatencyError {
    /// Median error of the ratio of two predictions for one network: what counts between points of a front.
    pub ratio_error: f64,
    /// Median error of one prediction.
    pub median_error: f64,
    /// A measurement lies between prediction / factor and prediction × factor nine times in ten.
    pub factor_90: f64,
    /// Median difference between two published values of one point.
    pub noise_floor: f64,
    /// Measurements.
    pub rows: usize,
    /// Networks among them.
    pub networks: usize,
    /// Families of these networks.
    pub families: usize,
    /// Kernels of the float model, then of the chosen plan or the nearest miss, that are unlike all that was measured.
    pub extrapolated: Vec<Extrapolated>,
}

/// Treatment of one layer, as files show it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerTreatment {
    /// Weights and activations.
    pub precision: Precision,
    /// Share of output channels kept.
    pub keep: f64,
    /// Rank of the decomposition, of a Tucker-2 decomposition that of the outputs; none for an undecomposed layer.
    pub rank: Option<usize>,
    /// Form of the decomposition, if it is not the plain one by channel.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub form: Option<Form>,
    /// Rank of the inputs of a Tucker-2 decomposition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_rank: Option<usize>,
    /// Pattern of zeros, if there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
    /// How it is quantized, in words, where the plan says more than the precision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
}

impl LayerTreatment {
    /// A treatment as files show it.
    pub fn of(t: &Treatment) -> Self {
        let method = (t.precision.is_quantized() && t.method != Method::default()).then(|| t.method.to_string());
        let number = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        let (rank, input_rank) = match t.split {
            None => (None, None),
            Some(Split::Channel { rank } | Split::Spatial { rank }) => (Some(number(rank)), None),
            Some(Split::Tucker { input, output }) => (Some(number(output)), Some(number(input))),
        };
        let form = t.split.map(limits::form).filter(|f| *f != Form::Channel);
        let sparsity = (t.sparsity != Sparsity::None).then_some(t.sparsity);
        Self { precision: t.precision, keep: t.keep, rank, form, input_rank, sparsity, method }
    }

    /// The rank, or what else makes the weight smaller, in words; empty for a whole weight.
    pub fn reduced(&self) -> String {
        let rank = match (self.rank, self.input_rank) {
            (Some(output), Some(input)) => format!("{input}, {output}"),
            (Some(rank), None) => rank.to_string(),
            _ => String::new(),
        };
        let form = self.form.map_or_else(String::new, |f| format!("{} ", f.name()));
        let sparsity = self.sparsity.map_or_else(String::new, |s| s.to_string());
        format!("{form}{rank}{sparsity}")
    }
}

/// A trial off the front.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CloudPoint {
    /// Trial number.
    pub trial: usize,
    /// `measured`, `sampled` (met some samples), `stopped` or `rejected`.
    pub status: String,
    /// Drop as far as known.
    pub drop: Option<f64>,
    /// The drop that was predicted.
    #[serde(default)]
    pub predicted_drop: Option<f64>,
    /// Samples seen.
    pub samples: usize,
    /// Predicted.
    pub latency_ms: f64,
    /// Deployed bytes.
    pub bytes: u64,
    /// Why it is not on the front: `dominated`, a limit's name, `over the budget or dominated, for certain`.
    pub why: String,
}

/// One step of the rollback, or forward.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RollbackStep {
    /// Trial that measured the step.
    pub trial: usize,
    /// Trial that the step started from.
    pub before: usize,
    /// Layer or group whose treatment went back.
    pub layer: String,
    /// Treatment before.
    pub from: String,
    /// Treatment after.
    pub to: String,
    /// Drop after the step.
    pub drop: Option<f64>,
    /// Upper end of its interval.
    pub drop_high: Option<f64>,
    /// Latency after the step.
    pub latency_ms: f64,
    /// Latency given back by the step, below zero where it won some.
    pub cost_ms: f64,
    /// Whether the budget held after the step, at the asked confidence.
    pub held: bool,
}

/// A layer of the model in the chosen point (or the nearest miss), beside the float model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerRow {
    /// Name in the user's model.
    pub layer: String,
    /// Operator.
    pub op: String,
    /// Weight shape in the float model.
    pub weight: Vec<usize>,
    /// Output channels kept, of how many.
    pub channels: (usize, usize),
    /// Treatment.
    pub treatment: LayerTreatment,
    /// Predicted time of the layer's kernels, microseconds per batch.
    pub us: f64,
    /// The same in the float model.
    pub float_us: f64,
}

/// Where the numbers come from.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Facts {
    /// Gulliver's version.
    pub version: String,
    /// ONNX Runtime's version.
    pub onnxruntime: String,
    /// Seed of the search.
    pub seed: u64,
    /// Strategy.
    pub strategy: String,
    /// SHA-256 of the resolved spec.
    pub spec_sha256: String,
    /// SHA-256 of the model file.
    pub model_sha256: String,
    /// SHA-256 of the validation data.
    pub data_sha256: String,
    /// Where the device profile's coefficients come from and how wrong they are known to be.
    pub latency_model: String,
    /// Number of candidates in the space, as a power of ten.
    pub space_log10: f64,
}
