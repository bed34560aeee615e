//! Output shapes of ONNX Runtime's own operators (domain `com.microsoft`), as its optimiser and quantizer write them.

use super::{
    model::{attribute, int_attribute},
    proto::NodeProto,
    shape::Known,
    shape_arrange::concat,
    shape_attention as attention,
    shape_matrix::{gemm, matmul},
    shape_recurrent,
    shape_reduce::{packed_product, reduced},
    shape_rule::{Dims, all, axis, common, scalar},
    shape_window::{self as window, Layout},
};

/// Shapes of the outputs; `None` for an operator that is like the one of the default domain, or unknown.
pub(super) fn outputs(node: &NodeProto, known: &Known) -> Option<Vec<Option<Dims>>> {
    let x = || known.dims(node, 0).map(<[usize]>::to_vec);
    Some(match node.op_type() {
        "Attention" | "QAttention" => attention::packed(node, known),
        "MultiHeadAttention" => attention::multi_head(node, known),
        "GroupQueryAttention" => attention::grouped(node, known),
        "SkipLayerNormalization" | "SkipSimplifiedLayerNormalization" => attention::skip_norm(node, known),
        "EmbedLayerNormalization" => all(attention::embed_norm(node, known)),
        "SkipGroupNorm" => vec![x(), x()],
        "DynamicQuantizeLSTM" => all(shape_recurrent::quantized(node, known)),
        "BiasDropout" | "BitmaskDropout" => vec![x(), if node.op_type() == "BiasDropout" { x() } else { None }],
        _ => vec![first(node, known)?],
    })
}

fn first(node: &NodeProto, known: &Known) -> Option<Option<Dims>> {
    let dims = |slot: usize| known.dims(node, slot);
    let layout = || if int_attribute(node, "channels_last", 0) == 1 { Layout::ChannelsLast } else { Layout::ChannelsFirst };
    let product = |a: usize, b: usize| matmul(dims(a)?, dims(b)?);
    Some(match node.op_type() {
        "BiasGelu"
        | "FastGelu"
        | "QuickGelu"
        | "BiasAdd"
        | "BiasSoftmax"
        | "GroupNorm"
        | "QLinearLeakyRelu"
        | "QLinearSigmoid"
        | "QLinearSoftmax"
        | "Inverse"
        | "LongformerAttention" => dims(0).map(<[usize]>::to_vec),
        "FusedMatMul" | "TransposeMatMul" | "FusedMatMulActivation" => fused_matmul(node, dims(0)?, dims(1)?),
        "FusedGemm" => gemm(node, dims(0)?, dims(1)?),
        "GemmFastGelu" | "DynamicQuantizeMatMul" | "MatMulInteger16" | "MatMulIntegerToFloat" => product(0, 1),
        "QGemm" => gemm(node, dims(0)?, dims(3)?),
        "MatMulNBits" | "MatMulBnb4" => packed_product(node, known),
        "QLinearAdd" | "QLinearMul" => common(node, known, [0, 3]),
        "QLinearWhere" => common(node, known, [0, 1, 4]),
        "QLinearConcat" => concat(node, known, (2..node.input.len()).step_by(3), attribute(node, "axis")?.i()),
        "QLinearConv" => window::conv(node, dims(0)?, dims(3)?, layout()),
        "NhwcConv" | "NhwcFusedConv" => window::conv(node, dims(0)?, dims(1)?, Layout::ChannelsLast),
        "NhwcMaxPool" => window::pool(node, dims(0)?, Layout::ChannelsLast),
        "QLinearAveragePool" => window::pool(node, dims(0)?, layout()),
        "QLinearGlobalAveragePool" => window::global(dims(0)?, layout()),
        "QLinearReduceMean" => {
            let list = attribute(node, "axes").map(|a| a.ints.clone()).filter(|l| !l.is_empty());
            reduced(dims(0)?, list, int_attribute(node, "keepdims", 1) != 0)
        }
        "ExpandDims" => {
            let mut out = dims(0)?.to_vec();
            let at = axis(*known.ints(node, 1)?.first()?, out.len() + 1)?;
            out.insert(at, 1);
            Some(out)
        }
        "Rfft" | "Irfft" => None,
        "GatherBlockQuantized" => {
            let (x, index) = (dims(0)?, dims(1)?);
            let at = axis(int_attribute(node, "gather_axis", 0), x.len())?;
            Some([&x[..at], index, &x[at + 1..]].concat()).filter(|_| int_attribute(node, "bits", 4) == 8)
        }
        "CropAndResize" => {
            let size = (scalar(node, known, 3)?, *known.ints(node, 3)?.get(1)?);
            Some(vec![*dims(1)?.first()?, *dims(0)?.get(1)?, size.0, usize::try_from(size.1).ok()?])
        }
        _ => return None,
    })
}

