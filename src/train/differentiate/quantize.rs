//! Gradient of fake quantization: straight through inside the limits, LSQ's for the step.

use super::{Gradients, Site, Tape};
use crate::{
    graph::{
        proto::{AttributeProto, NodeProto},
        tensor::{self, float, int},
    },
    runtime::DOMAIN,
};

/// The operator: y = s·clip(round_half_even(x/s), low, high).
pub const FAKE_QUANTIZE: &str = "FakeQuantize";

/// A node that rounds a value to a grid with learned steps: one, or one for each index of an axis. `limits` are those of the integers less their offset.
pub fn fake_quantize(name: &str, value: &str, steps: &str, output: &str, (low, high): (f32, f32), axis: usize) -> NodeProto {
    let mut node = tensor::node(FAKE_QUANTIZE, name, &[value, steps], &[output], levels(low, high, axis));
    node.domain = Some(DOMAIN.into());
    node
}

fn levels(low: f32, high: f32, axis: usize) -> Vec<AttributeProto> {
    vec![float("low", low), float("high", high), int("axis", axis as i64)]
}

pub(super) fn rule(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten() else { return Ok(vec![]) };
    let axis = usize::try_from(at.int("axis", 0)).unwrap_or(0);
    let attributes = levels(at.float("low", 0.0), at.float("high", 0.0), axis);
    let made = tape.several(DOMAIN, "FakeQuantizeGradient", &[&dy, at.input(0), at.input(1)], 2, attributes);
    Ok(made.into_iter().map(Some).collect())
}
