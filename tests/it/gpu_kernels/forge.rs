//! Coded blocks that the encoder would not write, as too little is gained: a few elements in 64
//! lanes, other sums of frequencies, version 1. They are laid out here as docs/format.md, sections
//! 7 and 8 have them, and come in parts, so that a test can spoil one of them.

use bigsmall::codec::SpanTables;
use bigsmall::codec::Transform;
use bigsmall::codec::tables;
use bigsmall::codec::tables::PlaneFreqs;
use bigsmall::entropy::frequency;
use bigsmall::entropy::planes;
use bigsmall::entropy::planes::Word;
use bigsmall::entropy::r16;
use bigsmall::entropy::r16::R16Table;
use bigsmall::entropy::r32;

const LANES: usize = 64;
const STRIP: usize = 512;

/// The coder of both sections: `count` symbols, the last of them first, each given as frequency and
/// start by `symbol`. Gives the bytes (R16) or words (R32) of `unit` bits in the order in which the
/// decoder takes them.
fn rans(
    states: &mut [u32],
    count: usize,
    bits: u32,
    unit: u32,
    symbol: impl Fn(usize) -> (u32, u32),
) -> Vec<u16> {
    let mut spilled = Vec::new();
    for i in (0..count.next_multiple_of(LANES)).rev() {
        let (f, start) = symbol(i);
        let x = &mut states[i % LANES];
        if u64::from(*x) >= u64::from(f) << (2 * unit - bits) {
            spilled.push((*x & ((1 << unit) - 1)) as u16);
            *x >>= unit;
        }
        *x = ((*x / f) << bits) + *x % f + start;
    }
    spilled.reverse();
    spilled
}

/// The parts of an R16 block.
#[derive(Debug, Clone)]
pub(crate) struct R16Parts {
    pub(crate) head: [u8; 4],
    pub(crate) symbols: Vec<u8>,
    pub(crate) freqs: Vec<u8>,
    pub(crate) states: Vec<u8>,
    pub(crate) stream: Vec<u8>,
    pub(crate) lits: Vec<u8>,
    pub(crate) padding: u8,
    pub(crate) plane: Vec<u8>,
}

impl R16Parts {
    /// A block of any number of elements. What comes after them is the last symbol, the escape if
    /// there is one.
    pub(crate) fn of(words: &[Word]) -> Self {
        let R16Table { symbols, freqs } = R16Table::of(&r16::count(words));
        let number_of = |word: Word| {
            symbols
                .binary_search(&r16::symbol_of(word))
                .unwrap_or(symbols.len())
        };
        let mut states = [256; LANES];
        let stream = rans(&mut states, words.len(), 8, 8, |i| {
            let number = words
                .get(i)
                .map_or(freqs.len() - 1, |word| number_of(*word));
            let start = freqs[..number].iter().map(|f| u32::from(*f)).sum();
            (u32::from(freqs[number]), start)
        });
        let escaped = words
            .iter()
            .filter(|word| number_of(**word) == symbols.len());
        Self {
            head: [
                freqs.len() as u8,
                u8::from(freqs.len() > symbols.len()),
                0,
                0,
            ],
            states: states
                .iter()
                .flat_map(|x| (*x as u16).to_le_bytes())
                .collect(),
            stream: stream.iter().map(|byte| *byte as u8).collect(),
            lits: escaped.map(|word| r16::symbol_of(*word)).collect(),
            padding: 0,
            plane: words
                .iter()
                .map(|word| u16::from_le_bytes(*word).rotate_left(1) as u8)
                .collect(),
            symbols,
            freqs,
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = self.head.to_vec();
        out.extend((self.lits.len() as u32).to_le_bytes());
        out.extend((self.stream.len() as u32).to_le_bytes());
        out.resize(16, 0);
        out.extend(&self.symbols);
        out.resize(32, 0);
        out.extend(&self.freqs);
        out.resize(48, 0);
        for part in [&self.states, &self.stream, &self.lits] {
            out.extend(part);
        }
        out.resize(out.len().next_multiple_of(16), self.padding);
        out.extend(&self.plane);
        out
    }
}

/// How an R32 block of bf16 is to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct R32Form {
    pub(crate) version: u8,
    pub(crate) bits: u32,
    pub(crate) tables: usize,
    /// Whether the plane is coded; else it is const if it can be, or raw.
    pub(crate) rans: bool,
}

/// The parts of an R32 block of bf16.
#[derive(Debug, Clone)]
pub(crate) struct R32Parts {
    pub(crate) version: u8,
    pub(crate) coding: u8,
    /// The descriptor's, if the plane is not coded; else it is the number of words.
    pub(crate) value: u32,
    /// Of a raw plane.
    pub(crate) symbols: Vec<u8>,
    pub(crate) states: Vec<u8>,
    pub(crate) words: Vec<u16>,
    pub(crate) ids: Vec<u8>,
    pub(crate) lits: Vec<u8>,
    pub(crate) padding: u8,
    pub(crate) packed: Vec<u8>,
}

