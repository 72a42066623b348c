//! Small spans, many at a time. Tables of its own cost a small span dear, so those of one dtype may share some: a pool is
//! looked at as if it were one span, and each of its spans takes whichever way is smaller.

use std::ops::Range;

use crate::base::Result;
use crate::base::digest;
use crate::base::parallel;
use crate::codec::Analysis;
use crate::codec::SpanCoder;
use crate::codec::Transform;
use crate::codec::encode::CodedSpan;
use crate::codec::encode::EncodeScratch;
use crate::codec::span;
use crate::format::Index;
use crate::tensor::Family;
use crate::writer::against;
use crate::writer::against::Differences;
use crate::writer::against::Plan;
use crate::writer::coding;
use crate::writer::coding::CodedBlocks;
use crate::writer::coding::Job;
use crate::writer::coding::Owners;
use crate::writer::coding::PIECE_LEN;
use crate::writer::coding::Task;
use crate::writer::coding::begin_span;
use crate::writer::coding::put_blocks;
use crate::writer::data::DataWriter;
use crate::writer::image::WriteOptions;
use crate::writer::journal::Part;
use crate::writer::journal::TablesOf;

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

/// A span as it was coded.
struct Coded {
    span: CodedSpan,
    tables: TablesOf,
    /// How it is coded if no span before it has the tables that it would use.
    unless_shared: Option<(CodedSpan, TablesOf)>,
    /// Of each block.
    checksums: Vec<u64>,
}

/// Codes spans of at most a few blocks in order into `data`, and writes down in `index` what became of each. `owners` are those of the pools of differences.
pub(super) fn code(
    tasks: &[Task<'_>],
    plan: &Plan,
    owners: &mut Owners,
    job: &Job<'_>,
    data: &mut DataWriter<'_>,
    index: &mut Index,
) -> Result<()> {
    // where each span begins in its pool, in bytes
    let mut starts = vec![None; tasks.len()];
    let mut coders = Vec::new();
    // what is near its base needs no tables of its family
    let places = if job.knows(tasks) {
        0..0
    } else {
        0..tasks.len()
    };
    let apart: Vec<usize> = places
        .filter(|&place| !plan.is_near_its_base(&tasks[place]))
        .filter(|&place| may_be_pooled(&tasks[place], job.options))
        .collect();
    for family in families(tasks, &apart) {
        let coder = pool_coder(tasks, &apart, family, &mut starts, job)?;
        coders.extend(coder.map(|coder| (family, coder)));
    }
    let pieces = pieces(tasks);
    let mut pools = Pools {
        plan,
        owners,
        coders: &coders,
        family_owners: Owners::default(),
    };
    parallel::ordered(
        job.options.threads,
        pieces.len(),
        EncodeScratch::default,
        |scratch, number| {
            job.progress.check()?;
            pieces[number]
                .clone()
                .map(|place| {
                    if job.known.part(tasks[place].number, 0).is_some() {
                        return Ok(None);
                    }
                    let pool = pool_of(&coders, &tasks[place]);
                    let pooled = starts[place].zip(pool);
                    let pooled = pooled.map(|(start, pool)| (start, pool, &coders[pool].1));
                    code_span(&tasks[place], pooled, plan, job.options, scratch).map(Some)
                })
                .collect()
        },
        |number, spans: Vec<Option<Coded>>| {
            for (task, coded) in tasks[pieces[number].clone()].iter().zip(spans) {
                match coded {
                    Some(coded) => put_span(task, coded, &mut pools, data, index)?,
                    None => pools.pass_over(task, job, data, index),
                }
                job.progress.advance(task.len());
            }
            Ok(())
        },
    )
}

/// Tables that spans share, and which span has them.
struct Pools<'a> {
    plan: &'a Plan,
    /// Of the pools of differences.
    owners: &'a mut Owners,
    coders: &'a [(Family, SpanCoder)],
    family_owners: Owners,
}

impl Pools<'_> {
    fn pass_over(
        &mut self,
        task: &Task<'_>,
        job: &Job<'_>,
        data: &mut DataWriter<'_>,
        index: &mut Index,
    ) {
        let part = job.known.part(task.number, 0);
        let owners = match part.map(|part| part.tables) {
            Some(TablesOf::Family(_)) => &mut self.family_owners,
            _ => &mut *self.owners,
        };
        coding::pass_over(task, owners, job, data, index);
    }

    /// What a span has to write of the tables that it uses.
    fn claim<'b>(&'b mut self, coded: &'b Coded, span: usize, index: &mut Index) -> &'b [u8] {
        match coded.tables {
            TablesOf::Span => &coded.span.tables,
            TablesOf::Family(pool) => {
                let tables = self.coders[pool].1.tables();
                self.family_owners.claim(pool, tables, span, index)
            }
            TablesOf::Differences(pool) => {
                let tables = self.plan.tables(pool);
                self.owners.claim(pool, tables, span, index)
            }
        }
    }
}

