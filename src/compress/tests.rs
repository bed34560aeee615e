//! Compressed networks against what they must compute, run by ONNX Runtime.

use std::{path::PathBuf, sync::Arc};

use ndarray::{ArrayD, Axis, Dimension, IxDyn};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::*;
use crate::{
    data::{Dataset, Input, InputSpec, Source},
    device::{Profile, Split, Target, bytes_by_node, deployed_bytes, extract, mark_sparse, predict},
    graph::{
        Index,
        fixture::{Net, some},
        layer::Layer,
        model::{PRECISION_KEY, SPARSE_KEY},
        tensor::{self, from_f32, int, ints},
    },
    runtime::{Level, Session, SessionOptions},
    space::{Build, Candidate, Space, Treatment, limits},
    spec::{Balance, Form, Method, Repair, Round, SpaceRule, Sparsity, WeightRule},
};

mod methods;
mod moments;
mod patterns;
mod sequence;
mod splits;
mod spread;

fn runtime() -> Runtime {
    Runtime::start(&mut |_| ()).unwrap()
}

fn demo(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("datasets/cifar10-{name}"))
}

fn open(path: &Path) -> Compressor {
    Compressor::load(&runtime(), path, &BTreeMap::new()).unwrap()
}

fn load(model: &Model) -> Compressor {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.onnx");
    std::fs::write(&path, model.to_bytes().unwrap()).unwrap();
    open(&path)
}

/// A demo network with ranges of a few samples.
fn calibrated(name: &str) -> Compressor {
    let mut compressor = open(&demo(&format!("{name}.onnx")));
    let input = compressor.model.inputs().next().unwrap().name().to_string();
    let specs = [InputSpec { name: input, dims: vec![None, Some(3), Some(32), Some(32)] }];
    let data = Dataset::open(&Source::npz(demo("calibration.npz")), &Input::default(), &specs).unwrap();
    let effort = Effort { threads: 1, max_memory: Effort::MEMORY, positions: 16, widest: Effort::WIDEST };
    compressor.calibrate(Arc::new(data), 8, effort, None).unwrap();
    compressor
}

fn run_at(model: &Model, x: &ArrayD<f32>, optimisation: Level) -> ArrayD<f32> {
    let options = SessionOptions { optimisation, ..Default::default() };
    let mut session = Session::from_bytes(&runtime(), &model.name, &model.to_bytes().unwrap(), options).unwrap();
    let input = session.inputs()[0].name.clone();
    session.run(&[(&input, x.view())]).unwrap().remove(0)
}

fn run(model: &Model, x: &ArrayD<f32>) -> ArrayD<f32> {
    run_at(model, x, Level::All)
}

/// A batch of four inputs that a model takes.
fn inputs(model: &Model) -> ArrayD<f32> {
    let shapes = shape::infer(model, 4, &BTreeMap::new()).unwrap();
    some(shapes.dims(model.inputs().next().unwrap().name()).unwrap(), 5)
}

fn assert_close(a: &ArrayD<f32>, b: &ArrayD<f32>, of_range: f32, what: &str) {
    assert_eq!(a.shape(), b.shape(), "{what}");
    let range = a.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(range > 0.0 && worst <= of_range * range, "{what}: {worst} of {range}");
}

fn layer(c: &Compressor, name: &str) -> usize {
    c.layers.position(name).unwrap_or_else(|| panic!("there is no layer {name}"))
}

/// The plan that changes one layer.
fn only(c: &Compressor, name: &str, treatment: Treatment) -> Plan {
    let mut plan = Plan::identity(&c.layers);
    plan.treatments[layer(c, name)].1 = treatment;
    plan
}

/// The plan that keeps a share of every group that can be cut.
fn cut_everywhere(c: &Compressor, keep: f64) -> Plan {
    let mut plan = Plan::identity(&c.layers);
    let cut = c.channels.groups.iter().filter(|g| g.frozen.is_none());
    cut.flat_map(|g| &g.layers).for_each(|&l| plan.treatments[l].1.keep = keep);
    plan
}

fn restructured(c: &Compressor, plan: &Plan) -> Structured {
    c.structure_of(plan).unwrap().on(&c.model).unwrap()
}

/// Calibrates on the samples of a network's one input.
fn calibrate_on(c: &mut Compressor, x: &ArrayD<f32>) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.npz");
    let mut npz = ndarray_npy::NpzWriter::new(std::fs::File::create(&path).unwrap());
    npz.add_array("x", x).unwrap();
    npz.finish().unwrap();
    let input = c.model.inputs().next().unwrap().name().to_string();
    let dims = std::iter::once(None).chain(x.shape()[1..].iter().map(|&d| Some(d))).collect();
    let data = Dataset::open(&Source::npz(path), &Input::default(), &[InputSpec { name: input, dims }]).unwrap();
    let effort = Effort { threads: 1, max_memory: Effort::MEMORY, positions: 1 << 16, widest: Effort::WIDEST };
    c.calibrate(Arc::new(data), x.shape()[0], effort, None).unwrap();
}

