//! Gradients of operators of one operand, element by element, and of Softmax.

use std::f32::consts::{FRAC_1_SQRT_2, PI};

use super::{Gradients, Rule, Site, Tape};

pub(super) fn rule_of(op: &str) -> Option<Rule> {
    Some(match op {
        "Identity" | "Dropout" => |_, _, dy| Ok(vec![dy[0].clone()]),
        "Neg" => |at, tape, dy| one(at, dy, |dy| tape.neg(dy)),
        "Cast" => cast,
        "Relu" => |at, tape, dy| one(at, dy, |dy| tape.between(dy, at.output(0), 0.0, f32::INFINITY)),
        "Clip" => clip,
        "LeakyRelu" => |at, tape, dy| one(at, dy, |dy| leaky(tape, dy, at.input(0), at.float("alpha", 0.01))),
        "Elu" => |at, tape, dy| one(at, dy, |dy| elu(at, tape, dy)),
        "Abs" => |at, tape, dy| {
            one(at, dy, |dy| {
                let sign = tape.op("Sign", &[at.input(0)], vec![]);
                tape.mul(dy, &sign)
            })
        },
        "Sqrt" => |at, tape, dy| {
            one(at, dy, |dy| {
                let half = tape.scaled(dy, 0.5);
                tape.div(&half, at.output(0))
            })
        },
        "Exp" => |at, tape, dy| one(at, dy, |dy| tape.mul(dy, at.output(0))),
        "Log" => |at, tape, dy| one(at, dy, |dy| tape.div(dy, at.input(0))),
        "Reciprocal" => |at, tape, dy| {
            one(at, dy, |dy| {
                let square = tape.mul(at.output(0), at.output(0));
                let product = tape.mul(dy, &square);
                tape.neg(&product)
            })
        },
        "Sigmoid" => |at, tape, dy| {
            one(at, dy, |dy| {
                let slope = sigmoid_slope(tape, at.output(0));
                tape.mul(dy, &slope)
            })
        },
        "Tanh" => |at, tape, dy| {
            one(at, dy, |dy| {
                let square = tape.mul(at.output(0), at.output(0));
                let less = tape.mul(dy, &square);
                tape.sub(dy, &less)
            })
        },
        "Softplus" => |at, tape, dy| {
            one(at, dy, |dy| {
                let slope = tape.op("Sigmoid", &[at.input(0)], vec![]);
                tape.mul(dy, &slope)
            })
        },
        "HardSigmoid" => |at, tape, dy| {
            one(at, dy, |dy| {
                let inside = tape.between(dy, at.output(0), 0.0, 1.0);
                tape.scaled(&inside, at.float("alpha", 0.2))
            })
        },
        "HardSwish" => |at, tape, dy| one(at, dy, |dy| hard_swish(at, tape, dy)),
        "Erf" => |at, tape, dy| {
            one(at, dy, |dy| {
                let bell = bell(tape, at.input(0), -1.0);
                let slope = tape.scaled(&bell, 2.0 / PI.sqrt());
                tape.mul(dy, &slope)
            })
        },
        "Gelu" => |at, tape, dy| one(at, dy, |dy| gelu(at, tape, dy)),
        "Softmax" => softmax,
        "LogSoftmax" => log_softmax,
        _ => return None,
    })
}

/// The gradient of the first input, if it is needed.
fn one(at: &Site<'_>, dy: &[Option<String>], make: impl FnOnce(&str) -> String) -> Gradients {
    Ok(vec![dy.first().cloned().flatten().filter(|_| at.needs(0)).map(|dy| make(&dy))])
}

/// Between floats a cast changes little; from integers or to them nothing comes back.
fn cast(at: &Site<'_>, _: &mut Tape, dy: &[Option<String>]) -> Gradients {
    match at.int("to", 1) {
        1 => Ok(vec![dy[0].clone()]),
        10 | 11 | 16 => Err(at.refuse("to a float of another width".into())),
        _ => Ok(vec![None]),
    }
}

fn clip(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let dynamic = |slot: usize| !at.input(slot).is_empty() && at.index.floats(at.input(slot)).is_none();
    if dynamic(1) || dynamic(2) {
        return Err(at.refuse("its limits are computed".into()));
    }
    let (low, high) = (at.limit(1, "min").unwrap_or(f32::MIN), at.limit(2, "max").unwrap_or(f32::MAX));
    one(at, dy, |dy| tape.between(dy, at.input(0), low, high))
}

fn leaky(tape: &mut Tape, dy: &str, x: &str, slope: f32) -> String {
    let zero = tape.scalar(0.0);
    let flat = tape.scaled(dy, slope);
    let negative = tape.op("Less", &[x, &zero], vec![]);
    tape.op("Where", &[&negative, &flat, dy], vec![])
}

