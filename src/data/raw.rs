//! Folders of raw tensors, as AMCT and msame use them: one file a sample, numbers in C order, little-endian.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};

use half::f16;
use serde::{Deserialize, Serialize};

use super::arrange::shown;
use super::input::InputSpec;
use crate::error::{Error, Result};

/// The numbers in a raw file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 4-byte floats.
    #[default]
    Float32,
    /// 2-byte floats.
    Float16,
    /// 8-byte floats.
    Float64,
    /// Bytes from 0.
    Uint8,
    /// Bytes with a sign.
    Int8,
    /// 4-byte integers.
    Int32,
    /// 8-byte integers.
    Int64,
}

impl Dtype {
    /// Bytes of one number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::Uint8 | Self::Int8 => 1,
            Self::Float16 => 2,
            Self::Float32 | Self::Int32 => 4,
            Self::Float64 | Self::Int64 => 8,
        }
    }

    fn decode(self, bytes: &[u8]) -> Vec<f32> {
        fn each<const N: usize>(bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks::<N>().0.iter().map(|b| number(*b)).collect()
        }
        match self {
            Self::Float32 => each(bytes, f32::from_le_bytes),
            Self::Float16 => each(bytes, |b| f16::from_le_bytes(b).to_f32()),
            Self::Float64 => each(bytes, |b| f64::from_le_bytes(b) as f32),
            Self::Uint8 => bytes.iter().map(|b| f32::from(*b)).collect(),
            Self::Int8 => each(bytes, |b| f32::from(i8::from_le_bytes(b))),
            Self::Int32 => each(bytes, |b| i32::from_le_bytes(b) as f32),
            Self::Int64 => each(bytes, |b| i64::from_le_bytes(b) as f32),
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Float32 => "float32",
            Self::Float16 => "float16",
            Self::Float64 => "float64",
            Self::Uint8 => "uint8",
            Self::Int8 => "int8",
            Self::Int32 => "int32",
            Self::Int64 => "int64",
        })
    }
}

/// The files of every input, and what is in them.
#[derive(Debug)]
pub(super) struct Raw {
    /// For each input of the model its files, all of the same number.
    pub files: Vec<Vec<PathBuf>>,
    dtype: Dtype,
}

impl Raw {
    /// Lists the files of each folder, sorted by name, and checks their sizes. Also gives the shape of one sample of each input.
    ///
    /// # Errors
    /// A folder cannot be read or is empty; folders are not as many as inputs or differ in files; an input's shape is open;
    /// a file is not of the size of one sample.
    pub fn list(folders: &[PathBuf], dtype: Dtype, inputs: &[InputSpec]) -> Result<(Self, Vec<Vec<usize>>)> {
        let first = &folders[0];
        if folders.len() != inputs.len() {
            let names: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
            let message = format!(
                "{} folders of raw tensors are given and the model has {} inputs: {}",
                folders.len(),
                inputs.len(),
                names.join(", ")
            );
            return Err(Error::data(first, message, "give one folder for each input, in that order"));
        }
        let mut files = Vec::new();
        let mut shapes = Vec::new();
        for (folder, input) in folders.iter().zip(inputs) {
            let shape: Option<Vec<usize>> = input.sample_dims().iter().copied().collect();
            let shape = shape.ok_or_else(|| {
                let message = format!(
                    "the model's input {} is {}, and a raw file does not tell its shape",
                    input.name,
                    shown(input.sample_dims().iter().copied())
                );
                Error::data(folder, message, "fix the model's input shape, or use an npz file")
            })?;
            let expected = shape.iter().try_fold(dtype.bytes(), |n, d| n.checked_mul(*d)).unwrap_or(usize::MAX);
            files.push(bins(folder, expected, &shape, dtype)?);
            shapes.push(shape);
        }
        if let Some(at) = files.iter().position(|f| f.len() != files[0].len()) {
            let message = format!("holds {} raw files and {} holds {}", files[at].len(), first.display(), files[0].len());
            return Err(Error::data(&folders[at], message, "every input needs a file for every sample"));
        }
        Ok((Self { files, dtype }, shapes))
    }

    /// Reads one sample of one input.
    ///
    /// # Errors
    /// The file cannot be read, has changed its size, or holds NaN or infinities.
    pub fn read(&self, input: usize, at: usize, values: usize) -> Result<Vec<f32>> {
        let path = &self.files[input][at];
        let numbers = self.dtype.decode(&fs::read(path).map_err(Error::io("read", path))?);
        if numbers.len() != values {
            let message = format!("holds {} numbers now, and held {values} when it was opened", numbers.len());
            return Err(Error::data(path, message, "leave the data alone while a study runs"));
        }
        match numbers.iter().find(|v| !v.is_finite()) {
            Some(value) => Err(Error::data(path, format!("holds {value}"), "remove or mend that sample, and check dtype")),
            None => Ok(numbers),
        }
    }
}

