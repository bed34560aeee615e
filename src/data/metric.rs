//! Metrics: their names in a spec, which way they are better, and what a change of score is worth.

use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize, Serializer};

use super::interval::{self, Interval};
use crate::error::Result;

/// Noise-to-signal ratios below this count as this: 200 dB, far beyond single precision.
const LEAST_NOISE: f64 = 1e-20;

/// `metric:` of a spec: a name, or a map with the user's own command.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Metric {
    /// 1 where the highest output is the label's.
    #[default]
    Top1,
    /// 1 where the label's output is among the five highest.
    Top5,
    /// 1 where the highest output is the float model's.
    Agreement,
    /// Kullback–Leibler divergence of the softmax from the float model's, nats; smaller is better.
    Kl,
    /// Cosine similarity of the outputs to the float model's.
    Cosine,
    /// Signal to quantization noise: a sample scores ‖y − y′‖² / ‖y‖², smaller is better; reported as a mean in decibel.
    Sqnr,
    /// One number for a whole model or for all its outputs, by a program of the user's.
    Command(Command),
}

/// A metric that a program computes; see [`run_command`](super::run_command).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Command {
    /// The program and its arguments; a path comes as the last one.
    #[serde(rename = "command")]
    pub argv: Vec<String>,
    /// What the path leads to.
    #[serde(default)]
    pub input: CommandInput,
    /// Whether large or small numbers are good.
    #[serde(default)]
    pub direction: Direction,
}

/// What a metric command is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CommandInput {
    /// An ONNX file, which the command runs itself.
    #[default]
    Model,
    /// A folder with the model's outputs on the validation data, one `.npy` an output, samples in the data's order.
    Outputs,
}

/// Which way a score is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Larger is better.
    #[default]
    Larger,
    /// Smaller is better.
    Smaller,
}

impl Metric {
    /// Every metric without a program, in the order they are listed to users.
    pub const NAMED: [Self; 6] = [Self::Top1, Self::Top5, Self::Agreement, Self::Kl, Self::Cosine, Self::Sqnr];

    /// The name in specs and reports; `command` for a program.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Top1 => "top1",
            Self::Top5 => "top5",
            Self::Agreement => "agreement",
            Self::Kl => "kl",
            Self::Cosine => "cosine",
            Self::Sqnr => "sqnr",
            Self::Command(_) => "command",
        }
    }

    /// Whether the data must have labels.
    pub const fn needs_labels(&self) -> bool {
        matches!(self, Self::Top1 | Self::Top5)
    }

    /// Whether a program gives one number for the whole.
    pub const fn is_command(&self) -> bool {
        matches!(self, Self::Command(_))
    }

    /// Whether a sample's loss lies in −1..1, as sequential tests need.
    pub const fn is_bounded(&self) -> bool {
        matches!(self, Self::Top1 | Self::Top5 | Self::Agreement)
    }

    /// Whether the float model's outputs are compared with.
    pub const fn needs_float_outputs(&self) -> bool {
        matches!(self, Self::Agreement | Self::Kl | Self::Cosine | Self::Sqnr)
    }

    /// Which way a sample's score is better.
    pub const fn direction(&self) -> Direction {
        match self {
            Self::Kl | Self::Sqnr => Direction::Smaller,
            Self::Command(command) => command.direction,
            _ => Direction::Larger,
        }
    }

    /// What is lost from the float model's score to a candidate's: positive is worse, whatever the direction.
    pub fn loss(&self, float: f64, candidate: f64) -> f64 {
        match self.direction() {
            Direction::Larger => float - candidate,
            Direction::Smaller => candidate - float,
        }
    }

    /// The figure to report for samples with these scores: their mean, and decibel for [`Metric::Sqnr`] (at most 200).
    pub fn value(&self, scores: &[f64]) -> f64 {
        let mean = scores.iter().sum::<f64>() / scores.len() as f64;
        if matches!(self, Self::Sqnr) { -10.0 * mean.max(LEAST_NOISE).log10() } else { mean }
    }

    /// The mean loss over the same samples, with its interval at `confidence`.
    ///
    /// # Errors
    /// As [`paired`](super::paired).
    pub fn paired(&self, float: &[f64], candidate: &[f64], confidence: f64) -> Result<Interval> {
        match self {
            Self::Top1 | Self::Top5 | Self::Agreement => interval::paired_proportions(float, candidate, confidence),
            _ if self.direction() == Direction::Smaller => interval::paired_means(candidate, float, confidence),
            _ => interval::paired_means(float, candidate, confidence),
        }
    }
}

