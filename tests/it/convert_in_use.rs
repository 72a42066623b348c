//! Files that somebody else is at work on, or that are not finished, are never taken away, whatever
//! the command.

use std::fs;
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Child;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::SystemTime;

use bigsmall::base::in_use::FinishedCheck;
use bigsmall::base::progress::Silent;
use bigsmall::codec::Profile;
use bigsmall::ops::ConvertOptions;
use bigsmall::ops::convert;
use bigsmall::ops::plan_convert;
use serde_json::Value;

use crate::convert::bigsmall;
use crate::convert::code;
use crate::convert::command;
use crate::convert::model;
use crate::models::Random;
use crate::roundtrip::put;

const AT_ONCE: FinishedCheck = FinishedCheck {
    min_age: Duration::ZERO,
    sparse: false,
};

fn put_model(at: &Path, path: &str, seed: u64) -> PathBuf {
    let path = at.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    put(&path, &model(&mut Random::new(seed), 300_000));
    path
}

/// Why the models stay, by name, of a run or of its plan.
fn stays(at: &Path, words: &[&str]) -> Value {
    let output = bigsmall(at, words);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let files = report["files"].as_array();
    let of_plan = files
        .into_iter()
        .flatten()
        .filter(|file| !file["stays"].is_null());
    let of_plan = of_plan.map(|file| (file["path"].clone(), file["stays"].clone()));
    let stayed = report["stayed"].as_array();
    let of_run = stayed.into_iter().flatten();
    let of_run = of_run.map(|stayed| (stayed[0].clone(), stayed[1].clone()));
    let all = of_plan.chain(of_run);
    all.map(|(path, why)| (path.as_str().unwrap().to_owned(), why))
        .collect::<serde_json::Map<String, Value>>()
        .into()
}

fn why<'a>(stays: &'a Value, name: &str) -> &'a str {
    stays[name].as_str().unwrap_or_default()
}

/// Whether the disk under a folder can say who writes a file.
fn has_leases(at: &Path) -> bool {
    let path = at.join("probe");
    put(&path, b"x");
    let held = bigsmall::base::Unused::hold(&path).unwrap();
    let sure = held.is_sure();
    drop(held);
    fs::remove_file(path).unwrap();
    sure
}

/// Another process that opens a file for writing, or locks it, and stays so until its standard
/// input ends.
fn other_process(what: &str, path: &Path) -> Child {
    let script = format!("{what}; echo ready; read line");
    let mut child = Command::new("bash")
        .args(["-c", &script, "bash"])
        .arg(path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    assert_eq!(&ready, b"ready\n");
    child
}

fn end(mut child: Child) {
    drop(child.stdin.take());
    child.wait().unwrap();
}

#[test]
fn what_another_process_writes_or_has_locked_stays() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let written = put_model(at, "models/written.safetensors", 1);
    let locked = put_model(at, "models/locked.safetensors", 2);
    put_model(at, "models/free.safetensors", 3);
    let writer = other_process("exec 3>>\"$1\"", &written);
    let locker = other_process("exec 3<\"$1\"; flock -x 3", &locked);
    let leases = has_leases(at);
    for words in [
        &["convert", "models", "--dry-run", "--json"][..],
        &["convert", "models", "-y", "--json"],
    ] {
        let stays = stays(at, words);
        assert!(
            why(&stays, "locked.safetensors").contains("locked"),
            "{stays}"
        );
        let written = why(&stays, "written.safetensors").contains("for writing");
        assert!(written || !leases, "{stays}");
    }
    assert!(locked.exists() && !at.join("models/free.safetensors").exists());
    assert!(written.exists() || !leases);
    // so does a lock on a range, which is another kind; and all of them go with their processes
    end(locker);
    end(writer);
    let lock = lock_on_a_range(&locked);
    let stays = stays(at, &["convert", "models", "-y", "--json"]);
    assert!(
        why(&stays, "locked.safetensors").contains("locked"),
        "{stays}"
    );
    assert!(locked.exists());
    drop(lock);
    assert_eq!(code(&bigsmall(at, &["convert", "models", "-y"])), 0);
    assert!(!locked.exists() && !written.exists());
}

/// A lock on a part of a file.
fn lock_on_a_range(path: &Path) -> File {
    let file = File::options().read(true).open(path).unwrap();
    let lock = nix::libc::flock {
        l_type: nix::libc::F_RDLCK as i16,
        l_whence: 0,
        l_start: 10,
        l_len: 10,
        l_pid: 0,
    };
    nix::fcntl::fcntl(&file, nix::fcntl::FcntlArg::F_OFD_SETLK(&lock)).unwrap();
    file
}

