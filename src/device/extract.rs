//! The kernels of a network on the chip: what runs as one launch after ATC's fusion.
//!
//! Rules of fusion and of quantization's edges: Ascend's documentation of UB fusion passes, and the vendor's advice on where
//! Quant and Dequant are free.

use std::collections::{BTreeMap, HashSet};

use super::{
    fuse::{Role, View, pass_of},
    kernel::{Access, Conditions, Kernel, Op, Traffic, Vector},
    traffic::settle,
    work::{is_unaligned, product, weight_traffic},
};
use crate::{
    graph::{Model, model::ints_attribute, shape::Shapes},
    precision::Precision,
};

/// Passes over its data that a softmax or a normalisation takes.
const SOFTMAX_PASSES: f64 = 10.0;

/// A kernel before it is known who reads its results in which precision.
pub(super) struct Draft<'m> {
    /// The launch, without its traffic in activations.
    pub(super) kernel: Kernel,
    /// Values read, and the precision they are wanted in.
    pub(super) inputs: Vec<(&'m str, Precision)>,
    /// Values written.
    pub(super) outputs: Vec<&'m str>,
    /// Whether a quantization of its results fuses into it.
    pub(super) quantizes: bool,
}

/// The launches of `model` in order, as ATC compiles it unasked. `precision` is by node name, FP16 where absent; `shapes` fixes the batch.
///
/// Values of unknown shape count as empty. Nodes whose name contains `.fakequant.`, and QDQ pairs, only simulate
/// quantization and cost nothing.
pub fn extract(model: &Model, shapes: &Shapes, precision: &BTreeMap<String, Precision>) -> Vec<Kernel> {
    extract_under(model, shapes, precision, Conditions::default())
}

/// The same under other conditions.
pub fn extract_under(model: &Model, shapes: &Shapes, precision: &BTreeMap<String, Precision>, conditions: Conditions) -> Vec<Kernel> {
    let view = View::new(model, shapes);
    let mut made: HashSet<&str> = model.inputs().map(|i| i.name()).collect();
    let mut taken = vec![false; view.nodes.len()];
    let mut packed: HashSet<&str> = HashSet::new();
    let mut drafts: Vec<Draft> = Vec::new();
    for first in 0..view.nodes.len() {
        if taken[first] || matches!(view.role[first], Role::Constant | Role::Free) {
            continue;
        }
        let node = &view.nodes[first];
        let image = if view.role[first] == Role::Cube && !matches!(node.op_type(), "Gemm" | "MatMul" | "Attention") {
            view.variable_inputs(first).first().copied().filter(|&input| !view.is_five(input))
        } else {
            None
        };
        let image_input = image.is_some_and(|i| view.is_input(i));
        if let Some(input) = image.filter(|_| !(conditions.aipp && image_input))
            && packed.insert(input)
        {
            drafts.push(transform(&view, input));
        }
        let inside = members(&view, first, &made);
        for &n in &inside {
            taken[n] = true;
        }
        let mut draft = draft(&view, first, &inside, precision, conditions);
        if let Some(input) = image.filter(|_| conditions.aipp && image_input) {
            draft.inputs.retain(|(v, _)| *v != input);
            draft.kernel.reads.push(Traffic {
                bytes: view.shapes.elements(input).unwrap_or(0) as u64,
                bits: 8,
                distance: u64::MAX,
                chained: false,
            });
        }
        if let Some(cube) = draft.kernel.cube.as_mut().filter(|c| image_input && conditions.small_channel && c.groups == 1 && c.cin <= 4) {
            (cube.taps, cube.cin) = (1, cube.taps * 4);
        }
        made.extend(&draft.outputs);
        drafts.push(draft);
    }
    settle(&view, drafts)
}

/// Nodes that run in the kernel that starts at `first`.
fn members(view: &View, first: usize, made: &HashSet<&str>) -> Vec<usize> {
    let mut inside = vec![first];
    let size = |n: usize| view.nodes[n].output.first().and_then(|o| view.shapes.elements(o));
    match view.role[first] {
        Role::Cube => {
            view.fold_linear(&mut inside);
            let joins = |n: usize| view.role[n] == Role::Elementwise && size(n) == size(first) && !view.is_swish(n);
            view.grow(&mut inside, 4, made, joins);
        }
        Role::Elementwise | Role::BatchNorm => {
            view.grow(&mut inside, 12, made, |n| matches!(view.role[n], Role::Elementwise | Role::BatchNorm) && size(n) == size(first));
        }
        Role::Reduce => {
            let joins = |n: usize| {
                view.role[n] == Role::Elementwise || (view.role[n] == Role::Reduce && view.nodes[n].op_type().starts_with("Reduce"))
            };
            view.grow(&mut inside, 12, made, joins);
        }
        _ => {}
    }
    inside
}

