//! Tensors move from image to image, and from profile to profile, and stay what they are.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use bigsmall::archive::Archive;
use serde_json::Value;

use crate::cli_trust::bigsmall;
use crate::cli_trust::code;
use crate::cli_trust::json;
use crate::models;
use crate::models::Random;
use crate::models::Tensor;
use crate::roundtrip::put;

fn tensor(name: &str, dtype: &'static str, shape: &[u64], data: Vec<u8>) -> Tensor {
    Tensor {
        name: name.into(),
        dtype,
        shape: shape.to_vec(),
        data,
    }
}

/// Layers with large and pooled tensors, tied embeddings, an empty tensor and several dtypes, in
/// the order in which the safetensors library writes them.
fn model(seed: u64) -> Vec<Tensor> {
    let mut random = Random::new(seed);
    let embedding = models::bf16_weights(&mut random, 300_000);
    let mut tensors = vec![
        tensor("model.step", "I64", &[2], random.bytes(16)),
        tensor("model.scale", "F32", &[0, 4], Vec::new()),
        tensor("lm_head", "BF16", &[300_000], embedding.clone()),
        tensor("model.embed", "BF16", &[300_000], embedding),
    ];
    for layer in 0..12 {
        for (name, count) in [("b", 3000), ("n", 2000), ("w", 90_000)] {
            let name = format!("model.layers.{layer}.{name}");
            let data = models::bf16_weights(&mut random, count);
            tensors.push(tensor(&name, "BF16", &[count as u64], data));
        }
    }
    let place = |dtype: &str| ["BF16", "F32", "I64"].iter().position(|d| *d == dtype);
    tensors.sort_by(|a, b| {
        place(b.dtype)
            .cmp(&place(a.dtype))
            .then(a.name.cmp(&b.name))
    });
    tensors
}

fn done(at: &Path, words: &[&str]) {
    assert_eq!(code(&bigsmall(at, words)), 0, "{words:?}");
}

/// All tensors of plain files by name, and whether the files name them once.
fn tensors_of(paths: &[std::path::PathBuf]) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    let mut found = BTreeMap::new();
    for path in paths {
        let bytes = fs::read(path).unwrap();
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for (name, view) in file.tensors() {
            let what = (
                format!("{:?}", view.dtype()),
                view.shape().to_vec(),
                view.data().to_vec(),
            );
            assert!(found.insert(name, what).is_none());
        }
    }
    found
}

fn restored(at: &Path, folder: &str) -> Vec<std::path::PathBuf> {
    let out = format!("{folder}-restored");
    done(at, &["decompress", folder, "-o", &out]);
    let mut files: Vec<_> = fs::read_dir(at.join(out))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "safetensors")
    });
    files.sort();
    files
}

#[test]
fn a_model_is_cut_and_joined_and_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(
        &at.join("model.safetensors"),
        &models::file(&model(3), 0, "value"),
    );
    done(at, &["compress", "model.safetensors"]);
    let whole = tensors_of(&[at.join("model.safetensors")]);
    let total: usize = whole.values().map(|(.., bytes)| bytes.len()).sum();
    for (name, words, least) in [
        ("sized", &["--size", "500kB"][..], 5),
        ("three", &["--shards", "3"], 3),
        ("layers", &["--by-layer"], 13),
    ] {
        let report = json(&bigsmall(
            at,
            &[&["reshard", "model.bs", name, "--json"], words].concat(),
        ));
        let shards = report["shards"].as_array().unwrap();
        assert!(shards.len() >= least, "{report}");
        done(at, &["verify", name]);
        let files = restored(at, name);
        assert_eq!(files.len(), shards.len());
        assert!(tensors_of(&files) == whole, "{name}");
        // the list says where each tensor is
        let list = fs::read(at.join(name).join("model.safetensors.index.json")).unwrap();
        let list: Value = serde_json::from_slice(&list).unwrap();
        assert_eq!(list["metadata"]["total_size"], total);
        let map = list["weight_map"].as_object().unwrap();
        assert_eq!(map.len(), whole.len());
        for (tensor, file) in map {
            let path = at
                .join(format!("{name}-restored"))
                .join(file.as_str().unwrap());
            assert!(tensors_of(&[path]).contains_key(tensor));
        }
        // joined again it is the file that the library would write, and its image is as large as
        // before
        let joined = format!("{name}-joined");
        put(&at.join(name).join("config.json"), b"{}");
        done(at, &["reshard", name, &joined, "--join"]);
        assert_eq!(
            fs::read(at.join(&joined).join("config.json")).unwrap(),
            b"{}"
        );
        assert!(
            !at.join(&joined)
                .join("model.safetensors.index.json")
                .exists()
        );
        let [file] = &restored(at, &joined)[..] else {
            panic!("one file")
        };
        let original = fs::read(at.join("model.safetensors")).unwrap();
        let (len, joined_bytes) = (original.len(), fs::read(file).unwrap());
        assert!(tensors_of(std::slice::from_ref(file)) == whole);
        // models.rs pads its headers otherwise than the library
        let data = total.min(len);
        assert!(joined_bytes[joined_bytes.len() - data..] == original[len - data..]);
    }
}

