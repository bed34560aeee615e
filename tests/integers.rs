//! A second opinion: real layers computed in true integers, as AMCT defines them, beside the fake-quant twin.
//!
//! Operands are INT8 or INT4, sums INT32, padding is the integer that stands for zero, the offset's share is taken off with the sum of
//! the weights, the bias is INT32; the result is scaled as AscendDequant does and rounded again on an 8-bit grid.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test may fail loudly")]

use std::{path::Path, sync::Arc};

use gulliver::{
    compress::{Compressor, Effort, QuantizedLayer, quantize::Grid},
    data::{Dataset, Input, Source},
    graph::{
        Model,
        layer::{Layer, LayerOp, Layers},
        model::ints_attribute,
        proto::ValueInfoProto,
        shape,
    },
    precision::Precision,
    runtime::{Runtime, Session, SessionOptions},
    space::{Build, Plan},
    study::input_specs,
};
use ndarray::{ArrayD, IxDyn};

const IMAGES: usize = 3;

/// Integers of what a layer reads, as AMCT: round half to even after the offset is added, then clip.
fn integers(x: &ArrayD<f32>, grid: Grid) -> Vec<i32> {
    let (low, high) = (-(1_i32 << (grid.bits - 1)), (1_i32 << (grid.bits - 1)) - 1);
    x.iter().map(|v| ((v / grid.scale + grid.offset as f32).round_ties_even() as i32).clamp(low, high)).collect()
}

/// A convolution or matrix product in integers: INT32 sums, less the offset's share, plus the INT32 bias.
fn sums(layer: &Layer, pads: [usize; 2], strides: [usize; 2], q: &QuantizedLayer, x: &[i32], dims: &[usize], out: &[usize]) -> Vec<i32> {
    let grid = q.activations.unwrap();
    let weight: Vec<i32> = q.weight.integers.iter().map(|w| *w as i32).collect();
    let bits = q.precision.weight_bits();
    assert!(weight.iter().all(|w| (-(1 << (bits - 1))..1 << (bits - 1)).contains(w)), "{} has weights beyond {bits} bits", layer.name);
    let columns = q.weight.integers.ncols();
    let bias = |o: usize| {
        let scale = f64::from(grid.scale * q.weight.scales[o]);
        q.bias.as_ref().map_or(0, |b| (f64::from(b[o]) / scale).round_ties_even() as i32)
    };
    let offset_share = |o: usize| grid.offset * weight[o * columns..(o + 1) * columns].iter().sum::<i32>();
    let mut result = Vec::with_capacity(out.iter().product());
    if layer.op != LayerOp::Conv {
        for row in x.chunks_exact(columns) {
            for o in 0..out[out.len() - 1] {
                let sum: i32 = row.iter().zip(&weight[o * columns..]).map(|(a, b)| a * b).sum();
                result.push(sum - offset_share(o) + bias(o));
            }
        }
        return result;
    }
    let [height, width] = [dims[2], dims[3]];
    let [kh, kw] = [layer.weight_dims[2], layer.weight_dims[3]];
    let inputs = layer.channels_in / layer.groups;
    let outputs = layer.channels_out / layer.groups;
    for n in 0..out[0] {
        for o in 0..out[1] {
            let (share, b) = (offset_share(o), bias(o));
            for y in 0..out[2] {
                for z in 0..out[3] {
                    let mut sum = 0_i32;
                    for c in 0..inputs {
                        let plane = (n * dims[1] + o / outputs * inputs + c) * height * width;
                        for i in 0..kh {
                            for j in 0..kw {
                                let (row, column) =
                                    ((y * strides[0] + i).wrapping_sub(pads[0]), (z * strides[1] + j).wrapping_sub(pads[1]));
                                let inside = row < height && column < width;
                                let value = if inside { x[plane + row * width + column] } else { grid.offset };
                                sum += value * weight[o * columns + (c * kh + i) * kw + j];
                            }
                        }
                    }
                    result.push(sum - share + b);
                }
            }
        }
    }
    result
}

/// Values of a model on some images.
fn values(runtime: &Runtime, model: &Model, names: &[&str], inputs: &[(String, ArrayD<f32>)]) -> Vec<ArrayD<f32>> {
    let mut open = model.clone();
    let made: Vec<String> = model.graph().output.iter().map(|o| o.name().to_string()).collect();
    for name in names.iter().filter(|n| !made.contains(&n.to_string())) {
        open.graph_mut().output.push(ValueInfoProto { name: Some(name.to_string()), ..Default::default() });
    }
    let mut session = Session::from_bytes(runtime, &model.name, &open.to_bytes().unwrap(), SessionOptions::default()).unwrap();
    let views: Vec<_> = inputs.iter().map(|(n, a)| (n.as_str(), a.view())).collect();
    session.run_named(&views, names).unwrap()
}

