//! Gradients of resizing by the nearest elements or by linear interpolation: the same matrix along each axis as ONNX Runtime applies,
//! transposed.
//!
//! Coordinates and how they are rounded are those of ONNX Runtime's `upsamplebase.h` and `upsample.cc`, in its single precision.

use ndarray::{ArrayD, IxDyn};

use super::{Gradients, Rule, Site, Tape};
use crate::{Result, graph::model::attribute};

pub(super) fn rule_of(op: &str) -> Option<Rule> {
    matches!(op, "Resize" | "Upsample").then_some(resize as Rule)
}

/// What an element is made of: places and weights.
type Taps = Vec<(usize, f32)>;

/// For each axis what its elements are made of; nothing for axes that stay.
pub(super) fn taps(at: &Site<'_>) -> Result<Vec<Option<Vec<Taps>>>> {
    let mode = at.text("mode", "nearest");
    let linear = matches!(mode.as_str(), "linear" | "bilinear");
    let coordinates = at.text("coordinate_transformation_mode", if old(at) { "asymmetric" } else { "half_pixel" });
    let policy = at.text("keep_aspect_ratio_policy", "stretch");
    if !linear && mode != "nearest" {
        return Err(at.refuse(format!("with mode {mode}")));
    }
    if at.int("antialias", 0) != 0 || policy != "stretch" || coordinates == "tf_crop_and_resize" {
        return Err(at.refuse("with antialias, a policy for the aspect ratio, or regions".into()));
    }
    let rounding = at.text("nearest_mode", if old(at) { "simple" } else { "round_prefer_floor" });
    let (x, y) = (at.dims(0)?, at.out_dims(0)?);
    if x == y {
        // ONNX Runtime copies then, whatever the scales.
        return Ok(vec![None; x.len()]);
    }
    let of_axis = |(axis, scale): (usize, f32)| {
        let (from, to) = (x[axis], y[axis]);
        if from == to && scale == 1.0 {
            return Ok(None);
        }
        let taps = |i: usize| {
            let place = if scale == 1.0 { Some(i as f32) } else { original(&coordinates, i as f32, scale, to as f32, from as f32) };
            let place = place.ok_or_else(|| at.refuse(format!("with {coordinates}")))?;
            Ok(if linear { between(place, from) } else { vec![(nearest(&rounding, place, scale < 1.0, from), 1.0)] })
        };
        Ok(Some((0..to).map(taps).collect::<Result<Vec<_>>>()?))
    };
    scales(at)?.into_iter().enumerate().map(of_axis).collect()
}

/// Whether the operator is of the time before coordinates could be chosen.
fn old(at: &Site<'_>) -> bool {
    at.node.op_type() == "Upsample" || at.opset < 11
}

/// The factor along each axis.
fn scales(at: &Site<'_>) -> Result<Vec<f32>> {
    let (x, y) = (at.dims(0)?, at.out_dims(0)?);
    if !old(at) && !at.input(3).is_empty() && at.index.ints(at.input(3)).is_none_or(|sizes| !sizes.is_empty()) {
        return Ok(x.iter().zip(y).map(|(&x, &y)| y as f32 / x as f32).collect());
    }
    let listed = attribute(at.node, "scales").map(|a| a.floats.clone());
    let constant = || at.index.floats(at.input(if old(at) { 1 } else { 2 })).map(|scales| scales.iter().copied().collect());
    let listed: Vec<f32> = listed.or_else(constant).ok_or_else(|| at.refuse("its scales are computed".into()))?;
    let axes = at.ints("axes").unwrap_or_else(|| (0..x.len() as i64).collect());
    let mut scales = vec![1.0; x.len()];
    for (&axis, &scale) in axes.iter().zip(&listed) {
        scales[at.axis(axis, x.len())] = scale;
    }
    Ok(scales)
}

/// Where an element of the output stands in the input.
fn original(mode: &str, place: f32, scale: f32, to: f32, from: f32) -> Option<f32> {
    Some(match mode {
        "asymmetric" => place / scale,
        "half_pixel" => (place + 0.5) / scale - 0.5,
        "pytorch_half_pixel" => {
            if to > 1.0 {
                (place + 0.5) / scale - 0.5
            } else {
                0.0
            }
        }
        "tf_half_pixel_for_nn" => (place + 0.5) / scale,
        "align_corners" => {
            if to == 1.0 {
                0.0
            } else {
                place * (from - 1.0) / (to - 1.0)
            }
        }
        "half_pixel_symmetric" => {
            let offset = from / 2.0 * (1.0 - to / (scale * from));
            // In double precision there, but for the offset.
            (f64::from(offset) + (f64::from(place) + 0.5) / f64::from(scale) - 0.5) as f32
        }
        _ => return None,
    })
}

fn nearest(mode: &str, place: f32, smaller: bool, from: usize) -> usize {
    let rounded = match mode {
        "simple" => {
            if smaller {
                place.ceil()
            } else {
                place.trunc()
            }
        }
        "floor" => place.floor(),
        "ceil" => place.ceil(),
        // ONNX Runtime 1.32 takes what is this close for half way: measured, 9.5e-7 is and 1.4e-6 is not.
        _ if (place - place.floor() - 0.5).abs() < 1e-6 => {
            if mode == "round_prefer_floor" {
                place.floor()
            } else {
                place.ceil()
            }
        }
        _ => place.round(),
    };
    (rounded.max(0.0) as usize).min(from - 1)
}

fn between(place: f32, from: usize) -> Taps {
    let place = place.clamp(0.0, (from - 1) as f32);
    let low = (place as usize).min(from - 1);
    let high = (low + 1).min(from - 1);
    if low == high { vec![(low, 1.0)] } else { vec![(low, high as f32 - place), (high, place - low as f32)] }
}

fn resize(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten().filter(|_| at.needs(0)) else { return Ok(vec![]) };
    let (x, y) = (at.dims(0)?, at.out_dims(0)?);
    let taps = taps(at)?;
    let mut out = dy;
    // Where every element is repeated as often as the others, a sum is enough.
    let whole = |axis: usize, taps: &[Taps]| {
        let times = y[axis] / x[axis];
        y[axis] == times * x[axis] && taps.iter().enumerate().all(|(i, taps)| matches!(taps[..], [(from, 1.0)] if from == i / times))
    };
    let (mut apart, mut repeated) = (Vec::new(), Vec::new());
    for (axis, taps) in taps.iter().enumerate() {
        match taps {
            Some(taps) if whole(axis, taps) => {
                apart.push(x[axis]);
                repeated.push(apart.len() as i64);
                apart.push(y[axis] / x[axis]);
            }
            Some(taps) => {
                let mut matrix = ArrayD::zeros(IxDyn(&[x[axis], y[axis]]));
                for (i, taps) in taps.iter().enumerate() {
                    taps.iter().for_each(|&(from, weight)| matrix[[from, i]] += weight);
                }
                out = tape.along(&out, x.len(), axis, &matrix);
                apart.push(x[axis]);
            }
            None => apart.push(x[axis]),
        }
    }
    if !repeated.is_empty() {
        out = tape.reshape(&out, &apart);
        out = tape.sum(&out, &repeated, false);
    }
    Ok(vec![Some(out)])
}
