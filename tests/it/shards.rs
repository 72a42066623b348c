//! Models in several files: their index decides where a tensor is read from, and what does not hold
//! of it is told.

use std::fs;
use std::path::Path;

use serde_json::Value;
use serde_json::json;

use crate::cli_trust::bigsmall;
use crate::cli_trust::code;
use crate::cli_trust::json as report;
use crate::cli_trust::text;
use crate::models;
use crate::models::Random;
use crate::models::Tensor;
use crate::roundtrip::put;

const FIRST: &str = "model-00001-of-00002.safetensors";
const SECOND: &str = "model-00002-of-00002.safetensors";
const INDEX: &str = "model.safetensors.index.json";

fn tensor(name: &str, seed: u64) -> Tensor {
    Tensor {
        name: name.into(),
        dtype: "BF16",
        shape: vec![8192],
        data: models::bf16_weights(&mut Random::new(seed), 8192),
    }
}

fn index(folder: &Path, map: &Value) {
    let text = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    put(&folder.join(INDEX), text.as_bytes());
}

/// A model in two shards, both of which have `w`; the index says which of the two counts.
fn overlapping(folder: &Path, seeds: (u64, u64), counts: &str) {
    fs::create_dir_all(folder).unwrap();
    let first = [tensor("a", 1), tensor("w", seeds.0)];
    let second = [tensor("b", 2), tensor("w", seeds.1)];
    put(&folder.join(FIRST), &models::file(&first, 0, ""));
    put(&folder.join(SECOND), &models::file(&second, 0, ""));
    index(folder, &json!({"a": FIRST, "b": SECOND, "w": counts}));
}

#[test]
fn the_index_decides_which_of_two_tensors_counts() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    // of the same shards, but for what the index says
    overlapping(&at.join("x"), (10, 20), FIRST);
    overlapping(&at.join("y"), (10, 20), SECOND);
    let output = bigsmall(at, &["diff", "x", "y", "--json"]);
    assert_eq!(code(&output), 1);
    let found = report(&output);
    assert_eq!(found["changed"].as_array().unwrap().len(), 1, "{found}");
    assert_eq!(found["changed"][0]["name"], "w");
    assert_eq!(found["same_tensors"], 2);
    // what does not count may be anything
    overlapping(&at.join("z"), (10, 99), FIRST);
    let output = bigsmall(at, &["diff", "x", "z"]);
    assert_eq!(code(&output), 0, "{}", text(&output));
    let told = format!("`w` stands in `x/{FIRST}` and `x/{SECOND}`");
    assert!(text(&output).contains(&told), "{}", text(&output));
    assert!(text(&output).contains(&format!("says that `{FIRST}` counts")));
    // images are known by the names of what they hold, and an index may be named itself
    for (from, to) in [("x", "xs"), ("y", "ys")] {
        let words = ["compress", from, "-o", to];
        assert_eq!(code(&bigsmall(at, &words)), 0);
    }
    let index_of_y = format!("y/{INDEX}");
    for (a, b, same) in [
        ("x", "xs", 0),
        ("y", "ys", 0),
        ("xs", "ys", 1),
        ("x", index_of_y.as_str(), 1),
        ("ys", index_of_y.as_str(), 0),
    ] {
        let output = bigsmall(at, &["diff", a, b]);
        assert_eq!(code(&output), same, "{a} {b}: {}", text(&output));
    }
    // of a folder in one image, too
    for (from, to) in [("x", "x.bs"), ("y", "y.bs")] {
        let words = ["compress", from, "-o", to];
        assert_eq!(code(&bigsmall(at, &words)), 0);
    }
    assert_eq!(code(&bigsmall(at, &["diff", "x.bs", "y.bs"])), 1);
    assert_eq!(code(&bigsmall(at, &["diff", "x", "x.bs"])), 0);
    assert_eq!(code(&bigsmall(at, &["diff", "y", "x.bs"])), 1);
}

#[test]
fn a_base_is_the_tensor_that_counts() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    overlapping(&at.join("x"), (10, 20), SECOND);
    put(
        &at.join("m.safetensors"),
        &models::file(&[tensor("w", 20)], 0, ""),
    );
    let words = ["compress", "m.safetensors", "--base", "x", "--json"];
    let made = report(&bigsmall(at, &words));
    let (bytes, all) = (&made["images"][0]["image_bytes"], 8192 * 2);
    // nothing of it is left but the index
    assert!(bytes.as_u64() < Some(all / 4), "{made}");
}

