//! The work in a node: the cube's product, and whether a move is aligned.

use super::{
    fuse::View,
    kernel::{Cube, Op, Traffic, pad},
};
use crate::{
    graph::{
        model::{int_attribute, ints_attribute},
        proto::NodeProto,
    },
    precision::Precision,
};

/// Kind and size of the product a cube node makes.
pub(super) fn product(view: &View, node: &NodeProto) -> (Op, Option<Cube>) {
    let dims = |value: Option<&String>| value.and_then(|v| view.shapes.dims(v)).unwrap_or(&[]);
    let of = |list: &[usize]| list.iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
    let (x, w, y) = (dims(node.input.first()), dims(node.input.get(1)), dims(node.output.first()));
    match node.op_type() {
        "Gemm" | "MatMul" => {
            let (Some(&cout), Some(&last)) = (y.last(), x.last()) else { return (Op::MatMul, None) };
            let flipped = node.op_type() == "Gemm" && int_attribute(node, "transA", 0) == 1;
            let cin = if flipped { x[0] } else { last };
            let rows = of(&y[..y.len() - 1]);
            let images = if w.len() > 2 { of(&y[..y.len().saturating_sub(2)]).max(1) } else { 1 };
            (
                Op::MatMul,
                Some(Cube { images, rows: rows / images.max(1), taps: 1, cin: cin as u64, cout: cout as u64, groups: 1, sparse: false }),
            )
        }
        // Both products of softmax(q·kᵀ)·v over heads [batch, heads, rows, channels]: they have as many multiply-adds, so the sum is twice as long.
        "Attention" if x.len() == 4 && w.len() == 4 => {
            let sizes = [x[0] * x[1], x[2], x[3], w[2]].map(|d| d as u64);
            (Op::MatMul, Some(Cube { images: sizes[0], rows: sizes[1], taps: 2, cin: sizes[2], cout: sizes[3], groups: 1, sparse: false }))
        }
        "Attention" => (Op::Other, None),
        op if x.len() > 2 && w.len() > 2 && y.len() > 2 => {
            let groups = u64::try_from(int_attribute(node, "group", 1)).unwrap_or(1).max(1);
            let transposed = op == "ConvTranspose";
            let pixels = of(if transposed { &x[2..] } else { &y[2..] });
            let cube = Cube {
                images: x[0] as u64,
                rows: pixels,
                taps: of(&w[2..]),
                cin: (x[1] as u64).div_ceil(groups),
                cout: (y[1] as u64).div_ceil(groups),
                groups,
                sparse: false,
            };
            let kind = match (transposed, groups, cube.cin) {
                (true, ..) => Op::ConvTranspose,
                (_, 1, _) => Op::Conv,
                (_, _, 1) => Op::DepthwiseConv,
                _ => Op::GroupConv,
            };
            (kind, Some(cube))
        }
        "ConvTranspose" => (Op::ConvTranspose, None),
        _ => (Op::Conv, None),
    }
}

/// Whether a move cuts through blocks of 16 channels (NC1HWC0) or of 16 neighbours (linear layouts).
pub(super) fn is_unaligned(view: &View, node: &NodeProto) -> bool {
    let dims = |v: &String| view.shapes.dims(v).unwrap_or(&[]);
    let Some(input) = node.input.first() else { return false };
    let (x, rank) = (dims(input), dims(input).len());
    let five = view.is_five(input);
    let block = if five { 1 } else { rank.saturating_sub(1) };
    match node.op_type() {
        "Transpose" => {
            let kept =
                ints_attribute(node, "perm").is_some_and(|p| p.last().is_some_and(|&l| usize::try_from(l) == Ok(rank.saturating_sub(1))));
            five || !kept || x.last().is_none_or(|d| d % 16 != 0)
        }
        "Concat" => node.input.iter().any(|i| dims(i).get(block).is_some_and(|d| d % 16 != 0)),
        "Split" | "Slice" => node.output.iter().chain([input]).any(|o| dims(o).get(block).is_some_and(|d| d % 16 != 0)),
        "DepthToSpace" | "SpaceToDepth" => true,
        _ => false,
    }
}

/// Bytes of a layer's weights in FRACTAL_Z: channels in blocks of C0, outputs in blocks of 16; groups are stored plain.
pub(super) fn weight_traffic(cube: &Cube, op: Op, precision: Precision) -> Traffic {
    let bits = u64::from(precision.weight_bits());
    let c0 = 256 / u64::from(precision.activations().weight_bits());
    let sizes = match (op, cube.groups) {
        (Op::DepthwiseConv, groups) => [1, cube.taps, pad(groups, c0), 1],
        (_, 1) => [1, cube.taps, pad(cube.cin, c0), pad(cube.cout, 16)],
        (_, groups) => [groups, cube.taps, cube.cin, cube.cout],
    };
    let elements = sizes.iter().fold(bits, |n, &d| n.saturating_mul(d));
    Traffic { bytes: elements.div_ceil(8), bits, distance: u64::MAX, chained: false }
}
