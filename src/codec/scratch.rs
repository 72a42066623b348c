//! What a thread that decodes keeps from block to block.

use crate::codec::simple::ZstdDecoder;
use crate::entropy::planes::Word;

/// Buffers that a thread keeps from block to block.
#[derive(Debug, Default)]
pub struct Scratch {
    pub(crate) planes: Vec<u8>,
    pub(crate) words: Vec<Word>,
    pub(crate) zstd: ZstdDecoder,
}
