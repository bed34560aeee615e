//! Gradients of what is read by index: added up where it was read.

use super::{Gradients, Rule, Site, Tape, pool::scattered};
use crate::graph::tensor::{int, text};

pub(super) fn rule_of(op: &str) -> Option<Rule> {
    Some(match op {
        "Gather" => gather,
        "GatherElements" => gather_elements,
        _ => return None,
    })
}

fn integers(tape: &mut Tape, indices: &str, dims: &[usize]) -> String {
    let wide = tape.op("Cast", &[indices], vec![int("to", 7)]);
    tape.reshape(&wide, dims)
}

fn gather(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten().filter(|_| at.needs(0)) else { return Ok(vec![]) };
    let x = at.dims(0)?;
    let axis = at.axis(at.int("axis", 0), x.len());
    let n: usize = at.dims(1)?.iter().product();
    let (outer, inner): (usize, usize) = (x[..axis].iter().product(), x[axis + 1..].iter().product());
    let rows = tape.reshape(&dy, &[outer, n, inner]);
    if tape.own {
        let indices = integers(tape, at.input(1), &[n]);
        let sums = tape.own("ScatterAdd", &[&rows, &indices], vec![int("length", x[axis] as i64)]);
        return Ok(vec![Some(tape.reshape(&sums, x))]);
    }
    if tape.opset < 16 {
        return Err(at.refuse("before opset 16 nothing adds up what meets at one place; export the model with opset 16".into()));
    }
    let indices = integers(tape, at.input(1), &[n, 1]);
    let turn = |tape: &mut Tape, value: &str| if outer == 1 { value.to_string() } else { tape.transpose(value, &[1, 0, 2]) };
    let rows = if outer == 1 { tape.reshape(&dy, &[n, 1, inner]) } else { turn(tape, &rows) };
    let zeros = tape.zeros(&[x[axis], outer, inner]);
    let sums = tape.op("ScatterND", &[&zeros, &indices, &rows], vec![text("reduction", "add")]);
    let sums = turn(tape, &sums);
    Ok(vec![Some(tape.reshape(&sums, x))])
}

fn gather_elements(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten().filter(|_| at.needs(0)) else { return Ok(vec![]) };
    let (x, y) = (at.dims(0)?, at.dims(1)?);
    let axis = at.axis(at.int("axis", 0), x.len());
    if !tape.own {
        return Ok(vec![Some(scattered(at, tape, at.input(1), &dy, x, axis)?)]);
    }
    let apart = [y[..axis].iter().product(), y[axis], y[axis + 1..].iter().product()];
    let (rows, indices) = (tape.reshape(&dy, &apart), integers(tape, at.input(1), &apart));
    let sums = tape.own("ScatterAdd", &[&rows, &indices], vec![int("length", x[axis] as i64)]);
    let mut dims = y.to_vec();
    dims[axis] = x[axis];
    // Along the other axes there may be fewer indices than elements.
    let sums = tape.reshape(&sums, &dims);
    let behind: Vec<i64> = x.iter().zip(&dims).map(|(&x, &d)| x as i64 - d as i64).collect();
    Ok(vec![Some(tape.pad(&sums, &vec![0; x.len()], &behind))])
}
