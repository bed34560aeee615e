//! Outcomes: what became of a candidate, and what it costs on the device.

use serde::{Deserialize, Serialize};

use crate::space::Candidate;

/// What a plan costs on the device, known without running a sample.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cost {
    /// Predicted time of one batch, milliseconds.
    pub latency_ms: f64,
    /// Weights, biases and scales as the chip stores them, bytes.
    pub bytes: u64,
}

/// A metric measured on samples, against the float model on the same samples.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Score {
    /// The metric's value on these samples (a fraction for top-1, not per cent).
    pub accuracy: f64,
    /// Paired loss against the float model on the same samples; positive is worse, whatever the metric's direction.
    pub drop: f64,
    /// Lower end of the interval of `drop` at the study's confidence; none for a command metric, which gives one number.
    pub drop_low: Option<f64>,
    /// Upper end of the interval.
    pub drop_high: Option<f64>,
    /// Samples seen.
    pub samples: usize,
}

/// A limit of the spec.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Limit {
    /// Predicted latency above the limit, milliseconds.
    Latency,
    /// Deployed bytes above the limit.
    Size,
    /// Predicted slower than the float model.
    SlowerThanFloat,
    /// Larger than the float model.
    LargerThanFloat,
}

/// How a trial ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "status", rename_all = "snake_case", deny_unknown_fields)]
pub enum Outcome {
    /// Every sample was run.
    Measured {
        /// The metric.
        score: Score,
        /// The device's side.
        cost: Cost,
    },
    /// The statistics settled it before every sample was run.
    Stopped {
        /// The metric so far.
        score: Score,
        /// The device's side.
        cost: Cost,
    },
    /// A limit ruled it out before any sample was run.
    Rejected {
        /// Which limit.
        limit: Limit,
        /// The device's side.
        cost: Cost,
    },
    /// The candidate could not be built or run.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Who proposed a trial.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// Trial 0: the uncompressed model.
    Baseline,
    /// The search strategy.
    Search,
    /// The rollback, after the search.
    Rollback,
}

/// A candidate and its outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Position in the journal, from 0.
    pub trial: usize,
    /// Who proposed it.
    pub origin: Origin,
    /// The proposal.
    pub candidate: Candidate,
    /// What became of it.
    pub outcome: Outcome,
}

impl Outcome {
    /// Score and cost of a candidate that met every sample.
    pub fn measured(&self) -> Option<(&Score, &Cost)> {
        match self {
            Self::Measured { score, cost } => Some((score, cost)),
            _ => None,
        }
    }

    /// Score and cost of a candidate that met at least some samples.
    pub fn scored(&self) -> Option<(&Score, &Cost)> {
        match self {
            Self::Measured { score, cost } | Self::Stopped { score, cost } => Some((score, cost)),
            _ => None,
        }
    }

    /// Cost, unless the candidate failed.
    pub fn cost(&self) -> Option<&Cost> {
        match self {
            Self::Measured { cost, .. } | Self::Stopped { cost, .. } | Self::Rejected { cost, .. } => Some(cost),
            Self::Failed { .. } => None,
        }
    }
}
