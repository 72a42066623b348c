//! Sections: the typed parts of the index (docs/format.md, section 4).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::base::Error;
use crate::base::Limits;
use crate::base::Result;
use crate::format::record::Reader;

pub(super) const FILES: u32 = 1;
pub(super) const SPANS: u32 = 2;
pub(super) const RECEIPTS: u32 = 3;
pub(super) const BLOCKS: u32 = 4;
pub(super) const BASES: u32 = 5;
pub(super) const BASE_PLACE: u32 = 6;
/// Behind 7, which is kept for parity.
pub(super) const MEMBERS: u32 = 8;

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

/// Splits the index into the payloads of the sections that this build knows.
pub(super) fn read_all(index: &[u8]) -> Result<BTreeMap<u32, Cow<'_, [u8]>>> {
    let mut reader = Reader::new(index, "index");
    let mut sections = BTreeMap::new();
    let mut last_tag = 0;
    while !reader.is_empty() {
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
        let stored = reader.take(stored_len as usize)?;
        let padded_len = stored_len.next_multiple_of(8);
        reader.take(padded_len.saturating_sub(stored_len) as usize)?;
        let known = (FILES..=BASE_PLACE).contains(&tag) || tag == MEMBERS;
        if !known || flags & !(REQUIRED | ZSTD) != 0 {
            if flags & REQUIRED != 0 {
                return Err(
                    Error::unsupported(format!("section {tag} of the index is not known"))
                        .hint("a newer `bigsmall` wrote this file: update"),
                );
            }
            continue;
        }
        if (RECEIPTS..=BLOCKS).contains(&tag) && flags & ZSTD != 0 {
            return Err(Error::damaged(format!(
                "section {tag} of the index may not be zstd"
            )));
        }
        sections.insert(tag, plain(stored, flags & ZSTD != 0, plain_len)?);
    }
    Ok(sections)
}

fn plain(stored: &[u8], is_frame: bool, plain_len: u64) -> Result<Cow<'_, [u8]>> {
    let wrong = || Error::damaged("a section of the index does not have the stated length");
    if !is_frame {
        return if stored.len() as u64 == plain_len {
            Ok(stored.into())
        } else {
            Err(wrong())
        };
    }
    if plain_len > Limits::FORMAT_1.shrunk_section_len_max {
        return Err(Error::over_limit(format!(
            "a zstd section of {plain_len} bytes"
        )));
    }
    let stated = zstd::zstd_safe::get_frame_content_size(stored);
    if !matches!(stated, Ok(Some(len)) if len == plain_len) {
        return Err(wrong());
    }
    match zstd::bulk::decompress(stored, plain_len as usize) {
        Ok(plain) if plain.len() as u64 == plain_len => Ok(plain.into()),
        _ => Err(wrong()),
    }
}
