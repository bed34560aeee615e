//! Training as a whole: what it starts from, what it lands on, and that it can be stopped anywhere.

use std::{path::Path, sync::Arc};

use ndarray::{Array1, Array4, ArrayD, IxDyn};
use ndarray_npy::NpzWriter;

use super::{
    loss::{LABELS, taught},
    optimise::Optimiser,
    step::{Feeds, Measure, Step},
    *,
};
use crate::{
    compress::{Compressor, Effort, Prepared},
    data::{Dataset, Input, InputSpec, Source},
    graph::{
        Model,
        fixture::{Net, some},
        shape::{self, Pins},
    },
    precision::Precision,
    runtime::{Level, Runtime, Session, SessionOptions},
    space::{Build, Plan},
    spec::{Augment, Optimizer},
};

fn runtime() -> Runtime {
    Runtime::start(&mut |_| ()).unwrap()
}

/// Two convolutions, one of them beside a shortcut, a depthwise one, pooling and a matrix product: ten classes.
fn network() -> Model {
    Net::new(&[-1, 3, 8, 8])
        .conv("a", "x", (3, 12), 3)
        .relu("ra", "a")
        .conv("b", "ra", (12, 12), 3)
        .node("Add", "s", &["b", "ra"], vec![])
        .relu("rs", "s")
        .depthwise("d", "rs", 12)
        .relu("rd", "d")
        .node("GlobalAveragePool", "p", &["rd"], vec![])
        .node("Flatten", "f", &["p"], vec![])
        .gemm("y", "f", (12, 10))
        .build("y")
}

fn compressor(model: &Model) -> Compressor {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model.to_bytes().unwrap()).unwrap();
    Compressor::load(&runtime(), &path, &Pins::new()).unwrap()
}

/// Images of the network's size, all different, with labels.
fn images(n: usize) -> (tempfile::TempDir, Dataset) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.npz");
    let mut npz = NpzWriter::new(std::fs::File::create(&path).unwrap());
    let array: Array4<f32> = some(&[n, 3, 8, 8], 3).into_dimensionality().unwrap();
    npz.add_array("images", &array).unwrap();
    npz.add_array("labels", &Array1::from_shape_fn(n, |i| (i * i % 10) as u8)).unwrap();
    npz.finish().unwrap();
    let spec = InputSpec { name: "x".into(), dims: vec![None, Some(3), Some(8), Some(8)] };
    let data = Dataset::open(&Source::npz(&path), &Input::default(), &[spec]).unwrap();
    (folder, data)
}

fn prepared(compressor: &mut Compressor, data: &Dataset, precision: Precision) -> Prepared {
    let effort = Effort { threads: 1, max_memory: Effort::MEMORY, positions: 8, widest: Effort::WIDEST };
    compressor.calibrate(Arc::new(data.clone()), 16, effort, None).unwrap();
    let mut plan = Plan::identity(&compressor.layers);
    for (i, layer) in compressor.layers.layers.iter().enumerate() {
        plan.treatments[i].1.precision = precision;
        if layer.first || layer.last || plan.check(&compressor.layers, &compressor.channels).is_err() {
            plan.treatments[i].1.precision = Precision::Int8;
        }
    }
    compressor.prepare(&plan, Build::Parallel).unwrap().unwrap()
}

fn answers(model: &Model, x: &ArrayD<f32>) -> ArrayD<f32> {
    let mut session = Session::from_bytes(&runtime(), "answers", &model.to_bytes().unwrap(), SessionOptions::default()).unwrap();
    session.run(&[("x", x.view())]).unwrap().remove(0)
}

fn assert_close(a: &ArrayD<f32>, b: &ArrayD<f32>, share: f32) {
    let largest = b.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(worst <= share * largest, "off by {worst} of {largest}");
}

fn settings(threads: usize) -> Settings {
    Settings {
        epochs: 3,
        batch: 8,
        at_once: 8,
        rule: Rule { method: Optimizer::Adam, momentum: 0.9, decay: 0.01, clip: 4.0 },
        rate: 0.01,
        augment: Augment::default(),
        held_back: 0.2,
        patience: 0,
        seed: 5,
        threads,
    }
}

