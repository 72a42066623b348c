//! R16 blocks: the table, states and streams laid out as docs/format.md, section 7 has them.

use crate::codec::simple;
use crate::entropy::r16;
use crate::entropy::r16::R16Block;
use crate::entropy::r16::R16Coded;
use crate::entropy::r16::R16Table;
use crate::entropy::r16::SYMBOLS_MAX;
use crate::entropy::simd::dispatch;

const HEADER_LEN: usize = 16;
const STATES_AT: usize = HEADER_LEN + 2 * SYMBOLS_MAX;

/// Encodes a bf16 block, 64 lanes, and appends it to `out`.
pub(crate) fn encode(block: &[u8], coded: &mut R16Coded, out: &mut Vec<u8>) {
    let (words, _) = block.as_chunks::<2>();
    let table = R16Table::of(&r16::count(words));
    r16::encode::<64>(words, &table, coded);
    let start = out.len();
    out.extend_from_slice(&[table.freqs.len() as u8, u8::from(table.has_escape()), 0, 0]);
    out.extend_from_slice(&(coded.lits.len() as u32).to_le_bytes());
    out.extend_from_slice(&(coded.stream.len() as u32).to_le_bytes());
    out.extend_from_slice(&[0; 4]);
    for bytes in [&table.symbols, &table.freqs] {
        out.extend_from_slice(bytes);
        out.resize(out.len() + SYMBOLS_MAX - bytes.len(), 0);
    }
    out.extend_from_slice(&coded.states);
    out.extend_from_slice(&coded.stream);
    out.extend_from_slice(&coded.lits);
    out.resize(start + (out.len() - start).next_multiple_of(16), 0);
    out.extend(
        words
            .iter()
            .map(|&word| u16::from_le_bytes(word).rotate_left(1) as u8),
    );
}

/// Decodes a block; false if it is not well formed.
pub(crate) fn decode(coded: &[u8], lanes: usize, out: &mut [u8]) -> bool {
    let mut table = R16Table::default();
    parse(coded, lanes, out.len(), &mut table)
        .is_some_and(|block| (dispatch::kernels().r16_decode)(&block, out.as_chunks_mut::<2>().0))
}

/// Decodes two blocks, at once where that is faster; for each whether it is well formed.
pub(crate) fn decode_two(coded: [&[u8]; 2], lanes: usize, outs: [&mut [u8]; 2]) -> [bool; 2] {
    let [out_a, out_b] = outs;
    let (mut table_a, mut table_b) = (R16Table::default(), R16Table::default());
    let parsed = (
        parse(coded[0], lanes, out_a.len(), &mut table_a),
        parse(coded[1], lanes, out_b.len(), &mut table_b),
    );
    if let (Some(two), (Some(a), Some(b))) = (dispatch::kernels().r16_decode_two, parsed) {
        let outs = [out_a.as_chunks_mut::<2>().0, out_b.as_chunks_mut::<2>().0];
        return two([&a, &b], outs);
    }
    [
        decode(coded[0], lanes, out_a),
        decode(coded[1], lanes, out_b),
    ]
}

fn parse<'a>(
    coded: &'a [u8],
    lanes: usize,
    len: usize,
    table: &'a mut R16Table,
) -> Option<R16Block<'a>> {
    let (header, rest) = coded.split_first_chunk::<STATES_AT>()?;
    let count = usize::from(header[0]);
    let has_escape = header[1] & 1;
    if !(2..=SYMBOLS_MAX).contains(&count) || header[1] > 1 || !len.is_multiple_of(2) {
        return None;
    }
    let field = |at: usize| {
        header[at..]
            .first_chunk()
            .map_or(0, |b| u32::from_le_bytes(*b) as usize)
    };
    let (lits_len, stream_len) = (field(4), field(8));
    *table = R16Table {
        symbols: header[16..][..count - usize::from(has_escape)].to_vec(),
        freqs: header[32..][..count].to_vec(),
    };
    let reserved = [&header[2..4], &header[12..16]];
    let unused = [&header[16 + table.symbols.len()..32], &header[32 + count..]];
    if !table.is_valid() || !reserved.into_iter().chain(unused).all(simple::is_zero) {
        return None;
    }
    let (states, rest) = rest.split_at_checked(2 * lanes)?;
    let (stream, rest) = rest.split_at_checked(stream_len)?;
    let (lits, rest) = rest.split_at_checked(lits_len)?;
    let used = coded.len() - rest.len();
    let plane = simple::skip_padding(rest, used, 16)?;
    if plane.len() != len / 2 {
        return None;
    }
    Some(R16Block {
        table,
        states,
        stream,
        lits,
        plane,
    })
}
