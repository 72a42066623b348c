//! How far a float is from its base: the difference of the two as ordered integers, whose width
//! follows from the exponent of the base (docs/format.md, section 9). The same numbers as an
//! exclusive or would cost up to half as much again.

/// Contexts that an element's base may give.
pub(crate) const CONTEXTS: usize = 16;

/// A float layout: one sign bit on top, then exponent and mantissa.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FloatLayout {
    /// Bytes of an element: 1, 2 or 4.
    pub width: usize,
    /// Bits of the mantissa.
    pub mantissa_bits: u32,
}

impl FloatLayout {
    /// 8 exponent and 7 mantissa bits.
    pub const BF16: Self = Self::new(2, 7);
    /// 5 exponent and 10 mantissa bits.
    pub const F16: Self = Self::new(2, 10);
    /// 8 exponent and 23 mantissa bits.
    pub const F32: Self = Self::new(4, 23);
    /// 4 exponent and 3 mantissa bits.
    pub const F8_E4M3: Self = Self::new(1, 3);
    /// 5 exponent and 2 mantissa bits.
    pub const F8_E5M2: Self = Self::new(1, 2);

    const fn new(width: usize, mantissa_bits: u32) -> Self {
        Self {
            width,
            mantissa_bits,
        }
    }

    /// The bits behind the sign.
    fn magnitude_mask(self) -> u32 {
        (1 << (8 * self.width - 1)) - 1
    }

    /// The exponent of each element of `base`, 0 to 255.
    pub fn exponents(self, base: &[u8], exponents: &mut Vec<u8>) {
        exponents.resize(base.len() / self.width, 0);
        self.put_exponents(base, exponents);
    }

    /// The same into a slice, which has a place for each element.
    pub fn put_exponents(self, base: &[u8], exponents: &mut [u8]) {
        assert_eq!(base.len(), exponents.len() * self.width, "one for each");
        let mask = (self.magnitude_mask() >> self.mantissa_bits) as u8;
        let exponent = |bits: u32| (bits >> self.mantissa_bits) as u8 & mask;
        match self.width {
            1 => {
                for (out, &b) in exponents.iter_mut().zip(base) {
                    *out = exponent(u32::from(b));
                }
            }
            2 => {
                for (out, &b) in exponents.iter_mut().zip(base.as_chunks::<2>().0) {
                    *out = exponent(u32::from(u16::from_le_bytes(b)));
                }
            }
            _ => {
                for (out, &b) in exponents.iter_mut().zip(base.as_chunks::<4>().0) {
                    *out = exponent(u32::from_le_bytes(b));
                }
            }
        }
    }

    /// The differences of `target` from `base`, zigzagged: 0, -1, 1, -2, ... are 0, 1, 2, 3, ...
    pub fn differences(self, target: &[u8], base: &[u8], out: &mut Vec<u32>) {
        assert_eq!(target.len(), base.len(), "a base for each element");
        out.clear();
        match self.width {
            1 => out.extend(target.iter().zip(base).map(|(&t, &b)| {
                let d = ordered_8(t).wrapping_sub(ordered_8(b));
                u32::from((d << 1 ^ d >> 7).cast_unsigned())
            })),
            2 => {
                let (t, b) = (target.as_chunks::<2>().0, base.as_chunks::<2>().0);
                out.extend(t.iter().zip(b).map(|(&t, &b)| {
                    let d = ordered_16(u16::from_le_bytes(t))
                        .wrapping_sub(ordered_16(u16::from_le_bytes(b)));
                    u32::from((d << 1 ^ d >> 15).cast_unsigned())
                }));
            }
            _ => {
                let (t, b) = (target.as_chunks::<4>().0, base.as_chunks::<4>().0);
                out.extend(t.iter().zip(b).map(|(&t, &b)| {
                    let d = ordered_32(u32::from_le_bytes(t))
                        .wrapping_sub(ordered_32(u32::from_le_bytes(b)));
                    (d << 1 ^ d >> 31).cast_unsigned()
                }));
            }
        }
    }