fn draft<'m>(
    view: &View<'m>,
    first: usize,
    inside: &[usize],
    precision: &BTreeMap<String, Precision>,
    conditions: Conditions,
) -> Draft<'m> {
    let node = &view.nodes[first];
    let role = view.role[first];
    let elements = |v: &str| view.shapes.elements(v).unwrap_or(0) as u64;
    let out_size = |n: usize| view.nodes[n].output.first().map_or(0, |o| elements(o)) as f64;
    let asked = if role == Role::Cube { precision.get(node.name()).copied().unwrap_or(Precision::Fp16) } else { Precision::Fp16 };
    let own: HashSet<&str> = inside.iter().flat_map(|&n| &view.nodes[n].output).map(String::as_str).collect();
    let mut inputs: Vec<(&str, Precision)> = Vec::new();
    for &n in inside {
        for value in view.variable_inputs(n) {
            let integers = n == first || conditions.integer_residual && role == Role::Cube && elements(value) as f64 == out_size(n);
            let wanted = if integers { asked.activations() } else { Precision::Fp16 };
            if !own.contains(value) && !inputs.contains(&(value, wanted)) {
                inputs.push((value, wanted));
            }
        }
    }
    let mut kernel = Kernel {
        name: node.name().to_string(),
        op: Op::Other,
        nodes: inside.iter().map(|&n| view.nodes[n].name().to_string()).collect(),
        layer: None,
        precision: asked,
        cube: None,
        vector: Vector::default(),
        access: Access::Blocks,
        reads: Vec::new(),
        writes: Vec::new(),
    };
    let read: f64 = inputs.iter().map(|(v, _)| elements(v) as f64).sum();
    let mut vector = Vector::default();
    match role {
        Role::Cube => {
            let constant = node.input.iter().take(2).find(|i| view.is_constant(i));
            kernel.layer = constant.map(|_| node.name().to_string());
            (kernel.op, kernel.cube) = product(view, node);
            vector.drain = kernel.cube.filter(|_| kernel.op != Op::ConvTranspose).map_or(out_size(first), |c| c.drained());
            if node.op_type() == "Attention" {
                vector.plain = kernel.cube.map_or(0.0, |c| SOFTMAX_PASSES * (c.images * c.rows * c.cout) as f64);
            }
            let folded = inside.iter().skip(1).filter(|&&n| {
                view.role[n] == Role::Elementwise && view.variable_inputs(n).len() > 1 || is_activation(view.nodes[n].op_type())
            });
            folded.for_each(|&n| vector.add(view.nodes[n].op_type(), vector.drain));
            if let (Some(_), Some(cube)) = (constant, kernel.cube) {
                let weights = weight_traffic(&cube, kernel.op, asked);
                if asked.widens_weights() {
                    vector.plain += weights.bytes as f64 * 8.0 / f64::from(asked.weight_bits());
                }
                kernel.reads.push(weights);
            }
        }
        Role::Elementwise | Role::BatchNorm => kernel.op = Op::Elementwise,
        Role::Reduce => {
            let passes = if node.op_type().starts_with("Reduce") || node.op_type().starts_with("Arg") { 1.0 } else { SOFTMAX_PASSES };
            (kernel.op, vector.plain) = (Op::Reduce, read * passes);
        }
        Role::Pool => {
            let window = ints_attribute(node, "kernel_shape").map(|k| k.iter().map(|&d| d as f64).product::<f64>().max(1.0));
            (kernel.op, vector.pool) = (Op::Pool, window.map_or(read, |w| out_size(first) * w));
        }
        Role::Move => {
            kernel.op = if matches!(node.op_type(), "Reshape" | "Flatten" | "Squeeze" | "Unsqueeze") { Op::Transform } else { Op::Move };
            if kernel.op == Op::Transform || is_unaligned(view, node) {
                kernel.access = Access::Pieces;
            }
        }
        _ => vector.plain = read,
    }
    if matches!(role, Role::Elementwise | Role::BatchNorm | Role::Reduce) {
        inside.iter().for_each(|&n| vector.add(view.nodes[n].op_type(), out_size(n)));
    }
    kernel.vector = vector;
    let quantizes = matches!(role, Role::Cube | Role::Elementwise | Role::BatchNorm | Role::Pool);
    Draft { kernel, inputs, outputs: view.results(inside), quantizes }
}

fn is_activation(op: &str) -> bool {
    pass_of(op).is_some() && !matches!(op, "Add" | "Sub" | "Mul" | "Div" | "BatchNormalization")
}

