//! What moves elements.

use proptest::prelude::*;

use super::{Case, Slot, check, check_as, constant, few, fixed, list, value};
use crate::graph::tensor::{self, int, ints, text};

#[test]
fn what_only_gets_other_dimensions_gets_its_own_back() {
    let x = || value(&[2, 3, 1, 4], 1);
    check("Reshape", &[x(), fixed(&[0, -1, 2])], vec![]);
    check("Flatten", &[x()], vec![int("axis", 2)]);
    check("Squeeze", &[x(), fixed(&[2])], vec![]);
    check("Squeeze", &[x()], vec![]);
    check_as("Squeeze", &[x()], vec![ints("axes", &[-2])], 1, 11);
    check("Unsqueeze", &[x(), fixed(&[0, -1])], vec![]);
    check_as("Unsqueeze", &[x()], vec![ints("axes", &[1])], 1, 11);
}

proptest! {
    #![proptest_config(few(24))]

    #[test]
    fn axes_go_back_where_they_were(dims in proptest::collection::vec(1usize..4, 1..5), keys in proptest::collection::vec(any::<u8>(),
        4), seed in any::<u64>()) {
        let mut order: Vec<usize> = (0..dims.len()).collect();
        order.sort_by_key(|&i| keys[i]);
        check("Transpose", &[value(&dims, seed)], vec![ints("perm", &list(&order))]);
        check("Transpose", &[value(&dims, seed)], vec![]);
    }

    #[test]
    fn slices_of_any_step_are_differentiated(
        dims in proptest::collection::vec(1usize..6, 1..4), starts in proptest::collection::vec(-6i64..6, 3),
            ends in proptest::collection::vec(-7i64..8, 3),
        steps in proptest::collection::vec(prop_oneof![Just(-3i64), Just(-2), Just(-1), Just(1), Just(2), Just(3)], 3),
            skipped in 0usize..2, seed in any::<u64>(),
    ) {
        let n = dims.len() - skipped.min(dims.len() - 1);
        let axes: Vec<usize> = (dims.len() - n..dims.len()).collect();
        // Backwards to the front and beyond, so that something is left.
        let whole = |i: usize| crate::graph::fold::slice_axis(dims[axes[i]], starts[i], ends[i], steps[i]).is_none_or(|(_, count,
            _)| count == 0);
        let (mut from, mut to) = (starts[..n].to_vec(), ends[..n].to_vec());
        for i in (0..n).filter(|&i| whole(i)) {
            (from[i], to[i]) = if steps[i] > 0 { (0, i64::MAX) } else { (-1, i64::MIN) };
        }
        check("Slice", &[value(&dims, seed), fixed(&from), fixed(&to), fixed(&list(&axes)), fixed(&steps[..n])], vec![]);
    }

    #[test]
    fn parts_and_what_they_are_of_are_differentiated(sizes in proptest::collection::vec(1usize..4, 1..4), lead in 1usize..3,
        seed in any::<u64>(), which in 1usize..8) {
        let sum: usize = sizes.iter().sum();
        let n = sizes.len();
        let seeded: Vec<usize> = (0..n).filter(|i| which >> i & 1 == 1).collect();
        let seeded = if seeded.is_empty() { vec![n - 1] } else { seeded };
        let x = value(&[lead, sum, 2], seed);
        Case::new("Split", &[x.clone(), fixed(&list(&sizes))], vec![int("axis", 1)], n, &seeded, 17).check(&[false, true]);
        Case::new("Split", &[x], vec![int("axis", -2), ints("split", &list(&sizes))], n, &seeded, 11).check(&[true]);
        let parts: Vec<Slot> = sizes.iter().enumerate().map(|(i, &d)| value(&[lead, d, 2], seed ^ i as u64)).collect();
        check("Concat", &parts, vec![int("axis", 1)]);
    }

    #[test]
    fn padding_of_any_kind_is_differentiated(
        dims in proptest::collection::vec(2usize..5, 1..5), pads in proptest::collection::vec(-1i64..4, 8), mode in 0usize..4,
            seed in any::<u64>(),
    ) {
        let n = dims.len();
        let mode = ["constant", "edge", "reflect", "wrap"][mode];
        let lowest = if mode == "constant" { -1 } else { 0 };
        // Something is left of each axis, and no mirror shows more than there is.
        let pads: Vec<i64> = (0..2 * n).map(|i| pads[i].clamp(if i < n { lowest } else { 0 }, dims[i % n] as i64 - 1)).collect();
        let opset = if mode == "wrap" { 19 } else { 17 };
        check_as("Pad", &[value(&dims, seed), fixed(&pads)], vec![text("mode", mode)], 1, opset);
    }

    #[test]
    fn repetitions_get_the_sum(dims in proptest::collection::vec(1usize..4, 1..4), repeats in proptest::collection::vec(1usize..4, 3),
        lead in 0usize..3, seed in any::<u64>()) {
        check("Tile", &[value(&dims, seed), fixed(&list(&repeats[..dims.len()]))], vec![]);
        let wide: Vec<usize> = dims.iter().zip(&repeats).map(|(&d, &r)| if d == 1 { r } else { d }).collect();
        check("Expand", &[value(&dims, seed), fixed(&list(&[&vec![2; lead], wide.as_slice()].concat()))], vec![]);
    }

    #[test]
    fn depth_and_space_change_places_and_back(c in 1usize..3, block in 1usize..4, (h, w) in (1usize..3, 1usize..3), seed in any::<u64>()) {
        for mode in ["DCR", "CRD"] {
            let x = value(&[2, c * block * block, h, w], seed);
            check("DepthToSpace", &[x], vec![int("blocksize", block as i64), text("mode", mode)]);
        }
        check("SpaceToDepth", &[value(&[2, c, h * block, w * block], seed)], vec![int("blocksize", block as i64)]);
    }
}

#[test]
fn equal_parts_need_no_list() {
    check_as("Split", &[value(&[2, 6], 1)], vec![int("axis", 1)], 3, 17);
    check_as("Split", &[value(&[2, 7], 1)], vec![int("axis", 1), int("num_outputs", 3)], 3, 18);
}

#[test]
fn padding_names_its_axes_and_its_value() {
    let value_of = |v: f32| constant(tensor::scalar_f32("", v));
    check_as("Pad", &[value(&[2, 3, 4], 1), fixed(&[1, 0, 2, -1]), value_of(0.5), fixed(&[0, -1])], vec![], 1, 18);
    check("Pad", &[value(&[2, 5], 1), fixed(&[-1, -2, 2, -1])], vec![]);
}

#[test]
fn a_slice_of_nothing_has_no_gradient_anywhere() {
    check("Slice", &[value(&[3, 4], 1), fixed(&[2]), fixed(&[2]), fixed(&[1])], vec![]);
}
