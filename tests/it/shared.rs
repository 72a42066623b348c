//! What several spans share: the bytes of equal tensors, in one file and across the files of a
//! folder, and the tables of small ones.

use std::fs;
use std::sync::Arc;

use bigsmall::archive::Archive;
use bigsmall::archive::BlockCache;
use bigsmall::archive::VirtualFile;
use bigsmall::base::ErrorKind;
use bigsmall::base::ReadAt;
use bigsmall::base::progress::Silent;
use bigsmall::codec::Profile;
use bigsmall::format::Header;
use bigsmall::format::Index;
use bigsmall::format::header::FEATURE_REPEATS;
use bigsmall::format::header::FEATURE_SHARED_TABLES;
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
use crate::roundtrip::image_of;
use crate::roundtrip::options;
use crate::roundtrip::put;

fn tensor(name: &str, data: &[u8]) -> Tensor {
    Tensor {
        name: name.into(),
        dtype: "BF16",
        shape: vec![data.len() as u64 / 2],
        data: data.to_vec(),
    }
}

/// Embeddings, another tensor of the same length, one that differs in its last byte, and a head
/// tied to the embeddings.
fn tied_model() -> Vec<u8> {
    let mut random = Random::new(11);
    let embeddings = models::bf16_weights(&mut random, 700_000);
    let other = models::bf16_weights(&mut random, 700_000);
    let mut nearly = embeddings.clone();
    *nearly.last_mut().unwrap() ^= 1;
    let tensors = [
        tensor("embed", &embeddings),
        tensor("other", &other),
        tensor("nearly", &nearly),
        tensor("head", &embeddings),
    ];
    models::file(&tensors, 0, "")
}

#[test]
fn a_tied_head_takes_no_room() {
    let folder = tempfile::tempdir().unwrap();
    let model = tied_model();
    for profile in Profile::ALL.map(|(_, profile)| profile) {
        let image = image_of(folder.path(), &model, profile, 2);
        assert!(image == image_of(folder.path(), &model, profile, 1));
        assert!(image.len() < model.len() * 3 / 4 * 68 / 100, "{profile:?}");
        let path = folder.path().join("m.bs");
        let archive = Archive::open(&path).unwrap();
        let repeats: Vec<_> = archive.index().spans.iter().map(|s| s.repeats).collect();
        assert_eq!(repeats, [None, None, None, None, Some(1)]);
        assert_eq!(archive.header().required_features, FEATURE_REPEATS);
        assert!(
            verify(&path, &VerifyOptions::whole(&[], 2), &Silent)
                .unwrap()
                .ok
        );
        let report = &info(&path, &[], &Silent).unwrap().images[0];
        let head = report.files[0].spans.last().unwrap();
        assert_eq!(
            (head.coded_bytes, head.repeats.as_deref()),
            (0, Some("embed"))
        );
        let restored = folder.path().join("restored");
        restore(&path, &restored);
        assert!(fs::read(restored).unwrap() == model);
    }
}

#[test]
fn across_the_files_of_a_folder_too() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("models");
    fs::create_dir(&source).unwrap();
    let model = tied_model();
    for name in ["a.safetensors", "b.safetensors"] {
        put(&source.join(name), &model);
    }
    let image = folder.path().join("models.bs");
    compress(&source, &options(&image, Profile::Balanced, 2), &Silent).unwrap();
    let once = folder.path().join("once.bs");
    let one = source.join("a.safetensors");
    compress(&one, &options(&once, Profile::Balanced, 2), &Silent).unwrap();
    let len = |path| fs::metadata(path).unwrap().len();
    assert!(len(&image) < len(&once) + 2000);
    let restored = folder.path().join("restored");
    restore(&image, &restored);
    for name in ["a.safetensors", "b.safetensors"] {
        assert!(fs::read(restored.join(name)).unwrap() == model);
    }
}

