//! Gradients of normalisations.
//!
//! With x̂ = (x − mean) / deviation and g = dy · scale the gradient is (g − mean(g) − x̂ · mean(g · x̂)) / deviation (Ioffe and Szegedy,
//! 1502.03167; Ba, Kiros and Hinton, 1607.06450). Where the mean is over neighbouring elements, x̂ and the deviation come from one
//! LayerNormalization of ONNX Runtime's.

use ndarray::{ArrayD, IxDyn};

use super::{Gradients, Rule, Site, Tape};
use crate::{
    Result,
    graph::tensor::{float, int},
};

pub(super) fn rule_of(op: &str) -> Option<Rule> {
    Some(match op {
        "BatchNormalization" => {
            |at, tape, dy| if at.int("training_mode", 0) == 1 { batch_trained(at, tape, dy) } else { batch(at, tape, dy) }
        }
        "LayerNormalization" => layer,
        "InstanceNormalization" => |at, tape, dy| grouped(at, tape, dy, at.dims(1)?.iter().product()),
        "GroupNormalization" => group,
        _ => return None,
    })
}

/// All axes but that of the channels.
fn but_channels(rank: usize) -> Vec<i64> {
    (0..rank as i64).filter(|&a| a != 1).collect()
}

/// A value for each channel in the dimensions that broadcast to the data.
fn by_channel(tape: &mut Tape, value: &str, channels: usize, rank: usize) -> String {
    let dims: Vec<usize> = [channels].into_iter().chain(vec![1; rank.saturating_sub(2)]).collect();
    tape.reshape(value, &dims)
}

/// 1 / √(variance + ε).
fn inverse_deviation(at: &Site<'_>, tape: &mut Tape, variance: &str) -> String {
    let positive = tape.plus(variance, at.float("epsilon", 1e-5));
    let deviation = tape.op("Sqrt", &[&positive], vec![]);
    tape.op("Reciprocal", &[&deviation], vec![])
}

/// y = scale · (x − mean) / √(variance + ε) + bias, mean and variance given.
fn batch(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten() else { return Ok(vec![]) };
    let (rank, channels) = (at.dims(0)?.len(), at.dims(1)?.iter().product());
    let inverse = inverse_deviation(at, tape, at.input(4));
    let factor = tape.mul(&inverse, at.input(1));
    let data = at.needs(0).then(|| {
        let factor = by_channel(tape, &factor, channels, rank);
        tape.mul(&dy, &factor)
    });
    if !(1..5).any(|slot| at.needs(slot)) {
        return Ok(vec![data]);
    }
    let sum = tape.sum(&dy, &but_channels(rank), false);
    // Σ dy · (x − mean) as a difference of sums, which needs no centred copy of the data.
    let centred = (at.needs(1) || at.needs(4)).then(|| {
        let product = tape.mul(&dy, at.input(0));
        let product = tape.sum(&product, &but_channels(rank), false);
        let shift = tape.mul(&sum, at.input(3));
        let centred = tape.sub(&product, &shift);
        tape.mul(&centred, &inverse)
    });
    let scale = centred.clone().filter(|_| at.needs(1));
    let mean = at.needs(3).then(|| {
        let product = tape.mul(&sum, &factor);
        tape.neg(&product)
    });
    let variance = centred.filter(|_| at.needs(4)).map(|centred| {
        let slope = tape.mul(&factor, &inverse);
        let slope = tape.mul(&slope, &centred);
        tape.scaled(&slope, -0.5)
    });
    Ok(vec![data, scale, Some(sum).filter(|_| at.needs(2)), mean, variance])
}

/// The same with mean and variance of the batch; those that it hands on have no gradient.
fn batch_trained(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten() else { return Ok(vec![]) };
    let x = at.dims(0)?;
    let (rank, channels, axes) = (x.len(), x.get(1).copied().unwrap_or(1), but_channels(x.len()));
    let share = channels as f32 / x.iter().product::<usize>().max(1) as f32;
    let sum = tape.sum(&dy, &axes, true);
    let mean = tape.mean(at.input(0), &axes);
    let centred = tape.sub(at.input(0), &mean);
    let square = tape.mul(&centred, &centred);
    let variance = tape.mean(&square, &axes);
    let inverse = inverse_deviation(at, tape, &variance);
    let product = tape.mul(&dy, &centred);
    let product = tape.sum(&product, &axes, true);
    let normal = tape.mul(&product, &inverse);
    let data = at.needs(0).then(|| {
        // All that is the same for a channel first: two products and two differences of whole tensors are left.
        let less = tape.scaled(&sum, share);
        let along = tape.mul(&normal, &inverse);
        let along = tape.scaled(&along, share);
        let along = tape.mul(&centred, &along);
        let rest = tape.sub(&dy, &less);
        let rest = tape.sub(&rest, &along);
        let scale = by_channel(tape, at.input(1), channels, rank);
        let factor = tape.mul(&scale, &inverse);
        tape.mul(&rest, &factor)
    });
    let mut flat = |slot: usize, value: &str| at.needs(slot).then(|| tape.reshape(value, &[channels]));
    Ok(vec![data, flat(1, &normal), flat(2, &sum)])
}

