//! Files of the Python package: what its releases wrote is read for ever, every tensor by its md5,
//! and nothing else is believed.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bigsmall::base::Error;
use bigsmall::base::ErrorKind;
use bigsmall::base::digest::Sha256;
use bigsmall::base::digest::hex;
use bigsmall::base::progress::Silent;
use bigsmall::bgsm::Package;
use bigsmall::codec::Profile;
use bigsmall::ops::DecompressOptions;
use bigsmall::ops::ImportOptions;
use bigsmall::ops::Output;
use bigsmall::ops::decompress;
use bigsmall::ops::import;
use bigsmall::ops::migrate;

use crate::cli_trust::bigsmall;
use crate::cli_trust::code;
use crate::cli_trust::json;
use crate::models::Random;
use crate::roundtrip::put;

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden/python-package")
        .join(name)
}

/// Imports a file and restores what came of it.
fn restored(path: &Path, base: Option<&Path>) -> Result<Vec<u8>, Error> {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("new.bs");
    let options = ImportOptions {
        output: Some(image.clone()),
        base: base.map(Path::to_owned),
        profile: Profile::Balanced,
        force: false,
        threads: 2,
    };
    let imported = import(path, &options, &Silent);
    let entries = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(
        entries,
        usize::from(imported.is_ok()),
        "nothing is left over"
    );
    imported?;
    let output = folder.path().join("out");
    let options = DecompressOptions {
        output: Output::Path(output.clone()),
        bases: Vec::new(),
        force: false,
        threads: 1,
    };
    decompress(&image, &options, &Silent)?;
    Ok(fs::read(output).unwrap())
}

fn base_of(name: &str) -> Option<PathBuf> {
    name.starts_with("delta")
        .then(|| golden("delta-base.safetensors"))
}

fn sha256(bytes: &[u8]) -> String {
    let mut sha256 = Sha256::default();
    sha256.update(bytes);
    hex(&sha256.finish())
}

/// The sums are those of the originals that the package was given.
#[test]
fn what_its_releases_wrote_is_read() {
    let sums = fs::read_to_string(golden("SHA256SUMS")).unwrap();
    let mut count = 0;
    for line in sums.lines() {
        let (sum, name) = line.split_once("  ").unwrap();
        let bytes = restored(&golden(name), base_of(name).as_deref());
        let bytes = bytes.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(sha256(&bytes), sum, "{name}");
        safetensors::SafeTensors::deserialize(&bytes).unwrap();
        count += 1;
    }
    assert!(count >= 12);
}

#[test]
fn differences_need_their_base_and_no_other() {
    for name in ["delta-1.0.1.bs", "delta-4.0.0.bs"] {
        let error = restored(&golden(name), None).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MissingBase);
        assert!(error.to_string().contains("--base"), "{error}");
        // a base of the same shapes, with other values: that package takes it without a word
        let folder = tempfile::tempdir().unwrap();
        let other = folder.path().join("other.safetensors");
        let mut bytes = fs::read(golden("delta-base.safetensors")).unwrap();
        let last = bytes.len() - 2;
        bytes[last] ^= 1;
        put(&other, &bytes);
        let error = restored(&golden(name), Some(&other)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Damaged, "{error}");
        assert!(error.to_string().contains("md5"), "{error}");
    }
}

