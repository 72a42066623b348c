//! Reading an index: every record is read and checked here, from first to last, and handed on to
//! whoever keeps what is needed of it (docs/format.md, sections 4 and 5).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use std::collections::BTreeMap;
use std::ops::Range;

use crate::base::Error;
use crate::base::Limits;
use crate::base::ReadAt;
use crate::base::Result;
use crate::format::base::BaseRecord;
use crate::format::block;
use crate::format::block::BLOCK_COUNT_MAX;
use crate::format::block::BLOCK_RECORD_LEN;
use crate::format::block::BlockRecord;
use crate::format::file;
use crate::format::file::FileRecord;
use crate::format::header::FEATURE_REPEATS;
use crate::format::header::FEATURE_SHARED_TABLES;
use crate::format::header::Header;
use crate::format::header::ImageKind;
use crate::format::location::Grid;
use crate::format::location::OffsetAssigner;
use crate::format::location::SpanLocation;
use crate::format::member;
use crate::format::member::Member;
use crate::format::section;
use crate::format::section::Section;
use crate::format::span::SPAN_LEN_MIN;
use crate::format::span::SpanRecord;
use crate::format::span::parse_reference;
use crate::format::span::parse_span;
use crate::format::span::span_record_len;
use crate::format::stream::Stream;

const FILE_LEN_MIN: usize = 16;
const FILE_RECEIPT_LEN: usize = 32;
const SPAN_RECEIPT_LEN: usize = 24;
const REFERENCE_LEN: usize = 4;
/// Most bytes that are read of the place of a base.
const BASE_PLACE_LEN_MAX: u64 = 4096;

/// Who keeps what is read of spans and blocks.
pub(crate) trait Take {
    /// A block of the next span that repeats no other, and the bytes of its record.
    fn block(&mut self, block: BlockRecord, stored: &[u8]);

    /// A span, whose blocks were taken; its data end here.
    fn span(&mut self, span: SpanRecord, data_end: u64);

    /// Where a span lies that was taken; none if it was not.
    fn location(&self, number: usize) -> Option<SpanLocation>;
}

/// What an index holds beside spans and blocks.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// The files, by path.
    pub files: Vec<FileRecord>,
    /// The tensors that others are differences from.
    pub bases: Vec<BaseRecord>,
    /// Where the base was when the image was made, as words for a person; empty if that is not
    /// known.
    pub base_path: String,
    /// What a folder holds beside the bytes of its files, by path; empty if that was not noted.
    pub members: Vec<Member>,
    /// Where the last block ends, padding included.
    pub data_end: u64,
    /// Where the records of blocks begin in what was read.
    pub blocks_at: u64,
}

/// Reads the index that lies at these bytes of `source`. Every contradiction is an error.
pub(crate) fn parse(
    source: &dyn ReadAt,
    bytes: Range<u64>,
    header: &Header,
    take: &mut dyn Take,
) -> Result<Parsed> {
    let sections = section::list(source, bytes)?;
    let mut parser = Parser::new(source, &sections, header)?;
    let files = parser.files(stream(source, &sections, section::FILES, "list of files")?)?;
    let bases = parser.bases()?;
    for file in &files {
        parser.file(file, take)?;
    }
    let data_end = parser.finish()?;
    let blocks_at = sections
        .get(&section::BLOCKS)
        .map_or(0, |section| section.at);
    Ok(Parsed {
        members: members(source, &sections, header, &files)?,
        files,
        bases,
        base_path: base_path(source, &sections)?,
        data_end,
        blocks_at,
    })
}

/// The span with this number of an index that was read before, for what is seldom wanted of it.
pub(crate) fn span(source: &dyn ReadAt, bytes: Range<u64>, number: usize) -> Result<SpanRecord> {
    let sections = section::list(source, bytes)?;
    let mut spans = stream(source, &sections, section::SPANS, "list of spans")?;
    for _ in 0..number {
        let len = span_record_len(spans.peek(SPAN_LEN_MIN)?)?;
        spans.take(len)?;
    }
    let len = span_record_len(spans.peek(SPAN_LEN_MIN)?)?;
    parse_span(&mut spans.take(len)?, 0)
}

