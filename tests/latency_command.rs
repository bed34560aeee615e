//! `gulliver latency`: what it says in text and JSON, and what it refuses.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::path::PathBuf;

use common::{Bed, Said, dataset};
use serde_json::Value;

/// Evidence as a fit writes it; only convolutions and matrix products were measured.
const EVIDENCE: &str = "
evidence:
  data: a table
  date: '2025-01-01'
  rows: 10
  networks: 5
  families: 3
  median_error: 0.1
  p90_error: 0.3
  ratio_error: 0.05
  noise_floor: 0.02
  factor_90: 1.4
  seen:
    conv: { bytes: [1, 1000000000000], macs: [1, 1000000000000000] }
    mat_mul: { bytes: [1, 1000000000000], macs: [1, 1000000000000000] }
";

fn topology(name: &str) -> PathBuf {
    dataset(&format!("latency/{name}.onnx"))
}

/// What is said of ResNet-18 on a device.
fn latency(bed: &Bed, device: &str, more: &[&str]) -> Said {
    let model = topology("resnet18");
    bed.gulliver(["latency", model.to_str().unwrap(), "--device", device].iter().chain(more))
}

/// Profiles of 310P3 in the bed: `measured.yaml` with evidence and `blind.yaml` without.
fn chips() -> Bed {
    let bed = Bed::new();
    let yaml = bed.gulliver(["device", "show", "ascend310p3"]).ends_with(0).out;
    let plain = yaml.split("\nevidence:").next().unwrap();
    bed.write("blind.yaml", format!("{plain}\n"));
    bed.write("measured.yaml", format!("{plain}{EVIDENCE}"));
    bed
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn the_text_has_the_longest_kernels_their_parts_the_kinds_and_the_interval() {
    let bed = chips();
    let said = latency(&bed, "measured.yaml", &["--batch", "1,8"]).ends_with(0).out;
    for words in [
        "conditions: as ATC compiles unasked",
        "ascend310p3, batch 8: ",
        "nine in ten measurements of networks held out of the fit lie within",
        "share of each kind",
    ] {
        assert!(said.contains(words), "{words} is not in {said}");
    }
    let table = said.lines().skip_while(|l| !l.starts_with("kernel ")).take_while(|l| !l.starts_with("cube, vector")).count();
    assert_eq!(table, 1 + 20 + 2, "{said}");
    assert!(said.contains("more, --all shows them)") && said.contains("unlike all that was measured, the interval is wider for them:"));
    assert!(said.contains("no pooling was among the measurements"), "{said}");
    let whole = latency(&bed, "measured.yaml", &["--all"]).ends_with(0).out;
    assert!(whole.lines().any(|l| l.contains("/conv1/Conv /relu/Relu")) && !whole.contains("--all shows"), "{whole}");
    let blind = latency(&bed, "blind.yaml", &[]).ends_with(0).out;
    assert!(blind.contains("this chip was never measured: no interval can be given") && !blind.contains("unlike all"), "{blind}");
}

#[test]
fn json_has_all_that_the_text_has_and_its_figures_add_up() {
    let bed = chips();
    let json = latency(&bed, "measured.yaml", &["--batch", "8", "--json"]).ends_with(0).json();
    let of = &json["batches"][0];
    let sum = |list: &str, key: &str| of[list].as_array().unwrap().iter().map(|k| number(&k[key])).sum::<f64>();
    let total = number(&of["latency_ms"]) * 1e3;
    assert!((sum("kernels", "us") + number(&of["fixed_us"]) - total).abs() < 1e-6 * total);
    assert!((sum("kinds", "us") - sum("kernels", "us")).abs() < 1e-6 * total);
    assert!((number(&of["fps"]) - 8e6 / total).abs() < 1e-6 * number(&of["fps"]));
    let first = &of["kernels"].as_array().unwrap().iter().find(|k| k["name"] == "/conv1/Conv").unwrap();
    assert_eq!(
        (&first["op"], &first["bound"], first["macs"].as_u64()),
        (&"conv".into(), &"cube".into(), Some(8 * 112 * 112 * 49 * 3 * 64))
    );
    assert!(number(&first["parts"]["cube"]) < number(&first["us"]) && number(&first["parts"]["ddr"]) > 0.0);
    let [low, high] = [0, 1].map(|end| number(&of["interval_ms"][end]));
    assert!(low < total / 1e3 / 1.4 && total / 1e3 * 1.4 < high, "wider than 1.4 for what is extrapolated");
    assert!(of["extrapolated"].as_array().unwrap().iter().any(|e| e["kernel"] == "/maxpool/MaxPool"));
    assert_eq!(json["conditions"], serde_json::json!({ "aipp": false, "small_channel": false, "integer_residual": false }));
    assert!(json["measured"].is_null() && json["what_if"].is_null() && of["compare"].is_null());
}

#[test]
fn conditions_and_the_host_change_the_prediction_and_are_said() {
    let bed = chips();
    let ms =
        |more: &[&str]| number(&latency(&bed, "blind.yaml", &[more, &["--json"]].concat()).ends_with(0).json()["batches"][0]["latency_ms"]);
    let plain = ms(&[]);
    assert!(ms(&["--aipp"]) < plain && ms(&["--aipp", "--small-channel"]) < ms(&["--aipp"]));
    assert!((ms(&["--host-us", "500"]) - plain - 0.5).abs() < 1e-9);
    assert!(ms(&["--precision", "int8", "--integer-residual"]) < ms(&["--precision", "int8"]));
    let said = latency(&bed, "blind.yaml", &["--aipp", "--host-us", "500", "--precision", "int8"]).ends_with(0).out;
    assert!(said.contains("conditions: image through AIPP, 500.0 µs of the host for each inference"), "{said}");
    assert!(said.contains("what if: int8 wherever a layer can take it (21 layers in int8); no accuracy was looked at"), "{said}");
}

#[test]
fn what_a_chip_or_a_model_cannot_take_is_refused() {
    let bed = chips();
    let yaml = String::from_utf8(bed.read("blind.yaml")).unwrap();
    bed.write("dry.yaml", yaml.replace("image_input: true", "image_input: false"));
    latency(&bed, "dry.yaml", &["--aipp"]).refuses(&["dry.yaml", "--aipp"]);
    latency(&bed, "dry.yaml", &["--small-channel"]).refuses(&["dry.yaml", "--small-channel"]);
    latency(&bed, "dry.yaml", &[]).ends_with(0);
    for wrong in [["--measured", "8"], ["--measured", "0=1ms"], ["--host-us", "-1"], ["--precision", "int16"]] {
        assert_eq!(latency(&bed, "blind.yaml", &wrong).code, Some(2), "{wrong:?}");
    }
    latency(&bed, "blind.yaml", &["--compare", "nowhere.onnx"]).refuses(&["nowhere.onnx"]);
    let said = bed.compress(&dataset("cifar10-resnet20.onnx"), "  - {layers: \"*\", precision: int8}\n");
    said.ends_with(0);
    bed.gulliver(["latency", "out.onnx", "--device", "ascend310p3", "--precision", "int8"]).refuses(&["out.onnx", "--precision"]);
}

#[test]
fn a_measured_batch_is_met_exactly_and_the_others_move_with_it() {
    let bed = chips();
    let ms = |json: &Value, of: usize| number(&json["batches"][of]["latency_ms"]);
    let plain = latency(&bed, "measured.yaml", &["--batch", "1,8", "--json"]).ends_with(0).json();
    let point = format!("8={}ms", 1.2 * ms(&plain, 1));
    let scaled = latency(&bed, "measured.yaml", &["--batch", "1,8", "--measured", &point, "--json"]).ends_with(0).json();
    assert!((ms(&scaled, 1) / ms(&plain, 1) - 1.2).abs() < 1e-9);
    let other = ms(&scaled, 0) / ms(&plain, 0);
    assert!((1.05..1.25).contains(&other), "{other}");
    assert!((number(&scaled["measured"]["factor"]) - 1.2).abs() < 1e-9 && scaled["measured"]["warning"].is_null());
    let high = number(&scaled["batches"][0]["interval_ms"][1]);
    assert!((high / ms(&scaled, 0) - 1.05f64.powf(2.439)).abs() < 1e-9, "the error of a ratio is left");
    assert!(scaled["batches"][1]["interval_ms"].is_null());

    let far = format!("8={}", 2.0 * ms(&plain, 1));
    let said = latency(&bed, "measured.yaml", &["--batch", "1,8", "--measured", &far]).ends_with(0).out;
    assert!(said.contains("2.000 times as much; predictions") && said.contains("as you measured it"), "{said}");
    assert!(said.contains("warning: measured 2.00 times slower than predicted") && said.contains("--host-us"), "{said}");
    let blind = latency(&bed, "blind.yaml", &["--measured", &far]).ends_with(0).out;
    assert!(!blind.contains("warning") && blind.contains("nothing but your point was measured on this chip"), "{blind}");
}

#[test]
fn two_models_are_compared_by_kind_and_by_part() {
    let bed = chips();
    let float = topology("resnet18");
    let against = ["--compare", float.to_str().unwrap(), "--batch", "1,8"];
    let same = latency(&bed, "measured.yaml", &against).ends_with(0).out;
    assert!(same.contains("1.000 × of it") && same.contains("not told apart: the median error of a ratio"), "{same}");
    assert!(same.contains("no part takes another time"), "{same}");

    let faster = [&against[..], &["--precision", "int8"]].concat();
    let said = latency(&bed, "measured.yaml", &faster).ends_with(0).out;
    assert!(said.contains("nine in ten errors are smaller than this difference"), "{said}");
    let json = latency(&bed, "measured.yaml", &[&faster[..], &["--json"]].concat()).ends_with(0).json();
    let found = &json["batches"][1]["compare"];
    assert_eq!((&found["verdict"], number(&found["ratio_error"])), (&"told_apart".into(), 0.05));
    let [this, other] = [0, 1].map(|side| found["parts"].as_array().unwrap().iter().map(|p| number(&p["us"][side])).sum::<f64>());
    let fixed = number(&json["batches"][1]["fixed_us"]);
    assert!((this + fixed - 1e3 * number(&found["latency_ms"][0])).abs() < 1e-6 && this < other);
    let only = |p: &&Value| p["kernels"][1] == 0;
    let new: Vec<&Value> = found["parts"].as_array().unwrap().iter().filter(only).collect();
    assert!(!new.is_empty() && new.iter().all(|p| p["name"].as_str().unwrap().ends_with(".quant.int8")), "{new:?}");
}

#[test]
fn a_decomposed_model_is_compared_with_the_float_one_layer_by_layer() {
    let bed = chips();
    let float = dataset("cifar10-resnet20.onnx");
    bed.compress(&float, "  - {layers: \"*\", precision: int8}\n  - {layers: \"/body/body.[678]/c2/Conv\", precision: int8, rank: 16}\n")
        .ends_with(0);
    let words = ["latency", "out.onnx", "--device", "blind.yaml", "--compare", float.to_str().unwrap(), "--batch", "32"];
    let json = bed.gulliver(words.iter().chain(&["--json"])).ends_with(0).json();
    let found = &json["batches"][0]["compare"];
    assert_eq!(found["verdict"], "unknown");
    let parts = found["parts"].as_array().unwrap();
    let split = parts.iter().filter(|p| p["kernels"] == serde_json::json!([2, 1])).count();
    assert_eq!(split, 3, "{parts:?}");
    assert!(parts.iter().all(|p| p["kernels"][0] != 0), "every layer of the float model is found again: {parts:?}");
    assert!(number(&found["common"]) > 0.5);
}

#[test]
fn a_sparse_model_is_predicted_faster_where_the_chip_skips_zeros() {
    let bed = Bed::new();
    let float = dataset("cifar10-vgg.onnx");
    let ms = |rule: &str, device: &str| {
        bed.compress(&float, &format!("  - {{layers: conv2d_4, precision: int8{rule}}}\n")).ends_with(0);
        let json = bed.gulliver(["latency", "out.onnx", "--device", device, "--batch", "8", "--json"]).ends_with(0).json();
        number(&json["batches"][0]["latency_ms"])
    };
    let sparse = ", sparsity: '4:2'";
    assert!(ms(sparse, "ascend310b1") < ms("", "ascend310b1"));
    assert_eq!(ms(sparse, "ascend310p3"), ms("", "ascend310p3"));
}

#[test]
fn a_roofline_is_written_where_it_is_asked_for() {
    let bed = chips();
    let said = latency(&bed, "blind.yaml", &["--batch", "1,8", "--plot", "roof.svg"]).ends_with(0).out;
    assert!(said.ends_with("written: roof.svg\n"), "{said}");
    let svg = String::from_utf8(bed.read("roof.svg")).unwrap();
    assert!(
        svg.starts_with("<svg") && svg.contains("resnet18.onnx on ascend310p3, batch 8") && svg.contains("cube, fp16: 34.7"),
        "{svg:.2000}"
    );
    latency(&bed, "blind.yaml", &["--json", "--plot", "again.svg"]).ends_with(0).json();
    assert!(bed.path("again.svg").exists());
}

#[test]
fn a_model_with_a_fixed_batch_is_predicted_at_that_batch() {
    let bed = Bed::new();
    let args = ["latency", "pinned.onnx", "--device", "ascend310p3", "--batch", "1,8", "--json"];
    bed.write("pinned.onnx", pinned());
    let said = bed.gulliver(args).ends_with(0);
    let batches = said.json()["batches"].as_array().unwrap().clone();
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0]["batch"], 4);
    assert!(said.err.contains("fixed batch"), "{}", said.err);
}

/// ResNet-18 whose input says a batch of 4.
fn pinned() -> Vec<u8> {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets/latency/resnet18.onnx");
    let mut model = gulliver::graph::Model::load(&path).unwrap();
    let input = &mut model.proto.graph.as_mut().unwrap().input[0];
    let Some(gulliver::graph::proto::type_proto::Value::TensorType(t)) = input.r#type.as_mut().unwrap().value.as_mut() else { panic!() };
    t.shape.as_mut().unwrap().dim[0].value = Some(gulliver::graph::proto::tensor_shape_proto::dimension::Value::DimValue(4));
    model.to_bytes().unwrap()
}
