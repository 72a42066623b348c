//! A run that was killed, wherever, goes on with what it has left, and the image is the same as if
//! nothing had happened.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use serde_json::Value;

use crate::models;
use crate::models::Random;
use crate::models::Tensor;
use crate::roundtrip::put;

/// Large tensors, many small ones that share tables, and some with the same bytes.
fn tensors(random: &mut Random) -> Vec<Tensor> {
    let mut tensors = Vec::new();
    let large = models::bf16_weights(random, 3_000_000);
    for number in 0..60 {
        let data = match number % 6 {
            0 => models::bf16_weights(random, 700_000),
            1 if number > 30 => large.clone(),
            _ => models::bf16_weights(random, 9_000),
        };
        tensors.push(Tensor {
            name: format!("{number:03}"),
            dtype: "BF16",
            shape: vec![data.len() as u64 / 2],
            data,
        });
    }
    tensors
}

/// A machine on which a run does not come to its end in so many tries fails the test.
const RUNS_MAX: u64 = 500;

/// How long a run may take to show what is waited for.
const PATIENCE: Duration = Duration::from_mins(1);

fn compress(at: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bigsmall"));
    command
        .args(["compress", "tuned.safetensors", "--json", "-j", "2"])
        .args(words)
        .env("XDG_CACHE_HOME", at.join("cache"))
        .current_dir(at)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    command
}

fn resumed_bytes(report: &Value) -> u64 {
    report["images"][0]["resumed_bytes"].as_u64().unwrap()
}

fn setup() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new(8);
    let mut tensors = tensors(&mut random);
    put(
        &folder.path().join("base.safetensors"),
        &models::file(&tensors, 0, ""),
    );
    for tensor in &mut tensors {
        for byte in tensor.data.iter_mut().step_by(2) {
            // most weights move a little
            *byte = byte.wrapping_add((random.gauss() * 3.0) as i8 as u8);
        }
    }
    put(
        &folder.path().join("tuned.safetensors"),
        &models::file(&tensors, 0, ""),
    );
    folder
}

fn kill_until_done(words: &[&str]) {
    let folder = setup();
    let at = folder.path();
    let whole = [words, &["-o", "whole.bs"]].concat();
    assert!(compress(at, &whole).status().unwrap().success());
    let resumed = [words, &["-o", "resumed.bs", "--resume"]].concat();
    let mut random = Random::new(99);
    let mut kills: u64 = 0;
    while !at.join("resumed.bs").exists() {
        let mut child = compress(at, &resumed).spawn().unwrap();
        // ever later, so that it comes to its end
        let delay = 5 + (random.gauss().abs() * 30.0) as u64 + 2 * kills;
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        assert!(kills < RUNS_MAX);
    }
    assert!(kills > 3, "{kills} runs");
    let read = |name: &str| fs::read(at.join(name)).unwrap();
    assert!(read("whole.bs") == read("resumed.bs"));
    // once more does nothing
    let output = compress(at, &resumed).output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["kept_images"], 1);
    // now at the latest nothing else is left: the last run may have been killed just before it had
    // tidied up
    let names = fs::read_dir(at).unwrap().map(|e| e.unwrap().file_name());
    assert!(
        names
            .into_iter()
            .all(|name| !name.to_string_lossy().contains(".part-"))
    );
}

#[test]
fn an_image_is_killed_again_and_again_and_comes_out_the_same() {
    kill_until_done(&[]);
}

#[test]
fn so_is_a_delta() {
    kill_until_done(&["--base", "base.safetensors"]);
}

/// Runs until some is left of an interrupted run: killed sooner after it came to its end, and later
/// after it had left too little.
fn leave_half(at: &Path, words: &[&str]) {
    let mut delay = 60;
    for _ in 0..RUNS_MAX {
        let mut child = compress(at, words).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(delay));
        child.kill().unwrap();
        child.wait().unwrap();
        let journal = fs::read_dir(at).unwrap().find_map(|entry| {
            let path = entry.unwrap().path();
            path.to_string_lossy().ends_with(".journal").then_some(path)
        });
        if journal.is_some_and(|path| fs::metadata(path).unwrap().len() > 1000) {
            return;
        }
        let is_done = at.join("x.bs").exists();
        delay = if is_done { delay / 2 + 1 } else { delay + 10 };
        if is_done {
            fs::remove_file(at.join("x.bs")).unwrap();
        }
    }
    panic!("{RUNS_MAX} runs, and none was killed half way");
}

