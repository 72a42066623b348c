//! Models in a mount over their own source: removed, renamed and replaced as files are, while their
//! images go along.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod converted;
mod fine_tunes;
mod models;

use std::fs;
use std::fs::File;
use std::fs::Permissions;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bigsmall::base::progress::Silent;
use bigsmall::ops::patch;
use rustix::fs::XattrFlags;

use crate::converted::Setup;
use crate::converted::convert_all;
use crate::converted::mountd;
use crate::fine_tunes::fine_tune;
use crate::models::model;
use crate::models::put;

const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
const EXDEV: i32 = 18;
const EINVAL: i32 = 22;
const EROFS: i32 = 30;

fn errno<T: std::fmt::Debug>(result: std::io::Result<T>) -> Option<i32> {
    result.unwrap_err().raw_os_error()
}

/// The names below the mount, sorted.
fn names_below(setup: &Setup) -> Vec<String> {
    setup.unmount();
    let mut names: Vec<String> = fs::read_dir(setup.root())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort();
    setup.mount();
    names
}

fn mount_report(setup: &Setup) -> serde_json::Value {
    let root = setup.root();
    let mounts: serde_json::Value =
        serde_json::from_slice(&mountd(&["mounts", "--json"]).stdout).unwrap();
    let mounts = mounts["mounts"].as_array().unwrap();
    let mine = |mount: &&serde_json::Value| mount["mountpoint"] == root.to_str().unwrap();
    mounts.iter().find(mine).unwrap().clone()
}

fn log_of(setup: &Setup) -> String {
    fs::read_to_string(mount_report(setup)["log"].as_str().unwrap()).unwrap()
}

// docs/semantics.md: A model is removed, renamed, linked and replaced there as a file is; its image
// and the parity beside that go along, and whoever has it open reads on.
#[test]
fn images_go_along_with_the_names_of_models() {
    let setup = Setup::new();
    let root = setup.root();
    let bytes = &setup.models[0].1;
    let [a, b, c] = ["a", "b", "c"].map(|stem| root.join(format!("{stem}.safetensors")));
    put(&root.join("a.bs.par"), b"parity");
    // renamed, read by its new name, and by who had it open
    let mut open = File::open(&a).unwrap();
    fs::rename(&a, &b).unwrap();
    assert!(fs::read(&b).unwrap() == *bytes && !a.exists());
    assert_eq!(fs::read(root.join("b.bs.par")).unwrap(), b"parity");
    fs::hard_link(&b, &c).unwrap();
    assert!(fs::read(&c).unwrap() == *bytes);
    assert_eq!(fs::metadata(&b).unwrap().nlink(), 2);
    let expected = [
        "b.bs",
        "b.bs.par",
        "blobs",
        "c.bs",
        "c.bs.par",
        "config.json",
        "deep",
    ];
    let mut read = Vec::new();
    open.read_to_end(&mut read).unwrap();
    assert!(read == *bytes);
    drop(open);
    assert_eq!(names_below(&setup), expected);
    // over another model, and over a file that is none
    fs::rename(&c, root.join("deep/b.safetensors")).unwrap();
    assert!(fs::read(root.join("deep/b.safetensors")).unwrap() == *bytes);
    put(&c, b"plain");
    put(&root.join("old"), b"old");
    fs::rename(&b, &c).unwrap();
    assert!(fs::read(&c).unwrap() == *bytes && !b.exists());
    assert_eq!(
        names_below(&setup),
        ["blobs", "c.bs", "c.bs.par", "config.json", "deep", "old"]
    );
    // replaced by a download
    let open = File::open(&c).unwrap();
    let new = model(50_000, 77);
    put(&root.join("c.incomplete"), &new);
    fs::rename(root.join("c.incomplete"), &c).unwrap();
    assert!(fs::read(&c).unwrap() == new);
    assert!(open.metadata().unwrap().len() == bytes.len() as u64);
    let mut read = vec![0; bytes.len()];
    std::os::unix::fs::FileExt::read_exact_at(&open, &mut read, 0).unwrap();
    assert!(read == *bytes);
    drop(open);
    assert_eq!(
        names_below(&setup),
        ["blobs", "c.safetensors", "config.json", "deep", "old"]
    );
    // a blob has no extension; removed, and everything about it
    let blob = root.join("blobs/0af3");
    put(&root.join("blobs/0af3.bs.par"), b"parity");
    let open = File::open(&blob).unwrap();
    fs::remove_file(&blob).unwrap();
    assert!(!blob.exists());
    let mut read = vec![0; setup.models[2].1.len()];
    std::os::unix::fs::FileExt::read_exact_at(&open, &mut read, 0).unwrap();
    assert!(read == setup.models[2].1);
    drop(open);
    fs::remove_dir(root.join("blobs")).unwrap();
    assert_eq!(
        names_below(&setup),
        ["c.safetensors", "config.json", "deep", "old"]
    );
}

