//! What pages say that a test holds: the test is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

fn text_of(folder: &Path, extension: &str, out: &mut String) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text_of(&path, extension, out);
        } else if path.extension().is_some_and(|found| found == extension) {
            out.push_str(&fs::read_to_string(path).unwrap());
        }
    }
}

/// Names of all tests, Rust's and Python's.
fn tests() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut rust = String::new();
    for folder in ["src", "tests/it", "mountd/src", "mountd/tests"] {
        text_of(&root.join(folder), "rs", &mut rust);
    }
    let mut python = String::new();
    text_of(&root.join("tests/python"), "py", &mut python);
    let of = |text: &str, word: &str| -> Vec<String> {
        let lines = text.lines().map(str::trim_start);
        let named = lines.filter_map(|line| line.strip_prefix(word)?.split('(').next());
        named.map(str::to_owned).collect()
    };
    let both = [of(&rust, "fn "), of(&python, "def ")];
    both.into_iter().flatten().collect()
}

#[test]
fn every_test_that_a_table_names_exists() {
    let tests = tests();
    for (page, at_least) in [("docs/python-package.md", 25), ("docs/SECURITY.md", 13)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(page);
        let page_text = fs::read_to_string(path).unwrap();
        let rows = page_text.lines().filter(|line| line.starts_with("| "));
        let last = rows.filter_map(|row| row.trim_end_matches('|').rsplit('|').next());
        let quoted = last.flat_map(|cell| cell.split('`').skip(1).step_by(2));
        let is_name = |word: &&str| word.contains('_') && !word.contains(['/', '.']);
        let named: Vec<&str> = quoted
            .filter(is_name)
            .filter(|word| *word != "decode_block")
            .collect();
        assert!(named.len() >= at_least, "{page}: {named:?}");
        for name in named {
            assert!(tests.contains(name), "{page} names `{name}`");
        }
    }
}

/// The examples of pages name commands and options that there are. Those of mounts are the
/// daemon's, whose own tests run them.
#[test]
fn examples_name_what_there_is() {
    let mut count = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        for line in fenced(&page).filter(|line| line.starts_with("bigsmall ")) {
            let words = line.split(['#', '|']).next().unwrap();
            let words: Vec<&str> = words.split_whitespace().collect();
            let verb = words[1];
            if ["mount", "unmount", "mounts"].contains(&verb) {
                continue;
            }
            let help = std::process::Command::new(env!("CARGO_BIN_EXE_bigsmall"))
                .args([verb, "--help"])
                .output()
                .unwrap();
            assert!(help.status.success(), "{}: {line}", path.display());
            let help = String::from_utf8(help.stdout).unwrap();
            let options = words
                .iter()
                .filter(|word| word.starts_with('-') && word.len() > 1);
            for option in options {
                let is_there = |line: &str| line.split([' ', ',', '[']).any(|word| word == *option);
                let is_known = help.lines().any(is_there);
                assert!(is_known, "{}: {line}: {option}", path.display());
            }
            count += 1;
        }
    }
    assert!(count >= 30, "{count}");
}

/// The lines of a page between fences.
fn fenced(page: &str) -> impl Iterator<Item = &str> {
    page.split("```").skip(1).step_by(2).flat_map(str::lines)
}

/// Every page of the project.
fn pages() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages = vec![
        root.join("README.md"),
        root.join("src/gpu/kernels/README.md"),
    ];
    for folder in ["docs", "docs/benchmarks"] {
        let entries = fs::read_dir(root.join(folder)).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        pages.extend(paths.filter(|path| path.extension().is_some_and(|it| it == "md")));
    }
    pages
}

/// What a heading is called in an address.
fn anchor(heading: &str) -> String {
    let kept = |c: char| c.is_alphanumeric() || c == '-' || c == '_' || c == ' ';
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars()
        .filter(|c| kept(*c))
        .collect::<String>()
        .replace(' ', "-")
}

/// The addresses of links and pictures in a page.
fn links(page: &str) -> Vec<&str> {
    let behind = page.split("](").skip(1);
    behind.filter_map(|rest| rest.split(')').next()).collect()
}

#[test]
fn links_lead_to_what_is_there() {
    let mut count = 0;
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        for link in links(&page) {
            if link.contains("://") {
                continue;
            }
            let (file, part) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                path.clone()
            } else {
                path.with_file_name(file)
            };
            assert!(target.exists(), "{}: {link}", path.display());
            if !part.is_empty() {
                let there = fs::read_to_string(&target).unwrap();
                let mut headings = there.lines().filter(|line| line.starts_with('#'));
                assert!(
                    headings.any(|it| anchor(it) == part),
                    "{}: {link}",
                    path.display()
                );
            }
            count += 1;
        }
    }
    assert!(count > 80, "{count}");
}

/// Rows of tables and lines with an address cannot be broken, and what a program printed is not.
#[test]
fn lines_of_pages_have_at_most_120_columns() {
    for path in pages() {
        let page = fs::read_to_string(&path).unwrap();
        let mut is_printed = false;
        for line in page.lines() {
            if line.starts_with("```") {
                is_printed = line == "```console";
            }
            if is_printed {
                continue;
            }
            let is_whole = line.starts_with('|') || line.contains("://");
            let columns = line.chars().count();
            assert!(is_whole || columns <= 120, "{}: {line}", path.display());
        }
    }
}

#[test]
fn the_readme_is_short() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    assert!(fs::read_to_string(path).unwrap().lines().count() <= 90);
}
