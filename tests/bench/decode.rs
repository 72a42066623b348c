//! How fast blocks are decoded and checked, one thread, into a buffer that stays in the cache: for
//! each profile the median of several rounds over all blocks of a model.
//!
//!     cargo bench --bench decode -- MODEL.safetensors...

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program for measuring, which may fail"
)]

use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use bigsmall::archive::Archive;
use bigsmall::archive::ReadScratch;
use bigsmall::base::FileSource;
use bigsmall::base::ReadAt;
use bigsmall::base::progress::Silent;
use bigsmall::codec::Profile;
use bigsmall::entropy::simd::dispatch;
use bigsmall::ops::CompressOptions;
use bigsmall::ops::compress;

const ROUNDS: usize = 9;

fn main() {
    let paths: Vec<PathBuf> = std::env::args_os()
        .skip(1)
        .filter(|word| word != "--bench")
        .map(PathBuf::from)
        .collect();
    assert!(
        !paths.is_empty(),
        "name a model: cargo bench --bench decode -- MODEL.safetensors"
    );
    println!(
        "kernels: {}; median of {ROUNDS} rounds, one thread, checksum included",
        dispatch::kernels().name
    );
    for path in paths {
        for (name, profile) in Profile::ALL {
            measure(&path, name, profile);
        }
    }
}

fn measure(path: &Path, name: &str, profile: Profile) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("m.bs");
    let options = CompressOptions::new(&image, profile, 2);
    compress(path, &options, &Silent).unwrap();
    let source = FileSource::open(&image).unwrap();
    let mut bytes = vec![0; source.len() as usize];
    source.read_exact_at(0, &mut bytes).unwrap();
    let percent = bytes.len() as f64 * 100.0 / std::fs::metadata(path).unwrap().len() as f64;
    let archive = Archive::from_source(std::sync::Arc::new(bytes), &image).unwrap();
    let mut seconds: Vec<f64> = (0..ROUNDS).map(|_| decode_all(&archive)).collect();
    seconds.sort_by(f64::total_cmp);
    let rate = archive.header().original_len as f64 / seconds[ROUNDS / 2] / 1e9;
    let model = path.file_name().unwrap().to_string_lossy();
    println!("{model:<32} {name:<10} {percent:>6.2} %  decode {rate:.2} GB/s");
}

fn decode_all(archive: &Archive) -> f64 {
    let mut scratch = ReadScratch::default();
    let mut window = vec![0_u8; 2 << 20];
    let begun = Instant::now();
    for span in &archive.index().spans {
        let tables = archive.read_tables(span).unwrap();
        let count = span.blocks.len() as u64;
        for number in (0..count).step_by(2) {
            let last = (number + 1).min(count - 1);
            let len = span.block_range(last).end - span.block_range(number).start;
            let out = &mut window[..len as usize];
            archive
                .decode_blocks(span, number, tables.as_ref(), out, &mut scratch)
                .unwrap();
        }
    }
    begun.elapsed().as_secs_f64()
}