#[test]
fn blocks_are_moved_and_not_coded() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(
        &at.join("model.safetensors"),
        &models::file(&model(4), 0, ""),
    );
    done(at, &["compress", "model.safetensors"]);
    done(at, &["reshard", "model.bs", "two", "--shards", "2"]);
    let whole = Archive::open(&at.join("model.bs")).unwrap();
    let mut moved = 0;
    for name in ["model-00001-of-00002.bs", "model-00002-of-00002.bs"] {
        let shard = Archive::open(&at.join("two").join(name)).unwrap();
        let bytes = fs::read(shard.path()).unwrap();
        let original = fs::read(whole.path()).unwrap();
        for span in &shard.index().spans[1..] {
            let named = |other: &&bigsmall::format::SpanRecord| other.span.name == span.span.name;
            let from = whole.index().spans.iter().find(named).unwrap();
            assert_eq!(span.md5, from.md5);
            let blocks = |archive: &Archive, blocks: &std::ops::Range<usize>| {
                archive.index().blocks[blocks.clone()].to_vec()
            };
            for (new, old) in blocks(&shard, &span.blocks)
                .iter()
                .zip(blocks(&whole, &from.blocks))
            {
                assert_eq!(
                    (new.codec, new.checksum, new.coded_len),
                    (old.codec, old.checksum, old.coded_len)
                );
                let range = |at: u64| at as usize..at as usize + new.coded_len as usize;
                assert!(bytes[range(new.offset)] == original[range(old.offset)]);
                moved += 1;
            }
        }
        // what was stored once in a shard is still: tied tensors, and tables that several tensors
        // use
        let repeats = shard
            .index()
            .spans
            .iter()
            .filter(|span| span.repeats.is_some())
            .count();
        let has_both = ["lm_head", "model.embed"].map(|name| {
            shard
                .index()
                .spans
                .iter()
                .any(|span| span.span.name == name)
        });
        assert_eq!(repeats, usize::from(has_both == [true; 2]));
    }
    assert!(moved > 40, "{moved}");
    let sizes = |name: &str| fs::metadata(at.join(name)).unwrap().len();
    // as one image with all tensors, tied and shared as before
    done(at, &["reshard", "model.bs", "one", "--join"]);
    let (one, before) = (sizes("one/model.bs"), sizes("model.bs"));
    assert!(one <= before + before / 500, "{one} {before}");
}

/// A fine-tune as a delta, `run/tuned.bs`, on `base.safetensors`; its tensors.
fn fine_tune(at: &Path) -> BTreeMap<String, (String, Vec<usize>, Vec<u8>)> {
    fs::create_dir(at.join("run")).unwrap();
    let mut tuned = model(5);
    put(&at.join("base.safetensors"), &models::file(&tuned, 0, ""));
    let coded = |(_, tensor): &(usize, &mut Tensor)| tensor.dtype == "BF16";
    for (number, tensor) in tuned.iter_mut().enumerate().filter(coded) {
        for at in (number % 7..tensor.data.len()).step_by(50) {
            tensor.data[at & !1] ^= 1;
        }
    }
    let path = at.join("run/tuned.safetensors");
    put(&path, &models::file(&tuned, 0, ""));
    let words = ["compress", "run/tuned.safetensors", "-o", "run/tuned.bs"];
    done(at, &[&words[..], &BASE].concat());
    tensors_of(&[path])
}

const BASE: [&str; 2] = ["--base", "base.safetensors"];

fn base_path(image: &Path) -> String {
    Archive::open(image).unwrap().index().base_path.clone()
}

