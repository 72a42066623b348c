//! Images of folders in a mount.

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
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use bigsmall::ops::MoreOptions;

use crate::models::model;
use crate::models::put;
use crate::setup::Setup;
use crate::setup::compress_as;
use crate::setup::compress_to;
use crate::setup::names;

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