// docs/semantics.md: A model gets only names under which its image is shown: another is `EXDEV`, as
// between disks, and
// `mv` copies it.
#[test]
fn another_extension_is_another_disk() {
    let setup = Setup::new();
    let root = setup.root();
    let a = root.join("a.safetensors");
    for name in ["a.bin", "a", "deep/x.gguf"] {
        assert_eq!(
            errno(fs::rename(&a, root.join(name))),
            Some(EXDEV),
            "{name}"
        );
        assert_eq!(
            errno(fs::hard_link(&a, root.join(name))),
            Some(EXDEV),
            "{name}"
        );
    }
    let moved = Command::new("mv").arg(&a).arg(root.join("a.bin")).status();
    assert!(moved.unwrap().success());
    assert!(fs::read(root.join("a.bin")).unwrap() == setup.models[0].1);
    // a name without an extension takes any
    let blob = root.join("blobs/0af3");
    fs::rename(&blob, root.join("blobs/0af4.bin")).unwrap();
    assert!(fs::read(root.join("blobs/0af4.bin")).unwrap() == setup.models[2].1);
    assert_eq!(
        names_below(&setup),
        ["a.bin", "blobs", "config.json", "deep"]
    );
    assert!(!root.join("blobs/0af3").exists());
}

// docs/semantics.md: Mode, owner, times and attributes of a model are those of its image and change
// with them, but not what `user.bigsmall` tells: `EPERM`.
#[test]
fn what_the_disk_says_of_an_image_is_changed_through_the_model() {
    let setup = Setup::new();
    let root = setup.root();
    let a = root.join("a.safetensors");
    let open = File::open(&a).unwrap();
    fs::set_permissions(&a, Permissions::from_mode(0o640)).unwrap();
    let then = std::time::UNIX_EPOCH + Duration::new(1_600_000_000, 5);
    open.set_modified(then).unwrap();
    let none = XattrFlags::empty();
    rustix::fs::setxattr(&a, "user.origin", b"here", none).unwrap();
    let refused = rustix::fs::setxattr(&a, "user.bigsmall.sha256", b"0", none);
    assert_eq!(refused, Err(rustix::io::Errno::PERM));
    for path in [&a, &root.join("a.bs")] {
        let stat = fs::metadata(path).unwrap();
        assert_eq!(stat.mode() & 0o7777, 0o640);
        assert_eq!(stat.modified().unwrap(), then);
        let mut value = [0; 10];
        let len = rustix::fs::getxattr(path, "user.origin", &mut value).unwrap();
        assert_eq!(&value[..len], b"here");
        if path == &a {
            setup.models_are_whole();
            setup.run("unmount", &["--lazy"]);
        }
    }
    drop(open);
    setup.mount();
    setup.models_are_whole();
}

