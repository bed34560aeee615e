//! Networks in unusual files, from the command line: what is said of them, and that they compute the same.

#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use std::{fs, path::Path};

use common::{dataset, gulliver, run};
use gulliver::graph::{
    Model,
    proto::{
        NodeProto, StringStringEntryProto, TensorShapeProto, tensor_proto::DataLocation, tensor_shape_proto::dimension::Value as Dim,
        type_proto::Value as Type,
    },
};
use serde_json::Value;

const MAKE_INT8: &str = "treatments:\n- {layers: '*', precision: int8}\n- {layers: [first, last], precision: fp16}\n";

fn resnet() -> Model {
    Model::load(&dataset("cifar10-resnet20.onnx")).unwrap()
}

fn input_shape(model: &mut Model) -> &mut TensorShapeProto {
    let Some(Type::TensorType(t)) = model.graph_mut().input[0].r#type.as_mut().unwrap().value.as_mut() else { panic!() };
    t.shape.as_mut().unwrap()
}

fn save(model: &Model, path: &Path) {
    fs::write(path, model.to_bytes().unwrap()).unwrap();
}

/// What a command prints as JSON.
fn told(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> Value {
    run(gulliver().args(arguments.iter().map(|a| a.as_ref())).arg("--json")).ends_with(0).json()
}

/// Accuracy on some test images, of a model and of its INT8 twin.
fn scores(model: &Path, folder: &Path) -> (f64, f64) {
    let plan = folder.join("plan.yaml");
    fs::write(&plan, MAKE_INT8).unwrap();
    let twin = folder.join("twin.onnx");
    let data = dataset("cifar10-test.npz");
    let input = "{scale: 0.00392157, mean: [0.4914, 0.4822, 0.4465], std: [0.247, 0.2435, 0.2616]}";
    told(&[&"compress", &model, &plan, &"--data", &data, &"--samples", &"16", &"--input", &input, &"--out", &twin]);
    let accuracy = |m: &Path| {
        let score = told(&[&"evaluate", &m, &"--data", &data, &"--samples", &"64", &"--input", &input]);
        score["accuracy"].as_f64().unwrap()
    };
    (accuracy(model), accuracy(&twin))
}

#[test]
fn a_fixed_batch_gives_the_scores_of_an_open_one() {
    let folder = tempfile::tempdir().unwrap();
    let expected = scores(&dataset("cifar10-resnet20.onnx"), folder.path());
    for batch in [1, 3] {
        let mut model = resnet();
        input_shape(&mut model).dim[0].value = Some(Dim::DimValue(batch));
        let path = folder.path().join("fixed.onnx");
        save(&model, &path);
        assert_eq!(scores(&path, folder.path()), expected, "batch {batch}");
    }
}

#[test]
fn weights_in_another_file_give_the_same_scores_and_one_file() {
    let folder = tempfile::tempdir().unwrap();
    let expected = scores(&dataset("cifar10-resnet20.onnx"), folder.path());
    let mut model = resnet();
    let mut data = Vec::new();
    for t in &mut model.graph_mut().initializer {
        let Some(bytes) = t.raw_data.take() else { continue };
        let entry = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
        t.external_data =
            vec![entry("location", "w.data".into()), entry("offset", data.len().to_string()), entry("length", bytes.len().to_string())];
        t.data_location = Some(DataLocation::External as i32);
        data.extend_from_slice(&bytes);
    }
    let inside = folder.path().join("inside");
    fs::create_dir(&inside).unwrap();
    fs::write(inside.join("w.data"), &data).unwrap();
    let path = inside.join("model.onnx");
    fs::write(&path, prost::Message::encode_to_vec(&model.proto)).unwrap();
    assert_eq!(scores(&path, folder.path()), expected);
    // What was written beside another folder holds its weights itself.
    assert!(!Model::load(&folder.path().join("twin.onnx")).unwrap().has_external_data());
}

#[test]
fn open_sizes_are_assumed_for_looking_and_asked_for_where_figures_depend_on_them() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = resnet();
    for (i, name) in [(2, "height"), (3, "width")] {
        input_shape(&mut model).dim[i].value = Some(Dim::DimParam(name.into()));
    }
    let path = folder.path().join("open.onnx");
    save(&model, &path);
    let seen = told(&[&"inspect", &path]);
    assert_eq!(seen["assumed"]["image"], serde_json::json!([1, 3, 224, 224]));
    let said = run(gulliver().arg("inspect").arg(&path)).ends_with(0);
    assert!(said.out.contains("assumed: input image is 1×3×224×224; --shape image:1,3,224,224 says otherwise"), "{}", said.out);
    let pinned = told(&[&"inspect", &path, &"--shape", &"image:1,3,32,32"]);
    assert_eq!(pinned["assumed"], serde_json::json!({}));
    run(gulliver().arg("latency").arg(&path).args(["--device", "ascend310p3"])).refuses(&["image", "--shape"]);
    let spec = folder.path().join("spec.yaml");
    let with = |shapes: &str| {
        let data = format!("{{file: {}, samples: 8}}", dataset("cifar10-test.npz").display());
        let text = format!(
            "model: open.onnx\n{shapes}data: {{calibration: {data}, validation: {data}}}\ndevice: {{name: ascend310p3}}\nsearch: {{trials: 1}}\n"
        );
        fs::write(&spec, text).unwrap();
        run(gulliver().arg("tune").arg(&spec).arg("--study").arg(folder.path().join("study")))
    };
    with("").refuses(&["image", "shapes:"]);
    let done = with("shapes: {image: [0, 3, 32, 32]}\n");
    assert!(matches!(done.code, Some(0 | 3)), "{}", done.err);
}

