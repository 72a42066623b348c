//! Coded bytes of some blocks to their original bytes, each block checked against its checksum.
//! Nothing is read here: whoever has the bytes, from wherever, can have them decoded.

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
use crate::format::Grid;

/// Blocks of one span, one behind another, as they lie in an image.
#[derive(Debug, Clone, Copy)]
pub struct CodedRun<'a> {
    /// What the index says of each.
    pub blocks: &'a [BlockRecord],
    /// Number of the first of them in its span.
    pub first: u64,
    /// How the span is cut into blocks.
    pub grid: Grid,
    /// Their coded bytes, from those of the first on, the padding between them included.
    pub bytes: &'a [u8],
}

impl<'a> CodedRun<'a> {
    /// Original bytes of them all.
    pub fn original_len(&self) -> usize {
        let lens = (0..self.blocks.len()).map(|at| self.block_len(at));
        lens.sum()
    }

    /// A buffer of their length, cut into one for each.
    pub(super) fn split<'o>(&self, out: &'o mut [u8]) -> Vec<&'o mut [u8]> {
        let (mut outs, mut rest) = (Vec::with_capacity(self.blocks.len()), out);
        for at in 0..self.blocks.len() {
            let (out, after) = std::mem::take(&mut rest).split_at_mut(self.block_len(at));
            outs.push(out);
            rest = after;
        }
        outs
    }

    /// Original bytes of one of them.
    fn block_len(&self, at: usize) -> usize {
        let range = self.grid.block_range(self.first + at as u64);
        (range.end - range.start) as usize
    }

    fn coded(&self, at: usize) -> Result<&'a [u8]> {
        let block = &self.blocks[at];
        let start = (block.offset - self.blocks[0].offset) as usize;
        let coded = self.bytes.get(start..start + block.coded_len as usize);
        coded.ok_or_else(|| Error::damaged("the coded bytes of a block are not all there"))
    }

    fn block(&self, at: usize, base: &'a [u8]) -> Result<CodedBlock<'a>> {
        Ok(CodedBlock {
            codec: self.blocks[at].codec,
            version: self.blocks[at].codec_version,
            bytes: self.coded(at)?,
            lanes: self.grid.lanes(),
            base,
        })
    }
}

/// Whether one of these blocks can only be decoded with the bytes of its base.
pub(super) fn needs_base(blocks: &[BlockRecord]) -> bool {
    blocks.iter().any(|block| block.codec.needs_base())
}

/// Whether a block may be faster decoded in turns with the next one.
pub(super) fn may_pair(block: &BlockRecord) -> bool {
    codec::is_paired(block.codec, block.codec_version)
}

/// Whether these two blocks of one span are faster decoded in turns than one after the other.
pub(super) fn is_pair(a: &BlockRecord, b: &BlockRecord) -> bool {
    a.codec == b.codec && may_pair(a) && may_pair(b)
}

/// Whether the coded bytes of a block are its original bytes.
pub(super) fn is_raw(block: &BlockRecord, original_len: usize) -> bool {
    block.codec == CodecId::RAW
        && block.codec_version == CodecId::RAW.version()
        && block.coded_len as usize == original_len
}

/// Decodes a run into `out`, which has its length, two blocks in turns where that is faster. `base`
/// has the bytes of the base at the same place, where a codec needs them; else it may be empty.
/// The first block that is damaged ends it: its error says which. On an error `out` holds rubbish
/// and must not be used.
pub fn decode_run(
    coded: &CodedRun<'_>,
    tables: Option<&SpanTables>,
    base: &[u8],
    out: &mut [u8],
    scratch: &mut Scratch,
) -> Result<()> {
    assert_eq!(
        out.len(),
        coded.original_len(),
        "the buffer has the run's length"
    );
    if coded.blocks.len() == 1 {
        return decode_blocks(coded, tables, base, &mut [out], scratch);
    }
    decode_blocks(coded, tables, base, &mut coded.split(out), scratch)
}

/// The same, each block into a buffer of its length.
pub(super) fn decode_blocks(
    coded: &CodedRun<'_>,
    tables: Option<&SpanTables>,
    base: &[u8],
    outs: &mut [&mut [u8]],
    scratch: &mut Scratch,
) -> Result<()> {
    let located = |at: usize| move |e: Error| e.block(coded.first + at as u64);
    let base_at = |start: usize, len: usize| base.get(start..start + len).unwrap_or_default();
    let (mut at, mut start) = (0, 0);
    while let Some(block) = coded.blocks.get(at) {
        match (&mut outs[at..], coded.blocks.get(at + 1)) {
            ([a, b, ..], Some(next)) if is_pair(block, next) => {
                let bases = [base_at(start, a.len()), base_at(start + a.len(), b.len())];
                let blocks = [
                    &coded.block(at, bases[0]).map_err(located(at))?,
                    &coded.block(at + 1, bases[1]).map_err(located(at + 1))?,
                ];
                let [of_a, of_b] = codec::decode_two(blocks, tables, [&mut **a, &mut **b]);
                of_a.and_then(|()| check(block, a)).map_err(located(at))?;
                of_b.and_then(|()| check(next, b))
                    .map_err(located(at + 1))?;
                (at, start) = (at + 2, start + a.len() + b.len());
            }
            (rest, _) => {
                let out = &mut *rest[0];
                let coded_block = coded.block(at, base_at(start, out.len()));
                coded_block
                    .and_then(|coded| codec::decode_block(&coded, tables, out, scratch))
                    .and_then(|()| check(block, out))
                    .map_err(located(at))?;
                (at, start) = (at + 1, start + out.len());
            }
        }
    }
    Ok(())
}

/// Compares decoded bytes with the checksum of the original ones.
pub(super) fn check(block: &BlockRecord, decoded: &[u8]) -> Result<()> {
    if digest::xxh3(decoded) != block.checksum {
        let error = Error::damaged("the bytes are not what was stored (checksum differs)");
        return Err(error.remedy(Remedy::Repair));
    }
    Ok(())
}
