//! Evaluates the small constants that shapes are computed from: `Shape → Gather → Concat → Reshape` and the like.
//!
//! Numbers are f64, exact for every dimension there is; the sentinel i64::MAX of `Slice` survives the cast back. Floats
//! of 32 bits and less are rounded to f32 after every operation, as a runtime would, for `Floor` and `Ceil` to agree.

use std::collections::HashMap;

use super::{
    fold_arrange as arrange,
    model::{attribute, float_attribute, int_attribute},
    proto::{NodeProto, TensorProto, tensor_proto::DataType},
    shape_arrange::shape_range,
    tensor,
};

/// More elements than this are never evaluated.
const LIMIT: usize = 1024;
/// Float constants above this size are weights, not scales, and are not read.
const FLOAT_LIMIT: usize = 16;

/// What the elements of a small constant are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Integers and truth values.
    Int,
    /// Floats of at most 32 bits.
    Single,
    /// Floats of 64 bits.
    Double,
}

impl Kind {
    fn of(data_type: i64) -> Self {
        match data_type {
            t if t == DataType::Double as i64 => Self::Double,
            t if [DataType::Float, DataType::Float16, DataType::Bfloat16].iter().any(|&k| k as i64 == t) => Self::Single,
            _ => Self::Int,
        }
    }

    fn round(self, value: f64) -> f64 {
        if self == Self::Single { f64::from(value as f32) } else { value }
    }
}

/// A small constant tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Small {
    /// Dimensions; empty for a scalar.
    pub dims: Vec<usize>,
    /// Elements, row-major.
    pub data: Vec<f64>,
    /// What the elements are, which matters for division and rounding.
    pub kind: Kind,
}

impl Small {
    /// The elements as integers, fractions cut off.
    pub fn ints(&self) -> Vec<i64> {
        self.data.iter().map(|&v| v as i64).collect()
    }

    fn scalar(value: f64, kind: Kind) -> Self {
        Self { dims: vec![], data: vec![value], kind }
    }

    fn vector(data: Vec<f64>, kind: Kind) -> Option<Self> {
        (data.len() <= LIMIT).then(|| Self { dims: vec![data.len()], data, kind })
    }
}

/// The value of a constant tensor if it is small and its data is there.
pub fn constant(tensor: &TensorProto) -> Option<Small> {
    let dims = tensor::dims(tensor);
    let count = elements(&dims)?;
    let kind = Kind::of(i64::from(tensor.data_type()));
    let bytes = tensor.raw_data.as_deref().filter(|r| !r.is_empty());
    let is = |t: DataType| tensor.data_type() == t as i32;
    let data: Vec<f64> = if kind != Kind::Int {
        if count > FLOAT_LIMIT {
            return None;
        }
        if is(DataType::Double) && bytes.is_none() {
            tensor.double_data.clone()
        } else if let (true, Some(raw)) = (is(DataType::Double), bytes) {
            raw.as_chunks().0.iter().map(|b| f64::from_le_bytes(*b)).collect()
        } else {
            tensor::to_f32(tensor).ok()?.iter().map(|&v| f64::from(v)).collect()
        }
    } else if is(DataType::Bool) || is(DataType::Uint8) {
        bytes.map_or_else(|| listed(tensor), |r| r.iter().map(|&b| f64::from(b)).collect())
    } else if is(DataType::Int8) {
        bytes.map_or_else(|| listed(tensor), |r| r.iter().map(|&b| f64::from(b.cast_signed())).collect())
    } else {
        tensor::to_i64(tensor)?.into_iter().map(|v| v as f64).collect()
    };
    (data.len() == count).then_some(Small { dims, data, kind })
}

fn listed(tensor: &TensorProto) -> Vec<f64> {
    tensor.int32_data.iter().map(|&v| f64::from(v)).collect()
}

/// Number of elements, where it is one that is evaluated. No product of some of the dimensions is above the limit
/// either, not even beside a dimension of 0.
pub(super) fn elements(dims: &[usize]) -> Option<usize> {
    (dims.len() <= 32).then_some(())?;
    dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d.max(1)).filter(|&n| n <= LIMIT))?;
    Some(dims.iter().product())
}

