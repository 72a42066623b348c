//! What convert and restore keep of a model besides its bytes, and what they take for one.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use bigsmall::ops::RECORD_NAME;
use serde_json::Value;

use crate::convert::bigsmall;
use crate::convert::code;
use crate::convert::model;
use crate::convert::tree;
use crate::models::Random;
use crate::roundtrip::put;

fn json(at: &Path, words: &[&str]) -> Value {
    let output = bigsmall(at, words);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn attribute(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 1000];
    let len = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(len);
    Some(value)
}

fn set(path: &Path, name: &str, value: &[u8]) -> bool {
    rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty()).is_ok()
}

/// An access list that lets one more user read: owner rw, user 7 r, group nothing, mask r, others
/// nothing.
fn access_list() -> Vec<u8> {
    let mut list = 2_u32.to_le_bytes().to_vec();
    let entries: [(u16, u16, u32); 5] = [
        (1, 6, u32::MAX),
        (2, 4, 7),
        (4, 0, u32::MAX),
        (16, 4, u32::MAX),
        (32, 0, u32::MAX),
    ];
    for (tag, permissions, id) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(id.to_le_bytes());
    }
    list
}

#[test]
fn attributes_access_lists_and_special_bits_go_there_and_back() {
    const ACL: &str = "system.posix_acl_access";
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("models")).unwrap();
    let path = at.join("models/a.safetensors");
    let image = at.join("models/a.bs");
    put(&path, &model(&mut Random::new(1), 200_000));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o2640)).unwrap();
    // some disks have no attributes, or no access lists
    let has_attribute = set(&path, "user.origin", b"https://example.org/model");
    let has_list = set(&path, ACL, &access_list());
    let what = |path: &Path| {
        let metadata = fs::metadata(path).unwrap();
        let owner = (metadata.uid(), metadata.gid());
        (
            metadata.mode(),
            owner,
            attribute(path, "user.origin"),
            attribute(path, ACL),
        )
    };
    let before = what(&path);
    assert_eq!(before.0 & 0o7000, 0o2000);
    assert_eq!(
        (before.2.is_some(), before.3.is_some()),
        (has_attribute, has_list)
    );
    for _ in 0..2 {
        assert_eq!(code(&bigsmall(at, &["convert", "models", "-y"])), 0);
        assert_eq!(what(&image), before);
        assert_eq!(code(&bigsmall(at, &["restore", "models", "-y"])), 0);
        assert_eq!(what(&path), before);
        assert_eq!(attribute(&path, bigsmall::base::attributes::MARK), None);
    }
    // what is done to an image in place keeps them, too
    assert_eq!(code(&bigsmall(at, &["convert", "models", "-y"])), 0);
    let with_mark = |path: &Path| (what(path), attribute(path, "user.bigsmall.converted"));
    let converted = with_mark(&image);
    assert_eq!(code(&bigsmall(at, &["protect", "models/a.bs"])), 0);
    let mut bytes = fs::read(&image).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let file = fs::File::options().write(true).open(&image).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &bytes, 0).unwrap();
    drop(file);
    assert_eq!(code(&bigsmall(at, &["repair", "models/a.bs"])), 0);
    assert_eq!(what(&image), converted.0);
}

#[test]
fn models_of_every_spelling_come_back_under_their_own_names() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let models = at.join("models");
    fs::create_dir(&models).unwrap();
    let names = [
        "a.safetensors",
        "a.sft",
        "a.SAFETENSORS",
        "b.SafeTensors",
        "c.SFT",
    ];
    for (seed, name) in names.iter().enumerate() {
        put(
            &models.join(name),
            &model(&mut Random::new(seed as u64), 200_000),
        );
    }
    // the short form is other programs', too
    put(&models.join("notes.sft"), b"{\"prompt\": \"x\"}");
    let before = tree(&models);
    let report = json(at, &["convert", "models", "-y", "--json"]);
    assert_eq!(
        (&report["converted"], &report["failed"]),
        (&5.into(), &Value::Array(vec![]))
    );
    let images = tree(&models);
    for image in ["a.bs", "a.sft.bs", "a.safetensors.bs", "b.bs", "c.bs"] {
        assert!(images.contains_key(Path::new(image)), "{:?}", images.keys());
    }
    assert_eq!(code(&bigsmall(at, &["restore", "models", "-y"])), 0);
    assert!(tree(&models) == before);
    // and so with copies of the folder
    let words = ["compress", "models", "-o", "small"];
    assert_eq!(code(&bigsmall(at, &words)), 0);
    let words = ["decompress", "small", "-o", "again"];
    assert_eq!(code(&bigsmall(at, &words)), 0);
    let bytes = |tree: crate::convert::Tree| -> Vec<_> {
        tree.into_iter()
            .map(|(path, what)| (path, what.0))
            .collect()
    };
    assert!(bytes(tree(&at.join("again"))) == bytes(before));
}

