//! The tables of a report as data: one content for HTML, Markdown and the terminal.

use std::collections::BTreeMap;

use serde::Serialize;

use super::format::{self, Unit};
use super::{latency, words};
use crate::precision::Precision;
use crate::study::summary::{FrontPoint, Summary};

/// How a column's cells are dressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Plain words.
    Text,
    /// Figures, aligned at their right end.
    Number,
    /// Names from the user's files, shown letter by letter.
    Code,
    /// Words that are left out where there is little room.
    Aside,
    /// A precision, shown in its colour.
    Precision,
}

/// A column's heading.
#[derive(Debug, Clone, Serialize)]
pub struct Column {
    /// The heading.
    pub title: String,
    /// The dress of its cells.
    pub kind: Kind,
}

/// A table.
#[derive(Debug, Clone, Serialize)]
pub struct Table {
    /// Headings.
    pub columns: Vec<Column>,
    /// Cells, as many a row as there are columns.
    pub rows: Vec<Vec<String>>,
    /// A row that closes the table, in plain words.
    pub footer: Option<Vec<String>>,
    /// The row to look at first.
    pub marked: Option<usize>,
    /// For each row what there is to say of it beside its cells; shorter than the rows where there is nothing.
    pub hints: Vec<Option<String>>,
}

impl Table {
    fn new<const N: usize>(columns: [(&str, Kind); N]) -> Self {
        let columns = columns.map(|(title, kind)| Column { title: title.to_owned(), kind }).into();
        Self { columns, rows: Vec::new(), footer: None, marked: None, hints: Vec::new() }
    }

    fn push<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.into());
    }

    /// Leaves out the columns that say nothing in any row.
    fn without_empty_columns(self) -> Self {
        self.keeping(|_, cells| cells.iter().any(|cell| !cell.is_empty()))
    }

    /// Keeps the columns that are asked for, by their heading and their cells.
    fn keeping(mut self, asked: impl Fn(&Column, &[&str]) -> bool) -> Self {
        let cells = |c: usize| self.rows.iter().map(|row| row[c].as_str()).collect::<Vec<_>>();
        let kept: Vec<bool> = self.columns.iter().enumerate().map(|(c, column)| asked(column, &cells(c))).collect();
        let mut keep = kept.iter().copied();
        self.columns.retain(|_| keep.next().unwrap_or(false));
        for row in self.rows.iter_mut().chain(&mut self.footer) {
            let mut keep = kept.iter().copied();
            row.retain(|_| keep.next().unwrap_or(false));
        }
        self
    }
}

/// The front as it fits a terminal: without the plans and the search's own predictions.
pub fn narrow_front(summary: &Summary) -> Table {
    front(summary).keeping(|column, _| column.kind != Kind::Aside && column.title != "predicted drop")
}

/// The front with the float model in its first row; empty if there is no front.
pub fn front(summary: &Summary) -> Table {
    use Kind::{Aside, Number, Text};
    let unit = Unit::of(&summary.metric);
    let interval = format!("{} interval", format::percent(summary.budget.confidence));
    let drop = if unit == Unit::Points { "drop, points" } else { "drop" };
    let base = &summary.baseline;
    let (megabytes, one) = format::unit_of_bytes(base.bytes);
    let (of_ms, of_bytes) = (format::decimals(base.latency_ms, 4), format::decimals(base.bytes as f64 / one, 4));
    let millis = |ms: f64| format::fixed(ms, of_ms);
    let bytes = |bytes: u64| format::fixed(bytes as f64 / one, of_bytes);
    let size = format!("size, {megabytes}");
    let mut table = Table::new([
        ("trial", Number),
        (&summary.metric, Number),
        (drop, Number),
        (&interval, Number),
        ("predicted drop", Number),
        ("samples", Number),
        ("latency, ms", Number),
        ("of float's", Number),
        (&size, Number),
        ("of float's", Number),
        ("plan", Aside),
        ("", Text),
    ]);
    if summary.front.is_empty() {
        return table;
    }
    let none = String::new;
    table.push([
        "float".into(),
        unit.value(base.accuracy),
        none(),
        none(),
        none(),
        format::count(summary.samples as u64),
        latency::marked(millis(base.latency_ms), latency::marks_float(summary)),
        "1.00".into(),
        bytes(base.bytes),
        "1.00".into(),
        none(),
        none(),
    ]);
    let subject = words::subject(summary).map(|p| p.trial);
    for point in &summary.front {
        if Some(point.trial) == subject {
            table.marked = Some(table.rows.len());
        }
        table.push([
            point.trial.to_string(),
            unit.value(point.accuracy),
            unit.drop(point.drop),
            unit.interval(point.drop_low, point.drop_high).unwrap_or_default(),
            point.predicted_drop.map(|d| unit.drop(d)).unwrap_or_default(),
            format::count(point.samples as u64),
            latency::marked(millis(point.latency_ms), latency::is_marked(point)),
            format::ratio(point.latency_ms, base.latency_ms),
            bytes(point.bytes),
            format::ratio(point.bytes as f64, base.bytes as f64),
            plan(point),
            remark(summary, point, subject),
        ]);
    }
    table.hints = std::iter::once(None).chain(summary.front.iter().map(latency::hint)).collect();
    table.without_empty_columns()
}