fn with_weight(model: &Model, name: &str, weight: &ArrayD<f32>) -> Model {
    let mut model = model.clone();
    *model.graph_mut().initializer.iter_mut().find(|t| t.name() == name).unwrap() = from_f32(name, weight);
    model
}

fn weight(model: &Model, name: &str) -> ArrayD<f32> {
    Index::new(model).floats(name).unwrap()
}

/// The network with the columns of a plan's removed channels set to zero in all that read them.
fn zeroed(c: &Compressor, plan: &Plan) -> Model {
    let gone = prune::removed_units(&c.channels, plan, &|g| Ok(c.order(g)?.order.clone())).unwrap();
    let mut model = c.model.clone();
    let readers = c.layers.layers.iter().zip(&c.channels.columns);
    for (layer, columns) in readers.filter(|(l, columns)| l.groups == 1 && !columns.is_empty()) {
        let mut w = weight(&model, &layer.weight);
        for (i, _) in columns.iter().enumerate().filter(|(_, unit)| unit.is_some_and(|u| gone.contains(&u))) {
            w.index_axis_mut(Axis(layer.in_axis), i).fill(0.0);
        }
        model = with_weight(&model, &layer.weight, &w);
    }
    model
}

/// Names of the layers of every group that can be cut.
fn groups(c: &Compressor) -> Vec<Vec<&str>> {
    let names = |layers: &[usize]| layers.iter().map(|&l| c.layers.layers[l].name.as_str()).collect();
    c.channels.groups.iter().filter(|g| g.frozen.is_none()).map(|g| names(&g.layers)).collect()
}

fn cutting_is_zeroing(c: &Compressor, expected: &[&[&str]]) {
    assert_eq!(groups(c), expected);
    let x = inputs(&c.model);
    for keep in [0.75, 0.5] {
        let plan = cut_everywhere(c, keep);
        plan.check(&c.layers, &c.channels).unwrap();
        let cut = restructured(c, &plan);
        assert!(cut.model.to_bytes().unwrap().len() < c.model.to_bytes().unwrap().len());
        assert_close(&run(&zeroed(c, &plan), &x), &run(&cut.model, &x), 1e-4, &format!("keep {keep} of {expected:?}"));
    }
}

mod pruning {
    use super::*;

    const IMAGE: [i64; 4] = [-1, 6, 8, 8];

    fn check(net: Net, output: &str, expected: &[&[&str]]) {
        cutting_is_zeroing(&load(&net.build(output)), expected);
    }

    #[test]
    fn the_demo_vgg_network_is_cut_layer_by_layer() {
        let names = ["conv2d", "conv2d_1", "conv2d_2", "conv2d_3", "conv2d_4", "conv2d_5", "dense", "dense_1"];
        let alone: Vec<Vec<&str>> = names.iter().map(|n| vec![*n]).collect();
        cutting_is_zeroing(&open(&demo("vgg.onnx")), &alone.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }

    #[test]
    fn the_layers_of_a_resnet_stage_go_together() {
        let block = |n: usize, c: usize| format!("/body/body.{n}/c{c}/Conv");
        let shortcut = |n: usize| format!("/body/body.{n}/sc/sc.0/Conv");
        // The sums of a stage: what enters it (stem or shortcut) and the second convolution of each of its three blocks.
        let stage = |first: usize| {
            let mut all: Vec<String> = vec![block(first, 2)];
            if first == 0 {
                all.insert(0, "/stem/Conv".into());
            } else {
                all.push(shortcut(first));
            }
            all.extend([block(first + 1, 2), block(first + 2, 2)]);
            all
        };
        let mut expected = vec![stage(0), vec![block(0, 1)], vec![block(1, 1)], vec![block(2, 1)]];
        for first in [3, 6] {
            expected.extend([vec![block(first, 1)], stage(first), vec![block(first + 1, 1)], vec![block(first + 2, 1)]]);
        }
        let names: Vec<Vec<&str>> = expected.iter().map(|g| g.iter().map(String::as_str).collect()).collect();
        cutting_is_zeroing(&open(&demo("resnet20.onnx")), &names.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }

    #[test]
    fn a_mobilenet_block_widens_and_narrows_with_its_depthwise_layer() {
        let conv = |block: usize, place: usize| format!("/f/f.{block}/f/f.{place}/Conv");
        let mut expected = Vec::new();
        // Blocks 3, 5, 7 and 9 keep the number of channels and add their input to their output.
        let mut source = "/f/f.0/Conv".to_string();
        let mut narrow: Vec<Vec<String>> = vec![vec![source.clone()]];
        let mut wide = Vec::new();
        for block in 3..=9 {
            wide.push(vec![conv(block, 0), conv(block, 3)]);
            if block % 2 == 1 {
                narrow.last_mut().unwrap().push(conv(block, 6));
            } else {
                source = conv(block, 6);
                narrow.push(vec![source.clone()]);
            }
        }
        expected.extend(narrow);
        expected.extend(wide);
        expected.push(vec!["/f/f.10/Conv".to_string()]);
        let c = open(&demo("mobilenetv2.onnx"));
        expected.sort_by_key(|g| layer(&c, &g[0]));
        let names: Vec<Vec<&str>> = expected.iter().map(|g| g.iter().map(String::as_str).collect()).collect();
        cutting_is_zeroing(&c, &names.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }

    #[test]
    fn a_residual_sum_ties_both_sides() {
        let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).relu("r", "a").conv("b", "r", (8, 8), 3);
        check(net.node("Add", "s", &["r", "b"], vec![]).conv("y", "s", (8, 5), 1), "y", &[&["a", "b"]]);
    }

    #[test]
    fn a_depthwise_layer_goes_with_its_producer() {
        let net = Net::new(&IMAGE).conv("a", "x", (6, 12), 1).relu("r", "a").depthwise("d", "r", 12).relu("t", "d");
        check(net.conv("y", "t", (12, 5), 1), "y", &[&["a", "d"]]);
    }

    #[test]
    fn branches_of_a_concat_are_cut_alone_and_the_input_stays() {
        let net = Net::new(&IMAGE).conv("a", "x", (6, 6), 3).conv("b", "x", (6, 10), 1);
        let net = net.node("Concat", "c", &["b", "x", "a"], vec![int("axis", 1)]).relu("r", "c");
        check(net.conv("y", "r", (22, 5), 3), "y", &[&["a"], &["b"]]);
    }

    #[test]
    fn a_flattened_channel_takes_all_its_pixels_with_it() {
        let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).node("Flatten", "f", &["a"], vec![int("axis", 1)]);
        check(net.gemm("g", "f", (512, 10)).relu("r", "g").gemm("y", "r", (10, 4)), "y", &[&["a"], &["g"]]);
    }

    #[test]
    fn a_reshape_to_a_written_width_is_rewritten() {
        for shape in [[-1, 512], [0, 512], [0, -1]] {
            let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).relu("r", "a").constant(tensor::from_i64("to", &shape));
            check(net.node("Reshape", "f", &["r", "to"], vec![]).gemm("y", "f", (512, 4)), "y", &[&["a"]]);
        }
    }