/// A matrix product with either operand transposed: its last two dimensions, or with `transBatch` its leading ones to
/// the back.
fn fused_matmul(node: &NodeProto, a: &[usize], b: &[usize]) -> Option<Dims> {
    let turned = |x: &[usize], trans: &str, batch: &str| {
        let mut x = x.to_vec();
        let rank = x.len();
        if rank < 2 {
            return x;
        }
        // transBatch: [m, …batch, k] is read as [...batch, m, k].
        if int_attribute(node, batch, 0) != 0 {
            x[..rank - 1].rotate_left(1);
        }
        if int_attribute(node, trans, 0) != 0 {
            x.swap(rank - 1, rank - 2);
        }
        x
    };
    matmul(&turned(a, "transA", "transBatchA"), &turned(b, "transB", "transBatchB"))
}

#[cfg(test)]
mod tests {
    use crate::graph::shape_case::{Case, case, is};

    fn contrib(op: &str) -> Case {
        case(op).contrib()
    }

    #[test]
    fn a_fused_product_may_turn_operands_and_batches() {
        let product = |a: &[usize], b: &[usize]| contrib("FusedMatMul").of(a).of(b);
        assert_eq!(product(&[5, 4, 3], &[5, 2, 3]).int("transB", 1).shape(), is(&[5, 4, 2]));
        assert_eq!(product(&[5, 3, 4], &[5, 3, 2]).int("transA", 1).shape(), is(&[5, 4, 2]));
        assert_eq!(product(&[4, 5, 3], &[5, 3, 2]).int("transBatchA", 1).shape(), is(&[5, 4, 2]));
        assert_eq!(contrib("QGemm").of(&[2, 3]).of(&[]).of(&[]).of(&[4, 3]).int("transB", 1).shape(), is(&[2, 4]));
        assert_eq!(contrib("MatMulNBits").of(&[2, 5, 64]).of(&[48, 2, 16]).int("K", 64).int("N", 48).shape(), is(&[2, 5, 48]));
        assert_eq!(contrib("MatMulNBits").of(&[2, 64]).of(&[48, 2, 16]).shape(), None);
    }

    #[test]
    fn quantized_operators_pass_over_scales_and_zero_points() {
        let scale = |c: Case| c.of(&[]).of(&[]);
        assert_eq!(scale(contrib("QLinearAdd").of(&[2, 1, 4])).of(&[3, 1]).shape(), is(&[2, 3, 4]));
        let joined = scale(scale(scale(contrib("QLinearConcat")).of(&[1, 3, 4])).of(&[1, 5, 4])).int("axis", 1);
        assert_eq!(joined.shape(), is(&[1, 8, 4]));
        assert_eq!(scale(contrib("QLinearReduceMean").of(&[1, 3, 4])).ints("axes", &[2]).shape(), is(&[1, 3, 1]));
    }

    #[test]
    fn channels_may_come_last() {
        let pool = || contrib("QLinearGlobalAveragePool").of(&[1, 7, 6, 8]);
        assert_eq!(pool().int("channels_last", 1).shape(), is(&[1, 1, 1, 8]));
        assert_eq!(pool().shape(), is(&[1, 7, 1, 1]));
        let conv = contrib("QLinearConv").of(&[1, 9, 9, 3]).of(&[]).of(&[]).of(&[8, 3, 3, 3]).int("channels_last", 1);
        assert_eq!(conv.shape(), is(&[1, 7, 7, 8]));
        assert_eq!(contrib("NhwcMaxPool").of(&[1, 9, 9, 3]).ints("kernel_shape", &[3, 3]).shape(), is(&[1, 7, 7, 3]));
    }

    #[test]
    fn an_operator_of_the_default_domain_keeps_its_rule_and_an_unknown_one_has_none() {
        assert_eq!(contrib("Gelu").of(&[2, 3]).shape(), is(&[2, 3]));
        assert_eq!(contrib("BiasGelu").of(&[2, 3]).of(&[3]).shape(), is(&[2, 3]));
        assert_eq!(contrib("SomethingNew").of(&[2, 3]).shape(), None);
    }
}
