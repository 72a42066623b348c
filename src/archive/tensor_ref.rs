//! A tensor of a model, read by ranges of bytes, by rows, or as the coded bytes that it is made of.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::archive::model_file::OriginalFile;
use crate::archive::resolve::BoundImage;
use crate::archive::resolve::CodedBytes;
use crate::archive::resolve::ReadScratch;
use crate::archive::virtual_file::VirtualFile;
use crate::base::Error;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::read_at::Slice;
use crate::codec::SpanTables;
use crate::tensor::Span;

/// The bytes of an original file, and where they come from.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) bytes: Arc<dyn ReadAt>,
    /// Where they come out of an image.
    pub(super) in_image: Option<VirtualFile>,
}

impl Source {
    pub(super) fn of(original: &OriginalFile) -> Self {
        Self {
            bytes: Arc::clone(&original.bytes),
            in_image: original.in_image.clone(),
        }
    }
}

/// A tensor of an open model.
#[derive(Debug, Clone, Copy)]
pub struct TensorRef<'m> {
    span: &'m Span,
    source: &'m Source,
    /// Where it is, for messages.
    path: &'m Path,
}

impl<'m> TensorRef<'m> {
    pub(super) fn new(span: &'m Span, source: &'m Source, path: &'m Path) -> Self {
        Self { span, source, path }
    }

    /// Name, dtype, shape and bytes.
    pub fn info(&self) -> &'m Span {
        self.span
    }

    /// The file that it is in.
    pub fn path(&self) -> &'m Path {
        self.path
    }

    /// All its bytes, as if they were a file.
    pub fn bytes(&self) -> Arc<dyn ReadAt> {
        let whole = Arc::clone(&self.source.bytes);
        Arc::new(Slice::new(whole, self.span.start, self.span.len))
    }

    /// Reads `range` of its bytes into `out`, which has that length.
    pub fn read(&self, range: Range<u64>, out: &mut [u8]) -> Result<()> {
        self.check(&range)?;
        if out.len() as u64 != range.end - range.start {
            let what = format!(
                "{} bytes to be read into {}",
                range.end - range.start,
                out.len()
            );
            return Err(self.located(Error::invalid(what)));
        }
        let read = self
            .source
            .bytes
            .read_exact_at(self.span.start + range.start, out);
        read.map_err(|e| self.located(e))
    }

    /// Rows: what the first dimension counts. A scalar is one row.
    pub fn row_count(&self) -> u64 {
        self.span.shape.first().copied().unwrap_or(1)
    }

    /// Bytes of a row; an error where rows do not begin at whole bytes.
    pub fn row_len(&self) -> Result<u64> {
        let rows = self.row_count();
        if rows == 0 {
            return Ok(0);
        }
        if !self.span.len.is_multiple_of(rows) {
            let what = format!(
                "{rows} rows of {} bytes do not begin at whole bytes",
                self.span.len
            );
            return Err(self.located(Error::invalid(what)));
        }
        Ok(self.span.len / rows)
    }

    /// Reads some of its rows into `out`, which has the length of so many.
    pub fn rows(&self, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let row_len = self.row_len()?;
        if rows.start > rows.end || rows.end > self.row_count() {
            let what = format!("rows {rows:?} of {}", self.row_count());
            return Err(self.located(Error::invalid(what)));
        }
        self.read(rows.start * row_len..rows.end * row_len, out)
    }

    /// `range` of its bytes will be read soon: a hint, which costs nothing where nobody listens.
    pub fn will_read(&self, range: Range<u64>) {
        let start = self.span.start;
        let range = start + range.start.min(self.span.len)..start + range.end.min(self.span.len);
        self.source.bytes.will_read(&[range]);
    }

    /// Bytes of a block, where it is in an image: what [`TensorRef::coded`] reads whole numbers of.
    pub fn block_len(&self) -> Option<u64> {
        let file = self.source.in_image.as_ref()?;
        let (place, ..) = file
            .block_records(self.span.start, 0..1.min(self.span.len))
            .ok()?;
        Some(place.grid.block_len())
    }

    /// Bytes that are stored for `range` of its bytes: coded, if it is in an image, of whole
    /// blocks.
    pub fn stored_len(&self, range: Range<u64>) -> Result<u64> {
        self.check(&range)?;
        let Some(file) = self.source.in_image.as_ref().filter(|_| !range.is_empty()) else {
            return Ok(range.end - range.start);
        };
        let records = file.block_records(self.span.start, range);
        let (.., records) = records.map_err(|e| self.located(e))?;
        Ok(records.iter().map(|block| u64::from(block.coded_len)).sum())
    }

    /// The coded bytes of all blocks that hold `range` of its bytes, in one read into `buffer`;
    /// none if it is in no image, or has no bytes there.
    pub fn coded(&self, range: Range<u64>, buffer: Vec<u8>) -> Result<Option<CodedTensor>> {
        self.check(&range)?;
        let Some(file) = self.source.in_image.as_ref().filter(|_| !range.is_empty()) else {
            return Ok(None);
        };
        let coded = || {
            let (location, first, blocks) = file.block_records(self.span.start, range)?;
            let image = Arc::clone(file.image());
            let bytes = CodedBytes::read(&image, location.grid, (first, blocks), buffer)?;
            Ok(CodedTensor {
                name: self.span.name.clone(),
                tables: file.tables(&location)?,
                base: location.base,
                image,
                bytes,
            })
        };
        coded().map(Some).map_err(|e: Error| self.located(e))
    }

    fn check(&self, range: &Range<u64>) -> Result<()> {
        if range.start <= range.end && range.end <= self.span.len {
            return Ok(());
        }
        let what = format!("bytes {range:?} of {}", self.span.len);
        Err(self.located(Error::invalid(what)))
    }

    fn located(&self, error: Error) -> Error {
        error.tensor(self.span.label()).file(self.path)
    }
}

/// Coded bytes of some blocks of a tensor, and what decodes them. They can be handed to another
/// thread.
#[derive(Debug)]
pub struct CodedTensor {
    name: String,
    image: Arc<BoundImage>,
    tables: Option<Arc<SpanTables>>,
    /// Number of its base.
    base: Option<usize>,
    bytes: CodedBytes,
}

impl CodedTensor {
    /// Which of the tensor's bytes they are: those of whole blocks.
    pub fn range(&self) -> Range<u64> {
        self.bytes.range()
    }

    /// How many these are.
    pub fn original_len(&self) -> usize {
        self.bytes.run().original_len()
    }

    /// How many coded bytes were read.
    pub fn coded_len(&self) -> usize {
        self.bytes.run().bytes.len()
    }

    /// The blocks and their coded bytes.
    pub fn run(&self) -> crate::archive::CodedRun<'_> {
        self.bytes.run()
    }

    /// The tables of the tensor, if its blocks need some.
    pub fn tables(&self) -> Option<&SpanTables> {
        self.tables.as_deref()
    }

    /// Decodes them into `out`, which has the length of [`CodedTensor::range`]; every block is
    /// checked. On an error `out` holds rubbish and must not be used.
    pub fn decode(&self, out: &mut [u8], scratch: &mut ReadScratch) -> Result<()> {
        let run = self.bytes.run();
        assert_eq!(out.len(), run.original_len(), "the buffer has its length");
        let with = (self.tables.as_deref(), self.base);
        let decoded = self.image.decode(&run, with, &mut run.split(out), scratch);
        decoded.map_err(|e| e.tensor(&self.name).file(self.image.path()))
    }

    /// The buffer, for what is read next.
    pub fn into_buffer(self) -> Vec<u8> {
        self.bytes.into_buffer()
    }
}
