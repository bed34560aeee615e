//! Outcomes: what became of a candidate, and what it costs on the device.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::space::{Build, Candidate};

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
    /// The refinement of the search's front, after the search.
    Refine,
    /// The rollback, after the refinement.
    Rollback,
}

impl Origin {
    /// How the network of such a trial is built: the search compares many by the cheap way, what follows it builds few by the accurate one.
    pub const fn build(self) -> Build {
        match self {
            Self::Baseline | Self::Search => Build::Parallel,
            Self::Refine | Self::Rollback => Build::Sequential,
        }
    }
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

/// For every candidate the one trial that counts, in the order of the trials: the last that met every sample, else the last that met
/// some, else the last. A later trial of a candidate is built more accurately than an earlier one.
pub fn counting<'a>(trials: impl IntoIterator<Item = &'a Trial>) -> Vec<&'a Trial> {
    let known = |t: &Trial| (t.outcome.measured().is_some(), t.outcome.scored().is_some());
    let mut place: HashMap<&Candidate, usize> = HashMap::new();
    let mut kept: Vec<&Trial> = Vec::new();
    for trial in trials {
        match place.get(&trial.candidate) {
            Some(&i) if known(trial) >= known(kept[i]) => kept[i] = trial,
            Some(_) => {}
            None => {
                place.insert(&trial.candidate, kept.len());
                kept.push(trial);
            }
        }
    }
    kept.sort_by_key(|t| t.trial);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(trial: usize, origin: Origin, candidate: u16, outcome: Outcome) -> Trial {
        Trial { trial, origin, candidate: Candidate(vec![candidate]), outcome }
    }

    #[test]
    fn of_the_trials_of_a_candidate_the_last_that_met_most_counts() {
        let score = Score { accuracy: 0.9, drop: 0.0, drop_low: None, drop_high: None, samples: 1 };
        let cost = Cost { latency_ms: 1.0, bytes: 1 };
        let (measured, stopped) = (|| Outcome::Measured { score, cost }, || Outcome::Stopped { score, cost });
        let all = [
            trial(0, Origin::Search, 7, measured()),
            trial(1, Origin::Search, 8, stopped()),
            trial(2, Origin::Search, 9, measured()),
            trial(3, Origin::Refine, 7, measured()),
            trial(4, Origin::Refine, 9, Outcome::Failed { reason: "why".into() }),
            trial(5, Origin::Rollback, 8, stopped()),
        ];
        assert_eq!(counting(&all).iter().map(|t| t.trial).collect::<Vec<_>>(), [2, 3, 5]);
    }
}