fn distilled() -> Loss {
    Loss { outputs: Outputs::Logits, teacher: 1.0, temperature: 2.0, labels: 0.0, matched: vec![] }
}

fn labelled() -> Loss {
    Loss { teacher: 0.0, labels: 1.0, ..distilled() }
}

#[test]
fn the_training_graph_answers_like_the_twin_before_and_after_training() {
    let mut compressor = compressor(&network());
    let (_folder, data) = images(60);
    let prepared = prepared(&mut compressor, &data, Precision::Int4);
    let x = some(&[4, 3, 8, 8], 9);
    let mut network = Network::of_plan(&prepared, &Pins::new()).unwrap();
    assert_close(&answers(&network.filled(), &x), &answers(&prepared.twin().unwrap(), &x), 1e-4);
    let loss = distilled();
    let lesson = Lesson { data: &data, teacher: Some(&compressor.model), loss: &loss, pins: &Pins::new() };
    let before = network.parameters.clone();
    let gentle = Settings { rate: 0.001, epochs: 6, ..settings(1) };
    let trained = train(&runtime(), &mut network, lesson, &gentle, None, &mut |_| true).unwrap().unwrap();
    assert!(trained.best > 0, "nothing was learned: {:?}", trained.epochs);
    assert!(before.iter().zip(&network.parameters).all(|(a, b)| a.value != b.value));
    let settled = network.settle(&prepared).unwrap();
    // A tie may fall to the other side where a float product is divided by its step again; no weight lies so near one.
    assert_close(&answers(&network.filled(), &x), &answers(&settled.twin().unwrap(), &x), 1e-4);
    let whole = settled.layers.iter().flat_map(|(_, q)| q.weight.integers.iter());
    assert!(whole.clone().all(|q| q.fract() == 0.0 && q.abs() <= 128.0) && whole.count() > 0);
}

#[test]
fn a_run_that_was_stopped_goes_on_to_the_same_weights_and_threads_do_not_matter() {
    let mut compressor = compressor(&network());
    let (folder, data) = images(60);
    let prepared = prepared(&mut compressor, &data, Precision::Int4);
    let loss = distilled();
    let lesson = Lesson { data: &data, teacher: Some(&compressor.model), loss: &loss, pins: &Pins::new() };
    let start = Network::of_plan(&prepared, &Pins::new()).unwrap();
    let run = |threads: usize, checkpoint: Option<&Checkpoint>, most: usize| {
        let mut network = start.clone();
        let mut steps = 0;
        let mut tell = |p: Progress| {
            steps += usize::from(matches!(p, Progress::Step(..)));
            steps < most
        };
        let trained = train(&runtime(), &mut network, lesson, &settings(threads), checkpoint, &mut tell).unwrap();
        let bits = |p: &Parameter| p.value.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
        (trained, network.parameters.iter().map(bits).collect::<Vec<_>>())
    };
    let (whole, weights) = run(1, None, usize::MAX);
    let checkpoint = Checkpoint { path: folder.path().join("run.npz"), key: "key".into() };
    // 48 samples are learned from: 6 steps an epoch. It stops in the third epoch, and goes on from the second's end.
    assert!(run(1, Some(&checkpoint), 14).0.is_none());
    let (resumed, again) = run(2, Some(&checkpoint), usize::MAX);
    assert_eq!(weights, again);
    assert_eq!(whole.unwrap().epochs, resumed.unwrap().epochs);
    let other = Checkpoint { key: "other".into(), ..checkpoint };
    assert!(run(1, Some(&other), 3).0.is_none(), "a checkpoint of another run is not gone on with");
}

#[test]
fn a_batch_in_parts_is_one_batch() {
    let model = network();
    let (_folder, data) = images(40);
    let loss = labelled();
    let lesson = Lesson { data: &data, teacher: None, loss: &loss, pins: &Pins::new() };
    let run = |at_once: usize| {
        let mut network = Network::plain(&model, &Pins::new()).unwrap();
        // Without augmentation, whose draws are the samples', and with plain descent, which does not amplify the last digits.
        let rule = Rule { method: Optimizer::Sgd, momentum: 0.0, decay: 0.0, clip: 0.0 };
        let settings = Settings { at_once, epochs: 1, rule, augment: Augment { flip: false, shift: 0.0 }, ..settings(1) };
        train(&runtime(), &mut network, lesson, &settings, None, &mut |_| true).unwrap().unwrap();
        network.parameters
    };
    for (whole, parts) in run(8).iter().zip(run(2)) {
        assert_close(&parts.value, &whole.value, 1e-5);
    }
}

