//! Rules against central differences of the reference, in double precision: the harness; the tests are beside it, by kind of operator.

mod index;
mod layers;
mod movement;
mod norm;
mod pool;
mod reduce;

use ndarray::{ArrayD, IxDyn};
use proptest::prelude::ProptestConfig;

use super::{Differentiated, Wanted, differentiate, float_value, reference};
use crate::{
    Result,
    graph::{
        Model,
        proto::{AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, TensorProto},
        shape::{self, Pins, Shapes},
        tensor,
    },
    runtime::{Runtime, Session, SessionOptions},
};

/// An input of the operator that is checked.
#[derive(Debug, Clone)]
pub(super) enum Slot {
    /// A value whose gradient is checked.
    Value(ArrayD<f64>),
    /// A constant.
    Fixed(Box<TensorProto>),
    /// Left out.
    Nothing,
}

/// Values of these dimensions that differ from each other and are no corner of any operator, between `low` and `high`.
pub(super) fn within(dims: &[usize], seed: u64, low: f64, high: f64) -> ArrayD<f64> {
    let n: usize = dims.iter().product();
    let mut order: Vec<usize> = (0..n).collect();
    let mut state = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    for i in (1..n).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (state >> 33) as usize % (i + 1));
    }
    let place = |i: usize| f64::from((low + (high - low) * (order[i] as f64 + 0.371) / n as f64) as f32);
    ArrayD::from_shape_vec(IxDyn(dims), (0..n).map(place).collect()).unwrap()
}

pub(super) fn value(dims: &[usize], seed: u64) -> Slot {
    Slot::Value(within(dims, seed, -2.0, 2.0))
}

/// A constant.
pub(super) fn constant(tensor: TensorProto) -> Slot {
    Slot::Fixed(Box::new(tensor))
}

/// Constant integers.
pub(super) fn fixed(values: &[i64]) -> Slot {
    constant(tensor::from_i64("", values))
}

/// Integers as attributes have them.
pub(super) fn list(values: &[usize]) -> Vec<i64> {
    values.iter().map(|&v| v as i64).collect()
}

/// Checks an operator's rule: its gradients, weighted sums of its outputs, against central differences.
pub(super) fn check(op: &str, slots: &[Slot], attributes: Vec<AttributeProto>) {
    check_as(op, slots, attributes, 1, if op == "Gelu" { 20 } else { 17 });
}

/// As [`check`], for some outputs and an operator set.
pub(super) fn check_as(op: &str, slots: &[Slot], attributes: Vec<AttributeProto>, outputs: usize, opset: i64) {
    let seeded: Vec<usize> = (0..outputs).collect();
    Case::new(op, slots, attributes, outputs, &seeded, opset).check(&[false, true]);
}

/// A graph of one node.
pub(super) struct Case {
    op: String,
    model: Model,
    shapes: Shapes,
    given: reference::Values,
    /// What the outputs are weighted with in the sum that is differentiated; those without a weight are not in it.
    weights: reference::Values,
    seeds: Vec<(String, String)>,
    of: Vec<String>,
    plain: Vec<String>,
}

