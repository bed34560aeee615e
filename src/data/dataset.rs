//! A set of samples, kept as stored and turned into model inputs a batch at a time.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ndarray::{ArrayD, IxDyn};
use sha2::{Digest, Sha256};

use super::arrange::Arrange;
use super::images::Images;
use super::npz::Values;
use super::raw::Raw;
use crate::error::{Error, Result};

/// Samples with labels, if there are any. Cheap to clone; a selection shares its parent's storage.
#[derive(Debug, Clone)]
pub struct Dataset {
    pub(super) stored: Arc<Stored>,
    /// The stored samples that belong to this set, in its order.
    pub(super) rows: Vec<usize>,
    pub(super) labels: Option<Vec<u32>>,
}

/// What every selection of a set shares.
#[derive(Debug)]
pub(super) struct Stored {
    pub path: PathBuf,
    pub store: Store,
    /// Name and arrangement of each input of the model.
    pub inputs: Vec<(String, Arrange)>,
    pub samples: usize,
}

/// Samples as they are kept.
#[derive(Debug)]
pub(super) enum Store {
    Npz(Values),
    Images { images: Images, grey: bool },
    Raw(Raw),
}

impl Dataset {
    /// The number of samples, at least 1 for a set that was opened.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether a selection left nothing.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The file, or the (first) folder.
    pub fn path(&self) -> &Path {
        &self.stored.path
    }

    /// The classes of the samples, in their order.
    pub fn labels(&self) -> Option<&[u32]> {
        self.labels.as_deref()
    }

    /// The labels, where a metric cannot do without.
    ///
    /// # Errors
    /// The data has none.
    pub fn require_labels(&self) -> Result<&[u32]> {
        let remedy = match self.stored.store {
            Store::Npz(_) => "add a member labels or y with one class number a sample, or choose a metric without labels such as agreement",
            Store::Images { .. } => "give labels: a file of lines NAME LABEL, or sort the images into one folder a class",
            Store::Raw(_) => "give labels: a text file with one class number a line",
        };
        self.labels().ok_or_else(|| Error::data(self.path(), "has no labels, and the metric needs them", remedy))
    }

    /// The name of a sample, for messages: its file, or its number in the npz file.
    pub fn name(&self, index: usize) -> String {
        match (self.rows.get(index), &self.stored.store) {
            (Some(row), Store::Images { images, .. }) => images.names[*row].clone(),
            (Some(row), Store::Raw(raw)) => file_name(&raw.files[0][*row]),
            (row, _) => format!("sample {}", row.unwrap_or(&index)),
        }
    }

    /// Names and shapes of the model's inputs for one sample, without the batch; no open dimensions are left.
    pub fn inputs(&self) -> impl Iterator<Item = (&str, &[usize])> {
        self.stored.inputs.iter().map(|(name, arrange)| (name.as_str(), arrange.shape.as_slice()))
    }

    /// The samples `indices` of this set as the model takes them: for each input its name and an array `[indices.len(), …]`.
    ///
    /// # Errors
    /// A file cannot be read or decoded or does not fit; an index is out of range (a bug of the caller).
    pub fn batch(&self, indices: &[usize]) -> Result<Vec<(String, ArrayD<f32>)>> {
        let out_of_range = |index| Error::Internal(format!("sample {index} of {} was asked for", self.len()));
        let rows = indices.iter().map(|i| self.rows.get(*i).copied().ok_or_else(|| out_of_range(i))).collect::<Result<Vec<_>>>()?;
        let mut batch = Vec::with_capacity(self.stored.inputs.len());
        for (input, (name, arrange)) in self.stored.inputs.iter().enumerate() {
            let mut values = vec![0.0; rows.len() * arrange.len()];
            for (row, out) in rows.iter().zip(values.chunks_exact_mut(arrange.len())) {
                self.stored.fill(input, *row, arrange, out)?;
            }
            let shape: Vec<usize> = std::iter::once(rows.len()).chain(arrange.shape.iter().copied()).collect();
            let array = ArrayD::from_shape_vec(IxDyn(&shape), values).map_err(|e| Error::Internal(format!("a batch of {shape:?}: {e}")))?;
            batch.push((name.clone(), array));
        }
        Ok(batch)
    }

