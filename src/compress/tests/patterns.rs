//! Channels cut physically against the same channels set to zero, on the patterns of today's architectures.

use super::*;
use crate::graph::proto::TensorProto;

const IMAGE: [i64; 4] = [-1, 6, 8, 8];
const TOKENS: [i64; 3] = [-1, 5, 24];

fn check(net: Net, output: &str, expected: &[&[&str]]) {
    cutting_is_zeroing(&load(&net.build(output)), expected);
}

fn shape(name: &str, values: &[i64]) -> TensorProto {
    tensor::from_i64(name, values)
}

/// Nodes that shuffle channels between two groups, by constants.
fn shuffled(net: Net, output: &str, input: &str, channels: i64) -> Net {
    let name = |part: &str| format!("{output}.{part}");
    net.constant(shape(&name("apart"), &[0, 2, channels / 2, 8, 8]))
        .node("Reshape", &name("a"), &[input, &name("apart")], vec![])
        .node("Transpose", &name("b"), &[&name("a")], vec![ints("perm", &[0, 2, 1, 3, 4])])
        .constant(shape(&name("together"), &[0, channels, 8, 8]))
        .node("Reshape", output, &[&name("b"), &name("together")], vec![])
}

#[test]
fn a_channel_shuffle_keeps_its_groups_even() {
    let net = Net::new(&IMAGE).conv("a", "x", (6, 16), 3).relu("r", "a");
    check(shuffled(net, "s", "r", 16).conv("y", "s", (16, 4), 1), "y", &[&["a"]]);
}

#[test]
fn a_shufflenet_unit_is_cut_with_its_split_and_concat() {
    let net = Net::new(&IMAGE).conv("a", "x", (6, 16), 3).relu("r", "a").constant(shape("halves", &[8, 8]));
    let net = net.several("Split", &["left", "right"], &["r", "halves"], vec![int("axis", 1)]);
    let net = net.conv("b", "right", (8, 8), 1).relu("t", "b").depthwise("c", "t", 8).conv("d", "c", (8, 8), 1).relu("u", "d");
    let net = net.node("Concat", "cat", &["left", "u"], vec![int("axis", 1)]);
    check(shuffled(net, "s", "cat", 16).conv("y", "s", (16, 4), 3), "y", &[&["a", "d"], &["b", "c"]]);
}

#[test]
fn slices_of_channels_move_with_what_is_left() {
    let bounds = |net: Net, name: &str, start: i64, end: i64| {
        let n = |part: &str| format!("{name}.{part}");
        let net = net.constant(shape(&n("start"), &[start])).constant(shape(&n("end"), &[end])).constant(shape(&n("axis"), &[1]));
        net.node("Slice", name, &["r", &n("start"), &n("end"), &n("axis")], vec![])
    };
    let net = Net::new(&IMAGE).conv("a", "x", (6, 12), 3).relu("r", "a");
    let net = bounds(bounds(bounds(net, "low", 0, 4), "mid", 4, -4), "top", -4, i64::MAX);
    let net = net.conv("b", "mid", (4, 4), 1).relu("t", "b");
    let net = net.node("Concat", "cat", &["top", "t", "low"], vec![int("axis", 1)]);
    check(net.conv("y", "cat", (12, 4), 3), "y", &[&["a"], &["b"]]);
}

#[test]
fn old_splits_and_slices_with_attributes_are_corrected_too() {
    let net = Net::new(&IMAGE).opset(9).conv("a", "x", (6, 12), 3).relu("r", "a");
    let net = net.several("Split", &["p", "q"], &["r"], vec![int("axis", 1), ints("split", &[8, 4])]);
    let part = |start: i64, end: i64| vec![ints("axes", &[1]), ints("starts", &[start]), ints("ends", &[end])];
    let net = net.node("Slice", "s", &["p"], part(0, 4)).node("Slice", "t", &["p"], part(4, 8));
    let net = net.node("Add", "z", &["s", "q"], vec![]).node("Concat", "cat", &["t", "z"], vec![int("axis", 1)]);
    check(net.conv("y", "cat", (8, 4), 3), "y", &[&["a"]]);
}

#[test]
fn equal_parts_without_sizes_get_sizes() {
    let net = Net::new(&IMAGE).conv("a", "x", (6, 12), 3).relu("r", "a");
    let net = net.several("Split", &["p", "q", "s"], &["r"], vec![int("axis", 1)]);
    let net = net.node("Concat", "cat", &["s", "p", "q"], vec![int("axis", 1)]);
    check(net.conv("y", "cat", (12, 4), 3), "y", &[&["a"]]);
}

