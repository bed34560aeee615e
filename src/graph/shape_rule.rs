//! Output shapes of single operators, as the ONNX operator specification has them (opsets 7 to 28, older forms where
//! exporters still write them), and those of ONNX Runtime's own domain.
//!
//! Every rule is total: attributes that make no sense, or numbers that overflow, give `None`. Rules for many alike
//! operators are here, those with formulas of their own in the files beside this one.

use super::{
    fold::broadcast,
    model::{attribute, int_attribute, ints_attribute},
    proto::NodeProto,
    shape::Known,
    shape_arrange as arrange, shape_attention as attention, shape_body, shape_contrib, shape_matrix as matrix, shape_recurrent,
    shape_reduce as reduce, shape_signal as signal,
    shape_window::{self as window, Layout},
    tensor,
};

pub(super) type Dims = Vec<usize>;

/// More dimensions than any operator has use for; longer shapes are no one's.
const RANKS: usize = 32;

/// Shapes of a node's outputs in order, `None` for those unknown; may be shorter than the list of outputs.
pub(super) fn outputs(node: &NodeProto, known: &Known) -> Vec<Option<Dims>> {
    if (0..node.input.len()).any(|i| known.dims(node, i).is_some_and(|d| d.len() > RANKS)) {
        return vec![];
    }
    let contrib = if node.domain() == "com.microsoft" { shape_contrib::outputs(node, known) } else { None };
    let found = contrib.unwrap_or_else(|| several(node, known));
    found.into_iter().map(|d| d.filter(|d| d.len() <= RANKS)).collect()
}

fn several(node: &NodeProto, known: &Known) -> Vec<Option<Dims>> {
    let x = || known.dims(node, 0).map(<[usize]>::to_vec);
    match node.op_type() {
        "Split" => all(arrange::split(node, known)),
        "MaxPool" | "Dropout" | "TopK" => vec![first(node, known); 2],
        "LSTM" | "GRU" | "RNN" => all(shape_recurrent::recurrent(node, known)),
        "BatchNormalization" => {
            let channels = known.dims(node, 1).map(<[usize]>::to_vec);
            vec![x(), channels.clone(), channels.clone(), channels.clone(), channels]
        }
        "LayerNormalization" | "SimplifiedLayerNormalization" => {
            let statistic = normalised(node, known);
            vec![x(), statistic.clone(), statistic]
        }
        "DynamicQuantizeLinear" => vec![x(), Some(vec![]), Some(vec![])],
        "SoftmaxCrossEntropyLoss" | "NegativeLogLikelihoodLoss" => vec![reduce::loss(node, known), x()],
        "Attention" => attention::attention(node, known),
        "LinearAttention" => all(attention::linear(node, known)),
        "CausalConvWithState" => all(attention::causal_conv(node, known)),
        "Unique" => vec![None, None, reduce::unique_inverse(node, known), None],
        "StringSplit" => vec![None, x()],
        "If" => shape_body::branches(node, known),
        "Loop" => shape_body::repeated(node, known),
        "Scan" => shape_body::scanned(node, known),
        _ => vec![first(node, known)],
    }
}

pub(super) fn all(parts: Option<Vec<Dims>>) -> Vec<Option<Dims>> {
    parts.map_or_else(Vec::new, |parts| parts.into_iter().map(Some).collect())
}

/// Whether the first output has the shape of the first input.
fn keeps_shape(op: &str) -> bool {
    matches!(
        op,
        "Relu"
            | "LeakyRelu"
            | "PRelu"
            | "Sigmoid"
            | "Tanh"
            | "Clip"
            | "HardSigmoid"
            | "HardSwish"
            | "Elu"
            | "Selu"
            | "Celu"
            | "Gelu"
            | "Mish"
            | "Swish"
            | "SwiGLU"
            | "Softplus"
            | "Softsign"
            | "ThresholdedRelu"
            | "Shrink"
            | "Erf"
            | "Exp"
            | "Log"
            | "Sqrt"
            | "Neg"
            | "Abs"
            | "Floor"
            | "Ceil"
            | "Round"
            | "Reciprocal"
            | "Sign"
            | "Sin"
            | "Cos"
            | "Tan"
            | "Asin"
            | "Acos"
            | "Atan"
            | "Sinh"
            | "Cosh"
            | "Asinh"
            | "Acosh"
            | "Atanh"
            | "Not"
            | "IsNaN"
            | "IsInf"
            | "BitwiseNot"
            | "BitCast"
            | "Identity"
            | "Optional"
            | "OptionalGetElement"
            | "Dropout"
            | "Cast"
            | "CastLike"
            | "InstanceNormalization"
            | "GroupNormalization"
            | "RMSNormalization"
            | "LpNormalization"
            | "MeanVarianceNormalization"
            | "LRN"
            | "Softmax"
            | "LogSoftmax"
            | "Hardmax"
            | "QuantizeLinear"
            | "DequantizeLinear"
            | "Trilu"
            | "CumSum"
            | "CumProd"
            | "ScatterND"
            | "ScatterElements"
            | "Scatter"
            | "TensorScatter"
            | "ReverseSequence"
            | "RotaryEmbedding"
            | "Bernoulli"
            | "RandomNormalLike"
            | "RandomUniformLike"
            | "EyeLike"
            | "RegexFullMatch"
            | "FakeQuant"
    )
}

