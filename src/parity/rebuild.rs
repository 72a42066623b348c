//! Puts a file together again from what is there of it and its parity.

use reed_solomon_simd::engine::DefaultEngine;
use reed_solomon_simd::rate::HighRateDecoder;
use reed_solomon_simd::rate::RateDecoder;

use crate::base::Error;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::parallel;
use crate::base::units::counted;
use crate::parity::Layout;
use crate::parity::Located;
use crate::parity::Sidecar;
use crate::parity::layout::SHARD_LEN_MIN;
use crate::parity::protect::code_failed;
use crate::parity::protect::read_slice;
use crate::parity::protect::slices;
use crate::parity::sidecar::Shift;

/// A set that lost shards: those, and the parity that stands in for them.
#[derive(Debug)]
struct BrokenSet {
    set: usize,
    lost: Vec<usize>,
    /// Rows of parity, and where each shard is.
    parity: Vec<(usize, Shift)>,
}

/// Writes the whole file to `output`, from `file` and its parity, and proves it by the digest that
/// was taken when it was protected.
pub fn rebuild(
    file: &dyn ReadAt,
    sidecar: &Sidecar,
    located: &Located,
    output: &mut OutputFile,
    threads: usize,
    progress: &dyn Progress,
) -> Result<()> {
    output.cut(sidecar.header.layout.data_len)?;
    let write = |offset, bytes: &[u8]| output.write_at(offset, bytes);
    restore(file, sidecar, located, threads, progress, write)?;
    output.sync()?;
    prove(sidecar, output, progress)
}

/// Gives every byte of the whole file to `write`, with its place, in pieces and in no order. What
/// comes of it is not proved.
pub fn restore(
    file: &dyn ReadAt,
    sidecar: &Sidecar,
    located: &Located,
    threads: usize,
    progress: &dyn Progress,
    mut write: impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let layout = &sidecar.header.layout;
    if !located.is_repairable {
        let error = Error::damaged(format!(
            "lost: {} of {} bytes each, {} more than the parity can make up for",
            counted(located.lost() as u64, "part"),
            layout.shard_len,
            located.short_by
        ));
        return Err(error.hint("get the file again, or restore it from a copy"));
    }
    copy(file, layout, located, progress, &mut write)?;
    let broken = broken_sets(sidecar, located);
    let slices: Vec<(u64, usize)> = slices(layout).collect();
    let decode = |scratch: &mut Scratch, task: usize| {
        progress.check()?;
        let (broken, slice) = (&broken[task / slices.len()], slices[task % slices.len()]);
        decode_slice(file, sidecar, located, scratch, broken, slice)
    };
    let tasks = broken.len() * slices.len();
    parallel::ordered(threads, tasks, Scratch::default, decode, |_, restored| {
        let mut pieces = restored.iter();
        pieces.try_for_each(|(offset, bytes)| write(*offset, bytes))
    })
}

/// The first `len` bytes of the file that was protected, no more than a shard has; none if more of
/// their set is lost than its parity makes up for. They are not proved.
pub fn beginning(
    file: &dyn ReadAt,
    sidecar: &Sidecar,
    located: &Located,
    len: usize,
) -> Result<Option<Vec<u8>>> {
    let layout = &sidecar.header.layout;
    if layout.shard(0).end < len as u64 {
        return Ok(None);
    }
    if let Some(Some(offset)) = located.offsets.first() {
        let mut bytes = vec![0; len];
        file.read_exact_at(*offset, &mut bytes)?;
        return Ok(Some(bytes));
    }
    let broken = broken_set(sidecar, located, 0);
    let Some(broken) = broken.filter(|broken| broken.parity.len() == broken.lost.len()) else {
        return Ok(None);
    };
    let slice = (0, SHARD_LEN_MIN as usize);
    let restored = decode_slice(
        file,
        sidecar,
        located,
        &mut Scratch::default(),
        &broken,
        slice,
    )?;
    let first = restored.into_iter().find(|(offset, _)| *offset == 0);
    Ok(first.and_then(|(_, bytes)| bytes.get(..len).map(<[u8]>::to_vec)))
}

/// All that is there, in its place.
fn copy(
    file: &dyn ReadAt,
    layout: &Layout,
    located: &Located,
    progress: &dyn Progress,
    write: &mut impl FnMut(u64, &[u8]) -> Result<()>,
) -> Result<()> {
    let mut bytes = Vec::new();
    for (number, offset) in located.offsets.iter().enumerate() {
        progress.check()?;
        let range = layout.shard(number);
        if let Some(offset) = offset {
            bytes.resize((range.end - range.start) as usize, 0);
            file.read_exact_at(*offset, &mut bytes)?;
            write(range.start, &bytes)?;
        }
        progress.advance(range.end - range.start);
    }
    Ok(())
}

