//! Spans stored as differences from a base of the same dtype and length.

use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::codec::delta;
use crate::codec::delta::DeltaCoder;
use crate::codec::delta::DeltaCounts;
use crate::codec::encode::CodedSpan;
use crate::codec::encode::EncodeScratch;
use crate::format::Index;
use crate::writer::coding;
use crate::writer::coding::CodedBlocks;
use crate::writer::coding::PIECE_LEN;
use crate::writer::coding::Task;
use crate::writer::data::DataWriter;
use crate::writer::image::WriteOptions;

/// A base is taken only if it saves more than this share of what the span takes alone: two files must be read for it.
const GAIN_SHARE_MIN: u64 = 50;

fn read(base: &dyn ReadAt, start: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    base.read_exact_at(start, &mut bytes)?;
    Ok(bytes)
}

/// The coder of a large span against its base, after a look at all of both; none if it takes about as much alone.
pub(super) fn coder_for(
    task: Task<'_>,
    base: &dyn ReadAt,
    options: &WriteOptions,
    progress: &dyn Progress,
) -> Result<Option<DeltaCoder>> {
    let Some(codec) = delta::codec_of(&task.record.span.dtype) else {
        return Ok(None);
    };
    let count = |scratch: &mut EncodeScratch, start: u64, bytes: &[u8]| {
        let base = read(base, start, bytes.len())?;
        let mut counts = DeltaCounts::default();
        counts.count(codec, bytes, &base, &mut scratch.delta);
        Ok(counts)
    };
    let mut counts = DeltaCounts::default();
    coding::in_pieces(
        task,
        PIECE_LEN,
        options,
        progress,
        count,
        |_, piece: Result<_>| {
            counts.add(&piece?);
            Ok(())
        },
    )?;
    let coder = DeltaCoder::new(codec, &counts);
    let Some(coder) = coder else {
        return Ok(None);
    };
    let alone = coding::alone_len(task, options, progress)?;
    Ok((coder.coded_len() < alone - alone / GAIN_SHARE_MIN).then_some(coder))
}

/// Codes a large span piece by piece.
pub(super) fn code_large(
    task: Task<'_>,
    base: &dyn ReadAt,
    coder: &DeltaCoder,
    options: &WriteOptions,
    data: &mut DataWriter<'_>,
    index: &mut Index,
    progress: &dyn Progress,
) -> Result<()> {
    coding::begin_span(&task, coder.tables(), data, index)?;
    let block_len = task.record.block_len();
    let piece_len = PIECE_LEN.max(block_len);
    let code = |scratch: &mut EncodeScratch, start: u64, bytes: &[u8]| {
        let base = read(base, start, bytes.len())?;
        let (mut out, mut blocks) = (Vec::new(), Vec::new());
        let pairs = bytes
            .chunks(block_len as usize)
            .zip(base.chunks(block_len as usize));
        for (block, base) in pairs {
            let before = out.len();
            let codec = coder.encode_block(block, base, &mut scratch.delta, &mut out);
            blocks.push((codec, (out.len() - before) as u32, digest::xxh3(block)));
        }
        Ok((bytes.len() as u64, CodedBlocks { bytes: out, blocks }))
    };
    coding::in_pieces(
        task,
        piece_len,
        options,
        progress,
        code,
        |number, piece: Result<_>| {
            let (len, coded) = piece?;
            let first = number * (piece_len / block_len) as usize;
            coding::put_blocks(&task, first, &coded, data, index)?;
            progress.advance(len);
            Ok(())
        },
    )
}

/// Codes a small span against its base in memory; none if its dtype has no differences.
pub(super) fn code_small(
    task: &Task<'_>,
    base: &dyn ReadAt,
    blocks: &[&[u8]],
    scratch: &mut EncodeScratch,
) -> Result<Option<CodedSpan>> {
    let Some(codec) = delta::codec_of(&task.record.span.dtype) else {
        return Ok(None);
    };
    let base = read(base, 0, task.len() as usize)?;
    let pairs = || {
        blocks
            .iter()
            .zip(base.chunks(task.record.block_len() as usize))
    };
    let mut counts = DeltaCounts::default();
    for (block, base) in pairs() {
        counts.count(codec, block, base, &mut scratch.delta);
    }
    let Some(coder) = DeltaCoder::new(codec, &counts) else {
        return Ok(None);
    };
    let mut span = CodedSpan::default();
    for (block, base) in pairs() {
        let before = span.bytes.len();
        let codec = coder.encode_block(block, base, &mut scratch.delta, &mut span.bytes);
        span.blocks
            .push((codec, (span.bytes.len() - before) as u32));
    }
    if span.blocks.iter().any(|(codec, _)| *codec == coder.codec()) {
        span.tables = coder.tables().to_vec();
    }
    Ok(Some(span))
}
