//! A parity file: its header, and where in it what lies (docs/parity.md, section 2).

#![deny(clippy::indexing_slicing, reason = "hostile bytes")]

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::base::Error;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::parity::Layout;
use crate::parity::table;
use crate::parity::table::Table;

/// Bytes of the header, which is also the trailer.
pub const HEADER_LEN: u64 = 256;
/// So many of a file's first bytes tell it from its other versions, if it is an image: as many as
/// the header of one has.
pub const HEAD_LEN: u64 = 128;
/// The first bytes of a parity file.
pub const MAGIC: [u8; 8] = *b"\x89BigPar\n";
const VERSION: u16 = 1;
/// The code: Leopard over GF(2^16), of high rate, as the crate reed-solomon-simd 3 has it.
const CODE: u8 = 2;
const CHECKED_LEN: usize = 248;

/// What a parity file says of the file that it protects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// How that is cut.
    pub layout: Layout,
    /// BLAKE3 of it.
    pub blake3: [u8; 32],
    /// XXH3 of its first [`HEAD_LEN`] bytes, or of all if it is shorter; none if that is not said.
    pub head: Option<u64>,
}

impl Header {
    /// As it is written.
    pub fn encode(&self) -> [u8; HEADER_LEN as usize] {
        let layout = &self.layout;
        let mut bytes = Vec::with_capacity(HEADER_LEN as usize);
        bytes.extend(MAGIC);
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend([CODE, u8::try_from(layout.percent).unwrap_or(0)]);
        bytes.extend(layout.shard_len.to_le_bytes());
        bytes.extend(layout.data_len.to_le_bytes());
        bytes.extend(layout.set_count.to_le_bytes());
        bytes.extend(layout.parity_count.to_le_bytes());
        bytes.extend((table::table_len(layout) as u64).to_le_bytes());
        bytes.extend(self.blake3);
        bytes.extend(self.head.unwrap_or(0).to_le_bytes());
        bytes.resize(CHECKED_LEN, 0);
        bytes.extend(digest::xxh3(&bytes).to_le_bytes());
        let mut whole = [0; HEADER_LEN as usize];
        whole.copy_from_slice(&bytes);
        whole
    }

    fn parse(bytes: &[u8; HEADER_LEN as usize]) -> Result<Self> {
        let damaged = || Error::damaged("this is no parity file, or its beginning is damaged");
        let (checked, checksum) = bytes.split_at(CHECKED_LEN);
        let rest = checked.strip_prefix(&MAGIC).ok_or_else(damaged)?;
        let checksum = checksum.first_chunk().ok_or_else(damaged)?;
        if digest::xxh3(checked) != u64::from_le_bytes(*checksum) {
            return Err(damaged());
        }
        let mut rest = rest;
        let mut take = |len: usize| {
            let (field, after) = rest.split_at_checked(len).unwrap_or_default();
            rest = after;
            let bytes = field.iter().rev();
            bytes.fold(0_u64, |number, byte| number << 8 | u64::from(*byte))
        };
        let (version, code) = (take(2), take(1));
        if version != u64::from(VERSION) || code != u64::from(CODE) {
            let what = format!("parity of version {version} with code {code}");
            return Err(Error::unsupported(what).hint("a newer bigsmall may know it"));
        }
        let percent = take(1) as u32;
        let shard_len = take(4) as u32;
        let data_len = take(8);
        let layout = Layout {
            shard_len,
            data_len,
            set_count: take(4) as u32,
            parity_count: take(4) as u32,
            percent: if percent <= 100 { percent } else { 0 },
        };
        layout.check()?;
        if take(8) != table::table_len(&layout) as u64 {
            return Err(damaged());
        }
        let (blake3, rest) = rest.split_first_chunk().ok_or_else(damaged)?;
        let head = rest.first_chunk().ok_or_else(damaged)?;
        Ok(Self {
            layout,
            blake3: *blake3,
            // until 2026-11 these bytes were reserved
            head: Some(u64::from_le_bytes(*head)).filter(|head| *head != 0),
        })
    }
}

/// Whether a file begins or ends as a parity file does, whatever its state and version.
pub fn claims_to_be_parity(source: &dyn ReadAt) -> bool {
    let begins_at = |offset: u64| {
        let mut magic = [0; MAGIC.len()];
        source.read_exact_at(offset, &mut magic).is_ok() && magic == MAGIC
    };
    let trailer = source.len().checked_sub(HEADER_LEN);
    begins_at(0) || trailer.is_some_and(begins_at)
}

/// Where in a parity file its parts begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SidecarOffsets {
    /// Both copies of the table.
    pub tables: [u64; 2],
    /// The parity shards.
    pub parity: u64,
    /// The trailer.
    pub trailer: u64,
    /// The end.
    pub len: u64,
}

impl SidecarOffsets {
    /// Those of a layout.
    pub fn of(layout: &Layout) -> Self {
        let table_len = table::table_len(layout) as u64;
        let parity = HEADER_LEN + table_len;
        let second = parity + layout.parity_len();
        let trailer = second + table_len;
        Self {
            tables: [HEADER_LEN, second],
            parity,
            trailer,
            len: trailer + HEADER_LEN,
        }
    }
}

