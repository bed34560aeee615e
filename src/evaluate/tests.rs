//! That the fast form of a twin gives what its file gives, to the bit.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use ndarray::ArrayD;
use proptest::prelude::*;

use super::fuse::{fast_session, fuse, stay_blocked};
use crate::{
    compress::{Compressor, Effort},
    data::{Dataset, Input, InputSpec, Source},
    graph::{Model, fixture::Net, tensor},
    precision::Precision,
    runtime::{DOMAIN, Level, ROUND, Runtime, Session, SessionOptions},
    space::{Build, Plan},
};

fn runtime() -> Runtime {
    Runtime::start(&mut |_| ()).unwrap()
}

fn bits(mut session: Session, x: &ArrayD<f32>) -> Vec<Vec<u32>> {
    let input = session.inputs()[0].name.clone();
    let outputs = session.run(&[(&input, x.view())]).unwrap();
    outputs.iter().map(|o| o.iter().map(|v| v.to_bits()).collect()).collect()
}

fn plain(bytes: &[u8], optimisation: Level) -> Session {
    Session::from_bytes(&runtime(), "plain", bytes, SessionOptions { optimisation, ..Default::default() }).unwrap()
}

fn fast(bytes: &[u8]) -> Session {
    fast_session(&runtime(), "fast", bytes).unwrap()
}

fn rounds(model: &Model) -> usize {
    model.graph().node.iter().filter(|n| n.op_type() == ROUND && n.domain() == DOMAIN).count()
}

/// What a chain rounds to.
#[derive(Debug, Clone, Copy)]
struct Grid {
    scale: f32,
    offset: i32,
    bits: u32,
    signed: bool,
}

impl Grid {
    fn limits(self) -> (f32, f32) {
        let half = 1 << (self.bits - 1);
        if self.signed { (-half as f32, (half - 1) as f32) } else { (0.0, (2 * half - 1) as f32) }
    }
}

fn scalar(net: Net, name: &str, value: f32) -> Net {
    net.constant(tensor::scalar_f32(name, value))
}

/// The chain of operator set 11 and later, as a twin has it.
fn chain(net: Net, value: &str, to: &str, grid: Grid) -> Net {
    let name = |part: &str| format!("{to}.{part}");
    let net = scalar(net, &name("scale"), grid.scale).constant(tensor::scalar_8bit(&name("zero"), grid.offset, grid.signed));
    let mut net = net.node("QuantizeLinear", &name("q"), &[value, &name("scale"), &name("zero")], vec![]);
    let (clip, sub) = (grid.bits < 8, grid.offset != 0);
    let mut current = if clip || sub { name("c") } else { to.to_string() };
    net = net.node("Cast", &current, &[&name("q")], vec![tensor::int("to", 1)]);
    if clip {
        let after = if sub { name("l") } else { to.to_string() };
        net = scalar(scalar(net, &name("low"), grid.limits().0), &name("high"), grid.limits().1);
        net = net.node("Clip", &after, &[&current, &name("low"), &name("high")], vec![]);
        current = after;
    }
    if sub {
        net = scalar(net, &name("offset"), grid.offset as f32).node("Sub", to, &[&current, &name("offset")], vec![]);
    }
    net
}

/// The chain before operator set 11.
fn arithmetic(net: Net, value: &str, to: &str, grid: Grid) -> Net {
    const ROUNDER: f32 = 12_582_912.0;
    let name = |part: &str| format!("{to}.{part}");
    let (offset, (low, high)) = (grid.offset as f32, grid.limits());
    let net = scalar(scalar(net, &name("0"), grid.scale), &name("1"), offset);
    let net = scalar(scalar(net, &name("3"), ROUNDER), &name("4"), ROUNDER + offset);
    let net = net.node("Div", &name("d"), &[value, &name("0")], vec![]).node("Add", &name("a"), &[&name("d"), &name("1")], vec![]);
    let net = net.node("Clip", &name("c"), &[&name("a")], vec![tensor::float("min", low), tensor::float("max", high)]);
    net.node("Add", &name("r"), &[&name("c"), &name("3")], vec![]).node("Sub", to, &[&name("r"), &name("4")], vec![])
}