fn remark(summary: &Summary, point: &FrontPoint, subject: Option<usize>) -> String {
    let place = match () {
        () if Some(point.trial) == summary.chosen => Some("chosen"),
        () if Some(point.trial) == subject => Some("nearest miss"),
        () => None,
    };
    [place, point.finetuned.then_some("fine-tuned")].into_iter().flatten().collect::<Vec<_>>().join(", ")
}

/// A plan in a few words: `6 int8, 2 int4, 1 fp16; 3 pruned; 1 low rank`.
pub fn plan(point: &FrontPoint) -> String {
    let number = |of: &dyn Fn(Precision) -> bool| point.layers.values().filter(|t| of(t.precision)).count();
    let precisions: Vec<String> =
        Precision::ALL.iter().map(|p| (number(&|q| q == *p), p)).filter(|(n, _)| *n > 0).map(|(n, p)| format!("{n} {p}")).collect();
    let pruned = point.layers.values().filter(|t| t.keep < 1.0).count();
    let ranked = point.layers.values().filter(|t| t.rank.is_some()).count();
    let sparse = point.layers.values().filter(|t| t.sparsity.is_some()).count();
    let rest = [(pruned, "pruned"), (ranked, "low rank"), (sparse, "4:2")];
    let rest = rest.into_iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}"));
    std::iter::once(precisions.join(", ")).filter(|p| !p.is_empty()).chain(rest).collect::<Vec<_>>().join("; ")
}

/// The plan of the chosen point or of the nearest miss, a layer a row, and what is left of the model in the last row.
pub fn layers(summary: &Summary) -> Table {
    use Kind::{Code, Number, Precision, Text};
    let mut table = Table::new([
        ("layer", Code),
        ("op", Text),
        ("weight", Number),
        ("precision", Precision),
        ("channels", Number),
        ("rank", Number),
        ("time, µs", Number),
        ("float, µs", Number),
        ("of float's", Number),
        ("share of latency", Number),
    ]);
    let total_us = words::subject(summary).map(|p| p.latency_ms * 1e3);
    let share = |us: f64| total_us.filter(|t| *t > 0.0).map(|t| format!("{} %", format::fixed(us / t * 100.0, 1))).unwrap_or_default();
    for row in &summary.layers {
        let (kept, all) = row.channels;
        table.push([
            row.layer.clone(),
            row.op.clone(),
            row.weight.iter().map(ToString::to_string).collect::<Vec<_>>().join("×"),
            row.treatment.precision.to_string(),
            if kept == all { all.to_string() } else { format!("{kept} of {all}") },
            row.treatment.reduced(),
            format::fixed(row.us, 1),
            format::fixed(row.float_us, 1),
            format::ratio(row.us, row.float_us),
            share(row.us),
        ]);
    }
    let rest = total_us.unwrap_or(0.0) - summary.layers.iter().map(|r| r.us).sum::<f64>();
    let float_rest = summary.baseline.latency_ms * 1e3 - summary.layers.iter().map(|r| r.float_us).sum::<f64>();
    if !summary.layers.is_empty() && rest > 0.05 && float_rest > 0.05 {
        let none = String::new;
        table.footer = Some(vec![
            "everything else".into(),
            none(),
            none(),
            none(),
            none(),
            none(),
            format::fixed(rest, 1),
            format::fixed(float_rest, 1),
            format::ratio(rest, float_rest),
            share(rest),
        ]);
    }
    table.without_empty_columns()
}

/// The steps back and forth, a row each.
pub fn rollback(summary: &Summary) -> Table {
    use Kind::{Code, Number, Text};
    let unit = Unit::of(&summary.metric);
    let drop = if unit == Unit::Points { "drop then, points" } else { "drop then" };
    let mut table = Table::new([
        ("trial", Number),
        ("from trial", Number),
        ("in", Code),
        ("from", Text),
        ("to", Text),
        (drop, Number),
        ("upper end", Number),
        ("latency then", Number),
        ("latency given back", Number),
        ("budget", Text),
    ]);
    for step in &summary.rollback {
        table.push([
            step.trial.to_string(),
            step.before.to_string(),
            step.layer.clone(),
            step.from.clone(),
            step.to.clone(),
            step.drop.map(|d| unit.drop(d)).unwrap_or_default(),
            step.drop_high.map(|d| unit.drop(d)).unwrap_or_default(),
            format::millis(step.latency_ms),
            format::millis(step.cost_ms),
            if step.held { "holds" } else { "does not hold" }.into(),
        ]);
    }
    table.without_empty_columns()
}

