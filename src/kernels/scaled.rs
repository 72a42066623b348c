//! Weights of eight bits with a scale for each block of them, as `DeepSeek` and Qwen3 have them: a
//! weight is the f32 product of both, rounded once.
//!
//! ```text
//! weights   [rows, columns]                                             F8_E4M3
//! scales    [rows / block rows, columns / block columns], rounded up    f32
//! ```

use crate::kernels::LANES;
use crate::kernels::gemm;
use crate::kernels::gemm::Elements;
use crate::kernels::simd::F8;
use crate::kernels::simd::Kernel;
use crate::kernels::simd::Simd;

/// The scales of a matrix.
#[derive(Debug, Clone, Copy)]
pub struct Scales<'a> {
    /// `[block row][block column]`.
    pub values: &'a [f32],
    /// Columns of the matrix, without padding.
    pub columns: usize,
    /// Rows and columns of a block; the columns are a multiple of [`LANES`].
    pub block: (usize, usize),
}

impl<'a> Scales<'a> {
    /// The scales of a row, one for each block of columns.
    fn of_row(&self, row: usize) -> &'a [f32] {
        let len = self.columns.div_ceil(self.block.1);
        &self.values[row / self.block.0 * len..][..len]
    }
}

/// Some rows of a matrix.
#[derive(Debug, Clone, Copy)]
pub struct Rows<'a> {
    /// One behind another.
    pub rows: &'a [u8],
    /// The number of the first one in its matrix.
    pub first: usize,
    /// Of the whole matrix.
    pub scales: Scales<'a>,
}

impl Rows<'_> {
    fn elements(&self) -> Elements<'_, F8> {
        Elements {
            rows: self.rows,
            row_len: self.scales.columns,
        }
    }
}

impl gemm::Rows for Rows<'_> {
    #[inline(always)]
    fn count(&self) -> usize {
        gemm::Rows::count(&self.elements())
    }

    #[inline(always)]
    fn for_each<S: Simd>(&self, simd: S, row: usize, mut each: impl FnMut(usize, S::Sums)) {
        let scales = self.scales.of_row(self.first + row);
        let groups_of_block = self.scales.block.1 / LANES;
        // with it a fused multiply-add is a product
        let zero = simd.load(&[-0.0; LANES]);
        gemm::Rows::for_each(&self.elements(), simd, row, |number, mut weights| {
            let scale = simd.load(&[scales[number / groups_of_block]; LANES]);
            for register in weights.as_mut() {
                *register = simd.fma(*register, scale, zero);
            }
            each(number, weights);
        });
    }
}

/// `out[r] = rows[r] . x`.
pub(super) struct Gemv<'a> {
    pub(super) rows: Rows<'a>,
    /// Padded.
    pub(super) x: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl Kernel for Gemv<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (x, _) = self.x.as_chunks::<LANES>();
        for (row, out) in self.out.iter_mut().enumerate() {
            let mut sums = simd.zeros();
            gemm::Rows::for_each(&self.rows, simd, row, |number, mut weights| {
                let pairs = sums.as_mut().iter_mut().zip(weights.as_mut());
                for (at, (sum, weights)) in pairs.enumerate() {
                    let x = simd.load(&x[number][at * S::WIDTH..]);
                    *sum = simd.fma(*weights, x, *sum);
                }
            });
            *out = simd.sum(sums);
        }
    }
}