/// That package lets most flipped bits through as wrong weights.
#[test]
fn no_flipped_bit_becomes_a_weight() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.bs");
    let mut random = Random::new(17);
    for name in [
        "bf16-1.0.1.bs",
        "f16-1.0.1.bs",
        "f32-4.0.0.bs",
        "fp8-1.0.1.bs",
        "bf16-4.0.0.bs",
    ] {
        let whole = fs::read(golden(name)).unwrap();
        let data = 10 + u64::from(u32::from_le_bytes(whole[6..10].try_into().unwrap()));
        let right = Package::open(Arc::new(whole.clone()), &path).unwrap();
        let right: Vec<Vec<u8>> = (0..right.tensors.len())
            .map(|n| right.decode(n).unwrap())
            .collect();
        let mut refused = 0;
        for _ in 0..150 {
            let mut damaged = whole.clone();
            let at = data + random.below(whole.len() as u64 - data);
            damaged[at as usize] ^= 1 << random.below(8);
            let package = Package::open(Arc::new(damaged), &path).unwrap();
            for (number, right) in right.iter().enumerate() {
                match package.decode(number) {
                    Ok(bytes) => assert!(bytes == *right, "{name}: byte {at}"),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Damaged);
                        refused += 1;
                    }
                }
            }
        }
        assert!(refused > 100, "{name}: {refused}");
    }
}

/// What cannot be done keeps nobody from the rest, and a verify of the folder calls nothing damaged
/// that it cannot judge.
#[test]
fn one_that_cannot_be_migrated_is_told_of_and_the_others_are() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path();
    for name in ["bf16-4.0.0.bs", "delta-4.0.0.bs", "f32-1.0.1.bs"] {
        fs::copy(golden(name), at.join(name)).unwrap();
    }
    let ours = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1-storage.bs");
    fs::copy(ours, at.join("ours.bs")).unwrap();
    let checked = bigsmall(at, &["verify", "."]);
    assert_eq!(code(&checked), 0);
    let said = String::from_utf8_lossy(&checked.stderr).into_owned();
    assert_eq!(said.matches("file of the Python package").count(), 3);
    let done = bigsmall(at, &["migrate", ".", "--json"]);
    assert_eq!(code(&done), 1);
    let report = json(&done);
    assert_eq!(report["images"].as_array().unwrap().len(), 2);
    assert!(report["failed"][0][0].as_str().unwrap().contains("delta"));
    let delta = fs::read(at.join("delta-4.0.0.bs")).unwrap();
    assert!(delta == fs::read(golden("delta-4.0.0.bs")).unwrap());
    put(&at.join("other.bs"), b"text");
    assert_eq!(code(&bigsmall(at, &["migrate", "other.bs"])), 2);
}

#[test]
fn whole_folders_are_migrated_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let (one, ours) = (folder.path().join("one.bs"), folder.path().join("ours.bs"));
    fs::copy(golden("bf16-1.0.1.bs"), &one).unwrap();
    fs::copy(golden("../v1-balanced.bs"), &ours).unwrap();
    let before = fs::read(&ours).unwrap();
    let options = ImportOptions {
        output: None,
        base: None,
        profile: Profile::Balanced,
        force: true,
        threads: 1,
    };
    let paths = [folder.path().to_owned()];
    let report = migrate(&paths, &options, &Silent).unwrap();
    assert_eq!((report.images.len(), report.left), (1, 1));
    assert!(fs::read(&ours).unwrap() == before);
    let header = bigsmall::archive::peek(&fs::read(&one).unwrap(), &one).unwrap();
    assert_eq!(header.suffix, ".safetensors");
    // again there is nothing to do
    let report = migrate(&paths, &options, &Silent).unwrap();
    assert_eq!((report.images.len(), report.left), (0, 2));
    // what cannot be migrated stays as it is
    fs::copy(golden("delta-4.0.0.bs"), &one).unwrap();
    let report = migrate(&paths, &options, &Silent).unwrap();
    let [(path, why)] = &report.failed[..] else {
        panic!("{report:?}")
    };
    assert!(path.ends_with("one.bs") && why.contains("--base"), "{why}");
    assert!(fs::read(&one).unwrap() == fs::read(golden("delta-4.0.0.bs")).unwrap());
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
}

/// A file whose header says `tensors`, with so many zeros behind.
fn file(tensors: &str, zeros: usize) -> Vec<u8> {
    let json = format!("{{\"tensors\":[{tensors}]}}");
    let mut bytes = b"BGSM\x01\x00".to_vec();
    bytes.extend((json.len() as u32).to_le_bytes());
    bytes.extend(json.as_bytes());
    bytes.resize(bytes.len() + zeros, 0);
    bytes
}