/// Whether the operands are broadcast to a common shape.
fn broadcasts(op: &str) -> bool {
    matches!(
        op,
        "Add"
            | "Sub"
            | "Mul"
            | "Div"
            | "Pow"
            | "Mod"
            | "Min"
            | "Max"
            | "Mean"
            | "Sum"
            | "And"
            | "Or"
            | "Xor"
            | "Equal"
            | "Greater"
            | "Less"
            | "GreaterOrEqual"
            | "LessOrEqual"
            | "Where"
            | "BitShift"
            | "BitwiseAnd"
            | "BitwiseOr"
            | "BitwiseXor"
            | "StringConcat"
    )
}

fn first(node: &NodeProto, known: &Known) -> Option<Dims> {
    let x = || known.dims(node, 0);
    let at = |slot: usize| known.dims(node, slot);
    match node.op_type() {
        op if keeps_shape(op) => Some(x()?.to_vec()),
        op if broadcasts(op) => {
            if known.opset > 0 && known.opset < 7 && int_attribute(node, "broadcast", 0) == 1 {
                return Some(x()?.to_vec());
            }
            common(node, known, 0..node.input.len())
        }
        "Conv" | "FusedConv" | "ConvInteger" | "DeformConv" => window::conv(node, x()?, at(1)?, Layout::ChannelsFirst),
        "QLinearConv" => window::conv(node, x()?, at(3)?, Layout::ChannelsFirst),
        "ConvTranspose" => window::conv_transpose(node, x()?, at(1)?),
        "MaxPool" | "AveragePool" | "LpPool" => window::pool(node, x()?, Layout::ChannelsFirst),
        "GlobalAveragePool" | "GlobalMaxPool" | "GlobalLpPool" => window::global(x()?, Layout::ChannelsFirst),
        "MaxUnpool" => window::unpool(node, known),
        "Col2Im" => window::col2im(node, known),
        "RoiAlign" | "MaxRoiPool" => window::regions(node, x()?, at(1)?),
        "GridSample" => {
            let grid = at(1)?;
            Some([x()?.get(..2)?, grid.get(1..grid.len().checked_sub(1)?)?].concat())
        }
        "AffineGrid" => window::affine_grid(node, known),
        "Gemm" => matrix::gemm(node, x()?, at(1)?),
        "MatMul" | "MatMulInteger" => matrix::matmul(x()?, at(1)?),
        "QLinearMatMul" => matrix::matmul(x()?, at(3)?),
        "Einsum" => matrix::einsum(node, known),
        "Det" => Some(x()?.get(..x()?.len().checked_sub(2)?)?.to_vec()),
        "Resize" | "Upsample" => window::resize(node, known),
        "Flatten" | "Reshape" | "Transpose" | "Concat" | "Slice" | "Squeeze" | "Unsqueeze" | "Pad" | "Expand" | "Tile" | "Gather"
        | "GatherElements" | "GatherND" | "DepthToSpace" | "SpaceToDepth" | "CenterCropPad" | "OneHot" | "Compress" => {
            arrange::first(node, known)
        }
        "ArgMax" | "ArgMin" | "TopK" | "NonZero" | "Multinomial" | "TfIdfVectorizer" => reduce::first(node, known),
        op if op.starts_with("Reduce") => reduce::first(node, known),
        "DFT" | "STFT" | "MelWeightMatrix" | "HannWindow" | "HammingWindow" | "BlackmanWindow" => signal::first(node, known),
        "Constant" => literal(node),
        "ConstantOfShape" | "RandomNormal" | "RandomUniform" => sizes(&ints_attribute(node, "shape").or_else(|| known.ints(node, 0))?),
        "Range" => signal::range(node, known),
        "Shape" => arrange::shape(node, x()?),
        "Size" | "SequenceLength" | "OptionalHasElement" => Some(vec![]),
        _ => None,
    }
}

