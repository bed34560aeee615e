//! What flows through a network, in one streaming pass: distributions and moments of the values that layers read, and Gram
//! matrices of the layers' inputs. Memory does not grow with the number of samples, and what is found does not depend on
//! threads, batches or the order in which values are tapped.

mod gram;
mod histogram;
mod statistics;
mod store;
mod taps;
mod windows;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use rayon::prelude::*;

pub use gram::{Block, Collector, Gram, positions};
pub use histogram::Histogram;
pub use statistics::{Channel, Statistics};
pub use store::Store;
pub use windows::Windows;

use super::feed::{Run, feed};
use crate::{
    data::Dataset,
    error::{Error, Result},
    graph::{Model, layer::Layer, proto::ValueInfoProto, shape::Shapes},
    runtime::{Runtime, Session, SessionOptions},
};
use taps::Taps;

/// What calibration found.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Calibration {
    /// Statistics of values, by name.
    pub values: BTreeMap<String, Statistics>,
    /// Gram matrices of layers' inputs, by the layer's name. Layers that read the same share one.
    pub grams: BTreeMap<String, Arc<Gram>>,
}

impl Calibration {
    /// A number that stands for the moments.
    pub fn fingerprint(&self) -> u64 {
        self.grams.values().fold(0_u64, |hash, gram| hash.rotate_left(7) ^ gram.fingerprint())
    }
}

/// A value to watch and the axis of its channels, counted from the front, or from the end if negative.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Watch {
    /// The value's name.
    pub value: String,
    /// Axis of its channels.
    pub axis: isize,
}

/// What to measure.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Values whose statistics are wanted.
    pub values: BTreeSet<Watch>,
    /// Layers whose Gram matrix is wanted, with the value they read.
    pub grams: Vec<(String, String, Windows)>,
}

impl Wanted {
    /// Statistics of what these layers of a model read.
    pub fn ranges<'l>(layers: impl Iterator<Item = &'l Layer>) -> Self {
        let mut seen = BTreeSet::new();
        let watch = |l: &Layer| Watch { value: l.input.clone(), axis: l.input_axis() };
        Self { values: layers.filter(|l| seen.insert(&l.input)).map(watch).collect(), grams: Vec::new() }
    }

    /// The Gram matrices of these layers too.
    pub fn with_grams<'l>(mut self, model: &Model, layers: impl Iterator<Item = &'l Layer>) -> Self {
        let windows = |l: &Layer| Windows::of(l, &model.graph().node[l.node]).map(|w| (l.name.clone(), l.input.clone(), w));
        self.grams.extend(layers.filter_map(windows));
        self
    }
}

/// How much a calibration may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effort {
    /// Threads.
    pub threads: usize,
    /// Bytes that tapped values and Gram matrices may take together. Matrices get at most half; where they are too large
    /// for it, they are measured in blocks.
    pub max_memory: u64,
    /// Positions of a sample at which Gram matrices are measured.
    pub positions: usize,
    /// Columns of a block of a Gram matrix at most. With 1, only what belongs to one channel is measured together: enough for
    /// scales and biases, not for `gptq` and what builds on it.
    pub widest: usize,
}

impl Effort {
    /// Memory where nothing is said: 4 GiB.
    pub const MEMORY: u64 = 4 << 30;
    /// Columns of a block of a Gram matrix at most.
    pub const WIDEST: usize = 4608;
}