/// The value of a node's first output, where its inputs are small constants; `None` otherwise.
///
/// `small` holds the constants known so far, `shape_of` the shapes (for `Shape` and `Size`).
pub fn evaluate<'s>(node: &NodeProto, small: &HashMap<String, Small>, shape_of: impl Fn(&str) -> Option<&'s [usize]>) -> Option<Small> {
    if !matches!(node.domain(), "" | "ai.onnx") {
        return None;
    }
    let arg = |i: usize| node.input.get(i).and_then(|n| small.get(n));
    let out = || shape_of(node.output.first()?).map(<[usize]>::to_vec);
    match node.op_type() {
        "Constant" => literal(node),
        "Shape" => {
            let dims = shape_of(node.input.first()?)?;
            let (start, end) = shape_range(node, dims.len())?;
            Small::vector(dims.get(start..end)?.iter().map(|&d| d as f64).collect(), Kind::Int)
        }
        "Size" => Some(Small::scalar(shape_of(node.input.first()?)?.iter().map(|&d| d as f64).product(), Kind::Int)),
        "Identity" | "Dropout" => arg(0).cloned(),
        "Cast" => Some(cast(arg(0)?, int_attribute(node, "to", 0))),
        "Clip" => {
            let x = arg(0)?;
            let bound = |slot: usize, name: &str, default: f32| match node.input.get(slot).filter(|n| !n.is_empty()) {
                Some(n) => small.get(n)?.data.first().copied(),
                None => Some(f64::from(float_attribute(node, name, default))),
            };
            let (low, high) = (bound(1, "min", f32::NEG_INFINITY)?, bound(2, "max", f32::INFINITY)?);
            Some(Small { data: x.data.iter().map(|&v| v.max(low).min(high)).collect(), ..x.clone() })
        }
        "Neg" | "Abs" | "Floor" | "Ceil" | "Round" | "Sqrt" | "Not" | "Sign" | "Reciprocal" | "Relu" | "Exp" | "Log" => {
            unary(node.op_type(), arg(0)?)
        }
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Pow" | "Max" | "Min" | "Sum" | "Equal" | "Less" | "Greater" | "LessOrEqual"
        | "GreaterOrEqual" | "And" | "Or" | "Xor" => {
            let op = if node.op_type() == "Mod" && int_attribute(node, "fmod", 0) != 0 { "Fmod" } else { node.op_type() };
            let mut all = (0..node.input.len()).map(arg).collect::<Option<Vec<_>>>()?.into_iter();
            let start = all.next()?.clone();
            all.try_fold(start, |a, b| binary(op, &a, b))
        }
        "Where" => {
            let (c, a, b) = (arg(0)?, arg(1)?, arg(2)?);
            let dims = broadcast(&[&c.dims, &a.dims, &b.dims])?;
            let data = each(&dims, |at| Some(if pick(c, &dims, at)? != 0.0 { pick(a, &dims, at)? } else { pick(b, &dims, at)? }))?;
            Some(Small { dims, data, kind: a.kind })
        }
        "Concat" => arrange::concat(node, arg),
        "Gather" => arrange::gather(arg(0)?, arg(1)?, int_attribute(node, "axis", 0)),
        "Slice" => arrange::slice(node, arg),
        "Split" => arrange::leading(arg(0)?, out()?),
        "Transpose" => arrange::transpose(node, arg(0)?),
        "Tile" => arrange::tile(arg(0)?, out()?),
        "ScatterND" => arrange::scatter(node, arg(0)?, arg(1)?, arg(2)?),
        "NonZero" => arrange::nonzero(arg(0)?),
        "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" => {
            let x = arg(0)?;
            let dims = out()?;
            (elements(&dims) == Some(x.data.len())).then(|| Small { dims, ..x.clone() })
        }
        "ConstantOfShape" => {
            let dims = arg(0)?.ints().into_iter().map(|d| usize::try_from(d).ok()).collect::<Option<Vec<_>>>()?;
            let count = elements(&dims)?;
            let (value, kind) = match attribute(node, "value").and_then(|a| a.t.as_ref()) {
                Some(t) => constant(t).and_then(|c| Some((*c.data.first()?, c.kind)))?,
                None => (0.0, Kind::Single),
            };
            Some(Small { dims, data: vec![value; count], kind })
        }
        "Expand" => {
            let (x, dims) = (arg(0)?, out()?);
            Some(Small { data: each(&dims, |at| pick(x, &dims, at))?, dims, kind: x.kind })
        }
        "Range" => {
            let v = |i: usize| arg(i).and_then(|s| s.data.first().copied());
            let (start, limit, delta) = (v(0)?, v(1)?, v(2)?);
            let count = ((limit - start) / delta).ceil().max(0.0);
            let kind = arg(0)?.kind;
            (count <= LIMIT as f64)
                .then(|| Small::vector((0..count as usize).map(|i| kind.round(start + i as f64 * delta)).collect(), kind))?
        }
        "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" => arrange::reduce(node, arg(0)?, arg(1), out()?),
        _ => None,
    }
}

