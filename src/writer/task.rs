//! A span that is to be coded, and the job that it is part of.

use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::parallel;
use crate::codec::Profile;
use crate::codec::encode::EncodeScratch;
use crate::format::Grid;
use crate::format::Index;
use crate::tensor::Span;
use crate::writer::journal::Resumed;
use crate::writer::source::Base;
use crate::writer::source::Source;

/// About how many original bytes one piece of work has.
pub(super) const PIECE_LEN: u64 = 512 << 10;

/// A span to be coded, and where its bytes come from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Task<'a> {
    /// Number of the span in the index.
    pub(super) number: usize,
    pub(super) span: &'a Span,
    pub(super) grid: Grid,
    pub(super) bytes: &'a dyn ReadAt,
    /// The bytes of its base.
    pub(super) base: Option<&'a dyn ReadAt>,
}

impl<'a> Task<'a> {
    /// The spans of all sources that repeat no other.
    pub(super) fn of_sources(
        sources: &'a [Source],
        bases: &[Option<&'a Base>],
        index: &Index,
    ) -> Vec<Self> {
        let with_bytes = |source: &'a Source| {
            let spans = source.layout.spans.iter();
            spans.map(|span| (span, &*source.bytes))
        };
        let spans = sources.iter().flat_map(with_bytes);
        let records = index.spans.iter().enumerate().zip(spans);
        records
            .filter(|((_, record), _)| record.repeats.is_none())
            .map(|((number, record), (span, bytes))| Self {
                number,
                span,
                grid: record.grid(),
                bytes,
                base: bases[number].map(|base| &*base.bytes),
            })
            .collect()
    }

    /// Original bytes.
    pub(super) fn len(&self) -> u64 {
        self.span.len
    }

    /// Blocks.
    pub(super) fn block_count(&self) -> usize {
        self.grid.block_count() as usize
    }

    /// Its bytes from `start` to `end`.
    pub(super) fn read(&self, start: u64, end: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; (end - start) as usize];
        self.bytes
            .read_exact_at(self.span.start + start, &mut bytes)
            .map_err(|e| e.tensor(self.span.label()))?;
        Ok(bytes)
    }

    /// All of its bytes.
    pub(super) fn whole(&self) -> Result<Vec<u8>> {
        self.read(0, self.len())
    }

    /// Original bytes of a piece of work: whole blocks.
    pub(super) fn piece_len(&self) -> u64 {
        PIECE_LEN.max(self.grid.block_len())
    }

    /// One of the pieces of so many bytes each.
    pub(super) fn piece(&self, len: u64, number: usize) -> Result<Vec<u8>> {
        let start = number as u64 * len;
        self.read(start, self.len().min(start + len))
    }

    /// At most `count` pieces, spread over all of the span. Their length is a multiple of every
    /// element width and of a strip of elements.
    pub(super) fn sample(&self, count: u64, len: u64) -> Result<Vec<Vec<u8>>> {
        let pieces = (self.len() / len).clamp(1, count);
        (0..pieces)
            .map(|number| {
                let start = (self.len() / len) * number / pieces * len;
                self.read(start, self.len().min(start + len))
            })
            .collect()
    }
}

/// How spans are coded, and what is coded already.
pub(super) struct ImageJob<'a> {
    pub(super) profile: Profile,
    pub(super) threads: usize,
    /// What an earlier run has left.
    pub(super) resumed: Resumed,
    pub(super) progress: &'a dyn Progress,
}

impl<'a> ImageJob<'a> {
    /// A job of which nothing is done.
    pub(super) fn new(profile: Profile, threads: usize, progress: &'a dyn Progress) -> Self {
        Self {
            profile,
            threads,
            resumed: Resumed::default(),
            progress,
        }
    }

    /// Whether nothing of these spans is to be coded.
    pub(super) fn has_all(&self, tasks: &[Task<'_>]) -> bool {
        let has = |task: &Task<'_>| {
            task.len() == 0
                || self
                    .resumed
                    .whole(task.number, task.block_count())
                    .is_some()
        };
        tasks.iter().all(has)
    }

    /// Does numbered work on all cores; the results go to `sink` in order.
    pub(super) fn ordered<T: Send>(
        &self,
        count: usize,
        work: impl Fn(&mut EncodeScratch, usize) -> Result<T> + Sync,
        sink: impl FnMut(usize, T) -> Result<()>,
    ) -> Result<()> {
        let work = |scratch: &mut EncodeScratch, number| {
            self.progress.check()?;
            work(scratch, number)
        };
        parallel::ordered(self.threads, count, EncodeScratch::default, work, sink)
    }
}
