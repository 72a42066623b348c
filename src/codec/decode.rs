//! Coded bytes to a block. What comes out is checked against the block's checksum by the caller,
//! and is not used before.

use crate::base::CodecId;
use crate::base::Error;
use crate::base::Result;
use crate::codec::block::CodedBlock;
use crate::codec::delta;
use crate::codec::r16;
use crate::codec::r32;
use crate::codec::scratch::Scratch;
use crate::codec::simple;
use crate::codec::tables::SpanTables;
use crate::codec::transform::Transform;
use crate::entropy::simd::dispatch;

/// Decodes one block of `out.len()` original bytes with the tables of its span. Any bytes may be
/// given: what is not well formed is an error of kind `Damaged`, an unknown codec or version one of
/// kind `Unsupported`. On an error `out` holds rubbish.
pub fn decode_block(
    block: &CodedBlock<'_>,
    tables: Option<&SpanTables>,
    out: &mut [u8],
    scratch: &mut Scratch,
) -> Result<()> {
    let CodedBlock {
        codec,
        version,
        bytes: coded,
        lanes,
        base,
    } = *block;
    let unknown = || {
        Error::unsupported(format!("codec {} version {version} is not known", codec.0))
            .hint("a newer `bigsmall` wrote this file: update")
    };
    if !(1..=codec.version()).contains(&version) {
        return Err(unknown());
    }
    let well_formed = match codec {
        CodecId::RAW => {
            let fits = coded.len() == out.len();
            if fits {
                out.copy_from_slice(coded);
            }
            fits
        }
        CodecId::CONST => simple::decode_const(coded, out),
        CodecId::ZSTD => scratch.zstd.decode(coded, out),
        CodecId::R16 => r16::decode(coded, lanes, out),
        CodecId::SAME => {
            let fits = coded.is_empty() && base.len() == out.len();
            if fits {
                out.copy_from_slice(base);
            }
            fits
        }
        _ if codec.needs_base() => {
            let tables = tables.and_then(|tables| tables.delta.as_ref());
            delta::decode(codec, coded, tables, base, out)
        }
        _ => {
            let transform = Transform::of_codec(codec).ok_or_else(unknown)?;
            r32::decode(transform, block, tables, out, scratch)
        }
    };
    if well_formed {
        return Ok(());
    }
    Err(damaged(codec))
}

fn damaged(codec: CodecId) -> Error {
    Error::damaged(format!("the coded bytes are damaged ({})", codec.name()))
}

/// Whether two blocks that are coded so, of one span, are faster decoded by [`decode_two`].
pub fn is_paired(codec: CodecId, version: u8) -> bool {
    let kernels = dispatch::kernels();
    version == 1
        && match codec {
            CodecId::R16 => kernels.r16_decode_two.is_some(),
            _ => delta::layout_of(codec).is_some() && kernels.context_decode_two.is_some(),
        }
}

/// Decodes two blocks of one span and codec, of which [`is_paired`] holds, as [`decode_block`] does
/// one.
pub fn decode_two(
    blocks: [&CodedBlock<'_>; 2],
    tables: Option<&SpanTables>,
    outs: [&mut [u8]; 2],
) -> [Result<()>; 2] {
    let codec = blocks[0].codec;
    let verdicts = if codec == CodecId::R16 {
        r16::decode_two(blocks.map(|block| block.bytes), blocks[0].lanes, outs)
    } else {
        let tables = tables.and_then(|tables| tables.delta.as_ref());
        delta::decode_two(
            blocks.map(|block| (block.codec, block.bytes, block.base)),
            tables,
            outs,
        )
    };
    verdicts.map(|is_well_formed| is_well_formed.then_some(()).ok_or_else(|| damaged(codec)))
}