    #[test]
    fn a_gemm_with_its_weight_the_other_way_round_is_cut() {
        let net = Net::new(&[-1, 6]).weight("a.w", &[6, 12]).weight("a.b", &[12]).node("Gemm", "a", &["x", "a.w", "a.b"], vec![]);
        check(net.relu("r", "a").weight("y.w", &[12, 3]).node("Gemm", "y", &["r", "y.w"], vec![]), "y", &[&["a"]]);
    }

    #[test]
    fn transposed_convolutions_are_cut_on_both_sides() {
        let up = vec![ints("strides", &[2, 2]), ints("kernel_shape", &[3, 3])];
        let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).relu("r", "a").weight("t.w", &[8, 10, 3, 3]).weight("t.b", &[10]);
        check(net.node("ConvTranspose", "t", &["r", "t.w", "t.b"], up).conv("y", "t", (10, 4), 1), "y", &[&["a"], &["t"]]);
    }

    #[test]
    fn a_chain_of_matrix_products_is_cut_at_its_last_axis() {
        let net = Net::new(&[-1, 5, 6]).matmul("a", "x", (6, 12)).weight("k", &[12]).node("Add", "s", &["a", "k"], vec![]);
        check(net.relu("r", "s").matmul("b", "r", (12, 10)).matmul("y", "b", (10, 4)), "y", &[&["a"], &["b"]]);
    }

    #[test]
    fn norms_slopes_and_constants_of_a_channel_go_with_it() {
        let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).node("Sigmoid", "g", &["a"], vec![]);
        let net = net.weight("gamma", &[8]).weight("beta", &[8]).weight("mean", &[8]);
        let net = net.constant(from_f32("var", &some(&[8], 3).mapv(|v| v * v + 0.5)));
        let net = net.node("BatchNormalization", "n", &["g", "gamma", "beta", "mean", "var"], vec![]);
        let net = net.weight("slope", &[8, 1, 1]).node("PRelu", "p", &["n", "slope"], vec![]);
        let net = net.weight("plus", &[8, 1, 1]).node("Add", "q", &["p", "plus"], vec![]).node("Tanh", "h", &["q"], vec![]);
        let net = net.weight("times", &[1, 8, 1, 1]).node("Mul", "m", &["h", "times"], vec![]);
        check(net.relu("r", "m").conv("y", "r", (8, 5), 3), "y", &[&["a"]]);
    }

    #[test]
    fn a_gate_over_channels_ties_its_last_layer_to_what_it_gates() {
        let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).relu("r", "a").node("GlobalAveragePool", "p", &["r"], vec![]);
        let net = net.conv("s", "p", (8, 4), 1).relu("t", "s").conv("u", "t", (4, 8), 1).node("Sigmoid", "g", &["u"], vec![]);
        check(net.node("Mul", "m", &["r", "g"], vec![]).conv("y", "m", (8, 5), 3), "y", &[&["a", "u"], &["s"]]);
    }

    #[test]
    fn channels_are_followed_through_transposes_means_and_pads() {
        let net =
            Net::new(&IMAGE).conv("a", "x", (6, 8), 3).relu("r", "a").node("Transpose", "t", &["r"], vec![ints("perm", &[0, 2, 3, 1])]);
        let net = net.matmul("b", "t", (8, 10)).node("Transpose", "u", &["b"], vec![ints("perm", &[0, 3, 1, 2])]);
        let net = net.constant(tensor::from_i64("pads", &[0, 0, 1, 0, 0, 0, 0, 1])).node("Pad", "v", &["u", "pads"], vec![]);
        let net = net.node("ReduceMean", "w", &["v"], vec![ints("axes", &[2, 3]), int("keepdims", 0)]);
        check(net.gemm("y", "w", (10, 4)), "y", &[&["a"], &["b"]]);
    }

    #[test]
    fn layers_that_share_a_bias_are_cut_apart() {
        let net = Net::new(&IMAGE).weight("b", &[8]).weight("v", &[8, 6, 3, 3]).weight("w", &[8, 8, 3, 3]);
        let net = net.node("Conv", "a", &["x", "v", "b"], vec![]).relu("r", "a").node("Conv", "c", &["r", "w", "b"], vec![]);
        check(net.conv("y", "c", (8, 5), 1), "y", &[&["a"], &["c"]]);
    }

    #[test]
    fn what_a_subgraph_reads_is_not_cut() {
        use crate::graph::proto::{AttributeProto, GraphProto, ValueInfoProto, attribute_proto::AttributeType};
        let value = |name: &str| ValueInfoProto { name: Some(name.into()), ..Default::default() };
        let branch = |name: &str, op: &str| {
            let inner = format!("{name}.out");
            let graph = GraphProto {
                name: Some(name.into()),
                node: vec![tensor::node(op, &inner, &["r"], &[&inner], vec![])],
                output: vec![value(&inner)],
                ..Default::default()
            };
            AttributeProto { name: Some(name.into()), r#type: Some(AttributeType::Graph as i32), g: Some(graph), ..Default::default() }
        };
        let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).relu("r", "a").node("ReduceMax", "m", &["x"], vec![int("keepdims", 0)]);
        let net = net.node("Cast", "yes", &["m"], vec![int("to", 9)]);
        let net = net.node("If", "i", &["yes"], vec![branch("then_branch", "Relu"), branch("else_branch", "Neg")]);
        let model = net.conv("y", "r", (8, 5), 1).node("ReduceSum", "t", &["i"], vec![]).node("Add", "z", &["y", "t"], vec![]).build("z");
        assert_eq!(groups(&load(&model)), Vec::<Vec<&str>>::new());
    }

    #[test]
    fn means_make_up_for_a_constant_channel() {
        // A channel that always has the same value is a bias: taking it away with its mean changes nothing.
        let stride2 = vec![ints("strides", &[2, 2]), ints("kernel_shape", &[2, 2])];
        let plain = || {
            let mut w = some(&[4, 6, 1, 1], 3);
            w.index_axis_mut(Axis(0), 2).fill(0.0);
            let b = ArrayD::from_shape_vec(IxDyn(&[4]), vec![0.3, -0.2, 0.9, 0.1]).unwrap();
            Net::new(&IMAGE).constant(from_f32("a.w", &w)).constant(from_f32("a.b", &b)).node("Conv", "a", &["x", "a.w", "a.b"], vec![])
        };
        let convolution = plain().conv("y", "a", (4, 5), 1);
        // Constant over the image only if all taps of a channel are alike.
        let tap = some(&[4, 5, 1, 1], 9).broadcast(IxDyn(&[4, 5, 2, 2])).unwrap().to_owned();
        let transposed = plain().constant(from_f32("y.w", &tap)).node("ConvTranspose", "y", &["a", "y.w"], stride2);
        for net in [convolution, transposed] {
            let mut c = load(&net.build("y"));
            let x = inputs(&c.model);
            calibrate_on(&mut c, &x);
            for repair in [Repair::Refit, Repair::Bias] {
                c.structure.repair = repair;
                let cut = restructured(&c, &cut_everywhere(&c, 0.75));
                assert_eq!(cut.channels[0], 3);
                assert_close(&run(&c.model, &x), &run(&cut.model, &x), 1e-4, c.layers.layers[1].op.name());
            }
        }
    }
}