fn bins(folder: &Path, expected: usize, shape: &[usize], dtype: Dtype) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::io("read", folder))? {
        let path = entry.map_err(Error::io("read", folder))?.path();
        if path.extension().is_some_and(|e| e == "bin") {
            let size = fs::metadata(&path).map_err(Error::io("read", &path))?.len();
            if size != expected as u64 {
                let message = format!("is {size} bytes, and one sample of {shape:?} {dtype} is {expected}");
                return Err(Error::data(&path, message, "check dtype and the model's input shape; one file holds one sample"));
            }
            files.push(path);
        }
    }
    if files.is_empty() {
        return Err(Error::data(folder, "holds no .bin files", "write one raw tensor a sample: array.tofile(\"0001.bin\")"));
    }
    files.sort_unstable();
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn input(name: &str, dims: &[Option<usize>]) -> InputSpec {
        InputSpec { name: name.into(), dims: dims.to_vec() }
    }

    fn folder(files: &[(&str, &[u8])]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, bytes)| fs::write(dir.path().join(name), bytes).unwrap());
        dir
    }

    #[test]
    fn every_dtype_is_decoded() {
        assert_eq!(Dtype::Float32.decode(&1.5_f32.to_le_bytes()), [1.5]);
        assert_eq!(Dtype::Float64.decode(&1.5_f64.to_le_bytes()), [1.5]);
        assert_eq!(Dtype::Float16.decode(&f16::from_f32(1.5).to_le_bytes()), [1.5]);
        assert_eq!(Dtype::Uint8.decode(&[200, 1]), [200.0, 1.0]);
        assert_eq!(Dtype::Int8.decode(&[0xff]), [-1.0]);
        assert_eq!(Dtype::Int32.decode(&(-7_i32).to_le_bytes()), [-7.0]);
        assert_eq!(Dtype::Int64.decode(&9_i64.to_le_bytes()), [9.0]);
    }

    #[test]
    fn files_come_sorted_by_name_and_others_are_left_out() {
        let dir = folder(&[("b.bin", &[3, 4]), ("a.bin", &[1, 2]), ("readme.txt", &[0])]);
        let (raw, shapes) = Raw::list(&[dir.path().into()], Dtype::Uint8, &[input("x", &[Some(1), Some(2)])]).unwrap();
        assert_eq!(shapes, [[2]]);
        assert_eq!((raw.read(0, 0, 2).unwrap(), raw.read(0, 1, 2).unwrap()), (vec![1.0, 2.0], vec![3.0, 4.0]));
    }

    #[test]
    fn a_file_of_the_wrong_size_is_named_with_both_sizes() {
        let dir = folder(&[("a.bin", &[0; 7])]);
        let error = Raw::list(&[dir.path().into()], Dtype::Float32, &[input("x", &[None, Some(2)])]).unwrap_err().to_string();
        assert!(error.ends_with("a.bin: is 7 bytes, and one sample of [2] float32 is 8"), "{error}");
    }

    #[test]
    fn folders_must_match_the_inputs_and_each_other() {
        let (one, two) = (folder(&[("a.bin", &[1]), ("b.bin", &[1])]), folder(&[("a.bin", &[1])]));
        let inputs = [input("x", &[None, Some(1)]), input("mask", &[None, Some(1)])];
        let error = Raw::list(&[one.path().into()], Dtype::Uint8, &inputs).unwrap_err().to_string();
        assert!(error.ends_with("1 folders of raw tensors are given and the model has 2 inputs: x, mask"));
        let error = Raw::list(&[one.path().into(), two.path().into()], Dtype::Uint8, &inputs).unwrap_err().to_string();
        assert!(error.contains("holds 1 raw files and"));
    }

    #[test]
    fn an_open_shape_and_an_empty_folder_are_errors() {
        let dir = folder(&[]);
        let list = |dims: &[Option<usize>]| Raw::list(&[dir.path().into()], Dtype::Uint8, &[input("x", dims)]).unwrap_err().to_string();
        assert!(list(&[None, None, Some(3)]).ends_with("the model's input x is [?, 3], and a raw file does not tell its shape"));
        assert!(list(&[None, Some(3)]).ends_with("holds no .bin files"));
    }

    #[test]
    fn infinities_are_found_with_their_file() {
        let dir = folder(&[("a.bin", &f32::INFINITY.to_le_bytes())]);
        let (raw, _) = Raw::list(&[dir.path().into()], Dtype::Float32, &[input("x", &[None, Some(1)])]).unwrap();
        assert!(raw.read(0, 0, 1).unwrap_err().to_string().ends_with("a.bin: holds inf"));
    }
}
