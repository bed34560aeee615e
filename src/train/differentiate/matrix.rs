//! Gradients of matrix products.

use super::{Gradients, Site, Tape};

/// Y = α·A·B + β·C, A and B turned or not.
pub(super) fn gemm(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten() else { return Ok(vec![]) };
    let (turn_a, turn_b) = (at.int("transA", 0) != 0, at.int("transB", 0) != 0);
    let (a, b) = (at.input(0), at.input(1));
    let scaled = tape.scaled(&dy, at.float("alpha", 1.0));
    let left = at.needs(0).then(|| {
        if turn_a { tape.matmul_turned((b, turn_b), (&scaled, true)) } else { tape.matmul_turned((&scaled, false), (b, !turn_b)) }
    });
    let right = at.needs(1).then(|| {
        if turn_b { tape.matmul_turned((&scaled, true), (a, turn_a)) } else { tape.matmul_turned((a, !turn_a), (&scaled, false)) }
    });
    let bias = if at.needs(2) {
        let sum = tape.unbroadcast(&dy, at.out_dims(0)?, at.dims(2)?);
        Some(tape.scaled(&sum, at.float("beta", 1.0)))
    } else {
        None
    };
    Ok(vec![left, right, bias])
}

/// Batched matrix product as numpy's.
pub(super) fn matmul(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten() else { return Ok(vec![]) };
    let (a, b) = (at.dims(0)?.to_vec(), at.dims(1)?.to_vec());
    if a.len() < 2 || b.len() < 2 {
        return vectors(at, tape, &dy, (&a, &b));
    }
    let (m, k, n) = (a[a.len() - 2], a[a.len() - 1], b[b.len() - 1]);
    let out = at.out_dims(0)?.to_vec();
    let batch = &out[..out.len() - 2];
    let left = at.needs(0).then(|| {
        let product = tape.matmul_turned((&dy, false), (at.input(1), true));
        tape.unbroadcast(&product, &[batch, &[m, k]].concat(), &a)
    });
    let right = at.needs(1).then(|| {
        if b.len() == 2 && a.len() > 2 {
            let rows: usize = a[..a.len() - 1].iter().product();
            let (flat_a, flat_dy) = (tape.reshape(at.input(0), &[rows, k]), tape.reshape(&dy, &[rows, n]));
            return tape.matmul_turned((&flat_a, true), (&flat_dy, false));
        }
        let product = tape.matmul_turned((at.input(0), true), (&dy, false));
        tape.unbroadcast(&product, &[batch, &[k, n]].concat(), &b)
    });
    Ok(vec![left, right])
}

/// A product in which one side or both are vectors: matrices of one row or column.
fn vectors(at: &Site<'_>, tape: &mut Tape, dy: &str, (a, b): (&[usize], &[usize])) -> Gradients {
    let wide_a = if a.len() == 1 { vec![1, a[0]] } else { a.to_vec() };
    let wide_b = if b.len() == 1 { vec![b[0], 1] } else { b.to_vec() };
    let (m, k, n) = (wide_a[wide_a.len() - 2], wide_a[wide_a.len() - 1], wide_b[wide_b.len() - 1]);
    let longer = if wide_a.len() >= wide_b.len() { &wide_a } else { &wide_b };
    let batch = &longer[..longer.len() - 2];
    let dy = tape.reshape(dy, &[batch, &[m, n]].concat());
    let (x, w) = (tape.reshape(at.input(0), &wide_a), tape.reshape(at.input(1), &wide_b));
    let left = at.needs(0).then(|| {
        let product = tape.matmul_turned((&dy, false), (&w, true));
        let fitted = tape.unbroadcast(&product, &[batch, &[m, k]].concat(), &wide_a);
        tape.reshape(&fitted, a)
    });
    let right = at.needs(1).then(|| {
        let product = tape.matmul_turned((&x, true), (&dy, false));
        let fitted = tape.unbroadcast(&product, &[batch, &[k, n]].concat(), &wide_b);
        tape.reshape(&fitted, b)
    });
    Ok(vec![left, right])
}
