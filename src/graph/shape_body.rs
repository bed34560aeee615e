//! Shapes through the subgraphs of `If`, `Loop` and `Scan`. A subgraph is inferred as a model of its own, once for a
//! node, in which what it reads from around it are constants: with their data if they are small, else dimensions alone.

use std::collections::{BTreeMap, HashSet};

use super::{
    fold::{Kind, elements},
    model::{Model, attribute, captured, ints_attribute},
    proto::{GraphProto, ModelProto, NodeProto, OperatorSetIdProto, TensorProto, tensor_proto::DataType},
    shape::{self, Known, Shapes},
    shape_rule::{Dims, axis},
    shape_trips::trips,
    tensor,
};

/// Outputs of an `If`: those of the branch taken where that is known, else what both agree on.
pub(super) fn branches(node: &NodeProto, known: &Known) -> Vec<Option<Dims>> {
    let branch = |name: &str| attribute(node, name).and_then(|a| a.g.as_ref());
    let (Some(yes), Some(no)) = (branch("then_branch"), branch("else_branch")) else { return vec![] };
    let shapes = |graph: &GraphProto| {
        let inner = walked(graph, node, known, &[]);
        graph.output.iter().map(|o| inner.dims(o.name()).map(<[usize]>::to_vec)).collect::<Vec<_>>()
    };
    match known.ints(node, 0).as_deref() {
        Some([0]) => shapes(no),
        Some([_]) => shapes(yes),
        _ => shapes(yes).into_iter().zip(shapes(no)).map(|(a, b)| a.filter(|a| Some(a) == b.as_ref())).collect(),
    }
}

/// Outputs of a `Loop`: the carried values if the body keeps their shapes, then those that are stacked, whose number is
/// known if the trip count is and nothing ends the loop before.
pub(super) fn repeated(node: &NodeProto, known: &Known) -> Vec<Option<Dims>> {
    let Some(body) = attribute(node, "body").and_then(|a| a.g.as_ref()) else { return vec![] };
    let carried = node.input.len().saturating_sub(2);
    if body.input.len() != carried + 2 || body.output.len() <= carried {
        return vec![];
    }
    let start: Vec<Option<Dims>> = (0..carried).map(|i| known.dims(node, i + 2).map(<[usize]>::to_vec)).collect();
    let mut feeds = vec![Some(vec![]); 2];
    feeds.extend(start.iter().cloned());
    let inner = walked(body, node, known, &feeds);
    let end = |i: usize| inner.dims(body.output[i].name()).map(<[usize]>::to_vec);
    let stable = (0..carried).all(|i| start[i].is_some() && start[i] == end(i + 1));
    if !stable {
        // What depends on a value that grows is not known; a value that does not still is if the model says so.
        return vec![];
    }
    let trips = if body.output.len() > carried + 1 { trips(node, body, known, &inner) } else { None };
    let stacked = (carried + 1..body.output.len()).map(|i| Some([&[trips?], end(i)?.as_slice()].concat()));
    start.iter().cloned().chain(stacked).collect()
}