/// Shape of a `Constant` node in any of its forms.
fn literal(node: &NodeProto) -> Option<Dims> {
    node.attribute.iter().find_map(|a| match a.name() {
        "value" => a.t.as_ref().map(tensor::dims),
        "sparse_value" => sizes(&a.sparse_tensor.as_ref()?.dims),
        "value_int" | "value_float" | "value_string" => Some(vec![]),
        "value_ints" => Some(vec![a.ints.len()]),
        "value_floats" => Some(vec![a.floats.len()]),
        "value_strings" => Some(vec![a.strings.len()]),
        _ => None,
    })
}

/// Shape of the statistics of a normalisation: the axes from `axis` on are 1.
pub(super) fn normalised(node: &NodeProto, known: &Known) -> Option<Dims> {
    let x = known.dims(node, 0)?;
    let from = axis(int_attribute(node, "axis", -1), x.len())?;
    Some(x.iter().enumerate().map(|(i, &d)| if i < from { d } else { 1 }).collect())
}

/// The common shape of some of the inputs.
pub(super) fn common(node: &NodeProto, known: &Known, slots: impl IntoIterator<Item = usize>) -> Option<Dims> {
    broadcast(&slots.into_iter().map(|i| known.dims(node, i)).collect::<Option<Vec<_>>>()?)
}

/// Whether an optional input is there.
pub(super) fn given(node: &NodeProto, slot: usize) -> bool {
    node.input.get(slot).is_some_and(|n| !n.is_empty())
}

/// The first number of an input, where it is a small constant.
pub(super) fn scalar(node: &NodeProto, known: &Known, slot: usize) -> Option<usize> {
    usize::try_from(*known.ints(node, slot)?.first()?).ok()
}

/// An attribute that is a count; `None` if it is missing, 0 or negative.
pub(super) fn count(node: &NodeProto, name: &str) -> Option<usize> {
    attribute(node, name).and_then(|a| usize::try_from(a.i()).ok()).filter(|&n| n > 0)
}

/// An axis counted from either end.
pub(super) fn axis(axis: i64, rank: usize) -> Option<usize> {
    let rank = i64::try_from(rank).ok()?;
    usize::try_from(if axis < 0 { axis.checked_add(rank)? } else { axis }).ok().filter(|&a| a < rank as usize)
}

pub(super) fn axes(list: &[i64], rank: usize) -> Option<Dims> {
    (list.len() <= RANKS).then_some(())?;
    list.iter().map(|&a| axis(a, rank)).collect()
}

pub(super) fn sizes(list: &[i64]) -> Option<Dims> {
    (list.len() <= RANKS).then_some(())?;
    list.iter().map(|&d| usize::try_from(d).ok()).collect()
}

pub(super) fn product(dims: &[usize]) -> Option<usize> {
    dims.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
}

#[cfg(test)]
mod tests {
    use crate::graph::shape_case::{case, is};

    #[test]
    fn normalisations_give_their_statistics_too() {
        let layer = case("LayerNormalization").of(&[2, 3, 4]).of(&[4]).int("axis", 1).outputs(3);
        assert_eq!(layer, [is(&[2, 3, 4]), is(&[2, 1, 1]), is(&[2, 1, 1])]);
        let batch = case("BatchNormalization").of(&[2, 3, 4]).of(&[3]).of(&[3]).of(&[3]).of(&[3]).int("training_mode", 1).outputs(3);
        assert_eq!(batch, [is(&[2, 3, 4]), is(&[3]), is(&[3])]);
        assert_eq!(case("RMSNormalization").of(&[2, 3]).of(&[3]).shape(), is(&[2, 3]));
    }

    #[test]
    fn quantizing_at_run_time_gives_a_scale_and_a_zero_point() {
        assert_eq!(case("DynamicQuantizeLinear").of(&[2, 3]).outputs(3), [is(&[2, 3]), is(&[]), is(&[])]);
    }

    #[test]
    fn a_shape_of_more_dimensions_than_anyone_uses_is_not_followed() {
        assert_eq!(case("Relu").of(&[1; 33]).shape(), None);
        assert_eq!(case("Unsqueeze").of(&[1; 32]).is(&[0]).shape(), None);
    }
}
