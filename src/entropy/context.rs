//! R32 with a context for each element, and raw bits: 64 interleaved lanes as in `r32`, but the
//! table of an element is chosen by what is known of it, and a symbol may leave low bits that are
//! kept as they are (docs/format.md, section 9). Here are the tables and the encoder; the decoder
//! is a kernel in `simd`.

use crate::entropy::difference;
use crate::entropy::difference::CONTEXTS;
use crate::entropy::difference::FloatLayout;
use crate::entropy::r32::LANES_MAX;
use crate::entropy::r32::STATE_MIN;

/// Lanes.
pub(crate) const LANES: usize = LANES_MAX;
/// Most tables.
pub(crate) const TABLES_MAX: usize = 16;

/// How an element of the base chooses a table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextChoice {
    /// What an element is.
    pub layout: FloatLayout,
    /// The exponent whose context is 0.
    pub highest: u8,
    /// The table of each context.
    pub table_of: [u8; CONTEXTS],
}

impl ContextChoice {
    /// The table of each element of `base`.
    pub fn tables_of(&self, base: &[u8], tables: &mut [u8]) {
        self.layout.put_exponents(base, tables);
        difference::contexts(tables, self.highest);
        for table in tables {
            *table = self.table_of[usize::from(*table) % CONTEXTS];
        }
    }
}

/// The tables of all contexts, one after another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextTables {
    /// For each table and slot: symbol | frequency << 8 | (slot - start of the symbol) << 20.
    entries: Vec<u32>,
    bits: u32,
    choice: ContextChoice,
    raw_bits_max: u32,
}

impl ContextTables {
    /// From the frequencies of each table; each must sum to `2^bits`, with `bits` at most 12, and
    /// the choice must be among them.
    pub fn new(freqs: &[[u16; 256]], bits: u32, choice: ContextChoice) -> Self {
        let is_among = |&table: &u8| usize::from(table) < freqs.len();
        assert!(
            bits <= 12 && freqs.len() <= TABLES_MAX && choice.table_of.iter().all(is_among),
            "a table for each context"
        );
        let mut entries = Vec::with_capacity(freqs.len() << bits);
        let mut highest = 0;
        for freqs in freqs {
            let before = entries.len();
            for (symbol, &f) in (0_u8..=255).zip(freqs).filter(|(_, f)| **f > 0) {
                let entry = u32::from(symbol) | u32::from(f) << 8;
                entries.extend((0..u32::from(f)).map(|rest| entry | rest << 20));
                highest = highest.max(symbol);
            }
            assert_eq!(
                entries.len() - before,
                1 << bits,
                "frequencies sum to 2^bits"
            );
        }
        Self {
            entries,
            bits,
            choice,
            raw_bits_max: difference::raw_bits(highest),
        }
    }

    /// Bytes of memory that they take.
    pub fn memory_bytes(&self) -> u64 {
        4 * self.entries.len() as u64
    }

    /// For each table and slot: symbol | frequency << 8 | (slot - start of the symbol) << 20.
    pub fn entries(&self) -> &[u32] {
        &self.entries
    }

    /// log2 of the slots of a table, at most 12.
    pub fn bits(&self) -> u32 {
        self.bits
    }

    /// How an element chooses its table.
    pub fn choice(&self) -> &ContextChoice {
        &self.choice
    }

    /// Where the table of each context begins among the entries, of which at least `2^bits` follow.
    pub fn starts(&self) -> [u16; CONTEXTS] {
        self.choice
            .table_of
            .map(|table| u16::from(table) << self.bits)
    }

    /// Whether every difference that these tables may give fits an element: no encoder makes
    /// others, and kernels may leave them to the definition. Then a symbol leaves at most 4, 12 or
    /// 28 raw bits.
    pub fn fit_elements(&self) -> bool {
        self.raw_bits_max + 4 <= 8 * self.choice.layout.width as u32
    }
}

/// A coded row of differences as the kernel takes it.
#[derive(Debug, Clone, Copy)]
pub struct ContextBlock<'a> {
    /// Four bytes for each lane.
    pub states: &'a [u8],
    /// Two bytes for each word.
    pub words: &'a [u8],
    /// The elements that the differences are from.
    pub base: &'a [u8],
    /// The tables.
    pub tables: &'a ContextTables,
}

