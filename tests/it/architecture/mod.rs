//! The house rules, checked by reading the sources: imports point down and never in a ring,
//! `unsafe` stays in its rooms, rooms are labelled and stay small.

mod floors;
mod lengths;
mod rings;

use std::fs;
use std::path::Path;

/// The only files in which `unsafe` may appear.
const UNSAFE: &[&str] = &[
    "mountd/src/wire/device.rs",
    "src/base/lease.rs",
    "src/entropy/simd/avx2/context.rs",
    "src/entropy/simd/avx2/mod.rs",
    "src/entropy/simd/avx2/r16.rs",
    "src/entropy/simd/avx2/r32.rs",
    "src/entropy/simd/avx2/vectors.rs",
    "src/entropy/simd/avx512/context.rs",
    "src/entropy/simd/avx512/mod.rs",
    "src/entropy/simd/avx512/r16.rs",
    "src/entropy/simd/avx512/r32.rs",
    "src/entropy/simd/avx512/vectors.rs",
    "src/entropy/simd/neon/context.rs",
    "src/entropy/simd/neon/mod.rs",
    "src/entropy/simd/neon/vectors.rs",
    "src/kernels/avx2.rs",
    "src/kernels/avx512.rs",
    "src/kernels/neon.rs",
];
/// Of the verbs, the only files that may put files in place or remove them by themselves, and why:
/// elsewhere that is done by `ops/companions.rs`, which takes along what belongs to a file.
const REMOVERS: &[&str] = &[
    // that place
    "src/ops/companions.rs",
    // an original, whose parity stays for the way back
    "src/ops/convert/mod.rs",
    // the record of what was converted
    "src/ops/record.rs",
    // links, and folders that nobody has seen yet
    "src/ops/unpack.rs",
    "src/ops/folder/output.rs",
    "src/ops/compress/mirror.rs",
    // an image that only a measurement has needed
    "src/ops/bench.rs",
];
/// The same for outputs that are put in place.
const COMMITTERS: &[&str] = &[
    "src/ops/companions.rs",
    // a file by its own parity, and parity itself
    "src/ops/repair.rs",
    "src/ops/protect.rs",
    // a new folder
    "src/ops/reshard/list.rs",
    "src/ops/reshard/mod.rs",
    // its memory
    "src/ops/scrub.rs",
];
/// A file longer than this (tests apart) is two files.
const FILE_LINES_MAX: usize = 600;
/// A command parses, calls one op and renders; more is in the wrong place.
const COMMAND_LINES_MAX: usize = 130;
/// Names that say nothing, or tell history.
const BANNED_NAMES: &[&str] = &[
    "utils", "util", "common", "misc", "manager", "helpers", "v2", "new",
];

struct Source {
    /// Path from the repository root.
    path: String,
    text: String,
}

impl Source {
    fn room(&self) -> Option<&str> {
        self.path
            .strip_prefix("src/")?
            .split_once('/')
            .map(|(room, _)| room)
    }

    fn is_room_door(&self) -> bool {
        self.path.ends_with("/mod.rs") && self.path.matches('/').count() == 2
    }

    /// Numbered lines of code, comments cut off, inline tests left out.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let lines = self.text.lines().take_while(|line| *line != "#[cfg(test)]");
        lines
            .enumerate()
            .map(|(n, line)| (n + 1, line.split("//").next().unwrap_or("")))
    }
}

fn sources(folder: &str) -> Vec<Source> {
    fn walk(root: &Path, folder: &Path, out: &mut Vec<Source>) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(root, &path, out);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                let path = path
                    .strip_prefix(root)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                out.push(Source { path, text });
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut out = Vec::new();
    walk(root, &root.join(folder), &mut out);
    assert!(!out.is_empty(), "no sources under {folder}");
    out
}

fn all_sources() -> Vec<Source> {
    sources("src")
        .into_iter()
        .chain(sources("mountd/src"))
        .collect()
}

/// Names that follow `prefix` in a line: `crate::a::b` gives `a`.
fn names<'a>(line: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    line.split(prefix).skip(1).map(|rest| {
        rest.split(|c: char| !c.is_alphanumeric() && c != '_')
            .next()
            .unwrap_or("")
    })
}

fn has_word(line: &str, word: &str) -> bool {
    line.split(|c: char| !c.is_alphanumeric() && c != '_')
        .any(|part| part == word)
}

fn report(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}

