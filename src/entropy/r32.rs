//! R32: a plane of bytes by 64 (or 32) interleaved rANS lanes with states of 32 bits and words of
//! 16 (docs/format.md, section 8). Here are the tables, the states as they are written and the
//! encoder; the decoder is a kernel in `simd`.

use std::ops::Range;

use crate::entropy::cluster::STRIP_LEN;

/// Least state of a lane between two steps. Coding begins, and decoding ends, with this and 16
/// carried bits.
pub const STATE_MIN: u32 = 1 << 16;
/// Most lanes.
pub const LANES_MAX: usize = 64;
/// Bits of a table's sum of frequencies in what this build writes.
pub const TABLE_BITS: u32 = 12;

/// For each slot: symbol | frequency << 8 | (slot - start of the symbol) << 20.
pub type DecodeTable = Box<[u32; 4096]>;

/// Builds the table of slots. The frequencies must sum to `2^bits`, each below it, with `bits` at
/// most 12.
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

/// The bytes that the lanes carry in the states with which coding begins: two a lane, those of
/// missing lanes 0.
pub type Carried = [u8; 2 * LANES_MAX];

/// Appends the states at the end of coding as they are written: the low halves, the width of each
/// high half less one by four bits, and the high halves without their highest bit, packed from the
/// lowest bit, to a whole number of words.
pub fn write_states(states: &[u32], out: &mut Vec<u8>) {
    let width = |state: u32| (state >> 16).ilog2();
    out.extend(states.iter().flat_map(|&x| (x as u16).to_le_bytes()));
    let pair = |pair: &[u32]| (width(pair[0]) | width(pair[1]) << 4) as u8;
    out.extend(states.chunks_exact(2).map(pair));
    let (mut bits, mut count) = (0_u64, 0);
    for &state in states {
        bits |= u64::from(state >> 16 ^ 1 << width(state)) << count;
        count += width(state);
        while count >= 16 {
            out.extend_from_slice(&(bits as u16).to_le_bytes());
            bits >>= 16;
            count -= 16;
        }
    }
    if count > 0 {
        out.extend_from_slice(&(bits as u16).to_le_bytes());
    }
}

/// Reads what [`write_states`] has written for `lanes` lanes at the beginning of `bytes`: the
/// states, four bytes each, and how long they are as written. None if the bytes end too soon, or
/// bits are left over.
pub fn read_states(bytes: &[u8], lanes: usize) -> Option<([u8; 4 * LANES_MAX], usize)> {
    let (low, tail) = bytes.split_at_checked(2 * lanes)?;
    let (widths, mut tail) = tail.split_at_checked(lanes / 2)?;
    let mut states = [0; 4 * LANES_MAX];
    let widths = widths.iter().flat_map(|pair| [pair & 15, pair >> 4]);
    let (mut bits, mut count) = (0_u32, 0);
    for ((state, low), width) in states
        .as_chunks_mut::<4>()
        .0
        .iter_mut()
        .zip(low.as_chunks::<2>().0)
        .zip(widths)
    {
        if count < width {
            let (word, after) = tail.split_first_chunk()?;
            bits |= u32::from(u16::from_le_bytes(*word)) << count;
            count += 16;
            tail = after;
        }
        let high = bits & ((1 << width) - 1) | 1 << width;
        *state = (high << 16 | u32::from(u16::from_le_bytes(*low))).to_le_bytes();
        bits >>= width;
        count -= width;
    }
    (bits == 0).then_some((states, bytes.len() - tail.len()))
}

/// Words that a kernel may write below the last one in use.
const STACK_SLACK: usize = 16;

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

/// What the encoder needs of a table.
#[derive(Debug, Clone)]
pub struct EncodeTable {
    /// For each symbol floor(2^43 / frequency): division by multiplication, at most one too small
    /// (x < 2^32).
    reciprocals: Box<[u64; 256]>,
    /// For each symbol: frequency | start << 16.
    pub(super) entries: Box<[u32; 256]>,
    padding: u8,
}

