//! Whatever is wrong with what the user gives, the error names the place and the remedy, and nothing is lost.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

mod common;

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use common::{Bed, Said, dataset, gulliver, run};
use ndarray::{Array1, Array4};
use ndarray_npy::{NpzWriter, WritableElement};

/// What `gulliver tune` says of the spec with a part replaced.
#[track_caller]
fn spec_with(from: &str, to: &str) -> Said {
    let said = tune(&Bed::new().with(from, to));
    assert!(said.err.starts_with("error: "), "something was done before the error: {}", said.err);
    said
}

fn tune(bed: &Bed) -> Said {
    run(&mut bed.tune("study"))
}

/// What it says of a model file with these bytes.
fn with_model(bytes: &[u8]) -> Said {
    let bed = Bed::new();
    let path = bed.write("broken.onnx", bytes);
    tune(&bed.with(dataset("cifar10-vgg.onnx").to_str().unwrap(), path.to_str().unwrap()))
}

/// What it says of validation data in this file of the bed.
fn with_data(bed: Bed, file: &Path) -> Said {
    let source = format!("{{file: {}, samples: 96}}", dataset("cifar10-test.npz").display());
    tune(&bed.with(&source, &format!("{{file: {}}}", file.display())))
}

/// An npz file of `samples` square images, and labels if their number is given.
fn npz<T: WritableElement + Clone>(bed: &Bed, (samples, side): (usize, usize), value: T, labels: Option<usize>) -> PathBuf {
    let path = bed.path("data.npz");
    let mut npz = NpzWriter::new(File::create(&path).unwrap());
    npz.add_array("images", &Array4::from_elem((samples, side, side, 3), value)).unwrap();
    if let Some(labels) = labels {
        npz.add_array("labels", &Array1::<u8>::zeros(labels)).unwrap();
    }
    npz.finish().unwrap();
    path
}

/// What `gulliver compress` says of a plan of these rules for a network of `datasets/`.
fn plan(network: &str, rules: &str) -> Said {
    Bed::new().compress(&dataset(network), rules)
}

/// What a study says whose metric is this command.
fn with_metric(command: &str) -> Said {
    tune(&Bed::new().with("metric: top1", &format!("metric: {{command: {command}}}")))
}

// The spec.

#[test]
fn a_spec_that_is_not_there_is_named() {
    Bed::new().gulliver(["tune", "nowhere.yaml"]).refuses(&["nowhere.yaml"]);
}

#[test]
fn a_spec_that_is_not_yaml_is_named_with_its_line() {
    spec_with("metric: top1", "metric: \"top1").refuses(&["spec.yaml:5"]);
    Bed::new().gulliver(["tune".as_ref(), dataset("cifar10-vgg.onnx").as_path()]).refuses(&["cifar10-vgg.onnx", "text file"]);
    Bed::new().gulliver(["tune", "."]).refuses(&["a file, not a folder"]);
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    spec_with("metric:", "metrik:").refuses(&["spec.yaml:5", "metrik", "check the spelling"]);
    spec_with("seed: 3", "sead: 3").refuses(&["spec.yaml:16", "sead"]);
    spec_with("{file: ", "{fil: ").refuses(&["spec.yaml:3", "fil"]);
}

#[test]
fn a_wrong_type_is_named_with_its_line() {
    spec_with("batch: 32", "batch: many").refuses(&["spec.yaml:6", "device.batch", "expected a whole number"]);
    spec_with("int4]", "int7]").refuses(&["spec.yaml:10", "int7", "int4"]);
    spec_with("trials: 12", "trials: [12]").refuses(&["spec.yaml:16", "search.trials"]);
    spec_with("metric: top1", "metric: top7").refuses(&["spec.yaml:5", "top7", "agreement"]);
    spec_with("strategy: evolve", "strategy: guess").refuses(&["spec.yaml:16", "guess", "evolve"]);
    spec_with("trials: 12", "time: soon").refuses(&["spec.yaml:16", "soon", "10m"]);
}