/// The common shape of the operands under numpy's broadcasting; `None` if they do not fit.
pub fn broadcast(shapes: &[&[usize]]) -> Option<Vec<usize>> {
    let rank = shapes.iter().map(|s| s.len()).max()?;
    let mut out = vec![1usize; rank];
    for shape in shapes {
        for (o, &d) in out.iter_mut().rev().zip(shape.iter().rev()) {
            match (*o, d) {
                (a, b) if a == b || b == 1 => {}
                (1, b) => *o = b,
                _ => return None,
            }
        }
    }
    Some(out)
}

/// First index, number of elements and step of one axis of a `Slice`; `None` for step 0.
pub fn slice_axis(dim: usize, start: i64, end: i64, step: i64) -> Option<(i64, usize, i64)> {
    let n = i64::try_from(dim).ok()?;
    let wrap = |v: i64| if v < 0 { v.saturating_add(n) } else { v };
    let (start, end) = match step {
        0 => return None,
        1.. => (wrap(start).clamp(0, n), wrap(end).clamp(0, n)),
        _ => (wrap(start).clamp(0, (n - 1).max(0)), wrap(end).clamp(-1, (n - 1).max(-1))),
    };
    let span = if step > 0 { end - start } else { start - end };
    let count = if span <= 0 || n == 0 { 0 } else { (span - 1) / step.checked_abs()? + 1 };
    Some((start, usize::try_from(count).ok()?, step))
}

fn literal(node: &NodeProto) -> Option<Small> {
    node.attribute.iter().find_map(|a| match a.name() {
        "value" => constant(a.t.as_ref()?),
        "value_int" => Some(Small::scalar(a.i() as f64, Kind::Int)),
        "value_ints" => Small::vector(a.ints.iter().map(|&v| v as f64).collect(), Kind::Int),
        "value_float" => Some(Small::scalar(f64::from(a.f()), Kind::Single)),
        "value_floats" => Small::vector(a.floats.iter().map(|&v| f64::from(v)).collect(), Kind::Single),
        _ => None,
    })
}

fn cast(x: &Small, to: i64) -> Small {
    let kind = Kind::of(to);
    let data = x.data.iter().map(|&v| match kind {
        Kind::Int if to == DataType::Bool as i64 => f64::from(u8::from(v != 0.0)),
        Kind::Int => v.trunc(),
        float => float.round(v),
    });
    Small { dims: x.dims.clone(), data: data.collect(), kind }
}

fn unary(op: &str, x: &Small) -> Option<Small> {
    let f: fn(f64) -> f64 = match op {
        "Neg" => |v| -v,
        "Abs" => f64::abs,
        "Floor" => f64::floor,
        "Ceil" => f64::ceil,
        "Round" => f64::round_ties_even,
        "Sqrt" => f64::sqrt,
        "Exp" => f64::exp,
        "Log" => f64::ln,
        "Reciprocal" => |v| 1.0 / v,
        "Relu" => |v| v.max(0.0),
        "Sign" => |v| if v == 0.0 { 0.0 } else { v.signum() },
        "Not" => |v| f64::from(u8::from(v == 0.0)),
        _ => return None,
    };
    Some(Small { data: x.data.iter().map(|&v| x.kind.round(f(v))).collect(), ..x.clone() })
}

