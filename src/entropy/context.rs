//! R32 with a context for each element, and raw bits: 64 interleaved lanes as in `r32`, but the table of an element is chosen by
//! what is known of it, and a symbol may leave low bits that are kept as they are (docs/format.md, section 9).

use crate::entropy::difference;
use crate::entropy::r32::LANES_MAX;
use crate::entropy::r32::STATE_MIN;

/// Lanes.
pub const LANES: usize = LANES_MAX;
/// Most tables.
pub const TABLES_MAX: usize = 16;

/// The tables of all contexts, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextTables {
    /// For each context and slot: symbol | frequency << 8 | (slot - start of the symbol) << 20.
    entries: Vec<u32>,
    bits: u32,
}

impl ContextTables {
    /// From the frequencies of each context; each must sum to `2^bits`, with `bits` at most 12.
    pub fn new(freqs: &[[u16; 256]], bits: u32) -> Self {
        let mut entries = Vec::with_capacity(freqs.len() << bits);
        for freqs in freqs {
            let before = entries.len();
            for (symbol, &f) in (0_u32..).zip(freqs) {
                entries
                    .extend((0..u32::from(f)).map(|rest| symbol | u32::from(f) << 8 | rest << 20));
            }
            assert_eq!(
                entries.len() - before,
                1 << bits,
                "frequencies sum to 2^bits"
            );
        }
        Self { entries, bits }
    }

    /// Bytes of memory that they take.
    pub fn memory_bytes(&self) -> u64 {
        4 * self.entries.len() as u64
    }
}

/// A coded row of differences as the kernel takes it.
#[derive(Debug)]
pub struct ContextBlock<'a> {
    /// Four bytes for each lane.
    pub states: &'a [u8],
    /// Two bytes for each word.
    pub words: &'a [u8],
    /// The context of each element.
    pub contexts: &'a [u8],
    /// The tables.
    pub tables: &'a ContextTables,
}

/// Takes words one after another; zeros beyond the end, which the count at the end finds out.
struct Words<'a> {
    words: &'a [[u8; 2]],
    taken: usize,
}

impl Words<'_> {
    /// Feeds a state that is too small.
    fn feed(&mut self, state: &mut u32) {
        if *state < STATE_MIN {
            let word = self.words.get(self.taken).copied().unwrap_or_default();
            *state = *state << 16 | u32::from(u16::from_le_bytes(word));
            self.taken += 1;
        }
    }
}

/// Decodes zigzagged differences; false if the block is not well formed.
pub fn decode(block: &ContextBlock<'_>, out: &mut [u32]) -> bool {
    let bits = block.tables.bits;
    if block.states.len() != 4 * LANES || block.contexts.len() != out.len() {
        return false;
    }
    let mut states = [0_u32; LANES];
    for (state, bytes) in states.iter_mut().zip(block.states.as_chunks::<4>().0) {
        *state = u32::from_le_bytes(*bytes);
    }
    let (words, half) = block.words.as_chunks::<2>();
    let mut words = Words { words, taken: 0 };
    for (contexts, out) in block.contexts.chunks(LANES).zip(out.chunks_mut(LANES)) {
        let mut symbols = [0_u8; LANES];
        let mut most = 0;
        for (lane, (&context, symbol)) in contexts.iter().zip(&mut symbols).enumerate() {
            let state = &mut states[lane];
            let slot = usize::from(context) << bits | (*state & ((1 << bits) - 1)) as usize;
            let Some(entry) = block.tables.entries.get(slot) else {
                return false;
            };
            *state = (entry >> 8 & 4095) * (*state >> bits) + (entry >> 20);
            words.feed(state);
            *symbol = *entry as u8;
            most = most.max(*symbol);
        }
        let mut raw = [0_u32; LANES];
        // at most 16 bits at a time, the lower ones first
        for done in [0, 16] {
            if difference::raw_bits(most) <= done {
                break;
            }
            for (lane, raw) in raw.iter_mut().enumerate().take(out.len()) {
                let count = difference::raw_bits(symbols[lane])
                    .saturating_sub(done)
                    .min(16);
                *raw |= (states[lane] & ((1 << count) - 1)) << done;
                states[lane] >>= count;
                words.feed(&mut states[lane]);
            }
        }
        for ((out, &symbol), &raw) in out.iter_mut().zip(&symbols).zip(&raw) {
            *out = difference::difference(symbol, raw);
        }
    }
    half.is_empty() && words.taken == words.words.len() && states.iter().all(|&x| x == STATE_MIN)
}

