//! What operators compute, in double precision and as plainly as can be: what their gradients are checked against.

mod index;
mod movement;
mod norm;
mod pool;
mod reduce;

use std::collections::HashMap;

use ndarray::{ArrayD, Axis, Dimension, IxDyn, Zip};

use super::{site::Site, window::Window};
use crate::graph::{Index, Model, shape::Shapes, tensor};

pub(super) type Values = HashMap<String, ArrayD<f64>>;

/// All values of a network, given those of its inputs.
pub(super) fn values(model: &Model, shapes: &Shapes, mut known: Values) -> Values {
    let index = Index::new(model);
    for name in index.constants.keys() {
        if let Some(floats) = index.floats(name) {
            known.insert((*name).to_string(), floats.mapv(f64::from));
        } else if let Some(ints) = index.ints(name) {
            let ints = ints.iter().map(|&v| v as f64).collect();
            known.insert((*name).to_string(), ArrayD::from_shape_vec(IxDyn(&tensor::dims(index.constants[name])), ints).unwrap());
        } else if let Some(bytes) = index.constants[name].raw_data.as_ref().filter(|_| index.constants[name].data_type() == 9) {
            let flags = bytes.iter().map(|&b| f64::from(b)).collect();
            known.insert((*name).to_string(), ArrayD::from_shape_vec(IxDyn(&tensor::dims(index.constants[name])), flags).unwrap());
        }
    }
    for (at, node) in model.graph().node.iter().enumerate() {
        let site = Site { node, shapes, index: &index, opset: model.opset(), needs: vec![], at };
        for (name, value) in node.output.iter().zip(outputs(&site, &known)) {
            known.insert(name.clone(), value);
        }
    }
    known
}

fn outputs(at: &Site<'_>, known: &Values) -> Vec<ArrayD<f64>> {
    let x = |slot: usize| &known[at.input(slot)];
    let each = |f: &dyn Fn(f64) -> f64| vec![x(0).mapv(f)];
    let both = |f: &dyn Fn(f64, f64) -> f64| vec![paired(x(0), x(1), at.out_dims(0).unwrap(), f)];
    match at.node.op_type() {
        "Identity" | "Dropout" | "Cast" => each(&|x| x),
        "Neg" => each(&|x| -x),
        "Relu" => each(&|x| x.max(0.0)),
        "Clip" => {
            let limit = |slot, name| at.limit(slot, name).map(f64::from);
            let (low, high) = (limit(1, "min").unwrap_or(f64::MIN), limit(2, "max").unwrap_or(f64::MAX));
            each(&|x| x.max(low).min(high))
        }
        "LeakyRelu" => each(&|x| if x < 0.0 { x * f64::from(at.float("alpha", 0.01)) } else { x }),
        "Elu" => each(&|x| if x < 0.0 { f64::from(at.float("alpha", 1.0)) * x.exp_m1() } else { x }),
        "Abs" => each(&f64::abs),
        "Sqrt" => each(&f64::sqrt),
        "Exp" => each(&f64::exp),
        "Log" => each(&f64::ln),
        "Reciprocal" => each(&|x| 1.0 / x),
        "Sigmoid" => each(&|x| 1.0 / (1.0 + (-x).exp())),
        "Tanh" => each(&f64::tanh),
        "Softplus" => each(&|x| x.exp().ln_1p()),
        "HardSigmoid" => {
            let (a, b) = (f64::from(at.float("alpha", 0.2)), f64::from(at.float("beta", 0.5)));
            each(&|x| (a * x + b).clamp(0.0, 1.0))
        }
        "HardSwish" => each(&|x| x * (x / 6.0 + 0.5).clamp(0.0, 1.0)),
        "Erf" => each(&libm_erf),
        "Gelu" if at.text("approximate", "none") == "tanh" => {
            let k = (2.0 / std::f64::consts::PI).sqrt();
            each(&|x| 0.5 * x * (1.0 + (k * (x + 0.044_715 * x.powi(3))).tanh()))
        }
        "Gelu" => each(&|x| 0.5 * x * (1.0 + libm_erf(x / std::f64::consts::SQRT_2))),
        "Add" => both(&|a, b| a + b),
        "Sub" => both(&|a, b| a - b),
        "Mul" => both(&|a, b| a * b),
        "Div" => both(&|a, b| a / b),
        "Pow" => both(&f64::powf),
        "PRelu" => both(&|x, a| if x < 0.0 { x * a } else { x }),
        "Max" => both(&f64::max),
        "Min" => both(&f64::min),
        "Sum" => both(&|a, b| a + b),
        "Where" => {
            let dims = at.out_dims(0).unwrap();
            let chosen = paired(x(0), x(1), dims, &|c, a| if c != 0.0 { a } else { f64::NAN });
            vec![paired(&chosen, x(2), dims, &|a, b| if a.is_nan() { b } else { a })]
        }
        "Softmax" | "LogSoftmax" => vec![softmax(at, x(0))],
        "Gemm" => vec![gemm(at, known)],
        "MatMul" => vec![matmul(x(0), x(1), at.out_dims(0).unwrap())],
        "Conv" => vec![with_bias(conv(at, x(0), x(1)), known.get(at.input(2)))],
        "ConvTranspose" => vec![with_bias(conv_transpose(at, x(0), x(1)), known.get(at.input(2)))],
        op => {
            let kinds = [pool::outputs, norm::outputs, movement::outputs, index::outputs, reduce::outputs];
            kinds.iter().find_map(|kind| kind(at, known)).unwrap_or_else(|| panic!("the reference has no {op}"))
        }
    }
}

