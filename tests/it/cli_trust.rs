//! The commands that look for damage and mend it, as their user meets them: depths of `verify`,
//! `scrub`, `protect`, `repair`.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::process::Output;
use std::process::Stdio;

use serde_json::Value;

use crate::models;
use crate::roundtrip::put;

pub(crate) fn bigsmall(folder: &Path, words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_bigsmall"))
        .args(words)
        .current_dir(folder)
        .env("XDG_STATE_HOME", folder.join("state"))
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

pub(crate) fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

pub(crate) fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&output.stderr)))
}

pub(crate) fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// 2 MB of bf16 in one tensor: 16 blocks.
fn large_file(seed: u64) -> Vec<u8> {
    let tensor = models::Tensor {
        name: "t".into(),
        dtype: "BF16",
        shape: vec![1 << 20],
        data: models::bf16_weights(&mut models::Random::new(seed), 1 << 20),
    };
    models::file(&[tensor], 0, "")
}

fn folder_with_image() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    put(&folder.path().join("m.safetensors"), &large_file(5));
    assert_eq!(
        code(&bigsmall(folder.path(), &["compress", "m.safetensors"])),
        0
    );
    folder
}

/// Spoils some bytes in the middle, which is in a block.
fn spoil(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle..middle + 100].fill(0x5a);
    put(path, &bytes);
}

#[test]
fn each_depth_says_what_it_looked_at() {
    let folder = folder_with_image();
    let at = folder.path();
    let whole = json(&bigsmall(at, &["verify", "m.bs", "--json"]));
    assert_eq!(whole["images"][0]["checked"], "whole");
    let blocks = whole["images"][0]["blocks_in_all"].as_u64().unwrap();
    assert_eq!(whole["images"][0]["blocks"], blocks);
    spoil(&at.join("m.bs"));
    // the structure is right, and no more is claimed
    let fast = bigsmall(at, &["verify", "m.bs", "--fast"]);
    assert_eq!(code(&fast), 0);
    assert!(
        text(&fast).contains("no block was looked at"),
        "{}",
        text(&fast)
    );
    let fast = json(&bigsmall(at, &["verify", "m.bs", "--fast", "--json"]));
    assert_eq!(fast["images"][0]["checked"], "structure");
    assert_eq!(fast["images"][0]["blocks"], 0);
    assert_eq!(code(&bigsmall(at, &["verify", "m.bs"])), 1);
    // a sample of all finds it, one of a part finds it sometimes, always with the same seed
    let sample = |words: &[&str]| bigsmall(at, &[&["verify", "m.bs", "--sample"], words].concat());
    assert_eq!(code(&sample(&["1"])), 1);
    let found = (0..40).map(|seed: u32| {
        let seed = seed.to_string();
        let once = sample(&["0.2", "--seed", &seed, "--json"]);
        assert_eq!(
            json(&once),
            json(&sample(&["0.2", "--seed", &seed, "--json"]))
        );
        code(&once)
    });
    let found: i32 = found.sum();
    assert!((1..40).contains(&found), "{found}");
    let one = json(&sample(&["0.2", "--json"]));
    let missed = one["images"][0]["sample"]["missed_one"].as_f64().unwrap();
    let chosen = one["images"][0]["blocks"].as_f64().unwrap();
    assert!((missed - (1.0 - chosen / blocks as f64)).abs() < 1e-9);
    let again = json(&sample(&["0.2", "--json"]));
    assert_ne!(
        one["images"][0]["sample"]["seed"],
        again["images"][0]["sample"]["seed"]
    );
    for wrong in ["0", "1.5", "-1", "x"] {
        assert_eq!(code(&sample(&[wrong])), 2, "{wrong}");
    }
}

