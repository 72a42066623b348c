//! A real mount: what the kernel and its users see, whatever happens to the source and to the
//! daemon.

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
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use bigsmall::ops::compress::MoreOptions;

use crate::models::model;
use crate::models::put;
use crate::setup::Setup;
use crate::setup::compress_against;
use crate::setup::compress_as;
use crate::setup::compress_to;
use crate::setup::is_mounted;
use crate::setup::is_running;
use crate::setup::kill;
use crate::setup::mountd;
use crate::setup::names;
use crate::setup::text;
use crate::setup::wait_until;

const EIO: i32 = 5;
const ENOTCONN: i32 = 107;

fn log(setup: &Setup) -> String {
    fs::read_to_string(setup.report()["log"].as_str().unwrap()).unwrap()
}

// docs/semantics.md: A mounted file has exactly the bytes of the original, its length, its time of
// change and its permissions.
#[test]
fn the_file_is_the_original_with_its_size_time_and_mode() {
    let mut setup = Setup::new();
    let original = model(700_001, 1);
    setup.image("m.bs", &original);
    put(&setup.source().join("config.json"), b"{}");
    let image = fs::metadata(setup.source().join("m.bs")).unwrap();
    let mnt = setup.mounted();
    assert_eq!(names(&mnt), ["config.json", "m.safetensors"]);
    let file = fs::metadata(mnt.join("m.safetensors")).unwrap();
    assert_eq!(file.len(), original.len() as u64);
    assert_eq!(file.blocks(), file.len().div_ceil(512));
    assert_eq!(
        (file.mtime(), file.mode(), file.uid()),
        (image.mtime(), image.mode(), image.uid())
    );
    assert!(fs::read(mnt.join("m.safetensors")).unwrap() == original);
    assert_eq!(fs::read(mnt.join("config.json")).unwrap(), b"{}");
    let stat = Command::new("stat")
        .args(["-f", "-c", "%T", text(&mnt)])
        .output()
        .unwrap();
    assert!(String::from_utf8_lossy(&stat.stdout).starts_with("fuse"));
    let of_mount = fs::read_to_string("/proc/mounts").unwrap();
    let line = of_mount
        .lines()
        .find(|line| line.contains(text(&mnt)))
        .unwrap();
    assert!(
        line.starts_with(text(&setup.source())) && line.contains(" fuse.bigsmall ro,"),
        "{line}"
    );
}

/// A safetensors file of so many bf16 tensors of one element each.
fn tiny_tensors(count: usize) -> Vec<u8> {
    let tensor = |n: usize| {
        let (start, end) = (n * 2, n * 2 + 2);
        format!("\"t{n}\":{{\"dtype\":\"BF16\",\"shape\":[1],\"data_offsets\":[{start},{end}]}}")
    };
    let tensors: Vec<String> = (0..count).map(tensor).collect();
    let json = format!("{{{}}}", tensors.join(","));
    let data: Vec<u8> = (0..count).flat_map(|n| (n as u16).to_le_bytes()).collect();
    [&(json.len() as u64).to_le_bytes(), json.as_bytes(), &data].concat()
}

/// Every reply is made of as many parts as tensors: more than one system call takes.
#[test]
fn a_file_of_very_many_tiny_tensors_is_read() {
    let mut setup = Setup::new();
    let original = tiny_tensors(20_000);
    setup.image("m.bs", &original);
    let path = setup.mounted().join("m.safetensors");
    assert!(fs::read(&path).unwrap() == original);
    let file = File::open(&path).unwrap();
    let mut last = vec![0; 10_000];
    let at = original.len() - last.len();
    file.read_exact_at(&mut last, at as u64).unwrap();
    assert!(last == original[at..]);
}