#[test]
fn only_an_earlier_span_of_the_same_length_can_be_repeated() {
    let folder = tempfile::tempdir().unwrap();
    image_of(folder.path(), &tied_model(), Profile::Balanced, 2);
    let archive = Archive::open(&folder.path().join("m.bs")).unwrap();
    let read = |index: &Index, features| {
        let header = Header {
            required_features: features,
            ..archive.header().clone()
        };
        Index::parse(&index.encode(), &header)
    };
    let good = archive.index().clone();
    assert!(read(&good, FEATURE_REPEATS).is_ok());
    // itself, a later one, one that repeats, one of another length, none at all
    for (span, repeats) in [(1, 1), (1, 4), (4, 4), (4, 0), (4, 1000)] {
        let mut index = good.clone();
        index.spans[span].repeats = Some(repeats);
        let error = read(&index, FEATURE_REPEATS).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{span} repeats {repeats}");
    }
    // without the feature the field means nothing, so blocks are missing
    assert!(read(&good, 0).is_err());
}

/// Twenty small tensors of two scales, as an adapter has them.
fn small_tensors() -> Vec<u8> {
    let mut random = Random::new(13);
    let tensors: Vec<Tensor> = (0..20)
        .map(|number| {
            let mut data = models::bf16_weights(&mut random, 4000 + 100 * number);
            if number % 2 == 1 {
                // a quarter as large
                data.as_chunks_mut::<2>().0.iter_mut().for_each(|word| {
                    *word = u16::from_le_bytes(*word).wrapping_sub(2 << 7).to_le_bytes();
                });
            }
            tensor(&format!("lora.{number}"), &data)
        })
        .collect();
    models::file(&tensors, 0, "")
}

#[test]
fn small_tensors_share_tables() {
    let folder = tempfile::tempdir().unwrap();
    let model = small_tensors();
    let image = image_of(folder.path(), &model, Profile::Balanced, 2);
    assert!(image == image_of(folder.path(), &model, Profile::Balanced, 1));
    let path = folder.path().join("m.bs");
    let archive = Archive::open(&path).unwrap();
    assert_eq!(archive.header().required_features, FEATURE_SHARED_TABLES);
    let spans = &archive.index().spans;
    let users = spans
        .iter()
        .filter(|span| span.tables_of == Some(1))
        .count();
    assert!(users > 15, "{users} tensors use the tables of the first");
    assert!(
        verify(&path, &VerifyOptions::whole(&[], 2), &Silent)
            .unwrap()
            .ok
    );
    let restored = folder.path().join("restored");
    restore(&path, &restored);
    assert!(fs::read(restored).unwrap() == model);
    // read in another order than written, by way of a cache
    let image = Arc::clone(archive.image());
    let file = VirtualFile::new(image, 0, BlockCache::new(1 << 20)).unwrap();
    let mut last = vec![0; 3000];
    file.read_exact_at(model.len() as u64 - 3000, &mut last)
        .unwrap();
    assert!(last == model[model.len() - 3000..]);
}

#[test]
fn only_an_earlier_span_with_tables_can_share_them() {
    let folder = tempfile::tempdir().unwrap();
    image_of(folder.path(), &small_tensors(), Profile::Balanced, 2);
    let archive = Archive::open(&folder.path().join("m.bs")).unwrap();
    let good = archive.index().clone();
    assert!(Index::parse(&good.encode(), archive.header()).is_ok());
    // the first has no earlier one; a header without tables, one that shares itself, a later one,
    // none at all
    for (span, of) in [(1, 1), (2, 0), (3, 2), (4, 9), (4, 1000)] {
        let mut index = good.clone();
        index.spans[span].tables_of = Some(of);
        let error = Index::parse(&index.encode(), archive.header()).unwrap_err();
        assert_eq!(
            error.kind(),
            ErrorKind::Damaged,
            "{span} uses those of {of}"
        );
    }
}

fn restore(image: &std::path::Path, output: &std::path::Path) {
    let options = DecompressOptions {
        output: Output::Path(output.to_owned()),
        bases: Vec::new(),
        force: true,
        threads: 2,
    };
    decompress(image, &options, &Silent).unwrap();
}
