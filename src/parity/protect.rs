//! Makes a parity file.

use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::HighRateEncoder;
use reed_solomon_simd::rate::RateEncoder;

use crate::base::Error;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::base::parallel;
use crate::parity::Layout;
use crate::parity::sidecar::HEAD_LEN;
use crate::parity::sidecar::Header;
use crate::parity::sidecar::SidecarOffsets;
use crate::parity::table;
use crate::parity::table::ShardRecord;

/// Longest part of a shard that is worked on at once: a set has up to 2048 of them in memory, for
/// each thread.
const SLICE_LEN_MAX: u32 = 16 << 10;
/// Shortest, if a shard has so much: each is a read of its own.
const SLICE_LEN_MIN: u32 = 4 << 10;
/// Shards read and hashed at once.
const BATCH_LEN: u64 = 4 << 20;

/// The parts in which the shards of a layout are worked on. Symbols of the code stand in runs of 64
/// bytes, and what lies in one run does not touch another.
pub(super) fn slices(layout: &Layout) -> impl Iterator<Item = (u64, usize)> + use<> {
    let len = (layout.shard_len / 8).clamp(SLICE_LEN_MIN.min(layout.shard_len), SLICE_LEN_MAX);
    let shard_len = layout.shard_len;
    (0..shard_len.div_ceil(len)).map(move |slice| (u64::from(slice * len), len as usize))
}

pub(super) fn code_failed(error: reed_solomon_simd::Error) -> Error {
    // counts and lengths were checked with the layout
    Error::invalid(format!("the code of the parity refuses: {error}"))
}

/// The part of a data shard that begins at `start` in it; what is behind the end of the file is
/// zeros.
pub(super) fn read_slice(
    file: &dyn ReadAt,
    offset: u64,
    (start, end): (u64, u64),
    out: &mut [u8],
) -> Result<()> {
    let there = end.saturating_sub(start).min(out.len() as u64) as usize;
    let (bytes, zeros) = out.split_at_mut(there);
    zeros.fill(0);
    if bytes.is_empty() {
        return Ok(());
    }
    file.read_exact_at(offset + start, bytes)
}

/// Writes the parity of `file`, cut as `layout` says, to `output`. Memory: 32 MiB for each thread
/// and some for the tables.
pub fn protect(
    file: &dyn ReadAt,
    layout: &Layout,
    output: &mut OutputFile,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Header> {
    let (records, blake3) = hash_all(file, layout, threads, progress)?;
    let mut head = vec![0; layout.data_len.min(HEAD_LEN) as usize];
    file.read_exact_at(0, &mut head)?;
    let header = Header {
        layout: *layout,
        blake3,
        head: Some(digest::xxh3(&head)),
    };
    let offsets = SidecarOffsets::of(layout);
    write_parity(file, layout, output, threads, progress)?;
    output.sync()?;
    let hashes = hash_parity(layout, output)?;
    let table = table::encode(&records, &hashes);
    let bytes = header.encode();
    output.write_at(0, &bytes)?;
    for offset in offsets.tables {
        output.write_at(offset, &table)?;
    }
    output.write_at(offsets.trailer, &bytes)?;
    Ok(header)
}

/// What every shard is known by, and BLAKE3 of all.
fn hash_all(
    file: &dyn ReadAt,
    layout: &Layout,
    threads: usize,
    progress: &dyn Progress,
) -> Result<(Vec<ShardRecord>, [u8; 32])> {
    let batch_len = BATCH_LEN.max(u64::from(layout.shard_len));
    let batches = layout.data_len.div_ceil(batch_len) as usize;
    let mut hasher = blake3::Hasher::new();
    let mut records = Vec::with_capacity(layout.shards());
    let read = |(): &mut (), batch: usize| {
        progress.check()?;
        let start = batch as u64 * batch_len;
        let mut bytes = vec![0; batch_len.min(layout.data_len - start) as usize];
        file.read_exact_at(start, &mut bytes)?;
        let shards = bytes.chunks(layout.shard_len as usize);
        let records: Vec<ShardRecord> = shards.map(ShardRecord::of).collect();
        Ok((bytes, records))
    };
    parallel::ordered(
        threads,
        batches,
        || (),
        read,
        |_, (bytes, of_batch)| {
            hasher.update(&bytes);
            records.extend(of_batch);
            Ok(())
        },
    )?;
    Ok((records, *hasher.finalize().as_bytes()))
}

/// Buffers of a thread.
#[derive(Default)]
struct Scratch {
    encoder: Option<HighRateEncoder<DefaultEngine>>,
    slice: Vec<u8>,
}

fn write_parity(
    file: &dyn ReadAt,
    layout: &Layout,
    output: &OutputFile,
    threads: usize,
    progress: &dyn Progress,
) -> Result<()> {
    let slices: Vec<(u64, usize)> = slices(layout).collect();
    let offsets = SidecarOffsets::of(layout);
    let encode = |scratch: &mut Scratch, task: usize| {
        progress.check()?;
        let (set, (start, len)) = (task / slices.len(), slices[task % slices.len()]);
        encode_slice(file, layout, scratch, set, (start, len)).map(|parity| (set, start, parity))
    };
    let tasks = layout.set_count as usize * slices.len();
    let share = layout.data_len / tasks as u64;
    parallel::ordered(
        threads,
        tasks,
        Scratch::default,
        encode,
        |_, (set, start, parity)| {
            for (row, bytes) in parity.iter().enumerate() {
                let number = layout.parity_shard(set, row) as u64;
                let offset = offsets.parity + number * u64::from(layout.shard_len) + start;
                output.write_at(offset, bytes)?;
            }
            progress.advance(share);
            Ok(())
        },
    )
}

fn encode_slice(
    file: &dyn ReadAt,
    layout: &Layout,
    scratch: &mut Scratch,
    set: usize,
    (start, len): (u64, usize),
) -> Result<Vec<Vec<u8>>> {
    let count = layout.set(set).count();
    let parity = layout.parity_count as usize;
    let mut encoder = match scratch.encoder.take() {
        Some(mut encoder) => {
            encoder.reset(count, parity, len).map_err(code_failed)?;
            encoder
        }
        None => HighRateEncoder::new(count, parity, len, DefaultEngine::new(), None)
            .map_err(code_failed)?,
    };
    scratch.slice.resize(len, 0);
    for shard in layout.set(set) {
        let range = layout.shard(shard);
        let whole = range.end - range.start;
        read_slice(file, range.start, (start, whole), &mut scratch.slice)?;
        encoder
            .add_original_shard(&scratch.slice)
            .map_err(code_failed)?;
    }
    let parity = {
        let encoded = encoder.encode().map_err(code_failed)?;
        encoded.recovery_iter().map(<[u8]>::to_vec).collect()
    };
    scratch.encoder = Some(encoder);
    Ok(parity)
}

/// XXH3 of the parity shards, as they stand on the disk.
fn hash_parity(layout: &Layout, output: &mut OutputFile) -> Result<Vec<u64>> {
    use std::os::unix::fs::FileExt;
    let parity_start = SidecarOffsets::of(layout).parity;
    let mut shard = vec![0; layout.shard_len as usize];
    let mut hashes = Vec::with_capacity(layout.parity_shards());
    for number in 0..layout.parity_shards() as u64 {
        let offset = parity_start + number * u64::from(layout.shard_len);
        let read = output.file().read_exact_at(&mut shard, offset);
        read.map_err(|e| Error::io("cannot read back", output.target(), e))?;
        hashes.push(digest::xxh3(&shard));
    }
    Ok(hashes)
}
