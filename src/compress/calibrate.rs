//! What flows through a network: ranges, histograms and channel means of the values that layers read.

use std::collections::{BTreeMap, BTreeSet};

use ndarray::{ArrayD, Axis};

use super::{feed::feed, histogram::Histogram};
use crate::{
    data::Dataset,
    error::{Error, Result},
    graph::{Model, proto::ValueInfoProto},
    runtime::{Runtime, Session, SessionOptions},
};

/// Statistics of one value over the calibration samples.
#[derive(Debug, Clone, Default)]
pub struct Statistics {
    /// Distribution of all entries.
    pub histogram: Histogram,
    /// Mean of every channel.
    pub means: Vec<f64>,
    entries: u64,
}

/// A value to watch and the axis of its channels, counted from the front, or from the end if negative.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watch {
    /// The value's name.
    pub value: String,
    /// Axis of its channels.
    pub axis: isize,
}

/// Samples a calibration runs at once; with it the memory does not grow with the number of samples.
const BATCH: usize = 32;

/// Runs the model over the samples once and gathers the statistics of the watched values.
///
/// # Errors
/// If the data or the model cannot be run, or a value is not finite.
pub fn calibrate(
    runtime: &Runtime,
    model: &Model,
    watch: &BTreeSet<Watch>,
    data: &Dataset,
    samples: &[usize],
    threads: usize,
) -> Result<BTreeMap<String, Statistics>> {
    let fed: BTreeSet<&str> = model.inputs().map(|i| i.name()).collect();
    let made: BTreeSet<&str> = model.graph().output.iter().map(|o| o.name()).collect();
    let tapped: Vec<&Watch> = watch.iter().filter(|w| !fed.contains(w.value.as_str())).collect();
    let mut open = model.clone();
    for w in tapped.iter().filter(|w| !made.contains(w.value.as_str())) {
        open.graph_mut().output.push(ValueInfoProto { name: Some(w.value.clone()), ..Default::default() });
    }
    let mut session = Session::from_bytes(runtime, &model.name, &open.to_bytes()?, SessionOptions { threads, ..Default::default() })?;
    let names: Vec<&str> = tapped.iter().map(|w| w.value.as_str()).collect();
    let mut all: BTreeMap<String, Statistics> = BTreeMap::new();
    for chunk in samples.chunks(BATCH) {
        feed(&mut session, data, chunk, Some(&names), |run| {
            for w in watch {
                if let Some((_, array)) = run.inputs.iter().find(|(name, _)| *name == w.value) {
                    all.entry(w.value.clone()).or_default().add(array, w, &model.name)?;
                }
            }
            let made = tapped.iter().zip(&run.outputs);
            made.into_iter().try_for_each(|(w, array)| all.entry(w.value.clone()).or_default().add(array, w, &model.name))
        })?;
    }
    Ok(all)
}

impl Statistics {
    fn add(&mut self, array: &ArrayD<f32>, watch: &Watch, model: &str) -> Result<()> {
        if let Some(bad) = array.iter().find(|v| !v.is_finite()) {
            let message = format!("the value {} holds {bad} on the calibration data", watch.value);
            return Err(Error::model(
                model,
                message,
                "check the preprocessing (scale, mean, std) and that the float model works on this data",
            ));
        }
        match array.as_slice() {
            Some(slice) => self.histogram.add(slice),
            None => self.histogram.add(&array.iter().copied().collect::<Vec<_>>()),
        }
        let rank = array.ndim();
        let axis = usize::try_from(if watch.axis < 0 { watch.axis + rank.cast_signed() } else { watch.axis }).unwrap_or(0);
        if axis >= rank {
            return Ok(());
        }
        let channels = array.shape()[axis];
        self.means.resize(channels, 0.0);
        let n = (array.len() / channels.max(1)) as u64;
        let (old, new) = (self.entries as f64, (self.entries + n) as f64);
        for (mean, channel) in self.means.iter_mut().zip(array.axis_iter(Axis(axis))) {
            *mean = (*mean * old + channel.iter().map(|&v| f64::from(v)).sum::<f64>()) / new;
        }
        self.entries += n;
        Ok(())
    }
}
