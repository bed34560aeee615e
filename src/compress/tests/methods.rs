//! Balancing, mixed formats and reconstruction: what they must leave alone, and what they must gain.

use super::*;
use crate::{
    compress::{
        balance::{Balanced, balance},
        calibrate::{Effort, Windows},
        decompose::as_matrix,
        lockstep,
        segment::Frontier,
    },
    graph::patch::Patch,
};

/// Two convolutions with a ReLU between them, and a third behind a sigmoid.
fn chain() -> Model {
    let net = Net::new(&[-1, 4, 8, 8]).conv("a", "x", (4, 6), 3).relu("r", "a").conv("b", "r", (6, 5), 3);
    net.node("Sigmoid", "s", &["b"], vec![]).conv("y", "s", (5, 3), 1).build("y")
}

fn balanced(c: &Compressor, how: Balance) -> balance::Outcome {
    let wanted: Vec<Balanced<'_>> = c
        .layers
        .layers
        .iter()
        .map(|layer| {
            let magnitudes = Some((0..layer.channels_in).map(|i| 0.2 + (i as f32 * 1.7) % 3.0).collect());
            Balanced { layer, balance: how, magnitudes, gram: None, bits: (4, 4) }
        })
        .collect();
    balance(&c.model, &c.layers, &wanted).unwrap()
}

#[test]
fn a_balanced_network_computes_the_same_and_only_what_no_layer_takes_up_costs_a_mul() {
    let model = chain();
    let c = load(&model);
    let x = inputs(&model);
    for how in [Balance::Strength(0.3), Balance::Strength(0.8), Balance::Auto] {
        let out = balanced(&c, how);
        assert_close(&run(&model, &x), &run(&out.model, &x), 1e-5, &format!("{how}"));
        let muls: Vec<&str> = out.model.graph().node.iter().filter(|n| n.op_type() == "Mul").map(|n| n.name()).collect();
        assert_eq!(muls, ["a.mul", "y.mul"], "{how}");
    }
}

#[test]
fn equalisation_is_refused_where_no_layer_stands_before() {
    let c = load(&chain());
    let of = |name: &'static str| c.layers.layers.iter().filter(move |l| l.name == name);
    let wanted = |layer| Balanced { layer, balance: Balance::Equalize, magnitudes: Some(vec![1.0; 6]), gram: None, bits: (8, 8) };
    let out = balance(&c.model, &c.layers, &of("b").map(wanted).collect::<Vec<_>>()).unwrap();
    let x = inputs(&c.model);
    assert_close(&run(&c.model, &x), &run(&out.model, &x), 1e-5, "equalised");
    // Afterwards each channel has the same largest weight on both sides.
    let largest = |name: &str, axis: usize| -> Vec<f32> {
        weight(&out.model, name).axis_iter(Axis(axis)).map(|p| p.iter().fold(0.0_f32, |m, w| m.max(w.abs()))).collect()
    };
    let (rows, columns) = (largest("a.w", 0), largest("b.w", 1));
    let ratio: Vec<f32> = rows.iter().zip(&columns).map(|(r, c)| r / c).collect();
    assert!(ratio.iter().all(|r| (r / ratio[0] - 1.0).abs() < 1e-4), "{ratio:?}");
    let error = balance(&c.model, &c.layers, &of("y").map(wanted).collect::<Vec<_>>()).err().unwrap();
    assert!(error.to_string().contains('y') && error.remedy().is_some());
}

#[test]
fn a_balanced_plan_costs_on_its_outline_what_its_model_costs() {
    let c = calibrated("resnet20");
    let mut plan = Plan::identity(&c.layers);
    for (_, t) in &mut plan.treatments {
        t.precision = Precision::Int8;
        t.method.balance = Some(Balance::Strength(0.5));
    }
    let model = c.twin(&plan, Build::Parallel).unwrap().unwrap();
    let outline = c.outline(&plan, 4).unwrap();
    let muls = |m: &Model| m.graph().node.iter().filter(|n| n.name().ends_with(".mul")).count();
    assert!(muls(&model) > 0);
    assert_eq!(muls(&model), muls(&outline.structured.model));
}

