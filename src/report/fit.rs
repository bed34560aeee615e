//! The report of a fit of the cost model, as Markdown: errors before, after and held out, by family and kind of kernel.

use std::fmt::Write;

use super::format;
use crate::device::{
    coefficients::NAMES,
    fit::{
        judgement::Judgement,
        validate::{Held, Score, quantile},
    },
};

/// The report; the two pictures beside it are `predicted.svg` and `families.svg`.
pub fn fit_markdown(found: &Judgement) -> String {
    let mut page = format!("# Cost model of {}\n\n{}\n\n", found.device, found.data);
    let of_kernels = found.kinds.iter().any(|k| k.errors.is_some());
    let how = if of_kernels {
        "a fifth of the kernels at a time, each predicted by a fit that has not seen it"
    } else {
        "each family of networks predicted by a fit that has seen none of its members, all fits starting from the same guess"
    };
    let floor = match found.evidence.noise_floor {
        0.0 => "an unknown share".into(),
        floor => percent(floor),
    };
    let _ = writeln!(
        page,
        "Absolute relative error of predicted against measured time. *Held out*: {how}. Measurements of one point differ among themselves by {floor} in the median.\n",
    );
    page.push_str(&scores(found));
    let factor = format::fixed(found.evidence.factor_90, 2);
    let best = found.score_held_out.as_ref().unwrap_or(&found.score_after);
    let ratio = best.anchored.map_or(String::new(), |r| {
        format!(
            " Once one batch of a network is measured, its other batches are off by {} in the median; that is the error between two predictions for one network.",
            percent(r)
        )
    });
    let _ = writeln!(page, "\nNine in ten of these measurements lie between prediction / {factor} and prediction × {factor}.{ratio}\n");
    let held = if found.held_out.is_empty() { &found.fitted } else { &found.held_out };
    let whose = if found.held_out.is_empty() { "fitted" } else { "held out" };
    let _ = writeln!(page, "![predicted against measured](predicted.svg)\n\n![errors by family](families.svg)\n\n## By family, {whose}\n");
    page.push_str(&families(held));
    let _ = writeln!(page, "\n## By network and batch, {whose}\n\nPredicted time over measured time, less one.\n");
    page.push_str(&networks(held));
    if !found.ratios.is_empty() {
        page.push_str("\n## Other precisions\n\nTime in FP16 over time in the precision, fitted.\n\n");
        page.push_str("| network | precision | batch | measured | predicted | off by |\n|---|---|---|---|---|---|\n");
        for r in &found.ratios {
            let _ = writeln!(
                page,
                "| {} | {} | {} | {} | {} | {} |",
                r.network,
                r.precision,
                r.batch,
                format::fixed(r.measured, 2),
                format::fixed(r.predicted, 2),
                signed(r.predicted / r.measured - 1.0)
            );
        }
    }
    for other in &found.others {
        let _ = writeln!(page, "\n## {}, only the chip's figures changed\n", other.device);
        page.push_str(HEADING);
        let _ = writeln!(page, "{}\n", row("carried over", &other.score));
        page.push_str(&networks(&other.predictions));
    }
    if !found.implausible.is_empty() {
        page.push_str(
            "\n## Implausible measurements, which a fit leaves out\n\n| what | batch | measured, ms | predicted, ms |\n|---|---|---|---|\n",
        );
        for h in &found.implausible {
            let [measured, predicted] = [h.measured_ms, h.predicted_ms].map(|ms| format::fixed(ms, 3));
            let _ = writeln!(page, "| {} | {} | {measured} | {predicted} |", h.network, h.batch);
        }
    }
    page.push_str(
        "\n## Kinds of kernels\n\n| kind | kernels | share of predicted time | error before | error after |\n|---|---|---|---|---|\n",
    );
    for kind in &found.kinds {
        let [before, after] = kind.errors.map_or(["".into(), "".into()], |e| e.map(percent));
        let _ = writeln!(page, "| {} | {} | {} | {before} | {after} |", kind.op.words(), kind.kernels, percent(kind.share));
    }
    page.push_str("\n## Coefficients\n\n| | before | after |\n|---|---|---|\n");
    for ((name, _), (before, after)) in NAMES.iter().zip(found.before.values().into_iter().zip(found.after.values())) {
        let _ =
            writeln!(page, "| {name} | {} | {} |", format::trimmed(&format::fixed(before, 3)), format::trimmed(&format::fixed(after, 3)));
    }
    page
}