fn binary(op: &str, a: &Small, b: &Small) -> Option<Small> {
    let kind = a.kind.max(b.kind);
    let truth = |t: bool| f64::from(u8::from(t));
    let compute = |x: f64, y: f64| {
        Some(match op {
            "Add" | "Sum" => x + y,
            "Sub" => x - y,
            "Mul" => x * y,
            "Div" if kind != Kind::Int => x / y,
            "Div" if y != 0.0 => (x / y).trunc(),
            "Mod" if y != 0.0 => x - (x / y).floor() * y,
            "Fmod" if y != 0.0 => x % y,
            "Pow" => x.powf(y),
            "Max" => x.max(y),
            "Min" => x.min(y),
            "Equal" => truth(x == y),
            "Less" => truth(x < y),
            "Greater" => truth(x > y),
            "LessOrEqual" => truth(x <= y),
            "GreaterOrEqual" => truth(x >= y),
            "And" => truth(x != 0.0 && y != 0.0),
            "Or" => truth(x != 0.0 || y != 0.0),
            "Xor" => truth((x != 0.0) != (y != 0.0)),
            _ => return None,
        })
    };
    let dims = broadcast(&[&a.dims, &b.dims])?;
    let data = each(&dims, |at| Some(kind.round(compute(pick(a, &dims, at)?, pick(b, &dims, at)?)?)))?;
    let compares = matches!(op, "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual");
    Some(Small { dims, data, kind: if compares { Kind::Int } else { kind } })
}

/// Calls `f` with every flat index of `dims`.
pub(super) fn each(dims: &[usize], f: impl Fn(usize) -> Option<f64>) -> Option<Vec<f64>> {
    (0..elements(dims)?).map(f).collect()
}

