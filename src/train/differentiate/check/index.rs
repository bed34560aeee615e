//! What is read by index, and what is resized.

use proptest::prelude::*;

use super::{Case, Slot, check, check_as, constant, few, fixed, list, value};
use crate::graph::{
    proto::{AttributeProto, TensorProto, attribute_proto::AttributeType},
    tensor::{self, int, ints, text},
};

/// Indices of some dimensions below a length, some of them negative and some of them equal.
fn indices(dims: &[usize], length: usize, seed: u64) -> Slot {
    let n: usize = dims.iter().product();
    let length = length as i64;
    let index = |i: usize| (seed.rotate_left(7 * i as u32) % (2 * length as u64)) as i64 - length;
    let mut tensor: TensorProto = tensor::from_i64("", &(0..n).map(index).collect::<Vec<_>>());
    tensor.dims = list(dims);
    constant(tensor)
}

proptest! {
    #![proptest_config(few(24))]

    #[test]
    fn what_is_read_twice_gets_the_sum(
        dims in proptest::collection::vec(1usize..5, 1..4), of in proptest::collection::vec(1usize..4, 0..3), axis in 0usize..3,
            back in any::<bool>(), seed in any::<u64>(),
    ) {
        let axis = axis.min(dims.len() - 1);
        let named = int("axis", if back { axis as i64 - dims.len() as i64 } else { axis as i64 });
        let slots = [value(&dims, seed), indices(&of, dims[axis], seed)];
        check("Gather", &slots, vec![named.clone()]);
        Case::new("Gather", &slots, vec![named.clone()], 1, &[0], 11).check(&[true]);
        let fewer: Vec<usize> = dims.iter().enumerate().map(|(i, &d)| if i == axis { d + 1 } else { (d - 1).max(1) }).collect();
        let slots = [value(&dims, seed), indices(&fewer, dims[axis], seed)];
        check("GatherElements", &slots, vec![named.clone()]);
        Case::new("GatherElements", &slots, vec![named], 1, &[0], 11).check(&[true]);
    }

    #[test]
    fn resizing_to_sizes_is_differentiated(
        (h, w) in (1usize..6, 1usize..6), (to_h, to_w) in (1usize..9, 1usize..9), mode in 0usize..6, rounding in 0usize..4,
            flat in any::<bool>(), seed in any::<u64>(),
    ) {
        let mode = ["half_pixel", "asymmetric", "pytorch_half_pixel", "align_corners", "tf_half_pixel_for_nn",
            "half_pixel_symmetric"][mode];
        let opset = if mode == "half_pixel_symmetric" { 19 } else if mode == "tf_half_pixel_for_nn" { 11 } else { 17 };
        let (dims, sizes) = if flat { (vec![2, 1, w], vec![2, 1, to_w]) } else { (vec![1, 2, h, w], vec![1, 2, to_h, to_w]) };
        let none = || constant(tensor::from_f32("", &ndarray::ArrayD::zeros(ndarray::IxDyn(&[0]))));
        let slots = [value(&dims, seed), none(), none(), fixed(&list(&sizes))];
        let rounding = ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"][rounding];
        let chosen = |kind: &str| vec![text("mode", kind), text("coordinate_transformation_mode", mode), text("nearest_mode", rounding)];
        check_as("Resize", &slots, chosen("nearest"), 1, opset);
        check_as("Resize", &slots, chosen("linear"), 1, opset);
    }

    #[test]
    fn resizing_by_scales_is_differentiated((h, w) in (1usize..6, 1usize..6), scales in (0usize..6, 0usize..6), linear in any::<bool>(),
        seed in any::<u64>()) {
        let scale = |i: usize| [0.5f32, 0.7, 1.0, 1.3, 2.0, 3.0][i];
        let (high, wide) = (if (h as f32 * scale(scales.0)) < 1.0 { 1.0 } else { scale(scales.0) },
            if (w as f32 * scale(scales.1)) < 1.0 { 2.0 } else { scale(scales.1) });
        let all = [1.0, 1.0, high, wide];
        let slot = |scales: &[f32]| constant(tensor::from_f32("", &ndarray::ArrayD::from_shape_vec(ndarray::IxDyn(&[scales.len()]),
            scales.to_vec()).unwrap()));
        let x = || value(&[2, 1, h, w], seed);
        let mode = text("mode", if linear { "linear" } else { "nearest" });
        check("Resize", &[x(), Slot::Nothing, slot(&all)], vec![mode.clone()]);
        check_as("Resize", &[x(), Slot::Nothing, slot(&all[2..])], vec![mode.clone(), ints("axes", &[2, 3])], 1, 18);
        check("Resize", &[x(), Slot::Nothing, slot(&all)], vec![mode.clone(), text("coordinate_transformation_mode", "asymmetric"),
            text("nearest_mode", "floor")]);
        check_as("Resize", &[x(), slot(&all)], vec![mode.clone()], 1, 10);
        if all.iter().all(|&scale| scale >= 1.0) {
        check_as("Upsample", &[x(), slot(&all)], vec![mode.clone()], 1, 9);
        let scales = AttributeProto { name: Some("scales".into()), r#type: Some(AttributeType::Floats as i32), floats: all.to_vec(),
            ..Default::default() };
        check_as("Upsample", &[x()], vec![mode, scales], 1, 7);
        }
    }
}

#[test]
fn cubic_interpolation_is_refused() {
    let scales = constant(tensor::from_f32("", &ndarray::arr1(&[1.0, 1.0, 2.0, 2.0]).into_dyn()));
    let case = Case::new("Resize", &[value(&[1, 1, 4, 4], 1), Slot::Nothing, scales], vec![text("mode", "cubic")], 1, &[0], 17);
    assert!(case.differentiated(true).unwrap_err().to_string().contains("cubic"));
}
