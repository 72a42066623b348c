//! Folders as they are found: with pipes, closed folders and files that are not what they are
//! called.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use crate::models;
use crate::program::as_nobody;
use crate::program::bigsmall;
use crate::program::code;
use crate::program::command;
use crate::program::json;
use crate::program::names;
use crate::program::skipped;
use crate::program::stderr;
use crate::roundtrip::put;

/// Longer than any of these commands takes on a slow machine.
const PATIENCE: Duration = Duration::from_mins(1);

fn make_fifo(path: &Path) {
    nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
}

fn allow(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// The exit code, if it ends in time; what does not is killed.
fn ends(child: &mut Child) -> Option<i32> {
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code();
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    None
}

/// One of each command that walks a folder or opens what it is told.
const COMMANDS: &[&str] = &[
    "compress src -o out",
    "compress src -o out --resume --force",
    "compress src -o one.bs",
    "compress src -o series --series",
    "compress src/m.safetensors -o m.bs",
    "compress src/m.safetensors -o n.bs --base lib",
    "compress src/m.safetensors -o o.bs --auto-delta --base-dir lib",
    "compress src/pipes/x.safetensors -o p.bs",
    "decompress lib -o back",
    "decompress lib/m.bs -o back/m --base lib",
    "verify lib",
    "verify lib/pipes/m.bs",
    "scrub lib --memory memory",
    "scrub lib --memory lib/pipes/x.bs",
    "protect lib",
    "repair lib/pipes/m.bs",
    "info lib",
    "scan src lib",
    "stat src",
    "diff src lib",
    "xray src",
    "migrate lib",
    "transcode lib other --profile storage",
    "reshard lib cut",
    "convert src --dry-run",
    "restore lib --all --dry-run",
    "rm lib/m.bs --dry-run",
    "import lib/pipes/x.bs -o q.bs",
];

/// Pipes wherever commands look, under every name that they look for.
fn make_fifos(at: &Path) {
    fs::create_dir_all(at.join("src/pipes")).unwrap();
    fs::create_dir_all(at.join("lib/pipes")).unwrap();
    put(&at.join("src/m.safetensors"), &models::small_file());
    let words = ["compress", "src/m.safetensors", "-o", "lib/m.bs"];
    assert_eq!(code(&bigsmall(at, &words)), 0);
    for place in ["src", "lib"] {
        for name in [
            "x.safetensors",
            "x.bs",
            "x.bs.par",
            "m.bs.par",
            "model.safetensors.index.json",
            ".bigsmall-converted",
            ".m.bs.part-1-2",
            "0123abcd",
        ] {
            make_fifo(&at.join(place).join("pipes").join(name));
        }
        fs::copy(at.join("lib/m.bs"), at.join(place).join("pipes/m.bs")).unwrap();
    }
    // a run looks at these for what another has left
    for name in [
        ".out.part-1-2",
        ".one.bs.part-1-2",
        ".back.part-1-2",
        ".m.bs.part-3-4",
    ] {
        make_fifo(&at.join(name));
    }
    make_fifo(&at.join("digests"));
}

#[test]
fn no_command_opens_a_fifo() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    make_fifos(at);
    let mut hung = Vec::new();
    for words in COMMANDS {
        let words: Vec<&str> = words.split(' ').collect();
        let mut child = command(at, &words)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        if ends(&mut child).is_none() {
            hung.push(words.join(" "));
        }
    }
    assert!(hung.is_empty(), "{hung:#?}");
    // what could be done was done, and what was left out was named
    assert_eq!(names(&at.join("out/pipes")), ["m.bs"]);
    let found = bigsmall(at, &["compress", "src", "-o", "again", "--json"]);
    assert_eq!(code(&found), 1);
    assert_eq!(skipped(&json(&found)).len(), 8);
    assert!(
        skipped(&json(&found))
            .iter()
            .all(|(_, why)| why == "not-a-file")
    );
}

#[test]
fn a_first_signal_ends_a_command_that_waits() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let weights = models::bf16_weights(&mut models::Random::new(3), 2_000_000);
    put(&at.join("m"), &weights);
    fs::create_dir(at.join("tmp")).unwrap();
    for signal in ["-TERM", "-INT"] {
        let mut child = command(at, &["compress", "m", "-o", "-", "--opaque"])
            .env("TMPDIR", at.join("tmp"))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // nobody reads: it waits once the pipe is full
        let mut pipe = child.stdout.take().unwrap();
        let mut head = [0; 8];
        std::io::Read::read_exact(&mut pipe, &mut head).unwrap();
        assert!(!names(&at.join("tmp")).is_empty());
        let kill = Command::new("kill")
            .args([signal, &child.id().to_string()])
            .status()
            .unwrap();
        assert!(kill.success());
        assert_eq!(ends(&mut child), Some(130));
        assert!(names(&at.join("tmp")).is_empty());
    }
}

#[test]
fn a_closed_folder_stops_no_command() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    allow(at, 0o777);
    for place in ["src", "lib"] {
        fs::create_dir_all(at.join(place).join("lost+found")).unwrap();
        allow(&at.join(place), 0o777);
        allow(&at.join(place).join("lost+found"), 0);
    }
    put(&at.join("src/m.safetensors"), &models::small_file());
    allow(&at.join("src/m.safetensors"), 0o644);
    let words = ["compress", "src/m.safetensors", "-o", "lib/m.bs"];
    assert_eq!(code(&as_nobody(at, &words)), 0);
    for (words, expected) in [
        (&["compress", "src", "-o", "strict", "--strict"][..], 2),
        (&["compress", "src", "-o", "out", "--json"], 1),
        (&["compress", "src", "-o", "one.bs", "--json"], 1),
        (&["verify", "lib", "--json"], 1),
        (&["scrub", "lib", "--memory", "memory", "--json"], 1),
        (&["protect", "lib", "--json"], 1),
        (&["info", "lib", "--json"], 1),
        (&["scan", "src", "--json"], 1),
        (&["stat", "src", "--json"], 1),
        (&["migrate", "lib", "--json"], 1),
        (&["decompress", "lib", "-o", "back", "--json"], 1),
        (
            &[
                "transcode",
                "lib",
                "other",
                "--profile",
                "storage",
                "--json",
            ],
            1,
        ),
        (&["verify", "lib", "--strict"], 2),
    ] {
        let done = as_nobody(at, words);
        let told = stderr(&done);
        assert_eq!(code(&done), expected, "{words:?}: {told}");
        assert!(told.contains("Permission denied"), "{words:?}: {told}");
        if expected == 1 {
            assert!(told.contains("lost+found`"), "{words:?}: {told}");
            let lost = ("lost+found".to_owned(), "unreadable".to_owned());
            assert!(skipped(&json(&done)).contains(&lost), "{words:?}");
        }
    }
    assert!(!at.join("strict").exists());
    assert_eq!(names(&at.join("out")), ["lost+found", "m.bs"]);
    assert_eq!(
        names(&at.join("back")),
        ["lost+found", "m.bs.par", "m.safetensors"]
    );
    assert!(fs::read(at.join("back/m.safetensors")).unwrap() == models::small_file());
    for place in ["src", "lib"] {
        allow(&at.join(place).join("lost+found"), 0o755);
    }
}
