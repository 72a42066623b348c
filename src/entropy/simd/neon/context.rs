//! Differences by NEON. The states are in halves, as in R32: raw bits leave by a shift across the
//! two.

#![expect(
    unsafe_code,
    reason = "calls of functions for a processor that was asked for, and look-ups in tables that are long enough"
)]

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "instructions by their names")
)]
use std::arch::aarch64::*;

use crate::entropy::context::ContextBlock;
use crate::entropy::context::ContextTables;
use crate::entropy::simd::neon::vectors::LANES;
use crate::entropy::simd::neon::vectors::Takers;
use crate::entropy::simd::neon::vectors::WORD_SHUFFLES;
use crate::entropy::simd::neon::vectors::bytes_at;
use crate::entropy::simd::neon::vectors::load;
use crate::entropy::simd::neon::vectors::low_bytes;
use crate::entropy::simd::neon::vectors::r32_next;
use crate::entropy::simd::neon::vectors::store;
use crate::entropy::simd::scalar;
use crate::entropy::simd::scalar::ContextDecoderState;

/// Words that the lanes of a step may take, in bytes: for the symbol, and for two times raw bits;
/// and what a load of 16 bytes may read behind them.
const WINDOW: usize = 3 * 2 * LANES + 16;

pub(super) fn context_decode(block: &ContextBlock<'_>, out: &mut [u8]) -> bool {
    let Some(mut decoder) = ContextDecoderState::begin(block, out) else {
        return false;
    };
    if block.tables.fit_elements() {
        let steps = match block.tables.choice().layout.width {
            1 => steps::<1>,
            2 => steps::<2>,
            _ => steps::<4>,
        };
        // SAFETY: `kernels` gives this function out only where the feature was detected
        unsafe { steps(block, &mut decoder, out) };
    }
    decoder.finish(block, out)
}

/// What the tables are to the vectors.
struct Vectors<'a> {
    tables: &'a ContextTables,
    /// The table of each context.
    table_of: uint8x16_t,
    highest: uint16x8_t,
    /// How far the exponent is from the lowest bit of the word that it is in, less than nothing,
    /// which shifts to the right; and what is behind the sign there.
    exponent_shift: int16x8_t,
    exponent_mask: uint16x8_t,
    slot_mask: uint16x8_t,
    /// From a table to its first entry.
    bits: int16x8_t,
    /// From a state to its quotient, less than nothing.
    shift: int32x4_t,
}

impl<'a> Vectors<'a> {
    #[target_feature(enable = "neon")]
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
        let bits = tables.bits().cast_signed();
        Self {
            tables,
            table_of: load(&choice.table_of),
            highest: vdupq_n_u16(u16::from(choice.highest)),
            exponent_shift: vdupq_n_s16(-(shift as i16)),
            exponent_mask: vdupq_n_u16(0x7fff >> shift),
            slot_mask: vdupq_n_u16((1 << bits) - 1),
            bits: vdupq_n_s16(bits as i16),
            shift: vdupq_n_s32(-bits),
        }
    }

    /// Where the tables of 8 elements begin, given the words with their exponents.
    #[target_feature(enable = "neon")]
    fn starts(&self, words: uint16x8_t) -> uint16x8_t {
        let exponents = vandq_u16(vshlq_u16(words, self.exponent_shift), self.exponent_mask);
        let contexts = vminq_u16(vqsubq_u16(self.highest, exponents), vdupq_n_u16(15));
        // the upper half of each word gets nothing
        let contexts = vreinterpretq_u8_u16(vorrq_u16(contexts, vdupq_n_u16(0x8000)));
        let tables = vreinterpretq_u16_u8(vqtbl1q_u8(self.table_of, contexts));
        vshlq_u16(tables, self.bits)
    }

    /// The entries of 8 lanes, whose places in the tables are the start of a table and a slot in
    /// it.
    #[target_feature(enable = "neon")]
    fn look_up(&self, places: uint16x8_t) -> [uint32x4_t; 2] {
        let entries = self.tables.entries();
        let places = vreinterpretq_u64_u16(places);
        let entry = |place: u16| {
            // SAFETY: each place is the start of a table, behind which there are 2^bits entries,
            // and a slot below that
            u64::from(*unsafe { entries.get_unchecked(usize::from(place)) })
        };
        let pair =
            |places: u64| vcreate_u32(entry(places as u16) | entry((places >> 16) as u16) << 32);
        let four = |places: u64| vcombine_u32(pair(places), pair(places >> 32));
        [
            four(vgetq_lane_u64::<0>(places)),
            four(vgetq_lane_u64::<1>(places)),
        ]
    }
}

