//! From a plan to the network it means: the pipeline of [`Compressor::compress`].

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use ndarray::Array2;

use super::{
    Compressor, Structured,
    balance::{self, Balanced},
    cache::key,
    calibrate::{self, Calibration, Effort, Gram, Store, Wanted, Windows},
    decompose::{self, as_matrix},
    lockstep::{self, Fitted},
    moments,
    prepared::Prepared,
    prune::{self, Sweep},
    quantize::{Grid, Rounding, Weight, activation_grid, quantize_weight},
    rebuild::taps,
    segment::{self, Frontier},
    sparse,
    structure::{self, Structure},
    twin::{QuantizedLayer, simulated},
};
use crate::{
    data::Dataset,
    error::{Error, Result},
    graph::{
        Index, Model,
        layer::{Layer, LayerOp, Layers},
        model::float_attribute,
        patch::Patch,
        shape::{self, Shapes},
        tensor,
    },
    precision::Precision,
    space::{Build, Plan, Treatment},
    spec::{Balance, Round, Settled},
};

/// Calibration samples that a network whose inner values changed is measured on again.
const RECALIBRATION: usize = 32;

/// Samples that go through a network together while its layers are reconstructed.
pub(super) const LOCKSTEP_BATCH: usize = 16;
/// Bytes of inner values that may be kept for it.
pub(super) const KEPT_ALIVE: u64 = 512 << 20;

/// What stabilises the fit of a layer that is to be rounded, see [`lockstep::Wanted`].
const ROUNDED_RIDGE: (f64, f64) = (0.01, 2.0);

/// The calibration of the float network, and what is needed to measure a changed one again.
pub(super) struct Calibrated {
    pub(super) data: Arc<Dataset>,
    pub(super) all: Vec<usize>,
    again: Vec<usize>,
    pub(super) found: Calibration,
}

/// A layer of a plan's network, or one of the two that a layer became.
pub(super) struct Part<'a> {
    pub(super) layer: &'a Layer,
    pub(super) treatment: &'a Treatment,
    pub(super) settled: Settled,
    pub(super) gram: Option<Arc<Gram>>,
    pub(super) keeps_zeros: bool,
}

/// A layer of the network that is to be quantized, and what is known of its input.
#[derive(Clone, Copy)]
pub(super) struct Ready<'a> {
    pub(super) layer: &'a Layer,
    pub(super) part: &'a Part<'a>,
    pub(super) values: Option<&'a calibrate::Statistics>,
}

impl Compressor {
    /// Measures the float network; needed before a plan is compressed. With a store, what was measured before of the same
    /// network, data and settings is read from there, and what is measured now is kept there.
    ///
    /// # Errors
    /// If the data or the network cannot be run.
    pub fn calibrate(&mut self, data: Arc<Dataset>, samples: usize, effort: Effort, store: Option<&Store>) -> Result<()> {
        self.require_runnable()?;
        let all = spread(data.len(), samples);
        let found = match store.and_then(Store::load) {
            Some(found) => found,
            None => {
                let layers = || self.layers.layers.iter();
                let wanted = Wanted::ranges(layers()).with_grams(&self.model, layers());
                let shapes = shape::infer(&self.model, 1, &self.pins)?;
                let found = calibrate::calibrate(&self.runtime, (&self.model, &shapes), &wanted, &data, &all, effort)?;
                store.map_or(Ok(()), |s| s.save(&found))?;
                found
            }
        };
        let again = spread(all.len(), RECALIBRATION).into_iter().map(|i| all[i]).collect();
        self.calibrated = Some(Calibrated { data, all, again, found });
        Ok(())
    }

    /// Columns that the moments of a plan's layers need in one piece, for [`Effort::widest`].
    pub fn widest_moments(&self, plan: &Plan) -> usize {
        let whole =
            |(_, t): &(String, Treatment)| t.split.is_some() || self.quantize.settle(&t.method, t.precision).round != Round::Nearest;
        if plan.treatments.iter().any(|t| t.1.precision.is_quantized() && whole(t)) { Effort::WIDEST } else { 1 }
    }

