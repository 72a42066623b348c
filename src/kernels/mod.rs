//! Matrix products, attention, norms and activations over plain slices. No kernel knows of models,
//! allocates, or gives another bit for another processor, number of threads or batch.
//!
//! **The numeric contract**, version [`CONTRACT`], is part of every receipt:
//! - Weights widen exactly to f32; activations are f32; denormals count.
//! - A dot product has 64 virtual lanes. Columns are padded with zeros to a multiple of 64, column
//!   `c` belongs to lane `c mod 64`, and a lane adds its products by fused multiply-add in
//!   ascending order, from +0 on. Lane `i` then takes lane `i + 32`, `i + 16`, ... `i + 1`.
//! - Sums over a row (of norms, of a softmax) use the same lanes and the same tree.
//! - Attention adds values in ascending order of positions, by fused multiply-add.
//! - `exp` and `tanh` are those of [`math`]; `sin`, `cos`, `ln` and `pow`, of tables, those of
//!   [`base::math`](crate::base::math). Never the platform's.
//!
//! ```text
//! columns   0   1   2 ...  63 | 64  65 ... 127 | ...      one register set of 64 lanes
//! lane      0   1   2 ...  63 |  0   1 ...  63 | ...      acc[l] = fma(w[c], x[c], acc[l])
//! sum       ((0+32) + (16+48)) + ((8+40) + (24+56)) ...   a tree that halves
//! ```
//!
//! `scalar` is the definition. Others give the same bits, as each of their instructions rounds as
//! IEEE 754 says; tests compare them all.

#![expect(
    clippy::inline_always,
    reason = "what is not inlined is not compiled for the instructions of its caller"
)]

pub mod attention;
pub mod dispatch;
pub mod elementwise;
mod gemm;
mod gemv;
mod group;
pub mod math;
pub mod packed;
pub mod rope;
mod scalar;
pub mod scaled;
mod simd;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;

pub use dispatch::Kernels;
pub use dispatch::kernels;

/// Version of the numeric contract.
pub const CONTRACT: u32 = 1;

/// Virtual lanes of a sum.
pub const LANES: usize = 64;

/// `columns` with padding: a multiple of [`LANES`].
pub const fn padded(columns: usize) -> usize {
    columns.next_multiple_of(LANES)
}

/// What weights are stored as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Element {
    /// The upper half of an f32.
    Bf16,
    /// IEEE 754 binary16.
    F16,
    /// IEEE 754 binary32.
    F32,
    /// Eight bits, four of exponent, three of mantissa, no infinity (OCP 8-bit floating point).
    F8,
}

impl Element {
    /// Its dtype as safetensors writes it.
    pub fn from_dtype(dtype: &str) -> Option<Self> {
        match dtype {
            "BF16" => Some(Self::Bf16),
            "F16" => Some(Self::F16),
            "F32" => Some(Self::F32),
            "F8_E4M3" => Some(Self::F8),
            _ => None,
        }
    }

    /// Bytes of one.
    pub const fn size(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
            Self::F8 => 1,
        }
    }
}

/// The 64-lane tree over a row: the same as of a dot product.
#[inline(always)]
pub(crate) fn tree(mut lanes: [f32; LANES]) -> f32 {
    let mut half = LANES / 2;
    while half > 0 {
        for lane in 0..half {
            lanes[lane] += lanes[lane + half];
        }
        half /= 2;
    }
    lanes[0]
}
