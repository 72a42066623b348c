//! What of an image was coded so far, kept in a file beside it while it is written. A run that was
//! interrupted, by whatever, goes on from there: what the journal says and the image has is coded
//! already, and nothing else counts.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::os::unix::fs::FileExt;

use crate::base::ByteReader;
use crate::base::CodecId;
use crate::base::Error;
use crate::base::OutputFile;
use crate::base::Result;
use crate::base::digest;
use crate::base::digest::Xxh3;
use crate::format::BlockRecord;

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
pub(super) struct Entry {
    /// Number of the span in the index.
    pub(super) span: usize,
    /// Number of the first block within the span.
    pub(super) first: usize,
    /// Whose tables it uses.
    pub(super) tables: TablesOf,
    /// How long the span's own tables are.
    pub(super) tables_len: u32,
    /// Of each block what is stored of it: codec, coded length and checksum.
    pub(super) blocks: Vec<BlockRecord>,
    /// Where in the image the next byte goes.
    pub(super) end: u64,
}

/// What an interrupted run has left.
#[derive(Debug, Default)]
pub(super) struct Resumed {
    entries: BTreeMap<(usize, usize), Entry>,
    /// Bytes of the image that count; 0 if there are none.
    pub(super) end: u64,
}

impl Resumed {
    /// What is left of a span from block `first` on.
    pub(super) fn entry(&self, span: usize, first: usize) -> Option<&Entry> {
        self.entries.get(&(span, first))
    }

    /// All that is left of a span of so many blocks; none if some are missing.
    pub(super) fn whole(&self, span: usize, blocks: usize) -> Option<Vec<&Entry>> {
        let of_span = self.entries.range((span, 0)..(span + 1, 0));
        let entries: Vec<&Entry> = of_span.map(|(_, entry)| entry).collect();
        let left: usize = entries.iter().map(|entry| entry.blocks.len()).sum();
        (left == blocks && !entries.is_empty()).then_some(entries)
    }
}

/// The journal of an output.
#[derive(Debug)]
pub(super) struct Journal {
    file: File,
    /// Entries whose bytes are not written yet.
    pending: Vec<u8>,
    /// Of the image's bytes since the last entry.
    hasher: Xxh3,
}

impl Journal {
    /// Opens the journal of `output` for a job, and what an earlier run of that has left. `begin`
    /// is where entries begin in the image.
    pub(super) fn open(
        output: &mut OutputFile,
        job: &[u8; 32],
        begin: u64,
    ) -> Result<(Self, Resumed)> {
        let target = output.target().to_owned();
        let failed = |e| Error::io("cannot keep a journal of", &target, e);
        let mut file = output.journal()?.try_clone().map_err(failed)?;
        let mut bytes = Vec::new();
        file.seek(SeekFrom::Start(0)).map_err(failed)?;
        file.read_to_end(&mut bytes).map_err(failed)?;
        let head = [&MAGIC[..], job].concat();
        let mut resumed = Resumed::default();
        let mut valid_len = 0;
        if bytes.starts_with(&head) {
            valid_len = read(&bytes, output.file(), begin, &mut resumed);
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
        Ok((journal, resumed))
    }

    /// Takes bytes that go into the image.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
    }

    /// Notes an entry that ends with the bytes taken last.
    pub(super) fn note(&mut self, entry: &Entry) {
        let checksum = std::mem::take(&mut self.hasher).finish();
        let payload = encode(entry, checksum);
        self.pending.extend((payload.len() as u32).to_le_bytes());
        self.pending.extend(digest::xxh3(&payload).to_le_bytes());
        self.pending.extend(payload);
    }

    /// Writes what was noted: the bytes of those entries are in the image now.
    pub(super) fn flush(&mut self) -> std::io::Result<()> {
        self.file.write_all(&self.pending)?;
        self.pending.clear();
        Ok(())
    }
}

fn encode(entry: &Entry, checksum: u64) -> Vec<u8> {
    let (kind, pool) = match entry.tables {
        TablesOf::Span => (0, 0),
        TablesOf::Family(pool) => (1, pool),
        TablesOf::Differences(pool) => (2, pool),
    };
    let mut out = vec![kind];
    for number in [entry.span, entry.first, pool, entry.tables_len as usize] {
        out.extend((number as u32).to_le_bytes());
    }
    out.extend(entry.end.to_le_bytes());
    out.extend(checksum.to_le_bytes());
    for block in &entry.blocks {
        out.push(block.codec.0);
        out.extend(block.coded_len.to_le_bytes());
        out.extend(block.checksum.to_le_bytes());
    }
    out
}