fn put_span(
    task: &Task<'_>,
    mut coded: Coded,
    pools: &mut Pools<'_>,
    data: &mut DataWriter<'_>,
    index: &mut Index,
) -> Result<()> {
    if let TablesOf::Differences(pool) = coded.tables
        && !pools.owners.has(pool)
        && let Some((span, tables)) = coded.unless_shared.take()
    {
        (coded.span, coded.tables) = (span, tables);
    }
    let tables = pools.claim(&coded, task.number, index);
    let tables_len = tables.len() as u32;
    begin_span(task, tables, data, index)?;
    let blocks = coded.span.blocks.iter().zip(&coded.checksums);
    let blocks = blocks.map(|((codec, len), checksum)| (*codec, *len, *checksum));
    let blocks = CodedBlocks {
        blocks: blocks.collect(),
        bytes: coded.span.bytes,
    };
    put_blocks(task, 0, &blocks, data, index)?;
    data.note(&Part {
        span: task.number,
        first: 0,
        tables: coded.tables,
        tables_len,
        blocks: blocks.blocks,
        end: data.position(),
    });
    Ok(())
}

fn pool_of(coders: &[(Family, SpanCoder)], task: &Task<'_>) -> Option<usize> {
    let family = task.span.family();
    coders.iter().position(|(of, _)| *of == family)
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

fn may_be_pooled(task: &Task<'_>, options: &WriteOptions) -> bool {
    let family = task.span.family();
    let width = Transform::of(family).width() as u64;
    task.len() <= POOLED_LEN_MAX
        && task.len().is_multiple_of(width)
        && SpanCoder::wants_analysis(family, options.profile, task.len())
}

/// The families of which there are enough spans, among those at `places`, for a pool.
fn families(tasks: &[Task<'_>], places: &[usize]) -> Vec<Family> {
    let mut families: Vec<(Family, usize)> = Vec::new();
    for &place in places {
        let family = tasks[place].span.family();
        match families.iter_mut().find(|(of, _)| *of == family) {
            Some((_, count)) => *count += 1,
            None => families.push((family, 1)),
        }
    }
    families.retain(|(_, count)| *count >= POOL_SPANS_MIN);
    families.into_iter().map(|(family, _)| family).collect()
}

/// The coder of all spans of a pool, those of a family among `places`, looked at as if they were one; none if it has no tables. Notes in `starts` where each of them begins in the pool.
fn pool_coder(
    tasks: &[Task<'_>],
    places: &[usize],
    family: Family,
    starts: &mut [Option<u64>],
    job: &Job<'_>,
) -> Result<Option<SpanCoder>> {
    let is_member = |place: &usize| tasks[*place].span.family() == family;
    let members: Vec<usize> = places.iter().copied().filter(is_member).collect();
    let mut end = 0;
    for &member in &members {
        starts[member] = Some(end);
        // each begins with a strip of its own
        end += tasks[member]
            .len()
            .next_multiple_of(Transform::of(family).strip_len());
    }
    let looked_at = members
        .iter()
        .step_by(members.len().div_ceil(SAMPLE_SPANS).max(1));
    let sample: Vec<Vec<u8>> = looked_at
        .map(|&member| tasks[member].read(0, tasks[member].len()))
        .collect::<Result<_>>()?;
    let sample: Vec<&[u8]> = sample.iter().map(Vec::as_slice).collect();
    let scratch = &mut EncodeScratch::default();
    let analysis = Analysis::new(family, job.options.profile, end, &sample, scratch);
    let mut counts = analysis.no_counts();
    let pieces: Vec<&[usize]> = members.chunks(COUNTED_SPANS).collect();
    parallel::ordered(
        job.options.threads,
        pieces.len(),
        EncodeScratch::default,
        |scratch, number| {
            job.progress.check()?;
            let mut counts = analysis.no_counts();
            for &member in pieces[number] {
                let bytes = tasks[member].read(0, tasks[member].len())?;
                analysis.count(&bytes, &mut counts, scratch);
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

fn code_span(
    task: &Task<'_>,
    pooled: Option<(u64, usize, &SpanCoder)>,
    plan: &Plan,
    options: &WriteOptions,
    scratch: &mut EncodeScratch,
) -> Result<Coded> {
    let bytes = task.read(0, task.len())?;
    let blocks: Vec<&[u8]> = bytes.chunks(task.grid.block_len() as usize).collect();
    let family = task.span.family();
    let mut span = span::encode_span(family, options.profile, &blocks, scratch);
    let mut tables = TablesOf::Span;
    if let Some((start, pool, coder)) = pooled {
        let mut other = coder.encode_all(&blocks, start, scratch);
        if other.bytes.len() < span.bytes.len() + span.tables.len() {
            if !std::mem::take(&mut other.tables).is_empty() {
                tables = TablesOf::Family(pool);
            }
            span = other;
        }
    }
    let mut coded = Coded {
        checksums: blocks.iter().map(|block| digest::xxh3(block)).collect(),
        span,
        tables,
        unless_shared: None,
    };
    if let Some(Differences { span, pool }) = against::code_small(task, plan, &bytes, scratch)? {
        let alone = (coded.span.bytes.len() + coded.span.tables.len()) as u64;
        let len = span.bytes.len() as u64;
        let tables_len = pool.map_or(0, |pool| plan.tables(pool).len() as u64);
        if against::pays(len, alone) {
            let alone_way = (std::mem::replace(&mut coded.span, span), coded.tables);
            coded.tables = pool.map_or(TablesOf::Span, TablesOf::Differences);
            coded.unless_shared =
                Some(alone_way).filter(|_| !against::pays(len + tables_len, alone));
        }
    }
    Ok(coded)
}
