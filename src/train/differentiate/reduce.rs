//! Gradients of reductions. Equal maxima and equal minima share their gradient evenly.

use super::{Gradients, Rule, Site, Tape};
use crate::Result;

pub(super) fn rule_of(op: &str) -> Option<Rule> {
    Some(match op {
        "ReduceSum" | "ReduceMean" | "ReduceMax" | "ReduceMin" | "ReduceL1" | "ReduceL2" | "ReduceSumSquare" | "ReduceLogSumExp" => reduced,
        _ => return None,
    })
}

/// The axes that are reduced; none where nothing is.
fn axes(at: &Site<'_>, rank: usize) -> Result<Vec<i64>> {
    let list = at.settled(1, "axes")?.unwrap_or_default();
    Ok(match list.is_empty() {
        true if at.int("noop_with_empty_axes", 0) == 1 => vec![],
        true => (0..rank as i64).collect(),
        false => list.iter().map(|&a| at.axis(a, rank) as i64).collect(),
    })
}

fn reduced(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten().filter(|_| at.needs(0)) else { return Ok(vec![]) };
    let (name, x) = (at.input(0), at.dims(0)?);
    let axes = axes(at, x.len())?;
    let gone = |i: usize| axes.contains(&(i as i64));
    let kept: Vec<usize> = x.iter().enumerate().map(|(i, &d)| if gone(i) { 1 } else { d }).collect();
    let flat = kept != at.out_dims(0)?;
    let dy = if flat { tape.reshape(&dy, &kept) } else { dy };
    let reads = !matches!(at.node.op_type(), "ReduceSum" | "ReduceMean" | "ReduceL1" | "ReduceSumSquare");
    let y = if flat && reads { tape.reshape(at.output(0), &kept) } else { at.output(0).to_string() };
    let count: usize = x.iter().enumerate().filter(|&(i, _)| gone(i)).map(|(_, &d)| d).product();
    Ok(vec![Some(match at.node.op_type() {
        "ReduceSum" => spread(tape, &dy, &kept, x),
        "ReduceMean" => {
            let share = tape.scaled(&dy, 1.0 / count.max(1) as f32);
            spread(tape, &share, &kept, x)
        }
        "ReduceL1" => {
            let sign = tape.op("Sign", &[name], vec![]);
            tape.mul(&sign, &dy)
        }
        "ReduceSumSquare" => {
            let twice = tape.scaled(&dy, 2.0);
            tape.mul(name, &twice)
        }
        "ReduceL2" => {
            // At the origin, where there is no slope, 0.
            let zero = tape.scalar(0.0);
            let positive = tape.op("Greater", &[&y, &zero], vec![]);
            let slope = tape.div(&dy, &y);
            let slope = tape.op("Where", &[&positive, &slope, &zero], vec![]);
            tape.mul(name, &slope)
        }
        "ReduceLogSumExp" => {
            let less = tape.sub(name, &y);
            let share = tape.op("Exp", &[&less], vec![]);
            tape.mul(&share, &dy)
        }
        _ if axes.is_empty() => dy,
        _ => {
            let equal = tape.op("Equal", &[name, &y], vec![]);
            let shares = tape.indicator(&equal);
            let shares = tape.sum(&shares, &axes, true);
            let share = tape.div(&dy, &shares);
            let zero = tape.scalar(0.0);
            tape.op("Where", &[&equal, &share, &zero], vec![])
        }
    })])
}

fn spread(tape: &mut Tape, value: &str, from: &[usize], to: &[usize]) -> String {
    if from == to { value.to_string() } else { tape.expand(value, to) }
}
