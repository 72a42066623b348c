//! The kernels in plain safe Rust: the definition that every faster one must equal. They take slices, allocate
//! nothing, never read outside what they are given, and answer false for bytes that no encoder makes.

use crate::entropy::cluster::STRIP_LEN;
use crate::entropy::planes::Word;
use crate::entropy::r16::R16Block;
use crate::entropy::r32::R32Plane;
use crate::entropy::r32::STATE_MIN;

/// Decodes an R16 block (docs/format.md, section 7).
pub fn r16_decode(block: &R16Block<'_>, out: &mut [Word]) -> bool {
    if block.states.len() == 2 * 64 {
        r16_lanes::<64>(block, out)
    } else {
        r16_lanes::<32>(block, out)
    }
}

fn r16_lanes<const L: usize>(block: &R16Block<'_>, out: &mut [Word]) -> bool {
    if block.states.len() != 2 * L || block.plane.len() != out.len() {
        return false;
    }
    let mut states = [0_u32; L];
    for (state, bytes) in states.iter_mut().zip(block.states.as_chunks::<2>().0) {
        *state = u32::from(u16::from_le_bytes(*bytes));
    }
    let (mut position, mut escapes) = (0, 0);
    for (words, low) in out.chunks_mut(L).zip(block.plane.chunks(L)) {
        let mut entries = [0_u32; L];
        for (entry, state) in entries.iter_mut().zip(&states) {
            *entry = block.table[(state & 255) as usize];
        }
        let mut next = [0_u32; L];
        for ((next, state), entry) in next.iter_mut().zip(&states).zip(&entries) {
            *next = (entry >> 8 & 255) * (state >> 8) + (entry >> 16 & 255);
        }
        let mut padded = [0_u8; L];
        let window = window(block.stream, position, &mut padded);
        let mut taken = 0;
        for (state, next) in states.iter_mut().zip(next) {
            // arithmetic and no branch, which would be mispredicted every few lanes
            let need = u32::from(next < 256);
            let byte = u32::from(window[taken % L]);
            *state = next << (8 * need) | byte & need.wrapping_neg();
            taken += need as usize;
        }
        position += taken;
        let mut symbols = [0_u8; L];
        let mut escaped = 0;
        for (symbol, entry) in symbols.iter_mut().zip(&entries) {
            *symbol = *entry as u8;
            escaped |= entry;
        }
        if escaped >> 24 != 0 {
            // lanes beyond the end take no literal
            let lanes = symbols.iter_mut().zip(&entries).take(words.len());
            for (symbol, _) in lanes.filter(|(_, entry)| **entry >> 24 != 0) {
                let Some(&literal) = block.lits.get(escapes) else {
                    return false;
                };
                *symbol = literal;
                escapes += 1;
            }
        }
        for ((word, &high), &low) in words.iter_mut().zip(&symbols).zip(low) {
            *word = u16::from_le_bytes([low, high])
                .rotate_right(1)
                .to_le_bytes();
        }
    }
    position == block.stream.len()
        && escapes == block.lits.len()
        && states.iter().all(|&x| x == 256)
}

/// Decodes an R32 plane (docs/format.md, section 8).
pub fn r32_decode(plane: &R32Plane<'_>, out: &mut [u8]) -> bool {
    if plane.states.len() == 4 * 64 {
        r32_lanes::<64, 128>(plane, out)
    } else {
        r32_lanes::<32, 64>(plane, out)
    }
}

/// `B` is the bytes of `L` words.
fn r32_lanes<const L: usize, const B: usize>(plane: &R32Plane<'_>, out: &mut [u8]) -> bool {
    if plane.states.len() != 4 * L {
        return false;
    }
    let mut states = [0_u32; L];
    for (state, bytes) in states.iter_mut().zip(plane.states.as_chunks::<4>().0) {
        *state = u32::from_le_bytes(*bytes);
    }
    let mask = (1_u32 << plane.bits) - 1;
    let mut position = 0;
    for (number, strip) in out.chunks_mut(STRIP_LEN).enumerate() {
        let Some(table) = plane.tables.get(plane.table_id(number)) else {
            return false;
        };
        for symbols in strip.chunks_mut(L) {
            let mut entries = [0_u32; L];
            for (entry, state) in entries.iter_mut().zip(&states) {
                *entry = table[(state & mask) as usize % table.len()];
            }
            let mut next = [0_u32; L];
            for ((next, state), entry) in next.iter_mut().zip(&states).zip(&entries) {
                *next = (entry >> 8 & 4095) * (state >> plane.bits) + (entry >> 20);
            }
            let mut padded = [0_u8; B];
            let window = window(plane.words, position, &mut padded);
            let (window, _) = window.as_chunks::<2>();
            let mut taken = 0;
            for (state, next) in states.iter_mut().zip(next) {
                let need = u32::from(next < STATE_MIN);
                let word = u32::from(u16::from_le_bytes(window[taken % L]));
                *state = next << (16 * need) | word & need.wrapping_neg();
                taken += need as usize;
            }
            position += 2 * taken;
            for (symbol, entry) in symbols.iter_mut().zip(&entries) {
                *symbol = *entry as u8;
            }
        }
    }
    position == plane.words.len() && states.iter().all(|&x| x == STATE_MIN)
}

/// The next `B` bytes from `position`; beyond the end zeros, which the count at the end finds out.
fn window<'a, const B: usize>(
    bytes: &'a [u8],
    position: usize,
    padded: &'a mut [u8; B],
) -> &'a [u8; B] {
    let rest = bytes.get(position..).unwrap_or_default();
    if let Some(whole) = rest.first_chunk() {
        return whole;
    }
    padded[..rest.len()].copy_from_slice(rest);
    padded
}