#[test]
fn a_value_out_of_range_is_named_with_its_line() {
    spec_with("keep: [1.0, 0.75]", "keep: [1.5]").refuses(&["spec.yaml:11", "1.5"]);
    spec_with("keep: [1.0, 0.75]", "keep: [0]").refuses(&["spec.yaml:11", "above 0"]);
    spec_with("accuracy_drop: 4%", "accuracy_drop: 5").refuses(&["spec.yaml:7", "5%"]);
    spec_with("confidence: 90%", "confidence: 200%").refuses(&["spec.yaml:7", "200%"]);
    spec_with("confidence: 90%", "confidence: 20%").refuses(&["spec.yaml:7", "50%"]);
    spec_with("batch: 32", "batch: 0").refuses(&["spec.yaml:6", "batch is 0"]);
    spec_with("trials: 12", "trials: 0").refuses(&["spec.yaml:16", "trials is 0"]);
    spec_with("latency_ms: null", "latency_ms: -1").refuses(&["spec.yaml:7", "latency_ms"]);
    spec_with("rank: [full]", "rank: [-3]").refuses(&["spec.yaml:12", "rank"]);
    spec_with("samples: 96", "samples: 0").refuses(&["cifar10-test.npz", "samples is 0"]);
    spec_with("samples: 96", "samples: 9999").refuses(&["cifar10-test.npz", "there are 2000"]);
}

#[test]
fn an_empty_spec_and_an_empty_space_are_refused() {
    let bed = Bed::new();
    bed.write("spec.yaml", "");
    tune(&bed).refuses(&["spec.yaml", "model"]);
    spec_with("keep: [1.0, 0.75]", "keep: []").refuses(&["spec.yaml:9", "empty list"]);
}

#[test]
fn a_layer_pattern_that_matches_nothing_is_named_with_its_line_and_the_layers_there_are() {
    spec_with("[first, last]", "[first, conv9_*]").refuses(&["spec.yaml:13", "conv9_*", "conv2d_1"]);
    plan("cifar10-vgg.onnx", "- {layers: \"*\", precision: int8}\n- {layers: conv9_*, precision: int8}")
        .refuses(&["plan.yaml:3", "conv9_*"]);
}

#[test]
fn a_space_that_leaves_nothing_to_decide_is_refused() {
    let bed = Bed::new().with("[fp16, int8, int4]", "[fp16]").with("[1.0, 0.75]", "[1.0]").with("[fp16, int8]", "[fp16]");
    tune(&bed).refuses(&["spec.yaml:8", "nothing to decide"]);
}

// The model.

#[test]
fn a_model_that_is_not_there_is_named_with_the_specs_line() {
    spec_with("cifar10-vgg.onnx", "nowhere.onnx").refuses(&["spec.yaml:1", "nowhere.onnx"]);
}

#[test]
fn a_file_that_is_no_model_is_named() {
    with_model(b"hello, I am no network").refuses(&["broken.onnx", "not an ONNX model"]);
    with_model(b"").refuses(&["broken.onnx", "empty"]);
}

#[test]
fn a_model_cut_short_anywhere_is_named() {
    let whole = fs::read(dataset("cifar10-vgg.onnx")).unwrap();
    for left in [1, 20, 1000, whole.len() / 2, whole.len() - 1] {
        with_model(&whole[..left]).refuses(&["broken.onnx"]);
    }
}

#[test]
fn compressing_a_compressed_model_is_refused() {
    let bed = Bed::new();
    bed.compress(&dataset("cifar10-vgg.onnx"), "- {layers: last, precision: int8}").ends_with(0);
    let compressed = bed.path("compressed.onnx");
    fs::rename(bed.path("out.onnx"), &compressed).unwrap();
    bed.compress(&compressed, "- {layers: \"*\", precision: int8}").refuses(&["compressed.onnx", "already compressed", "float model"]);
    assert!(!bed.path("out.onnx").exists());
}

