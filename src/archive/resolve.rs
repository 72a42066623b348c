//! An image whose bases can be had, and the decoding of its blocks. Who finds the bases is known
//! only as a trait: a search among models, a table of what was found, or nobody.

use std::ops::Deref;
use std::ops::Range;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;

use crate::archive::decode;
use crate::archive::decode::CodedRun;
use crate::archive::image::Image;
use crate::archive::image::Need;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::error;
use crate::base::parallel;
use crate::codec::Scratch;
use crate::codec::SpanTables;
use crate::format::BlockRecord;
use crate::format::Grid;

/// Whether a base is at hand, as far as is known without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Availability {
    /// Nothing has its name and length and is not known to be another.
    Missing,
    /// Something has its name and length, and was not compared.
    Unchecked,
    /// It is at hand.
    Present,
}

/// Finds the tensors that others are stored as differences from.
pub trait BaseResolver: std::fmt::Debug + Send + Sync {
    /// The bytes of a base, whose digest was compared; an error of kind
    /// [`ErrorKind::MissingBase`] that says where it was looked for, if none is it.
    fn resolve(&self, need: &Need) -> Result<Arc<dyn ReadAt>>;

    /// What can be said of a base without reading tensors.
    fn availability(&self, need: &Need) -> Availability;

    /// Where it is looked for, for messages.
    fn search_paths(&self) -> &[PathBuf];
}

/// Buffers that a thread keeps from block to block.
#[derive(Debug, Default)]
pub struct ReadScratch {
    coded: Vec<u8>,
    base: Vec<u8>,
    codec: Scratch,
}

/// An image, and who finds its bases. Each is asked for when it is first needed, and kept.
#[derive(Debug)]
pub struct BoundImage {
    image: Image,
    resolver: Option<Arc<dyn BaseResolver>>,
    /// By their number.
    found: Box<[OnceLock<Arc<dyn ReadAt>>]>,
}

impl Deref for BoundImage {
    type Target = Image;

    fn deref(&self) -> &Image {
        &self.image
    }
}

/// Some blocks of one span.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run<'a> {
    /// What the index says of each.
    pub(super) blocks: &'a [BlockRecord],
    /// Number of the first of them in its span.
    pub(super) first: u64,
    /// How the span is cut into blocks.
    pub(super) grid: Grid,
    /// Number of the base of the span.
    pub(super) base: Option<usize>,
}

impl BoundImage {
    /// An image with whoever finds its bases; with nobody, those of a delta are missing.
    pub fn new(image: Image, resolver: Option<Arc<dyn BaseResolver>>) -> Self {
        let found = (0..image.base_count()).map(|_| OnceLock::new());
        Self {
            found: found.collect(),
            image,
            resolver,
        }
    }

    /// Opens an image from any byte source, with nobody who finds bases; `path` is for messages.
    pub fn from_source(source: Arc<dyn ReadAt>, path: &Path) -> Result<Self> {
        Ok(Self::new(Image::from_source(source, path)?, None))
    }

    /// The same image with somebody else who finds its bases.
    #[must_use]
    pub fn rebound(&self, resolver: Arc<dyn BaseResolver>) -> Self {
        Self::new(self.image.clone(), Some(resolver))
    }

    /// Has all its bases found; the error of the first that is not there.
    pub fn find_bases(&self, threads: usize, progress: &dyn Progress) -> Result<()> {
        let needs: Vec<&Need> = self.needs().collect();
        // the first shows in which files to look for the others
        let (first, others) = needs.split_at(needs.len().min(1));
        for needs in [first, others] {
            let find = |(): &mut (), number: usize| {
                progress.check()?;
                let found = self.find(needs[number]);
                found.map(|_| ()).map_err(|e| e.file(self.path()))
            };
            parallel::ordered(threads, needs.len(), || (), find, |_, ()| Ok(()))?;
        }
        Ok(())
    }

    /// An error if one of its bases cannot be at hand, as far as names, lengths and what is known
    /// of digests tell. The content of the shortest is compared: where that is right, so are mostly
    /// the others, and each is compared before it is used.
    pub fn expect_bases(&self) -> Result<()> {
        for need in self.needs() {
            let resolver = self.resolver.as_ref();
            let availability = resolver.map(|resolver| resolver.availability(need));
            if availability.is_none_or(|found| found == Availability::Missing) {
                return Err(self.no_base(&need.record.name).tensor(&need.tensor));
            }
        }
        let shortest = self.needs().min_by_key(|need| need.len);
        let found = shortest.map(|need| self.find(need));
        found
            .transpose()
            .map(|_| ())
            .map_err(|e| e.file(self.path()))
    }

