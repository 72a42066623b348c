//! R16: exponents of bf16 by 64 (or 32) interleaved rANS lanes with states of 16 bits and at most
//! 16 symbols (docs/format.md, section 7). Here are the table and the encoder; the decoder is a
//! kernel in `simd`.

use crate::entropy::frequency::log2_q16;
use crate::entropy::planes::Word;

/// The sum of the frequencies.
const SUM: u32 = 256;
/// State with which coding begins and decoding ends.
const STATE_MIN: u32 = 256;
/// A symbol rarer than one in this many is escaped. Its slot (1 of 256) would be taken from the
/// others; an escape costs its own code and a literal of 8 bits. Measured on a sentence encoder in
/// bf16: 66.67 % with 256, 66.52 with 700, 66.51 with 1000 to 2000, 66.53 with 4000.
const SHARE_MIN: u64 = 1400;
/// Symbols of a table, the escape included.
pub const SYMBOLS_MAX: usize = 16;

/// About how many bytes the exponents that were counted take, escapes included, and the R plane
/// apart.
pub fn coded_len(table: &R16Table, counts: &[u32; 256]) -> u64 {
    let bits_of = |f: u8| (8 << 16) - log2_q16(u64::from(f));
    let escape = table.freqs.last().copied().map_or(0, bits_of) + (8 << 16);
    let mut bits = 0;
    for (symbol, &count) in (0_u8..=255).zip(counts) {
        let place = table.symbols.binary_search(&symbol).ok();
        let cost = place.map_or(escape, |place| bits_of(table.freqs[place]));
        // states of 16 bits lose about a hundredth of a bit
        bits += u64::from(count) * (cost + 560);
    }
    bits >> 19
}

/// The symbols of a block and their frequencies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct R16Table {
    /// Symbol bytes, ascending; without the escape.
    pub symbols: Vec<u8>,
    /// Frequencies, sum 256; the escape's is the last if there is one more than symbols.
    pub freqs: Vec<u8>,
}

impl R16Table {
    /// The table for symbols counted; there must be at least one.
    pub fn of(counts: &[u32; 256]) -> Self {
        let mut by_count: Vec<u8> = (0..=255).filter(|&s| counts[usize::from(s)] > 0).collect();
        by_count.sort_by_key(|&s| (std::cmp::Reverse(counts[usize::from(s)]), s));
        let total: u64 = counts.iter().map(|&c| u64::from(c)).sum();
        let kept = by_count
            .iter()
            .take(SYMBOLS_MAX)
            .take_while(|&&s| u64::from(counts[usize::from(s)]) * SHARE_MIN >= total)
            .count()
            .max(1);
        let mut escaped = kept < by_count.len();
        let kept = if escaped {
            kept.min(SYMBOLS_MAX - 1)
        } else {
            kept
        };
        let mut symbols = by_count[..kept].to_vec();
        symbols.sort_unstable();
        let mut weights: Vec<u64> = symbols
            .iter()
            .map(|&s| u64::from(counts[usize::from(s)]))
            .collect();
        // one symbol cannot have all 256 slots: it gets an escape that never comes
        escaped |= symbols.len() == 1;
        if escaped {
            weights.push(total - weights.iter().sum::<u64>());
        }
        Self {
            symbols,
            freqs: frequencies(&weights),
        }
    }

    /// Whether the last frequency is that of the escape.
    pub fn has_escape(&self) -> bool {
        self.freqs.len() > self.symbols.len()
    }

    /// Checks what an image holds: frequencies of at least 1 and with sum 256, symbols ascending.
    pub fn is_valid(&self) -> bool {
        let sum: u32 = self.freqs.iter().map(|&f| u32::from(f)).sum();
        sum == SUM
            && self.freqs.len() <= SYMBOLS_MAX
            && self.freqs.iter().all(|&f| f > 0)
            && self.freqs.len() - usize::from(self.has_escape()) == self.symbols.len()
            && self.symbols.is_sorted_by(|a, b| a < b)
    }

    /// For each slot: symbol | frequency << 8 | (slot - start) << 16 | escape << 24. The table must
    /// be valid.
    pub fn slots(&self) -> [u32; 256] {
        let mut slots = [0; 256];
        let mut slot = 0;
        for (index, &f) in self.freqs.iter().enumerate() {
            let symbol = self.symbols.get(index).map_or(1 << 24, |&s| u32::from(s));
            for offset in 0..u32::from(f) {
                slots[slot] = symbol | u32::from(f) << 8 | offset << 16;
                slot += 1;
            }
        }
        slots
    }
}