/// Frequencies of a context, as the encoder needs them.
#[derive(Debug, Clone)]
pub(crate) struct ContextEncodeTable {
    /// For each symbol its frequency and start.
    symbols: Box<[(u32, u32); 256]>,
}

impl ContextEncodeTable {
    /// From frequencies with sum `2^bits`.
    pub(crate) fn new(freqs: &[u16; 256]) -> Self {
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
pub(crate) struct ContextCoded {
    /// The states at the end of coding, one a lane.
    pub states: Vec<u32>,
    /// The words in the order in which the encoder makes them: the decoder takes them from the end.
    pub words: Vec<u16>,
}

/// Encodes zigzagged differences, element by element with the table of its context of a sum of
/// `2^bits`. False if a symbol has no frequency there: then nothing in `coded` counts.
pub(crate) fn encode(
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
    use crate::entropy::simd::dispatch;
    use crate::entropy::simd::scalar;

    const LAYOUTS: [FloatLayout; 5] = [
        FloatLayout::BF16,
        FloatLayout::F32,
        FloatLayout::F16,
        FloatLayout::F8_E4M3,
        FloatLayout::F8_E5M2,
    ];
    const SIZES: [usize; 11] = [1, 63, 64, 65, 128, 500, 1000, 4096, 65_535, 65_536, 65_537];

    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }

        fn below(&mut self, end: usize) -> usize {
            (self.next() >> 20) as usize % end
        }

        fn bytes(&mut self, len: usize) -> Vec<u8> {
            (0..len).map(|_| (self.next() >> 9) as u8).collect()
        }

        /// Any choice among `count` tables.
        fn choice(&mut self, layout: FloatLayout, count: usize) -> ContextChoice {
            ContextChoice {
                layout,
                highest: self.next() as u8,
                table_of: std::array::from_fn(|_| self.below(count) as u8),
            }
        }
    }

    /// Decodes with every set of kernels; what each makes of the block must be what the definition
    /// does.
    fn decode_everywhere(block: &ContextBlock<'_>) -> Option<Vec<u8>> {
        let mut expected = vec![0; block.base.len()];
        let verdict = scalar::context_decode(block, &mut expected);
        for set in dispatch::available() {
            let mut out = vec![0; block.base.len()];
            let verdict_here = (set.context_decode)(block, &mut out);
            assert_eq!(verdict_here, verdict, "{}, {block:?}", set.name);
            assert!(out == expected, "{}, {} bytes", set.name, out.len());
            let Some(two) = set.context_decode_two else {
                continue;
            };
            // with one that ends sooner, before or behind it; and with tables of its own
            let half = block.base.len() / 8 * 4;
            let tables = block.tables.clone();
            let mut shorter = ContextBlock {
                base: &block.base[..half],
                ..*block
            };
            let (mut expected_half, mut half) = (vec![0; half], vec![0; half]);
            let verdict_of_half = scalar::context_decode(&shorter, &mut expected_half);
            out.fill(0);
            let verdicts = two([block, &shorter], [&mut out, &mut half]);
            assert_eq!(verdicts, [verdict, verdict_of_half], "{}", set.name);
            assert!(out == expected && half == expected_half, "{}", set.name);
            for tables in [block.tables, &tables] {
                shorter.tables = tables;
                out.fill(0);
                half.fill(0);
                let verdicts = two([&shorter, block], [&mut half, &mut out]);
                assert_eq!(verdicts, [verdict_of_half, verdict], "{}", set.name);
                assert!(out == expected && half == expected_half, "{}", set.name);
            }
        }
        verdict.then_some(expected)
    }