    /// What calibration found of the float network.
    pub fn calibration(&self) -> Option<&Calibration> {
        self.calibrated.as_ref().map(|c| &c.found)
    }

    /// The calibration data, and some of the samples that were measured, evenly spread; none before calibration.
    pub fn calibration_samples(&self, samples: usize) -> Option<(Arc<Dataset>, Vec<usize>)> {
        let calibrated = self.calibrated.as_ref()?;
        let picked = spread(calibrated.all.len(), samples).into_iter().map(|i| calibrated.all[i]).collect();
        Some((Arc::clone(&calibrated.data), picked))
    }

    /// The network of a plan as the bytes of an ONNX file: the user's own file if the plan changes nothing.
    ///
    /// # Errors
    /// If the plan asks for the impossible, or there was no calibration.
    pub fn compress(&self, plan: &Plan, build: Build) -> Result<Vec<u8>> {
        self.twin(plan, build)?.map_or_else(|| self.original.to_bytes(), |twin| twin.to_bytes())
    }

    /// The fake-quant twin of a plan; none if the plan changes nothing.
    ///
    /// # Errors
    /// As [`Compressor::compress`].
    pub fn twin(&self, plan: &Plan, build: Build) -> Result<Option<Model>> {
        self.prepare(plan, build)?.map(|prepared| prepared.twin()).transpose()
    }

    /// The network of a plan before its twin is made: floats, and beside them grids and integers; none if the plan changes nothing.
    ///
    /// # Errors
    /// As [`Compressor::compress`].
    pub fn prepare(&self, plan: &Plan, build: Build) -> Result<Option<Prepared>> {
        plan.check(&self.layers, &self.channels)?;
        if plan.is_identity() {
            return Ok(None);
        }
        let calibrated = self.calibrated.as_ref().ok_or_else(|| Error::Internal("compress was called before calibrate".into()))?;
        let structure = self.structure_of(plan)?;
        let (structured, grams) = match build {
            Build::Sequential if plan.changes_structure() => self.in_sequence(structure, calibrated)?,
            _ => (structure.on(&self.model)?, BTreeMap::new()),
        };
        let precision = part_precisions(plan, &structured);
        let shapes = shape::infer(&structured.model, 1, &self.pins)?;
        let layers = Layers::find(&structured.model, &shapes);
        let mut parts = self.parts(plan, &structured, &layers, Some((&calibrated.found, &grams)))?;
        let wanted: Vec<Balanced<'_>> = parts.iter().map(|p| self.balanced(p, &structured, Some(&calibrated.found))).collect();
        let balanced = balance::balance(&structured.model, &layers, &wanted)?;
        for (name, factors) in &balanced.factors {
            for part in parts.iter_mut().filter(|p| p.layer.name == *name) {
                part.gram = part.gram.as_ref().map(|g| Arc::new(g.divided(factors, taps(part.layer))));
            }
        }
        let shapes = shape::infer(&balanced.model, 1, &self.pins)?;
        let now = Layers::find(&balanced.model, &shapes);
        let touched: BTreeSet<&str> = balanced.factors.iter().map(|(n, _)| n.as_str()).collect();
        let measured = self.measured_again(plan, (&balanced.model, &shapes, &now), &parts, &touched, calibrated)?;
        let mut ready: Vec<Ready<'_>> = Vec::new();
        for part in &parts {
            let layer = now.layers.iter().find(|l| l.name == part.layer.name);
            let layer = layer.ok_or_else(|| Error::Internal(format!("{} was lost", part.layer.name)))?;
            let values = measured.values.get(&layer.input).or_else(|| calibrated.found.values.get(&layer.input));
            ready.push(Ready { layer, part, values });
        }
        let quantized = if ready.iter().any(|r| r.part.settled.round == Round::Reconstruct) {
            self.reconstructed((&balanced.model, &shapes), &mut ready, calibrated)?
        } else {
            ready.iter().map(|r| Ok((r.layer, self.quantized(&balanced.model, r, None)?))).collect::<Result<_>>()?
        };
        let layers = quantized.into_iter().map(|(l, q)| (l.clone(), q)).collect();
        Ok(Some(Prepared { layers, precision, sparse: structured.sparse(), plan: plan.to_yaml()?, model: balanced.model }))
    }

