//! The concrete shape of every value of a model's main graph at a given batch.
//!
//! Weights' dimensions come from their headers, never from their data, so a model without weight data works as well.
//! An operator without a rule falls back to the model's own `value_info`; failing that its outputs stay unknown.

use std::collections::{BTreeMap, HashMap};

use super::{
    fold::{self, Small},
    model::Model,
    proto::{NodeProto, ValueInfoProto, tensor_shape_proto::dimension::Value as Dim, type_proto::Value as Type},
    shape_rule, tensor,
};
use crate::error::{Error, Result};

/// Whole shapes of inputs by name; 0 stands for the batch.
pub type Pins = BTreeMap<String, Vec<usize>>;

/// Shapes by value name.
#[derive(Debug, Clone, Default)]
pub struct Shapes {
    dims: HashMap<String, Vec<usize>>,
}

impl Shapes {
    /// Dimensions of a value; `None` if they could not be found out.
    pub fn dims(&self, value: &str) -> Option<&[usize]> {
        self.dims.get(value).map(Vec::as_slice)
    }

    /// Number of elements of a value; `None` if unknown or beyond the machine's integers.
    pub fn elements(&self, value: &str) -> Option<usize> {
        self.dims(value)?.iter().try_fold(1usize, |n, &d| n.checked_mul(d))
    }
}

/// What is known while walking the graph: shapes, and the values of small constants.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) shapes: Shapes,
    pub(super) small: HashMap<String, Small>,
    pub(super) opset: i64,
}

impl Known {
    /// Dimensions of a node's input.
    pub(super) fn dims(&self, node: &NodeProto, slot: usize) -> Option<&[usize]> {
        self.shapes.dims(node.input.get(slot)?)
    }

    /// Integers of a node's input, where it is a small constant.
    pub(super) fn ints(&self, node: &NodeProto, slot: usize) -> Option<Vec<i64>> {
        self.small.get(node.input.get(slot)?).map(Small::ints)
    }
}

/// Shapes of all values at `batch`: an unknown or symbolic leading dimension of a graph input becomes `batch`, a fixed one
/// stays. `pins` gives whole shapes of inputs by name; a 0 in one stands for the batch.
///
/// # Errors
/// If the batch is 0, a pin names no input or has another rank than it, or an input has an unknown dimension that
/// neither the batch nor a pin settles.
pub fn infer(model: &Model, batch: usize, pins: &Pins) -> Result<Shapes> {
    known(model, batch, pins).map(|k| k.shapes)
}

/// The integers that a model computes from shapes, at `batch`: by value name.
///
/// # Errors
/// As [`infer`].
pub fn integers(model: &Model, batch: usize, pins: &Pins) -> Result<HashMap<String, Small>> {
    known(model, batch, pins).map(|k| k.small)
}

fn known(model: &Model, batch: usize, pins: &Pins) -> Result<Known> {
    if batch == 0 {
        return Err(Error::model(&model.name, "the batch is 0", "give a batch of 1 or more"));
    }
    let graph = model.graph();
    let mut known = Known { opset: model.opset(), ..Known::default() };
    let names: Vec<&str> = model.inputs().map(|i| i.name()).collect();
    if let Some(name) = pins.keys().find(|p| !names.contains(&p.as_str())) {
        let message = format!("a shape is given for {name}, which is not an input");
        return Err(Error::model(&model.name, message, format!("its inputs are {}", names.join(", "))));
    }
    for sparse in &graph.sparse_initializer {
        let dims = sparse.dims.iter().map(|&d| usize::try_from(d).ok()).collect::<Option<Vec<_>>>();
        if let (Some(name), Some(dims)) = (sparse.values.as_ref().map(|v| v.name().to_string()), dims) {
            known.shapes.dims.insert(name, dims);
        }
    }
    let is_other =
        |i: &&ValueInfoProto| i.r#type.as_ref().is_some_and(|t| matches!(t.value, Some(ref v) if !matches!(v, Type::TensorType(_))));
    for input in model.inputs().filter(|i| !is_other(i)) {
        let dims = input_dims(model, input, batch, pins.get(input.name()))?;
        known.shapes.dims.insert(input.name().to_string(), dims);
    }
    for tensor in &graph.initializer {
        known.shapes.dims.insert(tensor.name().to_string(), tensor::dims(tensor));
        if let Some(value) = fold::constant(tensor) {
            known.small.insert(tensor.name().to_string(), value);
        }
    }
    let told: HashMap<&str, &ValueInfoProto> = graph.value_info.iter().chain(&graph.output).map(|v| (v.name(), v)).collect();
    for node in &graph.node {
        let mut found = if matches!(node.domain(), "" | "ai.onnx" | "com.microsoft") { shape_rule::outputs(node, &known) } else { vec![] };
        found.resize(node.output.len(), None);
        for (name, dims) in node.output.iter().zip(found).filter(|(n, _)| !n.is_empty()) {
            if let Some(dims) = dims.or_else(|| complete(told.get(name.as_str())?)) {
                known.shapes.dims.insert(name.clone(), dims);
            }
        }
        let Some(first) = node.output.first() else { continue };
        if let Some(value) = fold::evaluate(node, &known.small, |n| known.shapes.dims(n)) {
            known.shapes.dims.insert(first.clone(), value.dims.clone());
            known.small.insert(first.clone(), value);
        }
    }
    Ok(known)
}

