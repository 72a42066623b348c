//! 64 BF16 weights in twelve bits each.
//!
//! ```text
//! group   | 32 bytes: half bytes, byte p low, byte 32 + p high | 64 bytes: lower bytes |
//! ```
//! A table of 16 has the upper byte for each half byte. Registers interleave bytes by halves of 16,
//! so that byte `p` of a group is column [`column`]`(p)`: fours of columns trade places.

use crate::kernels::LANES;

/// Bytes of 64 weights.
pub(super) const GROUP_LEN: usize = LANES / 2 + LANES;

/// The column, within its group, of byte `p`.
pub(super) const fn column(p: usize) -> usize {
    let (half, quarter) = (p / (LANES / 2), p % (LANES / 2));
    half * (LANES / 2) + quarter % 16 / 4 * 8 + quarter / 16 * 4 + quarter % 4
}

/// The weights of a group, the definition.
#[inline(always)]
pub(super) fn widen(group: &[u8; GROUP_LEN], table: &[u8; 16]) -> [f32; LANES] {
    let mut values = [0.0; LANES];
    for p in 0..LANES {
        let half = (group[p % 32] >> (p / 32 * 4)) & 15;
        let upper = u32::from(table[usize::from(half)]);
        let lower = u32::from(group[LANES / 2 + p]);
        values[column(p)] = f32::from_bits(upper << 24 | lower << 16);
    }
    values
}
