//! Differences by AVX2. The 64 states are eight vectors, as in R32; each takes words once for its
//! symbols and once more, or for wide elements twice more, for its raw bits.

#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls of functions for a processor that was asked for"
)]

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "instructions by their names")
)]
use std::arch::x86_64::*;

use crate::entropy::context::ContextBlock;
use crate::entropy::context::ContextTables;
use crate::entropy::simd::avx2::vectors::LANES;
use crate::entropy::simd::avx2::vectors::load;
use crate::entropy::simd::avx2::vectors::load_half;
use crate::entropy::simd::avx2::vectors::store;
use crate::entropy::simd::avx2::vectors::words_for;
use crate::entropy::simd::scalar;
use crate::entropy::simd::scalar::ContextDecoderState;

/// Words that the lanes of a step may take, in bytes: for the symbol, and for two times raw bits.
const WINDOW: usize = 3 * 2 * LANES;

pub(super) fn context_decode<const GATHER: bool>(block: &ContextBlock<'_>, out: &mut [u8]) -> bool {
    let Some(mut decoder) = ContextDecoderState::begin(block, out) else {
        return false;
    };
    if block.tables.fit_elements() {
        let steps = match block.tables.choice().layout.width {
            1 => steps::<1, GATHER>,
            2 => steps::<2, GATHER>,
            _ => steps::<4, GATHER>,
        };
        // SAFETY: `kernels` gives this function out only where the features were detected
        unsafe { steps(block, &mut decoder, out) };
    }
    decoder.finish(block, out)
}

/// What the tables are to the vectors.
struct Vectors<'a> {
    tables: &'a ContextTables,
    /// The table of each context, twice.
    table_of: __m256i,
    highest: __m256i,
    /// How far the exponent is from the lowest bit of the word that it is in, and what is behind
    /// the sign there.
    exponent_shift: __m128i,
    exponent_mask: __m256i,
    slot_mask: __m256i,
    bits: __m128i,
}

impl<'a> Vectors<'a> {
    #[target_feature(enable = "avx2")]
    fn of(tables: &'a ContextTables) -> Self {
        let choice = tables.choice();
        // of four bytes the upper word is looked at, and one byte is put into the upper half of a
        // word
        let (width, mantissa) = (choice.layout.width, choice.layout.mantissa_bits);
        let shift = match width {
            1 => mantissa + 8,
            2 => mantissa,
            _ => mantissa - 16,
        };
        Self {
            tables,
            table_of: _mm256_broadcastsi128_si256(load_half(&choice.table_of)),
            highest: _mm256_set1_epi16(i16::from(choice.highest)),
            exponent_shift: _mm_cvtsi32_si128(shift.cast_signed()),
            exponent_mask: _mm256_set1_epi16((0x7fff_u16 >> shift).cast_signed()),
            slot_mask: _mm256_set1_epi32((1 << tables.bits()) - 1),
            bits: _mm_cvtsi32_si128(tables.bits().cast_signed()),
        }
    }

    /// Where the tables of 16 elements begin, given the words with their exponents.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn starts(&self, words: __m256i) -> __m256i {
        let shifted = _mm256_srl_epi16(words, self.exponent_shift);
        let exponents = _mm256_and_si256(shifted, self.exponent_mask);
        let below = _mm256_subs_epu16(self.highest, exponents);
        let contexts = _mm256_min_epu16(below, _mm256_set1_epi16(15));
        // the upper half of each word gets nothing
        let contexts = _mm256_or_si256(contexts, _mm256_set1_epi16(-0x8000));
        _mm256_sll_epi16(_mm256_shuffle_epi8(self.table_of, contexts), self.bits)
    }

    /// The entries of 8 lanes, whose places in the tables are the start of a table and a slot in
    /// it.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn look_up<const GATHER: bool>(&self, places: __m256i) -> __m256i {
        let entries = self.tables.entries();
        if GATHER {
            // SAFETY: each place is the start of a table, behind which there are 2^bits entries,
            // and a slot below that
            return unsafe { _mm256_i32gather_epi32::<4>(entries.as_ptr().cast(), places) };
        }
        let mut bytes = [0_u8; 32];
        store(&mut bytes, places);
        let (places, _) = bytes.as_chunks::<4>();
        let entry = |lane: usize| {
            let place = u32::from_le_bytes(places[lane]) as usize;
            // SAFETY: each place is the start of a table, behind which there are 2^bits entries,
            // and a slot below that
            unsafe { entries.get_unchecked(place) }.cast_signed()
        };
        _mm256_setr_epi32(
            entry(0),
            entry(1),
            entry(2),
            entry(3),
            entry(4),
            entry(5),
            entry(6),
            entry(7),
        )
    }

    /// The next states of 8 lanes, before any word is taken.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn next(&self, states: __m256i, entries: __m256i) -> __m256i {
        let f = _mm256_and_si256(_mm256_srli_epi32::<8>(entries), _mm256_set1_epi32(4095));
        let product = _mm256_mullo_epi32(f, _mm256_srl_epi32(states, self.bits));
        _mm256_add_epi32(product, _mm256_srli_epi32::<20>(entries))
    }
}