#[test]
fn an_original_is_compared_byte_by_byte() {
    let folder = folder_with_image();
    let at = folder.path();
    let same = bigsmall(at, &["verify", "m.bs", "--source", "m.safetensors"]);
    assert_eq!(code(&same), 0);
    assert!(text(&same).contains("every byte is that of the original"));
    let mut other = large_file(5);
    let at_byte = other.len() - 1000;
    other[at_byte] ^= 1;
    put(&at.join("other.safetensors"), &other);
    let differs = bigsmall(at, &["verify", "m.bs", "--source", "other.safetensors"]);
    assert_eq!(code(&differs), 1);
    assert!(
        text(&differs).contains(&format!("from byte {at_byte} on")),
        "{}",
        text(&differs)
    );
    put(&at.join("short.safetensors"), &other[..500]);
    // the image is right all the same, and called so
    for (source, how) in [
        ("other.safetensors", "from byte"),
        ("short.safetensors", "it has 500 bytes"),
    ] {
        let words = ["verify", "m.bs", "--source", source];
        let differs = bigsmall(at, &words);
        assert_eq!(code(&differs), 1);
        let said = text(&differs);
        assert!(said.contains("m.bs: ok"), "{said}");
        assert!(
            said.contains("is not what was compressed") && said.contains(how),
            "{said}"
        );
        assert!(!said.contains("DAMAGED"), "{said}");
        let report = json(&bigsmall(at, &[&words[..], &["--json"]].concat()));
        assert_eq!(report["ok"], false);
        assert_eq!(report["images"][0]["ok"], true);
        assert_eq!(report["images"][0]["is_equal_to_source"], false);
    }
    // a folder of images against the folder of originals, and an image of a folder
    fs::create_dir_all(at.join("plain/deep")).unwrap();
    put(&at.join("plain/deep/a.safetensors"), &large_file(6));
    put(&at.join("plain/note.txt"), b"note");
    assert_eq!(
        code(&bigsmall(at, &["compress", "plain", "-o", "small"])),
        0
    );
    assert_eq!(
        code(&bigsmall(at, &["compress", "plain", "-o", "one.bs"])),
        0
    );
    for image in ["small", "one.bs"] {
        let same = json(&bigsmall(
            at,
            &["verify", image, "--source", "plain", "--json"],
        ));
        assert_eq!(same["images"][0]["is_equal_to_source"], true, "{image}");
    }
    put(&at.join("plain/deep/a.safetensors"), &large_file(7));
    for image in ["small", "one.bs"] {
        assert_eq!(
            code(&bigsmall(at, &["verify", image, "--source", "plain"])),
            1
        );
    }
}

#[test]
fn what_is_repaired_elsewhere_replaces_no_other_image() {
    let folder = folder_with_image();
    let at = folder.path();
    put(&at.join("n.safetensors"), &large_file(6));
    assert_eq!(code(&bigsmall(at, &["compress", "n.safetensors"])), 0);
    let other = fs::read(at.join("n.bs")).unwrap();
    assert_eq!(code(&bigsmall(at, &["protect", "m.bs"])), 0);
    spoil(&at.join("m.bs"));
    let refused = bigsmall(at, &["repair", "m.bs", "-o", "n.bs", "--force"]);
    assert_eq!(code(&refused), 2);
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("never replaced"), "{said}");
    assert!(fs::read(at.join("n.bs")).unwrap() == other);
    // what is no image gives way, if that is wanted
    put(&at.join("notes"), b"of old");
    assert_eq!(code(&bigsmall(at, &["repair", "m.bs", "-o", "notes"])), 2);
    let done = bigsmall(at, &["repair", "m.bs", "-o", "notes", "--force"]);
    assert_eq!(code(&done), 0);
}

#[test]
fn parity_is_written_checked_and_used() {
    let folder = folder_with_image();
    let at = folder.path();
    let image = fs::read(at.join("m.bs")).unwrap();
    let refused = bigsmall(at, &["repair", "m.bs"]);
    assert_eq!(code(&refused), 3);
    assert_eq!(code(&bigsmall(at, &["protect", "m.bs"])), 0);
    assert_eq!(
        code(&bigsmall(at, &["protect", "m.bs"])),
        2,
        "it is there already"
    );
    let right = json(&bigsmall(at, &["verify", "m.bs", "--json"]));
    assert_eq!(right["images"][0]["parity"]["ok"], true);
    spoil(&at.join("m.bs"));
    for depth in [&["verify", "m.bs"][..], &["verify", "m.bs", "--fast"]] {
        let found = bigsmall(at, depth);
        assert_eq!(code(&found), 1);
        assert!(
            text(&found).contains("`bigsmall repair` can"),
            "{}",
            text(&found)
        );
    }
    let elsewhere = bigsmall(at, &["repair", "m.bs", "-o", "whole.bs"]);
    assert_eq!(code(&elsewhere), 0);
    assert!(fs::read(at.join("whole.bs")).unwrap() == image);
    assert!(fs::read(at.join("m.bs")).unwrap() != image);
    let report = json(&bigsmall(at, &["repair", "m.bs", "--json"]));
    assert_eq!(report["repaired"], true);
    assert!(fs::read(at.join("m.bs")).unwrap() == image);
    assert_eq!(code(&bigsmall(at, &["verify", "m.bs"])), 0);
    // parity that is damaged is told of and written anew
    spoil(&at.join("m.bs.par"));
    assert_eq!(code(&bigsmall(at, &["verify", "m.bs"])), 1);
    assert_eq!(code(&bigsmall(at, &["repair", "m.bs"])), 0);
    assert_eq!(code(&bigsmall(at, &["verify", "m.bs"])), 0);
    // too much is refused, and nothing is changed
    let mut bytes = image.clone();
    let len = bytes.len();
    bytes[len / 4..len / 2].fill(1);
    put(&at.join("m.bs"), &bytes);
    let refused = bigsmall(at, &["repair", "m.bs"]);
    assert_eq!(code(&refused), 4);
    assert!(fs::read(at.join("m.bs")).unwrap() == bytes);
    // while compressing, for every image
    let done = bigsmall(
        at,
        &["compress", "m.safetensors", "--force", "--ecc=10", "--json"],
    );
    assert_eq!(json(&done)["parity"][0]["path"], "m.bs");
    assert_eq!(code(&bigsmall(at, &["verify", "m.bs"])), 0);
    assert_eq!(
        code(&bigsmall(at, &["compress", "m.safetensors", "--ecc=0"])),
        2
    );
}