fn broken_sets(sidecar: &Sidecar, located: &Located) -> Vec<BrokenSet> {
    let sets = 0..sidecar.header.layout.set_count as usize;
    sets.filter_map(|set| broken_set(sidecar, located, set))
        .collect()
}

/// A set, if shards of it are lost; with no more parity than it needs.
fn broken_set(sidecar: &Sidecar, located: &Located, set: usize) -> Option<BrokenSet> {
    let layout = &sidecar.header.layout;
    let lost = layout
        .set(set)
        .filter(|shard| located.offsets[*shard].is_none());
    let lost: Vec<usize> = lost.collect();
    let mut buffer = Vec::new();
    let rows = 0..layout.parity_count as usize;
    let parity = rows.filter_map(|row| {
        let number = layout.parity_shard(set, row);
        Some((row, sidecar.find_parity(number, &mut buffer)?))
    });
    let parity = parity.take(lost.len()).collect();
    (!lost.is_empty()).then_some(BrokenSet { set, lost, parity })
}

/// Buffers of a thread.
#[derive(Default)]
struct Scratch {
    decoder: Option<HighRateDecoder<DefaultEngine>>,
    slice: Vec<u8>,
}

/// The parts of the lost shards of a set that begin at `start` in each, with their places in the
/// file.
fn decode_slice(
    file: &dyn ReadAt,
    sidecar: &Sidecar,
    located: &Located,
    scratch: &mut Scratch,
    broken: &BrokenSet,
    (start, len): (u64, usize),
) -> Result<Vec<(u64, Vec<u8>)>> {
    let layout = &sidecar.header.layout;
    let shards: Vec<usize> = layout.set(broken.set).collect();
    let parity = layout.parity_count as usize;
    let mut decoder = match scratch.decoder.take() {
        Some(mut decoder) => {
            decoder
                .reset(shards.len(), parity, len)
                .map_err(code_failed)?;
            decoder
        }
        None => HighRateDecoder::new(shards.len(), parity, len, DefaultEngine::new(), None)
            .map_err(code_failed)?,
    };
    scratch.slice.resize(len, 0);
    for (index, shard) in shards.iter().enumerate() {
        let Some(offset) = located.offsets[*shard] else {
            continue;
        };
        let range = layout.shard(*shard);
        read_slice(
            file,
            offset,
            (start, range.end - range.start),
            &mut scratch.slice,
        )?;
        decoder
            .add_original_shard(index, &scratch.slice)
            .map_err(code_failed)?;
    }
    for &(row, shift) in &broken.parity {
        let number = layout.parity_shard(broken.set, row);
        sidecar.read_parity(number, shift, start, &mut scratch.slice)?;
        decoder
            .add_recovery_shard(row, &scratch.slice)
            .map_err(code_failed)?;
    }
    let mut restored = Vec::new();
    {
        let decoded = decoder.decode().map_err(code_failed)?;
        for (index, bytes) in decoded.restored_original_iter() {
            let range = layout.shard(shards[index]);
            let from = range.start + start;
            // the last shard ends with the file
            let len = range.end.saturating_sub(from).min(bytes.len() as u64) as usize;
            restored.push((from, bytes[..len].to_vec()));
        }
    }
    debug_assert_eq!(restored.len(), broken.lost.len());
    scratch.decoder = Some(decoder);
    Ok(restored)
}

/// Reads back what was written.
fn prove(sidecar: &Sidecar, output: &mut OutputFile, progress: &dyn Progress) -> Result<()> {
    use std::io::Read;
    use std::io::Seek;
    use std::io::SeekFrom;
    let target = output.target().to_owned();
    let failed = |e| Error::io("cannot read back", &target, e);
    let file = output.file();
    file.seek(SeekFrom::Start(0)).map_err(failed)?;
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        progress.check()?;
        let len = file.read(&mut buffer).map_err(failed)?;
        if len == 0 {
            break;
        }
        hasher.update(&buffer[..len]);
    }
    if *hasher.finalize().as_bytes() != sidecar.header.blake3 {
        let error = Error::damaged("what was put together is not the file that was protected");
        return Err(error.file(sidecar.path()));
    }
    Ok(())
}