#[test]
fn a_fine_tune_stays_one_in_other_shards() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let whole = fine_tune(at);
    let cut = ["reshard", "run/tuned.bs", "cut", "--shards", "2"];
    // without its base nothing is written
    assert_eq!(code(&bigsmall(at, &cut)), 5);
    assert!(!at.join("cut").exists());
    done(at, &[&cut[..], &BASE].concat());
    let len = |path: &Path| fs::metadata(path).unwrap().len();
    let shards = fs::read_dir(at.join("cut")).unwrap();
    let sum: u64 = shards.map(|entry| len(&entry.unwrap().path())).sum();
    let before = len(&at.join("run/tuned.bs"));
    assert!(sum < before * 5 / 4 + 20_000, "{sum} {before}");
    done(at, &[&["verify", "cut"], &BASE[..]].concat());
    done(
        at,
        &[&["decompress", "cut", "-o", "plain"], &BASE[..]].concat(),
    );
    let files = [1, 2].map(|n| at.join(format!("plain/tuned-0000{n}-of-00002.safetensors")));
    assert!(tensors_of(&files) == whole);
    // where the base is, is told from the new place
    assert_eq!(base_path(&at.join("run/tuned.bs")), "../base.safetensors");
    let shard = at.join("cut/tuned-00001-of-00002.bs");
    assert_eq!(base_path(&shard), "../base.safetensors");
}

#[test]
fn a_fine_tune_stays_one_in_another_profile() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fine_tune(at);
    let words = [
        "transcode",
        "run/tuned.bs",
        "tuned.bs",
        "--profile",
        "storage",
    ];
    assert_eq!(code(&bigsmall(at, &words)), 5);
    assert!(!at.join("tuned.bs").exists());
    done(at, &[&words[..], &BASE].concat());
    assert_eq!(base_path(&at.join("tuned.bs")), "base.safetensors");
    let [new, old] = ["tuned.bs", "run/tuned.bs"].map(|image| {
        let archive = Archive::open(&at.join(image)).unwrap();
        assert!(archive.index().is_delta());
        archive.header().image_len
    });
    assert!(new < old * 5 / 4, "{new} {old}");
    let words = ["verify", "tuned.bs", "--source", "run/tuned.safetensors"];
    done(at, &[&words[..], &BASE].concat());
}

#[test]
fn what_is_no_one_model_is_refused_and_nothing_written() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("m")).unwrap();
    put(
        &at.join("m/a.safetensors"),
        &models::file(&model(1)[..3], 0, ""),
    );
    let cut = |source: &str, words: &[&str]| {
        let output = bigsmall(at, &[&["reshard", source, "out"], words].concat());
        assert!(!at.join("out").exists());
        (
            code(&output),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        )
    };
    let (status, words) = cut("m", &["--join"]);
    assert!(
        status == 3 && words.contains("compress the model first"),
        "{status} {words}"
    );
    for name in ["a", "b"] {
        put(
            &at.join(format!("m/{name}.safetensors")),
            &models::file(&model(u64::from(name == "b"))[..3], 0, ""),
        );
        done(at, &["compress", &format!("m/{name}.safetensors")]);
        fs::remove_file(at.join(format!("m/{name}.safetensors"))).unwrap();
    }
    // the same name, other bytes
    let (status, words) = cut("m", &["--join"]);
    assert!(
        status == 2 && words.contains("different bytes"),
        "{status} {words}"
    );
    // a list names the model's own files
    let list = |file: &str| format!("{{\"metadata\":{{}},\"weight_map\":{{\"x\":\"{file}\"}}}}");
    put(
        &at.join("m/model.safetensors.index.json"),
        list("c.safetensors").as_bytes(),
    );
    let (status, words) = cut("m", &["--join"]);
    assert!(
        status == 3 && words.contains("`c.safetensors`"),
        "{status} {words}"
    );
    put(&at.join("m/model.safetensors.index.json"), b"{");
    assert_eq!(cut("m", &["--join"]).0, 2);
    put(
        &at.join("m/model.safetensors.index.json"),
        list("a.safetensors").as_bytes(),
    );
    assert_eq!(cut("m", &["--shards", "4"]).0, 2);
    assert_eq!(cut("m/a.bs", &[]).0, 2);
    assert_eq!(cut("m/a.bs", &["--join", "--by-layer"]).0, 2);
    assert_eq!(code(&bigsmall(at, &["reshard", "m", "m/out", "--join"])), 2);
    done(at, &["reshard", "m", "out", "--join"]);
    // the other model is copied as it is
    assert!(at.join("out/model.bs").exists() && at.join("out/b.bs").exists());
    // an image of a folder has no shards to move
    done(at, &["compress", "m", "-o", "f.bs"]);
    assert_eq!(code(&bigsmall(at, &["reshard", "f.bs", "no", "--join"])), 2);
}

