//! Output shapes of operators that move elements: reshaping, slicing, joining, padding, gathering.

use super::{
    fold::{broadcast, slice_axis},
    model::{attribute, int_attribute, ints_attribute},
    proto::NodeProto,
    shape::Known,
    shape_rule::{Dims, axes, axis, given, product, scalar, sizes},
};

pub(super) fn first(node: &NodeProto, known: &Known) -> Option<Dims> {
    let x = known.dims(node, 0)?;
    let int = |name: &str, default: i64| int_attribute(node, name, default);
    match node.op_type() {
        "Flatten" => {
            let at = int("axis", 1);
            let at = if usize::try_from(at) == Ok(x.len()) { x.len() } else { axis(at, x.len())? };
            Some(vec![product(&x[..at])?, product(&x[at..])?])
        }
        "Reshape" => reshape(x, &ints_attribute(node, "shape").or_else(|| known.ints(node, 1))?, int("allowzero", 0) == 1),
        "Transpose" => {
            let order = ints_attribute(node, "perm").map_or_else(|| Some((0..x.len()).rev().collect()), |p| axes(&p, x.len()))?;
            (order.len() == x.len()).then(|| order.iter().map(|&i| x[i]).collect())
        }
        "Concat" => concat(node, known, 0..node.input.len(), int("axis", 1)),
        "Slice" => slice(node, known),
        "Squeeze" => {
            let gone = match ints_attribute(node, "axes").or_else(|| known.ints(node, 1)) {
                Some(list) => axes(&list, x.len())?,
                None if given(node, 1) => return None,
                None => (0..x.len()).filter(|&i| x[i] == 1).collect(),
            };
            Some(x.iter().enumerate().filter(|(i, _)| !gone.contains(i)).map(|(_, &d)| d).collect())
        }
        "Unsqueeze" => {
            let list = ints_attribute(node, "axes").or_else(|| known.ints(node, 1))?;
            let rank = x.len() + list.len();
            let new = axes(&list, rank)?;
            let mut old = x.iter();
            (0..rank).map(|i| if new.contains(&i) { Some(1) } else { old.next().copied() }).collect()
        }
        "Pad" => pad(node, known),
        "Expand" => broadcast(&[x, &sizes(&known.ints(node, 1)?)?]),
        "Tile" => {
            let repeats = sizes(&known.ints(node, 1)?)?;
            (repeats.len() == x.len()).then_some(())?;
            x.iter().zip(&repeats).map(|(&d, &r)| d.checked_mul(r)).collect()
        }
        "Gather" => {
            let index = known.dims(node, 1)?;
            let at = axis(int("axis", 0), x.len())?;
            Some([&x[..at], index, &x[at + 1..]].concat())
        }
        "GatherElements" => Some(known.dims(node, 1)?.to_vec()),
        "GatherND" => {
            let (last, lead) = known.dims(node, 1)?.split_last()?;
            let skip = usize::try_from(int("batch_dims", 0)).ok()?.checked_add(*last)?;
            Some([lead, x.get(skip..)?].concat())
        }
        "DepthToSpace" | "SpaceToDepth" => {
            let [n, c, h, w] = *x else { return None };
            let b = usize::try_from(int("blocksize", 0)).ok().filter(|&b| b > 0)?;
            let square = b.checked_mul(b)?;
            Some(if node.op_type() == "DepthToSpace" {
                vec![n, c / square, h.checked_mul(b)?, w.checked_mul(b)?]
            } else {
                vec![n, c.checked_mul(square)?, h / b, w / b]
            })
        }
        "CenterCropPad" => {
            let mut out = x.to_vec();
            let to = sizes(&known.ints(node, 1)?)?;
            let at = ints_attribute(node, "axes").map_or_else(|| Some((0..x.len()).collect()), |l| axes(&l, x.len()))?;
            (at.len() == to.len()).then_some(())?;
            at.iter().zip(&to).for_each(|(&a, &d)| out[a] = d);
            Some(out)
        }
        "OneHot" => {
            let mut out = x.to_vec();
            let at = axis(int("axis", -1), out.len() + 1)?;
            out.insert(at, scalar(node, known, 1)?);
            Some(out)
        }
        "Compress" => {
            let kept = known.ints(node, 1)?.iter().filter(|&&v| v != 0).count();
            let Some(at) = attribute(node, "axis") else { return Some(vec![kept]) };
            let mut out = x.to_vec();
            out[axis(at.i(), x.len())?] = kept;
            Some(out)
        }
        _ => None,
    }
}

