//! The option table of a network, and where its time goes.

use std::{collections::BTreeMap, path::Path, sync::Arc, sync::atomic::AtomicBool, time::Instant};

use gulliver::{
    compress::{Compressor, Effort, Shelf},
    data::{Dataset, Input},
    device::{Profile, Target, extract},
    runtime::Runtime,
    space::{Plan, Space},
    spec::{SpaceRule, StructureSpec},
    study::{For, input_specs},
};
use ndarray::{ArrayD, IxDyn};
use rand::{Rng, SeedableRng};

use crate::network::Options;

const SPACE: &str =
    "{layers: '*', precision: [fp16, int8, int4], keep: [1.0, 0.75, 0.5], rank: [full, 0.5, 0.25], form: [channel, spatial]}";

/// Of the networks of `--model`, on random images, 2 threads.
pub fn table(options: &Options) {
    for model in &options.models {
        one(model, options.samples);
    }
}

fn one(path: &Path, samples: usize) {
    let runtime = Runtime::start(&mut |notice| println!("{notice}")).unwrap();
    let begun = Instant::now();
    let mut compressor = Compressor::load(&runtime, path, &BTreeMap::new()).unwrap();
    let profile = Profile::load("ascend310p3").unwrap();
    let float = compressor.outline_normalised(&Plan::identity(&compressor.layers), 8).unwrap();
    let target = Target::new(&profile, extract(&float.structured.model, &float.shapes, &float.precision));
    let rule: SpaceRule = serde_yaml::from_str(SPACE).unwrap();
    let of = (&compressor.model, &compressor.layers, &compressor.channels);
    let space = Space::new(&[rule], of, &target, (Path::new("space"), "")).unwrap();
    println!(
        "\n{}: {} layers, {} options",
        path.file_name().unwrap().to_string_lossy(),
        compressor.layers.layers.len(),
        space.alone().len()
    );
    println!("load and normalise: {:.1} s", begun.elapsed().as_secs_f64());
    let folder = tempfile::tempdir().unwrap();
    let data = images(&compressor, samples, folder.path());
    let begun = Instant::now();
    let positions = StructureSpec::default().positions;
    let effort = Effort { threads: 2, max_memory: Effort::MEMORY / 2, positions, widest: Effort::WIDEST };
    compressor.calibrate(Arc::new(data), samples, effort, None).unwrap();
    println!("calibration, {samples} samples: {:.1} s; peak memory so far {:.2} GB", begun.elapsed().as_secs_f64(), peak_gb());
    for what in ["made", "made again from the folder"] {
        // What is in memory is forgotten: only the folder is left.
        compressor.keep_in(&Shelf { folder: folder.path().join("options"), writes: true });
        let begun = Instant::now();
        let mut marks = Vec::new();
        let made = For { compressor: &compressor, space: &space, profile: &profile, batch: 8 };
        let rows = made.options(2, &AtomicBool::new(false), &mut |done, _| marks.push((done, begun.elapsed().as_secs_f64()))).unwrap();
        let groups = marks.len() - rows.len();
        let sweeps = if groups == 0 { 0.0 } else { marks[groups - 1].1 };
        let all = begun.elapsed().as_secs_f64();
        println!(
            "{what}: {all:.1} s, of it {sweeps:.1} s for {groups} sweeps and {:.1} s for {} options; peak memory {:.2} GB",
            all - sweeps,
            rows.len(),
            peak_gb()
        );
    }
    let kept: u64 = std::fs::read_dir(folder.path().join("options")).unwrap().map(|f| f.unwrap().metadata().unwrap().len()).sum();
    println!("in the folder: {:.0} MB", kept as f64 / 1e6);
}

/// Smooth random images of the network's input.
fn images(compressor: &Compressor, samples: usize, folder: &Path) -> Dataset {
    let specs = input_specs(&compressor.model, &BTreeMap::new());
    let dims: Vec<usize> = specs[0].dims[1..].iter().map(|d| d.unwrap()).collect();
    let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(5);
    let n: usize = dims.iter().product();
    let side = dims.iter().copied().max().unwrap();
    let mut values: Vec<u8> = Vec::with_capacity(samples * n);
    for _ in 0..samples {
        let waves: Vec<[f64; 4]> = (0..6).map(|_| [0.0; 4].map(|_: f64| rng.random_range(-1.0..1.0))).collect();
        for i in 0..n {
            let (y, x) = ((i / side) % side, i % side);
            let sum: f64 = waves.iter().map(|w| (w[0] * 0.3 * x as f64 + w[1] * 0.3 * y as f64 + 9.0 * w[2]).sin() * w[3]).sum();
            values.push((128.0 + 40.0 * sum + rng.random_range(-12.0..12.0)).clamp(0.0, 255.0) as u8);
        }
    }
    let path = folder.join("images.npz");
    let mut npz = ndarray_npy::NpzWriter::new(std::fs::File::create(&path).unwrap());
    let shape: Vec<usize> = std::iter::once(samples).chain(dims).collect();
    npz.add_array("images", &ArrayD::from_shape_vec(IxDyn(&shape), values).unwrap()).unwrap();
    npz.finish().unwrap();
    let input: Input = serde_yaml::from_str("{scale: 1/255, mean: 0.5, std: 0.25}").unwrap_or_default();
    Dataset::open(&gulliver::data::Source::npz(path), &input, &specs).unwrap()
}

/// Largest resident set so far.
fn peak_gb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<f64>().unwrap() / 1e6
}
