//! `doctor` finds what was left behind, each thing once, says what to do, and changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

use bigsmall::base::OutputFile;
use bigsmall::base::atomic;
use serde_json::Value;

use crate::cli_trust::bigsmall;
use crate::cli_trust::code;
use crate::cli_trust::json;
use crate::cli_trust::text;
use crate::models;
use crate::roundtrip::put;

fn done(at: &Path, words: &[&str]) {
    let output = bigsmall(at, words);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(code(&output), 0, "{words:?}: {talk}");
}

/// Kinds and paths of what is found in `library`.
fn found(at: &Path) -> Vec<(String, String)> {
    let output = bigsmall(at, &["doctor", "library", "--json"]);
    let report = json(&output);
    assert_eq!(report["schema"], "bigsmall.doctor/1");
    let findings = report["findings"].as_array().unwrap();
    assert_eq!(report["ok"], findings.is_empty());
    assert_eq!(code(&output), i32::from(!findings.is_empty()));
    let said = text(&bigsmall(at, &["doctor", "library"]));
    let field = |finding: &Value, name: &str| finding[name].as_str().unwrap().to_owned();
    for finding in findings {
        for name in ["path", "what", "advice"] {
            assert!(said.contains(&field(finding, name)), "{name}: {said}");
        }
    }
    let of = |finding: &Value| (field(finding, "kind"), field(finding, "path"));
    findings.iter().map(of).collect()
}

/// Every file with its bytes and time.
fn tree(root: &Path) -> BTreeMap<PathBuf, (Vec<u8>, SystemTime)> {
    let mut tree = BTreeMap::new();
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            tree.extend(self::tree(&path));
        } else {
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            tree.insert(path.clone(), (fs::read(&path).unwrap(), modified));
        }
    }
    tree
}

fn library() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("library")).unwrap();
    for name in ["a", "b", "c"] {
        let path = at.join(format!("library/{name}.safetensors"));
        let tensor = models::Tensor {
            name: name.into(),
            dtype: "BF16",
            shape: vec![1 << 15],
            data: models::bf16_weights(&mut models::Random::new(7), 1 << 15),
        };
        put(&path, &models::file(&[tensor], 0, ""));
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_hours(1))
            .unwrap();
    }
    folder
}

#[test]
fn parity_without_its_file_is_found() {
    let folder = library();
    let at = folder.path();
    put(&at.join("library/c.safetensors"), &models::small_file());
    for name in ["a", "b", "c"] {
        let model = format!("library/{name}.safetensors");
        done(at, &["compress", &model, "--ecc"]);
    }
    assert_eq!(found(at), []);
    // moved by a program that knows nothing of parity, replaced by one, damaged by a disk
    fs::rename(at.join("library/a.bs"), at.join("a.bs")).unwrap();
    let image = fs::read(at.join("library/b.bs")).unwrap();
    fs::copy(at.join("library/c.bs"), at.join("library/b.bs")).unwrap();
    let mut bytes = fs::read(at.join("library/c.bs")).unwrap();
    bytes[5] ^= 1;
    put(&at.join("library/c.bs"), &bytes);
    // another program's
    put(&at.join("library/d.par"), b"PAR\0");
    let before = tree(at);
    let expected = [
        ("orphaned-parity", "library/a.bs.par"),
        ("stale-parity", "library/b.bs.par"),
        ("damage", "library/c.bs.par"),
    ];
    let expected = expected.map(|(kind, path)| (kind.to_owned(), path.to_owned()));
    assert_eq!(found(at), expected);
    assert!(tree(at) == before, "nothing is changed");
    // what is said to do helps
    fs::rename(at.join("a.bs"), at.join("library/a.bs")).unwrap();
    done(at, &["protect", "--force", "library/b.bs"]);
    done(at, &["repair", "library/c.bs"]);
    assert_eq!(found(at), []);
    // parity of an original that an image stands for waits for that
    done(at, &["protect", "library/b.safetensors"]);
    fs::remove_file(at.join("library/b.safetensors")).unwrap();
    put(&at.join("library/b.bs"), &image);
    done(at, &["protect", "--force", "library/b.bs"]);
    assert_eq!(found(at), []);
}

