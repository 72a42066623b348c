//! What a set of kernels is: an inner loop each, of which `scalar` has the definition.

use crate::base::level::Level;
use crate::entropy::context::ContextBlock;
use crate::entropy::planes::Word;
use crate::entropy::r16::R16Block;
use crate::entropy::r32::Carried;
use crate::entropy::r32::EncodeTable;
use crate::entropy::r32::R32Coded;
use crate::entropy::r32::R32Plane;

/// Symbols, base, literals and packed plane to words and the number of literals used.
pub type MergeTop = fn(&[u8], u8, &[u8], &[u8], &mut [Word]) -> Option<usize>;
/// Words and base to symbols, literals and packed plane.
pub type SplitTop = fn(&[Word], u8, &mut [u8], &mut Vec<u8>, &mut Vec<u8>);

/// A plane, the table ids of its strips, tables and what the lanes are to carry, to states and
/// words.
pub type R32Encode = fn(&[u8], &[u8], &[EncodeTable], &Carried, &mut R32Coded) -> bool;

/// Two blocks and their elements, to whether each is well formed.
pub type R16DecodeTwo = fn([&R16Block<'_>; 2], [&mut [Word]; 2]) -> [bool; 2];

/// Two blocks and their bytes, to whether each is well formed.
pub type ContextDecodeTwo = fn([&ContextBlock<'_>; 2], [&mut [u8]; 2]) -> [bool; 2];

/// Upper halves, bytes 1 and bytes 0 to elements of four bytes.
pub type MergeQuads = fn(&[Word], &[u8], &[u8], &mut [[u8; 4]]);

/// One set of kernels.
#[derive(Debug, Clone, Copy)]
pub struct Kernels {
    /// What it is for.
    pub level: Level,
    /// The name that `BIGSMALL_SIMD` takes.
    pub name: &'static str,
    /// Decodes an R16 block; false if it is not well formed.
    pub r16_decode: fn(&R16Block<'_>, &mut [Word]) -> bool,
    /// Decodes two R16 blocks at once; none where that is no faster than one after the other.
    pub r16_decode_two: Option<R16DecodeTwo>,
    /// Decodes an R32 plane and gives what its lanes carried; none if it is not well formed.
    pub r32_decode: fn(&R32Plane<'_>, &mut [u8]) -> Option<Carried>,
    /// [`r32::encode`](crate::entropy::r32::encode) by 64 lanes.
    pub r32_encode: R32Encode,
    /// Decodes differences and adds them to their base; false if the block is not well formed.
    pub context_decode: fn(&ContextBlock<'_>, &mut [u8]) -> bool,
    /// Decodes the differences of two blocks at once; none where that is no faster than one after
    /// the other.
    pub context_decode_two: Option<ContextDecodeTwo>,
    /// [`merge_top`](crate::entropy::planes::merge_top)
    pub merge_top: MergeTop,
    /// [`split_top`](crate::entropy::planes::split_top)
    pub split_top: SplitTop,
    /// [`merge_rotated`](crate::entropy::planes::merge_rotated)
    pub merge_rotated: fn(&[u8], &[u8], &mut [Word]),
    /// [`merge_quads`](crate::entropy::planes::merge_quads)
    pub merge_quads: MergeQuads,
}
