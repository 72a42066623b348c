//! Lines and files stay short, and types have names of the field.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use super::Source;
use super::report;
use super::sources;

/// Columns of a line of Rust. A line that is one literal may be longer.
const RUST_COLUMNS_MAX: usize = 100;
/// Columns of a line of a page, but for tables, code and lines with an address.
const PAGE_COLUMNS_MAX: usize = 120;
/// A file of tests longer than this is two files.
const TEST_LINES_MAX: usize = 600;
/// Names that types had before they had those of the field.
const BANNED_TYPES: &[&str] = &[
    "Account",
    "Ahead",
    "Aside",
    "AtHand",
    "BasePlace",
    "Demand",
    "Estate",
    "Gate",
    "Goes",
    "Inside",
    "Keeper",
    "Kin",
    "Landing",
    "Legacy",
    "Look",
    "Looks",
    "Meaning",
    "Part",
    "Passing",
    "Place",
    "Placed",
    "Places",
    "Seen",
    "Settled",
    "Shelf",
    "Sought",
    "Standing",
    "Timestamp",
    "Told",
    "What",
    "Which",
];

fn all_rust() -> impl Iterator<Item = Source> {
    let folders = ["src", "mountd/src", "mountd/tests", "tests"];
    folders.into_iter().flat_map(sources)
}

/// Whether a line is a text in quotes, or the middle of one, and nothing else that could be broken.
fn is_one_literal(line: &str) -> bool {
    let line = line.trim();
    let quotes = line.matches('"').count() - line.matches("\\\"").count();
    let is_code = line.starts_with("//") || line.ends_with([';', '{']) && quotes == 0;
    !is_code && quotes <= 2
}

#[test]
fn lines_of_rust_are_short() {
    let mut faults = Vec::new();
    for source in all_rust() {
        for (n, line) in (1..).zip(source.text.lines()) {
            let columns = line.chars().count();
            if columns > RUST_COLUMNS_MAX && !is_one_literal(line) {
                faults.push(format!("{}:{n}: {columns} columns", source.path));
            }
        }
    }
    report(&faults);
}

fn pages(folder: &Path, out: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            // what others wrote, or a build did
            if name != "target" && !name.starts_with('.') {
                pages(&path, out);
            }
        } else if path.extension().is_some_and(|e| e == "md") {
            out.push(path);
        }
    }
}

#[test]
fn lines_of_pages_are_short() {
    let (mut all, mut faults) = (Vec::new(), Vec::new());
    pages(Path::new(env!("CARGO_MANIFEST_DIR")), &mut all);
    for page in all {
        let text = fs::read_to_string(&page).unwrap();
        let mut is_code = false;
        for (n, line) in (1..).zip(text.lines()) {
            is_code ^= line.trim_start().starts_with("```");
            let may_be_long = is_code || line.starts_with('|') || line.contains("://");
            let columns = line.chars().count();
            if columns > PAGE_COLUMNS_MAX && !may_be_long {
                faults.push(format!("{}:{n}: {columns} columns", page.display()));
            }
        }
    }
    report(&faults);
}

#[test]
fn files_of_tests_are_short() {
    let mut faults = Vec::new();
    for source in ["mountd/tests", "tests"].into_iter().flat_map(sources) {
        let lines = source.text.lines().count();
        if lines > TEST_LINES_MAX {
            faults.push(format!("{}: {lines} lines", source.path));
        }
    }
    report(&faults);
}

#[test]
fn types_have_names_of_the_field() {
    let mut faults = Vec::new();
    for source in all_rust() {
        for (n, line) in source.code() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let named = words
                .windows(2)
                .find(|pair| ["struct", "enum", "type", "trait", "union"].contains(&pair[0]));
            let Some(pair) = named else { continue };
            let name = pair[1].split(|c: char| !c.is_alphanumeric()).next();
            if name.is_some_and(|name| BANNED_TYPES.contains(&name)) {
                faults.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    report(&faults);
}

#[test]
fn a_literal_may_be_long_and_code_may_not() {
    for (line, may) in [
        (r#"    "a long text", "#, true),
        (r#"    let x = "a long text";"#, true),
        ("    // a long comment", false),
        ("    let x = call(one, two);", false),
        (r#"    call("one", "two");"#, false),
    ] {
        assert_eq!(is_one_literal(line), may, "{line}");
    }
}
