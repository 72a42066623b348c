//! An image of a folder is the folder: permissions, times, links and empty folders come back, and
//! nothing leaves the folder.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::time::Duration;
use std::time::SystemTime;

use bigsmall::archive::Archive;
use bigsmall::base::attributes;
use rustix::fs::XattrFlags;

use crate::models;
use crate::program::python;
use crate::roundtrip::put;

fn bigsmall(folder: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bigsmall"))
        .args(words)
        .current_dir(folder)
        .output()
        .unwrap()
}

fn succeeds(folder: &Path, words: &[&str]) -> String {
    let done = bigsmall(folder, words);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(0), "{words:?}: {said}");
    said
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn set_time(path: &Path, time: SystemTime) {
    File::open(path).unwrap().set_modified(time).unwrap();
}

/// What `ls -lR` would tell of each path, and where links lead.
type Listing = BTreeMap<PathBuf, (u32, i64, i64, Option<PathBuf>)>;

fn listing(root: &Path) -> Listing {
    let mut found = BTreeMap::new();
    let mut left = vec![PathBuf::new()];
    while let Some(relative) = left.pop() {
        let full = root.join(&relative);
        let metadata = fs::symlink_metadata(&full).unwrap();
        let target = fs::read_link(&full).ok();
        let time = (metadata.mtime(), metadata.mtime_nsec());
        found.insert(relative.clone(), (metadata.mode(), time.0, time.1, target));
        if metadata.is_dir() {
            let names = fs::read_dir(&full).unwrap();
            left.extend(names.map(|entry| relative.join(entry.unwrap().file_name())));
        }
    }
    found
}

/// A folder with all that tar knows, each with a time of its own.
fn furnished(at: &Path) -> PathBuf {
    let root = at.join("src");
    fs::create_dir_all(root.join("blobs")).unwrap();
    fs::create_dir_all(root.join("snapshots/r1/deep")).unwrap();
    fs::create_dir_all(root.join("sealed/empty")).unwrap();
    put(&root.join("blobs/0123abcd"), &models::random_file(7));
    put(&root.join("model.safetensors"), &models::small_file());
    put(&root.join("private.json"), b"{\"token\": 1}");
    put(&root.join("run.sh"), b"#!/bin/sh\n");
    put(&root.join("sealed/note"), b"");
    fs::hard_link(root.join("run.sh"), root.join("blobs/again")).unwrap();
    symlink(
        "../../blobs/0123abcd",
        root.join("snapshots/r1/m.safetensors"),
    )
    .unwrap();
    symlink("snapshots/r1", root.join("latest")).unwrap();
    symlink("missing", root.join("nowhere")).unwrap();
    symlink("loop", root.join("loop")).unwrap();
    for (path, mode) in [
        ("model.safetensors", 0o644),
        ("private.json", 0o600),
        ("run.sh", 0o755),
        ("sealed/note", 0o440),
        ("sealed/empty", 0o500),
        ("snapshots/r1/deep", 0o1777),
        ("sealed", 0o550),
    ] {
        set_mode(&root.join(path), mode);
    }
    let paths: Vec<PathBuf> = listing(&root).into_keys().collect();
    for (number, path) in (0..).zip(paths.iter().rev()) {
        let full = root.join(path);
        if !fs::symlink_metadata(&full).unwrap().is_symlink() {
            let since = Duration::new(1_000_000_000 + number, 123_456_789);
            set_time(&full, SystemTime::UNIX_EPOCH + since);
        }
    }
    let long_ago = SystemTime::UNIX_EPOCH - Duration::new(86_400, 250_000_000);
    set_time(&root.join("private.json"), long_ago);
    root
}

/// What an image gives back of that: all but bits that lend rights.
fn expected(root: &Path) -> Listing {
    let mut listing = listing(root);
    for (mode, ..) in listing.values_mut() {
        *mode &= !0o7000;
    }
    listing
}

#[test]
fn a_folder_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let root = furnished(at);
    let said = succeeds(at, &["compress", "src", "-o", "one.bs"]);
    assert_eq!(said, "", "nothing is left out");
    succeeds(at, &["verify", "one.bs", "--source", "src"]);
    succeeds(at, &["decompress", "one.bs", "-o", "back"]);
    assert_eq!(listing(&at.join("back")), expected(&root));
    let inode = |path: &str| fs::metadata(at.join("back").join(path)).unwrap().ino();
    assert_eq!(inode("run.sh"), inode("blobs/again"), "names of one file");
    for path in ["model.safetensors", "latest/m.safetensors", "private.json"] {
        let bytes = |root: &str| fs::read(at.join(root).join(path)).unwrap();
        assert!(bytes("src") == bytes("back"), "{path}");
    }
    // coded anew, within a folder of images, and from there
    let base = at.join("base.safetensors");
    put(&base, &models::small_file());
    succeeds(
        at,
        &["transcode", "one.bs", "two.bs", "--profile", "storage"],
    );
    fs::create_dir(at.join("library")).unwrap();
    let words = [
        "compress",
        "two.bs",
        "-o",
        "library/src.bs",
        "--base",
        "base.safetensors",
    ];
    succeeds(at, &words);
    succeeds(
        at,
        &[
            "decompress",
            "library",
            "-o",
            "backs",
            "--base",
            "base.safetensors",
        ],
    );
    assert_eq!(listing(&at.join("backs/src")), expected(&root));
}

