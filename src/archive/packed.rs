//! What finding and decoding blocks takes of an index, in a few bytes for each span: lengths and
//! references, without names and digests. The records of blocks stay in the image and are read
//! again a page at a time; a page that is not what it was when the image was opened is an error.

use std::ops::Range;

use crate::base::Error;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::format::BlockRecord;
use crate::format::Grid;
use crate::format::Header;
use crate::format::SpanLocation;
use crate::format::SpanRecord;
use crate::format::block::BLOCK_RECORD_LEN;
use crate::format::location::OffsetAssigner;
use crate::format::parse;
use crate::format::parse::Parsed;
use crate::format::parse::Take;

/// Spans between two from which the others are read on.
const GROUP: usize = 32;
/// Blocks of which a page holds the records.
const PAGE_BLOCKS: usize = 256;
/// Bits of a packed span's first byte: it repeats another, it uses the tables of another, it has a
/// base. The others are how it is cut into blocks.
const REPEATS: u8 = 1 << 7;
const TABLES_OF: u8 = 1 << 6;
const BASE: u8 = 1 << 5;
const BLOCK_SHIFT_MIN: u8 = 16;
const LANES_SHIFT_MIN: u8 = 5;

/// Where the next span begins.
#[derive(Debug, Clone, Copy, Default)]
struct Mark {
    /// Among the original bytes of all files.
    start: u64,
    /// Where the data of those before it end.
    data_end: u64,
    /// Number of the next block.
    block: u32,
    /// Among the packed bytes.
    at: u32,
}

/// Where the first block of a page begins, and the checksum of the page's records.
#[derive(Debug, Clone, Copy)]
struct Page {
    offset: u64,
    checksum: u64,
}

/// The spans of an image, packed.
#[derive(Debug, Default)]
pub(super) struct Packed {
    groups: Vec<Mark>,
    bytes: Vec<u8>,
    pages: Vec<Page>,
    span_count: usize,
    block_count: usize,
    /// Where in the image the records of blocks begin.
    blocks_at: u64,
}

/// A span as it is packed.
#[derive(Debug, Clone, Copy)]
struct Entry {
    number: usize,
    start: u64,
    grid: Grid,
    repeats: Option<usize>,
    tables_of: Option<usize>,
    base: Option<usize>,
    tables_len: u32,
    tables_offset: u64,
    first_block: usize,
    data_offset: u64,
}

/// Packed spans, from one on.
#[derive(Debug, Clone)]
struct Walk<'a> {
    bytes: &'a [u8],
    number: usize,
    mark: Mark,
}

impl Walk<'_> {
    fn byte(&mut self) -> u8 {
        let byte = self.bytes[self.mark.at as usize];
        self.mark.at += 1;
        byte
    }

    fn varint(&mut self) -> u64 {
        let (mut value, mut shift) = (0, 0);
        loop {
            let byte = self.byte();
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return value;
            }
            shift += 7;
        }
    }

    /// The next span, which there must be.
    fn step(&mut self) -> Entry {
        let flags = self.byte();
        let grid = Grid {
            len: self.varint(),
            block_shift: BLOCK_SHIFT_MIN + (flags & 15) / 2,
            lanes_shift: LANES_SHIFT_MIN + (flags & 1),
        };
        let number = self.number;
        let mut reference = |bit: u8| (flags & bit > 0).then(|| self.varint() as usize);
        let mut entry = Entry {
            number,
            start: 0,
            grid,
            repeats: reference(REPEATS).map(|back| number - back),
            tables_of: reference(TABLES_OF).map(|back| number - back),
            base: reference(BASE),
            tables_len: 0,
            tables_offset: 0,
            first_block: 0,
            data_offset: 0,
        };
        let Mark { start, block, .. } = self.mark;
        (entry.start, entry.first_block) = (start, block as usize);
        if entry.has_data() {
            entry.tables_len = self.varint() as u32;
            let coded_len = self.varint();
            entry.assign_offsets(self.mark.data_end);
            self.mark.data_end = entry.data_offset + coded_len;
            self.mark.block += grid.block_count() as u32;
        }
        self.mark.start += grid.len;
        self.number += 1;
        entry
    }
}

impl Entry {
    fn has_data(&self) -> bool {
        self.grid.len > 0 && self.repeats.is_none()
    }

    /// Finds its tables and blocks behind data that end there. The same was added up once without
    /// an error.
    fn assign_offsets(&mut self, data_end: u64) {
        let mut offsets = OffsetAssigner::new(data_end);
        let tables = offsets.span(self.grid, self.tables_len);
        self.tables_offset = tables.unwrap_or(data_end);
        self.data_offset = offsets.end();
    }
}

