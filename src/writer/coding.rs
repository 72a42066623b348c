//! Coding of spans on all cores, with memory bounded by the number of threads: small spans many at a time (in `small`), a
//! large span block by block after a look at all of it.

use std::collections::BTreeMap;

use crate::base::CodecId;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::base::parallel;
use crate::codec::Analysis;
use crate::codec::SpanCoder;
use crate::codec::Transform;
use crate::codec::encode::EncodeScratch;
use crate::codec::span;
use crate::format::BlockRecord;
use crate::format::Grid;
use crate::format::Index;
use crate::tensor::Span;
use crate::writer::against;
use crate::writer::against::Plan;
use crate::writer::data::DataWriter;
use crate::writer::image::WriteOptions;
use crate::writer::journal::Known;
use crate::writer::journal::Part;
use crate::writer::journal::TablesOf;
use crate::writer::small;

/// Spans of at most this many bytes are coded whole, by one thread.
pub(super) const SMALL_SPAN_LEN: u64 = 1 << 20;
/// About how many original bytes one piece of work has.
pub(super) const PIECE_LEN: u64 = 512 << 10;
/// How much of a large span is looked at to find clusters, and in pieces of which length.
const SAMPLE_PIECES: u64 = 32;
const SAMPLE_PIECE_LEN: u64 = 128 << 10;
/// How much of a large span with a base is coded to see what it takes alone, and in pieces of which length.
const TRIED_PIECES: u64 = 8;
const TRIED_PIECE_LEN: u64 = 64 << 10;

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

impl Task<'_> {
    pub(super) fn read(&self, start: u64, end: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; (end - start) as usize];
        self.bytes
            .read_exact_at(self.span.start + start, &mut bytes)
            .map_err(|e| e.tensor(self.span.label()))?;
        Ok(bytes)
    }

    pub(super) fn len(&self) -> u64 {
        self.span.len
    }
}

/// Blocks of one span, coded, with the checksums of their original bytes.
#[derive(Debug)]
pub(super) struct CodedBlocks {
    pub(super) bytes: Vec<u8>,
    pub(super) blocks: Vec<(CodecId, u32, u64)>,
}

/// How spans are coded.
#[derive(Clone, Copy)]
pub(super) struct Job<'a> {
    pub(super) options: &'a WriteOptions,
    /// What an earlier run has left.
    pub(super) known: &'a Known,
    pub(super) progress: &'a dyn Progress,
}

impl<'a> Job<'a> {
    /// All parts of a span, if they are known.
    fn parts(&self, task: &Task<'_>) -> Option<Vec<&'a Part>> {
        self.known
            .whole(task.number, task.grid.block_count() as usize)
    }

    /// Whether nothing of these spans is to be coded.
    pub(super) fn knows(&self, tasks: &[Task<'_>]) -> bool {
        let mut tasks = tasks.iter();
        tasks.all(|task| task.len() == 0 || self.parts(task).is_some())
    }
}

/// For each of several tables the span that has them: the first that uses them.
#[derive(Debug, Default)]
pub(super) struct Owners(BTreeMap<usize, usize>);

impl Owners {
    /// Whether a span has these tables.
    pub(super) fn has(&self, number: usize) -> bool {
        self.0.contains_key(&number)
    }

    /// What `span`, which uses the tables `number`, has to write of them: all if it is the first. Else notes in the index whose
    /// it uses.
    pub(super) fn claim<'a>(
        &mut self,
        number: usize,
        tables: &'a [u8],
        span: usize,
        index: &mut Index,
    ) -> &'a [u8] {
        index.spans[span].tables_of = self.0.get(&number).copied();
        if self.has(number) {
            return &[];
        }
        self.0.insert(number, span);
        tables
    }
}

/// Codes all spans in order into `data`, and writes down in `index` what became of each.
pub(super) fn code_all(
    tasks: &[Task<'_>],
    job: &Job<'_>,
    data: &mut DataWriter<'_>,
    index: &mut Index,
) -> Result<()> {
    let mut rest = tasks;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(against::window(rest));
        let plan = if job.knows(now) {
            Plan::default()
        } else {
            Plan::new(now, job)?
        };
        code_planned(now, &plan, job, data, index)?;
        rest = later;
    }
    Ok(())
}