impl R32Parts {
    /// A block of any number of elements, at least one, and tables for it. What comes after the
    /// elements is the highest symbol, an escape if there are any.
    pub(crate) fn of(words: &[Word], form: R32Form) -> (SpanTables, Self) {
        let mut exponents = [0_u64; 256];
        for word in words {
            exponents[usize::from((u16::from_le_bytes(*word) >> 7) as u8)] += 1;
        }
        let base = planes::window_base(&exponents);
        let (mut symbols, mut lits, mut packed) = (vec![0; words.len()], Vec::new(), Vec::new());
        planes::split_top(words, base, &mut symbols, &mut lits, &mut packed);
        let freqs = frequencies(&symbols, form);
        let mut parts = Self {
            version: form.version,
            coding: 0,
            value: 0,
            symbols,
            states: Vec::new(),
            words: Vec::new(),
            ids: Vec::new(),
            lits,
            padding: 0,
            packed,
        };
        if form.rans {
            parts.code(&freqs, form);
        } else if parts
            .symbols
            .iter()
            .all(|symbol| *symbol == parts.symbols[0])
        {
            (parts.coding, parts.value) = (1, u32::from(parts.symbols[0]));
            parts.symbols.clear();
        }
        let mut bytes = tables::write(
            Transform::Bf16,
            &[PlaneFreqs {
                tables: freqs,
                base,
            }],
        );
        bytes[5] = form.bits as u8;
        (SpanTables::parse(&bytes).unwrap(), parts)
    }

    /// Codes the symbols, and takes off the packed plane what the states carry of it.
    fn code(&mut self, freqs: &[[u16; 256]], form: R32Form) {
        self.coding = 2;
        let symbols = std::mem::take(&mut self.symbols);
        let table_of = |strip: usize| strip * 7 % freqs.len();
        let mut states = [1 << 16; LANES];
        if form.version > 1 {
            let carried_len = self.packed.len().min(2 * LANES);
            let carried = self.packed.split_off(self.packed.len() - carried_len);
            for (state, low) in states
                .iter_mut()
                .rev()
                .zip(carried.as_chunks::<2>().0.iter().rev())
            {
                *state |= u32::from(u16::from_le_bytes(*low));
            }
        }
        let highest = symbols.iter().max().copied().unwrap_or_default();
        self.words = rans(&mut states, symbols.len(), form.bits, 16, |i| {
            let freqs = &freqs[table_of(i.min(symbols.len() - 1) / STRIP)];
            let symbol = usize::from(symbols.get(i).copied().unwrap_or(highest));
            let start = freqs[..symbol].iter().map(|f| u32::from(*f)).sum();
            (u32::from(freqs[symbol]), start)
        });
        if form.version > 1 {
            r32::write_states(&states, &mut self.states);
        } else {
            self.states = states
                .iter()
                .flat_map(|state| state.to_le_bytes())
                .collect();
        }
        let bits = r32::id_bits(freqs.len());
        self.ids = vec![0; r32::ids_len(symbols.len(), freqs.len())];
        for strip in (0..symbols.len().div_ceil(STRIP)).filter(|_| bits > 0) {
            self.ids[strip * bits / 8] |= (table_of(strip) << (strip * bits % 8)) as u8;
        }
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let align = if self.version > 1 { 4 } else { 16 };
        let value = if self.coding == 2 {
            self.words.len() as u32
        } else {
            self.value
        };
        let mut out = ((self.lits.len() as u32) << 8 | u32::from(self.coding))
            .to_le_bytes()
            .to_vec();
        out.extend(value.to_le_bytes());
        out.resize(8_usize.next_multiple_of(align), 0);
        for part in [&self.symbols, &self.states] {
            out.extend(part);
        }
        out.extend(self.words.iter().flat_map(|word| word.to_le_bytes()));
        out.extend([&self.ids[..], &self.lits].concat());
        out.resize(out.len().next_multiple_of(align), self.padding);
        out.extend(&self.packed);
        out
    }
}

/// Frequencies for the tables: each knows all symbols, no two are the same.
fn frequencies(symbols: &[u8], form: R32Form) -> Vec<[u16; 256]> {
    let of_table = |table: usize| {
        let mut counts = [0_u64; 256];
        for &symbol in symbols {
            counts[usize::from(symbol)] += 1 + (usize::from(symbol) + table) as u64 % 3;
        }
        frequency::normalise(&counts, form.bits)
    };
    (0..form.tables).map(of_table).collect()
}
