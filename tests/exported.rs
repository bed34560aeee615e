//! What a study shows can be had again from its files, to the last digit.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::path::{Path, PathBuf};

use common::{Bed, dataset, gulliver, run};
use serde_json::Value;

/// A finished study and its front.json.
fn study() -> (Bed, Value) {
    let bed = Bed::new();
    run(&mut bed.tune("study")).ends_with(0);
    let front = bed.read_json("study/front.json");
    (bed, front)
}

/// Errors of a latency model, as a profile has them.
const EVIDENCE: &str = "evidence:
  data: made up
  date: 2026-11-01
  rows: 40
  networks: 8
  families: 4
  median_error: 0.1
  p90_error: 0.3
  ratio_error: 0.1
  noise_floor: 0.04
  factor_90: 1.5
  seen: {conv: {bytes: [1, 1000000000], macs: [1, 1000000000000]}}
";

fn points(front: &Value) -> &[Value] {
    let points = front["front"].as_array().unwrap();
    assert!(points.len() >= 2, "a front of {} points shows little", points.len());
    points
}

fn model(bed: &Bed, point: &Value) -> PathBuf {
    bed.path(&format!("study/models/trial-{}.onnx", point["trial"]))
}

fn words<'a>(words: &[&'a dyn AsRef<std::ffi::OsStr>]) -> Vec<&'a std::ffi::OsStr> {
    words.iter().map(|w| (*w).as_ref()).collect()
}

#[test]
fn every_exported_model_has_the_accuracy_latency_and_plan_of_its_point() {
    let (bed, front) = study();
    let (spec, float, out) = (bed.path("spec.yaml"), dataset("cifar10-vgg.onnx"), bed.path("again.onnx"));
    for point in points(&front) {
        let exported = model(&bed, point);
        let score = bed.gulliver(words(&[&"evaluate", &exported, &"--spec", &spec, &"--json"])).ends_with(0).json();
        for key in ["accuracy", "samples", "drop"] {
            assert_eq!(score[key], point[key], "{key} of {}", exported.display());
        }
        let time = bed.gulliver(words(&[&"latency", &exported, &"--device", &"ascend310p3", &"--batch", &"32", &"--json"])).json();
        let (again, said) = (time["batches"][0]["latency_ms"].as_f64().unwrap(), point["latency_ms"].as_f64().unwrap());
        assert!((again / said - 1.0).abs() < 1e-9, "{}: {again} ms, and front.json has {said}", exported.display());
        let plan = bed.path(&format!("study/plans/trial-{}.yaml", point["trial"]));
        bed.gulliver(words(&[&"compress", &float, &plan, &"--spec", &spec, &"--out", &out])).ends_with(0);
        assert!(std::fs::read(&out).unwrap() == std::fs::read(&exported).unwrap(), "{} comes out otherwise", exported.display());
    }
    let files = |folder: &str| std::fs::read_dir(bed.path(folder)).unwrap().count();
    assert_eq!((files("study/models"), files("study/plans")), (points(&front).len(), points(&front).len()));
}

#[test]
fn the_float_model_has_the_accuracy_and_latency_of_the_baseline() {
    let (bed, front) = study();
    let (spec, float) = (bed.path("spec.yaml"), dataset("cifar10-vgg.onnx"));
    let score = bed.gulliver(words(&[&"evaluate", &float, &"--spec", &spec, &"--json"])).ends_with(0).json();
    assert_eq!((&score["accuracy"], score["drop"].as_f64()), (&front["baseline"]["accuracy"], Some(0.0)));
    let time = bed.gulliver(words(&[&"latency", &float, &"--device", &"ascend310p3", &"--batch", &"32", &"--json"])).ends_with(0).json();
    let (again, said) = (time["batches"][0]["latency_ms"].as_f64().unwrap(), front["baseline"]["latency_ms"].as_f64().unwrap());
    assert!((again / said - 1.0).abs() < 1e-9, "{again} ms, and front.json has {said}");
}

