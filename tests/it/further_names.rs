//! Files of a folder with several names (hard links): one image, one parity, counted once.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use serde_json::Value;

use crate::mirrors::are_alike;
use crate::mirrors::base_of;
use crate::mirrors::counts;
use crate::mirrors::inode;
use crate::mirrors::model;
use crate::mirrors::tuned;
use crate::program::bigsmall;
use crate::program::code;
use crate::program::names;
use crate::program::report;
use crate::program::stdout;
use crate::roundtrip::put;

const NAMES: &[&str] = &["src/a.safetensors", "src/b.safetensors", "src/sub/c"];

/// A model under two names that end alike and one that does not.
fn source_with_names(at: &Path) {
    fs::create_dir_all(at.join("src/sub")).unwrap();
    put(&at.join(NAMES[0]), &model(1));
    for name in &NAMES[1..] {
        fs::hard_link(at.join(NAMES[0]), at.join(name)).unwrap();
    }
}

fn number(report: &Value, field: &str) -> u64 {
    report[field].as_u64().unwrap()
}

/// The outputs of the links of a report.
fn links(report: &Value) -> Vec<String> {
    let links = report["links"].as_array().unwrap().iter();
    links
        .map(|link| link["output"].as_str().unwrap().to_owned())
        .collect()
}

fn is_one_file(at: &Path, one: &str, other: &str) -> bool {
    inode(&at.join(one)) == inode(&at.join(other))
}

fn bytes_of(at: &Path, name: &str) -> u64 {
    fs::metadata(at.join(name)).unwrap().len()
}

#[test]
fn two_names_of_a_model_are_one_image_with_two_names() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    source_with_names(at);
    let words = ["compress", "src", "-o", "out", "--ecc"];
    let first = report(at, &words, 0);
    // an image records how the name of its file ends: one for `.safetensors`, one for nothing
    assert_eq!(counts(&first), [2, 0, 0, 0]);
    assert_eq!(links(&first), ["out/b.bs"]);
    assert_eq!(first["links"][0]["image"], "out/a.bs");
    assert!(is_one_file(at, "out/a.bs", "out/b.bs"));
    assert!(is_one_file(at, "out/a.bs.par", "out/b.bs.par"));
    assert!(!is_one_file(at, "out/a.bs", "out/sub/c.bs"));
    let read = bytes_of(at, NAMES[0]) * 2;
    let written = bytes_of(at, "out/a.bs") + bytes_of(at, "out/sub/c.bs");
    assert_eq!(number(&first, "source_bytes"), read);
    assert_eq!(number(&first, "output_bytes"), written);
    assert_eq!(first["parity"].as_array().unwrap().len(), 2);
    assert_eq!(code(&bigsmall(at, &["verify", "out"])), 0);
    assert_eq!(code(&bigsmall(at, &["decompress", "out", "-o", "back"])), 0);
    for name in NAMES {
        let back = at.join(name.replace("src", "back"));
        assert!(fs::read(back).unwrap() == model(1), "{name}");
    }
}

#[test]
fn a_second_run_leaves_all_names_as_they_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    source_with_names(at);
    let words = ["compress", "src", "-o", "out", "--ecc"];
    report(at, &words, 0);
    let state = |name: &str| {
        let metadata = fs::metadata(at.join(name)).unwrap();
        (metadata.ino(), metadata.ctime(), metadata.ctime_nsec())
    };
    let all = ["out/a.bs", "out/b.bs", "out/a.bs.par", "out/b.bs.par"];
    let before = all.map(state);
    for more in [&[][..], &["--check"]] {
        let again = report(at, &[&words[..], more].concat(), 0);
        assert_eq!(counts(&again), [0, 3, 0, 0]);
        assert!(links(&again).is_empty());
        assert!(again["parity"].as_array().unwrap().is_empty());
        assert_eq!(all.map(state), before);
    }
    // one more name, which comes first in the folder, of what is there already
    fs::hard_link(at.join(NAMES[0]), at.join("src/0.safetensors")).unwrap();
    let again = report(at, &words, 0);
    assert_eq!(counts(&again), [0, 3, 0, 0]);
    assert_eq!(links(&again), ["out/0.bs"]);
    assert!(is_one_file(at, "out/a.bs", "out/0.bs"));
    assert!(is_one_file(at, "out/a.bs.par", "out/0.bs.par"));
}

