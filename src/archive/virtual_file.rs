//! An original file, as if it had never been compressed: reads of any range, decoded on demand.

use std::cell::RefCell;
use std::ops::Deref;
use std::ops::Range;
use std::sync::Arc;

use crate::archive::cache::BlockCache;
use crate::archive::decode;
use crate::archive::packed::Packed;
use crate::archive::resolve::BoundImage;
use crate::archive::resolve::ReadScratch;
use crate::archive::resolve::Run;
use crate::base::Error;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::SourceIdentity;
use crate::codec::SpanTables;
use crate::format::BlockRecord;
use crate::format::FileRecord;
use crate::format::SpanLocation;

/// Parts shorter than this are copied into one piece: a read of very many tiny tensors would else
/// hold each of their blocks, beyond what the cache counts.
const JOINED_BELOW: usize = 4 << 10;

/// One original file of an image. It is exact by construction: every byte comes from a checked
/// block.
#[derive(Debug, Clone)]
pub struct VirtualFile {
    image: Arc<BoundImage>,
    cache: Arc<BlockCache>,
    number: usize,
    /// First of its bytes among those of all files of the image.
    start: u64,
}

/// A span of the image, and its number.
type Numbered = (usize, SpanLocation);

impl VirtualFile {
    /// File `number` of the image. The cache may be shared with other files.
    pub fn new(image: Arc<BoundImage>, number: usize, cache: Arc<BlockCache>) -> Result<Self> {
        let Some(before) = image
            .files()
            .get(..number)
            .filter(|_| number < image.files().len())
        else {
            let error = Error::invalid(format!("the image has no file {number}"));
            return Err(error.file(image.path()));
        };
        let start = before.iter().map(|file| file.len).sum();
        Ok(Self {
            image,
            cache,
            number,
            start,
        })
    }

    /// All files of the image, in its order.
    pub fn all(image: &Arc<BoundImage>, cache: &Arc<BlockCache>) -> Vec<Self> {
        let mut start = 0;
        let files = image.files().iter().enumerate();
        let file = files.map(|(number, record)| {
            let file = Self {
                image: Arc::clone(image),
                cache: Arc::clone(cache),
                number,
                start,
            };
            start += record.len;
            file
        });
        file.collect()
    }

    /// What the index says of the file.
    pub fn record(&self) -> &FileRecord {
        &self.image.files()[self.number]
    }

    /// Block `number` of a span, of which somebody wants what begins before `wanted_end`.
    fn block(&self, (_, location): Numbered, number: u64, wanted_end: u64) -> Result<Arc<Vec<u8>>> {
        let decode = || self.decode(&location, number, wanted_end);
        let (id, len) = (self.image.id(), block_len(&location, number));
        let number = location.first_block + number as usize;
        self.cache.block(id, number, len, decode)
    }

    /// Decodes block `number` of a span, and the next with it where two in turns are faster and
    /// that is wanted, too.
    fn decode(&self, location: &SpanLocation, number: u64, wanted_end: u64) -> Result<Vec<u8>> {
        let record = self.block_record(location, number)?;
        let with_next = self.decode_with_next(location, number, (&record, wanted_end));
        with_next.map_or_else(|| self.decode_alone(location, number, &record), Ok)
    }

    fn decode_alone(
        &self,
        location: &SpanLocation,
        number: u64,
        record: &BlockRecord,
    ) -> Result<Vec<u8>> {
        let mut block = self.cache.buffer(block_len(location, number) as usize);
        let records = std::slice::from_ref(record);
        self.decode_into(location, number, records, &mut [&mut block])?;
        Ok(block)
    }

    /// Decodes a block in turns with the next, which goes to the cache; none if the next is no such
    /// block, is not wanted, is in the cache already, or one of them is damaged.
    fn decode_with_next(
        &self,
        location: &SpanLocation,
        number: u64,
        (record, wanted_end): (&BlockRecord, u64),
    ) -> Option<Vec<u8>> {
        let next = number + 1;
        let next_start = location.grid.block_range(next).start;
        if next_start >= wanted_end.min(location.grid.len) || !decode::may_pair(record) {
            return None;
        }
        let records = [*record, self.block_record(location, next).ok()?];
        if !decode::is_pair(&records[0], &records[1]) {
            return None;
        }
        let lens = [number, next].map(|number| block_len(location, number));
        let mut own = None;
        let decode = || {
            let [mut block, mut other] = lens.map(|len| self.cache.buffer(len as usize));
            self.decode_into(location, number, &records, &mut [&mut block, &mut other])?;
            own = Some(block);
            Ok(other)
        };
        let number_of_all = location.first_block + next as usize;
        let id = self.image.id();
        self.cache
            .prefetch_block(id, number_of_all, lens[1], decode);
        own
    }

