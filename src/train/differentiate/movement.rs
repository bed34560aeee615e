//! Gradients of operators that move elements: what moved there moves back.

use ndarray::{ArrayD, IxDyn};

use super::{Gradients, Rule, Site, Tape};
use crate::graph::{
    fold::slice_axis,
    tensor::{int, text},
};

pub(super) fn rule_of(op: &str) -> Option<Rule> {
    Some(match op {
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => |at, tape, dy| one(at, dy, |dy| Ok(tape.reshape(dy, at.dims(0)?))),
        "Transpose" => transpose,
        "Slice" => |at, tape, dy| one(at, dy, |dy| slice(at, tape, dy)),
        "Split" => split,
        "Concat" => concat,
        "Pad" => |at, tape, dy| one(at, dy, |dy| pad(at, tape, dy)),
        "Expand" => |at, tape, dy| one(at, dy, |dy| Ok(tape.unbroadcast(dy, at.out_dims(0)?, at.dims(0)?))),
        "Tile" => |at, tape, dy| one(at, dy, |dy| tile(at, tape, dy)),
        "DepthToSpace" => |at, tape, dy| one(at, dy, |dy| depth_to_space(at, tape, dy)),
        "SpaceToDepth" => |at, tape, dy| {
            let size = int("blocksize", at.int("blocksize", 1));
            one(at, dy, |dy| Ok(tape.op("DepthToSpace", &[dy], vec![size, text("mode", "DCR")])))
        },
        _ => return None,
    })
}

/// The gradient of the first input, if it is needed.
fn one(at: &Site<'_>, dy: &[Option<String>], make: impl FnOnce(&str) -> crate::Result<String>) -> Gradients {
    Ok(vec![dy.first().cloned().flatten().filter(|_| at.needs(0)).map(|dy| make(&dy)).transpose()?])
}

fn transpose(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let rank = at.dims(0)?.len();
    let order: Vec<usize> = match at.ints("perm") {
        Some(perm) => perm.iter().map(|&p| at.axis(p, rank)).collect(),
        None => (0..rank).rev().collect(),
    };
    let mut back = vec![0; rank];
    order.iter().enumerate().for_each(|(i, &p)| back[p] = i);
    one(at, dy, |dy| Ok(tape.transpose(dy, &back)))
}

/// Turned around where the step is negative, spread by the step, and set in its place.
fn slice(at: &Site<'_>, tape: &mut Tape, dy: &str) -> crate::Result<String> {
    let (x, y) = (at.dims(0)?, at.out_dims(0)?);
    let computed = || at.refuse("where it begins and ends is computed".into());
    let starts = at.settled(1, "starts")?.ok_or_else(computed)?;
    let ends = at.settled(2, "ends")?.ok_or_else(computed)?;
    let axes = at.settled(3, "axes")?.unwrap_or_else(|| (0..starts.len() as i64).collect());
    let steps = at.settled(4, "steps")?.unwrap_or_else(|| vec![1; starts.len()]);
    if y.contains(&0) {
        return Ok(tape.zeros(x));
    }
    let (mut from, mut spread, mut turned) = (vec![0; x.len()], vec![1; x.len()], Vec::new());
    for (i, &axis) in axes.iter().enumerate() {
        let axis = at.axis(axis, x.len());
        let part = |list: &[i64]| list.get(i).copied().unwrap_or(1);
        let Some((start, count, step)) = slice_axis(x[axis], part(&starts), part(&ends), part(&steps)) else { return Err(computed()) };
        // The step of a single element leads nowhere.
        let step = if count == 1 { 1 } else { step };
        if step < 0 {
            turned.push(axis as i64);
        }
        from[axis] = if step < 0 { start + (count as i64 - 1) * step } else { start };
        spread[axis] = step.unsigned_abs() as usize;
    }
    let mut out = dy.to_string();
    if !turned.is_empty() {
        let n = turned.len();
        out = tape.slice(&out, &vec![-1; n], &vec![i64::MIN; n], &turned, &vec![-1; n]);
    }
    let wide: Vec<usize> = y.iter().zip(&spread).map(|(d, s)| d * s).collect();
    if wide != y {
        let (mut narrow, mut behind) = (Vec::new(), Vec::new());
        for (&d, &s) in y.iter().zip(&spread) {
            narrow.push(d);
            behind.push(0);
            if s > 1 {
                narrow.push(1);
                behind.push(s as i64 - 1);
            }
        }
        let apart = tape.reshape(&out, &narrow);
        let padded = tape.pad(&apart, &vec![0; behind.len()], &behind);
        out = tape.reshape(&padded, &wide);
    }
    // Zeros that the last step spread beyond the end are cut off.
    let behind: Vec<i64> = (0..x.len()).map(|i| x[i] as i64 - from[i] - wide[i] as i64).collect();
    Ok(tape.pad(&out, &from, &behind))
}