impl fmt::Display for Metric {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl Serialize for Metric {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Command(command) => command.serialize(serializer),
            named => serializer.serialize_str(named.name()),
        }
    }
}

impl<'de> Deserialize<'de> for Metric {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NameOrCommand;
        impl<'de> Visitor<'de> for NameOrCommand {
            type Value = Metric;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let names: Vec<&str> = Metric::NAMED.iter().map(Metric::name).collect();
                write!(f, "one of {}, or a map {{command: [program, arguments]}}", names.join(", "))
            }
            fn visit_str<E: de::Error>(self, name: &str) -> Result<Metric, E> {
                let found = Metric::NAMED.into_iter().find(|m| m.name() == name);
                found.ok_or_else(|| E::invalid_value(de::Unexpected::Str(name), &self))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Metric, A::Error> {
                let command = Command::deserialize(MapAccessDeserializer::new(map))?;
                if command.argv.is_empty() {
                    return Err(de::Error::custom("the metric's command is empty: give the program and its arguments"));
                }
                Ok(Metric::Command(command))
            }
        }
        deserializer.deserialize_any(NameOrCommand)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(a: f64, b: f64) {
        assert!((a - b).abs() < 1e-9, "{a} is not {b}");
    }

    fn parse(yaml: &str) -> Result<Metric, String> {
        serde_yaml::from_str(yaml).map_err(|e| e.to_string())
    }

    #[test]
    fn every_name_reads_back() {
        for metric in Metric::NAMED {
            assert_eq!(parse(&serde_yaml::to_string(&metric).unwrap()), Ok(metric));
        }
    }

    #[test]
    fn a_command_reads_back_with_its_defaults_filled() {
        let metric = parse("command: [python, eval.py]").unwrap();
        let Metric::Command(command) = &metric else { panic!("{metric:?}") };
        assert_eq!((command.input, command.direction), (CommandInput::Model, Direction::Larger));
        assert_eq!(parse(&serde_yaml::to_string(&metric).unwrap()), Ok(metric));
        let json = r#"{"command": ["e"], "input": "outputs", "direction": "smaller"}"#;
        assert_eq!(serde_json::from_str::<Metric>(json).unwrap().direction(), Direction::Smaller);
    }

    #[test]
    fn what_is_no_metric_is_told_what_would_be() {
        assert!(parse("top3").unwrap_err().contains("one of top1, top5, agreement, kl, cosine, sqnr, or a map"));
        assert!(parse("5").unwrap_err().contains("one of top1"));
        assert!(parse("{command: [e], output: model}").unwrap_err().contains("unknown field `output`"));
        assert!(parse("{command: []}").unwrap_err().contains("the metric's command is empty"));
        assert!(parse("{input: model}").unwrap_err().contains("missing field `command`"));
    }

    #[test]
    fn noise_is_reported_in_decibel_and_lost_as_a_ratio() {
        near(Metric::Sqnr.value(&[0.01, 0.03]), -10.0 * 0.02_f64.log10());
        near(Metric::Sqnr.value(&[0.0]), 200.0);
        near(Metric::Sqnr.loss(0.0, 0.02), 0.02);
        near(Metric::Top1.value(&[1.0, 0.0]), 0.5);
    }

    #[test]
    fn a_worse_candidate_loses_whatever_the_direction() {
        assert!(Metric::Top1.loss(0.8, 0.7) > 0.0 && Metric::Kl.loss(0.0, 0.1) > 0.0 && Metric::Cosine.loss(1.0, 0.9) > 0.0);
        let kl = Metric::Kl.paired(&[0.0; 3], &[0.1, 0.2, 0.3], 0.95).unwrap();
        near(kl.drop, 0.2);
        let same = Metric::Kl.paired(&[0.0; 3], &[0.0; 3], 0.95).unwrap();
        assert_eq!((same.low, same.high), (0.0, 0.0));
        assert!(Metric::Top1.paired(&[1.0; 3], &[1.0; 3], 0.95).unwrap().high > 0.0);
    }

    #[test]
    fn only_top_metrics_need_labels() {
        let needing: Vec<&str> = Metric::NAMED.iter().filter(|m| m.needs_labels()).map(Metric::name).collect();
        assert_eq!(needing, ["top1", "top5"]);
    }
}