#[test]
fn inspect_tells_the_users_nodes_and_why_not() {
    let seen = told(&[&"inspect", &dataset("cifar10-vgg.onnx")]);
    let layer = |name: &str| seen["layers"].as_array().unwrap().iter().find(|l| l["name"] == name).unwrap().clone();
    let first = &seen["layers"][0];
    assert_eq!(first["nodes"].as_array().unwrap().len(), 2, "a convolution and the norm behind its ReLU: {first}");
    let model = Model::load(&dataset("cifar10-vgg.onnx")).unwrap();
    let norm = first["nodes"][1].as_str().unwrap();
    assert!(model.graph().node.iter().any(|n: &NodeProto| n.name() == norm && n.op_type() == "BatchNormalization"));
    assert_eq!(first["input_shape"], serde_json::json!([1, 3, 32, 32]));
    assert_eq!(first["output_shape"], serde_json::json!([1, 64, 30, 30]));
    assert_eq!((first["weights"].as_u64(), first["macs"].as_u64()), (Some(64 * 27), Some(64 * 27 * 30 * 30)));
    let last = seen["layers"].as_array().unwrap().last().unwrap()["name"].as_str().unwrap().to_string();
    assert_eq!(layer(&last)["why_not"]["keep"], "its channels are an output of the network");
}

#[test]
fn an_operator_of_nobodys_can_be_looked_at_and_is_named_when_it_must_run() {
    let folder = tempfile::tempdir().unwrap();
    let mut model = resnet();
    let relu = model.graph_mut().node.iter_mut().find(|n| n.op_type() == "Relu").unwrap();
    (relu.op_type, relu.domain) = (Some("Odd".into()), Some("com.example".into()));
    let path = folder.path().join("odd.onnx");
    save(&model, &path);
    let seen = told(&[&"inspect", &path]);
    assert_eq!(seen["skipped"][0]["why_not"], "an operator of the domain com.example is passed through");
    assert_eq!(seen["layers"].as_array().unwrap().len(), 22);
    let plan = folder.path().join("plan.yaml");
    fs::write(&plan, MAKE_INT8).unwrap();
    let out = folder.path().join("out.onnx");
    let command = &mut gulliver();
    let command = command.arg("compress").arg(&path).arg(&plan).arg("--data").arg(dataset("cifar10-test.npz")).arg("--out").arg(&out);
    run(command).refuses(&["odd.onnx", "com.example"]);
    assert!(!out.exists());
}