impl EncodeTable {
    /// From frequencies with sum `2^TABLE_BITS`.
    pub fn new(freqs: &[u16; 256]) -> Self {
        let mut reciprocals = Box::new([0; 256]);
        let mut entries = Box::new([0; 256]);
        let (mut start, mut padding) = (0, 0_u8);
        for (symbol, &f) in (0_u8..=255).zip(freqs) {
            if f > 0 {
                let freq = u32::from(f);
                reciprocals[usize::from(symbol)] = (1_u64 << 43) / u64::from(freq);
                entries[usize::from(symbol)] = freq | start << 16;
                start += freq;
            }
            if f > freqs[usize::from(padding)] {
                padding = symbol;
            }
        }
        Self {
            reciprocals,
            entries,
            padding,
        }
    }
}

/// Encodes `plane`, strip by strip with `tables[ids[strip]]`, by `L` lanes that carry the bytes of
/// `carried`, into `coded`. False if a symbol has no frequency in its strip's table: then nothing
/// in `coded` counts.
pub fn encode<const L: usize>(
    plane: &[u8],
    ids: &[u8],
    tables: &[EncodeTable],
    carried: &Carried,
    coded: &mut R32Coded,
) -> bool {
    let mut encoder = R32EncoderState::<L>::begin(plane.len(), carried, coded);
    let held = encoder.steps(0..plane.len().div_ceil(L), plane, ids, tables, coded);
    encoder.finish(coded);
    held
}

/// What the encoder makes of a plane.
#[derive(Debug, Default)]
pub struct R32Coded {
    /// The states at the end of coding, one a lane.
    pub states: Vec<u32>,
    /// The words are its end, from [`R32Coded::first`] on.
    pub(super) stack: Vec<u16>,
    first: usize,
}

impl R32Coded {
    /// The words, in the order in which the decoder takes them.
    pub fn words(&self) -> &[u16] {
        &self.stack[self.first..]
    }
}

/// Where the encoder of a plane stands between two steps.
#[derive(Debug)]
pub(super) struct R32EncoderState<const L: usize> {
    pub(super) states: [u32; L],
    /// The first word in use of the stack, which grows down.
    pub(super) top: usize,
}

impl<const L: usize> R32EncoderState<L> {
    /// The state before the last step of a plane of `elements`, which is coded first.
    pub(super) fn begin(elements: usize, carried: &Carried, coded: &mut R32Coded) -> Self {
        // at most one word for each symbol, the padding of the last step included, and what a
        // vector writes below
        let capacity = elements.next_multiple_of(L) + STACK_SLACK;
        if coded.stack.len() < capacity {
            coded.stack.resize(capacity, 0);
        }
        let mut states = [STATE_MIN; L];
        for (state, bytes) in states.iter_mut().zip(carried.as_chunks::<2>().0) {
            *state |= u32::from(u16::from_le_bytes(*bytes));
        }
        let top = coded.stack.len();
        Self { states, top }
    }

    /// Codes `steps`, the last of them first. False if a symbol has no frequency.
    pub(super) fn steps(
        &mut self,
        steps: Range<usize>,
        plane: &[u8],
        ids: &[u8],
        tables: &[EncodeTable],
        coded: &mut R32Coded,
    ) -> bool {
        let stack = &mut coded.stack;
        let mut held = true;
        for number in steps.rev() {
            let table = &tables[usize::from(ids[number * L / STRIP_LEN])];
            let step = &plane[number * L..plane.len().min((number + 1) * L)];
            let mut padded = [table.padding; L];
            padded[..step.len()].copy_from_slice(step);
            for lane in (0..L).rev() {
                let symbol = usize::from(padded[lane]);
                let (freq, start) = (table.entries[symbol] & 0xffff, table.entries[symbol] >> 16);
                held &= freq > 0;
                let mut x = self.states[lane];
                let spill = u64::from(x) >= u64::from(freq) << (32 - TABLE_BITS);
                // written in any case, kept only if the state spills: no branch to mispredict
                stack[self.top - 1] = x as u16;
                self.top -= usize::from(spill);
                x >>= 16 * u32::from(spill);
                let mut quotient = ((u64::from(x) * table.reciprocals[symbol]) >> 43) as u32;
                let mut rest = x - quotient * freq;
                let short = u32::from(rest >= freq);
                quotient += short;
                rest = rest.wrapping_sub(freq & short.wrapping_neg());
                self.states[lane] = (quotient << TABLE_BITS) + rest + start;
            }
        }
        held
    }

    /// Puts down states and words.
    pub(super) fn finish(self, coded: &mut R32Coded) {
        coded.states.clear();
        coded.states.extend_from_slice(&self.states);
        coded.first = self.top;
    }
}