#[test]
fn the_same_folder_gives_the_same_image_and_another_time_another() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let root = furnished(at);
    for (image, threads) in [("a.bs", "1"), ("b.bs", "3")] {
        succeeds(at, &["compress", "src", "-o", image, "-j", threads]);
    }
    let read = |name: &str| fs::read(at.join(name)).unwrap();
    assert!(read("a.bs") == read("b.bs"));
    set_time(&root.join("run.sh"), SystemTime::UNIX_EPOCH);
    succeeds(at, &["compress", "src", "-o", "c.bs"]);
    assert!(read("a.bs") != read("c.bs"));
    // an image of one file knows nothing of all that
    succeeds(at, &["compress", "src/model.safetensors", "-o", "m.bs"]);
    set_time(&root.join("model.safetensors"), SystemTime::UNIX_EPOCH);
    succeeds(at, &["compress", "src/model.safetensors", "-o", "n.bs"]);
    assert!(read("m.bs") == read("n.bs"));
}

#[test]
fn what_was_private_stays_so() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    furnished(at);
    succeeds(at, &["compress", "src", "-o", "one.bs"]);
    let mode = |path: &str| fs::symlink_metadata(at.join(path)).unwrap().mode() & 0o7777;
    assert_eq!(
        mode("one.bs"),
        0o600,
        "one file in it was for the owner only"
    );
    // bits that lend rights are noted and not given
    set_mode(&at.join("src/run.sh"), 0o6755);
    succeeds(at, &["compress", "src", "-o", "lent.bs"]);
    let archive = Archive::open(&at.join("lent.bs")).unwrap();
    let noted = archive.index().members.iter().find(|m| m.path == "run.sh");
    assert_eq!(noted.unwrap().mode, 0o6755);
    succeeds(at, &["decompress", "lent.bs", "-o", "back"]);
    assert_eq!(mode("back/run.sh"), 0o755);
    // of an image of an earlier release nothing is known but its own permissions
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/v1-folder.bs");
    put(&at.join("old.bs"), &fs::read(golden).unwrap());
    set_mode(&at.join("old.bs"), 0o600);
    succeeds(at, &["decompress", "old.bs", "-o", "old"]);
    assert_eq!(mode("old/config.json"), 0o600);
}

/// Links are made as they were if they stay in the folder; nothing else is, and nothing is written
/// through one.
#[test]
fn no_link_leaves_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let root = furnished(at);
    fs::create_dir(at.join("outside")).unwrap();
    symlink("../outside", root.join("snapshots/out")).unwrap();
    symlink("../../outside", root.join("snapshots/up")).unwrap();
    symlink("/nowhere/at/all", root.join("absolute")).unwrap();
    symlink("latest/../../../outside", root.join("round")).unwrap();
    let said = bigsmall(at, &["compress", "src", "-o", "one.bs"]);
    let said = String::from_utf8_lossy(&said.stderr).into_owned();
    for link in ["snapshots/up", "absolute", "round"] {
        assert!(said.contains(&format!("src/{link}` leads out")), "{said}");
    }
    let done = bigsmall(at, &["decompress", "one.bs", "-o", "back", "--json"]);
    assert_eq!(done.status.code(), Some(1));
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let not_made = report["not_made"].as_array().unwrap();
    let paths: Vec<&str> = not_made
        .iter()
        .map(|l| l["path"].as_str().unwrap())
        .collect();
    assert_eq!(paths, ["back/absolute", "back/round", "back/snapshots/up"]);
    for path in paths {
        assert!(fs::symlink_metadata(at.join(path)).is_err(), "{path}");
    }
    assert!(at.join("back/latest/m.safetensors").exists());
    // a link that is in the way of a folder leads nobody astray
    fs::create_dir(at.join("mine")).unwrap();
    symlink("../outside", at.join("mine/blobs")).unwrap();
    let done = bigsmall(at, &["decompress", "one.bs", "-o", "mine", "--force"]);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert_eq!(done.status.code(), Some(2), "{said}");
    assert!(said.contains("mine/blobs"), "{said}");
    assert_eq!(fs::read_dir(at.join("outside")).unwrap().count(), 0);
}

#[test]
fn what_was_there_before_keeps_its_permissions() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let root = furnished(at);
    succeeds(at, &["compress", "src", "-o", "one.bs"]);
    fs::create_dir_all(at.join("mine/blobs")).unwrap();
    put(&at.join("mine/other"), b"mine");
    for path in ["mine", "mine/blobs"] {
        set_mode(&at.join(path), 0o711);
    }
    succeeds(at, &["decompress", "one.bs", "-o", "mine", "--force"]);
    let mode = |path: &str| fs::symlink_metadata(at.join(path)).unwrap().mode() & 0o777;
    assert_eq!((mode("mine"), mode("mine/blobs")), (0o711, 0o711));
    assert_eq!(
        (mode("mine/sealed"), mode("mine/sealed/empty")),
        (0o550, 0o500)
    );
    assert_eq!(fs::read(at.join("mine/other")).unwrap(), b"mine");
    assert_eq!(
        fs::read(at.join("mine/latest/m.safetensors")).unwrap(),
        fs::read(root.join("blobs/0123abcd")).unwrap()
    );
}

