//! How often a `Loop` runs, where that does not depend on data: the condition to go on holds always, or counts.

use std::collections::{HashMap, HashSet};

use super::{
    fold::{self, Small},
    proto::{GraphProto, NodeProto},
    shape::{Known, Shapes},
};

/// Nodes of a condition's computation, all trips together, that are evaluated at most.
const BUDGET: usize = 4096;
/// Elements of a value that a condition is computed from, at most.
const LARGEST: usize = 16;

/// The number of trips; `inner` has the shapes of the body's values.
pub(super) fn trips(node: &NodeProto, body: &GraphProto, known: &Known, inner: &Shapes) -> Option<usize> {
    let absent = |slot: usize| node.input.get(slot).is_none_or(String::is_empty);
    let most = if absent(0) { usize::MAX } else { usize::try_from(*known.ints(node, 0)?.first()?).ok()? };
    let mut goes_on = absent(1) || *known.ints(node, 1)?.first()? != 0;
    if !goes_on {
        return Some(0);
    }
    let end = body.output.first()?.name();
    if body.input.get(1)?.name() == end {
        return (!absent(0)).then_some(most);
    }
    let (nodes, carried) = condition(body)?;
    let mut small = constants(body, &nodes, known);
    let mut state = carried.iter().map(|&i| known.small.get(node.input.get(i)?).cloned()).collect::<Option<Vec<_>>>()?;
    let mut done = 0;
    // A condition of constants alone is evaluated once.
    let counts = !carried.is_empty() || reads(&nodes, body.input.first()?.name());
    while goes_on && done < most {
        small.insert(body.input[0].name().to_string(), Small { dims: vec![], data: vec![done as f64], kind: fold::Kind::Int });
        small.insert(body.input[1].name().to_string(), Small { dims: vec![], data: vec![1.0], kind: fold::Kind::Int });
        for (&i, value) in carried.iter().zip(state) {
            small.insert(body.input[i].name().to_string(), value);
        }
        for node in &nodes {
            let value = fold::evaluate(node, &small, |n| inner.dims(n)).filter(|v| v.data.len() <= LARGEST)?;
            small.insert(node.output.first()?.clone(), value);
        }
        goes_on = *small.get(end)?.ints().first()? != 0;
        state = carried.iter().map(|&i| small.get(body.output.get(i - 1)?.name()).cloned()).collect::<Option<Vec<_>>>()?;
        done += 1;
        if goes_on && !counts {
            return (!absent(0)).then_some(most);
        }
        if done.checked_mul(nodes.len() + 1)? > BUDGET {
            return None;
        }
    }
    Some(done)
}

/// The nodes that the condition is computed by, in order, and the inputs of the loop whose carried values it needs.
fn condition(body: &GraphProto) -> Option<(Vec<&NodeProto>, Vec<usize>)> {
    let mut needed: HashSet<&str> = HashSet::from([body.output.first()?.name()]);
    let mut carried: Vec<usize> = vec![];
    loop {
        let mut nodes: Vec<&NodeProto> = vec![];
        for node in body.node.iter().rev() {
            if node.output.first().is_some_and(|o| needed.contains(o.as_str())) {
                needed.extend(node.input.iter().map(String::as_str).filter(|i| !i.is_empty()));
                nodes.push(node);
            }
        }
        let more: Vec<usize> = (2..body.input.len()).filter(|i| !carried.contains(i) && needed.contains(body.input[*i].name())).collect();
        if nodes.len() > 64 || carried.len() + more.len() > 8 {
            return None;
        }
        if more.is_empty() {
            nodes.reverse();
            return Some((nodes, carried));
        }
        for &i in &more {
            needed.insert(body.output.get(i - 1)?.name());
        }
        carried.extend(more);
    }
}

fn reads(nodes: &[&NodeProto], value: &str) -> bool {
    nodes.iter().any(|n| n.input.iter().any(|i| i == value))
}

