//! Output shapes of attention and of the other operators of language models, ONNX's and ONNX Runtime's.

use super::{
    model::ints_attribute,
    proto::NodeProto,
    shape::Known,
    shape_rule::{Dims, count, given, scalar},
};

/// ONNX's `Attention`: Y, present key and value, scores. Queries are \[batch, heads, steps, size\] or, with the numbers of
/// heads as attributes, \[batch, steps, heads · size\].
pub(super) fn attention(node: &NodeProto, known: &Known) -> Vec<Option<Dims>> {
    let Some((q, k, v)) = operands(node, known) else { return vec![] };
    let past = if given(node, 4) { known.dims(node, 4).and_then(|p| p.get(2).copied()) } else { Some(0) };
    let total = past.and_then(|p| p.checked_add(k[2]));
    let y = if known.dims(node, 0).is_some_and(|d| d.len() == 4) {
        Some(vec![q[0], q[1], q[2], v[3]])
    } else {
        q[1].checked_mul(v[3]).map(|width| vec![q[0], q[2], width])
    };
    let present = |x: [usize; 4]| total.map(|t| vec![x[0], x[1], t, x[3]]);
    vec![y, present(k), present(v), total.map(|t| vec![q[0], q[1], q[2], t])]
}

/// Query, key and value as \[batch, heads, steps, size\].
fn operands(node: &NodeProto, known: &Known) -> Option<([usize; 4], [usize; 4], [usize; 4])> {
    let one = |slot: usize, heads: &str| match *known.dims(node, slot)? {
        [b, h, s, d] => Some([b, h, s, d]),
        [b, s, width] => {
            let heads = count(node, heads)?;
            Some([b, heads, s, width / heads])
        }
        _ => None,
    };
    Some((one(0, "q_num_heads")?, one(1, "kv_num_heads")?, one(2, "kv_num_heads")?))
}

/// `LinearAttention`: \[batch, steps, query heads · value size\] and the state \[batch, heads, key size, value size\].
pub(super) fn linear(node: &NodeProto, known: &Known) -> Option<Vec<Dims>> {
    let &[batch, steps, _] = known.dims(node, 0)? else { return None };
    let (heads, kv) = (count(node, "q_num_heads")?, count(node, "kv_num_heads")?);
    let (key, value) = (known.dims(node, 1)?.last()? / kv, known.dims(node, 2)?.last()? / kv);
    Some(vec![vec![batch, steps, heads.checked_mul(value)?], vec![batch, kv, key, value]])
}

/// `CausalConvWithState`: the input's shape, and the last k − 1 steps as the state.
pub(super) fn causal_conv(node: &NodeProto, known: &Known) -> Option<Vec<Dims>> {
    let (x, w) = (known.dims(node, 0)?, known.dims(node, 1)?);
    let &[batch, channels, _] = x else { return None };
    Some(vec![x.to_vec(), vec![batch, channels, w.last()?.checked_sub(1)?]])
}

/// ONNX Runtime's `Attention`, whose weight makes query, key and value of one input: output and present
/// \[2, batch, heads, steps, size\].
pub(super) fn packed(node: &NodeProto, known: &Known) -> Vec<Option<Dims>> {
    let Some(&[batch, steps, _]) = known.dims(node, 0) else { return vec![] };
    let Some(&[_, width]) = known.dims(node, 1) else { return vec![] };
    let sizes = ints_attribute(node, "qkv_hidden_sizes").filter(|s| s.len() == 3);
    let hidden = match sizes {
        Some(list) => usize::try_from(list[2]).ok(),
        None => Some(width / 3),
    };
    let y = hidden.map(|h| vec![batch, steps, h]);
    let past = if given(node, 4) { known.dims(node, 4).and_then(|p| p.get(3).copied()) } else { Some(0) };
    let present = || {
        let heads = count(node, "num_heads")?;
        Some(vec![2, batch, heads, past?.checked_add(steps)?, hidden? / heads])
    };
    vec![y, present()]
}

