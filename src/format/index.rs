//! The index: files, spans, receipts and blocks, and the places that follow from them (docs/format.md, sections 4
//! and 5).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use crate::base::CodecId;
use crate::base::Error;
use crate::base::Limits;
use crate::base::Result;
use crate::format::base;
use crate::format::base::BaseRecord;
use crate::format::header::ALIGN;
use crate::format::header::FEATURE_REPEATS;
use crate::format::header::FEATURE_SHARED_TABLES;
use crate::format::header::Header;
use crate::format::header::ImageKind;
use crate::format::header::TAIL_PADDING;
use crate::format::member;
use crate::format::member::Member;
use crate::format::record::Reader;
use crate::format::section;
use crate::format::span::SpanRecord;
use crate::format::span::encode_reference;
use crate::format::span::encode_span;
use crate::format::span::parse_reference;
use crate::format::span::parse_span;

/// Most bytes that are read of the place of a base.
const BASE_PLACE_LEN_MAX: usize = 4096;

/// One original file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRecord {
    /// Path within the folder; empty for an image of one file.
    pub path: String,
    /// Whether it is a safetensors file.
    pub is_safetensors: bool,
    /// Length in bytes.
    pub len: u64,
    /// Its spans within [`Index::spans`].
    pub spans: std::ops::Range<usize>,
    /// sha256 of its bytes.
    pub sha256: [u8; 32],
}

/// One block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockRecord {
    /// XXH3 of the original bytes.
    pub checksum: u64,
    /// Where its coded bytes begin in the image.
    pub offset: u64,
    /// How many coded bytes it has.
    pub coded_len: u32,
    /// How it is coded.
    pub codec: CodecId,
    /// Version of the codec.
    pub codec_version: u8,
}

/// Everything needed to find and check the blocks of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Index {
    /// The files, by path.
    pub files: Vec<FileRecord>,
    /// The spans of all files, in order.
    pub spans: Vec<SpanRecord>,
    /// The tensors that others are differences from.
    pub bases: Vec<BaseRecord>,
    /// Where the base was when the image was made, as words for a person; empty if that is not known.
    pub base_place: String,
    /// What a folder holds beside the bytes of its files, by path; empty if that was not noted.
    pub members: Vec<Member>,
    /// The blocks of all spans that do not repeat others, in order.
    pub blocks: Vec<BlockRecord>,
    /// Where the last block ends, padding included.
    pub data_end: u64,
}

impl Index {
    /// The index of files that are still to be coded: receipts and blocks are blank, but counted, so that its encoded
    /// length is final.
    pub fn blank(
        files: Vec<FileRecord>,
        spans: Vec<SpanRecord>,
        bases: Vec<BaseRecord>,
    ) -> Result<Self> {
        let mut index = Self {
            files,
            spans,
            bases,
            base_place: String::new(),
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
            // sixteen bytes of index for each block
            if end > Limits::FORMAT_1.index_len_max >> 4 {
                return Err(Error::over_limit(format!("{end} blocks and more")));
            }
            span.blocks = next as usize..end as usize;
            next = end;
        }
        Ok(next as usize)
    }

    /// Finds the places of tables and blocks from their lengths.
    pub fn place(&mut self, data_offset: u64) -> Result<()> {
        let too_far = || Error::damaged("the blocks reach beyond all bounds");
        let add = |at: u64, len: u32, align: u64| {
            at.checked_add(u64::from(len))?
                .checked_next_multiple_of(align)
        };
        let mut at = data_offset;
        for span in &mut self.spans {
            if span.span.len == 0 || span.repeats.is_some() {
                continue;
            }
            at = add(at, 0, span.align()).ok_or_else(too_far)?;
            span.tables_offset = at;
            let own_tables_len = span.tables_of.map_or(span.tables_len, |_| 0);
            at = add(at, own_tables_len, ALIGN).ok_or_else(too_far)?;
            for block in self.blocks.get_mut(span.blocks.clone()).unwrap_or_default() {
                block.offset = at;
                at = add(at, block.coded_len, ALIGN).ok_or_else(too_far)?;
            }
        }
        self.data_end = at;
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
        self.data_end
            .saturating_add(TAIL_PADDING)
            .next_multiple_of(ALIGN)
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
        if !self.base_place.is_empty() {
            let place = self.base_place.as_bytes();
            section::write_optional(section::BASE_PLACE, place, false, &mut out);
        }
        if !self.members.is_empty() {
            let members = member::encode(&self.members);
            section::write_optional(section::MEMBERS, &members, true, &mut out);
        }
        out
    }

