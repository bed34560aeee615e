//! What a plan does to its layers' outputs, in closed form from what calibration measured: no sample is run.
//!
//! With the moments H of a layer's inputs a changed weight costs E‖ΔW x‖² = tr(ΔW H ΔWᵀ), and rounded activations σ²·‖Ŵ‖², where σ²
//! is the mean square of what the grid does to the values of the histogram. Lost channels are zeroed columns of the layers
//! that read them. Where a bias is corrected, what the change does on average does not count.

use std::sync::Arc;

use ndarray::Array2;

use super::{
    Calibration, Compressor,
    apply::{Part, Ready, bias, matrix},
    calibrate::Gram,
    prune,
    quantize::{grid_error, output_energy},
};
use crate::{
    error::{Error, Result},
    graph::layer::{Layer, LayerOp},
    space::{Plan, Treatment},
};

impl Compressor {
    /// Expected squared error of a layer's output per its variance, for a plan that does one thing to a layer; summed over the layers
    /// that read them for one that removes channels. Of a plan that does several things, each counts as if it were alone. None if nothing was measured of the inputs of a layer that it changes. Balancing is not looked at, nor what reconstruction
    /// gains over `adaround`; zeros of the padding count as rounded.
    ///
    /// # Errors
    /// If there was no calibration or a weight cannot be read.
    pub fn damage(&self, plan: &Plan) -> Result<Option<f64>> {
        let found = self.calibration().ok_or_else(|| Error::Internal("damage was asked for before calibration".into()))?;
        let mut sum = 0.0;
        // A layer whose output never changes has nothing to lose.
        let relative = |error: f64, energy: f64| if energy > 0.0 { error / energy } else { 0.0 };
        let gone = prune::removed_units(&self.model, &self.layers, &self.channels, plan)?;
        for (l, layer) in self.layers.layers.iter().enumerate() {
            let treatment = &plan.treatments[l].1;
            let lost = |units: &[Option<usize>]| -> Vec<usize> {
                (0..units.len()).filter(|&c| units[c].is_some_and(|u| gone.contains(&u))).collect()
            };
            // Groups of a grouped convolution go whole: with their inputs their outputs go too.
            let columns = if layer.groups == 1 { lost(&self.channels.columns[l]) } else { Vec::new() };
            if columns.is_empty() && treatment.rank.is_none() && !treatment.precision.is_quantized() {
                continue;
            }
            let Some(gram) = found.grams.get(&layer.name) else { return Ok(None) };
            let weight = matrix(&self.model, layer)?;
            if treatment.precision.is_quantized() {
                sum += relative(self.rounding_error((layer, treatment), &weight, gram, found)?, output_energy(&weight, gram, true));
            }
            if let Some(rank) = treatment.rank {
                let (left, right) = self.svd.svd(&weight)?.factors(rank.min(weight.nrows().min(weight.ncols())));
                sum += relative(output_energy(&(&weight - &left.dot(&right)), gram, false), output_energy(&weight, gram, true));
            }
            if !columns.is_empty() {
                let (stayed, lost) = split(&weight, (layer, &columns), &lost(&self.channels.rows[l]));
                let corrected = found.values.contains_key(&layer.input) && !(layer.op == LayerOp::MatMul && layer.bias.is_none());
                sum += relative(output_energy(&lost, gram, corrected), output_energy(&stayed, gram, true));
            }
        }
        Ok(Some(sum))
    }

    /// Error of a layer's outputs by rounded weights and activations.
    fn rounding_error(
        &self,
        (layer, treatment): (&Layer, &Treatment),
        weight: &Array2<f32>,
        gram: &Arc<Gram>,
        found: &Calibration,
    ) -> Result<f64> {
        let settled = self.quantize.settle(&treatment.method, treatment.precision);
        let part = Part { layer, treatment, settled, gram: Some(Arc::clone(gram)) };
        let values = found.values.get(&layer.input);
        let rounded = self.quantized(&self.model, &Ready { layer, part: &part, values }, None)?;
        let changed = rounded.weight.values();
        let corrected = self.quantize.bias_correction && bias(&self.model, layer)?.is_some();
        let noise = rounded.activations.zip(values).map_or(0.0, |(grid, values)| grid_error(&values.histogram, grid));
        let squares: f64 = changed.iter().map(|w| f64::from(*w).powi(2)).sum();
        Ok(output_energy(&(weight - &changed), gram, corrected) + noise * squares)
    }
}

/// A weight less the rows that are lost, and of that the lost columns alone.
fn split(weight: &Array2<f32>, (layer, columns): (&Layer, &[usize]), rows: &[usize]) -> (Array2<f32>, Array2<f32>) {
    let mut stayed = weight.clone();
    rows.iter().filter(|&&r| r < weight.nrows()).for_each(|&r| stayed.row_mut(r).fill(0.0));
    let taps = weight.ncols() / layer.channels_in.max(1);
    let mut lost = Array2::zeros(weight.dim());
    for column in columns.iter().flat_map(|c| c * taps..(c + 1) * taps).filter(|&c| c < weight.ncols()) {
        lost.column_mut(column).assign(&stayed.column(column));
    }
    (stayed, lost)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, path::Path, sync::Arc};

    use ndarray::{Array, ArrayD, Axis, IxDyn};

    use super::*;
    use crate::{
        compress::Effort,
        data::{Dataset, Input, InputSpec, Source},
        graph::{Model, fixture::Net, proto::ValueInfoProto},
        precision::Precision,
        runtime::{Runtime, Session, SessionOptions},
        space::Build,
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
            assert_predicts(&c, &only(&c, |_, t| t.rank = Some(rank)), false, 1e-3);
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