fn split(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let axis = at.axis(at.int("axis", 0), at.dims(0)?.len());
    let mut parts = Vec::new();
    for (slot, dy) in dy.iter().enumerate().filter(|_| at.needs(0)) {
        parts.push(match dy {
            Some(dy) => dy.clone(),
            None => tape.zeros(at.out_dims(slot)?),
        });
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    Ok(vec![(!parts.is_empty()).then(|| tape.op("Concat", &parts, vec![int("axis", axis as i64)]))])
}

fn concat(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten() else { return Ok(vec![]) };
    let axis = at.axis(at.int("axis", 1), at.out_dims(0)?.len());
    let mut from = 0;
    let mut gradients = Vec::new();
    for slot in 0..at.node.input.len() {
        let to = from + at.dims(slot)?[axis] as i64;
        gradients.push(at.needs(slot).then(|| tape.slice(&dy, &[from], &[to], &[axis as i64], &[1])));
        from = to;
    }
    Ok(gradients)
}

fn pad(at: &Site<'_>, tape: &mut Tape, dy: &str) -> crate::Result<String> {
    if at.needs(2) {
        return Err(at.refuse("the value that it pads with is computed".into()));
    }
    let (x, y) = (at.dims(0)?, at.out_dims(0)?);
    let pads = at.settled(1, "pads")?.ok_or_else(|| at.refuse("its padding is computed".into()))?;
    let axes = at.settled(3, "axes")?.unwrap_or_else(|| (0..x.len() as i64).collect());
    let (mut before, mut behind) = (vec![0; x.len()], vec![0; x.len()]);
    for (i, &axis) in axes.iter().enumerate() {
        let axis = at.axis(axis, x.len());
        before[axis] = pads.get(i).copied().unwrap_or(0);
        behind[axis] = pads.get(i + axes.len()).copied().unwrap_or(0);
    }
    let mode = at.text("mode", "constant");
    if mode != "constant" {
        let mut out = dy.to_string();
        for axis in (0..x.len()).filter(|&a| before[a] != 0 || behind[a] != 0) {
            let mut matrix = ArrayD::zeros(IxDyn(&[x[axis], y[axis]]));
            for o in 0..y[axis] {
                let from = mirrored(&mode, o as i64 - before[axis], x[axis] as i64);
                let from = from.ok_or_else(|| at.refuse(format!("with mode {mode}")))?;
                matrix[[from, o]] = 1.0;
            }
            out = tape.along(&out, x.len(), axis, &matrix);
        }
        return Ok(out);
    }
    // Negative padding has cut off what now is padded, and the other way around.
    let from: Vec<i64> = before.iter().map(|&p| p.max(0)).collect();
    let to: Vec<i64> = (0..x.len()).map(|i| y[i] as i64 - behind[i].max(0)).collect();
    let cut: Vec<usize> = (0..x.len()).filter(|&i| from[i] != 0 || to[i] != y[i] as i64).collect();
    let of = |list: &[i64]| cut.iter().map(|&i| list[i]).collect::<Vec<_>>();
    let axes: Vec<i64> = cut.iter().map(|&i| i as i64).collect();
    let inner = if cut.is_empty() { dy.to_string() } else { tape.slice(dy, &of(&from), &of(&to), &axes, &vec![1; cut.len()]) };
    let back = |pads: &[i64]| pads.iter().map(|&p| (-p).max(0)).collect::<Vec<_>>();
    Ok(tape.pad(&inner, &back(&before), &back(&behind)))
}

/// The element of an axis that stands at a place outside of it.
fn mirrored(mode: &str, place: i64, length: i64) -> Option<usize> {
    let at = match mode {
        "edge" => place.clamp(0, length - 1),
        "wrap" => place.rem_euclid(length),
        "reflect" if length == 1 => 0,
        "reflect" => {
            let at = place.rem_euclid(2 * (length - 1));
            at.min(2 * (length - 1) - at)
        }
        _ => return None,
    };
    usize::try_from(at).ok()
}

fn tile(at: &Site<'_>, tape: &mut Tape, dy: &str) -> crate::Result<String> {
    let (x, y) = (at.dims(0)?, at.out_dims(0)?);
    if y.contains(&0) {
        return Ok(tape.zeros(x));
    }
    let (mut apart, mut axes) = (Vec::new(), Vec::new());
    for (&d, &out) in x.iter().zip(y) {
        if out != d {
            axes.push(apart.len() as i64);
            apart.push(out / d);
        }
        apart.push(d);
    }
    if axes.is_empty() {
        return Ok(dy.to_string());
    }
    let apart = tape.reshape(dy, &apart);
    Ok(tape.sum(&apart, &axes, false))
}

fn depth_to_space(at: &Site<'_>, tape: &mut Tape, dy: &str) -> crate::Result<String> {
    let block = at.int("blocksize", 1);
    if at.text("mode", "DCR") == "DCR" {
        return Ok(tape.op("SpaceToDepth", &[dy], vec![int("blocksize", block)]));
    }
    let (x, y) = (at.dims(0)?, at.out_dims(0)?);
    let block = usize::try_from(block).unwrap_or(1);
    let apart = tape.reshape(dy, &[y[0], y[1], x[2], block, x[3], block]);
    let turned = tape.transpose(&apart, &[0, 1, 3, 5, 2, 4]);
    Ok(tape.reshape(&turned, x))
}
