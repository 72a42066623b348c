//! Elements split into byte planes and put together again (docs/format.md, sections 6 to 8). Loops
//! are plain and of fixed length, so that the compiler vectorises them.

/// Exponent codes of a `top` symbol that are a window above `base`; the next one is the escape.
pub const WINDOW_LEN: u8 = 62;
/// Highest window base: its window ends with the highest exponent.
pub const BASE_MAX: u8 = 255 - WINDOW_LEN;
/// The exponent code of an escape.
pub const ESCAPE: u8 = 63;
/// Elements of a group of the packed plane.
pub const GROUP_LEN: usize = 64;
/// Bytes that a group takes in the packed plane.
pub const GROUP_BYTES: usize = 48;

/// A 16-bit element as its two little-endian bytes: a block's bytes are seen so without a copy.
pub type Word = [u8; 2];

/// Bytes of the packed plane of `elements` elements.
pub fn packed_len(elements: usize) -> usize {
    elements.div_ceil(GROUP_LEN) * GROUP_BYTES
}

/// The window base for which most of the exponents counted (by their value, 0 to 255) need no
/// escape.
pub fn window_base(exponents: &[u64; 256]) -> u8 {
    let window = usize::from(WINDOW_LEN);
    let mut best = (0_u64, 0_usize);
    for base in 0..=usize::from(BASE_MAX) {
        let held = exponents[base + 1..=base + window].iter().sum();
        if held > best.0 {
            best = (held, base);
        }
    }
    best.1 as u8
}

/// The symbol of a bf16, and 1 if its exponent goes to the literals. Without a branch, so that
/// loops are vectorised.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of split_top")]
fn top_symbol(x: u16, base: u8) -> (u8, u8) {
    let exponent = (x >> 7) as u8;
    let code = exponent.wrapping_sub(base);
    let outside = code.wrapping_sub(1) >= WINDOW_LEN;
    let code = if outside { ESCAPE } else { code };
    let code = if exponent == 0 { 0 } else { code };
    (
        code << 2 | (x >> 5) as u8 & 3,
        u8::from(outside && exponent != 0),
    )
}

/// Splits bf16 `words` into symbols, literals (appended) and the packed plane (appended).
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "compiled once for each processor that a set of kernels is for"
)]
pub fn split_top(
    words: &[Word],
    base: u8,
    symbols: &mut [u8],
    lits: &mut Vec<u8>,
    packed: &mut Vec<u8>,
) {
    assert_eq!(words.len(), symbols.len(), "a symbol for each element");
    packed.reserve(packed_len(words.len()));
    for (group, symbols) in words.chunks(GROUP_LEN).zip(symbols.chunks_mut(GROUP_LEN)) {
        let mut padded = [[0; 2]; GROUP_LEN];
        let whole: &[Word; GROUP_LEN] = if let Ok(whole) = group.try_into() {
            whole
        } else {
            padded[..group.len()].copy_from_slice(group);
            &padded
        };
        let (mut codes, mut v) = ([0_u8; GROUP_LEN], [0_u8; GROUP_LEN]);
        let mut escaped = 0;
        for i in 0..GROUP_LEN {
            let x = u16::from_le_bytes(whole[i]);
            let (code, outside) = top_symbol(x, base);
            codes[i] = code;
            v[i] = (x >> 15 << 5) as u8 | (x & 31) as u8;
            escaped |= outside;
        }
        symbols.copy_from_slice(&codes[..group.len()]);
        if escaped != 0 {
            let exponents = group
                .iter()
                .map(|&word| (u16::from_le_bytes(word) >> 7) as u8);
            let outside = exponents
                .zip(&codes)
                .filter(|(_, code)| **code >= ESCAPE << 2);
            lits.extend(outside.map(|(exponent, _)| exponent));
        }
        packed.extend_from_slice(&pack_group(&v));
    }
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "part of split_top")]
fn pack_group(v: &[u8; GROUP_LEN]) -> [u8; GROUP_BYTES] {
    let mut bytes = [0_u8; GROUP_BYTES];
    for i in 0..32 {
        bytes[i] = v[i] & 15 | (v[i + 32] & 15) << 4;
    }
    for i in 0..16 {
        bytes[32 + i] = v[i] >> 4 | v[i + 16] >> 4 << 2 | v[i + 32] >> 4 << 4 | v[i + 48] >> 4 << 6;
    }
    bytes
}

#[inline(always)]
#[expect(clippy::inline_always, reason = "part of merge_top")]
fn unpack_group(bytes: &[u8; GROUP_BYTES]) -> [u8; GROUP_LEN] {
    let mut v = [0_u8; GROUP_LEN];
    for i in 0..32 {
        v[i] = bytes[i] & 15;
        v[i + 32] = bytes[i] >> 4;
    }
    for quarter in 0..4 {
        for i in 0..16 {
            v[quarter * 16 + i] |= (bytes[32 + i] >> (2 * quarter) & 3) << 4;
        }
    }
    v
}

