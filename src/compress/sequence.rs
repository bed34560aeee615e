//! A plan's structure built in sequence: each layer is fitted to its float outputs from the inputs it really gets from the layers treated before
//! it, and to what an Add behind it lost on its other side.
//!
//! Samples go through the float network and the treated one side by side. For a layer with float columns x, treated columns x̂ and wanted
//! outputs y = W x, the weight is (E\[y x̂ᵀ\] + λW₀)(E\[x̂ x̂ᵀ\] + λI)⁻¹, where W₀ is what it is in parallel; then it is split or thinned by the
//! moments of x̂ (reduced-rank regression). Layers that nothing is done to, but whose inputs differ, are fitted too.

use std::{collections::BTreeMap, sync::Arc};

use ndarray::{Axis, IxDyn};

use super::{
    Compressor, Structured,
    apply::{Calibrated, KEPT_ALIVE, LOCKSTEP_BATCH, bias, matrix, spread},
    calibrate::{Effort, Gram, Windows},
    lockstep::{self, Fitted},
    rebuild::{Change, Rebuilt, mean_output, takes_bias},
    segment::{self, Frontier},
    structure::{Structure, fill},
};
use crate::{
    error::Result,
    graph::{Index, layer::Layer, shape, tensor},
};

/// Positions of a sample that a layer is fitted by at most: samples are what there is too little of.
const POSITIONS: usize = 64;
/// What stabilises the fit, see [`lockstep::Wanted`].
const RIDGE: (f64, f64) = (1e-3, 4.0);

impl Compressor {
    /// The network of a structure built in parallel, built anew in sequence; and the moments of the inputs that its layers have, by the layer's name.
    ///
    /// # Errors
    /// If the data or a piece of the network cannot be run.
    pub(super) fn in_sequence(
        &self,
        mut structure: Structure,
        calibrated: &Calibrated,
    ) -> Result<(Structured, BTreeMap<String, Arc<Gram>>)> {
        let shapes = shape::infer(&self.model, 1, &self.pins)?;
        let alive = segment::widest(&self.model, |v| 2 * 4 * shapes.elements(v).unwrap_or(0) as u64);
        let room = usize::try_from(KEPT_ALIVE / alive.max(1)).unwrap_or(usize::MAX).max(LOCKSTEP_BATCH);
        let samples = spread(calibrated.all.len(), self.structure.samples.min(room));
        let samples: Vec<usize> = samples.into_iter().map(|i| calibrated.all[i]).collect();
        let mut frontier = Frontier::begin(&self.runtime, &self.model, &calibrated.data, &samples, LOCKSTEP_BATCH)?;
        let index = Index::new(&self.model);
        let mut grams = BTreeMap::new();
        let mut order: Vec<usize> = (0..self.layers.layers.len()).collect();
        order.sort_by_key(|&l| self.layers.layers[l].node);
        for l in order {
            let layer = &self.layers.layers[l];
            let Some(windows) = Windows::of(layer, &self.model.graph().node[layer.node]) else { continue };
            if layer.shares_weight || windows.columns() > Effort::WIDEST {
                continue;
            }
            frontier.advance(layer.node, &structure.patch)?;
            let beside = lockstep::beside(&self.model, &index, layer, |v| shapes.dims(v).map(<[usize]>::to_vec));
            if !frontier.differs(&layer.input) && !beside.is_some_and(|v| frontier.differs(v)) {
                continue;
            }
            let all = || Change {
                layer: l,
                rows: (0..layer.channels_out).collect(),
                inputs: (0..layer.channels_in).collect(),
                split: None,
                sparse: false,
            };
            let change = structure.changes[l].clone().unwrap_or_else(all);
            let centred = takes_bias(&self.model, layer)
                && (layer.bias.is_some() || structure.patch.tensors.contains_key(&format!("{}.bias.corrected", layer.name)));
            let Some(fitted) = self.fitted_in_sequence(&frontier, &change, (layer, &windows), (beside, &index), centred)? else { continue };
            let parts = self.parted(&change, fitted.weight.clone(), Some((&fitted.gram, centred)))?;
            let given = mean_output(&change.together(layer, &parts), &fitted.gram);
            let shift = centred.then(|| fitted.mean.iter().zip(&given).map(|(wanted, given)| wanted - given).collect());
            self.put_back_bias(&mut structure, layer, &change)?;
            fill(&self.model, layer, &change, &Rebuilt { parts, shift }, &mut structure.patch)?;
            grams.insert(layer.name.clone(), fitted.gram);
        }
        Ok((structure.on(&self.model)?, grams))
    }

    fn fitted_in_sequence(
        &self,
        frontier: &Frontier<'_>,
        change: &Change,
        (layer, windows): (&Layer, &Windows),
        (beside, index): (Option<&str>, &Index<'_>),
        centred: bool,
    ) -> Result<Option<Fitted>> {
        let weight = matrix(&self.model, layer)?.select(Axis(0), &change.rows);
        let prior = if change.loses_inputs(layer) {
            let whole = Change { split: None, sparse: false, ..change.clone() };
            self.rebuilt(&whole)?.parts.first().cloned().unwrap_or_default()
        } else {
            weight.clone()
        };
        let read = beside
            .and_then(|_| index.sole_reader(&layer.output))
            .map_or(layer.output.as_str(), |add| self.model.graph().node[add].output[0].as_str());
        let relu = index.sole_reader(read).is_some_and(|n| self.model.graph().node[n].op_type() == "Relu");
        let biases = bias(&self.model, layer)?.filter(|_| relu && centred);
        let rectified: Option<Vec<f32>> = biases.map(|all| change.rows.iter().map(|&r| all[r]).collect());
        let geometry = change.geometry(layer);
        let treated = windows.over(geometry.groups, geometry.cin);
        let wanted = lockstep::Wanted {
            layer,
            windows: (windows, &treated),
            weight: &weight,
            prior: &prior,
            rows: &change.rows,
            grid: None,
            beside,
            positions: self.structure.positions.min(POSITIONS),
            centred,
            ridge: RIDGE,
            rectified: rectified.as_deref(),
        };
        Ok(lockstep::fit(frontier, &wanted))
    }

    /// The bias as the float network has it, less the rows that are lost: what was added to it in parallel is taken off.
    fn put_back_bias(&self, structure: &mut Structure, layer: &Layer, change: &Change) -> Result<()> {
        let made = format!("{}.bias.corrected", layer.name);
        let tensors = &mut structure.patch.tensors;
        if let Some(bias) = tensors.get_mut(&made) {
            *bias = tensor::from_f32(&made, &ndarray::ArrayD::zeros(IxDyn(&[change.rows.len()])));
        }
        let Some(name) = &layer.bias else { return Ok(()) };
        let Some(float) = self.model.graph().initializer.iter().find(|t| t.name() == *name) else { return Ok(()) };
        let array = tensor::to_f32(float)?;
        let axis = array.ndim().saturating_sub(1);
        if array.shape().get(axis) == Some(&layer.channels_out) {
            tensors.insert(name.clone(), tensor::from_f32(name, &array.select(Axis(axis), &change.rows)));
        }
        Ok(())
    }
}