mod decomposition {
    use super::*;

    fn conv(attributes: Vec<crate::graph::proto::AttributeProto>) -> Model {
        let net = Net::new(&[-1, 6, 11, 11]).weight("w", &[8, 6, 3, 3]).weight("b", &[8]);
        net.node("Conv", "y", &["x", "w", "b"], attributes).build("y")
    }

    fn product(op: &str, dims: [usize; 2], attributes: Vec<crate::graph::proto::AttributeProto>) -> Model {
        let net = Net::new(&[-1, 12]).weight("w", &dims);
        let net = if op == "Gemm" { net.weight("b", &[10]) } else { net };
        net.node(op, "y", if op == "Gemm" { &["x", "w", "b"] } else { &["x", "w"] }, attributes).build("y")
    }

    /// Split at a rank, as the network of the two layers.
    fn split(c: &Compressor, rank: usize) -> Model {
        let treatment = Treatment { split: Some(Split::Channel { rank: rank as u64 }), ..Treatment::NONE };
        let split = restructured(c, &only(c, "y", treatment));
        assert_eq!(split.parts, [["y.first".to_string(), "y.last".to_string()]]);
        split.model
    }

    /// The product of the two factors as a weight of the undivided layer.
    fn multiplied(c: &Compressor, split: &Model) -> ArrayD<f32> {
        let layer = &c.layers.layers[0];
        let weights: Vec<ArrayD<f32>> = split.graph().node.iter().map(|n| weight(split, &n.input[1])).collect();
        let (first, last) = (&weights[0], &weights[1]);
        let rank = first.shape()[layer.out_axis];
        ArrayD::from_shape_fn(IxDyn(&layer.weight_dims), |at| {
            (0..rank)
                .map(|r| {
                    let (mut f, mut l) = (at.slice().to_vec(), vec![0; at.ndim()]);
                    f[layer.out_axis] = r;
                    l[layer.in_axis] = r;
                    l[layer.out_axis] = at[layer.out_axis];
                    first[IxDyn(&f)] * last[IxDyn(&l)]
                })
                .sum()
        })
    }

