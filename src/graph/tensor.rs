//! ONNX tensors to and from `ndarray`, and little builders for nodes and attributes.

use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};
use prost::bytes::Bytes;

use super::{
    external,
    proto::{
        AttributeProto, NodeProto, StringStringEntryProto, TensorProto,
        attribute_proto::AttributeType,
        tensor_proto::{DataLocation, DataType},
    },
};
use crate::error::{Error, Result};

/// Key in a tensor's external data that stands for one value repeated; never written to a file.
const FILL: &str = "gulliver.fill";
/// More elements than this of one repeated value are never written out: 512 MiB of floats, above the largest layer of known networks.
const LARGEST_FILL: usize = 1 << 27;

/// Dimensions of a tensor.
pub fn dims(tensor: &TensorProto) -> Vec<usize> {
    tensor.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect()
}

/// A float tensor (FLOAT, DOUBLE, FLOAT16, BFLOAT16) as f32, wherever its data is: see [`content`].
///
/// # Errors
/// If the type is not a float, the data does not fill the dimensions, or it cannot be read.
pub fn to_f32(tensor: &TensorProto) -> Result<ArrayD<f32>> {
    let size = elements(tensor)?;
    if let Some(value) = fill(tensor) {
        spreadable(tensor)?;
        return Ok(ArrayD::from_elem(IxDyn(&dims(tensor)), value));
    }
    let raw = content(tensor)?;
    let raw = raw.as_deref();
    let halves = || tensor.int32_data.iter().map(|&v| u16::try_from(v & 0xffff).unwrap_or(0));
    let pairs = |r: &[u8]| -> Vec<u16> { r.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect() };
    let values: Vec<f32> = match (DataType::try_from(tensor.data_type()), raw) {
        (Ok(DataType::Float), Some(r)) => r.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        (Ok(DataType::Float), None) => tensor.float_data.clone(),
        (Ok(DataType::Double), Some(r)) => {
            r.chunks_exact(8).map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32).collect()
        }
        (Ok(DataType::Double), None) => tensor.double_data.iter().map(|&v| v as f32).collect(),
        (Ok(DataType::Float16), Some(r)) => pairs(r).into_iter().map(|b| f16::from_bits(b).to_f32()).collect(),
        (Ok(DataType::Float16), None) => halves().map(|b| f16::from_bits(b).to_f32()).collect(),
        (Ok(DataType::Bfloat16), Some(r)) => pairs(r).into_iter().map(|b| bf16::from_bits(b).to_f32()).collect(),
        (Ok(DataType::Bfloat16), None) => halves().map(|b| bf16::from_bits(b).to_f32()).collect(),
        _ => return Err(Error::Internal(format!("tensor {} is not a float tensor", tensor.name()))),
    };
    let found = values.len();
    let misfit =
        || Error::model(tensor.name(), format!("has {found} values for the dimensions {:?}", tensor.dims), "export the model again");
    if found != size {
        return Err(misfit());
    }
    ArrayD::from_shape_vec(IxDyn(&dims(tensor)), values).map_err(|_| misfit())
}

/// Number of elements that the dimensions tell.
///
/// # Errors
/// If a dimension is negative or the number does not fit the machine's integers.
pub fn elements(tensor: &TensorProto) -> Result<usize> {
    let size = |d: &i64| usize::try_from(*d).ok();
    let count = tensor.dims.iter().try_fold(1usize, |n, d| n.checked_mul(size(d)?)).filter(|&n| n <= isize::MAX as usize / 8);
    count.ok_or_else(|| Error::model(tensor.name(), format!("has the impossible dimensions {:?}", tensor.dims), "export the model again"))
}

/// Bytes that the tensor's data takes in memory; 0 for strings and unknown types.
pub fn size_in_bytes(tensor: &TensorProto) -> u64 {
    let bits = match DataType::try_from(tensor.data_type()) {
        Ok(DataType::Double | DataType::Int64 | DataType::Uint64 | DataType::Complex64) => 64,
        Ok(DataType::Float | DataType::Int32 | DataType::Uint32) => 32,
        Ok(DataType::Float16 | DataType::Bfloat16 | DataType::Int16 | DataType::Uint16) => 16,
        Ok(DataType::Undefined | DataType::String) | Err(_) => 0,
        Ok(DataType::Complex128) => 128,
        Ok(_) => 8,
    };
    elements(tensor).map_or(0, |n| (n as u64).saturating_mul(bits).div_ceil(8))
}

