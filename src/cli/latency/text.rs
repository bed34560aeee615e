//! What `gulliver latency` says without `--json`.

use std::{collections::BTreeMap, fmt::Write as _};

use super::answer::{Answer, OfBatch, WhatIf};
use crate::{
    cli::table::{aligned, word},
    device::{
        Comparison, Conditions, Evidence, KernelTime, Prediction,
        compare::{PartPair, Verdict},
        latency::Extrapolated,
    },
    report::format::{count, counted, fixed, percent, shortened},
};

/// Rows of a table where not all are asked for.
const ROWS: usize = 20;
/// Characters of a name where not all are asked for.
const NAME: usize = 60;
/// Reasons of extrapolation shown, and kernels named for each.
const REASONS: (usize, usize) = (5, 3);

/// The whole answer.
pub(super) fn text(answer: &Answer, all: bool) -> String {
    let mut text = String::new();
    if let Some(what_if) = &answer.what_if {
        text += &format!("{}\n", what_if_words(what_if));
    }
    if let Some(anchor) = &answer.measured {
        let _ = writeln!(
            text,
            "measured {} ms at batch {}, predicted {} ms: {} times as much; predictions at other batches are bent to agree",
            fixed(anchor.measured_ms, 3),
            anchor.batch,
            fixed(anchor.predicted_ms, 3),
            fixed(anchor.factor, 3)
        );
        anchor.warning.iter().for_each(|w| text += &format!("warning: {w}\n"));
    }
    text += &format!("conditions: {}\n\n", conditions(answer.conditions, answer.host_us));
    for of in &answer.batches {
        text += &batch(answer, of, all);
    }
    text + &format!("predicted, not measured. Known error of this profile: {}\n", answer.known_error)
}

fn what_if_words(what_if: &WhatIf) -> String {
    let layers: Vec<String> = what_if.layers.iter().map(|(p, n)| format!("{} in {p}", counted(*n as u64, "layer"))).collect();
    format!(
        "what if: {} wherever a layer can take it ({}); no accuracy was looked at and nothing rolled back",
        what_if.precision,
        layers.join(", ")
    )
}

fn conditions(given: Conditions, host_us: f64) -> String {
    let words = [
        (given.aipp, "image through AIPP"),
        (given.small_channel, "small-channel packing"),
        (given.integer_residual, "integer residual additions"),
    ];
    let mut said: Vec<String> = words.iter().filter(|(on, _)| *on).map(|(_, words)| (*words).to_string()).collect();
    if said.is_empty() {
        said.push("as ATC compiles unasked".into());
    }
    if host_us > 0.0 {
        said.push(format!("{} µs of the host for each inference", fixed(host_us, 1)));
    }
    said.join(", ")
}

fn batch(answer: &Answer, of: &OfBatch, all: bool) -> String {
    let prediction = &of.prediction;
    let mut text = format!(
        "{}, batch {}: {} ms predicted, {} samples/s\n{}\n\n",
        answer.device,
        of.batch,
        fixed(prediction.latency_ms, 3),
        count(of.fps.round() as u64),
        interval(answer, of)
    );
    text += &kernels(prediction, all);
    text += &format!("\n{}", kinds(of));
    text += &extrapolated(&prediction.extrapolated, answer.measured.is_none());
    if let (Some(compared), Some(other)) = (&of.compare, &answer.other) {
        text += &format!("\n{}", compare(compared, &other.display().to_string(), answer.evidence.as_ref(), all));
    }
    text + "\n"
}

fn interval(answer: &Answer, of: &OfBatch) -> String {
    let ends = |[low, high]: [f64; 2]| format!("{} to {} ms", fixed(low, 3), fixed(high, 3));
    match (of.prediction.interval_ms, &answer.measured) {
        (_, Some(anchor)) if anchor.batch == of.batch => "as you measured it".into(),
        (Some(interval), Some(_)) => format!("{}: nine in ten ratios to a measured point of the same network lie within", ends(interval)),
        (Some(interval), None) => format!("{}: nine in ten measurements of networks held out of the fit lie within", ends(interval)),
        (None, Some(_)) => "nothing but your point was measured on this chip: no interval".into(),
        (None, None) => "this chip was never measured: no interval can be given".into(),
    }
}

