//! Evaluates the small constants that shapes are computed from: `Shape → Gather → Concat → Reshape` and the like.
//!
//! Numbers are f64, exact for every dimension there is; the sentinel i64::MAX of `Slice` survives the cast back.

use std::collections::HashMap;

use super::{
    model::{attribute, int_attribute, ints_attribute},
    proto::{NodeProto, TensorProto, tensor_proto::DataType},
    shape_rule::axis,
    tensor,
};

/// More elements than this are never evaluated.
const LIMIT: usize = 4096;
/// Float constants above this size are weights, not scales, and are not read.
const FLOAT_LIMIT: usize = 16;

/// A small constant tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct Small {
    /// Dimensions; empty for a scalar.
    pub dims: Vec<usize>,
    /// Elements, row-major.
    pub data: Vec<f64>,
    /// Whether the elements are floats, which matters for division.
    pub float: bool,
}

impl Small {
    /// The elements as integers, fractions cut off.
    pub fn ints(&self) -> Vec<i64> {
        self.data.iter().map(|&v| v as i64).collect()
    }

    fn vector(data: Vec<f64>) -> Self {
        Self { dims: vec![data.len()], data, float: false }
    }
}

/// The value of a constant tensor if it is small and its data is there.
pub fn constant(tensor: &TensorProto) -> Option<Small> {
    let dims = tensor::dims(tensor);
    let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= LIMIT)?;
    let (data, float): (Vec<f64>, bool) = if tensor::is_float(tensor) {
        if count > FLOAT_LIMIT {
            return None;
        }
        (tensor::to_f32(tensor).ok()?.iter().map(|&v| f64::from(v)).collect(), true)
    } else if tensor.data_type() == DataType::Bool as i32 {
        let raw = tensor.raw_data.as_deref().filter(|r| !r.is_empty());
        let bytes = raw.map(|r| r.iter().map(|&b| f64::from(b)).collect());
        (bytes.unwrap_or_else(|| tensor.int32_data.iter().map(|&v| f64::from(v)).collect()), false)
    } else {
        (tensor::to_i64(tensor)?.into_iter().map(|v| v as f64).collect(), false)
    };
    (data.len() == count).then_some(Small { dims, data, float })
}

/// The value of a node's first output, where its inputs are small constants; `None` otherwise.
///
/// `small` holds the constants known so far, `shape_of` the shapes (for `Shape` and `Size`).
pub fn evaluate<'s>(node: &NodeProto, small: &HashMap<String, Small>, shape_of: impl Fn(&str) -> Option<&'s [usize]>) -> Option<Small> {
    let arg = |i: usize| node.input.get(i).and_then(|n| small.get(n));
    match node.op_type() {
        "Constant" => literal(node),
        "Shape" => {
            let dims = shape_of(node.input.first()?)?;
            let rank = i64::try_from(dims.len()).ok()?;
            let clip = |v: i64| usize::try_from(if v < 0 { v.checked_add(rank)? } else { v }.clamp(0, rank)).ok();
            let (start, end) = (clip(int_attribute(node, "start", 0))?, clip(int_attribute(node, "end", rank))?);
            Some(Small::vector(dims.get(start..end.max(start))?.iter().map(|&d| d as f64).collect()))
        }
        "Size" => {
            let dims = shape_of(node.input.first()?)?;
            Some(Small { dims: vec![], data: vec![dims.iter().map(|&d| d as f64).product()], float: false })
        }
        "Identity" | "Dropout" => arg(0).cloned(),
        "Cast" => cast(arg(0)?, int_attribute(node, "to", 0)),
        "Neg" | "Abs" | "Floor" | "Ceil" | "Round" | "Sqrt" | "Not" => unary(node.op_type(), arg(0)?),
        "Add" | "Sub" | "Mul" | "Div" | "Mod" | "Max" | "Min" | "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual" | "And"
        | "Or" => {
            if node.input.len() != 2 {
                return None;
            }
            binary(node.op_type(), arg(0)?, arg(1)?)
        }
        "Where" => {
            let (c, a, b) = (arg(0)?, arg(1)?, arg(2)?);
            let dims = broadcast(&[&c.dims, &a.dims, &b.dims])?;
            let data = each(&dims, |at| Some(if pick(c, &dims, at)? != 0.0 { pick(a, &dims, at)? } else { pick(b, &dims, at)? }))?;
            Some(Small { dims, data, float: a.float })
        }
        "Concat" => {
            let parts = (0..node.input.len()).map(arg).collect::<Option<Vec<_>>>()?;
            if parts.iter().any(|p| p.dims.len() != 1) {
                return None;
            }
            let float = parts.iter().any(|p| p.float);
            Some(Small { float, ..Small::vector(parts.iter().flat_map(|p| p.data.iter().copied()).collect()) })
                .filter(|s| s.data.len() <= LIMIT)
        }
        "Gather" => gather(arg(0)?, arg(1)?, int_attribute(node, "axis", 0)),
        "Slice" => slice(node, arg),
        "Transpose" => transpose(node, arg(0)?),
        "Squeeze" | "Unsqueeze" | "Reshape" | "Flatten" => {
            let x = arg(0)?;
            let dims = shape_of(node.output.first()?)?.to_vec();
            (dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)) == Some(x.data.len())).then(|| Small { dims, ..x.clone() })
        }
        "ConstantOfShape" => {
            let dims = arg(0)?.ints().into_iter().map(|d| usize::try_from(d).ok()).collect::<Option<Vec<_>>>()?;
            let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= LIMIT)?;
            let (value, float) = match attribute(node, "value").and_then(|a| a.t.as_ref()) {
                Some(t) => (*constant(t)?.data.first()?, tensor::is_float(t)),
                None => (0.0, true),
            };
            Some(Small { dims, data: vec![value; count], float })
        }
        "Expand" => {
            let x = arg(0)?;
            let dims = shape_of(node.output.first()?)?.to_vec();
            Some(Small { data: each(&dims, |at| pick(x, &dims, at))?, dims, float: x.float })
        }
        "Range" => {
            let v = |i: usize| arg(i).and_then(|s| s.data.first().copied());
            let (start, limit, delta) = (v(0)?, v(1)?, v(2)?);
            let count = ((limit - start) / delta).ceil().max(0.0);
            (count <= LIMIT as f64).then(|| Small {
                float: arg(0).is_some_and(|s| s.float),
                ..Small::vector((0..count as usize).map(|i| start + i as f64 * delta).collect())
            })
        }
        "ReduceProd" | "ReduceSum" | "ReduceMax" | "ReduceMin" => {
            let x = arg(0)?;
            if x.dims.len() > 1 {
                return None;
            }
            let value = match node.op_type() {
                "ReduceProd" => x.data.iter().product(),
                "ReduceSum" => x.data.iter().sum(),
                "ReduceMax" => x.data.iter().copied().fold(f64::NEG_INFINITY, f64::max),
                _ => x.data.iter().copied().fold(f64::INFINITY, f64::min),
            };
            let dims = if int_attribute(node, "keepdims", 1) == 0 { vec![] } else { vec![1; x.dims.len()] };
            Some(Small { dims, data: vec![value], float: x.float })
        }
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
        _ => (wrap(start).clamp(0, (n - 1).max(0)), wrap(end).clamp(-1, n - 1)),
    };
    let span = if step > 0 { end - start } else { start - end };
    let count = if span <= 0 { 0 } else { (span - 1) / step.checked_abs()? + 1 };
    Some((start, usize::try_from(count).ok()?, step))
}

