//! What the fake-quant twin's inference costs against the float model's, in every form that was thought of; one thread.
//!
//! The forms alternate within one run, so that the machine's moods hit all; the ratio of the medians is what to read. Making a session
//! is shown beside it, the best of four. `same` says whether the outputs are those of the file, bit by bit.
//!
//! `cargo bench --bench twin [-- MODEL.onnx...]`; further models get random inputs.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a bench prints and may fail loudly")]

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use gulliver::{
    compress::{Compressor, Effort},
    data::{Dataset, Input, InputSpec, Source},
    evaluate::fuse::{fast_session, fuse},
    graph::{Model, tensor},
    precision::Precision,
    runtime::{Level, Runtime, Session, SessionOptions},
    space::{Build, Plan},
};
use ndarray::ArrayD;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

const ROUNDS: usize = 9;
const BATCH: usize = 5;
/// Shortest time of a form in a round, seconds.
const SHORTEST: f64 = 0.15;

fn main() {
    let runtime = Runtime::start(&mut |notice| println!("{notice}")).unwrap();
    println!("batch {BATCH}, medians of {ROUNDS} rounds, one thread, every layer in 8 bits");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets");
    for name in ["vgg", "resnet20", "mobilenetv2"] {
        network(&runtime, &folder.join(format!("cifar10-{name}.onnx")), Some(&folder.join("cifar10-calibration.npz")));
    }
    for path in std::env::args().skip(1).filter(|a| a.ends_with(".onnx")) {
        network(&runtime, &PathBuf::from(path), None);
    }
}

/// Images of the file, or random ones.
fn data(session: &Session, images: Option<&Path>) -> Dataset {
    let port = &session.inputs()[0];
    let dims: Vec<usize> = port.dims[1..].iter().map(|d| d.unwrap_or(1)).collect();
    let specs = [InputSpec { name: port.name.clone(), dims: std::iter::once(None).chain(dims.iter().map(|&d| Some(d))).collect() }];
    if let Some(images) = images {
        return Dataset::open(&Source::npz(images), &Input::default(), &specs).unwrap();
    }
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let shape: Vec<usize> = std::iter::once(8 * BATCH).chain(dims).collect();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("images.npz");
    let mut npz = ndarray_npy::NpzWriter::new(std::fs::File::create(&path).unwrap());
    npz.add_array("images", &ArrayD::from_shape_simple_fn(shape, || random.random_range(-1.0f32..1.0))).unwrap();
    npz.finish().unwrap();
    Dataset::open(&Source::npz(&path), &Input::default(), &specs).unwrap()
}

fn twin(compressor: &Compressor) -> Vec<u8> {
    let mut plan = Plan::identity(&compressor.layers);
    for layer in 0..plan.treatments.len() {
        plan.treatments[layer].1.precision = Precision::Int8;
        if plan.check(&compressor.layers, &compressor.channels).is_err() {
            plan.treatments[layer].1.precision = Precision::Fp16;
        }
    }
    compressor.compress(&plan, Build::Parallel).unwrap()
}

/// The twin with each Cast (and Sub) behind a QuantizeLinear as a DequantizeLinear of step 1.
fn with_dequantize(twin: &[u8]) -> Option<Vec<u8>> {
    let mut model = Model::parse("qdq", twin).unwrap();
    let graph = model.graph_mut();
    let mut nodes = Vec::new();
    let mut zero = String::new();
    for mut node in std::mem::take(&mut graph.node) {
        match node.op_type() {
            "QuantizeLinear" => zero.clone_from(&node.input[2]),
            "Cast" if node.name().contains(".fakequant.") => {
                node = tensor::node(
                    "DequantizeLinear",
                    &node.name().replace("cast", "dequantize"),
                    &[&node.input[0], "one", &zero],
                    &[&node.output[0]],
                    vec![],
                );
            }
            "Sub" if node.name().contains(".fakequant.") => {
                let before: &mut gulliver::graph::proto::NodeProto = nodes.last_mut()?;
                before.output = node.output;
                continue;
            }
            _ => {}
        }
        nodes.push(node);
    }
    graph.node = nodes;
    graph.initializer.push(tensor::scalar_f32("one", 1.0));
    Some(model.to_bytes().unwrap())
}

