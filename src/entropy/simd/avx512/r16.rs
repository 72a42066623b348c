//! R16 by AVX-512. The 64 states are two vectors of bytes, low and high, in the order of the lanes:
//! the slot is the low byte itself, and the bytes that lanes take from the stream are spread over
//! them by one expand.

#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls of functions for a processor that was asked for"
)]

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "instructions by their names")
)]
use std::arch::x86_64::*;

use crate::entropy::planes::Word;
use crate::entropy::r16::R16Block;
use crate::entropy::simd::avx512::vectors::LANES;
use crate::entropy::simd::avx512::vectors::load;
use crate::entropy::simd::avx512::vectors::store;
use crate::entropy::simd::scalar;
use crate::entropy::simd::scalar::R16DecoderState;

pub(super) fn r16_decode(block: &R16Block<'_>, out: &mut [Word]) -> bool {
    let Some(mut decoder) = R16DecoderState::<LANES>::begin(block, out) else {
        return scalar::r16_decode(block, out);
    };
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { r16_steps(block, &mut decoder, out) };
    decoder.finish(block, out)
}

pub(super) fn r16_decode_two(blocks: [&R16Block<'_>; 2], mut outs: [&mut [Word]; 2]) -> [bool; 2] {
    let begin = |i: usize| R16DecoderState::<LANES>::begin(blocks[i], outs[i]);
    let (Some(a), Some(b)) = (begin(0), begin(1)) else {
        let [a, b] = outs;
        return [r16_decode(blocks[0], a), r16_decode(blocks[1], b)];
    };
    let mut decoders = [a, b];
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { r16_steps_of_two(blocks, &mut decoders, &mut outs) };
    let [mut a, mut b] = decoders;
    // what one of them has more
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { r16_steps(blocks[0], &mut a, outs[0]) };
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { r16_steps(blocks[1], &mut b, outs[1]) };
    let [out_a, out_b] = outs;
    [a.finish(blocks[0], out_a), b.finish(blocks[1], out_b)]
}

/// The 16 bytes in each quarter.
#[target_feature(enable = "avx512f")]
fn repeat(bytes: &[u8; 16]) -> __m512i {
    // SAFETY: the array has the 16 bytes that are read; no alignment is needed
    let quarter = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm512_broadcast_i32x4(quarter)
}

/// What a table is to the vectors: the symbol's number for each slot, and frequency, start and
/// value by number.
struct R16Vectors {
    numbers: [__m512i; 4],
    freqs: __m512i,
    starts: __m512i,
    values: __m512i,
    escape: __m512i,
}

impl R16Vectors {
    #[target_feature(enable = "avx512f,avx512bw")]
    fn of(block: &R16Block<'_>) -> Self {
        let mut numbers = [0_u8; 256];
        let (mut freqs, mut starts, mut values) = ([0_u8; 16], [0_u8; 16], [0_u8; 16]);
        let mut slot = 0;
        for (number, &f) in block.table.freqs.iter().enumerate().take(16) {
            freqs[number] = f;
            starts[number] = slot as u8;
            values[number] = block.table.symbols.get(number).copied().unwrap_or_default();
            let end = (slot + usize::from(f)).min(256);
            numbers[slot..end].fill(number as u8);
            slot = end;
        }
        let (quarters, _) = numbers.as_chunks::<64>();
        let escape = if block.table.has_escape() {
            block.table.symbols.len() as i8
        } else {
            -1
        };
        Self {
            numbers: [
                load(&quarters[0]),
                load(&quarters[1]),
                load(&quarters[2]),
                load(&quarters[3]),
            ],
            freqs: repeat(&freqs),
            starts: repeat(&starts),
            values: repeat(&values),
            escape: _mm512_set1_epi8(escape),
        }
    }
}

/// A block being decoded by vectors: what `R16DecoderState` holds, in registers.
struct R16Flight<'a> {
    table: R16Vectors,
    lo: __m512i,
    hi: __m512i,
    stream: &'a [u8],
    position: usize,
    lits: &'a [u8],
    escapes: usize,
}

impl<'a> R16Flight<'a> {
    #[target_feature(enable = "avx512f,avx512bw")]
    fn begin(block: &'a R16Block<'_>, decoder: &R16DecoderState<LANES>) -> Self {
        let (mut low, mut high) = ([0_u8; LANES], [0_u8; LANES]);
        for ((low, high), state) in low.iter_mut().zip(&mut high).zip(decoder.states) {
            [*low, *high, ..] = state.to_le_bytes();
        }
        Self {
            table: R16Vectors::of(block),
            lo: load(&low),
            hi: load(&high),
            stream: block.stream,
            position: decoder.position,
            lits: block.lits,
            escapes: decoder.escapes,
        }
    }

    #[target_feature(enable = "avx512f")]
    fn end(self, steps: usize, decoder: &mut R16DecoderState<LANES>) {
        let (mut low, mut high) = ([0_u8; LANES], [0_u8; LANES]);
        store(&mut low, self.lo);
        store(&mut high, self.hi);
        for (state, (low, high)) in decoder.states.iter_mut().zip(low.into_iter().zip(high)) {
            *state = u32::from(u16::from_le_bytes([low, high]));
        }
        decoder.position = self.position;
        decoder.escapes = self.escapes;
        decoder.done += steps * LANES;
    }