/// Raw little-endian data: what stands in the message, or is read from the external file now. None for data in typed fields.
///
/// # Errors
/// If the external file cannot be read or is too short.
pub fn content(tensor: &TensorProto) -> Result<Option<Bytes>> {
    if tensor.data_location() == DataLocation::External {
        return if fill(tensor).is_some() { Ok(Some(spread_fill(tensor)?)) } else { external::read(tensor).map(Some) };
    }
    Ok(tensor.raw_data.clone().filter(|r| !r.is_empty()))
}

/// The one value of a tensor made by [`filled`].
pub fn fill(tensor: &TensorProto) -> Option<f32> {
    let entry = tensor.external_data.iter().find(|e| e.key() == FILL)?;
    entry.value().parse().ok()
}

/// Takes the mark of [`filled`] off a tensor that came from a file, where it means nothing.
pub fn forget_fill(tensor: &mut TensorProto) {
    tensor.external_data.retain(|e| e.key() != FILL);
}

/// A FLOAT tensor all of whose elements are `value`, without its data until somebody asks.
pub fn filled(name: &str, dims: &[i64], value: f32) -> TensorProto {
    let entry = StringStringEntryProto { key: Some(FILL.into()), value: Some(value.to_string()) };
    TensorProto {
        name: Some(name.to_string()),
        data_type: Some(DataType::Float as i32),
        dims: dims.to_vec(),
        data_location: Some(DataLocation::External as i32),
        external_data: vec![entry],
        ..Default::default()
    }
}

fn spread_fill(tensor: &TensorProto) -> Result<Bytes> {
    let value = fill(tensor).unwrap_or_default().to_le_bytes();
    let size = spreadable(tensor)?;
    let mut bytes = Vec::with_capacity(4 * size);
    (0..size).for_each(|_| bytes.extend_from_slice(&value));
    Ok(bytes.into())
}

/// Number of elements of a tensor made by [`filled`]; its few bytes in the file say nothing of how many there are.
fn spreadable(tensor: &TensorProto) -> Result<usize> {
    let message = || format!("is one number repeated for the dimensions {:?}, too many for the memory", tensor.dims);
    let fits = |n: &usize| *n <= LARGEST_FILL;
    elements(tensor).ok().filter(fits).ok_or_else(|| Error::model(tensor.name(), message(), "export the model again"))
}

/// The tensor with its data in the message, wherever it was.
///
/// # Errors
/// As [`content`].
pub fn inlined(tensor: &TensorProto) -> Result<TensorProto> {
    let mut out = tensor.clone();
    if tensor.data_location() == DataLocation::External {
        out.raw_data = content(tensor)?;
        out.external_data.clear();
        out.data_location = None;
    }
    Ok(out)
}

/// An integer tensor (INT64, INT32) as i64; `None` for other types.
pub fn to_i64(tensor: &TensorProto) -> Option<Vec<i64>> {
    let raw = content(tensor).ok()?;
    match (DataType::try_from(tensor.data_type()), raw.as_deref()) {
        (Ok(DataType::Int64), Some(r)) => {
            Some(r.chunks_exact(8).map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])).collect())
        }
        (Ok(DataType::Int64), None) => Some(tensor.int64_data.clone()),
        (Ok(DataType::Int32), Some(r)) => {
            Some(r.chunks_exact(4).map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect())
        }
        (Ok(DataType::Int32), None) => Some(tensor.int32_data.iter().map(|&v| i64::from(v)).collect()),
        _ => None,
    }
}

/// Whether the tensor holds floats that [`to_f32`] reads.
pub fn is_float(tensor: &TensorProto) -> bool {
    [DataType::Float, DataType::Double, DataType::Float16, DataType::Bfloat16].iter().any(|&t| tensor.data_type() == t as i32)
}