/// A name, and what makes its session.
type Form<'a> = (&'static str, Box<dyn Fn() -> Session + 'a>);

fn network(runtime: &Runtime, path: &Path, images: Option<&Path>) {
    let file = std::fs::read(path).unwrap();
    let name = path.file_stem().unwrap().to_string_lossy();
    let at = |bytes: &[u8], optimisation| {
        Session::from_bytes(runtime, &name, bytes, SessionOptions { optimisation, ..Default::default() }).unwrap()
    };
    let float = at(&file, Level::All);
    let data = Arc::new(data(&float, images));
    let mut compressor = Compressor::load(runtime, path, &BTreeMap::new()).unwrap();
    let effort = Effort { threads: 1, max_memory: Effort::MEMORY, positions: 16, widest: Effort::WIDEST };
    compressor.calibrate(Arc::clone(&data), 16, effort, None).unwrap();
    let begun = Instant::now();
    let twin = twin(&compressor);
    println!("{name}: the twin is made in {:.1} ms", 1e3 * begun.elapsed().as_secs_f64());
    let fused = fuse(&Model::parse(&name, &twin).unwrap()).unwrap().unwrap().to_bytes().unwrap();
    let pairs = with_dequantize(&twin).unwrap();
    let forms: Vec<Form<'_>> = vec![
        ("float", Box::new(|| at(&file, Level::All))),
        ("the file as it is", Box::new(|| at(&twin, Level::All))),
        ("with DequantizeLinear", Box::new(|| at(&pairs, Level::All))),
        ("one operator", Box::new(|| at(&fused, Level::All))),
        ("one operator, blocked", Box::new(|| fast_session(runtime, &name, &twin).unwrap())),
        ("the file, no blocking", Box::new(|| at(&twin, Level::Extended))),
        ("one operator, no blocking", Box::new(|| at(&fused, Level::Extended))),
    ];
    let fixed = float.inputs()[0].dims[0];
    let batches: Vec<ArrayD<f32>> = (0..4)
        .map(|b| {
            let n = fixed.unwrap_or(BATCH);
            data.batch(&(n * b..n * b + n).collect::<Vec<_>>()).unwrap().remove(0).1
        })
        .collect();
    let input = float.inputs()[0].name.clone();
    drop(float);
    let mut sessions = Vec::new();
    for (_, make) in &forms {
        let time = || {
            let begun = Instant::now();
            let session = make();
            (session, begun.elapsed().as_secs_f64())
        };
        let quickest = (0..4).map(|_| time().1).fold(f64::INFINITY, f64::min);
        sessions.push((make(), quickest));
    }
    let run = |session: &mut Session, x: &ArrayD<f32>| session.run(&[(&input, x.view())]).unwrap();
    let bits = |session: &mut Session| -> Vec<u32> {
        batches.iter().flat_map(|x| run(session, x)).flat_map(|o| o.iter().map(|v| v.to_bits()).collect::<Vec<_>>()).collect()
    };
    let outputs: Vec<Vec<u32>> = sessions.iter_mut().map(|(session, _)| bits(session)).collect();
    let begun = Instant::now();
    batches.iter().for_each(|x| _ = run(&mut sessions[0].0, x));
    let repeat = (SHORTEST / begun.elapsed().as_secs_f64()).ceil() as usize;
    let mut times = vec![Vec::new(); sessions.len()];
    for _ in 0..ROUNDS {
        for ((session, _), times) in sessions.iter_mut().zip(&mut times) {
            let begun = Instant::now();
            (0..repeat).for_each(|_| batches.iter().for_each(|x| _ = run(session, x)));
            times.push(begun.elapsed().as_secs_f64() / (repeat * batches.len()) as f64);
        }
    }
    let medians: Vec<f64> = times
        .iter_mut()
        .map(|t| {
            t.sort_by(f64::total_cmp);
            t[t.len() / 2]
        })
        .collect();
    for (i, ((what, _), (_, made))) in forms.iter().zip(&sessions).enumerate() {
        let same = if i == 0 {
            ""
        } else if outputs[i] == outputs[1] {
            "same"
        } else {
            "differs"
        };
        println!("  {what:26} {:8.3} ms {:5.2} x, session {:6.1} ms  {same}", 1e3 * medians[i], medians[i] / medians[0], 1e3 * made);
    }
}