#[test]
fn hidden_folders_are_left_alone_unless_they_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (seed, path) in ["m", "m/.git/lfs/objects", "m/.cache/x"].iter().enumerate() {
        fs::create_dir_all(at.join(path)).unwrap();
        let bytes = model(&mut Random::new(seed as u64), 200_000);
        put(&at.join(path).join("a.safetensors"), &bytes);
    }
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, at.join("m").join(name)).unwrap();
    };
    link("/usr", "outside");
    link("nowhere.safetensors", "dangling");
    link("a.safetensors", "inside");
    let plan = json(at, &["convert", "m", "--dry-run", "--json"]);
    assert_eq!(plan["files"].as_array().unwrap().len(), 1, "{plan}");
    assert_eq!(plan["left_alone"], serde_json::json!([".cache", ".git"]));
    assert_eq!(
        plan["not_followed"],
        serde_json::json!(["dangling", "outside"])
    );
    let text = bigsmall(at, &["convert", "m", "--dry-run"]).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.contains(".cache, .git") && text.contains("dangling, outside"),
        "{text}"
    );
    let report = json(at, &["convert", "m/.cache", "-y", "--json"]);
    assert_eq!(report["converted"], 1);
}

#[test]
fn a_model_with_two_names_is_one_image_with_two() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let models = at.join("models");
    for folder in ["x", "y"] {
        fs::create_dir_all(models.join(folder)).unwrap();
    }
    let (one, two) = (
        models.join("x/a.safetensors"),
        models.join("y/b.safetensors"),
    );
    put(&one, &model(&mut Random::new(1), 200_000));
    fs::hard_link(&one, &two).unwrap();
    let before = tree(&models);
    let report = json(at, &["convert", "models", "-y", "--json"]);
    assert_eq!(report["converted"], 1, "{report}");
    let of_image = |path: &str| fs::metadata(models.join(path)).unwrap();
    let (a, b) = (of_image("x/a.bs"), of_image("y/b.bs"));
    assert_eq!((a.ino(), a.nlink()), (b.ino(), 2));
    assert_eq!(report["image_bytes"], a.len());
    assert!(!one.exists() && !two.exists());
    assert_eq!(code(&bigsmall(at, &["restore", "models", "-y"])), 0);
    assert!(tree(&models) == before, "{:?}", tree(&models).keys());
    assert_eq!(
        fs::metadata(&one).unwrap().ino(),
        fs::metadata(&two).unwrap().ino()
    );
    // one whose other name lies elsewhere stays: its space would not become free
    fs::hard_link(&one, at.join("elsewhere")).unwrap();
    let report = json(at, &["convert", "models", "-y", "--json"]);
    assert_eq!(report["converted"], 0);
    assert!(
        report["stayed"][0][1]
            .as_str()
            .unwrap()
            .contains("hard links")
    );
}

#[test]
fn the_record_of_a_hugging_face_cache_lies_outside_it() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let hub = at.join("hub");
    let blobs = hub.join("models--a--b/blobs");
    fs::create_dir_all(hub.join("models--a--b/snapshots/1")).unwrap();
    fs::create_dir_all(&blobs).unwrap();
    put(&blobs.join("0af3"), &model(&mut Random::new(1), 200_000));
    let before = tree(&hub);
    for target in ["hub", "hub/models--a--b"] {
        assert_eq!(code(&bigsmall(at, &["convert", target, "-y"])), 0);
        let names = tree(&hub).into_keys().collect::<Vec<_>>();
        assert_eq!(names, [Path::new("models--a--b/blobs/0af3.bs")]);
        assert!(at.join(RECORD_NAME).exists());
        assert_eq!(code(&bigsmall(at, &["restore", target, "-y"])), 0);
        assert!(tree(&hub) == before && !at.join(RECORD_NAME).exists());
    }
    // a record that an older version has left at its top is read
    assert_eq!(code(&bigsmall(at, &["convert", "hub", "-y"])), 0);
    fs::remove_file(at.join(RECORD_NAME)).unwrap();
    let _ = rustix::fs::lremovexattr(blobs.join("0af3.bs"), "user.bigsmall.converted");
    let line = b"\nmodels--a--b/blobs/0af3.bs\tmodels--a--b/blobs/0af3\n";
    put(&hub.join(RECORD_NAME), line);
    assert_eq!(code(&bigsmall(at, &["restore", "hub", "-y"])), 0);
    assert!(tree(&hub) == before);
}
