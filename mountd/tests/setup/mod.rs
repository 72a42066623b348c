//! What the tests of mounts share: a source with images, its mount, and the daemon's words.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bigsmall::archive::Bases;
use bigsmall::base::progress::Silent;
use bigsmall::codec::Profile;
use bigsmall::ops::CompressOptions;
use bigsmall::ops::MoreOptions;
use bigsmall::ops::compress;
use tempfile::TempDir;

use crate::models::put;

/// No step of a test takes nearly as long; a hang is a failure.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) fn mountd(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bigsmall-mountd"))
        .args(words)
        .output()
        .unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

pub(crate) fn compress_to(source: &Path, output: &Path) {
    compress_against(source, None, output);
}

pub(crate) fn compress_against(source: &Path, base: Option<&Path>, output: &Path) {
    compress_as(source, base, output, MoreOptions::default());
}

pub(crate) fn compress_as(source: &Path, base: Option<&Path>, output: &Path, more: MoreOptions) {
    let options = CompressOptions {
        base: base.map(|path| Arc::new(Bases::open(path, None).unwrap())),
        force: true,
        more,
        ..CompressOptions::new(output, Profile::Balanced, 2)
    };
    compress(source, &options, &Silent).unwrap();
}

/// A source folder with one image of `bytes`, and an empty mountpoint.
pub(crate) struct Setup {
    pub(crate) folder: TempDir,
    mounted: Vec<PathBuf>,
}

impl Setup {
    pub(crate) fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["source", "mnt", "plain"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self {
            folder,
            mounted: Vec::new(),
        }
    }

    pub(crate) fn source(&self) -> PathBuf {
        self.folder.path().join("source")
    }

    pub(crate) fn mnt(&self) -> PathBuf {
        self.folder.path().join("mnt")
    }

    pub(crate) fn image(&self, name: &str, bytes: &[u8]) {
        let plain = self.folder.path().join("plain/m.safetensors");
        put(&plain, bytes);
        compress_to(&plain, &self.source().join(name));
    }

    pub(crate) fn mount(&mut self, words: &[&str]) -> Output {
        let (source, mnt) = (self.source(), self.mnt());
        self.mount_at(&source, &mnt, words)
    }

    pub(crate) fn mount_at(&mut self, source: &Path, mnt: &Path, words: &[&str]) -> Output {
        let words = [&["mount", text(source), text(mnt)], words].concat();
        let output = mountd(&words);
        if output.status.success() {
            self.mounted.push(mnt.to_owned());
        }
        output
    }

    pub(crate) fn mounted(&mut self) -> PathBuf {
        let output = self.mount(&[]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        self.mnt()
    }

    /// What `mounts` says of the mount.
    pub(crate) fn report(&self) -> serde_json::Value {
        let report = mounts();
        let mine = |mount: &&serde_json::Value| mount["mountpoint"] == text(&self.mnt());
        report["mounts"]
            .as_array()
            .unwrap()
            .iter()
            .find(mine)
            .unwrap()
            .clone()
    }

    /// The process of the mount that has this part.
    pub(crate) fn process(&self, part: &str) -> u32 {
        u32::try_from(self.report()[part].as_u64().unwrap()).unwrap()
    }

    /// The supervisor.
    pub(crate) fn pid(&self) -> u32 {
        self.process("supervisor_pid")
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        for mnt in &self.mounted {
            // already unmounted is fine
            let _ = mountd(&["unmount", "--lazy", text(mnt)]);
        }
    }
}

pub(crate) fn mounts() -> serde_json::Value {
    serde_json::from_slice(&mountd(&["mounts", "--json"]).stdout).unwrap()
}

pub(crate) fn is_mounted(mnt: &Path) -> bool {
    let mounts = mounts();
    mounts["mounts"]
        .as_array()
        .unwrap()
        .iter()
        .any(|mount| mount["mountpoint"] == text(mnt))
}

pub(crate) fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "{what} takes too long");
        std::thread::sleep(Duration::from_millis(2));
    }
}

pub(crate) fn kill(pid: u32, signal: &str) {
    assert!(
        Command::new("kill")
            .args([signal, &pid.to_string()])
            .status()
            .unwrap()
            .success()
    );
}

/// Whether a process runs; one that has ended and that nobody has asked after yet does not.
pub(crate) fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, state)| !state.starts_with(['Z', 'X']))
}

pub(crate) fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}