// docs/semantics.md: A model is not written to: opening it for that is `EROFS`, also to cut it off,
// and nothing can take the hidden name of its image.
#[test]
fn models_are_not_written_to() {
    let setup = Setup::new();
    let root = setup.root();
    let (a, hidden) = (root.join("a.safetensors"), root.join("a.bs"));
    let write = |path: &Path| File::options().write(true).open(path);
    assert_eq!(errno(write(&a)), Some(EROFS));
    assert_eq!(errno(File::create(&a)), Some(EROFS));
    assert_eq!(errno(File::options().append(true).open(&a)), Some(EROFS));
    let cut = nix::unistd::truncate(&a, 0);
    assert_eq!(cut, Err(nix::errno::Errno::EROFS));
    assert!(!hidden.exists());
    assert_eq!(errno(File::create(&hidden)), Some(EROFS));
    assert_eq!(errno(fs::create_dir(&hidden)), Some(EROFS));
    let config = root.join("config.json");
    assert_eq!(errno(fs::rename(&config, &hidden)), Some(EROFS));
    // two names are not swapped, and what is there is not replaced if that was asked for
    let flag = nix::fcntl::RenameFlags::RENAME_EXCHANGE;
    let cwd = nix::fcntl::AT_FDCWD;
    let swapped = nix::fcntl::renameat2(cwd, &a, cwd, &config, flag);
    assert_eq!(swapped, Err(nix::errno::Errno::from_raw(EINVAL)));
    let flag = nix::fcntl::RenameFlags::RENAME_NOREPLACE;
    for (old, new) in [(&a, &config), (&config, &a)] {
        let renamed = nix::fcntl::renameat2(cwd, old, cwd, new, flag);
        assert_eq!(renamed, Err(nix::errno::Errno::from_raw(EEXIST)));
    }
    setup.models_are_whole();
    setup.unmount();
    setup.mount();
    setup.models_are_whole();
}

// docs/semantics.md: What a fine-tune needs as its base is neither removed nor replaced there, nor
// renamed so that it would not be found: `EBUSY`, with a line in the log that names who needs it.
#[test]
fn a_base_that_is_needed_stays() {
    let setup = Setup::new();
    let root = setup.root();
    setup.unmount();
    let tuned = fine_tune(&setup.models[0].1);
    let plain = setup.folder.path().join("t.safetensors");
    put(&plain, &tuned);
    let (base, delta) = (root.join("a.bs"), root.join("deep/t.bs"));
    patch(&base, &plain, &delta, false, 2, &Silent).unwrap();
    setup.mount();
    let (a, t) = (root.join("a.safetensors"), root.join("deep/t.safetensors"));
    put(&root.join("new"), b"new");
    assert_eq!(errno(fs::remove_file(&a)), Some(EBUSY));
    assert_eq!(errno(fs::rename(root.join("new"), &a)), Some(EBUSY));
    let other = root.join("deep/b.safetensors");
    assert_eq!(errno(fs::rename(&other, &a)), Some(EBUSY));
    let log = log_of(&setup);
    assert!(
        log.contains("a.bs` stays") && log.contains("deep/t.bs"),
        "{log}"
    );
    // what nobody needs goes, and under another name the base is still found
    fs::remove_file(&other).unwrap();
    let moved = root.join("deep/moved.safetensors");
    fs::rename(&a, &moved).unwrap();
    assert!(fs::read(&t).unwrap() == tuned);
    // so it is if there is another copy of it
    let copy = root.join("copy.safetensors");
    put(&copy, &setup.models[0].1);
    fs::remove_file(&moved).unwrap();
    assert_eq!(errno(fs::rename(&copy, root.join("copy.bin"))), Some(EBUSY));
    assert!(fs::read(&t).unwrap() == tuned);
    assert_eq!(errno(fs::remove_file(&copy)), Some(EBUSY));
    assert_eq!(errno(fs::rename(root.join("new"), &copy)), Some(EBUSY));
    fs::remove_file(&t).unwrap();
    fs::remove_file(&copy).unwrap();
}

