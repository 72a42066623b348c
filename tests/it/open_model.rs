//! One model in every form that it can have: whoever asks for rows of a tensor gets the same bytes,
//! and need not know which form it is.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bigsmall::archive::Bases;
use bigsmall::archive::Model;
use bigsmall::archive::Opening;
use bigsmall::archive::ReadScratch;
use bigsmall::base::ErrorKind;
use bigsmall::base::FileSource;
use bigsmall::tensor::Layout;
use bigsmall::tensor::SpanKind;

use crate::cli_trust::bigsmall;
use crate::cli_trust::code;
use crate::models;
use crate::models::Tensor;
use crate::roundtrip::put;

/// A model that the Python package's last release wrote.
fn package() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    root.join("tests/golden/python-package/bf16-4.0.0.bs")
}

fn done(at: &Path, words: &[&str]) {
    assert_eq!(code(&bigsmall(at, words)), 0, "{words:?}");
}

/// The bytes of a whole model as one file.
fn plain_bytes(package: &Path) -> Vec<u8> {
    let file = bigsmall::archive::ModelFile::open(package, &Opening::default()).unwrap();
    let original = &file.originals()[0];
    let mut bytes = vec![0; original.bytes.len() as usize];
    original.bytes.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

/// The tensors of a file, to be put into others.
fn tensors(bytes: &Vec<u8>) -> Vec<Tensor> {
    let layout = Layout::of_safetensors(bytes).unwrap();
    let tensors = layout.spans.iter().filter(|s| s.kind == SpanKind::Tensor);
    let tensor = |span: &bigsmall::tensor::Span| Tensor {
        name: span.name.clone(),
        dtype: models::DTYPES
            .iter()
            .find(|(name, _)| *name == span.dtype)
            .unwrap()
            .0,
        shape: span.shape.clone(),
        data: bytes[span.start as usize..(span.start + span.len) as usize].to_vec(),
    };
    tensors.map(tensor).collect()
}

/// The model in a folder as two shards with their index.
fn put_shards(folder: &Path, tensors: &[Tensor]) {
    fs::create_dir(folder).unwrap();
    let half = tensors.len() / 2;
    let mut map = Vec::new();
    for (number, shard) in [&tensors[..half], &tensors[half..]].iter().enumerate() {
        let name = format!("model-{:05}-of-00002.safetensors", number + 1);
        put(&folder.join(&name), &models::file(shard, 0, ""));
        map.extend(shard.iter().map(|t| format!("\"{}\":\"{name}\"", t.name)));
    }
    let index = format!("{{\"weight_map\":{{{}}}}}", map.join(","));
    put(
        &folder.join("model.safetensors.index.json"),
        index.as_bytes(),
    );
}

/// A form, where the model has it, and what it needs there.
type Form = (&'static str, PathBuf, Option<PathBuf>);

/// Tensors of many blocks, some of which a delta leaves as they are.
fn large_model() -> Vec<u8> {
    let mut random = models::Random::new(13);
    let shapes = [("a", [700, 1000]), ("b", [1, 9]), ("c", [300_001, 3])];
    let tensors = shapes.map(|(name, shape)| Tensor {
        name: name.into(),
        dtype: "BF16",
        shape: shape.map(|dim| dim as u64).to_vec(),
        data: models::bf16_weights(&mut random, shape[0] * shape[1]),
    });
    models::file(&tensors, 0, "")
}

/// Every form of a model, with a name for it.
fn forms(at: &Path, bytes: &Vec<u8>) -> Vec<Form> {
    let tensors = tensors(bytes);
    put(&at.join("model.safetensors"), bytes);
    done(at, &["compress", "model.safetensors", "-o", "image.bs"]);
    done(
        at,
        &[
            "compress",
            "model.safetensors",
            "-o",
            "fast.bs",
            "--profile",
            "inference",
        ],
    );
    put_shards(&at.join("shards"), &tensors);
    done(at, &["compress", "shards", "-o", "folder.bs"]);
    done(at, &["compress", "shards", "-o", "mirror"]);
    let mut other = tensors.clone();
    for tensor in &mut other {
        let len = tensor.data.len();
        tensor
            .data
            .iter_mut()
            .step_by(7)
            .take(len / 20)
            .for_each(|byte| *byte ^= 1);
    }
    fs::create_dir(at.join("base")).unwrap();
    put(
        &at.join("base/base.safetensors"),
        &models::file(&other, 0, ""),
    );
    let base = "base/base.safetensors";
    done(
        at,
        &[
            "compress",
            "model.safetensors",
            "-o",
            "delta.bs",
            "--base",
            base,
        ],
    );
    let of = |name: &str| at.join(name);
    vec![
        ("plain file", of("model.safetensors"), None),
        ("image", of("image.bs"), None),
        ("image to be decoded fast", of("fast.bs"), None),
        ("shards", of("shards"), None),
        (
            "their index",
            of("shards/model.safetensors.index.json"),
            None,
        ),
        ("images of shards", of("mirror"), None),
        ("image of a folder", of("folder.bs"), None),
        ("delta", of("delta.bs"), Some(of(base))),
        (
            "delta, its base beside it",
            of("delta.bs"),
            Some(of("base")),
        ),
    ]
}

fn open(path: &Path, base: Option<&PathBuf>) -> Model {
    let bases = base.map(|base| Arc::new(Bases::open(base, None).unwrap()) as _);
    let opening = Opening {
        resolver: bases,
        ..Opening::default()
    };
    Model::open_with(path, opening).unwrap()
}

#[test]
fn a_model_has_the_same_rows_in_every_form() {
    let folder = tempfile::tempdir().unwrap();
    let package = package();
    let mut forms = forms(folder.path(), &plain_bytes(&package));
    forms.push(("file of the Python package", package, None));
    let plain = Model::open(&folder.path().join("model.safetensors")).unwrap();
    let names: Vec<&str> = plain.tensors().map(|t| t.span().name.as_str()).collect();
    assert!(names.len() > 1);
    for (form, path, base) in &forms {
        let model = open(path, base.as_ref());
        let same: Vec<&str> = model.tensors().map(|t| t.span().name.as_str()).collect();
        assert_eq!(same, names, "{form}");
        for name in &names {
            let (expected, found) = (plain.tensor(name).unwrap(), model.tensor(name).unwrap());
            let (a, b) = (expected.info(), found.info());
            assert_eq!(
                (&a.dtype, &a.shape, a.len),
                (&b.dtype, &b.shape, b.len),
                "{form}"
            );
            let (rows, row_len) = (found.row_count(), found.row_len().unwrap() as usize);
            // all of it, a few in the middle, one at the end, none
            let some = [
                0..rows,
                rows / 3..rows / 2,
                rows.saturating_sub(1)..rows,
                rows..rows,
            ];
            for wanted in some {
                let len = (wanted.end - wanted.start) as usize * row_len;
                let (mut left, mut right) = (vec![1; len], vec![2; len]);
                expected.rows(wanted.clone(), &mut left).unwrap();
                found.rows(wanted.clone(), &mut right).unwrap();
                assert!(left == right, "{form}: rows {wanted:?} of {name}");
            }
        }
    }
}

#[test]
fn coded_bytes_of_a_tensor_decode_to_its_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let mut scratch = ReadScratch::default();
    let mut in_images = 0;
    for (form, path, base) in &forms(folder.path(), &large_model()) {
        let model = open(path, base.as_ref());
        for tensor in model.tensors() {
            let tensor = model.of(tensor);
            let len = tensor.info().len;
            for range in [0..len, len / 2..len / 2 + 1, len..len] {
                let Some(coded) = tensor.coded(range.clone(), Vec::new()).unwrap() else {
                    let is_image = form.contains("image") || form.contains("delta");
                    assert!(!is_image || range.is_empty(), "{form}");
                    continue;
                };
                let whole = coded.range();
                assert!(whole.start <= range.start && range.end <= whole.end);
                let (mut left, mut right) =
                    (vec![1; coded.original_len()], vec![2; coded.original_len()]);
                coded.decode(&mut left, &mut scratch).unwrap();
                tensor.read(whole, &mut right).unwrap();
                assert!(left == right, "{form}: {range:?} of {}", tensor.info().name);
                in_images += 1;
            }
        }
    }
    assert!(in_images > 10);
}

#[test]
fn what_is_not_there_or_not_decided_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    let tensor = |name: &str, value: u8| Tensor {
        name: name.into(),
        dtype: "U8",
        shape: vec![3, 5],
        data: vec![value; 15],
    };
    put(
        &at.join("a.safetensors"),
        &models::file(&[tensor("w", 1)], 0, ""),
    );
    put(
        &at.join("b.safetensors"),
        &models::file(&[tensor("w", 2), tensor("v", 3)], 0, ""),
    );
    let model = Model::open(at).unwrap();
    let missing = model.tensor("x").unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    let twice = model.tensor("w").unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Invalid);
    let told = twice.to_string();
    assert!(
        told.contains("a.safetensors") && told.contains("b.safetensors"),
        "{told}"
    );
    let v = model.tensor("v").unwrap();
    let mut row = [0; 5];
    v.rows(2..3, &mut row).unwrap();
    assert_eq!(row, [3; 5]);
    #[expect(clippy::reversed_empty_ranges, reason = "a caller's mistake")]
    for wrong in [2..4, 3..2, 0..1] {
        let mut out = [0; 7];
        assert_eq!(
            v.rows(wrong, &mut out).unwrap_err().kind(),
            ErrorKind::Invalid
        );
    }
    // the index of the shards decides
    let index = br#"{"weight_map":{"w":"b.safetensors","v":"b.safetensors"}}"#;
    put(&at.join("model.safetensors.index.json"), index);
    let decided = Model::open(at).unwrap();
    let mut row = [0; 5];
    decided.tensor("w").unwrap().rows(0..1, &mut row).unwrap();
    assert_eq!(row, [2; 5]);
}

/// Elements of half a byte: two rows of one element begin within a byte.
#[test]
fn rows_that_begin_within_a_byte_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.safetensors");
    let json = br#"{"w":{"dtype":"F4","shape":[2,1],"data_offsets":[0,1]}}"#;
    let bytes = [&(json.len() as u64).to_le_bytes()[..], json, &[0x21]].concat();
    put(&path, &bytes);
    assert!(FileSource::open(&path).is_ok());
    let model = Model::open(&path).unwrap();
    let tensor = model.tensor("w").unwrap();
    assert_eq!(tensor.row_len().unwrap_err().kind(), ErrorKind::Invalid);
    let mut out = [0];
    tensor.read(0..1, &mut out).unwrap();
    assert_eq!(out, [0x21]);
}