#[test]
fn what_becomes_of_one_name_becomes_of_its_image() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    source_with_names(at);
    let words = ["compress", "src", "-o", "out", "--ecc"];
    report(at, &words, 0);
    // another content under all names
    put(&at.join(NAMES[0]), &model(2));
    let again = report(at, &words, 0);
    assert_eq!(counts(&again), [2, 0, 0, 0]);
    assert_eq!(links(&again), ["out/b.bs"]);
    assert!(is_one_file(at, "out/a.bs", "out/b.bs"));
    assert!(is_one_file(at, "out/a.bs.par", "out/b.bs.par"));
    assert_eq!(code(&bigsmall(at, &["verify", "out"])), 0);
    // a file of its own under one of them
    fs::remove_file(at.join(NAMES[1])).unwrap();
    put(&at.join(NAMES[1]), &model(3));
    let kept = inode(&at.join("out/a.bs"));
    let again = report(at, &words, 0);
    assert_eq!(counts(&again), [1, 2, 0, 0]);
    assert_eq!(inode(&at.join("out/a.bs")), kept);
    assert!(!is_one_file(at, "out/a.bs", "out/b.bs"));
    assert!(!is_one_file(at, "out/a.bs.par", "out/b.bs.par"));
    assert_eq!(code(&bigsmall(at, &["verify", "out"])), 0);
    // and none
    fs::remove_file(at.join(NAMES[1])).unwrap();
    let done = report(at, &[&words[..], &["--delete", "--yes"]].concat(), 0);
    assert_eq!(done["gone"].as_array().unwrap().len(), 1);
    assert_eq!(names(&at.join("out")), ["a.bs", "a.bs.par", "sub"]);
}

#[test]
fn a_name_that_is_gone_takes_no_other_along() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    source_with_names(at);
    let words = ["compress", "src", "-o", "out"];
    report(at, &words, 0);
    fs::remove_file(at.join(NAMES[0])).unwrap();
    let done = report(at, &[&words[..], &["--delete", "--yes"]].concat(), 0);
    assert_eq!(done["gone"], serde_json::json!(["out/a.bs"]));
    assert_eq!(names(&at.join("out")), ["b.bs", "sub"]);
    let words = ["verify", "out/b.bs", "--source", NAMES[1]];
    assert_eq!(code(&bigsmall(at, &words)), 0);
}

#[test]
fn a_further_name_is_no_base() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("src")).unwrap();
    put(&at.join("src/m.safetensors"), &model(1));
    put(&at.join("src/tuned.safetensors"), &tuned(&model(1), 4, 3));
    for (name, further) in [("m", "z"), ("tuned", "a")] {
        let path = |name: &str| at.join(format!("src/{name}.safetensors"));
        fs::hard_link(path(name), path(further)).unwrap();
    }
    let words = ["compress", "src", "-o", "out", "--auto-delta"];
    let first = report(at, &words, 0);
    assert_eq!(counts(&first)[..2], [2, 0]);
    assert_eq!(links(&first).len(), 2);
    let images = first["images"].as_array().unwrap();
    let deltas = images.iter().filter(|image| {
        let output = image["output"].as_str().unwrap();
        base_of(&first, output).is_some()
    });
    assert_eq!(deltas.count(), 1);
    assert!(is_one_file(at, "out/m.bs", "out/z.bs"));
    assert!(is_one_file(at, "out/tuned.bs", "out/a.bs"));
    assert_eq!(code(&bigsmall(at, &["decompress", "out", "-o", "back"])), 0);
    assert!(are_alike(at, "src", "back"));
    assert_eq!(counts(&report(at, &words, 0))[..2], [0, 4]);
}

#[test]
fn people_are_told_that_it_counts_once() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    source_with_names(at);
    let said = stdout(&bigsmall(at, &["compress", "src", "-o", "out"]));
    let told = "src/b.safetensors -> out/b.bs  further name (hard link) of out/a.bs";
    assert!(said.contains(told), "{said}");
    let said = stdout(&bigsmall(at, &["compress", "src", "-o", "out"]));
    assert!(
        said.contains("0 written, 3 kept, 0 further names"),
        "{said}"
    );
}