#[test]
fn the_memory_that_training_may_take_decides_how_many_samples_go_at_once() {
    let network = Network::plain(&network(), &Pins::new()).unwrap();
    assert_eq!(network.at_once(64, 1 << 30, &Pins::new()).unwrap(), 64);
    let few = network.at_once(64, 300_000, &Pins::new()).unwrap();
    assert!(few < 64 && 64 % few == 0, "{few}");
}

#[test]
fn distillation_is_the_divergence_at_its_temperature() {
    let model = Net::new(&[-1, 3]).gemm("y", "x", (3, 4)).build("y");
    let network = Network::plain(&model, &Pins::new()).unwrap();
    let mut measure = Measure::new(&runtime(), &network, &distilled(), (2, &Pins::new()), 1).unwrap();
    let (x, t) = (some(&[2, 3], 1), some(&[2, 4], 2));
    let feeds: Feeds = vec![("x".into(), x), (taught("y"), t.clone())];
    let (loss, y) = measure.run(&network.parameters, &feeds).unwrap();
    let softmax = |row: &[f32]| -> Vec<f64> {
        let e: Vec<f64> = row.iter().map(|v| (f64::from(*v) / 2.0).exp()).collect();
        e.iter().map(|v| v / e.iter().sum::<f64>()).collect()
    };
    let rows = |a: &ArrayD<f32>| a.outer_iter().map(|r| softmax(r.as_slice().unwrap())).collect::<Vec<_>>();
    let of_row = |(p, q): (&Vec<f64>, &Vec<f64>)| p.iter().zip(q).map(|(p, q)| p * (p / q).ln()).sum::<f64>();
    let expected = 4.0 * rows(&t).iter().zip(&rows(&y)).map(of_row).sum::<f64>() / 2.0;
    assert!((f64::from(loss) - expected).abs() < 1e-5 * expected, "{loss} {expected}");
}

#[test]
fn an_operator_without_a_rule_is_named_before_any_work_and_does_not_matter_off_the_way() {
    let (_folder, data) = images(40);
    let loss = Loss { outputs: Outputs::Numbers, ..distilled() };
    let behind = Net::new(&[-1, 3, 8, 8]).conv("a", "x", (3, 4), 3).node("Hardmax", "h", &["a"], vec![]).build("h");
    let lesson = Lesson { data: &data, teacher: Some(&behind), loss: &loss, pins: &Pins::new() };
    let mut network = Network::plain(&behind, &Pins::new()).unwrap();
    let error = train(&runtime(), &mut network, lesson, &settings(1), None, &mut |_| true).unwrap_err().to_string();
    assert!(error.contains("layer h") && error.contains("Hardmax"), "{error}");
    let before = Net::new(&[-1, 3, 8, 8]).node("Hardmax", "h", &["x"], vec![]).conv("a", "h", (3, 4), 3).build("a");
    let network = Network::plain(&before, &Pins::new()).unwrap();
    assert!(Step::new(&runtime(), &network, &loss, (4, &Pins::new()), 1).is_ok());
}

/// Images of a demo network's size, and labels.
fn feeds(model: &Model, n: usize) -> Feeds {
    let input = model.inputs().next().unwrap().name().to_string();
    let dims = shape::infer(model, n, &Pins::new()).unwrap().dims(&input).unwrap().to_vec();
    let labels = ArrayD::from_shape_fn(IxDyn(&[n, 10]), |i| f32::from(u8::from(i[1] == i[0] % 10)));
    vec![(input, some(&dims, 1)), (LABELS.into(), labels)]
}

