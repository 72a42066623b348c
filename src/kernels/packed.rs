//! BF16 weights in twelve bits each, widened where they are multiplied: a quarter less to read from
//! memory, for hardly more work. Nothing of it is ever in a file: weights are packed when they are
//! read, on machines where that is the faster way.
//!
//! The upper byte of a weight is its sign and seven bits of exponent, and of these seven bits
//! nearly all weights of a tile have one of seven values: code 0 to 6. With the sign that is half
//! a byte, which one instruction turns into the upper byte again. The lower byte stays as it is.
//! What has another exponent (a few of ten thousand trained weights) has code 7, and is in a list.
//!
//! ```text
//! tile    | 8 bytes: seven bits for each code | rows of groups of 64 columns | list |
//! list    | group u32, column u8, upper byte u8 | ...    ascending
//! ```
//! A row's last group is filled with zeros. For groups see [`group`](crate::kernels::group).

use crate::kernels::LANES;
use crate::kernels::gemm;
use crate::kernels::group::GROUP_LEN;
use crate::kernels::group::column;
use crate::kernels::simd::Kernel;
use crate::kernels::simd::Simd;

const HEADER_LEN: usize = 8;
const RECORD_LEN: usize = 6;
/// The code of a weight that is in the list.
const LISTED: u8 = 7;
/// A tile may list one of so many weights: with more, something else is better.
const LISTED_SHARE: usize = 256;
/// About so many groups are looked at to choose the codes.
const SAMPLE_LEN: usize = 512;

/// The most bytes that a tile of rows takes.
pub const fn packed_len(rows: usize, columns: usize) -> usize {
    let groups = rows * columns.div_ceil(LANES);
    HEADER_LEN + groups * GROUP_LEN + rows * columns / LISTED_SHARE * RECORD_LEN
}

/// A tile that was packed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tile<'a> {
    groups: &'a [[u8; GROUP_LEN]],
    list: &'a [[u8; RECORD_LEN]],
    /// The upper byte for half a byte.
    table: [u8; 16],
    groups_of_row: usize,
}

impl<'a> Tile<'a> {
    /// A tile of `rows` rows with `padded_columns` columns.
    #[inline(always)]
    pub(super) fn new(tile: &'a [u8], rows: usize, padded_columns: usize) -> Self {
        let (codes, rest) = tile.split_at(HEADER_LEN);
        let groups_of_row = padded_columns / LANES;
        let (groups, list) = rest.split_at(rows * groups_of_row * GROUP_LEN);
        Self {
            groups: groups.as_chunks().0,
            list: list.as_chunks().0,
            table: std::array::from_fn(|half| codes[half & 7] | ((half as u8 & 8) << 4)),
            groups_of_row,
        }
    }

    /// Listed weights of the groups from `group` on.
    fn listed_from(&self, group: usize) -> &'a [[u8; RECORD_LEN]] {
        let behind = |record: &[u8; RECORD_LEN]| group_of(*record) < group;
        &self.list[self.list.partition_point(behind)..]
    }
}

/// The group of the first listed weight; none has the highest number.
fn next_group(list: &[[u8; RECORD_LEN]]) -> usize {
    list.first().map_or(usize::MAX, |record| group_of(*record))
}

/// The group of a listed weight.
fn group_of([a, b, c, d, ..]: [u8; RECORD_LEN]) -> usize {
    u32::from_le_bytes([a, b, c, d]) as usize
}

/// A group with its listed weights, the first ones of the list, which are taken from it.
#[inline(always)]
fn patched<S: Simd>(simd: S, weights: S::Sums, list: &mut &[[u8; RECORD_LEN]]) -> [f32; LANES] {
    let mut values = [0.0; LANES];
    simd.store_all(weights, &mut values);
    let group = next_group(list);
    while let Some((record, behind)) = list.split_first()
        && group_of(*record) == group
    {
        let value = &mut values[usize::from(record[4]) % LANES];
        let rest = value.to_bits() & 0x00ff_ffff;
        *value = f32::from_bits(u32::from(record[5]) << 24 | rest);
        *list = behind;
    }
    values
}