#[test]
fn the_list_of_a_variant_is_one_too() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir(at.join("m")).unwrap();
    put(
        &at.join("m/model.fp16.safetensors"),
        &models::file(&model(2), 0, ""),
    );
    done(at, &["compress", "m", "-o", "s"]);
    done(at, &["reshard", "s", "cut", "--shards", "2"]);
    let (ours, theirs) = (
        at.join("cut/model.fp16.safetensors.index.json"),
        at.join("cut/model.safetensors.index.fp16.json"),
    );
    // as transformers calls it
    fs::rename(&ours, &theirs).unwrap();
    done(at, &["reshard", "cut", "again", "--shards", "3"]);
    let list = at.join("again/model.safetensors.index.fp16.json");
    let list: Value = serde_json::from_slice(&fs::read(list).unwrap()).unwrap();
    let first = list["weight_map"]["lm_head"].as_str().unwrap();
    assert!(
        first.starts_with("model.fp16-0000") && first.contains("-of-00003"),
        "{first}"
    );
    assert_eq!(fs::read_dir(at.join("again")).unwrap().count(), 4);
}

#[test]
fn files_have_the_size_that_was_asked_for_headers_included() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let many: Vec<Tensor> = (0..2000)
        .map(|n| {
            tensor(
                &format!("a.long.name.of.a.small.tensor.{n}"),
                "U8",
                &[7],
                vec![1; 7],
            )
        })
        .collect();
    put(&at.join("m.safetensors"), &models::file(&many, 0, "value"));
    done(at, &["compress", "m.safetensors"]);
    let report = json(&bigsmall(
        at,
        &["reshard", "m.bs", "cut", "--size", "50kB", "--json"],
    ));
    let shards = report["shards"].as_array().unwrap();
    assert!(shards.len() > 4);
    for shard in shards {
        assert!(shard["original_bytes"].as_u64() <= Some(50_000), "{shard}");
    }
    assert_eq!(
        code(&bigsmall(at, &["reshard", "m.bs", "no", "--size", "0"])),
        2
    );
    let plain = bigsmall(at, &["reshard", "m.safetensors", "no", "--join"]);
    assert!(code(&plain) == 2 && String::from_utf8_lossy(&plain.stderr).contains("is no image"));
}

#[test]
fn damage_in_a_block_is_found_before_anything_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    put(
        &at.join("model.safetensors"),
        &models::file(&model(6), 0, ""),
    );
    done(at, &["compress", "model.safetensors"]);
    let mut bytes = fs::read(at.join("model.bs")).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    put(&at.join("model.bs"), &bytes);
    for words in [
        &["reshard", "model.bs", "out", "--shards", "2"][..],
        &["transcode", "model.bs", "new.bs"],
    ] {
        let output = bigsmall(at, words);
        assert_eq!(code(&output), 4, "{words:?}");
        // it is the source that is named
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            said.contains("`model.bs`") && !said.contains(".part-"),
            "{said}"
        );
    }
    assert!(!at.join("out").exists() && !at.join("new.bs").exists());
    let left: Vec<_> = fs::read_dir(at)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(left.len(), 2, "{left:?}");
}

#[test]
fn a_folder_of_images_changes_its_profile() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    fs::create_dir_all(at.join("lib/deep")).unwrap();
    put(
        &at.join("lib/a.safetensors"),
        &models::file(&model(8), 0, ""),
    );
    put(
        &at.join("lib/deep/b.safetensors"),
        &models::file(&model(9), 3, "x"),
    );
    put(&at.join("lib/deep/note.txt"), b"note");
    done(
        at,
        &["compress", "lib", "-o", "small", "--profile", "storage"],
    );
    let report = json(&bigsmall(
        at,
        &[
            "transcode",
            "small",
            "fast",
            "--profile",
            "inference",
            "--json",
        ],
    ));
    assert_eq!(report["schema"], "bigsmall.transcode/1");
    assert_eq!(report["images"].as_array().unwrap().len(), 2);
    let words = ["verify", "fast", "--source", "lib"];
    done(at, &words);
    assert_eq!(fs::read(at.join("fast/deep/note.txt")).unwrap(), b"note");
    let info = json(&bigsmall(at, &["info", "fast/a.bs", "--json"]));
    assert!(
        info["images"][0]["dtypes"]["BF16"]["codecs"]["r16"].as_u64() > Some(0),
        "{info}"
    );
    // the same bytes as if the original had been compressed so
    done(
        at,
        &[
            "compress",
            "lib/a.safetensors",
            "-o",
            "a.bs",
            "--profile",
            "inference",
        ],
    );
    assert!(fs::read(at.join("a.bs")).unwrap() == fs::read(at.join("fast/a.bs")).unwrap());
}
