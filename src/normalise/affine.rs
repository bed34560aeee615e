//! Per-channel affine operators, y = k·x + t: BatchNorm, and the Mul, Div, Add and Sub by constants that exporters write in its place.

use crate::graph::{
    Index,
    model::{float_attribute, int_attribute},
    proto::NodeProto,
};

/// Scale and shift of every channel.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Affine {
    pub(super) scale: Vec<f64>,
    pub(super) shift: Vec<f64>,
}

/// Where the channels of a value lie.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) rank: usize,
    pub(super) axis: usize,
    pub(super) channels: usize,
}

impl Affine {
    pub(super) fn identity(channels: usize) -> Self {
        Self { scale: vec![1.0; channels], shift: vec![0.0; channels] }
    }

    /// First this, then `next`.
    pub(super) fn then(&self, next: &Self) -> Self {
        let scale = self.scale.iter().zip(&next.scale).map(|(a, b)| a * b).collect();
        let shift = self.shift.iter().zip(&next.scale).zip(&next.shift).map(|((t, k), u)| t * k + u).collect();
        Self { scale, shift }
    }

    pub(super) fn is_finite(&self) -> bool {
        self.scale.iter().chain(&self.shift).all(|v| v.is_finite() && v.abs() <= f64::from(f32::MAX))
    }

    /// What a node does to `value`, if it is affine with constants that only depend on the channel.
    pub(super) fn of(node: &NodeProto, value: &str, place: Place, index: &Index<'_>) -> Option<Self> {
        if !matches!(node.domain(), "" | "ai.onnx") {
            return None;
        }
        let found = match node.op_type() {
            "BatchNormalization" => norm(node, value, place, index)?,
            "Add" | "Sub" | "Mul" | "Div" => arithmetic(node, value, place, index)?,
            _ => return None,
        };
        found.is_finite().then_some(found)
    }
}

fn norm(node: &NodeProto, value: &str, place: Place, index: &Index<'_>) -> Option<Affine> {
    let trains = int_attribute(node, "training_mode", 0) != 0 || int_attribute(node, "spatial", 1) != 1;
    if trains || place.axis != 1 || node.output.iter().skip(1).any(|o| !o.is_empty()) || node.input.first()? != value {
        return None;
    }
    let constant = |slot: usize| {
        let found = index.floats(node.input.get(slot)?)?;
        (found.len() == place.channels).then(|| found.iter().map(|&v| f64::from(v)).collect::<Vec<_>>())
    };
    let (gamma, beta, mean, variance) = (constant(1)?, constant(2)?, constant(3)?, constant(4)?);
    let epsilon = f64::from(float_attribute(node, "epsilon", 1e-5));
    let scale: Vec<f64> = gamma.iter().zip(&variance).map(|(g, v)| g / (v + epsilon).sqrt()).collect();
    let shift = beta.iter().zip(&mean).zip(&scale).map(|((b, m), k)| b - m * k).collect();
    Some(Affine { scale, shift })
}

