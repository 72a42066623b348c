//! An image with its whole index, for whoever goes through all of it.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use crate::archive::decode;
use crate::archive::image::Image;
use crate::archive::resolve::BaseResolver;
use crate::archive::resolve::BoundImage;
use crate::archive::resolve::ReadScratch;
use crate::archive::resolve::Run;
use crate::base::FileSource;
use crate::base::ReadAt;
use crate::base::Result;
use crate::codec::SpanTables;
use crate::format::FileRecord;
use crate::format::Index;
use crate::format::SpanRecord;
use crate::tensor::Layout;

/// An open image, and all that its index says: names, shapes and digests, too.
#[derive(Debug)]
pub struct Archive {
    image: Arc<BoundImage>,
    index: Index,
}

impl Deref for Archive {
    type Target = BoundImage;

    fn deref(&self) -> &BoundImage {
        &self.image
    }
}

impl Archive {
    /// Opens the image at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        Self::from_source(Arc::new(FileSource::open(path)?), path)
    }

    /// Opens an image from any byte source; `path` is for messages.
    pub fn from_source(source: Arc<dyn ReadAt>, path: &Path) -> Result<Self> {
        let image = Image::from_source(source, path)?;
        let range = image.index_range();
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = image.source().read_exact_at(range.start, &mut bytes);
        let index = read.and_then(|()| Index::parse(&bytes, image.header()));
        Ok(Self {
            index: index.map_err(|e| e.file(path))?,
            image: Arc::new(BoundImage::new(image, None)),
        })
    }

    /// The same, whose bases are found so. Each is looked for when it is first needed.
    #[must_use]
    pub fn with_bases(self, resolver: Arc<dyn BaseResolver>) -> Self {
        Self {
            image: Arc::new(self.image.rebound(resolver)),
            index: self.index,
        }
    }

    /// What is needed to read its files.
    pub fn image(&self) -> &Arc<BoundImage> {
        &self.image
    }

    /// The index.
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The spans of an original file.
    pub fn spans(&self, file: &FileRecord) -> &[SpanRecord] {
        &self.index.spans[file.spans.clone()]
    }

    /// The layout of one of its files as the index says it.
    pub fn layout_of(&self, file: &FileRecord) -> Layout {
        let spans = self.spans(file).iter().map(|record| record.span.clone());
        Layout {
            spans: spans.collect(),
            len: file.len,
            is_safetensors: file.is_safetensors,
        }
    }

    /// Reads and parses the tables of a span; `None` if it has none.
    pub fn read_tables(&self, span: &SpanRecord) -> Result<Option<SpanTables>> {
        self.image
            .read_tables(span.tables_offset, span.tables_len)
            .map_err(|e| e.tensor(span.span.label()).file(self.path()))
    }

    /// Decodes block `number` of `span` into `out`, which has its length, and checks it. On an
    /// error `out` holds rubbish and must not be used.
    pub fn decode_block(
        &self,
        span: &SpanRecord,
        number: u64,
        tables: Option<&SpanTables>,
        out: &mut [u8],
        scratch: &mut ReadScratch,
    ) -> Result<()> {
        let range = span.block_range(number);
        assert_eq!(
            out.len() as u64,
            range.end - range.start,
            "the buffer has the block's length"
        );
        self.decode_blocks(span, number, tables, out, scratch)
    }

    /// Decodes as many blocks of `span` from `first` on as `out` holds, one after another, as
    /// [`Archive::decode_block`] does one; two at once where that is faster. The first that is
    /// damaged ends it.
    pub fn decode_blocks(
        &self,
        span: &SpanRecord,
        first: u64,
        tables: Option<&SpanTables>,
        out: &mut [u8],
        scratch: &mut ReadScratch,
    ) -> Result<()> {
        let (mut number, mut rest) = (first, out);
        while !rest.is_empty() {
            let blocks = &self.index.blocks[span.blocks.start + number as usize..span.blocks.end];
            let count = match blocks {
                [a, b, ..] if decode::is_pair(a, b) => 2,
                _ => 1,
            };
            let len = |number| {
                let range = span.block_range(number);
                (range.end - range.start) as usize
            };
            // of a pair the second may be no longer wanted
            let wanted = rest.len();
            let count = if len(number) == wanted { 1 } else { count };
            let (a, after) = std::mem::take(&mut rest).split_at_mut(len(number));
            let second_len = if count == 2 { len(number + 1) } else { 0 };
            let (b, after) = after.split_at_mut(second_len);
            rest = after;
            let run = Run {
                blocks: &blocks[..count as usize],
                first: number,
                grid: span.grid(),
                base: self.stored(span).base,
            };
            let outs = &mut [a, b][..count as usize];
            self.image
                .read_run(run, tables, outs, scratch)
                .map_err(|e| e.tensor(span.span.label()).file(self.path()))?;
            number += count;
        }
        Ok(())
    }

    /// The number of the base of a span of an original file, if it is stored as differences.
    pub(super) fn base_of(&self, file: usize, span: usize) -> Option<u32> {
        let spans = self.spans(&self.files()[file]);
        self.stored(&spans[span]).base.map(|base| base as u32)
    }

    /// The span whose blocks these are: what repeats another has that one's, and so its base.
    fn stored<'a>(&'a self, span: &'a SpanRecord) -> &'a SpanRecord {
        span.repeats.map_or(span, |of| &self.index.spans[of])
    }
}