impl Case {
    /// A node with some outputs, of which those `seeded` have a gradient.
    pub(super) fn new(op: &str, slots: &[Slot], attributes: Vec<AttributeProto>, outputs: usize, seeded: &[usize], opset: i64) -> Self {
        let names: Vec<String> =
            slots.iter().enumerate().map(|(i, s)| if matches!(s, Slot::Nothing) { String::new() } else { format!("x{i}") }).collect();
        let inputs: Vec<&str> = names.iter().map(String::as_str).collect();
        let made: Vec<String> = (0..outputs).map(|i| format!("y{i}")).collect();
        let made: Vec<&str> = made.iter().map(String::as_str).collect();
        let mut graph = GraphProto {
            name: Some("case".into()),
            node: vec![tensor::node(op, "case", &inputs, &made, attributes)],
            output: made.iter().map(|y| float_value(y, None)).collect(),
            ..Default::default()
        };
        let mut given = reference::Values::new();
        for (name, slot) in names.iter().zip(slots) {
            match slot {
                Slot::Value(array) => {
                    graph.input.push(float_value(name, Some(array.shape())));
                    given.insert(name.clone(), array.clone());
                }
                Slot::Fixed(tensor) => graph.initializer.push(TensorProto { name: Some(name.clone()), ..(**tensor).clone() }),
                Slot::Nothing => {}
            }
        }
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(opset) }];
        let proto = ModelProto { ir_version: Some(8), opset_import, graph: Some(graph), ..Default::default() };
        let mut model = Model { name: "case".into(), proto };
        let shapes = shape::infer(&model, 1, &Pins::new()).unwrap();
        let seeds: Vec<(String, String)> = seeded.iter().map(|&i| (format!("y{i}"), format!("seed.y{i}"))).collect();
        let mut weights = reference::Values::new();
        for (i, (y, seed)) in seeds.iter().enumerate() {
            let dims = shapes.dims(y).unwrap_or_else(|| panic!("no shape of {y}"));
            model.graph_mut().input.push(float_value(seed, Some(dims)));
            weights.insert(y.clone(), within(dims, 77 + i as u64, -1.0, 1.0));
        }
        let of = names.iter().zip(slots).filter(|(_, s)| matches!(s, Slot::Value(_))).map(|(n, _)| n.clone()).collect();
        let plain = seeds.iter().map(|(y, _)| y.clone()).collect();
        Self { op: op.to_string(), model, shapes, given, weights, seeds, of, plain }
    }

    pub(super) fn differentiated(&self, own: bool) -> Result<Differentiated> {
        differentiate(&self.model, &self.shapes, Wanted { seeds: &self.seeds, of: &self.of, outputs: &self.plain, own })
    }

    /// The gradients by central differences.
    fn slopes(&self) -> Vec<ArrayD<f64>> {
        const STEP: f64 = 1e-5;
        let loss = |given: &reference::Values| -> f64 {
            let known = reference::values(&self.model, &self.shapes, given.clone());
            self.weights.iter().map(|(y, w)| (&known[y] * w).sum()).sum()
        };
        let slopes = |name: &String| {
            let mut slopes = ArrayD::zeros(self.given[name].raw_dim());
            let mut moved = self.given.clone();
            for (i, slope) in slopes.indexed_iter_mut() {
                let at = self.given[name][&i];
                let mut side = |x: f64| {
                    if let Some(array) = moved.get_mut(name) {
                        array[&i] = x;
                    }
                    loss(&moved)
                };
                *slope = (side(at + STEP) - side(at - STEP)) / (2.0 * STEP);
                side(at);
            }
            slopes
        };
        self.of.iter().map(slopes).collect()
    }

    /// Checks the rule without operators of our own, with them, or both.
    pub(super) fn check(&self, owns: &[bool]) {
        let (op, expected) = (&self.op, self.slopes());
        let known = reference::values(&self.model, &self.shapes, self.given.clone());
        let runtime = Runtime::start(&mut |_| {}).unwrap();
        for &own in owns {
            let found = self.differentiated(own).unwrap();
            let bytes = found.model.to_bytes().unwrap();
            let mut session = Session::from_bytes(&runtime, "case", &bytes, SessionOptions::default()).unwrap();
            let values = self.of.iter().map(|n| (n.clone(), self.given[n].mapv(|v| v as f32)));
            let seeds = self.seeds.iter().map(|(y, s)| (s.clone(), self.weights[y].mapv(|v| v as f32)));
            let feeds: Vec<(String, ArrayD<f32>)> = values.chain(seeds).collect();
            let feeds: Vec<_> = feeds.iter().map(|(n, a)| (n.as_str(), a.view())).collect();
            let results = session.run(&feeds).unwrap();
            for (y, result) in self.plain.iter().zip(&results) {
                assert_close(&format!("{op} itself"), result, &known[y], 1e-5);
            }
            for (name, slopes) in self.of.iter().zip(&expected) {
                let gradient = found.gradients.get(name).unwrap_or_else(|| panic!("no gradient of {name}"));
                let at = self.plain.len() + found.gradients.values().position(|g| g == gradient).unwrap();
                assert_close(&format!("{op}, gradient of {name}, own {own}"), &results[at], slopes, 1e-4);
            }
        }
    }
}

fn assert_close(what: &str, found: &ArrayD<f32>, expected: &ArrayD<f64>, bound: f64) {
    assert_eq!(found.shape(), expected.shape(), "{what}");
    let largest = expected.iter().fold(1e-2_f64, |m, v| m.max(v.abs()));
    let worst = found.iter().zip(expected).map(|(&f, e)| (f64::from(f) - e).abs()).fold(0.0, f64::max);
    assert!(worst <= bound * largest, "{what}: off by {worst:e} of {largest:e}");
}

pub(super) fn few(cases: u32) -> ProptestConfig {
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}