fn arithmetic(node: &NodeProto, value: &str, place: Place, index: &Index<'_>) -> Option<Affine> {
    let [a, b] = node.input.as_slice() else { return None };
    let (constant, first) = match (a == value, b == value) {
        (true, false) => (b, true),
        (false, true) => (a, false),
        _ => return None,
    };
    let dims = crate::graph::tensor::dims(index.constants.get(constant.as_str())?);
    let own_axis = (place.axis + dims.len()).checked_sub(place.rank);
    let plain = dims.iter().enumerate().all(|(i, &d)| d == 1 || (Some(i) == own_axis && d == place.channels));
    if dims.len() > place.rank || !plain {
        return None;
    }
    let c: Vec<f64> = index.floats(constant)?.iter().map(|&v| f64::from(v)).collect();
    let c = if c.len() == 1 { vec![c[0]; place.channels] } else { c };
    let (one, zero) = (vec![1.0; place.channels], vec![0.0; place.channels]);
    let negative = |v: Vec<f64>| v.into_iter().map(|x| -x).collect();
    Some(match (node.op_type(), first) {
        ("Add", _) => Affine { scale: one, shift: c },
        ("Mul", _) => Affine { scale: c, shift: zero },
        ("Sub", true) => Affine { scale: one, shift: negative(c) },
        ("Sub", false) => Affine { scale: negative(one), shift: c },
        ("Div", true) => Affine { scale: c.into_iter().map(f64::recip).collect(), shift: zero },
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{
        fixture::Net,
        tensor::{float, from_f32},
    };
    use ndarray::{ArrayD, IxDyn};

    fn vector(name: &str, dims: &[usize], v: &[f32]) -> crate::graph::proto::TensorProto {
        from_f32(name, &ArrayD::from_shape_vec(IxDyn(dims), v.to_vec()).unwrap())
    }

    const PLACE: Place = Place { rank: 4, axis: 1, channels: 2 };

    #[test]
    fn batch_norm_is_its_formula_by_hand() {
        // (x − 1) / sqrt(3 + 1) · 4 + 5 = 2x + 3; (x − 0) / sqrt(0 + 1) · 1 − 1 = x − 1
        let net = Net::new(&[1, 2, 4, 4])
            .constant(vector("g", &[2], &[4.0, 1.0]))
            .constant(vector("b", &[2], &[5.0, -1.0]))
            .constant(vector("m", &[2], &[1.0, 0.0]))
            .constant(vector("v", &[2], &[3.0, 0.0]))
            .node("BatchNormalization", "y", &["x", "g", "b", "m", "v"], vec![float("epsilon", 1.0)])
            .build("y");
        let found = Affine::of(&net.graph().node[0], "x", PLACE, &Index::new(&net)).unwrap();
        assert_eq!(found, Affine { scale: vec![2.0, 1.0], shift: vec![3.0, -1.0] });
    }

    #[test]
    fn a_constant_on_either_side_is_read_and_only_along_the_channels() {
        let of = |op: &str, inputs: &[&str], dims: &[usize], v: &[f32]| {
            let net = Net::new(&[1, 2, 4, 4]).constant(vector("c", dims, v)).node(op, "y", inputs, vec![]).build("y");
            Affine::of(&net.graph().node[0], "x", PLACE, &Index::new(&net))
        };
        let is = |k: [f64; 2], t: [f64; 2]| Some(Affine { scale: k.to_vec(), shift: t.to_vec() });
        assert_eq!(of("Sub", &["x", "c"], &[2, 1, 1], &[1.0, 2.0]), is([1.0, 1.0], [-1.0, -2.0]));
        assert_eq!(of("Sub", &["c", "x"], &[1], &[7.0]), is([-1.0, -1.0], [7.0, 7.0]));
        assert_eq!(of("Div", &["x", "c"], &[1, 2, 1, 1], &[2.0, 4.0]), is([0.5, 0.25], [0.0, 0.0]));
        assert_eq!(of("Div", &["c", "x"], &[1], &[2.0]), None);
        assert_eq!(of("Mul", &["x", "c"], &[2], &[1.0, 2.0]), None, "along the width, not the channels");
        assert_eq!(of("Div", &["x", "c"], &[1], &[0.0]), None, "not finite");
        assert_eq!(of("Mul", &["x", "x"], &[1], &[0.0]), None);
    }

    #[test]
    fn one_after_the_other_is_composed_in_order() {
        let double = Affine { scale: vec![2.0], shift: vec![0.0] };
        let plus = Affine { scale: vec![1.0], shift: vec![3.0] };
        assert_eq!(double.then(&plus), Affine { scale: vec![2.0], shift: vec![3.0] });
        assert_eq!(plus.then(&double), Affine { scale: vec![2.0], shift: vec![6.0] });
    }
}