#[test]
fn a_library_is_scrubbed_a_little_at_a_time() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("library")).unwrap();
    for name in ["a", "b", "c"] {
        let path = at.join("library").join(format!("{name}.safetensors"));
        put(&path, &models::small_file());
        assert_eq!(
            code(&bigsmall(at, &["compress", path.to_str().unwrap()])),
            0
        );
        fs::remove_file(path).unwrap();
    }
    let scrub = |words: &[&str]| bigsmall(at, &[&["scrub", "library"], words].concat());
    // no time at all is time for one
    let first = json(&scrub(&["--at-most", "0", "--json"]));
    assert_eq!(first["images"].as_array().unwrap().len(), 1);
    assert_eq!(first["left"], 2);
    assert_eq!(first["oldest_days"], Value::Null);
    // the next run goes on
    let second = json(&scrub(&["--json"]));
    assert_eq!(second["images"].as_array().unwrap().len(), 2);
    assert_eq!(second["rested"], 1);
    assert_eq!(second["oldest_days"], 0);
    let third = json(&scrub(&["--json"]));
    assert_eq!(third["rested"], 3);
    // what was changed is looked at again, and what is damaged again and again
    spoil(&at.join("library/b.bs"));
    for _ in 0..2 {
        let found = scrub(&["--json"]);
        assert_eq!(code(&found), 1);
        let images = json(&found)["images"].clone();
        assert_eq!(images.as_array().unwrap().len(), 1);
        assert!(images[0]["path"].as_str().unwrap().ends_with("b.bs"));
    }
    assert_eq!(json(&scrub(&["--older", "0", "--json"]))["rested"], 0);
    fs::remove_file(at.join("library/b.bs")).unwrap();
    assert_eq!(code(&scrub(&[])), 0);
    // a memory that is not understood costs time only
    put(&at.join("state/bigsmall/scrub.json"), b"{");
    assert_eq!(json(&scrub(&["--json"]))["rested"], 0);
    fs::create_dir(at.join("empty")).unwrap();
    assert_eq!(code(&bigsmall(at, &["scrub", "empty"])), 3);
}

/// It may be right: it was not looked at, and is looked at again each time.
#[test]
fn a_fine_tune_without_its_base_is_not_called_damaged() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("library")).unwrap();
    let base = models::small_file();
    let mut tuned = base.clone();
    *tuned.last_mut().unwrap() ^= 1;
    put(&at.join("base.safetensors"), &base);
    put(&at.join("tuned.safetensors"), &tuned);
    for words in [
        &["compress", "base.safetensors", "-o", "library/plain.bs"][..],
        &[
            "compress",
            "tuned.safetensors",
            "-o",
            "library/tuned.bs",
            "--base",
            "base.safetensors",
        ],
    ] {
        assert_eq!(code(&bigsmall(at, words)), 0);
    }
    fs::remove_file(at.join("library/plain.bs")).unwrap();
    fs::rename(at.join("base.safetensors"), at.join("elsewhere")).unwrap();
    let scrub = |words: &[&str]| bigsmall(at, &[&["scrub", "library"], words].concat());
    for _ in 0..2 {
        let found = scrub(&["--json"]);
        assert_eq!(code(&found), 1);
        let report = json(&found);
        assert_eq!(report["missing_bases"], 1);
        assert_eq!(report["images"][0]["damaged_blocks"], 0);
        assert_eq!(report["oldest_days"], Value::Null);
    }
    let said = text(&scrub(&[]));
    assert!(!said.contains("DAMAGED"), "{said}");
    let summary =
        "0 of 1 image verified now, 0 damaged, 1 image not verified as the base is missing";
    assert!(said.contains(summary), "{said}");
    // where it is again, all is right
    let found = json(&scrub(&["--base", "elsewhere", "--json"]));
    assert_eq!(
        (&found["ok"], &found["missing_bases"]),
        (&true.into(), &0.into())
    );
    assert_eq!(found["oldest_days"], 0);
}

#[test]
fn a_rate_is_kept() {
    let folder = folder_with_image();
    let at = folder.path();
    let begun = std::time::Instant::now();
    // 2 MiB of original bytes
    assert_eq!(code(&bigsmall(at, &["scrub", ".", "--rate", "4m"])), 0);
    let seconds = begun.elapsed().as_secs_f64();
    assert!((0.35..5.0).contains(&seconds), "{seconds}");
}