    /// Decodes blocks of a span, from `first` on, each into a buffer of its length.
    fn decode_into(
        &self,
        location: &SpanLocation,
        first: u64,
        records: &[BlockRecord],
        outs: &mut [&mut [u8]],
    ) -> Result<()> {
        let run = Run {
            blocks: records,
            first,
            grid: location.grid,
            base: location.base,
        };
        let tables = self.tables(location)?;
        with_scratch(|scratch| self.image.read_run(run, tables.as_deref(), outs, scratch))
    }

    /// What the index says of block `number` of a span.
    fn block_record(&self, location: &SpanLocation, number: u64) -> Result<BlockRecord> {
        let image = &self.image;
        let page = Packed::page_of(location.first_block + number as usize);
        let page = self
            .cache
            .page(image.id(), page, || image.read_page(page))?;
        image.block_record(location, number, &page)
    }

    /// What the index says of the blocks of the span at `offset` that hold `range` of its bytes,
    /// the number of the first of them, and where the span lies in the image.
    pub(super) fn block_records(
        &self,
        offset: u64,
        range: Range<u64>,
    ) -> Result<(SpanLocation, u64, Vec<BlockRecord>)> {
        let Some(((_, location), _)) = self.find(offset).filter(|_| !range.is_empty()) else {
            let error = Error::invalid("no bytes of a tensor have no blocks");
            return Err(error.file(self.image.path()));
        };
        let block_len = location.grid.block_len();
        let numbers = range.start / block_len..range.end.div_ceil(block_len);
        let records = numbers.clone().map(|at| self.block_record(&location, at));
        let records = records.collect::<Result<_>>();
        let records = records.map_err(|e| e.file(self.image.path()))?;
        Ok((location, numbers.start, records))
    }

    /// The tables of a span.
    pub(super) fn tables(&self, location: &SpanLocation) -> Result<Option<Arc<SpanTables>>> {
        let (image, cache) = (&self.image, &self.cache);
        if location.tables_len == 0 {
            return Ok(None);
        }
        let read = || image.read_tables(location.tables_offset, location.tables_len);
        cache.tables(image.id(), location.tables_owner, read)
    }

    /// The image that it is in.
    pub(super) fn image(&self) -> &Arc<BoundImage> {
        &self.image
    }

    /// Where the block that holds `offset` lies in the image.
    fn coded_at(&self, offset: u64) -> Option<Range<u64>> {
        let ((_, location), within) = self.find(offset)?;
        let record = self.block_record(&location, within / location.grid.block_len());
        let record = record.ok()?;
        Some(record.offset..record.offset + u64::from(record.coded_len))
    }

    /// The spans from the one on that holds `offset`, which lies before the end.
    fn spans_from(&self, offset: u64) -> impl Iterator<Item = Numbered> {
        self.image.spans_from(self.start + offset)
    }

    /// The span that holds `offset`, and where that lies in it; none at the end.
    fn find(&self, offset: u64) -> Option<(Numbered, u64)> {
        let span = (offset < self.len()).then(|| self.spans_from(offset).next())??;
        Some((span, self.start + offset - span.1.start))
    }

    /// Where the tensor (or header, or gap) that holds `offset` lies in the file; none at the end.
    pub fn span_at(&self, offset: u64) -> Option<Range<u64>> {
        let ((_, location), within) = self.find(offset)?;
        let start = offset - within;
        Some(start..start + location.grid.len)
    }

    /// Where the block that holds `offset` lies in the file; none at the end.
    pub fn block_at(&self, offset: u64) -> Option<Range<u64>> {
        let ((_, location), within) = self.find(offset)?;
        let range = location
            .grid
            .block_range(within / location.grid.block_len());
        let start = offset - within;
        Some(start + range.start..start + range.end)
    }

    /// Decodes the block that holds `offset` into the cache, unless it is there or being decoded;
    /// with it the next, where two in turns are faster and that begins before `wanted_end`. Nothing
    /// is told of an error: it meets whoever reads there.
    pub fn prefetch(&self, offset: u64, wanted_end: u64) {
        let Some(((_, location), within)) = self.find(offset) else {
            return;
        };
        let number = within / location.grid.block_len();
        let wanted_end = (self.start + wanted_end).saturating_sub(location.start);
        let decode = || self.decode(&location, number, wanted_end);
        let (id, len) = (self.image.id(), block_len(&location, number));
        let number = location.first_block + number as usize;
        self.cache.prefetch_block(id, number, len, decode);
    }