fn stream<'a>(
    source: &'a dyn ReadAt,
    sections: &BTreeMap<u32, Section>,
    tag: u32,
    what: &'static str,
) -> Result<Stream<'a>> {
    let section = sections.get(&tag);
    let missing = || Error::damaged(format!("the index has no {what}"));
    section.ok_or_else(missing)?.stream(source, what)
}

fn members(
    source: &dyn ReadAt,
    sections: &BTreeMap<u32, Section>,
    header: &Header,
    files: &[FileRecord],
) -> Result<Vec<Member>> {
    let Some(section) = sections.get(&section::MEMBERS) else {
        return Ok(Vec::new());
    };
    if header.kind == ImageKind::File {
        return Err(Error::damaged("an image of one file has members"));
    }
    let mut stream = section.stream(source, "list of members")?;
    let len = stream.len() as usize;
    let members = member::parse(&mut stream.take(len)?, files)?;
    stream.finish()?;
    Ok(members)
}

fn base_path(source: &dyn ReadAt, sections: &BTreeMap<u32, Section>) -> Result<String> {
    let Some(section) = sections.get(&section::BASE_PLACE) else {
        return Ok(String::new());
    };
    let mut stream = section.stream(source, "place of the base")?;
    let len = stream.len().min(BASE_PLACE_LEN_MAX) as usize;
    Ok(String::from_utf8_lossy(stream.peek(len)?).into_owned())
}

/// The sections, each read so far, and what was counted.
struct Parser<'a> {
    header: &'a Header,
    spans: Stream<'a>,
    receipts: Stream<'a>,
    blocks: Stream<'a>,
    bases: Option<Stream<'a>>,
    base_count: usize,
    span_count: usize,
    block_count: u64,
    offsets: OffsetAssigner,
}

impl<'a> Parser<'a> {
    fn new(
        source: &'a dyn ReadAt,
        sections: &BTreeMap<u32, Section>,
        header: &'a Header,
    ) -> Result<Self> {
        let bases = sections.get(&section::BASES);
        let bases = bases.map(|section| section.stream(source, "list of bases"));
        Ok(Self {
            header,
            spans: stream(source, sections, section::SPANS, "list of spans")?,
            receipts: stream(source, sections, section::RECEIPTS, "list of receipts")?,
            blocks: stream(source, sections, section::BLOCKS, "list of blocks")?,
            bases: bases.transpose()?,
            base_count: 0,
            span_count: 0,
            block_count: 0,
            offsets: OffsetAssigner::new(Header::data_offset(header.index_len)),
        })
    }

    /// The files. The number of spans that they claim is compared with the receipts that there are,
    /// before a record is made of any span: a small file may claim millions of them.
    fn files(&mut self, mut records: Stream<'_>) -> Result<Vec<FileRecord>> {
        let mut files = Vec::new();
        let mut first = 0_usize;
        for _ in 0..self.header.file_count {
            let file = parse_file(&mut records, first)?;
            first = file.spans.end;
            files.push(file);
        }
        records.finish()?;
        let lens = [(files.len(), FILE_RECEIPT_LEN), (first, SPAN_RECEIPT_LEN)];
        let lens = lens.map(|(count, len)| (count as u64).saturating_mul(len as u64));
        let expected = lens.into_iter().fold(0, u64::saturating_add);
        if expected != self.receipts.len() {
            return Err(Error::damaged(format!(
                "receipts of {} bytes, {expected} expected",
                self.receipts.len()
            )));
        }
        check_files(&files, self.header)?;
        for file in &mut files {
            file.sha256 = self.receipts.take(FILE_RECEIPT_LEN)?.array()?;
        }
        Ok(files)
    }

