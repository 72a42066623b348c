//! What spans of differences spend beside the differences: tables shared by those alike, and no
//! base where it does not pay.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use bigsmall::archive::Archive;
use bigsmall::archive::Bases;
use bigsmall::base::progress::Silent;
use bigsmall::codec::Profile;
use bigsmall::format::SpanRecord;
use bigsmall::format::header::FEATURE_SHARED_TABLES;
use bigsmall::ops::CompressOptions;
use bigsmall::ops::DecompressOptions;
use bigsmall::ops::Output;
use bigsmall::ops::VerifyOptions;
use bigsmall::ops::compress;
use bigsmall::ops::decompress;
use bigsmall::ops::info;
use bigsmall::ops::verify;

use crate::models;
use crate::models::Random;
use crate::models::Tensor;
use crate::roundtrip::options;
use crate::roundtrip::put;

/// A base tensor and its fine-tune, of one name.
type Pair = (Tensor, Tensor);

fn pair(name: &str, dtype: &'static str, base: Vec<u8>, tuned: Vec<u8>) -> Pair {
    let width = if dtype == "BF16" { 2 } else { 4 };
    let tensor = |data: Vec<u8>| Tensor {
        name: name.into(),
        dtype,
        shape: vec![(data.len() / width) as u64],
        data,
    };
    (tensor(base), tensor(tuned))
}

fn bf16(values: &[f32]) -> Vec<u8> {
    let round = |v: &f32| ((v.to_bits() + 0x8000) >> 16) as u16;
    let words = values.iter().map(round);
    words.flat_map(u16::to_le_bytes).collect()
}

fn weights(random: &mut Random, count: usize) -> Vec<f32> {
    (0..count).map(|_| random.gauss() * 0.02).collect()
}

fn moved(random: &mut Random, weights: &[f32], step: f32) -> Vec<f32> {
    weights.iter().map(|w| w + random.gauss() * step).collect()
}

/// Two BF16 tensors that differ by noise.
fn tuned(random: &mut Random, name: &str, count: usize, step: f32) -> Pair {
    let weights = weights(random, count);
    let moved = moved(random, &weights, step);
    pair(name, "BF16", bf16(&weights), bf16(&moved))
}

/// Compresses the fine-tunes against their bases, checks that they come back and that threads
/// change nothing, and opens the image.
fn compress_pairs(folder: &Path, pairs: &[Pair], profile: Profile) -> Archive {
    let base: Vec<Tensor> = pairs.iter().map(|pair| pair.0.clone()).collect();
    let tuned: Vec<Tensor> = pairs.iter().map(|pair| pair.1.clone()).collect();
    let (base_path, path) = (
        folder.join("base.safetensors"),
        folder.join("t.safetensors"),
    );
    put(&base_path, &models::file(&base, 0, ""));
    put(&path, &models::file(&tuned, 0, ""));
    let image = folder.join("t.bs");
    let images = [1, 2, 3].map(|threads| {
        let options = CompressOptions {
            base: Some(Arc::new(Bases::open(&base_path, None).unwrap())),
            ..options(&image, profile, threads)
        };
        compress(&path, &options, &Silent).unwrap();
        fs::read(&image).unwrap()
    });
    assert!(images[0] == images[1] && images[1] == images[2]);
    assert!(
        verify(
            &image,
            &VerifyOptions::whole(std::slice::from_ref(&base_path), 2),
            &Silent
        )
        .unwrap()
        .ok
    );
    let output = folder.join("restored");
    let options = DecompressOptions {
        output: Output::Path(output.clone()),
        bases: vec![base_path],
        force: true,
        threads: 2,
    };
    decompress(&image, &options, &Silent).unwrap();
    assert!(fs::read(output).unwrap() == fs::read(path).unwrap());
    Archive::open(&image).unwrap()
}

fn span<'a>(archive: &'a Archive, name: &str) -> &'a SpanRecord {
    let mut spans = archive.index().spans.iter();
    spans.find(|span| span.span.name == name).unwrap()
}

fn codecs(archive: &Archive, name: &str) -> Vec<&'static str> {
    let blocks = span(archive, name).blocks.clone();
    let blocks = archive.index().blocks[blocks].iter();
    let mut names: Vec<_> = blocks.map(|block| block.codec.name()).collect();
    names.dedup();
    names
}

