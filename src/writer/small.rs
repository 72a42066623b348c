//! Small spans, many at a time. Tables of its own cost a small span dear, so those of one dtype may share some: a pool is
//! looked at as if it were one span, and each of its spans takes whichever way is smaller.

use std::ops::Range;

use crate::base::Progress;
use crate::base::Result;
use crate::base::digest;
use crate::base::parallel;
use crate::codec::Analysis;
use crate::codec::SpanCoder;
use crate::codec::Transform;
use crate::codec::encode;
use crate::codec::encode::CodedSpan;
use crate::codec::encode::EncodeScratch;
use crate::format::Index;
use crate::tensor::Family;
use crate::writer::against;
use crate::writer::against::Differences;
use crate::writer::against::Plan;
use crate::writer::coding::CodedBlocks;
use crate::writer::coding::Owners;
use crate::writer::coding::PIECE_LEN;
use crate::writer::coding::Task;
use crate::writer::coding::begin_span;
use crate::writer::coding::put_blocks;
use crate::writer::data::DataWriter;
use crate::writer::image::WriteOptions;

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

/// Whose tables a coded span uses.
#[derive(Debug, Clone, Copy)]
enum TablesOf {
    /// Its own, or none.
    Span,
    /// Those of a pool of spans of one family.
    Family(usize),
    /// Those of a pool of differences.
    Differences(usize),
}

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
    options: &WriteOptions,
    data: &mut DataWriter<'_>,
    index: &mut Index,
    progress: &dyn Progress,
) -> Result<()> {
    // where each span begins in its pool, in bytes
    let mut starts = vec![None; tasks.len()];
    let mut coders = Vec::new();
    // what is near its base needs no tables of its family
    let apart: Vec<usize> = (0..tasks.len())
        .filter(|&place| !plan.is_near_its_base(&tasks[place]))
        .filter(|&place| may_be_pooled(&tasks[place], options))
        .collect();
    for family in families(tasks, &apart) {
        let coder = pool_coder(tasks, &apart, family, &mut starts, options, progress)?;
        coders.extend(coder.map(|coder| (family, coder)));
    }
    let pieces = pieces(tasks);
    let mut family_owners = Owners::new(coders.len());
    parallel::ordered(
        options.threads,
        pieces.len(),
        EncodeScratch::default,
        |scratch, number| {
            progress.check()?;
            pieces[number]
                .clone()
                .map(|place| {
                    let pool = pool_of(&coders, &tasks[place]);
                    let pooled = starts[place].zip(pool);
                    let pooled = pooled.map(|(start, pool)| (start, pool, &coders[pool].1));
                    code_span(&tasks[place], pooled, plan, options, scratch)
                })
                .collect()
        },
        |number, spans: Vec<Coded>| {
            for (task, mut coded) in tasks[pieces[number].clone()].iter().zip(spans) {
                if let TablesOf::Differences(pool) = coded.tables
                    && !owners.has(pool)
                    && let Some((span, tables)) = coded.unless_shared.take()
                {
                    (coded.span, coded.tables) = (span, tables);
                }
                let tables = match coded.tables {
                    TablesOf::Span => &coded.span.tables,
                    TablesOf::Family(pool) => {
                        let tables = coders[pool].1.tables();
                        family_owners.claim(pool, tables, task.number, index)
                    }
                    TablesOf::Differences(pool) => {
                        owners.claim(pool, plan.tables(pool), task.number, index)
                    }
                };
                begin_span(task, tables, data, index)?;
                let blocks = coded.span.blocks.iter().zip(&coded.checksums);
                let blocks = blocks.map(|((codec, len), checksum)| (*codec, *len, *checksum));
                let blocks = CodedBlocks {
                    blocks: blocks.collect(),
                    bytes: coded.span.bytes,
                };
                put_blocks(task, 0, &blocks, data, index)?;
                progress.advance(task.len());
            }
            Ok(())
        },
    )
}

fn pool_of(coders: &[(Family, SpanCoder)], task: &Task<'_>) -> Option<usize> {
    let family = task.record.span.family();
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
    let family = task.record.span.family();
    let width = Transform::of(family).width() as u64;
    task.len() <= POOLED_LEN_MAX
        && task.len().is_multiple_of(width)
        && SpanCoder::wants_analysis(family, options.profile, task.len())
}

/// The families of which there are enough spans, among those at `places`, for a pool.
fn families(tasks: &[Task<'_>], places: &[usize]) -> Vec<Family> {
    let mut families: Vec<(Family, usize)> = Vec::new();
    for &place in places {
        let family = tasks[place].record.span.family();
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
    options: &WriteOptions,
    progress: &dyn Progress,
) -> Result<Option<SpanCoder>> {
    let is_member = |place: &usize| tasks[*place].record.span.family() == family;
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
    let analysis = Analysis::new(family, options.profile, end, &sample, scratch);
    let mut counts = analysis.no_counts();
    let pieces: Vec<&[usize]> = members.chunks(COUNTED_SPANS).collect();
    parallel::ordered(
        options.threads,
        pieces.len(),
        EncodeScratch::default,
        |scratch, number| {
            progress.check()?;
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
    let blocks: Vec<&[u8]> = bytes.chunks(task.record.block_len() as usize).collect();
    let family = task.record.span.family();
    let mut span = encode::encode_span(family, options.profile, &blocks, scratch);
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
