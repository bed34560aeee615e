//! Which units of a group go.

pub mod eliminate;
mod score;
mod spread;

use std::collections::{BTreeMap, HashMap, HashSet};

use faer::Mat;
use ndarray::{Array1, ArrayD, s};

use eliminate::{Reader, eliminate};

use super::{
    cache::Shelved,
    calibrate::{Block, Gram},
    decompose::as_matrix,
    quantize::output_energy,
    rebuild::takes_bias,
    refit::{damp, moment},
};
use crate::{
    compress::Calibration,
    error::Result,
    graph::{
        Model,
        group::{Channels, Group},
        layer::Layers,
        tensor,
    },
    space::{Plan, limits},
    spec::Score,
};

/// Units in the order in which they go, by kind.
pub type Order = Vec<Vec<usize>>;

/// In which order the units of a group go.
#[derive(Debug, Clone, PartialEq)]
pub struct Sweep {
    /// Units in the order in which they go, by kind.
    pub order: Order,
    /// For the score after refit: what is lost of the readers' outputs, per their variance and summed, when so many units are gone, from none on; kinds
    /// go side by side, each by its share. Empty for other scores.
    pub lost: Vec<f64>,
}

impl Sweep {
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        8 * (self.order.iter().map(Vec::len).sum::<usize>() + self.lost.len())
    }
}

impl Shelved for Sweep {
    fn to_arrays(&self) -> Vec<ArrayD<f32>> {
        let kind = |k: &Vec<usize>| Array1::from_iter(k.iter().map(|&u| u as f32)).into_dyn();
        let lost = Array1::from_iter(self.lost.iter().map(|&v| v as f32)).into_dyn();
        std::iter::once(lost).chain(self.order.iter().map(kind)).collect()
    }

    fn from_arrays(arrays: Vec<ArrayD<f32>>) -> Option<Self> {
        let (lost, kinds) = arrays.split_first()?;
        let kind = |k: &ArrayD<f32>| k.iter().map(|&u| u as usize).collect();
        Some(Self { order: kinds.iter().map(kind).collect(), lost: lost.iter().map(|&v| f64::from(v)).collect() })
    }
}

/// Units that a plan removes, given in which order those of a group go. On a skeleton the order does not matter, only their number counts there.
///
/// # Errors
/// Those of `order`.
pub fn removed_units(channels: &Channels, plan: &Plan, order: &dyn Fn(usize) -> Result<Order>) -> Result<HashSet<usize>> {
    let mut gone = HashSet::new();
    for (g, group) in channels.groups.iter().enumerate().filter(|(_, g)| g.frozen.is_none()) {
        let keep = plan.treatments[group.layers[0]].1.keep;
        if keep >= 1.0 {
            continue;
        }
        for kind in order(g)? {
            gone.extend(&kind[..kind.len() - limits::kept(kind.len(), keep)]);
        }
    }
    Ok(gone)
}

/// Units of a group from the last to the first.
pub fn from_the_end(group: &Group) -> Order {
    group.kinds.iter().map(|k| k.iter().rev().copied().collect()).collect()
}

/// The order in which units of a group go by a score, and for the score after refit what is lost at each step of the sweep, in all kinds together.
/// Where nothing is known of the readers' inputs, the balanced norm stands in.
///
/// # Errors
/// If a weight cannot be read.
pub fn order(
    (model, layers, channels): (&Model, &Layers, &Channels),
    group: &Group,
    score: Score,
    calibration: Option<&Calibration>,
) -> Result<Sweep> {
    if score == Score::Refit
        && let Some(found) = calibration
    {
        let readers = readers((model, layers, channels), group, found)?;
        if !readers.is_empty() {
            let units: Vec<usize> = group.kinds.iter().flatten().copied().collect();
            let kinds: Vec<usize> = group.kinds.iter().enumerate().flat_map(|(k, units)| units.iter().map(move |_| k)).collect();
            let path = eliminate(readers, &kinds);
            let mut order: Order = vec![Vec::new(); group.kinds.len()];
            path.order.iter().for_each(|&u| order[kinds[u]].push(units[u]));
            for (kind, all) in order.iter_mut().zip(&group.kinds) {
                let last: Vec<usize> = all.iter().copied().filter(|u| !kind.contains(u)).collect();
                kind.extend(last);
            }
            let mut sum = 0.0;
            let steps = path.losses.iter().map(|loss| {
                sum += loss;
                // As a folder keeps it.
                f64::from(sum as f32)
            });
            return Ok(Sweep { order, lost: std::iter::once(0.0).chain(steps).collect() });
        }
    }
    let score = if score == Score::Refit { Score::BalancedNorm } else { score };
    let scores = score::scores(model, layers, channels, group, score, calibration)?;
    let of = |unit: &usize| scores.get(unit).copied().unwrap_or(0.0);
    let sorted = |kind: &Vec<usize>| {
        let mut kind = kind.clone();
        kind.sort_by(|a, b| of(a).total_cmp(&of(b)).then(b.cmp(a)));
        kind
    };
    Ok(Sweep { order: group.kinds.iter().map(sorted).collect(), lost: Vec::new() })
}

/// What reads the units of a group: a reader for each block of moments of each layer whose columns they are.
fn readers((model, layers, channels): (&Model, &Layers, &Channels), group: &Group, found: &Calibration) -> Result<Vec<Reader>> {
    let position: HashMap<usize, usize> = group.kinds.iter().flatten().enumerate().map(|(i, &u)| (u, i)).collect();
    let constants: BTreeMap<&str, _> = model.graph().initializer.iter().map(|t| (t.name(), t)).collect();
    let mut readers = Vec::new();
    for (l, layer) in layers.layers.iter().enumerate().filter(|(_, l)| l.groups == 1) {
        let reads: Vec<(usize, usize)> =
            channels.columns[l].iter().enumerate().filter_map(|(c, u)| Some((c, *position.get(&(*u)?)?))).collect();
        let Some(gram) = found.grams.get(&layer.name).filter(|g| g.groups.len() == 1 && !reads.is_empty()) else { continue };
        let Some(weight) = constants.get(layer.weight.as_str()).filter(|t| tensor::has_data(t)) else { continue };
        let weight = as_matrix(&tensor::to_f32(weight)?, layer.out_axis);
        let taps = weight.ncols() / channels.columns[l].len().max(1);
        let centred = takes_bias(model, layer);
        let energy = output_energy(&weight, gram, true).max(1e-30);
        for block in gram.groups[0].iter().filter(|b| b.columns().end <= weight.ncols()) {
            let mut columns = vec![Vec::new(); position.len()];
            for &(c, unit) in &reads {
                let inside = (c * taps..(c + 1) * taps).filter(|at| block.columns().contains(at));
                columns[unit].extend(inside.map(|at| at - block.start));
            }
            if columns.iter().all(Vec::is_empty) {
                continue;
            }
            let part = weight.slice(s![.., block.columns()]);
            let weight = Mat::from_fn(part.nrows(), part.ncols(), |i, j| f64::from(part[[i, j]]));
            readers.push(Reader { weight, moments: damped(block, gram, centred), columns, scale: energy });
        }
    }
    Ok(readers)
}

fn damped(block: &Block, gram: &Gram, centred: bool) -> Mat<f64> {
    let of = moment(block, centred);
    let mut h = Mat::from_fn(block.mean.len(), block.mean.len(), &of);
    damp(&mut h, gram.count);
    h
}