// Plans.

#[test]
fn a_plan_that_asks_the_impossible_is_refused_by_layer() {
    plan("cifar10-vgg.onnx", "- {layers: last, keep: 0.5}").refuses(&["layer dense_2", "keep 0.5", "output of the network"]);
    plan("cifar10-vgg.onnx", "- {layers: last, rank: 48}").refuses(&["layer dense_2", "rank 48", "from 1 to 10"]);
    plan("cifar10-vgg.onnx", "- {layers: first, precision: int4}").refuses(&["layer conv2d", "int4", "it has 3"]);
}

#[test]
fn layers_whose_channels_go_together_need_the_same_keep() {
    plan("cifar10-resnet20.onnx", "- {layers: /stem/Conv, keep: 0.5}").refuses(&["/stem/Conv", "/body/body.0/c2/Conv", "same keep"]);
}

#[test]
fn a_malformed_plan_is_named_with_its_line() {
    plan("cifar10-vgg.onnx", "- {layers: \"*\", precisio: int8}").refuses(&["plan.yaml:2", "precisio"]);
}

// Data.

#[test]
fn data_that_is_not_there_is_named_with_the_specs_line() {
    spec_with("cifar10-test.npz", "nowhere.npz").refuses(&["spec.yaml:4", "nowhere.npz"]);
}

#[test]
fn a_file_that_is_no_npz_is_named() {
    let bed = Bed::new();
    let file = bed.write("data.npz", "hello");
    with_data(bed, &file).refuses(&["data.npz", "not an npz file", "numpy.savez"]);
    let bed = Bed::new();
    let file = bed.write("data.npz", &fs::read(dataset("cifar10-test.npz")).unwrap()[..200_000]);
    with_data(bed, &file).refuses(&["data.npz", "not an npz file"]);
}

#[test]
fn an_npz_without_images_is_told_what_it_has() {
    let bed = Bed::new();
    let path = bed.path("data.npz");
    let mut npz = NpzWriter::new(File::create(&path).unwrap());
    npz.add_array("labels", &Array1::<u8>::zeros(4)).unwrap();
    npz.finish().unwrap();
    with_data(bed, &path).refuses(&["data.npz", "images", "only labels"]);
}

#[test]
fn images_of_another_shape_than_the_models_are_refused() {
    let bed = Bed::new();
    let file = npz(&bed, (4, 28), 0_u8, Some(4));
    with_data(bed, &file).refuses(&["data.npz", "[28, 28, 3]", "[3, 32, 32]"]);
}

#[test]
fn data_without_labels_is_refused_when_the_metric_needs_them() {
    let bed = Bed::new();
    let file = npz(&bed, (4, 32), 0_u8, None);
    with_data(bed, &file).refuses(&["data.npz", "no labels", "agreement"]);
}

#[test]
fn labels_of_another_number_than_samples_are_refused() {
    let bed = Bed::new();
    let file = npz(&bed, (4, 32), 0_u8, Some(3));
    with_data(bed, &file).refuses(&["data.npz", "4 samples but 3 labels"]);
}

#[test]
fn a_value_that_is_no_number_is_named_with_its_sample() {
    for value in [f32::NAN, f32::INFINITY] {
        let bed = Bed::new();
        let file = npz(&bed, (4, 32), value, Some(4));
        with_data(bed, &file).refuses(&["data.npz", "sample 0"]);
    }
}

#[test]
fn empty_data_is_refused() {
    let bed = Bed::new();
    let file = npz(&bed, (0, 32), 0_u8, Some(0));
    with_data(bed, &file).refuses(&["data.npz", "no samples"]);
}

// The device.

