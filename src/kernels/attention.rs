//! One query against cached keys and values.
//!
//! ```text
//! scores[j] = q . keys[j] * scale     64 lanes, tree; soft cap
//! p[j]      = exp(scores[j] - max)
//! out       = sum of p[j] * values[j], in ascending order of j, divided by the sum of p
//! ```
//! The sum of `p` has 64 lanes; a position's lane is that of the whole text, so that a window does
//! not change which values meet.

use std::ops::Range;

use crate::kernels::LANES;
use crate::kernels::elementwise::SoftCap;
use crate::kernels::math;
use crate::kernels::simd::Kernel;
use crate::kernels::simd::Simd;
use crate::kernels::tree;

/// A query head against what its key/value head has cached.
#[derive(Debug)]
pub struct Attention<'a> {
    /// One head of a query.
    pub query: &'a [f32],
    /// Keys of all positions, each as long as the query.
    pub keys: &'a [f32],
    /// Values of all positions.
    pub values: &'a [f32],
    /// The positions that are seen; not empty.
    pub seen: Range<usize>,
    /// Factor of the scores.
    pub scale: f32,
    /// Where scores are capped.
    pub soft_cap: Option<f32>,
    /// Room for the scores of all that are seen.
    pub scores: &'a mut [f32],
    /// The result, as long as a value.
    pub out: &'a mut [f32],
}

impl Kernel for Attention<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (start, count) = (self.seen.start, self.seen.len());
        let scores = &mut self.scores[..count];
        let len = self.query.len();
        let keys = self.keys[start * len..].chunks_exact(len);
        for (score, key) in scores.iter_mut().zip(keys) {
            *score = dot(simd, self.query, key) * self.scale;
        }
        if let Some(cap) = self.soft_cap {
            SoftCap { x: scores, cap }.run(simd);
        }
        let max = scores
            .iter()
            .fold(f32::NEG_INFINITY, |max, &score| max.max(score));
        for score in scores.iter_mut() {
            *score = math::exp(*score - max);
        }
        let mut lanes = [0.0; LANES];
        for (at, p) in scores.iter().enumerate() {
            lanes[(start + at) % LANES] += p;
        }
        let sum = tree(lanes);
        let len = self.out.len();
        self.out.fill(0.0);
        add_values(scores, &self.values[start * len..][..count * len], self.out);
        for out in self.out.iter_mut() {
            *out /= sum;
        }
    }
}

/// A dot product of values that are f32 already.
#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let mut sums = simd.zeros();
    let ((a, rest_of_a), (b, rest_of_b)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        sums = simd.fma_values(sums, a, b);
    }
    if !rest_of_a.is_empty() {
        sums = simd.fma_values(sums, &pad(rest_of_a), &pad(rest_of_b));
    }
    simd.sum(sums)
}

#[inline(always)]
fn pad(values: &[f32]) -> [f32; LANES] {
    let mut padded = [0.0; LANES];
    padded[..values.len()].copy_from_slice(values);
    padded
}

/// `out += p[j] * values[j]`, in ascending order of `j`; some positions at a time, so that `out` is
/// loaded and stored less often.
#[inline(always)]
fn add_values(p: &[f32], values: &[f32], out: &mut [f32]) {
    let len = out.len();
    let (fours, rest) = p.as_chunks::<4>();
    for (four, values) in fours.iter().zip(values.chunks_exact(4 * len)) {
        let (first, others) = values.split_at(len);
        let (second, others) = others.split_at(len);
        let (third, fourth) = others.split_at(len);
        for (at, out) in out.iter_mut().enumerate() {
            let sum = four[0].mul_add(first[at], *out);
            let sum = four[1].mul_add(second[at], sum);
            let sum = four[2].mul_add(third[at], sum);
            *out = four[3].mul_add(fourth[at], sum);
        }
    }
    let values = values[fours.len() * 4 * len..].chunks_exact(len);
    for (p, values) in rest.iter().zip(values) {
        for (value, out) in values.iter().zip(out.iter_mut()) {
            *out = p.mul_add(*value, *out);
        }
    }
}