#[test]
fn unfinished_downloads_stay() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let names = ["aria", "torrent", "young", "half", "whole"];
    for (seed, name) in names.iter().enumerate() {
        put_model(at, &format!("models/{name}.safetensors"), seed as u64);
    }
    let path = |name: &str| at.join(format!("models/{name}"));
    put(&path("aria.safetensors.aria2"), b"pieces");
    put(&path("torrent.safetensors.!qB"), b"");
    put(
        &path("x.safetensors.part"),
        &model(&mut Random::new(9), 1000),
    );
    let set_age = |name: &str, seconds: u64| {
        let file = File::options().write(true).open(path(name)).unwrap();
        let then = SystemTime::now() - Duration::from_secs(seconds);
        file.set_modified(then).unwrap();
    };
    // room for all of it was taken, and the first half is there
    let half = path("half.safetensors");
    let bytes = fs::read(&half).unwrap();
    let file = File::create(&half).unwrap();
    let len = i64::try_from(bytes.len()).unwrap();
    nix::fcntl::posix_fallocate(&file, 0, len).unwrap();
    file.write_all_at(&bytes[..bytes.len() / 2], 0).unwrap();
    drop(file);
    let knows_holes =
        nix::unistd::lseek(File::open(&half).unwrap(), 0, nix::unistd::Whence::SeekHole).unwrap()
            < len;
    for name in names.iter().filter(|name| **name != "young") {
        set_age(&format!("{name}.safetensors"), 90);
    }
    let words = ["convert", "models", "-y", "--json", "--min-age", "60"];
    let stayed = stays(at, &words);
    assert!(
        why(&stayed, "aria.safetensors").contains(".aria2"),
        "{stayed}"
    );
    assert!(
        why(&stayed, "torrent.safetensors").contains(".!qB"),
        "{stayed}"
    );
    assert!(
        why(&stayed, "young.safetensors").contains("--min-age"),
        "{stayed}"
    );
    let half_stays = why(&stayed, "half.safetensors").contains("never written");
    assert!(half_stays || !knows_holes, "{stayed}");
    assert!(path("whole.bs").exists());
    for name in ["aria", "torrent", "young"] {
        assert!(path(&format!("{name}.safetensors")).exists(), "{name}");
    }
    assert!(path("x.safetensors.part").exists());
    // when they are finished, they are models as all others
    fs::remove_file(path("aria.safetensors.aria2")).unwrap();
    fs::remove_file(path("torrent.safetensors.!qB")).unwrap();
    let words = ["convert", "models", "-y", "--json", "--sparse"];
    assert_eq!(stays(at, &words), serde_json::json!({}));
}

#[test]
fn what_changes_between_the_look_and_the_swap_stays() {
    let folder = tempfile::tempdir().unwrap();
    let path = put_model(folder.path(), "models/a.safetensors", 1);
    let root = folder.path().join("models");
    let plan = plan_convert(&root, &AT_ONCE, &Silent).unwrap();
    let other = model(&mut Random::new(5), 300_000);
    let mtime = fs::metadata(&path).unwrap().modified().unwrap();
    put(&path, &other);
    // even if its time was set back
    let file = File::options().write(true).open(&path).unwrap();
    file.set_modified(mtime).unwrap();
    drop(file);
    let options = ConvertOptions {
        profile: Profile::Balanced,
        keep: None,
        threads: 2,
    };
    let report = convert(&plan, &options, &Silent).unwrap();
    assert_eq!(
        (report.converted, report.failed.len()),
        (0, 0),
        "{report:?}"
    );
    assert_eq!(report.stayed[0].0, "a.safetensors");
    assert!(fs::read(&path).unwrap() == other);
}

/// Somebody who writes to models while they are converted: what he has written is there in the end,
/// in the model or in its image.
#[test]
fn whoever_writes_meanwhile_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    assert!(has_leases(at), "TMPDIR must be on a disk that gives leases");
    let mut random = Random::new(17);
    let mut kept = 0;
    for round in 0..25 {
        let path = put_model(at, "models/a.safetensors", 40 + round);
        let len = fs::metadata(&path).unwrap().len();
        let mut child = command(at, &["convert", "models", "-y", "-j", "2"])
            .spawn()
            .unwrap();
        std::thread::sleep(Duration::from_millis(random.below(120)));
        // the name may have gone just before; who has the file open has one that stays
        if let Ok(file) = File::options().write(true).open(&path) {
            file.write_all_at(b"written late", len - 12).unwrap();
            let has_name = || {
                let there = fs::metadata(&path);
                there.is_ok_and(|there| there.ino() == file.metadata().unwrap().ino())
            };
            assert!(has_name(), "round {round}");
            child.wait().unwrap();
            assert!(has_name(), "round {round}");
            assert!(fs::read(&path).unwrap().ends_with(b"written late"));
            kept += 1;
            drop(file);
        }
        child.wait().unwrap();
        fs::remove_dir_all(at.join("models")).unwrap();
    }
    assert!(kept > 0);
}

