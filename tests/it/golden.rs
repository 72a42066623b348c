//! Images of every format version are read for ever. The files in `tests/golden` were written once
//! and are never written again; `SHA256SUMS` holds the sha256 of each original.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use bigsmall::archive::Archive;
use bigsmall::base::CodecId;
use bigsmall::base::digest::Sha256;
use bigsmall::base::digest::hex;
use bigsmall::base::progress::Silent;
use bigsmall::format::header::FEATURE_REPEATS;
use bigsmall::format::header::FEATURE_SHARED_TABLES;
use bigsmall::ops::DecompressOptions;
use bigsmall::ops::Output;
use bigsmall::ops::RepairOptions;
use bigsmall::ops::VerifyOptions;
use bigsmall::ops::decompress;
use bigsmall::ops::repair;
use bigsmall::ops::verify;

use crate::program::python;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

/// Image name and sha256 of what it holds: of the file, or of each file of a folder.
fn sums() -> Vec<(String, String)> {
    let text = fs::read_to_string(golden().join("SHA256SUMS")).unwrap();
    let sums: Vec<_> = text
        .lines()
        .map(|line| {
            line.split_once("  ")
                .map(|(sum, path)| (path.to_owned(), sum.to_owned()))
                .unwrap()
        })
        .collect();
    assert!(sums.len() >= 6, "golden files are missing");
    sums
}

fn sha256(path: &Path) -> String {
    let mut sha = Sha256::default();
    sha.update(&fs::read(path).unwrap());
    hex(&sha.finish())
}

/// `a.bs` is an image of one file, `b.bs/x/y` names a file of an image of a folder.
fn split(path: &str) -> (&str, Option<&str>) {
    match path.split_once(".bs/") {
        Some((image, within)) => (&path[..image.len() + 3], Some(within)),
        None => (path, None),
    }
}

#[test]
fn the_library_reads_them() {
    for (path, sum) in sums() {
        let (image, within) = split(&path);
        let image = golden().join(image);
        assert!(
            verify(&image, &VerifyOptions::whole(&[], 1), &Silent)
                .unwrap()
                .ok,
            "{path}"
        );
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let options = DecompressOptions {
            output: Output::Path(output.clone()),
            bases: Vec::new(),
            force: false,
            threads: 1,
        };
        decompress(&image, &options, &Silent).unwrap();
        assert_eq!(
            sha256(&within.map_or(output.clone(), |w| output.join(w))),
            sum,
            "{path}"
        );
    }
}

/// Images of differences, the bases that they need, and the sha256 of what they hold. The last
/// stands on one that stands on another.
const DELTAS: [(&str, &[&str], &str); 3] = [
    (
        "v1-delta.bs",
        &["v1-delta-base.safetensors"],
        "fc91b0b6a0fea64bfd6efae64ca6dab822cd3610f099bb522dd65b243832a71d",
    ),
    (
        "v1-chain-1.bs",
        &["v1-chain-base.safetensors"],
        "7048c1b5a8eaab045b7276d8a8be0d35bcaabc1f3a48fc5b3a1218635f7aaf9f",
    ),
    (
        "v1-chain-2.bs",
        &["v1-chain-1.bs", "v1-chain-base.safetensors"],
        "e5a51cf2f02189780fb5c46b69bfd50ed9a35032521968983c6276e6e1b6bf94",
    ),
];

#[test]
fn differences_are_read_with_their_base() {
    for (name, bases, expected) in DELTAS {
        let image = golden().join(name);
        let bases: Vec<PathBuf> = bases.iter().map(|base| golden().join(base)).collect();
        let whole = VerifyOptions::whole(&bases, 1);
        assert!(verify(&image, &whole, &Silent).unwrap().ok, "{name}");
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let options = DecompressOptions {
            output: Output::Path(output.clone()),
            bases,
            force: false,
            threads: 1,
        };
        decompress(&image, &options, &Silent).unwrap();
        assert_eq!(sha256(&output), expected, "{name}");
    }
}