/// Length of the list of dimensions that `Shape` gives, between `start` and `end`.
pub(super) fn shape(node: &NodeProto, x: &[usize]) -> Option<Dims> {
    let (start, end) = shape_range(node, x.len())?;
    Some(vec![end - start])
}

/// The part of its input's dimensions that a `Shape` node gives.
pub(super) fn shape_range(node: &NodeProto, rank: usize) -> Option<(usize, usize)> {
    let rank = i64::try_from(rank).ok()?;
    let clip = |v: i64| usize::try_from(if v < 0 { v.checked_add(rank)? } else { v }.clamp(0, rank)).ok();
    let (start, end) = (clip(int_attribute(node, "start", 0))?, clip(int_attribute(node, "end", rank))?);
    Some((start, end.max(start)))
}

/// Inputs at some slots joined along an axis.
pub(super) fn concat(node: &NodeProto, known: &Known, slots: impl IntoIterator<Item = usize>, at: i64) -> Option<Dims> {
    let mut slots = slots.into_iter();
    let mut out = known.dims(node, slots.next()?)?.to_vec();
    let at = axis(at, out.len())?;
    for slot in slots {
        let part = known.dims(node, slot)?;
        if part.len() != out.len() || part.iter().zip(&out).enumerate().any(|(i, (a, b))| i != at && a != b) {
            return None;
        }
        out[at] = out[at].checked_add(part[at])?;
    }
    Some(out)
}

fn reshape(x: &[usize], to: &[i64], allow_zero: bool) -> Option<Dims> {
    let mut out = Dims::with_capacity(to.len());
    let mut free = None;
    for (i, &d) in to.iter().enumerate() {
        out.push(match d {
            0 if !allow_zero => *x.get(i)?,
            -1 if free.is_none() => {
                free = Some(i);
                1
            }
            d => usize::try_from(d).ok()?,
        });
    }
    let (all, rest) = (product(x)?, product(&out)?);
    match free {
        Some(i) if rest > 0 && all % rest == 0 => out[i] = all / rest,
        None if all == rest => {}
        _ => return None,
    }
    Some(out)
}

pub(super) fn split(node: &NodeProto, known: &Known) -> Option<Vec<Dims>> {
    let x = known.dims(node, 0)?;
    let at = axis(int_attribute(node, "axis", 0), x.len())?;
    let parts: Dims = match ints_attribute(node, "split").or_else(|| known.ints(node, 1)) {
        Some(list) => list.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<_>>()?,
        None if given(node, 1) => return None,
        None => {
            let n = usize::try_from(int_attribute(node, "num_outputs", 0)).ok().filter(|&n| n > 0).unwrap_or(node.output.len().max(1));
            let chunk = x[at].div_ceil(n);
            (0..node.output.len()).map(|i| chunk.min(x[at].saturating_sub(i.saturating_mul(chunk)))).collect()
        }
    };
    let part = |size| {
        let mut out = x.to_vec();
        out[at] = size;
        out
    };
    Some(parts.into_iter().take(node.output.len()).map(part).collect())
}

fn slice(node: &NodeProto, known: &Known) -> Option<Dims> {
    let mut out = known.dims(node, 0)?.to_vec();
    let list = |name: &str, slot: usize| ints_attribute(node, name).or_else(|| known.ints(node, slot));
    let (starts, ends) = (list("starts", 1)?, list("ends", 2)?);
    let default_axes = || (!given(node, 3)).then(|| (0..i64::try_from(starts.len()).unwrap_or(0)).collect());
    let at = axes(&list("axes", 3).or_else(default_axes)?, out.len())?;
    let steps = list("steps", 4).or_else(|| (!given(node, 4)).then(|| vec![1; starts.len()]))?;
    for (i, &a) in at.iter().enumerate() {
        out[a] = slice_axis(out[a], *starts.get(i)?, *ends.get(i)?, *steps.get(i)?)?.1;
    }
    Some(out)
}