    fn check(model: &Model) {
        let c = load(model);
        let x = inputs(&c.model);
        let full = limits::full_rank(&c.layers.layers[0], Form::Channel);
        assert_close(&run(model, &x), &run(&split(&c, full), &x), 1e-4, "full rank");
        for rank in [1, 3, full - 1] {
            let split = split(&c, rank);
            let by_hand = with_weight(&c.model, &c.layers.layers[0].weight, &multiplied(&c, &split));
            assert_close(&run(&by_hand, &x), &run(&split, &x), 1e-4, &format!("rank {rank}"));
            let away = &run(&by_hand, &x) - &run(model, &x);
            assert!(away.iter().any(|d| d.abs() > 1e-3), "rank {rank} changes nothing");
        }
    }

    #[test]
    fn a_plain_convolution_is_split() {
        check(&conv(vec![]));
    }

    #[test]
    fn strides_pads_and_dilations_stay_with_the_first_half() {
        check(&conv(vec![ints("strides", &[2, 1])]));
        check(&conv(vec![ints("pads", &[1, 0, 2, 1])]));
        check(&conv(vec![ints("dilations", &[2, 3]), ints("pads", &[2, 3, 2, 3]), ints("strides", &[1, 2])]));
    }

    #[test]
    fn matrix_products_are_split_whichever_way_the_weight_lies() {
        check(&product("Gemm", [10, 12], vec![int("transB", 1)]));
        check(&product("Gemm", [12, 10], vec![]));
        check(&product("MatMul", [12, 10], vec![]));
    }

    #[test]
    fn a_cut_layer_is_split_from_what_is_left_of_it() {
        let net = Net::new(&[-1, 6, 8, 8]).conv("a", "x", (6, 8), 3).conv("y", "a", (8, 12), 3).conv("z", "y", (12, 3), 1);
        let c = load(&net.build("z"));
        let mut plan = cut_everywhere(&c, 0.5);
        let cut = restructured(&c, &plan).model;
        // Full rank of what is left: 6 outputs of 4 × 3 × 3 inputs.
        plan.treatments[1].1.split = Some(Split::Channel { rank: 6 });
        let split = restructured(&c, &plan).model;
        let x = inputs(&c.model);
        assert_close(&run(&cut, &x), &run(&split, &x), 1e-4, "cut and split");
    }
}

mod twins {
    use super::{
        quantize::{Grid, Weight, quantize_weight},
        *,
    };

    /// A twin whose activations were seen from `range.0` to `range.1`, everything rounded from least to largest to the nearest.
    fn twin(c: &Compressor, precision: &[(&str, Precision)], range: (f32, f32)) -> Model {
        let quantized = |l: &Layer, precision: Precision| {
            let matrix = decompose::as_matrix(&weight(&c.model, &l.weight), l.out_axis);
            let (per_row, bits) = (l.op.is_convolution(), precision.weight_bits());
            let (rule, round) = (WeightRule::MinMax, Round::Nearest);
            let rounding = quantize_weight(&Weight {
                matrix: &matrix,
                per_row,
                bits,
                rule,
                round,
                gram: None,
                noise: 0.0,
                centred: false,
                keeps_zeros: false,
            });
            let bias = l.bias.as_ref().map(|b| weight(&c.model, b).iter().copied().collect());
            let activations = precision.activation_bits().map(|bits| Grid::asymmetric(range.0, range.1, bits));
            QuantizedLayer { name: l.name.clone(), precision, activations, weight: Arc::new(rounding), bias }
        };
        let precision: BTreeMap<String, Precision> = precision.iter().map(|(n, p)| (n.to_string(), *p)).collect();
        let of = |l: &Layer| precision.get(&l.name).filter(|p| p.is_quantized()).copied();
        let layers: Vec<_> = c.layers.layers.iter().filter_map(|l| of(l).map(|p| (l.clone(), quantized(l, p)))).collect();
        twin::twin(&c.model, &layers, (&precision, &BTreeSet::new()), "plan").unwrap()
    }

