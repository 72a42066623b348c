//! What of an image was coded so far, kept in a file beside it while it is written. A run that was interrupted, by whatever, goes
//! on from there: what the journal says and the image has is coded already, and nothing else counts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::os::unix::fs::FileExt;

use crate::base::CodecId;
use crate::base::Error;
use crate::base::OutputFile;
use crate::base::Result;
use crate::base::digest;
use crate::base::digest::Xxh3;

const MAGIC: [u8; 8] = *b"BSJOUR01";
const HEAD_LEN: usize = MAGIC.len() + 32;
/// Bytes of the image that are read at once when they are compared.
const PIECE_LEN: u64 = 1 << 20;

/// Whose tables a coded span uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TablesOf {
    /// Its own, or none.
    Span,
    /// Those of a pool of spans of one family.
    Family(usize),
    /// Those of a pool of differences.
    Differences(usize),
}

/// Some blocks of a span, coded; with the first of them also the tables.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    /// Number of the span in the index.
    pub(super) span: usize,
    /// Number of the first block within the span.
    pub(super) first: usize,
    /// Whose tables it uses.
    pub(super) tables: TablesOf,
    /// How long the span's own tables are.
    pub(super) tables_len: u32,
    /// Codec, coded length and checksum of each block.
    pub(super) blocks: Vec<(CodecId, u32, u64)>,
    /// Where in the image the next byte goes.
    pub(super) end: u64,
}

/// Parts that an interrupted run has left.
#[derive(Debug, Default)]
pub(super) struct Known {
    parts: BTreeMap<(usize, usize), Part>,
    /// Bytes of the image that count; 0 if nothing is known.
    pub(super) end: u64,
}

impl Known {
    /// The part of a span that begins with block `first`.
    pub(super) fn part(&self, span: usize, first: usize) -> Option<&Part> {
        self.parts.get(&(span, first))
    }

    /// All parts of a span of so many blocks; none if some are missing.
    pub(super) fn whole(&self, span: usize, blocks: usize) -> Option<Vec<&Part>> {
        let parts: Vec<&Part> = self
            .parts
            .range((span, 0)..(span + 1, 0))
            .map(|p| p.1)
            .collect();
        let known: usize = parts.iter().map(|part| part.blocks.len()).sum();
        (known == blocks && !parts.is_empty()).then_some(parts)
    }
}

/// The journal of an output.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Parts whose bytes are not written yet.
    pending: Vec<u8>,
    /// Of the image's bytes since the last part.
    hasher: Xxh3,
}

impl Journal {
    /// Opens the journal of `output` for a job, and what is known of that job already. `begin` is where parts begin in the image.
    pub(super) fn open(
        output: &mut OutputFile,
        job: &[u8; 32],
        begin: u64,
    ) -> Result<(Self, Known)> {
        let target = output.target().to_owned();
        let failed = |e| Error::io("cannot keep a journal of", &target, e);
        let mut file = output.journal()?.try_clone().map_err(failed)?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        file.read_to_end(&mut bytes).map_err(failed)?;
        let head = [&MAGIC[..], job].concat();
        let mut known = Known::default();
        let mut valid_len = 0;
        if bytes.starts_with(&head) {
            valid_len = read(&bytes, output.file(), begin, &mut known);
        } else {
            known.end = 0;
        }
        file.set_len(valid_len as u64).map_err(failed)?;
        file.seek(SeekFrom::Start(valid_len as u64))
            .map_err(failed)?;
        if valid_len == 0 {
            file.write_all(&head).map_err(failed)?;
        }
        let journal = Self {
            file,
            pending: Vec::new(),
            hasher: Xxh3::default(),
        };
        Ok((journal, known))
    }

    /// Takes bytes that go into the image.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Notes a part that ends with the bytes taken last.
    pub(super) fn note(&mut self, part: &Part) {
        let checksum = std::mem::take(&mut self.hasher).finish();
        let payload = encode(part, checksum);
        self.pending.extend((payload.len() as u32).to_le_bytes());
        self.pending.extend(digest::xxh3(&payload).to_le_bytes());
        self.pending.extend(payload);
    }

    /// Writes what was noted: the bytes of those parts are in the image now.
    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        self.file.write_all(&self.pending)?;
        self.pending.clear();
        Ok(())
    }
}

fn encode(part: &Part, checksum: u64) -> Vec<u8> {
    let (kind, pool) = match part.tables {
        TablesOf::Span => (0, 0),
        TablesOf::Family(pool) => (1, pool),
        TablesOf::Differences(pool) => (2, pool),
    };
    let mut out = vec![kind];
    for number in [part.span, part.first, pool, part.tables_len as usize] {
        out.extend((number as u32).to_le_bytes());
    }
    out.extend(part.end.to_le_bytes());
    out.extend(checksum.to_le_bytes());
    for (codec, len, checksum) in &part.blocks {
        out.push(codec.0);
        out.extend(len.to_le_bytes());
        out.extend(checksum.to_le_bytes());
    }
    out
}

