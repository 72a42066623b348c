//! Supervisor and worker: what a mount outlives, what it tells, and what its processes may do.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod models;
#[expect(dead_code, reason = "not every file of tests needs all of it")]
mod setup;

use std::fs;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bigsmall::base::mounts;

use crate::models::model;
use crate::models::put;
use crate::setup::Setup;
use crate::setup::compress_to;
use crate::setup::is_running;
use crate::setup::kill;
use crate::setup::mountd;
use crate::setup::names;
use crate::setup::text;
use crate::setup::wait_until;

const O_DIRECT: i32 = 0x4000;
const ECONNABORTED: i32 = 103;
const ENOTCONN: i32 = 107;

/// Writes a file to stdout twice, once from a shared mapping and once from a private one.
const MAP_WHOLE: &str = "import mmap, sys
f = open(sys.argv[1], 'rb')
for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
    with mmap.mmap(f.fileno(), 0, flags=flags, prot=mmap.PROT_READ) as m:
        sys.stdout.buffer.write(m[:])";

/// Kills the worker; the number of the next.
fn kill_worker(setup: &Setup) -> u32 {
    let old = setup.process("worker_pid");
    kill(old, "-KILL");
    let mut new = old;
    wait_until("another worker", || {
        let pid = setup.report()["worker_pid"].as_u64();
        new = pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or(old);
        new != old
    });
    new
}

/// Forgets the pages of a file, so that the next read comes to the mount.
fn drop_pages(file: &File) {
    let advice = nix::fcntl::PosixFadviseAdvice::POSIX_FADV_DONTNEED;
    nix::fcntl::posix_fadvise(file, 0, 0, advice).unwrap();
}

// docs/semantics.md: A worker that dies costs readers a short delay and no error, whatever they
// read and however.
#[test]
fn a_worker_that_dies_costs_readers_no_error() {
    let mut setup = Setup::new();
    let original = model(4_000_000, 3);
    setup.image("m.bs", &original);
    let path = setup.mounted().join("m.safetensors");
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..6_u64)
            .map(|reader| {
                let (path, original, stop) = (&path, &original, &stop);
                scope.spawn(move || {
                    let mut options = File::options();
                    options.read(true);
                    if reader % 3 == 2 {
                        options.custom_flags(O_DIRECT);
                    }
                    let file = options.open(path).unwrap();
                    let (mut state, mut reads) = (reader * 7919 + 1, 0);
                    // a page of it is a page of memory: O_DIRECT takes no other
                    let mut buffer = vec![0; (1 << 20) + 4096];
                    while !stop.load(Ordering::Relaxed) {
                        state = state
                            .wrapping_mul(6_364_136_223_846_793_005)
                            .wrapping_add(1);
                        let offset = (state >> 16) % (original.len() as u64 / 4096) * 4096;
                        let skip = buffer.as_ptr().align_offset(4096);
                        let len = [4096, 128 << 10, 1 << 20][(state >> 8) as usize % 3];
                        let read = file.read_at(&mut buffer[skip..skip + len], offset).unwrap();
                        let at = offset as usize;
                        let expected = &original[at..original.len().min(at + len)];
                        assert!(
                            buffer[skip..skip + read] == *expected,
                            "{read} bytes at {offset}"
                        );
                        drop_pages(&file);
                        reads += 1;
                    }
                    reads
                })
            })
            .collect();
        let mut worker = 0;
        for _ in 0..20 {
            let next = kill_worker(&setup);
            assert_ne!(next, worker);
            worker = next;
        }
        stop.store(true, Ordering::Relaxed);
        for reader in readers {
            assert!(reader.join().unwrap() > 0);
        }
    });
    let account = &setup.report()["account"];
    assert_eq!(account["worker_deaths"], 20);
    assert_eq!(account["done"]["failed_reads"], 0);
}