const HEADING: &str = "| | rows | median | p75 | p90 | within 25 % | Spearman, batch 1 / 8 / 32 | pairs in order | batch curve | other batches, one measured |\n|---|---|---|---|---|---|---|---|---|---|\n";

fn scores(found: &Judgement) -> String {
    let mut table = String::from(HEADING);
    let _ = writeln!(table, "{}", row("before", &found.score_before));
    let _ = writeln!(table, "{}", row("fitted", &found.score_after));
    if let Some(score) = &found.score_held_out {
        let _ = writeln!(table, "{}", row("held out", score));
    }
    table
}

fn row(name: &str, score: &Score) -> String {
    let three = score.spearman.map(|s| s.map_or("–".into(), |s| format::fixed(s, 3))).join(" / ");
    let share = |s: Option<f64>| s.map_or("–".into(), percent);
    format!(
        "| {name} | {} | {} | {} | {} | {} | {three} | {} | {} | {} |",
        score.rows,
        percent(score.median),
        percent(score.p75),
        percent(score.p90),
        percent(score.within_25),
        share(score.pairs),
        share(score.curve),
        share(score.anchored)
    )
}

fn families(held: &[Held]) -> String {
    let mut table = String::from("| family | rows | median | p90 | bias |\n|---|---|---|---|---|\n");
    for family in names(held, |h| &h.family) {
        let mut errors: Vec<f64> = held.iter().filter(|h| h.family == family).map(Held::error).collect();
        errors.sort_by(f64::total_cmp);
        let bias = quantile(&errors, 0.5).exp() - 1.0;
        let mut sizes: Vec<f64> = errors.iter().map(|e| (e.exp() - 1.0).abs()).collect();
        sizes.sort_by(f64::total_cmp);
        let (median, p90) = (quantile(&sizes, 0.5), quantile(&sizes, 0.9));
        let _ = writeln!(table, "| {family} | {} | {} | {} | {} |", sizes.len(), percent(median), percent(p90), signed(bias));
    }
    table
}

fn networks(held: &[Held]) -> String {
    let mut batches: Vec<usize> = held.iter().map(|h| h.batch).collect();
    batches.sort_unstable();
    batches.dedup();
    let mut table = format!("| network | {} |\n|---|", batches.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | "));
    let _ = writeln!(table, "{}", "---|".repeat(batches.len()));
    for network in names(held, |h| &h.network) {
        let cell = |batch: &usize| {
            let found = held.iter().find(|h| h.network == network && h.batch == *batch);
            found.map_or(String::new(), |h| signed(h.error().exp() - 1.0))
        };
        let _ = writeln!(table, "| {network} | {} |", batches.iter().map(cell).collect::<Vec<_>>().join(" | "));
    }
    table
}

/// Names in order of first appearance.
pub(super) fn names<'a>(held: &'a [Held], of: impl Fn(&'a Held) -> &'a String) -> Vec<&'a str> {
    let mut found: Vec<&str> = Vec::new();
    for name in held.iter().map(of) {
        if !found.contains(&name.as_str()) {
            found.push(name);
        }
    }
    found
}

fn percent(share: f64) -> String {
    format!("{} %", format::fixed(100.0 * share, 1))
}

fn signed(share: f64) -> String {
    let words = format::fixed(100.0 * share.abs(), 0);
    if words == "0" { "0 %".into() } else { format!("{}{words} %", if share < 0.0 { "−" } else { "+" }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::precision::Precision;

    fn held(network: &str, batch: usize, measured_ms: f64, predicted_ms: f64) -> Held {
        Held { network: network.into(), family: "f".into(), batch, precision: Precision::Fp16, measured_ms, predicted_ms }
    }

    #[test]
    fn a_network_has_a_line_and_a_missing_batch_an_empty_cell() {
        let table = networks(&[held("a", 1, 1.0, 1.1), held("a", 8, 2.0, 1.0), held("b", 8, 1.0, 1.0)]);
        assert_eq!(table.lines().collect::<Vec<_>>(), ["| network | 1 | 8 |", "|---|---|---|", "| a | +10 % | −50 % |", "| b |  | 0 % |"]);
    }

    #[test]
    fn a_family_has_its_median_and_its_bias() {
        let table = families(&[held("a", 1, 1.0, 1.1), held("a", 8, 1.0, 1.2), held("b", 8, 1.0, 0.9)]);
        assert!(table.contains("| f | 3 | 10.0 % |") && table.contains("+10 %"), "{table}");
    }
}