    /// The samples `indices` of this set as a set of their own, without copying them. Indices out of range are left out.
    pub fn select(&self, indices: &[usize]) -> Self {
        let indices = || indices.iter().filter(|i| **i < self.len());
        Self {
            stored: Arc::clone(&self.stored),
            rows: indices().map(|i| self.rows[*i]).collect(),
            labels: self.labels.as_ref().map(|labels| indices().map(|i| labels[*i]).collect()),
        }
    }

    /// `samples` of this set, spread evenly: one from each of as many equal stretches, in order; all if there are no more.
    ///
    /// The place within a stretch is drawn from a fixed sequence, because classes often alternate with a fixed period, and equal
    /// steps would then meet the same class every time.
    pub fn take(&self, samples: usize) -> Self {
        if samples >= self.len() {
            return self.clone();
        }
        let edge = |k: usize| k * self.len() / samples;
        let indices: Vec<usize> = (0..samples).map(|k| edge(k) + (scramble(k as u64) % (edge(k + 1) - edge(k)) as u64) as usize).collect();
        self.select(&indices)
    }

    /// SHA-256 of the content, in hexadecimal: the npz file's own; of folders that of every file's name, length and bytes, and
    /// the labels. A selection's also covers which samples it holds.
    ///
    /// # Errors
    /// A file cannot be read; folders are read whole.
    pub fn sha256(&self) -> Result<String> {
        let mut hash = Sha256::new();
        match &self.stored.store {
            Store::Npz(_) => hash_file(self.path(), &mut hash)?,
            Store::Images { images, .. } => {
                for (at, name) in images.names.iter().enumerate() {
                    hash_named(name, &images.path(at), &mut hash)?;
                }
            }
            Store::Raw(raw) => {
                for file in raw.files.iter().flatten() {
                    hash_named(&file_name(file), file, &mut hash)?;
                }
            }
        }
        let whole = self.rows.iter().copied().eq(0..self.stored.samples);
        if !whole {
            self.rows.iter().for_each(|row| hash.update((*row as u64).to_le_bytes()));
        }
        if !matches!(self.stored.store, Store::Npz(_)) {
            self.labels.iter().flatten().for_each(|label| hash.update(label.to_le_bytes()));
        }
        Ok(hash.finalize().iter().fold(String::new(), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        }))
    }
}

impl Stored {
    fn fill(&self, input: usize, row: usize, arrange: &Arrange, out: &mut [f32]) -> Result<()> {
        let sample = row * arrange.len()..(row + 1) * arrange.len();
        match &self.store {
            Store::Npz(Values::Bytes(bytes)) => arrange.write(&bytes[sample], out),
            Store::Npz(Values::Floats(floats)) => arrange.write(&floats[sample], out),
            Store::Raw(raw) => arrange.write(&raw.read(input, row, arrange.len())?, out),
            Store::Images { images, grey } => {
                let decoded = images.decode(row, *grey)?;
                let (height, width) = arrange.image_size();
                if (decoded.height, decoded.width) != (height, width) {
                    let message = format!("is {}×{} pixels, and the model takes {width}×{height}", decoded.width, decoded.height);
                    return Err(Error::data(images.path(row), message, "give resize and crop, so that all images have the model's size"));
                }
                arrange.write(&decoded.bytes, out);
            }
        }
        Ok(())
    }
}

pub(super) fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

fn hash_file(path: &Path, hash: &mut Sha256) -> Result<()> {
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    std::io::copy(&mut file, hash).map(|_| ()).map_err(Error::io("read", path))
}

fn hash_named(name: &str, path: &Path, hash: &mut Sha256) -> Result<()> {
    let length = fs::metadata(path).map_err(Error::io("read", path))?.len();
    hash.update(name.as_bytes());
    hash.update([0]);
    hash.update(length.to_le_bytes());
    hash_file(path, hash)
}

