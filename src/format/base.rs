//! The record of a base: a tensor, in another file, that a span is a difference from (docs/format.md, section 4.5).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use crate::base::Error;
use crate::base::Result;
use crate::format::record::Reader;
use crate::format::span::SpanRecord;
use crate::format::span::encode_reference;
use crate::format::span::parse_reference;

/// A base tensor. Its digest says which it is; the name only helps to find it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BaseRecord {
    /// BLAKE3-256 of its bytes.
    pub blake3: [u8; 32],
    /// Its name where it was found; empty if it is that of the spans that have this base.
    pub name: String,
}

impl BaseRecord {
    /// The same with its name, for a span that is called `span`.
    #[must_use]
    pub fn named(&self, span: &str) -> Self {
        let name = if self.name.is_empty() {
            span
        } else {
            &self.name
        };
        Self {
            blake3: self.blake3,
            name: name.to_owned(),
        }
    }
}

/// The payload of the section.
pub(super) fn encode(bases: &[BaseRecord], spans: &[SpanRecord]) -> Vec<u8> {
    let mut out = Vec::new();
    out.extend_from_slice(&(bases.len() as u32).to_le_bytes());
    for base in bases {
        out.extend_from_slice(&base.blake3);
        out.extend_from_slice(&(base.name.len() as u32).to_le_bytes());
        out.extend_from_slice(base.name.as_bytes());
    }
    for span in spans {
        out.extend_from_slice(&encode_reference(span.base));
    }
    out
}

/// Reads the payload and notes in each span its base.
pub(super) fn parse(reader: &mut Reader<'_>, spans: &mut [SpanRecord]) -> Result<Vec<BaseRecord>> {
    let count = reader.u32()?;
    let mut bases = Vec::new();
    for _ in 0..count {
        let blake3 = reader.digest()?;
        let name_len = reader.u32()?;
        let name = reader.text(name_len as usize)?;
        bases.push(BaseRecord { blake3, name });
    }
    for span in spans {
        span.base = parse_reference(reader)?;
        if span
            .base
            .is_some_and(|base| base >= bases.len() || span.repeats.is_some())
        {
            return Err(Error::damaged("a base that is not listed").tensor(span.span.label()));
        }
    }
    Ok(bases)
}
