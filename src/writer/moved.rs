//! Blocks that are coded already, taken as they are into another image: only the safetensors header of the new file is coded.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest::Md5;
use crate::codec::Profile;
use crate::format::BaseRecord;
use crate::format::BlockRecord;
use crate::format::FileRecord;
use crate::format::Header;
use crate::format::ImageKind;
use crate::format::Index;
use crate::format::SpanRecord;
use crate::format::header::ALIGN;
use crate::tensor::Span;
use crate::tensor::SpanKind;
use crate::writer::coding;
use crate::writer::coding::Job;
use crate::writer::coding::Task;
use crate::writer::data::DataWriter;
use crate::writer::image;
use crate::writer::image::Unsealed;
use crate::writer::image::WriteOptions;
use crate::writer::journal::Known;

/// A tensor as an image has it.
#[derive(Debug, Clone)]
pub struct MovedSpan {
    /// Its record there, with the place of its tables.
    pub record: SpanRecord,
    /// Its blocks, with their places.
    pub blocks: Vec<BlockRecord>,
    /// What it is stored as differences from.
    pub base: Option<BaseRecord>,
    /// The bytes of the image.
    pub image: Arc<dyn ReadAt>,
    /// Tells that image from the others.
    pub image_number: usize,
}

/// Writes an image of one safetensors file, of this header and these tensors in their order, to `output`, which is not committed. Only
/// a reader of the whole file can tell its sha256: the image is complete when it was [sealed](Unsealed::seal) with that.
pub fn write_moved(
    suffix: &str,
    header: &[u8],
    spans: &[MovedSpan],
    base_place: &str,
    output: &mut OutputFile,
    progress: &dyn Progress,
) -> Result<Unsealed> {
    let mut index = blank_index(header, spans)?;
    if !index.bases.is_empty() {
        base_place.clone_into(&mut index.base_place);
    }
    let index_len = index.encode().len() as u64;
    let mut data = DataWriter::new(output);
    data.pad_to(Header::data_offset(index_len))?;
    code_header(header, &mut data, &mut index, progress)?;
    // tables that several tensors use are written with the first of them
    let mut owners = BTreeMap::new();
    let mut buffer = Vec::new();
    for (number, span) in (1..).zip(spans) {
        progress.check()?;
        progress.advance(span.record.span.len);
        index.spans[number].md5 = span.record.md5;
        if index.spans[number].repeats.is_some() || span.record.span.len == 0 {
            continue;
        }
        data.pad_to(data.position().next_multiple_of(span.record.align()))?;
        if span.record.tables_len > 0 {
            let tables = (span.image_number, span.record.tables_offset);
            index.spans[number].tables_of = owners.get(&tables).copied();
            if index.spans[number].tables_of.is_none() {
                owners.insert(tables, number);
                index.spans[number].tables_len = span.record.tables_len;
                let len = span.record.tables_len;
                copy(span, tables.1, len, &mut buffer, &mut data)?;
            }
        }
        let start = index.spans[number].blocks.start;
        for (to, from) in index.blocks[start..].iter_mut().zip(&span.blocks) {
            *to = BlockRecord {
                offset: data.position(),
                ..*from
            };
            copy(span, from.offset, from.coded_len, &mut buffer, &mut data)?;
        }
    }
    image::finish(index, index_len, (ImageKind::File, suffix), data)
}

/// The index, but for what is coded.
fn blank_index(header: &[u8], spans: &[MovedSpan]) -> Result<Index> {
    let header = Span::bytes(SpanKind::Header, 0, header.len() as u64);
    let mut end = header.len;
    let mut records = vec![SpanRecord::new(header, Profile::default().block_shift())];
    let mut bases: Vec<BaseRecord> = Vec::new();
    let mut stored = BTreeMap::new();
    for (number, moved) in (1..).zip(spans) {
        let mut record = moved.record.clone();
        record.span.start = end;
        end += record.span.len;
        record.tables_len = 0;
        record.tables_of = None;
        // blocks that two tensors share are still there once, and an empty tensor has none
        let blocks = (moved.image_number, moved.record.blocks.start);
        record.repeats = stored.get(&blocks).copied().filter(|_| record.span.len > 0);
        if record.repeats.is_none() && record.span.len > 0 {
            stored.insert(blocks, number);
        }
        let base = moved.base.as_ref().filter(|_| record.repeats.is_none());
        record.base = base.map(|base| {
            let mut base = base.clone();
            if base.name == record.span.name {
                base.name.clear();
            }
            let known = bases.iter().position(|other| *other == base);
            known.unwrap_or_else(|| {
                bases.push(base);
                bases.len() - 1
            })
        });
        records.push(record);
    }
    let file = FileRecord {
        path: String::new(),
        is_safetensors: true,
        len: end,
        spans: 0..records.len(),
        sha256: [0; 32],
    };
    Index::blank(vec![file], records, bases)
}

fn code_header(
    header: &[u8],
    data: &mut DataWriter<'_>,
    index: &mut Index,
    progress: &dyn Progress,
) -> Result<()> {
    let record = index.spans[0].clone();
    let bytes = header.to_vec();
    let task = Task {
        number: 0,
        span: &record.span,
        grid: record.grid(),
        bytes: &bytes,
        base: None,
    };
    let options = WriteOptions {
        profile: Profile::default(),
        threads: 1,
        base_place: String::new(),
        members: Vec::new(),
    };
    let job = Job {
        options: &options,
        known: &Known::default(),
        progress,
    };
    coding::code_all(&[task], &job, data, index)?;
    let mut md5 = Md5::default();
    md5.update(header);
    index.spans[0].md5 = md5.finish();
    Ok(())
}

/// Copies coded bytes, and zeros up to where the next may begin.
fn copy(
    span: &MovedSpan,
    offset: u64,
    len: u32,
    buffer: &mut Vec<u8>,
    data: &mut DataWriter<'_>,
) -> Result<()> {
    buffer.resize(len as usize, 0);
    span.image
        .read_exact_at(offset, buffer)
        .map_err(|e| e.tensor(span.record.span.label()))?;
    data.put(buffer)?;
    data.pad_to(data.position().next_multiple_of(ALIGN))
}
