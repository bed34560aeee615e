//! Temporary folders that only we can read and that go away by themselves.

use std::{
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use crate::error::{Error, Result};

/// A folder of our own, removed when dropped.
pub(super) struct Scratch {
    /// The folder.
    pub(super) path: PathBuf,
}

const SCRATCH: &str = ".gulliver-";

impl Scratch {
    /// A new folder in `parent`, which is made if it is not there.
    pub(super) fn new(parent: &Path) -> Result<Self> {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        std::fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
        loop {
            let path = parent.join(format!("{SCRATCH}{}-{}", process::id(), COUNT.fetch_add(1, Ordering::Relaxed)));
            match private_folder(&path) {
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => {}
                made => return made.map(|()| Self { path: path.clone() }).map_err(Error::io("create", &path)),
            }
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[cfg(unix)]
fn private_folder(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    std::fs::DirBuilder::new().mode(0o700).create(path)
}

#[cfg(not(unix))]
fn private_folder(path: &Path) -> std::io::Result<()> {
    std::fs::create_dir(path)
}

/// Removes the scratch folders of `parent` that killed processes left longer than `age` ago.
pub(super) fn sweep(parent: &Path, age: Duration) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let old = entry.metadata().and_then(|m| m.modified()).is_ok_and(|t| t.elapsed().is_ok_and(|e| e > age));
        if old && entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scratch_folder_goes_when_dropped_and_old_ones_are_swept() {
        let folder = tempfile::tempdir().unwrap();
        let scratch = Scratch::new(folder.path()).unwrap();
        assert!(scratch.path.is_dir());
        sweep(folder.path(), Duration::from_secs(3600));
        assert!(scratch.path.is_dir());
        sweep(folder.path(), Duration::ZERO);
        assert!(!scratch.path.exists());
        drop(scratch);
    }
}