    /// The structure of a plan, each layer rebuilt by the float network's inputs.
    pub(super) fn structure_of(&self, plan: &Plan) -> Result<Structure> {
        let gone = prune::removed_units(&self.channels, plan, &|g| Ok(self.order(g)?.order.clone()))?;
        structure::structure(&self.model, &self.layers, &self.channels, plan, &gone, Some(&|change| self.rebuilt(change)))
    }

    /// In which order the units of a group go, and what the sweep lost on the way.
    ///
    /// # Errors
    /// If a weight cannot be read.
    pub fn order(&self, group: usize) -> Result<Arc<Sweep>> {
        let calibration = self.calibration();
        let seen = calibration.map_or(0, Calibration::fingerprint);
        let settings = [group as u64, self.structure.score as u64, seen, self.content];
        let make = || {
            let of = (&self.model, &self.layers, &self.channels);
            prune::order(of, &self.channels.groups[group], self.structure.score, calibration)
        };
        self.orders.get_kept(key(&ndarray::Array1::<f32>::zeros(0), &settings), make, Sweep::bytes)
    }

    /// The quantized layers of a plan's network, with the moments of their inputs: those that were measured in sequence, else what becomes of
    /// the float network's.
    fn parts<'a>(
        &self,
        plan: &'a Plan,
        structured: &Structured,
        layers: &'a Layers,
        calibration: Option<(&Calibration, &BTreeMap<String, Arc<Gram>>)>,
    ) -> Result<Vec<Part<'a>>> {
        let mut parts = Vec::new();
        for (l, (name, treatment)) in plan.treatments.iter().enumerate().filter(|(_, (_, t))| t.precision.is_quantized()) {
            let old = &self.layers.layers[l];
            let names = &structured.parts[l];
            let find = |name: &String| {
                let found = layers.layers.iter().find(|l| l.name == *name);
                found.ok_or_else(|| Error::Internal(format!("{name} is no layer of the plan's network")))
            };
            let change = structured.changes[l].as_ref();
            let cut = change.filter(|c| c.inputs.len() < old.channels_in).map(|c| c.inputs.as_slice());
            let gram = calibration.and_then(|(found, now)| match now.get(name) {
                Some(gram) => Some(Arc::clone(gram)),
                None => moments::of_kept(found.grams.get(name), cut, (taps(old), old.channels_in / old.groups.max(1))),
            });
            let split = change.and_then(|c| Some((c.geometry(old), c.split?)));
            let matrices = match (&split, &gram) {
                (Some(_), Some(_)) => names.iter().map(|n| matrix(&structured.model, find(n)?)).collect::<Result<Vec<_>>>()?,
                _ => Vec::new(),
            };
            for (n, name) in names.iter().enumerate() {
                let gram = match (split, &gram) {
                    (Some((geometry, split)), Some(gram)) => decompose::of_part(gram, &matrices, geometry, split, n).map(Arc::new),
                    _ => gram.clone(),
                };
                let settled = self.quantize.settle(&treatment.method, treatment.precision);
                let keeps_zeros = change.is_some_and(|c| c.sparse);
                parts.push(Part { layer: find(name)?, treatment, settled, gram, keeps_zeros });
            }
        }
        Ok(parts)
    }

    fn balanced<'a>(&self, part: &'a Part<'_>, structured: &Structured, calibration: Option<&Calibration>) -> Balanced<'a> {
        let value = calibration.and_then(|c| c.values.get(&part.layer.input));
        let all: Option<Vec<f32>> = value.map(|v| v.channels.iter().map(calibrate::Channel::magnitude).collect());
        let l = structured.parts.iter().position(|names| names.first() == Some(&part.layer.name));
        let kept = l.and_then(|l| structured.changes[l].as_ref()).map(|c| &c.inputs);
        let magnitudes = all.map(|all| kept.map_or(all.clone(), |kept| kept.iter().filter_map(|&c| all.get(c).copied()).collect()));
        // What flows between the two halves of a layer was never measured: its mean squares stand for its magnitudes.
        let from_moments =
            |g: &Arc<Gram>| g.groups.iter().flatten().flat_map(|b| b.matrix.diag().mapv(|v| 3.0 * v.max(0.0).sqrt() as f32)).collect();
        let magnitudes = if l.is_some() { magnitudes } else { part.gram.as_ref().map(from_moments) };
        // Weight-only layers round no activations, so there is nothing to balance for.
        let balance = if part.treatment.precision.activation_bits().is_some() { part.settled.balance } else { Balance::None };
        let bits = (part.treatment.precision.weight_bits(), part.treatment.precision.activation_bits().unwrap_or(16));
        Balanced { layer: part.layer, balance, magnitudes, gram: part.gram.as_deref(), bits }
    }

    /// The skeleton of a plan with the Muls that its balancing needs; none if there are none.
    pub(super) fn balanced_outline(&self, plan: &Plan, structured: &Structured, shapes: &Shapes) -> Result<Option<Model>> {
        let any = |(_, t): &(String, Treatment)| {
            self.quantize.settle(&t.method, t.precision).balance != Balance::None && t.precision.is_quantized()
        };
        if !plan.treatments.iter().any(any) {
            return Ok(None);
        }
        let layers = Layers::find(&structured.model, shapes);
        let parts = self.parts(plan, structured, &layers, None)?;
        let wanted: Vec<Balanced<'_>> = parts.iter().map(|p| self.balanced(p, structured, None)).collect();
        Ok(Some(balance::balance(&structured.model, &layers, &wanted)?.model))
    }

    /// Statistics of what the quantized layers read, where that is not what the float network's layers read.
    fn measured_again(
        &self,
        plan: &Plan,
        (model, shapes, now): (&Model, &Shapes, &Layers),
        parts: &[Part<'_>],
        balanced: &BTreeSet<&str>,
        calibrated: &Calibrated,
    ) -> Result<Calibration> {
        let names: BTreeSet<&str> = parts
            .iter()
            .filter(|p| p.treatment.precision.activation_bits().is_some())
            .map(|p| p.layer.name.as_str())
            .filter(|n| plan.changes_structure() || balanced.contains(n))
            .collect();
        if names.is_empty() {
            return Ok(Calibration::default());
        }
        let wanted = Wanted::ranges(now.layers.iter().filter(|l| names.contains(l.name.as_str())));
        let effort = Effort { threads: 1, max_memory: Effort::MEMORY, positions: 0, widest: 1 };
        calibrate::calibrate(&self.runtime, (model, shapes), &wanted, &calibrated.data, &calibrated.again, effort)
    }

    /// Grids and integers of all layers, those that are to be reconstructed behind the others.
    fn reconstructed<'a>(
        &self,
        (model, shapes): (&Model, &Shapes),
        ready: &mut [Ready<'a>],
        calibrated: &Calibrated,
    ) -> Result<Vec<(&'a Layer, QuantizedLayer)>> {
        ready.sort_by_key(|r| r.layer.node);
        let alive = segment::widest(model, |v| 2 * 4 * shapes.elements(v).unwrap_or(0) as u64);
        let room = usize::try_from(KEPT_ALIVE / alive.max(1)).unwrap_or(usize::MAX).max(LOCKSTEP_BATCH);
        let samples = spread(calibrated.all.len(), self.quantize.reconstruction.min(room));
        let samples: Vec<usize> = samples.into_iter().map(|i| calibrated.all[i]).collect();
        let mut frontier = Frontier::begin(&self.runtime, model, &calibrated.data, &samples, LOCKSTEP_BATCH)?;
        let index = Index::new(model);
        let mut patch = Patch::new("the layers quantized so far");
        let mut done = Vec::new();
        for one in ready.iter() {
            let quantized = if one.part.settled.round == Round::Reconstruct {
                frontier.advance(one.layer.node, &patch)?;
                self.fitted(model, one, &frontier, &index, shapes)?
            } else {
                self.quantized(model, one, None)?
            };
            let nodes = simulated(model, one.layer, &quantized, &mut BTreeSet::new(), &mut patch)?;
            patch.replace.insert(one.layer.node, nodes);
            done.push((one.layer, quantized));
        }
        Ok(done)
    }

    fn fitted(
        &self,
        model: &Model,
        ready: &Ready<'_>,
        frontier: &Frontier<'_>,
        index: &Index<'_>,
        shapes: &Shapes,
    ) -> Result<QuantizedLayer> {
        let layer = ready.layer;
        let Some(windows) = Windows::of(layer, &model.graph().node[layer.node]).filter(|w| w.columns() <= Effort::WIDEST) else {
            return self.quantized(model, ready, None);
        };
        let weight = matrix(model, layer)?;
        let centred = self.quantize.bias_correction && bias(model, layer)?.is_some();
        let beside = lockstep::beside(model, index, layer, |v| shapes.dims(v).map(<[usize]>::to_vec));
        let grid = self.grid(ready)?;
        let rows: Vec<usize> = (0..weight.nrows()).collect();
        let wanted = lockstep::Wanted {
            layer,
            windows: (&windows, &windows),
            weight: &weight,
            prior: &weight,
            rows: &rows,
            grid,
            beside,
            positions: self.quantize.positions,
            centred,
            ridge: ROUNDED_RIDGE,
            rectified: None,
        };
        let mut fitted = lockstep::fit(frontier, &wanted);
        if let Some(fitted) = fitted.as_mut().filter(|_| ready.part.keeps_zeros) {
            // The fit knows of no zeros: what it gave is thinned again.
            fitted.weight = sparse::refitted(&fitted.weight, taps(layer), &fitted.gram, centred);
        }
        self.quantized(model, ready, fitted.as_ref())
    }

    /// Grid of the activations a layer reads.
    pub(super) fn grid(&self, Ready { layer, part, values }: &Ready<'_>) -> Result<Option<Grid>> {
        let Some(bits) = part.treatment.precision.activation_bits() else { return Ok(None) };
        let found = values.ok_or_else(|| Error::Internal(format!("the input {} of {} was not calibrated", layer.input, layer.name)))?;
        Ok(Some(activation_grid(&found.histogram, bits, part.settled.activations, &self.quantize)))
    }

    /// Grids and integers of one layer, by its float inputs or by what it was fitted to.
    pub(super) fn quantized(&self, model: &Model, ready: &Ready<'_>, fitted: Option<&Fitted>) -> Result<QuantizedLayer> {
        let Ready { layer, part, .. } = *ready;
        let precision = part.treatment.precision;
        let activations = self.grid(ready)?;
        let weight = matrix(model, layer)?;
        let bias = bias(model, layer)?;
        if let Some(fitted) = fitted {
            let centred = self.quantize.bias_correction && bias.is_some();
            let asked = self.asked(&fitted.weight, layer, part, Some(&fitted.gram), (0.0, centred));
            let rounding = quantize_weight(&asked);
            let bias = bias.map(|b| if centred { lockstep::biases(fitted, &rounding.values(), &b) } else { b });
            return Ok(QuantizedLayer { name: layer.name.clone(), precision, activations, weight: Arc::new(rounding), bias });
        }
        let corrects = self.quantize.bias_correction && bias.is_some() && part.gram.is_some();
        let noise = activations.map_or(0.0, |g| f64::from(g.scale).powi(2) / 12.0);
        let rounding = self.integers(&weight, part, (noise, corrects))?;
        let bias = match (&part.gram, bias) {
            (Some(gram), Some(bias)) if corrects => Some(corrected(&bias, &weight, &rounding, gram)),
            (_, bias) => bias,
        };
        Ok(QuantizedLayer { name: layer.name.clone(), precision, activations, weight: rounding, bias })
    }
}

