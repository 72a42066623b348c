//! The kernels in plain safe Rust: the definition that every faster one must equal. They take
//! slices, allocate nothing, never read outside what they are given, and answer false for bytes
//! that no encoder makes. A faster kernel does the steps that it can do with whole vectors and
//! leaves the rest to the `steps` here.

use crate::entropy::cluster::STRIP_LEN;
use crate::entropy::context;
use crate::entropy::context::ContextBlock;
use crate::entropy::difference;
use crate::entropy::planes::Word;
use crate::entropy::r16::R16Block;
use crate::entropy::r32::Carried;
use crate::entropy::r32::LANES_MAX;
use crate::entropy::r32::R32Plane;
use crate::entropy::r32::STATE_MIN;

/// Where the decoder of an R16 block stands between two steps.
#[derive(Debug)]
pub(super) struct R16DecoderState<const L: usize> {
    pub(super) states: [u32; L],
    /// Elements decoded.
    pub(super) done: usize,
    /// Bytes of the stream taken.
    pub(super) position: usize,
    /// Literals taken.
    pub(super) escapes: usize,
}

/// Decodes an R16 block (docs/format.md, section 7).
pub fn r16_decode(block: &R16Block<'_>, out: &mut [Word]) -> bool {
    if block.states.len() == 2 * 64 {
        R16DecoderState::<64>::begin(block, out).is_some_and(|decoder| decoder.finish(block, out))
    } else {
        R16DecoderState::<32>::begin(block, out).is_some_and(|decoder| decoder.finish(block, out))
    }
}

impl<const L: usize> R16DecoderState<L> {
    /// The state before the first step; none if the parts do not fit together.
    pub(super) fn begin(block: &R16Block<'_>, out: &[Word]) -> Option<Self> {
        if block.states.len() != 2 * L || block.plane.len() != out.len() {
            return None;
        }
        let mut states = [0_u32; L];
        for (state, bytes) in states.iter_mut().zip(block.states.as_chunks::<2>().0) {
            *state = u32::from(u16::from_le_bytes(*bytes));
        }
        Some(Self {
            states,
            done: 0,
            position: 0,
            escapes: 0,
        })
    }

    /// Does the steps that are left, and says whether everything came out even.
    pub(super) fn finish(mut self, block: &R16Block<'_>, out: &mut [Word]) -> bool {
        let slots = block.table.slots();
        let plane = &block.plane[self.done..];
        for (words, low) in out[self.done..].chunks_mut(L).zip(plane.chunks(L)) {
            let mut symbols = [0_u8; L];
            let escaped = self.step(block, &slots, &mut symbols);
            if escaped != 0 && !self.take_literals(block, escaped, &mut symbols, words.len()) {
                return false;
            }
            for ((word, &high), &low) in words.iter_mut().zip(&symbols).zip(low) {
                *word = u16::from_le_bytes([low, high])
                    .rotate_right(1)
                    .to_le_bytes();
            }
        }
        self.position == block.stream.len()
            && self.escapes == block.lits.len()
            && self.states.iter().all(|&x| x == 256)
    }

    /// One step of all lanes; gives a bit for each lane that escaped.
    fn step(&mut self, block: &R16Block<'_>, slots: &[u32; 256], symbols: &mut [u8; L]) -> u64 {
        let mut entries = [0_u32; L];
        for (entry, state) in entries.iter_mut().zip(&self.states) {
            *entry = slots[(state & 255) as usize];
        }
        let mut next = [0_u32; L];
        for ((next, state), entry) in next.iter_mut().zip(&self.states).zip(&entries) {
            *next = (entry >> 8 & 255) * (state >> 8) + (entry >> 16 & 255);
        }
        let mut padded = [0_u8; L];
        let window = window(block.stream, self.position, &mut padded);
        let mut taken = 0;
        for (state, next) in self.states.iter_mut().zip(next) {
            // arithmetic and no branch, which would be mispredicted every few lanes
            let need = u32::from(next < 256);
            let byte = u32::from(window[taken % L]);
            *state = next << (8 * need) | byte & need.wrapping_neg();
            taken += need as usize;
        }
        self.position += taken;
        let mut escaped = 0;
        for (symbol, entry) in symbols.iter_mut().zip(&entries) {
            *symbol = *entry as u8;
            escaped |= entry;
        }
        if escaped >> 24 == 0 {
            return 0;
        }
        entries
            .iter()
            .rev()
            .fold(0, |bits, entry| bits << 1 | u64::from(entry >> 24))
    }

