//! Parity belongs to one file: it goes with that, and beside another it is known for what it is. No
//! image that is whole is ever replaced by what its neighbour's parity makes.

use std::fs;
use std::path::Path;
use std::time::Duration;
use std::time::SystemTime;

use bigsmall::base::digest;
use serde_json::Value;

use crate::cli_trust::bigsmall;
use crate::cli_trust::code;
use crate::cli_trust::json;
use crate::cli_trust::text;
use crate::models;
use crate::models::Random;
use crate::models::Tensor;
use crate::roundtrip::put;

/// Eight tensors of 64 kB; `edited` gives one of them other bytes.
fn model(edited: u64) -> Vec<u8> {
    let tensor = |number: u64| {
        let seed = if number == 5 { 40 + edited } else { number };
        Tensor {
            name: format!("layer.{number}"),
            dtype: "BF16",
            shape: vec![1 << 15],
            data: models::bf16_weights(&mut Random::new(seed), 1 << 15),
        }
    };
    models::file(&(0..8).map(tensor).collect::<Vec<_>>(), 0, "")
}

/// A model as somebody has left it some time ago.
fn put_model(at: &Path, name: &str, bytes: &[u8]) {
    put(&at.join(name), bytes);
    let file = fs::File::options().write(true).open(at.join(name)).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_hours(1))
        .unwrap();
}

fn done(at: &Path, words: &[&str]) -> String {
    let output = bigsmall(at, words);
    let talk = String::from_utf8_lossy(&output.stderr);
    assert_eq!(code(&output), 0, "{words:?}: {talk}");
    text(&output)
}

/// The first image of a report, and its parity.
fn verified(at: &Path, words: &[&str], expected: i32) -> (Value, Value) {
    let output = bigsmall(at, &[&["verify", "--json"], words].concat());
    assert_eq!(code(&output), expected, "{words:?}: {}", text(&output));
    let image = json(&output)["images"][0].clone();
    let parity = image["parity"].clone();
    (image, parity)
}

fn whole_with_own_parity(at: &Path, image: &str) {
    let (_, parity) = verified(at, &[image], 0);
    assert_eq!(parity["ok"], true, "{image}: {parity}");
    assert_eq!(parity["is_of_another_file"], false);
}

/// `m.bs` of this model beside the parity of another one, as programs that know nothing of parity
/// leave it.
fn beside_parity_of(percent: u32, old: &[u8], new: &[u8]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put_model(at, "m.safetensors", old);
    done(
        at,
        &["compress", "m.safetensors", &format!("--ecc={percent}")],
    );
    let parity = fs::read(at.join("m.bs.par")).unwrap();
    put_model(at, "m.safetensors", new);
    done(at, &["compress", "m.safetensors", "--force"]);
    put(&at.join("m.bs.par"), &parity);
    folder
}

#[test]
fn parity_of_another_file_is_no_damage_and_repairs_nothing() {
    let cases = [
        // one tensor of eight: most of the file is what the parity knows, where it is or moved
        (25, model(0), model(1)),
        (5, model(0), model(1)),
        // nothing in common, but for the length
        (5, model(0), random_of_length(model(0).len())),
        (5, models::small_file(), model(0)),
    ];
    for (number, (percent, old, new)) in cases.into_iter().enumerate() {
        let folder = beside_parity_of(percent, &old, &new);
        let at = folder.path();
        let image = fs::read(at.join("m.bs")).unwrap();
        for depth in [
            &["m.bs"][..],
            &["m.bs", "--fast"],
            &["m.bs", "--sample", "0.5"],
        ] {
            let (image, parity) = verified(at, depth, 0);
            assert_eq!(image["ok"], true, "{number} {depth:?}");
            assert_eq!(parity["is_of_another_file"], true, "{number} {depth:?}");
            assert_eq!(parity["repairable"], false);
            let said = done(at, &[&["verify"], depth].concat());
            assert!(said.contains("this parity is of another file"), "{said}");
            assert!(!said.contains("DAMAGED"), "{said}");
        }
        let said = done(at, &["scrub", "."]);
        assert!(said.contains("this parity is of another file"), "{said}");
        assert!(!said.contains("DAMAGED"), "{said}");
        for words in [&["repair", "m.bs"][..], &["repair", "m.bs", "--force"]] {
            let refused = bigsmall(at, words);
            let talk = String::from_utf8_lossy(&refused.stderr);
            assert_eq!(code(&refused), 2, "{number}: {talk}");
            assert!(talk.contains("of another file"), "{talk}");
        }
        assert!(fs::read(at.join("m.bs")).unwrap() == image, "{number}");
        // the way out that is named
        done(at, &["protect", "--force", "m.bs"]);
        whole_with_own_parity(at, "m.bs");
    }
}

fn random_of_length(len: usize) -> Vec<u8> {
    let tensor = |number: u64| Tensor {
        name: format!("layer.{number}"),
        dtype: "BF16",
        shape: vec![1 << 15],
        data: models::bf16_weights(&mut Random::new(900 + number), 1 << 15),
    };
    let file = models::file(&(0..8).map(tensor).collect::<Vec<_>>(), 0, "");
    assert_eq!(file.len(), len);
    file
}

