//! Vectors of AVX-512 from bytes and back.

#![expect(unsafe_code, reason = "vector loads and stores")]

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "instructions by their names")
)]
use std::arch::x86_64::*;

/// Lanes of a step.
pub(super) const LANES: usize = 64;

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the array has the 64 bytes that are read; no alignment is needed
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
pub(super) fn store(bytes: &mut [u8; 64], vector: __m512i) {
    // SAFETY: the array has the 64 bytes that are written; no alignment is needed
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), vector) }
}
