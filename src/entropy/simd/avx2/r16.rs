//! R16 by AVX2. The states are as in `avx512`, in two halves of 32 lanes. The symbol's number is
//! how many starts are at most the slot, by up to 15 comparisons: there is no lookup of 256 bytes.
//! What AVX-512 expands is put in place here by shuffles from a table.

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
use crate::entropy::simd::avx2::vectors::LANES;
use crate::entropy::simd::avx2::vectors::load;
use crate::entropy::simd::avx2::vectors::load_half;
use crate::entropy::simd::avx2::vectors::store;
use crate::entropy::simd::scalar;
use crate::entropy::simd::scalar::R16DecoderState;
use crate::entropy::simd::shuffles::BYTE_SHUFFLES;

pub(super) fn r16_decode(block: &R16Block<'_>, out: &mut [Word]) -> bool {
    let Some(mut decoder) = R16DecoderState::<LANES>::begin(block, out) else {
        return scalar::r16_decode(block, out);
    };
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { r16_steps(block, &mut decoder, out) };
    decoder.finish(block, out)
}

/// What a table is to the vectors.
struct R16Vectors {
    /// Start of each number but the first, less one, with the sign bit flipped for a signed
    /// comparison; 0x7f for none.
    limits: [__m256i; 15],
    /// How many of them there are.
    limit_count: usize,
    freqs: __m256i,
    starts: __m256i,
    values: __m256i,
    escape: __m256i,
}

impl R16Vectors {
    #[target_feature(enable = "avx2")]
    fn of(block: &R16Block<'_>) -> Self {
        let (mut freqs, mut starts, mut values) = ([0_u8; 16], [0_u8; 16], [0_u8; 16]);
        let mut limits = [_mm256_set1_epi8(0x7f); 15];
        let mut start = 0_u8;
        for (number, &f) in block.table.freqs.iter().enumerate().take(16) {
            freqs[number] = f;
            starts[number] = start;
            values[number] = block.table.symbols.get(number).copied().unwrap_or_default();
            if number > 0 {
                let limit = start.wrapping_sub(1) ^ 0x80;
                limits[number - 1] = _mm256_set1_epi8(limit.cast_signed());
            }
            start = start.wrapping_add(f);
        }
        let twice = |bytes: &[u8; 16]| _mm256_broadcastsi128_si256(load_half(bytes));
        let escape = if block.table.has_escape() {
            block.table.symbols.len() as i8
        } else {
            -1
        };
        Self {
            limits,
            limit_count: block.table.freqs.len().clamp(1, 16) - 1,
            freqs: twice(&freqs),
            starts: twice(&starts),
            values: twice(&values),
            escape: _mm256_set1_epi8(escape),
        }
    }

    /// How many starts are at most each slot.
    #[target_feature(enable = "avx2")]
    fn numbers(&self, slots: __m256i) -> __m256i {
        let slots = _mm256_xor_si256(slots, _mm256_set1_epi8(-128));
        let mut numbers = _mm256_setzero_si256();
        for limit in &self.limits[..self.limit_count] {
            numbers = _mm256_sub_epi8(numbers, _mm256_cmpgt_epi8(slots, *limit));
        }
        numbers
    }
}

/// The next bytes of `window` from `at`, one for each lane of `set`, the other lanes 0; and where
/// the next ones are.
#[target_feature(enable = "avx2,popcnt")]
fn spread(window: &[u8], at: usize, set: u32) -> (__m256i, usize) {
    let mut halves = [_mm_setzero_si128(); 2];
    let mut at = at;
    for (half, set) in halves.iter_mut().zip([set & 0xffff, set >> 16]) {
        let (first, second) = (set & 255, set >> 8);
        let near = u64::from_le_bytes(BYTE_SHUFFLES[first as usize]);
        let skip = u64::from(first.count_ones()) * 0x0101_0101_0101_0101;
        let far = u64::from_le_bytes(BYTE_SHUFFLES[second as usize]) + skip;
        let places = _mm_set_epi64x(far.cast_signed(), near.cast_signed());
        if let Some(bytes) = window.get(at..).and_then(<[u8]>::first_chunk) {
            *half = _mm_shuffle_epi8(load_half(bytes), places);
        }
        at += set.count_ones() as usize;
    }
    (_mm256_set_m128i(halves[1], halves[0]), at)
}