#[test]
fn weight_only_products_read_floats_and_are_priced_as_such() {
    let model = Net::new(&[-1, 64]).weight("w", &[64, 64]).node("MatMul", "y", &["x", "w"], vec![]).build("y");
    let mut c = load(&model);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let mut npz = ndarray_npy::NpzWriter::new(std::fs::File::create(&path).unwrap());
    npz.add_array("images", &some(&[40, 64], 9)).unwrap();
    npz.finish().unwrap();
    let specs = [InputSpec { name: "x".into(), dims: vec![None, Some(64)] }];
    let data = Dataset::open(&Source::npz(path), &Input::default(), &specs).unwrap();
    c.calibrate(Arc::new(data), 40, Effort { threads: 1, max_memory: Effort::MEMORY, positions: 4, widest: Effort::WIDEST }, None).unwrap();
    let plan = only(&c, "y", Treatment { precision: Precision::W8a16, ..Treatment::NONE });
    let done = c.prepare(&plan, Build::Parallel).unwrap().unwrap();
    assert!(done.layers[0].1.activations.is_none());
    let twin = done.twin().unwrap();
    assert!(twin.graph().node.iter().all(|n| n.op_type() != "QuantizeLinear"));
    let x = some(&[4, 64], 3);
    let (float, twin) = (run(&model, &x), run(&twin, &x));
    assert_close(&float, &twin, 0.02, "8-bit weights");
    assert!(float != twin);
    let outline = c.outline(&plan, 1).unwrap();
    let kernels = extract(&outline.structured.model, &outline.shapes, &outline.precision);
    let weights = kernels[0].reads.iter().find(|t| t.distance == u64::MAX && t.bits == 8).unwrap();
    assert_eq!(weights.bytes, 64 * 64);
    assert!(kernels.iter().all(|k| k.op != crate::device::kernel::Op::Quantize));
    let runs = |chip: &str| predict(&kernels, &Profile::load(chip).unwrap()).kernels[0].precision;
    assert_eq!((runs("ascend310p3"), runs("ascend310")), (Precision::W8a16, Precision::Fp16));
}

#[test]
fn a_layer_behind_float_layers_is_fitted_to_itself() {
    let c = open(&demo("resnet20.onnx"));
    let input = c.model.inputs().next().unwrap().name().to_string();
    let specs = [InputSpec { name: input, dims: vec![None, Some(3), Some(32), Some(32)] }];
    let data = Dataset::open(&Source::npz(demo("calibration.npz")), &Input::default(), &specs).unwrap();
    let samples: Vec<usize> = (0..8).collect();
    let layer = &c.layers.layers[4];
    let windows = Windows::of(layer, &c.model.graph().node[layer.node]).unwrap();
    let mut frontier = Frontier::begin(&c.runtime, &c.model, &data, &samples, 3).unwrap();
    frontier.advance(c.layers.layers[2].node, &Patch::new("nothing")).unwrap();
    frontier.advance(layer.node, &Patch::new("nothing")).unwrap();
    let w = as_matrix(&weight(&c.model, &layer.weight), layer.out_axis);
    let rows: Vec<usize> = (0..w.nrows()).collect();
    let windows = (&windows, &windows);
    let common = lockstep::Wanted {
        layer,
        windows,
        weight: &w,
        prior: &w,
        rows: &rows,
        grid: None,
        beside: None,
        positions: 16,
        centred: true,
        ridge: (0.01, 2.0),
        rectified: None,
    };
    let fitted = lockstep::fit(&frontier, &common).unwrap();
    let largest = w.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    assert!((&fitted.weight - &w).iter().all(|e| e.abs() < 1e-3 * largest));
}

/// Mean squared distance of a plan's outputs to the float network's, of its mean square.
fn distance(c: &Compressor, plan: &Plan, x: &ArrayD<f32>) -> f64 {
    let twin = c.twin(plan, Build::Parallel).unwrap().unwrap();
    let (float, other) = (run(&c.model, x), run(&twin, x));
    let square = |a: &ArrayD<f32>| a.iter().map(|v| f64::from(*v).powi(2)).sum::<f64>();
    square(&(&float - &other)) / square(&float)
}

#[test]
fn four_bit_weights_lose_less_the_more_is_done_for_them() {
    let mut c = open(&demo("resnet20.onnx"));
    let input = c.model.inputs().next().unwrap().name().to_string();
    let specs = [InputSpec { name: input.clone(), dims: vec![None, Some(3), Some(32), Some(32)] }];
    let images = Dataset::open(&Source::npz(demo("calibration.npz")), &Input::default(), &specs).unwrap();
    let x = images.select(&(400..440).collect::<Vec<_>>()).batch(&(0..40).collect::<Vec<_>>()).unwrap().remove(0).1;
    c.calibrate(Arc::new(images), 64, Effort { threads: 1, max_memory: Effort::MEMORY, positions: 16, widest: Effort::WIDEST }, None)
        .unwrap();
    let plan = |round: Round| {
        let mut plan = Plan::identity(&c.layers);
        for (l, (_, t)) in plan.treatments.iter_mut().enumerate() {
            let ends = l == 0 || l + 1 == c.layers.layers.len();
            t.precision = if ends { Precision::Int8 } else { Precision::W4a8 };
            t.method = Method { round: (!ends).then_some(round), ..Method::default() };
        }
        plan
    };
    let of = |round| distance(&c, &plan(round), &x);
    let (nearest, gptq, adaround, reconstruct) = (of(Round::Nearest), of(Round::Gptq), of(Round::Adaround), of(Round::Reconstruct));
    assert!(gptq < 0.6 * nearest && adaround < 0.6 * nearest && reconstruct < 0.6 * nearest, "{nearest} {gptq} {adaround} {reconstruct}");
    // The same plan twice is the same model, byte for byte.
    assert_eq!(
        c.compress(&plan(Round::Reconstruct), Build::Parallel).unwrap(),
        c.compress(&plan(Round::Reconstruct), Build::Parallel).unwrap()
    );
}
