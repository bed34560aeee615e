//! Tests that run the real library; it is located, or fetched into the cache once, as for a user.

use ndarray::{ArrayD, Axis, IxDyn};
use prost::Message;

use super::{Element, Level, Optimised, Runtime, Session, SessionOptions, optimise::optimise_in, optimise_basic, telemetry};
use crate::graph::{
    Model,
    proto::{
        GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, ValueInfoProto,
        tensor_proto::DataType,
        tensor_shape_proto::{Dimension, dimension},
        type_proto,
    },
    tensor::{from_f32, int, ints, node, scalar_8bit, scalar_f32},
};

fn runtime() -> Runtime {
    Runtime::start(&mut |_| {}).unwrap()
}

/// A value with its type; dimension −1 is left open.
fn value(name: &str, kind: DataType, dims: &[i64]) -> ValueInfoProto {
    let dim = |&d: &i64| {
        let value = if d < 0 { dimension::Value::DimParam("n".into()) } else { dimension::Value::DimValue(d) };
        Dimension { value: Some(value), ..Default::default() }
    };
    let shape = Some(TensorShapeProto { dim: dims.iter().map(dim).collect() });
    let tensor = type_proto::Tensor { elem_type: Some(kind as i32), shape };
    let kind = TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() };
    ValueInfoProto { name: Some(name.into()), r#type: Some(kind), ..Default::default() }
}

fn model(node: Vec<NodeProto>, constants: Vec<TensorProto>, input: Vec<ValueInfoProto>, output: Vec<ValueInfoProto>) -> Vec<u8> {
    let graph = GraphProto { name: Some("test".into()), node, initializer: constants, input, output, ..Default::default() };
    let opset = OperatorSetIdProto { domain: Some(String::new()), version: Some(17) };
    ModelProto { ir_version: Some(8), opset_import: vec![opset], graph: Some(graph), ..Default::default() }.encode_to_vec()
}

/// Numbers that differ from each other, between −1 and 1.
fn some(dims: &[usize], seed: usize) -> ArrayD<f32> {
    let mut n = seed;
    ArrayD::from_shape_simple_fn(IxDyn(dims), || {
        n = (n * 7919 + 104_729) % 65_537;
        n as f32 / 32_768.5 - 1.0
    })
}

/// Conv → BatchNorm → Relu → Flatten → Gemm on images of 3×4×4.
fn small_net() -> Vec<u8> {
    let constants = vec![
        from_f32("w", &some(&[2, 3, 3, 3], 1)),
        from_f32("scale", &some(&[2], 2)),
        from_f32("bias", &some(&[2], 3)),
        from_f32("mean", &some(&[2], 4)),
        from_f32("var", &some(&[2], 5).mapv(|v| v * v + 0.5)),
        from_f32("w2", &some(&[32, 5], 6)),
    ];
    let nodes = vec![
        node("Conv", "conv", &["x", "w"], &["c"], vec![ints("pads", &[1, 1, 1, 1])]),
        node("BatchNormalization", "bn", &["c", "scale", "bias", "mean", "var"], &["b"], vec![]),
        node("Relu", "relu", &["b"], &["r"], vec![]),
        node("Flatten", "flatten", &["r"], &["f"], vec![int("axis", 1)]),
        node("Gemm", "dense", &["f", "w2"], &["y"], vec![]),
    ];
    let outputs = vec![value("y", DataType::Float, &[-1, 5]), value("r", DataType::Float, &[-1, 2, 4, 4])];
    model(nodes, constants, vec![value("x", DataType::Float, &[-1, 3, 4, 4])], outputs)
}

fn optimised(bytes: &[u8]) -> Model {
    let Optimised::Model(bytes) = optimise_basic(&runtime(), "small", bytes).unwrap() else { panic!("all operators are known") };
    Model::parse("small", &bytes).unwrap()
}

fn session(bytes: &[u8], optimisation: Level, threads: usize) -> Session {
    Session::from_bytes(&runtime(), "test", bytes, SessionOptions { threads, optimisation }).unwrap()
}

fn one_to_one(op: &str, kind: DataType) -> Vec<u8> {
    let x = value("x", kind, &[-1]);
    model(vec![node(op, "n", &["x"], &["y"], vec![])], vec![], vec![x], vec![value("y", kind, &[-1])])
}

fn close(a: &ArrayD<f32>, b: &ArrayD<f32>) -> bool {
    a.shape() == b.shape() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-4)
}

#[test]
fn starting_twice_gives_the_same_library() {
    let (a, b) = (runtime(), runtime());
    assert_eq!(a.found(), b.found());
    assert!(a.path().is_file() && a.version().starts_with("1."));
    assert!(telemetry::silenced());
}

