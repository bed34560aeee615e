//! `gulliver finetune` on a real network: what it writes can be evaluated, it goes on where it was killed, and it says what is wrong.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use common::{Bed, dataset, gulliver, run};

/// A small study's spec that trains on 96 images, and a plan without a tenth of its channels, most layers in 4 bits.
fn bed() -> Bed {
    let validation = "  validation:";
    let training = format!("  training: {{file: {}, samples: 96}}\n{validation}", dataset("cifar10-calibration.npz").display());
    let recover = "recover: {epochs: 3, batch: 16, rate: 0.002}\nsearch: {strategy: evolve,";
    let bed = Bed::new().with(validation, &training).with("search: {strategy: evolve,", recover);
    bed.write(
        "plan.yaml",
        "treatments:\n  - {layers: \"*\", precision: int4, keep: 0.75}\n  - {layers: [first, last], precision: int8, keep: 1.0}\n",
    );
    bed
}

fn finetune(bed: &Bed, out: &str) -> Command {
    let mut command = gulliver();
    command.arg("finetune").arg(bed.path("spec.yaml")).arg("--plan").arg(bed.path("plan.yaml")).arg("--out").arg(bed.path(out));
    command
}

#[test]
fn training_killed_after_an_epoch_goes_on_to_the_same_file_and_its_figures_can_be_had_again() {
    let bed = bed();
    let said = run(finetune(&bed, "whole.onnx").arg("--json")).ends_with(0).json();
    assert_eq!(said["epochs"].as_array().unwrap().len(), 4);
    let loss = |i: usize| said["epochs"][i]["held_back"].as_f64().unwrap();
    let best = said["best"].as_u64().unwrap() as usize;
    assert!((0..4).all(|i| loss(best) <= loss(i)));
    let mut child = finetune(&bed, "again.onnx").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let begun = Instant::now();
    while !bed.path("again.checkpoint.npz").is_file() {
        assert!(child.try_wait().unwrap().is_none() && begun.elapsed() < Duration::from_secs(300), "no epoch was kept");
        std::thread::sleep(Duration::from_millis(2));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!bed.path("again.onnx").exists(), "it was killed too late to be tried");
    let resumed = run(finetune(&bed, "again.onnx").args(["--json", "--jobs", "1"])).ends_with(0).json();
    assert!(bed.read("whole.onnx") == bed.read("again.onnx"), "the networks differ");
    assert_eq!((&said["epochs"], &said["after"]), (&resumed["epochs"], &resumed["after"]));
    assert!(!bed.path("again.checkpoint.npz").exists());
    let mut evaluate = gulliver();
    evaluate.arg("evaluate").arg(bed.path("whole.onnx")).arg("--spec").arg(bed.path("spec.yaml")).arg("--json");
    let evaluated = run(&mut evaluate).ends_with(0).json();
    assert_eq!(evaluated["value"].as_f64().or(evaluated["accuracy"].as_f64()), said["after"]["accuracy"].as_f64(), "{evaluated}");
}

#[test]
fn too_few_samples_and_impossible_settings_are_named() {
    run(&mut finetune(&bed().with("batch: 16", "batch: 128"), "o.onnx")).refuses(&["96 samples", "batch of 128"]);
    run(&mut finetune(&bed().with("rate: 0.002", "rate: 7"), "o.onnx")).refuses(&["spec.yaml:17: recover.rate is 7"]);
    let mut missing = gulliver();
    missing.arg("finetune").arg(bed().path("nowhere")).args(["--trial", "3"]);
    run(&mut missing).refuses(&["nowhere"]);
}