#[test]
fn where_no_index_decides_every_copy_is_compared() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (model, second) in [("x", 20), ("y", 30), ("z", 20)] {
        overlapping(&at.join(model), (10, second), FIRST);
        fs::remove_file(at.join(model).join(INDEX)).unwrap();
    }
    let output = bigsmall(at, &["diff", "x", "y"]);
    assert_eq!(code(&output), 1, "{}", text(&output));
    assert!(text(&output).contains("no index of shards says which counts"));
    assert!(
        text(&output).contains(&format!("y/{SECOND}")),
        "{}",
        text(&output)
    );
    assert_eq!(code(&bigsmall(at, &["diff", "x", "z"])), 0);
    // parts of a pipeline have tensors of the same names, each its own
    for (pipeline, vae) in [("p", 2), ("q", 3)] {
        for (part, seed) in [("unet", 1), ("vae", vae)] {
            let part = at.join(pipeline).join(part);
            fs::create_dir_all(&part).unwrap();
            let file = models::file(&[tensor("conv_in.weight", seed)], 0, "");
            put(&part.join("diffusion_pytorch_model.safetensors"), &file);
        }
    }
    let found = report(&bigsmall(at, &["diff", "p", "q", "--json"]));
    assert_eq!(found["same_tensors"], 1, "{found}");
    let files = found["changed"][0]["files"].to_string();
    assert!(files.contains("vae") && !files.contains("unet"), "{found}");
    assert_eq!(found["notes"].as_array().unwrap().len(), 0, "{found}");
}

#[test]
fn a_missing_shard_is_told_by_all_who_look() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    overlapping(&at.join("x"), (10, 10), FIRST);
    fs::remove_file(at.join("x").join(SECOND)).unwrap();
    let told = format!("names `{SECOND}`, which is not there: the model lacks 1 tensor");
    for (words, place) in [
        (&["scan", "x"][..], "x"),
        (&["compress", "x", "-o", "xs"], "x"),
        (&["verify", "xs"], "xs"),
        (&["info", "xs"], "xs"),
        (&["diff", "x", "xs"], "xs"),
        (&["compress", "x", "-o", "x.bs"], "x"),
        (&["info", "x.bs"], "x.bs"),
        (&["verify", "x.bs"], "x.bs"),
    ] {
        let output = bigsmall(at, words);
        assert_eq!(code(&output), 0, "{words:?}");
        let line = format!("note: `{place}/{INDEX}` {told}");
        assert!(
            text(&output).contains(&line),
            "{words:?}: {}",
            text(&output)
        );
        let words = [
            words,
            &["--json", "--force"][..=usize::from(words[0] == "compress")],
        ];
        let output = bigsmall(at, &words.concat());
        if words[0][0] != "compress" || words[0][3] == "x.bs" {
            let notes = report(&output)["notes"].to_string();
            assert!(notes.contains("the model lacks"), "{words:?}: {notes}");
        }
    }
    // a shard of another cut, and an index that says what is not so, or nothing
    let other = "model-00001-of-00003.safetensors";
    put(
        &at.join("x").join(other),
        &models::file(&[tensor("c", 3)], 0, ""),
    );
    index(&at.join("x"), &json!({"a": FIRST, "b": FIRST, "w": FIRST}));
    let output = text(&bigsmall(at, &["scan", "x"]));
    assert!(
        output.contains(&format!("`{other}` is not named by")),
        "{output}"
    );
    assert!(output.contains("says that tensor `b` is in"), "{output}");
    put(&at.join("x").join(INDEX), b"{\"weight_map\": 7");
    let output = text(&bigsmall(at, &["scan", "x"]));
    assert!(output.contains("it decides nothing"), "{output}");
}

#[test]
fn images_are_cut_anew_as_their_index_says() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for (model, counts) in [("x", FIRST), ("y", SECOND)] {
        overlapping(&at.join(model), (10, 20), counts);
        let (images, one) = (format!("{model}s"), format!("{model}1"));
        assert_eq!(code(&bigsmall(at, &["compress", model, "-o", &images])), 0);
        let words = ["reshard", &images, &one, "--join"];
        assert_eq!(code(&bigsmall(at, &words)), 0);
        assert_eq!(code(&bigsmall(at, &["diff", model, &one])), 0);
    }
    assert_eq!(code(&bigsmall(at, &["diff", "x1", "y1"])), 1);
}