// docs/semantics.md: Files and folders that are open when a worker dies stay open, and over its own
// source can be written on.
#[test]
fn what_is_open_stays_open_when_the_worker_dies() {
    let mut setup = Setup::new();
    let original = model(300_000, 4);
    setup.image("deep.bs", &original);
    fs::create_dir(setup.source().join("a")).unwrap();
    put(&setup.source().join("a/config.json"), b"{}");
    let source = setup.source();
    assert!(setup.mount_at(&source, &source, &[]).status.success());
    let report = || {
        let all = setup::mounts();
        let mounts = all["mounts"].as_array().unwrap().clone();
        let mine = mounts
            .into_iter()
            .find(|m| m["mountpoint"] == text(&source));
        mine.unwrap()
    };
    let open = File::open(source.join("deep.safetensors")).unwrap();
    let mut written = File::create(source.join("a/new.txt")).unwrap();
    written.write_all(b"before, ").unwrap();
    let mut options = File::options();
    options.read(true).write(true).create_new(true);
    let removed = options.open(source.join("a/removed")).unwrap();
    fs::remove_file(source.join("a/removed")).unwrap();
    let inode = fs::metadata(source.join("a/config.json")).unwrap();
    for _ in 0..2 {
        let old = report()["worker_pid"].as_u64().unwrap();
        kill(u32::try_from(old).unwrap(), "-KILL");
        wait_until("another worker", || {
            report()["worker_pid"]
                .as_u64()
                .is_some_and(|pid| pid != old)
        });
        written.write_all(b"after, ").unwrap();
        let mut bytes = vec![0; original.len()];
        open.read_exact_at(&mut bytes, 0).unwrap();
        drop_pages(&open);
        assert!(bytes == original);
        removed.write_all_at(b"still there", 0).unwrap();
        let mut back = [0; 11];
        removed.read_exact_at(&mut back, 0).unwrap();
        assert_eq!(&back, b"still there");
        assert_eq!(names(&source.join("a")), ["config.json", "new.txt"]);
    }
    drop(written);
    assert_eq!(
        fs::read_to_string(source.join("a/new.txt")).unwrap(),
        "before, after, after, "
    );
    let again = fs::metadata(source.join("a/config.json")).unwrap();
    assert_eq!(inode.ino(), again.ino());
    assert!(mountd(&["unmount", "-z", text(&source)]).status.success());
}

// docs/semantics.md: A file that is open is read on after its image was removed or replaced, even
// by the next worker.
#[test]
fn an_open_image_outlives_its_name_and_the_worker() {
    let mut setup = Setup::new();
    let original = model(1_000_000, 3);
    let other = model(1_000_000, 4);
    setup.image("gone.bs", &original);
    setup.image("replaced.bs", &original);
    fs::create_dir(setup.folder.path().join("plain/d")).unwrap();
    let plain = setup.folder.path().join("plain");
    put(&plain.join("d/in.safetensors"), &original);
    compress_to(&plain.join("d"), &setup.source().join("d.bs"));
    put(&setup.source().join("notes.txt"), b"plain");
    let mnt = setup.mounted();
    let names = [
        "gone.safetensors",
        "replaced.safetensors",
        "d/in.safetensors",
    ];
    let open = names.map(|name| File::open(mnt.join(name)).unwrap());
    let notes = File::open(mnt.join("notes.txt")).unwrap();
    for name in ["gone.bs", "d.bs", "notes.txt"] {
        fs::remove_file(setup.source().join(name)).unwrap();
    }
    setup.image("replaced.bs", &other);
    for _ in 0..2 {
        kill_worker(&setup);
        for file in &open {
            drop_pages(file);
            let mut bytes = vec![0; original.len()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes == original);
        }
        let mut bytes = [0; 5];
        notes.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"plain");
    }
    wait_until("the new content", || {
        fs::read(mnt.join(names[1])).is_ok_and(|bytes| bytes == other)
    });
}

/// What a mount at another place sends of `name`, which it shows, when that is read whole and
/// mapped.
fn sent_of(setup: &Setup, name: &str, expected: &[u8]) -> u64 {
    let sent = || setup.report()["account"]["done"]["sent_bytes"].as_u64();
    let before = sent().unwrap();
    let path = setup.mnt().join(name);
    assert!(fs::read(&path).unwrap() == expected);
    let mapped = Command::new("python3")
        .args(["-c", MAP_WHOLE, text(&path)])
        .output()
        .unwrap();
    assert!(mapped.stdout == [expected, expected].concat());
    sent().unwrap() - before
}

// docs/semantics.md: A file that is no image is read by the kernel itself where it may be, and is
// served all the same where not.
#[test]
fn plain_files_are_read_by_the_kernel_where_it_takes_them() {
    let mut setup = Setup::new();
    let plain = model(700_000, 9);
    setup.image("m.bs", &plain);
    put(&setup.source().join("raw.gguf"), &plain);
    setup.mounted();
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release
        .split(['.', '-'])
        .map(|n| n.parse::<u32>().unwrap_or(0));
    let takes = (numbers.next(), numbers.next()) >= (Some(6), Some(9));
    if takes && nix::unistd::geteuid().is_root() {
        let open = File::open(setup.mnt().join("raw.gguf")).unwrap();
        assert_eq!(sent_of(&setup, "raw.gguf", &plain), 0);
        // the kernel mixes the two ways never, so the next worker must go the same
        kill_worker(&setup);
        assert_eq!(sent_of(&setup, "raw.gguf", &plain), 0);
        drop(open);
        kill_worker(&setup);
        assert_eq!(sent_of(&setup, "raw.gguf", &plain), 0);
    }
    assert!(sent_of(&setup, "m.safetensors", &plain) > 0);
    // a mount of the mount: the kernel does not read through two
    let second = setup.folder.path().join("second");
    fs::create_dir(&second).unwrap();
    assert!(setup.mount_at(&setup.mnt(), &second, &[]).status.success());
    assert!(fs::read(second.join("raw.gguf")).unwrap() == plain);
    assert!(fs::read(second.join("m.safetensors")).unwrap() == plain);
    assert!(mountd(&["unmount", text(&second)]).status.success());
}