    fn bases(&mut self) -> Result<Vec<BaseRecord>> {
        let mut bases = Vec::new();
        if let Some(records) = &mut self.bases {
            let count = records.take(REFERENCE_LEN)?.u32()?;
            for _ in 0..count {
                let mut beginning = records.take(FILE_RECEIPT_LEN.saturating_add(4))?;
                let blake3 = beginning.array()?;
                let name_len = beginning.u32()? as usize;
                let name = records.take(name_len)?.text(name_len)?;
                bases.push(BaseRecord { blake3, name });
            }
        }
        self.base_count = bases.len();
        Ok(bases)
    }

    /// The spans of a file, and their blocks.
    fn file(&mut self, file: &FileRecord, take: &mut dyn Take) -> Result<()> {
        let mut start = 0_u64;
        for _ in file.spans.clone() {
            let record = self.span(start, take)?;
            start = start
                .checked_add(record.span.len)
                .filter(|&end| end <= file.len)
                .ok_or_else(|| Error::damaged("the spans are longer than their file"))?;
            take.span(record, self.offsets.end());
            self.span_count = self.span_count.saturating_add(1);
        }
        if start != file.len {
            return Err(Error::damaged(format!(
                "spans of {start} bytes for a file of {}",
                file.len
            )));
        }
        Ok(())
    }

    fn span(&mut self, start: u64, take: &mut dyn Take) -> Result<SpanRecord> {
        let len = span_record_len(self.spans.peek(SPAN_LEN_MIN)?)?;
        let mut record = parse_span(&mut self.spans.take(len)?, start)?;
        if self.header.required_features & FEATURE_REPEATS == 0 {
            record.repeats = None;
        }
        self.receipt(&mut record)?;
        self.base(&mut record)?;
        if let Some(repeats) = record.repeats {
            let repeated = take.location(repeats);
            return repeating(record, repeated);
        }
        if let Some(of) = record.tables_of {
            let has_own =
                |owner: &SpanLocation| owner.repeats.is_none() && owner.tables_owner == of;
            let owner = take.location(of);
            let owner = owner.filter(|owner| has_own(owner) && owner.tables_len > 0);
            let owner = owner.filter(|_| record.span.len > 0).ok_or_else(|| {
                let error = Error::damaged("uses the tables of no earlier span that has some");
                error.tensor(record.span.label())
            })?;
            self.blocks(&mut record, take)?;
            record.tables_len = owner.tables_len;
            record.tables_offset = owner.tables_offset;
        } else {
            self.blocks(&mut record, take)?;
        }
        Ok(record)
    }

    fn receipt(&mut self, record: &mut SpanRecord) -> Result<()> {
        let mut receipt = self.receipts.take(SPAN_RECEIPT_LEN)?;
        record.md5 = receipt.array()?;
        record.tables_len = receipt.u32()?;
        let tables_of = parse_reference(&mut receipt)?;
        let may_share = self.header.required_features & FEATURE_SHARED_TABLES > 0;
        record.tables_of = tables_of.filter(|_| may_share);
        let is_served = record.served_by().is_some();
        let label = record.span.label();
        if record.tables_len > 0 && (record.span.len == 0 || is_served) {
            return Err(Error::damaged("tables of nothing").tensor(label));
        }
        if record.repeats.is_some() && record.tables_of.is_some() {
            let error = Error::damaged("uses the tables of no earlier span that has some");
            return Err(error.tensor(label));
        }
        if record.tables_len > Limits::FORMAT_1.tables_len_max {
            let what = format!("tables of {} bytes", record.tables_len);
            return Err(Error::over_limit(what).tensor(label));
        }
        Ok(())
    }

    fn base(&mut self, record: &mut SpanRecord) -> Result<()> {
        if let Some(bases) = &mut self.bases {
            record.base = parse_reference(&mut bases.take(REFERENCE_LEN)?)?;
        }
        let is_listed = |base| base < self.base_count && record.repeats.is_none();
        if record.base.is_some_and(|base| !is_listed(base)) {
            return Err(Error::damaged("a base that is not listed").tensor(record.span.label()));
        }
        Ok(())
    }

