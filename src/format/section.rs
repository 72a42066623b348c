//! Sections: the typed parts of the index (docs/format.md, section 4).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use std::collections::BTreeMap;
use std::ops::Range;

use crate::base::ByteReader;
use crate::base::Error;
use crate::base::Limits;
use crate::base::ReadAt;
use crate::base::Result;
use crate::format::stream::Stream;

pub(super) const FILES: u32 = 1;
pub(super) const SPANS: u32 = 2;
pub(super) const RECEIPTS: u32 = 3;
pub(super) const BLOCKS: u32 = 4;
pub(super) const BASES: u32 = 5;
pub(super) const BASE_PLACE: u32 = 6;
/// Behind 7, which is kept for parity.
pub(super) const MEMBERS: u32 = 8;

/// Bytes before a payload.
const HEADER_LEN: usize = 24;

const REQUIRED: u32 = 1;
const ZSTD: u32 = 2;
/// Shorter payloads stay plain: there is next to nothing to gain, and they stay readable.
const SHRINK_LEN_MIN: usize = 512;
/// zstd level of FILES and SPANS; they are small.
const LEVEL: i32 = 9;

/// Appends a section. With `may_shrink` its payload is stored as a zstd frame if that is smaller.
pub(super) fn write(tag: u32, payload: &[u8], may_shrink: bool, out: &mut Vec<u8>) {
    write_flagged(tag, REQUIRED, payload, may_shrink, out);
}

/// Appends a section that a reader may pass over.
pub(super) fn write_optional(tag: u32, payload: &[u8], may_shrink: bool, out: &mut Vec<u8>) {
    write_flagged(tag, 0, payload, may_shrink, out);
}

fn write_flagged(tag: u32, flag: u32, payload: &[u8], may_shrink: bool, out: &mut Vec<u8>) {
    let lens = SHRINK_LEN_MIN..=Limits::FORMAT_1.shrunk_section_len_max as usize;
    let may_shrink = may_shrink && lens.contains(&payload.len());
    let frame = may_shrink
        .then(|| zstd::bulk::compress(payload, LEVEL).ok())
        .flatten();
    let frame = frame.filter(|frame| frame.len() < payload.len());
    let (stored, flags) = match &frame {
        Some(frame) => (frame.as_slice(), flag | ZSTD),
        None => (payload, flag),
    };
    out.extend_from_slice(&tag.to_le_bytes());
    out.extend_from_slice(&flags.to_le_bytes());
    out.extend_from_slice(&(stored.len() as u64).to_le_bytes());
    out.extend_from_slice(&(payload.len() as u64).to_le_bytes());
    out.extend_from_slice(stored);
    out.resize(out.len().next_multiple_of(8), 0);
}

/// Where a section's payload lies.
#[derive(Debug, Clone, Copy)]
pub(super) struct Section {
    pub(super) at: u64,
    stored_len: u64,
    plain_len: u64,
    is_frame: bool,
}

impl Section {
    /// Its payload, from first to last.
    pub(super) fn stream<'a>(
        &self,
        source: &'a dyn ReadAt,
        what: &'static str,
    ) -> Result<Stream<'a>> {
        let stored = (self.at, self.stored_len);
        Stream::new(source, stored, self.plain_len, self.is_frame, what)
    }

    fn check(&self, tag: u32) -> Result<()> {
        if (RECEIPTS..=BLOCKS).contains(&tag) && self.is_frame {
            return Err(Error::damaged(format!(
                "section {tag} of the index may not be zstd"
            )));
        }
        if self.is_frame && self.plain_len > Limits::FORMAT_1.shrunk_section_len_max {
            return Err(Error::over_limit(format!(
                "a zstd section of {} bytes",
                self.plain_len
            )));
        }
        Ok(())
    }
}

/// The sections that this build knows of the index at these bytes of `source`.
pub(super) fn list(source: &dyn ReadAt, index: Range<u64>) -> Result<BTreeMap<u32, Section>> {
    let mut sections = BTreeMap::new();
    let (mut at, mut last_tag) = (index.start, 0);
    while at < index.end {
        let mut header = [0; HEADER_LEN];
        let payload = at.saturating_add(HEADER_LEN as u64);
        if payload > index.end {
            return Err(ends_too_soon());
        }
        source.read_exact_at(at, &mut header)?;
        let mut reader = ByteReader::new(&header, "index");
        let (tag, flags) = (reader.u32()?, reader.u32()?);
        let (stored_len, plain_len) = (reader.u64()?, reader.u64()?);
        if tag <= last_tag {
            return Err(Error::damaged("the sections of the index are out of order"));
        }
        last_tag = tag;
        let limit = Limits::FORMAT_1.index_len_max;
        if stored_len > limit || plain_len > limit {
            return Err(Error::over_limit(format!("a section of {plain_len} bytes")));
        }
        at = payload.saturating_add(stored_len.next_multiple_of(8));
        if at > index.end {
            return Err(ends_too_soon());
        }
        if is_known(tag, flags)? {
            let section = Section {
                at: payload,
                stored_len,
                plain_len,
                is_frame: flags & ZSTD != 0,
            };
            section.check(tag)?;
            sections.insert(tag, section);
        }
    }
    Ok(sections)
}

/// Whether a section is read; one that is not may be passed over, or is an error.
fn is_known(tag: u32, flags: u32) -> Result<bool> {
    let is_ours = (FILES..=BASE_PLACE).contains(&tag) || tag == MEMBERS;
    if is_ours && flags & !(REQUIRED | ZSTD) == 0 {
        return Ok(true);
    }
    if flags & REQUIRED == 0 {
        return Ok(false);
    }
    let error = Error::unsupported(format!("section {tag} of the index is not known"));
    Err(error.hint("a newer `bigsmall` wrote this file: update"))
}

fn ends_too_soon() -> Error {
    Error::damaged("the index ends too soon")
}
