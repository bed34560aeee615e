//! `gulliver device fit`: a profile from a table, from the profiler's rows, and from one measured time.
#![allow(clippy::unwrap_used, reason = "tests")]

mod common;

use common::{Bed, dataset};
use serde_json::Value;

fn topology(name: &str) -> String {
    dataset(&format!("latency/{name}.onnx")).to_str().unwrap().to_string()
}

/// The predicted times of a network's kernels, and of the whole, ms, at batch 8.
fn predicted(bed: &Bed, device: &str, network: &str) -> (Vec<Value>, f64) {
    predicted_at(bed, device, network, "8")
}

fn predicted_at(bed: &Bed, device: &str, network: &str, batch: &str) -> (Vec<Value>, f64) {
    let said = bed.gulliver(["latency", topology(network).as_str(), "--device", device, "--batch", batch, "--json"]).ends_with(0).json();
    let batch = &said["batches"][0];
    (batch["kernels"].as_array().unwrap().clone(), batch["latency_ms"].as_f64().unwrap())
}

#[test]
fn a_table_gives_a_profile_that_predicts_it_and_a_report() {
    let bed = Bed::new();
    let mut table = String::from("model,batch,fps\n");
    for network in ["resnet18", "vgg16", "mobilenet_v2", "googlenet"] {
        for batch in ["1", "4", "8", "16", "32"] {
            // A chip that takes a quarter longer than the profile says.
            let ms = 1.25 * predicted_at(&bed, "ascend310p3", network, batch).1;
            table += &format!("{network},{batch},{}\n", batch.parse::<f64>().unwrap() * 1e3 / ms);
        }
    }
    bed.write("t.csv", table);
    let folder = dataset("latency");
    let args = ["device", "fit", "--device", "ascend310p3", "--table", "t.csv", "--topologies", folder.to_str().unwrap()];
    let more = ["--validate", "--out", "mine.yaml", "--report", "r"];
    bed.gulliver(args.iter().chain(&more)).ends_with(0);
    for file in ["r/report.md", "r/fit.json", "r/predicted.svg", "r/families.svg"] {
        assert!(!bed.read(file).is_empty(), "{file}");
    }
    let (before, after) = (predicted(&bed, "ascend310p3", "vgg16").1, predicted(&bed, "mine.yaml", "vgg16").1);
    assert!((after / before - 1.25).abs() < 0.1, "{}", after / before);
    bed.gulliver(args.iter().chain(&more)).refuses(&["mine.yaml", "--force"]);
}

#[test]
fn profiled_kernels_are_met_what_is_left_over_is_listed_and_other_networks_are_no_surer_than_before() {
    let bed = Bed::new();
    let (kernels, _) = predicted(&bed, "ascend310p3", "resnet18");
    let mut rows = String::from("Op Name,OP Type,Task Type,Task Start Time(us),Task Duration(us),Block Num\n");
    for (i, k) in kernels.iter().enumerate().filter(|(i, k)| *i != 3 && k["op"] == "conv") {
        let names: String = k["nodes"].as_array().unwrap().iter().map(|n| n.as_str().unwrap()).collect();
        rows += &format!("{names},Conv2D,AI_CORE,{},{},8\n", 100 * i, 1.4 * k["us"].as_f64().unwrap());
    }
    rows += "stranger,Foo,AI_CORE,99999,3.0,1\n";
    bed.write("ops.csv", rows);
    let model = topology("resnet18");
    let args = ["device", "fit", "--device", "ascend310p3", "--msprof", "ops.csv", "--model", model.as_str(), "--batch", "8"];
    let said = bed.gulliver(args.iter().chain(&["--out", "mine.yaml"])).ends_with(0).out;
    assert!(said.contains("stranger") && said.contains(kernels[3]["name"].as_str().unwrap()), "{said}");
    let (fitted, _) = predicted(&bed, "mine.yaml", "resnet18");
    for (a, b) in fitted.iter().zip(&kernels).filter(|(k, _)| k["op"] == "conv") {
        let ratio = a["us"].as_f64().unwrap() / b["us"].as_f64().unwrap();
        assert!((ratio / 1.4 - 1.0).abs() < 0.05, "{}: {ratio}", a["name"]);
    }
    let evidence = |device: &str| bed.gulliver(["device", "show", device, "--json"]).ends_with(0).json()["evidence"].clone();
    assert_eq!(evidence("mine.yaml"), evidence("ascend310p3"));
}

#[test]
fn one_measured_time_gives_a_profile_that_meets_it() {
    let bed = Bed::new();
    let ms = 1.2 * predicted(&bed, "ascend310p3", "vgg16").1;
    let (model, point) = (topology("vgg16"), format!("8={ms}ms"));
    bed.gulliver(["device", "fit", "--device", "ascend310p3", "--model", &model, "--measured", &point, "--out", "mine.yaml"]).ends_with(0);
    assert!((predicted(&bed, "mine.yaml", "vgg16").1 / ms - 1.0).abs() < 1e-9);
}
