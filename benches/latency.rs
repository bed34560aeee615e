//! How fast the cost model answers.
//!
//! `cargo bench --bench latency`: kernel times a second on one core, over the kernels of all networks in `datasets/latency` at batch 8 on
//! `ascend310p3`; times of treated layers a second; and a whole EfficientNet-B0 from its graph, shapes known.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints and may fail loudly")]

use std::{collections::BTreeMap, hint::black_box, path::Path, time::Instant};

use gulliver::{
    device::{Kernel, Profile, extract, latency::kernel_us, predict},
    graph::{Model, shape},
};

/// Calls a second: the best of several rounds.
fn rate(calls: usize, mut round: impl FnMut()) -> f64 {
    let time = |round: &mut dyn FnMut()| {
        let start = Instant::now();
        round();
        start.elapsed().as_secs_f64()
    };
    calls as f64 / (0..9).map(|_| time(&mut round)).fold(f64::INFINITY, f64::min)
}

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/latency");
    let profile = Profile::load("ascend310p3").unwrap();
    let mut kernels: Vec<Kernel> = Vec::new();
    for entry in std::fs::read_dir(&folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|e| e == "onnx") {
            let model = Model::load(&path).unwrap();
            let shapes = shape::infer(&model, 8, &BTreeMap::new()).unwrap();
            kernels.extend(extract(&model, &shapes, &BTreeMap::new()));
        }
    }
    let times = rate(kernels.len(), || {
        for kernel in &kernels {
            black_box(kernel_us(kernel, &profile));
        }
    });
    println!("{} kernels: {times:.0} kernel times a second", kernels.len());
    let model = Model::load(&folder.join("efficientnet_b0.onnx")).unwrap();
    let shapes = shape::infer(&model, 8, &BTreeMap::new()).unwrap();
    let whole = rate(1, || drop(black_box(predict(&extract(&model, &shapes, &BTreeMap::new()), &profile))));
    println!("EfficientNet-B0, from its graph to its prediction: {:.2} ms", 1e3 / whole);
    let inferred = rate(1, || drop(black_box(shape::infer(&model, 8, &BTreeMap::new()).unwrap())));
    println!("its shapes at a new batch: {:.2} ms", 1e3 / inferred);
}