// docs/semantics.md: Names that are changed while a worker dies are changed once, and nobody is
// told otherwise.
#[test]
fn names_are_changed_once_although_workers_die() {
    let mut setup = Setup::new();
    setup.image("m.bs", &model(1000, 3));
    let source = setup.source();
    assert!(setup.mount_at(&source, &source, &[]).status.success());
    let worker = || {
        let all = setup::mounts();
        let mounts = all["mounts"].as_array().unwrap().clone();
        let mine = mounts.iter().find(|m| m["mountpoint"] == text(&source));
        mine.and_then(|m| m["worker_pid"].as_u64())
    };
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let changers: Vec<_> = (0..4)
            .map(|changer| {
                let (source, stop) = (&source, &stop);
                scope.spawn(move || {
                    let mut rounds = 0_u64;
                    while !stop.load(Ordering::Relaxed) {
                        let at = |name: &str| source.join(format!("{name}{changer}"));
                        fs::create_dir(at("dir")).unwrap();
                        let mut new = File::options();
                        let mut file = new.write(true).create_new(true).open(at("file")).unwrap();
                        file.write_all(b"abc").unwrap();
                        std::os::unix::fs::symlink("file", at("link")).unwrap();
                        fs::hard_link(at("file"), at("second")).unwrap();
                        fs::rename(at("file"), at("dir").join("moved")).unwrap();
                        assert_eq!(fs::read(at("dir").join("moved")).unwrap(), b"abc");
                        fs::remove_file(at("second")).unwrap();
                        fs::remove_file(at("link")).unwrap();
                        fs::remove_file(at("dir").join("moved")).unwrap();
                        fs::remove_dir(at("dir")).unwrap();
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        for _ in 0..60 {
            std::thread::sleep(Duration::from_millis(17));
            if let Some(pid) = worker() {
                // it may just have been another's turn
                let _ = Command::new("kill")
                    .args(["-KILL", &pid.to_string()])
                    .status();
            }
        }
        stop.store(true, Ordering::Relaxed);
        for changer in changers {
            assert!(changer.join().unwrap() > 0);
        }
    });
    assert_eq!(names(&source), ["m.safetensors"]);
    assert!(mountd(&["unmount", "-z", text(&source)]).status.success());
}

// docs/semantics.md: On a kernel before 6.9 a worker that dies costs open files an error, and the
// mount is made anew by itself.
#[test]
fn on_an_old_kernel_the_mount_is_made_anew() {
    let setup = Setup::new();
    let original = model(2_000_000, 3);
    setup.image("m.bs", &original);
    let mounted = Command::new(env!("CARGO_BIN_EXE_bigsmall-mountd"))
        .args(["mount", text(&setup.source()), text(&setup.mnt())])
        .env("BIGSMALL_MOUNT_WITHOUT_RESEND", "1")
        .output()
        .unwrap();
    assert!(mounted.status.success());
    let path = setup.mnt().join("m.safetensors");
    let open = File::open(&path).unwrap();
    let mut bytes = [0; 4096];
    open.read_exact_at(&mut bytes, 0).unwrap();
    // while it is made anew the mount is not listed for a moment
    kill(setup.process("worker_pid"), "-KILL");
    let error = open.read_exact_at(&mut bytes, 3_000_000).unwrap_err();
    // the one if it was asked before the end of the old mount, the other after
    let error = error.raw_os_error().unwrap();
    assert!([ECONNABORTED, ENOTCONN].contains(&error), "{error}");
    wait_until("the new mount", || {
        fs::read(&path).is_ok_and(|read| read == original)
    });
    assert_eq!(kernel_ahead_kib(&setup.mnt(), 4096), 4096);
    let listed = setup::mounts();
    let here = listed["mounts"].as_array().unwrap().iter();
    assert_eq!(
        here.filter(|m| m["mountpoint"] == text(&setup.mnt()))
            .count(),
        1
    );
    assert!(
        mountd(&["unmount", "-z", text(&setup.mnt())])
            .status
            .success()
    );
}

/// How far the kernel reads ahead in the mount, in KiB; or, where a mount may not tell it, whatever
/// it was told.
fn kernel_ahead_kib(mnt: &Path, told: u64) -> u64 {
    let mut all = mounts::all().unwrap().into_iter();
    let mounted = all.rfind(|mounted| mounted.mountpoint == mnt).unwrap();
    let setting = format!("/sys/class/bdi/{}/read_ahead_kb", mounted.device);
    if File::options().write(true).open(&setting).is_err() {
        return told;
    }
    let kib = fs::read_to_string(setting).unwrap();
    kib.trim().parse().unwrap()
}

// docs/semantics.md: In a mount made by root the kernel reads as far ahead as `--read-ahead` says,
// where it may be told.
#[test]
fn the_kernel_reads_ahead_as_far_as_it_is_told() {
    let mut setup = Setup::new();
    setup.image("m.bs", &model(1000, 3));
    let mnt = setup.mounted();
    assert_eq!(kernel_ahead_kib(&mnt, 4096), 4096);
    assert!(mountd(&["unmount", text(&mnt)]).status.success());
    for (size, kib) in [("1m", 1024), ("0", 128), ("1", 4)] {
        assert!(setup.mount(&["--read-ahead", size]).status.success());
        assert_eq!(kernel_ahead_kib(&mnt, kib), kib, "{size}");
        assert!(mountd(&["unmount", text(&mnt)]).status.success());
    }
}

#[test]
fn a_supervisor_that_dies_takes_its_worker_with_it() {
    let mut setup = Setup::new();
    setup.image("m.bs", &model(1000, 3));
    let mnt = setup.mounted();
    let worker = setup.process("worker_pid");
    kill(setup.pid(), "-KILL");
    wait_until("the end of the worker", || !is_running(worker));
    assert!(fs::read_dir(&mnt).is_err());
    setup.mounted();
    assert_eq!(names(&mnt), ["m.safetensors"]);
}

// docs/semantics.md: With `--cache-mode direct` every read is decoded anew, and files can be mapped
// all the same.
#[test]
fn direct_reads_and_mappings_show_the_same_bytes() {
    let mut setup = Setup::new();
    let original = model(1_000_000, 5);
    setup.image("m.bs", &original);
    let output = setup.mount(&["--cache-mode", "direct", "--read-ahead", "1m"]);
    assert!(output.status.success());
    let path = setup.mnt().join("m.safetensors");
    for _ in 0..2 {
        assert!(fs::read(&path).unwrap() == original);
    }
    let mapped = Command::new("python3")
        .args(["-c", MAP_WHOLE, text(&path)])
        .output()
        .unwrap();
    assert!(mapped.stdout == [&original[..], &original[..]].concat());
    let sent = setup.report()["account"]["done"]["sent_bytes"]
        .as_u64()
        .unwrap();
    assert!(sent >= 3 * original.len() as u64, "{sent}");
}

fn status_line(pid: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap().trim().to_owned()
}

// docs/semantics.md: A mount made by root gives up what it does not need: the process that reads
// images can do no more than read files.
#[test]
fn root_gives_up_what_a_mount_does_not_need() {
    let mut setup = Setup::new();
    setup.image("m.bs", &model(1000, 3));
    setup.mounted();
    let (supervisor, worker) = (setup.pid(), setup.process("worker_pid"));
    for (pid, needed) in [(supervisor, 1_u64 << 21 | 1 << 2), (worker, 1 << 2)] {
        for set in ["CapEff:", "CapPrm:"] {
            let held = u64::from_str_radix(&status_line(pid, set), 16).unwrap();
            assert_eq!(held & !needed, 0, "{set} {held:x}");
        }
    }
    // nor can it get more by running something
    assert_eq!(status_line(worker, "NoNewPrivs:"), "1");
    let options = fs::read_to_string("/proc/mounts").unwrap();
    let line = options
        .lines()
        .find(|line| line.contains(text(&setup.mnt())));
    let line = line.unwrap();
    for option in ["nosuid", "nodev", "noexec", "ro,", "default_permissions"] {
        assert!(line.contains(option), "{line}");
    }
    assert!(!line.contains("allow_other"), "{line}");
    // both go by one name, and one is the other's child
    for pid in [supervisor, worker] {
        assert_eq!(status_line(pid, "Name:"), "bigsmall-mountd");
    }
    assert_eq!(status_line(worker, "PPid:"), supervisor.to_string());
}
