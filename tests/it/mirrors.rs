//! A folder compressed into another, once and again: what stays, what is made anew, what is never
//! replaced.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::models;
use crate::models::Random;
use crate::models::Tensor;
use crate::program::bigsmall;
use crate::program::code;
use crate::program::names;
use crate::program::report;
use crate::program::skipped;
use crate::program::stderr;
use crate::program::stdout;
use crate::roundtrip::put;

/// The number of images written and kept, and of copies made and kept.
pub(crate) fn counts(report: &Value) -> [u64; 4] {
    let number = |field: &str| report[field].as_u64().unwrap();
    let written = report["images"].as_array().unwrap().len() as u64;
    [
        written,
        number("kept_images"),
        number("copied_files"),
        number("kept_files"),
    ]
}

/// A BF16 model of one tensor.
pub(crate) fn model(seed: u64) -> Vec<u8> {
    let tensor = Tensor {
        name: "w".into(),
        dtype: "BF16",
        shape: vec![200, 300],
        data: models::bf16_weights(&mut Random::new(seed), 60_000),
    };
    models::file(&[tensor], 0, "")
}

pub(crate) fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

pub(crate) fn are_alike(folder: &Path, a: &str, b: &str) -> bool {
    let status = Command::new("diff")
        .args(["-r", a, b])
        .current_dir(folder)
        .status();
    status.unwrap().success()
}

#[test]
fn one_bad_file_stops_no_run() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("src")).unwrap();
    let long_blob = "b".repeat(255);
    let long_name = format!("{}.safetensors", "n".repeat(243));
    let longer = [&model(1)[..], b"and more"].concat();
    for (name, bytes) in [
        ("good.safetensors", &model(2)[..]),
        ("longer.safetensors", &longer),
        ("cut.safetensors", &model(3)[..500]),
        (
            "lfs.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        ),
        (
            "page.safetensors",
            b"<!DOCTYPE html>\n<html><body>Sign in</body></html>",
        ),
        (&long_blob, &model(4)),
        (&long_name, &model(5)),
    ] {
        put(&at.join("src").join(name), bytes);
    }
    let bad = [
        (long_blob.clone(), "name".to_owned()),
        ("cut.safetensors".to_owned(), "not-safetensors".to_owned()),
        ("lfs.safetensors".to_owned(), "git-lfs-pointer".to_owned()),
        ("page.safetensors".to_owned(), "html-page".to_owned()),
    ];
    let found = report(at, &["compress", "src", "-o", "out"], 1);
    assert_eq!(skipped(&found), bad);
    assert_eq!(counts(&found), [3, 0, 4, 0]);
    // in one image every file has its name, and is coded as what it is
    let found = report(at, &["compress", "src", "-o", "one.bs"], 1);
    assert_eq!(skipped(&found), bad[1..]);
    for (image, back) in [("out", "back"), ("one.bs", "back1")] {
        let restored = bigsmall(at, &["decompress", image, "-o", back]);
        assert_eq!(code(&restored), 0, "{}", stderr(&restored));
        assert!(are_alike(at, "src", back), "{image}");
    }
    let refused = bigsmall(at, &["compress", "src", "-o", "new", "--strict"]);
    assert_eq!(code(&refused), 2);
    for (name, _) in &bad[1..] {
        assert!(
            stderr(&refused).contains(name.as_str()),
            "{}",
            stderr(&refused)
        );
    }
    assert!(!at.join("new").exists());
}

/// Loaders refuse such a file, and yet it is a model.
#[test]
fn bytes_after_the_last_tensor_cost_nothing_but_themselves() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(&at.join("m.safetensors"), &model(1));
    let longer = [&model(1)[..], &[7; 999]].concat();
    put(&at.join("longer.safetensors"), &longer);
    let words = ["compress", "longer.safetensors"];
    let told = stderr(&bigsmall(at, &words));
    assert!(told.contains("999 bytes after the last tensor"), "{told}");
    assert_eq!(code(&bigsmall(at, &["compress", "m.safetensors"])), 0);
    let len = |name: &str| fs::metadata(at.join(name)).unwrap().len();
    assert!(len("longer.bs") < len("m.bs") + 300);
    let table = report(at, &["stat", "longer.bs"], 0);
    assert_eq!(table["tensors"][0]["name"], "w");
    assert_eq!(code(&bigsmall(at, &["verify", "longer.bs"])), 0);
    let words = ["decompress", "longer.bs", "-o", "back"];
    assert_eq!(code(&bigsmall(at, &words)), 0);
    assert!(fs::read(at.join("back")).unwrap() == longer);
    let words = ["transcode", "longer.bs", "t.bs", "--profile", "storage"];
    assert_eq!(code(&bigsmall(at, &words)), 0);
    let words = ["verify", "t.bs", "--source", "longer.safetensors"];
    assert_eq!(code(&bigsmall(at, &words)), 0);
}

