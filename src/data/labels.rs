//! Label files: one line a sample, `name label` or, where the order of the samples is plain, `label`.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use crate::error::{Error, Result};

/// Reads the labels of the samples `names` from a text file.
///
/// Fields are separated by white space or a comma; blank lines and lines that start with `#` are skipped. Lines with names
/// may come in any order, lines without names are in the samples' order. With `by_name`, every line needs a name.
///
/// # Errors
/// The file cannot be read; a line is malformed; a sample is missing, named twice or unknown; the numbers differ.
pub(super) fn read(file: &Path, names: &[String], by_name: bool) -> Result<Vec<u32>> {
    let text = fs::read_to_string(file).map_err(Error::io("read", file))?;
    let remedy = if by_name { "write one line an image: NAME LABEL" } else { "write one label a line, or NAME LABEL on every line" };
    let mut lines = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, label) = match line.rsplit_once([' ', '\t', ',', ';']) {
            Some((name, label)) => (Some(name.trim_end_matches([' ', '\t', ',', ';'])), label),
            None => (None, line),
        };
        let wrong = |what: &str| Error::data(file, format!("line {} ({line}) {what}", number + 1), remedy);
        let label: u32 = label.parse().map_err(|_| wrong("does not end in a class number"))?;
        if by_name && name.is_none() {
            return Err(wrong("names no image"));
        }
        lines.push((name, label));
    }
    if lines.len() != names.len() {
        let missing = lines.iter().filter_map(|(name, _)| *name).collect::<std::collections::HashSet<_>>();
        let first = names.iter().find(|name| !missing.contains(name.as_str())).filter(|_| !missing.is_empty());
        let example = first.map(|name| format!("; {name} has none")).unwrap_or_default();
        return Err(Error::data(file, format!("holds {} labels for {} samples{example}", lines.len(), names.len()), remedy));
    }
    if lines.iter().all(|(name, _)| name.is_none()) {
        return Ok(lines.into_iter().map(|(_, label)| label).collect());
    }
    let mut by_name = HashMap::new();
    for (name, label) in &lines {
        let name = name.ok_or_else(|| Error::data(file, "names samples on some lines only", remedy))?;
        if by_name.insert(name, *label).is_some() {
            return Err(Error::data(file, format!("names {name} twice"), remedy));
        }
    }
    let label = |name: &String| by_name.get(name.as_str()).copied();
    names.iter().map(|name| label(name).ok_or_else(|| Error::data(file, format!("has no label for {name}"), remedy))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(text: &str, names: &[&str], by_name: bool) -> Result<Vec<u32>, String> {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("l.txt");
        fs::write(&file, text).unwrap();
        let names: Vec<String> = names.iter().map(|n| (*n).to_owned()).collect();
        read(&file, &names, by_name).map_err(|e| e.to_string().replace(&*file.to_string_lossy(), "l.txt"))
    }

    #[test]
    fn names_may_come_in_any_order_and_hold_spaces() {
        let text = "# the labels\nb.png 2\n\na cat.png, 1\nc.png\t0\n";
        assert_eq!(labels(text, &["a cat.png", "b.png", "c.png"], true), Ok(vec![1, 2, 0]));
    }

    #[test]
    fn plain_labels_follow_the_order_of_the_samples() {
        assert_eq!(labels("5\n6\n", &["x", "y"], false), Ok(vec![5, 6]));
        assert_eq!(labels("5\n6\n", &["x", "y"], true).unwrap_err(), "data l.txt: line 1 (5) names no image");
    }

    #[test]
    fn every_sample_needs_exactly_one_label() {
        assert_eq!(labels("a 1\n", &["a", "b"], true).unwrap_err(), "data l.txt: holds 1 labels for 2 samples; b has none");
        assert_eq!(labels("1\n2\n3\n", &["a", "b"], false).unwrap_err(), "data l.txt: holds 3 labels for 2 samples");
        assert_eq!(labels("a 1\na 2\n", &["a", "b"], true).unwrap_err(), "data l.txt: names a twice");
        assert_eq!(labels("a 1\nc 2\n", &["a", "b"], true).unwrap_err(), "data l.txt: has no label for b");
        assert_eq!(labels("a 1\n2\n", &["a", "b"], false).unwrap_err(), "data l.txt: names samples on some lines only");
    }

    #[test]
    fn a_label_that_is_no_number_is_told_with_its_line() {
        assert_eq!(labels("a cat\n", &["a"], true).unwrap_err(), "data l.txt: line 1 (a cat) does not end in a class number");
    }
}
