//! Small constants rearranged: gathering, slicing, joining, scattering, reducing.

use super::{
    fold::{Kind, Small, each, elements, slice_axis},
    model::{int_attribute, ints_attribute, string_attribute},
    proto::NodeProto,
    shape_rule::{axes, axis},
};

pub(super) fn gather(x: &Small, index: &Small, at: i64) -> Option<Small> {
    let at = axis(at, x.dims.len())?;
    let n = i64::try_from(x.dims[at]).ok()?;
    let wrapped = |i: i64| usize::try_from(if i < 0 { i.checked_add(n)? } else { i }).ok();
    let index_of = index.ints().into_iter().map(wrapped).collect::<Option<Vec<_>>>()?;
    let dims = [&x.dims[..at], &index.dims, &x.dims[at + 1..]].concat();
    let many = index.dims.len();
    rearranged(x, dims, |i, out| match i {
        i if i < at => out.get(i).copied(),
        i if i > at => out.get(i + many - 1).copied(),
        _ => {
            let flat = out[at..at + many].iter().zip(&index.dims).fold(0, |flat, (&c, &d)| flat * d + c);
            index_of.get(flat).copied()
        }
    })
}

pub(super) fn slice<'a>(node: &NodeProto, arg: impl Fn(usize) -> Option<&'a Small>) -> Option<Small> {
    let x = arg(0)?;
    let given = |name: &str, slot: usize| ints_attribute(node, name).or_else(|| arg(slot).map(Small::ints));
    let absent = |slot: usize| node.input.get(slot).is_none_or(String::is_empty);
    let (starts, ends) = (given("starts", 1)?, given("ends", 2)?);
    let at = given("axes", 3).or_else(|| absent(3).then(|| (0..starts.len() as i64).collect()))?;
    let steps = given("steps", 4).or_else(|| absent(4).then(|| vec![1; starts.len()]))?;
    let mut ranges: Vec<(i64, usize, i64)> = x.dims.iter().map(|&d| (0, d, 1)).collect();
    for (i, at) in axes(&at, x.dims.len())?.into_iter().enumerate() {
        ranges[at] = slice_axis(x.dims[at], *starts.get(i)?, *ends.get(i)?, *steps.get(i)?)?;
    }
    let dims: Vec<usize> = ranges.iter().map(|r| r.1).collect();
    rearranged(x, dims, |i, out| {
        let step = i64::try_from(out[i]).ok()?.checked_mul(ranges[i].2)?;
        usize::try_from(ranges[i].0.checked_add(step)?).ok()
    })
}

/// The part of a constant with the given dimensions that starts at its first element: a split's first output.
pub(super) fn leading(x: &Small, dims: Vec<usize>) -> Option<Small> {
    (dims.len() == x.dims.len()).then_some(())?;
    rearranged(x, dims, |i, out| out.get(i).copied())
}

pub(super) fn tile(x: &Small, dims: Vec<usize>) -> Option<Small> {
    (dims.len() == x.dims.len()).then_some(())?;
    rearranged(x, dims, |i, out| out.get(i)?.checked_rem(x.dims[i]))
}

pub(super) fn transpose(node: &NodeProto, x: &Small) -> Option<Small> {
    let rank = x.dims.len();
    let order = ints_attribute(node, "perm").unwrap_or_else(|| (0..rank as i64).rev().collect());
    let order = axes(&order, rank).filter(|o| o.len() == rank)?;
    let dims = order.iter().map(|&i| x.dims[i]).collect();
    rearranged(x, dims, |i, out| out.get(order.iter().position(|&o| o == i)?).copied())
}

pub(super) fn concat<'a>(node: &NodeProto, arg: impl Fn(usize) -> Option<&'a Small>) -> Option<Small> {
    let parts = (0..node.input.len()).map(arg).collect::<Option<Vec<_>>>()?;
    let first = parts.first()?;
    let at = axis(int_attribute(node, "axis", 1), first.dims.len())?;
    let mut dims = first.dims.clone();
    for part in &parts[1..] {
        let fits = part.dims.len() == dims.len() && part.dims.iter().zip(&dims).enumerate().all(|(i, (a, b))| i == at || a == b);
        fits.then_some(())?;
        dims[at] = dims[at].checked_add(part.dims[at])?;
        elements(&dims)?;
    }
    let rows: usize = dims[..at].iter().product();
    let mut data = Vec::with_capacity(elements(&dims)?);
    for row in 0..rows {
        for part in &parts {
            let width = part.data.len() / rows;
            data.extend_from_slice(part.data.get(row * width..(row + 1) * width)?);
        }
    }
    Some(Small { dims, data, kind: parts.iter().map(|p| p.kind).max()? })
}

