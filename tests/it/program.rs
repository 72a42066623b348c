//! The program itself, run in a folder of a test's own, and what it says.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;

/// Not started yet. What it remembers stays in the folder, too.
pub(crate) fn command(folder: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bigsmall"));
    command
        .args(words)
        .current_dir(folder)
        .env("XDG_CACHE_HOME", folder)
        .env("XDG_STATE_HOME", folder)
        .stdin(Stdio::null());
    command
}

pub(crate) fn bigsmall(folder: &Path, words: &[&str]) -> Output {
    command(folder, words).output().unwrap()
}

/// Run as somebody who is kept out of what is closed: root is not.
pub(crate) fn as_nobody(folder: &Path, words: &[&str]) -> Output {
    let mut command = command(folder, words);
    if fs::metadata(folder).unwrap().uid() == 0 {
        command.uid(65_534).gid(65_534);
    }
    command.output().unwrap()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The report of a run with this exit code.
pub(crate) fn report(folder: &Path, words: &[&str], expected: i32) -> Value {
    let output = bigsmall(folder, &[words, &["--json"]].concat());
    assert_eq!(code(&output), expected, "{words:?}: {}", stderr(&output));
    json(&output)
}

/// The report of a run with `--json`.
pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// What the report of a run has passed over: each name with the reason.
pub(crate) fn skipped(report: &Value) -> Vec<(String, String)> {
    let all = report["skipped"].as_array().cloned().unwrap_or_default();
    let mut skipped: Vec<_> = all
        .iter()
        .map(|skipped| {
            let path = Path::new(skipped["path"].as_str().unwrap());
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, skipped["reason"].as_str().unwrap().to_owned())
        })
        .collect();
    skipped.sort();
    skipped
}

/// The names in a folder.
pub(crate) fn names(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = names
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// The Python with numpy that `scripts/test` makes. Tests that need it are ignored elsewhere.
pub(crate) fn python() -> String {
    let named = std::env::var("BIGSMALL_PYTHON");
    named.expect("BIGSMALL_PYTHON must name a Python with numpy: `scripts/test` makes one")
}