#[test]
fn a_second_run_brings_the_output_up_to_date() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir_all(at.join("src/sub")).unwrap();
    put(&at.join("src/a.safetensors"), &model(1));
    put(&at.join("src/sub/b.safetensors"), &model(2));
    put(&at.join("src/config.json"), b"{}");
    put(&at.join("src/sub/note"), b"one");
    let words = ["compress", "src", "-o", "out", "--ecc"];
    assert_eq!(counts(&report(at, &words, 0)), [2, 0, 2, 0]);
    put(&at.join("out/mine"), b"of nobody's business");
    let kept = inode(&at.join("out/a.bs"));
    let again = report(at, &words, 0);
    assert_eq!(counts(&again), [0, 2, 0, 2]);
    assert!(again["gone"].as_array().unwrap().is_empty());
    assert_eq!(again["parity"].as_array().unwrap().len(), 0);
    assert_eq!(inode(&at.join("out/a.bs")), kept);
    // changed, with the time and length of before
    let time = fs::metadata(at.join("src/sub/b.safetensors")).unwrap();
    put(&at.join("src/sub/b.safetensors"), &model(3));
    let file = fs::File::options()
        .write(true)
        .open(at.join("src/sub/b.safetensors"))
        .unwrap();
    file.set_modified(time.modified().unwrap()).unwrap();
    put(&at.join("src/sub/note"), b"another");
    let again = report(at, &words, 0);
    assert_eq!(counts(&again), [1, 1, 1, 1]);
    assert_eq!(inode(&at.join("out/a.bs")), kept);
    assert_eq!(code(&bigsmall(at, &["verify", "out"])), 0);
    assert_eq!(code(&bigsmall(at, &["decompress", "out", "-o", "back"])), 0);
    fs::remove_file(at.join("back/mine")).unwrap();
    for parity in ["back/a.bs.par", "back/sub/b.bs.par"] {
        let _ = fs::remove_file(at.join(parity));
    }
    assert!(are_alike(at, "src", "back"));
    assert_eq!(
        counts(&report(at, &[&words[..], &["--check"]].concat(), 0)),
        [0, 2, 0, 2]
    );
    what_is_gone_goes_only_when_asked(at, &words);
}

fn what_is_gone_goes_only_when_asked(at: &Path, words: &[&str]) {
    fs::remove_dir_all(at.join("src/sub")).unwrap();
    let gone = report(at, words, 0);
    let gone: Vec<_> = gone["gone"].as_array().unwrap().iter().collect();
    assert_eq!(gone, ["out/sub/b.bs", "out/sub/note"]);
    // nobody can be asked
    let refused = bigsmall(at, &[words, &["--delete"]].concat());
    assert_eq!(code(&refused), 2, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("gone: `out/sub/b.bs`"));
    assert!(at.join("out/sub/b.bs").exists());
    // a source that is not mounted is no empty one
    fs::rename(at.join("src"), at.join("elsewhere")).unwrap();
    fs::create_dir(at.join("src")).unwrap();
    let refused = bigsmall(at, &[words, &["--delete", "--yes"]].concat());
    assert_eq!(code(&refused), 2, "{}", stderr(&refused));
    assert!(stderr(&refused).contains("holds no file"));
    fs::remove_dir(at.join("src")).unwrap();
    let refused = bigsmall(at, &[words, &["--delete", "--yes"]].concat());
    assert_eq!(code(&refused), 3);
    fs::rename(at.join("elsewhere"), at.join("src")).unwrap();
    assert!(at.join("out/sub/b.bs").exists());
    let done = report(at, &[words, &["--delete", "--yes"]].concat(), 0);
    assert!(done["deleted"].as_array().unwrap().len() >= 2);
    assert_eq!(
        names(&at.join("out")),
        ["a.bs", "a.bs.par", "config.json", "mine"]
    );
}

