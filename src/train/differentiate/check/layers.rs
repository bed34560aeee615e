//! Layers, and functions element by element.

use ndarray::{ArrayD, IxDyn};
use proptest::prelude::*;

use super::{Slot, check, check_as, constant, few, list, value, within};
use crate::graph::tensor::{self, float, int, ints, text};

#[test]
fn gradients_of_functions_of_one_value_are_their_slopes() {
    for op in [
        "Identity",
        "Neg",
        "Relu",
        "Elu",
        "LeakyRelu",
        "Abs",
        "Exp",
        "Sigmoid",
        "Tanh",
        "Softplus",
        "HardSigmoid",
        "HardSwish",
        "Erf",
        "Gelu",
    ] {
        check(op, &[Slot::Value(within(&[2, 3, 4], 5, -4.0, 4.0))], vec![]);
    }
    for op in ["Sqrt", "Log", "Reciprocal"] {
        check(op, &[Slot::Value(within(&[3, 5], 6, 0.3, 3.0))], vec![]);
    }
    check("Gelu", &[Slot::Value(within(&[12], 7, -3.0, 3.0))], vec![text("approximate", "tanh")]);
    check("LeakyRelu", &[value(&[7], 1)], vec![float("alpha", 0.3)]);
    check("Elu", &[value(&[7], 1)], vec![float("alpha", 0.7)]);
    check("HardSigmoid", &[value(&[9], 1)], vec![float("alpha", 0.4), float("beta", 0.3)]);
    check("Cast", &[value(&[9], 1)], vec![int("to", 1)]);
    check("Dropout", &[value(&[9], 1)], vec![]);
}

#[test]
fn what_is_clipped_has_no_gradient() {
    let limit = |v: f32| constant(tensor::scalar_f32("", v));
    check("Clip", &[value(&[3, 7], 3), limit(-0.5), limit(1.1)], vec![]);
    check("Clip", &[value(&[3, 7], 3), limit(-0.5)], vec![]);
    check("Clip", &[value(&[3, 7], 3), Slot::Nothing, limit(0.5)], vec![]);
    check_as("Clip", &[value(&[3, 7], 3)], vec![float("min", -1.0), float("max", 1.0)], 1, 10);
}

#[test]
fn softmax_is_differentiated_along_its_axis_and_as_older_operator_sets_mean_it() {
    for op in ["Softmax", "LogSoftmax"] {
        check(op, &[value(&[2, 5], 1)], vec![]);
        check(op, &[value(&[2, 5, 3], 1)], vec![int("axis", 1)]);
        check_as(op, &[value(&[2, 4, 3], 1)], vec![], 1, 11);
    }
}

