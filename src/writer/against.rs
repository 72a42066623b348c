//! Spans stored as differences from a base of the same dtype and length: which of them share tables, and their coding.

use std::collections::BTreeMap;

use crate::base::CodecId;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::base::parallel;
use crate::codec::delta;
use crate::codec::delta::DeltaCoder;
use crate::codec::delta::DeltaCounts;
use crate::codec::delta_pools::PoolFinder;
use crate::codec::encode::CodedSpan;
use crate::codec::encode::EncodeScratch;
use crate::format::Index;
use crate::writer::coding;
use crate::writer::coding::CodedBlocks;
use crate::writer::coding::Job;
use crate::writer::coding::Owners;
use crate::writer::coding::PIECE_LEN;
use crate::writer::coding::Task;
use crate::writer::data::DataWriter;
use crate::writer::journal::TablesOf;

/// A base is taken only if it saves more than this share of what the span takes alone: two files must be read for it.
const GAIN_SHARE_MIN: u64 = 50;
/// What differs from its base by more than all but this share of its length is coded alone: no float takes as much.
const HOPELESS_SHARE: u64 = 8;
/// What differs from its base by less than this share of its length is near it: few floats take as little alone.
const NEAR_SHARE: u64 = 2;
/// Most spans that are counted in one piece of work: their counts wait in memory.
const COUNTED_SPANS: usize = 16;
/// Spans among which pools are looked for: at most so many, of about as many bytes. So memory is bounded, and what was counted is
/// still in the page cache when it is coded.
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

/// A part of a span that is counted at once: whole blocks.
#[derive(Debug)]
struct Part {
    /// Place of the span in the window.
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
    pub(super) fn new(tasks: &[Task<'_>], job: &Job<'_>) -> Result<Self> {
        let pieces = pieces(tasks);
        let mut plan = Self::default();
        let mut finders: Vec<PoolFinder> = Vec::new();
        let mut sum = DeltaCounts::default();
        parallel::ordered(
            job.options.threads,
            pieces.len(),
            EncodeScratch::default,
            |scratch, number| {
                job.progress.check()?;
                let parts = pieces[number].iter();
                parts
                    .map(|part| count(&tasks[part.task], part, scratch))
                    .collect()
            },
            |number, counts: Vec<DeltaCounts>| {
                for (part, counts) in pieces[number].iter().zip(counts) {
                    let task = &tasks[part.task];
                    sum.add(counts);
                    if part.end == task.len() {
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
        let known = finders.iter_mut().find(|finder| finder.codec() == codec);
        if let Some(finder) = known {
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

    /// The tables of a pool.
    pub(super) fn tables(&self, pool: usize) -> &[u8] {
        self.coders[pool].tables()
    }
}

/// What is counted in one piece of work each.
fn pieces(tasks: &[Task<'_>]) -> Vec<Vec<Part>> {
    let mut pieces: Vec<Vec<Part>> = Vec::new();
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
            let part = Part {
                task: number,
                start,
                end,
            };
            match pieces.last_mut() {
                Some(last) if filled + end - start <= PIECE_LEN && last.len() < COUNTED_SPANS => {
                    last.push(part);
                    filled += end - start;
                }
                _ => {
                    pieces.push(vec![part]);
                    filled = end - start;
                }
            }
        }
    }
    pieces
}

fn count(task: &Task<'_>, part: &Part, scratch: &mut EncodeScratch) -> Result<DeltaCounts> {
    let mut counts = DeltaCounts::default();
    let (Some(base), Some(codec)) = (task.base, delta::codec_of(&task.span.dtype)) else {
        return Ok(counts);
    };
    let bytes = task.read(part.start, part.end)?;
    let base = read(base, part.start, bytes.len())?;
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

/// The blocks of a part of a span, and those of its base.
fn pairs<'a>(
    task: &Task<'_>,
    bytes: &'a [u8],
    base: &'a [u8],
) -> impl Iterator<Item = (&'a [u8], &'a [u8])> {
    let len = task.grid.block_len() as usize;
    bytes.chunks(len).zip(base.chunks(len))
}

/// Whether differences of `len` bytes are worth a second file to read, beside what the span takes alone.
pub(super) fn pays(len: u64, alone: u64) -> bool {
    len < alone - alone / GAIN_SHARE_MIN
}

/// Codes a large span piece by piece, if that is about to be smaller than what it takes alone; else does nothing and says false.
pub(super) fn code_large(
    task: Task<'_>,
    plan: &Plan,
    owners: &mut Owners,
    job: &Job<'_>,
    data: &mut DataWriter<'_>,
    index: &mut Index,
) -> Result<bool> {
    let (Some(base), Some(member)) = (task.base, plan.members.get(&task.number)) else {
        return Ok(false);
    };
    // what is all equal to the base is not looked at again
    if let Some(pool) = member.pool {
        let tables_len = if owners.has(pool) {
            0
        } else {
            plan.tables(pool).len() as u64
        };
        let alone = coding::alone_len(task, job.options)?;
        if !pays(member.len + tables_len, alone) {
            return Ok(false);
        }
    }
    let tables = member.pool.map_or(&[] as &[u8], |pool| {
        owners.claim(pool, plan.tables(pool), task.number, index)
    });
    let coder = member.pool.map(|pool| &plan.coders[pool]);
    let code = |scratch: &mut EncodeScratch, start: u64, bytes: &[u8]| {
        let base = read(base, start, bytes.len())?;
        let (mut out, mut blocks) = (Vec::new(), Vec::new());
        for (block, base) in pairs(&task, bytes, &base) {
            let before = out.len();
            let codec = delta::encode_block(coder, block, base, &mut scratch.delta, &mut out);
            blocks.push((codec, (out.len() - before) as u32, digest::xxh3(block)));
        }
        Ok(CodedBlocks { bytes: out, blocks })
    };
    let tables_of = member.pool.map_or(TablesOf::Span, TablesOf::Differences);
    coding::code_pieces(task, (tables_of, tables), code, job, data, index)?;
    Ok(true)
}

/// A small span, coded against its base in memory.
#[derive(Debug)]
pub(super) struct Differences {
    /// Without tables.
    pub(super) span: CodedSpan,
    /// The pool whose tables it needs.
    pub(super) pool: Option<usize>,
}

/// Codes a small span, with blocks `bytes`, against its base; none if it was found to be better coded alone.
pub(super) fn code_small(
    task: &Task<'_>,
    plan: &Plan,
    bytes: &[u8],
    scratch: &mut EncodeScratch,
) -> Result<Option<Differences>> {
    let (Some(base), Some(member)) = (task.base, plan.members.get(&task.number)) else {
        return Ok(None);
    };
    let base = read(base, 0, bytes.len())?;
    let coder = member.pool.map(|pool| &plan.coders[pool]);
    let mut span = CodedSpan::default();
    for (block, base) in pairs(task, bytes, &base) {
        let before = span.bytes.len();
        let codec = delta::encode_block(coder, block, base, &mut scratch.delta, &mut span.bytes);
        span.blocks
            .push((codec, (span.bytes.len() - before) as u32));
    }
    let needs_tables = |codec: CodecId| coder.is_some_and(|coder| coder.codec() == codec);
    let uses_pool = span.blocks.iter().any(|(codec, _)| needs_tables(*codec));
    let pool = member.pool.filter(|_| uses_pool);
    Ok(Some(Differences { span, pool }))
}
