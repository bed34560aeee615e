//! What becomes of a layer's weight before it is rounded: rows and columns go, the rest is fitted to the inputs that stay, then split into parts or
//! thinned to a pattern of zeros; the bias takes up the mean.

use std::sync::Arc;

use ndarray::{Array1, Array2, ArrayD, Axis, s};

use super::{
    Compressor,
    apply::{bias, matrix},
    cache::{Shelved, key},
    calibrate::Gram,
    decompose::{Geometry, LowRank, decompose, through},
    moments, prune,
    refit::refit,
    sparse, structure,
    twin::from_matrix,
};
use crate::{
    device::Split,
    error::{Error, Result},
    graph::{
        Model,
        layer::{Layer, LayerOp},
        model::{float_attribute, ints_attribute},
        patch::Patch,
        tensor,
    },
    space::Plan,
    spec::{Repair, Whiten},
};

/// What is done to a layer's weight.
#[derive(Debug, Clone, PartialEq)]
pub struct Change {
    /// Position of the layer.
    pub layer: usize,
    /// Output channels that stay, rising.
    pub rows: Vec<usize>,
    /// Input channels that stay, rising.
    pub inputs: Vec<usize>,
    /// How what is left is split; ranks are capped to it.
    pub split: Option<Split>,
    /// Whether two of four weights become zero.
    pub sparse: bool,
}

/// What a layer's weight becomes.
#[derive(Debug, Clone, PartialEq)]
pub struct Rebuilt {
    /// Weights of its parts in order, as matrices (outputs × inputs·taps).
    pub parts: Vec<Array2<f32>>,
    /// What the last part's bias takes up, one number for each output.
    pub shift: Option<Vec<f64>>,
}

impl Rebuilt {
    /// Bytes in memory.
    pub fn bytes(&self) -> usize {
        self.parts.iter().map(|p| 4 * p.len()).sum::<usize>() + self.shift.as_ref().map_or(0, |s| 8 * s.len())
    }
}

impl Shelved for Rebuilt {
    fn to_arrays(&self) -> Vec<ArrayD<f32>> {
        // In two halves, so that no digit is lost.
        let shift = self.shift.clone().unwrap_or_default();
        let high: Vec<f32> = shift.iter().map(|&v| v as f32).collect();
        let low: Vec<f32> = shift.iter().zip(&high).map(|(v, h)| (v - f64::from(*h)) as f32).collect();
        let flag = Array1::from(vec![f32::from(u8::from(self.shift.is_some()))]);
        let head = [flag, Array1::from(high), Array1::from(low)];
        head.into_iter().map(Array1::into_dyn).chain(self.parts.iter().map(|p| p.clone().into_dyn())).collect()
    }

    fn from_arrays(arrays: Vec<ArrayD<f32>>) -> Option<Self> {
        let [flag, high, low, parts @ ..] = arrays.as_slice() else { return None };
        let shift = || high.iter().zip(low).map(|(h, l)| f64::from(*h) + f64::from(*l)).collect();
        let parts = parts.iter().map(|p| p.clone().into_dimensionality().ok()).collect::<Option<Vec<Array2<f32>>>>()?;
        Some(Self { parts, shift: (*flag.first()? > 0.0).then(shift) })
    }
}

impl Change {
    /// Columns of the layer's weight that stay.
    pub fn columns(&self, layer: &Layer) -> Vec<usize> {
        let taps = taps(layer);
        if layer.groups > 1 {
            return (0..layer.channels_in / layer.groups * taps).collect();
        }
        self.inputs.iter().flat_map(|c| c * taps..(c + 1) * taps).collect()
    }

    /// How the columns that stay lie.
    pub fn geometry(&self, layer: &Layer) -> Geometry {
        Geometry::of(layer, (self.inputs.len(), self.rows.len()))
    }

    /// Whether input channels of a layer without groups go.
    pub fn loses_inputs(&self, layer: &Layer) -> bool {
        layer.groups == 1 && self.inputs.len() < layer.channels_in
    }

    /// The weight that the parts are together (outputs × columns that stay).
    pub fn together(&self, layer: &Layer, parts: &[Array2<f32>]) -> Array2<f32> {
        let whole = self.split.and_then(|split| through(parts, self.geometry(layer), split, parts.len()));
        whole.unwrap_or_else(|| parts.first().cloned().unwrap_or_default())
    }
}

/// Taps of a layer's window.
pub fn taps(layer: &Layer) -> usize {
    if layer.op.is_convolution() { layer.weight_dims[2..].iter().product() } else { 1 }
}

