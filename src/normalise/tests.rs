//! Networks in the forms that exporters write, against ONNX Runtime's own output of them.

use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};

use super::*;
use crate::{
    graph::{
        fixture::{Net, some},
        layer::Layers,
        proto::{
            AttributeProto, GraphProto, OperatorSetIdProto, TensorProto, ValueInfoProto,
            attribute_proto::AttributeType,
            tensor_proto::{DataLocation, DataType},
            type_proto,
        },
        tensor::{self, float, from_f32, int, ints, node},
    },
    runtime::{Session, SessionOptions},
};

const IMAGE: [i64; 4] = [-1, 6, 8, 8];

fn runtime() -> Runtime {
    Runtime::start(&mut |_| ()).unwrap()
}

fn plain(model: &Model) -> Normalised {
    normalise(&runtime(), model, &Pins::new()).unwrap()
}

fn run(model: &Model, x: &ArrayD<f32>) -> ArrayD<f32> {
    let mut session = Session::from_bytes(&runtime(), &model.name, &model.to_bytes().unwrap(), SessionOptions::default()).unwrap();
    session.run(&[("x", x.view())]).unwrap().remove(0)
}

/// Normalises, compares both outputs, and gives the operators that are left.
fn same(model: &Model, x: &[usize]) -> (Vec<String>, Normalised) {
    let normal = plain(model);
    let x = some(x, 3);
    let (a, b) = (run(model, &x), run(&normal.model, &x));
    let range = a.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
    let worst = a.iter().zip(&b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    assert!(range > 0.0 && a.shape() == b.shape() && worst <= 1e-5 * range, "{worst} of {range}");
    (normal.model.graph().node.iter().map(|n| n.op_type().to_string()).collect(), normal)
}

fn layers(model: &Model) -> Layers {
    Layers::find(model, &shape::infer(model, 1, &Pins::new()).unwrap())
}

fn norm(net: Net, output: &str, input: &str, channels: usize) -> Net {
    let p = |part: &str| format!("{output}.{part}");
    let positive = |name: &str, seed| from_f32(name, &some(&[channels], seed).mapv(|v| v.abs() + 0.5));
    let net = net.constant(positive(&p("scale"), 1)).weight(&p("shift"), &[channels]).weight(&p("mean"), &[channels]);
    let net = net.constant(positive(&p("var"), 2));
    net.node("BatchNormalization", output, &[input, &p("scale"), &p("shift"), &p("mean"), &p("var")], vec![float("epsilon", 1e-3)])
}

#[test]
fn a_batch_norm_becomes_part_of_every_kind_of_layer() {
    let net = norm(Net::new(&IMAGE).conv("a", "x", (6, 8), 3), "n", "a", 8).relu("r", "n");
    let net = net.weight("t.w", &[8, 4, 3, 3]).node("ConvTranspose", "t", &["r", "t.w"], vec![]);
    let net = norm(net, "m", "t", 4).depthwise("d", "m", 4);
    let (ops, normal) = same(&norm(net, "y", "d", 4).build("y"), &[2, 6, 8, 8]);
    assert_eq!(ops, ["Conv", "Relu", "ConvTranspose", "Conv"]);
    assert_eq!(normal.merged["a"], ["n"]);
    assert_eq!((&normal.merged["t"], &normal.merged["d"]), (&vec!["m".to_string()], &vec!["y".to_string()]));
}

#[test]
fn a_norm_written_out_as_sub_mul_add_folds_like_one() {
    let net =
        Net::new(&IMAGE).conv("a", "x", (6, 8), 3).weight("mean", &[8, 1, 1]).weight("scale", &[1, 8, 1, 1]).weight("shift", &[8, 1, 1]);
    let net =
        net.node("Sub", "s", &["a", "mean"], vec![]).node("Mul", "m", &["scale", "s"], vec![]).node("Add", "p", &["m", "shift"], vec![]);
    let (ops, normal) = same(&net.relu("y", "p").build("y"), &[2, 6, 8, 8]);
    assert_eq!(ops, ["Conv", "Relu"]);
    assert_eq!(normal.merged["a"], ["s", "m", "p"]);
}

#[test]
fn a_norm_written_out_after_a_relu_folds_into_both_sides() {
    let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).relu("r", "a").weight("mean", &[8, 1, 1]);
    let net = net.constant(from_f32("scale", &some(&[8, 1, 1], 4).mapv(|v| v.abs() + 0.1)));
    let net = net.node("Sub", "s", &["r", "mean"], vec![]).node("Mul", "m", &["s", "scale"], vec![]);
    let net = net.weight("b.w", &[4, 8, 3, 3]).node("Conv", "y", &["m", "b.w"], vec![]);
    let (ops, normal) = same(&net.build("y"), &[2, 6, 8, 8]);
    assert_eq!(ops, ["Conv", "Relu", "Conv"]);
    assert_eq!(normal.merged["a"], ["s", "m"]);
}

