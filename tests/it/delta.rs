//! A fine-tune stored as differences from its base: small, exact, and nothing without the right
//! base.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;

use bigsmall::archive::Archive;
use bigsmall::archive::Bases;
use bigsmall::base::ErrorKind;
use bigsmall::base::Result;
use bigsmall::base::progress::Silent;
use bigsmall::codec::Profile;
use bigsmall::ops::CompressOptions;
use bigsmall::ops::DecompressOptions;
use bigsmall::ops::Output;
use bigsmall::ops::VerifyOptions;
use bigsmall::ops::compress;
use bigsmall::ops::decompress;
use bigsmall::ops::verify;

use crate::models;
use crate::models::Random;
use crate::models::Tensor;
use crate::roundtrip::options;
use crate::roundtrip::put;

const COUNT: usize = 700_000;

fn tensor(name: &str, dtype: &'static str, width: usize, data: Vec<u8>) -> Tensor {
    Tensor {
        name: name.into(),
        dtype,
        shape: vec![(data.len() / width) as u64],
        data,
    }
}

fn f32_weights(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.gauss() * 0.02).collect()
}

fn bf16(values: &[f32]) -> Vec<u8> {
    let round = |v: &f32| ((v.to_bits() + 0x8000) >> 16) as u16;
    values
        .iter()
        .map(round)
        .flat_map(u16::to_le_bytes)
        .collect()
}

fn f32_bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A base, and a fine-tune of it: every weight moved a little, some tensors left as they were, one
/// added, one reshaped.
fn pair() -> (Vec<Tensor>, Vec<Tensor>) {
    let mut random = Random::new(21);
    let weights = f32_weights(&mut random, COUNT);
    let moved: Vec<f32> = weights
        .iter()
        .map(|w| w + random.gauss() * 0.0002)
        .collect();
    let small = bf16(&weights[..3000]);
    let bytes: Vec<u8> = (0..9000)
        .map(|_| (random.gauss() * 9.0) as i8 as u8)
        .collect();
    let mut tuned_bytes = bytes.clone();
    for byte in tuned_bytes.iter_mut().step_by(7) {
        *byte ^= 1;
    }
    let base = vec![
        tensor("big", "BF16", 2, bf16(&weights)),
        tensor("same", "BF16", 2, bf16(&weights[7..200_007])),
        tensor("wide", "F32", 4, f32_bytes(&weights[..300_000])),
        tensor("small", "BF16", 2, small.clone()),
        tensor("eight", "F8_E4M3", 1, bytes),
        tensor("reshaped", "BF16", 2, small.clone()),
        tensor("old name", "BF16", 2, bf16(&weights[9..100_009])),
    ];
    let tuned = vec![
        tensor("big", "BF16", 2, bf16(&moved)),
        tensor("same", "BF16", 2, bf16(&weights[7..200_007])),
        tensor("wide", "F32", 4, f32_bytes(&moved[..300_000])),
        tensor("small", "BF16", 2, bf16(&moved[..3000])),
        tensor("eight", "F8_E4M3", 1, tuned_bytes),
        tensor("reshaped", "BF16", 2, small[..4000].to_vec()),
        tensor("added", "BF16", 2, small),
        // as a head that is tied to the embeddings, before them in the file
        tensor("a head", "BF16", 2, bf16(&moved)),
        tensor("new name", "BF16", 2, bf16(&weights[9..100_009])),
    ];
    (base, tuned)
}

struct Case {
    folder: tempfile::TempDir,
    base: Vec<Tensor>,
    tuned: Vec<u8>,
}