fn literal(node: &NodeProto) -> Option<Small> {
    let a = node.attribute.first()?;
    match a.name() {
        "value" => constant(a.t.as_ref()?),
        "value_int" => Some(Small { dims: vec![], data: vec![a.i() as f64], float: false }),
        "value_ints" => Some(Small::vector(a.ints.iter().map(|&v| v as f64).collect())),
        "value_float" => Some(Small { dims: vec![], data: vec![f64::from(a.f())], float: true }),
        "value_floats" => Some(Small { float: true, ..Small::vector(a.floats.iter().map(|&v| f64::from(v)).collect()) }),
        _ => None,
    }
}

fn cast(x: &Small, to: i64) -> Option<Small> {
    let float = [DataType::Float, DataType::Double, DataType::Float16, DataType::Bfloat16].iter().any(|&t| t as i64 == to);
    let data = x.data.iter().map(|&v| {
        if float {
            v
        } else if to == DataType::Bool as i64 {
            f64::from(u8::from(v != 0.0))
        } else {
            v.trunc()
        }
    });
    Some(Small { dims: x.dims.clone(), data: data.collect(), float })
}

fn unary(op: &str, x: &Small) -> Option<Small> {
    let f: fn(f64) -> f64 = match op {
        "Neg" => |v| -v,
        "Abs" => f64::abs,
        "Floor" => f64::floor,
        "Ceil" => f64::ceil,
        "Round" => f64::round_ties_even,
        "Sqrt" => f64::sqrt,
        "Not" => |v| f64::from(u8::from(v == 0.0)),
        _ => return None,
    };
    Some(Small { data: x.data.iter().map(|&v| f(v)).collect(), ..x.clone() })
}

fn binary(op: &str, a: &Small, b: &Small) -> Option<Small> {
    let float = a.float || b.float;
    let truth = |t: bool| f64::from(u8::from(t));
    let compute = |x: f64, y: f64| {
        Some(match op {
            "Add" => x + y,
            "Sub" => x - y,
            "Mul" => x * y,
            "Div" if float => x / y,
            "Div" if y != 0.0 => (x / y).trunc(),
            "Mod" if y != 0.0 => x - (x / y).floor() * y,
            "Max" => x.max(y),
            "Min" => x.min(y),
            "Equal" => truth(x == y),
            "Less" => truth(x < y),
            "Greater" => truth(x > y),
            "LessOrEqual" => truth(x <= y),
            "GreaterOrEqual" => truth(x >= y),
            "And" => truth(x != 0.0 && y != 0.0),
            "Or" => truth(x != 0.0 || y != 0.0),
            _ => return None,
        })
    };
    let dims = broadcast(&[&a.dims, &b.dims])?;
    let data = each(&dims, |at| compute(pick(a, &dims, at)?, pick(b, &dims, at)?))?;
    Some(Small { dims, data, float: float && !matches!(op, "Equal" | "Less" | "Greater" | "LessOrEqual" | "GreaterOrEqual") })
}

