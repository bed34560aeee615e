//! Where samples are: an npz file, a folder of images, or folders of raw tensors.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::raw::Dtype;
use crate::error::{Error, Result};

/// `calibration:` and `validation:` of a spec: exactly one of `file`, `folder` and `bins`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Source {
    /// An npz file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// A folder of images, or of one folder of images a class (sorted names are classes 0, 1, …).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<PathBuf>,
    /// Folders of raw tensors, one for each input of the model in its order, one file a sample, sorted by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub bins: Vec<PathBuf>,
    /// With `file`: the member that holds the samples.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub images: Option<String>,
    /// With `file`: the member that holds the labels. Else a text file of lines `name label` or, with `bins`, `label`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<PathBuf>,
    /// With `bins`: the numbers in the files; float32 if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dtype: Option<Dtype>,
    /// How many samples to use, spread evenly over the data; all if left out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
}

/// What a [`Source`] turned out to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind<'a> {
    Npz(&'a Path),
    Folder(&'a Path),
    Bins(&'a [PathBuf]),
}

impl Source {
    /// An npz file with default member names, all samples.
    pub fn npz(file: impl Into<PathBuf>) -> Self {
        Self { file: Some(file.into()), ..Self::default() }
    }

    /// Makes relative paths relative to `base`, the spec's folder.
    pub fn resolve(&mut self, base: &Path) {
        self.map_paths(|p| base.join(p));
    }

    /// Changes every path; the name of an npz member is none.
    pub fn map_paths(&mut self, change: impl Fn(&Path) -> PathBuf) {
        self.paths_mut().for_each(|p| *p = change(p));
    }

    /// Every path it names.
    pub fn paths(&self) -> Vec<PathBuf> {
        self.clone().paths_mut().map(|p| p.clone()).collect()
    }

    fn paths_mut(&mut self) -> impl Iterator<Item = &mut PathBuf> {
        let text_labels = self.file.is_none();
        let labels = self.labels.iter_mut().filter(move |_| text_labels);
        self.file.iter_mut().chain(&mut self.folder).chain(&mut self.bins).chain(labels)
    }

    /// The path that errors and reports name: the file, or the (first) folder.
    pub fn path(&self) -> &Path {
        self.file.as_deref().or(self.folder.as_deref()).or(self.bins.first().map(PathBuf::as_path)).unwrap_or(Path::new("(none)"))
    }

    /// Checks that the keys go together, without touching the disk.
    ///
    /// # Errors
    /// None or several of `file`, `folder`, `bins`; a key that belongs to another kind; `samples: 0`.
    pub fn check(&self) -> Result<()> {
        self.kind().map(|_| ())
    }

    pub(super) fn kind(&self) -> Result<Kind<'_>> {
        let wrong = |message: &str, remedy: &str| Err(Error::data(self.path(), message, remedy));
        let kind = match (&self.file, &self.folder, self.bins.as_slice()) {
            (Some(file), None, []) => Kind::Npz(file),
            (None, Some(folder), []) => Kind::Folder(folder),
            (None, None, bins @ [_, ..]) => Kind::Bins(bins),
            (None, None, []) => {
                return wrong("no data is named", "give one of file (npz), folder (images) or bins (folders of raw tensors)");
            }
            _ => return wrong("more than one of file, folder and bins is given", "keep one of them"),
        };
        if self.images.is_some() && !matches!(kind, Kind::Npz(_)) {
            return wrong("images names a member of an npz file, and no npz file is given", "leave images out");
        }
        if self.dtype.is_some() && !matches!(kind, Kind::Bins(_)) {
            return wrong("dtype is for raw tensors only", "leave dtype out: other files say what they hold");
        }
        if self.samples == Some(0) {
            return wrong("samples is 0", "leave samples out to use them all");
        }
        Ok(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(yaml: &str) -> Source {
        serde_yaml::from_str(yaml).unwrap()
    }

    fn complaint(yaml: &str) -> String {
        parse(yaml).check().unwrap_err().to_string()
    }

    #[test]
    fn each_kind_is_recognised() {
        assert_eq!(parse("{file: x.npz, samples: 256}").kind().unwrap(), Kind::Npz(Path::new("x.npz")));
        assert_eq!(parse("{folder: imgs, labels: labels.txt}").kind().unwrap(), Kind::Folder(Path::new("imgs")));
        assert_eq!(parse("{bins: [a, b], dtype: uint8}").kind().unwrap(), Kind::Bins(&["a".into(), "b".into()]));
    }

    #[test]
    fn exactly_one_kind_is_wanted() {
        assert_eq!(complaint("{}"), "data (none): no data is named");
        assert_eq!(complaint("{file: x.npz, bins: [d]}"), "data x.npz: more than one of file, folder and bins is given");
    }

    #[test]
    fn keys_of_another_kind_are_refused() {
        assert!(complaint("{folder: d, images: x}").contains("no npz file"));
        assert!(complaint("{file: x.npz, dtype: uint8}").contains("raw tensors only"));
        assert!(complaint("{file: x.npz, samples: 0}").contains("samples is 0"));
        assert!(serde_yaml::from_str::<Source>("{fil: x.npz}").unwrap_err().to_string().contains("fil"));
    }

    #[test]
    fn paths_become_relative_to_the_base_but_member_names_do_not() {
        let mut npz = parse("{file: x.npz, labels: y}");
        npz.resolve(Path::new("/specs"));
        assert_eq!((npz.file.unwrap(), npz.labels.unwrap()), ("/specs/x.npz".into(), "y".into()));
        let mut bins = parse("{bins: [a, /b], labels: l.txt}");
        bins.resolve(Path::new("/specs"));
        assert_eq!((bins.bins, bins.labels.unwrap()), (vec!["/specs/a".into(), "/b".into()], "/specs/l.txt".into()));
    }
}
