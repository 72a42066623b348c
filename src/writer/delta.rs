//! Spans stored as differences from a base of the same dtype and length: which of them share
//! tables, and their coding.

use std::collections::BTreeMap;

use crate::base::ReadAt;
use crate::base::Result;
use crate::codec;
use crate::codec::delta;
use crate::codec::delta::DeltaCoder;
use crate::codec::delta::DeltaCounts;
use crate::codec::delta_pools::PoolFinder;
use crate::codec::encode::EncodeScratch;
use crate::writer::coded::CodedPiece;
use crate::writer::coded::Coding;
use crate::writer::coded::Strategy;
use crate::writer::journal::TablesOf;
use crate::writer::task::ImageJob;
use crate::writer::task::PIECE_LEN;
use crate::writer::task::Task;

/// A base is taken only if it saves more than this share of what the span takes alone: two files
/// must be read for it.
const BASE_SHARE_MIN: u64 = 50;
/// What differs from its base by more than all but this share of its length is coded alone: no
/// float takes as much.
const HOPELESS_SHARE: u64 = 8;
/// What differs from its base by less than this share of its length is near it: few floats take as
/// little alone.
const NEAR_SHARE: u64 = 2;
/// How much of a large span is coded to see what it takes alone, and in pieces of which length.
const TRIED_PIECES: u64 = 8;
const TRIED_PIECE_LEN: u64 = 64 << 10;
/// Most spans that are counted in one piece of work: their counts wait in memory.
const COUNTED_SPANS: usize = 16;
/// Spans among which pools are looked for: at most so many, of about as many bytes. So memory is
/// bounded, and what was counted is still in the page cache when it is coded.
const WINDOW_SPANS: usize = 1024;
const WINDOW_LEN: u64 = 256 << 20;

/// What was found about the spans of a window that have a base.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// By the numbers of the spans; those that are better coded alone are missing.
    members: BTreeMap<usize, Member>,
    /// Those of the pools.
    coders: Vec<DeltaCoder>,
}

#[derive(Debug)]
struct Member {
    /// None if no block needs tables.
    pool: Option<usize>,
    /// About how many bytes its blocks take.
    len: u64,
}

/// What is counted of a span at once: whole blocks.
#[derive(Debug)]
struct Stretch {
    /// Which of the tasks of the window it is of.
    task: usize,
    start: u64,
    end: u64,
}

/// How many of the first spans are looked at together.
pub(super) fn window(tasks: &[Task<'_>]) -> usize {
    if tasks.iter().all(|task| task.base.is_none()) {
        return tasks.len();
    }
    let mut len = 0;
    let fits = |task: &&Task<'_>| {
        len += task.len();
        len <= WINDOW_LEN
    };
    let count = tasks.iter().take(WINDOW_SPANS).take_while(fits).count();
    count.max(1)
}