/// The states of all lanes, and the words of a step.
struct Flight<'a> {
    lo: [uint16x8_t; 8],
    hi: [uint16x8_t; 8],
    window: &'a [u8; WINDOW],
    /// How many bytes of the window were taken.
    taken: usize,
}

impl Flight<'_> {
    /// The symbols of 8 lanes with these starts of their tables. The states are left without the
    /// words that they need.
    #[target_feature(enable = "neon")]
    fn decode(&mut self, vectors: &Vectors<'_>, eight: usize, starts: uint16x8_t) -> uint16x8_t {
        let (lo, hi) = (self.lo[eight], self.hi[eight]);
        let [near, far] = vectors.look_up(vorrq_u16(starts, vandq_u16(lo, vectors.slot_mask)));
        let symbols = vuzp1q_u16(vreinterpretq_u16_u32(near), vreinterpretq_u16_u32(far));
        let near = r32_next(vzip1q_u16(lo, hi), near, vectors.shift);
        let far = r32_next(vzip2q_u16(lo, hi), far, vectors.shift);
        self.lo[eight] = vuzp1q_u16(near, far);
        self.hi[eight] = vuzp2q_u16(near, far);
        vandq_u16(symbols, vdupq_n_u16(0xff))
    }

    /// Takes a word for each lane that needs one.
    #[target_feature(enable = "neon")]
    fn feed(&mut self) {
        let need = self.hi.map(|hi| vceqzq_u16(hi));
        let takers = Takers::of(low_bytes(&need));
        for (eight, need) in need.into_iter().enumerate() {
            let (set, before) = takers.eight(eight);
            let (words, next) = (
                bytes_at(self.window, self.taken + 2 * before),
                self.lo[eight],
            );
            let fed = vqtbx1q_u8(vreinterpretq_u8_u16(next), words, load(&WORD_SHUFFLES[set]));
            self.lo[eight] = vreinterpretq_u16_u8(fed);
            self.hi[eight] = vbslq_u16(need, next, self.hi[eight]);
        }
        self.taken += 2 * takers.count();
    }

    /// Takes the lowest `counts` bits, at most 16, out of 8 states and gives them.
    #[target_feature(enable = "neon")]
    fn raw(&mut self, eight: usize, counts: uint16x8_t) -> uint16x8_t {
        let (lo, hi) = (self.lo[eight], self.hi[eight]);
        let left = vreinterpretq_s16_u16(counts);
        let right = vnegq_s16(left);
        let above = vshlq_u16(vdupq_n_u16(0xffff), left);
        let from_hi = vshlq_u16(hi, vaddq_s16(right, vdupq_n_s16(16)));
        self.lo[eight] = vorrq_u16(vshlq_u16(lo, right), from_hi);
        self.hi[eight] = vshlq_u16(hi, right);
        vbicq_u16(lo, above)
    }
}