/// The element of a broadcast operand at a flat index of the common shape.
fn pick(x: &Small, dims: &[usize], mut flat: usize) -> Option<f64> {
    let (mut at, mut stride) = (0, 1);
    for (i, &d) in dims.iter().enumerate().rev() {
        let coordinate = flat % d;
        flat /= d;
        if let Some(own) = (i + x.dims.len()).checked_sub(dims.len()).and_then(|j| x.dims.get(j)) {
            at += if *own == 1 { 0 } else { coordinate * stride };
            stride *= own;
        }
    }
    x.data.get(at).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn small(dims: &[usize], data: &[f64]) -> Small {
        Small { dims: dims.to_vec(), data: data.to_vec(), kind: Kind::Int }
    }

    /// A one-node graph's value, its inputs named a, b, c.
    fn run(op: &str, inputs: &[Small], attributes: Vec<crate::graph::proto::AttributeProto>) -> Option<Small> {
        let names = &["a", "b", "c"][..inputs.len()];
        let known = names.iter().map(ToString::to_string).zip(inputs.iter().cloned()).collect();
        evaluate(&tensor::node(op, "n", names, &["y"], attributes), &known, |_| None)
    }

    #[test]
    fn operands_are_broadcast_from_the_right() {
        assert_eq!(broadcast(&[&[8, 1, 6, 1], &[7, 1, 5]]), Some(vec![8, 7, 6, 5]));
        assert_eq!(broadcast(&[&[3], &[4]]), None);
        let sum = binary("Add", &small(&[2, 1], &[10.0, 20.0]), &small(&[3], &[1.0, 2.0, 3.0])).unwrap();
        assert_eq!(sum, small(&[2, 3], &[11.0, 12.0, 13.0, 21.0, 22.0, 23.0]));
    }

    #[test]
    fn integer_division_cuts_and_never_divides_by_zero() {
        assert_eq!(binary("Div", &small(&[], &[7.0]), &small(&[], &[2.0])).unwrap().data, [3.0]);
        assert_eq!(binary("Div", &small(&[], &[7.0]), &small(&[], &[0.0])), None);
    }

    #[test]
    fn a_remainder_has_the_divisors_sign_unless_fmod_is_asked_for() {
        let (x, y) = (small(&[2], &[-7.0, 7.0]), small(&[], &[3.0]));
        assert_eq!(run("Mod", &[x.clone(), y.clone()], vec![]).unwrap().data, [2.0, 1.0]);
        assert_eq!(run("Mod", &[x, y], vec![tensor::int("fmod", 1)]).unwrap().data, [-1.0, 1.0]);
    }

    #[test]
    fn minima_take_any_number_of_operands_and_clips_their_bounds_from_inputs() {
        let three = [small(&[], &[5.0]), small(&[], &[3.0]), small(&[2], &[4.0, 1.0])];
        assert_eq!(run("Min", &three, vec![]).unwrap().data, [3.0, 1.0]);
        let clip = [small(&[3], &[-5.0, 2.0, 9.0]), small(&[], &[0.0]), small(&[], &[7.0])];
        assert_eq!(run("Clip", &clip, vec![]).unwrap().data, [0.0, 2.0, 7.0]);
    }

    #[test]
    fn single_floats_are_rounded_as_a_runtime_rounds_them() {
        let single = |v: f64| Small::scalar(Kind::Single.round(v), Kind::Single);
        let product = binary("Mul", &single(10.0), &single(0.7)).unwrap();
        assert_eq!(unary("Floor", &product).unwrap().data, [7.0]);
        let double = Small::scalar(0.1, Kind::Double);
        assert_eq!(binary("Mul", &double, &Small::scalar(3.0, Kind::Double)).unwrap().data, [0.1 * 3.0]);
    }

    #[test]
    fn bytes_doubles_and_truth_values_are_read() {
        let tensor = |kind: DataType, raw: &[u8], n: i64| TensorProto {
            data_type: Some(kind as i32),
            dims: vec![n],
            raw_data: Some(raw.to_vec().into()),
            ..Default::default()
        };
        assert_eq!(constant(&tensor(DataType::Int8, &[255, 2], 2)).unwrap().data, [-1.0, 2.0]);
        assert_eq!(constant(&tensor(DataType::Uint8, &[255], 1)).unwrap().data, [255.0]);
        assert_eq!(constant(&tensor(DataType::Bool, &[0, 1], 2)).unwrap().data, [0.0, 1.0]);
        assert_eq!(constant(&tensor(DataType::Double, &0.1f64.to_le_bytes(), 1)).unwrap().data, [0.1]);
        assert_eq!(constant(&tensor(DataType::Double, &[1, 2, 3], 1)), None);
    }

    #[test]
    fn constants_of_a_shape_take_the_type_and_the_value_of_their_attribute() {
        let value = tensor::from_i64("v", &[7]);
        let attribute = crate::graph::proto::AttributeProto { name: Some("value".into()), t: Some(value), ..Default::default() };
        assert_eq!(run("ConstantOfShape", &[small(&[1], &[2.0])], vec![attribute]), Some(small(&[2], &[7.0, 7.0])));
        assert_eq!(run("ConstantOfShape", &[small(&[1], &[2.0])], vec![]).unwrap().kind, Kind::Single);
        assert_eq!(run("ConstantOfShape", &[small(&[2], &[4e18, 4e18])], vec![]), None);
    }

    #[test]
    fn a_range_counts_down_and_one_without_end_is_not_evaluated() {
        let (a, b, c) = (small(&[], &[5.0]), small(&[], &[0.0]), small(&[], &[-2.0]));
        assert_eq!(run("Range", &[a.clone(), b.clone(), c], vec![]).unwrap().data, [5.0, 3.0, 1.0]);
        assert_eq!(run("Range", &[b.clone(), a, b], vec![]), None);
    }

    #[test]
    fn a_slice_to_the_end_of_time_stops_at_the_dimension() {
        assert_eq!(slice_axis(5, 1, i64::MAX, 2), Some((1, 2, 2)));
        assert_eq!(slice_axis(5, -1, i64::MIN, -1), Some((4, 5, -1)));
        assert_eq!(slice_axis(5, 0, 5, 0), None);
        assert_eq!(slice_axis(0, 0, i64::MIN, -1), Some((0, 0, -1)));
    }
}
