//! Blocks of bf16 elements of several kinds: as the encoder writes them, and in every form that the
//! format allows.

use std::sync::Arc;

use bigsmall::base::CodecId;
use bigsmall::codec::Profile;
use bigsmall::codec::SpanTables;
use bigsmall::codec::encode::EncodeScratch;
use bigsmall::codec::span;
use bigsmall::entropy::planes::Word;
use bigsmall::tensor::Family;

use crate::gpu_kernels::cases::Block;
use crate::gpu_kernels::forge::R16Parts;
use crate::gpu_kernels::forge::R32Form;
use crate::gpu_kernels::forge::R32Parts;
use crate::models;
use crate::models::Random;

/// Elements of one of several kinds: weights, weights with far exponents, all values, zeros with a
/// few others, special values, noise, few values.
pub(crate) fn elements(kind: u64, count: usize) -> Vec<u8> {
    let mut random = Random::new(100 + kind);
    let mut bytes = models::bf16_weights(&mut random, count);
    match kind {
        0 => {}
        1 => {
            for word in bytes.chunks_mut(2) {
                if random.below(30) == 0 {
                    word.copy_from_slice(&(random.next() as u16).to_le_bytes());
                }
            }
        }
        2 => {
            bytes = (0..count)
                .flat_map(|i| (i as u16).wrapping_mul(40_503).to_le_bytes())
                .collect();
        }
        3 => {
            for word in bytes.chunks_mut(2).filter(|_| random.below(50) != 0) {
                word.fill(0);
            }
        }
        _ => bytes = models::data(&mut random, 2, count, [4, 1, 3][kind as usize % 3]),
    }
    bytes
}

pub(crate) const KINDS: u64 = 7;

/// The blocks of a span as the encoder makes them, with their original bytes.
pub(crate) fn encoded(bytes: &[u8], profile: Profile, block_len: usize) -> Vec<(Block, Vec<u8>)> {
    let originals: Vec<&[u8]> = bytes.chunks(block_len).collect();
    let span = span::encode_span(
        Family::Bf16,
        profile,
        &originals,
        &mut EncodeScratch::default(),
    );
    let tables =
        (!span.tables.is_empty()).then(|| Arc::new(SpanTables::parse(&span.tables).unwrap()));
    let mut rest = &span.bytes[..];
    let mut blocks = Vec::new();
    for (&(codec, len), original) in span.blocks.iter().zip(originals) {
        let (coded, after) = rest.split_at(len as usize);
        rest = after;
        blocks.push((
            Block::new(codec, coded.to_vec(), original.len(), tables.clone()),
            original.to_vec(),
        ));
    }
    blocks
}

pub(crate) const FORMS: [(u32, usize, bool); 4] =
    [(12, 1, true), (12, 3, true), (9, 5, true), (12, 1, false)];

/// R16 and R32 blocks of the same elements, in every form that the format allows.
pub(crate) fn forged(bytes: &[u8]) -> Vec<Block> {
    let words: &[Word] = bytes.as_chunks().0;
    let mut blocks = vec![r16_block(&R16Parts::of(words), bytes.len())];
    for version in [1, 2] {
        for (bits, tables, rans) in FORMS {
            let (tables, parts) = R32Parts::of(
                words,
                R32Form {
                    version,
                    bits,
                    tables,
                    rans,
                },
            );
            blocks.push(r32_block(&parts, &Arc::new(tables), bytes.len()));
        }
    }
    blocks
}

pub(crate) fn r16_block(parts: &R16Parts, out_len: usize) -> Block {
    Block::new(CodecId::R16, parts.bytes(), out_len, None)
}

pub(crate) fn r32_block(parts: &R32Parts, tables: &Arc<SpanTables>, out_len: usize) -> Block {
    let block = Block::new(
        CodecId::R32_BF16,
        parts.bytes(),
        out_len,
        Some(Arc::clone(tables)),
    );
    Block {
        version: parts.version,
        ..block
    }
}
