//! How small a model would become, alone or against a base, from a sample: a few pieces of its tensors, and the same pieces of the
//! base's.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::archive::Bases;
use crate::archive::tensors::Tensor;
use crate::base::Error;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::base::units;
use crate::codec::Profile;
use crate::codec::delta;
use crate::codec::delta::DeltaCounts;
use crate::codec::encode;
use crate::codec::encode::EncodeScratch;
use crate::tensor::Span;

/// Pieces of a model that are looked at to tell what it takes alone.
const LOOK: (u64, u64) = (24, 64 << 10);
/// Bytes of index and padding for a tensor, about.
const TENSOR_BYTES: u64 = 250;
/// A model is not worth it if its image would have more than this of its size.
const PERCENT_MAX: f64 = 97.0;

/// What a look at a model tells.
#[derive(Debug, Clone)]
pub struct Look {
    /// About how many bytes its image has.
    pub image_bytes: u64,
    /// About how many bytes of it are F32 of numbers that BF16 holds.
    pub bf16_in_f32_bytes: u64,
    /// The same for models with the same bytes where it was looked.
    pub sample: [u8; 32],
    /// The same for models with tensors of the same names, dtypes and shapes.
    pub tensors: [u8; 32],
}

impl Look {
    /// Looks at a few pieces of the model at `path`.
    pub fn at(path: &Path) -> Result<Self> {
        let mut model = Bases::unshared(None);
        model.add(path)?;
        let sample = Sample::take(&model, LOOK.0, LOOK.1)?;
        let spans = || model.tensors().map(Tensor::span);
        let words = |span: &Span| format!("{:?} {} {:?};", span.name, span.dtype, span.shape);
        let (tensors, pieces): (String, Vec<u8>) =
            (spans().map(words).collect(), sample.bytes().collect());
        Ok(Self {
            image_bytes: sample.alone_bytes() + TENSOR_BYTES * (spans().count() as u64 + 4),
            bf16_in_f32_bytes: sample.bf16_in_f32_bytes(),
            sample: digest::blake3_of(&pieces)?,
            tensors: digest::blake3_of(&tensors.into_bytes())?,
        })
    }

    /// Bytes of the image of a model of `bytes`; why not, if it is not worth it.
    pub fn worth(&self, bytes: u64) -> Result<u64> {
        let percent = units::percent(self.image_bytes, bytes);
        if percent <= PERCENT_MAX {
            return Ok(self.image_bytes);
        }
        let percent = percent.min(100.0);
        let why = format!("it would still have {percent:.0} % of its size");
        Err(Error::invalid(why))
    }
}

/// A piece of a tensor.
#[derive(Debug)]
struct Piece {
    span: Span,
    start: u64,
    bytes: Vec<u8>,
}

/// Some pieces of a model, spread over all of it.
#[derive(Debug)]
pub struct Sample {
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
    /// About `count` pieces of `piece_len` bytes, a multiple of every element width, of all tensors of `model`.
    pub fn take(model: &Bases, count: u64, piece_len: u64) -> Result<Self> {
        let tensors: Vec<&Tensor> = model.tensors().collect();
        let model_bytes: u64 = tensors.iter().map(|tensor| tensor.span().len).sum();
        let mut pieces = Vec::new();
        let (mut before, step) = (0, (model_bytes / count.max(1)).max(1));
        for tensor in tensors {
            let span = tensor.span();
            // the pieces whose place falls into this tensor
            let places =
                before / step + u64::from(before % step > 0)..(before + span.len).div_ceil(step);
            let bytes = model.bytes(tensor)?;
            let mut next = 0;
            for place in places {
                let start = (place * step - before) / piece_len * piece_len;
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
            let coded = encode::encode_span(family, Profile::Balanced, &[&joined], &mut scratch);
            let share = share(coded.bytes.len() as u64, len as u64);
            self.alone.insert(dtype.to_owned(), share.min(1.0));
        }
    }

    fn bytes(&self) -> impl Iterator<Item = u8> {
        self.pieces
            .iter()
            .flat_map(|piece| piece.bytes.iter().copied())
    }

    /// About how many bytes are of F32 whose lower halves are zero.
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "about, and never negative"
    )]
    fn bf16_in_f32_bytes(&self) -> u64 {
        let is_it = |piece: &&Piece| {
            let (elements, _) = piece.bytes.as_chunks::<4>();
            piece.span.dtype == "F32"
                && elements.iter().all(|[low, high, ..]| low | high == 0)
                && elements.iter().any(|element| *element != [0; 4])
        };
        let those = self.pieces.iter().filter(is_it);
        let bytes = those.map(|piece| share(piece.bytes.len() as u64, 1)).sum();
        (self.of_all(bytes) * self.model_bytes as f64) as u64
    }

    /// Bytes of all tensors of the model.
    pub fn model_bytes(&self) -> u64 {
        self.model_bytes
    }

    /// About which share of the model's bytes it takes alone.
    pub fn alone(&self) -> f64 {
        let alone =
            |piece: &Piece| share(piece.bytes.len() as u64, 1) * self.alone[&piece.span.dtype];
        self.of_all(self.pieces.iter().map(alone).sum())
    }

    /// About how many bytes the model takes alone.
    #[expect(
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "about, and never negative"
    )]
    pub fn alone_bytes(&self) -> u64 {
        (self.alone() * self.model_bytes as f64) as u64
    }

    fn of_all(&self, bytes: f64) -> f64 {
        let sampled = self
            .pieces
            .iter()
            .map(|piece| piece.bytes.len() as u64)
            .sum();
        bytes / share(sampled, 1).max(1.0)
    }

    /// About which share of the model's bytes it takes with these tensors as bases, for each span the one that `base_of` gives.
    pub fn against(
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
