//! AVX-512: 64 lanes are four registers.
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

const WIDTH: usize = 16;

/// The proof that this processor has the instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Avx512(());

impl Avx512 {
    /// The proof, if they are there.
    pub(super) fn detect() -> Option<Self> {
        let is_there = crate::base::level::Level::Avx512.is_there()
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("fma")
            && is_x86_feature_detected!("f16c");
        is_there.then_some(Self(()))
    }
}

impl Simd for Avx512 {
    type Sums = [__m512; LANES / WIDTH];
    type Register = __m512;
    const WIDTH: usize = WIDTH;

    #[inline(always)]
    fn zeros(self) -> Self::Sums {
        [self.zero(); LANES / WIDTH]
    }

    #[inline(always)]
    fn sum(self, sums: Self::Sums) -> f32 {
        // SAFETY: `self` proves that the processor has AVX-512F and DQ
        unsafe {
            let add = |a, b| _mm512_add_ps(a, b);
            let sixteen = add(add(sums[0], sums[2]), add(sums[1], sums[3]));
            let eight = _mm256_add_ps(
                _mm512_castps512_ps256(sixteen),
                _mm512_extractf32x8_ps::<1>(sixteen),
            );
            let four = _mm_add_ps(
                _mm256_castps256_ps128(eight),
                _mm256_extractf128_ps::<1>(eight),
            );
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps::<1>(two, two)))
        }
    }

    #[inline(always)]
    fn zero(self) -> __m512 {
        // SAFETY: `self` proves that the processor has AVX-512F
        unsafe { _mm512_setzero_ps() }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> __m512 {
        let from = &from[..WIDTH];
        // SAFETY: sixteen values are there, and `self` proves AVX-512F
        unsafe { _mm512_loadu_ps(from.as_ptr()) }
    }

    #[inline(always)]
    fn fma(self, a: __m512, b: __m512, sum: __m512) -> __m512 {
        // SAFETY: `self` proves that the processor has AVX-512F
        unsafe { _mm512_fmadd_ps(a, b, sum) }
    }

    #[inline(always)]
    fn store(self, register: __m512, to: &mut [f32]) {
        let to = &mut to[..WIDTH];
        // SAFETY: sixteen values have room, and `self` proves AVX-512F
        unsafe { _mm512_storeu_ps(to.as_mut_ptr(), register) }
    }

    #[inline(always)]
    fn widen<const E: u8>(self, weights: &[u8], number: usize) -> __m512 {
        let len = WIDTH * size_of_element(E);
        let weights = &weights[number * len..][..len];
        // SAFETY: the bytes of sixteen elements are there, and `self` proves AVX-512F
        unsafe {
            match E {
                BF16 => {
                    let halves = _mm256_loadu_si256(weights.as_ptr().cast());
                    _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
                }
                F8 => {
                    let bytes = _mm512_cvtepu8_epi32(_mm_loadu_si128(weights.as_ptr().cast()));
                    let magnitude = _mm512_and_si512(bytes, _mm512_set1_epi32(0x7f));
                    let sign = _mm512_slli_epi32::<24>(_mm512_xor_si512(bytes, magnitude));
                    let value = _mm512_castsi512_ps(_mm512_slli_epi32::<20>(magnitude));
                    let value = _mm512_mul_ps(value, _mm512_set1_ps(scalar::F8_SCALE));
                    let last = _mm512_cmpeq_epi32_mask(magnitude, _mm512_set1_epi32(0x7f));
                    let value = _mm512_mask_mov_ps(value, last, _mm512_set1_ps(f32::NAN));
                    _mm512_or_ps(value, _mm512_castsi512_ps(sign))
                }
                F16 => _mm512_cvtph_ps(_mm256_loadu_si256(weights.as_ptr().cast())),
                _ => _mm512_loadu_ps(weights.as_ptr().cast()),
            }
        }
    }

    const ROWS: usize = 4;
    const VECTORS: usize = 6;

    #[inline(always)]
    fn multiply(self, operands: Operands<'_>, lane: usize, lanes: &mut [[f32; LANES]]) {
        if lanes.len() == 4 {
            gemm::multiply::<Self, 4, 1>(self, operands, lane, lanes);
        } else {
            gemm::multiply::<Self, 4, 6>(self, operands, lane, lanes);
        }
    }

    #[inline(always)]
    fn widen_packed(self, group: &[u8; GROUP_LEN], table: &[u8; 16]) -> Self::Sums {
        // SAFETY: a group has 96 bytes, the table 16, and `self` proves AVX-512F and BW
        unsafe {
            let from = group.as_ptr();
            let table = _mm512_broadcast_i32x4(_mm_loadu_si128(table.as_ptr().cast()));
            let zero = _mm512_setzero_si512();
            let codes = _mm256_loadu_si256(from.cast());
            let second = _mm256_srli_epi16::<4>(codes);
            let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(codes), second);
            let codes = _mm512_and_si512(codes, _mm512_set1_epi8(15));
            let upper = _mm512_shuffle_epi8(table, codes);
            let lower = _mm512_loadu_si512(from.add(32).cast());
            let first = _mm512_unpacklo_epi8(lower, upper);
            let second = _mm512_unpackhi_epi8(lower, upper);
            // each has eight columns of block 0, then eight of block 1
            let a = _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, first));
            let b = _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, first));
            let c = _mm512_castsi512_ps(_mm512_unpacklo_epi16(zero, second));
            let d = _mm512_castsi512_ps(_mm512_unpackhi_epi16(zero, second));
            [
                _mm512_shuffle_f32x4::<0x44>(a, b),
                _mm512_shuffle_f32x4::<0x44>(c, d),
                _mm512_shuffle_f32x4::<0xee>(a, b),
                _mm512_shuffle_f32x4::<0xee>(c, d),
            ]
        }
    }

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        // SAFETY: `self` proves that the processor has AVX-512
        unsafe { run_there(kernel, self) }
    }
}

/// Everything that is inlined here is compiled for these instructions.
#[target_feature(enable = "avx512f,avx512dq,avx512bw,avx512vl,avx2,fma,f16c")]
fn run_there<K: Kernel>(kernel: K, simd: Avx512) {
    kernel.run(simd);
}