/// `out[r] = rows[r] . x`, of a tile of rows.
pub(super) struct Gemv<'a> {
    pub(super) tile: &'a [u8],
    /// Padded.
    pub(super) x: &'a [f32],
    /// As many values as the tile has rows.
    pub(super) out: &'a mut [f32],
}

impl Kernel for Gemv<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let (x, _) = self.x.as_chunks::<LANES>();
        let tile = Tile::new(self.tile, self.out.len(), self.x.len());
        let (mut list, mut next) = (tile.list, next_group(tile.list));
        let rows = tile.groups.chunks_exact(tile.groups_of_row);
        for (row, (groups, out)) in rows.zip(self.out).enumerate() {
            let first = row * tile.groups_of_row;
            let (mut sums, mut start) = (simd.zeros(), 0);
            // runs without a listed weight, so that nothing is asked within them
            loop {
                let end = (next - first).min(groups.len());
                for (group, x) in groups[start..end].iter().zip(&x[start..end]) {
                    sums = simd.fma_packed(sums, group, &tile.table, x);
                }
                if end == groups.len() {
                    break;
                }
                let weights = simd.widen_packed(&groups[end], &tile.table);
                let weights = patched(simd, weights, &mut list);
                sums = simd.fma_values(sums, &weights, &x[end]);
                (next, start) = (next_group(list), end + 1);
            }
            *out = simd.sum(sums);
        }
    }
}

/// A row, and what is listed from there on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row<'a> {
    first: usize,
    list: &'a [[u8; RECORD_LEN]],
    next: usize,
}

impl<'a> gemm::Rows for Tile<'a> {
    type Row = Row<'a>;

    #[inline(always)]
    fn count(&self) -> usize {
        self.groups.len() / self.groups_of_row
    }

    #[inline(always)]
    fn row(&self, number: usize) -> Row<'a> {
        let first = number * self.groups_of_row;
        let list = self.listed_from(first);
        let next = next_group(list);
        Row { first, list, next }
    }

    #[inline(always)]
    fn group<S: Simd>(&self, simd: S, row: &mut Row<'a>, number: usize) -> S::Sums {
        let group = row.first + number;
        let mut weights = simd.widen_packed(&self.groups[group], &self.table);
        if group == row.next {
            weights = simd.sums_at(&patched(simd, weights, &mut row.list));
            row.next = next_group(row.list);
        }
        weights
    }
}

/// Rows of a tile as they were.
pub(super) struct Unpack<'a> {
    pub(super) tile: &'a [u8],
    pub(super) row_len: usize,
    /// Whole rows, as many as the tile has.
    pub(super) out: &'a mut [u8],
}

impl Kernel for Unpack<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let padded_columns = (self.row_len / 2).next_multiple_of(LANES);
        let tile = Tile::new(self.tile, self.out.len() / self.row_len, padded_columns);
        let mut values = [0.0_f32; LANES];
        for (number, out) in self.out.chunks_exact_mut(self.row_len).enumerate() {
            let mut row = gemm::Rows::row(&tile, number);
            for (number, out) in out.chunks_mut(LANES * 2).enumerate() {
                let weights = gemm::Rows::group(&tile, simd, &mut row, number);
                simd.store_all(weights, &mut values);
                for (out, value) in out.as_chunks_mut::<2>().0.iter_mut().zip(&values) {
                    *out = ((value.to_bits() >> 16) as u16).to_le_bytes();
                }
            }
        }
    }
}

/// Packs whole rows as a tile.
pub(super) struct Pack<'a> {
    pub(super) rows: &'a [u8],
    pub(super) row_len: usize,
    /// At least [`packed_len`] bytes.
    pub(super) out: &'a mut [u8],
    /// How much of it was written; none if more would have to be listed than may be.
    pub(super) len: &'a mut Option<usize>,
}