impl Plan {
    /// Looks at all spans that have a base.
    pub(super) fn look(tasks: &[Task<'_>], job: &ImageJob<'_>) -> Result<Self> {
        let pieces = pieces(tasks);
        let mut plan = Self::default();
        let mut finders: Vec<PoolFinder> = Vec::new();
        let mut sum = DeltaCounts::default();
        job.ordered(
            pieces.len(),
            |scratch, number| {
                let stretches = pieces[number].iter();
                stretches
                    .map(|stretch| count(&tasks[stretch.task], stretch, scratch))
                    .collect()
            },
            |number, counts: Vec<DeltaCounts>| {
                for (stretch, counts) in pieces[number].iter().zip(counts) {
                    let task = &tasks[stretch.task];
                    sum.add(counts);
                    if stretch.end == task.len() {
                        plan.add(task, std::mem::take(&mut sum), &mut finders);
                    }
                }
                Ok(())
            },
        )?;
        for pool in finders.into_iter().flat_map(PoolFinder::finish) {
            for span in pool.spans {
                if let Some(member) = plan.members.get_mut(&span) {
                    member.pool = Some(plan.coders.len());
                }
            }
            plan.coders.push(pool.coder);
        }
        Ok(plan)
    }

    fn add(&mut self, task: &Task<'_>, counts: DeltaCounts, finders: &mut Vec<PoolFinder>) {
        let Some(codec) = delta::codec_of(&task.span.dtype) else {
            return;
        };
        let len = counts.coded_len();
        if len > task.len() - task.len() / HOPELESS_SHARE {
            return;
        }
        self.members.insert(task.number, Member { pool: None, len });
        if counts.is_empty() {
            return;
        }
        let of_codec = finders.iter_mut().find(|finder| finder.codec() == codec);
        if let Some(finder) = of_codec {
            finder.add(task.number, counts);
        } else {
            let mut finder = PoolFinder::new(codec);
            finder.add(task.number, counts);
            finders.push(finder);
        }
    }

    /// Whether a span is all but sure to be stored as differences.
    pub(super) fn is_near_its_base(&self, task: &Task<'_>) -> bool {
        let member = self.members.get(&task.number);
        member.is_some_and(|member| member.len < task.len() / NEAR_SHARE)
    }

    /// A large span as differences, if that is about to be smaller than what it takes alone.
    /// `is_written` tells of which pools the tables are written.
    pub(super) fn large<'a>(
        &'a self,
        task: Task<'a>,
        job: &'a ImageJob<'a>,
        is_written: impl Fn(usize) -> bool,
    ) -> Result<Option<LargeDelta<'a>>> {
        let (Some(base), Some(member)) = (task.base, self.members.get(&task.number)) else {
            return Ok(None);
        };
        // what is all equal to the base is not looked at again
        if let Some(pool) = member.pool {
            let tables_len = if is_written(pool) {
                0
            } else {
                self.tables(pool).len() as u64
            };
            if !pays(member.len + tables_len, alone_len(&task, job)?) {
                return Ok(None);
            }
        }
        Ok(Some(LargeDelta {
            task,
            job,
            base,
            pool: member.pool,
            plan: self,
        }))
    }

    /// A small span, whose bytes these are, as differences; none if it was found to be better coded
    /// alone.
    pub(super) fn small(
        &self,
        task: &Task<'_>,
        bytes: &[u8],
        scratch: &mut EncodeScratch,
    ) -> Result<Option<Coding>> {
        let (Some(base), Some(member)) = (task.base, self.members.get(&task.number)) else {
            return Ok(None);
        };
        let base = read(base, 0, bytes.len())?;
        let mut coding = self.code(task, member.pool, bytes, &base, scratch);
        let coder = member.pool.map(|pool| &self.coders[pool]);
        let mut codecs = coding.blocks.iter().map(|block| Some(block.codec));
        if !codecs.any(|codec| codec == coder.map(DeltaCoder::codec)) {
            coding.tables = TablesOf::Span;
        }
        Ok(Some(coding))
    }

    /// Codes whole blocks against those of the base.
    fn code(
        &self,
        task: &Task<'_>,
        pool: Option<usize>,
        bytes: &[u8],
        base: &[u8],
        scratch: &mut EncodeScratch,
    ) -> Coding {
        let coder = pool.map(|pool| &self.coders[pool]);
        let tables = pool.map_or(TablesOf::Span, TablesOf::Differences);
        let mut coding = Coding::new(tables, Vec::new());
        for (block, base) in pairs(task, bytes, base) {
            coding.add(block, |out| {
                delta::encode_block(coder, block, base, &mut scratch.delta, out)
            });
        }
        coding
    }

    /// The tables of a pool.
    pub(super) fn tables(&self, pool: usize) -> &[u8] {
        self.coders[pool].tables()
    }
}

