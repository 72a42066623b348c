//! Weights to measure with: normal numbers whose rows have scales of their own, as BF16, and coded.
//! A fixed seed makes them, so that every machine is measured with the same.

use std::f64::consts::TAU;
use std::ops::Range;

use crate::archive::CodedRun;
use crate::base::CodecId;
use crate::base::digest;
use crate::base::math;
use crate::base::random::SplitMix64;
use crate::codec::Profile;
use crate::codec::SpanTables;
use crate::codec::encode::EncodeScratch;
use crate::codec::span;
use crate::format::BlockRecord;
use crate::format::Grid;
use crate::kernels::Kernels;
use crate::kernels::packed;
use crate::tensor::Family;

/// Values of a row.
pub(super) const COLUMNS: usize = 4096;
/// Bytes of a row.
pub(super) const ROW_LEN: usize = COLUMNS * 2;
/// Bytes of a tile: what a model that is run decodes at once, two blocks.
pub(super) const TILE_LEN: usize = 256 << 10;
/// Tiles that differ from each other.
pub(super) const TILES: usize = 8;
/// Blocks of a tile, of the usual size.
const BLOCKS: usize = 2;
const LANES_SHIFT: u8 = 6;
const SEED: u64 = 0x5eed_be9c;
/// The deviation of a row is this on average, and at most twice as much or half of it.
const DEVIATION: f64 = 0.02;

/// Two independent normal numbers, by the method of Box and Muller.
fn normal(random: &mut SplitMix64) -> [f64; 2] {
    // above 0, at most 1
    let radius = (-2.0 * math::ln(1.0 - random.next_unit())).sqrt();
    let (sin, cos) = math::sin_cos(TAU * random.next_unit());
    [radius * cos, radius * sin]
}

/// The nearest BF16, the even one of two.
fn bf16(value: f64) -> u16 {
    let bits = (value as f32).to_bits();
    ((bits + 0x7fff + (bits >> 16 & 1)) >> 16) as u16
}

/// [`TILES`] tiles of weights as they are.
pub(super) fn plain() -> Vec<u8> {
    let mut random = SplitMix64(SEED);
    let mut bytes = Vec::with_capacity(TILES * TILE_LEN);
    for _ in 0..TILES * TILE_LEN / ROW_LEN {
        let deviation =
            DEVIATION * math::exp((2.0 * random.next_unit() - 1.0) * std::f64::consts::LN_2);
        for _ in 0..COLUMNS / 2 {
            for value in normal(&mut random) {
                bytes.extend_from_slice(&bf16(value * deviation).to_le_bytes());
            }
        }
    }
    bytes
}

/// A vector to multiply them with.
pub(super) fn vectors(count: usize) -> Vec<f32> {
    let mut random = SplitMix64(SEED + 1);
    let pairs = (0..count * COLUMNS / 2).flat_map(|_| normal(&mut random));
    pairs.map(|value| value as f32).collect()
}

/// Weights as an image has them.
#[derive(Debug)]
pub(super) struct Coded {
    pub(super) tables: Option<SpanTables>,
    records: Vec<BlockRecord>,
    grid: Grid,
    /// All of their coded bytes.
    pub(super) bytes: Vec<u8>,
}

impl Coded {
    /// By R16, or why not.
    pub(super) fn r16(plain: &[u8]) -> Result<Self, String> {
        Self::by(plain, Profile::Inference, CodecId::R16)
    }

    /// By R32, or why not.
    pub(super) fn r32(plain: &[u8]) -> Result<Self, String> {
        Self::by(plain, Profile::Balanced, CodecId::R32_BF16)
    }

    fn by(plain: &[u8], profile: Profile, codec: CodecId) -> Result<Self, String> {
        let block_shift = (TILE_LEN / BLOCKS).trailing_zeros() as u8;
        let blocks: Vec<&[u8]> = plain.chunks(TILE_LEN / BLOCKS).collect();
        let mut scratch = EncodeScratch::default();
        let span = span::encode_span(Family::Bf16, profile, &blocks, &mut scratch);
        let mut records = Vec::with_capacity(blocks.len());
        let mut offset = 0;
        for (block, (of_block, coded_len)) in blocks.iter().zip(&span.blocks) {
            if *of_block != codec {
                return Err(format!(
                    "the weights of the test are not coded by {}",
                    codec.name()
                ));
            }
            records.push(BlockRecord {
                checksum: digest::xxh3(block),
                offset,
                coded_len: *coded_len,
                codec,
                codec_version: codec.version(),
            });
            offset += u64::from(*coded_len);
        }
        let tables = (!span.tables.is_empty()).then(|| SpanTables::parse(&span.tables));
        Ok(Self {
            tables: tables.transpose().map_err(|error| error.what())?,
            records,
            grid: Grid {
                len: plain.len() as u64,
                block_shift,
                lanes_shift: LANES_SHIFT,
            },
            bytes: span.bytes,
        })
    }

