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

impl<'a> Rows<'a> {
    #[inline(always)]
    fn elements(&self) -> Elements<'a, F8> {
        Elements {
            rows: self.rows,
            row_len: self.scales.columns,
        }
    }
}

impl<'a> gemm::Rows for Rows<'a> {
    /// Its weights, and its scales.
    type Row = (&'a [u8], &'a [f32]);

    #[inline(always)]
    fn count(&self) -> usize {
        self.elements().count()
    }

    #[inline(always)]
    fn row(&self, number: usize) -> Self::Row {
        let scales = self.scales.of_row(self.first + number);
        (self.elements().row(number), scales)
    }

    #[inline(always)]
    fn group<S: Simd>(&self, simd: S, row: &mut Self::Row, number: usize) -> S::Sums {
        let (weights, scales) = row;
        let scale = scales[number / (self.scales.block.1 / LANES)];
        let scale = simd.load(&[scale; LANES]);
        // with it a fused multiply-add is a product
        let zero = simd.load(&[-0.0; LANES]);
        let mut widened = self.elements().group(simd, weights, number);
        for register in widened.as_mut() {
            *register = simd.fma(*register, scale, zero);
        }
        widened
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
            let mut row = gemm::Rows::row(&self.rows, row);
            for (number, x) in x.iter().enumerate() {
                let weights = gemm::Rows::group(&self.rows, simd, &mut row, number);
                sums = simd.fma_widened(sums, weights, x);
            }
            *out = simd.sum(sums);
        }
    }
}