    fn find<'a>(&'a self, need: &Need) -> Result<&'a dyn ReadAt> {
        let found = &self.found[need.number];
        if let Some(bytes) = found.get() {
            return Ok(&**bytes);
        }
        let resolver = self.resolver.as_ref();
        let resolver = resolver.ok_or_else(|| self.no_base(&need.record.name))?;
        let bytes = resolver.resolve(need).map_err(|e| match e.kind() {
            ErrorKind::MissingBase => e.hint(self.base_hint()),
            _ => e,
        })?;
        Ok(&**found.get_or_init(|| bytes))
    }

    fn no_base(&self, name: &str) -> Error {
        let paths = self.resolver.as_ref().map(|found| found.search_paths());
        let paths = paths.unwrap_or_default().iter();
        let paths: Vec<String> = paths.map(|p| format!("`{}`", p.display())).collect();
        let what = if paths.is_empty() {
            format!("its base tensor `{name}` is in another model, which is not named")
        } else {
            format!("its base tensor `{name}` is not in {}", paths.join(", "))
        };
        Error::new(ErrorKind::MissingBase, what)
            .hint(self.base_hint())
            .file(self.path())
    }

    fn base_hint(&self) -> String {
        let hint = "it needs the model that it was made from";
        match self.base_path() {
            "" => hint.to_owned(),
            path => format!("{hint}: it was `{}` then", error::escaped(path)),
        }
    }

    /// Reads a run's coded bytes in one read and decodes each block into a buffer of its length. On
    /// an error these hold rubbish and must not be used.
    pub(super) fn read_run(
        &self,
        run: Run<'_>,
        tables: Option<&SpanTables>,
        outs: &mut [&mut [u8]],
        scratch: &mut ReadScratch,
    ) -> Result<()> {
        let located = |e: Error| e.block(run.first);
        if let ([only], [out]) = (run.blocks, &mut *outs)
            && decode::is_raw(only, out.len())
        {
            // without a copy of them
            let read = self.source().read_exact_at(only.offset, out);
            return read
                .and_then(|()| decode::check(only, out))
                .map_err(located);
        }
        let mut buffer = std::mem::take(&mut scratch.coded);
        let decoded = self.coded(run.blocks, &mut buffer).map_err(located);
        let decoded = decoded.and_then(|bytes| {
            let coded = CodedRun {
                blocks: run.blocks,
                first: run.first,
                grid: run.grid,
                bytes,
            };
            self.decode(&coded, (tables, run.base), outs, scratch)
        });
        scratch.coded = buffer;
        decoded
    }

    /// Decodes a run, each block into a buffer of its length, with the tables and the base of its
    /// span.
    pub(super) fn decode(
        &self,
        coded: &CodedRun<'_>,
        (tables, base_number): (Option<&SpanTables>, Option<usize>),
        outs: &mut [&mut [u8]],
        scratch: &mut ReadScratch,
    ) -> Result<()> {
        let ReadScratch { base, codec, .. } = scratch;
        base.clear();
        if decode::needs_base(coded.blocks) {
            base.resize(coded.original_len(), 0);
            let start = coded.grid.block_range(coded.first).start;
            self.read_base(base_number, start, base)
                .map_err(|e| e.block(coded.first))?;
        }
        decode::decode_blocks(coded, tables, base, outs, codec)
    }

    fn read_base(&self, number: Option<usize>, start: u64, base: &mut [u8]) -> Result<()> {
        let number = number
            .ok_or_else(|| Error::damaged("a block of differences in a tensor without a base"))?;
        self.find(self.need(number))?
            .read_exact_at(start, base)
            .map_err(|e| e.hint("this was read from the base"))
    }
}

/// The coded bytes of some blocks of a span, read.
#[derive(Debug)]
pub(super) struct CodedBytes {
    blocks: Vec<BlockRecord>,
    first: u64,
    grid: Grid,
    bytes: Vec<u8>,
}

impl CodedBytes {
    /// Reads those of these blocks, the first of which has that number in its span, into `bytes`.
    pub(super) fn read(
        image: &Image,
        grid: Grid,
        (first, blocks): (u64, Vec<BlockRecord>),
        mut bytes: Vec<u8>,
    ) -> Result<Self> {
        let range = Image::coded_range(&blocks);
        bytes.resize((range.end - range.start) as usize, 0);
        image.source().read_exact_at(range.start, &mut bytes)?;
        Ok(Self {
            blocks,
            first,
            grid,
            bytes,
        })
    }

    /// Which bytes of the span they are.
    pub(super) fn range(&self) -> Range<u64> {
        let last = self.first + self.blocks.len() as u64 - 1;
        self.grid.block_range(self.first).start..self.grid.block_range(last).end
    }

    pub(super) fn run(&self) -> CodedRun<'_> {
        CodedRun {
            blocks: &self.blocks,
            first: self.first,
            grid: self.grid,
            bytes: &self.bytes,
        }
    }

    pub(super) fn into_buffer(self) -> Vec<u8> {
        self.bytes
    }
}