#[test]
fn files_in_use_are_neither_removed_nor_repaired_nor_replaced() {
    let folder = tempfile::tempdir().unwrap();
    // `rm` looks into the folders beside this one
    let at = &folder.path().join("here");
    fs::create_dir(at).unwrap();
    let path = put_model(at, "a.safetensors", 1);
    for words in [&["compress", "a.safetensors"][..], &["protect", "a.bs"]] {
        assert_eq!(code(&bigsmall(at, words)), 0);
    }
    let image = at.join("a.bs");
    let whole = fs::read(&image).unwrap();
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(b"damage", whole.len() as u64 / 2)
        .unwrap();
    drop(file);
    let damaged = fs::read(&image).unwrap();
    let commands = [
        &["rm", "a.bs"][..],
        &["repair", "a.bs"],
        &["compress", "a.safetensors", "--force"],
    ];
    let leases = has_leases(at);
    for hold in ["exec 3<\"$1\"; flock -x 3", "exec 3>>\"$1\""] {
        if hold.ends_with("$1\"") && !leases {
            continue;
        }
        let other = other_process(hold, &image);
        for words in commands {
            let output = bigsmall(at, words);
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            assert_eq!(code(&output), 3, "{words:?}: {said}");
            assert!(said.contains("another process"), "{words:?}: {said}");
            assert!(fs::read(&image).unwrap() == damaged, "{words:?}");
        }
        end(other);
    }
    assert_eq!(code(&bigsmall(at, &["repair", "a.bs"])), 0);
    assert!(fs::read(&image).unwrap() == whole);
    assert_eq!(code(&bigsmall(at, &["rm", "a.bs", "a.safetensors"])), 0);
    assert!(!path.exists() && !image.exists());
}

/// A list of what is still to come lies beside it, as download programs put it there.
#[test]
fn what_is_not_fetched_whole_is_neither_removed_nor_repaired() {
    let folder = tempfile::tempdir().unwrap();
    // `rm` looks into the folders beside this one
    let at = &folder.path().join("here");
    fs::create_dir(at).unwrap();
    put(
        &at.join("a.safetensors"),
        &model(&mut Random::new(1), 20_000),
    );
    for words in [&["compress", "a.safetensors"][..], &["protect", "a.bs"]] {
        assert_eq!(code(&bigsmall(at, words)), 0);
    }
    let image = at.join("a.bs");
    let file = File::options().write(true).open(&image).unwrap();
    file.write_all_at(b"damage", fs::metadata(&image).unwrap().len() / 2)
        .unwrap();
    drop(file);
    let damaged = fs::read(&image).unwrap();
    let list = at.join("a.bs.aria2");
    put(&list, b"pieces");
    for words in [&["rm", "a.bs"][..], &["repair", "a.bs"]] {
        let output = bigsmall(at, words);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(code(&output), 3, "{words:?}: {said}");
        assert!(
            said.contains("a.bs.aria2") && said.contains("not finished"),
            "{said}"
        );
        assert!(fs::read(&image).unwrap() == damaged, "{words:?}");
    }
    // elsewhere it may be put together from what is there
    assert_eq!(code(&bigsmall(at, &["repair", "a.bs", "-o", "b.bs"])), 0);
    fs::remove_file(list).unwrap();
    for words in [&["repair", "a.bs"][..], &["rm", "a.bs"]] {
        assert_eq!(code(&bigsmall(at, words)), 0, "{words:?}");
    }
}

/// A file of the Python package in the folder.
fn put_package(at: &Path) -> PathBuf {
    let source = "tests/golden/python-package/bf16-1.0.1.bs";
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join(source);
    let path = at.join("m.bs");
    put(&path, &fs::read(source).unwrap());
    path
}

#[test]
fn packages_and_images_in_use_are_neither_migrated_nor_coded_anew() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let package = put_package(at);
    put_model(at, "a.safetensors", 1);
    assert_eq!(code(&bigsmall(at, &["compress", "a.safetensors"])), 0);
    let target = at.join("b.bs");
    put(&target, &fs::read(at.join("a.bs")).unwrap());
    let before = [&package, &target].map(|path| fs::read(path).unwrap());
    let leases = has_leases(at);
    for hold in ["exec 3<\"$1\"; flock -x 3", "exec 3>>\"$1\""] {
        if hold.ends_with("$1\"") && !leases {
            continue;
        }
        let others = [&package, &target].map(|path| other_process(hold, path));
        let output = bigsmall(at, &["migrate", "m.bs", "--json"]);
        assert_eq!(code(&output), 1);
        let report: Value = serde_json::from_slice(&output.stdout).unwrap();
        let why = report["failed"][0][1].as_str().unwrap();
        assert!(why.contains("another process"), "{report}");
        let output = bigsmall(at, &["transcode", "a.bs", "b.bs", "--force"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(said.contains("another process"), "{said}");
        others.into_iter().for_each(end);
        let now = [&package, &target].map(|path| fs::read(path).unwrap());
        assert!(now == before);
    }
    for words in [
        &["migrate", "m.bs"][..],
        &["transcode", "a.bs", "b.bs", "--force"],
    ] {
        assert_eq!(code(&bigsmall(at, words)), 0, "{words:?}");
    }
}

#[test]
fn a_package_that_is_not_finished_is_not_migrated() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let path = put_package(at);
    let before = fs::read(&path).unwrap();
    let mut list = File::create(at.join("m.bs.aria2")).unwrap();
    list.write_all(b"pieces").unwrap();
    let output = bigsmall(at, &["migrate", ".", "--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(
        report["failed"][0][1].as_str().unwrap().contains(".aria2"),
        "{report}"
    );
    assert!(fs::read(&path).unwrap() == before);
}
