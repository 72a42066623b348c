//! Blocks that are coded already, taken as they are into another image: only the safetensors header
//! of the new file is coded.

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
use crate::tensor::Span;
use crate::tensor::SpanKind;
use crate::writer::data::DataWriter;
use crate::writer::image_writer::ImageWriter;
use crate::writer::image_writer::Unsealed;
use crate::writer::outline;
use crate::writer::task::ImageJob;
use crate::writer::task::Task;

/// A tensor as an image has it.
#[derive(Debug, Clone)]
pub(crate) struct MovedSpan {
    /// Its record there, with the offset of its tables.
    pub record: SpanRecord,
    /// Its blocks, with their offsets.
    pub blocks: Vec<BlockRecord>,
    /// What it is stored as differences from.
    pub base: Option<BaseRecord>,
    /// The bytes of the image.
    pub image: Arc<dyn ReadAt>,
    /// Tells that image from the others.
    pub image_number: usize,
}

/// Writes an image of one safetensors file, of this header and these tensors in their order, to
/// `output`, which is not committed. Only a reader of the whole file can tell its sha256: the image
/// is complete when it was [sealed](Unsealed::seal) with that.
pub(crate) fn write_moved(
    suffix: &str,
    header: &[u8],
    spans: &[MovedSpan],
    base_path: &str,
    output: &mut OutputFile,
    progress: &dyn Progress,
) -> Result<Unsealed> {
    let mut index = blank_index(header, spans)?;
    if !index.bases.is_empty() {
        base_path.clone_into(&mut index.base_path);
    }
    let index_len = index.encode().len() as u64;
    let mut data = DataWriter::new(output);
    data.pad_to(Header::data_offset(index_len))?;
    let job = ImageJob::new(Profile::default(), 1, progress);
    let header_record = index.spans[0].clone();
    let mut writer = ImageWriter::new(index, index_len, data, &job);
    let bytes = header.to_vec();
    writer.code(&[Task {
        number: 0,
        span: &header_record.span,
        grid: header_record.grid(),
        bytes: &bytes,
        base: None,
    }])?;
    let mut md5 = Md5::default();
    md5.update(header);
    writer.index_mut().spans[0].md5 = md5.finish();
    let mut remux = Remux::default();
    for (number, span) in (1..).zip(spans) {
        progress.check()?;
        progress.advance(span.record.span.len);
        remux.put(number, span, &mut writer)?;
    }
    writer.finish(ImageKind::File, suffix)
}

/// What is known of the tensors that were put.
#[derive(Debug, Default)]
struct Remux {
    /// By image and offset of tables the tensor with which they were written, the first of those
    /// that use them.
    owners: BTreeMap<(usize, u64), usize>,
    buffer: Vec<u8>,
}

impl Remux {
    fn put(&mut self, number: usize, span: &MovedSpan, writer: &mut ImageWriter<'_>) -> Result<()> {
        let record = &mut writer.index_mut().spans[number];
        record.md5 = span.record.md5;
        if record.repeats.is_some() || span.record.span.len == 0 {
            return Ok(());
        }
        let start = record.blocks.start;
        let from = &span.record;
        self.buffer.clear();
        if from.tables_len > 0 {
            let tables = (span.image_number, from.tables_offset);
            record.tables_of = self.owners.get(&tables).copied();
            if record.tables_of.is_none() {
                self.owners.insert(tables, number);
                self.read(span, from.tables_offset, from.tables_len)?;
            }
        }
        writer.begin_span(number, &self.buffer)?;
        for (number, block) in (start..).zip(&span.blocks) {
            self.read(span, block.offset, block.coded_len)?;
            writer.put_block(number, *block, &self.buffer)?;
        }
        Ok(())
    }

    /// Reads coded bytes.
    fn read(&mut self, span: &MovedSpan, offset: u64, len: u32) -> Result<()> {
        self.buffer.resize(len as usize, 0);
        let read = span.image.read_exact_at(offset, &mut self.buffer);
        read.map_err(|e| e.tensor(span.record.span.label()))
    }
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
            outline::number_of(base, &mut bases)
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