    /// Reads and checks the index. Every contradiction is an error.
    pub fn parse(bytes: &[u8], header: &Header) -> Result<Self> {
        let sections = section::read_all(bytes)?;
        let section = |tag, what| {
            sections
                .get(&tag)
                .map(|payload| Reader::new(payload, what))
                .ok_or_else(|| Error::damaged(format!("the index has no {what}")))
        };
        let mut files = section(section::FILES, "list of files")?;
        let mut spans = section(section::SPANS, "list of spans")?;
        let mut receipts = section(section::RECEIPTS, "list of receipts")?;
        let mut blocks = section(section::BLOCKS, "list of blocks")?;
        let mut index = Self {
            files: Vec::new(),
            spans: Vec::new(),
            bases: Vec::new(),
            base_place: String::new(),
            members: Vec::new(),
            blocks: Vec::new(),
            data_end: 0,
        };
        check_receipts_len(files.clone(), header.file_count, &receipts)?;
        for _ in 0..header.file_count {
            index.parse_file(&mut files, &mut spans, header.required_features)?;
        }
        files.finish()?;
        spans.finish()?;
        index.check_files(header)?;
        for file in &mut index.files {
            file.sha256 = receipts.digest()?;
        }
        for span in &mut index.spans {
            span.md5 = receipts.digest()?;
            span.tables_len = receipts.u32()?;
            let tables_of = parse_reference(&mut receipts)?;
            span.tables_of =
                tables_of.filter(|_| header.required_features & FEATURE_SHARED_TABLES > 0);
            let is_served = span.served_by().is_some();
            if span.tables_len > 0 && (span.span.len == 0 || is_served) {
                return Err(Error::damaged("tables of nothing").tensor(span.span.label()));
            }
            if span.tables_len > Limits::FORMAT_1.tables_len_max {
                return Err(
                    Error::over_limit(format!("tables of {} bytes", span.tables_len))
                        .tensor(span.span.label()),
                );
            }
        }
        receipts.finish()?;
        index.check_shared_tables()?;
        if let Some(payload) = sections.get(&section::BASES) {
            let mut reader = Reader::new(payload, "list of bases");
            index.bases = base::parse(&mut reader, &mut index.spans)?;
            reader.finish()?;
        }
        if let Some(place) = sections.get(&section::BASE_PLACE) {
            let place = place.get(..place.len().min(BASE_PLACE_LEN_MAX));
            index.base_place = String::from_utf8_lossy(place.unwrap_or_default()).into_owned();
        }
        if let Some(payload) = sections.get(&section::MEMBERS) {
            index.parse_members(payload, header.kind)?;
        }
        index.parse_blocks(&mut blocks)?;
        blocks.finish()?;
        index.place(Header::data_offset(header.index_len))?;
        if index.tail_offset() != header.tail_index_offset {
            return Err(Error::damaged(
                "the blocks do not end where the header says",
            ));
        }
        Ok(index)
    }

    fn parse_file(
        &mut self,
        files: &mut Reader<'_>,
        spans: &mut Reader<'_>,
        features: u64,
    ) -> Result<()> {
        let kind = files.u8()?;
        files.take(1)?;
        let path_len = files.u16()?;
        let span_count = files.u32()?;
        let len = files.u64()?;
        let path = files.text(usize::from(path_len))?;
        if kind > 1 {
            return Err(Error::damaged(format!("a file of unknown kind {kind}")));
        }
        let first = self.spans.len();
        let mut start = 0_u64;
        for _ in 0..span_count {
            let mut record = parse_span(spans, start)?;
            if features & FEATURE_REPEATS == 0 {
                record.repeats = None;
            }
            start = start
                .checked_add(record.span.len)
                .filter(|&end| end <= len)
                .ok_or_else(|| Error::damaged("the spans are longer than their file"))?;
            self.spans.push(record);
        }
        if start != len {
            return Err(Error::damaged(format!(
                "spans of {start} bytes for a file of {len}"
            )));
        }
        self.files.push(FileRecord {
            path,
            is_safetensors: kind == 1,
            len,
            spans: first..self.spans.len(),
            sha256: [0; 32],
        });
        Ok(())
    }

    fn parse_members(&mut self, payload: &[u8], kind: ImageKind) -> Result<()> {
        if kind == ImageKind::File {
            return Err(Error::damaged("an image of one file has members"));
        }
        let mut reader = Reader::new(payload, "list of members");
        self.members = member::parse(&mut reader, &self.files)?;
        Ok(())
    }