/// The words of a step.
struct Window<'a> {
    words: &'a [u8; WINDOW],
    /// How many bytes were taken.
    taken: usize,
}

impl Window<'_> {
    /// The states with a word for each that is too small.
    #[inline]
    #[target_feature(enable = "avx2,popcnt")]
    fn feed(&mut self, states: __m256i) -> __m256i {
        let zero = _mm256_setzero_si256();
        let need = _mm256_cmpeq_epi32(_mm256_srli_epi32::<16>(states), zero);
        let set = _mm256_movemask_ps(_mm256_castsi256_ps(need)).cast_unsigned();
        // each group before has taken at most 16 bytes, so that there are 16 left
        let words = words_for(self.words, self.taken, set);
        self.taken += 2 * set.count_ones() as usize;
        let fed = _mm256_or_si256(_mm256_slli_epi32::<16>(states), words);
        _mm256_blendv_epi8(states, fed, need)
    }
}

#[target_feature(enable = "avx2,popcnt")]
fn steps<const WIDTH: usize, const GATHER: bool>(
    block: &ContextBlock<'_>,
    decoder: &mut ContextDecoderState,
    out: &mut [u8],
) {
    let vectors = Vectors::of(block.tables);
    let zero = _mm256_setzero_si256();
    let mut states = [zero; 8];
    let mut bytes = [0_u8; 4 * LANES];
    for (bytes, state) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(decoder.states) {
        *bytes = state.to_le_bytes();
    }
    for (state, bytes) in states.iter_mut().zip(bytes.as_chunks::<32>().0) {
        *state = load(bytes);
    }
    let mut padded = [0; WINDOW];
    let mut position = decoder.position;
    let bases = block.base.chunks_exact(WIDTH * LANES);
    for (out, base) in out.chunks_exact_mut(WIDTH * LANES).zip(bases) {
        let rest = block.words.get(position..position + WINDOW);
        let words = match rest.and_then(<[u8]>::first_chunk) {
            Some(words) => words,
            None => scalar::window(block.words, position, &mut padded),
        };
        let mut window = Window { words, taken: 0 };
        let mut symbols = [zero; 8];
        let groups = states.as_chunks_mut::<2>().0.iter_mut();
        let groups = groups.zip(symbols.as_chunks_mut::<2>().0);
        for ((states, symbols), base) in groups.zip(base.chunks_exact(WIDTH * 16)) {
            let starts = vectors.starts(exponent_words::<WIDTH>(base));
            let near = _mm256_cvtepu16_epi32(_mm256_castsi256_si128(starts));
            let far = _mm256_cvtepu16_epi32(_mm256_extracti128_si256::<1>(starts));
            for ((state, symbols), starts) in states.iter_mut().zip(symbols).zip([near, far]) {
                let slots = _mm256_and_si256(*state, vectors.slot_mask);
                let entries = vectors.look_up::<GATHER>(_mm256_or_si256(starts, slots));
                *state = window.feed(vectors.next(*state, entries));
                *symbols = _mm256_and_si256(entries, _mm256_set1_epi32(0xff));
            }
        }
        let differences = raw_bits::<WIDTH>(&mut states, &symbols, &mut window);
        position += window.taken;
        add::<WIDTH>(&differences, base, out);
        decoder.done += WIDTH * LANES;
    }
    decoder.position = position;
    for (state, bytes) in states.iter().zip(bytes.as_chunks_mut::<32>().0) {
        store(bytes, *state);
    }
    for (state, bytes) in decoder.states.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *state = u32::from_le_bytes(*bytes);
    }
}

/// The words in which 16 elements of `WIDTH` bytes have their exponents, a byte in the upper half
/// of its word.
#[inline]
#[target_feature(enable = "avx2")]
fn exponent_words<const WIDTH: usize>(elements: &[u8]) -> __m256i {
    match WIDTH {
        1 => {
            let bytes = load_half(&elements.as_chunks().0[0]);
            _mm256_slli_epi16::<8>(_mm256_cvtepu8_epi16(bytes))
        }
        2 => vector(elements, 0),
        _ => {
            let near = _mm256_srli_epi32::<16>(vector(elements, 0));
            let far = _mm256_srli_epi32::<16>(vector(elements, 1));
            in_order(_mm256_packus_epi32(near, far))
        }
    }
}

/// The vector at a place of some bytes, counted in vectors.
#[inline]
#[target_feature(enable = "avx2")]
fn vector(bytes: &[u8], place: usize) -> __m256i {
    load(&bytes.as_chunks().0[place])
}

/// Packing works in each half by itself: this puts its quarters in order.
#[inline]
#[target_feature(enable = "avx2")]
fn in_order(packed: __m256i) -> __m256i {
    _mm256_permute4x64_epi64::<0b11_01_10_00>(packed)
}