#[test]
fn matmul_and_add_are_one_layer_with_the_matmuls_name() {
    let net = Net::new(&[-1, 5, 6]).matmul("a", "x", (6, 12)).weight("k", &[12]).node("Add", "s", &["k", "a"], vec![]);
    let (ops, normal) = same(&net.relu("y", "s").build("y"), &[2, 5, 6]);
    assert_eq!(ops, ["MatMul", "Add", "Relu"]);
    let found = layers(&normal.model).layers;
    assert_eq!((found[0].name.as_str(), found[0].bias_node), ("a", Some(1)));
}

#[test]
fn factors_behind_a_matmul_go_into_its_weight_and_one_add_stays() {
    let net = Net::new(&[-1, 5, 6]).matmul("a", "x", (6, 12)).weight("k", &[12]).node("Add", "s", &["a", "k"], vec![]);
    let net = net.constant(tensor::scalar_f32("half", 0.5)).node("Mul", "m", &["s", "half"], vec![]);
    let (ops, _) = same(&net.relu("y", "m").build("y"), &[2, 5, 6]);
    assert_eq!(ops, ["MatMul", "Add", "Relu"]);
}

#[test]
fn alpha_beta_and_a_scalar_bias_of_a_gemm_are_written_out() {
    let net = Net::new(&[-1, 6]).weight("w", &[6, 12]).constant(tensor::scalar_f32("c", 3.0));
    let model = net.node("Gemm", "y", &["x", "w", "c"], vec![float("alpha", 0.5), float("beta", 2.0)]).build("y");
    let (_, normal) = same(&model, &[2, 6]);
    let found = layers(&normal.model);
    assert!(found.skipped.is_empty() && found.layers[0].bias.is_some());
}

#[test]
fn weights_behind_transposes_casts_and_arithmetic_come_out_as_constants() {
    let net = Net::new(&[-1, 6]).weight("w", &[12, 6]).node("Transpose", "t", &["w"], vec![ints("perm", &[1, 0])]);
    let net = net.weight("g", &[1, 12]).node("Mul", "v", &["t", "g"], vec![]).node("Identity", "i", &["v"], vec![]);
    let (ops, normal) = same(&net.node("MatMul", "y", &["x", "i"], vec![]).build("y"), &[2, 6]);
    assert_eq!(ops, ["MatMul"]);
    assert_eq!(layers(&normal.model).layers[0].weight_dims, [6, 12]);
}

