//! R32 by AVX2: the 64 states are eight vectors.

#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls of functions for a processor that was asked for"
)]

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "instructions by their names")
)]
use std::arch::x86_64::*;

use crate::entropy::cluster::STRIP_LEN;
use crate::entropy::r32::Carried;
use crate::entropy::r32::DecodeTable;
use crate::entropy::r32::EncodeTable;
use crate::entropy::r32::R32Coded;
use crate::entropy::r32::R32EncoderState;
use crate::entropy::r32::R32Plane;
use crate::entropy::simd::avx2::vectors::LANES;
use crate::entropy::simd::avx2::vectors::load;
use crate::entropy::simd::avx2::vectors::load_half;
use crate::entropy::simd::avx2::vectors::store;
use crate::entropy::simd::avx2::vectors::words_for;
use crate::entropy::simd::scalar;
use crate::entropy::simd::scalar::R32DecoderState;

pub(super) fn r32_decode<const GATHER: bool>(
    plane: &R32Plane<'_>,
    out: &mut [u8],
) -> Option<Carried> {
    let Some(mut decoder) = R32DecoderState::<LANES>::begin(plane) else {
        return scalar::r32_decode(plane, out);
    };
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { r32_steps::<GATHER>(plane, &mut decoder, out) };
    decoder.finish::<128>(plane, out)
}

pub(super) fn r32_encode<const GATHER: bool>(
    plane: &[u8],
    ids: &[u8],
    tables: &[EncodeTable],
    carried: &Carried,
    coded: &mut R32Coded,
) -> bool {
    let mut encoder = R32EncoderState::<LANES>::begin(plane.len(), carried, coded);
    let whole = plane.len() / LANES;
    let last = whole..plane.len().div_ceil(LANES);
    let mut held = encoder.steps(last, plane, ids, tables, coded);
    // SAFETY: `kernels` gives this function out only where the features were detected
    held &= unsafe { r32_encode_steps::<GATHER>(plane, ids, tables, &mut encoder, coded) };
    encoder.finish(coded);
    held
}

/// The entries of 8 slots: gathered, or by a load for each, two of which are joined before they go
/// into a vector.
#[target_feature(enable = "avx2")]
fn look_up<const GATHER: bool>(table: &DecodeTable, slots: __m256i) -> __m256i {
    let slots = _mm256_and_si256(slots, _mm256_set1_epi32(4095));
    if GATHER {
        // SAFETY: a table has 4096 entries of 4 bytes, and the slots have just been cut to below
        // 4096
        return unsafe { _mm256_i32gather_epi32::<4>(table.as_ptr().cast(), slots) };
    }
    let mut bytes = [0_u8; 32];
    store(&mut bytes, slots);
    let (pairs, _) = bytes.as_chunks::<8>();
    let pair = |number: usize| {
        let slots = u64::from_le_bytes(pairs[number]);
        let (low, high) = (slots as usize & 4095, (slots >> 32) as usize & 4095);
        (u64::from(table[low]) | u64::from(table[high]) << 32).cast_signed()
    };
    _mm256_setr_epi64x(pair(0), pair(1), pair(2), pair(3))
}