pub(super) fn paired(a: &ArrayD<f64>, b: &ArrayD<f64>, dims: &[usize], f: &dyn Fn(f64, f64) -> f64) -> ArrayD<f64> {
    let mut out = ArrayD::zeros(IxDyn(dims));
    Zip::from(&mut out).and(a.broadcast(IxDyn(dims)).unwrap()).and(b.broadcast(IxDyn(dims)).unwrap()).for_each(|o, &a, &b| *o = f(a, b));
    out
}

/// The error function by its series and its continued fraction.
fn libm_erf(x: f64) -> f64 {
    if x.abs() > 3.0 {
        let mut fraction = 0.0;
        for k in (1..60).rev() {
            fraction = f64::from(k) / 2.0 / (x.abs() + fraction);
        }
        let tail = (-x * x).exp() / (std::f64::consts::PI.sqrt() * (x.abs() + fraction));
        return x.signum() * (1.0 - tail);
    }
    let (mut term, mut sum) = (x, x);
    for k in 1..100 {
        term *= -x * x / f64::from(k);
        sum += term / f64::from(2 * k + 1);
    }
    2.0 / std::f64::consts::PI.sqrt() * sum
}

fn softmax(at: &Site<'_>, x: &ArrayD<f64>) -> ArrayD<f64> {
    let rank = x.ndim();
    let flat = at.opset < 13;
    let axis = at.axis(at.int("axis", if flat { 1 } else { -1 }), rank);
    let behind = if flat { rank } else { axis + 1 };
    let place = |i: &[usize]| -> Vec<usize> { (0..rank).map(|a| if (axis..behind).contains(&a) { 0 } else { i[a] }).collect() };
    let mut sums: ArrayD<f64> = ArrayD::zeros(x.raw_dim());
    for (i, v) in x.indexed_iter() {
        sums[IxDyn(&place(i.as_array_view().as_slice().unwrap()))] += v.exp();
    }
    let log = at.node.op_type() == "LogSoftmax";
    ArrayD::from_shape_fn(x.raw_dim(), |i| {
        let sum = sums[IxDyn(&place(i.as_array_view().as_slice().unwrap()))];
        if log { x[&i] - sum.ln() } else { x[&i].exp() / sum }
    })
}

fn gemm(at: &Site<'_>, known: &Values) -> ArrayD<f64> {
    let side = |slot: usize, name: &str| {
        let m = known[at.input(slot)].view().into_dimensionality::<ndarray::Ix2>().unwrap().to_owned();
        if at.int(name, 0) != 0 { m.reversed_axes() } else { m }
    };
    let product = side(0, "transA").dot(&side(1, "transB")).into_dyn() * f64::from(at.float("alpha", 1.0));
    match known.get(at.input(2)) {
        Some(c) => paired(&product, c, product.shape(), &|a, c| a + f64::from(at.float("beta", 1.0)) * c),
        None => product,
    }
}

