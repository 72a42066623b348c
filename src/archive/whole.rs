//! An image with its whole index, for whoever goes through all of it.

use std::ops::Deref;
use std::path::Path;
use std::sync::Arc;

use crate::archive::bases::Bases;
use crate::archive::decode::ReadScratch;
use crate::archive::decode::Within;
use crate::archive::image::Image;
use crate::archive::virtual_file::VirtualFile;
use crate::base::Error;
use crate::base::FileSource;
use crate::base::ReadAt;
use crate::base::Result;
use crate::codec;
use crate::codec::SpanTables;
use crate::format::BlockRecord;
use crate::format::FileRecord;
use crate::format::Index;
use crate::format::SpanRecord;
use crate::tensor::Layout;

/// An open image, and all that its index says: names, shapes and digests, too.
#[derive(Debug)]
pub struct Archive {
    image: Arc<Image>,
    index: Index,
}

impl Deref for Archive {
    type Target = Image;

    fn deref(&self) -> &Image {
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
            image: Arc::new(image),
        })
    }

    /// The same, with its bases among those tensors. Each is looked for when it is first needed.
    #[must_use]
    pub fn with_bases(self, bases: Arc<Bases>) -> Self {
        let image = Arc::unwrap_or_clone(self.image).with_bases(bases);
        Self {
            image: Arc::new(image),
            index: self.index,
        }
    }

    /// What is needed to read its files.
    pub fn image(&self) -> &Arc<Image> {
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

    /// The layout of one of its files as its own bytes say it; an error if the index says
    /// otherwise.
    pub fn layout(&self, file: &VirtualFile) -> Result<Layout> {
        let record = file.record();
        let layout = if record.is_safetensors {
            Layout::of_safetensors(file).map_err(|e| e.file(self.path()))?
        } else {
            Layout::of_bytes(record.len)
        };
        let spans = self.spans(record).iter().map(|record| &record.span);
        if !layout.spans.iter().eq(spans) {
            let error = Error::damaged("its index lists other tensors than its header");
            return Err(error.file(self.path()));
        }
        Ok(layout)
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
        let block = &self.index.blocks[span.blocks.start + number as usize];
        self.image
            .decode(block, self.within(span, number), tables, out, scratch)
            .map_err(|e| e.block(number).tensor(span.span.label()).file(self.path()))
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
            let len = |number| {
                let range = span.block_range(number);
                (range.end - range.start) as usize
            };
            let at = span.blocks.start + number as usize;
            let is_paired =
                |block: &BlockRecord| codec::is_paired(block.codec, block.codec_version);
            let blocks = &self.index.blocks[at..span.blocks.end];
            let (out, after) = std::mem::take(&mut rest).split_at_mut(len(number));
            rest = after;
            if let [a, b, ..] = blocks
                && !rest.is_empty()
                && is_paired(a)
                && is_paired(b)
                && a.codec == b.codec
            {
                let (second, after) = std::mem::take(&mut rest).split_at_mut(len(number + 1));
                rest = after;
                let results = self.image.decode_two(
                    [a, b],
                    self.within(span, number),
                    tables,
                    [out, second],
                    scratch,
                );
                for (number, result) in (number..).zip(results) {
                    result
                        .map_err(|e| e.block(number).tensor(span.span.label()).file(self.path()))?;
                }
                number += 2;
                continue;
            }
            self.decode_block(span, number, tables, out, scratch)?;
            number += 1;
        }
        Ok(())
    }

    fn within(&self, span: &SpanRecord, number: u64) -> Within {
        // what repeats another has that one's blocks, and so its base
        let stored = span.repeats.map_or(span, |of| &self.index.spans[of]);
        Within {
            lanes: span.grid().lanes(),
            base: stored.base,
            start: span.block_range(number).start,
        }
    }
}
