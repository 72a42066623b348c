//! Vectors of AVX2 from bytes and back.

#![expect(unsafe_code, reason = "vector loads and stores")]

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "instructions by their names")
)]
use std::arch::x86_64::*;

use crate::entropy::simd::shuffles::BYTE_SHUFFLES;

/// Lanes of a step.
pub(super) const LANES: usize = 64;

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are read; no alignment is needed
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn store(bytes: &mut [u8; 32], vector: __m256i) {
    // SAFETY: the array has the 32 bytes that are written; no alignment is needed
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector) }
}

#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn load_half(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the array has the 16 bytes that are read; no alignment is needed
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// The places of `BYTE_SHUFFLES` for eight lanes of 32 bits; lanes that take none get the first
/// word, which is not used.
pub(super) static WORD_SHUFFLES: [[u32; 8]; 256] = {
    let mut words = [[0_u32; 8]; 256];
    let mut at = 0;
    while at < 8 * 256 {
        words[at / 8][at % 8] = BYTE_SHUFFLES[at / 8][at % 8] as u32 & 7;
        at += 1;
    }
    words
};

/// The next words from byte `at` of a window that has 16 bytes there, one for each lane of `set`.
#[inline]
#[target_feature(enable = "avx2")]
pub(super) fn words_for<const N: usize>(window: &[u8; N], at: usize, set: u32) -> __m256i {
    let words = &window[at.min(N - 16)..][..16];
    // SAFETY: the slice has the 16 bytes that are read; no alignment is needed
    let words = unsafe { _mm_loadu_si128(words.as_ptr().cast()) };
    let places = &WORD_SHUFFLES[(set & 255) as usize];
    // SAFETY: the array has the 32 bytes that are read; no alignment is needed
    let places = unsafe { _mm256_loadu_si256(places.as_ptr().cast()) };
    _mm256_permutevar8x32_epi32(_mm256_cvtepu16_epi32(words), places)
}