#[test]
fn what_a_stopped_run_has_left_is_found() {
    let folder = library();
    let at = folder.path();
    let left = atomic::temporary_for(&at.join("library/x.bs"));
    put(&left, b"half");
    let gone = atomic::temporary_for(&at.join("library/y.bs"));
    put(&atomic::journal_of(&gone), b"notes");
    let half = atomic::temporary_for(&at.join("library/z"));
    fs::create_dir(&half).unwrap();
    // what is in it goes with it
    put(&half.join(".m.bs.part-1-0123456789abcdef"), b"half");
    // somebody is at work on this one
    let mut living = OutputFile::create(&at.join("library/w.bs"), false).unwrap();
    living.write(b"more to come").unwrap();
    let before = tree(at);
    let within = |path: &Path| path.strip_prefix(at).unwrap().to_str().unwrap().to_owned();
    let mut expected = vec![
        ("half-file".to_owned(), within(&left)),
        (
            "orphaned-journal".to_owned(),
            within(&atomic::journal_of(&gone)),
        ),
        ("half-file".to_owned(), within(&half)),
    ];
    expected.sort_by(|a, b| a.1.cmp(&b.1));
    assert_eq!(found(at), expected);
    assert!(tree(at) == before, "nothing is changed");
}

/// Of an image from nowhere `restore` knows nothing; one that was compressed as an image says so.
fn images_without_a_mark(at: &Path) {
    put(&at.join("m.safetensors"), &models::small_file());
    done(at, &["compress", "m.safetensors", "-o", "library/m.bs"]);
    put(
        &at.join("library/n.bs"),
        &fs::read(at.join("library/m.bs")).unwrap(),
    );
    let kinds: Vec<String> = found(at)
        .into_iter()
        .map(|(kind, path)| kind + " " + &path)
        .collect();
    let has_marks = bigsmall::base::attributes::has_origin(&at.join("library/m.bs"));
    let mut expected = vec![
        "image-without-mark library/n.bs",
        "orphaned-record library/sub/c.bs",
    ];
    if !has_marks {
        expected.insert(0, "image-without-mark library/m.bs");
    }
    assert_eq!(kinds, expected);
    fs::remove_file(at.join("library/m.bs")).unwrap();
    fs::remove_file(at.join("library/n.bs")).unwrap();
}

#[test]
fn what_no_record_tells_of_is_found_and_what_only_a_record_tells_of() {
    let folder = library();
    let at = folder.path();
    fs::create_dir(at.join("library/sub")).unwrap();
    fs::rename(
        at.join("library/c.safetensors"),
        at.join("library/sub/c.safetensors"),
    )
    .unwrap();
    done(at, &["convert", "library", "--yes"]);
    assert_eq!(found(at), []);
    // renamed, and removed
    fs::rename(at.join("library/a.bs"), at.join("library/a2.bs")).unwrap();
    fs::remove_file(at.join("library/sub/c.bs")).unwrap();
    let before = tree(at);
    let kinds: Vec<String> = found(at)
        .into_iter()
        .map(|(kind, path)| kind + " " + &path)
        .collect();
    // what was renamed is known by its content, and `restore` finds it
    assert_eq!(kinds, ["orphaned-record library/sub/c.bs"]);
    assert!(tree(at) == before, "nothing is changed");
    images_without_a_mark(at);
    // a record above the folder that is looked at
    let output = bigsmall(at, &["doctor", "library/sub", "--json"]);
    assert_eq!(json(&output)["findings"][0]["kind"], "orphaned-record");
    fs::rename(at.join("library/a2.bs"), at.join("library/a.bs")).unwrap();
    done(
        at,
        &[
            "decompress",
            "library/b.bs",
            "-o",
            "library/sub/c.safetensors",
        ],
    );
    assert_eq!(found(at), []);
    assert_eq!(code(&bigsmall(at, &["doctor", "nowhere"])), 3);
    assert_eq!(code(&bigsmall(at, &["doctor", "library/b.bs"])), 2);
}