/// A well-mixed number for every `k` (SplitMix64; Steele, Lea and Flood 2014).
fn scramble(k: u64) -> u64 {
    let mut z = k.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {

    use ndarray::array;

    use super::super::open::tests::{folder, npz, open};
    use super::super::{Input, Source};
    use super::*;

    #[test]
    fn a_batch_holds_the_asked_samples_as_the_model_takes_them() {
        let (_dir, source) = npz(4);
        let data = open(&source, &Input { scale: 0.5, ..Input::default() }, &[3, 1, 2]).unwrap();
        let batch = data.batch(&[2, 0]).unwrap();
        assert_eq!(batch[0].0, "image");
        assert_eq!(batch[0].1, array![[[[6., 7.5]], [[6.5, 8.]], [[7., 8.5]]], [[[0., 1.5]], [[0.5, 2.]], [[1., 2.5]]]].into_dyn());
        assert_eq!(data.inputs().collect::<Vec<_>>(), [("image", &[3, 1, 2][..])]);
        assert!(matches!(data.batch(&[4]), Err(Error::Internal(_))));
    }

    #[test]
    fn a_selection_keeps_samples_labels_and_names_together() {
        let (_dir, source) = npz(12);
        let part = open(&source, &Input::default(), &[3, 1, 2]).unwrap().select(&[11, 3]).select(&[1, 0]);
        assert_eq!(part.labels(), Some(&[3, 1][..]));
        assert_eq!(part.batch(&[0]).unwrap()[0].1[[0, 0, 0, 0]], 18.0);
        assert_eq!(part.name(1), "sample 11");
    }

    #[test]
    fn a_part_is_spread_over_the_data_and_meets_every_class() {
        let (_dir, source) = npz(1000);
        let part = open(&Source { samples: Some(100), ..source.clone() }, &Input::default(), &[3, 1, 2]).unwrap();
        assert_eq!(part.len(), 100);
        assert!((0..100).all(|k| part.rows[k] / 10 == k));
        let labels = part.labels().unwrap();
        assert!((0..10).all(|class| labels.iter().filter(|l| **l == class).count() >= 3), "{labels:?}");
        let message = open(&Source { samples: Some(1001), ..source }, &Input::default(), &[3, 1, 2]).unwrap_err();
        assert!(message.ends_with("samples is 1001, and there are 1000"));
    }

    #[test]
    fn the_fingerprint_is_the_files_and_a_parts_is_its_own() {
        let (_dir, source) = npz(4);
        let data = open(&source, &Input::default(), &[3, 1, 2]).unwrap();
        let mut hash = Sha256::new();
        hash.update(fs::read(data.path()).unwrap());
        assert_eq!(data.sha256().unwrap(), format!("{:x}", hash.finalize()));
        assert_ne!(data.sha256().unwrap(), data.take(3).sha256().unwrap());
        assert_eq!(data.sha256().unwrap(), data.take(4).sha256().unwrap());
    }

    #[test]
    fn a_folders_fingerprint_covers_names_and_bytes() {
        let (dir, source) = folder(&[(2, 2), (2, 2)]);
        let print = || open(&source, &Input::default(), &[3, 2, 2]).unwrap().sha256().unwrap();
        let before = print();
        fs::rename(dir.path().join("1.png"), dir.path().join("2.png")).unwrap();
        let renamed = print();
        fs::copy(dir.path().join("0.png"), dir.path().join("2.png")).unwrap();
        assert!(before != renamed && renamed != print());
    }

    #[test]
    fn missing_labels_are_an_error_only_where_they_are_needed() {
        let (_dir, source) = folder(&[(2, 2)]);
        let data = open(&source, &Input::default(), &[3, 2, 2]).unwrap();
        assert_eq!(data.labels(), None);
        let error = data.require_labels().unwrap_err();
        assert!(error.to_string().ends_with("has no labels, and the metric needs them") && error.remedy().unwrap().contains("NAME LABEL"));
    }
}