/// Integers of all inputs and outputs of all layers of a twin, compared: how many there are, how many are not equal, and the largest difference.
fn compare(network: &str, precision: Precision, input: &str) -> (usize, usize, i32) {
    let runtime = Runtime::start(&mut |_| ()).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets");
    let mut c = Compressor::load(&runtime, &folder.join(format!("{network}.onnx")), &Default::default()).unwrap();
    let input: Input = serde_yaml::from_str(input).unwrap();
    let source = Source::npz(folder.join("cifar10-calibration.npz"));
    let data = Arc::new(Dataset::open(&source, &input, &input_specs(&c.model, &Default::default())).unwrap());
    let images = data.batch(&(100..100 + IMAGES).collect::<Vec<_>>()).unwrap();
    c.calibrate(data, 64, Effort { threads: 1, max_memory: Effort::MEMORY, positions: 8, widest: Effort::WIDEST }, None).unwrap();
    let mut plan = Plan::identity(&c.layers);
    for ((_, t), layer) in plan.treatments.iter_mut().zip(&c.layers.layers) {
        let few = layer.first || layer.last || layer.groups > 1;
        t.precision = if few { Precision::Int8 } else { precision };
    }
    let done = c.prepare(&plan, Build::Parallel).unwrap().unwrap();
    let twin = done.twin().unwrap();
    let shapes = shape::infer(&twin, 1, &Default::default()).unwrap();
    // The twin's layers read the simulated integers; what they were made of is the input of the chain's first node.
    let (mut all, mut unequal, mut worst) = (0, 0, 0);
    let mut count = |a: i32, b: i32| {
        all += 1;
        unequal += usize::from(a != b);
        worst = worst.max((a - b).abs());
    };
    for (layer, q) in Layers::find(&twin, &shapes).layers.iter().zip(done.layers.iter().map(|(_, q)| q)) {
        assert_eq!(layer.name, q.name);
        let maker = |v: &str| twin.graph().node.iter().find(|n| n.output.iter().any(|o| o == v)).unwrap();
        let mut chain = maker(&layer.input);
        while chain.op_type() != "QuantizeLinear" {
            chain = maker(&chain.input[0]);
        }
        let read = chain.input[0].clone();
        let is_input = images.iter().any(|(n, _)| *n == read);
        let names: Vec<&str> = [&layer.output, &layer.input].into_iter().chain((!is_input).then_some(&read)).map(String::as_str).collect();
        let mut found = values(&runtime, &twin, &names, &images);
        let (y, simulated) = (found.remove(0), found.remove(0));
        let x = if is_input { images[0].1.clone() } else { found.remove(0) };
        let node = &twin.graph().node[layer.node];
        let pair = |name: &str, default: usize| {
            let list = ints_attribute(node, name).unwrap_or_default();
            [0, 1].map(|i| list.get(i).map_or(default, |v| *v as usize))
        };
        let grid = q.activations.unwrap();
        // The twin's integers, less their offset, beside AMCT's; what follows is computed from the twin's, so that a tie counts once.
        let theirs: Vec<i32> = simulated.iter().map(|v| *v as i32 + grid.offset).collect();
        for (a, b) in integers(&x, grid).into_iter().zip(&theirs) {
            count(a, *b);
        }
        let sums = sums(layer, pair("pads", 0), pair("strides", 1), q, &theirs, x.shape(), y.shape());
        let (low, high) = y.iter().fold((0.0_f32, 0.0_f32), |(l, h), &v| (l.min(v), h.max(v)));
        let next = Grid::asymmetric(low, high, 8);
        let channel = |i: usize| match layer.op {
            LayerOp::Conv => i / y.shape()[2..].iter().product::<usize>() % y.shape()[1],
            _ => i % y.shape()[y.ndim() - 1],
        };
        let scaled = sums.iter().enumerate().map(|(i, s)| *s as f32 * (grid.scale * q.weight.scales[channel(i)])).collect();
        let scaled = ArrayD::from_shape_vec(IxDyn(y.shape()), scaled).unwrap();
        for (a, b) in integers(&scaled, next).into_iter().zip(integers(&y, next)) {
            count(a, b);
        }
    }
    (all, unequal, worst)
}

fn check(network: &str, precision: Precision, input: &str) {
    let (all, unequal, worst) = compare(network, precision, input);
    println!("{network} {precision}: {unequal} of {all} integers differ, by {worst} at most");
    assert!(worst <= 1 && (unequal as f64) < 1e-5 * all as f64, "{network} {precision}: {unequal} of {all} differ, by up to {worst}");
}

const NORMALISED: &str = "{scale: 1/255, mean: [0.4914, 0.4822, 0.4465], std: [0.2470, 0.2435, 0.2616]}";

#[test]
fn layers_of_resnet20_give_the_integers_of_the_chip() {
    for precision in [Precision::Int8, Precision::W4a8, Precision::Int4] {
        check("cifar10-resnet20", precision, NORMALISED);
    }
}

#[test]
fn layers_of_the_vgg_network_give_the_integers_of_the_chip() {
    check("cifar10-vgg", Precision::Int8, "{}");
}

#[test]
fn layers_of_mobilenetv2_give_the_integers_of_the_chip() {
    for precision in [Precision::Int8, Precision::W4a8, Precision::Int4] {
        check("cifar10-mobilenetv2", precision, NORMALISED);
    }
}