fn input_dims(model: &Model, input: &ValueInfoProto, batch: usize, pin: Option<&Vec<usize>>) -> Result<Vec<usize>> {
    let name = input.name();
    let declared = declared(input);
    if let Some(pin) = pin {
        if declared.as_ref().is_some_and(|d| d.len() != pin.len()) {
            let rank = declared.map_or(pin.len(), |d| d.len());
            let remedy = format!("give {rank} dimensions of 1 or more, for example --shape {name}:1,3,224,224");
            return Err(Error::model(
                &model.name,
                format!("the shape {pin:?} does not fit input {name}, which has {rank} dimensions"),
                remedy,
            ));
        }
        return Ok(pin.iter().map(|&d| if d == 0 { batch } else { d }).collect());
    }
    let remedy = format!("give its shape, for example --shape {name}:1,3,224,224");
    let dims = declared.ok_or_else(|| Error::model(&model.name, format!("input {name} has no shape"), &remedy))?;
    let settle = |(i, d): (usize, Option<usize>)| match d {
        Some(d) => Ok(d),
        None if i == 0 => Ok(batch),
        None => Err(Error::model(&model.name, format!("dimension {i} of input {name} is unknown"), &remedy)),
    };
    dims.into_iter().enumerate().map(settle).collect()
}

/// Declared dimensions, `None` for those unknown or symbolic; `None` in all if even the rank is not told.
pub fn declared(value: &ValueInfoProto) -> Option<Vec<Option<usize>>> {
    let Some(Type::TensorType(tensor)) = value.r#type.as_ref()?.value.as_ref() else { return None };
    let known = |d: &Option<Dim>| match d {
        Some(Dim::DimValue(v)) => usize::try_from(*v).ok().filter(|&v| v > 0),
        _ => None,
    };
    Some(tensor.shape.as_ref()?.dim.iter().map(|d| known(&d.value)).collect())
}

