//! An original file, as if it had never been compressed: reads of any range, decoded on demand.

use std::ops::Deref;
use std::ops::Range;
use std::sync::Arc;

use crate::archive::cache::BlockCache;
use crate::archive::cache::Demand;
use crate::archive::cache::ImageId;
use crate::archive::image::Archive;
use crate::archive::image::ReadScratch;
use crate::base::Error;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::file::Identity;
use crate::format::FileRecord;
use crate::format::SpanRecord;
use crate::tensor::Layout;

/// One original file of an image. It is exact by construction: every byte comes from a checked block.
#[derive(Debug, Clone)]
pub struct VirtualFile {
    archive: Arc<Archive>,
    cache: Arc<BlockCache>,
    number: usize,
}

impl VirtualFile {
    /// File `number` of the image. The cache may be shared with other files.
    pub fn new(archive: Arc<Archive>, number: usize, cache: Arc<BlockCache>) -> Result<Self> {
        if number >= archive.files().len() {
            return Err(
                Error::invalid(format!("the image has no file {number}")).file(archive.path())
            );
        }
        Ok(Self {
            archive,
            cache,
            number,
        })
    }

    /// What the index says of the file.
    pub fn record(&self) -> &FileRecord {
        &self.archive.files()[self.number]
    }

    /// The image.
    pub fn archive(&self) -> &Arc<Archive> {
        &self.archive
    }

    /// Its layout as its own bytes say it; an error if the index says otherwise.
    pub fn layout(&self) -> Result<Layout> {
        let record = self.record();
        let layout = if record.is_safetensors {
            Layout::of_safetensors(self).map_err(|e| e.file(self.archive.path()))?
        } else {
            Layout::of_bytes(self.len())
        };
        let spans = self.archive.spans(record).iter().map(|record| &record.span);
        if !layout.spans.iter().eq(spans) {
            let error = Error::damaged("its index lists other tensors than its header");
            return Err(error.file(self.archive.path()));
        }
        Ok(layout)
    }

    fn block(&self, span_number: usize, number: u64, demand: Demand) -> Result<Arc<Vec<u8>>> {
        let archive = &self.archive;
        let span = &archive.index().spans[span_number];
        let range = span.block_range(number);
        let len = range.end - range.start;
        let number_of_all = span.blocks.start + number as usize;
        self.cache
            .block(archive.id(), number_of_all, len, demand, || {
                let owner = archive.index().tables_owner(span_number);
                let tables = self
                    .cache
                    .tables(archive.id(), owner, || archive.read_tables(span))?;
                let mut block = self.cache.buffer(len as usize);
                with_scratch(|scratch| {
                    archive.decode_block(span, number, tables.as_deref(), &mut block, scratch)
                })?;
                Ok(block)
            })
    }

    /// The number within the image of the span that holds `offset`, which lies before the end.
    fn span_number_at(&self, offset: u64) -> usize {
        let record = self.record();
        let spans = self.archive.spans(record);
        record.spans.start + spans.partition_point(|s| s.span.start + s.span.len <= offset)
    }

    /// Where the tensor (or header, or gap) that holds `offset` lies in the file; none at the end.
    pub fn span_at(&self, offset: u64) -> Option<Range<u64>> {
        let span = (offset < self.len()).then(|| self.span_number_at(offset))?;
        let span = &self.archive.index().spans[span].span;
        Some(span.start..span.start + span.len)
    }

    /// Where the block that holds `offset` lies in the file; none at the end.
    pub fn block_at(&self, offset: u64) -> Option<Range<u64>> {
        let span = (offset < self.len()).then(|| self.span_number_at(offset))?;
        let span: &SpanRecord = &self.archive.index().spans[span];
        let range = span.block_range((offset - span.span.start) / span.block_len());
        Some(span.span.start + range.start..span.span.start + range.end)
    }

    /// Decodes the block that holds `offset` into the cache, unless it is there or being decoded. Nothing is told of an error: it
    /// meets whoever reads there.
    pub fn warm(&self, offset: u64) {
        if offset < self.len() {
            let span_number = self.span_number_at(offset);
            let span: &SpanRecord = &self.archive.index().spans[span_number];
            let number = (offset - span.span.start) / span.block_len();
            let _ = self.block(span_number, number, Demand::Ahead);
        }
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
            let (len_max, path) = (self.len(), self.archive.path());
            Error::invalid(format!(
                "{len} bytes at {offset} are beyond the end at {len_max}"
            ))
            .file(path)
        })?;
        let mut offset = offset;
        while offset < end {
            let span_number = self.span_number_at(offset);
            let span: &SpanRecord = &self.archive.index().spans[span_number];
            let within = offset - span.span.start;
            let number = within / span.block_len();
            let range = span.block_range(number);
            let block = self.block(span_number, number, Demand::Now)?;
            let len = (range.end - within).min(end - offset);
            let at = (within - range.start) as usize;
            take(&block, at..at + len as usize);
            offset += len;
        }
        Ok(())
    }

    /// The `len` bytes from `offset` where they were decoded, without a copy; they stay there while this is held. Bytes beyond
    /// the end are an error.
    pub fn pieces(&self, offset: u64, len: u64) -> Result<Vec<Piece>> {
        let mut pieces = Vec::with_capacity(4);
        self.for_each_part(offset, len, |block, range| {
            let block = Arc::clone(block);
            pieces.push(Piece::new(block, range));
        })?;
        Ok(pieces)
    }
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
    fn identity(&self) -> Option<Identity> {
        match self.archive.id() {
            ImageId::File(identity) => Some(identity),
            ImageId::Other(_) => None,
        }
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

/// Lends buffers of this thread, which stay warm from block to block. More than one are lent where a block is a difference from a
/// base that is decoded, too.
fn with_scratch<T>(work: impl FnOnce(&mut ReadScratch) -> T) -> T {
    thread_local! {
        static SCRATCHES: std::cell::RefCell<Vec<ReadScratch>> = const { std::cell::RefCell::new(Vec::new()) };
    }
    let lent = SCRATCHES.with_borrow_mut(Vec::pop);
    let mut scratch = lent.unwrap_or_default();
    let result = work(&mut scratch);
    SCRATCHES.with_borrow_mut(|scratches| scratches.push(scratch));
    result
}
