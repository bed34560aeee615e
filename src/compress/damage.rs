//! What a plan does to its layers' outputs, in closed form from what calibration measured: no sample is run.
//!
//! With the moments H of a layer's inputs a changed weight costs E‖ΔW x‖² = tr(ΔW H ΔWᵀ), whatever changed it: the new weight is the one that
//! the pipeline makes, with the columns of lost channels as zeros, the parts of a split multiplied together, and integers in place of
//! floats. Rounded activations cost σ²·‖Ŵ‖², where σ² is the mean square of what the grid does to the values of the histogram. Where a bias
//! is corrected, what the change does on average does not count.

use std::sync::Arc;

use ndarray::{Array1, Array2, ArrayD, Axis};

use super::{
    Calibration, Change, Compressor,
    apply::{Part, Ready, bias, matrix},
    cache::{Shelved, key},
    calibrate::Gram,
    decompose, moments, prune,
    quantize::{grid_error, output_energy},
    rebuild::{takes_bias, taps},
    structure,
};
use crate::{
    error::{Error, Result},
    graph::layer::Layer,
    space::Plan,
    spec::Repair,
};

/// Standard deviations on both sides that the values between the parts of a split layer are taken to reach: they were never seen.
const REACH: f64 = 4.0;

impl Compressor {
    /// Expected squared error of the layers' outputs per their variance, summed over the layers that a plan changes or that read channels it removes,
    /// each by itself: behind the float network, as a plan is built in parallel. None if nothing was measured of the inputs of such a layer.
    /// Balancing is not looked at, nor what reconstruction gains over `adaround`; zeros of the padding count as rounded.
    ///
    /// # Errors
    /// If there was no calibration or a weight cannot be read.
    pub fn damage(&self, plan: &Plan) -> Result<Option<f64>> {
        let found = self.calibration().ok_or_else(|| Error::Internal("damage was asked for before calibration".into()))?;
        let settings = (plan.to_yaml()?, self.quantize, self.structure);
        let text = serde_json::to_string(&settings).map_err(|e| Error::Internal(format!("settings: {e}")))?;
        let letters: Vec<u64> = text.bytes().map(u64::from).chain([found.fingerprint(), self.content]).collect();
        let found = self.errors.get_kept(key(&Array1::<f32>::zeros(0), &letters), || self.expected(plan).map(Expected), |_| 16)?;
        Ok(found.0)
    }

    /// As [`Compressor::damage`], of one layer.
    ///
    /// # Errors
    /// As there.
    pub fn damage_at(&self, plan: &Plan, l: usize) -> Result<Option<f64>> {
        let found = self.calibration().ok_or_else(|| Error::Internal("damage was asked for before calibration".into()))?;
        let gone = prune::removed_units(&self.channels, plan, &|g| Ok(self.order(g)?.order.clone()))?;
        let layer = &self.layers.layers[l];
        let Some(gram) = found.grams.get(&layer.name) else { return Ok(None) };
        self.damage_of((l, layer), structure::change_of((l, layer), &self.channels, plan, &gone), plan, (gram, found))
    }

    fn expected(&self, plan: &Plan) -> Result<Option<f64>> {
        let found = self.calibration().ok_or_else(|| Error::Internal("damage was asked for before calibration".into()))?;
        let gone = prune::removed_units(&self.channels, plan, &|g| Ok(self.order(g)?.order.clone()))?;
        let mut sum = 0.0;
        for (l, layer) in self.layers.layers.iter().enumerate() {
            let change = structure::change_of((l, layer), &self.channels, plan, &gone);
            let reduced = change.as_ref().is_some_and(|c| c.loses_inputs(layer) || c.split.is_some() || c.sparse);
            if !reduced && !plan.treatments[l].1.precision.is_quantized() {
                continue;
            }
            let Some(gram) = found.grams.get(&layer.name) else { return Ok(None) };
            let Some(one) = self.damage_of((l, layer), change, plan, (gram, found))? else { return Ok(None) };
            sum += one;
        }
        Ok(Some(sum))
    }

