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
use crate::writer::coding::CodedBlocks;
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

/// A span as it was coded.
struct Coded {
    span: CodedSpan,
    blocks: CodedBlocks,
    /// Whether it uses the tables of its pool.
    is_pooled: bool,
}

/// Codes spans of at most a few blocks in order into `data`, and writes down in `index` what became of each.
pub(super) fn code(
    tasks: &[Task<'_>],
    options: &WriteOptions,
    data: &mut DataWriter<'_>,
    index: &mut Index,
    progress: &dyn Progress,
) -> Result<()> {
    // where each span begins in its pool, in bytes
    let mut starts = vec![None; tasks.len()];
    let mut coders = Vec::new();
    for family in families(tasks, options) {
        let coder = pool_coder(tasks, family, &mut starts, options, progress)?;
        coders.extend(coder.map(|coder| (family, coder)));
    }
    let pieces = pieces(tasks);
    // the span whose tables those of a pool are: the first that uses them
    let mut owners: Vec<Option<usize>> = vec![None; coders.len()];
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
                    let pooled = starts[place].zip(pool.map(|pool| &coders[pool].1));
                    code_span(&tasks[place], pooled, options, scratch)
                })
                .collect()
        },
        |number, spans: Vec<Coded>| {
            for (task, coded) in tasks[pieces[number].clone()].iter().zip(spans) {
                let mut tables = coded.span.tables.as_slice();
                if let Some(pool) = pool_of(&coders, task).filter(|_| coded.is_pooled) {
                    index.spans[task.number].tables_of = owners[pool];
                    tables = match owners[pool] {
                        Some(_) => &[],
                        None => coders[pool].1.tables(),
                    };
                    owners[pool].get_or_insert(task.number);
                }
                begin_span(task, tables, data, index)?;
                put_blocks(task, 0, &coded.blocks, data, index)?;
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

/// The families of which there are enough spans for a pool.
fn families(tasks: &[Task<'_>], options: &WriteOptions) -> Vec<Family> {
    let mut families: Vec<(Family, usize)> = Vec::new();
    for task in tasks.iter().filter(|task| may_be_pooled(task, options)) {
        let family = task.record.span.family();
        match families.iter_mut().find(|(of, _)| *of == family) {
            Some((_, count)) => *count += 1,
            None => families.push((family, 1)),
        }
    }
    families.retain(|(_, count)| *count >= POOL_SPANS_MIN);
    families.into_iter().map(|(family, _)| family).collect()
}

/// The coder of all spans of a pool, looked at as if they were one; none if it has no tables. Notes in `starts` where each of them begins in the pool.
fn pool_coder(
    tasks: &[Task<'_>],
    family: Family,
    starts: &mut [Option<u64>],
    options: &WriteOptions,
    progress: &dyn Progress,
) -> Result<Option<SpanCoder>> {
    let is_member =
        |task: &Task<'_>| task.record.span.family() == family && may_be_pooled(task, options);
    let members: Vec<usize> = (0..tasks.len()).filter(|&t| is_member(&tasks[t])).collect();
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
    pooled: Option<(u64, &SpanCoder)>,
    options: &WriteOptions,
    scratch: &mut EncodeScratch,
) -> Result<Coded> {
    let bytes = task.read(0, task.len())?;
    let blocks: Vec<&[u8]> = bytes.chunks(task.record.block_len() as usize).collect();
    let family = task.record.span.family();
    let mut span = encode::encode_span(family, options.profile, &blocks, scratch);
    let mut is_pooled = false;
    if let Some((start, coder)) = pooled {
        let other = coder.encode_all(&blocks, start, scratch);
        if other.bytes.len() < span.bytes.len() + span.tables.len() {
            is_pooled = !other.tables.is_empty();
            span = other;
        }
    }
    if let Some(base) = task.base
        && let Some(other) = against::code_small(task, base, &blocks, scratch)?
        && other.bytes.len() + other.tables.len() < span.bytes.len() + span.tables.len()
    {
        (span, is_pooled) = (other, false);
    }
    let coded = blocks.iter().zip(&span.blocks);
    let blocks = coded
        .map(|(block, (codec, len))| (*codec, *len, digest::xxh3(block)))
        .collect();
    let bytes = std::mem::take(&mut span.bytes);
    Ok(Coded {
        span,
        blocks: CodedBlocks { bytes, blocks },
        is_pooled,
    })
}
