//! Rotary position embeddings (Su et al. 2021): pairs of values, turned by an angle that grows with
//! the position.

use crate::kernels::simd::Kernel;
use crate::kernels::simd::Simd;

/// Which values are a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// Value `i` and value `i + n / 2`.
    Halves,
    /// Values `2 i` and `2 i + 1`.
    Neighbours,
}

/// Turns the first values of a head; those behind stay.
pub(super) struct Rotate<'a> {
    pub(super) head: &'a mut [f32],
    /// Cosines and sines, one for each pair.
    pub(super) cos: &'a [f32],
    pub(super) sin: &'a [f32],
    pub(super) pairs: Pairs,
}

impl Kernel for Rotate<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let half = self.cos.len();
        let turned = &mut self.head[..2 * half];
        let angles = self.cos.iter().zip(self.sin);
        match self.pairs {
            Pairs::Halves => {
                let (a, b) = turned.split_at_mut(half);
                for ((a, b), (cos, sin)) in a.iter_mut().zip(b).zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
            Pairs::Neighbours => {
                let (pairs, _) = turned.as_chunks_mut::<2>();
                for ([a, b], (cos, sin)) in pairs.iter_mut().zip(angles) {
                    (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
                }
            }
        }
    }
}