/// α·(eˣ − 1) below 0, whose slope is y + α.
fn elu(at: &Site<'_>, tape: &mut Tape, dy: &str) -> String {
    let zero = tape.scalar(0.0);
    let slope = tape.plus(at.output(0), at.float("alpha", 1.0));
    let curved = tape.mul(dy, &slope);
    let negative = tape.op("Less", &[at.input(0), &zero], vec![]);
    tape.op("Where", &[&negative, &curved, dy], vec![])
}

fn sigmoid_slope(tape: &mut Tape, y: &str) -> String {
    let square = tape.mul(y, y);
    tape.sub(y, &square)
}

/// x·clip(x/6 + ½, 0, 1): slope 0 below −3, 1 above 3, x/3 + ½ between.
fn hard_swish(at: &Site<'_>, tape: &mut Tape, dy: &str) -> String {
    let x = at.input(0);
    let third = tape.scaled(x, 1.0 / 3.0);
    let slope = tape.plus(&third, 0.5);
    let (low, high, zero, one) = (tape.scalar(-3.0), tape.scalar(3.0), tape.scalar(0.0), tape.scalar(1.0));
    let below = tape.op("Less", &[x, &low], vec![]);
    let above = tape.op("Greater", &[x, &high], vec![]);
    let slope = tape.op("Where", &[&below, &zero, &slope], vec![]);
    let slope = tape.op("Where", &[&above, &one, &slope], vec![]);
    tape.mul(dy, &slope)
}

/// exp(k·x²).
fn bell(tape: &mut Tape, x: &str, k: f32) -> String {
    let square = tape.mul(x, x);
    let square = tape.scaled(&square, k);
    tape.op("Exp", &[&square], vec![])
}

/// x·Φ(x), or its approximation by tanh (Hendrycks and Gimpel, 1606.08415).
fn gelu(at: &Site<'_>, tape: &mut Tape, dy: &str) -> String {
    let x = at.input(0);
    let slope = if at.text("approximate", "none") == "tanh" {
        let (k, c) = ((2.0 / PI).sqrt(), 0.044_715);
        let square = tape.mul(x, x);
        let bent = tape.scaled(&square, c);
        let bent = tape.plus(&bent, 1.0);
        let inner = tape.mul(x, &bent);
        let inner = tape.scaled(&inner, k);
        let tanh = tape.op("Tanh", &[&inner], vec![]);
        let inner_slope = tape.scaled(&square, 3.0 * c * k);
        let inner_slope = tape.plus(&inner_slope, k);
        let t2 = tape.mul(&tanh, &tanh);
        let one = tape.scalar(1.0);
        let curve = tape.sub(&one, &t2);
        let curve = tape.mul(&curve, &inner_slope);
        let curve = tape.mul(&curve, x);
        let sum = tape.add(&curve, &tanh);
        let sum = tape.plus(&sum, 1.0);
        tape.scaled(&sum, 0.5)
    } else {
        let inner = tape.scaled(x, FRAC_1_SQRT_2);
        let erf = tape.op("Erf", &[&inner], vec![]);
        let half = tape.scaled(&erf, 0.5);
        let share = tape.plus(&half, 0.5);
        let bell = bell(tape, x, -0.5);
        let bell = tape.scaled(&bell, 1.0 / (2.0 * PI).sqrt());
        let curve = tape.mul(x, &bell);
        tape.add(&share, &curve)
    };
    tape.mul(dy, &slope)
}

/// Axes that a Softmax normalises over: one, or before opset 13 all from one on.
fn softmax_axes(at: &Site<'_>) -> crate::Result<Vec<i64>> {
    let rank = at.out_dims(0)?.len();
    if at.opset < 13 {
        return Ok((at.axis(at.int("axis", 1), rank)..rank).map(|a| a as i64).collect());
    }
    Ok(vec![at.axis(at.int("axis", -1), rank) as i64])
}

fn softmax(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let axes = softmax_axes(at)?;
    one(at, dy, |dy| {
        let product = tape.mul(dy, at.output(0));
        let sum = tape.sum(&product, &axes, true);
        let centred = tape.sub(dy, &sum);
        tape.mul(&centred, at.output(0))
    })
}

fn log_softmax(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let axes = softmax_axes(at)?;
    one(at, dy, |dy| {
        let sum = tape.sum(dy, &axes, true);
        let share = tape.op("Exp", &[at.output(0)], vec![]);
        let spread = tape.mul(&share, &sum);
        tape.sub(dy, &spread)
    })
}
