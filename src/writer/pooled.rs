//! Small spans, many at a time. Tables of its own cost a small span dear, so those of one dtype may
//! share some: a pool is looked at as if it were one span, and each of its spans takes whichever
//! way is smaller.

use std::ops::Range;

use crate::base::Result;
use crate::codec;
use crate::codec::Analysis;
use crate::codec::SpanCoder;
use crate::codec::Transform;
use crate::codec::encode::CodedSpan;
use crate::codec::encode::EncodeScratch;
use crate::tensor::Family;
use crate::writer::coded;
use crate::writer::coded::CodedPiece;
use crate::writer::coded::Coding;
use crate::writer::coded::Strategy;
use crate::writer::delta;
use crate::writer::delta::Plan;
use crate::writer::journal::TablesOf;
use crate::writer::task::ImageJob;
use crate::writer::task::PIECE_LEN;
use crate::writer::task::Task;

/// Most spans in one piece of work.
const PIECE_SPANS: usize = 256;
/// Longer spans have tables of their own, which cost them less than a five-hundredth.
const POOLED_LEN_MAX: u64 = 128 << 10;
/// Fewer spans share no tables.
const POOL_SPANS_MIN: usize = 4;
/// Spans of a pool that are counted in one piece of work.
const COUNTED_SPANS: usize = 16;
/// Spans of a pool that are looked at to find clusters.
const SAMPLE_SPANS: usize = 64;

/// Small spans and the pools that were found among them.
pub(super) struct Pooled<'a> {
    tasks: &'a [Task<'a>],
    plan: &'a Plan,
    job: &'a ImageJob<'a>,
    /// Of the families of which there are enough spans.
    coders: Vec<(Family, SpanCoder)>,
    /// Where each span begins in its pool, in bytes; none of one in no pool.
    starts: Vec<Option<u64>>,
    pieces: Vec<Range<usize>>,
}

impl<'a> Pooled<'a> {
    /// Looks at spans of at most a few blocks, which have this plan.
    pub(super) fn look(
        tasks: &'a [Task<'a>],
        plan: &'a Plan,
        job: &'a ImageJob<'a>,
    ) -> Result<Self> {
        let mut pooled = Self {
            tasks,
            plan,
            job,
            coders: Vec::new(),
            starts: vec![None; tasks.len()],
            pieces: pieces(tasks),
        };
        if job.has_all(tasks) {
            return Ok(pooled);
        }
        // what is near its base needs no tables of its family
        let apart: Vec<usize> = (0..tasks.len())
            .filter(|&at| !plan.is_near_its_base(&tasks[at]))
            .filter(|&at| may_be_pooled(&tasks[at], job))
            .collect();
        for family in families(tasks, &apart) {
            let coder = pooled.coder(&apart, family)?;
            pooled.coders.extend(coder.map(|coder| (family, coder)));
        }
        Ok(pooled)
    }

    /// The coder of all spans of a pool, those of a family among `apart`, looked at as if they were
    /// one; none if it has no tables. Notes where each of them begins in the pool.
    fn coder(&mut self, apart: &[usize], family: Family) -> Result<Option<SpanCoder>> {
        let (tasks, job) = (self.tasks, self.job);
        let is_member = |at: &usize| tasks[*at].span.family() == family;
        let members: Vec<usize> = apart.iter().copied().filter(is_member).collect();
        let mut end = 0;
        for &member in &members {
            self.starts[member] = Some(end);
            // each begins with a strip of its own
            let strip_len = Transform::of(family).strip_len();
            end += tasks[member].len().next_multiple_of(strip_len);
        }
        let step = members.len().div_ceil(SAMPLE_SPANS).max(1);
        let sample = members.iter().step_by(step).map(|&at| tasks[at].whole());
        let sample: Vec<Vec<u8>> = sample.collect::<Result<_>>()?;
        let sample: Vec<&[u8]> = sample.iter().map(Vec::as_slice).collect();
        let scratch = &mut EncodeScratch::default();
        let analysis = Analysis::new(family, job.profile, end, &sample, scratch);
        let mut counts = analysis.no_counts();
        let pieces: Vec<&[usize]> = members.chunks(COUNTED_SPANS).collect();
        job.ordered(
            pieces.len(),
            |scratch, number| {
                let mut counts = analysis.no_counts();
                for &member in pieces[number] {
                    analysis.count(&tasks[member].whole()?, &mut counts, scratch);
                }
                Ok(counts)
            },
            |_, piece| {
                counts.add(&piece);
                Ok(())
            },
        )?;
        let coder = analysis.finish(&counts);
        Ok(Some(coder).filter(|coder| !coder.tables().is_empty()))
    }

    /// The pool of a span, its number and coder, and where the span begins in it.
    fn pool(&self, at: usize) -> Option<(usize, &SpanCoder, u64)> {
        let family = self.tasks[at].span.family();
        let pool = self.coders.iter().position(|(of, _)| *of == family)?;
        Some((pool, &self.coders[pool].1, self.starts[at]?))
    }

    fn code_span(&self, at: usize, scratch: &mut EncodeScratch) -> Result<CodedPiece<'a>> {
        let task = &self.tasks[at];
        let mut piece = CodedPiece {
            task,
            first: 0,
            len: task.len(),
            coding: None,
            unless_shared: None,
        };
        if self.job.resumed.entry(task.number, 0).is_some() {
            return Ok(piece);
        }
        let bytes = task.whole()?;
        let alone = self.code_alone(at, &bytes, scratch);
        let Some(differences) = self.plan.small(task, &bytes, scratch)? else {
            piece.coding = Some(alone);
            return Ok(piece);
        };
        let tables_len = self.shared_tables(differences.tables).len() as u64;
        let (len, alone_len) = (differences.len(), alone.len());
        if !delta::pays(len, alone_len) {
            piece.coding = Some(alone);
            return Ok(piece);
        }
        piece.coding = Some(differences);
        if !delta::pays(len + tables_len, alone_len) {
            piece.unless_shared = Some(alone);
        }
        Ok(piece)
    }

    /// Codes a span without a base, with tables of its own or those of its pool.
    fn code_alone(&self, at: usize, bytes: &[u8], scratch: &mut EncodeScratch) -> Coding {
        let task = &self.tasks[at];
        let blocks: Vec<&[u8]> = bytes.chunks(task.grid.block_len() as usize).collect();
        let family = task.span.family();
        let own = codec::encode_span(family, self.job.profile, &blocks, scratch);
        if let Some((pool, coder, start)) = self.pool(at) {
            let mut shared = coder.encode_all(&blocks, start, scratch);
            if shared.bytes.len() < own.bytes.len() + own.tables.len() {
                let uses_tables = !std::mem::take(&mut shared.tables).is_empty();
                let tables = if uses_tables {
                    TablesOf::Family(pool)
                } else {
                    TablesOf::Span
                };
                return coding(shared, tables, &blocks);
            }
        }
        coding(own, TablesOf::Span, &blocks)
    }
}