/// As it was written until 2026-11: what its file begins with, and the percentage, are not said.
fn as_of_old(parity: &[u8]) -> Vec<u8> {
    let mut header = parity[..256].to_vec();
    header[11] = 0;
    header[72..80].fill(0);
    let checksum = digest::xxh3(&header[..248]).to_le_bytes();
    header[248..].copy_from_slice(&checksum);
    let body = &parity[256..parity.len() - 256];
    [&header, body, &header].concat()
}

#[test]
fn parity_of_earlier_days_is_known_for_what_it_is() {
    for (number, old) in [model(1), random_of_length(model(0).len())]
        .iter()
        .enumerate()
    {
        let folder = beside_parity_of(25, old, &model(0));
        let at = folder.path();
        let parity = as_of_old(&fs::read(at.join("m.bs.par")).unwrap());
        put(&at.join("m.bs.par"), &parity);
        let image = fs::read(at.join("m.bs")).unwrap();
        for depth in [&["m.bs"][..], &["m.bs", "--fast"]] {
            let (_, parity) = verified(at, depth, 0);
            assert_eq!(parity["is_of_another_file"], true, "{number}");
        }
        assert_eq!(code(&bigsmall(at, &["repair", "m.bs"])), 2);
        assert!(fs::read(at.join("m.bs")).unwrap() == image);
        // its own mends it, and a new image gets as much of the new kind
        done(at, &["protect", "m.bs", "--percent", "25", "--force"]);
        let parity = fs::read(at.join("m.bs.par")).unwrap();
        put(&at.join("m.bs.par"), &as_of_old(&parity));
        let mut bytes = image.clone();
        let middle = bytes.len() / 2;
        bytes[..60].fill(1);
        bytes[middle..middle + 100].fill(1);
        put(&at.join("m.bs"), &bytes);
        done(at, &["repair", "m.bs"]);
        assert!(fs::read(at.join("m.bs")).unwrap() == image);
        done(at, &["compress", "m.safetensors", "--force"]);
        let renewed = fs::read(at.join("m.bs.par")).unwrap();
        assert!(renewed.len().abs_diff(parity.len()) < parity.len() / 20);
    }
}

#[test]
fn a_damaged_image_is_not_replaced_by_its_older_version() {
    // the parity makes up for all that differs, and for the damage: the old model could be had
    let folder = beside_parity_of(40, &model(0), &model(1));
    let at = folder.path();
    let mut bytes = fs::read(at.join("m.bs")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 100].fill(0x5a);
    put(&at.join("m.bs"), &bytes);
    let (image, parity) = verified(at, &["m.bs"], 1);
    assert_eq!(image["ok"], false);
    assert_eq!(parity["is_of_another_file"], true);
    let refused = bigsmall(at, &["repair", "m.bs"]);
    assert_eq!(code(&refused), 2);
    assert!(fs::read(at.join("m.bs")).unwrap() == bytes);
    // cut short, its own length does not tell: its header still does
    bytes.truncate(bytes.len() - 50);
    put(&at.join("m.bs"), &bytes);
    assert_eq!(code(&bigsmall(at, &["repair", "m.bs"])), 2);
    assert!(fs::read(at.join("m.bs")).unwrap() == bytes);
}

#[test]
fn bytes_that_hold_nothing_are_no_damage() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put_model(at, "m.safetensors", &model(0));
    done(at, &["compress", "m.safetensors", "--ecc"]);
    let mut bytes = fs::read(at.join("m.bs")).unwrap();
    // within the zeros before the tail index, whose place the header names
    let tail = u64::from_le_bytes(bytes[72..80].try_into().unwrap()) as usize;
    assert_eq!(bytes[tail - 20], 0);
    bytes[tail - 20] = 1;
    put(&at.join("m.bs"), &bytes);
    whole_with_own_parity(at, "m.bs");
    let report = json(&bigsmall(at, &["repair", "m.bs", "--json"]));
    assert_eq!(report["repaired"], false);
    assert!(fs::read(at.join("m.bs")).unwrap() == bytes);
}

