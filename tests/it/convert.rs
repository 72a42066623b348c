//! Models made smaller in place, and back: at no moment is a model neither whole nor a verified
//! image.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;
use std::time::Duration;

use bigsmall::base::progress::Silent;
use bigsmall::ops::DecompressOptions;
use bigsmall::ops::decompress;
use serde_json::Value;

use crate::models;
use crate::models::Random;
use crate::models::Tensor;
use crate::roundtrip::put;

/// The program; models that were just written are as good as others.
pub(crate) fn command(at: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bigsmall"));
    command
        .args(words)
        .current_dir(at)
        .env("XDG_CACHE_HOME", at.join("cache"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    if words[0] == "convert" && !words.contains(&"--min-age") {
        command.args(["--min-age", "0"]);
    }
    command
}

pub(crate) fn bigsmall(at: &Path, words: &[&str]) -> Output {
    command(at, words).output().unwrap()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn model(random: &mut Random, count: usize) -> Vec<u8> {
    let tensor = Tensor {
        name: "w".into(),
        dtype: "BF16",
        shape: vec![count as u64],
        data: models::bf16_weights(random, count),
    };
    models::file(&[tensor], 0, "")
}

/// What a file is: bytes, permissions, time.
pub(crate) type Tree = BTreeMap<PathBuf, (Vec<u8>, u32, i64, i64)>;

pub(crate) fn tree(root: &Path) -> Tree {
    fn walk(root: &Path, folder: &Path, tree: &mut Tree) {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let metadata = fs::symlink_metadata(&path).unwrap();
            let key = path.strip_prefix(root).unwrap().to_owned();
            if metadata.is_dir() {
                walk(root, &path, tree);
            } else if metadata.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                tree.insert(key, (target.into_os_string().into_encoded_bytes(), 0, 0, 0));
            } else {
                let what = (metadata.mode(), metadata.mtime(), metadata.mtime_nsec());
                tree.insert(key, (fs::read(&path).unwrap(), what.0, what.1, what.2));
            }
        }
    }
    let mut found = Tree::new();
    walk(root, root, &mut found);
    found
}

/// Models in folders, one as a blob without an extension, and other files.
fn collection(at: &Path, count: usize) -> Tree {
    let mut random = Random::new(31);
    let models = at.join("models");
    for number in 0..count {
        let folder = models.join(format!("m {number}"));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("model.safetensors");
        put(&path, &model(&mut random, 400_000 + 1000 * number));
        let file = fs::File::options().write(true).open(&path).unwrap();
        let then = Duration::from_nanos(1_700_000_000_123_456_789 + number as u64);
        file.set_modified(std::time::UNIX_EPOCH + then).unwrap();
        let mode = if number % 2 == 0 { 0o600 } else { 0o644 };
        file.set_permissions(fs::Permissions::from_mode(mode))
            .unwrap();
        put(&folder.join("config.json"), b"{}");
    }
    fs::create_dir_all(models.join("blobs")).unwrap();
    put(&models.join("blobs/0af3"), &model(&mut random, 300_000));
    std::os::unix::fs::symlink("blobs/0af3", models.join("link.safetensors")).unwrap();
    put(&models.join("noise.safetensors"), &noise(&mut random));
    put(&models.join("broken.safetensors"), b"not a model");
    tree(&models)
}

pub(crate) fn noise(random: &mut Random) -> Vec<u8> {
    let data: Vec<u8> = (0..200_000).map(|_| random.next() as u8).collect();
    let shape = vec![data.len() as u64];
    let (name, dtype) = ("n".into(), "U8");
    models::file(
        &[Tensor {
            name,
            dtype,
            shape,
            data,
        }],
        0,
        "",
    )
}

#[test]
fn a_folder_becomes_smaller_in_place_and_comes_back_exactly() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let before = collection(at, 3);
    let output = bigsmall(at, &["convert", "models", "--dry-run", "--json"]);
    let plan: Value = serde_json::from_slice(&output.stdout).unwrap();
    let files = plan["files"].as_array().unwrap();
    assert_eq!(files.len(), 6);
    let stays = |name: &str| {
        let file = files.iter().find(|file| file["path"] == name).unwrap();
        file["stays"].as_str().unwrap_or_default().to_owned()
    };
    assert!(stays("noise.safetensors").contains("100 %"), "{plan}");
    assert!(!stays("broken.safetensors").is_empty());
    // nobody was asked
    let output = bigsmall(at, &["convert", "models"]);
    assert_eq!(code(&output), 2);
    assert!(tree(&at.join("models")) == before);
    let output = bigsmall(at, &["convert", "models", "--yes", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["converted"], 4, "{report}");
    let estimated = plan["estimated_saved_bytes"].as_f64().unwrap();
    let saved =
        report["original_bytes"].as_f64().unwrap() - report["image_bytes"].as_f64().unwrap();
    assert!((estimated / saved - 1.0).abs() < 0.1, "{estimated} {saved}");
    let after = tree(&at.join("models"));
    assert!(after.contains_key(Path::new("blobs/0af3.bs")));
    assert!(after.contains_key(Path::new("m 1/model.bs")));
    assert!(!after.contains_key(Path::new("m 1/model.safetensors")));
    assert!(after[Path::new("noise.safetensors")] == before[Path::new("noise.safetensors")]);
    // once more does nothing
    let output = bigsmall(at, &["convert", "models", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["converted"], 0);
    // an image that was not made by convert stays one
    assert_eq!(
        code(&bigsmall(
            at,
            &["compress", "models/noise.safetensors", "-o", "models/n.bs"]
        )),
        0
    );
    let own = fs::read(at.join("models/n.bs")).unwrap();
    assert_eq!(code(&bigsmall(at, &["restore", "models"])), 2);
    assert_eq!(code(&bigsmall(at, &["restore", "models", "-y"])), 0);
    assert!(fs::read(at.join("models/n.bs")).unwrap() == own);
    fs::remove_file(at.join("models/n.bs")).unwrap();
    assert!(tree(&at.join("models")) == before);
}

#[test]
fn originals_are_kept_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let before = collection(at, 2);
    let words = ["convert", "models", "--yes", "--keep", "originals"];
    assert_eq!(code(&bigsmall(at, &words)), 0);
    let kept = tree(&at.join("originals"));
    assert_eq!(kept.len(), 3);
    assert!(kept.iter().all(|(path, file)| before[path] == *file));
}

/// Every model of `before` is there, or an image that gives it back.
fn nothing_is_lost(at: &Path, before: &Tree) {
    let now = tree(&at.join("models"));
    for (path, (bytes, ..)) in before {
        if now.get(path).is_some_and(|(there, ..)| there == bytes) {
            continue;
        }
        let image = at.join("models").join(path.with_extension("bs"));
        let output = at.join("probe");
        let options = DecompressOptions {
            output: bigsmall::ops::Output::Path(output.clone()),
            bases: Vec::new(),
            force: true,
            threads: 2,
        };
        decompress(&image, &options, &Silent).unwrap();
        assert!(fs::read(&output).unwrap() == *bytes, "{}", path.display());
    }
}

#[test]
fn whoever_is_killed_has_lost_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let before = collection(at, 12);
    let mut random = Random::new(3);
    for verb in ["convert", "restore"] {
        let mut kills: u64 = 0;
        loop {
            let mut child = command(at, &[verb, "models", "--yes", "-j", "2"])
                .spawn()
                .unwrap();
            let delay = (random.gauss().abs() * 12.0) as u64 + kills / 4;
            std::thread::sleep(Duration::from_millis(delay));
            child.kill().unwrap();
            let ended = child.wait().unwrap();
            nothing_is_lost(at, &before);
            kills += 1;
            if ended.success() {
                break;
            }
            assert!(kills < 1000);
        }
        assert!(kills > 1, "{verb}: {kills} runs");
    }
    let after = tree(&at.join("models"));
    assert!(after.keys().eq(before.keys()), "{:?}", after.keys());
    assert!(after == before);
}