#[test]
fn what_is_not_as_it_was_is_not_gone_on_with() {
    let folder = setup();
    let at = folder.path();
    let words = ["-o", "x.bs", "--resume"];
    assert!(
        compress(at, &["-o", "whole.bs"])
            .status()
            .unwrap()
            .success()
    );
    let whole = fs::read(at.join("whole.bs")).unwrap();
    let finish = |words: &[&str]| -> u64 {
        let output = compress(at, words).output().unwrap();
        assert!(output.status.success());
        resumed_bytes(&serde_json::from_slice(&output.stdout).unwrap())
    };
    leave_half(at, &words);
    assert!(finish(&words) > 0);
    assert!(fs::read(at.join("x.bs")).unwrap() == whole);
    fs::remove_file(at.join("x.bs")).unwrap();
    // a byte that the disk has changed: only what lies before it counts
    leave_half(at, &words);
    let half = fs::read_dir(at).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        let name = path.to_string_lossy().into_owned();
        (name.contains(".part-") && !name.ends_with(".journal")).then_some(path)
    });
    let half = half.unwrap();
    let mut bytes = fs::read(&half).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    put(&half, &bytes);
    let resumed = finish(&words);
    assert!(resumed <= middle as u64);
    assert!(fs::read(at.join("x.bs")).unwrap() == whole);
    fs::remove_file(at.join("x.bs")).unwrap();
    // another profile, and another source
    leave_half(at, &words);
    assert_eq!(finish(&["-o", "x.bs", "--resume", "--storage"]), 0);
    fs::remove_file(at.join("x.bs")).unwrap();
    leave_half(at, &words);
    let mut tuned = fs::read(at.join("tuned.safetensors")).unwrap();
    *tuned.last_mut().unwrap() ^= 1;
    put(&at.join("tuned.safetensors"), &tuned);
    assert_eq!(finish(&words), 0);
}

/// Kills runs over a folder until one has put it in place; gives how many there were, and how many
/// images the last one has kept, if it was not killed before it said so.
fn kill_runs_over_folder(at: &Path) -> Option<(u64, u64)> {
    let _ = fs::remove_dir_all(at.join("out"));
    for runs in 1..RUNS_MAX {
        let mut child = compress(at, &["-o", "out", "--resume"]).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(60 + 4 * runs));
        child.kill().unwrap();
        let output = child.wait_with_output().unwrap();
        if output.status.success() {
            let report: Value = serde_json::from_slice(&output.stdout).unwrap();
            return Some((runs, report["kept_images"].as_u64().unwrap()));
        }
        if at.join("out").exists() {
            return None;
        }
    }
    panic!("{RUNS_MAX} runs, and none has ended");
}