#[target_feature(enable = "avx2,popcnt")]
fn r32_steps<const GATHER: bool>(
    plane: &R32Plane<'_>,
    decoder: &mut R32DecoderState<LANES>,
    out: &mut [u8],
) {
    let mut states = [_mm256_setzero_si256(); 8];
    let mut bytes = [0_u8; 4 * LANES];
    for (bytes, state) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(decoder.states) {
        *bytes = state.to_le_bytes();
    }
    for (state, bytes) in states.iter_mut().zip(bytes.as_chunks::<32>().0) {
        *state = load(bytes);
    }
    let mask = _mm256_set1_epi32((1 << plane.bits) - 1);
    let shift = _mm_cvtsi32_si128(plane.bits.cast_signed());
    let freq_mask = _mm256_set1_epi32(4095);
    let (zero, symbol_mask) = (_mm256_setzero_si256(), _mm256_set1_epi32(255));
    // packing works in each half by itself: this puts groups of four bytes in order
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    'strips: for (number, strip) in out.chunks_mut(STRIP_LEN).enumerate() {
        let Some(table) = plane.tables.get(plane.table_id(number)) else {
            break;
        };
        for symbols in strip.as_chunks_mut::<LANES>().0 {
            // a step takes at most 64 words
            let Some(window) = plane
                .words
                .get(decoder.position..)
                .and_then(<[u8]>::first_chunk::<128>)
            else {
                break 'strips;
            };
            let mut taken = 0;
            let mut entries = [zero; 8];
            for (state, entry) in states.iter_mut().zip(&mut entries) {
                *entry = look_up::<GATHER>(table, _mm256_and_si256(*state, mask));
                let f = _mm256_and_si256(_mm256_srli_epi32::<8>(*entry), freq_mask);
                let next = _mm256_add_epi32(
                    _mm256_mullo_epi32(f, _mm256_srl_epi32(*state, shift)),
                    _mm256_srli_epi32::<20>(*entry),
                );
                let need = _mm256_cmpeq_epi32(_mm256_srli_epi32::<16>(next), zero);
                let set = _mm256_movemask_ps(_mm256_castsi256_ps(need)).cast_unsigned();
                let words = words_for(window, taken, set);
                let fed = _mm256_or_si256(_mm256_slli_epi32::<16>(next), words);
                *state = _mm256_blendv_epi8(next, fed, need);
                taken += 2 * set.count_ones() as usize;
                *entry = _mm256_and_si256(*entry, symbol_mask);
            }
            for (four, out) in entries
                .as_chunks::<4>()
                .0
                .iter()
                .zip(symbols.as_chunks_mut::<32>().0)
            {
                let left = _mm256_packus_epi32(four[0], four[1]);
                let right = _mm256_packus_epi32(four[2], four[3]);
                let packed = _mm256_packus_epi16(left, right);
                store(out, _mm256_permutevar8x32_epi32(packed, order));
            }
            decoder.position += taken;
            decoder.done += LANES;
        }
    }
    for (state, bytes) in states.iter().zip(bytes.as_chunks_mut::<32>().0) {
        store(bytes, *state);
    }
    for (state, bytes) in decoder.states.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *state = u32::from_le_bytes(*bytes);
    }
}

/// For each set of eight words the places that put them, in order, at the end of eight.
static SPILL_SHUFFLES: [[u8; 16]; 256] = {
    let mut places = [[0x80_u8; 16]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut word, mut next) = (8_u8, 8);
        while word > 0 {
            word -= 1;
            if set >> word & 1 == 1 {
                next -= 1;
                places[set][2 * next] = 2 * word;
                places[set][2 * next + 1] = 2 * word + 1;
            }
        }
        set += 1;
    }
    places
};

/// Frequency and start of 8 symbols.
#[target_feature(enable = "avx2")]
fn entries<const GATHER: bool>(table: &EncodeTable, symbols: &[u8; 8]) -> __m256i {
    if GATHER {
        let symbols = _mm_cvtsi64_si128(i64::from_le_bytes(*symbols));
        let places = _mm256_cvtepu8_epi32(symbols);
        // SAFETY: the table has 256 entries of 4 bytes, and a byte names one of them
        return unsafe { _mm256_i32gather_epi32::<4>(table.entries.as_ptr().cast(), places) };
    }
    let mut bytes = [0_u8; 32];
    for (bytes, symbol) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(symbols) {
        *bytes = table.entries[usize::from(*symbol)].to_le_bytes();
    }
    load(&bytes)
}