#[test]
fn info_and_verify_tell_of_members() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let root = furnished(at);
    succeeds(at, &["compress", "src", "-o", "one.bs"]);
    let done = bigsmall(at, &["info", "one.bs", "--json"]);
    let report: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    let members = report["images"][0]["members"].as_array().unwrap();
    let of = |path: &str| members.iter().find(|m| m["path"] == path).unwrap();
    assert_eq!(of("private.json")["mode"], "0600");
    assert_eq!(of("latest")["target"], "snapshots/r1");
    assert_eq!(of("sealed/empty")["kind"], "folder");
    assert_eq!(of("run.sh")["target"], "blobs/again");
    let said = bigsmall(at, &["info", "one.bs"]).stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(said.contains("7 folders, 4 links"), "{said}");
    // what changed in the folder since is noted: the bytes are the same
    set_mode(&root.join("private.json"), 0o644);
    fs::remove_file(root.join("latest")).unwrap();
    symlink("snapshots", root.join("latest")).unwrap();
    let done = bigsmall(at, &["verify", "one.bs", "--source", "src"]);
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert_eq!(done.status.code(), Some(0), "{said}");
    assert!(
        said.contains("private.json has mode 0644, and had 0600"),
        "{said}"
    );
    assert!(
        said.contains("latest leads to `snapshots`, and led to"),
        "{said}"
    );
}

/// The independent decoder gives the same, and refuses the same links.
#[test]
#[ignore = "needs BIGSMALL_PYTHON, a Python with numpy: scripts/test runs it"]
fn the_independent_decoder_reads_members() {
    let python = python();
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let root = furnished(at);
    symlink("/nowhere/at/all", root.join("absolute")).unwrap();
    let time = fs::metadata(&root).unwrap().modified().unwrap();
    set_time(&root, time);
    bigsmall(at, &["compress", "src", "-o", "one.bs"]);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/decode_bs.py");
    let words = [script.as_path(), &at.join("one.bs"), &at.join("back")];
    let done = Command::new(python).args(words).output().unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    assert!(done.status.success() && said.contains("absolute"), "{said}");
    let mut expected = expected(&root);
    expected.remove(Path::new("absolute"));
    assert_eq!(listing(&at.join("back")), expected);
}

/// Sets an attribute; false where the file system has none.
fn set_attribute(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()).is_ok()
}

#[test]
fn users_attributes_are_kept_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let root = furnished(at);
    let long = vec![7; 2000];
    let given = [
        ("", "user.of.folder", &b"all of it"[..]),
        (
            "model.safetensors",
            "user.xdg.origin.url",
            b"https://example.org/m",
        ),
        ("model.safetensors", "user.binary", &[0, 255, 10, 0]),
        ("private.json", "user.long", &long),
        ("run.sh", "user.empty", b""),
        ("snapshots/r1", "user.of.folder", b"a revision"),
    ];
    for (path, name, value) in given {
        let is_kept = set_attribute(&root.join(path), name, value);
        assert!(is_kept, "TMPDIR must be on a disk that keeps attributes");
    }
    // of this file on this disk, and of the system
    assert!(set_attribute(&root.join("run.sh"), attributes::MARK, b"1"));
    set_attribute(&root.join("run.sh"), "trusted.x", b"1");
    succeeds(at, &["compress", "src", "-o", "plain.bs"]);
    let words = ["compress", "src", "-o", "one.bs", "--attributes"];
    assert_eq!(succeeds(at, &words), "");
    succeeds(at, &["verify", "one.bs", "--source", "src"]);
    succeeds(at, &["decompress", "plain.bs", "-o", "plain"]);
    assert_eq!(succeeds(at, &["decompress", "one.bs", "-o", "back"]), "");
    let back = at.join("back");
    assert_eq!(listing(&back), expected(&root));
    let mut count = 0;
    for path in listing(&root)
        .into_keys()
        .filter(|path| root.join(path).exists())
    {
        let of = |root: &Path| attributes::of_users(&root.join(&path)).unwrap();
        assert_eq!(of(&back), of(&root), "{}", path.display());
        assert!(of(&at.join("plain")).is_empty());
        count += of(&back).len();
    }
    // a second name of `run.sh`, and two links to what has some, tell of the same
    assert!(count > given.len());
    assert!(!attributes::is_marked(&back.join("run.sh")));
    // coded anew it keeps them
    let words = ["transcode", "one.bs", "s.bs", "--profile", "storage"];
    succeeds(at, &words);
    succeeds(at, &["verify", "s.bs", "--source", "src"]);
    // in a folder of images there is no room for them
    let refused = bigsmall(at, &["compress", "src", "-o", "out", "--attributes"]);
    assert_eq!(refused.status.code(), Some(2));
    assert!(!at.join("out").exists());
}