fn decode(payload: &[u8]) -> Option<(Part, u64)> {
    let (&kind, rest) = payload.split_first()?;
    let (numbers, rest) = rest.split_first_chunk::<16>()?;
    let (end, rest) = rest.split_first_chunk::<8>()?;
    let (checksum, rest) = rest.split_first_chunk::<8>()?;
    let number = |at: usize| u32::from_le_bytes(numbers.as_chunks::<4>().0[at]);
    let pool = number(2) as usize;
    let (blocks, left) = rest.as_chunks::<13>();
    let block = |[codec, rest @ ..]: &[u8; 13]| {
        let (len, checksum) = rest.split_first_chunk::<4>()?;
        let checksum = checksum.first_chunk::<8>()?;
        let (len, checksum) = (u32::from_le_bytes(*len), u64::from_le_bytes(*checksum));
        Some((CodecId(*codec), len, checksum))
    };
    let part = Part {
        span: number(0) as usize,
        first: number(1) as usize,
        tables: match kind {
            0 => TablesOf::Span,
            1 => TablesOf::Family(pool),
            2 => TablesOf::Differences(pool),
            _ => return None,
        },
        tables_len: number(3),
        blocks: blocks.iter().map(block).collect::<Option<_>>()?,
        end: u64::from_le_bytes(*end),
    };
    left.is_empty()
        .then_some((part, u64::from_le_bytes(*checksum)))
}

/// Reads all parts whose bytes the image has; the length of the journal up to the last of them.
fn read(bytes: &[u8], image: &File, begin: u64, known: &mut Known) -> usize {
    let mut rest = &bytes[HEAD_LEN..];
    let mut at = begin;
    let mut valid_len = HEAD_LEN;
    while let Some((part, checksum, after)) = next(rest) {
        if part.end < at || checksum_of(image, at, part.end) != Some(checksum) {
            break;
        }
        at = part.end;
        valid_len += rest.len() - after.len();
        rest = after;
        known.end = at;
        known.parts.insert((part.span, part.first), part);
    }
    valid_len
}

fn next(rest: &[u8]) -> Option<(Part, u64, &[u8])> {
    let (len, rest) = rest.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<8>()?;
    let (payload, rest) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
    if digest::xxh3(payload) != u64::from_le_bytes(*checksum) {
        return None;
    }
    let (part, checksum) = decode(payload)?;
    Some((part, checksum, rest))
}

fn checksum_of(image: &File, start: u64, end: u64) -> Option<u64> {
    let (mut hasher, mut at) = (Xxh3::default(), start);
    let mut buffer = vec![0; PIECE_LEN.min(end - start) as usize];
    while at < end {
        let len = (end - at).min(PIECE_LEN) as usize;
        image.read_exact_at(&mut buffer[..len], at).ok()?;
        hasher.update(&buffer[..len]);
        at += len as u64;
    }
    Some(hasher.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_image_has_is_known() {
        let folder = tempfile::tempdir().unwrap();
        let mut output = OutputFile::create(&folder.path().join("x.bs"), false).unwrap();
        let parts: Vec<Part> = (0..5)
            .map(|number| Part {
                span: number / 2,
                first: number % 2,
                tables: [
                    TablesOf::Span,
                    TablesOf::Family(3),
                    TablesOf::Differences(7),
                ][number % 3],
                tables_len: 9,
                blocks: vec![(CodecId(4), 100, 5); number + 1],
                end: 128 + 100 * (number as u64 + 1),
            })
            .collect();
        output.write(&[0; 128]).unwrap();
        let (mut journal, known) = Journal::open(&mut output, &[1; 32], 128).unwrap();
        assert_eq!(known.end, 0);
        for part in &parts {
            let bytes = [part.first as u8; 100];
            journal.take(&bytes);
            journal.note(part);
            output.write(&bytes).unwrap();
        }
        journal.flush().unwrap();
        let known =
            |output: &mut OutputFile, job| Journal::open(output, &[job; 32], 128).unwrap().1;
        let all = known(&mut output, 1);
        assert_eq!(all.end, 628);
        assert_eq!(all.part(1, 1), Some(&parts[3]));
        assert_eq!(all.whole(0, 3).unwrap(), [&parts[0], &parts[1]]);
        assert!(all.whole(2, 6).is_none() && all.whole(3, 0).is_none());
        // a part of which a byte is another does not count, nor does what follows
        output.write_at(128 + 250, &[9]).unwrap();
        assert_eq!(known(&mut output, 1).end, 328);
        assert_eq!(known(&mut output, 1).end, 328);
        assert_eq!(known(&mut output, 2).end, 0);
        assert_eq!(known(&mut output, 1).end, 0);
    }
}