// docs/semantics.md: Any number of readers may read anywhere at once, whole or in parts of any
// length.
#[test]
fn sixteen_readers_at_random_places_read_the_original() {
    let mut setup = Setup::new();
    let original = model(2_000_003, 2);
    setup.image("m.bs", &original);
    let path = setup.mounted().join("m.safetensors");
    std::thread::scope(|scope| {
        for reader in 0..16_u64 {
            let (path, original) = (&path, &original);
            scope.spawn(move || {
                let file = File::open(path).unwrap();
                let mut state = reader.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1;
                for _ in 0..200 {
                    state = state
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1);
                    let at = (state >> 33) as usize % original.len();
                    let lens = [1, 4095, 4096, 131_072, 131_073, 1 << 20];
                    let len = lens[(state >> 20) as usize % 6].min(original.len() - at);
                    let mut bytes = vec![0; len];
                    file.read_exact_at(&mut bytes, at as u64).unwrap();
                    assert!(bytes == original[at..at + len], "{len} bytes at {at}");
                }
                // beyond the end there is nothing, and it is no error
                assert_eq!(file.read_at(&mut [0; 9], original.len() as u64).unwrap(), 0);
            });
        }
    });
}

// docs/semantics.md: A mount at another place than its source can only be read: every change is
// `EROFS`.
#[test]
fn nothing_can_be_written() {
    let mut setup = Setup::new();
    setup.image("m.bs", &model(9, 1));
    let mnt = setup.mounted();
    let file = mnt.join("m.safetensors");
    let read_only = |result: std::io::Result<()>| {
        assert_eq!(
            result.unwrap_err().kind(),
            std::io::ErrorKind::ReadOnlyFilesystem
        );
    };
    read_only(File::create(mnt.join("new")).map(drop));
    read_only(File::options().write(true).open(&file).map(drop));
    read_only(File::options().append(true).open(&file).map(drop));
    read_only(fs::remove_file(&file));
    read_only(fs::rename(&file, mnt.join("other")));
    read_only(fs::create_dir(mnt.join("folder")));
    read_only(std::os::unix::fs::symlink("a", mnt.join("link")));
}

// docs/semantics.md: `x.bs` appears as the file it was made from, and where the plain file lies
// beside it, as that one.
#[test]
fn names_follow_the_rules_and_the_plain_file_wins() {
    let mut setup = Setup::new();
    let (one, two) = (model(5000, 1), model(5000, 2));
    setup.image("a.bs", &one);
    setup.image("b.safetensors.bs", &one);
    setup.image("c.bs", &one);
    put(&setup.source().join("c.safetensors"), &two);
    put(
        &setup.source().join("notes.bs"),
        b"a file of some other program",
    );
    let blob = setup.folder.path().join("plain/0123abcd");
    put(&blob, &one);
    compress_to(&blob, &setup.source().join("0123abcd.bs"));
    let mnt = setup.mounted();
    let expected = [
        "0123abcd",
        "a.safetensors",
        "b.safetensors",
        "c.safetensors",
        "notes.bs",
    ];
    assert_eq!(names(&mnt), expected);
    assert!(fs::read(mnt.join("b.safetensors")).unwrap() == one);
    assert!(fs::read(mnt.join("0123abcd")).unwrap() == one);
    assert!(fs::read(mnt.join("c.safetensors")).unwrap() == two);
    assert_eq!(
        fs::read(mnt.join("notes.bs")).unwrap(),
        b"a file of some other program"
    );
    for hidden in ["a.bs", "b.safetensors.bs", "a", "c.bs"] {
        assert!(!mnt.join(hidden).exists(), "{hidden}");
    }
}

// docs/semantics.md: Links stay links, lead where they led, and are not followed out of the tree by
// the mount.
#[test]
fn links_stay_links_and_lead_where_they_led() {
    let mut setup = Setup::new();
    let original = model(40_000, 3);
    fs::create_dir_all(setup.source().join("blobs")).unwrap();
    fs::create_dir_all(setup.source().join("snapshots/r")).unwrap();
    let blob = setup.folder.path().join("plain/0123abcd");
    put(&blob, &original);
    compress_to(&blob, &setup.source().join("blobs/0123abcd.bs"));
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, setup.source().join(name)).unwrap();
    };
    link("../../blobs/0123abcd", "snapshots/r/model.safetensors");
    link("nowhere", "dangling");
    link("loop", "loop");
    put(&setup.folder.path().join("outside"), b"outside");
    let mnt = setup.mounted();
    let model = mnt.join("snapshots/r/model.safetensors");
    assert_eq!(
        fs::read_link(&model).unwrap(),
        Path::new("../../blobs/0123abcd")
    );
    assert!(fs::read(&model).unwrap() == original);
    assert_eq!(
        fs::read_link(mnt.join("dangling")).unwrap(),
        Path::new("nowhere")
    );
    assert!(fs::read(mnt.join("loop")).is_err());
}

