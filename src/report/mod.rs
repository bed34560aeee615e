//! Reports: pure functions of a study's [`Summary`], and the one place that writes them to the study's folder.
//!
//! HTML, Markdown and the terminal show the same tables (`table`) and the same sentences (`words`); only their dress differs.

pub mod fit;
pub mod format;
pub mod html;
mod latency;
pub mod markdown;
pub mod plot;
mod table;
mod words;

#[cfg(test)]
mod fixture;

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

pub use markdown::front_table;
pub use words::{headline, notes, stop};

use crate::error::{Error, Result};
use crate::study::summary::Summary;

/// Writes `report.html`, `report.md`, `front.svg`, `layers.svg` and, where drops were predicted, `drops.svg` into a folder, each of them whole or not
/// at all, and gives their paths in this order.
///
/// # Errors
/// [`Error::Io`] where the folder cannot be made or a file not be written.
pub fn write(summary: &Summary, dir: &Path) -> Result<Vec<PathBuf>> {
    let front = plot::front_svg(summary)?;
    let layers = plot::layers_svg(summary)?;
    let drops = plot::drops_svg(summary)?;
    let html = html::page(summary, (&front, &layers, drops.as_deref()))?;
    let markdown = markdown::page(summary);
    fs::create_dir_all(dir).map_err(Error::io("create", dir))?;
    [("report.html", html), ("report.md", markdown), ("front.svg", front), ("layers.svg", layers)]
        .into_iter()
        .chain(drops.map(|svg| ("drops.svg", svg)))
        .map(|(name, text)| replace(&dir.join(name), text.as_bytes()))
        .collect()
}

/// Writes beside the file, then renames: a reader sees the old content or the new, never half of it.
fn replace(path: &Path, content: &[u8]) -> Result<PathBuf> {
    let draft = path.with_extension(format!("{}.tmp", std::process::id()));
    let written = File::create(&draft).and_then(|mut file| file.write_all(content).and_then(|()| file.sync_all()));
    written.and_then(|()| fs::rename(&draft, path)).map_err(|error| {
        fs::remove_file(&draft).ok();
        Error::io("write", path)(error)
    })?;
    Ok(path.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn five_files_are_written_and_nothing_is_left_beside_them() {
        let dir = tempfile::tempdir().unwrap();
        let study = dir.path().join("not/yet/there");
        let paths = write(&fixture::within(), &study).unwrap();
        assert_eq!(names(&study), ["drops.svg", "front.svg", "layers.svg", "report.html", "report.md"]);
        assert_eq!(paths[0], study.join("report.html"));
        assert!(paths.iter().all(|p| fs::metadata(p).unwrap().len() > 500));
    }

    #[test]
    fn writing_again_replaces_and_gives_the_same_bytes() {
        let dir = tempfile::tempdir().unwrap();
        write(&fixture::missed(), dir.path()).unwrap();
        write(&fixture::within(), dir.path()).unwrap();
        let first = fs::read(dir.path().join("report.html")).unwrap();
        write(&fixture::within(), dir.path()).unwrap();
        assert_eq!(first, fs::read(dir.path().join("report.html")).unwrap());
    }

    #[test]
    fn a_folder_that_cannot_be_made_is_an_error_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "x").unwrap();
        let error = write(&fixture::within(), &file).unwrap_err();
        assert!(error.to_string().ends_with("file"), "{error}");
        assert_eq!(names(dir.path()), ["file"]);
    }

    #[test]
    fn every_shape_of_a_result_can_be_written() {
        let dir = tempfile::tempdir().unwrap();
        for (name, summary) in fixture::all() {
            let paths = write(&summary, &dir.path().join(name)).unwrap();
            if let Ok(keep) = std::env::var("GULLIVER_REPORT_FIXTURES") {
                let keep = Path::new(&keep).join(name);
                fs::create_dir_all(&keep).unwrap();
                for path in paths {
                    fs::copy(&path, keep.join(path.file_name().unwrap())).unwrap();
                }
            }
        }
    }
}