/// ONNX Runtime's `MultiHeadAttention`: output, present key and value. Packed operands are \[batch, steps, heads, 3, size\]
/// or keys with values \[batch, steps, heads, 2, size\].
pub(super) fn multi_head(node: &NodeProto, known: &Known) -> Vec<Option<Dims>> {
    let Some(query) = known.dims(node, 0) else { return vec![] };
    if let [batch, steps, heads, 3, size] = *query {
        return vec![heads.checked_mul(size).map(|h| vec![batch, steps, h])];
    }
    let &[batch, steps, width] = query else { return vec![] };
    let heads = count(node, "num_heads");
    let past = || if given(node, 6) { known.dims(node, 6)?.get(2).copied() } else { Some(0) };
    match (known.dims(node, 1), known.dims(node, 2)) {
        (Some(&[_, rows, key]), Some(&[_, _, value])) => {
            let present = |width: usize| Some(vec![batch, heads?, past()?.checked_add(rows)?, width / heads?]);
            vec![Some(vec![batch, steps, value]), present(key), present(value)]
        }
        // Keys and values of a cross attention, projected and split into heads already.
        (Some(&[_, of, rows, key]), Some(&[_, _, _, value])) => {
            let y = of.checked_mul(value).map(|h| vec![batch, steps, h]);
            vec![y, Some(vec![batch, of, rows, key]), Some(vec![batch, of, rows, value])]
        }
        _ if !given(node, 2) => vec![Some(vec![batch, steps, width])],
        _ => vec![],
    }
}

/// ONNX Runtime's `GroupQueryAttention`: output, present key and value; queries may hold keys and values too.
pub(super) fn grouped(node: &NodeProto, known: &Known) -> Vec<Option<Dims>> {
    let Some(&[batch, steps, width]) = known.dims(node, 0) else { return vec![] };
    let (Some(heads), Some(kv)) = (count(node, "num_heads"), count(node, "kv_num_heads")) else { return vec![] };
    let (y, size) = if given(node, 1) {
        (Some(width), width / heads)
    } else {
        let size = heads.checked_add(kv.saturating_mul(2)).map_or(0, |all| width / all);
        (heads.checked_mul(size), size)
    };
    // The cache grows to all steps so far, or has room for more already.
    let old = || if given(node, 3) { known.dims(node, 3)?.get(2).copied() } else { Some(0) };
    let present = || Some(vec![batch, kv, scalar(node, known, 6)?.max(old()?), size]);
    vec![y.map(|y| vec![batch, steps, y]), present(), present()]
}

/// Sums with layer normalisation: output, mean, inverse deviation, the sum itself.
pub(super) fn skip_norm(node: &NodeProto, known: &Known) -> Vec<Option<Dims>> {
    let x = known.dims(node, 0).map(<[usize]>::to_vec);
    let statistic = known.dims(node, 0).and_then(|x| Some([&x[..x.len().checked_sub(1)?], &[1]].concat()));
    vec![x.clone(), statistic.clone(), statistic, x]
}

/// Embeddings with layer normalisation: output, mask index, sum. Ids are \[batch, steps\], the words' table \[words, hidden\].
pub(super) fn embed_norm(node: &NodeProto, known: &Known) -> Option<Vec<Dims>> {
    let (&[batch, steps], &[_, hidden]) = (known.dims(node, 0)?, known.dims(node, 2)?) else { return None };
    let sum = vec![batch, steps, hidden];
    Some(vec![sum.clone(), vec![batch], sum])
}

#[cfg(test)]
mod tests {
    use crate::graph::shape_case::{case, is};

    #[test]
    fn attention_with_split_heads_gives_queries_times_value_size() {
        let y = case("Attention").of(&[2, 9, 4, 8]).of(&[2, 3, 6, 8]).of(&[2, 3, 6, 10]).outputs(4);
        assert_eq!(y, [is(&[2, 9, 4, 10]), is(&[2, 3, 6, 8]), is(&[2, 3, 6, 10]), is(&[2, 9, 4, 6])]);
    }