#[test]
fn whole_groups_of_a_grouped_convolution_go() {
    let net = Net::new(&IMAGE).conv("a", "x", (6, 16), 3).relu("r", "a").grouped("g", "r", (16, 32), 4).relu("t", "g");
    let c = load(&net.conv("y", "t", (32, 4), 1).build("y"));
    cutting_is_zeroing(&c, &[&["a", "g"]]);
    assert_eq!(c.channels.groups[0].units(), 4);
}

#[test]
fn a_channel_multiplier_takes_all_its_outputs_with_it() {
    let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).relu("r", "a").grouped("g", "r", (8, 24), 8).relu("t", "g");
    check(net.conv("y", "t", (24, 4), 1), "y", &[&["a", "g"]]);
}

#[test]
fn pixel_shuffles_of_both_orders_are_cut_pixel_by_pixel() {
    for mode in ["DCR", "CRD"] {
        let net = Net::new(&IMAGE).conv("a", "x", (6, 32), 3).relu("r", "a");
        let net = net.node("DepthToSpace", "up", &["r"], vec![int("blocksize", 2), tensor::text("mode", mode)]);
        let net = net.node("SpaceToDepth", "down", &["up"], vec![int("blocksize", 2)]).conv("b", "down", (32, 8), 1);
        check(net.conv("y", "b", (8, 4), 1), "y", &[&["a"], &["b"]]);
    }
}

#[test]
fn a_flatten_computed_from_the_shape_follows() {
    let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).relu("r", "a").node("Shape", "dims", &["r"], vec![]);
    let net = net.constant(shape("zero", &[0])).node("Gather", "batch", &["dims", "zero"], vec![]).constant(shape("rest", &[512]));
    let net = net.node("Concat", "to", &["batch", "rest"], vec![int("axis", 0)]).node("Reshape", "f", &["r", "to"], vec![]);
    check(net.gemm("y", "f", (512, 4)), "y", &[&["a"]]);
}

#[test]
fn halves_computed_from_the_shape_become_fixed_sizes() {
    let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).relu("r", "a").node("Shape", "dims", &["r"], vec![]);
    let net = net.constant(shape("one", &[1])).node("Gather", "c", &["dims", "one"], vec![]).constant(shape("two", &[2]));
    let net = net.node("Div", "half", &["c", "two"], vec![]).constant(shape("zero", &[0])).constant(shape("axis", &[1]));
    let net = net.node("Slice", "p", &["r", "zero", "half", "axis"], vec![]).node("Slice", "q", &["r", "half", "c", "axis"], vec![]);
    let net = net.node("Concat", "cat", &["q", "p"], vec![int("axis", 1)]);
    check(net.conv("y", "cat", (8, 4), 3), "y", &[&["a"]]);
}

/// Query, key and value of 4 heads of 6 features each, from three layers.
fn attention(net: Net) -> Net {
    let mut net = net.constant(shape("heads", &[0, 0, 4, 6])).constant(shape("merged", &[0, 0, 24]));
    for (name, perm) in [("q", [0, 2, 1, 3]), ("k", [0, 2, 3, 1]), ("v", [0, 2, 1, 3])] {
        let part = |p: &str| format!("{name}.{p}");
        net = net.matmul(name, "x", (24, 24)).weight(&part("bias"), &[24]);
        net = net.node("Add", &part("sum"), &[name, &part("bias")], vec![]);
        net = net.node("Reshape", &part("apart"), &[&part("sum"), "heads"], vec![]);
        net = net.node("Transpose", &part("turned"), &[&part("apart")], vec![ints("perm", &perm)]);
    }
    net.node("MatMul", "scores", &["q.turned", "k.turned"], vec![])
        .node("Softmax", "p", &["scores"], vec![int("axis", -1)])
        .node("MatMul", "mix", &["p", "v.turned"], vec![])
        .node("Transpose", "back", &["mix"], vec![ints("perm", &[0, 2, 1, 3])])
        .node("Reshape", "o", &["back", "merged"], vec![])
}

#[test]
fn attention_heads_go_with_all_that_make_them() {
    let c = load(&attention(Net::new(&TOKENS)).matmul("y", "o", (24, 24)).build("y"));
    cutting_is_zeroing(&c, &[&["q", "k", "v"]]);
    assert_eq!(c.channels.groups[0].units(), 4, "a unit is a head");
}

