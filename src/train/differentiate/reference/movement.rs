//! What moves elements.

use ndarray::{ArrayD, Axis, Dimension, IxDyn};

use super::Values;
use crate::{graph::fold::slice_axis, train::differentiate::site::Site};

pub(super) fn outputs(at: &Site<'_>, known: &Values) -> Option<Vec<ArrayD<f64>>> {
    let x = &known[at.input(0)];
    let y = || at.out_dims(0).unwrap();
    let block = at.int("blocksize", 1) as usize;
    // Each element of the output is the input's at a place.
    let moved = |place: &dyn Fn(&[usize]) -> Vec<usize>| {
        ArrayD::from_shape_fn(IxDyn(y()), |o| x[IxDyn(&place(o.as_array_view().as_slice().unwrap()))])
    };
    Some(vec![match at.node.op_type() {
        "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze" => x.clone().into_shape_with_order(IxDyn(y())).unwrap(),
        "Transpose" => {
            let order = at.ints("perm").unwrap_or_else(|| (0..x.ndim() as i64).rev().collect());
            let order: Vec<usize> = order.iter().map(|&p| p as usize).collect();
            x.clone().permuted_axes(IxDyn(&order)).as_standard_layout().into_owned()
        }
        "Slice" => {
            let starts = at.list(1, "starts").unwrap();
            let axes = at.list(3, "axes").unwrap_or_else(|| (0..starts.len() as i64).collect());
            let (ends, steps) = (at.list(2, "ends").unwrap(), at.list(4, "steps").unwrap_or_else(|| vec![1; starts.len()]));
            moved(&|o| {
                let mut place = o.to_vec();
                for (i, &axis) in axes.iter().enumerate() {
                    let axis = at.axis(axis, x.ndim());
                    let (start, _, step) = slice_axis(x.shape()[axis], starts[i], ends[i], steps[i]).unwrap();
                    place[axis] = (start + o[axis] as i64 * step) as usize;
                }
                place
            })
        }
        "Split" => {
            let axis = at.axis(at.int("axis", 0), x.ndim());
            let mut from = 0;
            let part = |slot: usize| {
                let size = at.out_dims(slot).unwrap()[axis];
                from += size;
                x.slice_axis(Axis(axis), ndarray::Slice::from(from - size..from)).to_owned()
            };
            return Some((0..at.node.output.len()).map(part).collect());
        }
        "Concat" => {
            let parts: Vec<_> = at.node.input.iter().map(|name| known[name].view()).collect();
            ndarray::concatenate(Axis(at.axis(at.int("axis", 1), x.ndim())), &parts).unwrap()
        }
        "Pad" => pad(at, known),
        "Expand" => x.broadcast(IxDyn(y())).unwrap().to_owned(),
        "Tile" => moved(&|o| o.iter().zip(x.shape()).map(|(o, d)| o % d).collect()),
        "DepthToSpace" => {
            let crd = at.text("mode", "DCR") == "CRD";
            moved(&|o| {
                let inside = o[2] % block * block + o[3] % block;
                let channel = if crd { o[1] * block * block + inside } else { inside * y()[1] + o[1] };
                vec![o[0], channel, o[2] / block, o[3] / block]
            })
        }
        "SpaceToDepth" => moved(&|o| {
            let (inside, channel) = (o[1] / x.shape()[1], o[1] % x.shape()[1]);
            vec![o[0], channel, o[2] * block + inside / block, o[3] * block + inside % block]
        }),
        _ => return None,
    }])
}

fn pad(at: &Site<'_>, known: &Values) -> ArrayD<f64> {
    let x = &known[at.input(0)];
    let pads = at.list(1, "pads").unwrap();
    let axes = at.list(3, "axes").unwrap_or_else(|| (0..x.ndim() as i64).collect());
    let value = known.get(at.input(2)).map_or(0.0, |v| v.sum());
    let mode = at.text("mode", "constant");
    ArrayD::from_shape_fn(IxDyn(at.out_dims(0).unwrap()), |o| {
        let mut place: Vec<i64> = o.as_array_view().iter().map(|&o| o as i64).collect();
        for (i, &axis) in axes.iter().enumerate() {
            let axis = at.axis(axis, x.ndim());
            let n = x.shape()[axis] as i64;
            let place = &mut place[axis];
            *place -= pads[i];
            while mode != "constant" && !(0..n).contains(place) {
                *place = match (mode.as_str(), *place < 0) {
                    ("edge", below) => {
                        if below {
                            0
                        } else {
                            n - 1
                        }
                    }
                    ("wrap", below) => *place + if below { n } else { -n },
                    (_, true) => -*place,
                    (_, false) => 2 * (n - 1) - *place,
                };
            }
        }
        let inside = place.iter().zip(x.shape()).all(|(&p, &d)| (0..d as i64).contains(&p));
        if inside { x[IxDyn(&place.iter().map(|&p| p as usize).collect::<Vec<_>>())] } else { value }
    })
}