/// Small constants that the nodes read, from the body and around it.
fn constants(body: &GraphProto, nodes: &[&NodeProto], known: &Known) -> HashMap<String, Small> {
    let read: HashSet<&str> = nodes.iter().flat_map(|n| &n.input).map(String::as_str).chain(body.output.iter().map(|o| o.name())).collect();
    let outer = read.iter().filter_map(|&n| Some((n.to_string(), known.small.get(n)?.clone())));
    let own = body.initializer.iter().filter(|t| read.contains(t.name()));
    outer.chain(own.filter_map(|t| Some((t.name().to_string(), fold::constant(t)?)))).collect()
}

#[cfg(test)]
mod tests {
    use crate::graph::{
        proto::{AttributeProto, GraphProto, NodeProto, ValueInfoProto, attribute_proto::AttributeType},
        shape_case::{Case, case, is},
        tensor::{from_i64, node},
    };

    /// A loop over a value of three elements that stacks it and goes on as some nodes make `go_on`; it carries a counter.
    fn counted(condition: Vec<NodeProto>, limit: i64) -> Case {
        let values =
            |names: &[&str]| names.iter().map(|n| ValueInfoProto { name: Some((*n).into()), ..Default::default() }).collect::<Vec<_>>();
        let mut scalars = [from_i64("limit", &[limit]), from_i64("one", &[1]), from_i64("true", &[1])];
        scalars.iter_mut().for_each(|t| t.dims.clear());
        let body = GraphProto {
            input: values(&["i", "go", "count", "x"]),
            node: [condition, vec![node("Add", "a", &["count", "one"], &["next"], vec![]), node("Relu", "r", &["x"], &["y"], vec![])]]
                .concat(),
            output: values(&["go_on", "next", "x", "y"]),
            initializer: scalars.to_vec(),
            ..Default::default()
        };
        let kind = Some(AttributeType::Graph as i32);
        case("Loop").attribute(AttributeProto { name: Some("body".into()), r#type: kind, g: Some(body), ..Default::default() })
    }

    fn less(a: &str) -> Vec<NodeProto> {
        vec![node("Less", "l", &[a, "limit"], &["go_on"], vec![])]
    }

    fn run(case: Case, first: i64) -> Vec<crate::graph::shape_case::Found> {
        case.scalar(first).of(&[3]).outputs(3)
    }

    #[test]
    fn a_loop_that_counts_to_a_limit_stops_there() {
        assert_eq!(run(counted(less("count"), 4).is(&[100]).without(), 0), [is(&[]), is(&[3]), is(&[5, 3])]);
        assert_eq!(run(counted(less("i"), 4).is(&[100]).without(), 0)[2], is(&[5, 3]));
        assert_eq!(run(counted(less("count"), 4).is(&[2]).without(), 0)[2], is(&[2, 3]));
        assert_eq!(run(counted(less("count"), 4).is(&[2]).is(&[0]), 0)[2], is(&[0, 3]));
    }

    #[test]
    fn a_condition_that_always_holds_leaves_it_to_the_trip_count() {
        let always = || vec![node("Identity", "t", &["true"], &["go_on"], vec![])];
        assert_eq!(run(counted(always(), 0).is(&[1 << 40]).without(), 0)[2], is(&[1 << 40, 3]));
        assert_eq!(run(counted(always(), 0).without().without(), 0)[2], None);
        let given = vec![node("Identity", "g", &["go"], &["go_on"], vec![])];
        assert_eq!(run(counted(given, 0).is(&[7]).without(), 0)[2], is(&[7, 3]));
    }

    #[test]
    fn counting_for_long_or_by_data_is_given_up() {
        assert_eq!(run(counted(less("count"), i64::MAX).is(&[i64::MAX]).without(), 0)[2], None);
        assert_eq!(run(counted(less("x"), 4).is(&[100]).without(), 0)[2], None);
        assert_eq!(run(counted(less("count"), 4).of(&[]).without(), 0)[2], None);
    }
}