/// The change of a graph input to NC1HWC0 before a convolution.
fn transform<'m>(view: &View<'m>, input: &'m str) -> Draft<'m> {
    let kernel = Kernel {
        name: format!("{input}.transdata"),
        op: Op::Transform,
        nodes: Vec::new(),
        layer: None,
        precision: Precision::Fp16,
        cube: None,
        vector: Vector::default(),
        access: Access::Input,
        reads: vec![Traffic { bytes: view.shapes.elements(input).unwrap_or(0) as u64 * 2, bits: 16, distance: u64::MAX, chained: false }],
        writes: Vec::new(),
    };
    Draft { kernel, inputs: Vec::new(), outputs: vec![input], quantizes: false }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{
        proto::{
            AttributeProto, GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto,
            ValueInfoProto,
            tensor_shape_proto::{Dimension, dimension},
            type_proto,
        },
        shape,
        tensor::{int, ints, node},
    };

    /// A model of one input `x` \[1, channels, 8, 8\]; weights are headers without data.
    fn model(channels: i64, weights: &[(&str, &[i64])], nodes: Vec<NodeProto>) -> Model {
        let dim = |d: i64| Dimension { value: Some(dimension::Value::DimValue(d)), denotation: None };
        let shape = TensorShapeProto { dim: [1, channels, 8, 8].map(dim).to_vec() };
        let tensor = type_proto::Value::TensorType(type_proto::Tensor { elem_type: Some(1), shape: Some(shape) });
        let r#type = Some(TypeProto { value: Some(tensor), denotation: None });
        let header = |(name, dims): &(&str, &[i64])| TensorProto {
            name: Some((*name).into()),
            data_type: Some(1),
            dims: dims.to_vec(),
            ..Default::default()
        };
        let graph = GraphProto {
            output: vec![ValueInfoProto { name: nodes.last().unwrap().output.first().cloned(), ..Default::default() }],
            node: nodes,
            input: vec![ValueInfoProto { name: Some("x".into()), r#type, ..Default::default() }],
            initializer: weights.iter().map(header).collect(),
            ..Default::default()
        };
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(17) }];
        Model { name: "t".into(), proto: ModelProto { graph: Some(graph), opset_import, ..Default::default() } }
    }

    fn kernels(model: &Model, int8: &[&str]) -> Vec<Kernel> {
        let shapes = shape::infer(model, 1, &BTreeMap::new()).unwrap();
        extract(model, &shapes, &int8.iter().map(|n| (n.to_string(), Precision::Int8)).collect())
    }

    /// Kernels as "op: nodes".
    fn told(model: &Model, int8: &[&str]) -> Vec<String> {
        kernels(model, int8).iter().map(|k| format!("{:?}: {}", k.op, k.nodes.join(" "))).collect()
    }

    fn op(kind: &str, name: &str, inputs: &[&str]) -> NodeProto {
        node(kind, name, inputs, &[name], vec![])
    }

    fn conv3(name: &str, input: &str) -> NodeProto {
        node("Conv", name, &[input, "w"], &[name], vec![ints("pads", &[1, 1, 1, 1])])
    }

    const W: (&str, &[i64]) = ("w", &[32, 32, 3, 3]);
    const BN: [(&str, &[i64]); 1] = [("s", &[32])];

    fn bn(name: &str, input: &str) -> NodeProto {
        op("BatchNormalization", name, &[input, "s", "s", "s", "s"])
    }

    #[test]
    fn batchnorm_activation_and_residual_join_the_convolution() {
        let nodes = vec![
            conv3("a", "x"),
            bn("n", "a"),
            op("Relu", "r", &["n"]),
            conv3("b", "r"),
            op("Add", "sum", &["b", "r"]),
            op("Relu", "y", &["sum"]),
        ];
        assert_eq!(told(&model(32, &[W, BN[0]], nodes), &[]), ["Transform: ", "Conv: a n r", "Conv: b sum y"]);
    }

    #[test]
    fn batchnorm_after_relu_is_a_kernel_of_its_own() {
        let nodes = vec![conv3("a", "x"), op("Relu", "r", &["a"]), bn("n", "r"), conv3("b", "n")];
        assert_eq!(told(&model(32, &[W, BN[0]], nodes), &[]), ["Transform: ", "Conv: a r", "Elementwise: n", "Conv: b"]);
    }

    #[test]
    fn neighbouring_int8_layers_share_a_requant_and_the_input_pays_a_quant() {
        let model = model(32, &[W], vec![conv3("a", "x"), op("Relu", "r", &["a"]), conv3("b", "r")]);
        let list = kernels(&model, &["a", "b"]);
        assert_eq!(list.iter().map(|k| k.op).collect::<Vec<_>>(), [Op::Transform, Op::Quantize, Op::Conv, Op::Conv]);
        assert_eq!(list[2].writes.iter().map(|t| (t.bits, t.bytes)).collect::<Vec<_>>(), [(8, 32 * 64)]);
        assert_eq!(list[3].writes[0].bits, 16);
        assert_eq!(list[3].reads.iter().map(|t| t.bytes).collect::<Vec<_>>(), [32 * 32 * 9, 32 * 64]);
        assert_eq!(told(&model, &["b"]), ["Transform: ", "Conv: a r", "Conv: b"]);
    }

    #[test]
    fn an_int8_layer_after_a_move_pays_a_quant() {
        let weights: [(&str, &[i64]); 2] = [W, ("v", &[32, 64, 1, 1])];
        let concat = node("Concat", "c", &["a", "b"], &["c"], vec![int("axis", 1)]);
        let last = op("Conv", "y", &["c", "v"]);
        let model = model(32, &weights, vec![conv3("a", "x"), conv3("b", "x"), concat, last]);
        assert_eq!(told(&model, &["y"]), ["Transform: ", "Conv: a", "Conv: b", "Move: c", "Quantize: ", "Conv: y"]);
    }

    #[test]
    fn a_residual_operand_is_written_in_both_precisions() {
        let nodes = vec![conv3("a", "x"), conv3("b", "a"), op("Add", "y", &["b", "a"])];
        let list = kernels(&model(32, &[W], nodes), &["b"]);
        assert_eq!(list[1].writes.iter().map(|t| t.bits).collect::<Vec<_>>(), [8, 16]);
    }

    #[test]
    fn simulated_quantization_and_renaming_operators_cost_nothing() {
        let quantize = node("Mul", "a.fakequant.scale", &["a", "k"], &["q"], vec![]);
        let plain = model(32, &[W], vec![conv3("a", "x"), conv3("b", "a")]);
        let simulated = model(32, &[W, ("k", &[])], vec![conv3("a", "x"), quantize, op("Identity", "i", &["q"]), conv3("b", "i")]);
        assert_eq!(kernels(&plain, &["a", "b"]), kernels(&simulated, &["a", "b"]));
    }

    #[test]
    fn flattening_pixels_is_a_kernel_and_flattening_one_pixel_is_free() {
        let gemm = |input: &str, w: &str| op("Gemm", "fc", &[input, w]);
        let weights: [(&str, &[i64]); 3] = [W, ("g", &[2048, 10]), ("h", &[32, 10])];
        let pixels = model(32, &weights, vec![conv3("a", "x"), op("Flatten", "f", &["a"]), gemm("f", "g")]);
        assert_eq!(told(&pixels, &[]), ["Transform: ", "Conv: a", "Transform: f", "MatMul: fc"]);
        let pooled = vec![conv3("a", "x"), op("GlobalAveragePool", "p", &["a"]), op("Flatten", "f", &["p"]), gemm("f", "h")];
        assert_eq!(told(&model(32, &weights, pooled), &[]), ["Transform: ", "Conv: a", "Pool: p", "MatMul: fc"]);
    }

    #[test]
    fn a_concat_is_aligned_only_in_blocks_of_sixteen_channels() {
        let weights: [(&str, &[i64]); 2] = [("w", &[32, 32, 3, 3]), ("v", &[24, 32, 1, 1])];
        let concat = |other: &str| node("Concat", "y", &["a", other], &["y"], vec![int("axis", 1)]);
        let aligned = vec![conv3("a", "x"), conv3("b", "x"), concat("b")];
        let ragged = vec![conv3("a", "x"), op("Conv", "c", &["x", "v"]), concat("c")];
        assert_eq!(kernels(&model(32, &weights, aligned), &[])[3].access, Access::Blocks);
        assert_eq!(kernels(&model(32, &weights, ragged), &[])[3].access, Access::Pieces);
    }

    #[test]
    fn attention_has_the_products_and_the_softmax_of_its_parts() {
        let nodes = vec![op("Attention", "y", &["x", "x", "x"])];
        let list = kernels(&model(4, &[], nodes), &[]);
        // Four heads of 8 rows and 8 channels: twice 4·8·8·8 multiply-adds, and 4·8·8 numbers of a softmax.
        assert_eq!(list.len(), 1);
        assert_eq!((list[0].cube.unwrap().macs(), list[0].vector.plain), (2 * 4 * 8 * 8 * 8, 10.0 * 4.0 * 8.0 * 8.0));
        assert_eq!(list[0].layer, None);
    }

    #[test]
    fn an_unknown_attribute_or_operator_still_gives_kernels() {
        let strange = AttributeProto { name: Some("axis".into()), ..Default::default() };
        let nodes = vec![node("Mystery", "m", &["x"], &["m"], vec![strange]), op("Relu", "y", &["m"])];
        assert_eq!(told(&model(3, &[], nodes), &[]).len(), 2);
    }
}
