//! Outcomes: what became of a candidate, and what it costs on the device.

use std::collections::HashMap;

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

/// Latency (ms) and bytes of one part of a network.
pub type Part = [f64; 2];

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
    /// Mean distance of the first output from the float model's, without labels: the Kullback-Leibler divergence of the classes' probabilities (nats),
    /// for other outputs ‖y − y′‖² / ‖y‖². None for a command metric.
    pub distance: Option<f64>,
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
    /// As many samples were run as were asked for, but not all.
    Sampled {
        /// The metric so far.
        score: Score,
        /// The device's side.
        cost: Cost,
    },
    /// The statistics settled it before the samples asked for were run.
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
    /// What leads the search's front meets more samples, up to all.
    Certify,
    /// The rollback: a step back from a point over the budget.
    Rollback,
    /// A step forward from a point within the budget.
    Spend,
}

/// A candidate and its outcome.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Trial {
    /// Position in the journal, from 0.
    pub trial: usize,
    /// Trials asked for together are of one round; counted from 0, the baseline's.
    pub round: usize,
    /// Who proposed it.
    pub origin: Origin,
    /// The proposal.
    pub candidate: Candidate,
    /// Drop that was predicted from what other candidates were measured at, if the strategy predicts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub predicted: Option<f64>,
    /// The trial that it is a step from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<usize>,
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
            Self::Measured { score, cost } | Self::Sampled { score, cost } | Self::Stopped { score, cost } => Some((score, cost)),
            _ => None,
        }
    }

    /// Cost, unless the candidate failed.
    pub fn cost(&self) -> Option<&Cost> {
        match self {
            Self::Measured { cost, .. } | Self::Sampled { cost, .. } | Self::Stopped { cost, .. } | Self::Rejected { cost, .. } => {
                Some(cost)
            }
            Self::Failed { .. } => None,
        }
    }
}

/// For every candidate the one trial that counts, in the order of the trials: that which met most samples, the last of these.
pub fn counting<'a>(trials: impl IntoIterator<Item = &'a Trial>) -> Vec<&'a Trial> {
    let known = |t: &Trial| t.outcome.scored().map_or(0, |(s, _)| s.samples);
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

/// Samples that were run for these trials: a candidate that went on is not run again on what it had met. The float model's are not among them.
pub fn inferred<'a>(trials: impl IntoIterator<Item = &'a Trial>) -> u64 {
    let mut met: HashMap<&Candidate, usize> = HashMap::new();
    for trial in trials.into_iter().filter(|t| t.origin != Origin::Baseline) {
        let most = met.entry(&trial.candidate).or_default();
        *most = (*most).max(trial.outcome.scored().map_or(0, |(s, _)| s.samples));
    }
    met.values().map(|m| *m as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trial(trial: usize, candidate: u16, outcome: Outcome) -> Trial {
        Trial { trial, round: trial, origin: Origin::Search, candidate: Candidate(vec![candidate]), predicted: None, from: None, outcome }
    }

    #[test]
    fn of_the_trials_of_a_candidate_the_last_that_met_most_samples_counts() {
        let cost = Cost { latency_ms: 1.0, bytes: 1 };
        let score = |samples| Score { accuracy: 0.9, drop: 0.0, drop_low: None, drop_high: None, distance: None, samples };
        let measured = || Outcome::Measured { score: score(10), cost };
        let after = |samples| Outcome::Stopped { score: score(samples), cost };
        let failed = Outcome::Failed { reason: "why".into() };
        let all = [
            trial(0, 7, measured()),
            trial(1, 8, after(5)),
            trial(2, 9, measured()),
            trial(3, 7, measured()),
            trial(4, 9, failed),
            trial(5, 8, Outcome::Sampled { score: score(6), cost }),
            trial(6, 8, after(4)),
        ];
        assert_eq!(counting(&all).iter().map(|t| t.trial).collect::<Vec<_>>(), [2, 3, 5]);
    }
}