#[test]
fn what_no_run_has_made_is_never_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (place, seed) in [("one", 1), ("two", 2)] {
        fs::create_dir(at.join(place)).unwrap();
        put(&at.join(place).join("model.safetensors"), &model(seed));
        put(&at.join(place).join("config.json"), place.as_bytes());
    }
    fs::create_dir(at.join("out")).unwrap();
    put(&at.join("out/config.json"), b"of somebody");
    let first = report(at, &["compress", "one", "-o", "out"], 1);
    assert_eq!(
        skipped(&first),
        [("config.json".to_owned(), "name".to_owned())]
    );
    let image = fs::read(at.join("out/model.bs")).unwrap();
    // another model of the same name
    for force in [&[][..], &["--force"]] {
        let words = [&["compress", "two", "-o", "out"][..], force].concat();
        let second = bigsmall(at, &words);
        assert_eq!(code(&second), 1, "{}", stderr(&second));
        let told = stderr(&second);
        assert!(told.contains("--discard-image out/model.bs"), "{told}");
        assert!(fs::read(at.join("out/model.bs")).unwrap() == image);
    }
    let words = [
        "compress",
        "two",
        "-o",
        "out",
        "--discard-image",
        "out/model.bs",
    ];
    let third = report(at, &words, 0);
    assert_eq!(counts(&third), [1, 0, 0, 1]);
    let words = [
        "verify",
        "out/model.bs",
        "--source",
        "two/model.safetensors",
    ];
    assert_eq!(code(&bigsmall(at, &words)), 0);
}

#[test]
fn no_image_gives_way_to_that_of_another_model() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(&at.join("a"), &model(1));
    put(&at.join("a.safetensors"), &model(2));
    put(&at.join("other.safetensors"), &model(3));
    assert_eq!(code(&bigsmall(at, &["compress", "a"])), 0);
    let image = fs::read(at.join("a.bs")).unwrap();
    assert_eq!(code(&bigsmall(at, &["compress", "other.safetensors"])), 0);
    for words in [
        &["compress", "a.safetensors"][..],
        &["compress", "a.safetensors", "--force"],
        &["compress", "other.safetensors", "-o", "a.bs", "--force"],
        &["decompress", "other.bs", "-o", "a.bs", "--force"],
        &[
            "transcode",
            "other.bs",
            "a.bs",
            "--profile",
            "storage",
            "--force",
        ],
        &[
            "diff",
            "a",
            "other.safetensors",
            "--patch",
            "a.bs",
            "--force",
        ],
    ] {
        let refused = bigsmall(at, words);
        assert_eq!(code(&refused), 2, "{words:?}: {}", stderr(&refused));
        assert!(fs::read(at.join("a.bs")).unwrap() == image, "{words:?}");
        let offers = stderr(&refused).contains("--discard-image a.bs");
        assert_eq!(offers, words[0] == "compress", "{}", stderr(&refused));
    }
    // its own source may replace it, whatever that is now
    put(&at.join("a"), &model(4));
    assert_eq!(code(&bigsmall(at, &["compress", "a"])), 2);
    assert_eq!(code(&bigsmall(at, &["compress", "a", "--force"])), 0);
    let words = ["transcode", "a.bs", "t.bs", "--profile", "storage"];
    assert_eq!(code(&bigsmall(at, &words)), 0);
    assert_eq!(code(&bigsmall(at, &[&words[..], &["--force"]].concat())), 0);
    let words = ["compress", "a.safetensors", "--discard-image", "a.bs"];
    assert_eq!(code(&bigsmall(at, &words)), 0);
}

/// A model whose weights are those of `base` but for a share of them.
pub(crate) fn tuned(base: &[u8], seed: u64, share: u64) -> Vec<u8> {
    let mut random = Random::new(seed);
    let mut tuned = base.to_vec();
    let data = tuned.len() - 120_000;
    for element in tuned[data..].as_chunks_mut::<2>().0 {
        if random.below(100) < share {
            element[0] ^= 1 + random.below(3) as u8;
        }
    }
    tuned
}