impl Case {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (base, tuned) = pair();
        let tuned = models::file(&tuned, 0, "");
        put(
            &folder.path().join("base.safetensors"),
            &models::file(&base, 0, ""),
        );
        put(&folder.path().join("tuned.safetensors"), &tuned);
        Self {
            folder,
            base,
            tuned,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Compresses the fine-tune against `base`.
    fn compress(&self, base: &str, profile: Profile, threads: usize) -> Vec<u8> {
        let image = self.at("tuned.bs");
        let options = CompressOptions {
            base: Some(Arc::new(Bases::open(&self.at(base), None).unwrap())),
            ..options(&image, profile, threads)
        };
        compress(&self.at("tuned.safetensors"), &options, &Silent).unwrap();
        fs::read(image).unwrap()
    }

    fn restore(&self, base: Option<&str>) -> Result<Vec<u8>> {
        let output = self.at("restored");
        let options = DecompressOptions {
            output: Output::Path(output.clone()),
            bases: base.map(|name| self.at(name)).into_iter().collect(),
            force: true,
            threads: 2,
        };
        decompress(&self.at("tuned.bs"), &options, &Silent)?;
        Ok(fs::read(output).unwrap())
    }
}

#[test]
fn a_fine_tune_is_small_next_to_its_base_and_comes_back() {
    let case = Case::new();
    for profile in Profile::ALL.map(|(_, profile)| profile) {
        let image = case.compress("base.safetensors", profile, 2);
        assert!(
            image == case.compress("base.safetensors", profile, 1),
            "threads change the image"
        );
        assert!(
            image.len() < case.tuned.len() * 45 / 100,
            "{} of {}",
            image.len(),
            case.tuned.len()
        );
        assert!(case.restore(Some("base.safetensors")).unwrap() == case.tuned);
        let base = case.at("base.safetensors");
        assert!(
            verify(
                &case.at("tuned.bs"),
                &VerifyOptions::whole(&[base], 2),
                &Silent
            )
            .unwrap()
            .ok
        );
    }
    let archive = Archive::open(&case.at("tuned.bs")).unwrap();
    let index = archive.index();
    let codecs = |name: &str| {
        let span = index
            .spans
            .iter()
            .find(|span| span.span.name == name)
            .unwrap();
        let blocks = &index.blocks[span.blocks.clone()];
        let mut names: Vec<&str> = blocks.iter().map(|block| block.codec.name()).collect();
        names.dedup();
        names
    };
    assert_eq!(codecs("big"), ["delta"]);
    assert_eq!(codecs("same"), ["same"]);
    assert_eq!(codecs("wide"), ["delta"]);
    assert_eq!(codecs("new name"), ["same"]);
    assert_eq!(codecs("a head"), ["delta"]);
    // stands alone: no tensor of this name and shape is in the base
    assert!(!codecs("reshaped").contains(&"delta"));
    assert!(!codecs("added").contains(&"delta"));
}

#[test]
fn the_base_may_lie_in_other_files_or_be_an_image() {
    let case = Case::new();
    let image = case.compress("base.safetensors", Profile::Balanced, 2);
    // the same tensors in two shards and another order
    let shards = case.at("shards");
    fs::create_dir(&shards).unwrap();
    let mut reversed = case.base.clone();
    reversed.reverse();
    put(
        &shards.join("1.safetensors"),
        &models::file(&reversed[..2], 0, ""),
    );
    put(
        &shards.join("2.safetensors"),
        &models::file(&reversed[2..], 0, "x"),
    );
    assert!(case.restore(Some("shards")).unwrap() == case.tuned);
    let blocks = |image: Vec<u8>| {
        let archive = Archive::from_source(Arc::new(image), &case.at("tuned.bs")).unwrap();
        let blocks = archive.index().blocks.iter();
        blocks
            .map(|block| (block.checksum, block.coded_len, block.codec))
            .collect::<Vec<_>>()
    };
    // all but the words for where the base was
    let image = blocks(image);
    assert!(image == blocks(case.compress("shards", Profile::Balanced, 2)));
    // the base compressed
    let base_image = options(&case.at("base.bs"), Profile::Inference, 2);
    compress(&case.at("base.safetensors"), &base_image, &Silent).unwrap();
    assert!(case.restore(Some("base.bs")).unwrap() == case.tuned);
    assert!(image == blocks(case.compress("base.bs", Profile::Balanced, 2)));
}

#[test]
fn nothing_comes_out_without_the_right_base() {
    let case = Case::new();
    case.compress("base.safetensors", Profile::Balanced, 2);
    let error = case.restore(None).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingBase);
    assert!(error.to_string().contains("another model"), "{error}");
    // one bit of one tensor
    let mut other = case.base.clone();
    other[0].data[99_999] ^= 1;
    put(&case.at("other.safetensors"), &models::file(&other, 0, ""));
    let error = case.restore(Some("other.safetensors")).unwrap_err();
    assert!(error.to_string().contains("`big`"), "{error}");
    // a tensor that is not there
    put(
        &case.at("less.safetensors"),
        &models::file(&case.base[1..], 0, ""),
    );
    let error = case.restore(Some("less.safetensors")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::MissingBase);
    assert!(error.to_string().contains("`big`"), "{error}");
    assert!(!case.at("restored").exists());
    let report = verify(&case.at("tuned.bs"), &VerifyOptions::whole(&[], 1), &Silent);
    assert!(report.is_err() || !report.unwrap().ok);
}