#[test]
fn what_convert_has_not_made_stays_an_image() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let before = collection(at, 2);
    let own = ["compress", "models/noise.safetensors", "-o", "models/n.bs"];
    assert_eq!(code(&bigsmall(at, &own)), 0);
    assert_eq!(code(&bigsmall(at, &["restore", "models", "-y"])), 0);
    assert!(at.join("models/n.bs").exists());
    // a part of what was converted is restored, and then the rest
    assert_eq!(code(&bigsmall(at, &["convert", "models", "-y"])), 0);
    assert_eq!(code(&bigsmall(at, &["restore", "models/m 1", "-y"])), 0);
    assert!(at.join("models/m 1/model.safetensors").exists());
    assert!(!at.join("models/m 0/model.safetensors").exists());
    for _ in 0..2 {
        assert_eq!(code(&bigsmall(at, &["restore", "models", "-y"])), 0);
        assert!(at.join("models/n.bs").exists());
    }
    fs::remove_file(at.join("models/n.bs")).unwrap();
    assert!(tree(&at.join("models")) == before);
    // nor does an image count as one that would be shown under another name, or that lies elsewhere
    let model = at.join("models/m 0/model.safetensors");
    let image = model.with_extension("bs");
    fs::create_dir(at.join("whole")).unwrap();
    fs::copy(&model, at.join("whole/model")).unwrap();
    let links = at.join("links.bs");
    for words in [["whole", "whole.bs"], ["whole/model", "links.bs"]] {
        let words = ["compress", words[0], "-o", words[1]];
        assert_eq!(code(&bigsmall(at, &words)), 0);
    }
    let bytes = fs::read(&model).unwrap();
    let there_and_back = || {
        bigsmall(at, &["convert", "models/m 0", "-y"]);
        assert!(model.with_extension("safetensors.bs").exists() && !model.exists());
        assert_eq!(code(&bigsmall(at, &["restore", "models/m 0", "-y"])), 0);
        assert!(fs::read(&model).unwrap() == bytes);
    };
    for made in ["whole.bs", "links.bs"] {
        fs::copy(at.join(made), &image).unwrap();
        there_and_back();
        assert!(fs::read(&image).unwrap() == fs::read(at.join(made)).unwrap());
        fs::remove_file(&image).unwrap();
    }
    fs::remove_file(&links).unwrap();
    let words = ["compress", model.to_str().unwrap(), "-o", "links.bs"];
    assert_eq!(code(&bigsmall(at, &words)), 0);
    std::os::unix::fs::symlink(&links, &image).unwrap();
    there_and_back();
    assert!(links.exists());
    // a link under the name of the original is not the original
    fs::remove_file(&image).unwrap();
    bigsmall(at, &["convert", "models/m 0", "-y"]);
    fs::copy(at.join("whole/model"), at.join("elsewhere")).unwrap();
    std::os::unix::fs::symlink(at.join("elsewhere"), &model).unwrap();
    assert_eq!(code(&bigsmall(at, &["restore", "models/m 0", "-y"])), 1);
    assert!(image.exists());
}

#[test]
fn what_another_run_is_at_work_on_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    collection(at, 1);
    let model = at.join("models/m 0/model.safetensors");
    let image = model.with_extension("bs");
    // as a run that was stopped between both leaves them
    let words = ["compress", model.to_str().unwrap()];
    assert_eq!(code(&bigsmall(at, &words)), 0);
    let held = fs::File::open(&image).unwrap();
    held.lock().unwrap();
    for words in [
        ["convert", "models/m 0", "-y", "--json"].as_slice(),
        &["restore", "models/m 0", "-y", "--all", "--json"],
    ] {
        let output = bigsmall(at, words);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let stayed = report["stayed"][0][1].as_str().unwrap();
        assert!(stayed.contains("another "), "{report}");
        assert!(model.exists() && image.exists());
    }
    drop(held);
    assert_eq!(code(&bigsmall(at, &["convert", "models/m 0", "-y"])), 0);
    assert!(!model.exists() && image.exists());
}
