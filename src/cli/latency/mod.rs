//! `gulliver latency`: predicted time of a model, kernel by kernel.

mod answer;
pub(super) mod network;
mod roofline;
mod text;

use std::{path::PathBuf, str::FromStr};

use clap::Args;

use self::{
    answer::{Answer, OfBatch},
    network::Network,
};
use super::{Done, Pin, pins, print_json, shown};
use crate::{
    device::{Anchor, Conditions, Prediction, Profile, by_kind, compare, fit, predict},
    error::{Error, Result},
    precision::Precision,
    report::plot,
    study,
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
    #[arg(long, value_delimiter = ',', default_value = "1", value_name = "N,…")]
    batch: Vec<usize>,
    /// Fix an input's whole shape, e.g. input:1,3,224,224
    #[arg(long)]
    shape: Vec<Pin>,
    /// What if every layer that can take it were in this precision (fp16, w8a16, int8, w4a8, int4); for float models
    #[arg(long, value_parser = precision)]
    precision: Option<Precision>,
    /// The image comes as bytes and is normalised on the chip (AIPP)
    #[arg(long)]
    aipp: bool,
    /// A first convolution of at most 4 channels packs its window densely (ATC's --enable_small_channel=1)
    #[arg(long)]
    small_channel: bool,
    /// Residual additions behind integer layers move integers (AMCT's tensor quantization of Add)
    #[arg(long)]
    integer_residual: bool,
    /// Cost of an inference on the host, µs, on top of the chip's
    #[arg(long, value_name = "µs", value_parser = microseconds)]
    host_us: Option<f64>,
    /// A measured time of this model, e.g. 8=2.1ms for a batch of 8: all predictions are bent to agree with it
    #[arg(long, value_name = "BATCH=MS")]
    measured: Option<Measured>,
    /// Another model: where the time went between the two
    #[arg(long, value_name = "OTHER.onnx")]
    compare: Option<PathBuf>,
    /// Write a roofline plot of the last batch
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
    /// Show all kernels, not the longest 20, with their nodes
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// A measured time in ms of a batch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Measured {
    pub batch: usize,
    pub ms: f64,
}

impl FromStr for Measured {
    type Err = String;

    fn from_str(text: &str) -> std::result::Result<Self, String> {
        let fail = || format!("\"{text}\" is not of the form 8=2.1ms: a batch and the milliseconds that it took");
        let (batch, time) = text.split_once('=').ok_or_else(fail)?;
        let batch = batch.trim().parse().ok().filter(|&b| b > 0).ok_or_else(fail)?;
        let time = time.trim();
        let ms = time.strip_suffix("ms").unwrap_or(time).trim_end().parse().ok().filter(|ms: &f64| ms.is_finite() && *ms > 0.0);
        Ok(Self { batch, ms: ms.ok_or_else(fail)? })
    }
}

fn precision(text: &str) -> std::result::Result<Precision, String> {
    let found = Precision::ALL.into_iter().find(|p| p.name().eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("choose one of {}", Precision::ALL.map(Precision::name).join(", ")))
}

fn microseconds(text: &str) -> std::result::Result<f64, String> {
    let value = text.parse().ok().filter(|us: &f64| us.is_finite() && *us >= 0.0);
    value.ok_or_else(|| format!("\"{text}\" is not a number of microseconds, 0 or more"))
}

impl Latency {
    /// Predicts and prints.
    pub fn run(&self) -> Result<Done> {
        if self.batch.contains(&0) {
            return Err(Error::device(&self.device, "a batch of 0 takes no time", "give batches of at least 1, e.g. --batch 1,8,32"));
        }
        let mut profile = self.profile()?;
        let mut model = Network::load(&self.model, pins(&self.shape))?;
        let what_if = self.precision.map(|p| model.ask_for(p, self.batch[0])).transpose()?;
        let other = self.compare.as_ref().map(|path| Network::load_beside(path, pins(&self.shape))).transpose()?;
        let of = |network: &Network, batch: usize, profile: &Profile| -> Result<Prediction> {
            Ok(predict(&network.kernels(batch, self.conditions())?, profile))
        };
        let anchor = match self.measured {
            Some(point) => {
                let predicted = of(&model, point.batch, &profile)?.latency_ms;
                let anchor = Anchor::new(point.batch, point.ms, predicted, profile.evidence.as_ref());
                profile = fit::anchor(&model.measured(point.batch, point.ms, self.conditions())?, &profile);
                Some(anchor)
            }
            None => None,
        };
        let mut batches = Vec::new();
        let mut asked: Vec<usize> = self.batch.iter().map(|&b| model.batch(b)).collect::<Result<_>>()?;
        if asked != self.batch {
            asked.dedup();
            eprintln!("{} has a fixed batch: predicted at {asked:?}", model.name());
        }
        for &batch in &asked {
            let mut prediction = of(&model, batch, &profile)?;
            if let Some(anchor) = &anchor {
                prediction.interval_ms = anchor.interval_ms(batch, prediction.latency_ms, profile.evidence.as_ref());
            }
            let other = other.as_ref().map(|o| of(o, batch, &profile)).transpose()?;
            batches.push(OfBatch {
                batch,
                fps: batch as f64 / prediction.latency_ms * 1e3,
                kinds: by_kind(&prediction),
                compare: other.map(|other| compare(&prediction, &other, profile.evidence.as_ref())),
                prediction,
            });
        }
        if let (Some(path), Some(last)) = (&self.plot, batches.last()) {
            let svg = plot::roofline_svg(&roofline::of(&model.name(), last, &profile))?;
            study::write_atomically(path, svg.as_bytes())?;
        }
        let answer = Answer {
            model: self.model.clone(),
            device: profile.name.clone(),
            known_error: profile.known_error.clone(),
            evidence: profile.evidence.clone(),
            conditions: self.conditions(),
            host_us: profile.host_us,
            what_if,
            measured: anchor,
            other: self.compare.clone(),
            batches,
        };
        if self.json {
            print_json(&answer)?;
        } else {
            print!("{}", text::text(&answer, self.all));
            self.plot.iter().for_each(|path| println!("written: {}", shown(std::slice::from_ref(path))));
        }
        Ok(Done::Well)
    }

    fn conditions(&self) -> Conditions {
        Conditions { aipp: self.aipp, small_channel: self.small_channel, integer_residual: self.integer_residual }
    }

    /// The chip with the host's cost, if it can do what is asked.
    fn profile(&self) -> Result<Profile> {
        let mut profile = Profile::load(&self.device)?;
        for (asked, flag) in [(self.aipp, "--aipp"), (self.small_channel, "--small-channel")] {
            if asked && !profile.image_input {
                let message = format!("{flag} cannot be predicted: {}", profile.image_input_origin.trim());
                let remedy = format!("leave {flag} out, or set image_input: true in a copy of the profile (gulliver device show)");
                return Err(Error::device(&self.device, message, remedy));
            }
        }
        profile.host_us = self.host_us.unwrap_or(profile.host_us);
        Ok(profile)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_measured_time_is_a_batch_and_milliseconds() {
        let read = |text: &str| text.parse::<Measured>().ok().map(|m| (m.batch, m.ms));
        assert_eq!(["8=2.1ms", "8 = 2.1 ms", "8=2.1"].map(read), [Some((8, 2.1)); 3]);
        for wrong in ["8", "2.1ms", "0=1", "8=0", "8=-1", "8=fast", "8=2.1s", "8=inf"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn precisions_are_read_by_name() {
        assert_eq!(precision("INT8"), Ok(Precision::Int8));
        assert!(precision("int16").unwrap_err().contains("w4a8"));
    }
}