/// Whether a layer's bias can take up what a change does on average: it has one that is added as it is, or can get one.
pub fn takes_bias(model: &Model, layer: &Layer) -> bool {
    let node = &model.graph().node[layer.node];
    let plain = layer.op != LayerOp::Gemm || (float_attribute(node, "alpha", 1.0) == 1.0 && float_attribute(node, "beta", 1.0) == 1.0);
    plain && !layer.is_batched() && (layer.bias.is_some() || layer.op != LayerOp::MatMul)
}

impl Compressor {
    /// A layer's new weight by what calibration found of the float network.
    ///
    /// # Errors
    /// If a weight cannot be read or decomposed.
    pub(super) fn rebuilt(&self, change: &Change) -> Result<Arc<Rebuilt>> {
        let layer = &self.layers.layers[change.layer];
        let found = self.calibration();
        let gram = found.and_then(|c| c.grams.get(&layer.name));
        let weight = matrix(&self.model, layer)?;
        let numbers = |list: &[usize]| -> Vec<u64> { list.iter().map(|&v| v as u64).collect() };
        let ranks = change.split.map_or([0, 0, 0], |s| match s {
            Split::Channel { rank } => [1, rank, 0],
            Split::Spatial { rank } => [2, rank, 0],
            Split::Tucker { input, output } => [3, input, output],
        });
        let settings: Vec<u64> = numbers(&change.rows)
            .into_iter()
            .chain([u64::MAX])
            .chain(numbers(&change.inputs))
            .chain([u64::MAX, u64::from(change.sparse), self.structure.repair as u64, self.structure.whiten as u64])
            .chain(ranks)
            .chain([gram.map_or(0, |g| g.fingerprint()), u64::from(takes_bias(&self.model, layer))])
            .collect();
        self.rebuilt.get_kept(key(&weight, &settings), || self.rebuild(change, &weight, gram), Rebuilt::bytes)
    }

    fn rebuild(&self, change: &Change, weight: &Array2<f32>, gram: Option<&Arc<Gram>>) -> Result<Rebuilt> {
        let layer = &self.layers.layers[change.layer];
        let centred = takes_bias(&self.model, layer);
        let rows = weight.select(Axis(0), &change.rows);
        let columns = change.columns(layer);
        let left = match gram.filter(|_| change.loses_inputs(layer) && self.structure.repair == Repair::Refit) {
            Some(gram) => refit(&rows, gram, &columns, centred),
            None => rows.select(Axis(1), &columns),
        };
        let cut = (change.inputs.len() < layer.channels_in).then_some(change.inputs.as_slice());
        let own = moments::of_kept(gram, cut, (taps(layer), layer.channels_in / layer.groups.max(1)));
        let parts = self.parted(change, left, own.as_deref().map(|g| (g, centred)))?;
        let shift = match (self.structure.repair, centred) {
            (Repair::None, _) | (_, false) => None,
            _ => match (gram, &own) {
                (Some(gram), Some(own)) => Some(difference(&mean_output(&rows, gram), &mean_output(&change.together(layer, &parts), own))),
                _ => self.lost_on_average(change, &rows),
            },
        };
        // As a folder keeps it.
        let short = |v: f64| f64::from(v as f32) + f64::from((v - f64::from(v as f32)) as f32);
        Ok(Rebuilt { parts, shift: shift.map(|all: Vec<f64>| all.into_iter().map(short).collect()) })
    }

    /// The parts of what is left of a weight, by the moments of the columns that stay.
    pub(super) fn parted(&self, change: &Change, left: Array2<f32>, inputs: Option<(&Gram, bool)>) -> Result<Vec<Array2<f32>>> {
        let layer = &self.layers.layers[change.layer];
        let known = inputs.filter(|_| self.structure.whiten == Whiten::Inputs);
        if let Some(split) = change.split {
            let low = |w: &Array2<f32>, inputs: Option<(&Gram, bool)>| {
                let settings = inputs.map_or([0, 0], |(gram, centred)| [gram.fingerprint(), 1 + u64::from(centred)]);
                let make = || inputs.map_or_else(|| LowRank::plain(w), |(gram, centred)| LowRank::by_inputs(w, gram, centred));
                self.low_rank.get(key(w, &settings), make, LowRank::bytes)
            };
            return decompose(&left, change.geometry(layer), split, known, &low);
        }
        if change.sparse {
            let taps = taps(layer);
            return Ok(vec![match known {
                Some((gram, centred)) => sparse::refitted(&left, taps, gram, centred),
                None => sparse::by_magnitude(&left, taps),
            }]);
        }
        Ok(vec![left])
    }

