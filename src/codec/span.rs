//! A span that fits in memory: looked at and coded, with tables or without.

use crate::codec::analyse::Analysis;
use crate::codec::encode::CodedSpan;
use crate::codec::encode::EncodeScratch;
use crate::codec::encode::SpanCoder;
use crate::codec::profile::Profile;
use crate::tensor::Family;

/// Spans with fewer elements than this try R16 beside R32: it needs no tables.
const R16_TRIED_ELEMENTS_MAX: u64 = 256 << 10;
/// Two ways of coding a span are both tried only if they are about to differ by less than this
/// share.
const CLEAR_SHARE: u64 = 400;

/// How many blocks are looked at to find the clusters of a span.
const SAMPLE_BLOCKS: usize = 32;

/// At most 32 blocks, spread over all of them.
fn sample<'a>(blocks: &[&'a [u8]]) -> Vec<&'a [u8]> {
    let count = blocks.len().min(SAMPLE_BLOCKS);
    (0..count)
        .map(|number| blocks[number * blocks.len() / count])
        .collect()
}

/// Codes a whole span that fits in memory, trying with and without tables where that is open.
pub fn encode_span(
    family: Family,
    profile: Profile,
    blocks: &[&[u8]],
    scratch: &mut EncodeScratch,
) -> CodedSpan {
    let len: u64 = blocks.iter().map(|block| block.len() as u64).sum();
    let plain = SpanCoder::unanalysed(family, len);
    if !SpanCoder::wants_analysis(family, profile, len) {
        return plain.encode_all(blocks, 0, scratch);
    }
    let analysis = Analysis::new(family, profile, len, &sample(blocks), scratch);
    let mut counts = analysis.no_counts();
    for block in blocks {
        analysis.count(block, &mut counts, scratch);
    }
    let tries_both = plain.tries_r16 && len / 2 < R16_TRIED_ELEMENTS_MAX;
    let (r16, r32) = if tries_both {
        analysis.lens_r16_r32(&counts)
    } else {
        (len, 0)
    };
    // what is clear by the counts need not be tried
    if r16 + r16 / CLEAR_SHARE < r32 {
        return plain.encode_all(blocks, 0, scratch);
    }
    let with_tables = analysis.finish(&counts).encode_all(blocks, 0, scratch);
    if r32 + r32 / CLEAR_SHARE < r16 {
        return with_tables;
    }
    let without = plain.encode_all(blocks, 0, scratch);
    if without.bytes.len() <= with_tables.bytes.len() + with_tables.tables.len() {
        return without;
    }
    with_tables
}