#[target_feature(enable = "avx2,popcnt")]
#[expect(
    clippy::too_many_lines,
    reason = "one step, in the order of its instructions"
)]
fn r16_steps(block: &R16Block<'_>, decoder: &mut R16DecoderState<LANES>, out: &mut [Word]) {
    let table = R16Vectors::of(block);
    let (mut low, mut high) = ([0_u8; LANES], [0_u8; LANES]);
    for ((low, high), state) in low.iter_mut().zip(&mut high).zip(decoder.states) {
        [*low, *high, ..] = state.to_le_bytes();
    }
    let (lows, highs) = (low.as_chunks::<32>().0, high.as_chunks::<32>().0);
    let (mut lo, mut hi) = (
        [load(&lows[0]), load(&lows[1])],
        [load(&highs[0]), load(&highs[1])],
    );
    let even = _mm256_set1_epi16(0xff);
    let zero = _mm256_setzero_si256();
    let (steps, _) = out.as_flattened_mut().as_chunks_mut::<128>();
    let (planes, _) = block.plane.as_chunks::<64>();
    for (out, plane) in steps.iter_mut().zip(planes) {
        // 64 bytes for the lanes, and what a load of 16 may read behind the last of them
        let Some(window) = block.stream.get(decoder.position..decoder.position + 80) else {
            break;
        };
        let mut taken = 0;
        let halves = out
            .as_chunks_mut::<64>()
            .0
            .iter_mut()
            .zip(plane.as_chunks::<32>().0);
        for (half, (out, plane)) in halves.enumerate() {
            let number = table.numbers(lo[half]);
            let freq = _mm256_shuffle_epi8(table.freqs, number);
            let offset = _mm256_sub_epi8(lo[half], _mm256_shuffle_epi8(table.starts, number));
            let mut value = _mm256_shuffle_epi8(table.values, number);
            let a = _mm256_add_epi16(
                _mm256_mullo_epi16(
                    _mm256_and_si256(freq, even),
                    _mm256_and_si256(hi[half], even),
                ),
                _mm256_and_si256(offset, even),
            );
            let b = _mm256_add_epi16(
                _mm256_mullo_epi16(
                    _mm256_srli_epi16::<8>(freq),
                    _mm256_srli_epi16::<8>(hi[half]),
                ),
                _mm256_srli_epi16::<8>(offset),
            );
            let next_lo = _mm256_or_si256(_mm256_and_si256(a, even), _mm256_slli_epi16::<8>(b));
            let next_hi = _mm256_or_si256(_mm256_srli_epi16::<8>(a), _mm256_andnot_si256(even, b));
            let need = _mm256_cmpeq_epi8(next_hi, zero);
            let (bytes, after) = spread(window, taken, _mm256_movemask_epi8(need).cast_unsigned());
            taken = after;
            lo[half] = _mm256_blendv_epi8(next_lo, bytes, need);
            hi[half] = _mm256_blendv_epi8(next_hi, next_lo, need);
            let escaped = _mm256_cmpeq_epi8(number, table.escape);
            let set = _mm256_movemask_epi8(escaped).cast_unsigned();
            if set != 0 {
                let mut literals = [0_u8; 48];
                let rest = block.lits.get(decoder.escapes..).unwrap_or_default();
                let len = rest.len().min(32);
                literals[..len].copy_from_slice(&rest[..len]);
                let (bytes, after) = spread(&literals, 0, set);
                value = _mm256_blendv_epi8(value, bytes, escaped);
                decoder.escapes += after;
            }
            let plane = load(plane);
            let x = rotated(_mm256_unpacklo_epi8(plane, value));
            let y = rotated(_mm256_unpackhi_epi8(plane, value));
            let (quarters, _) = out.as_chunks_mut::<32>();
            store(&mut quarters[0], _mm256_permute2x128_si256::<0x20>(x, y));
            store(&mut quarters[1], _mm256_permute2x128_si256::<0x31>(x, y));
        }
        decoder.position += taken;
        decoder.done += LANES;
    }
    let (lows, highs) = (low.as_chunks_mut::<32>().0, high.as_chunks_mut::<32>().0);
    for half in 0..2 {
        store(&mut lows[half], lo[half]);
        store(&mut highs[half], hi[half]);
    }
    for (state, (low, high)) in decoder.states.iter_mut().zip(low.into_iter().zip(high)) {
        *state = u32::from(u16::from_le_bytes([low, high]));
    }
}

/// Words rotated right by one bit.
#[target_feature(enable = "avx2")]
fn rotated(words: __m256i) -> __m256i {
    _mm256_or_si256(
        _mm256_srli_epi16::<1>(words),
        _mm256_slli_epi16::<15>(words),
    )
}