/// Puts bf16 `words` together from symbols, literals and the packed plane. Gives the number of
/// literals used; none if there are too few of them, or the packed plane has bits of missing
/// elements.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "compiled once for each processor that a set of kernels is for"
)]
pub fn merge_top(
    symbols: &[u8],
    base: u8,
    lits: &[u8],
    packed: &[u8],
    words: &mut [Word],
) -> Option<usize> {
    assert_eq!(symbols.len(), words.len(), "a symbol for each element");
    assert_eq!(
        packed.len(),
        packed_len(words.len()),
        "a packed group for each 64 elements"
    );
    let (groups, _) = packed.as_chunks::<GROUP_BYTES>();
    let (whole, last) = words.as_chunks_mut::<GROUP_LEN>();
    let (whole_symbols, last_symbols) = symbols.as_chunks::<GROUP_LEN>();
    let mut escapes = 0_usize;
    for ((symbols, words), group) in whole_symbols.iter().zip(whole).zip(groups) {
        if !merge_group(
            symbols,
            base,
            lits,
            &mut escapes,
            &unpack_group(group),
            words,
            GROUP_LEN,
        ) {
            return None;
        }
    }
    if let Some(group) = groups.last().filter(|_| !last.is_empty()) {
        let (mut symbols, mut words) = ([0; GROUP_LEN], [[0; 2]; GROUP_LEN]);
        let low = unpack_group(group);
        symbols[..last.len()].copy_from_slice(last_symbols);
        if !merge_group(
            &symbols,
            base,
            lits,
            &mut escapes,
            &low,
            &mut words,
            last.len(),
        ) || low[last.len()..].iter().any(|&v| v != 0)
        {
            return None;
        }
        last.copy_from_slice(&words[..last.len()]);
    }
    Some(escapes)
}

/// One group; the first `count` elements may take literals.
#[inline(always)]
#[expect(clippy::inline_always, reason = "part of merge_top")]
fn merge_group(
    symbols: &[u8; GROUP_LEN],
    base: u8,
    lits: &[u8],
    escapes: &mut usize,
    low: &[u8; GROUP_LEN],
    words: &mut [Word; GROUP_LEN],
    count: usize,
) -> bool {
    let mut escaped = 0_u8;
    for i in 0..GROUP_LEN {
        let (symbol, v) = (symbols[i], low[i]);
        escaped |= u8::from(symbol >= ESCAPE << 2);
        // in two bytes: sign and upper exponent, lowest exponent bit and mantissa. An escape's
        // exponent is put in below; until then it must not touch the sign
        let exponent = if symbol < 4 {
            0
        } else {
            (symbol >> 2).wrapping_add(base)
        };
        words[i] = [
            exponent << 7 | (symbol & 3) << 5 | v & 31,
            v >> 5 << 7 | exponent >> 1,
        ];
    }
    if escaped == 0 {
        return true;
    }
    for (word, _) in words
        .iter_mut()
        .zip(symbols)
        .take(count)
        .filter(|(_, s)| **s >= ESCAPE << 2)
    {
        let Some(&exponent) = lits.get(*escapes) else {
            return false;
        };
        *word = [
            word[0] & 0x7f | exponent << 7,
            word[1] & 0x80 | exponent >> 1,
        ];
        *escapes += 1;
    }
    true
}

/// Splits 16-bit elements, rotated left by one, into their high and low bytes.
pub fn split_rotated(words: &[Word], high: &mut [u8], low: &mut [u8]) {
    for ((&word, high), low) in words.iter().zip(high).zip(low) {
        [*low, *high] = u16::from_le_bytes(word).rotate_left(1).to_le_bytes();
    }
}

/// The inverse of [`split_rotated`].
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "compiled once for each processor that a set of kernels is for"
)]
pub fn merge_rotated(high: &[u8], low: &[u8], words: &mut [Word]) {
    for ((word, &high), &low) in words.iter_mut().zip(high).zip(low) {
        *word = u16::from_le_bytes([low, high])
            .rotate_right(1)
            .to_le_bytes();
    }
}

/// Puts elements of four bytes together from their upper halves and their bytes 1 and 0.
#[inline(always)]
#[expect(
    clippy::inline_always,
    reason = "compiled once for each processor that a set of kernels is for"
)]
pub fn merge_quads(upper: &[Word], one: &[u8], zero: &[u8], quads: &mut [[u8; 4]]) {
    for (((quad, &upper), &one), &zero) in quads.iter_mut().zip(upper).zip(one).zip(zero) {
        let lower = u32::from(one) << 8 | u32::from(zero);
        let bits = u32::from(u16::from_le_bytes(upper)) << 16 | lower;
        *quad = bits.to_le_bytes();
    }
}

/// Copies byte `index` of each element of `width` bytes.
pub fn split_byte(bytes: &[u8], width: usize, index: usize, plane: &mut [u8]) {
    for (element, out) in bytes.chunks_exact(width).zip(plane) {
        *out = element[index];
    }
}

/// The inverse of [`split_byte`].
pub fn merge_byte(plane: &[u8], width: usize, index: usize, bytes: &mut [u8]) {
    for (element, &byte) in bytes.chunks_exact_mut(width).zip(plane) {
        element[index] = byte;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_bf16_comes_back_with_any_window() {
        let words: Vec<Word> = (0..=u16::MAX).map(u16::to_le_bytes).collect();
        for base in [0, 1, 64, 100, 193] {
            for len in [0, 1, 63, 64, 65, words.len()] {
                let words = &words[words.len() - len..];
                let mut symbols = vec![0; len];
                let (mut lits, mut packed) = (Vec::new(), Vec::new());
                split_top(words, base, &mut symbols, &mut lits, &mut packed);
                let mut back = vec![[0; 2]; len];
                let used = merge_top(&symbols, base, &lits, &packed, &mut back);
                assert_eq!(used, Some(lits.len()));
                assert!(back == words, "base {base}, {len} elements");
                if lits.pop().is_some() {
                    assert_eq!(merge_top(&symbols, base, &lits, &packed, &mut back), None);
                }
            }
        }
    }

    #[test]
    fn the_window_goes_where_the_exponents_are() {
        let mut exponents = [0; 256];
        exponents[110..125].fill(1000);
        exponents[255] = 3;
        let base = usize::from(window_base(&exponents));
        assert!(base < 110 && 125 <= base + 63, "base {base}");
    }
}