/// Outputs of a `Scan`: the states, then the stacked values, as many as the scanned inputs have along their axes.
pub(super) fn scanned(node: &NodeProto, known: &Known) -> Vec<Option<Dims>> {
    let Some(body) = attribute(node, "body").and_then(|a| a.g.as_ref()) else { return vec![] };
    let Some(inputs) = attribute(node, "num_scan_inputs").and_then(|a| usize::try_from(a.i()).ok()) else { return vec![] };
    // Before opset 9 there is a batch axis and an optional input in front of the states.
    let old = usize::from(known.opset < 9);
    let Some(states) = node.input.len().checked_sub(old).and_then(|n| n.checked_sub(inputs)) else { return vec![] };
    if body.input.len() != states + inputs || body.output.len() < states || (old == 1 && node.input.first().is_some_and(|n| !n.is_empty()))
    {
        return vec![];
    }
    let batch = if old == 1 { known.dims(node, 1).and_then(|d| d.first().copied()) } else { None };
    let along = |name: &str, i: usize, rank: usize| axis(ints_attribute(node, name).and_then(|a| a.get(i).copied()).unwrap_or(0), rank);
    let mut length = None;
    let mut feeds = vec![];
    for slot in 0..states + inputs {
        let mut dims = known.dims(node, slot + old).map(<[usize]>::to_vec);
        if let Some(d) = dims.as_mut().filter(|_| old == 1) {
            if d.is_empty() {
                return vec![];
            }
            d.remove(0);
        }
        if let Some(d) = dims.as_mut().filter(|_| slot >= states) {
            let Some(at) = along("scan_input_axes", slot - states, d.len()) else { return vec![] };
            length = Some(d.remove(at));
        }
        feeds.push(dims);
    }
    let inner = walked(body, node, known, &feeds);
    let end = |i: usize| inner.dims(body.output[i].name()).map(<[usize]>::to_vec);
    if (0..states).any(|i| feeds[i].is_none() || feeds[i] != end(i)) {
        return vec![];
    }
    let whole = |mut dims: Dims| {
        if old == 1 {
            dims.insert(0, batch?);
        }
        Some(dims)
    };
    let stacked = |i: usize| {
        let mut dims = end(i)?;
        dims.insert(along("scan_output_axes", i - states, dims.len() + 1)?, length?);
        whole(dims)
    };
    let kept: Vec<Option<Dims>> = feeds[..states].iter().map(|d| whole(d.clone()?)).collect();
    kept.into_iter().chain((states..body.output.len()).map(stacked)).collect()
}

/// Shapes of a subgraph's values, its inputs being fed values of the given shapes.
fn walked(graph: &GraphProto, node: &NodeProto, known: &Known, feeds: &[Option<Dims>]) -> Shapes {
    let own: HashSet<&str> = graph.input.iter().map(|i| i.name()).chain(graph.initializer.iter().map(|t| t.name())).collect();
    let outer: HashSet<&str> = captured(node).into_iter().filter(|n| !own.contains(n)).collect();
    let mut initializer: Vec<TensorProto> = outer.into_iter().filter_map(|name| constant(name, known)).collect();
    initializer.extend(
        graph.initializer.iter().map(|t| if elements(&tensor::dims(t)).is_some() { t.clone() } else { header(t.name(), &tensor::dims(t)) }),
    );
    initializer.extend(graph.input.iter().zip(feeds).filter_map(|(i, dims)| Some(header(i.name(), dims.as_deref()?))));
    let inner = GraphProto {
        node: graph.node.clone(),
        output: graph.output.clone(),
        value_info: graph.value_info.clone(),
        initializer,
        ..Default::default()
    };
    let opset_import = vec![OperatorSetIdProto { domain: None, version: Some(known.opset) }];
    let proto = ModelProto { graph: Some(inner), opset_import, ..Default::default() };
    shape::infer(&Model { name: node.name().to_string(), proto }, 1, &BTreeMap::new()).unwrap_or_default()
}

/// What is known of a value, as a constant.
fn constant(name: &str, known: &Known) -> Option<TensorProto> {
    let Some(small) = known.small.get(name) else { return Some(header(name, known.shapes.dims(name)?)) };
    let mut tensor = header(name, &small.dims);
    if small.kind == Kind::Int {
        tensor.data_type = Some(DataType::Int64 as i32);
        tensor.int64_data = small.ints();
    } else {
        tensor.data_type = Some(if small.kind == Kind::Double { DataType::Double } else { DataType::Float } as i32);
        tensor.float_data = small.data.iter().map(|&v| v as f32).collect();
        tensor.double_data.clone_from(&small.data);
    }
    Some(tensor)
}

