//! How a block's elements become byte planes: one transform for each R32 codec.

use crate::base::CodecId;
use crate::entropy::cluster::STRIP_LEN;
use crate::entropy::planes;
use crate::entropy::planes::GROUP_BYTES;
use crate::entropy::planes::GROUP_LEN;
use crate::entropy::planes::Word;
use crate::entropy::r32::LANES_MAX;
use crate::entropy::simd::dispatch;
use crate::tensor::Family;

/// The transform of an R32 codec.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transform {
    /// `top` and the packed plane.
    Bf16,
    /// `high` and `low` of the rotated element.
    F16,
    /// `top`, byte 1, byte 0 and the packed plane.
    F32,
    /// The bytes of elements of 1, 2, 4 or 8 bytes, from the most significant.
    Bytes(u8),
}

impl Transform {
    /// The one for a family of dtypes.
    pub fn of(family: Family) -> Self {
        match family {
            Family::Bf16 => Self::Bf16,
            Family::F16 => Self::F16,
            Family::F32 => Self::F32,
            Family::Float8 => Self::Bytes(1),
            Family::Bytes(width) => Self::Bytes(width),
        }
    }

    /// The one of an R32 codec; `None` for other codecs.
    pub fn of_codec(codec: CodecId) -> Option<Self> {
        Some(match codec {
            CodecId::R32_BF16 => Self::Bf16,
            CodecId::R32_F16 => Self::F16,
            CodecId::R32_F32 => Self::F32,
            CodecId::R32_BYTES_1 => Self::Bytes(1),
            CodecId::R32_BYTES_2 => Self::Bytes(2),
            CodecId::R32_BYTES_4 => Self::Bytes(4),
            CodecId::R32_BYTES_8 => Self::Bytes(8),
            _ => return None,
        })
    }

    /// Its R32 codec.
    pub fn codec(self) -> CodecId {
        match self {
            Self::Bf16 => CodecId::R32_BF16,
            Self::F16 => CodecId::R32_F16,
            Self::F32 => CodecId::R32_F32,
            Self::Bytes(1) => CodecId::R32_BYTES_1,
            Self::Bytes(2) => CodecId::R32_BYTES_2,
            Self::Bytes(4) => CodecId::R32_BYTES_4,
            Self::Bytes(_) => CodecId::R32_BYTES_8,
        }
    }

