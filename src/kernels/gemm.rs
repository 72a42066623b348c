//! Rows of weights times several vectors.
//!
//! A few rows are widened to f32 once and lie, register by register, side by side; so do a few
//! vectors. Then these rows times these vectors are in registers, for a register's lanes of all
//! columns; the lanes of all registers meet in the tree.
//!
//! ```text
//! panel    [register][group][row   ][lane]     some rows
//! packed   [register][group][vector][lane]     some vectors, those at the end one at a time
//! lanes    [vector][row][register][lane]  ->  tree  ->  out[row * vectors + vector]
//! ```

use std::ops::Range;

use crate::kernels::LANES;
use crate::kernels::simd::GROUP_LEN_MAX;
use crate::kernels::simd::Kernel;
use crate::kernels::simd::Operands;
use crate::kernels::simd::Simd;
use crate::kernels::simd::size_of_element;

/// Values of packed vectors that are worked on together: what the second cache holds besides the
/// rows.
const PACKED_LEN_MAX: usize = 64 << 10;
/// Vectors that are worked on together, at most: a multiple of every [`Simd::VECTORS`].
const VECTORS_MAX: usize = 60;
/// The largest [`Simd::ROWS`]: a panel has room for so many.
pub(super) const ROWS_MAX: usize = 4;

/// How many of `left` vectors are multiplied at a time.
fn width<S: Simd>(left: usize) -> usize {
    if left < S::VECTORS { 1 } else { S::VECTORS }
}

/// Packs vectors, each padded, for [`Gemm`].
pub(super) struct Pack<'a> {
    pub(super) vectors: &'a [f32],
    pub(super) padded_columns: usize,
    /// As long as they are.
    pub(super) packed: &'a mut [f32],
}

impl Kernel for Pack<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let columns = self.padded_columns;
        let (mut vectors, mut packed) = (self.vectors, self.packed);
        while !vectors.is_empty() {
            let width = width::<S>(vectors.len() / columns);
            let (some, others) = vectors.split_at(width * columns);
            let (to, rest) = std::mem::take(&mut packed).split_at_mut(width * columns);
            for (vector, values) in some.chunks_exact(columns).enumerate() {
                for (at, register) in values.chunks_exact(S::WIDTH).enumerate() {
                    let at = index::<S>(at, columns, width) + vector * S::WIDTH;
                    to[at..at + S::WIDTH].copy_from_slice(register);
                }
            }
            (vectors, packed) = (others, rest);
        }
    }
}

/// Where, of `width` rows or vectors side by side, register `at` of a row stands.
#[inline(always)]
fn index<S: Simd>(at: usize, padded_columns: usize, width: usize) -> usize {
    let (group, number) = (at / (LANES / S::WIDTH), at % (LANES / S::WIDTH));
    (number * (padded_columns / LANES) + group) * width * S::WIDTH
}

/// Rows of weights, however they are stored. Groups are asked for, not handed to a closure: one
/// that is not inlined would not be compiled for the instructions.
pub(super) trait Rows {
    /// A row, and where in it one is.
    type Row;
    /// How many there are.
    fn count(&self) -> usize;
    /// One of them.
    fn row(&self, number: usize) -> Self::Row;
    /// The next group of a row, widened: `number` counts from 0 on.
    fn group<S: Simd>(&self, simd: S, row: &mut Self::Row, number: usize) -> S::Sums;
}

/// Rows of elements `E`, one behind another.
pub(super) struct Elements<'a, const E: u8> {
    pub(super) rows: &'a [u8],
    pub(super) row_len: usize,
}

impl<'a, const E: u8> Rows for Elements<'a, E> {
    type Row = &'a [u8];

    #[inline(always)]
    fn count(&self) -> usize {
        self.rows.len() / self.row_len
    }

    #[inline(always)]
    fn row(&self, number: usize) -> &'a [u8] {
        &self.rows[number * self.row_len..][..self.row_len]
    }

    #[inline(always)]
    fn group<S: Simd>(&self, simd: S, row: &mut &'a [u8], number: usize) -> S::Sums {
        let len = LANES * size_of_element(E);
        let mut padded = [0; GROUP_LEN_MAX];
        let rest = &row[number * len..];
        let weights = if rest.len() >= len {
            rest
        } else {
            padded[..rest.len()].copy_from_slice(rest);
            &padded
        };
        let mut widened = simd.zeros();
        for (at, register) in widened.as_mut().iter_mut().enumerate() {
            *register = simd.widen::<E>(weights, at);
        }
        widened
    }
}