#[test]
fn fused_queries_keys_and_values_are_cut_by_heads() {
    let net = Net::new(&TOKENS).matmul("qkv", "x", (24, 72)).weight("bias", &[72]).node("Add", "sum", &["qkv", "bias"], vec![]);
    let net = net.constant(shape("apart", &[0, 0, 3, 4, 6])).node("Reshape", "five", &["sum", "apart"], vec![]);
    let mut net = net.node("Transpose", "turned", &["five"], vec![ints("perm", &[2, 0, 3, 1, 4])]);
    for (i, name) in ["q", "k", "v"].into_iter().enumerate() {
        let index = TensorProto { dims: vec![], ..shape(&format!("{name}.i"), &[i as i64]) };
        net = net.constant(index).node("Gather", name, &["turned", &format!("{name}.i")], vec![int("axis", 0)]);
    }
    let net = net.node("Transpose", "kt", &["k"], vec![ints("perm", &[0, 1, 3, 2])]).node("MatMul", "scores", &["q", "kt"], vec![]);
    let net = net.node("Softmax", "p", &["scores"], vec![int("axis", -1)]).node("MatMul", "mix", &["p", "v"], vec![]);
    let net = net.node("Transpose", "back", &["mix"], vec![ints("perm", &[0, 2, 1, 3])]).constant(shape("merged", &[0, 0, 24]));
    let net = net.node("Reshape", "o", &["back", "merged"], vec![]);
    let c = load(&net.matmul("y", "o", (24, 24)).build("y"));
    cutting_is_zeroing(&c, &[&["qkv"]]);
    assert_eq!(c.channels.groups[0].units(), 4);
}

#[test]
fn convolutions_of_one_and_three_dimensions_are_cut_alike() {
    for spatial in [vec![9], vec![5, 6, 7]] {
        let dims: Vec<i64> = [-1, 6].into_iter().chain(spatial.iter().map(|&d| d as i64)).collect();
        let window = |out: usize, of: usize| [vec![out, of], vec![3; spatial.len()]].concat();
        let net = Net::new(&dims).weight("a.w", &window(8, 6)).weight("a.b", &[8]).node("Conv", "a", &["x", "a.w", "a.b"], vec![]);
        let net = net.relu("r", "a").weight("b.w", &window(8, 1)).node("Conv", "b", &["r", "b.w"], vec![int("group", 8)]);
        let net = net.weight("y.w", &[vec![4, 8], vec![1; spatial.len()]].concat()).node("Conv", "y", &["b", "y.w"], vec![]);
        check(net, "y", &[&["a", "b"]]);
    }
}

#[test]
fn a_grouped_transposed_convolution_loses_whole_groups() {
    let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).relu("r", "a").weight("t.w", &[8, 3, 3, 3]).weight("t.b", &[12]);
    let up = vec![int("group", 4), ints("strides", &[2, 2])];
    check(net.node("ConvTranspose", "t", &["r", "t.w", "t.b"], up).conv("y", "t", (12, 4), 1), "y", &[&["a", "t"]]);
}

#[test]
fn an_upsampling_to_written_sizes_is_rewritten() {
    let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).constant(shape("to", &[4, 8, 16, 16]));
    let net = net.node("Resize", "up", &["a", "", "", "to"], vec![tensor::text("mode", "nearest")]);
    check(net.conv("y", "up", (8, 4), 3), "y", &[&["a"]]);
}

#[test]
fn a_choice_between_two_values_ties_them() {
    let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).conv("b", "x", (6, 8), 1).weight("limit", &[8, 1, 1]);
    let net = net.node("Greater", "c", &["a", "limit"], vec![]).node("Where", "z", &["c", "a", "b"], vec![]);
    check(net.conv("y", "z", (8, 4), 3), "y", &[&["a", "b"]]);
}

#[test]
fn a_norm_over_the_channels_holds_them() {
    let net = Net::new(&TOKENS).matmul("a", "x", (24, 24)).weight("g", &[24]).node("LayerNormalization", "n", &["a", "g"], vec![]);
    let c = load(&net.matmul("b", "n", (24, 48)).node("Relu", "r", &["b"], vec![]).matmul("y", "r", (48, 24)).build("y"));
    assert_eq!(groups(&c), [["b"]]);
    assert_eq!(c.channels.groups[0].frozen.as_deref(), Some("LayerNormalization n computes over its channels"));
}

#[test]
fn a_map_of_one_channel_that_scales_many_is_left() {
    let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).conv("m", "x", (6, 1), 3).node("Sigmoid", "g", &["m"], vec![]);
    check(net.node("Mul", "z", &["a", "g"], vec![]).conv("y", "z", (8, 4), 1), "y", &[&["a"]]);
}

#[test]
fn joined_rows_have_the_same_channels() {
    let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).conv("b", "x", (6, 8), 1);
    let net = net.node("Concat", "cat", &["a", "b"], vec![int("axis", 2)]);
    check(net.conv("y", "cat", (8, 4), 3), "y", &[&["a", "b"]]);
}

#[test]
fn constant_left_sides_are_cut_along_the_rows() {
    let net = Net::new(&[-1, 24, 5]).weight("a.w", &[16, 24]).node("MatMul", "a", &["a.w", "x"], vec![]).relu("r", "a");
    check(net.weight("y.w", &[8, 16]).node("MatMul", "y", &["y.w", "r"], vec![]), "y", &[&["a"]]);
}