    /// The blocks of a span that repeats no other.
    fn blocks(&mut self, record: &mut SpanRecord, take: &mut dyn Take) -> Result<()> {
        let grid = record.grid();
        let end = self.block_count.saturating_add(grid.block_count());
        if end > BLOCK_COUNT_MAX {
            return Err(Error::over_limit(format!("{end} blocks and more")));
        }
        record.blocks = self.block_count as usize..end as usize;
        self.block_count = end;
        if grid.len == 0 {
            return Ok(());
        }
        record.tables_offset = self.offsets.span(grid, record.tables_len)?;
        for number in 0..grid.block_count() {
            let stored = self.blocks.peek(BLOCK_RECORD_LEN)?;
            let mut block = BlockRecord::parse(stored)?;
            check_block(&block, grid, number).map_err(|e| e.tensor(record.span.label()))?;
            block.offset = self.offsets.block(block.coded_len)?;
            take.block(block, stored);
            self.blocks.take(BLOCK_RECORD_LEN)?;
        }
        Ok(())
    }

    fn finish(self) -> Result<u64> {
        self.spans.finish()?;
        self.receipts.finish()?;
        self.blocks.finish()?;
        self.bases.map_or(Ok(()), Stream::finish)?;
        let data_end = self.offsets.end();
        if block::tail_offset(data_end) != self.header.tail_index_offset {
            return Err(Error::damaged(
                "the blocks do not end where the header says",
            ));
        }
        Ok(data_end)
    }
}

fn parse_file(records: &mut Stream<'_>, first_span: usize) -> Result<FileRecord> {
    let mut beginning = records.take(FILE_LEN_MIN)?;
    let kind = beginning.u8()?;
    beginning.take(1)?;
    let path_len = usize::from(beginning.u16()?);
    let span_count = beginning.u32()? as usize;
    let len = beginning.u64()?;
    let path = records.take(path_len)?.text(path_len)?;
    if kind > 1 {
        return Err(Error::damaged(format!("a file of unknown kind {kind}")));
    }
    Ok(FileRecord {
        path,
        is_safetensors: kind == 1,
        len,
        spans: first_span..first_span.saturating_add(span_count),
        sha256: [0; 32],
    })
}

/// A span with the blocks and tables of the one that it repeats, which must be like it and stand
/// before it.
fn repeating(mut record: SpanRecord, repeated: Option<SpanLocation>) -> Result<SpanRecord> {
    let grid = record.grid();
    let repeated = repeated.filter(|other| other.repeats.is_none() && other.grid == grid);
    let repeated = repeated.ok_or_else(|| {
        Error::damaged("repeats what is no earlier span like it").tensor(record.span.label())
    })?;
    let blocks = repeated.first_block..;
    let end = blocks.start.saturating_add(grid.block_count() as usize);
    record.blocks = blocks.start..end;
    record.tables_len = repeated.tables_len;
    record.tables_offset = repeated.tables_offset;
    Ok(record)
}

fn check_block(block: &BlockRecord, grid: Grid, number: u64) -> Result<()> {
    let range = grid.block_range(number);
    let most = range.end.saturating_sub(range.start);
    let most = most.saturating_add(u64::from(Limits::CODED_EXTRA_MAX));
    if u64::from(block.coded_len) > most {
        let what = format!("{} coded bytes", block.coded_len);
        return Err(Error::over_limit(what).block(number));
    }
    Ok(())
}

fn check_files(files: &[FileRecord], header: &Header) -> Result<()> {
    let mut lens = files.iter().map(|file| file.len);
    let total = lens.try_fold(0_u64, u64::checked_add);
    if total != Some(header.original_len) {
        return Err(Error::damaged(
            "the files are not as long as the header says",
        ));
    }
    match header.kind {
        ImageKind::File if files.iter().all(|file| file.path.is_empty()) => Ok(()),
        ImageKind::File => Err(Error::damaged("an image of one file names a path")),
        ImageKind::Folder => file::check_paths(files),
    }
}
