//! `report.md`, and the front as a plain table for the terminal.

use super::format::{self, Unit};
use super::table::{self, Column, Kind, Table};
use super::{latency, notes, words};
use crate::study::summary::Summary;

/// The whole report in Markdown, its pictures beside it as `front.svg` and `layers.svg`.
pub fn page(summary: &Summary) -> String {
    let title = format!("# {}\n\n**{}.**\n", code(&summary.model), prose(&words::headline(summary)));
    let mut parts = vec![title];
    if let Some(tiles) = tiles(summary) {
        parts.push(tiles);
    }
    parts.push("![Accuracy drop against predicted latency](front.svg)\n".to_owned());
    let subject = words::subject(summary).map(|p| p.trial);
    let plan = subject.map_or("The plan".to_owned(), |trial| format!("The plan of trial {trial}"));
    section(&mut parts, "The front", &table::front(summary));
    let sentences = Some(latency::sentences(summary).join(" ")).filter(|s| !s.is_empty());
    parts.extend(latency::footnote(summary).into_iter().chain(sentences).map(|s| format!("{}\n", prose(&s))));
    if summary.front.iter().any(|p| p.predicted_drop.is_some()) {
        parts.push("![Predicted against measured drop](drops.svg)\n".to_owned());
    }
    section(&mut parts, &plan, &table::layers(summary));
    if !summary.layers.is_empty() {
        parts.push("![Predicted time of each layer](layers.svg)\n".to_owned());
    }
    section(&mut parts, "Steps around the budget", &table::rollback(summary));
    section(&mut parts, "Trials off the front", &table::outcomes(summary));
    let notes: String = notes(summary).iter().map(|note| format!("- {}\n", prose(note))).collect();
    parts.push(format!("## How to read the figures\n\n{notes}"));
    section(&mut parts, "Facts", &table::facts(summary));
    parts.join("\n")
}

/// The front as an aligned table for the terminal, about 110 columns wide; a sentence where there is no front.
pub fn front_table(summary: &Summary) -> String {
    let table = table::narrow_front(summary);
    if table.rows.is_empty() {
        return "the front is empty\n".to_owned();
    }
    let widths: Vec<usize> = (0..table.columns.len())
        .map(|c| table.rows.iter().map(|row| &row[c]).chain([&table.columns[c].title]).map(|cell| cell.chars().count()).max().unwrap_or(0))
        .collect();
    let line = |mark: char, cells: &mut dyn Iterator<Item = &String>| {
        let cells = cells.zip(&widths).zip(&table.columns).map(|((cell, &width), column)| match column.kind {
            Kind::Number => format!("{cell:>width$}"),
            _ => format!("{cell:<width$}"),
        });
        let line = format!("{mark} {}", cells.collect::<Vec<_>>().join("  "));
        format!("{}\n", line.trim_end())
    };
    let mut text = line(' ', &mut table.columns.iter().map(|c| &c.title));
    for (i, row) in table.rows.iter().enumerate() {
        text += &line(if table.marked == Some(i) { '*' } else { ' ' }, &mut row.iter());
    }
    text + &latency::footnote(summary).map(|f| format!("{f}\n")).unwrap_or_default()
}

fn tiles(summary: &Summary) -> Option<String> {
    let point = words::subject(summary)?;
    let (unit, base) = (Unit::of(&summary.metric), &summary.baseline);
    Some(format!(
        "| | float | trial {} |\n|---|---:|---:|\n| {} | {} | {} |\n| predicted latency | {} | {} |\n| deployed size | {} | {} |\n",
        point.trial,
        prose(&summary.metric),
        unit.value(base.accuracy),
        unit.value(point.accuracy),
        format::millis(base.latency_ms),
        format::millis(point.latency_ms),
        format::bytes(base.bytes),
        format::bytes(point.bytes),
    ))
}

fn section(parts: &mut Vec<String>, title: &str, table: &Table) {
    if !table.rows.is_empty() {
        parts.push(format!("## {title}\n\n{}", markdown(table)));
    }
}

fn markdown(table: &Table) -> String {
    let row = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = row(table.columns.iter().map(|c| prose(&c.title)).collect());
    let rule = |c: &Column| if c.kind == Kind::Number { "---:" } else { "---" };
    text += &format!("|{}|\n", table.columns.iter().map(rule).collect::<Vec<_>>().join("|"));
    for (i, cells) in table.rows.iter().enumerate() {
        let dress = |(column, cell): (&Column, &String)| match column.kind {
            _ if cell.is_empty() => String::new(),
            Kind::Code => code(cell),
            _ if table.marked == Some(i) => format!("**{}**", prose(cell)),
            _ => prose(cell),
        };
        text += &row(table.columns.iter().zip(cells).map(dress).collect());
    }
    if let Some(cells) = &table.footer {
        text += &row(cells.iter().map(|cell| prose(cell)).collect());
    }
    text
}

/// Words that Markdown must not take for its own signs.
fn prose(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '~' => safe.extend(['\\', letter]),
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// A name between backticks, fit for a table's cell.
fn code(text: &str) -> String {
    let letters = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    format!("`{}`", letters.collect::<String>().replace('`', "'").replace('|', "\\|"))
}

#[cfg(test)]
mod tests {
    use super::super::fixture;
    use super::*;

    #[test]
    fn the_report_reads_as_markdown() {
        insta::assert_snapshot!(page(&fixture::within()));
    }

    #[test]
    fn a_missed_budget_marks_the_nearest_miss() {
        insta::assert_snapshot!(front_table(&fixture::missed()));
    }

    #[test]
    fn the_terminal_table_is_aligned() {
        insta::assert_snapshot!(front_table(&fixture::within()));
    }

    #[test]
    fn an_empty_front_is_said_and_not_drawn() {
        assert_eq!(front_table(&fixture::empty()), "the front is empty\n");
        assert!(!page(&fixture::empty()).contains("## The front"));
    }

    #[test]
    fn names_cannot_break_out_of_a_table() {
        let mut summary = fixture::within();
        summary.layers[0].layer = "a|b`c\n<d>".into();
        summary.model = "*x*".into();
        let page = page(&summary);
        assert!(page.contains("| `a\\|b'c <d>` |"), "{page}");
        assert!(page.starts_with("# `*x*`"));
    }
}
