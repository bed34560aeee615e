//! Gradients of operators of two operands or more, element by element, with broadcasting.

use super::{Gradients, Rule, Site, Tape};

pub(super) fn rule_of(op: &str) -> Option<Rule> {
    Some(match op {
        "Add" => add,
        "Sub" => sub,
        "Mul" => mul,
        "Div" => div,
        "Pow" => pow,
        "PRelu" => prelu,
        "Where" => choose,
        "Max" | "Min" => extreme,
        "Sum" => sum,
        _ => return None,
    })
}

/// What a rule's gradients become: each summed over what its operand was broadcast along.
fn fitted(at: &Site<'_>, tape: &mut Tape, gradients: Vec<Option<String>>) -> Gradients {
    let from = at.out_dims(0)?.to_vec();
    let fit = |(slot, g): (usize, Option<String>)| g.map(|g| Ok(tape.unbroadcast(&g, &from, at.dims(slot)?))).transpose();
    gradients.into_iter().enumerate().map(fit).collect()
}

fn given(dy: &[Option<String>]) -> String {
    dy.first().cloned().flatten().unwrap_or_default()
}

fn add(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let dy = given(dy);
    let gradients = (0..2).map(|slot| at.needs(slot).then(|| dy.clone())).collect();
    fitted(at, tape, gradients)
}

fn sum(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let dy = given(dy);
    let gradients = (0..at.node.input.len()).map(|slot| at.needs(slot).then(|| dy.clone())).collect();
    fitted(at, tape, gradients)
}

fn sub(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let dy = given(dy);
    // Summed first where the operand is the smaller.
    let mut gradients = fitted(at, tape, (0..2).map(|slot| at.needs(slot).then(|| dy.clone())).collect())?;
    gradients[1] = gradients[1].take().map(|g| tape.neg(&g));
    Ok(gradients)
}

fn mul(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let dy = given(dy);
    let gradients = (0..2).map(|slot| at.needs(slot).then(|| tape.mul(&dy, at.input(1 - slot)))).collect();
    fitted(at, tape, gradients)
}

fn div(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let by = tape.div(&given(dy), at.input(1));
    let left = at.needs(0).then(|| by.clone());
    let right = at.needs(1).then(|| {
        let product = tape.mul(&by, at.output(0));
        tape.neg(&product)
    });
    fitted(at, tape, vec![left, right])
}

/// d(xᵏ) = k·xᵏ⁻¹·dx + xᵏ·ln x·dk; the second only where x > 0.
fn pow(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let dy = given(dy);
    let (x, k) = (at.input(0), at.input(1));
    let constant = at.index.floats(k).filter(|k| k.len() == 1).and_then(|k| k.first().copied());
    let left = at.needs(0).then(|| {
        let slope = match constant {
            Some(2.0) => tape.scaled(x, 2.0),
            Some(k) => {
                let less = tape.scalar(k - 1.0);
                let power = tape.op("Pow", &[x, &less], vec![]);
                tape.scaled(&power, k)
            }
            None => {
                let less = tape.plus(k, -1.0);
                let power = tape.op("Pow", &[x, &less], vec![]);
                tape.mul(&power, k)
            }
        };
        tape.mul(&dy, &slope)
    });
    let right = at.needs(1).then(|| {
        let (zero, one) = (tape.scalar(0.0), tape.scalar(1.0));
        let positive = tape.op("Greater", &[x, &zero], vec![]);
        let safe = tape.op("Where", &[&positive, x, &one], vec![]);
        let log = tape.op("Log", &[&safe], vec![]);
        let slope = tape.mul(at.output(0), &log);
        tape.mul(&dy, &slope)
    });
    fitted(at, tape, vec![left, right])
}

fn prelu(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let dy = given(dy);
    let zero = tape.scalar(0.0);
    let negative = tape.op("Less", &[at.input(0), &zero], vec![]);
    let left = at.needs(0).then(|| {
        let steep = tape.mul(&dy, at.input(1));
        tape.op("Where", &[&negative, &steep, &dy], vec![])
    });
    let right = at.needs(1).then(|| {
        let product = tape.mul(&dy, at.input(0));
        tape.op("Where", &[&negative, &product, &zero], vec![])
    });
    fitted(at, tape, vec![left, right])
}

fn choose(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let dy = given(dy);
    let zero = tape.scalar(0.0);
    let left = at.needs(1).then(|| tape.op("Where", &[at.input(0), &dy, &zero], vec![]));
    let right = at.needs(2).then(|| tape.op("Where", &[at.input(0), &zero, &dy], vec![]));
    fitted(at, tape, vec![None, left, right])
}

/// Max and Min: the gradient goes to the first operand that is the result.
fn extreme(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let mut rest = given(dy);
    let zero = tape.scalar(0.0);
    let mut gradients = Vec::new();
    for slot in 0..at.node.input.len() {
        let (x, y) = (at.input(slot), at.output(0));
        let higher = tape.op("Greater", &[y, x], vec![]);
        let lower = tape.op("Less", &[y, x], vec![]);
        let other = tape.op("Or", &[&higher, &lower], vec![]);
        gradients.push(at.needs(slot).then(|| tape.op("Where", &[&other, &zero, &rest], vec![])));
        rest = tape.op("Where", &[&other, &rest, &zero], vec![]);
    }
    fitted(at, tape, gradients)
}