/// Frequencies of a context, as the encoder needs them.
#[derive(Debug, Clone)]
pub struct ContextEncodeTable {
    /// For each symbol its frequency and start.
    symbols: Box<[(u32, u32); 256]>,
}

impl ContextEncodeTable {
    /// From frequencies with sum `2^bits`.
    pub fn new(freqs: &[u16; 256]) -> Self {
        let mut symbols = Box::new([(0, 0); 256]);
        let mut start = 0;
        for (symbol, &f) in symbols.iter_mut().zip(freqs) {
            *symbol = (u32::from(f), start);
            start += u32::from(f);
        }
        Self { symbols }
    }
}

/// What the encoder makes of a row of differences.
#[derive(Debug, Default)]
pub struct ContextCoded {
    /// The states at the end of coding, one a lane.
    pub states: Vec<u32>,
    /// The words in the order in which the encoder makes them: the decoder takes them from the end.
    pub words: Vec<u16>,
}

/// Encodes zigzagged differences, element by element with the table of its context of a sum of `2^bits`. False if a symbol has no
/// frequency there: then nothing in `coded` counts.
pub fn encode(
    differences: &[u32],
    contexts: &[u8],
    tables: &[ContextEncodeTable],
    bits: u32,
    coded: &mut ContextCoded,
) -> bool {
    coded.words.clear();
    coded.states.clear();
    coded.states.resize(LANES, STATE_MIN);
    let (states, words) = (&mut coded.states, &mut coded.words);
    let mut spill = |state: &mut u32, limit: u64| {
        if u64::from(*state) >= limit {
            words.push(*state as u16);
            *state >>= 16;
        }
    };
    let steps = differences.chunks(LANES).zip(contexts.chunks(LANES));
    for (differences, contexts) in steps.rev() {
        for done in [16, 0] {
            for (state, &z) in states.iter_mut().zip(differences).rev() {
                let (_, raw_bits) = difference::bucket(z);
                let count = raw_bits.saturating_sub(done).min(16);
                if count > 0 {
                    spill(state, 1 << (32 - count));
                    *state = *state << count | z >> done & ((1 << count) - 1);
                }
            }
        }
        let elements = states.iter_mut().zip(differences).zip(contexts);
        for ((state, &z), &context) in elements.rev() {
            let (symbol, _) = difference::bucket(z);
            let table = &tables[usize::from(context)];
            let (freq, start) = table.symbols[usize::from(symbol)];
            if freq == 0 {
                return false;
            }
            spill(state, u64::from(freq) << (32 - bits));
            *state = ((*state / freq) << bits) + *state % freq + start;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entropy::frequency;

    #[test]
    fn differences_of_all_sizes_come_back() {
        let mut seed = 5_u64;
        let mut random = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for (round, len) in [1, 63, 64, 65, 1000, 65_536, 65_537]
            .into_iter()
            .cycle()
            .take(28)
            .enumerate()
        {
            let bits = 9 + round as u32 % 4;
            let spread = [3, 9, 17, 33][round % 4];
            let differences: Vec<u32> = (0..len)
                .map(|_| (random() >> 32) as u32 >> (31 - random() as u32 % spread.min(32)))
                .collect();
            let contexts: Vec<u8> = (0..len).map(|_| (random() % 16) as u8).collect();
            let mut counts = vec![[0_u64; 256]; 16];
            for (&z, &context) in differences.iter().zip(&contexts) {
                counts[usize::from(context)][usize::from(difference::bucket(z).0)] += 1;
            }
            let normalise = |mut counts: [u64; 256]| {
                counts[0] += 1;
                frequency::normalise(&counts, bits)
            };
            let freqs: Vec<_> = counts.into_iter().map(normalise).collect();
            let tables: Vec<_> = freqs.iter().map(ContextEncodeTable::new).collect();
            let mut coded = ContextCoded::default();
            assert!(encode(&differences, &contexts, &tables, bits, &mut coded));
            let states: Vec<u8> = coded.states.iter().flat_map(|x| x.to_le_bytes()).collect();
            let words: Vec<u8> = coded
                .words
                .iter()
                .rev()
                .flat_map(|w| w.to_le_bytes())
                .collect();
            let block = ContextBlock {
                states: &states,
                words: &words,
                contexts: &contexts,
                tables: &ContextTables::new(&freqs, bits),
            };
            let mut out = vec![0; len];
            assert!(decode(&block, &mut out));
            assert!(out == differences, "{len} elements");
            let short = ContextBlock {
                words: words.get(2..).unwrap_or(&[1, 2]),
                ..block
            };
            assert!(!decode(&short, &mut out) || out != differences);
        }
    }
}
