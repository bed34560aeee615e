//! The files of a study.

use std::{
    fs,
    io::Write,
    path::{Component, Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::{Summary, summary::FrontPoint};
use crate::{
    error::{Error, Result},
    spec::Spec,
};

/// A study's folder.
#[derive(Debug, Clone)]
pub struct Folder(pub PathBuf);

/// Time over all sessions of a study: the only record of it, as the journal has none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Clock {
    /// Seconds of all sessions.
    pub seconds: f64,
    /// Seconds of the float model's validation pass.
    pub baseline_pass_seconds: f64,
}

impl Folder {
    /// File of the float network's calibration.
    pub fn calibration(&self) -> PathBuf {
        self.0.join("calibration.npz")
    }

    /// File of what is known of the space before anything is measured.
    pub fn tables(&self) -> PathBuf {
        self.0.join("tables.json")
    }

    /// What becomes of layers, a file a result, by its content.
    pub fn options(&self) -> PathBuf {
        self.0.join("options")
    }

    /// Makes the folder and finds out now whether it can be written to.
    ///
    /// # Errors
    /// If it cannot be made or written to.
    pub fn create(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).map_err(Error::io("create", path))?;
        let probe = path.join(format!(".writable.{}", std::process::id()));
        fs::write(&probe, b"").map_err(Error::io("write into", path))?;
        fs::remove_file(&probe).map_err(Error::io("write into", path))?;
        Ok(Self(path.to_path_buf()))
    }

    /// A folder that must be a study already.
    ///
    /// # Errors
    /// If there is no journal in it.
    pub fn existing(path: &Path) -> Result<Self> {
        if path.join("journal.jsonl").is_file() {
            Ok(Self(path.to_path_buf()))
        } else {
            Err(Error::study(path, "is not a study: there is no journal.jsonl in it", "give the folder that `gulliver tune` named"))
        }
    }

    /// Writes the resolved spec, its paths relative to the folder.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_spec(&self, spec: &Spec) -> Result<()> {
        let mut spec = spec.clone();
        spec.model = relative(&spec.model, &self.0);
        let sources = [&mut spec.data.calibration, &mut spec.data.validation];
        for source in sources.into_iter().chain(&mut spec.data.training) {
            source.map_paths(|p| relative(p, &self.0));
        }
        if Path::new(&spec.device.name).is_file() {
            spec.device.name = relative(Path::new(&spec.device.name), &self.0).display().to_string();
        }
        write_atomically(&self.0.join("spec.yaml"), spec.to_yaml()?.as_bytes())
    }

    /// Reads the spec back.
    ///
    /// # Errors
    /// If it is not there or no longer valid.
    pub fn spec(&self) -> Result<Spec> {
        Spec::load(&self.0.join("spec.yaml"))
    }

    /// Reads the clock; zero where there is none.
    pub fn clock(&self) -> Clock {
        fs::read(self.0.join("clock.json")).ok().and_then(|b| serde_json::from_slice(&b).ok()).unwrap_or_default()
    }

    /// Writes the clock.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_clock(&self, clock: Clock) -> Result<()> {
        write_json(&self.0.join("clock.json"), &clock)
    }

    /// Writes `front.json`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_summary(&self, summary: &Summary) -> Result<()> {
        write_json(&self.0.join("front.json"), summary)
    }

    /// Reads `front.json`.
    ///
    /// # Errors
    /// If it is not there or malformed.
    pub fn summary(&self) -> Result<Summary> {
        let path = self.0.join("front.json");
        let bytes = fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&bytes)
            .map_err(|e| Error::study(&self.0, format!("front.json: {e}"), "`gulliver report` makes it again from the journal"))
    }

    /// Where a trial's model is.
    pub fn model(&self, trial: usize) -> PathBuf {
        self.0.join("models").join(format!("trial-{trial}.onnx"))
    }

    /// Where a trial's plan is.
    pub fn plan(&self, trial: usize) -> PathBuf {
        self.0.join("plans").join(format!("trial-{trial}.yaml"))
    }

    /// Makes the folders of models and plans and removes from them what is not of the front any more.
    ///
    /// # Errors
    /// If they cannot be written to.
    pub fn keep_only(&self, front: &[FrontPoint]) -> Result<()> {
        for (name, ending) in [("models", "onnx"), ("plans", "yaml")] {
            let dir = self.0.join(name);
            fs::create_dir_all(&dir).map_err(Error::io("create", &dir))?;
            for entry in fs::read_dir(&dir).map_err(Error::io("read", &dir))?.flatten() {
                let file = entry.file_name().to_string_lossy().into_owned();
                let of_front = front.iter().any(|p| file == format!("trial-{}.{ending}", p.trial));
                if file.starts_with("trial-") && !of_front {
                    fs::remove_file(entry.path()).map_err(Error::io("remove", entry.path()))?;
                }
            }
        }
        Ok(())
    }
}

pub(super) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let mut text =
        serde_json::to_string_pretty(value).map_err(|e| Error::Internal(format!("{} cannot be written: {e}", path.display())))?;
    text.push('\n');
    write_atomically(path, text.as_bytes())
}

/// Writes a file so that others see the old one or the new one, never a part. What is no file, such as `/dev/stdout`, is
/// written into and never replaced.
///
/// # Errors
/// If the folder cannot be written to.
pub fn write_atomically(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::metadata(path).is_ok_and(|m| !m.is_file()) {
        return fs::OpenOptions::new().write(true).open(path).and_then(|mut f| f.write_all(bytes)).map_err(Error::io("write", path));
    }
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let temporary = path.with_file_name(format!(".{name}.{}", std::process::id()));
    let written = fs::File::create(&temporary).and_then(|mut f| f.write_all(bytes).and_then(|()| f.sync_all()));
    if let Err(e) = written {
        let _ = fs::remove_file(&temporary);
        return Err(Error::io("write", path)(e));
    }
    fs::rename(&temporary, path).map_err(Error::io("write", path))
}

/// A path as seen from a folder.
fn relative(path: &Path, from: &Path) -> PathBuf {
    let (Ok(path_), Ok(from)) = (path.canonicalize(), from.canonicalize()) else { return path.to_path_buf() };
    let (a, b): (Vec<Component<'_>>, Vec<Component<'_>>) = (path_.components().collect(), from.components().collect());
    let common = a.iter().zip(&b).take_while(|(x, y)| x == y).count();
    let up = std::iter::repeat_n(Component::ParentDir, b.len() - common);
    up.chain(a[common..].iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_seen_from_the_study_folder() {
        let root = tempfile::tempdir().unwrap();
        let (study, data) = (root.path().join("studies/one"), root.path().join("data"));
        fs::create_dir_all(&study).unwrap();
        fs::create_dir_all(&data).unwrap();
        assert_eq!(relative(&data, &study), PathBuf::from("../../data"));
    }

    #[test]
    fn what_is_no_file_is_not_replaced_by_one() {
        let root = tempfile::tempdir().unwrap();
        let pipe = root.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &pipe).unwrap();
        write_atomically(&pipe, b"text").unwrap();
        assert!(fs::symlink_metadata(&pipe).unwrap().is_symlink());
        assert!(write_atomically(root.path(), b"text").is_err());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_named() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("file");
        fs::write(&file, "").unwrap();
        assert!(Folder::create(&file.join("study")).unwrap_err().to_string().contains("study"));
    }
}
