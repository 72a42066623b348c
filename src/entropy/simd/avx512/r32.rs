//! R32 by AVX-512: the 64 states are four vectors.

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
use crate::entropy::simd::avx512::vectors::LANES;
use crate::entropy::simd::avx512::vectors::load;
use crate::entropy::simd::avx512::vectors::store;
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

/// The entries of 16 slots: gathered, or by a load for each, two of which are joined before they go
/// into a vector.
#[target_feature(enable = "avx512f")]
fn look_up<const GATHER: bool>(table: &DecodeTable, slots: __m512i) -> __m512i {
    let slots = _mm512_and_si512(slots, _mm512_set1_epi32(4095));
    if GATHER {
        // SAFETY: a table has 4096 entries of 4 bytes, and the slots have just been cut to below
        // 4096
        return unsafe { _mm512_i32gather_epi32::<4>(slots, table.as_ptr().cast()) };
    }
    let mut bytes = [0_u8; 64];
    store(&mut bytes, slots);
    let (pairs, _) = bytes.as_chunks::<8>();
    let pair = |number: usize| {
        let slots = u64::from_le_bytes(pairs[number]);
        let (low, high) = (slots as usize & 4095, (slots >> 32) as usize & 4095);
        (u64::from(table[low]) | u64::from(table[high]) << 32).cast_signed()
    };
    _mm512_setr_epi64(
        pair(0),
        pair(1),
        pair(2),
        pair(3),
        pair(4),
        pair(5),
        pair(6),
        pair(7),
    )
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
fn r32_steps<const GATHER: bool>(
    plane: &R32Plane<'_>,
    decoder: &mut R32DecoderState<LANES>,
    out: &mut [u8],
) {
    let mut states = [_mm512_setzero_si512(); 4];
    let mut bytes = [0_u8; 4 * LANES];
    for (bytes, state) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(decoder.states) {
        *bytes = state.to_le_bytes();
    }
    for (state, bytes) in states.iter_mut().zip(bytes.as_chunks::<64>().0) {
        *state = load(bytes);
    }
    let mask = _mm512_set1_epi32((1 << plane.bits) - 1);
    let shift = _mm_cvtsi32_si128(plane.bits.cast_signed());
    let freq_mask = _mm512_set1_epi32(4095);
    let least = _mm512_set1_epi32(1 << 16);
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
            for (state, symbols) in states.iter_mut().zip(symbols.as_chunks_mut::<16>().0) {
                let entry = look_up::<GATHER>(table, _mm512_and_si512(*state, mask));
                let f = _mm512_and_si512(_mm512_srli_epi32::<8>(entry), freq_mask);
                let next = _mm512_add_epi32(
                    _mm512_mullo_epi32(f, _mm512_srl_epi32(*state, shift)),
                    _mm512_srli_epi32::<20>(entry),
                );
                let need = _mm512_cmplt_epu32_mask(next, least);
                let words = words_at(window, taken);
                let words = _mm512_maskz_expand_epi32(need, _mm512_cvtepu16_epi32(words));
                *state = _mm512_or_si512(_mm512_mask_slli_epi32::<16>(next, need, next), words);
                taken += 2 * need.count_ones() as usize;
                let narrow = _mm512_cvtepi32_epi8(entry);
                // SAFETY: the array has the 16 bytes that are written; no alignment is needed
                unsafe { _mm_storeu_si128(symbols.as_mut_ptr().cast(), narrow) };
            }
            decoder.position += taken;
            decoder.done += LANES;
        }
    }
    for (state, bytes) in states.iter().zip(bytes.as_chunks_mut::<64>().0) {
        store(bytes, *state);
    }
    for (state, bytes) in decoder.states.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *state = u32::from_le_bytes(*bytes);
    }
}

