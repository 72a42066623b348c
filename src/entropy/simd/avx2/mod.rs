//! The kernels for AVX2: whole steps with vectors, the rest by `scalar`.

#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls of functions for a processor that was asked for"
)]

mod context;
mod r16;
mod r32;

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "instructions by their names")
)]
use std::arch::x86_64::*;

use crate::entropy::planes;
use crate::entropy::planes::Word;
use crate::entropy::simd::dispatch::Kernels;
use crate::entropy::simd::places::BYTE_PLACES;

const LANES: usize = 64;

/// These sets, if the processor can run them: with gathers, which are slow on some processors, and with loads instead. Their
/// functions are reachable only through here, which is what makes calling them sound.
pub(super) fn kernels() -> Option<[Kernels; 2]> {
    let can = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt");
    let set = |name, r32_decode, r32_encode, context_decode| Kernels {
        name,
        r16_decode: r16::r16_decode,
        // two at once would not fit into the registers
        r16_decode_two: None,
        r32_decode,
        r32_encode,
        context_decode,
        context_decode_two: None,
        merge_top,
        split_top,
        merge_rotated,
        merge_quads,
    };
    let sets = [
        set(
            "avx2-loads",
            r32::r32_decode::<false>,
            r32::r32_encode::<false>,
            context::context_decode::<false>,
        ),
        set(
            "avx2",
            r32::r32_decode::<true>,
            r32::r32_encode::<true>,
            context::context_decode::<true>,
        ),
    ];
    if can { Some(sets) } else { None }
}

fn merge_top(
    symbols: &[u8],
    base: u8,
    lits: &[u8],
    packed: &[u8],
    words: &mut [Word],
) -> Option<usize> {
    #[target_feature(enable = "avx2")]
    fn with_features(
        s: &[u8],
        base: u8,
        lits: &[u8],
        packed: &[u8],
        words: &mut [Word],
    ) -> Option<usize> {
        planes::merge_top(s, base, lits, packed, words)
    }
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { with_features(symbols, base, lits, packed, words) }
}

fn merge_rotated(high: &[u8], low: &[u8], words: &mut [Word]) {
    #[target_feature(enable = "avx2")]
    fn with_features(high: &[u8], low: &[u8], words: &mut [Word]) {
        planes::merge_rotated(high, low, words);
    }
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { with_features(high, low, words) }
}

fn merge_quads(upper: &[Word], one: &[u8], zero: &[u8], quads: &mut [[u8; 4]]) {
    #[target_feature(enable = "avx2")]
    fn with_features(upper: &[Word], one: &[u8], zero: &[u8], quads: &mut [[u8; 4]]) {
        planes::merge_quads(upper, one, zero, quads);
    }
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { with_features(upper, one, zero, quads) }
}

fn split_top(
    words: &[Word],
    base: u8,
    symbols: &mut [u8],
    lits: &mut Vec<u8>,
    packed: &mut Vec<u8>,
) {
    #[target_feature(enable = "avx2")]
    fn with_features(w: &[Word], base: u8, s: &mut [u8], lits: &mut Vec<u8>, packed: &mut Vec<u8>) {
        planes::split_top(w, base, s, lits, packed);
    }
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { with_features(words, base, symbols, lits, packed) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are read; no alignment is needed
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn store(bytes: &mut [u8; 32], vector: __m256i) {
    // SAFETY: the array has the 32 bytes that are written; no alignment is needed
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector) }
}

#[inline]
#[target_feature(enable = "avx2")]
fn load_half(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the array has the 16 bytes that are read; no alignment is needed
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// The places of `BYTE_PLACES` for eight lanes of 32 bits; lanes that take none get the first word, which is not used.
static WORD_PLACES: [[u32; 8]; 256] = {
    let mut words = [[0_u32; 8]; 256];
    let mut at = 0;
    while at < 8 * 256 {
        words[at / 8][at % 8] = BYTE_PLACES[at / 8][at % 8] as u32 & 7;
        at += 1;
    }
    words
};

/// The next words from byte `at` of a window that has 16 bytes there, one for each lane of `set`.
#[inline]
#[target_feature(enable = "avx2")]
fn words_for<const N: usize>(window: &[u8; N], at: usize, set: u32) -> __m256i {
    let words = &window[at.min(N - 16)..][..16];
    // SAFETY: the slice has the 16 bytes that are read; no alignment is needed
    let words = unsafe { _mm_loadu_si128(words.as_ptr().cast()) };
    let places = &WORD_PLACES[(set & 255) as usize];
    // SAFETY: the array has the 32 bytes that are read; no alignment is needed
    let places = unsafe { _mm256_loadu_si256(places.as_ptr().cast()) };
    _mm256_permutevar8x32_epi32(_mm256_cvtepu16_epi32(words), places)
}