/// Codes the whole steps of `plane`, the last of them first. False if a symbol has no frequency.
#[target_feature(enable = "avx2,popcnt")]
fn r32_encode_steps<const GATHER: bool>(
    plane: &[u8],
    ids: &[u8],
    tables: &[EncodeTable],
    encoder: &mut R32EncoderState<LANES>,
    coded: &mut R32Coded,
) -> bool {
    let mut states = [_mm256_setzero_si256(); 8];
    let mut bytes = [0_u8; 4 * LANES];
    for (bytes, state) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(encoder.states) {
        *bytes = state.to_le_bytes();
    }
    for (state, bytes) in states.iter_mut().zip(bytes.as_chunks::<32>().0) {
        *state = load(bytes);
    }
    let half = _mm256_set1_epi32(0xffff);
    let zero = _mm256_setzero_si256();
    let mut missing = zero;
    for (number, step) in plane.as_chunks::<LANES>().0.iter().enumerate().rev() {
        let table = &tables[usize::from(ids[number * LANES / STRIP_LEN])];
        let groups = states.iter_mut().zip(step.as_chunks::<8>().0);
        for (state, symbols) in groups.rev() {
            let entry = entries::<GATHER>(table, symbols);
            let freq = _mm256_and_si256(entry, half);
            missing = _mm256_or_si256(missing, _mm256_cmpeq_epi32(freq, zero));
            let limit = _mm256_slli_epi32::<20>(freq);
            let spill = _mm256_cmpeq_epi32(_mm256_max_epu32(*state, limit), *state);
            let set = _mm256_movemask_ps(_mm256_castsi256_ps(spill)).cast_unsigned();
            put_words(&mut coded.stack[..encoder.top], *state, set);
            encoder.top -= set.count_ones() as usize;
            let x = _mm256_blendv_epi8(*state, _mm256_srli_epi32::<16>(*state), spill);
            // the quotient by way of floats is at most one off, as it is below 2^20: what is left
            // over tells
            let near = _mm256_div_ps(to_float(x), _mm256_cvtepi32_ps(freq));
            let mut quotient = _mm256_cvttps_epi32(near);
            let mut rest = _mm256_sub_epi32(x, _mm256_mullo_epi32(quotient, freq));
            // masks are -1: adding one takes one away
            let below = _mm256_cmpgt_epi32(zero, rest);
            quotient = _mm256_add_epi32(quotient, below);
            rest = _mm256_add_epi32(rest, _mm256_and_si256(below, freq));
            let within = _mm256_cmpgt_epi32(freq, rest);
            quotient =
                _mm256_sub_epi32(quotient, _mm256_andnot_si256(within, _mm256_set1_epi32(-1)));
            rest = _mm256_sub_epi32(rest, _mm256_andnot_si256(within, freq));
            let high = _mm256_slli_epi32::<12>(quotient);
            *state = _mm256_add_epi32(_mm256_add_epi32(high, rest), _mm256_srli_epi32::<16>(entry));
        }
    }
    for (state, bytes) in states.iter().zip(bytes.as_chunks_mut::<32>().0) {
        store(bytes, *state);
    }
    for (state, bytes) in encoder.states.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *state = u32::from_le_bytes(*bytes);
    }
    _mm256_testz_si256(missing, missing) == 1
}

/// Unsigned integers as floats, rounded once.
#[target_feature(enable = "avx2")]
fn to_float(x: __m256i) -> __m256 {
    let low = _mm256_cvtepi32_ps(_mm256_and_si256(x, _mm256_set1_epi32(0xffff)));
    let high = _mm256_cvtepi32_ps(_mm256_srli_epi32::<16>(x));
    _mm256_add_ps(_mm256_mul_ps(high, _mm256_set1_ps(65_536.0)), low)
}

/// Writes the low halves of those states that are in `set` to the end of `out`, of which at least 8
/// words must be left.
#[target_feature(enable = "avx2")]
fn put_words(out: &mut [u16], states: __m256i, set: u32) {
    let halves = _mm256_packus_epi32(
        _mm256_and_si256(states, _mm256_set1_epi32(0xffff)),
        _mm256_setzero_si256(),
    );
    let words = _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(halves));
    let spilled = _mm_shuffle_epi8(words, load_half(&SPILL_SHUFFLES[(set & 255) as usize]));
    if let Some(out) = out.last_chunk_mut::<8>() {
        // SAFETY: the array has the 16 bytes that are written; no alignment is needed
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), spilled) };
    }
}
