//! Modules import one way, in the order that `src/lib.rs` lists them, and a few words stand only where they may.

#![allow(clippy::unwrap_used)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The order, level by level: a module may use what stands before its level, and itself.
const ORDER: [&[&str]; 15] = [
    &["error"],
    &["precision"],
    &["graph"],
    &["data", "device", "runtime"],
    &["normalise"],
    &["spec"],
    &["space"],
    &["front", "trial"],
    &["compress"],
    &["train"],
    &["evaluate"],
    &["search"],
    &["study"],
    &["report"],
    &["cli"],
];

/// A source file less its comments and its tests.
struct Source {
    /// As seen from `src/`.
    path: PathBuf,
    text: String,
}

impl Source {
    /// Top-level module that the file belongs to.
    fn module(&self) -> String {
        let first = self.path.components().next().unwrap();
        Path::new(first.as_os_str()).file_stem().unwrap().to_str().unwrap().to_string()
    }

    fn is(&self, path: &str) -> bool {
        self.path == Path::new(path)
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut only_tests = BTreeSet::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let (text, test_files) = plain(&fs::read_to_string(&path).unwrap());
                only_tests.extend(test_files.into_iter().map(|name| path.with_file_name(format!("{name}.rs"))));
                found.push(Source { path, text });
            }
        }
    }
    let in_tests = |p: &Path| p.strip_prefix(&root).unwrap().components().any(|c| c.as_os_str() == "tests");
    found.retain(|s| !only_tests.contains(&s.path) && !in_tests(&s.path));
    found.iter_mut().for_each(|s| s.path = s.path.strip_prefix(&root).unwrap().to_path_buf());
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// A text less comments and whatever stands under `#[cfg(test)]`; and the names of its modules that are test files.
fn plain(text: &str) -> (String, Vec<String>) {
    let mut out = String::new();
    let mut test_files = Vec::new();
    let mut lines = text.lines().filter(|l| !l.trim_start().starts_with("//")).peekable();
    while let Some(line) = lines.next() {
        if line.trim() != "#[cfg(test)]" {
            out.push_str(line.split(" // ").next().unwrap());
            out.push('\n');
            continue;
        }
        // The source is formatted: what the attribute stands before ends at a `}` or `;` of its own indent.
        let indent = line.len() - line.trim_start().len();
        for line in lines.by_ref() {
            if let Some(name) = line.trim().strip_suffix(';').and_then(|l| l.rsplit_once("mod ")) {
                test_files.push(name.1.to_string());
            }
            let at_indent = line.len() - line.trim_start().len() == indent;
            if at_indent && (line.ends_with('}') || line.ends_with(';')) {
                break;
            }
        }
    }
    (out, test_files)
}

/// First segments of all paths that begin at `from`, such as `crate::`, a braced list taken apart.
fn paths(text: &str, from: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices(from) {
        if text[..at].ends_with(|c: char| word(c) || c == '$') {
            continue;
        }
        let rest = &text[at + from.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            found.insert(rest.chars().take_while(|c| word(*c)).collect());
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for c in list.chars() {
            match c {
                '}' if depth == 0 => break,
                '{' => depth += 1,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    found.insert(item.trim().chars().take_while(|c| word(*c)).collect());
                    item.clear();
                }
                _ => item.push(c),
            }
        }
        found.insert(item.trim().chars().take_while(|c| word(*c)).collect());
    }
    found.remove("");
    found
}

/// Top-level modules that a file uses. `Error` and `Result` at the root are the error module's.
fn used(source: &Source) -> BTreeSet<String> {
    let of_error = |name: String| if matches!(name.as_str(), "Error" | "Result") { "error".to_string() } else { name };
    paths(&source.text, "crate::").into_iter().chain(paths(&source.text, "gulliver::")).map(of_error).collect()
}

fn level(module: &str) -> Option<usize> {
    ORDER.iter().position(|modules| modules.contains(&module))
}

