//! The index: files, spans, digests and blocks, and the positions that follow from their lengths
//! (docs/format.md, sections 4 and 5).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use crate::base::CodecId;
use crate::base::Error;
use crate::base::ReadAt;
use crate::base::Result;
use crate::format::base;
use crate::format::base::BaseRecord;
use crate::format::block;
use crate::format::block::BLOCK_COUNT_MAX;
use crate::format::block::BlockRecord;
use crate::format::file::FileRecord;
use crate::format::header::FEATURE_REPEATS;
use crate::format::header::FEATURE_SHARED_TABLES;
use crate::format::header::Header;
use crate::format::location::OffsetAssigner;
use crate::format::location::SpanLocation;
use crate::format::member;
use crate::format::member::Member;
use crate::format::parse;
use crate::format::parse::Take;
use crate::format::section;
use crate::format::span::SpanRecord;
use crate::format::span::encode_reference;
use crate::format::span::encode_span;

/// Everything needed to find and check the blocks of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The files, by path.
    pub files: Vec<FileRecord>,
    /// The spans of all files, in order.
    pub spans: Vec<SpanRecord>,
    /// The tensors that others are differences from.
    pub bases: Vec<BaseRecord>,
    /// Where the base was when the image was made, as words for a person; empty if that is not
    /// known.
    pub base_path: String,
    /// What a folder holds beside the bytes of its files, by path; empty if that was not noted.
    pub members: Vec<Member>,
    /// The blocks of all spans that do not repeat others, in order.
    pub blocks: Vec<BlockRecord>,
    /// Where the last block ends, padding included.
    pub data_end: u64,
}

impl Index {
    /// The index of files that are still to be coded: receipts and blocks are blank, but counted,
    /// so that its encoded length is final.
    pub fn blank(
        files: Vec<FileRecord>,
        spans: Vec<SpanRecord>,
        bases: Vec<BaseRecord>,
    ) -> Result<Self> {
        let mut index = Self {
            files,
            spans,
            bases,
            base_path: String::new(),
            members: Vec::new(),
            blocks: Vec::new(),
            data_end: 0,
        };
        let count = index.number_blocks()?;
        let blank = BlockRecord {
            checksum: 0,
            offset: 0,
            coded_len: 0,
            codec: CodecId::RAW,
            codec_version: 1,
        };
        index.blocks = vec![blank; count];
        Ok(index)
    }

    fn number_blocks(&mut self) -> Result<usize> {
        let mut next = 0_u64;
        for number in 0..self.spans.len() {
            let (before, from) = self.spans.split_at_mut(number);
            let Some(span) = from.first_mut() else {
                continue;
            };
            if let Some(repeated) = span.repeats {
                span.blocks = repeated_blocks(span, before.get(repeated))?;
                continue;
            }
            let end = next.saturating_add(span.block_count());
            if end > BLOCK_COUNT_MAX {
                return Err(Error::over_limit(format!("{end} blocks and more")));
            }
            span.blocks = next as usize..end as usize;
            next = end;
        }
        Ok(next as usize)
    }

    /// Finds where tables and blocks begin from their lengths.
    pub fn assign_offsets(&mut self, data_offset: u64) -> Result<()> {
        let mut offsets = OffsetAssigner::new(data_offset);
        for span in &mut self.spans {
            if span.span.len == 0 || span.repeats.is_some() {
                continue;
            }
            let own_tables_len = span.tables_of.map_or(span.tables_len, |_| 0);
            span.tables_offset = offsets.span(span.grid(), own_tables_len)?;
            for block in self.blocks.get_mut(span.blocks.clone()).unwrap_or_default() {
                block.offset = offsets.block(block.coded_len)?;
            }
        }
        self.data_end = offsets.end();
        for number in 0..self.spans.len() {
            let (before, from) = self.spans.split_at_mut(number);
            let server = from.first().and_then(|span| before.get(span.served_by()?));
            if let (Some(span), Some(server)) = (from.first_mut(), server) {
                span.tables_len = server.tables_len;
                span.tables_offset = server.tables_offset;
            }
        }
        Ok(())
    }

    /// The span whose own tables span `number` uses.
    pub fn tables_owner(&self, number: usize) -> usize {
        let server = |number: usize| self.spans.get(number).and_then(SpanRecord::served_by);
        let first = server(number).unwrap_or(number);
        server(first).unwrap_or(first)
    }

    /// Where the tail index begins.
    pub fn tail_offset(&self) -> u64 {
        block::tail_offset(self.data_end)
    }

    /// Whether some of it is stored as differences from other files.
    pub fn is_delta(&self) -> bool {
        self.spans.iter().any(|span| span.base.is_some())
    }

