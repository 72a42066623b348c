//! A real mount: what the kernel and its users see, whatever happens to the source and to the
//! daemon.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    reason = "a failed unwrap is a failed test"
)]

mod models;
#[expect(dead_code, reason = "not every file of tests needs all of it")]
mod setup;

use std::fs;
use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use crate::models::model;
use crate::models::put;
use crate::setup::Setup;
use crate::setup::compress_against;
use crate::setup::compress_to;
use crate::setup::mountd;
use crate::setup::names;
use crate::setup::text;
use crate::setup::wait_until;

const EIO: i32 = 5;

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