fn code_planned(
    tasks: &[Task<'_>],
    plan: &Plan,
    job: &Job<'_>,
    data: &mut DataWriter<'_>,
    index: &mut Index,
) -> Result<()> {
    let owners = &mut Owners::default();
    let mut rest = tasks;
    while let Some(first) = rest.first() {
        let is_small = |task: &Task<'_>| task.len() <= SMALL_SPAN_LEN;
        let small = rest.iter().take_while(|task| is_small(task)).count();
        let (now, later) = rest.split_at(small.max(1));
        if small > 0 {
            small::code(now, plan, owners, job, data, index)?;
        } else if pass_over(first, owners, job, data, index) {
            job.progress.advance(first.len());
        } else if !against::code_large(*first, plan, owners, job, data, index)? {
            code_large(*first, job, data, index)?;
        }
        rest = later;
    }
    Ok(())
}

/// Writes down in `index` what is known of a span, and passes over its bytes; false if not all of it is known. `owners` are those
/// of the tables that it uses, if these are not its own.
pub(super) fn pass_over(
    task: &Task<'_>,
    owners: &mut Owners,
    job: &Job<'_>,
    data: &mut DataWriter<'_>,
    index: &mut Index,
) -> bool {
    let Some(parts) = job.parts(task) else {
        return false;
    };
    for part in parts {
        if part.first == 0 {
            if let TablesOf::Family(pool) | TablesOf::Differences(pool) = part.tables {
                owners.claim(pool, &[], task.number, index);
            }
            index.spans[task.number].tables_len = part.tables_len;
        }
        pass_over_part(task, part, data, index);
    }
    true
}

fn pass_over_part(task: &Task<'_>, part: &Part, data: &mut DataWriter<'_>, index: &mut Index) {
    let start = index.spans[task.number].blocks.start + part.first;
    for (record, block) in index.blocks[start..].iter_mut().zip(&part.blocks) {
        *record = block_record(block, 0);
    }
    data.pass_to(part.end);
}

pub(super) fn code_large(
    task: Task<'_>,
    job: &Job<'_>,
    data: &mut DataWriter<'_>,
    index: &mut Index,
) -> Result<()> {
    let coder = coder_for(task, job)?;
    let block_len = task.grid.block_len();
    let code = |scratch: &mut EncodeScratch, start: u64, bytes: &[u8]| {
        let (mut out, mut blocks) = (Vec::new(), Vec::new());
        let starts = (start..).step_by(block_len as usize);
        for (start, block) in starts.zip(bytes.chunks(block_len as usize)) {
            let before = out.len();
            let codec = coder.encode(block, start, scratch, &mut out);
            blocks.push((codec, (out.len() - before) as u32, digest::xxh3(block)));
        }
        Ok(CodedBlocks { bytes: out, blocks })
    };
    code_pieces(
        task,
        (TablesOf::Span, coder.tables()),
        code,
        job,
        data,
        index,
    )
}

/// Codes a large span piece by piece with these tables; what is known of it is passed over.
pub(super) fn code_pieces(
    task: Task<'_>,
    (tables_of, tables): (TablesOf, &[u8]),
    code: impl Fn(&mut EncodeScratch, u64, &[u8]) -> Result<CodedBlocks> + Sync,
    job: &Job<'_>,
    data: &mut DataWriter<'_>,
    index: &mut Index,
) -> Result<()> {
    begin_span(&task, tables, data, index)?;
    let block_len = task.grid.block_len();
    let piece_len = PIECE_LEN.max(block_len);
    let known = |first: usize| job.known.part(task.number, first);
    let code = |scratch: &mut EncodeScratch, start: u64, bytes: &[u8]| {
        let is_known = known((start / block_len) as usize).is_some();
        let coded = (!is_known).then(|| code(scratch, start, bytes));
        Ok((bytes.len() as u64, coded.transpose()?))
    };
    in_pieces(task, piece_len, job, code, |number, piece: Result<_>| {
        let (len, coded) = piece?;
        let first = number * (piece_len / block_len) as usize;
        match (coded, known(first)) {
            (Some(coded), _) => {
                put_blocks(&task, first, &coded, data, index)?;
                data.note(&Part {
                    span: task.number,
                    first,
                    tables: tables_of,
                    tables_len: tables.len() as u32,
                    blocks: coded.blocks,
                    end: data.position(),
                });
            }
            (None, Some(part)) => pass_over_part(&task, part, data, index),
            (None, None) => unreachable!("what is not known was coded"),
        }
        job.progress.advance(len);
        Ok(())
    })
}

/// Reads a span piece by piece and does `work` on each, on all cores; the results go to `sink` in order.
pub(super) fn in_pieces<T: Send>(
    task: Task<'_>,
    piece_len: u64,
    job: &Job<'_>,
    work: impl Fn(&mut EncodeScratch, u64, &[u8]) -> T + Sync,
    sink: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    parallel::ordered(
        job.options.threads,
        task.len().div_ceil(piece_len) as usize,
        EncodeScratch::default,
        |scratch, number| {
            job.progress.check()?;
            let start = number as u64 * piece_len;
            let bytes = task.read(start, task.len().min(start + piece_len))?;
            Ok(work(scratch, start, &bytes))
        },
        sink,
    )
}

/// Looks at all of a large span: a sample finds the clusters, a count of everything the frequencies.
fn coder_for(task: Task<'_>, job: &Job<'_>) -> Result<SpanCoder> {
    let family = task.span.family();
    let profile = job.options.profile;
    if !SpanCoder::wants_analysis(family, profile, task.len()) {
        return Ok(SpanCoder::unanalysed(family, task.len()));
    }
    let sample = sample(task, SAMPLE_PIECES, SAMPLE_PIECE_LEN)?;
    let sample: Vec<&[u8]> = sample.iter().map(Vec::as_slice).collect();
    let mut scratch = EncodeScratch::default();
    let analysis = Analysis::new(family, profile, task.len(), &sample, &mut scratch);
    let mut counts = analysis.no_counts();
    let piece_len = PIECE_LEN.next_multiple_of(Transform::of(family).width() as u64);
    let count = |scratch: &mut EncodeScratch, _, bytes: &[u8]| {
        let mut counts = analysis.no_counts();
        analysis.count(bytes, &mut counts, scratch);
        counts
    };
    in_pieces(task, piece_len, job, count, |_, piece| {
        counts.add(&piece);
        Ok(())
    })?;
    Ok(analysis.finish(&counts))
}

/// At most `count` pieces of a large span, spread over all of it. Their length is a multiple of every element width and of a strip of
/// elements.
fn sample(task: Task<'_>, count: u64, len: u64) -> Result<Vec<Vec<u8>>> {
    let pieces = (task.len() / len).clamp(1, count);
    (0..pieces)
        .map(|number| {
            let start = (task.len() / len) * number / pieces * len;
            task.read(start, task.len().min(start + len))
        })
        .collect()
}

/// About how many bytes a large span takes without a base: a sample is coded, as only that tells what const and zstd make of it.
pub(super) fn alone_len(task: Task<'_>, options: &WriteOptions) -> Result<u64> {
    let sample = sample(task, TRIED_PIECES, TRIED_PIECE_LEN)?;
    let blocks: Vec<&[u8]> = sample.iter().map(Vec::as_slice).collect();
    let family = task.span.family();
    let scratch = &mut EncodeScratch::default();
    let coded = span::encode_span(family, options.profile, &blocks, scratch);
    let original: u64 = blocks.iter().map(|block| block.len() as u64).sum();
    Ok(coded.bytes.len() as u64 * task.len() / original + coded.tables.len() as u64)
}

/// Writes the tables of a span.
pub(super) fn begin_span(
    task: &Task<'_>,
    tables: &[u8],
    data: &mut DataWriter<'_>,
    index: &mut Index,
) -> Result<()> {
    if task.len() == 0 {
        return Ok(());
    }
    index.spans[task.number].tables_len = tables.len() as u32;
    data.pad_to(data.position().next_multiple_of(task.grid.align()))?;
    data.put(tables)?;
    data.pad_to(
        data.position()
            .next_multiple_of(crate::format::header::ALIGN),
    )
}

/// Writes blocks of a span, from `first` on.
pub(super) fn put_blocks(
    task: &Task<'_>,
    first: usize,
    coded: &CodedBlocks,
    data: &mut DataWriter<'_>,
    index: &mut Index,
) -> Result<()> {
    let mut rest = coded.bytes.as_slice();
    let start = index.spans[task.number].blocks.start + first;
    for (record, coded) in index.blocks[start..].iter_mut().zip(&coded.blocks) {
        let (block, after) = rest.split_at(coded.1 as usize);
        rest = after;
        *record = block_record(coded, data.position());
        data.put(block)?;
        data.pad_to(
            data.position()
                .next_multiple_of(crate::format::header::ALIGN),
        )?;
    }
    Ok(())
}

fn block_record(&(codec, coded_len, checksum): &(CodecId, u32, u64), offset: u64) -> BlockRecord {
    BlockRecord {
        checksum,
        offset,
        coded_len,
        codec,
        codec_version: codec.version(),
    }
}
