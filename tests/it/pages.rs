//! What pages say that a test holds: the test is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

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

/// The README's examples name commands and options that there are. Those of mounts are the daemon's, whose own tests run them.
#[test]
fn the_readme_names_what_there_is() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let page = fs::read_to_string(path).unwrap();
    let mut count = 0;
    for line in page.lines().filter(|line| line.starts_with("bigsmall ")) {
        let words: Vec<&str> = line.split('#').next().unwrap().split_whitespace().collect();
        let verb = words[1];
        if ["mount", "unmount", "mounts"].contains(&verb) {
            continue;
        }
        let help = std::process::Command::new(env!("CARGO_BIN_EXE_bigsmall"))
            .args([verb, "--help"])
            .output()
            .unwrap();
        assert!(help.status.success(), "{line}");
        let help = String::from_utf8(help.stdout).unwrap();
        for option in words.iter().filter(|word| word.starts_with('-')) {
            let is_there = |line: &str| line.split([' ', ',', '[']).any(|word| word == *option);
            assert!(help.lines().any(is_there), "{line}: {option}");
        }
        count += 1;
    }
    assert!(count >= 8, "{count}");
}