fn grids() -> impl Strategy<Value = Grid> {
    let scale = prop_oneof![1e-6f32..1e3, Just(0.1f32), Just(1.0f32), Just(0.25f32), Just(0.003_921_569f32)];
    (scale, -128i32..=127, prop_oneof![Just(4u32), Just(8u32)], any::<bool>()).prop_map(|(scale, offset, bits, signed)| {
        let half = 1i32 << (bits - 1);
        let offset = if signed { offset.clamp(-half, half - 1) } else { 0 };
        Grid { scale, offset, bits, signed }
    })
}

/// Any floats, floats near and at ties, and the odd ones.
fn values(scale: f32, free: &[f32], near: &[(i32, i32)]) -> ArrayD<f32> {
    let tie = |&(k, ulps): &(i32, i32)| {
        let x = (k as f32 + 0.5) * scale;
        (0..ulps.abs()).fold(x, |x, _| if ulps < 0 { x.next_down() } else { x.next_up() })
    };
    let odd = [0.0, -0.0, f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, f32::MIN, f32::MIN_POSITIVE, 1e-45, -1e-45];
    let all: Vec<f32> = free.iter().copied().chain(near.iter().map(tie)).chain(odd).collect();
    ArrayD::from_shape_vec(vec![1, all.len()], all).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn the_operator_gives_what_the_chain_gives_for_every_float(
        grid in grids(), old in any::<bool>(),
        free in proptest::collection::vec(any::<f32>(), 40), near in proptest::collection::vec((-300i32..300, -3i32..=3), 60),
    ) {
        let x = values(grid.scale, &free, &near);
        let net = Net::new(&[-1, x.len() as i64]);
        let to = "x.fakequant.i";
        let model = if old { arithmetic(net, "x", to, grid).opset(10) } else { chain(net, "x", to, grid).opset(13) }.build(to);
        let fused = fuse(&model).unwrap().unwrap();
        prop_assert_eq!((rounds(&fused), fused.graph().node.len()), (1, 1));
        let bytes = model.to_bytes().unwrap();
        let as_written = bits(plain(&bytes, Level::All), &x);
        prop_assert_eq!(&bits(fast(&bytes), &x), &as_written);
        prop_assert_eq!(&bits(plain(&bytes, Level::Off), &x), &as_written);
    }
}

#[test]
fn a_chain_that_is_not_ours_or_is_read_inside_is_left_alone() {
    let grid = Grid { scale: 0.1, offset: 3, bits: 4, signed: true };
    let net = || Net::new(&[-1, 8]);
    assert!(fuse(&chain(net(), "x", "x.fakequant.i", grid).build("x.fakequant.i")).unwrap().is_some());
    assert!(fuse(&chain(net(), "x", "user", grid).build("user")).unwrap().is_none());
    assert!(fuse(&chain(net(), "x", "x.fakequant.i", grid).build("x.fakequant.i.l")).unwrap().is_none());
    let read = chain(net(), "x", "x.fakequant.i", grid).node("Add", "y", &["x.fakequant.i", "x.fakequant.i.c"], vec![]);
    assert!(fuse(&read.build("y")).unwrap().is_none());
}

/// A network of three convolutions whose middle value is rounded for two layers of different kinds, and read as it is too.
fn mixed() -> Model {
    let grid = |offset| Grid { scale: 0.02, offset, bits: 8, signed: true };
    let net = Net::new(&[-1, 3, 8, 8]).conv("a", "x", (3, 32), 3).relu("r", "a");
    let net = chain(net, "r", "r.fakequant.int8", grid(-11)).conv("b", "r.fakequant.int8", (32, 24), 3);
    let net = net.matmul("m", "r.fakequant.int8", (8, 8)).node("Add", "s", &["r", "m"], vec![]);
    let net = chain(net, "b", "b.fakequant.int8", grid(0)).conv("c", "b.fakequant.int8", (24, 32), 1);
    net.node("Add", "t", &["s", "c"], vec![]).build("t")
}