    #[test]
    fn differences_of_all_sizes_come_back() {
        let mut random = Random(5);
        for (round, len) in SIZES.into_iter().cycle().take(110).enumerate() {
            let bits = 8 + round as u32 % 5;
            let layout = LAYOUTS[random.below(5)];
            let widest = 8 * layout.width as u32;
            let spread = [3, 9, 17, 32][random.below(4)].min(widest);
            let count = 1 + random.below(16);
            let choice = random.choice(layout, count);
            let base = random.bytes(len * layout.width);
            let mut differences: Vec<u32> = (0..len)
                .map(|_| ((random.next() >> 32) as u32) >> (32 - 1 - random.below(spread as usize)))
                .collect();
            if random.below(3) == 0 {
                // few bits, so that many steps are taken when the words are nearly used up
                differences.fill(3);
            }
            let mut target = vec![0; base.len()];
            layout.add(&differences, &base, &mut target);
            let mut tables_of = vec![0; len];
            choice.tables_of(&base, &mut tables_of);
            let mut counts = vec![[0_u64; 256]; count];
            for (&z, &table) in differences.iter().zip(&tables_of) {
                counts[usize::from(table)][usize::from(difference::bucket(z).0)] += 1;
            }
            let normalise = |mut counts: [u64; 256]| {
                counts[3] += 20;
                counts[4] += 1;
                frequency::normalise(&counts, bits)
            };
            let freqs: Vec<_> = counts.into_iter().map(normalise).collect();
            let encode_tables: Vec<_> = freqs.iter().map(ContextEncodeTable::new).collect();
            let mut coded = ContextCoded::default();
            assert!(encode(
                &differences,
                &tables_of,
                &encode_tables,
                bits,
                &mut coded
            ));
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
                base: &base,
                tables: &ContextTables::new(&freqs, bits, choice),
            };
            assert!(decode_everywhere(&block) == Some(target), "{len} elements");
            let longer = [&words[..], &[0, 0]].concat();
            for words in [
                &words[..words.len() & !3],
                &words[..words.len().max(1) - 1],
                &longer,
            ] {
                let verdict = decode_everywhere(&ContextBlock { words, ..block });
                assert!(verdict.is_none() || words.len() == block.words.len());
            }
        }
    }

    #[test]
    fn any_bytes_are_the_same_everywhere() {
        let mut random = Random(11);
        for round in 0..600 {
            let len = SIZES[random.below(8)];
            let bits = 8 + round % 5;
            let layout = LAYOUTS[random.below(5)];
            // up to the highest symbol, above what an element of one or two bytes may have
            let symbols = [3, 16, 40, 112, 136, 137, 256][random.below(7)];
            let table = |random: &mut Random| {
                let mut counts = [0; 256];
                for _ in 0..2 + random.below(100) {
                    counts[random.below(symbols)] += random.next() % 1000 + 1;
                }
                counts[0] += 1;
                counts[1] += 1;
                frequency::normalise(&counts, bits)
            };
            let freqs: Vec<_> = (0..=random.below(16)).map(|_| table(&mut random)).collect();
            let choice = random.choice(layout, freqs.len());
            let mut states = random.bytes(4 * LANES);
            if round % 4 > 0 {
                states
                    .iter_mut()
                    .skip(2)
                    .step_by(4)
                    .for_each(|byte| *byte |= 1);
            }
            let words_len = 2 * random.below(len * 3 + 10);
            let (words, base) = (random.bytes(words_len), random.bytes(len * layout.width));
            decode_everywhere(&ContextBlock {
                states: &states,
                words: &words,
                base: &base,
                tables: &ContextTables::new(&freqs, bits, choice),
            });
        }
    }

    #[test]
    fn parts_that_do_not_fit_together_are_refused_everywhere() {
        let mut counts = [0; 256];
        counts[..2].fill(1);
        let mut random = Random(3);
        let tables = ContextTables::new(
            &[frequency::normalise(&counts, 8)],
            8,
            random.choice(FloatLayout::BF16, 1),
        );
        let bytes = vec![1; 4 * LANES];
        for (states, words, base, out) in [
            (255, 2, 4, 4),
            (256, 1, 4, 4),
            (256, 2, 3, 3),
            (256, 2, 4, 6),
        ] {
            let block = ContextBlock {
                states: &bytes[..states],
                words: &bytes[..words],
                base: &bytes[..base],
                tables: &tables,
            };
            for set in dispatch::available() {
                assert!(
                    !(set.context_decode)(&block, &mut vec![0; out]),
                    "{}",
                    set.name
                );
            }
        }
    }
}
