//! Reductions.

use ndarray::{ArrayD, Axis, IxDyn};

use super::Values;
use crate::train::differentiate::site::Site;

pub(super) fn outputs(at: &Site<'_>, known: &Values) -> Option<Vec<ArrayD<f64>>> {
    let x = &known[at.input(0)];
    let list = at.list(1, "axes").unwrap_or_default();
    let axes: Vec<usize> = match list.is_empty() {
        true if at.int("noop_with_empty_axes", 0) == 1 => vec![],
        true => (0..x.ndim()).collect(),
        false => list.iter().map(|&a| at.axis(a, x.ndim())).collect(),
    };
    let count: usize = axes.iter().map(|&a| x.shape()[a]).product();
    let fold = |x: ArrayD<f64>, f: fn(f64, f64) -> f64| {
        let along = |x: ArrayD<f64>, &a: &usize| x.map_axis(Axis(a), |lane| lane.iter().copied().reduce(f).unwrap()).insert_axis(Axis(a));
        axes.iter().fold(x, along)
    };
    let sum = |x: ArrayD<f64>| fold(x, |a, b| a + b);
    let y = match at.node.op_type() {
        "ReduceSum" => sum(x.clone()),
        "ReduceMean" => sum(x.clone()) / count as f64,
        "ReduceMax" => fold(x.clone(), f64::max),
        "ReduceMin" => fold(x.clone(), f64::min),
        "ReduceL1" => sum(x.mapv(f64::abs)),
        "ReduceL2" => sum(x * x).mapv(f64::sqrt),
        "ReduceSumSquare" => sum(x * x),
        "ReduceLogSumExp" => sum(x.mapv(f64::exp)).mapv(f64::ln),
        _ => return None,
    };
    Some(vec![y.into_shape_with_order(IxDyn(at.out_dims(0).unwrap())).unwrap()])
}
