//! The original bytes of an image in order, decoded on all cores: what decompress writes and verify hashes.

use crate::archive::Archive;
use crate::archive::image::ReadScratch;
use crate::base::Progress;
use crate::base::Result;
use crate::base::parallel;
use crate::codec::SpanTables;
use crate::format::FileRecord;

/// About how many original bytes one piece of work has.
const PIECE_LEN: u64 = 512 << 10;

/// One block of a file, in order.
#[derive(Debug)]
pub struct Block {
    /// Number of the span in the index.
    pub span: usize,
    /// Number of the block within the span.
    pub number: u64,
    /// Its checked bytes, or what is wrong with it.
    pub bytes: Result<Vec<u8>>,
}

#[derive(Default)]
struct Worker {
    scratch: ReadScratch,
    tables: Option<(usize, Result<Option<SpanTables>>)>,
}

/// Hands every block of `file` in order to `each`; a damaged one is handed over as its error.
pub fn blocks(
    archive: &Archive,
    file: &FileRecord,
    threads: usize,
    progress: &dyn Progress,
    mut each: impl FnMut(Block) -> Result<()>,
) -> Result<()> {
    let pieces = pieces(archive, file);
    parallel::ordered(
        threads,
        pieces.len(),
        Worker::default,
        |worker, number| {
            progress.check()?;
            let decode = |&(span, number)| decode(archive, span, number, worker);
            Ok(pieces[number].iter().map(decode).collect::<Vec<_>>())
        },
        |_, blocks| blocks.into_iter().try_for_each(&mut each),
    )
}

fn pieces(archive: &Archive, file: &FileRecord) -> Vec<Vec<(usize, u64)>> {
    let mut pieces = Vec::new();
    let (mut piece, mut len) = (Vec::new(), 0);
    for number in file.spans.clone() {
        let span = &archive.index().spans[number];
        for block in 0..span.blocks.len() as u64 {
            let range = span.block_range(block);
            piece.push((number, block));
            len += range.end - range.start;
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

fn decode(archive: &Archive, span_number: usize, number: u64, worker: &mut Worker) -> Block {
    let span = &archive.index().spans[span_number];
    let owner = archive.index().tables_owner(span_number);
    let known = worker.tables.take().filter(|(of, _)| *of == owner);
    let tables = known.map_or_else(|| archive.read_tables(span), |(_, tables)| tables);
    let bytes = match &tables {
        Ok(tables) => {
            let range = span.block_range(number);
            let mut bytes = vec![0; (range.end - range.start) as usize];
            archive
                .decode_block(
                    span,
                    number,
                    tables.as_ref(),
                    &mut bytes,
                    &mut worker.scratch,
                )
                .map(|()| bytes)
        }
        Err(error) => Err(error.clone()),
    };
    worker.tables = Some((owner, tables));
    Block {
        span: span_number,
        number,
        bytes,
    }
}
