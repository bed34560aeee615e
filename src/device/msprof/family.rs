//! Whether a row can be a kernel at all: CANN's types of operator beside our kinds of work, and shapes beside sizes.

use std::ops::RangeInclusive;

use super::table::Row;
use crate::device::kernel::{Cube, Kernel, Op, Traffic, pad};

/// The widest block of channels: 32 of INT8.
const BLOCK: u64 = 32;

/// What CANN's operator types are to us.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    Conv,
    Depthwise,
    Transposed,
    MatMul,
    Elementwise,
    Pool,
    Reduce,
    Move,
    Transform,
    Quantize,
}

/// Beginnings of operator types, lower case; the first family that fits counts.
const KINDS: [(Family, &str); 10] = [
    (Family::Depthwise, "depthwiseconv"),
    (Family::Transposed, "conv2dtranspose conv3dtranspose convtranspose conv2dbackpropinput conv3dbackpropinput deconv"),
    (Family::Conv, "conv2d conv3d conv1d convolution"),
    (Family::MatMul, "matmul batchmatmul transposebatchmatmul fullyconnect gemm quantmatmul quantbatchmatmul weightquant"),
    (Family::Quantize, "ascendquant"),
    (Family::Transform, "transdata reshape flatten"),
    (Family::Pool, "pooling maxpool avgpool averagepool globalaverage globalavg globalmax adaptiveavg adaptivemax"),
    (Family::Reduce, "reduce softmax logsoftmax layernorm instancenorm groupnorm rmsnorm lpnorm arg l2normalize"),
    (
        Family::Move,
        "concat split slice stridedslice transpose gather pad tile pack unpack resize upsample depthtospace spacetodepth expand broadcastto",
    ),
    (
        Family::Elementwise,
        "add sub mul div realdiv eltwise relu leakyrelu prelu sigmoid tanh gelu fastgelu erf swish silu hardswish hardsigmoid clip \
         maximum minimum pow sqrt rsqrt exp log square neg abs axpy elu celu selu mish softplus bninfer bninference batchnorm biasadd \
         scale power",
    ),
];

/// The family of a row: by its type, or where that is unknown by a type's name in the operator's.
pub(super) fn family(row: &Row) -> Option<Family> {
    if !row.kind.is_empty() {
        return of_kind(&row.kind);
    }
    let words: Vec<&str> = row.name.split(|c: char| !c.is_alphanumeric()).collect();
    words.into_iter().rev().find_map(of_kind)
}

fn of_kind(kind: &str) -> Option<Family> {
    let kind = kind.to_lowercase();
    if kind == "conv" {
        return Some(Family::Conv);
    }
    let is_of = |(family, starts): &&(Family, &str)| {
        starts.split_whitespace().filter_map(|s| kind.strip_prefix(s)).any(|rest| *family != Family::Elementwise || is_version(rest))
    };
    KINDS.iter().find(is_of).map(|(family, _)| *family)
}

/// Whether `rest` only tells variants of one operator apart: AddV2, AddN, but not AddRmsNorm.
fn is_version(rest: &str) -> bool {
    matches!(rest.trim_matches(|c: char| c.is_ascii_digit()), "" | "v" | "d" | "s" | "n" | "byvalue" | "byvalued")
}

/// Whether a kernel of kind `op` may appear as an operator of that family.
pub(super) fn appears_as(op: Op, family: Family) -> bool {
    matches!(
        (op, family),
        (Op::Conv, Family::Conv)
            | (Op::GroupConv | Op::DepthwiseConv, Family::Conv | Family::Depthwise)
            | (Op::ConvTranspose, Family::Transposed)
            | (Op::MatMul, Family::MatMul)
            | (Op::Elementwise, Family::Elementwise)
            | (Op::Pool | Op::Reduce, Family::Pool | Family::Reduce)
            | (Op::Move | Op::Transform, Family::Move | Family::Transform)
            | (Op::Quantize, Family::Quantize)
    )
}

/// Whether output and weight of the row may be the kernel's; what is unknown may be.
pub(super) fn has_size_of(row: &Row, kernel: &Kernel) -> bool {
    let format = |i: usize| row.output_formats.get(i).map_or("", String::as_str);
    let fits = |t: &Traffic| {
        let elements = t.bytes.saturating_mul(8) / t.bits.max(1);
        row.output_shapes.iter().enumerate().any(|(i, shape)| range(shape, format(i)).contains(&elements))
    };
    let is_output = row.output_shapes.is_empty() || kernel.writes.is_empty() || kernel.writes.iter().any(fits);
    is_output && is_weight(row, kernel)
}

fn is_weight(row: &Row, kernel: &Kernel) -> bool {
    let (Some(Cube { images, taps, cin, cout, groups: 1, .. }), Some(shape)) = (kernel.cube, row.input_shapes.get(1)) else { return true };
    if shape.is_empty() || kernel.op == Op::MatMul && images > 1 {
        return true;
    }
    let size = |cin: u64, cout: u64| taps.saturating_mul(cin).saturating_mul(cout);
    (size(cin, cout)..=size(pad(cin, BLOCK), pad(cout, BLOCK))).contains(&product(shape))
}