#[target_feature(enable = "neon")]
fn steps<const WIDTH: usize>(
    block: &ContextBlock<'_>,
    decoder: &mut ContextDecoderState,
    out: &mut [u8],
) {
    let vectors = Vectors::of(block.tables);
    let (mut low, mut high) = ([[0_u8; 16]; 8], [[0_u8; 16]; 8]);
    let bytes = low.as_flattened_mut().as_chunks_mut::<2>().0.iter_mut();
    let bytes = bytes.zip(high.as_flattened_mut().as_chunks_mut::<2>().0);
    for ((low, high), state) in bytes.zip(decoder.states) {
        *low = (state as u16).to_le_bytes();
        *high = ((state >> 16) as u16).to_le_bytes();
    }
    let mut lo = low.map(|low| vreinterpretq_u16_u8(load(&low)));
    let mut hi = high.map(|high| vreinterpretq_u16_u8(load(&high)));
    let mut padded = [0; WINDOW];
    let bases = block.base.chunks_exact(WIDTH * LANES);
    for (out, base) in out.chunks_exact_mut(WIDTH * LANES).zip(bases) {
        let window = scalar::window(block.words, decoder.position, &mut padded);
        let mut flight = Flight {
            lo,
            hi,
            window,
            taken: 0,
        };
        let mut symbols = [vdupq_n_u16(0); 8];
        for (eight, symbols) in symbols.iter_mut().enumerate() {
            let words = exponent_words::<WIDTH>(&base[eight * WIDTH * 8..][..WIDTH * 8]);
            *symbols = flight.decode(&vectors, eight, vectors.starts(words));
        }
        flight.feed();
        add::<WIDTH>(&mut flight, &symbols, base, out);
        decoder.position += flight.taken;
        decoder.done += WIDTH * LANES;
        (lo, hi) = (flight.lo, flight.hi);
    }
    for eight in 0..8 {
        store(&mut low[eight], vreinterpretq_u8_u16(lo[eight]));
        store(&mut high[eight], vreinterpretq_u8_u16(hi[eight]));
    }
    let bytes = low.as_flattened().as_chunks::<2>().0.iter();
    let bytes = bytes.zip(high.as_flattened().as_chunks::<2>().0);
    for (state, (&[a, b], &[c, d])) in decoder.states.iter_mut().zip(bytes) {
        *state = u32::from_le_bytes([a, b, c, d]);
    }
}

/// The words in which 8 elements of `WIDTH` bytes have their exponents, a byte in the upper half of
/// its word.
#[target_feature(enable = "neon")]
fn exponent_words<const WIDTH: usize>(elements: &[u8]) -> uint16x8_t {
    match WIDTH {
        1 => vshll_n_u8::<8>(vcreate_u8(u64::from_le_bytes(elements.as_chunks().0[0]))),
        2 => vreinterpretq_u16_u8(vector(elements, 0)),
        _ => {
            let (near, far) = (vector(elements, 0), vector(elements, 1));
            vuzp2q_u16(vreinterpretq_u16_u8(near), vreinterpretq_u16_u8(far))
        }
    }
}

/// The vector at a place of some bytes, counted in vectors.
#[target_feature(enable = "neon")]
fn vector(bytes: &[u8], place: usize) -> uint8x16_t {
    load(&bytes.as_chunks().0[place])
}

