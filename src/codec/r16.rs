//! R16 blocks: the table, states and streams laid out as docs/format.md, section 7 has them.

use crate::base::ByteReader;
use crate::codec::simple;
use crate::entropy::r16;
use crate::entropy::r16::R16Block;
use crate::entropy::r16::R16Coded;
use crate::entropy::r16::R16Table;
use crate::entropy::r16::SYMBOLS_MAX;
use crate::entropy::simd::dispatch;

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
    let mut reader = ByteReader::new(coded, "block");
    let (count, flags) = (usize::from(reader.u8().ok()?), reader.u8().ok()?);
    reader.zeros(2).ok()?;
    let (lits_len, stream_len) = (reader.u32().ok()?, reader.u32().ok()?);
    reader.zeros(4).ok()?;
    if !(2..=SYMBOLS_MAX).contains(&count) || flags > 1 || !len.is_multiple_of(2) {
        return None;
    }
    let (symbols, unused) = reader
        .take(SYMBOLS_MAX)
        .ok()?
        .split_at(count - usize::from(flags));
    let (freqs, unused_freqs) = reader.take(SYMBOLS_MAX).ok()?.split_at(count);
    *table = R16Table {
        symbols: symbols.to_vec(),
        freqs: freqs.to_vec(),
    };
    if !table.is_valid() || !simple::is_zero(unused) || !simple::is_zero(unused_freqs) {
        return None;
    }
    let states = reader.take(2 * lanes).ok()?;
    let stream = reader.take(stream_len as usize).ok()?;
    let lits = reader.take(lits_len as usize).ok()?;
    let used = coded.len() - reader.rest().len();
    reader.zeros(used.next_multiple_of(16) - used).ok()?;
    let plane = reader.rest();
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