/// What is counted in one piece of work each.
fn pieces(tasks: &[Task<'_>]) -> Vec<Vec<Stretch>> {
    let mut pieces: Vec<Vec<Stretch>> = Vec::new();
    // bytes of the last piece; it takes no more once it has its fill
    let mut filled = PIECE_LEN;
    for (number, task) in tasks.iter().enumerate() {
        let has_differences = delta::codec_of(&task.span.dtype).is_some();
        if task.base.is_none() || !has_differences {
            continue;
        }
        let step = PIECE_LEN.max(task.grid.block_len());
        for start in (0..task.len()).step_by(step as usize) {
            let end = task.len().min(start + step);
            let stretch = Stretch {
                task: number,
                start,
                end,
            };
            match pieces.last_mut() {
                Some(last) if filled + end - start <= PIECE_LEN && last.len() < COUNTED_SPANS => {
                    last.push(stretch);
                    filled += end - start;
                }
                _ => {
                    pieces.push(vec![stretch]);
                    filled = end - start;
                }
            }
        }
    }
    pieces
}

fn count(task: &Task<'_>, stretch: &Stretch, scratch: &mut EncodeScratch) -> Result<DeltaCounts> {
    let mut counts = DeltaCounts::default();
    let (Some(base), Some(codec)) = (task.base, delta::codec_of(&task.span.dtype)) else {
        return Ok(counts);
    };
    let bytes = task.read(stretch.start, stretch.end)?;
    let base = read(base, stretch.start, bytes.len())?;
    for (block, base) in pairs(task, &bytes, &base) {
        counts.count(codec, block, base, &mut scratch.delta);
    }
    Ok(counts)
}

fn read(base: &dyn ReadAt, start: u64, len: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; len];
    base.read_exact_at(start, &mut bytes)?;
    Ok(bytes)
}

/// The blocks of a stretch of a span, and those of its base.
fn pairs<'a>(
    task: &Task<'_>,
    bytes: &'a [u8],
    base: &'a [u8],
) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    let len = task.grid.block_len() as usize;
    bytes.chunks(len).zip(base.chunks(len))
}

/// Whether differences of `len` bytes are worth a second file to read, beside what the span takes
/// alone.
pub(super) fn pays(len: u64, alone: u64) -> bool {
    len < alone - alone / BASE_SHARE_MIN
}

/// About how many bytes a large span takes without a base: a sample is coded, as only that tells
/// what const and zstd make of it.
fn alone_len(task: &Task<'_>, job: &ImageJob<'_>) -> Result<u64> {
    let sample = task.sample(TRIED_PIECES, TRIED_PIECE_LEN)?;
    let blocks: Vec<&[u8]> = sample.iter().map(Vec::as_slice).collect();
    let family = task.span.family();
    let scratch = &mut EncodeScratch::default();
    let coded = codec::encode_span(family, job.profile, &blocks, scratch);
    let original: u64 = blocks.iter().map(|block| block.len() as u64).sum();
    Ok(coded.bytes.len() as u64 * task.len() / original + coded.tables.len() as u64)
}

/// A large span as differences, block by block.
pub(super) struct LargeDelta<'a> {
    task: Task<'a>,
    job: &'a ImageJob<'a>,
    base: &'a dyn ReadAt,
    pool: Option<usize>,
    plan: &'a Plan,
}

impl Strategy for LargeDelta<'_> {
    fn pieces(&self) -> usize {
        self.task.len().div_ceil(self.task.piece_len()) as usize
    }

    fn code(&self, piece: usize, scratch: &mut EncodeScratch) -> Result<Vec<CodedPiece<'_>>> {
        let code = |start: u64, bytes: &[u8]| {
            let base = read(self.base, start, bytes.len())?;
            let plan = self.plan;
            Ok(plan.code(&self.task, self.pool, bytes, &base, scratch))
        };
        Ok(vec![CodedPiece::of_large(
            &self.task, self.job, piece, code,
        )?])
    }

    fn shared_tables(&self, tables: TablesOf) -> &[u8] {
        match tables {
            TablesOf::Differences(pool) => self.plan.tables(pool),
            _ => &[],
        }
    }
}
