//! A block to coded bytes: every codec that may fit is tried, and the smallest result is taken.

use crate::base::CodecId;
use crate::codec::delta::DeltaScratch;
use crate::codec::gain;
use crate::codec::profile::Profile;
use crate::codec::r16;
use crate::codec::r32;
use crate::codec::r32::PlaneCoder;
use crate::codec::r32::R32Scratch;
use crate::codec::simple;
use crate::codec::simple::ZstdEncoder;
use crate::codec::transform::Split;
use crate::codec::transform::Transform;
use crate::entropy::r16::R16Coded;
use crate::tensor::Family;

/// Spans with fewer bytes are stored raw, const or zstd: tables and states would eat what they
/// save.
const RANS_LEN_MIN: u64 = 4 << 10;
/// Buffers that a thread keeps from block to block.
#[derive(Debug, Default)]
pub struct EncodeScratch {
    pub(crate) split: Split,
    r32: R32Scratch,
    /// Those of delta blocks.
    pub delta: DeltaScratch,
    r16: R16Coded,
    candidate: Vec<u8>,
    zstd: ZstdEncoder,
}

/// Encodes the blocks of one span.
#[derive(Debug)]
pub struct SpanCoder {
    family: Family,
    transform: Transform,
    base: u8,
    pub(crate) tries_r16: bool,
    planes: Option<Vec<PlaneCoder>>,
    tables: Vec<u8>,
}

/// A whole span, coded in memory.
#[derive(Debug, Default)]
pub struct CodedSpan {
    /// Bytes of the span's tables.
    pub tables: Vec<u8>,
    /// The coded blocks, one after another.
    pub bytes: Vec<u8>,
    /// Codec and coded length of each block.
    pub blocks: Vec<(CodecId, u32)>,
}

impl SpanCoder {
    pub(crate) fn new(
        family: Family,
        profile: Profile,
        base: u8,
        planes: Option<Vec<PlaneCoder>>,
        tables: Vec<u8>,
    ) -> Self {
        let tries_r16 = family == Family::Bf16 && profile == Profile::Inference;
        Self {
            family,
            transform: Transform::of(family),
            base,
            tries_r16,
            planes,
            tables,
        }
    }

    /// Whether a span of `len` bytes is looked at before it is coded.
    pub fn wants_analysis(family: Family, profile: Profile, len: u64) -> bool {
        len >= RANS_LEN_MIN && !(family == Family::Bf16 && profile == Profile::Inference)
    }

    /// The coder for a span of `len` bytes that is not looked at: it has no tables.
    pub fn unanalysed(family: Family, len: u64) -> Self {
        let tries_r16 = family == Family::Bf16 && len >= RANS_LEN_MIN;
        let transform = Transform::of(family);
        Self {
            family,
            transform,
            base: 0,
            tries_r16,
            planes: None,
            tables: Vec::new(),
        }
    }

    /// The tables as they are written, before the blocks.
    pub fn tables(&self) -> &[u8] {
        &self.tables
    }

    /// Appends the smallest coding of `block`, which begins at byte `start` of what was looked at,
    /// to `out` and says which it is.
    pub fn encode(
        &self,
        block: &[u8],
        start: u64,
        scratch: &mut EncodeScratch,
        out: &mut Vec<u8>,
    ) -> CodecId {
        if let Some(pattern) = simple::pattern(block) {
            out.extend_from_slice(pattern);
            return CodecId::CONST;
        }
        let before = out.len();
        let mut best = (CodecId::RAW, gain::least_gain(block.len() as u64) as usize);
        let whole = self.transform.whole(block).len() == block.len();
        let mut candidate = std::mem::take(&mut scratch.candidate);
        let mut offer = |codec: CodecId, candidate: &[u8]| {
            if candidate.len() < best.1 {
                out.truncate(before);
                out.extend_from_slice(candidate);
                best = (codec, candidate.len());
            }
            best.1
        };
        let mut least = block.len();
        if let Some(planes) = self.planes.as_ref().filter(|_| whole) {
            candidate.clear();
            self.transform.split(block, self.base, &mut scratch.split);
            r32::encode(
                self.transform,
                &scratch.split,
                (start / self.transform.strip_len()) as usize,
                planes,
                &mut scratch.r32,
                &mut candidate,
            );
            least = offer(self.transform.codec(), &candidate);
        }
        if self.tries_r16 && whole {
            candidate.clear();
            r16::encode(block, &mut scratch.r16, &mut candidate);
            least = offer(CodecId::R16, &candidate);
        }
        // floats of a usual kind have nothing for zstd; what shrank more than they do may have
        let is_float = !matches!(self.family, Family::Bytes(_));
        if (!is_float || least < block.len() * 11 / 20)
            && let Some(frame) = scratch.zstd.encode(block)
        {
            offer(CodecId::ZSTD, frame);
        }
        scratch.candidate = candidate;
        if best.0 == CodecId::RAW {
            out.truncate(before);
            out.extend_from_slice(block);
        }
        best.0
    }

    /// Codes all blocks of a span that begins at byte `start` of what was looked at.
    pub fn encode_all(
        &self,
        blocks: &[&[u8]],
        start: u64,
        scratch: &mut EncodeScratch,
    ) -> CodedSpan {
        let mut span = CodedSpan {
            tables: self.tables.clone(),
            ..CodedSpan::default()
        };
        let mut start = start;
        for block in blocks {
            let before = span.bytes.len();
            let codec = self.encode(block, start, scratch, &mut span.bytes);
            start += block.len() as u64;
            span.blocks
                .push((codec, (span.bytes.len() - before) as u32));
        }
        if !span
            .blocks
            .iter()
            .any(|(codec, _)| *codec == self.transform.codec())
        {
            span.tables.clear();
        }
        span
    }
}
