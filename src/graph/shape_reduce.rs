//! Output shapes of reductions, selections and losses.

use super::{
    model::{attribute, int_attribute, ints_attribute, string_attribute},
    proto::NodeProto,
    shape::Known,
    shape_rule::{Dims, axes, axis, count, product},
};

pub(super) fn first(node: &NodeProto, known: &Known) -> Option<Dims> {
    let x = || known.dims(node, 0);
    let int = |name: &str, default: i64| int_attribute(node, name, default);
    match node.op_type() {
        "ArgMax" | "ArgMin" => reduced(x()?, Some(vec![int("axis", 0)]), int("keepdims", 1) != 0),
        "TopK" => {
            let k = attribute(node, "k").map(|a| a.i()).or_else(|| known.ints(node, 1)?.first().copied())?;
            let mut out = x()?.to_vec();
            let at = axis(int("axis", -1), out.len())?;
            out[at] = usize::try_from(k).ok()?;
            Some(out)
        }
        "NonZero" => {
            let value = known.small.get(node.input.first()?)?;
            Some(vec![value.dims.len().max(1), value.data.iter().filter(|&&v| v != 0.0).count()])
        }
        "Multinomial" => Some(vec![*x()?.first()?, usize::try_from(int("sample_size", 1)).ok()?]),
        "TfIdfVectorizer" => {
            let columns = usize::try_from(ints_attribute(node, "ngram_indexes")?.into_iter().max()?).ok()?.checked_add(1)?;
            match *x()? {
                [_] => Some(vec![columns]),
                [n, _] => Some(vec![n, columns]),
                _ => None,
            }
        }
        _ => {
            let list = ints_attribute(node, "axes").or_else(|| known.ints(node, 1)).filter(|l| !l.is_empty());
            if list.is_none() && node.input.get(1).is_some_and(|n| !n.is_empty()) && known.dims(node, 1) != Some(&[0]) {
                return None;
            }
            if list.is_none() && int("noop_with_empty_axes", 0) == 1 {
                Some(x()?.to_vec())
            } else {
                reduced(x()?, list, int("keepdims", 1) != 0)
            }
        }
    }
}

/// The dimensions with some axes (all if there is no list) reduced.
pub(super) fn reduced(x: &[usize], list: Option<Vec<i64>>, keep: bool) -> Option<Dims> {
    let gone = list.map_or_else(|| Some((0..x.len()).collect()), |l| axes(&l, x.len()))?;
    let left = x.iter().enumerate().filter(|(i, _)| keep || !gone.contains(i));
    Some(left.map(|(i, &d)| if gone.contains(&i) { 1 } else { d }).collect())
}

/// A loss: that of each label without a reduction, one number else.
pub(super) fn loss(node: &NodeProto, known: &Known) -> Option<Dims> {
    if string_attribute(node, "reduction", "mean") == "none" { Some(known.dims(node, 1)?.to_vec()) } else { Some(vec![]) }
}

/// Of `Unique`'s outputs only the index of each element among the unique ones has a shape that does not depend on data.
pub(super) fn unique_inverse(node: &NodeProto, known: &Known) -> Option<Dims> {
    let x = known.dims(node, 0)?;
    Some(vec![match attribute(node, "axis") {
        Some(a) => x[axis(a.i(), x.len())?],
        None => product(x)?,
    }])
}

/// A weight of `N` outputs packed in blocks, as the `MatMulNBits` family has it: the last dimension becomes `N`.
pub(super) fn packed_product(node: &NodeProto, known: &Known) -> Option<Dims> {
    let mut out = known.dims(node, 0)?.to_vec();
    *out.last_mut()? = count(node, "N")?;
    Some(out)
}

#[cfg(test)]
mod tests {
    use crate::graph::shape_case::{case, is};

    #[test]
    fn reductions_take_axes_from_inputs_and_may_do_nothing_without_them() {
        assert_eq!(case("ReduceSum").of(&[2, 3, 4]).is(&[-1, 0]).int("keepdims", 0).shape(), is(&[3]));
        assert_eq!(case("ReduceMean").of(&[2, 3]).is(&[]).int("noop_with_empty_axes", 1).shape(), is(&[2, 3]));
        assert_eq!(case("ReduceMax").of(&[2, 3]).without().shape(), is(&[1, 1]));
        assert_eq!(case("ReduceMin").of(&[2, 3]).of(&[1]).shape(), None);
    }

    #[test]
    fn what_is_not_zero_is_counted_in_constants_only() {
        assert_eq!(case("NonZero").is(&[0, 3, 4]).shape(), is(&[1, 2]));
        assert_eq!(case("NonZero").of(&[3]).shape(), None);
    }

    #[test]
    fn a_loss_is_one_number_unless_nothing_is_reduced() {
        let sce = || case("SoftmaxCrossEntropyLoss").of(&[3, 5, 6]).of(&[3, 6]);
        assert_eq!(sce().outputs(2), [is(&[]), is(&[3, 5, 6])]);
        assert_eq!(sce().string("reduction", "none").outputs(2), [is(&[3, 6]), is(&[3, 5, 6])]);
    }

    #[test]
    fn of_unique_elements_only_the_way_back_has_a_shape() {
        assert_eq!(case("Unique").of(&[2, 3]).outputs(4), [None, None, is(&[6]), None]);
        assert_eq!(case("Unique").of(&[2, 3]).int("axis", 1).outputs(4), [None, None, is(&[3]), None]);
    }

    #[test]
    fn n_grams_have_a_column_for_the_highest_index() {
        assert_eq!(case("TfIdfVectorizer").of(&[2, 9]).ints("ngram_indexes", &[0, 6, 2]).shape(), is(&[2, 7]));
        assert_eq!(case("TfIdfVectorizer").of(&[9]).ints("ngram_indexes", &[]).shape(), None);
    }

    #[test]
    fn the_best_few_stand_along_their_axis() {
        assert_eq!(case("TopK").of(&[2, 9]).is(&[4]).outputs(2), [is(&[2, 4]), is(&[2, 4])]);
        assert_eq!(case("TopK").of(&[2, 9]).is(&[-1]).outputs(2), [None, None]);
    }
}