fn pad(node: &NodeProto, known: &Known) -> Option<Dims> {
    let mut out = known.dims(node, 0)?.to_vec();
    let old = || ints_attribute(node, "pads").or_else(|| ints_attribute(node, "paddings"));
    let pads = old().or_else(|| known.ints(node, 1))?;
    let at = match known.ints(node, 3) {
        Some(list) => axes(&list, out.len())?,
        None if given(node, 3) => return None,
        None => (0..out.len()).collect(),
    };
    for (i, &a) in at.iter().enumerate() {
        let sum = pads.get(i)?.checked_add(*pads.get(i + at.len())?)?;
        out[a] = usize::try_from(i64::try_from(out[a]).ok()?.checked_add(sum)?).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use crate::graph::shape_case::{case, is};

    #[test]
    fn joining_needs_shapes_that_fit() {
        assert_eq!(case("Concat").of(&[2, 3]).of(&[2, 4]).int("axis", -1).shape(), is(&[2, 7]));
        assert_eq!(case("Concat").of(&[2, 3]).of(&[3, 4]).int("axis", 1).shape(), None);
        assert_eq!(case("Concat").of(&[usize::MAX / 2]).of(&[usize::MAX / 2]).of(&[2]).int("axis", 0).shape(), None);
    }

    #[test]
    fn a_split_into_a_number_of_parts_leaves_the_last_the_rest() {
        assert_eq!(case("Split").of(&[7, 2]).int("num_outputs", 3).outputs(3), [is(&[3, 2]), is(&[3, 2]), is(&[1, 2])]);
        assert_eq!(case("Split").of(&[7]).is(&[3, 4]).outputs(2), [is(&[3]), is(&[4])]);
        assert_eq!(case("Split").of(&[7]).of(&[2]).outputs(2), [None, None]);
    }

    #[test]
    fn only_the_dimensions_asked_for_are_counted_by_shape() {
        assert_eq!(case("Shape").of(&[4, 5, 6]).int("start", 1).shape(), is(&[2]));
        assert_eq!(case("Shape").of(&[4, 5, 6]).int("start", -1).int("end", -2).shape(), is(&[0]));
    }

    #[test]
    fn cropping_and_padding_to_the_centre_sets_the_named_axes() {
        assert_eq!(case("CenterCropPad").of(&[20, 8, 3]).is(&[10, 9]).ints("axes", &[0, 1]).shape(), is(&[10, 9, 3]));
        assert_eq!(case("CenterCropPad").of(&[20, 8, 3]).is(&[10, 9]).shape(), None);
    }

    #[test]
    fn compressing_counts_what_a_constant_condition_keeps() {
        assert_eq!(case("Compress").of(&[3, 2]).is(&[0, 1, 1]).int("axis", 0).shape(), is(&[2, 2]));
        assert_eq!(case("Compress").of(&[3, 2]).is(&[0, 1, 1]).shape(), is(&[2]));
        assert_eq!(case("Compress").of(&[3, 2]).of(&[3]).shape(), None);
    }

    #[test]
    fn blocks_of_depth_become_space_and_back() {
        assert_eq!(case("DepthToSpace").of(&[1, 8, 2, 3]).int("blocksize", 2).shape(), is(&[1, 2, 4, 6]));
        assert_eq!(case("SpaceToDepth").of(&[1, 2, 4, 6]).int("blocksize", 2).shape(), is(&[1, 8, 2, 3]));
        assert_eq!(case("DepthToSpace").of(&[1, 8, 2, 3]).int("blocksize", i64::MAX).shape(), None);
    }

    #[test]
    fn axes_and_sizes_that_make_no_sense_leave_the_shape_unknown() {
        assert_eq!(case("Unsqueeze").of(&[2]).ints("axes", &[7]).shape(), None);
        assert_eq!(case("Tile").of(&[2, 2]).is(&[3]).shape(), None);
        assert_eq!(case("Reshape").of(&[6]).is(&[-1, -1]).shape(), None);
        assert_eq!(case("Reshape").of(&[0, 5]).is(&[0, -1]).shape(), None);
        assert_eq!(case("Expand").of(&[1]).is(&[i64::MAX, 4]).shape(), is(&[i64::MAX as usize, 4]));
        assert_eq!(case("Pad").of(&[2]).is(&[i64::MAX, i64::MAX]).shape(), None);
    }
}