fn put_varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

impl Packed {
    /// Reads the index that lies at these bytes of an image; each span is shown to `look` as it
    /// passes.
    pub(super) fn read(
        source: &dyn ReadAt,
        bytes: Range<u64>,
        header: &Header,
        look: &mut dyn FnMut(&SpanRecord),
    ) -> Result<(Self, Parsed)> {
        let mut packing = Packing::new(header, look);
        let parsed = parse::parse(source, bytes, header, &mut packing)?;
        let mut packed = packing.finish();
        packed.blocks_at = parsed.blocks_at;
        Ok((packed, parsed))
    }

    /// Bytes that it holds.
    pub(super) fn memory_bytes(&self) -> usize {
        self.bytes.len() + size_of_val(&*self.groups) + size_of_val(&*self.pages)
    }

    fn walk(&self, group: usize) -> Walk<'_> {
        Walk {
            bytes: &self.bytes,
            number: group * GROUP,
            mark: self.groups[group],
        }
    }

    /// Where span `number` lies, which there must be.
    pub(super) fn location(&self, number: usize) -> SpanLocation {
        self.resolve(self.entry(number))
    }

    fn entry(&self, number: usize) -> Entry {
        let mut walk = self.walk(number / GROUP);
        for _ in 0..number % GROUP {
            walk.step();
        }
        walk.step()
    }

    /// The spans from the one on that holds this byte of all files' bytes.
    pub(super) fn from(&self, position: u64) -> Spans<'_> {
        let group = self.groups.partition_point(|mark| mark.start <= position);
        let mut spans = Spans {
            packed: self,
            walk: self.walk(group.saturating_sub(1)),
        };
        while spans.walk.number < self.span_count {
            let before = spans.walk.clone();
            let entry = spans.walk.step();
            if entry.start + entry.grid.len > position {
                spans.walk = before;
                break;
            }
        }
        spans
    }

    /// What the span that it repeats, or whose tables it uses, says of it.
    fn resolve(&self, entry: Entry) -> SpanLocation {
        let server = entry.repeats.map_or(entry, |of| self.entry(of));
        let owner = server.tables_of.map_or(server, |of| self.entry(of));
        SpanLocation {
            start: entry.start,
            grid: entry.grid,
            repeats: entry.repeats,
            tables_owner: owner.number,
            tables_len: owner.tables_len,
            tables_offset: owner.tables_offset,
            first_block: server.first_block,
            data_offset: server.data_offset,
            base: server.base,
        }
    }

    /// The page with the record of a block of all of the image.
    pub(super) fn page_of(block: usize) -> usize {
        block / PAGE_BLOCKS
    }

    /// Reads a page again.
    pub(super) fn read_page(&self, source: &dyn ReadAt, page: usize) -> Result<Vec<u8>> {
        let first = page * PAGE_BLOCKS;
        let count = PAGE_BLOCKS.min(self.block_count - first);
        let mut bytes = vec![0; count * BLOCK_RECORD_LEN];
        let at = self.blocks_at + (first * BLOCK_RECORD_LEN) as u64;
        source.read_exact_at(at, &mut bytes)?;
        if digest::xxh3(&bytes) != self.pages[page].checksum {
            return Err(
                Error::damaged("the index is not what it was when the image was opened")
                    .hint("the file was changed where it lies: restore it from a copy"),
            );
        }
        Ok(bytes)
    }

    /// The record of block `number` of a span, from the page that it is in.
    pub(super) fn block(
        &self,
        location: &SpanLocation,
        number: u64,
        page: &[u8],
    ) -> Result<BlockRecord> {
        let block = location.first_block + number as usize;
        let first = Self::page_of(block) * PAGE_BLOCKS;
        // from the beginning of the span, or of the page if that is in it
        let (mut at, from) = if location.first_block >= first {
            (location.data_offset, location.first_block - first)
        } else {
            (self.pages[Self::page_of(block)].offset, 0)
        };
        let stored = |n: usize| &page[n * BLOCK_RECORD_LEN..][..BLOCK_RECORD_LEN];
        for n in from..block - first {
            let mut offsets = OffsetAssigner::new(at);
            offsets.block(BlockRecord::parse(stored(n))?.coded_len)?;
            at = offsets.end();
        }
        let record = BlockRecord::parse(stored(block - first))?;
        Ok(BlockRecord {
            offset: at,
            ..record
        })
    }
}

/// Spans in order.
#[derive(Debug, Clone)]
pub(super) struct Spans<'a> {
    packed: &'a Packed,
    walk: Walk<'a>,
}