/// What an image is stored as differences from, by its report.
pub(crate) fn base_of(report: &Value, image: &str) -> Option<String> {
    let images = report["images"].as_array().unwrap();
    let of = images.iter().find(|it| it["output"] == image).unwrap();
    of["base"].as_str().map(str::to_owned)
}

#[test]
fn models_of_one_folder_are_bases_of_each_other() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for place in ["src/base", "src/tuned", "src/light", "stray"] {
        fs::create_dir_all(at.join(place)).unwrap();
    }
    let base = model(1);
    let light = tuned(&base, 5, 3);
    for (place, bytes) in [
        ("src/base", &base),
        ("src/tuned", &tuned(&base, 4, 60)),
        ("src/light", &light),
        // a copy that nobody named: whoever takes the library along does not take it along
        ("stray", &base),
    ] {
        put(&at.join(place).join("model.safetensors"), bytes);
    }
    put(&at.join("src/alone.safetensors"), &models::random_file(4));
    let words = ["compress", "src", "-o", "out", "--auto-delta"];
    let first = report(at, &words, 0);
    let images = [
        "out/base/model.bs",
        "out/tuned/model.bs",
        "out/light/model.bs",
    ];
    let bases: Vec<_> = images.iter().map(|image| base_of(&first, image)).collect();
    assert_eq!(bases.iter().flatten().count(), 2, "{bases:?}");
    assert!(bases.iter().flatten().all(|base| !base.contains("stray")));
    assert_eq!(first["auto_bases"].as_array().unwrap().len(), 2);
    let len = |name: &str| fs::metadata(at.join(name)).unwrap().len();
    let smallest = images.iter().map(|image| len(image)).min().unwrap();
    assert!(smallest * 5 < images.iter().map(|image| len(image)).max().unwrap());
    // it is whole by itself
    fs::rename(at.join("src"), at.join("elsewhere")).unwrap();
    fs::remove_dir_all(at.join("stray")).unwrap();
    assert_eq!(code(&bigsmall(at, &["verify", "out"])), 0);
    assert_eq!(code(&bigsmall(at, &["decompress", "out", "-o", "back"])), 0);
    assert!(are_alike(at, "elsewhere", "back"));
    fs::rename(at.join("elsewhere"), at.join("src")).unwrap();
    assert_eq!(counts(&report(at, &words, 0))[..2], [0, 4]);
    // another model in the place of the one that others are differences from: these are coded anew
    let plain = images
        .iter()
        .zip(&bases)
        .find(|(_, base)| base.is_none())
        .unwrap();
    let source = plain.0.replace("out", "src").replace(".bs", ".safetensors");
    put(&at.join(source), &model(77));
    assert_eq!(counts(&report(at, &words[..4], 0))[..2], [3, 1]);
    assert_eq!(code(&bigsmall(at, &["verify", "out"])), 0);
}

#[test]
fn a_base_elsewhere_is_used_only_where_it_was_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for place in ["src", "bases"] {
        fs::create_dir(at.join(place)).unwrap();
    }
    put(&at.join("bases/model.safetensors"), &model(1));
    put(&at.join("src/tuned.safetensors"), &tuned(&model(1), 4, 5));
    let words = ["compress", "src", "-o", "out", "--auto-delta"];
    assert_eq!(base_of(&report(at, &words, 0), "out/tuned.bs"), None);
    let words = [
        "compress",
        "src",
        "-o",
        "out2",
        "--auto-delta",
        "--base-dir",
        "bases",
    ];
    let told = stdout(&bigsmall(at, &words));
    assert!(
        told.contains("as differences from bases/model.safetensors"),
        "{told}"
    );
    fs::rename(at.join("bases"), at.join("moved")).unwrap();
    let verified = bigsmall(at, &["verify", "out2"]);
    let told = stdout(&verified);
    assert!(!told.contains("DAMAGED") && told.contains("base"), "{told}");
    assert_ne!(code(&verified), 0);
    let words = ["verify", "out2", "--base", "moved"];
    assert_eq!(code(&bigsmall(at, &words)), 0);
}