    /// Puts literals in place of the escapes among the first `count` lanes: those beyond the end
    /// take none.
    fn take_literals(
        &mut self,
        block: &R16Block<'_>,
        escaped: u64,
        symbols: &mut [u8; L],
        count: usize,
    ) -> bool {
        for (lane, symbol) in symbols.iter_mut().enumerate().take(count) {
            if escaped >> lane & 1 == 1 {
                let Some(&literal) = block.lits.get(self.escapes) else {
                    return false;
                };
                *symbol = literal;
                self.escapes += 1;
            }
        }
        true
    }
}

/// Where the decoder of an R32 plane stands between two steps.
#[derive(Debug)]
pub(super) struct R32DecoderState<const L: usize> {
    pub(super) states: [u32; L],
    /// Elements decoded.
    pub(super) done: usize,
    /// Bytes of the words taken.
    pub(super) position: usize,
}

/// Decodes an R32 plane (docs/format.md, section 8) and gives what its lanes carried; none if it is
/// not well formed.
pub fn r32_decode(plane: &R32Plane<'_>, out: &mut [u8]) -> Option<Carried> {
    if plane.states.len() == 4 * 64 {
        R32DecoderState::<64>::begin(plane)?.finish::<128>(plane, out)
    } else {
        R32DecoderState::<32>::begin(plane)?.finish::<64>(plane, out)
    }
}

impl<const L: usize> R32DecoderState<L> {
    /// The state before the first step; none if the number of states is another.
    pub(super) fn begin(plane: &R32Plane<'_>) -> Option<Self> {
        if plane.states.len() != 4 * L {
            return None;
        }
        let mut states = [0_u32; L];
        for (state, bytes) in states.iter_mut().zip(plane.states.as_chunks::<4>().0) {
            *state = u32::from_le_bytes(*bytes);
        }
        Some(Self {
            states,
            done: 0,
            position: 0,
        })
    }

    /// Does the steps that are left, and gives what the lanes carried if everything came out even.
    /// `B` is the bytes of `L` words.
    pub(super) fn finish<const B: usize>(
        mut self,
        plane: &R32Plane<'_>,
        out: &mut [u8],
    ) -> Option<Carried> {
        let mask = (1_u32 << plane.bits) - 1;
        while self.done < out.len() {
            let strip = self.done / STRIP_LEN;
            let table = plane.tables.get(plane.table_id(strip))?;
            let end = ((strip + 1) * STRIP_LEN).min(out.len());
            for symbols in out[self.done..end].chunks_mut(L) {
                let mut entries = [0_u32; L];
                for (entry, state) in entries.iter_mut().zip(&self.states) {
                    *entry = table[(state & mask) as usize % table.len()];
                }
                let mut next = [0_u32; L];
                for ((next, state), entry) in next.iter_mut().zip(&self.states).zip(&entries) {
                    *next = (entry >> 8 & 4095) * (state >> plane.bits) + (entry >> 20);
                }
                let mut padded = [0_u8; B];
                let window = window(plane.words, self.position, &mut padded);
                let (window, _) = window.as_chunks::<2>();
                let mut taken = 0;
                for (state, next) in self.states.iter_mut().zip(next) {
                    let need = u32::from(next < STATE_MIN);
                    let word = u32::from(u16::from_le_bytes(window[taken % L]));
                    *state = next << (16 * need) | word & need.wrapping_neg();
                    taken += need as usize;
                }
                self.position += 2 * taken;
                for (symbol, entry) in symbols.iter_mut().zip(&entries) {
                    *symbol = *entry as u8;
                }
            }
            self.done = end;
        }
        let mut carried = [0; 2 * LANES_MAX];
        for (bytes, state) in carried.as_chunks_mut::<2>().0.iter_mut().zip(self.states) {
            *bytes = (state as u16).to_le_bytes();
        }
        let even = self.position == plane.words.len() && self.states.iter().all(|x| x >> 16 == 1);
        even.then_some(carried)
    }
}

/// Where the decoder of a row of differences stands between two steps.
#[derive(Debug)]
pub(super) struct ContextDecoderState {
    pub(super) states: [u32; context::LANES],
    /// Bytes of elements decoded.
    pub(super) done: usize,
    /// Bytes of the words taken.
    pub(super) position: usize,
}