/// As blobs of the Hugging Face cache are.
#[test]
fn a_base_without_an_extension_is_found_and_stays() {
    let setup = Setup::new();
    let root = setup.root();
    setup.unmount();
    let base = model(150_000, 50);
    let tuned = fine_tune(&base);
    let blob = root.join("blobs/1bf4");
    let plain = setup.folder.path().join("t.safetensors");
    put(&blob, &base);
    put(&plain, &tuned);
    patch(&blob, &plain, &root.join("deep/t.bs"), false, 2, &Silent).unwrap();
    setup.mount();
    let t = root.join("deep/t.safetensors");
    let part = root.join("blobs/1bf4.incomplete");
    let stays = |blob: &Path| {
        put(&part, b"new");
        assert_eq!(errno(fs::remove_file(blob)), Some(EBUSY));
        assert_eq!(errno(fs::rename(&part, blob)), Some(EBUSY));
        // a worker that has not seen it yet finds it
        setup.unmount();
        setup.mount();
        assert!(fs::read(&t).unwrap() == tuned);
    };
    stays(&blob);
    // nobody would look for it under such a name
    let hidden = root.join("blobs/1bf4.old");
    assert_eq!(errno(fs::rename(&blob, &hidden)), Some(EBUSY));
    let other = root.join("blobs/2c05");
    fs::rename(&blob, &other).unwrap();
    stays(&other);
    // the same bytes may replace it, be it an image or not
    for is_image in [false, true] {
        if is_image {
            setup.unmount();
            assert_eq!(convert_all(&root).converted, 1);
            setup.mount();
        }
        put(&part, &base);
        fs::rename(&part, &other).unwrap();
        stays(&other);
    }
    // what is no model is nobody's base
    put(&blob, b"{}");
    fs::remove_file(&blob).unwrap();
    fs::remove_file(&t).unwrap();
    fs::remove_file(&other).unwrap();
}

// docs/semantics.md: Models that are renamed, replaced and removed while a worker dies are so once,
// and are always there whole.
#[test]
fn a_worker_that_dies_leaves_no_model_half_renamed() {
    let setup = Setup::new();
    let root = setup.root();
    let bytes = &setup.models[0].1;
    let [a, b] = ["a", "b"].map(|stem| root.join(format!("{stem}.safetensors")));
    let new = model(20_000, 5);
    let holds = |path: &Path| match fs::read(path).unwrap() {
        read if read == *bytes => "the model",
        read if read == new => "the new one",
        read if read == b"plain" => "what is no model",
        _ => "anything else",
    };
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                if let Some(pid) = mount_report(&setup)["worker_pid"].as_i64() {
                    let _ = Command::new("kill").args(["-9", &pid.to_string()]).status();
                }
                std::thread::sleep(Duration::from_millis(30));
            }
        });
        let done = std::panic::catch_unwind(|| {
            let other = root.join("deep/b.safetensors");
            for round in 0..60 {
                let (from, to) = if round % 2 == 0 { (&a, &b) } else { (&b, &a) };
                // over a file that is no model
                put(to, b"plain");
                fs::rename(from, to).unwrap();
                assert_eq!((holds(to), from.exists()), ("the model", false), "{round}");
                // another model, replaced
                put(&root.join("part"), &new);
                fs::rename(root.join("part"), &other).unwrap();
                assert_eq!(holds(&other), "the new one", "{round}");
                fs::hard_link(to, from).unwrap();
                fs::rename(from, &other).unwrap();
                assert_eq!(holds(&other), "the model", "{round}");
            }
        });
        is_over.store(true, Ordering::Relaxed);
        done.unwrap();
    });
    assert_eq!(
        names_below(&setup),
        ["a.bs", "blobs", "config.json", "deep"]
    );
    let deep = fs::read_dir(root.join("deep")).unwrap().count();
    assert_eq!(deep, 2);
}
