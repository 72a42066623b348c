//! Whatever safetensors file goes in comes out byte for byte, from every profile and thread count.

use std::fs;
use std::path::Path;

use bigsmall::base::digest::Sha256;
use bigsmall::base::progress::Silent;
use bigsmall::codec::Profile;
use bigsmall::ops::CompressOptions;
use bigsmall::ops::DecompressOptions;
use bigsmall::ops::Output;
use bigsmall::ops::VerifyOptions;
use bigsmall::ops::compress;
use bigsmall::ops::decompress;
use bigsmall::ops::verify;
use proptest::prelude::*;

use crate::models;

pub(crate) fn options(output: &Path, profile: Profile, threads: usize) -> CompressOptions {
    CompressOptions {
        force: true,
        ..CompressOptions::new(output, profile, threads)
    }
}

/// Compresses `bytes` in `folder` and gives the image.
pub(crate) fn image_of(folder: &Path, bytes: &[u8], profile: Profile, threads: usize) -> Vec<u8> {
    let source = folder.join("m.safetensors");
    let image = folder.join("m.bs");
    put(&source, bytes);
    compress(&source, &options(&image, profile, threads), &Silent).unwrap();
    fs::read(&image).unwrap()
}

/// Writes a file of a test.
pub(crate) fn put(path: &Path, bytes: &[u8]) {
    use std::io::Write;
    fs::File::create(path).unwrap().write_all(bytes).unwrap();
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut sha = Sha256::default();
    sha.update(bytes);
    sha.finish()
}

fn comes_back(bytes: &[u8], profile: Profile) {
    let folder = tempfile::tempdir().unwrap();
    let image = image_of(folder.path(), bytes, profile, 1);
    assert!(
        image == image_of(folder.path(), bytes, profile, 3),
        "threads change the image"
    );
    let path = folder.path().join("m.bs");
    assert!(
        verify(&path, &VerifyOptions::whole(&[], 2), &Silent)
            .unwrap()
            .ok
    );
    let restored = folder.path().join("restored");
    let options = DecompressOptions {
        output: Output::Path(restored.clone()),
        bases: Vec::new(),
        force: false,
        threads: 2,
    };
    decompress(&path, &options, &Silent).unwrap();
    assert_eq!(sha256(&fs::read(restored).unwrap()), sha256(bytes));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_files_come_back(file in models::any_file(), profile in 0_usize..3) {
        comes_back(&file.bytes(), Profile::ALL[profile].1);
    }
}

#[test]
fn every_dtype_with_every_kind_of_data_comes_back() {
    let mut random = models::Random::new(3);
    for kind in 0..6 {
        let mut tensors = Vec::new();
        for (dtype, width) in models::DTYPES {
            for count in [1, 63, 64, 65, 2047, 4097, 70_001] {
                tensors.push(models::Tensor {
                    name: format!("{dtype}.{count}"),
                    dtype,
                    shape: vec![count as u64],
                    data: models::data(&mut random, width, count, kind),
                });
            }
        }
        comes_back(&models::file(&tensors, 0, ""), Profile::Balanced);
    }
}

#[test]
fn all_patterns_of_sixteen_bits_come_back() {
    let patterns: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
    let tensors = ["BF16", "F16", "I16"].map(|dtype| models::Tensor {
        name: dtype.into(),
        dtype,
        shape: vec![256, 256],
        data: patterns.clone(),
    });
    for (_, profile) in Profile::ALL {
        comes_back(&models::file(&tensors, 1, "x"), profile);
    }
}

#[test]
fn thousands_of_tensors_come_back() {
    let mut random = models::Random::new(9);
    let tensors: Vec<_> = (0..5000)
        .map(|i| models::Tensor {
            name: format!("model.layers.{i}.weight"),
            dtype: "BF16",
            shape: vec![i % 7],
            data: random.bytes(2 * (i % 7) as usize),
        })
        .collect();
    comes_back(&models::file(&tensors, 0, ""), Profile::Balanced);
}

#[test]
fn a_large_tensor_takes_the_path_of_many_blocks() {
    let mut random = models::Random::new(5);
    let tensors = [("BF16", 2), ("F32", 4), ("F8_E4M3", 1), ("I64", 8)].map(|(dtype, width)| {
        let count = 3_000_001 / width + 1;
        models::Tensor {
            name: dtype.into(),
            dtype,
            shape: vec![count as u64],
            data: models::data(&mut random, width, count, 0),
        }
    });
    for (_, profile) in Profile::ALL {
        comes_back(&models::file(&tensors, 0, ""), profile);
    }
}

/// Most dimensions that an index can say; a header may have more.
#[test]
fn a_header_of_too_many_dimensions_is_refused() {
    for (rank, is_fine) in [(65_535, true), (65_536, false)] {
        let tensor = models::Tensor {
            name: "t".into(),
            dtype: "U8",
            shape: vec![1; rank],
            data: vec![7],
        };
        let file = models::file(&[tensor], 0, "");
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("m.safetensors");
        put(&source, &file);
        let image = folder.path().join("m.bs");
        let mut options = options(&image, Profile::Balanced, 1);
        let outcome = compress(&source, &options, &Silent);
        assert_eq!(outcome.is_ok(), is_fine, "{rank}: {outcome:?}");
        options.opaque = true;
        compress(&source, &options, &Silent).unwrap();
    }
}
