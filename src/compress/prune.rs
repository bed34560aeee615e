//! Which units of a group go: those with the smallest filters.
//!
//! The score is AMCT's balanced L2 norm: for each layer that makes the unit, the norm of its filter, scaled to 0..1
//! within the layer, summed over the layers.

use std::collections::{BTreeMap, HashSet};

use ndarray::Axis;

use crate::{
    error::Result,
    graph::{
        Model,
        group::{Channels, Group},
        layer::Layers,
        tensor,
    },
    space::{Plan, limits},
};

/// Units that a plan removes. On a skeleton the last ones of each kind: only their number counts there.
///
/// # Errors
/// If a weight cannot be read.
pub fn removed_units(model: &Model, layers: &Layers, channels: &Channels, plan: &Plan) -> Result<HashSet<usize>> {
    let mut gone = HashSet::new();
    for group in channels.groups.iter().filter(|g| g.frozen.is_none()) {
        let keep = plan.treatments[group.layers[0]].1.keep;
        if keep >= 1.0 {
            continue;
        }
        let scores = scores(model, layers, channels, group)?;
        for kind in &group.kinds {
            let mut order: Vec<usize> = kind.clone();
            let score = |unit: &usize| scores.get(unit).copied().unwrap_or(0.0);
            order.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
            gone.extend(&order[limits::kept(kind.len(), keep)..]);
        }
    }
    Ok(gone)
}

fn scores(model: &Model, layers: &Layers, channels: &Channels, group: &Group) -> Result<BTreeMap<usize, f64>> {
    let mut total: BTreeMap<usize, f64> = BTreeMap::new();
    for &l in &group.layers {
        let layer = &layers.layers[l];
        let Some(weight) = model.graph().initializer.iter().find(|t| t.name() == layer.weight).filter(|t| tensor::has_data(t)) else {
            continue;
        };
        let norms: Vec<f64> = tensor::to_f32(weight)?
            .axis_iter(Axis(layer.out_axis))
            .map(|filter| filter.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>().sqrt())
            .collect();
        let (low, high) = norms.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), &n| (lo.min(n), hi.max(n)));
        for (unit, norm) in channels.rows[l].iter().zip(&norms) {
            if let Some(unit) = unit {
                *total.entry(*unit).or_default() += if high > low { (norm - low) / (high - low) } else { 1.0 };
            }
        }
    }
    Ok(total)
}
