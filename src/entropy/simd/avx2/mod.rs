//! The kernels for AVX2: whole steps with vectors, the rest by `scalar`.

#![expect(
    unsafe_code,
    reason = "calls of functions for a processor that was asked for"
)]

mod context;
mod r16;
mod r32;
mod vectors;

use crate::base::level::Level;
use crate::entropy::planes;
use crate::entropy::planes::Word;
use crate::entropy::simd::kernels::Kernels;

/// These sets, if the processor can run them: with gathers, which are slow on some processors, and
/// with loads instead. Their functions are reachable only through here, which is what makes calling
/// them sound.
pub(super) fn kernels() -> Option<[Kernels; 2]> {
    let set = |name, r32_decode, r32_encode, context_decode| Kernels {
        level: Level::Avx2,
        name,
        r16_decode: r16::r16_decode,
        // two at once would not fit into the registers
        r16_decode_two: None,
        r32_decode,
        r32_encode,
        context_decode,
        context_decode_two: None,
        merge_top,
        split_top,
        merge_rotated,
        merge_quads,
    };
    let sets = [
        set(
            "avx2-loads",
            r32::r32_decode::<false>,
            r32::r32_encode::<false>,
            context::context_decode::<false>,
        ),
        set(
            "avx2",
            r32::r32_decode::<true>,
            r32::r32_encode::<true>,
            context::context_decode::<true>,
        ),
    ];
    Level::Avx2.is_there().then_some(sets)
}

fn merge_top(
    symbols: &[u8],
    base: u8,
    lits: &[u8],
    packed: &[u8],
    words: &mut [Word],
) -> Option<usize> {
    #[target_feature(enable = "avx2")]
    fn with_features(
        s: &[u8],
        base: u8,
        lits: &[u8],
        packed: &[u8],
        words: &mut [Word],
    ) -> Option<usize> {
        planes::merge_top(s, base, lits, packed, words)
    }
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { with_features(symbols, base, lits, packed, words) }
}

fn merge_rotated(high: &[u8], low: &[u8], words: &mut [Word]) {
    #[target_feature(enable = "avx2")]
    fn with_features(high: &[u8], low: &[u8], words: &mut [Word]) {
        planes::merge_rotated(high, low, words);
    }
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { with_features(high, low, words) }
}

fn merge_quads(upper: &[Word], one: &[u8], zero: &[u8], quads: &mut [[u8; 4]]) {
    #[target_feature(enable = "avx2")]
    fn with_features(upper: &[Word], one: &[u8], zero: &[u8], quads: &mut [[u8; 4]]) {
        planes::merge_quads(upper, one, zero, quads);
    }
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { with_features(upper, one, zero, quads) }
}

fn split_top(
    words: &[Word],
    base: u8,
    symbols: &mut [u8],
    lits: &mut Vec<u8>,
    packed: &mut Vec<u8>,
) {
    #[target_feature(enable = "avx2")]
    fn with_features(w: &[Word], base: u8, s: &mut [u8], lits: &mut Vec<u8>, packed: &mut Vec<u8>) {
        planes::split_top(w, base, s, lits, packed);
    }
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { with_features(words, base, symbols, lits, packed) }
}