    /// Bytes of an element.
    pub fn width(self) -> usize {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
            Self::Bytes(width) => usize::from(width),
        }
    }

    /// Bytes of the elements of a strip.
    pub fn strip_len(self) -> u64 {
        (self.width() * STRIP_LEN) as u64
    }

    /// Number of planes that are coded.
    pub fn plane_count(self) -> usize {
        match self {
            Self::Bf16 => 1,
            Self::F16 => 2,
            Self::F32 => 3,
            Self::Bytes(width) => usize::from(width),
        }
    }

    /// Whether plane 0 is `top`, with literals and a packed plane.
    pub fn has_top(self) -> bool {
        matches!(self, Self::Bf16 | Self::F32)
    }

    /// The part of a block that is whole elements; only bytes of no dtype have another.
    pub fn whole(self, block: &[u8]) -> &[u8] {
        &block[..block.len() - block.len() % self.width()]
    }

    /// Splits a block whose length is a multiple of the width.
    pub fn split(self, block: &[u8], base: u8, split: &mut Split) {
        let elements = block.len() / self.width();
        split.elements = elements;
        split.lits.clear();
        split.packed.clear();
        split.bytes.clear();
        split.bytes.resize(elements * self.plane_count(), 0);
        match self {
            Self::Bf16 => {
                let (words, _) = block.as_chunks::<2>();
                (dispatch::kernels().split_top)(
                    words,
                    base,
                    &mut split.bytes,
                    &mut split.lits,
                    &mut split.packed,
                );
            }
            Self::F16 => {
                let (words, _) = block.as_chunks::<2>();
                let (high, low) = split.bytes.split_at_mut(elements);
                planes::split_rotated(words, high, low);
            }
            Self::F32 => {
                split.words.clear();
                let (quads, _) = block.as_chunks::<4>();
                split
                    .words
                    .extend(quads.iter().map(|quad| [quad[2], quad[3]]));
                let (top, low) = split.bytes.split_at_mut(elements);
                (dispatch::kernels().split_top)(
                    &split.words,
                    base,
                    top,
                    &mut split.lits,
                    &mut split.packed,
                );
                let (one, zero) = low.split_at_mut(elements);
                planes::split_byte(block, 4, 1, one);
                planes::split_byte(block, 4, 0, zero);
            }
            Self::Bytes(width) => {
                let width = usize::from(width);
                for (plane, index) in (0..width).rev().enumerate() {
                    let plane = &mut split.bytes[plane * elements..(plane + 1) * elements];
                    planes::split_byte(block, width, index, plane);
                }
            }
        }
    }

    /// Puts a block together from its planes, one after another; false if what `top` needs is not
    /// used up exactly.
    pub fn merge(
        self,
        bytes: &[u8],
        top: &Top<'_>,
        words: &mut Vec<Word>,
        block: &mut [u8],
    ) -> bool {
        let elements = block.len() / self.width();
        match self {
            Self::Bf16 => {
                let (out, _) = block.as_chunks_mut::<2>();
                top.merge(bytes, out)
            }
            Self::F16 => {
                let (high, low) = bytes.split_at(elements);
                let (out, _) = block.as_chunks_mut::<2>();
                (dispatch::kernels().merge_rotated)(high, low, out);
                true
            }
            Self::F32 => {
                words.clear();
                words.resize(elements, [0; 2]);
                let (symbols, low) = bytes.split_at(elements);
                let whole = top.merge(symbols, words);
                let (one, zero) = low.split_at(elements);
                let (quads, _) = block.as_chunks_mut::<4>();
                (dispatch::kernels().merge_quads)(words, one, zero, quads);
                whole
            }
            Self::Bytes(1) => {
                block.copy_from_slice(bytes);
                true
            }
            Self::Bytes(width) => {
                let width = usize::from(width);
                for (plane, index) in bytes.chunks(elements).zip((0..width).rev()) {
                    planes::merge_byte(plane, width, index, block);
                }
                true
            }
        }
    }
}

/// What a `top` plane needs beside its symbols.
#[derive(Debug)]
pub struct Top<'a> {
    /// Window base.
    pub base: u8,
    /// Exponents of the escapes.
    pub lits: &'a [u8],
    /// The packed plane without its end.
    pub packed: &'a [u8],
    /// The end of the packed plane.
    pub packed_end: &'a [u8],
}

impl Top<'_> {
    /// Most bytes of a packed plane's end, the part of a group before it included.
    const END_MAX: usize = 6 * LANES_MAX + GROUP_BYTES;

    /// Puts the words together: those of the groups that are whole in `packed`, and then those of
    /// the others.
    fn merge(&self, symbols: &[u8], words: &mut [Word]) -> bool {
        let merge = dispatch::kernels().merge_top;
        let groups = (self.packed.len() / GROUP_BYTES).min(words.len() / GROUP_LEN);
        let (packed, cut) = self.packed.split_at(groups * GROUP_BYTES);
        let (head, tail) = words.split_at_mut(groups * GROUP_LEN);
        let (head_symbols, tail_symbols) = symbols.split_at(groups * GROUP_LEN);
        let Some(used) = merge(head_symbols, self.base, self.lits, packed, head) else {
            return false;
        };
        let lits = &self.lits[used..];
        if self.packed_end.is_empty() {
            return merge(tail_symbols, self.base, lits, cut, tail) == Some(lits.len());
        }
        let mut end = [0; Self::END_MAX];
        let end = &mut end[..cut.len() + self.packed_end.len()];
        end[..cut.len()].copy_from_slice(cut);
        end[cut.len()..].copy_from_slice(self.packed_end);
        merge(tail_symbols, self.base, lits, end, tail) == Some(lits.len())
    }
}

/// A block in planes.
#[derive(Debug, Default)]
pub struct Split {
    /// Elements of the block: the length of each plane.
    pub elements: usize,
    /// The planes, one after another.
    pub bytes: Vec<u8>,
    /// Literal exponents of `top`.
    pub lits: Vec<u8>,
    /// The packed plane.
    pub packed: Vec<u8>,
    words: Vec<Word>,
}

impl Split {
    /// Plane `number`.
    pub fn plane(&self, number: usize) -> &[u8] {
        &self.bytes[number * self.elements..(number + 1) * self.elements]
    }
}