/// An entry, and the checksum of the bytes of the image that it is of.
fn decode(payload: &[u8]) -> Result<(Entry, u64)> {
    let mut reader = ByteReader::new(payload, "journal");
    let kind = reader.u8()?;
    let (span, first) = (reader.u32()? as usize, reader.u32()? as usize);
    let (pool, tables_len) = (reader.u32()? as usize, reader.u32()?);
    let (end, checksum) = (reader.u64()?, reader.u64()?);
    let mut blocks = Vec::new();
    while !reader.is_empty() {
        let codec = CodecId(reader.u8()?);
        blocks.push(BlockRecord {
            codec,
            codec_version: codec.version(),
            coded_len: reader.u32()?,
            checksum: reader.u64()?,
            offset: 0,
        });
    }
    let entry = Entry {
        span,
        first,
        tables: match kind {
            0 => TablesOf::Span,
            1 => TablesOf::Family(pool),
            2 => TablesOf::Differences(pool),
            _ => return Err(Error::damaged("an entry of the journal of no known kind")),
        },
        tables_len,
        blocks,
        end,
    };
    Ok((entry, checksum))
}

/// Reads all entries whose bytes the image has; the length of the journal up to the last of them.
fn read(bytes: &[u8], image: &File, begin: u64, resumed: &mut Resumed) -> usize {
    let mut reader = ByteReader::new(&bytes[HEAD_LEN..], "journal");
    let mut at = begin;
    let mut valid_len = HEAD_LEN;
    while let Ok((entry, checksum)) = next(&mut reader) {
        if entry.end < at || checksum_of(image, at, entry.end) != Some(checksum) {
            break;
        }
        at = entry.end;
        valid_len = bytes.len() - reader.rest().len();
        resumed.end = at;
        resumed.entries.insert((entry.span, entry.first), entry);
    }
    valid_len
}

fn next(reader: &mut ByteReader<'_>) -> Result<(Entry, u64)> {
    let (len, checksum) = (reader.u32()?, reader.u64()?);
    let payload = reader.take(len as usize)?;
    if digest::xxh3(payload) != checksum {
        return Err(Error::damaged("the checksum of an entry differs"));
    }
    decode(payload)
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
        let block = BlockRecord {
            checksum: 5,
            offset: 0,
            coded_len: 100,
            codec: CodecId::R16,
            codec_version: CodecId::R16.version(),
        };
        let entries: Vec<Entry> = (0..5)
            .map(|number| Entry {
                span: number / 2,
                first: number % 2,
                tables: [
                    TablesOf::Span,
                    TablesOf::Family(3),
                    TablesOf::Differences(7),
                ][number % 3],
                tables_len: 9,
                blocks: vec![block; number + 1],
                end: 128 + 100 * (number as u64 + 1),
            })
            .collect();
        output.write(&[0; 128]).unwrap();
        let (mut journal, known) = Journal::open(&mut output, &[1; 32], 128).unwrap();
        assert_eq!(known.end, 0);
        for entry in &entries {
            let bytes = [entry.first as u8; 100];
            journal.take(&bytes);
            journal.note(entry);
            output.write(&bytes).unwrap();
        }
        journal.flush().unwrap();
        let known =
            |output: &mut OutputFile, job| Journal::open(output, &[job; 32], 128).unwrap().1;
        let all = known(&mut output, 1);
        assert_eq!(all.end, 628);
        assert_eq!(all.entry(1, 1), Some(&entries[3]));
        assert_eq!(all.whole(0, 3).unwrap(), [&entries[0], &entries[1]]);
        assert!(all.whole(2, 6).is_none() && all.whole(3, 0).is_none());
        // an entry of which a byte is another does not count, nor does what follows
        output.write_at(128 + 250, &[9]).unwrap();
        assert_eq!(known(&mut output, 1).end, 328);
        assert_eq!(known(&mut output, 1).end, 328);
        assert_eq!(known(&mut output, 2).end, 0);
        assert_eq!(known(&mut output, 1).end, 0);
    }
}
