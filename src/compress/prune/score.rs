//! Scores of units that look at one unit at a time: the baselines.

use std::collections::BTreeMap;

use ndarray::Axis;

use crate::{
    compress::Calibration,
    error::Result,
    graph::{
        Model,
        group::{Channels, Group},
        layer::Layers,
        tensor,
    },
    spec::Score,
};

/// Score of each unit of a group; what has the smallest goes first. Units of layers without data have none.
///
/// - `norm`: the L2 norm of the unit's filters over all layers that make it (Li et al. 2016, arXiv 1608.08710);
/// - `balanced_norm`: each layer's norms per entry, scaled to 0..1 within the layer, summed (AMCT's balanced L2 norm);
/// - `energy`: the mean square of the unit's values where they are read.
///
/// # Errors
/// If a weight cannot be read.
pub fn scores(
    model: &Model,
    layers: &Layers,
    channels: &Channels,
    group: &Group,
    score: Score,
    calibration: Option<&Calibration>,
) -> Result<BTreeMap<usize, f64>> {
    let mut total: BTreeMap<usize, f64> = BTreeMap::new();
    if let (Score::Energy, Some(found)) = (score, calibration) {
        for (l, layer) in layers.layers.iter().enumerate() {
            let Some(values) = found.values.get(&layer.input) else { continue };
            for (unit, energy) in channels.columns[l].iter().zip(values.mean_squares()) {
                if let Some(unit) = unit {
                    *total.entry(*unit).or_default() += energy;
                }
            }
        }
        return Ok(total);
    }
    for &l in &group.layers {
        let layer = &layers.layers[l];
        let Some(weight) = model.graph().initializer.iter().find(|t| t.name() == layer.weight).filter(|t| tensor::has_data(t)) else {
            continue;
        };
        let squares: Vec<f64> = tensor::to_f32(weight)?
            .axis_iter(Axis(layer.out_axis))
            .map(|filter| filter.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>())
            .collect();
        let norms: Vec<f64> = squares.iter().map(|s| s.sqrt()).collect();
        let (low, high) = norms.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(lo, hi), &n| (lo.min(n), hi.max(n)));
        for (i, unit) in channels.rows[l].iter().enumerate().take(norms.len()) {
            if let Some(unit) = unit {
                *total.entry(*unit).or_default() += match score {
                    Score::BalancedNorm if high > low => (norms[i] - low) / (high - low),
                    Score::BalancedNorm => 1.0,
                    _ => squares[i],
                };
            }
        }
    }
    Ok(total)
}