#[test]
fn constants_in_nodes_and_in_inputs_are_constants() {
    let mut model = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).relu("y", "a").build("y");
    let graph = model.graph_mut();
    let weight = graph.initializer.remove(0);
    let attribute =
        AttributeProto { name: Some("value".into()), r#type: Some(AttributeType::Tensor as i32), t: Some(weight), ..Default::default() };
    graph.node.insert(0, node("Constant", "made", &[], &["a.w"], vec![attribute]));
    let kind = |dims: &[i64]| Net::new(dims).build("x").graph().input[0].r#type.clone();
    graph.input.push(ValueInfoProto { name: Some("a.b".into()), r#type: kind(&[8]), ..Default::default() });
    if let Some(type_proto::Value::TensorType(t)) = graph.input[1].r#type.as_mut().and_then(|t| t.value.as_mut()) {
        t.shape.as_mut().unwrap().dim[0].value = Some(crate::graph::proto::tensor_shape_proto::dimension::Value::DimValue(8));
    }
    model.proto.ir_version = Some(3);
    let normal = plain(&model);
    assert_eq!(normal.model.inputs().map(|i| i.name()).collect::<Vec<_>>(), ["x"]);
    assert_eq!(normal.model.graph().input.len(), 1, "no constant is an input");
    assert_eq!(layers(&normal.model).layers.len(), 1);
}

#[test]
fn a_weight_of_one_repeated_value_is_known_by_its_dimensions() {
    let value = AttributeProto {
        name: Some("value".into()),
        r#type: Some(AttributeType::Tensor as i32),
        t: Some(from_f32("", &ArrayD::from_elem(IxDyn(&[1]), 0.25))),
        ..Default::default()
    };
    let net =
        Net::new(&[-1, 64, 8, 8]).constant(tensor::from_i64("dims", &[128, 64, 3, 3])).node("ConstantOfShape", "w", &["dims"], vec![value]);
    let model = net.node("Conv", "y", &["x", "w"], vec![]).build("y");
    let (ops, normal) = same(&model, &[1, 64, 8, 8]);
    assert_eq!(ops, ["Conv"]);
    let weight = &normal.model.graph().initializer[0];
    assert!(weight.raw_data.is_none() && tensor::fill(weight) == Some(0.25));
}

fn halved(t: &TensorProto, brain: bool) -> TensorProto {
    let bits = |v: f32| if brain { bf16::from_f32(v).to_bits() } else { f16::from_f32(v).to_bits() };
    let data: Vec<u8> = tensor::to_f32(t).unwrap().iter().flat_map(|&v| bits(v).to_le_bytes()).collect();
    let kind = if brain { DataType::Bfloat16 } else { DataType::Float16 };
    TensorProto { data_type: Some(kind as i32), raw_data: Some(data.into()), ..t.clone() }
}

#[test]
fn half_precision_networks_are_widened_and_keep_their_ports() {
    for brain in [false, true] {
        let mut model = Net::new(&IMAGE).opset(22).conv("a", "x", (6, 8), 3).relu("y", "a").build("y");
        let kind = if brain { DataType::Bfloat16 } else { DataType::Float16 } as i32;
        let graph = model.graph_mut();
        graph.initializer = graph.initializer.iter().map(|t| halved(t, brain)).collect();
        for port in graph.input.iter_mut().chain(&mut graph.output) {
            let Some(type_proto::Value::TensorType(t)) = port.r#type.as_mut().unwrap().value.as_mut() else { panic!() };
            t.elem_type = Some(kind);
        }
        let normal = plain(&model);
        assert!(normal.not_runnable.is_none());
        assert_eq!(layers(&normal.model).layers.len(), 1);
        let x = some(&[2, 6, 8, 8], 3);
        let wide = run(&normal.model, &x);
        if !brain {
            // ONNX Runtime computes halves in floats as well; what is left is the rounding of the output.
            let range = wide.iter().fold(0.0_f32, |m, v| m.max(v.abs()));
            assert!(run(&model, &x).iter().zip(&wide).all(|(a, b)| (a - b).abs() <= 1e-3 * range));
        }
    }
}

#[test]
fn sizes_that_depend_on_the_batch_stay_computed_and_others_do_not() {
    let net = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).node("Shape", "dims", &["a"], vec![]);
    let net = net.constant(tensor::from_i64("zero", &[0])).node("Gather", "n", &["dims", "zero"], vec![]);
    let net = net.constant(tensor::from_i64("rest", &[1])).node("Gather", "c", &["dims", "rest"], vec![]);
    let net = net.constant(tensor::from_i64("pixels", &[64])).node("Concat", "to", &["n", "c", "pixels"], vec![int("axis", 0)]);
    let (ops, normal) = same(&net.node("Reshape", "y", &["a", "to"], vec![]).build("y"), &[3, 6, 8, 8]);
    assert_eq!(ops, ["Conv", "Shape", "Gather", "Concat", "Reshape"], "the batch is still read, the channels are a constant");
    assert!(normal.model.graph().initializer.iter().any(|t| t.name().ends_with(".fixed")));
}

#[test]
fn an_operator_that_onnx_runtime_does_not_know_is_passed_through() {
    let mut model = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).node("Odd", "o", &["a"], vec![]).conv("y", "o", (8, 4), 1).build("y");
    model.graph_mut().node[1].domain = Some("com.example".into());
    model.proto.opset_import.push(OperatorSetIdProto { domain: Some("com.example".into()), version: Some(1) });
    let normal = plain(&model);
    assert!(normal.not_runnable.unwrap().contains("com.example:Odd"));
    let found = layers(&normal.model);
    assert_eq!(found.layers.len(), 2);
    assert_eq!(found.skipped[0].reason, "an operator of the domain com.example is passed through");
    assert_eq!(normal.model.proto.opset_import, model.proto.opset_import);
}