/// 16 words from byte `at` of the window, of which each group before has taken at most 16: `at` is
/// at most 96.
#[target_feature(enable = "avx512f")]
fn words_at(window: &[u8; 128], at: usize) -> __m256i {
    let words = &window[at.min(96)..][..32];
    // SAFETY: the slice has the 32 bytes that are read; no alignment is needed
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

/// Frequency and start of 16 symbols.
#[target_feature(enable = "avx512f")]
fn entries<const GATHER: bool>(table: &EncodeTable, symbols: &[u8; 16]) -> __m512i {
    if GATHER {
        // SAFETY: the array has the 16 bytes that are read; no alignment is needed
        let symbols = unsafe { _mm_loadu_si128(symbols.as_ptr().cast()) };
        let places = _mm512_cvtepu8_epi32(symbols);
        // SAFETY: the table has 256 entries of 4 bytes, and a byte names one of them
        return unsafe { _mm512_i32gather_epi32::<4>(places, table.entries.as_ptr().cast()) };
    }
    let mut bytes = [0_u8; 64];
    for (bytes, symbol) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(symbols) {
        *bytes = table.entries[usize::from(*symbol)].to_le_bytes();
    }
    load(&bytes)
}

/// Codes the whole steps of `plane`, the last of them first. False if a symbol has no frequency.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
fn r32_encode_steps<const GATHER: bool>(
    plane: &[u8],
    ids: &[u8],
    tables: &[EncodeTable],
    encoder: &mut R32EncoderState<LANES>,
    coded: &mut R32Coded,
) -> bool {
    let mut states = [_mm512_setzero_si512(); 4];
    let mut bytes = [0_u8; 4 * LANES];
    for (bytes, state) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(encoder.states) {
        *bytes = state.to_le_bytes();
    }
    for (state, bytes) in states.iter_mut().zip(bytes.as_chunks::<64>().0) {
        *state = load(bytes);
    }
    let half = _mm512_set1_epi32(0xffff);
    let zero = _mm512_setzero_si512();
    let mut missing = 0;
    for (number, step) in plane.as_chunks::<LANES>().0.iter().enumerate().rev() {
        let table = &tables[usize::from(ids[number * LANES / STRIP_LEN])];
        let groups = states.iter_mut().zip(step.as_chunks::<16>().0);
        for (state, symbols) in groups.rev() {
            let entry = entries::<GATHER>(table, symbols);
            let freq = _mm512_and_si512(entry, half);
            missing |= _mm512_testn_epi32_mask(freq, freq);
            let spill = _mm512_cmpge_epu32_mask(*state, _mm512_slli_epi32::<20>(freq));
            let words = _mm256_maskz_compress_epi16(spill, _mm512_cvtepi32_epi16(*state));
            encoder.top -= spill.count_ones() as usize;
            put_words(&mut coded.stack[encoder.top..], words, spill.count_ones());
            let x = _mm512_mask_srli_epi32::<16>(*state, spill, *state);
            // the quotient by way of floats is at most one off, as it is below 2^20: what is left
            // over tells
            let near = _mm512_div_ps(_mm512_cvtepu32_ps(x), _mm512_cvtepi32_ps(freq));
            let mut quotient = _mm512_cvttps_epi32(near);
            let mut rest = _mm512_sub_epi32(x, _mm512_mullo_epi32(quotient, freq));
            let below = _mm512_cmplt_epi32_mask(rest, zero);
            let ones = _mm512_set1_epi32(1);
            quotient = _mm512_mask_sub_epi32(quotient, below, quotient, ones);
            rest = _mm512_mask_add_epi32(rest, below, rest, freq);
            let above = _mm512_cmpge_epi32_mask(rest, freq);
            quotient = _mm512_mask_add_epi32(quotient, above, quotient, ones);
            rest = _mm512_mask_sub_epi32(rest, above, rest, freq);
            let high = _mm512_slli_epi32::<12>(quotient);
            *state = _mm512_add_epi32(_mm512_add_epi32(high, rest), _mm512_srli_epi32::<16>(entry));
        }
    }
    for (state, bytes) in states.iter().zip(bytes.as_chunks_mut::<64>().0) {
        store(bytes, *state);
    }
    for (state, bytes) in encoder.states.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *state = u32::from_le_bytes(*bytes);
    }
    missing == 0
}

/// Writes the first `count` of 16 words.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn put_words(out: &mut [u16], words: __m256i, count: u32) {
    let out = &mut out[..count as usize];
    let first = ((1_u32 << count) - 1) as u16;
    // SAFETY: the slice has as many words as the mask has bits, and no other is written; no
    // alignment is needed
    unsafe { _mm256_mask_storeu_epi16(out.as_mut_ptr().cast(), first, words) };
}
