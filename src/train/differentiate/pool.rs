//! Gradients of pooling.
//!
//! A maximum's gradient goes to the first of equal maxima, as ONNX Runtime's own indices have it. A mean over a window is a matrix along
//! each axis, so its gradient is the transposed matrix along each; where windows do not overlap it is a repetition.

use ndarray::{ArrayD, IxDyn};

use super::{Gradients, Rule, Site, Tape, window::Window};
use crate::{
    Result,
    graph::{
        model::attribute,
        proto::AttributeProto,
        tensor::{int, ints},
    },
};

pub(super) fn rule_of(op: &str) -> Option<Rule> {
    Some(match op {
        "MaxPool" => max,
        "GlobalMaxPool" => global_max,
        "AveragePool" => average,
        "GlobalAveragePool" => global_average,
        _ => return None,
    })
}

fn max(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten().filter(|_| at.needs(0)) else { return Ok(vec![]) };
    let kept = ["kernel_shape", "strides", "pads", "dilations", "ceil_mode", "auto_pad"];
    let attributes = kept.iter().filter_map(|name| attribute(at.node, name)).cloned().collect();
    Ok(vec![Some(of_maxima(at, tape, &dy, &window(at)?, attributes)?)])
}

fn global_max(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten().filter(|_| at.needs(0)) else { return Ok(vec![]) };
    let window = Window::of(at, &at.dims(0)?[2..], &at.dims(0)?[2..], &at.out_dims(0)?[2..])?;
    let kernel = ints("kernel_shape", &window.kernel.iter().map(|&k| k as i64).collect::<Vec<_>>());
    Ok(vec![Some(of_maxima(at, tape, &dy, &window, vec![kernel])?)])
}

/// The gradient of the maxima over windows. `attributes` are those of a MaxPool with the same windows.
fn of_maxima(at: &Site<'_>, tape: &mut Tape, dy: &str, window: &Window, attributes: Vec<AttributeProto>) -> Result<String> {
    let x = at.input(0);
    if tape.own {
        let named =
            [("kernel", &window.kernel), ("strides", &window.strides), ("dilations", &window.dilations), ("before", &window.before)];
        let attributes = named.iter().map(|(name, list)| ints(name, &list.iter().map(|&v| v as i64).collect::<Vec<_>>())).collect();
        return Ok(tape.own("MaxPoolGradient", &[dy, x], attributes));
    }
    // The indices count through the whole tensor.
    let places = tape.several("", "MaxPool", &[x], 2, attributes).swap_remove(1);
    let (dims, from) = (at.dims(0)?, at.out_dims(0)?.iter().product());
    let (places, values) = (tape.reshape(&places, &[from]), tape.reshape(dy, &[from]));
    let sums = scattered(at, tape, &places, &values, &[dims.iter().product()], 0)?;
    Ok(tape.reshape(&sums, dims))
}

/// Values added up at places along an axis of a tensor of these dimensions that is 0 elsewhere.
pub(super) fn scattered(at: &Site<'_>, tape: &mut Tape, places: &str, values: &str, dims: &[usize], axis: usize) -> Result<String> {
    if tape.opset < 16 {
        return Err(at.refuse("before opset 16 nothing adds up what meets at one place; export the model with opset 16".into()));
    }
    let zeros = tape.zeros(dims);
    let attributes = vec![int("axis", axis as i64), crate::graph::tensor::text("reduction", "add")];
    Ok(tape.op("ScatterElements", &[&zeros, places, values], attributes))
}

fn window(at: &Site<'_>) -> Result<Window> {
    let kernel: Vec<usize> = at.ints("kernel_shape").unwrap_or_default().iter().filter_map(|&k| usize::try_from(k).ok()).collect();
    Window::of(at, &kernel, &at.dims(0)?[2..], &at.out_dims(0)?[2..])
}

fn average(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten().filter(|_| at.needs(0)) else { return Ok(vec![]) };
    let (x, y, window) = (at.dims(0)?, at.out_dims(0)?, window(at)?);
    let n = window.kernel.len();
    let apart = |i: usize| {
        let k = window.kernel[i];
        window.strides[i] == k && window.dilations[i] == 1 && window.before[i] == 0 && y[i + 2] * k == x[i + 2]
    };
    if (0..n).all(apart) {
        let (mut narrow, mut wide) = (x[..2].to_vec(), x[..2].to_vec());
        for i in 0..n {
            narrow.extend([y[i + 2], 1]);
            wide.extend([y[i + 2], window.kernel[i]]);
        }
        let taps: usize = window.kernel.iter().product();
        let share = tape.scaled(&dy, 1.0 / taps as f32);
        let narrow = tape.reshape(&share, &narrow);
        let wide = tape.expand(&narrow, &wide);
        return Ok(vec![Some(tape.reshape(&wide, x))]);
    }
    let mut out = dy;
    for i in 0..n {
        out = tape.along(&out, n + 2, i + 2, &shares(at, &window, i, x[i + 2], y[i + 2]));
    }
    Ok(vec![Some(out)])
}

/// What each place of an axis has of each window: \[place, window\]. The counts of taps are products over the axes, so the shares are too.
fn shares(at: &Site<'_>, window: &Window, axis: usize, input: usize, output: usize) -> ArrayD<f32> {
    let padded = padded_behind(at, window, axis, input);
    let mut matrix = ArrayD::zeros(IxDyn(&[input, output]));
    for o in 0..output {
        let place = |tap: usize| o * window.strides[axis] + tap * window.dilations[axis];
        let inside = |tap: &usize| place(*tap).checked_sub(window.before[axis]).is_some_and(|p| p < input);
        let counted = if at.int("count_include_pad", 0) == 0 {
            (0..window.kernel[axis]).filter(inside).count()
        } else {
            (0..window.kernel[axis]).filter(|&tap| place(tap) < padded).count()
        };
        for tap in (0..window.kernel[axis]).filter(inside) {
            matrix[[place(tap) - window.before[axis], o]] = 1.0 / counted as f32;
        }
    }
    matrix
}

/// Where the padding behind an axis ends, counted from where that before it begins. The windows that ceil_mode adds reach further, and
/// ONNX Runtime does not count what they reach there, in no operator set.
fn padded_behind(at: &Site<'_>, window: &Window, axis: usize, input: usize) -> usize {
    let declared = at.text("auto_pad", "NOTSET") == "NOTSET";
    let behind = if declared {
        at.ints("pads").and_then(|pads| usize::try_from(*pads.get(axis + window.kernel.len())?).ok()).unwrap_or(0)
    } else {
        window.behind[axis]
    };
    window.before[axis] + input + behind
}

fn global_average(at: &Site<'_>, tape: &mut Tape, dy: &[Option<String>]) -> Gradients {
    let Some(dy) = dy.first().cloned().flatten().filter(|_| at.needs(0)) else { return Ok(vec![]) };
    let x = at.dims(0)?;
    let places: usize = x[2..].iter().product();
    let share = tape.scaled(&dy, 1.0 / places as f32);
    Ok(vec![Some(tape.expand(&share, x))])
}