#[test]
fn rounded_values_that_other_operators_read_too_come_back_to_the_plain_layout() {
    let bytes = mixed().to_bytes().unwrap();
    let x = crate::graph::fixture::some(&[5, 3, 8, 8], 3);
    assert_eq!(bits(fast(&bytes), &x), bits(plain(&bytes, Level::All), &x));
}

fn dataset(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("datasets/cifar10-{name}"))
}

/// Images for a network of one input.
pub(super) fn cifar10(model: &Model) -> Dataset {
    let input = model.inputs().next().unwrap().name().to_string();
    let specs = [InputSpec { name: input, dims: vec![None, Some(3), Some(32), Some(32)] }];
    Dataset::open(&Source::npz(dataset("calibration.npz")), &Input::default(), &specs).unwrap()
}

/// The twins of a network with as many layers as can be at a precision, and 64 images.
fn same_on_images(name: &str) {
    let mut compressor = Compressor::load(&runtime(), &dataset(&format!("{name}.onnx")), &BTreeMap::new()).unwrap();
    let data = Arc::new(cifar10(&compressor.model));
    let effort = Effort { threads: 1, max_memory: Effort::MEMORY, positions: 16, widest: Effort::WIDEST };
    compressor.calibrate(Arc::clone(&data), 16, effort, None).unwrap();
    let images: Vec<ArrayD<f32>> = (0..13).map(|b| data.batch(&(5 * b..5 * b + 5).collect::<Vec<_>>()).unwrap().remove(0).1).collect();
    for precision in [Precision::Int8, Precision::Int4] {
        let mut plan = Plan::identity(&compressor.layers);
        for layer in 0..plan.treatments.len() {
            let before = plan.treatments[layer].1;
            plan.treatments[layer].1.precision = precision;
            if plan.check(&compressor.layers, &compressor.channels).is_err() {
                plan.treatments[layer].1 = before;
            }
        }
        let bytes = compressor.compress(&plan, Build::Parallel).unwrap();
        let fused = fuse(&Model::parse(name, &bytes).unwrap()).unwrap().unwrap();
        assert!(rounds(&fused) > 2 && !fused.graph().node.iter().any(|n| n.op_type() == "QuantizeLinear"));
        let (_, graph) = Session::with_graph(&runtime(), name, &fused.to_bytes().unwrap()).unwrap();
        if cfg!(target_arch = "x86_64") {
            let graph = Model::parse(name, &graph).unwrap();
            let changes = |m: &Model| m.graph().node.iter().filter(|n| n.op_type().starts_with("Reorder")).count();
            let blocked = stay_blocked(&graph).unwrap().unwrap();
            assert!(changes(&blocked) < 4 && rounds(&blocked) == rounds(&graph), "{} of {}", changes(&blocked), changes(&graph));
        }
        let (mut quick, mut slow) = (fast(&bytes), plain(&bytes, Level::All));
        let input = slow.inputs()[0].name.clone();
        for x in &images {
            let run = |s: &mut Session| s.run(&[(&input, x.view())]).unwrap();
            let (a, b) = (run(&mut quick), run(&mut slow));
            assert!(a.iter().flatten().zip(b.iter().flatten()).all(|(a, b)| a.to_bits() == b.to_bits()), "{name} {precision:?}");
        }
    }
}

#[test]
fn the_vgg_twins_give_what_their_files_give() {
    same_on_images("vgg");
}

#[test]
fn the_resnet_twins_give_what_their_files_give() {
    same_on_images("resnet20");
}

#[test]
fn the_mobilenet_twins_give_what_their_files_give() {
    same_on_images("mobilenetv2");
}