/// Takes the raw bits of 64 symbols out of the states: the zigzagged differences.
#[inline]
#[target_feature(enable = "avx2,popcnt")]
fn raw_bits<const WIDTH: usize>(
    states: &mut [__m256i; 8],
    symbols: &[__m256i; 8],
    window: &mut Window<'_>,
) -> [__m256i; 8] {
    let one = _mm256_set1_epi32(1);
    let mut differences = *symbols;
    for ((state, symbol), z) in states.iter_mut().zip(symbols).zip(&mut differences) {
        let count = _mm256_subs_epu16(_mm256_srli_epi32::<3>(*symbol), one);
        // the three bits behind the highest, and that
        let top = _mm256_sub_epi32(*symbol, _mm256_slli_epi32::<3>(count));
        let now = if WIDTH == 4 {
            _mm256_min_epu16(count, _mm256_set1_epi32(16))
        } else {
            count
        };
        let rest = _mm256_srlv_epi32(*state, now);
        let raw = _mm256_sub_epi32(*state, _mm256_sllv_epi32(rest, now));
        *z = _mm256_add_epi32(_mm256_sllv_epi32(top, count), raw);
        *state = window.feed(rest);
    }
    if WIDTH == 4 {
        for ((state, symbol), z) in states.iter_mut().zip(symbols).zip(&mut differences) {
            // one for each eight symbols, less the first and those of the round before
            let seventeen = _mm256_set1_epi32(17);
            let left = _mm256_subs_epu16(_mm256_srli_epi32::<3>(*symbol), seventeen);
            let rest = _mm256_srlv_epi32(*state, left);
            let raw = _mm256_sub_epi32(*state, _mm256_sllv_epi32(rest, left));
            *z = _mm256_add_epi32(*z, _mm256_slli_epi32::<16>(raw));
            *state = window.feed(rest);
        }
    }
    differences
}

/// Adds 64 differences to elements of `WIDTH` bytes.
#[inline]
#[target_feature(enable = "avx2")]
fn add<const WIDTH: usize>(differences: &[__m256i; 8], base: &[u8], out: &mut [u8]) {
    let (outs, _) = out.as_chunks_mut::<32>();
    for (number, out) in outs.iter_mut().enumerate() {
        let base = vector(base, number);
        let sum = match WIDTH {
            1 => {
                let four = &differences[4 * number..][..4];
                let near = _mm256_packus_epi32(four[0], four[1]);
                let far = _mm256_packus_epi32(four[2], four[3]);
                let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
                let packed = _mm256_packus_epi16(near, far);
                add_8(_mm256_permutevar8x32_epi32(packed, order), base)
            }
            2 => {
                let two = &differences[2 * number..][..2];
                add_16(in_order(_mm256_packus_epi32(two[0], two[1])), base)
            }
            _ => add_32(differences[number], base),
        };
        store(out, sum);
    }
}

/// Zigzagged differences added to elements of one byte; so are the two below to wider ones.
#[inline]
#[target_feature(enable = "avx2")]
fn add_8(z: __m256i, base: __m256i) -> __m256i {
    let (zero, magnitude) = (_mm256_setzero_si256(), _mm256_set1_epi8(0x7f));
    let flip = _mm256_sub_epi8(zero, _mm256_and_si256(z, _mm256_set1_epi8(1)));
    let half = _mm256_and_si256(_mm256_srli_epi16::<1>(z), magnitude);
    let ordered = |bits| {
        let sign = _mm256_cmpgt_epi8(zero, bits);
        _mm256_xor_si256(bits, _mm256_and_si256(sign, magnitude))
    };
    ordered(_mm256_add_epi8(ordered(base), _mm256_xor_si256(half, flip)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_16(z: __m256i, base: __m256i) -> __m256i {
    let odd = _mm256_and_si256(z, _mm256_set1_epi16(1));
    let flip = _mm256_sub_epi16(_mm256_setzero_si256(), odd);
    let d = _mm256_xor_si256(_mm256_srli_epi16::<1>(z), flip);
    let ordered = |bits| {
        let sign = _mm256_srai_epi16::<15>(bits);
        _mm256_xor_si256(bits, _mm256_srli_epi16::<1>(sign))
    };
    ordered(_mm256_add_epi16(ordered(base), d))
}

#[inline]
#[target_feature(enable = "avx2")]
fn add_32(z: __m256i, base: __m256i) -> __m256i {
    let odd = _mm256_and_si256(z, _mm256_set1_epi32(1));
    let flip = _mm256_sub_epi32(_mm256_setzero_si256(), odd);
    let d = _mm256_xor_si256(_mm256_srli_epi32::<1>(z), flip);
    let ordered = |bits| {
        let sign = _mm256_srai_epi32::<31>(bits);
        _mm256_xor_si256(bits, _mm256_srli_epi32::<1>(sign))
    };
    ordered(_mm256_add_epi32(ordered(base), d))
}
