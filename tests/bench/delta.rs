//! How fast blocks of differences are decoded and checked, one thread, base and image in memory,
//! into a buffer that stays in the cache: for each set of kernels the median of several rounds over
//! all such blocks of a model. The sets take turns.
//!
//!     cargo bench --bench delta -- BASE.safetensors MODEL.safetensors...

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_precision_loss,
    reason = "a program for measuring, which may fail"
)]

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use bigsmall::archive::Archive;
use bigsmall::archive::Bases;
use bigsmall::base::FileSource;
use bigsmall::base::ReadAt;
use bigsmall::base::digest;
use bigsmall::base::progress::Silent;
use bigsmall::codec;
use bigsmall::codec::CodedBlock;
use bigsmall::codec::Profile;
use bigsmall::codec::Scratch;
use bigsmall::codec::SpanTables;
use bigsmall::entropy::simd::dispatch;
use bigsmall::ops::CompressOptions;
use bigsmall::ops::compress;
use bigsmall::tensor::Layout;

const ROUNDS: usize = 15;

fn main() {
    let paths: Vec<PathBuf> = std::env::args_os()
        .skip(1)
        .filter(|word| word != "--bench")
        .map(PathBuf::from)
        .collect();
    assert!(
        paths.len() > 1,
        "name a base and models: cargo bench --bench delta -- BASE MODEL..."
    );
    println!("median of {ROUNDS} rounds, one thread, checksum included; GB/s of original bytes");
    for model in &paths[1..] {
        measure(&paths[0], model);
    }
}

/// A block of differences of a model.
struct Block<'a> {
    coded: CodedBlock<'a>,
    tables: &'a SpanTables,
    len: usize,
    checksum: u64,
}

fn read(path: &Path) -> Vec<u8> {
    let source = FileSource::open(path).unwrap();
    let mut bytes = vec![0; source.len() as usize];
    source.read_exact_at(0, &mut bytes).unwrap();
    bytes
}

fn measure(base: &Path, model: &Path) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("m.bs");
    let options = CompressOptions {
        base: Some(Arc::new(Bases::open(base, None).unwrap())),
        ..CompressOptions::new(&image, Profile::Balanced, 2)
    };
    compress(model, &options, &Silent).unwrap();
    let (base, bytes) = (read(base), read(&image));
    let layout = Layout::of_safetensors(&base).unwrap();
    let archive = Archive::from_source(Arc::new(bytes.clone()), &image).unwrap();
    let spans = &archive.index().spans;
    let tables: Vec<_> = spans
        .iter()
        .map(|span| archive.read_tables(span).unwrap())
        .collect();
    let mut blocks = Vec::new();
    for (span, tables) in spans.iter().zip(&tables) {
        let (Some(number), Some(tables)) = (span.base, tables) else {
            continue;
        };
        let name = archive.index().bases[number].named(&span.span.name).name;
        let of_base = layout.spans.iter().find(|span| span.name == name).unwrap();
        for (number, record) in (0..).zip(&archive.index().blocks[span.blocks.clone()]) {
            if !record.codec.needs_base() {
                continue;
            }
            let range = span.block_range(number);
            let len = (range.end - range.start) as usize;
            let coded = CodedBlock {
                codec: record.codec,
                version: record.codec_version,
                bytes: &bytes[record.offset as usize..][..record.coded_len as usize],
                lanes: span.lanes(),
                base: &base[(of_base.start + range.start) as usize..][..len],
            };
            blocks.push(Block {
                coded,
                tables,
                len,
                checksum: record.checksum,
            });
        }
    }
    let sets = dispatch::available();
    let mut seconds = vec![Vec::new(); sets.len()];
    for _ in 0..ROUNDS {
        for (set, seconds) in sets.iter().zip(&mut seconds) {
            assert!(dispatch::choose(set.name));
            seconds.push(decode_all(&blocks));
        }
    }
    let original: usize = blocks.iter().map(|block| block.len).sum();
    let coded: usize = blocks.iter().map(|block| block.coded.bytes.len()).sum();
    let percent = coded as f64 * 100.0 / original as f64;
    print!("{} {percent:.2} %:", model.display());
    for (set, seconds) in sets.iter().zip(&mut seconds) {
        seconds.sort_by(f64::total_cmp);
        let rate = original as f64 / seconds[ROUNDS / 2] / 1e9;
        print!("  {} {rate:.2}", set.name);
    }
    println!();
}

fn decode_all(blocks: &[Block<'_>]) -> f64 {
    let mut scratch = Scratch::default();
    let mut window = vec![0_u8; 2 << 20];
    let begun = Instant::now();
    let mut rest = blocks;
    while let [first, after @ ..] = rest {
        let (out, second_out) = window.split_at_mut(first.len);
        rest = after;
        if let [second, after @ ..] = rest
            && std::ptr::eq(first.tables, second.tables)
            && codec::is_paired(first.coded.codec, first.coded.version)
            && first.coded.codec == second.coded.codec
        {
            let second_out = &mut second_out[..second.len];
            let coded = [&first.coded, &second.coded];
            let outs = [&mut *out, &mut *second_out];
            for result in codec::decode_two(coded, Some(first.tables), outs) {
                result.unwrap();
            }
            assert!(digest::xxh3(second_out) == second.checksum);
            rest = after;
        } else {
            codec::decode_block(&first.coded, Some(first.tables), out, &mut scratch).unwrap();
        }
        assert!(digest::xxh3(out) == first.checksum);
    }
    begun.elapsed().as_secs_f64()
}