#[test]
fn a_folder_goes_on_with_the_files_that_are_done() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut random = Random::new(4);
    for number in 0..12 {
        let tensors = tensors(&mut random);
        let path = at.join(format!("tuned.safetensors/{number}/m.safetensors"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        put(&path, &models::file(&tensors[number..number + 14], 0, ""));
        put(&path.with_file_name("config.json"), b"{}");
    }
    assert!(compress(at, &["-o", "whole"]).status().unwrap().success());
    // a run may be killed when its folder is in place and before it says so: then once more
    let reported = (0..5).find_map(|_| kill_runs_over_folder(at));
    let (runs, kept) = reported.expect("a run that ends by itself");
    assert!(runs > 1 && kept > 0, "{runs} runs, {kept} kept");
    for number in 0..12 {
        let read = |folder: &str| fs::read(at.join(format!("{folder}/{number}/m.bs"))).unwrap();
        assert!(read("whole") == read("out"));
        assert!(at.join(format!("out/{number}/config.json")).exists());
    }
}

#[test]
fn what_an_interrupted_run_left_of_another_source_does_not_appear() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut random = Random::new(4);
    let source = at.join("tuned.safetensors");
    fs::create_dir_all(source.join("gone")).unwrap();
    for number in 0..12 {
        let path = source.join(format!("gone/{number}.safetensors"));
        put(&path, &models::file(&tensors(&mut random), 0, ""));
    }
    put(&source.join("m.safetensors"), b"another");
    let mut child = compress(at, &["-o", "out", "--resume", "--opaque"])
        .spawn()
        .unwrap();
    let is_begun = || {
        let left: Vec<_> = fs::read_dir(at).unwrap().flatten().collect();
        let left = left.iter().map(|entry| entry.path().join("gone/1.bs"));
        left.into_iter().any(|path| path.exists())
    };
    let begun = Instant::now();
    while !is_begun() && child.try_wait().unwrap().is_none() {
        assert!(begun.elapsed() < PATIENCE, "the run shows nothing");
        std::thread::sleep(Duration::from_millis(1));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!at.join("out").exists());
    fs::remove_dir_all(source.join("gone")).unwrap();
    let model = models::file(&tensors(&mut random), 0, "");
    put(&source.join("m.safetensors"), &model);
    let output = compress(at, &["-o", "out", "--resume"]).output().unwrap();
    assert!(output.status.success());
    let names = fs::read_dir(at.join("out")).unwrap().flatten();
    let names: Vec<_> = names.map(|entry| entry.file_name()).collect();
    assert_eq!(names, ["m.bs"]);
}

#[test]
fn going_on_replaces_nothing_of_others() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut random = Random::new(4);
    let source = at.join("tuned.safetensors");
    fs::create_dir_all(&source).unwrap();
    let model = models::file(&tensors(&mut random), 0, "");
    put(&source.join("m.safetensors"), &model);
    put(&source.join("README.md"), b"of the source");
    fs::create_dir(at.join("out")).unwrap();
    put(&at.join("out/README.md"), b"of somebody");
    let run = |words: &[&str]| compress(at, words).status().unwrap().code();
    // left as it is, and named
    assert_eq!(run(&["-o", "out", "--resume"]), Some(1));
    assert_eq!(fs::read(at.join("out/README.md")).unwrap(), b"of somebody");
    put(&at.join("out/README.md"), b"of the source");
    assert_eq!(run(&["-o", "out", "--resume"]), Some(0));
    // images that are coded anew are kept, too
    put(&at.join("base.safetensors"), &model);
    fs::rename(&source, at.join("plain")).unwrap();
    fs::rename(at.join("out"), &source).unwrap();
    let words = ["-o", "patch", "--base", "base.safetensors", "--resume"];
    assert_eq!(run(&words), Some(0));
    let first = fs::read(at.join("patch/m.bs")).unwrap();
    assert_eq!(run(&words), Some(0));
    assert!(fs::read(at.join("patch/m.bs")).unwrap() == first);
    // in the source itself nothing is written, however deep
    let words = ["-o", "tuned.safetensors/new/deep", "--series"];
    assert_eq!(run(&words), Some(2));
    assert!(!source.join("new").exists());
}

#[test]
fn the_time_of_a_file_alone_does_not_say_that_it_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let mut random = Random::new(4);
    let source = at.join("tuned.safetensors");
    fs::create_dir_all(&source).unwrap();
    let put_model = |random: &mut Random| {
        let path = source.join("m.safetensors");
        let model = models::file(&tensors(random), 0, "");
        put(&path, &model);
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(std::time::UNIX_EPOCH).unwrap();
    };
    put_model(&mut random);
    let run = |words: &[&str]| compress(at, words).status().unwrap().code();
    assert_eq!(run(&["-o", "small", "--series"]), Some(0));
    assert_eq!(run(&["-o", "small", "--series"]), Some(0));
    std::thread::sleep(Duration::from_millis(20));
    put_model(&mut random);
    assert_eq!(run(&["-o", "small", "--series"]), Some(2));
}
