//! What calibration costs against plain inference of the same images on the same threads: time, and peak memory for 512 and 4,096
//! samples. Every figure comes from a process of its own; both kinds alternate, and the medians are compared.
//!
//! `cargo bench --bench calibration [-- MODEL.onnx…]` takes further models too, with random inputs.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints and may fail loudly")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use gulliver::{
    compress::{Compressor, Effort, feed},
    data::{Dataset, Input, InputSpec, Source},
    runtime::{Runtime, Session, SessionOptions},
    study::input_specs,
};
use ndarray::{ArrayD, IxDyn};
use ndarray_npy::NpzWriter;

const ROUNDS: usize = 5;
const FEW: usize = 512;
const MANY: usize = 4096;
const BATCH: usize = 8;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    if let [mode, model, data, samples, threads] = arguments.as_slice()
        && mode.starts_with("child-")
    {
        return child(mode, Path::new(model), Path::new(data), samples.parse().unwrap(), threads.parse().unwrap());
    }
    let datasets = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets");
    let demo = ["cifar10-vgg", "cifar10-resnet20", "cifar10-mobilenetv2"].map(|n| datasets.join(format!("{n}.onnx")));
    let scratch = std::env::temp_dir().join(format!("gulliver-bench-{}", std::process::id()));
    std::fs::create_dir_all(&scratch).unwrap();
    println!("{FEW} images, medians of {ROUNDS} rounds; MB are peaks of a process, the library and the images included");
    println!(
        "| network | threads | inference | calibration | ratio | inference MB | Gram MB | calibration MB | {MANY} samples MB | (MB − Gram) / inference | {MANY} / {FEW} |"
    );
    println!("|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|");
    for model in demo.iter().cloned().chain(arguments.iter().map(PathBuf::from)) {
        let data = if demo.contains(&model) { datasets.join("cifar10-calibration.npz") } else { made_up(&model, &scratch) };
        for threads in [1, std::thread::available_parallelism().map_or(1, std::num::NonZero::get)] {
            row(&model, &data, threads);
        }
    }
    std::fs::remove_dir_all(&scratch).unwrap();
}

fn row(model: &Path, data: &Path, threads: usize) {
    let run = |mode: &str, samples: usize| -> [f64; 3] {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(mode).args([model, data]).args([samples.to_string(), threads.to_string()]);
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let numbers: Vec<f64> = text.split_whitespace().map(|n| n.parse().unwrap()).collect();
        [numbers[0], numbers[1], numbers[2]]
    };
    let (mut plain, mut calibration) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        plain.push(run("child-inference", FEW));
        calibration.push(run("child-calibration", FEW));
    }
    let many = run("child-calibration", MANY);
    let median = |list: &[[f64; 3]], i: usize| {
        let mut all: Vec<f64> = list.iter().map(|n| n[i]).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    let (time, own) = (median(&plain, 0), median(&calibration, 0));
    let (mb, own_mb, gram) = (median(&plain, 1), median(&calibration, 1), median(&calibration, 2));
    println!(
        "| {} | {threads} | {time:.2} s | {own:.2} s | {:.2} | {mb:.0} | {gram:.1} | {own_mb:.0} | {:.0} | {:.2} | {:.2} |",
        model.file_stem().unwrap().to_string_lossy(),
        own / time,
        many[1],
        (own_mb - gram) / mb,
        many[1] / own_mb
    );
}

/// Prints seconds, peak memory in MB, and what of it are Gram matrices.
fn child(mode: &str, model: &Path, data: &Path, samples: usize, threads: usize) {
    let runtime = Runtime::start(&mut |_| ()).unwrap();
    let mut compressor = Compressor::load(&runtime, model, &BTreeMap::new()).unwrap();
    let specs: Vec<InputSpec> = input_specs(&compressor.model, &BTreeMap::new());
    let images = Dataset::open(&Source::npz(data.to_path_buf()), &Input::default(), &specs).unwrap();
    let all: Vec<usize> = (0..samples).map(|i| i % images.len()).collect();
    let images = images.select(&all);
    let mut gram = 0;
    let begun;
    if mode == "child-inference" {
        let bytes = compressor.original.to_bytes().unwrap();
        let options = SessionOptions { threads, ..Default::default() };
        let mut session = Session::from_bytes(&runtime, "model", &bytes, options).unwrap();
        let order: Vec<usize> = (0..images.len()).collect();
        begun = Instant::now();
        order.chunks(BATCH).for_each(|chunk| feed(&mut session, &images, chunk, None, |_| Ok(())).unwrap());
    } else {
        let effort = Effort { threads, max_memory: Effort::MEMORY, positions: compressor.quantize.positions, widest: Effort::WIDEST };
        begun = Instant::now();
        compressor.calibrate(Arc::new(images), samples, effort, None).unwrap();
        let found = compressor.calibration().unwrap();
        let mut seen = std::collections::BTreeSet::new();
        let distinct = found.grams.values().filter(|g| seen.insert(Arc::as_ptr(g)));
        gram = distinct.flat_map(|g| g.groups.iter().flatten()).map(|b| 8 * b.matrix.len()).sum();
    }
    let seconds = begun.elapsed().as_secs_f64();
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).and_then(|l| l.trim().trim_end_matches(" kB").parse::<f64>().ok());
    println!("{seconds} {} {}", peak.unwrap_or(0.0) / 1e3, gram as f64 / 1e6);
}

/// Random inputs for a model, as few as make a set.
fn made_up(model: &Path, scratch: &Path) -> PathBuf {
    let runtime = Runtime::start(&mut |_| ()).unwrap();
    let compressor = Compressor::load(&runtime, model, &BTreeMap::new()).unwrap();
    let path = scratch.join(format!("{}.npz", model.file_stem().unwrap().to_string_lossy()));
    let mut npz = NpzWriter::new(std::fs::File::create(&path).unwrap());
    let spec = &input_specs(&compressor.model, &BTreeMap::new())[0];
    let dims: Vec<usize> = spec.dims.iter().map(|d| d.unwrap_or(16)).collect();
    let mut state = 1_u64;
    let values = ArrayD::from_shape_fn(IxDyn(&dims), |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    });
    npz.add_array("images", &values).unwrap();
    npz.finish().unwrap();
    path
}
