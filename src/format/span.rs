//! The record of a span (docs/format.md, section 4.2).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use crate::base::ByteReader;
use crate::base::Error;
use crate::base::Result;
use crate::format::location::Grid;
use crate::tensor::Span;
use crate::tensor::SpanKind;
use crate::tensor::dtype;

/// Bytes of the record of a span without dtype, name and shape.
pub(super) const SPAN_LEN_MIN: usize = 24;
const SHIFTS: std::ops::RangeInclusive<u8> = 16..=20;
const LANES_SHIFTS: std::ops::RangeInclusive<u8> = 5..=6;

/// One span.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpanRecord {
    /// What it holds, and where within its file.
    pub span: Span,
    /// log2 of the original bytes of a block.
    pub block_shift: u8,
    /// log2 of the lanes of R16 and R32 blocks.
    pub lanes_shift: u8,
    /// md5 of its bytes.
    pub md5: [u8; 16],
    /// The earlier span in [`Index::spans`](crate::format::Index::spans) whose bytes these are: its
    /// tables and blocks serve both.
    pub repeats: Option<usize>,
    /// Its base in [`Index::bases`](crate::format::Index::bases).
    pub base: Option<usize>,
    /// The earlier span in [`Index::spans`](crate::format::Index::spans) whose tables it uses.
    pub tables_of: Option<usize>,
    /// Bytes of its tables.
    pub tables_len: u32,
    /// Where its tables begin in the image.
    pub tables_offset: u64,
    /// Its blocks within [`Index::blocks`](crate::format::Index::blocks).
    pub blocks: std::ops::Range<usize>,
}

impl SpanRecord {
    /// A span that is still to be coded, with 64 lanes.
    pub fn new(span: Span, block_shift: u8) -> Self {
        Self {
            span,
            block_shift,
            lanes_shift: 6,
            md5: [0; 16],
            repeats: None,
            base: None,
            tables_of: None,
            tables_len: 0,
            tables_offset: 0,
            blocks: 0..0,
        }
    }

    /// How it is cut into blocks.
    pub fn grid(&self) -> Grid {
        Grid {
            len: self.span.len,
            block_shift: self.block_shift,
            lanes_shift: self.lanes_shift,
        }
    }

    /// Original bytes of a block, the last apart.
    pub fn block_len(&self) -> u64 {
        self.grid().block_len()
    }

    /// Lanes of R16 and R32 blocks.
    pub fn lanes(&self) -> usize {
        self.grid().lanes()
    }

    /// The span whose bytes or tables serve this one, too.
    pub fn served_by(&self) -> Option<usize> {
        self.repeats.or(self.tables_of)
    }

    pub(super) fn block_count(&self) -> u64 {
        self.grid().block_count()
    }

    /// Original bytes of the block with this number within the span, as a range of the span.
    pub fn block_range(&self, number: u64) -> std::ops::Range<u64> {
        self.grid().block_range(number)
    }

    /// Where its tables begin: a multiple of this.
    pub fn align(&self) -> u64 {
        self.grid().align()
    }
}

/// Appends the record of a span.
pub(super) fn encode_span(record: &SpanRecord, out: &mut Vec<u8>) {
    let span = &record.span;
    let kind = match span.kind {
        SpanKind::Header => 0,
        SpanKind::Tensor => 1,
        SpanKind::Other => 2,
    };
    out.extend_from_slice(&[
        kind,
        record.block_shift,
        record.lanes_shift,
        span.dtype.len() as u8,
    ]);
    out.extend_from_slice(&(span.shape.len() as u16).to_le_bytes());
    out.extend_from_slice(&[0; 2]);
    out.extend_from_slice(&(span.name.len() as u32).to_le_bytes());
    out.extend_from_slice(&encode_reference(record.repeats));
    out.extend_from_slice(&span.len.to_le_bytes());
    out.extend_from_slice(span.dtype.as_bytes());
    out.extend_from_slice(span.name.as_bytes());
    for dim in &span.shape {
        out.extend_from_slice(&dim.to_le_bytes());
    }
}

/// A span's number as it is written: 0 for none.
pub(super) fn encode_reference(number: Option<usize>) -> [u8; 4] {
    number
        .map_or(0, |number| (number as u32).saturating_add(1))
        .to_le_bytes()
}

/// Reads what [`encode_reference`] has written.
pub(super) fn parse_reference(reader: &mut ByteReader<'_>) -> Result<Option<usize>> {
    let number = reader.u32()?.checked_sub(1);
    Ok(number.map(|number| number as usize))
}

/// Bytes of the record of a span, whose first [`SPAN_LEN_MIN`] these are.
pub(super) fn span_record_len(beginning: &[u8]) -> Result<usize> {
    let mut reader = ByteReader::new(beginning, "list of spans");
    reader.take(3)?;
    let dtype_len = usize::from(reader.u8()?);
    let shape_len = usize::from(reader.u16()?).saturating_mul(8);
    reader.take(2)?;
    let name_len = reader.u32()? as usize;
    let lens = [SPAN_LEN_MIN, dtype_len, shape_len, name_len];
    Ok(lens.into_iter().fold(0, usize::saturating_add))
}

/// Reads the record of a span that begins at `start` of its file.
pub(super) fn parse_span(reader: &mut ByteReader<'_>, start: u64) -> Result<SpanRecord> {
    let (kind, block_shift, lanes_shift) = (reader.u8()?, reader.u8()?, reader.u8()?);
    let dtype_len = reader.u8()?;
    let rank = reader.u16()?;
    reader.take(2)?;
    let name_len = reader.u32()?;
    let repeats = parse_reference(reader)?;
    let len = reader.u64()?;
    let dtype = reader.text(usize::from(dtype_len))?;
    let name = reader.text(name_len as usize)?;
    let shape: Vec<u64> = (0..rank).map(|_| reader.u64()).collect::<Result<_>>()?;
    let kind = match kind {
        0 => SpanKind::Header,
        1 => SpanKind::Tensor,
        2 => SpanKind::Other,
        other => return Err(Error::damaged(format!("a span of unknown kind {other}"))),
    };
    let span = Span {
        kind,
        dtype,
        name,
        shape,
        start,
        len,
    };
    if !SHIFTS.contains(&block_shift) || !LANES_SHIFTS.contains(&lanes_shift) {
        return Err(Error::damaged(format!(
            "blocks of 2^{block_shift} bytes with 2^{lanes_shift} lanes"
        ))
        .tensor(span.label()));
    }
    let named = !span.dtype.is_empty() || !span.name.is_empty() || !span.shape.is_empty();
    let fits = match kind {
        SpanKind::Tensor if dtype::bits(&span.dtype).is_some() => {
            dtype::byte_len(&span.dtype, &span.shape) == Some(len)
        }
        SpanKind::Tensor => true,
        SpanKind::Header | SpanKind::Other => !named,
    };
    if !fits {
        return Err(
            Error::damaged(format!("{len} bytes do not fit dtype and shape")).tensor(span.label()),
        );
    }
    Ok(SpanRecord {
        block_shift,
        lanes_shift,
        repeats,
        ..SpanRecord::new(span, block_shift)
    })
}
