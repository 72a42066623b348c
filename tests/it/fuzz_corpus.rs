//! What the fuzz targets (`tests/fuzz`, `scripts/fuzz`) begin with, and every input that once
//! failed, through the same code.

use std::fs;
use std::panic;
use std::path::Path;
use std::path::PathBuf;

#[path = "../fuzz/harness/bgsm.rs"]
mod bgsm;
#[path = "../fuzz/harness/choices.rs"]
mod choices;
#[path = "../fuzz/harness/decode_block.rs"]
mod decode_block;
#[path = "../fuzz/harness/image.rs"]
mod image;
#[path = "../fuzz/harness/parity.rs"]
mod parity;
#[path = "../fuzz/harness/random.rs"]
mod random;
#[path = "../fuzz/harness/safetensors_header.rs"]
mod safetensors_header;
#[path = "../fuzz/harness/tables.rs"]
mod tables;
#[path = "../fuzz/harness/written_index.rs"]
mod written_index;

pub(crate) fn folder(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/seeds")
        .join(target)
}

fn run_all(target: &str, run: fn(&[u8])) {
    let mut count = 0;
    for entry in fs::read_dir(folder(target)).unwrap() {
        let path = entry.unwrap().path();
        let bytes = fs::read(&path).unwrap();
        let outcome = panic::catch_unwind(|| run(&bytes));
        assert!(outcome.is_ok(), "{} fails", path.display());
        count += 1;
    }
    assert!(count > 0, "no seeds for {target}");
}

#[test]
fn files_of_the_python_package() {
    run_all("bgsm", bgsm::run);
}

#[test]
fn blocks() {
    run_all("decode_block", decode_block::run);
}

#[test]
fn tables_of_spans() {
    run_all("tables", tables::run);
}

#[test]
fn images() {
    run_all("image", image::run);
}

#[test]
fn parity_files() {
    run_all("parity", parity::run);
}

#[test]
fn safetensors_headers() {
    run_all("safetensors_header", safetensors_header::run);
}
