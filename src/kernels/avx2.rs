//! AVX2 with FMA and F16C: 64 lanes are eight registers.
#![expect(unsafe_code, reason = "intrinsics")]
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "one fact makes all intrinsics of a block sound"
)]

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "instructions by their names")
)]
use std::arch::x86_64::*;

use crate::kernels::LANES;
use crate::kernels::gemm;
use crate::kernels::group::GROUP_LEN;
use crate::kernels::scalar;
use crate::kernels::simd::BF16;
use crate::kernels::simd::F8;
use crate::kernels::simd::F16;
use crate::kernels::simd::Kernel;
use crate::kernels::simd::Operands;
use crate::kernels::simd::Simd;
use crate::kernels::simd::size_of_element;

const WIDTH: usize = 8;

/// The proof that this processor has the instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx2(());

impl Avx2 {
    /// The proof, if they are there.
    pub(super) fn detect() -> Option<Self> {
        let is_there = is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        is_there.then_some(Self(()))
    }
}

impl Simd for Avx2 {
    type Sums = [__m256; LANES / WIDTH];
    type Register = __m256;
    const WIDTH: usize = WIDTH;

    #[inline(always)]
    fn zeros(self) -> Self::Sums {
        [self.zero(); LANES / WIDTH]
    }

    #[inline(always)]
    fn sum(self, sums: Self::Sums) -> f32 {
        // SAFETY: `self` proves that the processor has AVX2
        unsafe {
            let add = |a, b| _mm256_add_ps(a, b);
            let (a, b) = (add(sums[0], sums[4]), add(sums[1], sums[5]));
            let (c, d) = (add(sums[2], sums[6]), add(sums[3], sums[7]));
            let eight = add(add(a, c), add(b, d));
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn zero(self) -> __m256 {
        // SAFETY: `self` proves that the processor has AVX2
        unsafe { _mm256_setzero_ps() }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m256 {
        let from = &from[..WIDTH];
        // SAFETY: eight values are there, and `self` proves AVX2
        unsafe { _mm256_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn fma(self, a: __m256, b: __m256, sum: __m256) -> __m256 {
        // SAFETY: `self` proves that the processor has FMA
        unsafe { _mm256_fmadd_ps(a, b, sum) }
    }

    #[inline(always)]
    fn store(self, register: __m256, to: &mut [f32]) {
        let to = &mut to[..WIDTH];
        // SAFETY: eight values have room, and `self` proves AVX2
        unsafe { _mm256_storeu_ps(to.as_mut_ptr(), register) }
    }

    #[inline(always)]
    fn widen<const E: u8>(self, weights: &[u8], number: usize) -> __m256 {
        let len = WIDTH * size_of_element(E);
        let weights = &weights[number * len..][..len];
        // SAFETY: the bytes of eight elements are there, and `self` proves AVX2 and F16C
        unsafe {
            match E {
                BF16 => {
                    let halves = _mm_loadu_si128(weights.as_ptr().cast());
                    _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(halves)))
                }
                F8 => {
                    let bytes = _mm_loadl_epi64(weights.as_ptr().cast());
                    let bytes = _mm256_cvtepu8_epi32(bytes);
                    let magnitude = _mm256_and_si256(bytes, _mm256_set1_epi32(0x7f));
                    let sign = _mm256_slli_epi32::<24>(_mm256_xor_si256(bytes, magnitude));
                    let value = _mm256_castsi256_ps(_mm256_slli_epi32::<20>(magnitude));
                    let value = _mm256_mul_ps(value, _mm256_set1_ps(scalar::F8_SCALE));
                    let last = _mm256_cmpeq_epi32(magnitude, _mm256_set1_epi32(0x7f));
                    let nan = _mm256_set1_ps(f32::NAN);
                    let value = _mm256_blendv_ps(value, nan, _mm256_castsi256_ps(last));
                    _mm256_or_ps(value, _mm256_castsi256_ps(sign))
                }
                F16 => _mm256_cvtph_ps(_mm_loadu_si128(weights.as_ptr().cast())),
                _ => _mm256_loadu_ps(weights.as_ptr().cast()),
            }
        }
    }

    const ROWS: usize = 3;
    const VECTORS: usize = 4;

    #[inline(always)]
    fn multiply(self, operands: Operands<'_>, lane: usize, lanes: &mut [[f32; LANES]]) {
        if lanes.len() == 3 {
            gemm::multiply::<Self, 3, 1>(self, operands, lane, lanes);
        } else {
            gemm::multiply::<Self, 3, 4>(self, operands, lane, lanes);
        }
    }

    #[inline(always)]
    fn widen_packed(self, group: &[u8; GROUP_LEN], table: &[u8; 16]) -> Self::Sums {
        // SAFETY: a group has 96 bytes, the table 16, and `self` proves AVX2
        unsafe {
            let from = group.as_ptr();
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            let (zero, half) = (_mm256_setzero_si256(), _mm256_set1_epi8(15));
            let codes = _mm256_loadu_si256(from.cast());
            let codes = [codes, _mm256_srli_epi16::<4>(codes)];
            let mut values = self.zeros();
            for (block, codes) in codes.into_iter().enumerate() {
                let upper = _mm256_shuffle_epi8(table, _mm256_and_si256(codes, half));
                let lower = _mm256_loadu_si256(from.add(32 + 32 * block).cast());
                let first = _mm256_unpacklo_epi8(lower, upper);
                let second = _mm256_unpackhi_epi8(lower, upper);
                let widened = [
                    _mm256_unpacklo_epi16(zero, first),
                    _mm256_unpackhi_epi16(zero, first),
                    _mm256_unpacklo_epi16(zero, second),
                    _mm256_unpackhi_epi16(zero, second),
                ];
                for (at, widened) in widened.into_iter().enumerate() {
                    values[4 * block + at] = _mm256_castsi256_ps(widened);
                }
            }
            values
        }
    }

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        // SAFETY: `self` proves that the processor has AVX2, FMA and F16C
        unsafe { run_there(kernel, self) }
    }
}

/// Everything that is inlined here is compiled for these instructions.
#[target_feature(enable = "avx2,fma,f16c")]
fn run_there<K: Kernel>(kernel: K, simd: Avx2) {
    kernel.run(simd);
}
