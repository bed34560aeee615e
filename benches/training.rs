//! One training step (forward, backward, update) of a network: milliseconds and peak memory.
//!
//! `cargo bench --bench training -- MODEL.onnx [--batch 64] [--threads 2] [--steps 20] [--qat]`, beside `benches/peers/training.py` on the same machine. A
//! line of JSON on stdout. With `--qat` every layer but the first and the last gets 4 bits, those 8. `--overfit` learns one batch by heart with Adam: the loss at
//! the first and at the last step are in the line.

#![allow(clippy::unwrap_used, clippy::print_stdout)]

use std::{path::PathBuf, sync::Arc, time::Instant};

use gulliver::{
    compress::{Compressor, Effort},
    data::{Dataset, Input, InputSpec, Source},
    graph::shape::{self, Pins},
    precision::Precision,
    runtime::Runtime,
    space::{Build, Plan},
    spec::Optimizer,
    train::{
        Loss, Network, Outputs, Rule,
        loss::LABELS,
        optimise::Optimiser,
        step::{Feeds, Step},
    },
};
use ndarray::ArrayD;

fn main() {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let (mut model, mut batch, mut threads, mut steps, mut qat, mut overfit) = (None, 64, 2, 20, false, false);
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|v| v.parse().ok()).unwrap();
        match argument.as_str() {
            "--batch" => batch = number(),
            "--threads" => threads = number(),
            "--steps" => steps = number(),
            "--qat" => qat = true,
            "--overfit" => overfit = true,
            _ => model = Some(PathBuf::from(argument)),
        }
    }
    let model = model.unwrap_or_else(|| PathBuf::from("datasets/cifar10-vgg.onnx"));
    let runtime = Runtime::start(&mut |_| {}).unwrap();
    let pins = Pins::new();
    let mut compressor = Compressor::load(&runtime, &model, &pins).unwrap();
    let shapes = shape::infer(&compressor.model, batch, &pins).unwrap();
    let input = compressor.model.inputs().next().unwrap().name().to_string();
    let dims = shapes.dims(&input).unwrap().to_vec();
    let mut network = if qat {
        let images = PathBuf::from("datasets/cifar10-calibration.npz");
        let spec = InputSpec { name: input.clone(), dims: dims.iter().enumerate().map(|(i, &d)| (i > 0).then_some(d)).collect() };
        let data = Dataset::open(&Source::npz(images), &Input::default(), &[spec]).unwrap();
        let effort = Effort { threads, max_memory: Effort::MEMORY, positions: 8, widest: Effort::WIDEST };
        compressor.calibrate(Arc::new(data), 64, effort, None).unwrap();
        let mut plan = Plan::identity(&compressor.layers);
        for (i, layer) in compressor.layers.layers.iter().enumerate() {
            plan.treatments[i].1.precision = Precision::Int4;
            if layer.first || layer.last || plan.check(&compressor.layers, &compressor.channels).is_err() {
                plan.treatments[i].1.precision = Precision::Int8;
            }
        }
        Network::of_plan(&compressor.prepare(&plan, Build::Parallel).unwrap().unwrap(), &pins).unwrap()
    } else {
        Network::plain(&compressor.model, &pins).unwrap()
    };
    drop(compressor);
    let loss = Loss { outputs: Outputs::Logits, teacher: 0.0, temperature: 1.0, labels: 1.0, matched: vec![] };
    let mut step = Step::new(&runtime, &network, &loss, (batch, &pins), threads).unwrap();
    let output = network.model.graph().output[0].name().to_string();
    let classes = shapes.elements(&output).unwrap() / batch;
    let samples = samples_of(&dims);
    let labels = ArrayD::from_shape_fn(vec![batch, classes], |i| f32::from(u8::from(i[1] == i[0] % classes)));
    let feeds: Feeds = vec![(input, samples), (LABELS.into(), labels)];
    let (method, rate) = if overfit { (Optimizer::Adam, 0.003) } else { (Optimizer::Sgd, 1e-6) };
    let mut optimiser = Optimiser::new(Rule { method, momentum: 0.9, decay: 0.0, clip: 0.0 }, &network.parameters);
    let mut losses = Vec::new();
    let mut times = Vec::new();
    for _ in 0..steps + 3 {
        let start = Instant::now();
        let gradients = step.run(&network.parameters, &feeds, |found| {
            losses.push(found.loss);
            found.gradients.iter().map(|g| g.as_ref().map(|g| g.to_owned())).collect::<Vec<_>>()
        });
        let gradients = gradients.unwrap();
        let views: Vec<_> = gradients.iter().map(|g| g.as_ref().map(|g| g.view())).collect();
        optimiser.step(&mut network.parameters, &views, rate);
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    let mut times = times.split_off(3);
    times.sort_by(f64::total_cmp);
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok());
    let (least, median) = (times[0], times[times.len() / 2]);
    println!(
        "{{\"model\":{:?},\"batch\":{batch},\"threads\":{threads},\"qat\":{qat},\"ms_least\":{least:.1},\"ms_median\":{median:.1},\"peak_mb\":{},\"loss\":[{:.4},{:.4}]}}",
        model.file_stem().unwrap().to_string_lossy(),
        peak.unwrap_or(0) / 1024,
        losses[0],
        losses[losses.len() - 1],
    );
}

/// Samples of these dimensions, all different.
fn samples_of(dims: &[usize]) -> ArrayD<f32> {
    let mut n = 1_u32;
    ArrayD::from_shape_simple_fn(dims.to_vec(), || {
        n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (n >> 8) as f32 / 8_388_608.0 - 1.0
    })
}
