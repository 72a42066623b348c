//! The record of a base: a tensor, in another file, that a span is a difference from
//! (docs/format.md, section 4.5).

use crate::format::span::SpanRecord;
use crate::format::span::encode_reference;

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
