//! docs/semantics.md and the tests that hold its sentences: each is quoted by a test, and no test
//! quotes what is not there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const MARK: &str = "docs/semantics.md: ";

/// The sentences that comments of a test file quote: from the mark to the end of the comment.
fn quoted(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap();
    let mut quoted: Vec<String> = Vec::new();
    let mut goes_on = false;
    for line in text.lines().map(str::trim) {
        let comment = line.strip_prefix("// ").or_else(|| line.strip_prefix("# "));
        match (comment, comment.and_then(|words| words.strip_prefix(MARK))) {
            (_, Some(first)) => quoted.push(first.to_owned()),
            (Some(more), None) if goes_on => {
                let sentence = quoted.last_mut().unwrap();
                sentence.push(' ');
                sentence.push_str(more);
            }
            _ => {}
        }
        goes_on = comment.is_some() && (goes_on || line.contains(MARK));
    }
    quoted
}

#[test]
fn each_sentence_is_held_by_a_test() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/semantics.md")).unwrap();
    // a sentence that is longer than a line goes on below, set in by two
    let page = page.replace("\n  ", " ");
    let promised = page.lines().filter_map(|line| line.strip_prefix("- "));
    let promised: BTreeSet<String> = promised.map(str::to_owned).collect();
    assert!(promised.len() > 20);
    let mut held = BTreeSet::new();
    for folder in ["mountd/tests", "tests/python"] {
        for entry in fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|e| e == "rs" || e == "py") {
                held.extend(quoted(&path));
            }
        }
    }
    let not_held: Vec<_> = promised.difference(&held).collect();
    let not_promised: Vec<_> = held.difference(&promised).collect();
    assert!(
        not_held.is_empty() && not_promised.is_empty(),
        "{not_held:#?} {not_promised:#?}"
    );
}