#[test]
fn an_unknown_device_is_named_with_those_there_are() {
    spec_with("ascend310p3", "ascend9000").refuses(&["ascend9000", "ascend310p3"]);
    Bed::new().gulliver(["device", "show", "ascend9000"]).refuses(&["ascend9000", "ascend310p3"]);
}

#[test]
fn a_malformed_device_profile_is_named_with_its_line() {
    let profile = Bed::new().gulliver(["device", "show", "ascend310p3"]).ends_with(0).out;
    let with_profile = |text: &str| {
        let bed = Bed::new();
        bed.write("mine.yaml", text);
        tune(&bed.with("name: ascend310p3", "name: mine.yaml"))
    };
    with_profile(&profile.replace("launch_cycles", "lunch_cycles")).refuses(&["mine.yaml", "lunch_cycles", "line"]);
    with_profile(&profile.replace("cores: 8", "cores: 0")).refuses(&["mine.yaml", "cores is 0"]);
    with_profile("{").refuses(&["mine.yaml"]);
}

// Metrics of the user's own.

#[test]
fn a_metric_command_that_fails_is_shown_with_its_exit_code_and_stderr() {
    with_metric("[sh, -c, \"echo no such layer >&2; exit 7\"]").refuses(&["metric", "exit code 7", "no such layer"]);
}

#[test]
fn a_metric_command_that_prints_no_number_is_shown_with_what_it_printed() {
    with_metric("[echo, fine]").refuses(&["metric", "no finite number", "fine"]);
    with_metric("[\"true\"]").refuses(&["metric", "printed nothing"]);
}

#[test]
fn a_metric_command_that_is_not_there_is_named() {
    with_metric("[gulliver-no-such-program]").refuses(&["gulliver-no-such-program"]);
}

// Budgets.

#[test]
fn a_budget_that_cannot_be_met_leaves_a_report_of_the_nearest_miss() {
    let bed = Bed::new().with("latency_ms: null", "latency_ms: 0.0001");
    let said = tune(&bed).ends_with(3);
    assert!(said.out.contains("Nothing meets the limits. The nearest is trial "), "{}", said.out);
    assert!(bed.path("study/report.html").is_file());
    let front = bed.read_json("study/front.json");
    assert_eq!((&front["verdict"], &front["chosen"]), (&"missed".into(), &serde_json::Value::Null));
}

// The study's folder.

#[test]
fn a_study_folder_that_cannot_be_made_is_named() {
    let bed = Bed::new();
    bed.write("file", "");
    run(&mut bed.tune("file/study")).refuses(&["file/study", "name a folder"]);
    run(&mut bed.tune("file")).refuses(&["file", "name a folder"]);
    // Nothing can be made there, not even by root.
    let unwritable = if cfg!(target_os = "linux") { "/proc/study" } else { "/dev/null/study" };
    run(gulliver().arg("tune").arg(bed.path("spec.yaml")).args(["--study", unwritable])).refuses(&[unwritable, "folder"]);
    assert_eq!(bed.read("file"), b"");
}

