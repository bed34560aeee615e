//! Rules against central differences of the reference, in double precision.

use ndarray::{ArrayD, IxDyn};
use proptest::prelude::*;

use super::{Wanted, differentiate, float_value, reference};
use crate::{
    graph::{
        Model,
        proto::{AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, TensorProto},
        shape::{self, Pins},
        tensor::{self, float, int, ints, text},
    },
    runtime::{Runtime, Session, SessionOptions},
};

/// An input of the operator that is checked.
#[derive(Debug, Clone)]
pub(super) enum Slot {
    /// A value whose gradient is checked.
    Value(ArrayD<f64>),
    /// A constant.
    Fixed(TensorProto),
    /// Left out.
    Nothing,
}

/// Values of these dimensions that differ from each other and are no corner of any operator, between `low` and `high`.
pub(super) fn within(dims: &[usize], seed: u64, low: f64, high: f64) -> ArrayD<f64> {
    let n: usize = dims.iter().product();
    let mut order: Vec<usize> = (0..n).collect();
    let mut state = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    for i in (1..n).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    let place = |i: usize| f64::from((low + (high - low) * (order[i] as f64 + 0.371) / n as f64) as f32);
    ArrayD::from_shape_vec(IxDyn(dims), (0..n).map(place).collect()).unwrap()
}

pub(super) fn value(dims: &[usize], seed: u64) -> Slot {
    Slot::Value(within(dims, seed, -2.0, 2.0))
}

/// Checks an operator's rule: its gradients, weighted sums of its outputs, against central differences.
pub(super) fn check(op: &str, slots: &[Slot], attributes: Vec<AttributeProto>) {
    check_as(op, slots, attributes, 1, if op == "Gelu" { 20 } else { 17 });
}

/// As [`check`], for some outputs and an operator set.
pub(super) fn check_as(op: &str, slots: &[Slot], attributes: Vec<AttributeProto>, outputs: usize, opset: i64) {
    let names: Vec<String> =
        slots.iter().enumerate().map(|(i, s)| if matches!(s, Slot::Nothing) { String::new() } else { format!("x{i}") }).collect();
    let inputs: Vec<&str> = names.iter().map(String::as_str).collect();
    let made: Vec<String> = (0..outputs).map(|i| format!("y{i}")).collect();
    let made: Vec<&str> = made.iter().map(String::as_str).collect();
    let mut graph = GraphProto {
        name: Some("case".into()),
        node: vec![tensor::node(op, "case", &inputs, &made, attributes)],
        output: made.iter().map(|y| float_value(y, None)).collect(),
        ..Default::default()
    };
    let mut given = reference::Values::new();
    for (name, slot) in names.iter().zip(slots) {
        match slot {
            Slot::Value(array) => {
                graph.input.push(float_value(name, Some(array.shape())));
                given.insert(name.clone(), array.clone());
            }
            Slot::Fixed(tensor) => graph.initializer.push(TensorProto { name: Some(name.clone()), ..tensor.clone() }),
            Slot::Nothing => {}
        }
    }
    let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(opset) }];
    let proto = ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..Default::default() };
    let mut model = Model { name: "case".into(), proto };
    let shapes = shape::infer(&model, 1, &Pins::new()).unwrap();
    let seeds: Vec<(String, String)> = made.iter().map(|y| (y.to_string(), format!("seed.{y}"))).collect();
    let mut weights = reference::Values::new();
    for (i, (y, seed)) in seeds.iter().enumerate() {
        let dims = shapes.dims(y).unwrap_or_else(|| panic!("no shape of {y}"));
        model.graph_mut().input.push(float_value(seed, Some(dims)));
        weights.insert(y.clone(), within(dims, 77 + i as u64, -1.0, 1.0));
    }
    let of: Vec<String> = names.iter().zip(slots).filter(|(_, s)| matches!(s, Slot::Value(_))).map(|(n, _)| n.clone()).collect();
    let plain: Vec<String> = made.iter().map(ToString::to_string).collect();
    let known = reference::values(&model, &shapes, given.clone());
    let loss = |given: &reference::Values| -> f64 {
        let known = reference::values(&model, &shapes, given.clone());
        weights.iter().map(|(y, w)| (&known[y] * w).sum()).sum()
    };
    let expected: Vec<ArrayD<f64>> = of
        .iter()
        .map(|name| {
            let mut slopes = ArrayD::zeros(given[name].raw_dim());
            let mut moved = given.clone();
            for (i, slope) in slopes.indexed_iter_mut() {
                const STEP: f64 = 1e-5;
                let at = given[name][&i];
                let mut side = |x: f64| {
                    if let Some(array) = moved.get_mut(name) {
                        array[&i] = x;
                    }
                    loss(&moved)
                };
                *slope = (side(at + STEP) - side(at - STEP)) / (2.0 * STEP);
                side(at);
            }
            slopes
        })
        .collect();
    let runtime = Runtime::start(&mut |_| {}).unwrap();
    for own in [false, true] {
        let wanted = Wanted { seeds: &seeds, of: &of, outputs: &plain, own };
        let found = differentiate(&model, &shapes, wanted).unwrap();
        let bytes = found.model.to_bytes().unwrap();
        let mut session = Session::from_bytes(&runtime, "case", &bytes, SessionOptions::default()).unwrap();
        let feeds: Vec<(String, ArrayD<f32>)> = of
            .iter()
            .map(|n| (n.clone(), given[n].mapv(|v| v as f32)))
            .chain(seeds.iter().map(|(y, s)| (s.clone(), weights[y].mapv(|v| v as f32))))
            .collect();
        let feeds: Vec<_> = feeds.iter().map(|(n, a)| (n.as_str(), a.view())).collect();
        let results = session.run(&feeds).unwrap();
        for (y, result) in plain.iter().zip(&results) {
            assert_close(&format!("{op} itself"), result, &known[y], 1e-5);
        }
        for (name, slopes) in of.iter().zip(&expected) {
            let gradient = found.gradients.get(name).unwrap_or_else(|| panic!("no gradient of {name}"));
            let at = plain.len() + found.gradients.values().position(|g| g == gradient).unwrap();
            assert_close(&format!("{op}, gradient of {name}, own {own}"), &results[at], slopes, 1e-4);
        }
    }
}

fn assert_close(what: &str, found: &ArrayD<f32>, expected: &ArrayD<f64>, bound: f64) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let largest = expected.iter().fold(1e-2_f64, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(expected).map(|(&f, e)| (f64::from(f) - e).abs()).fold(0.0, f64::max);
    assert!(worst <= bound * largest, "{what}: off by {worst:e} of {largest:e}");
}

fn few(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

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
    let limit = |v: f32| Slot::Fixed(tensor::scalar_f32("", v));
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
        let list = |v: &[usize]| v.iter().map(|&v| v as i64).collect::<Vec<_>>();
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
    check("Where", &[Slot::Fixed(mask), value(&[2, 3], 1), value(&[3], 2)], vec![]);
}