    /// AMCT's integers of activations: one step and one offset for the tensor.
    fn activation(range: (f32, f32), bits: u32, x: f32) -> (f64, i32) {
        let levels = ((1_i64 << bits) - 1) as f32;
        let scale = (range.1.max(0.0) - range.0.min(0.0)) / levels;
        let lowest = -(1_i64 << (bits - 1)) as f32;
        let offset = (lowest - range.0.min(0.0) / scale).round_ties_even();
        let q = (x / scale + offset).round_ties_even().clamp(lowest, -lowest - 1.0);
        (f64::from(scale), (q - offset) as i32)
    }

    /// AMCT's integers of weights: one step for `values`, no offset.
    fn weights(values: &[f32], bits: u32) -> (f64, Vec<i32>) {
        let top = ((1_i64 << (bits - 1)) - 1) as f32;
        let (low, high) = values.iter().fold((0.0_f32, 0.0_f32), |(l, h), &v| (l.min(v), h.max(v)));
        let scale = if -low > high { -low / (top + 1.0) } else { high / top };
        (f64::from(scale), values.iter().map(|v| (v / scale).round_ties_even().clamp(-top - 1.0, top) as i32).collect())
    }

    /// A 3×3 convolution, padded by 1, on images of 6×6: two channels in, three out.
    fn conv() -> Model {
        Net::new(&[-1, 2, 6, 6]).conv("y", "x", (2, 3), 3).build("y")
    }

    /// The convolution as the chip computes it, for one image: the pads hold the integer that stands for zero.
    fn integer_conv(model: &Model, x: &ArrayD<f32>, range: (f32, f32), bits: u32) -> ArrayD<f32> {
        let (w, b) = (weight(model, "y.w"), weight(model, "y.b"));
        ArrayD::from_shape_fn(IxDyn(&[x.shape()[0], 3, 6, 6]), |at| {
            let (n, o, row, column) = (at[0], at[1], at[2], at[3]);
            let filter: Vec<f32> = w.index_axis(Axis(0), o).iter().copied().collect();
            let (w_scale, filter) = weights(&filter, bits);
            let mut sum = 0_i32;
            for (tap, q) in filter.iter().enumerate() {
                let (c, i, j) = (tap / 9, row + tap / 3 % 3, column + tap % 3);
                let inside = (1..=6).contains(&i) && (1..=6).contains(&j);
                sum += q * if inside { activation(range, bits, x[[n, c, i - 1, j - 1]]).1 } else { 0 };
            }
            let (x_scale, _) = activation(range, bits, 0.0);
            let bias = (f64::from(b[[o]]) / (x_scale * w_scale)).round_ties_even();
            ((f64::from(sum) + bias) * x_scale * w_scale) as f32
        })
    }

    fn check_conv(range: (f32, f32), bits: u32, precision: Precision) {
        let model = conv();
        let c = load(&model);
        // Beyond the range on both sides, so that both ends are clipped.
        let x = some(&[3, 2, 6, 6], 77).mapv(|v| v * 1.1 * range.0.abs().max(range.1));
        let twin = twin(&c, &[("y", precision)], range);
        let expected = integer_conv(&model, &x, range, bits);
        for level in [Level::Off, Level::Basic, Level::All] {
            assert_close(&expected, &run_at(&twin, &x, level), 2e-6, &format!("{bits} bits, {range:?}, {level:?}"));
        }
    }

    #[test]
    fn a_convolution_computes_what_the_integers_would() {
        for (bits, precision) in [(8, Precision::Int8), (4, Precision::Int4)] {
            for range in [(-1.0, 1.7), (0.0, 2.3), (-0.6, 0.0), (-3.1, 0.4)] {
                check_conv(range, bits, precision);
            }
        }
    }