#[test]
fn a_folder_that_is_no_study_is_named() {
    let bed = Bed::new();
    bed.gulliver(["status", "."]).refuses(&["no journal.jsonl"]);
    bed.gulliver(["report", "nowhere"]).refuses(&["nowhere", "no journal.jsonl"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_full_disk_is_named_and_the_study_goes_on_afterwards() {
    let bed = Bed::new().with("trials: 12", "trials: 2");
    fs::create_dir(bed.path("study")).unwrap();
    let journal = bed.path("study/journal.jsonl");
    std::os::unix::fs::symlink("/dev/full", &journal).unwrap();
    tune(&bed).refuses(&["journal.jsonl", "No space left", "free some disk space"]);
    fs::remove_file(&journal).unwrap();
    tune(&bed).ends_with(0);
    let (whole, front) = (bed.read("study/journal.jsonl"), bed.read_json("study/front.json"));
    fs::remove_file(bed.path("study/front.json")).unwrap();
    // The disk is full when the result is written: the trials are safe, and the next run needs none.
    let script = "ln -s /dev/full \"$3/.front.json.$$\" && exec \"$0\" tune \"$1\" --study \"$2\"";
    let (spec, study) = (bed.path("spec.yaml"), bed.path("study"));
    let full = |script: &str| {
        let mut shell = Command::new("sh");
        shell.args(["-c", script, env!("CARGO_BIN_EXE_gulliver")]).args([&spec, &study, &study]);
        run(&mut shell)
    };
    full(script).refuses(&["front.json", "No space left", "free some disk space"]);
    tune(&bed).ends_with(0);
    assert!(bed.read("study/journal.jsonl") == whole);
    assert_eq!(bed.read_json("study/front.json")["front"], front["front"]);
}

#[test]
#[cfg(target_os = "linux")]
fn output_that_cannot_be_written_is_an_error_and_a_reader_that_left_is_none() {
    let full = fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = gulliver().args(["device", "list"]).stdout(full).stderr(Stdio::piped()).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(said.contains("standard output") && said.contains("help: "), "{said}");
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = gulliver().args(["device", "list"]).stdout(writer).stderr(Stdio::piped()).output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_study_begun_otherwise_is_refused_and_left_as_it_was() {
    let bed = Bed::new().with("trials: 12", "trials: 1");
    tune(&bed).ends_with(0);
    let before = bed.read("study/journal.jsonl");
    run(bed.tune("study").args(["--seed", "4"])).refuses(&["study", "the spec changed", "--study"]);
    let bed = bed.with("samples: 96", "samples: 95");
    tune(&bed).refuses(&["the validation data"]);
    let bed = bed.with("samples: 95", "samples: 96").with("samples: 32", "samples: 31");
    tune(&bed).refuses(&["the calibration data"]);
    let bed = bed.with("samples: 31", "samples: 32").with("ascend310p3", "ascend310");
    tune(&bed).refuses(&["the device profile"]);
    assert!(bed.read("study/journal.jsonl") == before);
    // As it was: a torn last line is dropped, a damaged one is named.
    let bed = bed.with("ascend310", "ascend310p3");
    let torn = bed.path("study/journal.jsonl");
    fs::write(&torn, [&before[..], b"{\"trial\":2,\"ori"].concat()).unwrap();
    tune(&bed).ends_with(0);
    assert!(bed.read("study/journal.jsonl") == before);
    fs::write(&torn, [&before[..], b"{\"trial\":2}\n"].concat()).unwrap();
    tune(&bed).refuses(&["study", &format!("journal.jsonl:{}", before.iter().filter(|&&b| b == b'\n').count() + 1)]);
    bed.gulliver(["status", "study"]).refuses(&["journal.jsonl:"]);
}

#[test]
fn two_at_once_on_one_study_do_not_mix() {
    let bed = Bed::new().with("trials: 12", "trials: 1");
    tune(&bed).ends_with(0);
    let journal = File::open(bed.path("study/journal.jsonl")).unwrap();
    journal.lock().unwrap();
    tune(&bed).refuses(&["study", "another gulliver"]);
}

// The machine.

#[test]
fn without_onnx_runtime_and_offline_it_is_said_what_to_do_by_hand() {
    let bed = Bed::new();
    let mut command = bed.tune("study");
    command.env("GULLIVER_OFFLINE", "1").env("GULLIVER_CACHE", bed.path("cache")).env("PATH", bed.path("nothing"));
    for name in ["ORT_DYLIB_PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"] {
        command.env_remove(name);
    }
    run(&mut command).refuses(&["GULLIVER_OFFLINE", "pip install onnxruntime==", "ORT_DYLIB_PATH"]);
    assert!(!bed.path("cache").exists());
    command.env("ORT_DYLIB_PATH", bed.path("lib.so"));
    run(&mut command).refuses(&["ORT_DYLIB_PATH", "lib.so"]);
}
