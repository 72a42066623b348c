//! The original bytes of an image in order, decoded on all cores: what decompress writes and verify
//! hashes.

use std::ops::Range;

use crate::archive::Archive;
use crate::archive::ReadScratch;
use crate::base::Progress;
use crate::base::Result;
use crate::base::digest::Sha256;
use crate::base::parallel;
use crate::codec::SpanTables;
use crate::format::FileRecord;

/// About how many original bytes one piece of work has.
const PIECE_LEN: u64 = 512 << 10;

/// Some blocks of a span of a file, in order: one after another if all are right, each by itself
/// otherwise.
#[derive(Debug)]
pub(crate) struct Run {
    /// Number of the span in the index.
    pub span: usize,
    /// Numbers of the blocks within the span.
    pub blocks: Range<u64>,
    /// Their checked bytes, or what is wrong with the one block.
    pub bytes: Result<Vec<u8>>,
}

#[derive(Default)]
struct Worker {
    scratch: ReadScratch,
    tables: Option<(usize, Result<Option<SpanTables>>)>,
}

/// Hands all blocks of `file` in order to `each`; a damaged one is handed over as its error.
pub(crate) fn runs(
    archive: &Archive,
    file: &FileRecord,
    threads: usize,
    progress: &dyn Progress,
    mut each: impl FnMut(Run) -> Result<()>,
) -> Result<()> {
    let pieces = pieces(archive, file);
    parallel::ordered(
        threads,
        pieces.len(),
        Worker::default,
        |worker, number| {
            progress.check()?;
            let decode = |(span, blocks): &(usize, Range<u64>)| {
                decode(archive, *span, blocks.clone(), worker)
            };
            Ok(pieces[number].iter().flat_map(decode).collect::<Vec<_>>())
        },
        |_, runs| runs.into_iter().try_for_each(&mut each),
    )
}

/// sha256 of the bytes that `file` decodes to; the first damaged block is an error.
pub(crate) fn sha256_of(
    archive: &Archive,
    file: &FileRecord,
    threads: usize,
    progress: &dyn Progress,
) -> Result<[u8; 32]> {
    let mut sha256 = Sha256::default();
    runs(archive, file, threads, progress, |run| {
        let bytes = run.bytes?;
        sha256.update(&bytes);
        progress.advance(bytes.len() as u64);
        Ok(())
    })?;
    Ok(sha256.finish())
}

/// Spans and blocks of them, in pieces of work.
fn pieces(archive: &Archive, file: &FileRecord) -> Vec<Vec<(usize, Range<u64>)>> {
    let mut pieces = Vec::new();
    let (mut piece, mut len) = (Vec::new(), 0);
    for number in file.spans.clone() {
        let span = &archive.index().spans[number];
        let count = span.blocks.len() as u64;
        let mut first = 0;
        while first < count {
            let fitting = (PIECE_LEN - len)
                .div_ceil(span.block_len())
                .min(count - first);
            let blocks = first..first + fitting;
            len += span.block_range(blocks.end - 1).end - span.block_range(first).start;
            first = blocks.end;
            piece.push((number, blocks));
            if len >= PIECE_LEN {
                pieces.push(std::mem::take(&mut piece));
                len = 0;
            }
        }
    }
    if !piece.is_empty() {
        pieces.push(piece);
    }
    pieces
}

fn decode(
    archive: &Archive,
    span_number: usize,
    blocks: Range<u64>,
    worker: &mut Worker,
) -> Vec<Run> {
    let span = &archive.index().spans[span_number];
    let owner = archive.index().tables_owner(span_number);
    let known = worker.tables.take().filter(|(of, _)| *of == owner);
    let tables = known.map_or_else(|| archive.read_tables(span), |(_, tables)| tables);
    let scratch = &mut worker.scratch;
    let mut decode = |blocks: Range<u64>| {
        let tables = tables.as_ref().map_err(Clone::clone)?;
        let len = span.block_range(blocks.end - 1).end - span.block_range(blocks.start).start;
        let mut bytes = vec![0; len as usize];
        archive
            .decode_blocks(span, blocks.start, tables.as_ref(), &mut bytes, scratch)
            .map(|()| bytes)
    };
    let run = |blocks: Range<u64>, bytes| Run {
        span: span_number,
        blocks,
        bytes,
    };
    let runs = match decode(blocks.clone()) {
        Ok(bytes) => vec![run(blocks, Ok(bytes))],
        Err(_) => blocks
            .map(|number| run(number..number + 1, decode(number..number + 1)))
            .collect(),
    };
    worker.tables = Some((owner, tables));
    runs
}