/// Gathers one thing from each run.
enum Item<'w> {
    Value(&'w Watch, Box<Statistics>),
    Gram(&'w str, Collector),
}

/// Runs the model over the samples, once if memory allows it, and measures what is wanted. `shapes` are those of batch 1.
///
/// # Errors
/// If the data or the model cannot be run, or a value is not finite.
pub fn calibrate(
    runtime: &Runtime,
    (model, shapes): (&Model, &Shapes),
    wanted: &Wanted,
    data: &Dataset,
    samples: &[usize],
    effort: Effort,
) -> Result<Calibration> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(effort.threads.max(1)).build();
    let pool = pool.map_err(|e| Error::Internal(format!("threads cannot be started: {e}")))?;
    let taps = Taps::plan(model, shapes, wanted, effort);
    // Layers that read the same columns share a matrix.
    let mut distinct: Vec<(&str, &Windows)> = wanted.grams.iter().map(|(_, value, windows)| (value.as_str(), windows)).collect();
    distinct.sort_unstable();
    distinct.dedup();
    let mut found = Calibration::default();
    let mut matrices: BTreeMap<(&str, &Windows), Arc<Gram>> = BTreeMap::new();
    for group in &taps.groups {
        let mut items: Vec<Item<'_>> = Vec::new();
        let here = |value: &str| group.contains(value);
        items.extend(
            wanted
                .values
                .iter()
                .filter(|w| here(&w.value))
                .map(|w| Item::Value(w, Box::new(Statistics::thinned(thinning(shapes, &w.value, samples.len()))))),
        );
        let own: Vec<_> = distinct.iter().filter(|(value, _)| here(value)).collect();
        items.extend(
            own.iter()
                .map(|(v, w)| Item::Gram(v, Collector::new((*w).clone(), positions_of(w, effort.positions, samples.len()), taps.widest))),
        );
        pass(runtime, model, group, data, (samples, taps.batch), effort.threads, |run, names| {
            let read = |value: &str| {
                let made = names.iter().position(|n| *n == value).map(|i| &run.outputs[i]);
                made.or_else(|| run.inputs.iter().find(|(n, _)| *n == value).map(|(_, a)| a))
            };
            let gather = |item: &mut Item<'_>| match item {
                Item::Value(watch, statistics) => read(&watch.value).map_or(Ok(()), |array| {
                    statistics.add(array, run.samples, watch.axis).map_err(|bad| not_finite(&model.name, &watch.value, bad))
                }),
                Item::Gram(value, collector) => {
                    read(value).into_iter().for_each(|array| collector.add(array, run.samples));
                    Ok(())
                }
            };
            pool.install(|| items.par_iter_mut().with_max_len(1).try_for_each(gather))
        })?;
        let mut own = own.into_iter();
        for item in items {
            match item {
                Item::Value(watch, statistics) => drop(found.values.insert(watch.value.clone(), statistics.finish())),
                Item::Gram(_, collector) => drop(own.next().map(|key| matrices.insert(*key, Arc::new(collector.finish())))),
            }
        }
    }
    for (layer, value, windows) in &wanted.grams {
        if let Some(gram) = matrices.get(&(value.as_str(), windows)).filter(|g| g.count > 0) {
            found.grams.insert(layer.clone(), Arc::clone(gram));
        }
    }
    Ok(found)
}

/// Entries of a value that its histogram counts, at least: enough for 8,192 bins.
const COUNTED: usize = 1 << 20;
/// Columns for each number of a column that moments of grouped convolutions are measured by at most.
const COLUMNS: usize = 64;
/// Multiply-adds that the moments of a layer may take, unless columns are so long that fewer than four came on each number.
const WORK: usize = 400_000_000_000;

/// Of how many entries of a value one is counted.
fn thinning(shapes: &Shapes, value: &str, samples: usize) -> usize {
    (shapes.elements(value).unwrap_or(0) * samples / COUNTED).max(1)
}

/// Positions of a sample at which a layer's moments are measured: long columns are dear, and of groups there are many.
fn positions_of(windows: &Windows, most: usize, samples: usize) -> usize {
    let d = windows.columns().max(1);
    let affordable = (WORK / (d * d)).max(4 * d);
    let columns = if windows.groups > 1 { affordable.min(COLUMNS * d) } else { affordable };
    most.min(columns.div_ceil(samples.max(1))).max(1)
}

fn not_finite(model: &str, value: &str, bad: f32) -> Error {
    let message = format!("the value {value} holds {bad} on the calibration data");
    Error::model(model, message, "check the preprocessing (scale, mean, std) and that the float model works on this data")
}

/// One run of the model over the samples with some values tapped.
fn pass(
    runtime: &Runtime,
    model: &Model,
    group: &BTreeSet<String>,
    data: &Dataset,
    (samples, batch): (&[usize], usize),
    threads: usize,
    mut each: impl FnMut(&Run<'_>, &[&str]) -> Result<()>,
) -> Result<()> {
    let fed: BTreeSet<&str> = model.inputs().map(|i| i.name()).collect();
    let made: BTreeSet<&str> = model.graph().output.iter().map(|o| o.name()).collect();
    let tapped: Vec<&str> = group.iter().map(String::as_str).filter(|v| !fed.contains(v)).collect();
    let mut open = model.clone();
    for value in tapped.iter().filter(|v| !made.contains(*v)) {
        open.graph_mut().output.push(ValueInfoProto { name: Some((*value).to_string()), ..Default::default() });
    }
    let mut session = Session::from_bytes(runtime, &model.name, &open.to_bytes()?, SessionOptions { threads, ..Default::default() })?;
    drop(open);
    for chunk in samples.chunks(batch) {
        feed(&mut session, data, chunk, Some(&tapped), |run| each(&run, &tapped))?;
    }
    Ok(())
}
