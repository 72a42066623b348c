//! Decoding the blocks of an image, each checked against its checksum before anybody gets it.

use crate::archive::image::Image;
use crate::base::CodecId;
use crate::base::Error;
use crate::base::Remedy;
use crate::base::Result;
use crate::base::digest;
use crate::codec;
use crate::codec::CodedBlock;
use crate::codec::Scratch;
use crate::codec::SpanTables;
use crate::format::BlockRecord;

/// Buffers that a thread keeps from block to block.
#[derive(Debug, Default)]
pub struct ReadScratch {
    coded: Vec<u8>,
    second: Vec<u8>,
    base: Vec<u8>,
    codec: Scratch,
}

/// What a block's record does not say of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Within {
    /// Lanes of R16 and R32 blocks.
    pub(super) lanes: usize,
    /// Number of the base of its span.
    pub(super) base: Option<usize>,
    /// Where its bytes begin in its span.
    pub(super) start: u64,
}

impl Image {
    /// Decodes a block into `out`, which has its length. On an error `out` holds rubbish and must
    /// not be used.
    pub(super) fn decode(
        &self,
        block: &BlockRecord,
        within: Within,
        tables: Option<&SpanTables>,
        out: &mut [u8],
        scratch: &mut ReadScratch,
    ) -> Result<()> {
        let is_raw = block.codec == CodecId::RAW && block.codec_version == block.codec.version();
        if is_raw && block.coded_len as usize == out.len() {
            self.source().read_exact_at(block.offset, out)?;
        } else {
            let ReadScratch {
                coded, base, codec, ..
            } = scratch;
            self.read_base(block.codec, within, out.len(), base)?;
            let coded = CodedBlock {
                codec: block.codec,
                version: block.codec_version,
                bytes: self.coded(block, coded)?,
                lanes: within.lanes,
                base,
            };
            codec::decode_block(&coded, tables, out, codec)?;
        }
        check(block, out)
    }

    /// Decodes two blocks, one behind the other, of a codec that has a kernel for two.
    pub(super) fn decode_two(
        &self,
        [a, b]: [&BlockRecord; 2],
        within: Within,
        tables: Option<&SpanTables>,
        [out_a, out_b]: [&mut [u8]; 2],
        scratch: &mut ReadScratch,
    ) -> [Result<()>; 2] {
        let ReadScratch {
            coded,
            second,
            base,
            ..
        } = scratch;
        let of_both = self.read_base(a.codec, within, out_a.len() + out_b.len(), base);
        if let Err(error) = of_both {
            return [Err(error), Ok(())];
        }
        let (base_a, base_b) = base.split_at(base.len().min(out_a.len()));
        let (bytes_a, bytes_b) = match (self.coded(a, coded), self.coded(b, second)) {
            (Ok(bytes_a), Ok(bytes_b)) => (bytes_a, bytes_b),
            (a, b) => return [a.map(|_| ()), b.map(|_| ())],
        };
        let block = |record: &BlockRecord, bytes, base| CodedBlock {
            codec: record.codec,
            version: record.codec_version,
            bytes,
            lanes: within.lanes,
            base,
        };
        let blocks = [&block(a, bytes_a, base_a), &block(b, bytes_b, base_b)];
        let [first, second] = codec::decode_two(blocks, tables, [&mut *out_a, &mut *out_b]);
        [
            first.and_then(|()| check(a, out_a)),
            second.and_then(|()| check(b, out_b)),
        ]
    }

    /// Reads as many bytes of the base as are decoded, where the codec needs them; else nothing.
    fn read_base(
        &self,
        codec: CodecId,
        within: Within,
        len: usize,
        base: &mut Vec<u8>,
    ) -> Result<()> {
        if !codec.needs_base() {
            base.clear();
            return Ok(());
        }
        base.resize(len, 0);
        let number = within
            .base
            .ok_or_else(|| Error::damaged("a block of differences in a tensor without a base"))?;
        self.base(number)?
            .read_exact_at(within.start, base)
            .map_err(|e| e.hint("this was read from the base"))
    }

    /// The coded bytes of a block, read into `buffer` if they are not in memory.
    fn coded<'a>(&'a self, block: &BlockRecord, buffer: &'a mut Vec<u8>) -> Result<&'a [u8]> {
        let len = block.coded_len as usize;
        if let Some(coded) = self.source().slice_at(block.offset, len) {
            return Ok(coded);
        }
        if buffer.len() < len {
            buffer.resize(len, 0);
        }
        self.source()
            .read_exact_at(block.offset, &mut buffer[..len])?;
        Ok(&buffer[..len])
    }
}

/// Compares decoded bytes with the checksum of the original ones.
fn check(block: &BlockRecord, decoded: &[u8]) -> Result<()> {
    if digest::xxh3(decoded) != block.checksum {
        let error = Error::damaged("the bytes are not what was stored (checksum differs)");
        return Err(error.remedy(Remedy::Repair));
    }
    Ok(())
}