impl Iterator for Spans<'_> {
    type Item = (usize, SpanLocation);

    fn next(&mut self) -> Option<(usize, SpanLocation)> {
        (self.walk.number < self.packed.span_count).then(|| {
            let entry = self.walk.step();
            (entry.number, self.packed.resolve(entry))
        })
    }
}

/// An index that is being packed.
struct Packing<'a> {
    packed: Packed,
    /// Behind the spans so far.
    mark: Mark,
    /// Records of the blocks of the last page.
    page: Vec<u8>,
    look: &'a mut dyn FnMut(&SpanRecord),
}

impl<'a> Packing<'a> {
    fn new(header: &Header, look: &'a mut dyn FnMut(&SpanRecord)) -> Self {
        let mark = Mark {
            data_end: Header::data_offset(header.index_len),
            ..Mark::default()
        };
        Self {
            packed: Packed::default(),
            mark,
            page: Vec::with_capacity(PAGE_BLOCKS * BLOCK_RECORD_LEN),
            look,
        }
    }

    fn finish(mut self) -> Packed {
        self.end_page();
        self.packed.bytes.shrink_to_fit();
        self.packed.groups.shrink_to_fit();
        self.packed
    }

    fn end_page(&mut self) {
        if let Some(page) = self.packed.pages.last_mut() {
            page.checksum = digest::xxh3(&self.page);
        }
        self.page.clear();
    }
}