impl Kernel for Pack<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _: S) {
        let codes = commonest(self.rows);
        let (rows, columns) = (self.rows.len() / self.row_len, self.row_len / 2);
        let (header, rest) = self.out.split_at_mut(HEADER_LEN);
        header.copy_from_slice(&codes);
        let groups = rows * columns.div_ceil(LANES);
        let (groups, list) = rest.split_at_mut(groups * GROUP_LEN);
        let list = &mut list[..rows * columns / LISTED_SHARE * RECORD_LEN];
        let (list, _) = list.as_chunks_mut::<RECORD_LEN>();
        let mut listed = 0;
        let parts = self.rows.chunks_exact(self.row_len);
        let parts = parts.flat_map(|row| row.chunks(LANES * 2));
        for (number, (part, group)) in parts.zip(groups.as_chunks_mut().0).enumerate() {
            let mut weights = [0; LANES * 2];
            weights[..part.len()].copy_from_slice(part);
            if pack(&weights, &codes, group) == 0 {
                continue;
            }
            // padding needs no record: code 7 alone is the zero that it is
            for (column, weight) in part.as_chunks::<2>().0.iter().enumerate() {
                if codes[..usize::from(LISTED)].contains(&(weight[1] & 0x7f)) {
                    continue;
                }
                let Some(record) = list.get_mut(listed) else {
                    return;
                };
                let [a, b, c, d] = (number as u32).to_le_bytes();
                *record = [a, b, c, d, column as u8, weight[1]];
                listed += 1;
            }
        }
        *self.len = Some(HEADER_LEN + groups.len() + listed * RECORD_LEN);
    }
}

/// The seven commonest values of seven bits of exponent, about; code 7 is zero.
#[inline(always)]
fn commonest(rows: &[u8]) -> [u8; HEADER_LEN] {
    let mut counts = [0_u32; 128];
    let step = rows.len() / (LANES * 2 * SAMPLE_LEN);
    for group in rows.chunks(LANES * 2).step_by(step.max(1)) {
        for weight in group.as_chunks::<2>().0 {
            counts[usize::from(weight[1] & 0x7f)] += 1;
        }
    }
    let mut codes = [0; HEADER_LEN];
    for code in &mut codes[..usize::from(LISTED)] {
        let mut best = 0;
        for (exponent, count) in counts.iter().enumerate() {
            if *count > counts[best] {
                best = exponent;
            }
        }
        *code = best as u8;
        counts[best] = 0;
    }
    codes
}

/// Packs 64 weights; gives how many have code 7.
#[inline(always)]
fn pack(weights: &[u8; LANES * 2], codes: &[u8; HEADER_LEN], group: &mut [u8; GROUP_LEN]) -> u8 {
    let (weights, _) = weights.as_chunks::<2>();
    let (mut lower, mut upper, mut halves) = ([0; LANES], [0; LANES], [LISTED; LANES]);
    for column in 0..LANES {
        [lower[column], upper[column]] = weights[column];
    }
    // one code after the other, for all columns at once; the first of several that are the same
    for (code, meant) in (0..LISTED).zip(codes).rev() {
        for column in 0..LANES {
            let is_it = upper[column] & 0x7f == *meant;
            halves[column] = if is_it { code } else { halves[column] };
        }
    }
    let mut listed = 0;
    for column in 0..LANES {
        listed += u8::from(halves[column] == LISTED);
        halves[column] |= (upper[column] & 0x80) >> 4;
    }
    for four in 0..LANES / 4 {
        let (p, from) = (4 * four, column(4 * four));
        group[LANES / 2 + p..][..4].copy_from_slice(&lower[from..from + 4]);
    }
    for four in 0..LANES / 8 {
        let (p, from) = (4 * four, column(4 * four));
        for at in 0..4 {
            group[p + at] = halves[from + at] | (halves[LANES / 2 + from + at] << 4);
        }
    }
    listed
}
