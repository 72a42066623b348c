//! The definition of the products, one lane at a time.

use crate::kernels::LANES;
use crate::kernels::gemm;
use crate::kernels::simd::BF16;
use crate::kernels::simd::F8;
use crate::kernels::simd::F16;
use crate::kernels::simd::Kernel;
use crate::kernels::simd::Operands;
use crate::kernels::simd::Simd;
use crate::kernels::tree;

/// 2^120.
pub(super) const F8_SCALE: f32 = f32::from_bits((120 + 127) << 23);

/// What every processor has.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scalar;

/// An element, widened exactly.
#[inline(always)]
pub(super) fn element<const E: u8>(weights: &[u8], number: usize) -> f32 {
    let half = || u16::from_le_bytes([weights[2 * number], weights[2 * number + 1]]);
    match E {
        BF16 => f32::from_bits(u32::from(half()) << 16),
        F16 => widen_f16(half()),
        F8 => widen_f8(weights[number]),
        _ => {
            let (words, _) = weights.as_chunks::<4>();
            f32::from_le_bytes(words[number])
        }
    }
}

/// IEEE 754 binary16 to binary32, exactly; a NaN stays one, quiet as processors make it.
#[inline(always)]
pub(super) fn widen_f16(half: u16) -> f32 {
    let sign = u32::from(half & 0x8000) << 16;
    let magnitude = u32::from(half & 0x7fff);
    let bits = match magnitude {
        0 => 0,
        // denormal: its value is magnitude * 2^-24
        1..=0x03ff => (f32::from(half & 0x03ff) * 2_f32.powi(-24)).to_bits(),
        0x0400..=0x7bff => (magnitude << 13) + (112 << 23),
        0x7c00 => 0x7f80_0000,
        _ => 0x7fc0_0000 | (magnitude << 13),
    };
    f32::from_bits(sign | bits)
}

/// E4M3 to binary32, exactly: four bits of exponent in the place of eight are too small by 2^120.
#[inline(always)]
pub(super) fn widen_f8(byte: u8) -> f32 {
    let (sign, magnitude) = (u32::from(byte & 0x80) << 24, u32::from(byte & 0x7f));
    let value = if magnitude == 0x7f {
        f32::NAN
    } else {
        f32::from_bits(magnitude << 20) * F8_SCALE
    };
    f32::from_bits(sign | value.to_bits())
}

impl Simd for Scalar {
    type Sums = [f32; LANES];
    type Register = f32;
    const WIDTH: usize = 1;

    #[inline(always)]
    fn zeros(self) -> Self::Sums {
        [0.0; LANES]
    }

    #[inline(always)]
    fn sum(self, sums: Self::Sums) -> f32 {
        tree(sums)
    }

    #[inline(always)]
    fn zero(self) -> f32 {
        0.0
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> f32 {
        from[0]
    }

    #[inline(always)]
    fn fma(self, a: f32, b: f32, sum: f32) -> f32 {
        a.mul_add(b, sum)
    }

    #[inline(always)]
    fn store(self, register: f32, to: &mut [f32]) {
        to[0] = register;
    }

    #[inline(always)]
    fn widen<const E: u8>(self, weights: &[u8], number: usize) -> f32 {
        element::<E>(weights, number)
    }

    const ROWS: usize = 1;
    const VECTORS: usize = 1;

    #[inline(always)]
    fn multiply(self, operands: Operands<'_>, lane: usize, lanes: &mut [[f32; LANES]]) {
        gemm::multiply::<Self, 1, 1>(self, operands, lane, lanes);
    }

    #[inline(always)]
    fn run<K: Kernel>(self, kernel: K) {
        kernel.run(self);
    }
}