/// A FLOAT tensor.
pub fn from_f32(name: &str, array: &ArrayD<f32>) -> TensorProto {
    raw(name, DataType::Float, array.shape(), array.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// An INT64 vector.
pub fn from_i64(name: &str, values: &[i64]) -> TensorProto {
    raw(name, DataType::Int64, &[values.len()], values.iter().flat_map(|v| v.to_le_bytes()).collect())
}

/// Integers of the type and dimensions of another tensor (INT64 or INT32).
pub fn like_integers(model: &TensorProto, values: &[i64]) -> TensorProto {
    let long = model.data_type() != DataType::Int32 as i32;
    let data = if long {
        values.iter().flat_map(|v| v.to_le_bytes()).collect()
    } else {
        values.iter().flat_map(|&v| i32::try_from(v).unwrap_or(i32::MAX).to_le_bytes()).collect()
    };
    TensorProto { dims: model.dims.clone(), ..raw(model.name(), if long { DataType::Int64 } else { DataType::Int32 }, &[], data) }
}

/// A FLOAT tensor of a skeleton: dimensions without data.
pub fn without_data(name: &str, shape: &[usize]) -> TensorProto {
    let mut tensor = raw(name, DataType::Float, shape, Vec::new());
    tensor.raw_data = None;
    tensor
}

/// Whether a tensor has its data; those of a skeleton do not.
pub fn has_data(tensor: &TensorProto) -> bool {
    elements(tensor).is_ok_and(|n| n == 0)
        || tensor.data_location() == DataLocation::External
        || tensor.raw_data.as_ref().is_some_and(|r| !r.is_empty())
        || !tensor.float_data.is_empty()
        || !tensor.double_data.is_empty()
        || !tensor.int32_data.is_empty()
        || !tensor.int64_data.is_empty()
}

/// A FLOAT scalar.
pub fn scalar_f32(name: &str, value: f32) -> TensorProto {
    raw(name, DataType::Float, &[], value.to_le_bytes().to_vec())
}

/// An INT8 or UINT8 scalar.
pub fn scalar_8bit(name: &str, value: i32, signed: bool) -> TensorProto {
    let byte = u8::try_from(value & 0xff).unwrap_or(0);
    raw(name, if signed { DataType::Int8 } else { DataType::Uint8 }, &[], vec![byte])
}

fn raw(name: &str, kind: DataType, shape: &[usize], data: Vec<u8>) -> TensorProto {
    TensorProto {
        name: Some(name.to_string()),
        data_type: Some(kind as i32),
        dims: shape.iter().map(|&d| i64::try_from(d).unwrap_or(0)).collect(),
        raw_data: Some(data.into()),
        ..Default::default()
    }
}

/// A node of the default domain.
pub fn node(op: &str, name: &str, inputs: &[&str], outputs: &[&str], attributes: Vec<AttributeProto>) -> NodeProto {
    NodeProto {
        op_type: Some(op.to_string()),
        name: Some(name.to_string()),
        input: inputs.iter().map(ToString::to_string).collect(),
        output: outputs.iter().map(ToString::to_string).collect(),
        attribute: attributes,
        ..Default::default()
    }
}

/// An integer attribute.
pub fn int(name: &str, value: i64) -> AttributeProto {
    AttributeProto { name: Some(name.to_string()), r#type: Some(AttributeType::Int as i32), i: Some(value), ..Default::default() }
}

/// A string attribute.
pub fn text(name: &str, value: &str) -> AttributeProto {
    let s = Some(value.as_bytes().to_vec());
    AttributeProto { name: Some(name.to_string()), r#type: Some(AttributeType::String as i32), s, ..Default::default() }
}

/// A float attribute.
pub fn float(name: &str, value: f32) -> AttributeProto {
    AttributeProto { name: Some(name.to_string()), r#type: Some(AttributeType::Float as i32), f: Some(value), ..Default::default() }
}

/// An integer list attribute.
pub fn ints(name: &str, values: &[i64]) -> AttributeProto {
    AttributeProto { name: Some(name.to_string()), r#type: Some(AttributeType::Ints as i32), ints: values.to_vec(), ..Default::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_survive_the_round_trip() {
        let array = ArrayD::from_shape_vec(IxDyn(&[2, 2]), vec![1.0, -2.5, 0.0, 1e-7]).unwrap();
        assert_eq!(to_f32(&from_f32("w", &array)).unwrap(), array);
    }

    #[test]
    fn half_floats_are_read_from_raw_and_from_int32_data() {
        let one = 0x3c00_u16;
        let raw =
            TensorProto { data_type: Some(10), dims: vec![1], raw_data: Some(one.to_le_bytes().to_vec().into()), ..Default::default() };
        let listed = TensorProto { data_type: Some(10), dims: vec![1], int32_data: vec![i32::from(one)], ..Default::default() };
        assert_eq!(to_f32(&raw).unwrap()[[0]], 1.0);
        assert_eq!(to_f32(&listed).unwrap()[[0]], 1.0);
    }

    #[test]
    fn a_repeated_value_is_not_written_out_beyond_the_memory() {
        assert_eq!(to_f32(&filled("f", &[2, 3], 0.5)).unwrap().shape(), [2, 3]);
        let huge = filled("f", &[1 << 20, 1 << 20], 0.5);
        assert!(to_f32(&huge).is_err() && content(&huge).is_err());
    }

    #[test]
    fn too_little_data_is_an_error() {
        let short = TensorProto { data_type: Some(1), dims: vec![3], float_data: vec![1.0], ..Default::default() };
        assert!(to_f32(&short).is_err());
    }
}
