//! Pooling.

use proptest::prelude::*;

use super::{Case, check, check_as, few, list, value};
use crate::graph::{
    proto::AttributeProto,
    tensor::{int, ints, text},
};

/// Windows over up to three axes, and sizes that have room for them.
#[derive(Debug, Clone)]
struct Geometry {
    sizes: Vec<usize>,
    attributes: Vec<AttributeProto>,
}

/// Taps, stride, dilation, padding before and behind, and elements more than a window has.
type Axis = (usize, usize, usize, usize, usize, usize);

fn geometry() -> impl Strategy<Value = Geometry> {
    let axis = (1usize..4, 1usize..4, 1usize..3, 0usize..3, 0usize..3, 0usize..5);
    (proptest::collection::vec(axis, 1..4), any::<bool>(), any::<bool>()).prop_map(|(axes, dilated, ceil)| {
        let axes: Vec<_> =
            axes.into_iter().map(|(k, s, d, b, e, extra)| (k, s, if dilated { d } else { 1 }, b.min(k - 1), e.min(k - 1), extra)).collect();
        let of = |f: fn(&Axis) -> usize| list(&axes.iter().map(f).collect::<Vec<_>>());
        let mut attributes = vec![
            ints("kernel_shape", &of(|a| a.0)),
            ints("strides", &of(|a| a.1)),
            ints("pads", &[of(|a| a.3), of(|a| a.4)].concat()),
            int("ceil_mode", i64::from(ceil)),
        ];
        if dilated {
            attributes.push(ints("dilations", &of(|a| a.2)));
        }
        // No window is in the padding alone: not even one whose taps stand further apart than there are elements.
        let sizes = axes.iter().map(|a| (a.2 * (a.0 - 1) + 1 + a.5).saturating_sub(a.3 + a.4).max(a.2)).collect();
        Geometry { sizes, attributes }
    })
}

proptest! {
    #![proptest_config(few(24))]

    #[test]
    fn the_greatest_of_a_window_gets_its_gradient(g in geometry(), batch in 1usize..3, channels in 1usize..3, seed in any::<u64>()) {
        let x = value(&[&[batch, channels], g.sizes.as_slice()].concat(), seed);
        check("MaxPool", std::slice::from_ref(&x), g.attributes.clone());
        Case::new("MaxPool", &[x], g.attributes, 1, &[0], 12).check(&[true]);
    }

    #[test]
    fn means_of_windows_are_differentiated(g in geometry(), new in any::<bool>(), include in any::<bool>(), batch in 1usize..3,
        seed in any::<u64>()) {
        let x = value(&[&[batch, 2], g.sizes.as_slice()].concat(), seed);
        let mut attributes = g.attributes;
        attributes.push(int("count_include_pad", i64::from(include)));
        if !new {
            attributes.retain(|a| a.name() != "dilations");
        }
        check_as("AveragePool", &[x], attributes, 1, if new { 19 } else { 17 });
    }
}

#[test]
fn windows_side_by_side_and_padded_by_themselves_are_pooled_too() {
    for op in ["MaxPool", "AveragePool"] {
        check(op, &[value(&[2, 3, 6, 4], 1)], vec![ints("kernel_shape", &[3, 2]), ints("strides", &[3, 2])]);
        for (auto, include) in [("SAME_UPPER", 0), ("SAME_LOWER", 0), ("VALID", 0), ("SAME_UPPER", 1)] {
            let mut attributes = vec![ints("kernel_shape", &[3, 2]), ints("strides", &[2, 1]), text("auto_pad", auto)];
            attributes.extend((op == "AveragePool").then(|| int("count_include_pad", include)));
            check_as(op, &[value(&[1, 2, 6, 5], 2)], attributes.clone(), 1, 17);
            check_as(op, &[value(&[1, 2, 7, 4], 2)], attributes, 1, 19);
        }
    }
}

#[test]
fn whole_planes_are_pooled() {
    for op in ["GlobalMaxPool", "GlobalAveragePool"] {
        for dims in [&[2, 3, 5][..], &[2, 3, 4, 5], &[1, 2, 3, 2, 2]] {
            check(op, &[value(dims, 4)], vec![]);
        }
    }
}

#[test]
fn without_operators_of_ours_maxima_need_an_operator_set_that_adds_up() {
    let case = Case::new("MaxPool", &[value(&[1, 1, 4], 1)], vec![ints("kernel_shape", &[2])], 1, &[0], 15);
    assert!(case.differentiated(false).unwrap_err().to_string().contains("opset 16"));
}