#[test]
fn the_basic_optimiser_folds_batchnorm_and_keeps_names_and_results() {
    let bytes = small_net();
    let small = optimised(&bytes);
    let nodes: Vec<_> = small.graph().node.iter().map(|n| (n.op_type(), n.name())).collect();
    assert!(nodes.contains(&("Conv", "conv")) && nodes.contains(&("Gemm", "dense")), "{nodes:?}");
    assert!(!nodes.iter().any(|(op, _)| *op == "BatchNormalization"), "{nodes:?}");
    assert!(small.graph().node.iter().all(|n| n.domain().is_empty()));
    let domains: Vec<_> = small.proto.opset_import.iter().map(|o| (o.domain(), o.version())).collect();
    assert_eq!(domains, [("", 17)]);

    let x = some(&[2, 3, 4, 4], 9);
    let run = |bytes: &[u8], level| session(bytes, level, 1).run(&[("x", x.view())]).unwrap();
    let before = run(&bytes, Level::Off);
    for (a, b) in before.iter().zip(run(&small.to_bytes().unwrap(), Level::All)) {
        assert!(close(a, &b));
    }
}

#[test]
fn the_optimiser_leaves_no_files_behind() {
    let folder = tempfile::tempdir().unwrap();
    optimise_in(folder.path(), &runtime(), "small", &small_net()).unwrap();
    optimise_in(folder.path(), &runtime(), "broken", b"no model").unwrap_err();
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn ports_tell_names_types_and_open_dimensions() {
    let session = session(&small_net(), Level::All, 1);
    let input = &session.inputs()[0];
    assert_eq!((input.name.as_str(), input.element), ("x", Element::F32));
    assert_eq!(input.dims, [None, Some(3), Some(4), Some(4)]);
    assert_eq!(session.outputs().iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["y", "r"]);
}

#[test]
fn outputs_can_be_chosen_by_name_and_order() {
    let x = some(&[2, 3, 4, 4], 9);
    let mut session = session(&small_net(), Level::All, 1);
    let all = session.run(&[("x", x.view())]).unwrap();
    let chosen = session.run_named(&[("x", x.view())], &["r", "y"]).unwrap();
    assert_eq!(chosen, [all[1].clone(), all[0].clone()]);
    assert_eq!(session.run_named(&[("x", x.view())], &["y"]).unwrap().len(), 1);
    let error = session.run_named(&[("x", x.view())], &["z"]).unwrap_err();
    assert_eq!(error.remedy(), Some("it has y, r"));
}

#[test]
fn every_layout_of_an_input_gives_the_same() {
    let x = some(&[2, 3, 4, 4], 9);
    let reversed = x.view().reversed_axes().as_standard_layout().into_owned();
    let mut session = session(&small_net(), Level::All, 1);
    let plain = session.run(&[("x", x.view())]).unwrap();
    assert_eq!(session.run(&[("x", reversed.view().reversed_axes())]).unwrap(), plain);
    let first = session.run(&[("x", x.slice_axis(Axis(0), (0..1).into()))]).unwrap();
    assert!(close(&first[0], &plain[0].slice_axis(Axis(0), (0..1).into()).to_owned()));
}

#[test]
fn inputs_and_outputs_of_other_types_are_converted() {
    use DataType::{Double, Float16, Int8, Int32, Int64, Uint8};
    let x = ArrayD::from_shape_vec(IxDyn(&[3]), vec![1.0f32, 2.0, 7.0]).unwrap();
    for kind in [Double, Float16, Int64, Int32, Int8, Uint8, DataType::Float] {
        let mut session = session(&one_to_one("Identity", kind), Level::All, 1);
        assert_eq!(session.run(&[("x", x.view())]).unwrap(), std::slice::from_ref(&x), "{kind:?}");
    }
    let mut session = session(&one_to_one("Not", DataType::Bool), Level::All, 1);
    assert_eq!(session.run(&[("x", ndarray::arr1(&[1.0f32, 0.0]).into_dyn().view())]).unwrap()[0].as_slice().unwrap(), [0.0, 1.0]);
}

#[test]
fn an_empty_batch_runs() {
    let mut session = session(&one_to_one("Identity", DataType::Float), Level::All, 1);
    let empty = ArrayD::<f32>::zeros(IxDyn(&[0]));
    assert_eq!(session.run(&[("x", empty.view())]).unwrap(), std::slice::from_ref(&empty));
}

#[test]
fn strings_are_refused_by_name() {
    let mut session = session(&one_to_one("Identity", DataType::String), Level::All, 1);
    let error = session.run(&[("x", some(&[2], 1).view())]).unwrap_err();
    assert_eq!(error.to_string(), "model test: the type of input x cannot be fed");
}

#[test]
fn a_model_that_is_refused_is_named_with_the_reason() {
    let bytes = model(
        vec![node("NoSuchOperator", "odd", &["x"], &["y"], vec![])],
        vec![],
        vec![value("x", DataType::Float, &[1])],
        vec![value("y", DataType::Float, &[1])],
    );
    let error = Session::from_bytes(&runtime(), "odd.onnx", &bytes, SessionOptions::default()).unwrap_err();
    assert_eq!(error.to_string(), "model odd.onnx: onnx runtime refuses it");
    assert!(std::error::Error::source(&error).unwrap().to_string().contains("NoSuchOperator"));
}

#[test]
fn wrong_inputs_are_errors_with_names() {
    let mut session = session(&small_net(), Level::All, 1);
    let x = some(&[1, 3, 4, 4], 9);
    let missing = session.run(&[]).unwrap_err();
    assert_eq!(missing.to_string(), "model test: needs the input x");
    let unknown = session.run(&[("x", x.view()), ("z", x.view())]).unwrap_err();
    assert_eq!(unknown.to_string(), "model test: has no input z");
    let misshapen = session.run(&[("x", some(&[1, 3, 5, 4], 9).view())]).unwrap_err();
    assert_eq!(misshapen.to_string(), "model test: onnx runtime could not run it");
    assert!(session.run(&[("x", x.view())]).is_ok(), "a session survives a failed run");
}

#[test]
fn many_sessions_run_beside_each_other_and_agree() {
    let bytes = small_net();
    let x = some(&[8, 3, 4, 4], 9);
    let expected = session(&bytes, Level::All, 1).run(&[("x", x.view())]).unwrap();
    std::thread::scope(|scope| {
        for threads in [1, 1, 2, 1] {
            let (bytes, x, expected) = (&bytes, &x, &expected);
            scope.spawn(move || {
                let mut session = session(bytes, Level::All, threads);
                for _ in 0..20 {
                    assert_eq!(&session.run(&[("x", x.view())]).unwrap(), expected);
                }
            });
        }
    });
}

/// x → Q → DQ → MatMul with a quantized weight: fused kernels on old x86 saturate, float arithmetic does not.
#[test]
fn quantized_models_are_computed_in_float() {
    let weight = TensorProto {
        name: Some("wq".into()),
        data_type: Some(DataType::Int8 as i32),
        dims: vec![64, 1],
        raw_data: Some(vec![127u8; 64].into()),
        ..Default::default()
    };
    let constants = vec![scalar_f32("s", 1.0), scalar_8bit("zu", 0, false), scalar_8bit("zs", 0, true), weight];
    let nodes = vec![
        node("QuantizeLinear", "q", &["x", "s", "zu"], &["xq"], vec![]),
        node("DequantizeLinear", "dq", &["xq", "s", "zu"], &["xd"], vec![]),
        node("DequantizeLinear", "dqw", &["wq", "s", "zs"], &["wd"], vec![]),
        node("MatMul", "mm", &["xd", "wd"], &["m"], vec![]),
    ];
    let bytes = model(nodes, constants, vec![value("x", DataType::Float, &[1, 64])], vec![value("m", DataType::Float, &[1, 1])]);
    let x = ArrayD::from_elem(IxDyn(&[1, 64]), 255.0f32);
    let y = session(&bytes, Level::All, 1).run(&[("x", x.view())]).unwrap();
    assert_eq!(y[0].as_slice().unwrap(), [64.0 * 255.0 * 127.0]);
}

#[test]
fn a_middle_quantizer_keeps_its_rounding() {
    let constants = vec![scalar_f32("a", 0.1), scalar_f32("b", 1.0), scalar_8bit("z", 0, true)];
    let nodes = vec![
        node("QuantizeLinear", "q1", &["x", "a", "z"], &["1q"], vec![]),
        node("DequantizeLinear", "d1", &["1q", "a", "z"], &["1d"], vec![]),
        node("QuantizeLinear", "q2", &["1d", "b", "z"], &["2q"], vec![]),
        node("DequantizeLinear", "d2", &["2q", "b", "z"], &["y"], vec![]),
    ];
    let bytes = model(nodes, constants, vec![value("x", DataType::Float, &[3])], vec![value("y", DataType::Float, &[3])]);
    let x = ndarray::arr1(&[0.6f32, 1.4, 3.0]).into_dyn();
    let y = session(&bytes, Level::All, 1).run(&[("x", x.view())]).unwrap();
    assert_eq!(y[0].as_slice().unwrap(), [1.0, 1.0, 3.0]);
}