/// A share of a whole with one decimal.
fn share(part: f64, whole: f64) -> String {
    format!("{} %", fixed(100.0 * part / whole, 1))
}

fn name(kernel: &str, all: bool) -> String {
    if all { kernel.to_string() } else { shortened(kernel, NAME) }
}

fn kernels(prediction: &Prediction, all: bool) -> String {
    let mut sorted: Vec<&KernelTime> = prediction.kernels.iter().collect();
    sorted.sort_by(|a, b| b.us.total_cmp(&a.us));
    let whole = prediction.latency_ms * 1e3;
    let heading = ["kernel", "kind", "precision", "µs", "share", "sum", "cube", "vector", "L2", "DRAM", "bound by"];
    let mut rows = vec![heading.map(String::from).to_vec()];
    if all {
        rows[0].push("nodes".into());
    }
    let shown = if all { sorted.len() } else { sorted.len().min(ROWS) };
    let mut sum = 0.0;
    for k in &sorted[..shown] {
        sum += k.us;
        let figures = [k.parts.cube, k.parts.vector, k.parts.l2, k.parts.ddr].map(|us| if us > 0.0 { fixed(us, 1) } else { String::new() });
        let mut row = vec![name(&k.name, all), word(&k.op), k.precision.to_string(), fixed(k.us, 1), share(k.us, whole), share(sum, whole)];
        row.extend(figures);
        row.push(word(&k.bound));
        if all {
            row.push(k.nodes.join(" "));
        }
        rows.push(row);
    }
    let mut more = |words: String, us: f64, sum: f64| {
        rows.push(vec![words, String::new(), String::new(), fixed(us, 1), share(us, whole), share(sum, whole)]);
    };
    if let Some(rest) = sorted.get(shown..).filter(|rest| !rest.is_empty()) {
        let us = rest.iter().map(|k| k.us).sum::<f64>();
        sum += us;
        more(format!("({} more, --all shows them)", rest.len()), us, sum);
    }
    more("(fixed cost of an inference)".into(), prediction.fixed_us, sum + prediction.fixed_us);
    aligned(&rows) + "cube, vector, L2 and DRAM: µs of each part; they overlap, a launch comes on top\n"
}

fn kinds(of: &OfBatch) -> String {
    let mut rows = vec![["share of each kind", "kernels", "µs", "share"].map(String::from).to_vec()];
    for kind in &of.kinds {
        rows.push(vec![kind.op.words().into(), kind.kernels.to_string(), fixed(kind.us, 1), format!("{} %", fixed(100.0 * kind.share, 1))]);
    }
    let fixed_us = of.prediction.fixed_us;
    rows.push(vec![
        "fixed cost of an inference".into(),
        String::new(),
        fixed(fixed_us, 1),
        share(fixed_us, of.prediction.latency_ms * 1e3),
    ]);
    aligned(&rows)
}

/// The kernels that nothing measured resembles, by reason.
fn extrapolated(kernels: &[Extrapolated], widens: bool) -> String {
    if kernels.is_empty() {
        return String::new();
    }
    let mut reasons: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    kernels.iter().for_each(|e| reasons.entry(&e.why).or_default().push(&e.kernel));
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, kernels)| std::cmp::Reverse(kernels.len()));
    let effect = if widens { ", the interval is wider for them" } else { "" };
    let mut text = format!("\n{} unlike all that was measured{effect}:\n", counted(kernels.len() as u64, "kernel"));
    for (why, kernels) in reasons.iter().take(REASONS.0) {
        let named: Vec<String> = kernels.iter().take(REASONS.1).map(|k| shortened(k, NAME)).collect();
        let more = kernels.len().saturating_sub(REASONS.1);
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let _ = writeln!(text, "  {}{more}: {why}", named.join(", "));
    }
    if let Some(rest) = reasons.get(REASONS.0..).filter(|rest| !rest.is_empty()) {
        let _ = writeln!(text, "  and {} for other reasons (--json has them)", rest.iter().map(|(_, k)| k.len()).sum::<usize>());
    }
    text
}