#[test]
fn the_demo_networks_learn_sixteen_samples_by_heart() {
    for name in ["vgg", "resnet20", "mobilenetv2"] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("datasets/cifar10-{name}.onnx"));
        let compressor = Compressor::load(&runtime(), &path, &Pins::new()).unwrap();
        let mut network = Network::plain(&compressor.model, &Pins::new()).unwrap();
        let mut step = Step::new(&runtime(), &network, &labelled(), (16, &Pins::new()), 2).unwrap();
        let feeds = feeds(&compressor.model, 16);
        let rule = Rule { method: Optimizer::Adam, momentum: 0.9, decay: 0.0, clip: 0.0 };
        let mut optimiser = Optimiser::new(rule, &network.parameters);
        let mut losses = Vec::new();
        for _ in 0..12 {
            let gradients: Vec<_> = step
                .run(&network.parameters, &feeds, |found| {
                    losses.push(found.loss);
                    found.gradients.iter().map(|g| g.as_ref().map(|g| g.to_owned())).collect()
                })
                .unwrap();
            let views: Vec<_> = gradients.iter().map(|g: &Option<ArrayD<f32>>| g.as_ref().map(|g| g.view())).collect();
            optimiser.step(&mut network.parameters, &views, 0.003);
        }
        assert!(losses[11] < 0.7 * losses[0], "{name}: {losses:?}");
    }
}

#[test]
fn fake_quantization_and_its_gradient_are_those_of_learned_step_sizes() {
    let (low, high) = (-2.0_f32, 1.0_f32);
    let model = Net::new(&[-1, 4]).gemm("y", "x", (4, 4)).build("y");
    let mut quantized = model.clone();
    let node = differentiate::quantize::fake_quantize("q", "x", "s", "xq", (low, high), 0);
    quantized.graph_mut().node.insert(0, node);
    quantized.graph_mut().node[1].input[0] = "xq".into();
    quantized.graph_mut().input.push(differentiate::float_value("s", Some(&[1])));
    quantized.graph_mut().input.push(differentiate::float_value("dy", Some(&[2, 4])));
    let shapes = network::shapes(&quantized, 2, &Pins::new()).unwrap();
    let seeds = [("xq".to_string(), "dy".to_string())];
    let of = ["x".to_string(), "s".to_string()];
    let wanted = Wanted { seeds: &seeds, of: &of, outputs: &["xq".to_string()], own: true };
    let found = differentiate(&quantized, &shapes, wanted).unwrap();
    let options = SessionOptions { optimisation: Level::All, ..Default::default() };
    let mut session = Session::from_bytes(&runtime(), "q", &found.model.to_bytes().unwrap(), options).unwrap();
    let x = [-5.0_f32, -0.9, -0.74, 0.24, 0.26, 0.49, 0.51, 9.0];
    let dy = [1.0_f32, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0];
    let array = |v: &[f32], dims: &[usize]| ArrayD::from_shape_vec(IxDyn(dims), v.to_vec()).unwrap();
    let (xs, s, dys) = (array(&x, &[2, 4]), array(&[0.5], &[1]), array(&dy, &[2, 4]));
    let outputs = session.run(&[("x", xs.view()), ("s", s.view()), ("dy", dys.view())]).unwrap();
    // Steps of a half between −1 and ½: what lies beyond is cut off.
    assert_eq!(outputs[0].as_slice().unwrap(), [-1.0, -1.0, -0.5, 0.0, 0.5, 0.5, 0.5, 0.5]);
    let at = |name: &str| 1 + found.gradients.values().position(|g| *g == found.gradients[name]).unwrap();
    assert_eq!(outputs[at("x")].as_slice().unwrap(), [0.0, 2.0, 3.0, 4.0, 5.0, 6.0, 0.0, 0.0]);
    let slopes = [-2.0, -2.0 + 1.8, -1.0 + 1.48, 0.0 - 0.48, 1.0 - 0.52, 1.0 - 0.98, 1.0, 1.0];
    let expected = slopes.iter().zip(&dy).map(|(s, d)| s * d).sum::<f32>() / (8.0_f32 * high).sqrt();
    assert!((outputs[at("s")][[0]] - expected).abs() < 1e-5, "{} {expected}", outputs[at("s")][[0]]);
}
