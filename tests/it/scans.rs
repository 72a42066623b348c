//! What compressing folders would save, told before.

use std::fs;
use std::path::Path;

use serde_json::Value;

use crate::cli_trust::bigsmall;
use crate::cli_trust::code;
use crate::cli_trust::json;
use crate::cli_trust::text;
use crate::look::bf16_bytes;
use crate::look::f32_bytes;
use crate::look::fresh;
use crate::look::matrix;
use crate::models;
use crate::models::Random;
use crate::roundtrip::put;

/// A library with a bit of everything.
fn library(at: &Path) {
    fs::create_dir_all(at.join("lib/deep")).unwrap();
    let values = fresh(1, 300_000, "normal");
    let narrow = |value: &f32| f32::from_bits(value.to_bits() & 0xffff_0000);
    let narrow: Vec<f32> = values.iter().map(narrow).collect();
    let one = |dtype, data| models::file(&[matrix("w", dtype, [1000, 300], data)], 0, "");
    let other = bf16_bytes(&fresh(2, 300_000, "normal"));
    let noise = matrix("n", "U8", [500, 100], Random::new(1).bytes(50_000));
    let gguf = [b"GGUF".as_slice(), &vec![7; 1 << 20]].concat();
    for (name, bytes) in [
        ("a.safetensors", one("BF16", bf16_bytes(&values))),
        ("deep/b.safetensors", one("BF16", other)),
        ("deep/copy.safetensors", one("BF16", bf16_bytes(&values))),
        ("native.safetensors", one("F32", f32_bytes(&narrow))),
        ("noise.safetensors", models::file(&[noise], 0, "")),
        ("broken.safetensors", b"no header".to_vec()),
        ("m.gguf", gguf),
        ("note.txt", b"note".to_vec()),
    ] {
        put(&at.join("lib").join(name), &bytes);
    }
    let again = at.join("lib/again.safetensors");
    fs::hard_link(at.join("lib/a.safetensors"), again).unwrap();
}

#[test]
fn a_scan_tells_what_would_be_saved_and_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    library(at);
    let report = json(&bigsmall(at, &["scan", "lib", "--json"]));
    let counts = ["models", "links", "others"].map(|key| report[key].as_u64().unwrap());
    assert_eq!(counts, [6, 1, 2]);
    // a name outside keeps the room of what is made smaller here
    fs::hard_link(at.join("lib/deep/b.safetensors"), at.join("outside")).unwrap();
    let words = text(&bigsmall(at, &["scan", "lib"]));
    assert_eq!(
        words.matches("it has 1 further name outside").count(),
        1,
        "{words}"
    );
    assert!(
        words.contains("1 further name of the same files"),
        "{words}"
    );
    let files = report["files"].as_array().unwrap();
    let of = |name: &str| {
        let is_it = |file: &&Value| file["path"].as_str().unwrap().ends_with(name);
        files.iter().find(is_it).unwrap()
    };
    // the estimate is near what compress makes of it
    let words = ["compress", "lib/deep/b.safetensors", "-o", "b.bs"];
    assert_eq!(code(&bigsmall(at, &words)), 0);
    let estimated = of("b.safetensors")["image_bytes"].as_f64().unwrap();
    let real = fs::metadata(at.join("b.bs")).unwrap().len() as f64;
    assert!((estimated / real - 1.0).abs() < 0.02, "{estimated} {real}");
    assert!(of("native.safetensors")["bf16_in_f32_bytes"].as_u64() > Some(1_100_000));
    assert_eq!(of("b.safetensors")["bf16_in_f32_bytes"], 0);
    for (name, why) in [
        ("noise.safetensors", "100 %"),
        ("broken.safetensors", "not a safetensors file"),
        ("m.gguf", "GGUF"),
    ] {
        assert!(
            of(name)["why_not"].as_str().unwrap().contains(why),
            "{report}"
        );
    }
    for key in ["duplicates", "alike"] {
        let groups = report[key].as_array().unwrap();
        assert_eq!(groups.len(), 1);
        assert_eq!(groups[0]["paths"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn a_scan_counts_what_is_small_already() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    library(at);
    for name in ["a", "native"] {
        let path = format!("lib/{name}.safetensors");
        assert_eq!(code(&bigsmall(at, &["compress", &path])), 0);
    }
    let report = json(&bigsmall(at, &["scan", "lib", "--json"]));
    assert_eq!(report["images"], 2);
    assert!(report["saved_bytes"].as_u64() > Some(900_000));
    let words = text(&bigsmall(at, &["scan", "lib"]));
    for part in [
        "leave it",
        "holds numbers of BF16 only",
        "are the same wherever they were looked at",
        "2 images there already",
    ] {
        assert!(words.contains(part), "{words}");
    }
    assert_eq!(code(&bigsmall(at, &["scan", "nowhere"])), 3);
}