// docs/semantics.md: An image of a folder appears as a folder, with the permissions, times, links
// and empty folders that it had.
#[test]
fn an_image_of_a_folder_is_a_folder() {
    let mut setup = Setup::new();
    let (one, two) = (model(30_000, 1), model(90_000, 2));
    let folder = setup.folder.path().join("plain");
    fs::create_dir_all(folder.join("deep/er")).unwrap();
    put(&folder.join("model.safetensors"), &one);
    put(&folder.join("deep/er/model.safetensors"), &two);
    put(&folder.join("deep-er.json"), b"[]");
    put(&folder.join("empty"), b"");
    compress_to(&folder, &setup.source().join("all.bs"));
    let noted = fs::metadata(&folder).unwrap().modified().unwrap();
    let mnt = setup.mounted();
    assert_eq!(names(&mnt), ["all"]);
    let all = mnt.join("all");
    assert_eq!(
        names(&all),
        ["deep", "deep-er.json", "empty", "model.safetensors"]
    );
    assert_eq!(names(&all.join("deep")), ["er"]);
    assert!(fs::read(all.join("model.safetensors")).unwrap() == one);
    assert!(fs::read(all.join("deep/er/model.safetensors")).unwrap() == two);
    assert_eq!(fs::read(all.join("empty")).unwrap(), b"");
    assert!(!all.join("deep/er/nothing").exists());
    assert_eq!(fs::metadata(&all).unwrap().modified().unwrap(), noted);

    let alone = setup.folder.path().join("alone");
    fs::create_dir(&alone).unwrap();
    let image = setup.source().join("all.bs");
    assert!(setup.mount_at(&image, &alone, &[]).status.success());
    assert_eq!(
        names(&alone),
        ["deep", "deep-er.json", "empty", "model.safetensors"]
    );
}

// docs/semantics.md: What was kept of users' attributes in an image of a folder is shown there.
#[test]
fn an_image_of_a_folder_shows_attributes_that_were_kept() {
    let mut setup = Setup::new();
    let folder = setup.folder.path().join("plain");
    fs::create_dir_all(folder.join("deep")).unwrap();
    put(&folder.join("deep/model.safetensors"), &model(30_000, 1));
    put(&folder.join("notes.txt"), b"x");
    let set = |path: &str, name: &str, value: &[u8]| {
        let none = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(folder.join(path), name, value, none).unwrap();
    };
    set("deep", "user.place", b"shelf");
    set("deep/model.safetensors", "user.license", b"mit");
    let more = MoreOptions {
        attributes: true,
        ..MoreOptions::default()
    };
    compress_as(&folder, None, &setup.source().join("all.bs"), more);
    let all = setup.mounted().join("all");
    let get = |path: &str, name: &str| {
        let mut value = [0; 100];
        let len = rustix::fs::getxattr(all.join(path), name, &mut value)?;
        Ok(value[..len].to_vec())
    };
    assert_eq!(get("deep", "user.place"), Ok(b"shelf".to_vec()));
    assert_eq!(
        get("deep/model.safetensors", "user.license"),
        Ok(b"mit".to_vec())
    );
    let none = Err(rustix::io::Errno::NODATA);
    assert_eq!(get("notes.txt", "user.license"), none);
    assert_eq!(get("deep", "user.license"), none);
    let mut listed = [0; 1000];
    let len = rustix::fs::listxattr(all.join("deep/model.safetensors"), &mut listed).unwrap();
    let listed = String::from_utf8_lossy(&listed[..len]).into_owned();
    let listed: Vec<&str> = listed.split_terminator('\0').collect();
    assert!(listed.contains(&"user.license"), "{listed:?}");
    assert!(listed.contains(&"user.bigsmall.sha256"), "{listed:?}");
}

