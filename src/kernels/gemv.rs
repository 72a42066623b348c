//! Rows of weights times one vector.

use crate::kernels::LANES;
use crate::kernels::simd::Kernel;
use crate::kernels::simd::Simd;
use crate::kernels::simd::for_each_group;

/// `out[r] = rows[r] . x`, of rows of elements `E`.
pub(super) struct Gemv<'a, const E: u8> {
    /// One behind another, as many as there are values in `out`.
    pub(super) rows: &'a [u8],
    /// Padded.
    pub(super) x: &'a [f32],
    pub(super) out: &'a mut [f32],
}

impl<const E: u8> Kernel for Gemv<'_, E> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (groups, _) = self.x.as_chunks::<LANES>();
        let row_len = self.rows.len() / self.out.len();
        for (row, out) in self.rows.chunks_exact(row_len).zip(self.out) {
            let mut sums = simd.zeros();
            for_each_group::<E>(row, |number, group| {
                sums = simd.fma_group::<E>(sums, group, &groups[number]);
            });
            *out = simd.sum(sums);
        }
    }
}
