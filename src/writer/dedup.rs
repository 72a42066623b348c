//! Spans with the same bytes, such as a head tied to the embeddings or twelve equal masks: they are
//! stored once.

use std::collections::BTreeMap;

use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::base::parallel;
use crate::tensor::Span;
use crate::writer::source::Source;

/// Shorter spans are not looked at: there is little to save.
const LEN_MIN: u64 = 4 << 10;
/// How much is read, at the beginning and in the middle, to see which spans may be equal.
const LOOK_LEN: u64 = 4 << 10;
/// Bytes of a piece of two spans that are compared.
const PIECE_LEN: u64 = 512 << 10;

/// Longer spans are compared only in so many pieces where likeness is enough.
const WHOLE_LEN_MAX: u64 = 8 << 20;
const LIKELY_PIECES: u64 = 64;

/// Most different spans that look the same and are kept to compare later ones with.
const ALIKE_MAX: usize = 8;

/// A span and where its bytes come from.
#[derive(Clone, Copy)]
struct Candidate<'a> {
    number: usize,
    span: &'a Span,
    bytes: &'a dyn ReadAt,
}

impl Candidate<'_> {
    fn read(&self, start: u64, len: u64) -> Result<Vec<u8>> {
        let mut bytes = vec![0; len as usize];
        self.bytes
            .read_exact_at(self.span.start + start, &mut bytes)
            .map_err(|e| e.tensor(self.span.label()))?;
        Ok(bytes)
    }

    /// Length, and a digest of a few of the bytes: equal spans look the same.
    fn look(&self) -> Result<(u64, u64, u64)> {
        let len = self.span.len;
        let digest_at = |start| Ok(digest::xxh3(&self.read(start, LOOK_LEN)?));
        Ok((len, digest_at(0)?, digest_at((len - LOOK_LEN) / 2)?))
    }
}

/// For each span of the sources, in order, the first earlier one with the same bytes. Spans that
/// look the same are compared byte by byte.
pub(super) fn find(
    sources: &[Source],
    threads: usize,
    progress: &dyn Progress,
) -> Result<Vec<Option<usize>>> {
    find_by(sources, progress, |a, b| same(a, b, threads, progress))
}

/// The same, but spans that look the same are compared only here and there if they are long.
pub(super) fn find_likely(source: &Source, progress: &dyn Progress) -> Result<Vec<Option<usize>>> {
    find_by(std::slice::from_ref(source), progress, |a, b| {
        if a.span.len <= WHOLE_LEN_MAX {
            return same(a, b, 1, progress);
        }
        let step = a.span.len / LIKELY_PIECES;
        for start in (0..LIKELY_PIECES).map(|piece| piece * step) {
            if a.read(start, LOOK_LEN)? != b.read(start, LOOK_LEN)? {
                return Ok(false);
            }
        }
        Ok(true)
    })
}

fn find_by<'a>(
    sources: &'a [Source],
    progress: &dyn Progress,
    same: impl Fn(&Candidate<'a>, &Candidate<'a>) -> Result<bool>,
) -> Result<Vec<Option<usize>>> {
    let all = sources.iter().flat_map(|source| {
        let with_bytes = |span| (span, &*source.bytes);
        source.layout.spans.iter().map(with_bytes)
    });
    let mut repeats = Vec::new();
    let mut firsts: BTreeMap<(u64, u64, u64), Vec<Candidate<'_>>> = BTreeMap::new();
    for (number, (span, bytes)) in all.enumerate() {
        repeats.push(None);
        if span.len < LEN_MIN {
            continue;
        }
        progress.check()?;
        let candidate = Candidate {
            number,
            span,
            bytes,
        };
        let alike = firsts.entry(candidate.look()?).or_default();
        for first in &*alike {
            if same(first, &candidate)? {
                repeats[number] = Some(first.number);
                break;
            }
        }
        if repeats[number].is_none() && alike.len() < ALIKE_MAX {
            alike.push(candidate);
        }
    }
    Ok(repeats)
}

fn same(
    a: &Candidate<'_>,
    b: &Candidate<'_>,
    threads: usize,
    progress: &dyn Progress,
) -> Result<bool> {
    let mut equal = true;
    let pieces = a.span.len.div_ceil(PIECE_LEN) as usize;
    let different = std::sync::atomic::AtomicBool::new(false);
    let order = std::sync::atomic::Ordering::Relaxed;
    parallel::ordered(
        threads,
        pieces,
        || (),
        |(), number| {
            progress.check()?;
            if different.load(order) {
                return Ok(false);
            }
            let start = number as u64 * PIECE_LEN;
            let len = PIECE_LEN.min(a.span.len - start);
            let equal = a.read(start, len)? == b.read(start, len)?;
            different.fetch_or(!equal, order);
            Ok(equal)
        },
        |_, piece| {
            equal &= piece;
            Ok(())
        },
    )?;
    Ok(equal)
}
