//! Nodes being written: values get names, constants are made once, shapes are known.

use std::collections::BTreeMap;

use ndarray::ArrayD;

use crate::graph::{
    proto::{AttributeProto, NodeProto, TensorProto},
    tensor::{self, int, ints},
};

/// The domain of ONNX Runtime's own operators.
const CONTRIB: &str = "com.microsoft";

/// Nodes and constants written behind a graph. Every value it makes is called `prefix/N/op`.
#[derive(Debug, Default)]
pub struct Tape {
    prefix: &'static str,
    /// The nodes, each behind what it reads.
    pub nodes: Vec<NodeProto>,
    /// Their constants.
    pub tensors: BTreeMap<String, TensorProto>,
    /// Version of the default operator set they are written for.
    pub opset: i64,
    /// Whether operators of ours may stand for chains of standard ones that compute the same.
    pub own: bool,
}

impl Tape {
    /// An empty tape for an operator set, whose values have a prefix that no other tape behind the same graph has.
    pub fn named(prefix: &'static str, opset: i64, own: bool) -> Self {
        Self { prefix, opset, own, ..Self::default() }
    }

    /// A node with several outputs; their names.
    pub fn several(&mut self, domain: &str, op: &str, inputs: &[&str], outputs: usize, attributes: Vec<AttributeProto>) -> Vec<String> {
        let name = format!("{}/{}/{op}", self.prefix, self.nodes.len());
        let made: Vec<String> = (0..outputs).map(|i| if i == 0 { name.clone() } else { format!("{name}/{i}") }).collect();
        let outputs: Vec<&str> = made.iter().map(String::as_str).collect();
        let mut node = tensor::node(op, &name, inputs, &outputs, attributes);
        node.domain = (!domain.is_empty()).then(|| domain.to_string());
        self.nodes.push(node);
        made
    }

    /// A node of the default domain with one output; its name.
    pub fn op(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.several("", op, inputs, 1, attributes).swap_remove(0)
    }

    /// A node of our own domain with one output; its name.
    pub fn own(&mut self, op: &str, inputs: &[&str], attributes: Vec<AttributeProto>) -> String {
        self.several(crate::runtime::DOMAIN, op, inputs, 1, attributes).swap_remove(0)
    }

    /// A float constant.
    pub fn array(&mut self, array: &ArrayD<f32>) -> String {
        let name = format!("{}/constant/{}", self.prefix, self.tensors.len());
        self.tensors.insert(name.clone(), tensor::from_f32(&name, array));
        name
    }

    /// A float scalar.
    pub fn scalar(&mut self, value: f32) -> String {
        let name = format!("{}/scalar/{value:e}", self.prefix);
        self.tensors.entry(name.clone()).or_insert_with(|| tensor::scalar_f32(&name, value));
        name
    }

    /// A list of integers.
    pub fn list(&mut self, values: &[i64]) -> String {
        let text: Vec<String> = values.iter().map(ToString::to_string).collect();
        let name = format!("{}/list/{}", self.prefix, text.join(","));
        self.tensors.entry(name.clone()).or_insert_with(|| tensor::from_i64(&name, values));
        name
    }

    /// a + b.
    pub fn add(&mut self, a: &str, b: &str) -> String {
        self.op("Add", &[a, b], vec![])
    }

    /// a − b.
    pub fn sub(&mut self, a: &str, b: &str) -> String {
        self.op("Sub", &[a, b], vec![])
    }

    /// a · b, element by element.
    pub fn mul(&mut self, a: &str, b: &str) -> String {
        self.op("Mul", &[a, b], vec![])
    }

    /// a / b.
    pub fn div(&mut self, a: &str, b: &str) -> String {
        self.op("Div", &[a, b], vec![])
    }

    /// −a.
    pub fn neg(&mut self, a: &str) -> String {
        self.op("Neg", &[a], vec![])
    }

    /// a · k; a itself for k = 1.
    pub fn scaled(&mut self, a: &str, k: f32) -> String {
        if k == 1.0 {
            return a.to_string();
        }
        let k = self.scalar(k);
        self.mul(a, &k)
    }

    /// a + k.
    pub fn plus(&mut self, a: &str, k: f32) -> String {
        let k = self.scalar(k);
        self.add(a, &k)
    }

    /// 1 where a condition holds, 0 elsewhere.
    pub fn indicator(&mut self, condition: &str) -> String {
        self.op("Cast", &[condition], vec![int("to", 1)])
    }

    /// 1 where a > b.
    pub fn above(&mut self, a: &str, b: &str) -> String {
        let condition = self.op("Greater", &[a, b], vec![]);
        self.indicator(&condition)
    }

    /// `dy` where `low` < x < `high`, 0 elsewhere: the gradient behind whatever cuts values off.
    pub fn between(&mut self, dy: &str, x: &str, low: f32, high: f32) -> String {
        if self.own {
            return self.own("Between", &[dy, x], vec![tensor::float("low", low), tensor::float("high", high)]);
        }
        let mut out = dy.to_string();
        if low > f32::MIN {
            let low = self.scalar(low);
            let inside = self.above(x, &low);
            out = self.mul(&out, &inside);
        }
        if high < f32::MAX {
            let high = self.scalar(high);
            let inside = self.above(&high, x);
            out = self.mul(&out, &inside);
        }
        out
    }