/// `file: what` for every file of a module that uses something `forbidden`.
fn violations(module: &str, forbidden: &[&str]) -> Vec<String> {
    let of_module = sources().into_iter().filter(|s| s.module() == module);
    of_module
        .flat_map(|s| used(&s).into_iter().filter(|m| forbidden.contains(&m.as_str())).map(move |m| format!("{}: {m}", s.path.display())))
        .collect()
}

/// Files whose code holds a word, less those that may.
fn holders(word: &str, allowed: impl Fn(&Source) -> bool) -> Vec<String> {
    let whole = |text: &str| {
        let part = |c: char| c.is_alphanumeric() || c == '_';
        text.match_indices(word).any(|(at, _)| !text[..at].ends_with(part) && !text[at + word.len()..].starts_with(part))
    };
    sources().iter().filter(|s| !allowed(s) && whole(&s.text)).map(|s| s.path.display().to_string()).collect()
}

#[test]
fn use_trees_and_inline_paths_are_taken_apart() {
    let text = "use crate::{\n    a::{b, c::{d}},\n    e,\n};\nfn f(x: &crate::g::H) {}\npub use crate::i;";
    assert_eq!(paths(text, "crate::"), ["a", "e", "g", "i"].map(String::from).into());
}

#[test]
fn comments_and_tests_are_not_looked_at() {
    let text = "//! crate::x\n#[cfg(test)]\nmod tests;\nuse a;\n#[cfg(test)]\nmod more {\n    use b;\n}\nuse c;\n";
    assert_eq!(plain(text), ("use a;\nuse c;\n".to_string(), vec!["tests".to_string()]));
}

#[test]
fn the_order_is_the_one_that_lib_rs_lists() {
    let library = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let listed: Vec<&str> = library.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let ordered: Vec<&str> = ORDER.iter().flat_map(|modules| modules.iter().copied()).collect();
    assert_eq!(listed, ordered);
}

#[test]
fn modules_import_one_way() {
    let mut wrong = Vec::new();
    for source in sources().iter().filter(|s| !s.is("lib.rs") && !s.is("main.rs")) {
        let own = source.module();
        let own_level = level(&own).unwrap_or_else(|| panic!("{} belongs to no module of the order", source.path.display()));
        for module in used(source) {
            let allowed = module == own || level(&module).is_some_and(|l| l < own_level);
            if !allowed {
                wrong.push(format!("{} uses {module}", source.path.display()));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

#[test]
fn no_file_leaves_its_module_by_super() {
    for source in sources().iter().filter(|s| !s.is("lib.rs") && !s.is("main.rs")) {
        let depth = source.path.components().count() - usize::from(source.path.ends_with("mod.rs"));
        let climbs = "super::".repeat(depth);
        assert!(!source.text.contains(&climbs), "{} reaches the crate's root by {climbs}", source.path.display());
    }
}

#[test]
fn the_search_sees_axes_costs_and_outcomes_only() {
    assert_eq!(violations("search", &["compress", "runtime", "graph", "device", "data", "evaluate"]), Vec::<String>::new());
}

#[test]
fn compression_sees_plans_and_never_candidates() {
    assert_eq!(holders("Candidate", |s| s.module() != "compress"), Vec::<String>::new());
}

#[test]
fn sessions_and_operators_call_onnx_runtime() {
    let files = ["session", "optimise", "operator", "convolution", "cutoff", "pooling", "quantizer", "scatter"];
    let may = |s: &Source| files.iter().any(|file| s.is(&format!("runtime/{file}.rs")));
    assert_eq!(holders("ort", may), Vec::<String>::new());
}

#[test]
fn only_the_command_line_prints() {
    let shown = |s: &Source| s.module() == "cli" || s.is("main.rs");
    for word in ["println", "eprintln", "print", "eprint", "dbg"] {
        let printing: Vec<String> = holders(word, shown).into_iter().filter(|path| contains_macro(path, word)).collect();
        assert_eq!(printing, Vec::<String>::new(), "{word}!");
    }
}

fn contains_macro(path: &str, name: &str) -> bool {
    sources().iter().filter(|s| s.is(path)).any(|s| s.text.contains(&format!("{name}!")))
}