#[test]
fn a_batch_of_matrices_is_cut_in_every_one() {
    let net = Net::new(&[-1, 3, 5, 8]).weight("a.w", &[3, 8, 12]).node("MatMul", "a", &["x", "a.w"], vec![]).relu("r", "a");
    check(net.weight("y.w", &[3, 12, 4]).node("MatMul", "y", &["r", "y.w"], vec![]), "y", &[&["a"]]);
}

#[test]
fn layers_that_share_a_weight_are_treated_apart_and_share_what_is_left_alone() {
    let pads = || vec![ints("pads", &[1, 1, 1, 1])];
    let net = Net::new(&IMAGE).weight("w", &[6, 6, 3, 3]).node("Conv", "a", &["x", "w"], pads()).relu("r", "a");
    let net = net.node("Conv", "b", &["r", "w"], pads()).relu("s", "b").node("Conv", "c", &["s", "w"], pads());
    let c = load(&net.conv("y", "c", (6, 4), 1).build("y"));
    cutting_is_zeroing(&c, &[&["a"], &["b"], &["c"]]);
    let weights = |plan: &Plan| {
        let made = restructured(&c, plan).model;
        made.graph().initializer.iter().filter(|t| t.dims == [6, 6, 3, 3]).count()
    };
    assert_eq!(weights(&Plan::identity(&c.layers)), 1, "nothing is done: one weight");
    let int8 = Treatment { precision: Precision::Int8, ..Treatment::NONE };
    assert_eq!(weights(&only(&c, "b", int8)), 2, "one for a and c, one for b");
    let bytes = |plan: &Plan| {
        let outline = c.outline(plan, 1).unwrap();
        deployed_bytes(&outline.structured.model, &outline.precision)
    };
    // INT8 weights and the UINT64 of each output channel's dequantization on top.
    assert_eq!(bytes(&only(&c, "b", int8)), bytes(&Plan::identity(&c.layers)) + 6 * 6 * 9 + 6 * 8);
}

#[test]
fn a_table_that_is_also_a_weight_stays_whole() {
    let net = Net::new(&[-1, 24]).weight("w", &[24, 12]).matmul("a", "x", (24, 24)).relu("r", "a").node("MatMul", "b", &["r", "w"], vec![]);
    let net = net.constant(shape("i", &[3])).node("Gather", "row", &["w", "i"], vec![int("axis", 0)]);
    check(net.node("Add", "s", &["b", "row"], vec![]).matmul("y", "s", (12, 4)), "y", &[&["a"]]);
}

/// Every network below the folder that `GULLIVER_MODELS` names, with real weights: `cargo test --lib every_network -- --ignored`.
#[test]
#[ignore = "needs a folder of networks"]
fn every_network_of_a_folder_is_cut_as_if_zeroed() {
    let folder = std::env::var_os("GULLIVER_MODELS").expect("GULLIVER_MODELS names a folder");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "onnx"));
    paths.sort();
    for path in paths {
        let Ok(c) = Compressor::load(&runtime(), &path, &BTreeMap::new()) else { continue };
        let inputs: Vec<_> = c.model.inputs().cloned().collect();
        let plan = cut_everywhere(&c, 0.5);
        if plan.is_identity() || c.not_runnable.is_some() {
            continue;
        }
        let shapes = shape::infer(&c.model, 1, &c.assumed).unwrap();
        let feeds: Vec<(String, ArrayD<f32>)> = inputs
            .iter()
            .map(|i| {
                let whole = i.r#type.as_ref().and_then(|t| t.value.as_ref()).is_some_and(
                    |t| matches!(t, crate::graph::proto::type_proto::Value::TensorType(t) if !matches!(t.elem_type(), 1 | 10 | 11)),
                );
                let x = some(shapes.dims(i.name()).unwrap(), 5);
                (i.name().to_string(), if whole { x.mapv(|v| (v.abs() * 2.0).floor()) } else { x })
            })
            .collect();
        let views: Vec<_> = feeds.iter().map(|(n, x)| (n.as_str(), x.view())).collect();
        let outputs = |model: &Model| {
            let mut session = Session::from_bytes(&runtime(), &model.name, &model.to_bytes().unwrap(), SessionOptions::default()).unwrap();
            session.run(&views)
        };
        let Ok(expected) = outputs(&zeroed(&c, &plan)) else { continue };
        let found = outputs(&restructured(&c, &plan).model).unwrap();
        for (a, b) in expected.iter().zip(&found) {
            assert_eq!(a.shape(), b.shape());
            let range = a.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            let worst = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
            #[expect(clippy::print_stdout, reason = "a list for whoever runs this by hand")]
            {
                println!("{} {worst:e} of {range:e}", path.display());
            }
            assert!(worst <= (1e-4 * range).max(1e-6) || range.is_nan(), "{}: {worst} of {range}", path.display());
        }
    }
}
