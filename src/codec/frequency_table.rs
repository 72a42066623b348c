//! One table of frequencies, as R32 and delta codecs write it (docs/format.md, section 8.1).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use crate::base::ByteReader;
use crate::base::Error;
use crate::base::Result;

/// Bytes of a table's bitmap of symbols.
const BITMAP_LEN: usize = 32;

/// Frequencies of the symbols of one table.
pub type Freqs = [u16; 256];

/// Writes one table.
pub(super) fn write(freqs: &Freqs, out: &mut Vec<u8>) {
    let (mut bitmap, mut coded) = ([0_u8; BITMAP_LEN], Vec::new());
    for (byte, freqs) in bitmap.iter_mut().zip(freqs.chunks(8)) {
        for (bit, &f) in freqs.iter().enumerate().filter(|(_, f)| **f > 0) {
            *byte |= 1 << bit;
            coded.push(f);
        }
    }
    out.extend_from_slice(&bitmap);
    coded.pop();
    for f in coded {
        if f < 128 {
            out.push(f as u8);
        } else {
            out.extend_from_slice(&[128 | f as u8 & 127, (f >> 7) as u8]);
        }
    }
}

/// Reads one table with frequencies of sum `2^bits`.
pub(super) fn read(reader: &mut ByteReader<'_>, bits: u32) -> Result<Freqs> {
    let bitmap = reader.take(BITMAP_LEN)?;
    let mut freqs = [0_u16; 256];
    let present = bitmap
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    let mut present: Vec<&mut u16> = freqs
        .iter_mut()
        .zip(present)
        .filter(|(_, present)| *present)
        .map(|(f, _)| f)
        .collect();
    let last = present.pop().filter(|_| !present.is_empty());
    let last = last.ok_or_else(|| wrong("a table of fewer than two symbols"))?;
    let mut left = 1_u16.wrapping_shl(bits);
    for f in present {
        let low = reader.u8()?;
        *f = u16::from(low & 127);
        if low & 128 != 0 {
            *f |= u16::from(reader.u8()?).wrapping_shl(7);
        }
        if *f == 0 {
            return Err(wrong("a frequency of 0"));
        }
        left = left
            .checked_sub(*f)
            .filter(|&left| left > 0)
            .ok_or_else(|| wrong(&format!("frequencies of more than 2^{bits}")))?;
    }
    *last = left;
    Ok(freqs)
}

/// The error of tables that say what they may not.
pub(super) fn wrong(what: &str) -> Error {
    Error::damaged(format!("the coding tables are damaged: {what}"))
}