fn frequencies(weights: &[u64]) -> Vec<u8> {
    let total = weights.iter().sum::<u64>().max(1);
    let mut freqs: Vec<u64> = weights
        .iter()
        .map(|w| (w * u64::from(SUM) / total).clamp(1, 255))
        .collect();
    loop {
        let sum: u64 = freqs.iter().sum();
        let steps = (0..freqs.len()).filter(|&i| sum < 256 || freqs[i] > 1);
        let chosen = match sum.cmp(&u64::from(SUM)) {
            std::cmp::Ordering::Equal => break,
            std::cmp::Ordering::Less => steps.filter(|&i| freqs[i] < 255).reduce(|best, i| {
                let better =
                    weights[i] * (2 * freqs[best] + 1) > weights[best] * (2 * freqs[i] + 1);
                if better { i } else { best }
            }),
            std::cmp::Ordering::Greater => steps.reduce(|best, i| {
                let better =
                    weights[i] * (2 * freqs[best] - 1) < weights[best] * (2 * freqs[i] - 1);
                if better { i } else { best }
            }),
        };
        let chosen = chosen.unwrap_or(0);
        if sum < u64::from(SUM) {
            freqs[chosen] += 1;
        } else {
            freqs[chosen] -= 1;
        }
    }
    freqs.iter().map(|&f| f as u8).collect()
}

/// A coded block as the kernel takes it.
#[derive(Debug)]
pub struct R16Block<'a> {
    /// A valid table.
    pub table: &'a R16Table,
    /// Two bytes for each lane.
    pub states: &'a [u8],
    /// The rANS bytes.
    pub stream: &'a [u8],
    /// Escaped symbols in element order.
    pub lits: &'a [u8],
    /// Mantissa and sign of each element.
    pub plane: &'a [u8],
}

/// The parts of an encoded block that are not the table.
#[derive(Debug, Default)]
pub struct R16Coded {
    /// States of the lanes.
    pub states: Vec<u8>,
    /// The rANS bytes.
    pub stream: Vec<u8>,
    /// Escaped symbols in element order.
    pub lits: Vec<u8>,
}

/// The symbol of a bf16: its exponent.
#[inline]
pub fn symbol_of(word: Word) -> u8 {
    (u16::from_le_bytes(word).rotate_left(1) >> 8) as u8
}

/// Counts the symbols of `words`, by four counters so that equal neighbours do not wait for each
/// other.
pub fn count(words: &[Word]) -> [u32; 256] {
    let mut counts = [[0_u32; 256]; 4];
    for four in words.chunks(4) {
        for (word, counts) in four.iter().zip(&mut counts) {
            counts[usize::from(symbol_of(*word))] += 1;
        }
    }
    let [mut sum, b, c, d] = counts;
    for (i, sum) in sum.iter_mut().enumerate() {
        *sum += b[i] + c[i] + d[i];
    }
    sum
}

/// Encodes the symbols of `words` by `L` lanes. The table must be [`R16Table::of`] their counts.
pub fn encode<const L: usize>(words: &[Word], table: &R16Table, coded: &mut R16Coded) {
    let escape = table.symbols.len();
    let mut index = [escape as u8; 256];
    for (i, &symbol) in (0_u8..).zip(&table.symbols) {
        index[usize::from(symbol)] = i;
    }
    let mut start = 0;
    let mut entries = [(0_u32, 0_u32, 0_u32); SYMBOLS_MAX];
    for (entry, &f) in entries.iter_mut().zip(&table.freqs) {
        let f = u32::from(f);
        // ceil(2^24 / f): exact division for x < 2^16 and f < 2^8
        *entry = (f, start, (1_u32 << 24).div_ceil(f));
        start += f;
    }
    let padding = (0..escape)
        .max_by_key(|&i| (table.freqs[i], std::cmp::Reverse(i)))
        .unwrap_or(0);
    coded.lits.clear();
    if table.has_escape() {
        coded.lits.extend(
            words
                .iter()
                .map(|&w| symbol_of(w))
                .filter(|&s| usize::from(index[usize::from(s)]) == escape),
        );
    }
    let capacity = words.len().next_multiple_of(L);
    coded.stream.clear();
    coded.stream.resize(capacity, 0);
    let mut states = [STATE_MIN; L];
    let mut top = capacity;
    for step in words.chunks(L).rev() {
        let mut symbols = [padding as u8; L];
        for (symbol, &word) in symbols.iter_mut().zip(step) {
            *symbol = index[usize::from(symbol_of(word))];
        }
        for lane in (0..L).rev() {
            let (f, start, reciprocal) = entries[usize::from(symbols[lane]) % SYMBOLS_MAX];
            let mut x = states[lane];
            let spill = x >= f << 8;
            coded.stream[top - 1] = x as u8;
            top -= usize::from(spill);
            x >>= 8 * u32::from(spill);
            let quotient = ((u64::from(x) * u64::from(reciprocal)) >> 24) as u32;
            states[lane] = (quotient << 8) + (x - quotient * f) + start;
        }
    }
    coded.stream.drain(..top);
    coded.states.clear();
    coded
        .states
        .extend(states.iter().flat_map(|&x| (x as u16).to_le_bytes()));
}