// docs/semantics.md: A link that could lead out of the folder of its image is not shown.
#[test]
fn an_image_of_a_folder_shows_what_was_noted_of_it() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::fs::symlink;
    use std::time::Duration;
    use std::time::SystemTime;
    let mut setup = Setup::new();
    let folder = setup.folder.path().join("plain");
    fs::create_dir_all(folder.join("blobs/none")).unwrap();
    fs::create_dir_all(folder.join("snapshots/r1")).unwrap();
    let original = model(30_000, 1);
    put(&folder.join("blobs/0123"), &original);
    put(&folder.join("private.json"), b"{}");
    put(&folder.join("run.sh"), b"#!/bin/sh");
    let set_mode = |path: &str, mode: u32| {
        let permissions = fs::Permissions::from_mode(mode);
        fs::set_permissions(folder.join(path), permissions).unwrap();
    };
    for (path, mode) in [
        ("private.json", 0o600),
        ("run.sh", 0o4755),
        ("blobs/none", 0o711),
    ] {
        set_mode(path, mode);
    }
    for (number, path) in (0..).zip(["private.json", "run.sh", "blobs/none", "blobs"]) {
        let time = SystemTime::UNIX_EPOCH + Duration::new(1_000_000_000 + number, 123_456_789);
        let file = File::open(folder.join(path)).unwrap();
        file.set_modified(time).unwrap();
    }
    symlink(
        "../../blobs/0123",
        folder.join("snapshots/r1/m.safetensors"),
    )
    .unwrap();
    symlink("snapshots/r1", folder.join("latest")).unwrap();
    symlink("/nowhere", folder.join("out")).unwrap();
    symlink("../../nowhere", folder.join("snapshots/up")).unwrap();
    compress_to(&folder, &setup.source().join("all.bs"));
    let mnt = setup.mounted();
    let all = mnt.join("all");
    assert_eq!(
        names(&all),
        ["blobs", "latest", "private.json", "run.sh", "snapshots"]
    );
    assert_eq!(names(&all.join("snapshots")), ["r1"]);
    assert_eq!(names(&all.join("blobs/none")), [""; 0]);
    for link in ["out", "snapshots/up"] {
        assert!(fs::symlink_metadata(all.join(link)).is_err(), "{link}");
    }
    let (latest, of_it) = (all.join("latest"), fs::read_link(all.join("latest")));
    assert_eq!(of_it.unwrap(), Path::new("snapshots/r1"));
    assert!(fs::read(latest.join("m.safetensors")).unwrap() == original);
    for path in [
        "private.json",
        "run.sh",
        "blobs/none",
        "blobs",
        "snapshots/r1",
    ] {
        let stat = |root: &Path| {
            let metadata = fs::symlink_metadata(root.join(path)).unwrap();
            let mode = metadata.mode() & !0o7000;
            (mode, metadata.mtime(), metadata.mtime_nsec())
        };
        assert_eq!(stat(&all), stat(&folder), "{path}");
    }
    // who may not read the image does not come to what is in it, whatever that allows
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&all), 0o700);
    assert_eq!(mode(&all.join("blobs/0123")), 0o644);
    assert_eq!(fs::symlink_metadata(&latest).unwrap().len(), 12);
}

// docs/semantics.md: A single image can be mounted as a folder with one file.
#[test]
fn one_image_can_be_mounted_alone() {
    let mut setup = Setup::new();
    let original = model(3000, 1);
    setup.image("m.bs", &original);
    setup.image("n.bs", &original);
    let (image, mnt) = (setup.source().join("m.bs"), setup.mnt());
    assert!(setup.mount_at(&image, &mnt, &[]).status.success());
    assert_eq!(names(&mnt), ["m.safetensors"]);
    assert!(fs::read(mnt.join("m.safetensors")).unwrap() == original);
    assert!(!mnt.join("n.safetensors").exists());
}