/// What became of the trials off the front, by reason.
pub fn outcomes(summary: &Summary) -> Table {
    let mut table = Table::new([("outcome", Kind::Text), ("why", Kind::Text), ("trials", Kind::Number)]);
    let mut counts: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for point in &summary.cloud {
        *counts.entry((&point.status, &point.why)).or_default() += 1;
    }
    for ((status, why), n) in counts {
        table.push([status.replace('_', " "), why.replace('_', " "), format::count(n)]);
    }
    if summary.cost.failed > 0 {
        table.push([
            "failed".into(),
            "could not be built or run; the journal has the reasons".into(),
            format::count(summary.cost.failed as u64),
        ]);
    }
    table
}

/// Where the numbers come from.
pub fn facts(summary: &Summary) -> Table {
    let mut table = Table::new([("fact", Kind::Text), ("value", Kind::Text)]);
    let (cost, facts) = (&summary.cost, &summary.facts);
    let passes = cost.samples_inferred as f64 / summary.samples.max(1) as f64;
    let limits = [
        summary.budget.accuracy_drop.map(|d| format!("drop at most {}", Unit::of(&summary.metric).limit_in_words(d))),
        summary.budget.latency_ms.map(|ms| format!("latency at most {}", format::millis_limit(ms))),
        summary.budget.bytes.map(|b| format!("size at most {}", format::bytes(b))),
    ];
    let limits = limits.into_iter().flatten().collect::<Vec<_>>().join(", ");
    let known = [
        ("model", summary.model.clone()),
        ("device, batch", format!("{}, {}", summary.device, format::count(summary.batch as u64))),
        ("metric", format!("{} on {} samples", summary.metric, format::count(summary.samples as u64))),
        ("limits", if limits.is_empty() { "none".into() } else { limits }),
        (
            "trials",
            format!(
                "{}: {} rejected by a limit alone, {} stopped early, {} failed",
                format::count(cost.trials as u64),
                format::count(cost.rejected_by_limit as u64),
                format::count(cost.stopped_early as u64),
                format::count(cost.failed as u64)
            ),
        ),
        ("space", format!("{} candidates", format::power_of_ten(facts.space_log10))),
        ("search", format!("{}, seed {}", facts.strategy, facts.seed)),
        ("end of search", words::stop(&summary.stop)),
        ("wall time", format::duration(cost.seconds)),
        (
            "samples inferred",
            format!("{}, as many as {} full passes", format::count(cost.samples_inferred), format::significant(passes, 2)),
        ),
        ("one pass of float", format::duration(cost.baseline_pass_seconds)),
        ("latency model", facts.latency_model.clone()),
        ("latency errors", summary.latency_error.as_ref().map_or("not in the profile".into(), latency::fact)),
        ("gulliver", facts.version.clone()),
        ("ONNX Runtime", facts.onnxruntime.clone()),
        ("SHA-256 of spec", facts.spec_sha256.clone()),
        ("SHA-256 of model", facts.model_sha256.clone()),
        ("SHA-256 of data", facts.data_sha256.clone()),
    ];
    for (fact, value) in known {
        table.push([fact.to_owned(), value]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    fn titles(table: &Table) -> Vec<&str> {
        table.columns.iter().map(|c| c.title.as_str()).collect()
    }

    #[test]
    fn every_row_has_a_cell_for_every_column() {
        for (name, summary) in fixture::all() {
            for table in [front(&summary), layers(&summary), rollback(&summary), outcomes(&summary), facts(&summary)] {
                assert!(table.rows.iter().chain(&table.footer).all(|row| row.len() == table.columns.len()), "{name}: {table:?}");
            }
        }
    }

    #[test]
    fn columns_that_say_nothing_are_left_out() {
        assert!(titles(&front(&fixture::within())).contains(&"95 % interval"));
        let command = front(&fixture::command_metric());
        assert!(!titles(&command).contains(&"95 % interval"), "{command:?}");
    }

    #[test]
    fn the_float_model_leads_and_the_chosen_point_is_marked() {
        let summary = fixture::within();
        let table = front(&summary);
        assert_eq!(table.rows[0][0], "float");
        assert_eq!(table.marked.map(|r| table.rows[r][0].clone()), summary.chosen.map(|c| c.to_string()));
    }

    #[test]
    fn shares_of_latency_add_up_to_the_whole() {
        let table = layers(&fixture::within());
        let sum: f64 =
            table.rows.iter().chain(&table.footer).filter_map(|row| row.last()?.trim_end_matches(" %").parse::<f64>().ok()).sum();
        assert!((sum - 100.0).abs() < 0.6, "{sum}");
    }

    #[test]
    fn a_plan_reads_in_a_few_words() {
        insta::assert_snapshot!(plan(&fixture::within().front[0]), @"1 fp16, 5 int8, 3 int4; 5 pruned; 1 low rank");
    }
}