/// An open parity file.
#[derive(Debug)]
pub struct Sidecar {
    source: Arc<dyn ReadAt>,
    path: PathBuf,
    /// What it says of the file that it protects.
    pub header: Header,
    /// What the shards are known by.
    pub table: Table,
    /// What is wrong with it, in words; nothing that keeps it from being used.
    pub faults: Vec<String>,
}

impl Sidecar {
    /// Opens a parity file; `path` is for messages. One that was damaged is used as far as it goes.
    pub fn open(source: Arc<dyn ReadAt>, path: &Path) -> Result<Self> {
        Self::read(source, path).map_err(|e| e.file(path))
    }

    fn read(source: Arc<dyn ReadAt>, path: &Path) -> Result<Self> {
        let mut faults = Vec::new();
        let at = |offset: u64| {
            let mut bytes = [0; HEADER_LEN as usize];
            source.read_exact_at(offset, &mut bytes)?;
            Header::parse(&bytes)
        };
        let len = source.len();
        if len < HEADER_LEN {
            return Err(Error::damaged(format!("{len} bytes are no parity file")));
        }
        let (front, back) = (at(0), at(len - HEADER_LEN));
        let header = match (front, back) {
            (Ok(header), Ok(other)) if header == other => header,
            (Ok(header), _) => {
                faults.push("its end is damaged".to_owned());
                header
            }
            (Err(_), Ok(header)) => {
                faults.push("its beginning is damaged".to_owned());
                header
            }
            // the first error is the one that tells what the file is
            (Err(error), Err(_)) => return Err(error),
        };
        let offsets = SidecarOffsets::of(&header.layout);
        if len != offsets.len {
            let should = offsets.len;
            faults.push(format!("it should have {should} bytes and has {len}"));
        }
        let read = |offset: Option<u64>, len: usize| {
            let offset = offset?;
            // nothing is made room for that is not there
            let end = offset.checked_add(len as u64)?;
            let mut bytes = vec![
                0;
                if end <= source.len() {
                    len
                } else {
                    return None;
                }
            ];
            source.read_exact_at(offset, &mut bytes).ok()?;
            Some(bytes)
        };
        let of_copy = |copy: usize, start: u64| match copy {
            0 => offsets.tables.first()?.checked_add(start),
            // what was cut out or put in before it moved it
            _ => (offsets.tables.last()?.checked_add(start)?.checked_add(len))?
                .checked_sub(offsets.len),
        };
        let (table, damaged) = table::decode(&header.layout, |copy, start, len| {
            read(of_copy(copy, start), len)
        });
        if damaged > 0 {
            faults.push(format!("{damaged} chunks of its tables are damaged"));
        }
        Ok(Self {
            source,
            path: path.to_owned(),
            header,
            table,
            faults,
        })
    }

    /// Where it was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A part of parity shard `number`, from `start` on, wherever the whole shard stands in the
    /// file if that was moved. `shift` is what [`find_parity`](Self::find_parity) gave.
    pub(super) fn read_parity(
        &self,
        number: usize,
        shift: Shift,
        start: u64,
        out: &mut [u8],
    ) -> Result<()> {
        let offset = self
            .parity_offset(number, shift)
            .map(|offset| offset + start);
        let offset = offset.ok_or_else(|| Error::damaged("a parity shard is gone"))?;
        self.source
            .read_exact_at(offset, out)
            .map_err(|e| e.file(&self.path))
    }

    fn parity_offset(&self, number: usize, shift: Shift) -> Option<u64> {
        let layout = &self.header.layout;
        let offsets = SidecarOffsets::of(layout);
        let offset = offsets.parity + number as u64 * u64::from(layout.shard_len);
        match shift {
            Shift::Front => Some(offset),
            Shift::Back => (offset + self.source.len()).checked_sub(offsets.len),
        }
    }

    /// Where parity shard `number` is as it should be: counted from the beginning of the file or
    /// from its end; none if it is lost.
    pub(super) fn find_parity(&self, number: usize, buffer: &mut Vec<u8>) -> Option<Shift> {
        let hash = (*self.table.parity.get(number)?)?;
        buffer.resize(self.header.layout.shard_len as usize, 0);
        [Shift::Front, Shift::Back].into_iter().find(|&shift| {
            self.read_parity(number, shift, 0, buffer).is_ok() && digest::xxh3(buffer) == hash
        })
    }
}

/// From which end of a parity file its shards are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shift {
    Front,
    Back,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "no hostile bytes here")]
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let header = Header {
            layout: Layout::choose(12_345_678, 5).unwrap(),
            blake3: [7; 32],
            head: Some(11),
        };
        let bytes = header.encode();
        assert_eq!(Header::parse(&bytes).unwrap(), header);
        for at in 0..CHECKED_LEN + 8 {
            let mut bytes = bytes;
            bytes[at] ^= 4;
            assert!(Header::parse(&bytes).is_err(), "{at}");
        }
    }
}