/// Whole elements or rows of a constant replaced, as `ScatterND` does without a reduction.
pub(super) fn scatter(node: &NodeProto, x: &Small, index: &Small, updates: &Small) -> Option<Small> {
    if string_attribute(node, "reduction", "none") != "none" {
        return None;
    }
    let depth = *index.dims.last().filter(|&&d| d > 0 && d <= x.dims.len())?;
    let row: usize = x.dims[depth..].iter().product();
    let mut data = x.data.clone();
    for (i, at) in index.ints().chunks_exact(depth).enumerate() {
        let flat = at.iter().zip(&x.dims).try_fold(0usize, |flat, (&c, &d)| {
            let c = usize::try_from(if c < 0 { c.checked_add(i64::try_from(d).ok()?)? } else { c }).ok().filter(|&c| c < d)?;
            Some(flat * d + c)
        })?;
        data.get_mut(flat * row..(flat + 1) * row)?.copy_from_slice(updates.data.get(i * row..(i + 1) * row)?);
    }
    Some(Small { data, ..x.clone() })
}

/// Coordinates of the elements that are not 0, a column each.
pub(super) fn nonzero(x: &Small) -> Option<Small> {
    let found: Vec<usize> = (0..x.data.len()).filter(|&i| x.data[i] != 0.0).collect();
    let shape = if x.dims.is_empty() { vec![1] } else { x.dims.clone() };
    let dims = vec![shape.len(), found.len()];
    let data = each(&dims, |flat| {
        let (i, n) = (flat / found.len(), flat % found.len());
        let stride: usize = shape[i + 1..].iter().product();
        Some((found[n] / stride % shape[i]) as f64)
    })?;
    Some(Small { dims, data, kind: Kind::Int })
}

