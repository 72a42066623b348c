//! Chooses the kernels, in one place: by what the processor has, or by `BIGSMALL_SIMD`.

use std::sync::LazyLock;

use crate::entropy::planes::Word;
use crate::entropy::r16::R16Block;
use crate::entropy::r32::R32Plane;
use crate::entropy::simd::scalar;

/// One set of kernels.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    /// The name that `BIGSMALL_SIMD` takes.
    pub name: &'static str,
    /// Decodes an R16 block; false if it is not well formed.
    pub r16_decode: fn(&R16Block<'_>, &mut [Word]) -> bool,
    /// Decodes an R32 plane; false if it is not well formed.
    pub r32_decode: fn(&R32Plane<'_>, &mut [u8]) -> bool,
}

const SCALAR: Kernels = Kernels {
    name: "scalar",
    r16_decode: scalar::r16_decode,
    r32_decode: scalar::r32_decode,
};

/// All sets that this processor can run, the definition first.
pub fn available() -> Vec<Kernels> {
    vec![SCALAR]
}

/// The set in use: the one that `BIGSMALL_SIMD` names, else the fastest.
pub fn kernels() -> &'static Kernels {
    static CHOSEN: LazyLock<Kernels> = LazyLock::new(|| {
        let sets = available();
        let wanted = std::env::var("BIGSMALL_SIMD").unwrap_or_default();
        sets.iter()
            .find(|set| set.name == wanted)
            .or(sets.last())
            .copied()
            .unwrap_or(SCALAR)
    });
    &CHOSEN
}
