//! What ways of coding give: pieces of spans, coded, which the writer puts in their places.

use crate::base::CodecId;
use crate::base::Result;
use crate::base::digest;
use crate::codec::encode::EncodeScratch;
use crate::format::BlockRecord;
use crate::writer::journal::TablesOf;
use crate::writer::task::ImageJob;
use crate::writer::task::Task;

/// Blocks of a span that follow one another.
#[derive(Debug)]
pub(super) struct CodedPiece<'a> {
    pub(super) task: &'a Task<'a>,
    /// Number of the first block within the span.
    pub(super) first: usize,
    /// Original bytes.
    pub(super) len: u64,
    /// None if an earlier run has left them.
    pub(super) coding: Option<Coding>,
    /// How they are coded if no span before has the tables that they would use.
    pub(super) unless_shared: Option<Coding>,
}

impl<'a> CodedPiece<'a> {
    /// One piece of a large span, of which `code` codes these bytes from this byte on, unless an
    /// earlier run has left it.
    pub(super) fn of_large(
        task: &'a Task<'a>,
        job: &ImageJob<'_>,
        piece: usize,
        code: impl FnOnce(u64, &[u8]) -> Result<Coding>,
    ) -> Result<Self> {
        let piece_len = task.piece_len();
        let start = piece as u64 * piece_len;
        let first = piece * (piece_len / task.grid.block_len()) as usize;
        let coding = if job.resumed.entry(task.number, first).is_some() {
            None
        } else {
            Some(code(start, &task.piece(piece_len, piece)?)?)
        };
        Ok(Self {
            task,
            first,
            len: piece_len.min(task.len() - start),
            coding,
            unless_shared: None,
        })
    }
}

/// Blocks as they are coded.
#[derive(Debug)]
pub(super) struct Coding {
    pub(super) tables: TablesOf,
    /// Tables of its own, where the first block is among them.
    pub(super) own_tables: Vec<u8>,
    /// One block after another.
    pub(super) bytes: Vec<u8>,
    /// Without offsets.
    pub(super) blocks: Vec<BlockRecord>,
}

impl Coding {
    /// Of no blocks yet.
    pub(super) fn new(tables: TablesOf, own_tables: Vec<u8>) -> Self {
        Self {
            tables,
            own_tables,
            bytes: Vec::new(),
            blocks: Vec::new(),
        }
    }

    /// Takes `block` as `code` appends it.
    pub(super) fn add(&mut self, block: &[u8], code: impl FnOnce(&mut Vec<u8>) -> CodecId) {
        let before = self.bytes.len();
        let codec = code(&mut self.bytes);
        let len = (self.bytes.len() - before) as u32;
        self.blocks.push(block_record(codec, len, block));
    }

    /// Bytes of blocks and tables of its own.
    pub(super) fn len(&self) -> u64 {
        (self.bytes.len() + self.own_tables.len()) as u64
    }
}

/// The record of a block that is coded to so many bytes; where they go is not known yet.
pub(super) fn block_record(codec: CodecId, coded_len: u32, block: &[u8]) -> BlockRecord {
    BlockRecord {
        checksum: digest::xxh3(block),
        offset: 0,
        coded_len,
        codec,
        codec_version: codec.version(),
    }
}

/// A way of coding some spans. It knows nothing of the image: what it gives is put there in order.
pub(super) trait Strategy: Sync {
    /// Pieces of work.
    fn pieces(&self) -> usize;

    /// Does one of them; any thread may.
    fn code(&self, piece: usize, scratch: &mut EncodeScratch) -> Result<Vec<CodedPiece<'_>>>;

    /// Tables that spans share: written with the first of those that use them.
    fn shared_tables(&self, tables: TablesOf) -> &[u8];
}