    /// Matrix product over the last two axes.
    pub fn matmul(&mut self, a: &str, b: &str) -> String {
        self.op("MatMul", &[a, b], vec![])
    }

    /// Matrix product with one side or both turned, in one operator of ONNX Runtime's.
    pub fn matmul_turned(&mut self, (a, turn_a): (&str, bool), (b, turn_b): (&str, bool)) -> String {
        let flags = vec![int("transA", i64::from(turn_a)), int("transB", i64::from(turn_b))];
        self.several(CONTRIB, "FusedMatMul", &[a, b], 1, flags).swap_remove(0)
    }

    /// Sum over axes.
    pub fn sum(&mut self, x: &str, axes: &[i64], keep: bool) -> String {
        let keep = int("keepdims", i64::from(keep));
        if self.opset < 13 {
            return self.op("ReduceSum", &[x], vec![ints("axes", axes), keep]);
        }
        let axes = self.list(axes);
        self.op("ReduceSum", &[x, &axes], vec![keep])
    }

    /// Mean over axes, which stay as 1.
    pub fn mean(&mut self, x: &str, axes: &[i64]) -> String {
        if self.opset < 18 {
            return self.op("ReduceMean", &[x], vec![ints("axes", axes), int("keepdims", 1)]);
        }
        let axes = self.list(axes);
        self.op("ReduceMean", &[x, &axes], vec![int("keepdims", 1)])
    }

    /// The same elements under other dimensions.
    pub fn reshape(&mut self, x: &str, dims: &[usize]) -> String {
        let dims: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
        let dims = self.list(&dims);
        self.op("Reshape", &[x, &dims], vec![])
    }

    /// Axes in another order; x itself if it is the same.
    pub fn transpose(&mut self, x: &str, order: &[usize]) -> String {
        if order.iter().enumerate().all(|(i, &p)| i == p) {
            return x.to_string();
        }
        self.op("Transpose", &[x], vec![ints("perm", &order.iter().map(|&p| p as i64).collect::<Vec<_>>())])
    }

    /// Elements from..to by step along axes.
    pub fn slice(&mut self, x: &str, from: &[i64], to: &[i64], axes: &[i64], steps: &[i64]) -> String {
        let lists: Vec<String> = [from, to, axes, steps].into_iter().map(|l| self.list(l)).collect();
        self.op("Slice", &[x, &lists[0], &lists[1], &lists[2], &lists[3]], vec![])
    }

    /// Zeros before and behind each axis; x itself where there are none.
    pub fn pad(&mut self, x: &str, before: &[i64], behind: &[i64]) -> String {
        if before.iter().chain(behind).all(|&p| p == 0) {
            return x.to_string();
        }
        let pads = self.list(&[before, behind].concat());
        self.op("Pad", &[x, &pads], vec![])
    }

    /// A tensor of zeros.
    pub fn zeros(&mut self, dims: &[usize]) -> String {
        let dims: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
        let dims = self.list(&dims);
        self.op("ConstantOfShape", &[&dims], vec![])
    }

    /// Repeats along axes of length 1.
    pub fn expand(&mut self, x: &str, dims: &[usize]) -> String {
        let dims: Vec<i64> = dims.iter().map(|&d| d as i64).collect();
        let dims = self.list(&dims);
        self.op("Expand", &[x, &dims], vec![])
    }

    /// A gradient of dimensions `from` summed to those of an operand that was broadcast to them.
    pub fn unbroadcast(&mut self, dy: &str, from: &[usize], to: &[usize]) -> String {
        if from == to {
            return dy.to_string();
        }
        let lead = from.len().saturating_sub(to.len());
        let repeated = |i: usize| i < lead || (to[i - lead] == 1 && from[i] != 1);
        let axes: Vec<i64> = (0..from.len()).filter(|&i| repeated(i)).map(|i| i as i64).collect();
        let summed = if axes.is_empty() { dy.to_string() } else { self.sum(dy, &axes, true) };
        if lead == 0 { summed } else { self.reshape(&summed, to) }
    }

    /// A matrix applied along one axis: out\[.., i, ..\] = Σ m\[i, j\] x\[.., j, ..\]. `rank` is x's.
    pub fn along(&mut self, x: &str, rank: usize, axis: usize, matrix: &ArrayD<f32>) -> String {
        let matrix = matrix.clone();
        if axis + 1 == rank {
            let turned = matrix.t().as_standard_layout().into_owned();
            let m = self.array(&turned);
            return self.matmul(x, &m);
        }
        let m = self.array(&matrix);
        if axis + 2 == rank {
            return self.matmul(&m, x);
        }
        let mut order: Vec<usize> = (0..rank).collect();
        order.swap(axis, rank - 2);
        let turned = self.transpose(x, &order);
        let out = self.matmul(&m, &turned);
        self.transpose(&out, &order)
    }
}
