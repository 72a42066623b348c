//! A file as a row of spans without holes: the header, the tensors, other bytes.

use crate::base::ReadAt;
use crate::base::Result;
use crate::tensor::dtype;
use crate::tensor::dtype::Family;
use crate::tensor::header::Header;

/// What a span holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpanKind {
    /// The safetensors header with its 8-byte length, verbatim.
    Header,
    /// One tensor.
    Tensor,
    /// Anything else.
    Other,
}

/// A run of bytes of one file that is coded as one thing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// What it holds.
    pub kind: SpanKind,
    /// Dtype as safetensors spells it; empty unless a tensor.
    pub dtype: String,
    /// Tensor name; empty unless a tensor.
    pub name: String,
    /// Dimensions; empty unless a tensor.
    pub shape: Vec<u64>,
    /// First byte within the file.
    pub start: u64,
    /// Length in bytes.
    pub len: u64,
}

impl Span {
    /// A span that is no tensor.
    pub fn bytes(kind: SpanKind, start: u64, len: u64) -> Self {
        Self {
            kind,
            dtype: String::new(),
            name: String::new(),
            shape: Vec::new(),
            start,
            len,
        }
    }

    /// How its bits behave.
    pub fn family(&self) -> Family {
        match self.kind {
            SpanKind::Tensor => dtype::family(&self.dtype),
            SpanKind::Header | SpanKind::Other => Family::Bytes(1),
        }
    }

    /// What to call it in messages.
    pub fn label(&self) -> &str {
        match self.kind {
            SpanKind::Header => "(header)",
            SpanKind::Tensor => &self.name,
            SpanKind::Other => "(bytes)",
        }
    }
}

/// All spans of one file, in order, without holes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// The spans.
    pub spans: Vec<Span>,
    /// Length of the file in bytes.
    pub len: u64,
    /// Whether it is a safetensors file.
    pub is_safetensors: bool,
}

impl Layout {
    /// The layout of a safetensors file, checked as the safetensors library checks it, but for
    /// bytes that stand after the last tensor.
    pub fn of_safetensors(source: &dyn ReadAt) -> Result<Self> {
        let (header, end) = Header::read_to_end(source)?;
        let mut spans = vec![Span::bytes(SpanKind::Header, 0, header.len)];
        spans.extend(header.tensors.into_iter().map(|tensor| Span {
            kind: SpanKind::Tensor,
            dtype: tensor.dtype,
            name: tensor.name,
            shape: tensor.shape,
            start: tensor.start,
            len: tensor.len,
        }));
        if end < source.len() {
            spans.push(Span::bytes(SpanKind::Other, end, source.len() - end));
        }
        Ok(Self {
            spans,
            len: source.len(),
            is_safetensors: true,
        })
    }

    /// How many bytes stand after the last tensor, where the safetensors library allows none.
    pub fn trailing(&self) -> u64 {
        let last = self.spans.last().filter(|_| self.is_safetensors);
        last.map_or(0, |span| match span.kind {
            SpanKind::Other => span.len,
            SpanKind::Header | SpanKind::Tensor => 0,
        })
    }

    /// The layout of any other file.
    pub fn of_bytes(len: u64) -> Self {
        Self {
            spans: vec![Span::bytes(SpanKind::Other, 0, len)],
            len,
            is_safetensors: false,
        }
    }
}