impl Compressor {
    /// Integers of a part's weight, found or made.
    pub(super) fn integers(&self, weight: &Array2<f32>, part: &Part<'_>, (noise, corrects): (f64, bool)) -> Result<Arc<Rounding>> {
        let asked = self.asked(weight, part.layer, part, part.gram.as_deref(), (noise, corrects));
        let settings = [
            u64::from(asked.bits) | u64::from(asked.per_row) << 8 | u64::from(corrects) << 9 | u64::from(asked.keeps_zeros) << 10,
            asked.rule as u64 | (asked.round as u64) << 8,
            noise.to_bits(),
            part.gram.as_ref().map_or(0, |g| g.fingerprint()),
        ];
        self.rounded.get_kept(key(weight, &settings), || Ok(quantize_weight(&asked)), Rounding::bytes)
    }

    fn asked<'w>(
        &self,
        matrix: &'w Array2<f32>,
        layer: &Layer,
        part: &Part<'_>,
        gram: Option<&'w Gram>,
        (noise, centred): (f64, bool),
    ) -> Weight<'w> {
        let (per_row, bits) = (layer.op.is_convolution(), part.treatment.precision.weight_bits());
        Weight {
            matrix,
            per_row,
            bits,
            rule: self.quantize.weights,
            round: part.settled.round,
            gram,
            noise,
            centred,
            keeps_zeros: part.keeps_zeros,
        }
    }
}

