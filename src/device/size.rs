//! Bytes of a model as the chip stores it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Profile;
use crate::{
    graph::{
        Model,
        model::{SIMULATION_MARK, int_attribute},
        proto::{NodeProto, TensorProto, tensor_proto::DataType},
        tensor,
    },
    precision::Precision,
};

/// Bytes of all constants of `model` as deployed, with `precision` (by node name, FP16 if absent) for its layers.
///
/// Float weights and other floats take 2 bytes, INT8 weights 1, INT4 weights half a byte rounded up per tensor; a quantized
/// layer's bias is INT32, and its dequantization takes a UINT64 per output channel (Conv, ConvTranspose) or one (Gemm, MatMul).
/// Integers keep their size. Dimensions alone are read, the data may be absent.
pub fn deployed_bytes(model: &Model, precision: &BTreeMap<String, Precision>) -> u64 {
    sparse_bytes(model, precision, &BTreeSet::new())
}

/// The same where the nodes named in `sparse` have weights with 4:2 sparsity: an INT8 weight takes 5 bits then, half of its bytes and two bits
/// an index for each that is left. Other weights stay dense.
pub fn sparse_bytes(model: &Model, precision: &BTreeMap<String, Precision>, sparse: &BTreeSet<String>) -> u64 {
    by_node(model, precision, sparse).values().fold(0, |sum, &b| sum.saturating_add(b))
}

/// These bytes by the name of the node that first reads them; under no name what no node reads as a constant input.
fn by_node<'m>(model: &'m Model, precision: &BTreeMap<String, Precision>, sparse: &BTreeSet<String>) -> BTreeMap<&'m str, u64> {
    let graph = model.graph();
    let mut widest: HashMap<&str, (u64, &str)> = HashMap::new();
    let mut found: BTreeMap<&str, u64> = BTreeMap::new();
    let dims: HashMap<&str, Vec<usize>> = graph.initializer.iter().map(|t| (t.name(), tensor::dims(t))).collect();
    let mut add = |node, bytes: u64| {
        let sum: &mut u64 = found.entry(node).or_default();
        *sum = sum.saturating_add(bytes);
    };
    for node in &graph.node {
        let quantized = precision.get(node.name()).copied().unwrap_or(Precision::Fp16);
        for (slot, input) in node.input.iter().enumerate() {
            let bits = match (quantized, slot, node.op_type()) {
                (Precision::Fp16, ..) => 16,
                (Precision::Int8, 1, _) if sparse.contains(node.name()) => 5,
                (_, 1, _) => u64::from(quantized.weight_bits()),
                (_, 2, "Conv" | "ConvTranspose" | "Gemm") => 32,
                _ => 16,
            };
            let known = widest.entry(input).or_insert((bits, node.name()));
            known.0 = known.0.max(bits);
        }
        if quantized != Precision::Fp16 {
            let weight = node.input.get(1).and_then(|w| dims.get(w.as_str()));
            add(node.name(), 8u64.saturating_mul(weight.map_or(1, |w| channels(node, w))));
        }
    }
    let bytes = |t: &TensorProto| {
        let count = tensor::dims(t).iter().fold(1u64, |n, &d| n.saturating_mul(d as u64));
        if tensor::is_float(t) {
            count.saturating_mul(widest.get(t.name()).map_or(16, |w| w.0)).div_ceil(8)
        } else {
            count.saturating_mul(integer_bytes(t.data_type()))
        }
    };
    let inline = graph.node.iter().filter(|n| n.op_type() == "Constant").flat_map(|n| &n.attribute).filter_map(|a| a.t.as_ref());
    let simulated = |t: &&TensorProto| t.name().contains(SIMULATION_MARK);
    for constant in graph.initializer.iter().chain(inline).filter(|t| !simulated(t)) {
        add(widest.get(constant.name()).map_or("", |w| w.1), bytes(constant));
    }
    found
}

/// Bytes on a chip by the name of the node that first reads them, under no name what none reads: layers have the formats that the chip runs, and
/// zeros count where it skips them.
pub fn bytes_by_node<'m>(
    profile: &Profile,
    model: &'m Model,
    precision: &BTreeMap<String, Precision>,
    sparse: &BTreeSet<String>,
) -> BTreeMap<&'m str, u64> {
    let skipped = |name: &&String| precision.get(*name).is_some_and(|p| profile.skips_zeros(*p));
    by_node(model, &profile.run_as(precision), &sparse.iter().filter(skipped).cloned().collect())
}

fn channels(node: &NodeProto, weight: &[usize]) -> u64 {
    let group = u64::try_from(int_attribute(node, "group", 1)).unwrap_or(1);
    match (node.op_type(), weight) {
        ("Conv", [out, ..]) => *out as u64,
        ("ConvTranspose", [_, out, ..]) => (*out as u64).saturating_mul(group),
        _ => 1,
    }
}

fn integer_bytes(kind: i32) -> u64 {
    match DataType::try_from(kind) {
        Ok(DataType::Int64 | DataType::Uint64) => 8,
        Ok(DataType::Int32 | DataType::Uint32) => 4,
        Ok(DataType::Int16 | DataType::Uint16) => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{
        proto::{GraphProto, ModelProto, TensorProto},
        tensor::node,
    };

    fn model() -> Model {
        let header = |name: &str, kind: i32, dims: &[i64]| TensorProto {
            name: Some(name.into()),
            data_type: Some(kind),
            dims: dims.to_vec(),
            ..Default::default()
        };
        let initializer =
            vec![header("w", 1, &[3, 3, 1, 1]), header("b", 1, &[3]), header("g", 1, &[5, 3]), header("c", 1, &[5]), header("to", 7, &[2])];
        let nodes = vec![
            node("Conv", "conv", &["x", "w", "b"], &["y"], vec![]),
            node("Reshape", "flat", &["y", "to"], &["f"], vec![]),
            node("Gemm", "fc", &["f", "g", "c"], &["z"], vec![]),
        ];
        let graph = GraphProto { node: nodes, initializer, ..Default::default() };
        Model { name: "t".into(), proto: ModelProto { graph: Some(graph), ..Default::default() } }
    }

    fn bytes(plan: &[(&str, Precision)]) -> u64 {
        deployed_bytes(&model(), &plan.iter().map(|(n, p)| (n.to_string(), *p)).collect())
    }

    #[test]
    fn floats_take_two_bytes_and_integers_their_own() {
        assert_eq!(bytes(&[]), 2 * (9 + 3 + 15 + 5) + 16);
    }

    #[test]
    fn quantized_layers_pay_for_bias_and_dequantization() {
        let conv = 9 + 3 * 4 + 3 * 8;
        assert_eq!(bytes(&[("conv", Precision::Int8)]), conv + 2 * (15 + 5) + 16);
        assert_eq!(bytes(&[("conv", Precision::Int4)]), conv - 4 + 2 * (15 + 5) + 16);
        assert_eq!(bytes(&[("fc", Precision::Int8)]), 2 * (9 + 3) + 15 + 5 * 4 + 8 + 16);
    }

    #[test]
    fn a_sparse_int8_weight_keeps_half_its_bytes_and_two_bits_for_each_of_them() {
        let of = |precision: Precision| {
            let (plan, sparse) = ([("fc".to_string(), precision)].into(), ["fc".to_string()].into());
            deployed_bytes(&model(), &plan) - sparse_bytes(&model(), &plan, &sparse)
        };
        // Of 15 weights of a byte 75 bits are left.
        assert_eq!(of(Precision::Int8), 15 - 10);
        assert_eq!((of(Precision::Fp16), of(Precision::Int4)), (0, 0));
    }
}