    fn check_files(&self, header: &Header) -> Result<()> {
        let total = self
            .files
            .iter()
            .try_fold(0_u64, |sum, file| sum.checked_add(file.len));
        if total != Some(header.original_len) {
            return Err(Error::damaged(
                "the files are not as long as the header says",
            ));
        }
        match header.kind {
            ImageKind::File if self.files.iter().all(|file| file.path.is_empty()) => Ok(()),
            ImageKind::File => Err(Error::damaged("an image of one file names a path")),
            ImageKind::Folder => check_paths(&self.files),
        }
    }

    /// A span that uses another's tables stands behind it, and the other has some of its own.
    fn check_shared_tables(&self) -> Result<()> {
        for (number, span) in self.spans.iter().enumerate() {
            let Some(of) = span.tables_of else {
                continue;
            };
            let has_own = |other: &SpanRecord| other.served_by().is_none() && other.tables_len > 0;
            let earlier = self.spans.get(of).filter(|_| of < number);
            if span.repeats.is_some() || span.span.len == 0 || !earlier.is_some_and(has_own) {
                let error = Error::damaged("uses the tables of no earlier span that has some");
                return Err(error.tensor(span.span.label()));
            }
        }
        Ok(())
    }

    fn parse_blocks(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        let count = self.number_blocks()?;
        for span in self.spans.iter().filter(|span| span.repeats.is_none()) {
            for number in 0..span.block_count() {
                let checksum = reader.u64()?;
                let coded_len = reader.u32()?;
                let codec = CodecId(reader.u8()?);
                let codec_version = reader.u8()?;
                reader.take(2)?;
                let range = span.block_range(number);
                let most = range.end.saturating_sub(range.start);
                let most = most.saturating_add(u64::from(Limits::CODED_EXTRA_MAX));
                if u64::from(coded_len) > most {
                    return Err(Error::over_limit(format!("{coded_len} coded bytes"))
                        .tensor(span.span.label())
                        .block(number));
                }
                self.blocks.push(BlockRecord {
                    checksum,
                    offset: 0,
                    coded_len,
                    codec,
                    codec_version,
                });
            }
        }
        assert_eq!(
            self.blocks.len(),
            count,
            "each span has the blocks that were counted"
        );
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

/// Compares the number of spans that the files claim with the receipts that there are, before a record is made of any
/// span: a small file may claim millions of them.
fn check_receipts_len(mut files: Reader<'_>, file_count: u32, receipts: &Reader<'_>) -> Result<()> {
    const FILE_RECEIPT_LEN: u64 = 32;
    const SPAN_RECEIPT_LEN: u64 = 24;
    let mut expected = u64::from(file_count).saturating_mul(FILE_RECEIPT_LEN);
    for _ in 0..file_count {
        files.take(2)?;
        let path_len = files.u16()?;
        let span_count = u64::from(files.u32()?);
        files.take(8)?;
        files.take(usize::from(path_len))?;
        expected = expected.saturating_add(span_count.saturating_mul(SPAN_RECEIPT_LEN));
    }
    if expected != receipts.len() {
        return Err(Error::damaged(format!(
            "receipts of {} bytes, {expected} expected",
            receipts.len()
        )));
    }
    Ok(())
}

/// Whether `path` may name a file within a folder image.
pub fn path_is_valid(path: &str) -> bool {
    let plain = |part: &str| {
        !matches!(part, "" | "." | "..") && part.len() <= 255 && !part.contains(['\0', '\\'])
    };
    u16::try_from(path.len()).is_ok() && path.split('/').all(plain)
}

fn check_paths(files: &[FileRecord]) -> Result<()> {
    for file in files {
        if !path_is_valid(&file.path) {
            return Err(Error::damaged(format!(
                "the image names a file `{}`, which is no relative path",
                crate::base::error::escaped(&file.path)
            )));
        }
    }
    // a file that is a folder of another, such as `a` and `a/b`
    let paths: std::collections::BTreeSet<&str> = files.iter().map(|f| f.path.as_str()).collect();
    let is_folder = |path: &str| {
        path.match_indices('/')
            .any(|(at, _)| path.get(..at).is_some_and(|p| paths.contains(p)))
    };
    let ascending = files.is_sorted_by(|a, b| a.path < b.path);
    if !ascending || files.iter().any(|file| is_folder(&file.path)) {
        return Err(Error::damaged(
            "the files of the image are out of order or repeated",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_that_lead_elsewhere_are_refused() {
        for path in [
            "",
            "/a",
            "a/",
            "a//b",
            "../a",
            "a/..",
            ".",
            "a\\b",
            "a\0b",
            &"x".repeat(256),
        ] {
            assert!(!path_is_valid(path), "{path:?}");
        }
        for path in ["a", "a/b.json", "...", "a b/\u{e4}"] {
            assert!(path_is_valid(path), "{path:?}");
        }
    }
}