#[test]
fn spans_alike_share_tables_whatever_their_length() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new(31);
    let mut pairs = Vec::new();
    for number in 0..12 {
        let count = 6000 + 1000 * number;
        pairs.push(tuned(
            &mut random,
            &format!("near.{number}"),
            count,
            0.000_02,
        ));
        pairs.push(tuned(&mut random, &format!("far.{number}"), count, 0.001));
    }
    // coded by all threads, block by block
    pairs.push(tuned(&mut random, "near.large", 600_000, 0.000_02));
    pairs.push(tuned(&mut random, "far.large", 600_000, 0.001));
    for profile in Profile::ALL.map(|(_, profile)| profile) {
        let archive = compress_pairs(folder.path(), &pairs, profile);
        assert_eq!(archive.header().required_features, FEATURE_SHARED_TABLES);
        for kind in ["near", "far"] {
            let first =
                &archive.index().spans[span(&archive, &format!("{kind}.large")).tables_of.unwrap()];
            assert!(first.span.name.starts_with(kind) && first.tables_of.is_none());
            for number in 1..12 {
                let name = format!("{kind}.{number}");
                assert_eq!(codecs(&archive, &name), ["delta"], "{name}");
                let other = span(&archive, &name);
                let has_own = other.tables_of.is_none() && other.span.name != first.span.name;
                assert!(!has_own, "{name} has tables of its own");
            }
        }
    }
}

#[test]
fn no_tensor_is_larger_than_alone() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new(37);
    let mut pairs = Vec::new();
    for count in [60, 200, 1000, 30_000, 700_000] {
        let (one, other) = (weights(&mut random, count), weights(&mut random, count));
        let near = bf16(&moved(&mut random, &one, 0.001));
        let wide = |words: &[u8]| -> Vec<u8> {
            let words = words.as_chunks::<2>().0.iter();
            words.flat_map(|&[low, high]| [0, 0, low, high]).collect()
        };
        let half = |w: &f32| if w.abs() < 0.03 { 0.0 } else { *w };
        let signed: Vec<f32> = one.iter().map(|w| w * 0.0).collect();
        let pruned: Vec<f32> = one.iter().map(half).collect();
        let base = bf16(&one);
        for (kind, dtype, base, tuned) in [
            ("other", "BF16", base.clone(), bf16(&other)),
            ("near", "BF16", base.clone(), near.clone()),
            // both lower planes are zero, which differences do not use
            ("wide", "F32", wide(&base), wide(&near)),
            // zstd makes next to nothing of these
            ("zeros", "BF16", base.clone(), bf16(&signed)),
            ("pruned", "BF16", base.clone(), bf16(&pruned)),
            ("nothing", "BF16", base.clone(), vec![0; base.len()]),
        ] {
            pairs.push(pair(&format!("{kind}.{count}"), dtype, base, tuned));
        }
    }
    let alone = folder.path().join("alone.bs");
    for profile in Profile::ALL.map(|(_, profile)| profile) {
        compress_pairs(folder.path(), &pairs, profile);
        let source = folder.path().join("t.safetensors");
        compress(&source, &options(&alone, profile, 2), &Silent).unwrap();
        let lens = |path: &Path| -> Vec<(String, u64)> {
            let report = info(path, &[], &Silent).unwrap();
            let spans = report.images[0].files[0].spans.iter();
            spans
                .map(|span| (span.name.clone(), span.coded_bytes))
                .collect()
        };
        let against = lens(&folder.path().join("t.bs"));
        for ((name, len), (_, alone)) in against.iter().zip(lens(&alone)) {
            // a tensor may have the tables that other small ones use, in one image and not in the
            // other
            assert!(*len <= alone + 400, "{name}: {len}, alone {alone}");
        }
        let sum = |lens: &[(String, u64)]| lens.iter().map(|(_, len)| len).sum::<u64>();
        assert!(sum(&against) < sum(&lens(&alone)));
    }
}

#[test]
fn a_tensor_that_is_its_base_takes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mut random = Random::new(41);
    let small = bf16(&weights(&mut random, 5000));
    let large = bf16(&weights(&mut random, 900_000));
    let mut one_block = large.clone();
    one_block[1_000_001] ^= 1;
    let pairs = [
        pair("small", "BF16", small.clone(), small),
        pair("large", "BF16", large.clone(), large.clone()),
        pair("one", "BF16", large, one_block),
    ];
    let archive = compress_pairs(folder.path(), &pairs, Profile::Balanced);
    for name in ["small", "large"] {
        assert_eq!(codecs(&archive, name), ["same"]);
        let span = span(&archive, name);
        assert_eq!((span.tables_len, span.tables_of), (0, None));
    }
    // only what differs is counted: its tables serve the one block
    assert_eq!(codecs(&archive, "one"), ["same", "delta", "same"]);
    let blocks = &archive.index().blocks[span(&archive, "one").blocks.clone()];
    assert!(blocks.iter().map(|block| block.coded_len).sum::<u32>() < 300);
}