    #[test]
    fn matrix_products_have_one_step_for_the_whole_weight() {
        for (transposed, op) in [(true, "Gemm"), (false, "Gemm"), (false, "MatMul")] {
            let dims = if transposed { [3, 8] } else { [8, 3] };
            let attributes = if transposed { vec![int("transB", 1)] } else { vec![] };
            let net = Net::new(&[-1, 8]).weight("w", &dims);
            let model = net.node(op, "y", &["x", "w"], attributes).build("y");
            let c = load(&model);
            let x = some(&[5, 8], 3);
            let flat: Vec<f32> = weight(&model, "w").iter().copied().collect();
            let range = (-0.8, 0.9);
            for (bits, precision) in [(8, Precision::Int8), (4, Precision::Int4)] {
                let (w_scale, q) = weights(&flat, bits);
                let (x_scale, _) = activation(range, bits, 0.0);
                let expected = ArrayD::from_shape_fn(IxDyn(&[5, 3]), |at| {
                    let entry = |k: usize| if transposed { q[at[1] * 8 + k] } else { q[k * 3 + at[1]] };
                    let sum: i32 = (0..8).map(|k| activation(range, bits, x[[at[0], k]]).1 * entry(k)).sum();
                    (f64::from(sum) * x_scale * w_scale) as f32
                });
                let twin = twin(&c, &[("y", precision)], range);
                for level in [Level::Off, Level::Basic, Level::All] {
                    assert_close(&expected, &run_at(&twin, &x, level), 2e-6, &format!("{op}, {bits} bits, {level:?}"));
                }
            }
        }
    }

    #[test]
    fn a_tie_at_an_odd_offset_is_off_by_one_at_most_and_all_else_is_exact() {
        // AMCT rounds x/s + o, QuantizeLinear x/s alone: at an odd offset a tie goes to different even integers.
        let range = (-97.0, 158.0);
        let c = load(
            &Net::new(&[-1, 1, 1, 8])
                .constant(from_f32("w", &ArrayD::ones(IxDyn(&[1, 1, 1, 1]))))
                .node("Conv", "y", &["x", "w"], vec![])
                .build("y"),
        );
        let x = ArrayD::from_shape_vec(IxDyn(&[1, 1, 1, 8]), vec![0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 157.5, -96.5]).unwrap();
        let expected = x.mapv(|v| activation(range, 8, v).1 as f32);
        let found = run(&twin(&c, &[("y", Precision::Int8)], range), &x);
        for (tie, (e, f)) in expected.iter().zip(&found).enumerate() {
            assert!((e - f).abs() <= 1.0 + 1e-5, "tie {tie}: {e} {f}");
        }
        let x = x.mapv(|v| v + 0.25);
        assert_close(&x.mapv(|v| activation(range, 8, v).1 as f32), &run(&twin(&c, &[("y", Precision::Int8)], range), &x), 2e-6, "no ties");
    }

    #[test]
    fn consumers_of_one_value_share_its_integers_if_they_have_the_same_bits() {
        let net = Net::new(&[-1, 4, 6, 6]).conv("a", "x", (4, 4), 3).conv("b", "x", (4, 4), 1).conv("c", "x", (4, 4), 1);
        let c = load(&net.node("Sum", "y", &["a", "b", "c"], vec![]).build("y"));
        let quantizers = |precision: &[(&str, Precision)]| {
            let twin = twin(&c, precision, (-1.0, 1.0));
            run(&twin, &some(&[1, 4, 6, 6], 1));
            twin.graph().node.iter().filter(|n| n.op_type() == "QuantizeLinear").count()
        };
        assert_eq!(quantizers(&[("a", Precision::Int8), ("b", Precision::Int8)]), 1);
        assert_eq!(quantizers(&[("a", Precision::Int8), ("b", Precision::Int4), ("c", Precision::Int8)]), 2);
        assert_eq!(quantizers(&[]), 0);
    }

    #[test]
    fn a_plan_that_changes_nothing_gives_the_file_back_byte_for_byte() {
        for name in ["vgg.onnx", "resnet20.onnx", "mobilenetv2.onnx"] {
            let c = open(&demo(name));
            assert_eq!(c.compress(&Plan::identity(&c.layers), Build::Sequential).unwrap(), std::fs::read(demo(name)).unwrap());
        }
    }

    #[test]
    fn compressing_twice_is_an_error() {
        let c = calibrated("mobilenetv2");
        let twin =
            c.compress(&only(&c, "/fc/Gemm", Treatment { precision: Precision::Int8, ..Treatment::NONE }), Build::Sequential).unwrap();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("again.onnx");
        std::fs::write(&path, twin).unwrap();
        let error = Compressor::load(&runtime(), &path, &BTreeMap::new()).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains("already compressed") && error.remedy().is_some(), "{error}");
        assert_eq!(error.exit_code(), 2);
    }
}

mod costs {
    use super::*;
    use crate::graph::layer::Layers;

