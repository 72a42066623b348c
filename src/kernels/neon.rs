//! NEON: 64 lanes are sixteen registers.
#![expect(unsafe_code, reason = "intrinsics")]
#![expect(
    clippy::multiple_unsafe_ops_per_block,
    reason = "one fact makes all intrinsics of a block sound"
)]

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "instructions by their names")
)]
use std::arch::aarch64::*;

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

const WIDTH: usize = 4;

/// The proof that this processor has the instructions.
#[derive(Debug, Clone, Copy)]
pub(super) struct Neon(());

impl Neon {
    /// The proof, if they are there.
    pub(super) fn detect() -> Option<Self> {
        crate::base::level::Level::Neon
            .is_there()
            .then_some(Self(()))
    }
}

impl Simd for Neon {
    type Sums = [float32x4_t; LANES / WIDTH];
    type Register = float32x4_t;
    const WIDTH: usize = WIDTH;

    #[inline(always)]
    fn zeros(self) -> Self::Sums {
        [self.zero(); LANES / WIDTH]
    }

    #[inline(always)]
    fn sum(self, sums: Self::Sums) -> f32 {
        let mut lanes = [0.0; LANES];
        for (number, sum) in sums.into_iter().enumerate() {
            self.store(sum, &mut lanes[number * WIDTH..]);
        }
        crate::kernels::tree(lanes)
    }

    #[inline(always)]
    fn zero(self) -> float32x4_t {
        // SAFETY: `self` proves that the processor has NEON
        unsafe { vdupq_n_f32(0.0) }
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> float32x4_t {
        let from = &from[..WIDTH];
        // SAFETY: four values are there, and `self` proves NEON
        unsafe { vld1q_f32(from.as_ptr()) }
    }

    #[inline(always)]
    fn fma(self, a: float32x4_t, b: float32x4_t, sum: float32x4_t) -> float32x4_t {
        // SAFETY: `self` proves that the processor has NEON
        unsafe { vfmaq_f32(sum, a, b) }
    }

    #[inline(always)]
    fn store(self, register: float32x4_t, to: &mut [f32]) {
        let to = &mut to[..WIDTH];
        // SAFETY: four values have room, and `self` proves NEON
        unsafe { vst1q_f32(to.as_mut_ptr(), register) }
    }

    #[inline(always)]
    fn widen<const E: u8>(self, weights: &[u8], number: usize) -> float32x4_t {
        let len = WIDTH * size_of_element(E);
        let weights = &weights[number * len..][..len];
        match E {
            // SAFETY: the bytes of four elements are there, and `self` proves NEON
            BF16 => unsafe {
                let halves = vld1_u16(weights.as_ptr().cast());
                vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(halves)))
            },
            F16 | F8 => self.load(&std::array::from_fn::<f32, WIDTH, _>(|number| {
                scalar::element::<E>(weights, number)
            })),
            // SAFETY: the bytes of four elements are there, and `self` proves NEON
            _ => unsafe { vld1q_f32(weights.as_ptr().cast()) },
        }
    }

    const ROWS: usize = 4;
    const VECTORS: usize = 5;

    #[inline(always)]
    fn multiply(self, operands: Operands<'_>, lane: usize, lanes: &mut [[f32; LANES]]) {
        if lanes.len() == 4 {
            gemm::multiply::<Self, 4, 1>(self, operands, lane, lanes);
        } else {
            gemm::multiply::<Self, 4, 5>(self, operands, lane, lanes);
        }
    }

    #[inline(always)]
    fn widen_packed(self, group: &[u8; GROUP_LEN], table: &[u8; 16]) -> Self::Sums {
        let mut values = self.zeros();
        // SAFETY: a group has 96 bytes, the table 16, and `self` proves NEON
        unsafe {
            let (from, zero) = (group.as_ptr(), vdupq_n_u16(0));
            let table = vld1q_u8(table.as_ptr());
            for half in 0..2 {
                let codes = vld1q_u8(from.add(16 * half));
                let codes = [vandq_u8(codes, vdupq_n_u8(15)), vshrq_n_u8::<4>(codes)];
                for (block, codes) in codes.into_iter().enumerate() {
                    let upper = vqtbl1q_u8(table, codes);
                    let lower = vld1q_u8(from.add(32 + 32 * block + 16 * half));
                    let first = vreinterpretq_u16_u8(vzip1q_u8(lower, upper));
                    let second = vreinterpretq_u16_u8(vzip2q_u8(lower, upper));
                    let widened = [
                        vzip1q_u16(zero, first),
                        vzip2q_u16(zero, first),
                        vzip1q_u16(zero, second),
                        vzip2q_u16(zero, second),
                    ];
                    for (at, widened) in widened.into_iter().enumerate() {
                        values[8 * block + 2 * at + half] = vreinterpretq_f32_u16(widened);
                    }
                }
            }
        }
        values
    }

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        // SAFETY: `self` proves that the processor has NEON
        unsafe { run_there(kernel, self) }
    }
}

/// Everything that is inlined here is compiled for these instructions.
#[target_feature(enable = "neon")]
fn run_there<K: Kernel>(kernel: K, simd: Neon) {
    kernel.run(simd);
}