    /// The 64 bytes of which a step takes some; none near the end of the stream.
    #[inline]
    fn window(&self) -> Option<&'a [u8; 64]> {
        self.stream.get(self.position..)?.first_chunk()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
    fn step(&mut self, window: &[u8; 64], plane: &[u8; 64], out: &mut [u8; 128]) {
        let even = _mm512_set1_epi16(0xff);
        let table = &self.table;
        let near = _mm512_permutex2var_epi8(table.numbers[0], self.lo, table.numbers[1]);
        let far = _mm512_permutex2var_epi8(table.numbers[2], self.lo, table.numbers[3]);
        let number = _mm512_mask_blend_epi8(_mm512_movepi8_mask(self.lo), near, far);
        let freq = _mm512_shuffle_epi8(table.freqs, number);
        let offset = _mm512_sub_epi8(self.lo, _mm512_shuffle_epi8(table.starts, number));
        let value = _mm512_shuffle_epi8(table.values, number);
        let a = _mm512_add_epi16(
            _mm512_mullo_epi16(
                _mm512_and_si512(freq, even),
                _mm512_and_si512(self.hi, even),
            ),
            _mm512_and_si512(offset, even),
        );
        let b = _mm512_add_epi16(
            _mm512_mullo_epi16(_mm512_srli_epi16(freq, 8), _mm512_srli_epi16(self.hi, 8)),
            _mm512_srli_epi16(offset, 8),
        );
        let next_lo = _mm512_or_si512(_mm512_and_si512(a, even), _mm512_slli_epi16(b, 8));
        let next_hi = _mm512_or_si512(_mm512_srli_epi16(a, 8), _mm512_andnot_si512(even, b));
        let need = _mm512_testn_epi8_mask(next_hi, next_hi);
        self.lo = _mm512_mask_expand_epi8(next_lo, need, load(window));
        self.hi = _mm512_mask_mov_epi8(next_hi, need, next_lo);
        self.position += need.count_ones() as usize;
        let escaped = _mm512_cmpeq_epi8_mask(number, table.escape);
        let low = plane;
        let plane = load(plane);
        let x = _mm512_unpacklo_epi8(plane, value);
        let y = _mm512_unpackhi_epi8(plane, value);
        let x = _mm512_shrdi_epi16::<1>(x, x);
        let y = _mm512_shrdi_epi16::<1>(y, y);
        // what unpack leaves apart, put in order
        let first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
        let second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        let (halves, _) = out.as_chunks_mut::<64>();
        store(&mut halves[0], _mm512_permutex2var_epi64(x, first, y));
        store(&mut halves[1], _mm512_permutex2var_epi64(x, second, y));
        if escaped != 0 {
            self.escapes = put_literals(escaped, self.lits, self.escapes, low, out);
        }
    }
}

/// Puts literals into the elements of the lanes that escaped, one step in ten has such; gives the
/// number of literals taken.
#[cold]
#[inline(never)]
fn put_literals(
    escaped: u64,
    lits: &[u8],
    mut taken: usize,
    low: &[u8; 64],
    out: &mut [u8; 128],
) -> usize {
    let mut left = escaped;
    while left != 0 {
        let lane = (left.trailing_zeros() & 63) as usize;
        // a missing one is found out at the end, by their number
        let high = lits.get(taken).copied().unwrap_or_default();
        let word = u16::from_le_bytes([low[lane], high]).rotate_right(1);
        out.as_chunks_mut::<2>().0[lane] = word.to_le_bytes();
        taken += 1;
        left &= left - 1;
    }
    taken
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
fn r16_steps(block: &R16Block<'_>, decoder: &mut R16DecoderState<LANES>, out: &mut [Word]) {
    let mut flight = R16Flight::begin(block, decoder);
    let first = decoder.done / LANES;
    let (outs, _) = out.as_flattened_mut().as_chunks_mut::<128>();
    let (planes, _) = block.plane.as_chunks::<64>();
    let mut steps = 0;
    for (out, plane) in outs.iter_mut().zip(planes).skip(first) {
        let Some(window) = flight.window() else {
            break;
        };
        flight.step(window, plane, out);
        steps += 1;
    }
    flight.end(steps, decoder);
}

/// The steps that two blocks have both, in turns: each step of a block waits for the one before,
/// and the other block's fills the time.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
fn r16_steps_of_two(
    blocks: [&R16Block<'_>; 2],
    decoders: &mut [R16DecoderState<LANES>; 2],
    outs: &mut [&mut [Word]; 2],
) {
    let [mut a, mut b] = [0, 1].map(|i| R16Flight::begin(blocks[i], &decoders[i]));
    let [out_a, out_b] = outs;
    let (outs_a, outs_b) = (
        out_a.as_flattened_mut().as_chunks_mut::<128>().0,
        out_b.as_flattened_mut().as_chunks_mut::<128>().0,
    );
    let planes_a = blocks[0].plane.as_chunks::<64>().0;
    let planes_b = blocks[1].plane.as_chunks::<64>().0;
    let mut steps = 0;
    let of_a = outs_a.iter_mut().zip(planes_a);
    let of_b = outs_b.iter_mut().zip(planes_b);
    for ((out_a, plane_a), (out_b, plane_b)) in of_a.zip(of_b) {
        let (Some(window_a), Some(window_b)) = (a.window(), b.window()) else {
            break;
        };
        a.step(window_a, plane_a, out_a);
        b.step(window_b, plane_b, out_b);
        steps += 1;
    }
    let [decoder_a, decoder_b] = decoders;
    a.end(steps, decoder_a);
    b.end(steps, decoder_b);
}
