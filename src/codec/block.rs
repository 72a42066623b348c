//! A coded block, as a decoder takes it.

use crate::base::CodecId;

/// A coded block and what its span says of it.
#[derive(Debug, Clone, Copy)]
pub struct CodedBlock<'a> {
    /// How it is coded.
    pub codec: CodecId,
    /// Version of the codec.
    pub version: u8,
    /// The coded bytes.
    pub bytes: &'a [u8],
    /// 32 or 64.
    pub lanes: usize,
    /// The bytes of the base at the same place, where the codec needs them; else nothing.
    pub base: &'a [u8],
}