fn compare(found: &Comparison, other: &str, evidence: Option<&Evidence>, all: bool) -> String {
    let [this_ms, other_ms] = found.latency_ms;
    let (gap, more) = ((this_ms - other_ms).abs(), if this_ms > other_ms { "more" } else { "less" });
    let mut text = format!(
        "against {other}: {} ms to its {} ms, {} × of it, {} ms {more}\n{}\n\n",
        fixed(this_ms, 3),
        fixed(other_ms, 3),
        fixed(found.ratio, 3),
        fixed(gap, 3),
        verdict(found, evidence)
    );
    let mut rows = vec![["kind", "kernels", "other's", "µs", "other's", "difference"].map(String::from).to_vec()];
    for kind in &found.kinds {
        rows.push(pair(kind.op.words().into(), kind.kernels, kind.us));
    }
    text += &aligned(&rows);
    let mut rows = vec![["part", "kernels", "other's", "µs", "other's", "difference"].map(String::from).to_vec()];
    let changed: Vec<&PartPair> = found.parts.iter().filter(|p| (p.us[0] - p.us[1]).abs() >= 0.05).collect();
    let shown = if all { changed.len() } else { changed.len().min(ROWS) };
    changed[..shown].iter().for_each(|p| rows.push(pair(name(&p.name, all), p.kernels, p.us)));
    if let Some(rest) = changed.get(shown..).filter(|rest| !rest.is_empty()) {
        let sum = |side: usize| rest.iter().map(|p| p.us[side]).sum::<f64>();
        let kernels = |side: usize| rest.iter().map(|p| p.kernels[side]).sum::<usize>();
        rows.push(pair(format!("({} more, --all shows them)", rest.len()), [kernels(0), kernels(1)], [sum(0), sum(1)]));
    }
    text += &match rows.len() {
        1 => "\nno part takes another time\n".into(),
        _ => format!("\n{}", aligned(&rows)),
    };
    let alone = |side: usize| {
        let parts: Vec<&PartPair> = found.parts.iter().filter(|p| p.kernels[1 - side] == 0).collect();
        format!("{} ({} µs)", parts.len(), fixed(parts.iter().map(|p| p.us[side]).sum(), 1))
    };
    let unchanged = found.parts.len() - changed.len();
    text + &format!(
        "{unchanged} of {} parts take the same time; only in this model: {}, only in the other: {}\n",
        found.parts.len(),
        alone(0),
        alone(1)
    )
}

fn pair(words: String, kernels: [usize; 2], us: [f64; 2]) -> Vec<String> {
    let number = |n: usize| if n > 0 { n.to_string() } else { String::new() };
    let time = |side: usize| if kernels[side] > 0 { fixed(us[side], 1) } else { String::new() };
    let gap = us[0] - us[1];
    let sign = if gap >= 0.05 { "+" } else { "" };
    vec![words, number(kernels[0]), number(kernels[1]), time(0), time(1), format!("{sign}{}", fixed(gap, 1))]
}

fn verdict(found: &Comparison, evidence: Option<&Evidence>) -> String {
    let of = if found.common < 0.5 { "two networks with little in common" } else { "two predictions for one network" };
    let error = || format!("the median error of a ratio of {of} is {}", percent((found.ratio_error.unwrap_or(0.0) * 1e3).round() / 1e3));
    match found.verdict {
        _ if evidence.is_none() => "whether that is more than the model errs is unknown: this chip was never measured".into(),
        Verdict::NotToldApart => format!("not told apart: {}", error()),
        Verdict::Likely => {
            format!("likely, not certain: {}, and the difference is larger, but within what nine in ten errors keep to", error())
        }
        Verdict::ToldApart | Verdict::Unknown => {
            format!("more than the model errs: {}, and nine in ten errors are smaller than this difference", error())
        }
    }
}
