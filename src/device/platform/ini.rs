//! The lines of an ini file, with their numbers; whatever is no `key=value` is passed over.

/// A file's `key=value` lines in their order.
pub struct Ini<'a>(Vec<Line<'a>>);

/// One `key=value`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'a> {
    /// The section it stands in, without brackets; empty before the first.
    pub section: &'a str,
    /// What stands before the first `=`.
    pub key: &'a str,
    /// What stands behind it, less a comment; empty in `memory_size=`.
    pub value: &'a str,
    /// Counted from 1.
    pub number: usize,
}

impl<'a> Ini<'a> {
    /// Takes a text apart. A comment runs from a `#` or `;` to the end of its line; space around names and values goes.
    pub fn parse(text: &'a str) -> Self {
        let mut section = "";
        let mut lines = Vec::new();
        for (at, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            let line = line.split(['#', ';']).next().unwrap_or_default().trim();
            if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
                section = name.trim();
            } else if let Some((key, value)) = line.split_once('=') {
                lines.push(Line { section, key: key.trim(), value: value.trim(), number: at + 1 });
            }
        }
        Self(lines)
    }

    /// The line of a key, the last where there are several.
    pub fn line(&self, section: &str, key: &str) -> Option<Line<'a>> {
        self.section(section).filter(|l| l.key == key).last()
    }

    /// The lines of a section, wherever it was opened.
    pub fn section(&self, name: &str) -> impl Iterator<Item = Line<'a>> {
        self.0.iter().copied().filter(move |l| l.section == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(text: &str, section: &str, key: &str) -> Option<(String, usize)> {
        Ini::parse(text).line(section, key).map(|l| (l.value.to_string(), l.number))
    }

    #[test]
    fn lines_keep_their_section_and_number_past_comments_and_windows_line_ends() {
        let text = "\u{feff}# begin\r\n[a]\r\nx = 1 # one\r\n\r\n[ b ]\r\nx=2;two\r\n";
        assert_eq!(value(text, "a", "x"), Some(("1".into(), 3)));
        assert_eq!(value(text, "b", "x"), Some(("2".into(), 6)));
        assert_eq!(value(text, "b", "y"), None);
    }

    #[test]
    fn a_key_may_have_no_value_and_a_value_may_hold_more_signs() {
        assert_eq!(value("[a]\nx=\ny=1=2", "a", "x"), Some((String::new(), 2)));
        assert_eq!(value("[a]\nx=\ny=1=2", "a", "y"), Some(("1=2".into(), 3)));
    }

    #[test]
    fn of_the_same_key_all_are_listed_and_the_last_is_meant() {
        let text = "[a]\nx=1\n[b]\n[a]\nnonsense\nx=2";
        assert_eq!(value(text, "a", "x"), Some(("2".into(), 6)));
        assert_eq!(Ini::parse(text).section("a").count(), 2);
    }
}