/// Elements that a kernel which writes this tensor may count: channels exact, or padded to blocks.
fn range(shape: &[u64], format: &str) -> RangeInclusive<u64> {
    let total = product(shape);
    // With `dim` elements where `of` are meant.
    let with = |dim: u64, of: u64| (total / of.max(1)).saturating_mul(dim);
    let fewest = |blocks: u64, block: u64| blocks.saturating_sub(1).saturating_mul(block).saturating_add(1);
    match (format.to_uppercase().as_str(), shape) {
        ("NC1HWC0", &[_, c1, _, _, c0]) | ("NDC1HWC0", &[_, _, c1, _, _, c0]) => {
            let channels = c1.saturating_mul(c0);
            with(fewest(c1, c0), channels)..=with(pad(channels, BLOCK), channels)
        }
        ("FRACTAL_NZ", &[ref batch @ .., n1, m1, m0, n0]) => {
            let heads = batch.get(1).copied().unwrap_or(BLOCK);
            let least = product(batch).saturating_mul(fewest(n1, n0)).saturating_mul(fewest(m1, m0));
            least..=with(pad(heads, BLOCK), heads)
        }
        ("NHWC", &[_, _, _, c]) | (_, &[_, c, _, _, ..]) => total..=with(pad(c, BLOCK), c),
        _ => total..=total,
    }
}

fn product(shape: &[u64]) -> u64 {
    shape.iter().fold(1, |n, &d| n.saturating_mul(d))
}

#[cfg(test)]
mod tests {
    use super::super::tests::kernel;
    use super::*;

    fn is_of(kind: &str) -> Option<Family> {
        family(&Row { kind: kind.into(), ..Row::default() })
    }

    #[test]
    fn types_of_every_version_have_their_family() {
        for (kind, family) in [
            ("Conv2D", Family::Conv),
            ("DepthwiseConv2D", Family::Depthwise),
            ("Conv2DTransposeD", Family::Transposed),
            ("MatMulV2", Family::MatMul),
            ("BatchMatMulV2", Family::MatMul),
            ("FullyConnection", Family::MatMul),
            ("MaxPoolV3", Family::Pool),
            ("AvgPoolV2", Family::Pool),
            ("ReduceMeanD", Family::Reduce),
            ("SoftmaxV2", Family::Reduce),
            ("ArgMaxV2", Family::Reduce),
            ("TransData", Family::Transform),
            ("TransposeD", Family::Move),
            ("ConcatV2D", Family::Move),
            ("SplitVD", Family::Move),
            ("ResizeNearestNeighborV2D", Family::Move),
            ("StridedSliceD", Family::Move),
            ("Eltwise", Family::Elementwise),
            ("RealDiv", Family::Elementwise),
            ("Relu6", Family::Elementwise),
            ("BNInferenceD", Family::Elementwise),
            ("AscendQuant", Family::Quantize),
        ] {
            assert_eq!(is_of(kind), Some(family), "{kind}");
        }
        for unknown in ["Cast", "AscendDequant", "MemSet", "AddRmsNorm", "TopKD", "NonMaxSuppression", "ScatterNd"] {
            assert_eq!(is_of(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn without_a_type_the_name_tells() {
        let row = |name: &str| family(&Row { name: name.into(), ..Row::default() });
        assert_eq!(row("trans_TransData_12"), Some(Family::Transform));
        assert_eq!(row("op_17"), None);
    }

    #[test]
    fn blocks_of_channels_hold_what_they_are_padded_from() {
        assert_eq!(range(&[1, 4, 56, 56, 16], "NC1HWC0"), 49 * 56 * 56..=64 * 56 * 56);
        assert_eq!(range(&[1, 3, 8, 8], "NCHW"), 3 * 64..=32 * 64);
        assert_eq!(range(&[63, 1, 16, 16], "FRACTAL_NZ"), 62 * 16 + 1..=63 * 256);
        assert_eq!(range(&[1, 1000], "ND"), 1000..=1000);
        assert_eq!(range(&[u64::MAX, u64::MAX, 7, 0], "NCHW").end(), &0);
    }

    #[test]
    fn a_convolution_is_told_by_its_weight() {
        let cube = Cube { images: 1, rows: 64, taps: 9, cin: 64, cout: 128, groups: 1, sparse: false };
        let conv = Kernel { cube: Some(cube), ..kernel("a") };
        let row = |weight: &[u64]| Row { input_shapes: vec![vec![1, 4, 8, 8, 16], weight.to_vec()], ..Row::default() };
        assert!(has_size_of(&row(&[36, 8, 16, 16]), &conv));
        assert!(!has_size_of(&row(&[9, 8, 16, 16]), &conv));
        assert!(has_size_of(&Row::default(), &conv));
    }
}