    #[test]
    fn attention_of_packed_heads_appends_to_the_past() {
        let packed = || case("Attention").of(&[2, 4, 72]).of(&[2, 6, 24]).of(&[2, 6, 30]);
        let heads = packed().without().of(&[2, 3, 12, 8]).of(&[2, 3, 12, 10]).int("q_num_heads", 9).int("kv_num_heads", 3);
        assert_eq!(heads.outputs(4), [is(&[2, 4, 90]), is(&[2, 3, 18, 8]), is(&[2, 3, 18, 10]), is(&[2, 9, 4, 18])]);
        assert_eq!(packed().outputs(1), [None]);
        assert_eq!(packed().int("q_num_heads", 0).int("kv_num_heads", -1).outputs(1), [None]);
    }

    #[test]
    fn linear_attention_and_causal_convolution_carry_a_state() {
        let linear = case("LinearAttention").of(&[2, 5, 32]).of(&[2, 5, 16]).of(&[2, 5, 12]).int("q_num_heads", 4).int("kv_num_heads", 2);
        assert_eq!(linear.outputs(2), [is(&[2, 5, 24]), is(&[2, 2, 8, 6])]);
        assert_eq!(case("CausalConvWithState").of(&[2, 4, 8]).of(&[4, 1, 4]).outputs(2), [is(&[2, 4, 8]), is(&[2, 4, 3])]);
    }

    #[test]
    fn runtimes_attention_makes_all_three_operands_of_one_input() {
        let own = || case("Attention").contrib().of(&[2, 5, 16]).of(&[16, 48]).of(&[48]).int("num_heads", 4);
        assert_eq!(own().outputs(2), [is(&[2, 5, 16]), is(&[2, 2, 4, 5, 4])]);
        assert_eq!(own().ints("qkv_hidden_sizes", &[12, 12, 24]).outputs(1), [is(&[2, 5, 24])]);
    }

    #[test]
    fn multi_head_attention_takes_packed_and_separate_operands() {
        let mha = || case("MultiHeadAttention").contrib().int("num_heads", 4);
        assert_eq!(
            mha().of(&[2, 5, 16]).of(&[2, 7, 16]).of(&[2, 7, 24]).outputs(3),
            [is(&[2, 5, 24]), is(&[2, 4, 7, 4]), is(&[2, 4, 7, 6])]
        );
        assert_eq!(mha().of(&[2, 5, 4, 3, 8]).outputs(1), [is(&[2, 5, 32])]);
        assert_eq!(mha().of(&[2, 5, 16]).of(&[2, 7, 4, 2, 4]).outputs(1), [is(&[2, 5, 16])]);
    }

    #[test]
    fn sums_and_embeddings_with_normalisation_keep_the_hidden_size() {
        let skip = case("SkipLayerNormalization").contrib().of(&[2, 5, 16]).of(&[2, 5, 16]).of(&[16]).outputs(4);
        assert_eq!(skip, [is(&[2, 5, 16]), is(&[2, 5, 1]), is(&[2, 5, 1]), is(&[2, 5, 16])]);
        let embed = case("EmbedLayerNormalization").contrib().of(&[2, 5]).of(&[2, 5]).of(&[100, 16]).outputs(3);
        assert_eq!(embed, [is(&[2, 5, 16]), is(&[2]), is(&[2, 5, 16])]);
    }

    #[test]
    fn grouped_queries_keep_their_width_or_share_it_with_keys_and_values() {
        let grouped = || case("GroupQueryAttention").contrib().int("num_heads", 4).int("kv_num_heads", 2);
        assert_eq!(grouped().of(&[2, 5, 32]).of(&[2, 5, 16]).of(&[2, 5, 16]).outputs(2), [is(&[2, 5, 32]), None]);
        let packed = grouped().of(&[2, 5, 64]).without().without().without().without().of(&[2]).is(&[5]);
        assert_eq!(packed.outputs(2), [is(&[2, 5, 32]), is(&[2, 2, 5, 8])]);
        let cached = grouped().of(&[1, 1, 32]).of(&[1, 1, 16]).of(&[1, 1, 16]).of(&[1, 2, 9, 8]).of(&[1, 2, 9, 8]).of(&[1]).is(&[4]);
        assert_eq!(cached.outputs(3), [is(&[1, 1, 32]), is(&[1, 2, 9, 8]), is(&[1, 2, 9, 8])]);
    }
}
