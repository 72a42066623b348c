//! Images of every format version are read for ever. The files in `tests/golden` were written once and are never written
//! again; `SHA256SUMS` holds the sha256 of each original.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use bigsmall::base::digest::Sha256;
use bigsmall::base::digest::hex;
use bigsmall::base::progress::Silent;
use bigsmall::ops::compress::Output;
use bigsmall::ops::decompress;
use bigsmall::ops::decompress::DecompressOptions;
use bigsmall::ops::verify;
use bigsmall::ops::verify::VerifyOptions;

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
            verify::verify(&image, &VerifyOptions::whole(&[], 1), &Silent)
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
        decompress::decompress(&image, &options, &Silent).unwrap();
        assert_eq!(
            sha256(&within.map_or(output.clone(), |w| output.join(w))),
            sum,
            "{path}"
        );
    }
}

/// An image of differences and the base that it needs. The independent decoder gives nothing without it or with another.
#[test]
fn differences_are_read_with_their_base() {
    let (image, base) = (
        golden().join("v1-delta.bs"),
        golden().join("v1-delta-base.safetensors"),
    );
    assert!(
        verify::verify(
            &image,
            &VerifyOptions::whole(std::slice::from_ref(&base), 1),
            &Silent
        )
        .unwrap()
        .ok
    );
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path().join("out");
    let options = DecompressOptions {
        output: Output::Path(output.clone()),
        bases: vec![base.clone()],
        force: false,
        threads: 1,
    };
    decompress::decompress(&image, &options, &Silent).unwrap();
    let expected = "fc91b0b6a0fea64bfd6efae64ca6dab822cd3610f099bb522dd65b243832a71d";
    assert_eq!(sha256(&output), expected);
    let Ok(python) = std::env::var("BIGSMALL_PYTHON") else {
        eprintln!("not done: BIGSMALL_PYTHON names no Python with numpy");
        return;
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts/decode_bs.py");
    let second = folder.path().join("second");
    let status_with = |base: Option<&Path>| {
        let mut command = Command::new(&python);
        command.arg(&script).args([&image, &second]);
        if let Some(base) = base {
            command.arg("--base").arg(base);
        }
        command.status().unwrap().code()
    };
    let wrong = folder.path().join("wrong.safetensors");
    let mut bytes = fs::read(&base).unwrap();
    // one bit of its first tensor
    bytes[1000] ^= 1;
    crate::roundtrip::put(&wrong, &bytes);
    for base in [None, Some(wrong.as_path())] {
        assert_eq!(status_with(base), Some(5));
        assert!(!second.exists());
    }
    assert_eq!(status_with(Some(&base)), Some(0));
    assert_eq!(sha256(&second), expected);
}

/// `scripts/decode_bs.py` was written from docs/format.md alone. It needs Python with numpy, which `scripts/test` provides
/// and names in `BIGSMALL_PYTHON`; without that the test says that it did nothing.
#[test]
fn the_independent_decoder_reads_them() {
    let Ok(python) = std::env::var("BIGSMALL_PYTHON") else {
        eprintln!("not done: BIGSMALL_PYTHON names no Python with numpy");
        return;
    };
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