fn matmul(a: &ArrayD<f64>, b: &ArrayD<f64>, dims: &[usize]) -> ArrayD<f64> {
    let a = if a.ndim() == 1 { a.clone().insert_axis(Axis(0)) } else { a.clone() };
    let b = if b.ndim() == 1 { b.clone().insert_axis(Axis(1)) } else { b.clone() };
    let (m, k, n) = (a.shape()[a.ndim() - 2], a.shape()[a.ndim() - 1], b.shape()[b.ndim() - 1]);
    let rank = a.ndim().max(b.ndim());
    let batch: Vec<usize> = (0..rank - 2)
        .map(|i| {
            let of = |s: &[usize]| (i + s.len()).checked_sub(rank).map_or(1, |j| s[j]);
            of(a.shape()).max(of(b.shape()))
        })
        .collect();
    let a = a.broadcast(IxDyn(&[batch.as_slice(), &[m, k]].concat())).unwrap().to_owned();
    let b = b.broadcast(IxDyn(&[batch.as_slice(), &[k, n]].concat())).unwrap().to_owned();
    let out = ArrayD::from_shape_fn(IxDyn(&[batch.as_slice(), &[m, n]].concat()), |i| {
        let i = i.as_array_view().to_vec();
        let at = |last: [usize; 2]| IxDyn(&[&i[..rank - 2], &last].concat());
        (0..k).map(|j| a[at([i[rank - 2], j])] * b[at([j, i[rank - 1]])]).sum()
    });
    out.into_shape_with_order(IxDyn(dims)).unwrap()
}

/// Calls with (output place, input place) for every tap of every window whose input place is inside.
pub(super) fn windows(window: &Window, input: &[usize], output: &[usize], mut each: impl FnMut(&[usize], &[usize], usize)) {
    for o in ndarray::indices(IxDyn(output)) {
        let o = o.as_array_view().to_vec();
        for (t, tap) in window.taps().iter().enumerate() {
            let place = |i: usize| (o[i] * window.strides[i] + tap[i] * window.dilations[i]).checked_sub(window.before[i]);
            let place: Option<Vec<usize>> = (0..o.len()).map(|i| place(i).filter(|&p| p < input[i])).collect();
            if let Some(place) = place {
                each(&o, &place, t);
            }
        }
    }
}

fn conv(at: &Site<'_>, x: &ArrayD<f64>, w: &ArrayD<f64>) -> ArrayD<f64> {
    let dims = at.out_dims(0).unwrap();
    let window = Window::of(at, &w.shape()[2..], &x.shape()[2..], &dims[2..]).unwrap();
    let groups = at.int("group", 1) as usize;
    let (outputs, inputs) = (w.shape()[0] / groups, w.shape()[1]);
    let mut y = ArrayD::zeros(IxDyn(dims));
    windows(&window, &x.shape()[2..], &dims[2..], |o, i, t| {
        for n in 0..dims[0] {
            for co in 0..dims[1] {
                for ci in 0..inputs {
                    let from = x[IxDyn(&[&[n, co / outputs * inputs + ci], i].concat())];
                    let weight = w[IxDyn(&[&[co, ci], window.taps()[t].as_slice()].concat())];
                    y[IxDyn(&[&[n, co], o].concat())] += from * weight;
                }
            }
        }
    });
    y
}

fn conv_transpose(at: &Site<'_>, x: &ArrayD<f64>, w: &ArrayD<f64>) -> ArrayD<f64> {
    let dims = at.out_dims(0).unwrap();
    let window = Window::of(at, &w.shape()[2..], &dims[2..], &x.shape()[2..]).unwrap();
    let groups = at.int("group", 1) as usize;
    let (inputs, outputs) = (w.shape()[0] / groups, w.shape()[1]);
    let mut y = ArrayD::zeros(IxDyn(dims));
    windows(&window, &dims[2..], &x.shape()[2..], |i, o, t| {
        for n in 0..dims[0] {
            for ci in 0..w.shape()[0] {
                for co in 0..outputs {
                    let weight = w[IxDyn(&[&[ci, co], window.taps()[t].as_slice()].concat())];
                    y[IxDyn(&[&[n, ci / inputs * outputs + co], o].concat())] += x[IxDyn(&[&[n, ci], i].concat())] * weight;
                }
            }
        }
    });
    y
}

fn with_bias(y: ArrayD<f64>, bias: Option<&ArrayD<f64>>) -> ArrayD<f64> {
    let Some(bias) = bias else { return y };
    let mut dims = vec![1; y.ndim()];
    dims[1] = bias.len();
    y + bias.clone().into_shape_with_order(IxDyn(&dims)).unwrap()
}