/// A reduction to the given dimensions, which the shape rule found.
pub(super) fn reduce(node: &NodeProto, x: &Small, list: Option<&Small>, dims: Vec<usize>) -> Option<Small> {
    let gone = match ints_attribute(node, "axes").or_else(|| list.map(Small::ints)).filter(|l| !l.is_empty()) {
        Some(list) => axes(&list, x.dims.len())?,
        None if int_attribute(node, "noop_with_empty_axes", 0) != 0 => return Some(x.clone()),
        None => (0..x.dims.len()).collect(),
    };
    let op = node.op_type();
    let start = match op {
        "ReduceProd" => 1.0,
        "ReduceSum" => 0.0,
        "ReduceMax" => f64::NEG_INFINITY,
        _ => f64::INFINITY,
    };
    let mut data = vec![start; elements(&dims)?];
    for (flat, &v) in x.data.iter().enumerate() {
        let (mut rest, mut at, mut stride) = (flat, 0, 1);
        for (i, &d) in x.dims.iter().enumerate().rev() {
            if !gone.contains(&i) {
                at += rest % d * stride;
                stride *= d;
            }
            rest /= d;
        }
        let slot = data.get_mut(at)?;
        *slot = match op {
            "ReduceProd" => *slot * v,
            "ReduceSum" => *slot + v,
            "ReduceMax" => slot.max(v),
            _ => slot.min(v),
        };
    }
    Some(Small { dims, data, kind: x.kind })
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
    Some(Small { dims, data, kind: x.kind })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{
        fold::Kind,
        tensor::{self, int, ints},
    };

    fn small(dims: &[usize], data: &[f64]) -> Small {
        Small { dims: dims.to_vec(), data: data.to_vec(), kind: Kind::Int }
    }

    #[test]
    fn the_exporters_way_of_reversing_pads_is_followed() {
        let pairs = small(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let turned = transpose(&tensor::node("Transpose", "t", &["x"], &["y"], vec![]), &pairs).unwrap();
        assert_eq!(turned.data, [1.0, 3.0, 2.0, 4.0]);
        let attributes = vec![ints("starts", &[-1]), ints("ends", &[i64::MIN]), ints("axes", &[0]), ints("steps", &[-1])];
        let node = tensor::node("Slice", "s", &["x"], &["y"], attributes);
        assert_eq!(slice(&node, |i| (i == 0).then_some(&pairs)).unwrap().data, [3.0, 4.0, 1.0, 2.0]);
    }

    #[test]
    fn rows_and_columns_are_gathered_from_either_end() {
        let table = small(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        assert_eq!(gather(&table, &small(&[], &[-1.0]), 0), Some(small(&[3], &[4.0, 5.0, 6.0])));
        assert_eq!(gather(&table, &small(&[1, 2], &[2.0, 0.0]), 1), Some(small(&[2, 1, 2], &[3.0, 1.0, 6.0, 4.0])));
        assert_eq!(gather(&table, &small(&[], &[3.0]), 1), None);
    }

    #[test]
    fn matrices_are_joined_along_their_columns() {
        let (a, b) = (small(&[2, 1], &[1.0, 2.0]), small(&[2, 2], &[3.0, 4.0, 5.0, 6.0]));
        let node = tensor::node("Concat", "c", &["a", "b"], &["y"], vec![int("axis", -1)]);
        let joined = concat(&node, |i| [&a, &b].get(i).copied());
        assert_eq!(joined, Some(small(&[2, 3], &[1.0, 3.0, 4.0, 2.0, 5.0, 6.0])));
    }

    #[test]
    fn scattering_replaces_elements_and_rows_and_refuses_what_lies_outside() {
        let node = tensor::node("ScatterND", "s", &["x", "i", "u"], &["y"], vec![]);
        let x = small(&[2, 2], &[1.0, 2.0, 3.0, 4.0]);
        let row = scatter(&node, &x, &small(&[1, 1], &[-1.0]), &small(&[1, 2], &[8.0, 9.0]));
        assert_eq!(row.unwrap().data, [1.0, 2.0, 8.0, 9.0]);
        let one = scatter(&node, &x, &small(&[1, 2], &[0.0, 1.0]), &small(&[1], &[7.0]));
        assert_eq!(one.unwrap().data, [1.0, 7.0, 3.0, 4.0]);
        assert_eq!(scatter(&node, &x, &small(&[1, 1], &[2.0]), &small(&[1, 2], &[8.0, 9.0])), None);
    }

    #[test]
    fn coordinates_that_are_not_zero_stand_in_columns() {
        let found = nonzero(&small(&[2, 3], &[0.0, 5.0, 0.0, 1.0, 0.0, 2.0]));
        assert_eq!(found, Some(small(&[2, 3], &[0.0, 1.0, 1.0, 1.0, 0.0, 2.0])));
        assert_eq!(nonzero(&small(&[2], &[0.0, 0.0])), Some(small(&[1, 0], &[])));
    }

    #[test]
    fn a_matrix_is_reduced_along_one_axis_or_all() {
        let x = small(&[2, 3], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
        let node = |op: &str, list: &[i64]| tensor::node(op, "r", &["x"], &["y"], vec![ints("axes", list)]);
        assert_eq!(reduce(&node("ReduceProd", &[1]), &x, None, vec![2]).unwrap().data, [6.0, 120.0]);
        assert_eq!(reduce(&node("ReduceMax", &[0]), &x, None, vec![1, 3]).unwrap().data, [4.0, 5.0, 6.0]);
        assert_eq!(reduce(&node("ReduceSum", &[]), &x, None, vec![]).unwrap().data, [21.0]);
    }

    #[test]
    fn tiles_repeat_and_splits_begin_at_the_start() {
        let x = small(&[2], &[1.0, 2.0]);
        assert_eq!(tile(&x, vec![5]).unwrap().data, [1.0, 2.0, 1.0, 2.0, 1.0]);
        assert_eq!(leading(&x, vec![1]).unwrap().data, [1.0]);
        assert_eq!(tile(&small(&[0], &[]), vec![3]), None);
    }
}
