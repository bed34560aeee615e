//! ONNX tensors to and from `ndarray`, and little builders for nodes and attributes.

use half::{bf16, f16};
use ndarray::{ArrayD, IxDyn};

use super::proto::{AttributeProto, NodeProto, TensorProto, attribute_proto::AttributeType, tensor_proto::DataType};
use crate::error::{Error, Result};

/// Dimensions of a tensor.
pub fn dims(tensor: &TensorProto) -> Vec<usize> {
    tensor.dims.iter().map(|&d| usize::try_from(d).unwrap_or(0)).collect()
}

/// A float tensor (FLOAT, DOUBLE, FLOAT16, BFLOAT16) as f32.
///
/// # Errors
/// If the type is not a float or the data does not fill the dimensions.
pub fn to_f32(tensor: &TensorProto) -> Result<ArrayD<f32>> {
    let raw = tensor.raw_data.as_deref().filter(|r| !r.is_empty());
    let halves = || tensor.int32_data.iter().map(|&v| u16::try_from(v & 0xffff).unwrap_or(0));
    let pairs = |r: &[u8]| -> Vec<u16> { r.chunks_exact(2).map(|b| u16::from_le_bytes([b[0], b[1]])).collect() };
    let values: Vec<f32> = match (tensor.data_type(), raw) {
        (t, Some(r)) if t == DataType::Float as i32 => r.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
        (t, None) if t == DataType::Float as i32 => tensor.float_data.clone(),
        (t, Some(r)) if t == DataType::Double as i32 => {
            r.chunks_exact(8).map(|b| f64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]) as f32).collect()
        }
        (t, None) if t == DataType::Double as i32 => tensor.double_data.iter().map(|&v| v as f32).collect(),
        (t, Some(r)) if t == DataType::Float16 as i32 => pairs(r).into_iter().map(|b| f16::from_bits(b).to_f32()).collect(),
        (t, None) if t == DataType::Float16 as i32 => halves().map(|b| f16::from_bits(b).to_f32()).collect(),
        (t, Some(r)) if t == DataType::Bfloat16 as i32 => pairs(r).into_iter().map(|b| bf16::from_bits(b).to_f32()).collect(),
        (t, None) if t == DataType::Bfloat16 as i32 => halves().map(|b| bf16::from_bits(b).to_f32()).collect(),
        _ => return Err(Error::Internal(format!("tensor {} is not a float tensor", tensor.name()))),
    };
    let found = values.len();
    ArrayD::from_shape_vec(IxDyn(&dims(tensor)), values).map_err(|_| {
        Error::model(tensor.name(), format!("has {found} values for the dimensions {:?}", tensor.dims), "export the model again")
    })
}

/// An integer tensor (INT64, INT32) as i64; `None` for other types.
pub fn to_i64(tensor: &TensorProto) -> Option<Vec<i64>> {
    let raw = tensor.raw_data.as_deref().filter(|r| !r.is_empty());
    match (tensor.data_type(), raw) {
        (t, Some(r)) if t == DataType::Int64 as i32 => {
            Some(r.chunks_exact(8).map(|b| i64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]])).collect())
        }
        (t, None) if t == DataType::Int64 as i32 => Some(tensor.int64_data.clone()),
        (t, Some(r)) if t == DataType::Int32 as i32 => {
            Some(r.chunks_exact(4).map(|b| i64::from(i32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect())
        }
        (t, None) if t == DataType::Int32 as i32 => Some(tensor.int32_data.iter().map(|&v| i64::from(v)).collect()),
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

/// A FLOAT tensor of a skeleton: dimensions without data.
pub fn without_data(name: &str, shape: &[usize]) -> TensorProto {
    let mut tensor = raw(name, DataType::Float, shape, Vec::new());
    tensor.raw_data = None;
    tensor
}

/// Whether a tensor has its data; those of a skeleton do not.
pub fn has_data(tensor: &TensorProto) -> bool {
    tensor.dims.iter().product::<i64>() == 0
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
    fn too_little_data_is_an_error() {
        let short = TensorProto { data_type: Some(1), dims: vec![3], float_data: vec![1.0], ..Default::default() };
        assert!(to_f32(&short).is_err());
    }
}