/// Takes the raw bits of 64 symbols out of the states, and adds the differences to elements of
/// `WIDTH` bytes.
#[target_feature(enable = "neon")]
fn add<const WIDTH: usize>(
    flight: &mut Flight<'_>,
    symbols: &[uint16x8_t; 8],
    base: &[u8],
    out: &mut [u8],
) {
    let counts = symbols.map(|symbols| vqsubq_u16(vshrq_n_u16::<3>(symbols), vdupq_n_u16(1)));
    // the three bits behind the highest, and that
    let mut tops = *symbols;
    for (top, counts) in tops.iter_mut().zip(counts) {
        *top = vsubq_u16(*top, vshlq_n_u16::<3>(counts));
    }
    let mut raw = [[vdupq_n_u16(0); 8]; 2];
    for (raw, done) in raw
        .iter_mut()
        .zip([0, 16])
        .take(if WIDTH == 4 { 2 } else { 1 })
    {
        for (eight, raw) in raw.iter_mut().enumerate() {
            let left = vqsubq_u16(counts[eight], vdupq_n_u16(done));
            *raw = flight.raw(eight, vminq_u16(left, vdupq_n_u16(16)));
        }
        flight.feed();
    }
    let (outs, _) = out.as_chunks_mut::<16>();
    for (number, out) in outs.iter_mut().enumerate() {
        let base = vector(base, number);
        let near = |eight: usize| {
            let top = vshlq_u16(tops[eight], vreinterpretq_s16_u16(counts[eight]));
            vorrq_u16(top, raw[0][eight])
        };
        let sum = match WIDTH {
            1 => {
                let (first, second) = (near(2 * number), near(2 * number + 1));
                let (first, second) = (vreinterpretq_u8_u16(first), vreinterpretq_u8_u16(second));
                add_8(vuzp1q_u8(first, second), base)
            }
            2 => add_16(near(number), base),
            _ => {
                let (eight, is_far) = (number / 2, number % 2 == 1);
                let (zero, raw) = (vdupq_n_u16(0), raw.map(|raw| raw[eight]));
                let wide = |low, high| {
                    let wide = if is_far {
                        vzip2q_u16(low, high)
                    } else {
                        vzip1q_u16(low, high)
                    };
                    vreinterpretq_u32_u16(wide)
                };
                let count = vreinterpretq_s32_u32(wide(counts[eight], zero));
                let top = vshlq_u32(wide(tops[eight], zero), count);
                add_32(vorrq_u32(top, wide(raw[0], raw[1])), base)
            }
        };
        store(out, sum);
    }
}

/// Zigzagged differences added to elements of one byte; so are the two below to wider ones.
#[target_feature(enable = "neon")]
fn add_8(z: uint8x16_t, base: uint8x16_t) -> uint8x16_t {
    let flip = vnegq_s8(vreinterpretq_s8_u8(vandq_u8(z, vdupq_n_u8(1))));
    let d = veorq_u8(vshrq_n_u8::<1>(z), vreinterpretq_u8_s8(flip));
    let ordered = |bits| {
        let sign = vreinterpretq_u8_s8(vshrq_n_s8::<7>(vreinterpretq_s8_u8(bits)));
        veorq_u8(bits, vshrq_n_u8::<1>(sign))
    };
    ordered(vaddq_u8(ordered(base), d))
}

#[target_feature(enable = "neon")]
fn add_16(z: uint16x8_t, base: uint8x16_t) -> uint8x16_t {
    let flip = vnegq_s16(vreinterpretq_s16_u16(vandq_u16(z, vdupq_n_u16(1))));
    let d = veorq_u16(vshrq_n_u16::<1>(z), vreinterpretq_u16_s16(flip));
    let ordered = |bits| {
        let sign = vreinterpretq_u16_s16(vshrq_n_s16::<15>(vreinterpretq_s16_u16(bits)));
        veorq_u16(bits, vshrq_n_u16::<1>(sign))
    };
    vreinterpretq_u8_u16(ordered(vaddq_u16(ordered(vreinterpretq_u16_u8(base)), d)))
}

#[target_feature(enable = "neon")]
fn add_32(z: uint32x4_t, base: uint8x16_t) -> uint8x16_t {
    let flip = vnegq_s32(vreinterpretq_s32_u32(vandq_u32(z, vdupq_n_u32(1))));
    let d = veorq_u32(vshrq_n_u32::<1>(z), vreinterpretq_u32_s32(flip));
    let ordered = |bits| {
        let sign = vreinterpretq_u32_s32(vshrq_n_s32::<31>(vreinterpretq_s32_u32(bits)));
        veorq_u32(bits, vshrq_n_u32::<1>(sign))
    };
    vreinterpretq_u8_u32(ordered(vaddq_u32(ordered(vreinterpretq_u32_u8(base)), d)))
}