fn header(name: &str, dims: &[usize]) -> TensorProto {
    tensor::without_data(name, dims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::{
        proto::{AttributeProto, ValueInfoProto, attribute_proto::AttributeType},
        shape_case::{case, is},
        tensor::{from_i64, int, node, without_data},
    };

    fn values(names: &[&str]) -> Vec<ValueInfoProto> {
        names.iter().map(|n| ValueInfoProto { name: Some((*n).into()), ..Default::default() }).collect()
    }

    fn graph(name: &str, inputs: &[&str], node: Vec<NodeProto>, outputs: &[&str], constants: Vec<TensorProto>) -> AttributeProto {
        let g = GraphProto { input: values(inputs), node, output: values(outputs), initializer: constants, ..Default::default() };
        AttributeProto { name: Some(name.into()), r#type: Some(AttributeType::Graph as i32), g: Some(g), ..Default::default() }
    }

    fn conv(name: &str, channels: usize) -> AttributeProto {
        let w = without_data("w", &[channels, 4, 3]);
        graph(name, &[], vec![node("Conv", "c", &["i1", "w"], &["y"], vec![])], &["y"], vec![w])
    }

    #[test]
    fn branches_that_agree_have_a_shape_and_a_known_condition_chooses() {
        let branch = |condition: &[i64], other: usize| {
            case("If").is(condition).of(&[1, 4, 9]).attribute(conv("then_branch", 8)).attribute(conv("else_branch", other)).shape()
        };
        assert_eq!(branch(&[1, 1], 8), is(&[1, 8, 7]));
        assert_eq!(branch(&[1, 1], 6), None);
        assert_eq!(branch(&[1], 6), is(&[1, 8, 7]));
        assert_eq!(branch(&[0], 6), is(&[1, 6, 7]));
    }

    fn body(step: NodeProto) -> AttributeProto {
        let go = node("Identity", "g", &["go"], &["go_on"], vec![]);
        graph(
            "body",
            &["i", "go", "state"],
            vec![go, step, node("Neg", "n", &["next"], &["out"], vec![])],
            &["go_on", "next", "out"],
            vec![],
        )
    }

    #[test]
    fn a_loop_that_keeps_its_state_stacks_as_many_values_as_trips() {
        let keep = || body(node("Relu", "r", &["state"], &["next"], vec![]));
        assert_eq!(case("Loop").is(&[5]).without().of(&[2, 3]).attribute(keep()).outputs(2), [is(&[2, 3]), is(&[5, 2, 3])]);
        assert_eq!(case("Loop").is(&[5]).of(&[]).of(&[2, 3]).attribute(keep()).outputs(2), [is(&[2, 3]), None]);
        let grow = body(node("Concat", "c", &["state", "state"], &["next"], vec![int("axis", 0)]));
        assert_eq!(case("Loop").is(&[5]).without().of(&[2, 3]).attribute(grow).outputs(2), [None, None]);
    }

    #[test]
    fn a_scan_runs_along_the_axes_it_names() {
        let add = vec![node("Add", "a", &["state", "x"], &["next"], vec![]), node("Relu", "r", &["next"], &["out"], vec![])];
        let body = || graph("body", &["state", "x"], add.clone(), &["next", "out"], vec![]);
        let scan = || case("Scan").of(&[3]).int("num_scan_inputs", 1).attribute(body());
        assert_eq!(scan().of(&[7, 3]).outputs(2), [is(&[3]), is(&[7, 3])]);
        assert_eq!(scan().of(&[3, 7]).ints("scan_input_axes", &[1]).ints("scan_output_axes", &[-1]).outputs(2), [is(&[3]), is(&[3, 7])]);
        assert_eq!(scan().of(&[]).outputs(2), [None, None]);
        let old = case("Scan").opset(8).without().of(&[2, 3]).of(&[2, 7, 3]).int("num_scan_inputs", 1).attribute(body());
        assert_eq!(old.outputs(2), [is(&[2, 3]), is(&[2, 7, 3])]);
    }

    #[test]
    fn a_body_that_does_not_match_its_node_leaves_everything_unknown() {
        let short = graph("body", &["i"], vec![], &["i"], vec![]);
        assert_eq!(case("Loop").is(&[5]).without().of(&[2]).attribute(short.clone()).outputs(1), [None]);
        assert_eq!(case("Scan").of(&[2]).int("num_scan_inputs", i64::MIN).attribute(short).outputs(1), [None]);
        assert_eq!(case("If").is(&[1]).outputs(1), [None]);
    }

    #[test]
    fn small_constants_keep_their_values_inside_a_branch() {
        let reshape =
            graph("then_branch", &[], vec![node("Reshape", "r", &["i1", "to"], &["y"], vec![])], &["y"], vec![from_i64("to", &[3, 4])]);
        let other = graph("else_branch", &[], vec![node("Reshape", "r", &["i1", "i2"], &["z"], vec![])], &["z"], vec![]);
        let both = case("If").is(&[1, 1]).of(&[12]).is(&[3, 4]).attribute(reshape).attribute(other);
        assert_eq!(both.shape(), is(&[3, 4]));
    }
}