    /// Squared error of one layer's outputs per their variance.
    fn damage_of(
        &self,
        (l, layer): (usize, &Layer),
        change: Option<Change>,
        plan: &Plan,
        (gram, found): (&Arc<Gram>, &Calibration),
    ) -> Result<Option<f64>> {
        let treatment = &plan.treatments[l].1;
        let weight = matrix(&self.model, layer)?;
        let (rows, own, parts, change) = match change {
            None => (weight.clone(), Arc::clone(gram), vec![weight], None),
            Some(change) => {
                let cut = (change.inputs.len() < layer.channels_in).then_some(change.inputs.as_slice());
                let Some(own) = moments::of_kept(Some(gram), cut, (taps(layer), layer.channels_in / layer.groups.max(1))) else {
                    return Ok(None);
                };
                (weight.select(Axis(0), &change.rows), own, self.rebuilt(&change)?.parts.clone(), Some(change))
            }
        };
        let mut corrected = change.is_some() && takes_bias(&self.model, layer) && self.structure.repair != Repair::None;
        let (mut changed, mut noise) = (parts, 0.0);
        if treatment.precision.is_quantized() {
            let has_bias = bias(&self.model, layer)?.is_some() || corrected;
            let corrects = self.quantize.bias_correction && has_bias;
            corrected = corrected || corrects;
            let floats = changed.clone();
            for n in 0..floats.len() {
                let split = change.as_ref().and_then(|c| Some((c.geometry(layer), c.split?)));
                let gram = match split {
                    Some((geometry, split)) => decompose::of_part(&own, &floats, geometry, split, n).map(Arc::new),
                    None => Some(Arc::clone(&own)),
                };
                let settled = self.quantize.settle(&treatment.method, treatment.precision);
                let keeps_zeros = change.as_ref().is_some_and(|c| c.sparse);
                let part = Part { layer, treatment, settled, gram, keeps_zeros };
                let (step, error) = match n {
                    0 => self.activation_noise(&part, found)?,
                    _ => part.gram.as_ref().map_or((0.0, 0.0), |g| unseen(g, treatment.precision.activation_bits())),
                };
                let last = n + 1 == floats.len();
                changed[n] = self.integers(&floats[n], &part, (step * step / 12.0, corrects && last))?.values();
                let rest = if n == 0 { together(change.as_ref(), layer, &changed) } else { product(&floats[n..]) };
                noise += error * rest.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>();
            }
        }
        let whole = together(change.as_ref(), layer, &changed);
        let (delta, moments) = match &change {
            Some(change) if change.loses_inputs(layer) => {
                let mut delta = rows.clone();
                for (at, &column) in change.columns(layer).iter().enumerate() {
                    let mut target = delta.column_mut(column);
                    target -= &whole.column(at);
                }
                (delta, gram)
            }
            _ => (&rows - &whole, &own),
        };
        let energy = output_energy(&rows, if change.is_some() && layer.groups > 1 { &own } else { gram }, true);
        let error = output_energy(&delta, moments, corrected) + noise;
        // A layer whose output never changes has nothing to lose.
        Ok(Some(if energy > 0.0 { error / energy } else { 0.0 }))
    }

    /// Step of the grid of what a layer reads, and the mean square of what rounding does to it.
    fn activation_noise(&self, part: &Part<'_>, found: &Calibration) -> Result<(f64, f64)> {
        let values = found.values.get(&part.layer.input);
        let ready = Ready { layer: part.layer, part, values };
        let Some((grid, values)) = self.grid(&ready)?.zip(values) else { return Ok((0.0, 0.0)) };
        Ok((f64::from(grid.scale), grid_error(&values.histogram, grid)))
    }
}

fn together(change: Option<&Change>, layer: &Layer, parts: &[Array2<f32>]) -> Array2<f32> {
    change.map_or_else(|| parts.first().cloned().unwrap_or_default(), |c| c.together(layer, parts))
}

/// What parts of a split behind the first do to what the first of them reads.
fn product(parts: &[Array2<f32>]) -> Array2<f32> {
    let mut rest = parts.iter().rev();
    let last = rest.next().cloned().unwrap_or_default();
    rest.fold(last, |after, part| if after.ncols() == part.nrows() { after.dot(part) } else { after })
}

/// An expected error.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Expected(Option<f64>);

impl Shelved for Expected {
    fn to_arrays(&self) -> Vec<ArrayD<f32>> {
        let value = self.0.unwrap_or(f64::NAN);
        let [a, b] = [value.to_bits() >> 32, value.to_bits() & 0xffff_ffff];
        let halves = [a >> 16, a & 0xffff, b >> 16, b & 0xffff];
        vec![Array1::from_iter(halves.map(|h| h as f32)).into_dyn()]
    }

    fn from_arrays(arrays: Vec<ArrayD<f32>>) -> Option<Self> {
        let halves = arrays.first().filter(|a| a.len() == 4)?;
        let value = f64::from_bits(halves.iter().fold(0_u64, |bits, &h| bits << 16 | h as u64));
        Some(Self((!value.is_nan()).then_some(value)))
    }
}