/// x̂ over the axes from one on and 1 / deviation.
fn normalised(at: &Site<'_>, tape: &mut Tape, x: &str, dims: &[usize], axis: usize) -> (String, String) {
    let ones = tape.array(&ArrayD::ones(IxDyn(&dims[axis..])));
    let attributes = vec![int("axis", axis as i64), float("epsilon", at.float("epsilon", 1e-5))];
    let mut made = tape.several("", "LayerNormalization", &[x, &ones], 3, attributes);
    (made.swap_remove(0), made.swap_remove(0))
}

/// (g − mean(g) − x̂ · mean(g · x̂)) / deviation over the axes from one on.
fn through(tape: &mut Tape, g: &str, (normal, inverse): (&str, &str), rank: usize, axis: usize) -> String {
    let axes: Vec<i64> = (axis..rank).map(|a| a as i64).collect();
    let mean = tape.mean(g, &axes);
    let product = tape.mul(g, normal);
    let along = tape.mean(&product, &axes);
    let along = tape.mul(normal, &along);
    let rest = tape.sub(g, &mean);
    let rest = tape.sub(&rest, &along);
    tape.mul(&rest, inverse)
}

fn layer(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten() else { return Ok(vec![]) };
    let x = at.dims(0)?;
    let axis = at.axis(at.int("axis", -1), x.len());
    let (normal, inverse) = normalised(at, tape, at.input(0), x, axis);
    let data = at.needs(0).then(|| {
        let g = tape.mul(&dy, at.input(1));
        through(tape, &g, (&normal, &inverse), x.len(), axis)
    });
    let scale = if at.needs(1) {
        let product = tape.mul(&dy, &normal);
        Some(tape.unbroadcast(&product, x, at.dims(1)?))
    } else {
        None
    };
    let bias = if at.needs(2) { Some(tape.unbroadcast(&dy, x, at.dims(2)?)) } else { None };
    Ok(vec![data, scale, bias])
}

fn group(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    if at.opset < 21 {
        return Err(at.refuse("before opset 21 it scales groups, not channels".into()));
    }
    grouped(at, tape, dy, usize::try_from(at.int("num_groups", 1)).unwrap_or(1).max(1))
}

/// Channels normalised in groups, each by itself where there are as many groups: InstanceNormalization.
fn grouped(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>], groups: usize) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten() else { return Ok(vec![]) };
    let (x, flat) = (at.dims(0)?, flat(at, groups)?);
    let rows = tape.reshape(at.input(0), &flat);
    let (normal, inverse) = normalised(at, tape, &rows, &flat, 1);
    let data = at.needs(0).then(|| {
        let scale = by_channel(tape, at.input(1), x[1], x.len());
        let g = tape.mul(&dy, &scale);
        let g = tape.reshape(&g, &flat);
        let out = through(tape, &g, (&normal, &inverse), 2, 1);
        tape.reshape(&out, x)
    });
    let axes = but_channels(x.len());
    let scale = at.needs(1).then(|| {
        let normal = tape.reshape(&normal, x);
        let product = tape.mul(&dy, &normal);
        tape.sum(&product, &axes, false)
    });
    let bias = at.needs(2).then(|| tape.sum(&dy, &axes, false));
    Ok(vec![data, scale, bias])
}

/// A row for each group of each example.
fn flat(at: &Site<'_>, groups: usize) -> Result<[usize; 2]> {
    let x = at.dims(0)?;
    let rows = x[0] * groups;
    if rows == 0 || x.len() < 2 || x[1] % groups != 0 {
        return Err(at.refuse(format!("{groups} groups of {x:?}")));
    }
    Ok([rows, x.iter().product::<usize>() / rows])
}