// docs/semantics.md: A damaged block is `EIO` for exactly its bytes, with a line in the log, and
// the rest of the file can be read.
#[test]
fn a_damaged_block_is_an_error_and_a_log_line_and_the_rest_is_readable() {
    let mut setup = Setup::new();
    let original = model(1_000_000, 4);
    setup.image("bad.bs", &original);
    setup.image("good.bs", &original);
    let path = setup.source().join("bad.bs");
    let mut image = fs::read(&path).unwrap();
    let middle = image.len() / 2;
    image[middle] ^= 0x10;
    put(&path, &image);
    let mnt = setup.mounted();
    let bad = File::open(mnt.join("bad.safetensors")).unwrap();
    let (mut errors, mut right) = (0, 0);
    for at in (0..original.len()).step_by(65_536) {
        let len = 65_536.min(original.len() - at);
        let mut bytes = vec![0; len];
        match bad.read_exact_at(&mut bytes, at as u64) {
            Ok(()) => {
                assert!(bytes == original[at..at + len], "wrong bytes at {at}");
                right += 1;
            }
            Err(error) => {
                assert_eq!(error.raw_os_error(), Some(EIO));
                errors += 1;
            }
        }
    }
    assert!(
        (1..=4).contains(&errors) && right > 20,
        "{errors} errors, {right} right"
    );
    assert!(fs::read(mnt.join("good.safetensors")).unwrap() == original);
    let log = log(&setup);
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("ERROR")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    let line = lines[0];
    assert!(
        line.contains("bad.bs") && line.contains("tensor `w`, block "),
        "{line}"
    );
}

// docs/semantics.md: An image that cannot be used is listed, and opening it is `EIO`.
#[test]
fn images_that_cannot_be_used_are_listed_and_refuse_to_open() {
    let mut setup = Setup::new();
    let original = model(50_000, 5);
    setup.image("good.bs", &original);
    let image = fs::read(setup.source().join("good.bs")).unwrap();
    put(&setup.source().join("cut.bs"), &image[..image.len() - 1]);
    let mut both = image.clone();
    both[60] ^= 1;
    let at = both.len() - 60;
    both[at] ^= 1;
    put(&setup.source().join("headless.bs"), &both);
    put(
        &setup.source().join("python.bs"),
        &[b"BGSM\x01\0".as_slice(), &[7; 500]].concat(),
    );
    let mut index = image.clone();
    index[200] ^= 1;
    put(&setup.source().join("one-index.bs"), &index);
    let mnt = setup.mounted();
    let shown =
        ["cut", "good", "headless", "one-index", "python"].map(|n| format!("{n}.safetensors"));
    assert_eq!(names(&mnt), shown);
    for name in ["cut", "headless", "python"] {
        let error = File::open(mnt.join(format!("{name}.safetensors"))).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(EIO), "{name}");
    }
    for name in ["good", "one-index"] {
        assert!(
            fs::read(mnt.join(format!("{name}.safetensors"))).unwrap() == original,
            "{name}"
        );
    }
    assert!(log(&setup).contains("of the Python package"));
}

// docs/semantics.md: The inode number of an unchanged file is the same after a new mount, and
// another content has another number.
#[test]
fn inodes_are_stable_and_another_content_is_another_inode() {
    let mut setup = Setup::new();
    let (one, two) = (model(300_000, 1), model(300_000, 2));
    setup.image("m.bs", &one);
    let path = setup.mounted().join("m.safetensors");
    let inode = fs::metadata(&path).unwrap().ino();
    let mut held = File::open(&path).unwrap();
    assert!(
        mountd(&["unmount", "--lazy", text(&setup.mnt())])
            .status
            .success()
    );
    setup.mounted();
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    let mut newer = File::open(&path).unwrap();
    setup.image("m.bs", &two);
    wait_until("the new content", || {
        fs::metadata(&path).unwrap().ino() != inode
    });
    assert!(fs::read(&path).unwrap() == two);
    // what was open keeps what it had
    for file in [&mut held, &mut newer] {
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        assert!(bytes == one);
    }
}

