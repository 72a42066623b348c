//! R32: a plane of bytes by 64 (or 32) interleaved rANS lanes with states of 32 bits and words of 16
//! (docs/format.md, section 8). Here are the tables and the encoder; the decoder is a kernel in `simd`.

use crate::entropy::cluster::STRIP_LEN;

/// Least state of a lane between two steps, and the state with which coding begins and decoding ends.
pub const STATE_MIN: u32 = 1 << 16;
/// Bits of a table's sum of frequencies in what this build writes.
pub const TABLE_BITS: u32 = 12;

/// For each slot: symbol | frequency << 8 | (slot - start of the symbol) << 20.
pub type DecodeTable = Box<[u32; 4096]>;

/// Builds the table of slots. The frequencies must sum to `2^bits`, each below it, with `bits` at most 12.
pub fn decode_table(freqs: &[u16; 256], bits: u32) -> DecodeTable {
    let mut table = Box::new([0_u32; 4096]);
    let mut slot = 0;
    for (symbol, &f) in (0_u32..).zip(freqs) {
        for offset in 0..u32::from(f) {
            table[slot] = symbol | u32::from(f) << 8 | offset << 20;
            slot += 1;
        }
    }
    assert_eq!(slot, 1 << bits, "frequencies sum to 2^bits");
    table
}

/// A coded plane as the kernel takes it.
#[derive(Debug)]
pub struct R32Plane<'a> {
    /// Four bytes for each lane.
    pub states: &'a [u8],
    /// Two bytes for each word.
    pub words: &'a [u8],
    /// Packed table ids of the strips.
    pub ids: &'a [u8],
    /// Tables that the ids choose from.
    pub tables: &'a [DecodeTable],
    /// log2 of the tables' sum.
    pub bits: u32,
}

impl R32Plane<'_> {
    /// Whether the bits behind the last id, for a plane of `elements`, are zero.
    pub fn ids_end_with_zeros(&self, elements: usize) -> bool {
        let used = elements.div_ceil(STRIP_LEN) * id_bits(self.tables.len()) % 8;
        used == 0 || self.ids.last().is_none_or(|last| last >> used == 0)
    }

    /// The table that strip `number` uses; beyond all tables if the id is missing.
    pub fn table_id(&self, number: usize) -> usize {
        let bits = id_bits(self.tables.len());
        if bits == 0 {
            return 0;
        }
        let per_byte = 8 / bits;
        self.ids.get(number / per_byte).map_or(usize::MAX, |byte| {
            usize::from(byte >> (number % per_byte * bits)) & ((1 << bits) - 1)
        })
    }
}

/// Bits of a table id when there are `count` tables.
pub fn id_bits(count: usize) -> usize {
    match count {
        0..=1 => 0,
        2..=4 => 2,
        _ => 4,
    }
}

/// Bytes of the packed ids of a plane of `elements`.
pub fn ids_len(elements: usize, table_count: usize) -> usize {
    (elements.div_ceil(STRIP_LEN) * id_bits(table_count)).div_ceil(8)
}

#[derive(Debug, Clone, Copy, Default)]
struct EncodeSymbol {
    /// floor(2^43 / frequency): division by multiplication, at most one too small (x < 2^32).
    reciprocal: u64,
    freq: u32,
    start: u32,
}

/// What the encoder needs of a table.
#[derive(Debug, Clone)]
pub struct EncodeTable {
    symbols: Box<[EncodeSymbol; 256]>,
    padding: u8,
}

impl EncodeTable {
    /// From frequencies with sum `2^TABLE_BITS`.
    pub fn new(freqs: &[u16; 256]) -> Self {
        let mut symbols = Box::new([EncodeSymbol::default(); 256]);
        let (mut start, mut padding) = (0, 0_u8);
        for (symbol, &f) in (0_u8..=255).zip(freqs) {
            if f > 0 {
                let freq = u32::from(f);
                let reciprocal = (1_u64 << 43) / u64::from(freq);
                symbols[usize::from(symbol)] = EncodeSymbol {
                    reciprocal,
                    freq,
                    start,
                };
                start += freq;
            }
            if f > freqs[usize::from(padding)] {
                padding = symbol;
            }
        }
        Self { symbols, padding }
    }

    /// Whether every symbol of `plane` has a frequency.
    pub fn holds(&self, plane: &[u8]) -> bool {
        plane
            .iter()
            .all(|&symbol| self.symbols[usize::from(symbol)].freq > 0)
    }
}

/// Encodes `plane`, strip by strip with `tables[ids[strip]]`, by `L` lanes, and appends states and words to
/// `out`. Returns the number of words. Every symbol must have a frequency in its strip's table. `stack` is scratch.
pub fn encode<const L: usize>(
    plane: &[u8],
    ids: &[u8],
    tables: &[EncodeTable],
    stack: &mut Vec<u16>,
    out: &mut Vec<u8>,
) -> usize {
    // at most one word for each symbol, the padding of the last step included
    let capacity = plane.len().next_multiple_of(L);
    if stack.len() < capacity {
        stack.resize(capacity, 0);
    }
    let stack = &mut stack[..capacity];
    let mut states = [STATE_MIN; L];
    let mut top = capacity;
    for (strip, id) in plane.chunks(STRIP_LEN).zip(ids).rev() {
        let table = &tables[usize::from(*id)];
        for step in strip.chunks(L).rev() {
            let mut padded = [table.padding; L];
            let symbols: &[u8; L] = if let Ok(whole) = step.try_into() {
                whole
            } else {
                padded[..step.len()].copy_from_slice(step);
                &padded
            };
            for lane in (0..L).rev() {
                let symbol = &table.symbols[usize::from(symbols[lane])];
                let mut x = states[lane];
                let spill = u64::from(x) >= u64::from(symbol.freq) << (32 - TABLE_BITS);
                // written in any case, kept only if the state spills: no branch to mispredict
                stack[top - 1] = x as u16;
                top -= usize::from(spill);
                x >>= 16 * u32::from(spill);
                let mut quotient = ((u64::from(x) * symbol.reciprocal) >> 43) as u32;
                let mut rest = x - quotient * symbol.freq;
                let short = u32::from(rest >= symbol.freq);
                quotient += short;
                rest -= symbol.freq & short.wrapping_neg();
                states[lane] = (quotient << TABLE_BITS) + rest + symbol.start;
            }
        }
    }
    for state in states {
        out.extend_from_slice(&state.to_le_bytes());
    }
    out.extend(stack[top..].iter().flat_map(|word| word.to_le_bytes()));
    capacity - top
}
