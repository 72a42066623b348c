//! docs/cli.md is what the daemon says of its commands, and an example of them that is run.
//! `BIGSMALL_WRITE_PAGES=1 cargo test --workspace cli_page` writes it anew.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

#[path = "../../tests/it/transcript.rs"]
mod transcript;

use std::fs;
use std::path::Path;

use crate::transcript::Example;
use crate::transcript::PageText;
use crate::transcript::Shell;

/// The command line hands these words over as they stand.
const PREAMBLE: &str = "bigsmall() { bigsmall-mountd \"$@\"; }";

const MOUNT: &str = "bigsmall mount source mnt -q";

/// Ends the mount of an example, whatever became of that.
struct Unmounted<'a>(&'a Shell<'a>);

impl Drop for Unmounted<'_> {
    fn drop(&mut self) {
        self.0.says("bigsmall unmount mnt -q --lazy");
    }
}

const EXAMPLES: &[Example] = &[
    Example {
        command: "mount",
        before: &[],
        shown: &[
            "ls source",
            "bigsmall mount source mnt",
            "ls mnt",
            "sha256sum mnt/m.safetensors",
        ],
        is_measured: false,
    },
    Example {
        command: "unmount",
        before: &[MOUNT],
        shown: &["bigsmall unmount mnt", "ls mnt"],
        is_measured: false,
    },
    Example {
        command: "mounts",
        before: &[MOUNT],
        shown: &["bigsmall mounts | grep -A 2 $PWD"],
        is_measured: true,
    },
];

/// A folder with an image and a file that is none, and an empty one to mount it at.
fn prepare(folder: &Path) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    for name in ["source", "mnt"] {
        fs::create_dir(folder.join(name)).unwrap();
    }
    for (from, to) in [
        ("tests/golden/v1-balanced.bs", "m.bs"),
        ("tests/data/mini-llama/config.json", "config.json"),
    ] {
        fs::copy(root.join(from), folder.join("source").join(to)).unwrap();
    }
}

#[test]
fn the_page_shows_what_the_daemon_says() {
    let mut parts = vec![PageText {
        text: "\n\n## Mount\n\n".into(),
        is_measured: false,
    }];
    for example in EXAMPLES {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let shell = Shell {
            folder: folder.path(),
            program: Path::new(env!("CARGO_BIN_EXE_bigsmall-mountd")),
            preamble: PREAMBLE,
        };
        let _end = Unmounted(&shell);
        parts.extend(transcript::section(&shell, example, &[]));
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    transcript::check(&root, "<!-- mounts -->", None, &parts);
}