/// The independent decoder gives nothing without the base or with another.
#[test]
#[ignore = "needs BIGSMALL_PYTHON, a Python with numpy: scripts/test runs it"]
fn the_independent_decoder_reads_differences() {
    let python = python();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/decode_bs.py");
    for (name, bases, expected) in DELTAS {
        let folder = tempfile::tempdir().unwrap();
        let second = folder.path().join("second");
        let status_with = |bases: &[PathBuf]| {
            let mut command = Command::new(&python);
            command.arg(&script).args([&golden().join(name), &second]);
            for base in bases {
                command.arg("--base").arg(base);
            }
            command.status().unwrap().code()
        };
        let right: Vec<PathBuf> = bases.iter().map(|base| golden().join(base)).collect();
        let (mut wrong, last) = (right.clone(), right.last().unwrap());
        let mut bytes = fs::read(last).unwrap();
        // one bit of its first tensor
        bytes[1200] ^= 1;
        let spoilt = folder.path().join("wrong.safetensors");
        crate::roundtrip::put(&spoilt, &bytes);
        *wrong.last_mut().unwrap() = spoilt;
        for bases in [&[][..], &wrong] {
            assert_eq!(status_with(bases), Some(5), "{name}");
            assert!(!second.exists());
        }
        assert_eq!(status_with(&right), Some(0), "{name}");
        assert_eq!(sha256(&second), expected, "{name}");
    }
}

/// Every codec in every version and every feature of the format is among them: what a later build
/// must still read.
#[test]
fn they_hold_all_that_the_format_has() {
    let mut blocks = BTreeSet::new();
    let mut features = 0;
    let mut has_base = false;
    for entry in fs::read_dir(golden()).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "bs") {
            let archive = Archive::open(&path).unwrap();
            features |= archive.header().required_features;
            has_base |= archive.index().is_delta();
            let of_image = archive.index().blocks.iter();
            blocks.extend(of_image.map(|block| (block.codec.0, block.codec_version)));
        }
    }
    let all = (0..=17).filter(|codec| *codec != 11);
    let all =
        all.flat_map(|codec| (1..=CodecId(codec).version()).map(move |version| (codec, version)));
    assert_eq!(blocks, all.collect());
    assert_eq!(features, FEATURE_REPEATS | FEATURE_SHARED_TABLES);
    assert!(has_base);
}

/// A parity file of version 1 repairs what it was made for.
#[test]
fn parity_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let damaged = folder.path().join("d.bs");
    let whole = fs::read(golden().join("v1-folder.bs")).unwrap();
    let mut bytes = whole.clone();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    bytes.truncate(bytes.len() - 100);
    crate::roundtrip::put(&damaged, &bytes);
    let options = RepairOptions {
        parity: Some(golden().join("v1-folder.bs.par")),
        output: None,
        force: false,
        threads: 1,
    };
    repair(&damaged, &options, &Silent).unwrap();
    assert!(fs::read(damaged).unwrap() == whole);
}

/// `scripts/decode_bs.py` was written from docs/format.md alone. It needs Python with numpy, which
/// `scripts/test` provides and names in `BIGSMALL_PYTHON`.
#[test]
#[ignore = "needs BIGSMALL_PYTHON, a Python with numpy: scripts/test runs it"]
fn the_independent_decoder_reads_them() {
    let python = python();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/decode_bs.py");
    for (path, sum) in sums() {
        let (image, within) = split(&path);
        let folder = tempfile::tempdir().unwrap();
        let output = folder.path().join("out");
        let status = Command::new(&python)
            .arg(&script)
            .args([&golden().join(image), &output])
            .status()
            .unwrap();
        assert!(status.success(), "{path}");
        assert_eq!(
            sha256(&within.map_or(output.clone(), |w| output.join(w))),
            sum,
            "{path}"
        );
    }
}
