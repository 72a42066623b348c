//! The life of mounts: where they are made, how they end, and what a dead one leaves.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failed unwrap is a failed test"
)]

mod models;
mod setup;

use std::fs;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::process::Command;

use crate::models::model;
use crate::setup::Setup;
use crate::setup::is_mounted;
use crate::setup::is_running;
use crate::setup::kill;
use crate::setup::mountd;
use crate::setup::names;
use crate::setup::text;
use crate::setup::wait_until;

const ENOTCONN: i32 = 107;

// docs/semantics.md: Nothing that is not our own dead mount is ever cleared.
#[test]
fn only_our_own_dead_mounts_are_cleared_and_links_lead_to_them() {
    let mut setup = Setup::new();
    setup.image("m.bs", &model(100, 1));
    let mnt = setup.mounted();
    let link = setup.folder.path().join("link");
    std::os::unix::fs::symlink("mnt", &link).unwrap();
    let pid = setup.pid();
    kill(pid, "-KILL");
    wait_until("the end", || fs::read_dir(&mnt).is_err());
    let source = setup.source();
    assert!(setup.mount_at(&source, &link, &[]).status.success());
    assert_eq!(names(&mnt), ["m.safetensors"]);
    // something mounted over ours is not ours to take away
    let over = Command::new("mount")
        .args(["-t", "tmpfs", "tmpfs", text(&mnt)])
        .status()
        .unwrap();
    assert!(over.success());
    let pid = setup.pid();
    kill(pid, "-TERM");
    wait_until("the end", || !is_running(pid));
    let lines = fs::read_to_string("/proc/mounts").unwrap();
    assert!(
        lines.contains(&format!("tmpfs {} tmpfs", text(&mnt))),
        "{lines}"
    );
    assert!(Command::new("umount").arg(&mnt).status().unwrap().success());
}

// docs/semantics.md: `unmount` waits for open files, and with `--lazy` they can be read until they
// are closed.
#[test]
fn unmount_waits_for_open_files_unless_lazy() {
    let mut setup = Setup::new();
    let original = model(500_000, 1);
    setup.image("m.bs", &original);
    let mnt = setup.mounted();
    let mut open = File::open(mnt.join("m.safetensors")).unwrap();
    let busy = mountd(&["unmount", text(&mnt)]);
    assert_eq!(busy.status.code(), Some(3));
    let said = String::from_utf8_lossy(&busy.stderr).into_owned();
    assert!(said.contains(&std::process::id().to_string()), "{said}");
    assert!(is_mounted(&mnt));
    assert!(mountd(&["umount", "-z", text(&mnt)]).status.success());
    assert!(!is_mounted(&mnt));
    let mut bytes = Vec::new();
    open.read_to_end(&mut bytes).unwrap();
    assert!(bytes == original);
}

// docs/semantics.md: A mount left dead by a killed daemon is cleared by the next mount at its
// place.
#[test]
fn a_killed_daemon_leaves_a_dead_mount_and_the_next_start_heals_it() {
    let mut setup = Setup::new();
    let original = model(100_000, 1);
    setup.image("m.bs", &original);
    let mnt = setup.mounted();
    let pid = setup.pid();
    kill(pid, "-KILL");
    wait_until("the end", || {
        fs::read_dir(&mnt).is_err_and(|e| e.raw_os_error() == Some(ENOTCONN))
    });
    assert!(is_mounted(&mnt));
    setup.mounted();
    assert!(fs::read(mnt.join("m.safetensors")).unwrap() == original);
    let lines = fs::read_to_string("/proc/mounts").unwrap();
    assert_eq!(
        lines
            .lines()
            .filter(|line| line.contains(text(&mnt)))
            .count(),
        1,
        "{lines}"
    );
    // and a dead one can simply be unmounted
    kill(setup.pid(), "-KILL");
    assert!(mountd(&["unmount", text(&mnt)]).status.success());
    assert!(names(&mnt).is_empty());
}

// docs/semantics.md: `SIGTERM` and `^C` end a mount within seconds even with open files.
#[test]
fn signals_unmount_even_with_open_files() {
    for signal in ["-TERM", "-INT"] {
        let mut setup = Setup::new();
        setup.image("m.bs", &model(100_000, 1));
        let mnt = setup.mounted();
        let open = File::open(mnt.join("m.safetensors")).unwrap();
        let pid = setup.pid();
        kill(pid, signal);
        wait_until("the unmount", || !is_mounted(&mnt));
        wait_until("the end", || !is_running(pid));
        drop(open);
    }
}

// docs/semantics.md: Mountpoints that are not empty, lie in the source or are mounted already are
// refused.
#[test]
fn mountpoints_that_make_no_sense_are_refused() {
    let mut setup = Setup::new();
    setup.image("m.bs", &model(100, 1));
    let inside = setup.source().join("inside");
    fs::create_dir(&inside).unwrap();
    let refused = |setup: &mut Setup, mnt: &Path, code: i32| {
        let source = setup.source();
        let output = setup.mount_at(&source, mnt, &[]);
        assert_eq!(
            output.status.code(),
            Some(code),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    };
    refused(&mut setup, &inside, 2);
    let full = setup.folder.path().join("plain");
    refused(&mut setup, &full, 2);
    let missing = setup.folder.path().join("missing");
    refused(&mut setup, &missing, 3);
    let mnt = setup.mounted();
    refused(&mut setup, &mnt, 2);
    // the same source twice is fine
    let second = setup.folder.path().join("second");
    fs::create_dir(&second).unwrap();
    let source = setup.source();
    assert!(setup.mount_at(&source, &second, &[]).status.success());
    assert_eq!(names(&second), names(&mnt));
    assert_eq!(mountd(&["unmount", text(&full)]).status.code(), Some(2));
}

#[test]
fn in_the_foreground_it_logs_to_stderr_and_ends_with_the_unmount() {
    let setup = Setup::new();
    setup.image("m.bs", &model(100, 1));
    let mut child = Command::new(env!("CARGO_BIN_EXE_bigsmall-mountd"))
        .args([
            "mount",
            text(&setup.source()),
            text(&setup.mnt()),
            "--foreground",
            "--cache",
            "1m",
        ])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    wait_until("the mount", || setup.mnt().join("m.safetensors").exists());
    assert!(mountd(&["unmount", text(&setup.mnt())]).status.success());
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let mut log = String::new();
    child
        .stderr
        .take()
        .unwrap()
        .read_to_string(&mut log)
        .unwrap();
    assert!(log.contains("INFO"), "{log}");
}