/// `out[r * vectors + v] = rows[r] . vector v`.
pub(super) struct Gemm<'a, R> {
    pub(super) rows: R,
    /// What [`Pack`] gave.
    pub(super) packed: &'a [f32],
    pub(super) padded_columns: usize,
    /// Room for [`ROWS_MAX`] padded rows.
    pub(super) panel: &'a mut [f32],
    pub(super) out: &'a mut [f32],
}

impl<R: Rows> Kernel for Gemm<'_, R> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let columns = self.padded_columns;
        let vectors = self.packed.len() / columns;
        let fit = (PACKED_LEN_MAX / columns).min(VECTORS_MAX) / S::VECTORS;
        let at_once = fit.max(1) * S::VECTORS;
        let panel = &mut self.panel[..S::ROWS * columns];
        let row_count = self.rows.count();
        #[expect(clippy::large_stack_arrays, reason = "it stays in the second cache")]
        let mut lanes = [[0_f32; LANES]; ROWS_MAX * VECTORS_MAX];
        for (part, packed) in self.packed.chunks(at_once * columns).enumerate() {
            let count = packed.len() / columns;
            for first in (0..row_count).step_by(S::ROWS) {
                let rows = first..(first + S::ROWS).min(row_count);
                widen(simd, &self.rows, rows.clone(), columns, panel);
                multiply_all(simd, panel, packed, columns, &mut lanes);
                for (row, number) in rows.enumerate() {
                    let out = &mut self.out[number * vectors + part * at_once..][..count];
                    for (vector, out) in out.iter_mut().enumerate() {
                        let at = vector * S::ROWS + row;
                        *out = simd.sum(simd.sums_at(&lanes[at]));
                    }
                }
            }
        }
    }
}

/// The lanes of the panel's rows times all vectors of a part, `lanes[vector * S::ROWS + row]`. A
/// register's columns of the rows stay in the first cache, while all vectors pass by.
#[inline(always)]
fn multiply_all<S: Simd>(
    simd: S,
    panel: &[f32],
    packed: &[f32],
    columns: usize,
    lanes: &mut [[f32; LANES]],
) {
    let plane_len = columns / LANES * S::WIDTH;
    for (number, rows) in panel.chunks_exact(plane_len * S::ROWS).enumerate() {
        let (mut lanes, mut rest) = (&mut *lanes, packed);
        while !rest.is_empty() {
            let width = width::<S>(rest.len() / columns);
            let (some, others) = rest.split_at(width * columns);
            let vectors = &some[number * width * plane_len..][..width * plane_len];
            let (to, behind) = lanes.split_at_mut(width * S::ROWS);
            simd.multiply(Operands { rows, vectors }, number * S::WIDTH, to);
            (rest, lanes) = (others, behind);
        }
    }
}

/// Widens at most [`Simd::ROWS`] rows into the panel; rows that are not there stay as they are.
#[inline(always)]
fn widen<S: Simd>(
    simd: S,
    rows: &impl Rows,
    numbers: Range<usize>,
    padded_columns: usize,
    panel: &mut [f32],
) {
    let registers = LANES / S::WIDTH;
    for (row, number) in numbers.enumerate() {
        let mut source = rows.row(number);
        for group in 0..padded_columns / LANES {
            let mut weights = rows.group(simd, &mut source, group);
            for (at, register) in weights.as_mut().iter().enumerate() {
                let at = index::<S>(group * registers + at, padded_columns, S::ROWS);
                simd.store(*register, &mut panel[at + row * S::WIDTH..]);
            }
        }
    }
}

/// A register's lanes, from `lane` on, of `R` rows times `M` vectors: `lanes[vector * R + row]`.
#[inline(always)]
pub(super) fn multiply<S: Simd, const R: usize, const M: usize>(
    simd: S,
    operands: Operands<'_>,
    lane: usize,
    lanes: &mut [[f32; LANES]],
) {
    let mut sums = [[simd.zero(); R]; M];
    let rows = operands.rows.chunks_exact(R * S::WIDTH);
    for (rows, vectors) in rows.zip(operands.vectors.chunks_exact(M * S::WIDTH)) {
        let weights: [S::Register; R] =
            std::array::from_fn(|row| simd.load(&rows[row * S::WIDTH..]));
        // counted, not iterated: so that all of them are unrolled and stay in registers
        for vector in 0..M {
            let values = simd.load(&vectors[vector * S::WIDTH..]);
            for row in 0..R {
                sums[vector][row] = simd.fma(weights[row], values, sums[vector][row]);
            }
        }
    }
    for vector in 0..M {
        for row in 0..R {
            simd.store(sums[vector][row], &mut lanes[vector * R + row][lane..]);
        }
    }
}