    /// The cost read from the outline, and from the model that was really made.
    fn both(c: &Compressor, (plan, build): (&Plan, Build), profile: &Profile) -> ((f64, u64), (f64, u64)) {
        let outline = c.outline(plan, 8).unwrap();
        let predicted = predict(&outline.kernels(), profile).latency_ms;
        let made = Model::parse("made", &c.compress(plan, build).unwrap()).unwrap();
        let precision = made.metadata(PRECISION_KEY).map(|json| serde_json::from_str(json).unwrap()).unwrap_or_default();
        let shapes = shape::infer(&made, 8, &BTreeMap::new()).unwrap();
        let sparse = made.metadata(SPARSE_KEY).map(|json| serde_json::from_str(json).unwrap()).unwrap_or_default();
        let mut kernels = extract(&made, &shapes, &precision);
        mark_sparse(&mut kernels, &sparse);
        let real = predict(&kernels, profile).latency_ms;
        ((predicted, outline.bytes_on(profile)), (real, bytes_by_node(profile, &made, &precision, &sparse).values().sum()))
    }

    #[test]
    fn a_sparse_int8_layer_costs_less_than_the_int8_layer_where_the_chip_skips_zeros() {
        let c = calibrated("vgg");
        let name = "conv2d_4";
        let size: usize = c.layers.layers[layer(&c, name)].weight_dims.iter().product();
        let cost = |device: &str, precision: Precision, sparsity: Sparsity| {
            // Unasked, 4-bit layers would be balanced, which costs a Mul.
            let method = Method { balance: Some(Balance::None), ..Method::default() };
            let plan = only(&c, name, Treatment { precision, sparsity, method, ..Treatment::NONE });
            let (outline, made) = both(&c, (&plan, Build::Sequential), &Profile::load(device).unwrap());
            assert_eq!(outline, made, "{device}, {precision}, {sparsity}");
            made
        };
        let (dense, sparse) = (Sparsity::None, Sparsity::FourToTwo);
        let (int8, thin) = (cost("ascend310b1", Precision::Int8, dense), cost("ascend310b1", Precision::Int8, sparse));
        assert!(thin.0 < int8.0, "{thin:?} {int8:?}");
        // Half of the bytes, and two bits for each that is left.
        assert_eq!(int8.1 - thin.1, size as u64 * 3 / 8);
        // A chip that does not run 4-bit weights runs them as INT8, zeros skipped.
        assert_eq!(cost("ascend310b1", Precision::Int4, sparse), thin);
        assert_eq!(cost("ascend310p3", Precision::Int8, sparse), cost("ascend310p3", Precision::Int8, dense));
        let b1 = Profile::load("ascend310b1").unwrap();
        let float = c.outline_normalised(&Plan::identity(&c.layers), 8).unwrap();
        let float = (predict(&float.kernels(), &b1).latency_ms, float.bytes_on(&b1));
        assert_eq!(cost("ascend310b1", Precision::Fp16, sparse), float);
    }

    fn check(name: &str) {
        let c = calibrated(name);
        let rule: SpaceRule =
            serde_yaml::from_str("{layers: '*', precision: [fp16, int8, int4], keep: [1.0, 0.75, 0.5], rank: [full, 0.5, 0.25], form: [channel, spatial, tucker], sparsity: [none, '4:2']}").unwrap();
        let space = Space::new(&[rule], (&c.model, &c.layers, &c.channels), &Target::unknown(), (Path::new("spec.yaml"), "")).unwrap();
        let profile = Profile::load("ascend310b1").unwrap();
        let mut rng = ChaCha8Rng::seed_from_u64(11);
        for n in 0..5 {
            let candidate = Candidate(space.axes.iter().map(|a| rng.random_range(0..a.len()) as u16).collect());
            let build = if n % 2 == 0 { Build::Parallel } else { Build::Sequential };
            let (outline, made) = both(&c, (&space.plan(&candidate), build), &profile);
            assert_eq!(outline, made, "{name}, plan {n}: (latency, bytes) of the outline and of the model");
        }
        let (outline, given) = both(&c, (&Plan::identity(&c.layers), Build::Parallel), &profile);
        assert_eq!(outline, given, "{name}, nothing changed");
    }

    #[test]
    fn the_outline_of_a_vgg_plan_costs_what_its_model_costs() {
        check("vgg");
    }

    #[test]
    fn the_outline_of_a_resnet_plan_costs_what_its_model_costs() {
        check("resnet20");
    }

    #[test]
    fn the_outline_of_a_mobilenet_plan_costs_what_its_model_costs() {
        check("mobilenetv2");
    }

    #[test]
    fn a_bias_that_makes_up_for_lost_channels_is_in_the_outline() {
        let net = Net::new(&[-1, 6, 8, 8]).conv("a", "x", (6, 8), 3).weight("w", &[5, 8, 3, 3]).node("Conv", "y", &["a", "w"], vec![]);
        let c = load(&net.build("y"));
        let plan = cut_everywhere(&c, 0.5);
        let made = restructured(&c, &plan).model;
        let outline = c.outline(&plan, 1).unwrap();
        let bytes = |m: &Model| deployed_bytes(m, &BTreeMap::new());
        assert_eq!(bytes(&outline.structured.model), bytes(&made));
        let shapes = shape::infer(&made, 1, &BTreeMap::new()).unwrap();
        assert!(Layers::find(&made, &shapes).layers[1].bias.is_some());
    }
}