    /// The float network in which one layer alone computes what it does in a plan's, from float inputs, and which of its outputs count; columns of lost
    /// channels are zero. None for layers that the plan does not touch, or that are not one matrix. Precisions are not looked at.
    ///
    /// # Errors
    /// If a weight cannot be read.
    pub fn stand_in(&self, plan: &Plan, l: usize) -> Result<Option<(Model, Vec<usize>)>> {
        let layer = &self.layers.layers[l];
        let gone = prune::removed_units(&self.channels, plan, &|g| Ok(self.order(g)?.order.clone()))?;
        let change = structure::change_of((l, layer), &self.channels, plan, &gone);
        let Some(change) = change.filter(|_| layer.groups == 1 && !layer.is_batched()) else { return Ok(None) };
        let rebuilt = self.rebuilt(&change)?;
        let whole = change.together(layer, &rebuilt.parts);
        let mut weight = matrix(&self.model, layer)?;
        for (at, &row) in change.rows.iter().enumerate() {
            weight.row_mut(row).fill(0.0);
            change.columns(layer).iter().zip(whole.row(at)).for_each(|(&c, &w)| weight[[row, c]] = w);
        }
        let mut patch = Patch::new("one layer of a plan");
        let array = from_matrix(&weight, &layer.weight_dims, layer.out_axis)?;
        patch.tensors.insert(layer.weight.clone(), tensor::from_f32(&layer.weight, &array));
        if let Some(shift) = &rebuilt.shift {
            let mut bias = bias(&self.model, layer)?.unwrap_or_else(|| vec![0.0; layer.channels_out]);
            change.rows.iter().zip(shift).for_each(|(&r, s)| bias[r] = (f64::from(bias[r]) + s) as f32);
            let name = layer.bias.clone().unwrap_or_else(|| format!("{}.bias.corrected", layer.name));
            if layer.bias.is_none() {
                let mut node = self.model.graph().node[layer.node].clone();
                node.input.truncate(2);
                node.input.push(name.clone());
                patch.replace.insert(layer.node, vec![node]);
            }
            let old = self.model.graph().initializer.iter().find(|t| t.name() == name);
            let dims = old.map_or_else(|| vec![bias.len()], tensor::dims);
            let bias = ArrayD::from_shape_vec(dims, bias).map_err(|e| Error::Internal(format!("{name}: {e}")))?;
            patch.tensors.insert(name.clone(), tensor::from_f32(&name, &bias));
        }
        Ok(Some((patch.apply(&self.model)?, change.rows)))
    }

    /// What lost channels gave on average, where only the means of the layer's input are known.
    fn lost_on_average(&self, change: &Change, rows: &Array2<f32>) -> Option<Vec<f64>> {
        let layer = &self.layers.layers[change.layer];
        let mean = self.calibration()?.values.get(&layer.input)?.means();
        if !change.loses_inputs(layer) || mean.len() != layer.channels_in {
            return None;
        }
        // A transposed convolution spreads its taps over that many outputs.
        let spread = match layer.op {
            LayerOp::ConvTranspose => {
                ints_attribute(&self.model.graph().node[layer.node], "strides").map_or(1.0, |s| s.iter().product::<i64>() as f64)
            }
            _ => 1.0,
        };
        let (taps, mut lost) = (taps(layer), vec![true; layer.channels_in]);
        change.inputs.iter().for_each(|&c| lost[c] = false);
        let of_row = |row: ndarray::ArrayView1<'_, f32>| -> f64 {
            let of = |c: usize| mean[c] / spread * row.slice(s![c * taps..(c + 1) * taps]).iter().map(|&w| f64::from(w)).sum::<f64>();
            (0..layer.channels_in).filter(|&c| lost[c]).map(of).sum()
        };
        Some(rows.rows().into_iter().map(of_row).collect())
    }
}

/// W·E\[x\], group by group.
pub fn mean_output(weight: &Array2<f32>, gram: &Gram) -> Vec<f64> {
    let per_group = weight.nrows().div_ceil(gram.groups.len().max(1)).max(1);
    let mut out = Vec::with_capacity(weight.nrows());
    for (g, from) in (0..weight.nrows()).step_by(per_group).enumerate() {
        let mean = Array1::from(gram.means(g));
        let part = weight.slice(s![from..(from + per_group).min(weight.nrows()), ..]).mapv(f64::from);
        if mean.len() == part.ncols() {
            out.extend(part.dot(&mean));
        } else {
            out.extend(std::iter::repeat_n(0.0, part.nrows()));
        }
    }
    out
}

fn difference(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a - b).collect()
}
