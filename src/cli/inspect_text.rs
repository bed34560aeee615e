//! The tables of `gulliver inspect` for people.

use std::collections::BTreeMap;

use super::{
    inspect::{Inspection, LayerInfo},
    table::aligned,
};

/// More names than this are counted, not listed.
const LISTED: usize = 4;

pub(super) fn text(inspection: &Inspection) -> String {
    let mut parts = Vec::new();
    for (input, dims) in &inspection.assumed {
        parts.push(format!("assumed: input {input} is {}; --shape {input}:{} says otherwise", shape(dims), commas(dims)));
    }
    if let Some(reason) = &inspection.not_runnable {
        parts.push(format!("ONNX Runtime cannot run this model, so it can be looked at, not compressed: {reason}"));
    }
    parts.push(if inspection.layers.is_empty() { "no layer can be compressed".into() } else { layers(inspection) });
    let several = |g: &&super::inspect::GroupInfo| g.layers.len() > 1;
    section(&mut parts, "channels that go together", {
        let groups = inspection.groups.iter().enumerate().filter(|(_, g)| several(g));
        groups.map(|(i, g)| format!("group {}, {} units: {}", i + 1, g.channels, g.layers.join(", "))).collect()
    });
    let whys = inspection.layers.iter().flat_map(|l| l.why_not.iter().map(move |(what, why)| (format!("{what}: {why}"), l.name.clone())));
    section(&mut parts, "why not", by_reason(whys));
    section(&mut parts, "left in float", {
        by_reason(inspection.skipped.iter().map(|s| (s.why_not.clone(), format!("{} ({})", s.name, s.op))))
    });
    section(&mut parts, "layers made of several nodes", {
        let of_several = inspection.layers.iter().filter(|l| l.nodes.len() > 1);
        of_several.map(|l| format!("{} with {}", l.name, l.nodes[1..].join(", "))).collect()
    });
    parts.join("\n\n")
}

fn section(parts: &mut Vec<String>, heading: &str, lines: Vec<String>) {
    if !lines.is_empty() {
        parts.push(format!("{heading}:\n  {}", lines.join("\n  ")));
    }
}

/// A line for every reason with the names it holds for.
fn by_reason(all: impl Iterator<Item = (String, String)>) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    let mut names: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (reason, name) in all {
        if !names.contains_key(&reason) {
            order.push(reason.clone());
        }
        names.entry(reason).or_default().push(name);
    }
    let line = |reason: String| {
        let list = &names[&reason];
        let more = if list.len() > LISTED { format!(" and {} more", list.len() - LISTED) } else { String::new() };
        format!("{reason}: {}{more}", list[..list.len().min(LISTED)].join(", "))
    };
    order.into_iter().map(line).collect()
}

fn layers(inspection: &Inspection) -> String {
    let heading = ["layer", "op", "in", "out", "weight", "weights", "MACs", "time", "group", "precision", "keep", "rank"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    let number: BTreeMap<&str, usize> = inspection.groups.iter().enumerate().map(|(i, g)| (g.name.as_str(), i + 1)).collect();
    rows.extend(inspection.layers.iter().map(|l| row(l, &number)));
    let total = |of: fn(&LayerInfo) -> u64| short(inspection.layers.iter().map(of).fold(0, u64::saturating_add));
    let mut sum = vec![String::new(); heading.len()];
    sum[0] = format!("{} layers", inspection.layers.len());
    (sum[5], sum[6]) = (total(|l| l.weights), total(|l| l.macs));
    sum[7] = format!("{:.1}%", 100.0 * inspection.layers.iter().map(|l| l.latency_share).sum::<f64>());
    rows.push(sum);
    aligned(&rows).trim_end().to_string()
}

fn row(l: &LayerInfo, number: &BTreeMap<&str, usize>) -> Vec<String> {
    let join = |v: Vec<String>| if v.is_empty() { "–".to_string() } else { v.join(" ") };
    let inner = |dims: &Option<Vec<usize>>| dims.as_ref().map_or("?".into(), |d| shape(d.get(1..).unwrap_or_default()));
    let only_one = |v: &[f64]| v.len() < 2;
    vec![
        l.name.clone(),
        l.op.clone(),
        inner(&l.input_shape),
        inner(&l.output_shape),
        shape(&l.weight),
        short(l.weights),
        short(l.macs),
        format!("{:.1}%", 100.0 * l.latency_share),
        l.group.as_ref().and_then(|g| number.get(g.as_str())).map_or("–".into(), ToString::to_string),
        join(l.options.precision.iter().map(ToString::to_string).collect()),
        join(if only_one(&l.options.keep) { vec![] } else { l.options.keep.iter().map(ToString::to_string).collect() }),
        join(l.options.rank.iter().map(ToString::to_string).collect()),
    ]
}

fn shape(dims: &[usize]) -> String {
    dims.iter().map(ToString::to_string).collect::<Vec<_>>().join("×")
}

fn commas(dims: &[usize]) -> String {
    dims.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// A count with its unit of a thousand.
fn short(n: u64) -> String {
    match n {
        0..10_000 => n.to_string(),
        10_000..10_000_000 => format!("{:.0}k", n as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.0}M", n as f64 / 1e6),
        _ => format!("{:.1}G", n as f64 / 1e9),
    }
}
