//! Pooling.

use ndarray::{ArrayD, IxDyn};

use super::{Values, windows};
use crate::train::differentiate::{site::Site, window::Window};

pub(super) fn outputs(at: &Site<'_>, known: &Values) -> Option<Vec<ArrayD<f64>>> {
    let x = &known[at.input(0)];
    let spatial = &x.shape()[2.min(x.ndim())..];
    let y = match at.node.op_type() {
        "MaxPool" | "AveragePool" => {
            let kernel: Vec<usize> = at.ints("kernel_shape").unwrap().iter().map(|&k| k as usize).collect();
            pool(at, x, &Window::of(at, &kernel, spatial, &at.out_dims(0).unwrap()[2..]).unwrap())
        }
        "GlobalMaxPool" | "GlobalAveragePool" => pool(at, x, &Window::of(at, spatial, spatial, &vec![1; spatial.len()]).unwrap()),
        _ => return None,
    };
    Some(vec![y])
}

fn pool(at: &Site<'_>, x: &ArrayD<f64>, window: &Window) -> ArrayD<f64> {
    let dims = at.out_dims(0).unwrap();
    let max = at.node.op_type().ends_with("MaxPool");
    let mut y = ArrayD::from_elem(IxDyn(dims), if max { f64::NEG_INFINITY } else { 0.0 });
    let mut counts: ArrayD<f64> = ArrayD::zeros(IxDyn(&dims[2..]));
    windows(window, &x.shape()[2..], &dims[2..], |o, i, _| {
        counts[IxDyn(o)] += 1.0;
        for n in 0..dims[0] {
            for c in 0..dims[1] {
                let value = x[IxDyn(&[&[n, c], i].concat())];
                let y = &mut y[IxDyn(&[&[n, c], o].concat())];
                *y = if max { y.max(value) } else { *y + value };
            }
        }
    });
    if max {
        return y;
    }
    if at.int("count_include_pad", 0) == 1 {
        let n = window.kernel.len();
        let pads = at.ints("pads").unwrap_or_else(|| vec![0; 2 * n]);
        let behind = |i: usize| if at.has("auto_pad") { window.behind[i] } else { pads[i + n] as usize };
        let padded: Vec<usize> = (0..n).map(|i| x.shape()[i + 2] + window.before[i] + behind(i)).collect();
        counts.fill(0.0);
        windows(&Window { before: vec![0; n], ..window.clone() }, &padded, &dims[2..], |o, _, _| counts[IxDyn(o)] += 1.0);
    }
    y / counts
}