/// `cp -p` and `rsync -t` give a changed file its old time back; size and time alone do not tell it
/// from the old one.
// docs/semantics.md: A file that was changed in place is another one, even if its time was set
// back.
#[test]
fn a_file_changed_in_place_with_its_time_set_back_is_another() {
    let mut setup = Setup::new();
    let path = setup.source().join("plain.bin");
    let write = |byte: u8| {
        put(&path, &vec![byte; 300_000]);
        File::options()
            .write(true)
            .open(&path)
            .unwrap()
            .set_modified(std::time::UNIX_EPOCH)
            .unwrap();
    };
    write(b'A');
    let mounted = setup.mounted().join("plain.bin");
    assert_eq!(
        File::open(&mounted).unwrap().read(&mut [0; 4096]).unwrap(),
        4096
    );
    let inode = fs::metadata(&mounted).unwrap().ino();
    write(b'B');
    wait_until("the new content", || {
        fs::metadata(&mounted).unwrap().ino() != inode
    });
    assert!(fs::read(&mounted).unwrap().iter().all(|&byte| byte == b'B'));
}

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

// docs/semantics.md: Files that come and go in the source are seen within seconds.
#[test]
fn files_that_come_and_go_are_seen() {
    let mut setup = Setup::new();
    let original = model(3000, 1);
    let mnt = setup.mounted();
    assert!(names(&mnt).is_empty());
    setup.image("m.bs", &original);
    wait_until("the new file", || mnt.join("m.safetensors").exists());
    let modified = |folder: &Path| fs::metadata(folder).unwrap().modified().unwrap();
    wait_until("the folder's time", || {
        modified(&mnt) == modified(&setup.source())
    });
    assert!(fs::read(mnt.join("m.safetensors")).unwrap() == original);
    fs::remove_file(setup.source().join("m.bs")).unwrap();
    wait_until("the removal", || !mnt.join("m.safetensors").exists());
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

// docs/semantics.md: Memory stays within `--cache` and 64 MiB, however many streams read, of
// images of up to 1,000,000 tensors that need no base.
#[test]
fn memory_stays_within_the_cache_while_many_streams_read() {
    let mut setup = Setup::new();
    for number in 0..4 {
        setup.image(&format!("m{number}.bs"), &model(8_000_000, number));
    }
    let output = setup.mount(&["--cache", "8m"]);
    assert!(output.status.success());
    let mnt = setup.mnt();
    std::thread::scope(|scope| {
        for number in 0..16 {
            let path = mnt.join(format!("m{}.safetensors", number % 4));
            scope.spawn(move || {
                let mut file = File::open(path).unwrap();
                let mut buffer = vec![0; 1 << 20];
                while file.read(&mut buffer).unwrap() > 0 {}
            });
        }
    });
    // 8 MiB of cache, 32 MiB beside it, and what of the program and its libraries is mapped, in two
    // processes
    let peak_kib = peak_kib(&setup);
    assert!(peak_kib < 64 << 10, "peak {peak_kib} KiB");
}

/// The most memory that both processes of a mount had, what of the program and its libraries is
/// mapped included.
fn peak_kib(setup: &Setup) -> u64 {
    let peak = |part: &str| {
        let status = fs::read_to_string(format!("/proc/{}/status", setup.process(part))).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.unwrap().split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap()
    };
    peak("supervisor_pid") + peak("worker_pid")
}

/// A safetensors file of that many tensors, of eight bytes each.
fn many_tensors(count: usize) -> Vec<u8> {
    let tensor = |number: usize| {
        let (layer, expert) = (number / 2048, number % 2048);
        let (start, end) = (number * 8, number * 8 + 8);
        format!(
            "\"layers.{layer}.experts.{expert}.w\":{{\"dtype\":\"BF16\",\"shape\":[4],\"data_offsets\":[{start},{end}]}}"
        )
    };
    let tensors: Vec<String> = (0..count).map(tensor).collect();
    let json = format!("{{{}}}", tensors.join(","));
    let data = (0..count * 2).flat_map(|n| [n as u8, 0x3c, (n >> 8) as u8, 0xbd]);
    let mut file = (json.len() as u64).to_le_bytes().to_vec();
    file.extend_from_slice(json.as_bytes());
    file.extend(data);
    file
}

#[test]
fn memory_stays_within_the_cache_however_many_tensors_there_are() {
    const TENSORS: usize = 1_000_000;
    let mut setup = Setup::new();
    let original = many_tensors(TENSORS);
    setup.image("m.bs", &original);
    let output = setup.mount(&["--cache", "4m"]);
    assert!(output.status.success());
    let path = setup.mnt().join("m.safetensors");
    assert!(fs::read(&path).unwrap() == original);
    let file = File::open(&path).unwrap();
    let len = original.len() as u64;
    std::thread::scope(|scope| {
        for reader in 1..=16_u64 {
            let (file, original) = (&file, &original);
            scope.spawn(move || {
                let mut state = reader.wrapping_mul(0x9e37_79b9_7f4a_7c15);
                for _ in 0..500 {
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
                    let at = (state >> 20) % (len - 5000);
                    let mut part = vec![0; 5000];
                    file.read_exact_at(&mut part, at).unwrap();
                    let at = usize::try_from(at).unwrap();
                    assert!(part == original[at..at + 5000]);
                }
            });
        }
    });
    let peak_kib = peak_kib(&setup);
    assert!(peak_kib < (4 + 64) << 10, "peak {peak_kib} KiB");
}

/// The model with some of its weights a little off.
fn tuned(model: &[u8]) -> Vec<u8> {
    let mut tuned = model.to_vec();
    let header_len = tuned.len() % 2 + 200;
    for byte in tuned[header_len..].iter_mut().step_by(6) {
        *byte ^= 1;
    }
    tuned
}

// docs/semantics.md: A fine-tune stored as differences is shown whole beside its base, and refused
// without.
#[test]
fn a_fine_tune_is_whole_beside_its_base_and_refused_without() {
    let mut setup = Setup::new();
    let base = model(300_000, 5);
    let fine_tune = tuned(&base);
    let plain = setup.folder.path().join("plain");
    put(&plain.join("base.safetensors"), &base);
    put(&plain.join("tuned.safetensors"), &fine_tune);
    fs::create_dir(setup.source().join("deep")).unwrap();
    compress_to(
        &plain.join("base.safetensors"),
        &setup.source().join("deep/base.bs"),
    );
    // another model with a tensor of this name and length is no base
    put(&setup.source().join("a.safetensors"), &model(300_000, 6));
    let tuned_image = setup.source().join("tuned.bs");
    let base_path = plain.join("base.safetensors");
    compress_against(
        &plain.join("tuned.safetensors"),
        Some(&base_path),
        &tuned_image,
    );
    assert!(fs::metadata(&tuned_image).unwrap().len() < fine_tune.len() as u64 / 3);
    let mnt = setup.mounted();
    assert!(fs::read(mnt.join("tuned.safetensors")).unwrap() == fine_tune);
    assert!(mountd(&["unmount", text(&mnt)]).status.success());

    fs::remove_file(setup.source().join("deep/base.bs")).unwrap();
    // the other model's tensor has the right name and length: only its content tells, when it is
    // read
    let mnt = setup.mounted();
    let error = fs::read(mnt.join("tuned.safetensors")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EIO));
    assert!(mountd(&["unmount", text(&mnt)]).status.success());
    fs::remove_file(setup.source().join("a.safetensors")).unwrap();
    let mnt = setup.mounted();
    assert_eq!(
        fs::metadata(mnt.join("tuned.safetensors")).unwrap().len(),
        fine_tune.len() as u64
    );
    let error = File::open(mnt.join("tuned.safetensors")).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(EIO));
    assert!(mountd(&["unmount", text(&mnt)]).status.success());

    let output = setup.mount(&["--base", text(&plain)]);
    assert!(output.status.success());
    assert!(fs::read(setup.mnt().join("tuned.safetensors")).unwrap() == fine_tune);
}