impl Strategy for Pooled<'_> {
    fn pieces(&self) -> usize {
        self.pieces.len()
    }

    fn code(&self, piece: usize, scratch: &mut EncodeScratch) -> Result<Vec<CodedPiece<'_>>> {
        let spans = self.pieces[piece].clone();
        spans.map(|at| self.code_span(at, scratch)).collect()
    }

    fn shared_tables(&self, tables: TablesOf) -> &[u8] {
        match tables {
            TablesOf::Span => &[],
            TablesOf::Family(pool) => self.coders[pool].1.tables(),
            TablesOf::Differences(pool) => self.plan.tables(pool),
        }
    }
}

/// What a span of these blocks was coded to.
fn coding(span: CodedSpan, tables: TablesOf, blocks: &[&[u8]]) -> Coding {
    let coded = span.blocks.into_iter().zip(blocks);
    let records = coded.map(|((codec, len), block)| coded::block_record(codec, len, block));
    Coding {
        tables,
        own_tables: span.tables,
        blocks: records.collect(),
        bytes: span.bytes,
    }
}

/// Ranges of spans of about the same length together.
fn pieces(tasks: &[Task<'_>]) -> Vec<Range<usize>> {
    let mut pieces = Vec::new();
    let mut first = 0;
    while first < tasks.len() {
        let mut len = 0;
        let count = tasks[first..]
            .iter()
            .take(PIECE_SPANS)
            .take_while(|task| {
                let before = len;
                len += task.len();
                before == 0 || len <= PIECE_LEN
            })
            .count();
        pieces.push(first..first + count);
        first += count;
    }
    pieces
}

fn may_be_pooled(task: &Task<'_>, job: &ImageJob<'_>) -> bool {
    let family = task.span.family();
    let width = Transform::of(family).width() as u64;
    task.len() <= POOLED_LEN_MAX
        && task.len().is_multiple_of(width)
        && SpanCoder::wants_analysis(family, job.profile, task.len())
}

/// The families of which there are enough spans, among those in `apart`, for a pool.
fn families(tasks: &[Task<'_>], apart: &[usize]) -> Vec<Family> {
    let mut families: Vec<(Family, usize)> = Vec::new();
    for &at in apart {
        let family = tasks[at].span.family();
        match families.iter_mut().find(|(of, _)| *of == family) {
            Some((_, count)) => *count += 1,
            None => families.push((family, 1)),
        }
    }
    families.retain(|(_, count)| *count >= POOL_SPANS_MIN);
    families.into_iter().map(|(family, _)| family).collect()
}
