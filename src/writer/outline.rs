//! The index of an image before anything is coded: files, spans, which repeat others, and bases.

use crate::base::Result;
use crate::codec::Profile;
use crate::format::BaseRecord;
use crate::format::FileRecord;
use crate::format::Index;
use crate::format::SpanRecord;
use crate::tensor::Span;
use crate::writer::source::Base;
use crate::writer::source::Source;

/// The base of each span of all sources. Where spans repeat one another, the one that is stored
/// takes the base of whichever has one.
pub(super) fn chosen_bases<'a>(
    sources: &'a [Source],
    repeats: &[Option<usize>],
) -> Vec<Option<&'a Base>> {
    let mut bases = Vec::new();
    for source in sources {
        let of_span = |number| source.bases.get(number).and_then(Option::as_ref);
        bases.extend((0..source.layout.spans.len()).map(of_span));
    }
    for (number, stored) in repeats.iter().enumerate() {
        if let Some(stored) = *stored {
            bases[stored] = bases[stored].or(bases[number]);
            bases[number] = None;
        }
    }
    bases
}

/// The index of an image of `sources` before anything is coded.
pub(super) fn blank_index(
    sources: &[Source],
    repeats: &[Option<usize>],
    chosen: &[Option<&Base>],
    profile: Profile,
) -> Result<Index> {
    let (mut files, mut spans, mut bases) = (Vec::new(), Vec::new(), Vec::new());
    for source in sources {
        let first = spans.len();
        let new = |span: &Span| SpanRecord::new(span.clone(), profile.block_shift());
        spans.extend(source.layout.spans.iter().map(new));
        for (span, base) in spans[first..].iter_mut().zip(&chosen[first..]) {
            let Some(base) = base else {
                continue;
            };
            let mut record = base.record.clone();
            if record.name == span.span.name {
                record.name.clear();
            }
            span.base = Some(number_of(record, &mut bases));
        }
        files.push(FileRecord {
            path: source.path.clone(),
            is_safetensors: source.layout.is_safetensors,
            len: source.layout.len,
            spans: first..spans.len(),
            sha256: [0; 32],
        });
    }
    for (span, repeats) in spans.iter_mut().zip(repeats) {
        span.repeats = *repeats;
    }
    Index::blank(files, spans, bases)
}

/// The number of a base among those listed, to which it is added if it is not there.
pub(super) fn number_of(record: BaseRecord, bases: &mut Vec<BaseRecord>) -> usize {
    let listed = bases.iter().position(|other| *other == record);
    listed.unwrap_or_else(|| {
        bases.push(record);
        bases.len() - 1
    })
}

/// What stands alone needs no base.
pub(super) fn drop_unused_bases(index: &mut Index) {
    for span in &mut index.spans {
        let mut blocks = index.blocks[span.blocks.clone()].iter();
        let needs_base = blocks.any(|block| block.codec.needs_base());
        span.base = span.base.filter(|_| needs_base);
    }
}