/// Step of a grid of so many bits for values of which only the moments are known, and the mean square of what it does.
fn unseen(gram: &Gram, bits: Option<u32>) -> (f64, f64) {
    let Some(bits) = bits else { return (0.0, 0.0) };
    let (mut low, mut high) = (0.0_f64, 0.0_f64);
    for block in gram.groups.iter().flatten() {
        for (i, &mean) in block.mean.iter().enumerate() {
            let deviation = (block.matrix[[i, i]] - mean * mean).max(0.0).sqrt();
            (low, high) = (low.min(mean - REACH * deviation), high.max(mean + REACH * deviation));
        }
    }
    let step = (high - low) / f64::from((1_u32 << bits) - 1);
    (step, step * step / 12.0)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path, sync::Arc};

    use ndarray::{Array, ArrayD, Axis, IxDyn};

    use super::*;
    use crate::{
        compress::Effort,
        data::{Dataset, Input, InputSpec, Source},
        device::Split,
        graph::{Model, fixture::Net, proto::ValueInfoProto},
        precision::Precision,
        runtime::{Runtime, Session, SessionOptions},
        space::{Build, Treatment},
        spec::{Balance, RangeRule},
    };

    const SAMPLES: usize = 20;

    /// Images whose channels have their own sizes and means and share a part.
    fn images() -> ArrayD<f32> {
        let mut n = 7_u64;
        let mut next = || {
            n = n.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (n >> 40) as f32 / (1 << 24) as f32 - 0.5
        };
        let mut x = Array::from_shape_simple_fn(IxDyn(&[SAMPLES, 8, 5, 5]), &mut next);
        let shared = x.index_axis(Axis(1), 0).to_owned();
        for (c, mut channel) in x.axis_iter_mut(Axis(1)).enumerate() {
            channel += &(&shared * 0.8);
            channel.mapv_inplace(|v| v * (c + 1) as f32 * 0.5 + c as f32 * 0.2);
        }
        x
    }

    /// The network, calibrated at every position of all images.
    fn calibrated(model: &Model) -> Compressor {
        let folder = tempfile::tempdir().unwrap();
        let (path, data) = (folder.path().join("model.onnx"), folder.path().join("x.npz"));
        std::fs::write(&path, model.to_bytes().unwrap()).unwrap();
        let mut file = ndarray_npy::NpzWriter::new(std::fs::File::create(&data).unwrap());
        file.add_array("images", &images()).unwrap();
        file.finish().unwrap();
        let runtime = Runtime::start(&mut |_| ()).unwrap();
        let mut c = Compressor::load(&runtime, Path::new(&path), &BTreeMap::new()).unwrap();
        c.quantize.activations = Some(RangeRule::MinMax);
        c.quantize.balance = Some(Balance::None);
        let specs = [InputSpec { name: "x".into(), dims: vec![None, Some(8), Some(5), Some(5)] }];
        let data = Dataset::open(&Source::npz(data), &Input::default(), &specs).unwrap();
        let effort = Effort { threads: 1, max_memory: Effort::MEMORY, positions: 25, widest: Effort::WIDEST };
        c.calibrate(Arc::new(data), SAMPLES, effort, None).unwrap();
        c
    }

    fn run(bytes: &[u8]) -> ArrayD<f32> {
        let runtime = Runtime::start(&mut |_| ()).unwrap();
        let mut session = Session::from_bytes(&runtime, "test", bytes, SessionOptions::default()).unwrap();
        session.run(&[("x", images().view())]).unwrap().remove(0)
    }

    /// Mean square of images, summed over their channels; about each channel's mean if centred.
    fn moment(values: &ArrayD<f32>, centred: bool) -> f64 {
        let of_channel = |channel: ndarray::ArrayViewD<'_, f32>| {
            let all: Vec<f64> = channel.iter().map(|v| f64::from(*v)).collect();
            let mean = if centred { all.iter().sum::<f64>() / all.len() as f64 } else { 0.0 };
            all.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / all.len() as f64
        };
        values.axis_iter(Axis(1)).map(of_channel).sum()
    }

    /// Squared difference of the outputs per their variance, by running both networks; about its mean if a bias is corrected.
    fn by_running(c: &Compressor, plan: &Plan, centred: bool) -> f64 {
        let (float, other) = (run(&c.original.to_bytes().unwrap()), run(&c.compress(plan, Build::Parallel).unwrap()));
        moment(&(&float - &other), centred) / moment(&float, true)
    }

    fn only(c: &Compressor, change: impl Fn(usize, &mut Treatment)) -> Plan {
        let mut plan = Plan::identity(&c.layers);
        plan.treatments.iter_mut().enumerate().for_each(|(l, (_, t))| change(l, t));
        plan
    }

    fn assert_predicts(c: &Compressor, plan: &Plan, centred: bool, within: f64) {
        let predicted = c.damage(plan).unwrap().unwrap();
        let found = by_running(c, plan, centred);
        assert!(found > 0.0 && (predicted / found - 1.0).abs() < within, "predicted {predicted}, found {found}");
    }

    #[test]
    fn the_error_of_a_rank_is_that_of_the_network_run() {
        let c = calibrated(&Net::new(&[-1, 8, 5, 5]).conv("y", "x", (8, 24), 3).build("y"));
        for rank in [2, 6, 12] {
            assert_predicts(&c, &only(&c, |_, t| t.split = Some(Split::Channel { rank })), false, 1e-3);
        }
    }

    #[test]
    fn the_error_of_lost_channels_is_that_of_their_reader_run() {
        let c = calibrated(&Net::new(&[-1, 8, 5, 5]).conv("a", "x", (8, 12), 3).relu("r", "a").conv("y", "r", (12, 6), 1).build("y"));
        for keep in [0.75, 0.5] {
            assert_predicts(&c, &only(&c, |l, t| t.keep = if l == 0 { keep } else { 1.0 }), true, 1e-3);
        }
    }

    #[test]
    fn the_error_of_integers_is_near_that_of_the_network_run() {
        // Windows of 1: padding is exact in integers, and is not told from the rest.
        let c = calibrated(&Net::new(&[-1, 8, 5, 5]).conv("y", "x", (8, 24), 1).build("y"));
        for (precision, within) in [(Precision::Int8, 0.1), (Precision::W4a8, 0.1), (Precision::Int4, 0.35)] {
            assert_predicts(&c, &only(&c, |_, t| t.precision = precision), false, within);
        }
    }

    #[test]
    fn a_plan_that_changes_nothing_does_no_damage() {
        let c = calibrated(&Net::new(&[-1, 8, 5, 5]).conv("y", "x", (8, 24), 3).build("y"));
        assert_eq!(c.damage(&Plan::identity(&c.layers)).unwrap(), Some(0.0));
    }

    /// Outputs of a value inside a model for images.
    fn tapped(model: &Model, value: &str, (input, x): (&str, &ArrayD<f32>)) -> ArrayD<f32> {
        let mut open = model.clone();
        open.graph_mut().output = vec![ValueInfoProto { name: Some(value.into()), ..Default::default() }];
        let runtime = Runtime::start(&mut |_| ()).unwrap();
        let mut session = Session::from_bytes(&runtime, "test", &open.to_bytes().unwrap(), SessionOptions::default()).unwrap();
        session.run(&[(input, x.view())]).unwrap().remove(0)
    }

    #[test]
    fn the_errors_of_a_real_networks_layers_are_predicted_within_a_factor_of_three_on_unseen_images() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets");
        let runtime = Runtime::start(&mut |_| ()).unwrap();
        let mut c = Compressor::load(&runtime, &root.join("cifar10-vgg.onnx"), &BTreeMap::new()).unwrap();
        let input = c.model.inputs().next().unwrap().name().to_string();
        let specs = [InputSpec { name: input.clone(), dims: vec![None, Some(3), Some(32), Some(32)] }];
        let images = |file: &str, n: usize| Dataset::open(&Source::npz(root.join(file)), &Input::default(), &specs).unwrap().take(n);
        let effort = Effort { threads: 2, max_memory: Effort::MEMORY, positions: 16, widest: Effort::WIDEST };
        c.calibrate(Arc::new(images("cifar10-calibration.npz", 256)), 256, effort, None).unwrap();
        let x = images("cifar10-test.npz", 100).batch(&(0..100).collect::<Vec<_>>()).unwrap().remove(0).1;
        for (l, layer) in c.layers.layers.iter().enumerate().take(6) {
            let plan = only(&c, |i, t| t.precision = if i == l { Precision::Int8 } else { Precision::Fp16 });
            let twin = Model::parse("twin", &c.compress(&plan, Build::Parallel).unwrap()).unwrap();
            let of = |model: &Model| tapped(model, &layer.output, (&input, &x));
            let (float, rounded) = (of(&c.model), of(&twin));
            let found = moment(&(&float - &rounded), false) / moment(&float, true);
            let predicted = c.damage(&plan).unwrap().unwrap();
            assert!((found / 3.0..found * 3.0).contains(&predicted), "{}: predicted {predicted}, found {found}", layer.name);
        }
    }
}
