//! What is read by index, and what is resized: an axis at a time, by what an element is made of. That it is made of these is checked
//! against ONNX Runtime.

use ndarray::{ArrayD, Axis, Dimension, IxDyn};

use super::Values;
use crate::train::differentiate::{resize, site::Site};

pub(super) fn outputs(at: &Site<'_>, known: &Values) -> Option<Vec<ArrayD<f64>>> {
    let x = &known[at.input(0)];
    let axis = at.axis(at.int("axis", 0), x.ndim());
    let from_front = |index: f64| if index < 0.0 { (index + x.shape()[axis] as f64) as usize } else { index as usize };
    Some(vec![match at.node.op_type() {
        "Gather" => {
            let indices = &known[at.input(1)];
            ArrayD::from_shape_fn(IxDyn(at.out_dims(0).unwrap()), |o| {
                let o = o.as_array_view().to_vec();
                let index = from_front(indices[IxDyn(&o[axis..axis + indices.ndim()])]);
                x[IxDyn(&[&o[..axis], &[index], &o[axis + indices.ndim()..]].concat())]
            })
        }
        "GatherElements" => {
            let indices = &known[at.input(1)];
            ArrayD::from_shape_fn(indices.raw_dim(), |o| {
                let mut place = o.clone();
                place[axis] = from_front(indices[&o]);
                x[&place]
            })
        }
        "Resize" | "Upsample" => {
            let taps = resize::taps(at).unwrap();
            let mut out = x.clone();
            for (axis, taps) in taps.iter().enumerate().filter_map(|(axis, taps)| Some((axis, taps.as_ref()?))) {
                let lanes = |taps: &Vec<(usize, f32)>| {
                    let part = |&(from, weight): &(usize, f32)| out.index_axis(Axis(axis), from).mapv(|v| v * f64::from(weight));
                    taps.iter().map(part).reduce(|a, b| a + b).unwrap()
                };
                let lanes: Vec<_> = taps.iter().map(lanes).collect();
                out = ndarray::stack(Axis(axis), &lanes.iter().map(|l| l.view()).collect::<Vec<_>>()).unwrap();
            }
            out
        }
        _ => return None,
    }])
}
