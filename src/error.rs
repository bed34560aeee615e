//! The one error type of the library.
//!
//! Messages are lower-case fragments that read well after "failed to …" or "error: …"; the cause stays in
//! `source`, never pasted into the text; where we know what the user can do about it, `remedy` says so.

use std::path::{Path, PathBuf};

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Everything that can go wrong, by whose input it came from.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or folder could not be read or written.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried: "read", "write", "create".
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The operating system's reason.
        #[source]
        source: std::io::Error,
    },
    /// The study's spec or a plan file is wrong.
    #[error("{}{}: {message}", file.display(), line.map(|l| format!(":{l}")).unwrap_or_default())]
    Spec {
        /// The YAML file.
        file: PathBuf,
        /// The line, counted from 1, where it is known.
        line: Option<usize>,
        /// What is wrong.
        message: String,
        /// What to do about it.
        remedy: Option<String>,
    },
    /// The model is not one we can take.
    #[error("model {name}: {message}")]
    Model {
        /// The file, or the model's name.
        name: String,
        /// What is wrong.
        message: String,
        /// What to do about it.
        remedy: Option<String>,
        /// The parser's or the runtime's reason.
        #[source]
        source: Option<Cause>,
    },
    /// A layer cannot be treated as asked.
    #[error("layer {layer}: {message}")]
    Layer {
        /// The layer's name in the user's model.
        layer: String,
        /// What is wrong.
        message: String,
        /// What to do about it.
        remedy: Option<String>,
    },
    /// The data is not usable.
    #[error("data {}: {message}", path.display())]
    Data {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong.
        message: String,
        /// What to do about it.
        remedy: Option<String>,
    },
    /// The chip's profile is unknown or malformed.
    #[error("device {name}: {message}")]
    Device {
        /// The chip's name or the profile's path.
        name: String,
        /// What is wrong.
        message: String,
        /// What to do about it.
        remedy: Option<String>,
    },
    /// The user's metric command failed.
    #[error("metric: {message}")]
    Metric {
        /// What is wrong, with exit code and stderr.
        message: String,
        /// What to do about it.
        remedy: Option<String>,
    },
    /// The study folder does not fit what is asked of it.
    #[error("study {}: {message}", dir.display())]
    Study {
        /// The folder.
        dir: PathBuf,
        /// What is wrong.
        message: String,
        /// What to do about it.
        remedy: Option<String>,
    },
    /// ONNX Runtime could not be found, loaded or run.
    #[error("onnx runtime: {message}")]
    Runtime {
        /// What is wrong.
        message: String,
        /// What to do about it.
        remedy: Option<String>,
        /// The runtime's own reason.
        #[source]
        source: Option<Cause>,
    },
    /// A bug of ours.
    #[error("internal error: {0}")]
    Internal(String),
}

impl Error {
    /// Wraps an operating system error with what was being done to which file.
    pub fn io(action: &'static str, path: impl AsRef<Path>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.as_ref().to_path_buf();
        move |source| Self::Io { action, path, source }
    }

    /// A spec or plan error at a line of its file.
    pub fn spec(file: impl AsRef<Path>, line: Option<usize>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Spec { file: file.as_ref().to_path_buf(), line, message: message.into(), remedy: some(remedy) }
    }

    /// A model error without a deeper cause.
    pub fn model(name: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Model { name: name.into(), message: message.into(), remedy: some(remedy), source: None }
    }

    /// A layer that cannot be treated as asked.
    pub fn layer(layer: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Layer { layer: layer.into(), message: message.into(), remedy: some(remedy) }
    }

    /// Unusable data.
    pub fn data(path: impl AsRef<Path>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Data { path: path.as_ref().to_path_buf(), message: message.into(), remedy: some(remedy) }
    }

    /// A device profile that is unknown or malformed.
    pub fn device(name: impl Into<String>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Device { name: name.into(), message: message.into(), remedy: some(remedy) }
    }

    /// A failing metric command.
    pub fn metric(message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Metric { message: message.into(), remedy: some(remedy) }
    }

    /// A study folder that does not fit.
    pub fn study(dir: impl AsRef<Path>, message: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Study { dir: dir.as_ref().to_path_buf(), message: message.into(), remedy: some(remedy) }
    }

    /// ONNX Runtime trouble, with the runtime's own reason if there is one.
    pub fn runtime(message: impl Into<String>, remedy: impl Into<String>, source: Option<Cause>) -> Self {
        Self::Runtime { message: message.into(), remedy: some(remedy), source }
    }

    /// What the user can do about it, where we know.
    pub fn remedy(&self) -> Option<&str> {
        match self {
            Self::Io { action, source, .. } => Some(io_remedy(action, source.kind())),
            Self::Spec { remedy, .. }
            | Self::Model { remedy, .. }
            | Self::Layer { remedy, .. }
            | Self::Data { remedy, .. }
            | Self::Device { remedy, .. }
            | Self::Metric { remedy, .. }
            | Self::Study { remedy, .. }
            | Self::Runtime { remedy, .. } => remedy.as_deref(),
            Self::Internal(_) => Some("this is a bug in gulliver: please report it with the command and the file"),
        }
    }

    /// The exit code of the binary: 1 for our own faults, 2 for the user's input.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Internal(_) => 1,
            _ => 2,
        }
    }
}

/// What can be done about an error of the operating system's.
fn io_remedy(action: &str, kind: std::io::ErrorKind) -> &'static str {
    use std::io::ErrorKind as Kind;
    match kind {
        Kind::StorageFull | Kind::QuotaExceeded | Kind::FileTooLarge => {
            "free some disk space, then run the same command again: it goes on where it stopped"
        }
        Kind::PermissionDenied | Kind::ReadOnlyFilesystem => "check the permissions, or name another folder",
        Kind::NotFound if action == "read" => "check the path; paths in a spec are relative to the spec's folder",
        Kind::NotFound | Kind::NotADirectory | Kind::AlreadyExists => "name a folder that is there, or can be made there",
        Kind::IsADirectory => "name a file, not a folder",
        Kind::InvalidData => "give a text file in UTF-8",
        _ => "check the path and the disk, then run the same command again",
    }
}

fn some(text: impl Into<String>) -> Option<String> {
    Some(text.into()).filter(|t| !t.is_empty())
}