    /// Calls `take` with the parts of blocks that make up `len` bytes from `offset`, in order.
    fn for_each_part(
        &self,
        offset: u64,
        len: u64,
        mut take: impl FnMut(&Arc<Vec<u8>>, Range<usize>),
    ) -> Result<()> {
        let end = offset.checked_add(len).filter(|&end| end <= self.len());
        let end = end.ok_or_else(|| {
            let (len_max, path) = (self.len(), self.image.path());
            Error::invalid(format!(
                "{len} bytes at {offset} are beyond the end at {len_max}"
            ))
            .file(path)
        })?;
        let mut at = self.start + offset;
        let end = self.start + end;
        if at == end {
            return Ok(());
        }
        for span in self.image.spans_from(at) {
            let (_, location) = span;
            while at < location.end().min(end) {
                let within = at - location.start;
                let number = within / location.grid.block_len();
                let range = location.grid.block_range(number);
                let block = self.block(span, number, end - location.start);
                let block = block.map_err(|error| self.located(error, span, number))?;
                let len = (range.end - within).min(end - at);
                let from = (within - range.start) as usize;
                take(&block, from..from + len as usize);
                at += len;
            }
            if at == end {
                break;
            }
        }
        Ok(())
    }

    /// An error with the place where it was met.
    fn located(&self, error: Error, (span, _): Numbered, block: u64) -> Error {
        let label = self.image.label(span);
        error.block(block).tensor(&label).file(self.image.path())
    }

    /// The `len` bytes from `offset` where they were decoded, without a copy; they stay there while
    /// this is held. Bytes beyond the end are an error.
    pub fn pieces(&self, offset: u64, len: u64) -> Result<Vec<Piece>> {
        let (mut pieces, mut small) = (Vec::with_capacity(4), Vec::new());
        let join = |small: &mut Vec<u8>, pieces: &mut Vec<Piece>| {
            let bytes = std::mem::take(small);
            let range = 0..bytes.len();
            if !bytes.is_empty() {
                pieces.push(Piece::new(Arc::new(bytes), range));
            }
        };
        self.for_each_part(offset, len, |block, range| {
            if range.len() < JOINED_BELOW {
                small.extend_from_slice(&block[range]);
                return;
            }
            join(&mut small, &mut pieces);
            pieces.push(Piece::new(Arc::clone(block), range));
        })?;
        join(&mut small, &mut pieces);
        Ok(pieces)
    }
}

/// Original bytes of block `number` of a span.
fn block_len(location: &SpanLocation, number: u64) -> u64 {
    let range = location.grid.block_range(number);
    range.end - range.start
}

/// A part of a decoded block.
#[derive(Debug, Clone)]
pub struct Piece {
    block: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Piece {
    /// These bytes of a block.
    pub(super) fn new(block: Arc<Vec<u8>>, range: Range<usize>) -> Self {
        Self { block, range }
    }
}

impl Deref for Piece {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.block[self.range.clone()]
    }
}

impl ReadAt for VirtualFile {
    fn len(&self) -> u64 {
        self.record().len
    }

    /// That of the image.
    fn identity(&self) -> SourceIdentity {
        self.image.source().identity()
    }

    /// Hands the hint on for the coded bytes.
    fn will_read(&self, ranges: &[Range<u64>]) {
        let coded = ranges.iter().filter_map(|range| {
            let last = range.end.checked_sub(1)?;
            let (first, last) = (self.coded_at(range.start)?, self.coded_at(last)?);
            // bytes that repeat others lie elsewhere
            let is_run = last.end.saturating_sub(first.start) <= range.end - range.start;
            is_run.then_some(first.start..last.end)
        });
        let coded: Vec<Range<u64>> = coded.collect();
        self.image.source().will_read(&coded);
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let (len, mut at) = (out.len() as u64, 0);
        self.for_each_part(offset, len, |block, range| {
            let next = at + range.len();
            out[at..next].copy_from_slice(&block[range]);
            at = next;
        })
    }
}

/// Lends buffers of this thread, which stay warm from block to block. More than one are lent where
/// a block is a difference from a base that is decoded, too.
fn with_scratch<T>(work: impl FnOnce(&mut ReadScratch) -> T) -> T {
    thread_local! {
        static SCRATCHES: RefCell<Vec<ReadScratch>> = const { RefCell::new(Vec::new()) };
    }
    let lent = SCRATCHES.with_borrow_mut(Vec::pop);
    let mut scratch = lent.unwrap_or_default();
    let result = work(&mut scratch);
    SCRATCHES.with_borrow_mut(|scratches| scratches.push(scratch));
    result
}