impl Take for Packing<'_> {
    fn block(&mut self, block: BlockRecord, stored: &[u8]) {
        if self.packed.block_count.is_multiple_of(PAGE_BLOCKS) {
            self.end_page();
            self.packed.pages.push(Page {
                offset: block.offset,
                checksum: 0,
            });
        }
        self.page.extend_from_slice(stored);
        self.packed.block_count += 1;
    }

    fn span(&mut self, span: SpanRecord, data_end: u64) {
        (self.look)(&span);
        let number = self.packed.span_count;
        if number.is_multiple_of(GROUP) {
            self.packed.groups.push(self.mark);
        }
        let out = &mut self.packed.bytes;
        let shifts = (span.block_shift - BLOCK_SHIFT_MIN) * 2 + span.lanes_shift - LANES_SHIFT_MIN;
        let flag = |is_set: bool, bit: u8| if is_set { bit } else { 0 };
        out.push(
            shifts
                | flag(span.repeats.is_some(), REPEATS)
                | flag(span.tables_of.is_some(), TABLES_OF)
                | flag(span.base.is_some(), BASE),
        );
        put_varint(span.span.len, out);
        for earlier in [span.repeats, span.tables_of].into_iter().flatten() {
            put_varint((number - earlier) as u64, out);
        }
        if let Some(base) = span.base {
            put_varint(base as u64, out);
        }
        if span.span.len > 0 && span.repeats.is_none() {
            let own_tables_len = span.tables_of.map_or(span.tables_len, |_| 0);
            put_varint(u64::from(own_tables_len), out);
            let mut offsets = OffsetAssigner::new(self.mark.data_end);
            let _ = offsets.span(span.grid(), own_tables_len);
            put_varint(data_end - offsets.end(), out);
        }
        self.mark = Mark {
            start: self.mark.start + span.span.len,
            data_end,
            block: self.packed.block_count as u32,
            at: out.len() as u32,
        };
        self.packed.span_count += 1;
    }

    fn location(&self, number: usize) -> Option<SpanLocation> {
        (number < self.packed.span_count).then(|| self.packed.location(number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::CodecId;
    use crate::format::BaseRecord;
    use crate::format::FileRecord;
    use crate::format::ImageKind;
    use crate::format::Index;
    use crate::tensor::Span;
    use crate::tensor::SpanKind;
    use proptest::prelude::*;

    /// Length, shift above the least, and what it would share: an earlier span's bytes or tables,
    /// or a base.
    type Drawn = (u64, u8, u8, usize);

    fn drawn() -> impl Strategy<Value = Vec<Drawn>> {
        let len = prop_oneof![
            Just(0),
            1..200_u64,
            1..5_000_000_u64,
            Just(16 << 20),
            Just(40 << 20)
        ];
        proptest::collection::vec((len, 0..5_u8, 0..8_u8, any::<usize>()), 1..150)
    }

    /// An index of these spans, as a writer makes it.
    fn index(drawn: &[Drawn]) -> Index {
        let (mut spans, mut start): (Vec<SpanRecord>, u64) = (Vec::new(), 0);
        for (number, &(len, shift, shares, which)) in drawn.iter().enumerate() {
            let span = Span {
                name: format!("t{number}"),
                dtype: "X".into(),
                shape: vec![len],
                ..Span::bytes(SpanKind::Tensor, start, len)
            };
            let mut record = SpanRecord::new(span, BLOCK_SHIFT_MIN + shift);
            record.lanes_shift = LANES_SHIFT_MIN + (which % 2) as u8;
            let earlier = (number > 0).then(|| which % number.max(1));
            let other = earlier.map(|other| (other, spans[other].clone()));
            match other {
                Some((other, of)) if shares == 0 && of.repeats.is_none() => {
                    (record.span.len, record.block_shift) = (of.span.len, of.block_shift);
                    (record.lanes_shift, record.repeats) = (of.lanes_shift, Some(other));
                }
                Some((other, of)) if shares == 1 && len > 0 && of.served_by().is_none() => {
                    record.tables_of = Some(other).filter(|_| of.tables_len > 0);
                }
                _ if len > 0 && shares < 4 => record.tables_len = which as u32 % 5000,
                _ => {}
            }
            let may_have_base = record.repeats.is_none() && shares % 2 == 1;
            record.base = may_have_base.then_some(which % 3);
            start += record.span.len;
            spans.push(record);
        }
        let file = FileRecord {
            path: String::new(),
            is_safetensors: false,
            len: start,
            spans: 0..spans.len(),
            sha256: [0; 32],
        };
        let base = |n: u8| BaseRecord {
            blake3: [n; 32],
            name: String::new(),
        };
        let mut index = Index::blank(vec![file], spans, (0..3).map(base).collect()).unwrap();
        for (number, block) in index.blocks.iter_mut().enumerate() {
            block.checksum = number as u64 * 7;
            block.coded_len = number as u32 * 31 % 1000;
            block.codec = CodecId((number % 9) as u8);
        }
        index
    }

    /// Header and index as they stand in an image.
    fn written(index: &mut Index) -> (Header, Vec<u8>) {
        let index_len = index.encode().len() as u64;
        index
            .assign_offsets(Header::data_offset(index_len))
            .unwrap();
        let bytes = index.encode();
        let header = Header {
            kind: ImageKind::File,
            suffix: String::new(),
            required_features: index.required_features(),
            image_len: 0,
            original_len: index.files[0].len,
            index_len,
            tail_index_offset: index.tail_offset(),
            index_checksum: digest::xxh3(&bytes),
            file_count: 1,
        };
        (header, bytes)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn it_says_what_the_whole_index_says(drawn in drawn()) {
            let mut whole = index(&drawn);
            let (header, bytes) = written(&mut whole);
            prop_assert_eq!(&Index::parse(&bytes, &header).unwrap(), &whole);
            let mut seen = Vec::new();
            let mut look = |span: &SpanRecord| seen.push(span.clone());
            let len = bytes.len() as u64;
            let (packed, _) = Packed::read(&bytes, 0..len, &header, &mut look).unwrap();
            prop_assert_eq!(&seen, &whole.spans);
            for (number, span) in whole.spans.iter().enumerate() {
                let location = packed.location(number);
                let stored = span.repeats.map_or(span, |of| &whole.spans[of]);
                prop_assert_eq!(location.start, span.span.start);
                prop_assert_eq!((location.grid, location.repeats), (span.grid(), span.repeats));
                prop_assert_eq!(location.base, stored.base);
                prop_assert_eq!(location.tables_len, span.tables_len);
                if span.tables_len > 0 {
                    prop_assert_eq!(location.tables_offset, span.tables_offset);
                    prop_assert_eq!(location.tables_owner, whole.tables_owner(number));
                }
                for block in 0..span.grid().block_count() {
                    let of_all = span.blocks.start + block as usize;
                    let page = packed.read_page(&bytes, Packed::page_of(of_all)).unwrap();
                    let record = packed.block(&location, block, &page).unwrap();
                    prop_assert_eq!(&record, &whole.blocks[of_all]);
                }
                if span.span.len > 0 {
                    for position in [span.span.start, span.span.start + span.span.len - 1] {
                        prop_assert_eq!(packed.from(position).next().unwrap().0, number);
                    }
                }
                let again = parse::span(&bytes, 0..len, number).unwrap();
                prop_assert_eq!(&again.span.name, &span.span.name);
            }
        }
    }

    #[test]
    fn a_page_that_was_changed_since_is_noticed() {
        let mut whole = index(&[(3_000_000, 0, 7, 0)]);
        let (header, mut bytes) = written(&mut whole);
        let len = bytes.len() as u64;
        let (packed, parsed) = Packed::read(&bytes, 0..len, &header, &mut |_| ()).unwrap();
        assert!(packed.read_page(&bytes, 0).is_ok());
        bytes[parsed.blocks_at as usize + 20] ^= 1;
        assert!(packed.read_page(&bytes, 0).is_err());
    }
}
