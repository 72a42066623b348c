//! Restore forgets nothing: what a record tells of is brought back wherever it lies, or is told of
//! until it is found.

use std::fs;
use std::fs::File;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use bigsmall::base::attributes;
use bigsmall::base::in_use::FinishedCheck;
use bigsmall::base::progress::Silent;
use bigsmall::ops::RECORD_NAME;
use bigsmall::ops::plan_convert;
use bigsmall::ops::plan_restore;
use bigsmall::ops::restore;
use serde_json::Value;

use crate::convert::Tree;
use crate::convert::bigsmall;
use crate::convert::code;
use crate::convert::command;
use crate::convert::model;
use crate::convert::tree;
use crate::models::Random;
use crate::roundtrip::put;

/// Models in folders `a` to `d`, converted; how they were.
fn converted(at: &Path) -> Tree {
    let models = at.join("models");
    for (seed, name) in ["a", "b", "c", "d"].iter().enumerate() {
        let folder = models.join(name);
        fs::create_dir_all(&folder).unwrap();
        let bytes = model(&mut Random::new(seed as u64 + 1), 200_000);
        put(&folder.join("model.safetensors"), &bytes);
    }
    let before = tree(&models);
    assert_eq!(code(&bigsmall(at, &["convert", "models", "-y"])), 0);
    assert!(models.join("a/model.bs").exists() && models.join(RECORD_NAME).exists());
    before
}

fn json(at: &Path, words: &[&str]) -> (i32, Value) {
    let output = bigsmall(at, words);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let report = serde_json::from_str(&text);
    (
        code(&output),
        report.unwrap_or_else(|e| panic!("{e}: {text} {said}")),
    )
}

/// As on a file system without attributes: only the record tells of the images.
fn unmark(root: &Path) {
    for path in tree(root).into_keys() {
        let _ = rustix::fs::lremovexattr(root.join(path), attributes::MARK);
    }
}

#[test]
fn a_folder_that_was_renamed_is_restored_where_it_is() {
    for is_marked in [true, false] {
        let folder = tempfile::tempdir().unwrap();
        let (at, models) = (folder.path(), folder.path().join("models"));
        let before = converted(at);
        if !is_marked {
            unmark(&models);
        }
        fs::rename(models.join("b"), models.join("renamed")).unwrap();
        fs::create_dir(models.join("deep")).unwrap();
        fs::rename(models.join("c/model.bs"), models.join("deep/other.bs")).unwrap();
        let (code, report) = json(at, &["restore", "models", "-y", "--json"]);
        assert_eq!((code, &report["restored"]), (0, &4.into()), "{report}");
        let now = tree(&models);
        let same = |now_at: &str, was_at: &str| {
            assert!(
                now[Path::new(now_at)] == before[Path::new(was_at)],
                "{now_at}"
            );
        };
        same("renamed/model.safetensors", "b/model.safetensors");
        same("deep/other.safetensors", "c/model.safetensors");
        same("a/model.safetensors", "a/model.safetensors");
        // all is back, so nothing tells of it any more
        assert_eq!(now.len(), 4, "{:?}", now.keys());
    }
}

#[test]
fn an_image_that_was_moved_away_is_told_of_until_it_is_back_or_given_up() {
    let folder = tempfile::tempdir().unwrap();
    let (at, models) = (folder.path(), folder.path().join("models"));
    let before = converted(at);
    fs::rename(models.join("b"), at.join("away")).unwrap();
    for round in 0..2 {
        let (code, report) = json(at, &["restore", "models", "-y", "--json"]);
        assert_eq!(code, 1, "{report}");
        assert_eq!(report["restored"], if round == 0 { 3 } else { 0 });
        assert_eq!(report["missing"].as_array().unwrap().len(), 1, "{report}");
        assert_eq!(report["missing"][0][0], "b/model.bs");
        assert!(models.join(RECORD_NAME).exists());
    }
    let said = bigsmall(at, &["restore", "models", "-y"]);
    let said = String::from_utf8(said.stdout).unwrap();
    assert!(
        said.contains("b/model.bs") && said.contains("--forget"),
        "{said}"
    );
    fs::rename(at.join("away"), models.join("b")).unwrap();
    assert_eq!(code(&bigsmall(at, &["restore", "models", "-y"])), 0);
    assert!(tree(&models) == before);
    // one that has gone for good is given up
    assert_eq!(code(&bigsmall(at, &["convert", "models", "-y"])), 0);
    fs::remove_file(models.join("c/model.bs")).unwrap();
    assert_eq!(code(&bigsmall(at, &["restore", "models", "-y"])), 1);
    assert_eq!(
        code(&bigsmall(at, &["restore", "models", "-y", "--forget"])),
        0
    );
    assert!(!models.join(RECORD_NAME).exists());
    // an image that was moved out of the folder carries its mark
    assert_eq!(code(&bigsmall(at, &["convert", "models", "-y"])), 0);
    let is_marked = attributes::is_marked(&models.join("d/model.bs"));
    assert!(is_marked, "TMPDIR must be on a disk that keeps attributes");
    fs::rename(models.join("d"), at.join("elsewhere")).unwrap();
    assert_eq!(code(&bigsmall(at, &["restore", "elsewhere", "-y"])), 0);
    let path = at.join("elsewhere/model.safetensors");
    assert!(fs::read(path).unwrap() == before[Path::new("d/model.safetensors")].0);
}