#[test]
fn every_json_output_is_one_document() {
    let (bed, front) = study();
    let (spec, float, folder, out) = (bed.path("spec.yaml"), dataset("cifar10-vgg.onnx"), bed.path("study"), bed.path("out.onnx"));
    let plan = bed.write("plan.yaml", "treatments: [{layers: \"*\", precision: int8}]");
    let cases: [&[&dyn AsRef<std::ffi::OsStr>]; 10] = [
        &[&"tune", &spec, &"--study", &folder],
        &[&"status", &folder],
        &[&"report", &folder],
        &[&"inspect", &float],
        &[&"latency", &float, &"--device", &"ascend310p3", &"--batch", &"1,8"],
        &[&"compress", &float, &plan, &"--spec", &spec, &"--out", &out],
        &[&"evaluate", &float, &"--spec", &spec],
        &[&"device", &"list"],
        &[&"device", &"show", &"ascend310"],
        &[&"doctor"],
    ];
    for case in cases {
        let mut all = words(case);
        all.push("--json".as_ref());
        let said = bed.gulliver(&all).ends_with(0);
        assert!(said.json().is_object() || said.json().is_array(), "{all:?}: {}", said.out);
    }
    let refused = bed.gulliver(words(&[&"status", &Path::new("nowhere"), &"--json"])).ends_with(2);
    assert!(refused.json()["error"].as_str().unwrap().contains("nowhere") && refused.json()["help"].is_string());
    assert_eq!(refused.json()["exit_code"], 2);
    assert_eq!(bed.read_json("study/front.json")["front"], front["front"]);
}

#[test]
fn a_report_makes_the_same_front_from_the_journal_alone_errors_of_latency_included() {
    let bed = Bed::new();
    let chip = run(gulliver().args(["device", "show", "ascend310p3"])).ends_with(0).out;
    let own: String = chip.split_inclusive('\n').take_while(|l| !l.starts_with("evidence:")).collect();
    let chip = bed.write("chip.yaml", own + EVIDENCE);
    let bed = bed.with("name: ascend310p3", &format!("name: {}", chip.display()));
    run(&mut bed.tune("study")).ends_with(0);
    let mut front = bed.read_json("study/front.json");
    assert_eq!(front["latency_error"]["ratio_error"], 0.1);
    for point in points(&front) {
        let (ms, interval) = (point["latency_ms"].as_f64().unwrap(), &point["latency_interval_ms"]);
        assert!(interval[0].as_f64().unwrap() < ms && ms < interval[1].as_f64().unwrap(), "{point}");
        assert!(point["told_from_float"].is_boolean() && point["not_told_apart"].is_array(), "{point}");
    }
    let names = ["front.json", "report.html", "report.md"].map(|name| bed.path("study").join(name));
    names.iter().for_each(|name| std::fs::remove_file(name).unwrap());
    bed.gulliver(words(&[&"report", &bed.path("study")])).ends_with(0);
    let mut again = bed.read_json("study/front.json");
    for value in [&mut front, &mut again] {
        value.as_object_mut().unwrap().remove("stop").unwrap();
        value["cost"].as_object_mut().unwrap().remove("seconds").unwrap();
    }
    assert_eq!(again, front);
    assert!(names.iter().all(|name| name.is_file()));
}

#[test]
fn a_metric_of_the_users_own_judges_a_whole_study() {
    let bed = Bed::new();
    let script = bed.script("metric.sh", "echo scoring \"$2\"\ntest -s \"$2\" || exit 1\necho \"$1\"");
    let bed = bed.with("metric: top1", &format!("metric: {{command: [{}, 0.75]}}", script.display())).with("trials: 12", "trials: 6");
    let summary = run(bed.tune("study").arg("--json")).ends_with(0).json();
    assert_eq!((&summary["metric"], &summary["verdict"]), (&"command".into(), &"unjudged".into()));
    for point in summary["front"].as_array().unwrap() {
        assert_eq!((point["accuracy"].as_f64(), point["drop"].as_f64(), &point["drop_low"]), (Some(0.75), Some(0.0), &Value::Null));
        let exported = model(&bed, point);
        let score = bed.gulliver(words(&[&"evaluate", &exported, &"--spec", &bed.path("spec.yaml"), &"--json"])).ends_with(0).json();
        assert_eq!(score["accuracy"], point["accuracy"]);
    }
    assert_eq!(summary["cost"]["failed"], 0);
}

#[test]
fn a_metric_of_the_users_own_may_take_the_outputs() {
    let bed = Bed::new();
    let script = bed.script("metric.sh", "ls \"$1\"/*.npy >/dev/null || exit 1\necho 2.5");
    let metric = format!("{{command: [{}], input: outputs, direction: smaller}}", script.display());
    let (float, spec) = (dataset("cifar10-vgg.onnx"), bed.path("spec.yaml"));
    let said = run(gulliver().args(words(&[&"evaluate", &float, &"--spec", &spec, &"--metric", &metric, &"--json"]))).ends_with(0);
    assert_eq!(said.json()["accuracy"], 2.5);
}