fn gather(x: &Small, index: &Small, axis: i64) -> Option<Small> {
    if x.dims.len() != 1 || !matches!(axis, 0 | -1) {
        return None;
    }
    let n = i64::try_from(x.data.len()).ok()?;
    let data = index.ints().into_iter().map(|i| x.data.get(usize::try_from(if i < 0 { i.checked_add(n)? } else { i }).ok()?).copied());
    Some(Small { dims: index.dims.clone(), data: data.collect::<Option<_>>()?, float: x.float })
}

fn slice<'a>(node: &NodeProto, arg: impl Fn(usize) -> Option<&'a Small>) -> Option<Small> {
    let x = arg(0)?;
    let given = |name: &str, slot: usize| ints_attribute(node, name).or_else(|| arg(slot).map(Small::ints));
    let (starts, ends) = (given("starts", 1)?, given("ends", 2)?);
    let axes = given("axes", 3).unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = given("steps", 4).unwrap_or_else(|| vec![1; starts.len()]);
    let mut ranges: Vec<(i64, usize, i64)> = x.dims.iter().map(|&d| (0, d, 1)).collect();
    for (i, &a) in axes.iter().enumerate() {
        let at = axis(a, x.dims.len())?;
        ranges[at] = slice_axis(x.dims[at], *starts.get(i)?, *ends.get(i)?, *steps.get(i)?)?;
    }
    let dims: Vec<usize> = ranges.iter().map(|r| r.1).collect();
    rearranged(x, dims, |i, out| usize::try_from(ranges[i].0 + out[i] as i64 * ranges[i].2).ok())
}

fn transpose(node: &NodeProto, x: &Small) -> Option<Small> {
    let rank = x.dims.len();
    let order = ints_attribute(node, "perm").unwrap_or_else(|| (0..rank as i64).rev().collect());
    let order = order.iter().map(|&a| axis(a, rank)).collect::<Option<Vec<_>>>().filter(|o| o.len() == rank)?;
    let dims = order.iter().map(|&i| x.dims[i]).collect();
    rearranged(x, dims, |i, out| out.get(order.iter().position(|&o| o == i)?).copied())
}

/// The elements of `x` in a new shape; `source(axis, coordinates)` says which coordinate of `x` an output's are made of.
fn rearranged(x: &Small, dims: Vec<usize>, source: impl Fn(usize, &[usize]) -> Option<usize>) -> Option<Small> {
    let data = each(&dims, |mut flat| {
        let mut out = vec![0; dims.len()];
        for (o, &d) in out.iter_mut().zip(&dims).rev() {
            (*o, flat) = (flat % d, flat / d);
        }
        let at = x.dims.iter().enumerate().try_fold(0, |at, (i, &d)| source(i, &out).filter(|&c| c < d).map(|c| at * d + c))?;
        x.data.get(at).copied()
    })?;
    Some(Small { dims, data, float: x.float })
}

/// Calls `f` with every flat index of `dims`.
fn each(dims: &[usize], f: impl Fn(usize) -> Option<f64>) -> Option<Vec<f64>> {
    let count = dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d)).filter(|&n| n <= LIMIT)?;
    (0..count).map(f).collect()
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
        Small { dims: dims.to_vec(), data: data.to_vec(), float: false }
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
    fn the_exporters_way_of_reversing_pads_is_followed() {
        let pairs = small(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let turned = transpose(&tensor::node("Transpose", "t", &["x"], &["y"], vec![]), &pairs).unwrap();
        assert_eq!(turned.data, [1.0, 3.0, 2.0, 4.0]);
        let attributes = vec![
            tensor::ints("starts", &[-1]),
            tensor::ints("ends", &[i64::MIN]),
            tensor::ints("axes", &[0]),
            tensor::ints("steps", &[-1]),
        ];
        let node = tensor::node("Slice", "s", &["x"], &["y"], attributes);
        assert_eq!(slice(&node, |i| (i == 0).then_some(&pairs)).unwrap().data, [3.0, 4.0, 1.0, 2.0]);
    }

    #[test]
    fn a_slice_to_the_end_of_time_stops_at_the_dimension() {
        assert_eq!(slice_axis(5, 1, i64::MAX, 2), Some((1, 2, 2)));
        assert_eq!(slice_axis(5, -1, i64::MIN, -1), Some((4, 5, -1)));
        assert_eq!(slice_axis(5, 0, 5, 0), None);
    }
}
