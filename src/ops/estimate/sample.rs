//! Whether a model would become smaller against a base than alone, from a sample: a few pieces of
//! its tensors, and the same pieces of the base's.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::archive::Bases;
use crate::archive::Tensor;
use crate::base::ReadAt;
use crate::base::Result;
use crate::codec::Profile;
use crate::codec::delta;
use crate::codec::delta::DeltaCounts;
use crate::codec::encode::EncodeScratch;
use crate::codec::span;
use crate::tensor::Span;

/// A piece of a tensor.
#[derive(Debug)]
struct Piece {
    span: Span,
    start: u64,
    bytes: Vec<u8>,
}

/// Some pieces of a model, spread over all of it.
#[derive(Debug)]
pub(crate) struct Sample {
    pieces: Vec<Piece>,
    /// Share that a byte of each dtype takes alone.
    alone: BTreeMap<String, f64>,
    model_bytes: u64,
}

#[expect(clippy::cast_precision_loss, reason = "shares of a sample")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

impl Sample {
    /// About `count` pieces of `piece_len` bytes, a multiple of every element width, of all tensors
    /// of `model`.
    pub(crate) fn take(model: &Bases, count: u64, piece_len: u64) -> Result<Self> {
        let tensors: Vec<&Tensor> = model.tensors().collect();
        let model_bytes: u64 = tensors.iter().map(|tensor| tensor.span().len).sum();
        let mut pieces = Vec::new();
        let (mut before, step) = (0, (model_bytes / count.max(1)).max(1));
        for tensor in tensors {
            let span = tensor.span();
            // the pieces whose place falls into this tensor
            let steps =
                before / step + u64::from(before % step > 0)..(before + span.len).div_ceil(step);
            let bytes = model.bytes(tensor)?;
            let mut next = 0;
            for number in steps {
                let start = (number * step - before) / piece_len * piece_len;
                // of a small model all is looked at, and nothing twice
                if start < next {
                    continue;
                }
                next = start + piece_len;
                let mut piece = vec![0; piece_len.min(span.len - start) as usize];
                bytes.read_exact_at(start, &mut piece)?;
                pieces.push(Piece {
                    span: span.clone(),
                    start,
                    bytes: piece,
                });
            }
            before += span.len;
        }
        let mut sample = Self {
            pieces,
            alone: BTreeMap::new(),
            model_bytes,
        };
        sample.look_alone();
        Ok(sample)
    }

    fn look_alone(&mut self) {
        let mut by_dtype: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
        for piece in &self.pieces {
            let pieces = by_dtype.entry(&piece.span.dtype).or_default();
            pieces.push(&piece.bytes);
        }
        let mut scratch = EncodeScratch::default();
        for (dtype, pieces) in by_dtype {
            let family = crate::tensor::dtype::family(dtype);
            let len: usize = pieces.iter().map(|piece| piece.len()).sum();
            // as one block, for in the model a block is as long as that
            let joined = pieces.concat();
            let coded = span::encode_span(family, Profile::Balanced, &[&joined], &mut scratch);
            let share = share(coded.bytes.len() as u64, len as u64);
            self.alone.insert(dtype.to_owned(), share.min(1.0));
        }
    }

    /// Bytes of all tensors of the model.
    pub(crate) fn model_bytes(&self) -> u64 {
        self.model_bytes
    }

    /// About which share of the model's bytes it takes alone.
    pub(crate) fn alone(&self) -> f64 {
        let alone =
            |piece: &Piece| share(piece.bytes.len() as u64, 1) * self.alone[&piece.span.dtype];
        self.of_all(self.pieces.iter().map(alone).sum())
    }

    fn of_all(&self, bytes: f64) -> f64 {
        let sampled = self
            .pieces
            .iter()
            .map(|piece| piece.bytes.len() as u64)
            .sum();
        bytes / share(sampled, 1).max(1.0)
    }

    /// About which share of the model's bytes it takes with these tensors as bases, for each span
    /// the one that `base_of` gives.
    pub(crate) fn against(
        &self,
        base_of: impl Fn(&Span) -> Result<Option<Arc<dyn ReadAt>>>,
    ) -> Result<f64> {
        let mut scratch = EncodeScratch::default();
        let mut bytes = 0.0;
        let mut by_dtype: BTreeMap<&str, (DeltaCounts, f64)> = BTreeMap::new();
        for piece in &self.pieces {
            let dtype = piece.span.dtype.as_str();
            let alone = share(piece.bytes.len() as u64, 1) * self.alone[dtype];
            let (Some(codec), Some(base)) = (delta::codec_of(dtype), base_of(&piece.span)?) else {
                bytes += alone;
                continue;
            };
            let mut other = vec![0; piece.bytes.len()];
            base.read_exact_at(piece.start, &mut other)?;
            if other == piece.bytes {
                continue;
            }
            let (counts, sum) = by_dtype.entry(dtype).or_default();
            counts.count(codec, &piece.bytes, &other, &mut scratch.delta);
            *sum += alone;
        }
        for (counts, alone) in by_dtype.into_values() {
            bytes += share(counts.coded_len(), 1).min(alone);
        }
        Ok(self.of_all(bytes))
    }
}
