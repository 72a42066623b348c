//! Where the data of spans lie: positions are not stored, they follow from the lengths
//! (docs/format.md, section 5).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use std::ops::Range;

use crate::base::Error;
use crate::base::Result;
use crate::format::header::ALIGN;

/// Spans of at least this many bytes begin at a page.
const PAGED_SPAN_LEN: u64 = 16 << 20;
const PAGE: u64 = 4096;

/// How a span is cut into blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grid {
    /// Original bytes of the span.
    pub len: u64,
    /// log2 of the original bytes of a block.
    pub block_shift: u8,
    /// log2 of the lanes of R16 and R32 blocks.
    pub lanes_shift: u8,
}

impl Grid {
    /// Original bytes of a block, the last apart.
    pub fn block_len(self) -> u64 {
        1_u64.wrapping_shl(u32::from(self.block_shift))
    }

    /// Lanes of R16 and R32 blocks.
    pub fn lanes(self) -> usize {
        1_usize.wrapping_shl(u32::from(self.lanes_shift))
    }

    /// Where its data begin: a multiple of this.
    pub fn align(self) -> u64 {
        if self.len >= PAGED_SPAN_LEN {
            PAGE
        } else {
            ALIGN
        }
    }

    /// Blocks of the span.
    pub fn block_count(self) -> u64 {
        self.len.div_ceil(self.block_len())
    }

    /// Original bytes of the block with this number within the span, as a range of the span.
    pub fn block_range(self, number: u64) -> Range<u64> {
        let start = number.saturating_mul(self.block_len());
        start..start.saturating_add(self.block_len()).min(self.len)
    }
}

/// What is needed to find and decode the blocks of a span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanLocation {
    /// First of its bytes among those of all original files.
    pub start: u64,
    /// How it is cut into blocks.
    pub grid: Grid,
    /// The earlier span whose bytes these are.
    pub repeats: Option<usize>,
    /// The span whose own tables it uses, which may be itself.
    pub tables_owner: usize,
    /// Bytes of these tables.
    pub tables_len: u32,
    /// Where these tables begin in the image.
    pub tables_offset: u64,
    /// The number of its first block, or of that of the span that it repeats.
    pub first_block: usize,
    /// Where that block begins in the image.
    pub data_offset: u64,
    /// Its base, or that of the span that it repeats.
    pub base: Option<usize>,
}

impl SpanLocation {
    /// Where its bytes end among those of all original files.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.grid.len)
    }
}

/// Where the next data of an image go.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OffsetAssigner(u64);

impl OffsetAssigner {
    /// Data begin here.
    pub(crate) fn new(data_offset: u64) -> Self {
        Self(data_offset)
    }

    /// Where the data so far end, padding included.
    pub(crate) fn end(self) -> u64 {
        self.0
    }

    /// Where the tables of a span begin, which are so long; its blocks come next.
    pub(crate) fn span(&mut self, grid: Grid, own_tables_len: u32) -> Result<u64> {
        let start = self.0.checked_next_multiple_of(grid.align());
        self.0 = start.ok_or_else(too_far)?;
        self.take(own_tables_len)
    }

    /// Where the next block of the span begins, which has so many coded bytes.
    pub(crate) fn block(&mut self, coded_len: u32) -> Result<u64> {
        self.take(coded_len)
    }

    fn take(&mut self, len: u32) -> Result<u64> {
        let start = self.0;
        let end = start.checked_add(u64::from(len));
        let end = end.and_then(|end| end.checked_next_multiple_of(ALIGN));
        self.0 = end.ok_or_else(too_far)?;
        Ok(start)
    }
}

fn too_far() -> Error {
    Error::damaged("the blocks reach beyond all bounds")
}