#[test]
#[ignore = "needs root, to mount: scripts/test runs it"]
fn what_a_mount_covers_is_told_of_needs_root() {
    let folder = tempfile::tempdir().unwrap();
    let (at, models) = (folder.path(), folder.path().join("models"));
    let before = converted(at);
    let cover = models.join("b");
    let flags = nix::mount::MsFlags::empty();
    let none: Option<&str> = None;
    nix::mount::mount(Some("tmpfs"), &cover, Some("tmpfs"), flags, none).unwrap();
    let (code, report) = json(at, &["restore", "models", "-y", "--json"]);
    nix::mount::umount(&cover).unwrap();
    assert_eq!((code, &report["restored"]), (1, &3.into()), "{report}");
    let why = report["missing"][0][1].as_str().unwrap();
    assert!(
        why.contains("mounted at") && why.contains("models/b"),
        "{why}"
    );
    let (code, report) = json(at, &["restore", "models", "-y", "--json"]);
    assert_eq!((code, &report["restored"]), (0, &1.into()), "{report}");
    assert!(tree(&models) == before);
}

#[test]
fn what_a_convert_adds_meanwhile_is_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (at, models) = (folder.path(), folder.path().join("models"));
    let before = converted(at);
    let plan = plan_restore(&models, false, &Silent).unwrap();
    // between the plan and the work, as while a question waits for its answer
    let late = models.join("late/model.safetensors");
    fs::create_dir(late.parent().unwrap()).unwrap();
    let bytes = model(&mut Random::new(77), 200_000);
    put(&late, &bytes);
    assert_eq!(code(&bigsmall(at, &["convert", "models", "-y"])), 0);
    let report = restore(&plan, 2, &Silent).unwrap();
    assert_eq!(
        (report.restored, report.missing.len()),
        (4, 0),
        "{report:?}"
    );
    assert!(!late.exists() && models.join(RECORD_NAME).exists());
    let (code, report) = json(at, &["restore", "models", "-y", "--json"]);
    assert_eq!((code, &report["restored"]), (0, &1.into()), "{report}");
    assert!(fs::read(&late).unwrap() == bytes);
    fs::remove_dir_all(late.parent().unwrap()).unwrap();
    assert!(tree(&models) == before);
}

#[test]
fn two_runs_on_one_tree_exclude_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let (at, models) = (folder.path(), folder.path().join("models"));
    converted(at);
    // another run on a part of the tree holds that part, and shares what is above it
    let part = File::open(models.join("a")).unwrap();
    part.lock().unwrap();
    let above = File::open(&models).unwrap();
    above.lock_shared().unwrap();
    for words in [
        &["restore", "models", "-y"][..],
        &["restore", "models/a", "-y"],
        &["convert", "models", "-y"],
    ] {
        let output = bigsmall(at, words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(code(&output), 3, "{words:?}: {said}");
        assert!(said.contains("another run"), "{words:?}: {said}");
    }
    assert!(models.join("a/model.bs").exists());
    // two parts are nothing to each other
    assert_eq!(code(&bigsmall(at, &["restore", "models/b", "-y"])), 0);
    drop((part, above));
    // one on the tree keeps those on its parts out, and who is killed keeps nobody out
    let mut random = Random::new(5);
    for _ in 0..10 {
        for verb in ["convert", "restore"] {
            let mut child = command(at, &[verb, "models", "-y", "-j", "1"])
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(random.below(60)));
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }
    let (code, report) = json(at, &["restore", "models", "-y", "--json"]);
    assert_eq!(code, 0, "{report}");
    let names: Vec<_> = tree(&models).into_keys().collect();
    assert_eq!(names.len(), 4, "{names:?}");
}