#[test]
fn a_new_image_takes_its_parity_along() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put_model(at, "m.safetensors", &model(0));
    done(at, &["compress", "m.safetensors", "--ecc=12"]);
    let old = fs::read(at.join("m.bs.par")).unwrap();
    // edited and compressed again
    put_model(at, "m.safetensors", &model(1));
    let words = ["compress", "m.safetensors", "--force", "--json"];
    let report = json(&bigsmall(at, &words));
    assert_eq!(report["parity"][0]["parity"], "m.bs.par");
    whole_with_own_parity(at, "m.bs");
    let new = fs::read(at.join("m.bs.par")).unwrap();
    // as much of it as before
    assert!(new != old && new.len().abs_diff(old.len()) < old.len() / 50);
    // in another profile, over an image that has parity
    let words = ["transcode", "m.bs", "t.bs", "--profile", "storage"];
    done(at, &words);
    put(&at.join("t.bs.par"), &new);
    let said = done(at, &[&words[..], &["--force"]].concat());
    assert!(said.contains("t.bs.par"), "{said}");
    whole_with_own_parity(at, "t.bs");
    // a file that is no image
    put(&at.join("x.safetensors"), &model(2));
    done(at, &["protect", "x.safetensors"]);
    let words = [
        "decompress",
        "m.bs",
        "-o",
        "x.safetensors",
        "--force",
        "--json",
    ];
    let report = json(&bigsmall(at, &words));
    assert_eq!(report["parity"][0]["parity"], "x.safetensors.par");
    assert_eq!(
        json(&bigsmall(at, &["repair", "x.safetensors", "--json"]))["repaired"],
        false
    );
    // an image that went without its parity
    fs::remove_file(at.join("m.bs")).unwrap();
    put_model(at, "m.safetensors", &model(3));
    done(at, &["compress", "m.safetensors"]);
    whole_with_own_parity(at, "m.bs");
    let left: Vec<_> = fs::read_dir(at)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert!(
        !left
            .iter()
            .any(|name| name.to_string_lossy().contains(".part-")),
        "{left:?}"
    );
}

#[test]
fn a_library_takes_its_parity_along() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("models")).unwrap();
    put_model(at, "models/m.safetensors", &model(0));
    // of an image that was there once
    put(&at.join("models/m.bs"), b"\x89BigSml\n and no more");
    done(at, &["protect", "models/m.bs"]);
    fs::remove_file(at.join("models/m.bs")).unwrap();
    let report = json(&bigsmall(at, &["convert", "models", "--yes", "--json"]));
    assert_eq!(report["converted"], 1);
    assert!(
        report["parity"][0]["parity"]
            .as_str()
            .unwrap()
            .ends_with("m.bs.par")
    );
    whole_with_own_parity(at, "models/m.bs");
    let report = json(&bigsmall(at, &["restore", "models", "--yes", "--json"]));
    assert_eq!(report["restored"], 1);
    assert_eq!(report["parity_removed"].as_array().unwrap().len(), 1);
    assert!(!at.join("models/m.bs.par").exists());
}

#[test]
fn what_is_removed_takes_its_parity_along() {
    let folder = tempfile::tempdir().unwrap();
    // `rm` looks for deltas in the folders beside it
    let at = &folder.path().join("library");
    fs::create_dir(at).unwrap();
    put_model(at, "m.safetensors", &model(0));
    for name in ["a.bs", "b.bs", "c.bs"] {
        done(at, &["compress", "m.safetensors", "-o", name, "--ecc"]);
    }
    let dry = json(&bigsmall(at, &["rm", "a.bs", "--dry-run", "--json"]));
    assert_eq!(dry["removed"].as_array().unwrap().len(), 2);
    assert!(at.join("a.bs.par").exists());
    let report = json(&bigsmall(at, &["rm", "a.bs", "--json"]));
    assert_eq!(report["removed"], dry["removed"]);
    assert!(!at.join("a.bs").exists() && !at.join("a.bs.par").exists());
    // both named
    done(at, &["rm", "b.bs", "b.bs.par"]);
    assert!(!at.join("b.bs").exists() && !at.join("b.bs.par").exists());
    // what is no parity of ours is somebody's
    put(&at.join("c.bs.par"), b"PAR\0 of another program");
    let said = bigsmall(at, &["rm", "c.bs"]);
    assert_eq!(code(&said), 0);
    let talk = String::from_utf8_lossy(&said.stderr);
    assert!(talk.contains("is no parity file of bigsmall"), "{talk}");
    assert!(!at.join("c.bs").exists() && at.join("c.bs.par").exists());
    done(at, &["compress", "m.safetensors", "-o", "c.bs"]);
    assert!(fs::read(at.join("c.bs.par")).unwrap().starts_with(b"PAR"));
}

#[test]
fn what_was_written_to_since_is_not_undone_unasked() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put_model(at, "m.safetensors", &model(0));
    done(at, &["protect", "m.safetensors"]);
    let mut edited = model(0);
    let len = edited.len();
    edited[len / 2..len / 2 + 64].fill(1);
    put(&at.join("m.safetensors"), &edited);
    let later = SystemTime::now() + Duration::from_secs(5);
    let file = fs::File::options()
        .write(true)
        .open(at.join("m.safetensors"));
    file.unwrap().set_modified(later).unwrap();
    let refused = bigsmall(at, &["repair", "m.safetensors"]);
    assert_eq!(code(&refused), 2);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("--force"));
    assert!(fs::read(at.join("m.safetensors")).unwrap() == edited);
    done(at, &["repair", "m.safetensors", "-o", "old.safetensors"]);
    assert!(fs::read(at.join("old.safetensors")).unwrap() == model(0));
    done(at, &["repair", "m.safetensors", "--force"]);
    assert!(fs::read(at.join("m.safetensors")).unwrap() == model(0));
}
