//! Normalisations.

use ndarray::{ArrayD, IxDyn};

use super::{Values, paired};
use crate::train::differentiate::site::Site;

pub(super) fn outputs(at: &Site<'_>, known: &Values) -> Option<Vec<ArrayD<f64>>> {
    let x = &known[at.input(0)];
    let (rank, epsilon) = (x.ndim(), f64::from(at.float("epsilon", 1e-5)));
    let by_channel = |slot: usize| -> ArrayD<f64> {
        let dims: Vec<usize> = (0..rank).map(|a| if a == 1 { x.shape()[1] } else { 1 }).collect();
        known[at.input(slot)].clone().into_shape_with_order(IxDyn(&dims)).unwrap()
    };
    let y = match at.node.op_type() {
        "BatchNormalization" if at.int("training_mode", 0) == 1 => {
            let all: Vec<usize> = (0..rank).filter(|&a| a != 1).collect();
            normalised(x, &all, epsilon) * by_channel(1) + by_channel(2)
        }
        "BatchNormalization" => (x - &by_channel(3)) / by_channel(4).mapv(|v| (v + epsilon).sqrt()) * by_channel(1) + by_channel(2),
        "LayerNormalization" => {
            let axes: Vec<usize> = (at.axis(at.int("axis", -1), rank)..rank).collect();
            let y = paired(&normalised(x, &axes, epsilon), &known[at.input(1)], x.shape(), &|x, s| x * s);
            match known.get(at.input(2)) {
                Some(bias) => paired(&y, bias, x.shape(), &|y, b| y + b),
                None => y,
            }
        }
        "InstanceNormalization" => normalised(x, &(2..rank).collect::<Vec<_>>(), epsilon) * by_channel(1) + by_channel(2),
        "GroupNormalization" => {
            let groups = at.int("num_groups", 1) as usize;
            let apart = x.clone().into_shape_with_order(IxDyn(&[x.shape()[0], groups, x.len() / x.shape()[0] / groups])).unwrap();
            let normal = normalised(&apart, &[2], epsilon).into_shape_with_order(x.raw_dim()).unwrap();
            normal * by_channel(1) + by_channel(2)
        }
        _ => return None,
    };
    Some(vec![y])
}

/// (x − mean) / √(variance + ε) over some axes.
fn normalised(x: &ArrayD<f64>, axes: &[usize], epsilon: f64) -> ArrayD<f64> {
    let mean = |x: &ArrayD<f64>| axes.iter().fold(x.clone(), |x, &a| x.mean_axis(ndarray::Axis(a)).unwrap().insert_axis(ndarray::Axis(a)));
    let centred = x - &mean(x);
    let variance = mean(&(&centred * &centred));
    centred / variance.mapv(|v| (v + epsilon).sqrt())
}