#[test]
fn quantized_layers_are_recognised_in_their_spellings() {
    let int8 = |name: &str| TensorProto {
        data_type: Some(DataType::Int8 as i32),
        raw_data: Some(vec![3_u8; 72].into()),
        dims: vec![6, 12],
        ..from_f32(name, &some(&[6, 12], 1))
    };
    let scale = || tensor::scalar_f32("s", 0.1);
    let qdq = Net::new(&[-1, 6]).constant(int8("w")).constant(scale()).node("DequantizeLinear", "d", &["w", "s"], vec![]);
    let qdq = qdq.node("MatMul", "y", &["x", "d"], vec![]).build("y");
    let cast = Net::new(&[-1, 6]).constant(int8("w")).constant(scale()).node("Cast", "c", &["w"], vec![int("to", 1)]);
    let cast = cast.node("Mul", "m", &["c", "s"], vec![]).node("MatMul", "y", &["x", "m"], vec![]).build("y");
    for (model, by) in [(qdq, "DequantizeLinear"), (cast, "Mul")] {
        let (_, normal) = same(&model, &[2, 6]);
        let found = layers(&normal.model);
        assert!(found.layers.is_empty());
        assert_eq!(
            found.skipped[0].reason,
            format!("already quantized: its weight comes in integers through {}", if by == "Mul" { "Cast" } else { by })
        );
    }
    let dynamic = Net::new(&[-1, 6]).constant(int8("w")).several("DynamicQuantizeLinear", &["q", "qs", "qz"], &["x"], vec![]);
    let dynamic = dynamic.node("MatMulInteger", "i", &["q", "w"], vec![]).node("Cast", "y", &["i"], vec![int("to", 1)]).build("y");
    assert_eq!(layers(&same(&dynamic, &[2, 6]).1.model).skipped[0].reason, "already quantized");
}

#[test]
fn what_stands_in_branches_is_kept_whole_and_told_of() {
    let value = |name: &str| ValueInfoProto { name: Some(name.into()), ..Default::default() };
    let branch = |name: &str, op: &str| {
        let out = format!("{name}.out");
        let body = node(op, &out, if op == "Conv" { &["x", "w"] } else { &["x"] }, &[&out], vec![]);
        let graph = GraphProto { name: Some(name.into()), node: vec![body], output: vec![value(&out)], ..Default::default() };
        AttributeProto { name: Some(name.into()), r#type: Some(AttributeType::Graph as i32), g: Some(graph), ..Default::default() }
    };
    let net = Net::new(&IMAGE).weight("w", &[6, 6, 1, 1]).node("ReduceMax", "m", &["x"], vec![int("keepdims", 0)]);
    let net = net.node("Cast", "yes", &["m"], vec![int("to", 9)]).node(
        "If",
        "i",
        &["yes"],
        vec![branch("then_branch", "Conv"), branch("else_branch", "Relu")],
    );
    let (_, normal) = same(&net.conv("y", "i", (6, 4), 1).build("y"), &[1, 6, 8, 8]);
    let found = layers(&normal.model);
    assert_eq!(found.layers.len(), 1);
    assert_eq!(found.skipped[0].reason, "its subgraphs are kept whole; it holds 1 Conv");
}

#[test]
fn external_data_stays_on_disk_until_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).relu("y", "a").build("y");
    let expected = run(&model, &some(&[2, 6, 8, 8], 3));
    let mut data = vec![7_u8; 64];
    for t in &mut model.graph_mut().initializer {
        let bytes = t.raw_data.take().unwrap();
        let entry = |key: &str, value: String| crate::graph::proto::StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        t.external_data = vec![
            entry("location", "weights.bin".into()),
            entry("offset", data.len().to_string()),
            entry("length", bytes.len().to_string()),
        ];
        t.data_location = Some(DataLocation::External as i32);
        data.extend_from_slice(&bytes);
    }
    let path = folder.path().join("model.onnx");
    std::fs::write(folder.path().join("weights.bin"), &data).unwrap();
    std::fs::write(&path, prost::Message::encode_to_vec(&model.proto)).unwrap();
    let loaded = Model::load(&path).unwrap();
    assert!(loaded.has_external_data());
    assert_eq!(run(&plain(&loaded).model, &some(&[2, 6, 8, 8], 3)), expected);
    std::fs::write(folder.path().join("weights.bin"), &data[..100]).unwrap();
    let message = Model::load(&path).unwrap_err().to_string();
    assert!(message.contains("initializer a.w") && message.contains("weights.bin"), "{message}");
}

#[test]
fn a_file_with_its_nodes_out_of_order_is_sorted() {
    let mut model = Net::new(&IMAGE).conv("a", "x", (6, 8), 3).relu("r", "a").conv("y", "r", (8, 4), 1).build("y");
    model.graph_mut().node.reverse();
    let sorted = Model::parse("sorted", &prost::Message::encode_to_vec(&model.proto)).unwrap();
    assert_eq!(sorted.graph().node.iter().map(|n| n.name()).collect::<Vec<_>>(), ["a", "r", "y"]);
}