    /// The inverse of [`FloatLayout::differences`].
    pub fn add(self, differences: &[u32], base: &[u8], out: &mut [u8]) {
        assert_eq!(out.len(), base.len(), "a base for each element");
        match self.width {
            1 => {
                for ((out, &b), &z) in out.iter_mut().zip(base).zip(differences) {
                    let z = z as u8;
                    let d = (z >> 1 ^ (z & 1).wrapping_neg()).cast_signed();
                    *out = ordered_8(ordered_8(b).wrapping_add(d).cast_unsigned()).cast_unsigned();
                }
            }
            2 => {
                let (out, b) = (out.as_chunks_mut::<2>().0, base.as_chunks::<2>().0);
                for ((out, &b), &z) in out.iter_mut().zip(b).zip(differences) {
                    let z = z as u16;
                    let d = (z >> 1 ^ (z & 1).wrapping_neg()).cast_signed();
                    let sum = ordered_16(u16::from_le_bytes(b)).wrapping_add(d);
                    *out = ordered_16(sum.cast_unsigned()).to_le_bytes();
                }
            }
            _ => {
                let (out, b) = (out.as_chunks_mut::<4>().0, base.as_chunks::<4>().0);
                for ((out, &b), &z) in out.iter_mut().zip(b).zip(differences) {
                    let d = (z >> 1 ^ (z & 1).wrapping_neg()).cast_signed();
                    let sum = ordered_32(u32::from_le_bytes(b)).wrapping_add(d);
                    *out = ordered_32(sum.cast_unsigned()).to_le_bytes();
                }
            }
        }
    }
}

/// Floats by their bits in the order of their values, as signed integers; its own inverse. So are
/// the two below.
fn ordered_8(bits: u8) -> i8 {
    let sign = (bits.cast_signed() >> 7).cast_unsigned();
    (bits ^ sign & 0x7f).cast_signed()
}

fn ordered_16(bits: u16) -> i16 {
    let sign = (bits.cast_signed() >> 15).cast_unsigned();
    (bits ^ sign & 0x7fff).cast_signed()
}

fn ordered_32(bits: u32) -> i32 {
    let sign = (bits.cast_signed() >> 31).cast_unsigned();
    (bits ^ sign & 0x7fff_ffff).cast_signed()
}

/// Turns exponents into contexts: how far each is below `highest`, at most 15.
pub(crate) fn contexts(exponents: &mut [u8], highest: u8) {
    for exponent in exponents {
        *exponent = highest.saturating_sub(*exponent).min(CONTEXTS as u8 - 1);
    }
}

/// A zigzagged difference in two parts: a symbol that is coded, and how many of its low bits are
/// kept as they are. Numbers below 16 are symbols of their own; above, a symbol holds the length
/// and the three bits behind the highest.
pub(crate) fn bucket(difference: u32) -> (u8, u32) {
    if difference < 16 {
        return (difference as u8, 0);
    }
    let raw_bits = difference.ilog2() - 3;
    let symbol = (raw_bits + 1) << 3 | difference >> raw_bits & 7;
    (symbol as u8, raw_bits)
}

/// How many low bits a symbol leaves.
pub(crate) fn raw_bits(symbol: u8) -> u32 {
    u32::from(symbol >> 3).saturating_sub(1)
}

/// The difference of a symbol with its low bits; at most 28 of them, as no symbol of a difference
/// is above 239.
pub(crate) fn difference(symbol: u8, raw: u32) -> u32 {
    let raw_bits = raw_bits(symbol);
    if symbol < 8 {
        return u32::from(symbol);
    }
    (8 | u32::from(symbol & 7)) << (raw_bits & 31) | raw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_of_bytes_and_many_words_come_back() {
        let all: Vec<u8> = (0..=255).collect();
        let mut differences = Vec::new();
        for shift in 0..=255 {
            let base: Vec<u8> = all.iter().map(|b| b.wrapping_mul(7) ^ shift).collect();
            for layout in [
                FloatLayout::F8_E4M3,
                FloatLayout::BF16,
                FloatLayout::F16,
                FloatLayout::F32,
            ] {
                layout.differences(&all, &base, &mut differences);
                let mut back = vec![0; 256];
                layout.add(&differences, &base, &mut back);
                assert_eq!(back, all, "{layout:?}");
            }
        }
    }

    #[test]
    fn neighbours_differ_by_one_across_zero() {
        let mut out = Vec::new();
        // the smallest of either sign, and the two zeros, which are neighbours
        let target = [0x01, 0x00, 0x00, 0x80, 0x01, 0x80];
        let base = [0x00, 0x00, 0x00, 0x00, 0x00, 0x80];
        FloatLayout::BF16.differences(&target, &base, &mut out);
        assert_eq!(out, [2, 1, 1]);
    }

    #[test]
    fn buckets_come_back() {
        let near = (0..32).flat_map(|bit| [(1_u32 << bit) - 1, 1 << bit, (1 << bit) + 1]);
        for z in (0..70_000).chain(near).chain([u32::MAX, u32::MAX - 1]) {
            let (symbol, bits) = bucket(z);
            assert!(symbol <= 239 && bits == raw_bits(symbol));
            let raw = z & ((1_u64 << bits) - 1) as u32;
            assert_eq!(difference(symbol, raw), z);
        }
    }
}