    /// What a reader must know to read this index.
    pub fn required_features(&self) -> u64 {
        let if_any = |feature, uses: fn(&SpanRecord) -> bool| {
            if self.spans.iter().any(uses) {
                feature
            } else {
                0
            }
        };
        if_any(FEATURE_REPEATS, |span| span.repeats.is_some())
            | if_any(FEATURE_SHARED_TABLES, |span| span.tables_of.is_some())
    }

    /// The bytes of the index.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::new();
        let mut files = Vec::new();
        for file in &self.files {
            files.extend_from_slice(&[u8::from(file.is_safetensors), 0]);
            files.extend_from_slice(&(file.path.len() as u16).to_le_bytes());
            files.extend_from_slice(&(file.spans.len() as u32).to_le_bytes());
            files.extend_from_slice(&file.len.to_le_bytes());
            files.extend_from_slice(file.path.as_bytes());
        }
        section::write(section::FILES, &files, true, &mut out);
        let mut spans = Vec::new();
        for record in &self.spans {
            encode_span(record, &mut spans);
        }
        section::write(section::SPANS, &spans, true, &mut out);
        let mut receipts = Vec::new();
        for file in &self.files {
            receipts.extend_from_slice(&file.sha256);
        }
        for record in &self.spans {
            receipts.extend_from_slice(&record.md5);
            let own_tables_len = record.served_by().map_or(record.tables_len, |_| 0);
            receipts.extend_from_slice(&own_tables_len.to_le_bytes());
            receipts.extend_from_slice(&encode_reference(record.tables_of));
        }
        section::write(section::RECEIPTS, &receipts, false, &mut out);
        let mut blocks = Vec::new();
        for block in &self.blocks {
            blocks.extend_from_slice(&block.checksum.to_le_bytes());
            blocks.extend_from_slice(&block.coded_len.to_le_bytes());
            blocks.extend_from_slice(&[block.codec.0, block.codec_version, 0, 0]);
        }
        section::write(section::BLOCKS, &blocks, false, &mut out);
        if !self.bases.is_empty() {
            // digests do not shrink, and which spans took their base is known only at the end
            let bases = base::encode(&self.bases, &self.spans);
            section::write(section::BASES, &bases, false, &mut out);
        }
        if !self.base_path.is_empty() {
            let path = self.base_path.as_bytes();
            section::write_optional(section::BASE_PLACE, path, false, &mut out);
        }
        if !self.members.is_empty() {
            let members = member::encode(&self.members);
            section::write_optional(section::MEMBERS, &members, true, &mut out);
        }
        out
    }

    /// Reads and checks the index. Every contradiction is an error.
    pub fn parse(bytes: &[u8], header: &Header) -> Result<Self> {
        let mut whole = Whole::default();
        let source = Slice(bytes);
        let parsed = parse::parse(&source, 0..source.len(), header, &mut whole)?;
        Ok(Self {
            members: parsed.members,
            files: parsed.files,
            spans: whole.spans,
            bases: parsed.bases,
            base_path: parsed.base_path,
            blocks: whole.blocks,
            data_end: parsed.data_end,
        })
    }
}

/// All spans and blocks as they are read.
#[derive(Debug, Default)]
struct Whole {
    spans: Vec<SpanRecord>,
    blocks: Vec<BlockRecord>,
}

impl Take for Whole {
    fn block(&mut self, block: BlockRecord, _stored: &[u8]) {
        self.blocks.push(block);
    }

    fn span(&mut self, span: SpanRecord, _data_end: u64) {
        self.spans.push(span);
    }

    fn location(&self, number: usize) -> Option<SpanLocation> {
        self.spans.get(number).map(|span| SpanLocation {
            start: span.span.start,
            grid: span.grid(),
            repeats: span.repeats,
            tables_owner: span.served_by().unwrap_or(number),
            tables_len: span.tables_len,
            tables_offset: span.tables_offset,
            first_block: span.blocks.start,
            data_offset: 0,
            base: span.base,
        })
    }
}

/// Bytes in memory.
#[derive(Debug)]
struct Slice<'a>(&'a [u8]);

impl ReadAt for Slice<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let range = start..start.saturating_add(out.len());
        let bytes = self.0.get(range);
        out.copy_from_slice(bytes.ok_or_else(|| Error::damaged("the index ends too soon"))?);
        Ok(())
    }
}

/// The blocks of the span that `span` repeats, which must be like it and stand before it.
fn repeated_blocks(
    span: &SpanRecord,
    repeated: Option<&SpanRecord>,
) -> Result<std::ops::Range<usize>> {
    let geometry = |span: &SpanRecord| (span.span.len, span.block_shift, span.lanes_shift);
    repeated
        .filter(|repeated| repeated.repeats.is_none() && geometry(repeated) == geometry(span))
        .map(|repeated| repeated.blocks.clone())
        .ok_or_else(|| {
            Error::damaged("repeats what is no earlier span like it").tensor(span.span.label())
        })
}