/// Runs of both kinds that begin at any moment, on the tree and its parts: all models are there in
/// the end.
#[test]
fn runs_that_begin_at_any_moment_lose_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (at, models) = (folder.path(), folder.path().join("models"));
    let before = converted(at);
    let mut random = Random::new(11);
    for _ in 0..6 {
        let targets = ["models", "models/a", "models/b", "models"];
        let children = targets.map(|target| {
            let verb = ["convert", "restore"][random.below(2) as usize];
            std::thread::sleep(Duration::from_millis(random.below(30)));
            command(at, &[verb, target, "-y", "-j", "1"])
                .spawn()
                .unwrap()
        });
        for child in children {
            child.wait_with_output().unwrap();
        }
    }
    let (code, report) = json(at, &["restore", "models", "-y", "--json"]);
    assert_eq!(code, 0, "{report}");
    assert!(tree(&models) == before, "{:?}", tree(&models).keys());
}

#[test]
fn records_of_older_versions_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let (at, models) = (folder.path(), folder.path().join("models"));
    let before = converted(at);
    unmark(&models);
    let names = ["a", "b", "c", "d"];
    let lines = names.map(|name| format!("\n{name}/model.bs\t{name}/model.safetensors\n"));
    put(&models.join(RECORD_NAME), lines.concat().as_bytes());
    fs::rename(models.join("d/model.bs"), at.join("d.bs")).unwrap();
    let (code, report) = json(at, &["restore", "models", "-y", "--json"]);
    assert_eq!((code, &report["restored"]), (1, &3.into()), "{report}");
    fs::rename(at.join("d.bs"), models.join("d/model.bs")).unwrap();
    let (code, _) = json(at, &["restore", "models", "-y", "--json"]);
    assert_eq!(code, 0);
    assert!(tree(&models) == before);
}

#[test]
fn no_record_or_no_right_is_said_before_the_first_image() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let path = |name: &str| -> PathBuf { at.join("models").join(name) };
    fs::create_dir(at.join("models")).unwrap();
    for (seed, name) in ["a.safetensors", "b.safetensors"].iter().enumerate() {
        put(&path(name), &model(&mut Random::new(seed as u64), 200_000));
    }
    let before = tree(&at.join("models"));
    // where the record would be, is something else
    fs::create_dir(path(RECORD_NAME)).unwrap();
    let output = bigsmall(at, &["convert", "models", "-y"]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(code(&output) != 0 && said.contains("record"), "{said}");
    fs::remove_dir(path(RECORD_NAME)).unwrap();
    assert!(tree(&at.join("models")) == before);
    let plan = plan_convert(&at.join("models"), &FinishedCheck::default(), &Silent).unwrap();
    assert_eq!(plan.chosen().count(), 0, "they are too young");
}

/// On a small disk.
#[test]
#[ignore = "needs root, to mount: scripts/test runs it"]
fn no_room_is_said_before_the_first_image_needs_root() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let none: Option<&str> = None;
    let small = at.join("small");
    fs::create_dir(&small).unwrap();
    let flags = nix::mount::MsFlags::empty();
    nix::mount::mount(none, &small, Some("tmpfs"), flags, Some("size=2m")).unwrap();
    let big = small.join("a.safetensors");
    put(&big, &model(&mut Random::new(1), 900_000));
    let output = bigsmall(at, &["convert", "small", "-y"]);
    let names = fs::read_dir(&small).unwrap().count();
    nix::mount::umount(&small).unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(code(&output) != 0 && said.contains("room"), "{said}");
    assert_eq!(names, 1);
}

#[test]
fn what_was_removed_on_purpose_is_no_longer_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    converted(at);
    // one by its name, the others with their folders, one after a look only
    let looked = bigsmall(at, &["rm", "models/a/model.bs", "--dry-run"]);
    assert_eq!(code(&looked), 0);
    let (_, plan) = json(at, &["restore", "models", "--dry-run", "--json"]);
    assert_eq!(plan["files"].as_array().unwrap().len(), 4);
    assert_eq!(code(&bigsmall(at, &["rm", "models/a/model.bs"])), 0);
    assert_eq!(code(&bigsmall(at, &["rm", "models/b"])), 0);
    let (found, report) = json(at, &["doctor", "models", "--json"]);
    assert_eq!((found, &report["findings"]), (0, &serde_json::json!([])));
    let (done, report) = json(at, &["restore", "models", "-y", "--json"]);
    assert_eq!((done, &report["missing"]), (0, &serde_json::json!([])));
    assert_eq!(report["restored"], 2);
    // nothing is left that a record would be for
    assert!(!at.join("models").join(RECORD_NAME).exists());
}
