//! What the tests of the binary share: a small study in a temporary folder, and short ways to run gulliver on it.
#![allow(dead_code, clippy::unwrap_used, clippy::panic, reason = "each test file takes what it needs")]

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;

/// A file of `datasets/`.
pub fn dataset(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("datasets").join(name)
}

/// The binary, without the variables of whoever runs the tests that would change what it does.
pub fn gulliver() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gulliver"));
    command.env_remove("GULLIVER_LOG").env_remove("RUST_BACKTRACE");
    command
}

/// What a command said and how it ended.
pub struct Said {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

/// Runs a command; wherever it ends, it may not have panicked.
pub fn run(command: &mut Command) -> Said {
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    let said = Said { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) };
    assert!(!said.err.contains("panicked at"), "{}", said.err);
    said
}

impl Said {
    /// Fails unless the command ended with this code.
    #[track_caller]
    pub fn ends_with(self, code: i32) -> Self {
        assert_eq!(self.code, Some(code), "stdout: {}\nstderr: {}", self.out, self.err);
        self
    }

    /// Fails unless it was an error of the user's (code 2) that names all of this and says what to do.
    #[track_caller]
    pub fn refuses(self, names: &[&str]) -> Self {
        let said = self.ends_with(2);
        names.iter().for_each(|n| assert!(said.err.contains(n), "\"{n}\" is not named in: {}", said.err));
        let helps = said.err.lines().filter(|l| l.trim_start().starts_with("help: ")).count();
        assert_eq!(helps, 1, "one line of help: {}", said.err);
        assert_eq!(said.out, "", "nothing on stdout");
        said
    }

    /// The one JSON document on stdout.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e} in {}", self.out))
    }
}

/// A temporary folder with a small study's spec in it.
pub struct Bed {
    folder: TempDir,
    spec: String,
}

impl Bed {
    /// The VGG network, 32 samples to calibrate on and 96 to validate on, 12 trials asked for in fours.
    pub fn new() -> Self {
        let at = |name| dataset(name).display().to_string();
        let spec = format!(
            "model: {}
data:
  calibration: {{file: {}, samples: 32}}
  validation: {{file: {}, samples: 96}}
metric: top1
device: {{name: ascend310p3, batch: 32}}
constraints: {{accuracy_drop: 4%, latency_ms: null, size_mb: null, confidence: 90%}}
space:
  - layers: \"*\"
    precision: [fp16, int8, int4]
    keep: [1.0, 0.75]
    rank: [full]
  - layers: [first, last]
    precision: [fp16, int8]
    keep: [1.0]
search: {{strategy: evolve, trials: 12, seed: 3, asked_together: 4}}
",
            at("cifar10-vgg.onnx"),
            at("cifar10-calibration.npz"),
            at("cifar10-test.npz")
        );
        let bed = Self { folder: tempfile::tempdir().unwrap(), spec };
        bed.write("spec.yaml", &bed.spec);
        bed
    }

    /// The same with a part of the spec replaced, which must be there.
    #[track_caller]
    pub fn with(mut self, from: &str, to: &str) -> Self {
        assert!(self.spec.contains(from), "the spec has no {from}");
        self.spec = self.spec.replacen(from, to, 1);
        self.write("spec.yaml", &self.spec);
        self
    }

    /// The same on ResNet-20, whose residual additions couple layers.
    pub fn on_resnet(self) -> Self {
        self.with("cifar10-vgg.onnx", "cifar10-resnet20.onnx")
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the folder and gives its path.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }

    /// Writes an executable shell script and gives its path.
    pub fn script(&self, name: &str, text: &str) -> PathBuf {
        use std::os::unix::fs::PermissionsExt;
        let path = self.write(name, format!("#!/bin/sh\n{text}\n"));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// A file's bytes.
    #[track_caller]
    pub fn read(&self, name: &str) -> Vec<u8> {
        let path = self.path(name);
        std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    /// A JSON file of the folder.
    #[track_caller]
    pub fn read_json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.read(name)).unwrap()
    }

    /// `gulliver tune` on the spec into a study folder of this name; arguments may follow.
    pub fn tune(&self, study: &str) -> Command {
        let mut command = gulliver();
        command.arg("tune").arg(self.path("spec.yaml")).arg("--study").arg(self.path(study));
        command
    }

    /// `gulliver` in the folder with these arguments.
    pub fn gulliver<A: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = A>) -> Said {
        run(gulliver().args(arguments).current_dir(self.folder.path()))
    }

    /// `gulliver compress` of a model with a plan of these rules, calibrated as the spec says, into `out.onnx`.
    pub fn compress(&self, model: &Path, rules: &str) -> Said {
        let plan = self.write("plan.yaml", format!("treatments:\n{rules}"));
        let (plan, spec, out) = (plan.as_path(), self.path("spec.yaml"), self.path("out.onnx"));
        let words = ["compress".as_ref(), model, plan, "--spec".as_ref(), &spec, "--out".as_ref(), &out];
        run(gulliver().args(words))
    }
}