/// Only whoever asks for `--metrics` gets a socket of the network, and that listens.
#[test]
fn nothing_talks_to_the_network() {
    let mut faults = Vec::new();
    for source in all_sources() {
        let may_listen = ["mountd/src/daemon/metrics.rs", "mountd/src/daemon/tell.rs"];
        let words: &[&str] = if may_listen.contains(&source.path.as_str()) {
            &["UdpSocket", "ToSocketAddrs", "reqwest", "hyper"]
        } else {
            &[
                "TcpStream",
                "TcpListener",
                "UdpSocket",
                "ToSocketAddrs",
                "reqwest",
                "hyper",
            ]
        };
        for (number, line) in source.code() {
            let connects = line.contains("TcpStream::connect");
            if connects || words.iter().any(|word| has_word(line, word)) {
                faults.push(format!("{}:{number}: {line}", source.path));
            }
        }
    }
    report(&faults);
}

#[test]
fn unsafe_stays_in_its_rooms() {
    let mut faults = Vec::new();
    for source in all_sources()
        .iter()
        .filter(|source| !UNSAFE.contains(&&*source.path))
    {
        for (n, _) in source.code().filter(|(_, line)| has_word(line, "unsafe")) {
            faults.push(format!("{}:{n}: unsafe", source.path));
        }
    }
    report(&faults);
}

/// A file that is replaced or removed takes its parity along.
#[test]
fn files_go_with_what_belongs_to_them() {
    let mut faults = Vec::new();
    for source in sources("src/ops") {
        let path = source.path.as_str();
        let code: Vec<(usize, &str)> = source.code().collect();
        let makes_files = code.iter().any(|(_, line)| line.contains("OutputFile::"));
        for (n, line) in code {
            let removes = ["remove_file(", "remove_names("];
            let removes =
                removes.iter().any(|call| line.contains(call)) && !REMOVERS.contains(&path);
            // folders are put in place by `output.commit()`
            let line = line.replace("output.commit()", "");
            let puts = line.contains("output.commit(") || line.contains("file.commit(");
            if removes || puts && makes_files && !COMMITTERS.contains(&path) {
                faults.push(format!("{path}:{n}: not by `ops/companions.rs`"));
            }
        }
    }
    report(&faults);
}

#[test]
fn rooms_are_labelled_small_and_plain() {
    let mut faults = Vec::new();
    for source in all_sources() {
        let path = &source.path;
        let lines = source.code().count();
        let most = if path.contains("/commands/") {
            COMMAND_LINES_MAX
        } else {
            FILE_LINES_MAX
        };
        if lines > most {
            faults.push(format!("{path}: {lines} lines, at most {most}"));
        }
        if !source.text.starts_with("//! ") {
            faults.push(format!("{path}: does not say what it is for"));
        }
        if !source.text.is_ascii() {
            faults.push(format!("{path}: not ASCII"));
        }
        let stem = Path::new(path).file_stem().unwrap().to_str().unwrap();
        if BANNED_NAMES.contains(&stem) {
            faults.push(format!("{path}: a name that says nothing"));
        }
        for (n, line) in source.code() {
            if line.contains("use crate::{") || line.contains("use bigsmall::{") {
                faults.push(format!("{path}:{n}: write full paths, one a line"));
            }
        }
    }
    report(&faults);
}

#[test]
fn the_library_is_rooms_and_main_names_the_command_line() {
    for source in sources("src") {
        let allowed: fn(&str) -> bool = match source.path.as_str() {
            "src/lib.rs" => |line| {
                let line = line.trim();
                line.is_empty()
                    || ["pub mod ", "pub(crate) mod ", "#[cfg", "compile_error!"]
                        .iter()
                        .any(|s| line.starts_with(s))
            },
            "src/main.rs" => |line| names(line, "bigsmall::").all(|used| used == "cli"),
            _ => continue,
        };
        for (n, line) in source.code() {
            assert!(allowed(line), "{}:{n}: {line}", source.path);
        }
    }
}

#[test]
fn the_top_level_holds_only_what_it_should() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let known = [
        "Cargo.toml",
        "Cargo.lock",
        "src",
        "mountd",
        "tests",
        "scripts",
        "docs",
        "README.md",
        "LICENSE",
        "target",
    ];
    for entry in fs::read_dir(root).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name.starts_with('.') || known.contains(&name.as_str()),
            "`{name}` at the top level"
        );
    }
}
