//! An original file, as if it had never been compressed: reads of any range, decoded on demand.

use std::sync::Arc;

use crate::archive::cache::BlockCache;
use crate::archive::cache::ImageId;
use crate::archive::image::Archive;
use crate::archive::image::ReadScratch;
use crate::base::Error;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::file::Identity;
use crate::format::FileRecord;
use crate::format::SpanRecord;

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

    fn block(&self, span_number: usize, number: u64) -> Result<Arc<Vec<u8>>> {
        let archive = &self.archive;
        let span = &archive.index().spans[span_number];
        self.cache
            .block(archive.id(), span.blocks.start + number as usize, || {
                let owner = archive.index().tables_owner(span_number);
                let tables = self
                    .cache
                    .tables(archive.id(), owner, || archive.read_tables(span))?;
                let range = span.block_range(number);
                let mut block = self.cache.buffer((range.end - range.start) as usize);
                with_scratch(|scratch| {
                    archive.decode_block(span, number, tables.as_deref(), &mut block, scratch)
                })?;
                Ok(block)
            })
    }

    fn read_span(&self, span_number: usize, offset: u64, out: &mut [u8]) -> Result<()> {
        let span: &SpanRecord = &self.archive.index().spans[span_number];
        let (mut offset, mut out) = (offset, out);
        while !out.is_empty() {
            let number = offset / span.block_len();
            let range = span.block_range(number);
            let len = out.len().min((range.end - offset) as usize);
            let (head, rest) = out.split_at_mut(len);
            let block = self.block(span_number, number)?;
            let at = (offset - range.start) as usize;
            head.copy_from_slice(&block[at..at + len]);
            (offset, out) = (range.end, rest);
        }
        Ok(())
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
        let record = self.record();
        let fits = offset
            .checked_add(out.len() as u64)
            .is_some_and(|end| end <= record.len);
        if !fits {
            return Err(Error::invalid(format!(
                "{} bytes at {offset} are beyond the end at {}",
                out.len(),
                record.len
            ))
            .file(self.archive.path()));
        }
        let spans = self.archive.spans(record);
        let mut next = spans.partition_point(|s| s.span.start + s.span.len <= offset);
        let (mut offset, mut out) = (offset, out);
        while !out.is_empty() {
            let span = &spans[next].span;
            let len = out.len().min((span.start + span.len - offset) as usize);
            let (head, rest) = out.split_at_mut(len);
            self.read_span(record.spans.start + next, offset - span.start, head)?;
            (offset, out) = (offset + len as u64, rest);
            next += 1;
        }
        Ok(())
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