/// A tensor of eight zeros as the header has it, with other values of some fields.
fn tensor(changes: &[(&str, &str)]) -> String {
    let mut fields = vec![
        ("name", "\"t\""),
        ("shape", "[8]"),
        ("dtype", "\"uint8\""),
        ("codec", "\"raw\""),
        ("compressed_bytes", "8"),
        ("offset", "0"),
        ("md5", "\"7dea362b3fac8e00956a4952a3d4f474\""),
    ];
    for (name, value) in changes {
        fields.retain(|(field, _)| field != name);
        fields.push((name, value));
    }
    let fields: Vec<String> = fields.iter().map(|(n, v)| format!("\"{n}\":{v}")).collect();
    format!("{{{}}}", fields.join(","))
}

fn open(bytes: Vec<u8>) -> Result<Package, Error> {
    Package::open(Arc::new(bytes), Path::new("x.bs"))
}

#[test]
fn hostile_headers_are_refused() {
    let decoded = open(file(&tensor(&[]), 8)).unwrap().decode(0).unwrap();
    assert_eq!(decoded, [0; 8]);
    for (changes, kind) in [
        (
            &[("shape", "[18446744073709551615,2]")][..],
            ErrorKind::Damaged,
        ),
        (&[("offset", "18446744073709551615")], ErrorKind::Damaged),
        (&[("compressed_bytes", "9")], ErrorKind::Damaged),
        (&[("compressed_bytes", "-1")], ErrorKind::Damaged),
        (&[("dtype", "\"quaternion\"")], ErrorKind::Unsupported),
        (&[("codec", "\"bf16_v8\"")], ErrorKind::Unsupported),
        (
            &[("codec", "\"special\""), ("special", "\"wpe_delta\"")],
            ErrorKind::Unsupported,
        ),
        (&[("special", "\"tied\"")], ErrorKind::Damaged),
        (
            &[("special", "\"tied\""), ("extra", "{\"tied_to\":\"t\"}")],
            ErrorKind::Damaged,
        ),
        (&[("md5", "null")], ErrorKind::Damaged),
    ] {
        let error = open(file(&tensor(changes), 8)).unwrap_err();
        assert_eq!(error.kind(), kind, "{changes:?}: {error}");
    }
}

#[test]
fn hostile_tensors_and_versions_are_refused() {
    let two = [tensor(&[]), tensor(&[])].join(",");
    assert!(open(file(&two, 8)).is_err(), "two of one name");
    let tied = [
        tensor(&[]),
        tensor(&[
            ("name", "\"u\""),
            ("special", "\"tied\""),
            ("extra", "{\"tied_to\":\"t\"}"),
        ]),
    ];
    let tied = open(file(&tied.join(","), 8)).unwrap();
    assert_eq!(tied.decode(1).unwrap(), [0; 8]);
    for (codec, zeros) in [
        ("zstd", 8),
        ("bf16_se_rans", 8),
        ("fp8_cat_ac", 8),
        ("fp32_se_ac", 8),
        ("bf16_native_f32", 8),
    ] {
        let name = format!("\"{codec}\"");
        let package = open(file(&tensor(&[("codec", &name)]), zeros)).unwrap();
        assert_eq!(
            package.decode(0).unwrap_err().kind(),
            ErrorKind::Damaged,
            "{codec}"
        );
    }
    let mut version = file(&tensor(&[]), 8);
    version[4] = 9;
    assert_eq!(open(version).unwrap_err().kind(), ErrorKind::Unsupported);
    let mut long = file(&tensor(&[]), 8);
    long[6..10].fill(0xff);
    assert_eq!(open(long).unwrap_err().kind(), ErrorKind::Damaged);
    // far deeper than any header is
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    assert!(open(file(&deep, 0)).is_err());
}