/// b + (W − Ŵ)·E\[x\]: what rounding changes on average goes into the bias.
fn corrected(bias: &[f32], weight: &Array2<f32>, rounding: &Rounding, gram: &Gram) -> Vec<f32> {
    let changed = rounding.values();
    let per_group = weight.nrows().div_ceil(gram.groups.len().max(1)).max(1);
    let of_row = |(r, b): (usize, &f32)| {
        let means = gram.means(r / per_group);
        let shift: f64 = weight.row(r).iter().zip(changed.row(r)).zip(means).map(|((w, c), m)| f64::from(w - c) * m).sum();
        (f64::from(*b) + shift) as f32
    };
    bias.iter().enumerate().map(of_row).collect()
}

pub(super) fn matrix(model: &Model, layer: &Layer) -> Result<Array2<f32>> {
    let weight = model.graph().initializer.iter().find(|t| t.name() == layer.weight);
    let weight = weight.ok_or_else(|| Error::Internal(format!("no weight {}", layer.weight)))?;
    Ok(as_matrix(&tensor::to_f32(weight)?, layer.out_axis))
}

/// A layer's bias, if it has one number for each output and is added as it is.
pub(super) fn bias(model: &Model, layer: &Layer) -> Result<Option<Vec<f32>>> {
    let Some(name) = &layer.bias else { return Ok(None) };
    let node = &model.graph().node[layer.node];
    let plain = layer.op != LayerOp::Gemm || (float_attribute(node, "alpha", 1.0) == 1.0 && float_attribute(node, "beta", 1.0) == 1.0);
    let Some(found) = model.graph().initializer.iter().find(|t| t.name() == *name).filter(|_| plain) else { return Ok(None) };
    Ok(Some(tensor::to_f32(found)?.iter().copied().collect::<Vec<f32>>()).filter(|b| b.len() == layer.channels_out))
}

pub(super) fn part_precisions(plan: &Plan, structured: &Structured) -> BTreeMap<String, Precision> {
    let parts = plan.treatments.iter().zip(&structured.parts);
    parts.flat_map(|((_, t), names)| names.iter().map(|n| (n.clone(), t.precision))).collect()
}

/// Indices of `n` of `len` samples, evenly spread, in order.
pub(super) fn spread(len: usize, n: usize) -> Vec<usize> {
    let n = n.min(len);
    (0..n).map(|i| i * len / n).collect()
}
