//! Data of tensors that lies in files beside the model.
//!
//! A model's weights may be larger than what one protobuf message holds (2 GB), so ONNX lets a tensor name a file, an
//! offset and a length. [`resolve`] checks all that once, when the model is loaded, and notes the file's path; `read`
//! brings the data when it is needed.

use std::{
    fs::File,
    io::{Read, Seek, SeekFrom},
    path::{Component, Path},
};

use prost::bytes::Bytes;

use super::{
    proto::{StringStringEntryProto, TensorProto, tensor_proto::DataLocation},
    tensor,
};
use crate::error::{Error, Result};

/// The largest model that fits into one file of ONNX.
pub const LARGEST_FILE: u64 = i32::MAX as u64;

const REMEDY: &str = "put the external data file beside the model, as the exporter wrote it";

/// Makes the path of a tensor's file complete, and its offset and length explicit.
///
/// # Errors
/// If the file is not there, is too short, or lies outside the model's folder.
pub fn resolve(tensor: &mut TensorProto, folder: &Path, model: &str) -> Result<()> {
    if tensor.data_location() != DataLocation::External || tensor::fill(tensor).is_some() {
        return Ok(());
    }
    let fail = |message: String| Error::model(model, format!("initializer {} {message}", tensor.name()), REMEDY);
    let location = entry(tensor, "location").ok_or_else(|| fail("has external data without a location".into()))?;
    let inside = Path::new(location).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir));
    if !inside {
        return Err(fail(format!("has its data in {location}, outside the model's folder")));
    }
    let path = folder.join(location);
    let size = std::fs::metadata(&path).map_err(Error::io("read", &path))?.len();
    let start = number(tensor, "offset").unwrap_or(0);
    let wanted = tensor::size_in_bytes(tensor);
    let length = number(tensor, "length").unwrap_or(if wanted > 0 { wanted } else { size.saturating_sub(start) });
    let end = start.saturating_add(length);
    if end > size {
        return Err(fail(format!("has its data at the bytes {start}..{end}, outside {location}")));
    }
    let key = |key: &str, value: String| StringStringEntryProto { key: Some(key.into()), value: Some(value) };
    let path = std::path::absolute(&path).unwrap_or(path).to_string_lossy().into_owned();
    tensor.external_data = vec![key("location", path), key("offset", start.to_string()), key("length", length.to_string())];
    Ok(())
}

/// The data of a tensor that was resolved.
///
/// # Errors
/// If the file cannot be read.
pub(super) fn read(tensor: &TensorProto) -> Result<Bytes> {
    let unresolved = || Error::model(tensor.name(), "has its data in a file that is not known here", REMEDY);
    let path = Path::new(entry(tensor, "location").ok_or_else(unresolved)?);
    let (start, length) = (number(tensor, "offset").unwrap_or(0), number(tensor, "length").ok_or_else(unresolved)?);
    let mut file = File::open(path).map_err(Error::io("read", path))?;
    let size = file.metadata().map_err(Error::io("read", path))?.len();
    if start.saturating_add(length) > size {
        let message = format!("has its data at the bytes {start} and {length} on, but {} has only {size}", path.display());
        return Err(Error::model(tensor.name(), message, REMEDY));
    }
    let mut data = vec![0; usize::try_from(length).map_err(|_| unresolved())?];
    file.seek(SeekFrom::Start(start)).map_err(Error::io("read", path))?;
    file.read_exact(&mut data).map_err(Error::io("read", path))?;
    Ok(data.into())
}

/// That a model of so many bytes fits into one file.
///
/// # Errors
/// If it does not.
pub fn fits_one_file(model: &str, bytes: u64) -> Result<()> {
    if bytes <= LARGEST_FILE {
        return Ok(());
    }
    let message = format!("has {:.1} GiB, and ONNX cannot hold more than 2 GiB in one piece", bytes as f64 / f64::from(1 << 30));
    let remedy = "`gulliver inspect` and `latency` take networks of this size; to compress one, split it and tune the parts";
    Err(Error::model(model, message, remedy))
}

fn entry<'t>(tensor: &'t TensorProto, key: &str) -> Option<&'t str> {
    tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value())
}

fn number(tensor: &TensorProto, key: &str) -> Option<u64> {
    entry(tensor, key)?.parse().ok()
}