/// Decodes differences and adds them to their base (docs/format.md, section 9); false if the block
/// is not well formed.
pub fn context_decode(block: &ContextBlock<'_>, out: &mut [u8]) -> bool {
    ContextDecoderState::begin(block, out).is_some_and(|decoder| decoder.finish(block, out))
}

impl ContextDecoderState {
    /// The state before the first step; none if the parts do not fit together. A state is never
    /// below `STATE_MIN` between two steps, nor between the phases of one.
    pub(super) fn begin(block: &ContextBlock<'_>, out: &[u8]) -> Option<Self> {
        let width = block.tables.choice().layout.width;
        let fits = block.states.len() == 4 * context::LANES
            && block.words.len().is_multiple_of(2)
            && block.base.len() == out.len()
            && out.len().is_multiple_of(width);
        let mut states = [0_u32; context::LANES];
        for (state, bytes) in states.iter_mut().zip(block.states.as_chunks::<4>().0) {
            *state = u32::from_le_bytes(*bytes);
        }
        let decoder = Self {
            states,
            done: 0,
            position: 0,
        };
        (fits && states.iter().all(|&x| x >= STATE_MIN)).then_some(decoder)
    }

    /// Does the steps that are left, and says whether everything came out even.
    pub(super) fn finish(mut self, block: &ContextBlock<'_>, out: &mut [u8]) -> bool {
        let choice = block.tables.choice();
        let step = context::LANES * choice.layout.width;
        let bases = block.base[self.done..].chunks(step);
        for (out, base) in out[self.done..].chunks_mut(step).zip(bases) {
            let count = out.len() / choice.layout.width;
            let (mut tables, mut differences) = ([0; context::LANES], [0; context::LANES]);
            let (tables, differences) = (&mut tables[..count], &mut differences[..count]);
            choice.tables_of(base, tables);
            self.step(block, tables, differences);
            choice.layout.add(differences, base, out);
        }
        self.position == block.words.len() && self.states.iter().all(|&x| x == STATE_MIN)
    }

    /// One step of as many lanes as there are elements: the zigzagged difference of each.
    fn step(&mut self, block: &ContextBlock<'_>, tables: &[u8], differences: &mut [u32]) {
        let (bits, entries) = (block.tables.bits(), block.tables.entries());
        let mut symbols = [0_u8; context::LANES];
        let mut most = 0;
        for (lane, (&table, symbol)) in tables.iter().zip(&mut symbols).enumerate() {
            let state = self.states[lane];
            let entry = entries[usize::from(table) << bits | (state & ((1 << bits) - 1)) as usize];
            let next = (entry >> 8 & 4095) * (state >> bits) + (entry >> 20);
            self.feed(block.words, lane, next);
            *symbol = entry as u8;
            most = most.max(*symbol);
        }
        let mut raw = [0_u32; context::LANES];
        // at most 16 bits at a time, the lower ones first
        for done in [0, 16] {
            // no lane takes a word where none has raw bits
            if difference::raw_bits(most) <= done {
                break;
            }
            for (lane, raw) in raw.iter_mut().enumerate().take(tables.len()) {
                let count = difference::raw_bits(symbols[lane])
                    .saturating_sub(done)
                    .min(16);
                let state = self.states[lane];
                *raw |= (state & ((1 << count) - 1)) << done;
                self.feed(block.words, lane, state >> count);
            }
        }
        for ((out, &symbol), &raw) in differences.iter_mut().zip(&symbols).zip(&raw) {
            *out = difference::difference(symbol, raw);
        }
    }

    /// The next state of a lane, with the next word if it would be too small; beyond the end zeros,
    /// which the count at the end finds out.
    fn feed(&mut self, words: &[u8], lane: usize, mut next: u32) {
        if next < STATE_MIN {
            let word = words.get(self.position..).and_then(<[u8]>::first_chunk);
            let word = word.map_or(0, |&word| u16::from_le_bytes(word));
            next = next << 16 | u32::from(word);
            self.position += 2;
        }
        self.states[lane] = next;
    }
}

/// The next `B` bytes from `position`; beyond the end zeros, which the count at the end finds out.
pub(super) fn window<'a, const B: usize>(
    bytes: &'a [u8],
    position: usize,
    padded: &'a mut [u8; B],
) -> &'a [u8; B] {
    let rest = bytes.get(position..).unwrap_or_default();
    if let Some(whole) = rest.first_chunk() {
        return whole;
    }
    let (copy, zeros) = padded.split_at_mut(rest.len());
    copy.copy_from_slice(rest);
    zeros.fill(0);
    padded
}
