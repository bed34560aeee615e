//! Text tables with aligned columns.

/// Lines of cells as text: the first line is the heading; cells that look like numbers go to the right.
pub fn aligned(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |c: usize| rows.iter().filter_map(|r| r.get(c)).map(|s| s.chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let numeric = |c: usize| {
        rows.iter()
            .skip(1)
            .filter_map(|r| r.get(c))
            .all(|s| s.is_empty() || s.starts_with(|x: char| x.is_ascii_digit() || "-+−.".contains(x)))
    };
    let right: Vec<bool> = (0..columns).map(numeric).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (c, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths[c] - cell.chars().count());
            let cell = if right[c] { format!("{padding}{cell}") } else { format!("{cell}{padding}") };
            line.push_str(&cell);
            line.push_str("  ");
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// A unit variant as it stands in JSON.
pub fn word(value: &impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|v| v.as_str().map(String::from)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_go_right_and_words_left() {
        let rows = [vec!["layer", "MACs"], vec!["a", "5"], vec!["long", "1000"]].map(|r| r.into_iter().map(String::from).collect());
        assert_eq!(aligned(&rows), "layer  MACs\na         5\nlong   1000\n");
    }
}
