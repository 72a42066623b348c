//! How small a model would become: a small one is coded and not written, of a large one parts that
//! stand for the rest. What is there several times counts once, as in an image.

pub(crate) mod sample;
mod strata;

use std::path::Path;

use crate::archive::OriginalFile;
use crate::base::Error;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::Result;
use crate::base::digest;
use crate::base::progress::Silent;
use crate::base::units;
use crate::codec::Profile;
use crate::tensor::Span;
use crate::tensor::SpanKind;
use crate::writer::Source;
use crate::writer::measure;

use strata::StratifiedSample;

pub(crate) use sample::Sample;

/// A model is not worth it if its image would have more than this of its size.
const PERCENT_MAX: f64 = 97.0;

/// What would become of a model, from a sample of it.
#[derive(Debug, Clone)]
pub struct Estimate {
    /// About how many bytes its image has.
    pub image_bytes: u64,
    /// About how many bytes of it are F32 whose numbers BF16 can hold.
    pub bf16_in_f32_bytes: u64,
    /// About how many bytes of it are F32 whose numbers F16 can hold, and not BF16.
    pub f16_in_f32_bytes: u64,
    /// The same for models with the same bytes in the sample.
    pub sample: [u8; 32],
    /// The same for models with tensors of the same names, dtypes and shapes.
    pub tensors: [u8; 32],
}

impl Estimate {
    /// Of the model at `path`.
    pub fn of_file(path: &Path) -> Result<Self> {
        let file = OriginalFile::plain(FileSource::open(path)?, path)?;
        let source = Source {
            path: String::new(),
            bytes: file.bytes,
            layout: file.layout,
            bases: Vec::new(),
        };
        Self::of(&source, &Silent).map_err(|e| e.file(path))
    }

    fn of(source: &Source, progress: &dyn Progress) -> Result<Self> {
        let profile = Profile::Balanced;
        let repeats = measure::likely_repeats(source, progress)?;
        let mut index = measure::outline(source, &repeats, profile)?;
        let sampled = StratifiedSample::choose(source, &repeats, 1 << profile.block_shift())?;
        let coded = measure::coded(&sampled.source, &sampled.lens, profile, progress)?;
        sampled.fill(&coded, &mut index);
        let narrow = sampled.narrow(&repeats)?;
        let mut spans: Vec<&Span> = source.layout.spans.iter().collect();
        spans.retain(|span| span.kind == SpanKind::Tensor);
        spans.sort_by(|a, b| a.name.cmp(&b.name));
        let words = |span: &&Span| format!("{:?} {} {:?};", span.name, span.dtype, span.shape);
        let tensors: String = spans.iter().map(words).collect();
        Ok(Self {
            image_bytes: measure::image_len(&mut index)?,
            bf16_in_f32_bytes: narrow.bf16,
            f16_in_f32_bytes: narrow.f16,
            sample: digest::blake3_of(&*sampled.source.bytes)?,
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