fn complete(value: &ValueInfoProto) -> Option<Vec<usize>> {
    declared(value)?.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{
        proto::{
            AttributeProto, GraphProto, ModelProto, OperatorSetIdProto, TensorProto, TensorShapeProto, TypeProto, tensor_shape_proto,
            type_proto,
        },
        tensor::{int, ints, node},
    };

    fn value(name: &str, dims: &[i64]) -> ValueInfoProto {
        let dim = |&d: &i64| tensor_shape_proto::Dimension {
            value: Some(if d > 0 { Dim::DimValue(d) } else { Dim::DimParam("N".into()) }),
            denotation: None,
        };
        let shape = TensorShapeProto { dim: dims.iter().map(dim).collect() };
        let tensor = type_proto::Tensor { elem_type: Some(1), shape: Some(shape) };
        ValueInfoProto {
            name: Some(name.into()),
            r#type: Some(TypeProto { value: Some(Type::TensorType(tensor)), denotation: None }),
            ..Default::default()
        }
    }

    fn header(name: &str, dims: &[i64]) -> TensorProto {
        TensorProto { name: Some(name.into()), data_type: Some(1), dims: dims.to_vec(), ..Default::default() }
    }

    fn indices(name: &str, data: &[i64]) -> TensorProto {
        let dims = vec![i64::try_from(data.len()).unwrap()];
        TensorProto { name: Some(name.into()), data_type: Some(7), dims, int64_data: data.to_vec(), ..Default::default() }
    }

    fn model(input: &[i64], initializer: Vec<TensorProto>, nodes: Vec<NodeProto>) -> Model {
        let output = vec![ValueInfoProto { name: nodes.last().unwrap().output.first().cloned(), ..Default::default() }];
        let graph = GraphProto { node: nodes, input: vec![value("x", input)], initializer, output, ..Default::default() };
        let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(13) }];
        Model { name: "test".into(), proto: ModelProto { graph: Some(graph), opset_import, ..Default::default() } }
    }

    /// Shape of `y`, made by one node of `x` and the constants.
    fn one(input: &[i64], constants: Vec<TensorProto>, op: &str, attributes: Vec<AttributeProto>) -> Option<Vec<usize>> {
        let mut inputs = vec!["x".to_string()];
        inputs.extend(constants.iter().map(|t| t.name().to_string()));
        let refs: Vec<&str> = inputs.iter().map(String::as_str).collect();
        let model = model(input, constants, vec![node(op, "n", &refs, &["y"], attributes)]);
        infer(&model, 2, &BTreeMap::new()).unwrap().dims("y").map(<[usize]>::to_vec)
    }

    #[test]
    fn a_strided_padded_convolution_without_weight_data_has_a_shape() {
        let w = vec![header("w", &[64, 3, 7, 7])];
        let attributes = vec![ints("strides", &[2, 2]), ints("pads", &[3, 3, 3, 3])];
        assert_eq!(one(&[-1, 3, 224, 224], w, "Conv", attributes), Some(vec![2, 64, 112, 112]));
    }

    #[test]
    fn dilated_and_transposed_convolutions_follow_their_formulas() {
        let w = || vec![header("w", &[8, 4, 3, 3])];
        assert_eq!(one(&[-1, 4, 10, 10], w(), "Conv", vec![ints("dilations", &[2, 2])]), Some(vec![2, 8, 6, 6]));
        let attributes = vec![ints("strides", &[2, 2]), ints("pads", &[1, 1, 1, 1]), ints("output_padding", &[1, 1])];
        assert_eq!(one(&[-1, 8, 10, 10], w(), "ConvTranspose", attributes), Some(vec![2, 4, 20, 20]));
    }

    #[test]
    fn ceil_mode_drops_a_window_that_starts_in_the_padding() {
        let pool = |size: i64, k: i64, s: i64, p: i64| {
            let attributes = vec![ints("kernel_shape", &[k]), ints("strides", &[s]), ints("pads", &[p, p]), int("ceil_mode", 1)];
            one(&[-1, 1, size], vec![], "MaxPool", attributes).unwrap()[2]
        };
        assert_eq!(pool(112, 3, 2, 0), 56);
        assert_eq!(pool(5, 2, 2, 1), 3);
    }

    #[test]
    fn a_reshape_through_shape_arithmetic_resolves() {
        let nodes = vec![
            node("Shape", "s", &["x"], &["dims"], vec![]),
            node("Gather", "g", &["dims", "zero"], &["n"], vec![]),
            node("Concat", "c", &["n", "rest"], &["to"], vec![int("axis", 0)]),
            node("Reshape", "r", &["x", "to"], &["y"], vec![]),
        ];
        let model = model(&[-1, 6, 4], vec![indices("zero", &[0]), indices("rest", &[3, -1])], nodes);
        assert_eq!(infer(&model, 5, &BTreeMap::new()).unwrap().dims("y"), Some(&[5, 3, 8][..]));
    }

    #[test]
    fn slices_pads_and_reductions_take_their_arguments_from_inputs() {
        let list = |a: &[i64], b: &[i64], c: &[i64]| vec![indices("a", a), indices("b", b), indices("c", c)];
        assert_eq!(one(&[-1, 10, 4], list(&[1], &[i64::MAX], &[1]), "Slice", vec![]), Some(vec![2, 9, 4]));
        assert_eq!(one(&[-1, 4], vec![indices("p", &[0, 1, 0, 2])], "Pad", vec![]), Some(vec![2, 7]));
        assert_eq!(one(&[-1, 4, 6], vec![], "ReduceMean", vec![ints("axes", &[-1])]), Some(vec![2, 4, 1]));
        assert_eq!(one(&[-1, 4], vec![indices("a", &[1])], "Unsqueeze", vec![]), Some(vec![2, 1, 4]));
    }

    #[test]
    fn an_unknown_operator_or_a_malformed_attribute_leaves_the_value_unknown() {
        assert_eq!(one(&[-1, 4], vec![], "FancyThing", vec![]), None);
        assert_eq!(one(&[-1, 4], vec![], "Flatten", vec![int("axis", i64::MIN)]), None);
        assert_eq!(one(&[-1, 4, 8], vec![header("w", &[4, 4, 3])], "Conv", vec![ints("strides", &[0])]), None);
        assert_eq!(one(&[-1, 4, 8], vec![header("w", &[4, 4, 3])], "Conv", vec![ints("pads", &[i64::MAX, i64::MAX])]), None);
    }

    #[test]
    fn an_unknown_inner_dimension_is_an_error_unless_pinned() {
        let model = model(&[-1, 3, -1], vec![], vec![node("Relu", "r", &["x"], &["y"], vec![])]);
        let error = infer(&model, 4, &BTreeMap::new()).unwrap_err();
        assert!(error.to_string().contains("dimension 2 of input x") && error.remedy().unwrap().contains("--shape x:"));
        let pins = BTreeMap::from([("x".to_string(), vec![1, 3, 9])]);
        assert_eq!(infer(&model, 4, &pins).unwrap().dims("y"), Some(&[1, 3, 9][..]));
        assert!(infer(&model, 4, &BTreeMap::from([("z".to_string(), vec![1])])).is_err());
    }

    #[test]
    fn a_fixed_leading_dimension_stays() {
        assert_eq!(one(&[7, 4], vec![], "Relu", vec![]), Some(vec![7, 4]));
    }
}