proptest! {
    #![proptest_config(few(24))]

    #[test]
    fn broadcast_operands_get_the_sum_of_their_gradients(
        dims in proptest::collection::vec(1usize..4, 1..4), ones in any::<u8>(), cut in 0usize..3, which in 0usize..7, turned in any::<bool>(), seed in any::<u64>(),
    ) {
        let cut = cut.min(dims.len() - 1);
        let small: Vec<usize> = dims[cut..].iter().enumerate().map(|(i, &d)| if ones >> i & 1 == 1 { 1 } else { d }).collect();
        let (a, b) = if turned { (&small, &dims) } else { (&dims, &small) };
        match ["Add", "Sub", "Mul", "Div", "Pow", "PRelu", "Max"][which] {
            "Div" => check("Div", &[value(a, seed), Slot::Value(within(b, seed ^ 1, 0.5, 2.0))], vec![]),
            "Pow" => check("Pow", &[Slot::Value(within(a, seed, 0.5, 2.0)), value(b, seed ^ 1)], vec![]),
            "PRelu" => check("PRelu", &[value(&dims, seed), value(&small, seed ^ 1)], vec![]),
            op => check(op, &[value(a, seed), Slot::Value(within(b, seed ^ 1, -1.93, 2.11))], vec![]),
        }
    }

    #[test]
    fn convolutions_of_any_geometry_are_differentiated(
        rank in 1usize..3, groups in 1usize..4, (c_in, c_out) in (1usize..3, 1usize..3), batch in 1usize..3,
        kernel in (1usize..4, 1usize..4), stride in (1usize..4, 1usize..3), dilation in (1usize..3, 1usize..3), pads in proptest::collection::vec(0usize..3, 4),
        extra in (0usize..5, 0usize..4), bias in any::<bool>(), seed in any::<u64>(),
    ) {
        let pick = |(a, b): (usize, usize)| if rank == 1 { vec![a] } else { vec![a, b] };
        let (kernel, stride, dilation, extra) = (pick(kernel), pick(stride), pick(dilation), pick(extra));
        let pads: Vec<usize> = (0..2 * rank).map(|i| pads[i].min(kernel[i % rank] * dilation[i % rank])).collect();
        let size = |i: usize| (dilation[i] * (kernel[i] - 1) + 1 + extra[i]).saturating_sub(pads[i] + pads[i + rank]).max(1) + extra[i];
        let sizes: Vec<usize> = (0..rank).map(size).collect();
        let attributes = vec![ints("strides", &list(&stride)), ints("dilations", &list(&dilation)), ints("pads", &list(&pads)), int("group", groups as i64)];
        let x = value(&[&[batch, c_in * groups], sizes.as_slice()].concat(), seed);
        let w = value(&[&[c_out * groups, c_in], kernel.as_slice()].concat(), seed ^ 1);
        let mut slots = vec![x, w];
        if bias {
            slots.push(value(&[c_out * groups], seed ^ 2));
        }
        check("Conv", &slots, attributes);
    }

    #[test]
    fn transposed_convolutions_of_any_geometry_are_differentiated(
        groups in 1usize..3, (c_in, c_out) in (1usize..3, 1usize..3), kernel in (1usize..4, 1usize..4), stride in (1usize..4, 1usize..3),
        dilation in (1usize..3, 1usize..3), pad in 0usize..2, output_padding in 0usize..2, sizes in (2usize..4, 2usize..4), seed in any::<u64>(),
    ) {
        let pads = [pad.min(kernel.0 - 1), pad.min(kernel.1 - 1)].map(|p| p as i64);
        let output_padding = [output_padding.min(stride.0 - 1), output_padding.min(stride.1 - 1)].map(|p| p as i64);
        let pair = |(a, b): (usize, usize)| [a as i64, b as i64];
        let attributes = vec![
            ints("strides", &pair(stride)), ints("dilations", &pair(dilation)), ints("pads", &[pads[0], pads[1], pads[0], pads[1]]),
            ints("output_padding", &output_padding), int("group", groups as i64),
        ];
        let x = value(&[2, c_in * groups, sizes.0, sizes.1], seed);
        let w = value(&[c_in * groups, c_out, kernel.0, kernel.1], seed ^ 1);
        check("ConvTranspose", &[x, w, value(&[c_out * groups], 3)], attributes);
    }

    #[test]
    fn matrix_products_of_any_batch_are_differentiated(
        (m, k, n) in (1usize..4, 1usize..4, 1usize..4), a in proptest::collection::vec(1usize..3, 0..3), short in 0usize..3, ones in any::<u8>(), seed in any::<u64>(),
    ) {
        let b: Vec<usize> = a.iter().skip(short.min(a.len())).enumerate().map(|(i, &d)| if ones >> i & 1 == 1 { 1 } else { d }).collect();
        check("MatMul", &[value(&[a.as_slice(), &[m, k]].concat(), seed), value(&[b.as_slice(), &[k, n]].concat(), seed ^ 1)], vec![]);
        check("MatMul", &[value(&[k], seed), value(&[a.as_slice(), &[k, n]].concat(), seed ^ 1)], vec![]);
        check("MatMul", &[value(&[a.as_slice(), &[m, k]].concat(), seed), value(&[k], seed ^ 1)], vec![]);
    }

    #[test]
    fn gemm_is_differentiated_however_it_is_turned(
        (m, k, n) in (1usize..4, 1usize..4, 1usize..4), turn_a in any::<bool>(), turn_b in any::<bool>(), c in 0usize..4, seed in any::<u64>(),
    ) {
        let turned = |turn: bool, a: usize, b: usize| if turn { [b, a] } else { [a, b] };
        let mut slots = vec![value(&turned(turn_a, m, k), seed), value(&turned(turn_b, k, n), seed ^ 1)];
        slots.extend([None, Some(vec![n]), Some(vec![m, 1]), Some(vec![m, n])][c].as_ref().map(|dims| value(dims, seed ^ 2)));
        let flags = vec![int("transA", i64::from(turn_a)), int("transB", i64::from(turn_b)), float("alpha", 0.7), float("beta", 1.3)];
        check("Gemm", &slots, flags);
    }
}

#[test]
fn what_is_chosen_gets_the_gradient() {
    let condition = ArrayD::from_shape_fn(IxDyn(&[2, 3]), |i| f32::from(u8::from((i[0] + i[1]) % 2 == 0)));
    let mut mask = tensor::from_f32("", &condition);
    mask.data_type = Some(9);
    mask.raw_data = Some(condition.iter().map(|&v| v as u8).collect::<Vec<_>>().into());
    check("Where", &[constant(mask), value(&[2, 3], 1), value(&[3], 2)], vec![]);
}
