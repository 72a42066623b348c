//! The record of a block, and where blocks end (docs/format.md, sections 4.4 and 5).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use crate::base::ByteReader;
use crate::base::CodecId;
use crate::base::Limits;
use crate::base::Result;
use crate::format::header::ALIGN;
use crate::format::header::TAIL_PADDING;

/// Bytes of the record of a block.
pub(crate) const BLOCK_RECORD_LEN: usize = 16;
/// Most blocks: each has sixteen bytes of the index.
pub(super) const BLOCK_COUNT_MAX: u64 = Limits::FORMAT_1.index_len_max >> 4;

/// Where the tail index begins behind data that end there.
pub(super) fn tail_offset(data_end: u64) -> u64 {
    data_end
        .saturating_add(TAIL_PADDING)
        .next_multiple_of(ALIGN)
}

/// One block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRecord {
    /// XXH3 of the original bytes.
    pub checksum: u64,
    /// Where its coded bytes begin in the image.
    pub offset: u64,
    /// How many coded bytes it has.
    pub coded_len: u32,
    /// How it is coded.
    pub codec: CodecId,
    /// Version of the codec.
    pub codec_version: u8,
}

impl BlockRecord {
    /// Reads the record of a block.
    pub fn parse(stored: &[u8]) -> Result<Self> {
        let mut reader = ByteReader::new(stored, "list of blocks");
        let checksum = reader.u64()?;
        let coded_len = reader.u32()?;
        let codec = CodecId(reader.u8()?);
        let codec_version = reader.u8()?;
        Ok(Self {
            checksum,
            offset: 0,
            coded_len,
            codec,
            codec_version,
        })
    }
}
