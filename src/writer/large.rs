//! A large span alone: looked at as a whole, then coded block by block.

use crate::base::Result;
use crate::codec::Analysis;
use crate::codec::SpanCoder;
use crate::codec::Transform;
use crate::codec::encode::EncodeScratch;
use crate::writer::coded::CodedPiece;
use crate::writer::coded::Coding;
use crate::writer::coded::Strategy;
use crate::writer::journal::TablesOf;
use crate::writer::task::ImageJob;
use crate::writer::task::PIECE_LEN;
use crate::writer::task::Task;

/// How much of a span is looked at to find clusters, and in pieces of which length.
const SAMPLE_PIECES: u64 = 32;
const SAMPLE_PIECE_LEN: u64 = 128 << 10;

/// A span and the coder that was found for it.
pub(super) struct Large<'a> {
    task: Task<'a>,
    job: &'a ImageJob<'a>,
    coder: SpanCoder,
}

impl<'a> Large<'a> {
    /// Looks at all of a span: a sample finds the clusters, a count of everything the frequencies.
    pub(super) fn look(task: Task<'a>, job: &'a ImageJob<'a>) -> Result<Self> {
        let family = task.span.family();
        let coder = if SpanCoder::wants_analysis(family, job.profile, task.len()) {
            analysed(&task, job)?
        } else {
            SpanCoder::unanalysed(family, task.len())
        };
        Ok(Self { task, job, coder })
    }
}

fn analysed(task: &Task<'_>, job: &ImageJob<'_>) -> Result<SpanCoder> {
    let family = task.span.family();
    let sample = task.sample(SAMPLE_PIECES, SAMPLE_PIECE_LEN)?;
    let sample: Vec<&[u8]> = sample.iter().map(Vec::as_slice).collect();
    let mut scratch = EncodeScratch::default();
    let analysis = Analysis::new(family, job.profile, task.len(), &sample, &mut scratch);
    let mut counts = analysis.no_counts();
    let piece_len = PIECE_LEN.next_multiple_of(Transform::of(family).width() as u64);
    job.ordered(
        task.len().div_ceil(piece_len) as usize,
        |scratch, number| {
            let bytes = task.piece(piece_len, number)?;
            let mut counts = analysis.no_counts();
            analysis.count(&bytes, &mut counts, scratch);
            Ok(counts)
        },
        |_, piece| {
            counts.add(&piece);
            Ok(())
        },
    )?;
    Ok(analysis.finish(&counts))
}

impl Strategy for Large<'_> {
    fn pieces(&self) -> usize {
        self.task.len().div_ceil(self.task.piece_len()) as usize
    }

    fn code(&self, piece: usize, scratch: &mut EncodeScratch) -> Result<Vec<CodedPiece<'_>>> {
        let code = |start: u64, bytes: &[u8]| {
            let tables = (start == 0).then(|| self.coder.tables().to_vec());
            let mut coding = Coding::new(TablesOf::Span, tables.unwrap_or_default());
            let block_len = self.task.grid.block_len() as usize;
            let starts = (start..).step_by(block_len);
            for (start, block) in starts.zip(bytes.chunks(block_len)) {
                coding.add(block, |out| self.coder.encode(block, start, scratch, out));
            }
            Ok(coding)
        };
        Ok(vec![CodedPiece::of_large(
            &self.task, self.job, piece, code,
        )?])
    }

    fn shared_tables(&self, _: TablesOf) -> &[u8] {
        &[]
    }
}