    /// A tile, whose coded bytes lie in a copy of all of them.
    pub(super) fn tile<'a>(&'a self, number: usize, copy: &'a [u8]) -> CodedRun<'a> {
        let first = number % TILES * BLOCKS;
        let blocks = &self.records[first..first + BLOCKS];
        let last = &blocks[BLOCKS - 1];
        let (start, end) = (blocks[0].offset, last.offset + u64::from(last.coded_len));
        CodedRun {
            blocks,
            first: first as u64,
            grid: self.grid,
            bytes: &copy[start as usize..end as usize],
        }
    }
}

/// Weights in twelve bits each, as a run may keep them in memory.
#[derive(Debug)]
pub(super) struct Packed {
    /// All tiles.
    pub(super) bytes: Vec<u8>,
    tiles: Vec<Range<usize>>,
}

impl Packed {
    /// Packs every tile, or says why not.
    pub(super) fn new(plain: &[u8], kernels: Kernels) -> Result<Self, String> {
        let (mut bytes, mut tiles) = (Vec::new(), Vec::new());
        let mut packed = vec![0; packed::packed_len(TILE_LEN / ROW_LEN, COLUMNS)];
        for tile in plain.chunks_exact(TILE_LEN) {
            let len = kernels.pack_rows(tile, ROW_LEN, &mut packed);
            let len = len.ok_or("the weights of the test cannot be packed")?;
            let start = bytes.len();
            bytes.extend_from_slice(&packed[..len]);
            tiles.push(start..bytes.len());
        }
        Ok(Self { bytes, tiles })
    }

    /// A tile, which lies in a copy of all of them.
    pub(super) fn tile<'a>(&self, number: usize, copy: &'a [u8]) -> &'a [u8] {
        &copy[self.tiles[number % TILES].clone()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive;
    use crate::codec::Scratch;

    #[test]
    fn weights_are_like_those_of_models_and_always_the_same() {
        let weights = plain();
        assert_eq!(weights.len(), TILES * TILE_LEN);
        assert_eq!(weights, plain());
        let coded = [Coded::r16(&weights).unwrap(), Coded::r32(&weights).unwrap()];
        for coded in coded {
            // as trained models in BF16: 65.6 to 66.7 percent
            let permille = coded.bytes.len() * 1000 / weights.len();
            assert!((640..680).contains(&permille), "{permille}");
        }
    }

    #[test]
    fn tiles_decode_to_what_they_were_made_of() {
        let weights = plain();
        let (mut out, mut scratch) = (vec![0; TILE_LEN], Scratch::default());
        for coded in [Coded::r16(&weights).unwrap(), Coded::r32(&weights).unwrap()] {
            for (number, tile) in weights.chunks(TILE_LEN).enumerate() {
                let run = coded.tile(number + TILES, &coded.bytes);
                let tables = coded.tables.as_ref();
                archive::decode_run(&run, tables, &[], &mut out, &mut scratch).unwrap();
                assert!(out == tile, "{number}");
            }
        }
    }

    #[test]
    fn packed_tiles_are_a_quarter_shorter_and_the_same_again() {
        let weights = plain();
        for kernels in crate::kernels::dispatch::available() {
            let packed = Packed::new(&weights, kernels).unwrap();
            let permille = packed.bytes.len() * 1000 / weights.len();
            assert!((750..760).contains(&permille), "{permille}");
            let mut out = vec![0; TILE_LEN];
            for (number, tile) in weights.chunks(TILE_LEN).enumerate() {
                let packed = packed.tile(number + TILES, &packed.bytes);
                kernels.unpack_rows(packed, ROW_LEN, &mut out);
                assert!(out == tile, "{number}");
            }
        }
    }

    #[test]
    fn values_are_rounded_to_the_nearest() {
        assert_eq!(bf16(1.0), 0x3f80);
        assert_eq!(bf16(-2.0), 0xc000);
        // halfway: to the even one
        assert_eq!(bf16(1.0 + 1.0 / 256.0), 0x3f80);
        assert_eq!(bf16(1.0 + 3.0 / 256.0), 0x3f82);
    }
}
