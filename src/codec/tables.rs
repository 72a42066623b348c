//! The tables of a span: what R32 blocks refer to (docs/format.md, section 8.1).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use crate::base::CodecId;
use crate::base::Error;
use crate::base::Result;
use crate::codec::delta;
use crate::codec::delta::DeltaTables;
use crate::codec::simple;
use crate::codec::transform::Transform;
use crate::entropy::planes::BASE_MAX;
use crate::entropy::r32;
use crate::entropy::r32::DecodeTable;

/// Most tables of a plane.
const TABLES_MAX: u8 = 16;
/// Bytes of a table's bitmap of symbols.
const BITMAP_LEN: usize = 32;

/// Frequencies of the symbols of one table.
pub type Freqs = [u16; 256];

/// The tables of one plane, as they are written.
#[derive(Debug, Clone, Default)]
pub struct PlaneFreqs {
    /// The tables; none if the plane is never coded.
    pub tables: Vec<Freqs>,
    /// Window base of a `top` plane.
    pub base: u8,
}

/// Writes the tables of a span.
pub fn write(transform: Transform, planes: &[PlaneFreqs]) -> Vec<u8> {
    let mut out = vec![transform.codec().0, planes.len() as u8, 0, 0];
    for plane in planes {
        let bits = if plane.tables.is_empty() {
            0
        } else {
            r32::TABLE_BITS as u8
        };
        out.extend_from_slice(&[plane.tables.len() as u8, bits, plane.base, 0]);
        for freqs in &plane.tables {
            write_table(freqs, &mut out);
        }
    }
    out
}

/// Writes one table.
pub(super) fn write_table(freqs: &Freqs, out: &mut Vec<u8>) {
    let (mut bitmap, mut coded) = ([0_u8; BITMAP_LEN], Vec::new());
    for (byte, freqs) in bitmap.iter_mut().zip(freqs.chunks(8)) {
        for (bit, &f) in freqs.iter().enumerate().filter(|(_, f)| **f > 0) {
            *byte |= 1 << bit;
            coded.push(f);
        }
    }
    out.extend_from_slice(&bitmap);
    coded.pop();
    for f in coded {
        if f < 128 {
            out.push(f as u8);
        } else {
            out.extend_from_slice(&[128 | f as u8 & 127, (f >> 7) as u8]);
        }
    }
}

/// The tables of one plane, ready to decode.
#[derive(Debug)]
pub struct PlaneTables {
    /// The tables that strips choose from.
    pub tables: Vec<DecodeTable>,
    /// log2 of their sum.
    pub bits: u32,
    /// Window base of a `top` plane.
    pub base: u8,
}

/// The tables of one span, ready to decode.
#[derive(Debug)]
pub struct SpanTables {
    /// The codec that they serve.
    pub codec: CodecId,
    /// One for each plane of an R32 codec.
    pub planes: Vec<PlaneTables>,
    /// Those of a delta codec.
    pub delta: Option<DeltaTables>,
}

impl SpanTables {
    /// Reads and checks the tables of a span; every fault is an error of kind `Damaged`.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader(bytes);
        let codec = CodecId(reader.byte()?);
        if let Some(layout) = delta::layout_of(codec) {
            let tables = DeltaTables::read(layout, &mut reader)?;
            return reader.finish().map(|()| Self {
                codec,
                planes: Vec::new(),
                delta: Some(tables),
            });
        }
        let transform = Transform::of_codec(codec)
            .ok_or_else(|| wrong(&format!("they are for codec {}, which has none", codec.0)))?;
        let plane_count = reader.byte()?;
        if usize::from(plane_count) != transform.plane_count() {
            return Err(wrong(&format!(
                "{plane_count} planes, {} expected",
                transform.plane_count()
            )));
        }
        reader.reserved(2)?;
        let planes: Vec<PlaneTables> = (0..plane_count)
            .map(|_| read_plane(&mut reader))
            .collect::<Result<_>>()?;
        let based = planes.iter().skip(usize::from(transform.has_top()));
        if based.into_iter().any(|plane| plane.base != 0) {
            return Err(wrong("a window where there is none"));
        }
        reader.finish()?;
        Ok(Self {
            codec,
            planes,
            delta: None,
        })
    }

    /// Bytes of memory that they take.
    pub fn memory_bytes(&self) -> u64 {
        self.planes
            .iter()
            .map(|p| (p.tables.len() as u64).saturating_mul(16 << 10))
            .chain(self.delta.iter().map(DeltaTables::memory_bytes))
            .fold(0, u64::saturating_add)
    }
}

fn read_plane(reader: &mut Reader<'_>) -> Result<PlaneTables> {
    let (count, bits, base) = (reader.byte()?, reader.byte()?, reader.byte()?);
    reader.reserved(1)?;
    let bits_fit = if count == 0 {
        bits == 0
    } else {
        (8..=12).contains(&bits)
    };
    if count > TABLES_MAX || !bits_fit || base > BASE_MAX {
        return Err(wrong(&format!(
            "{count} tables of {bits} bits, window at {base}"
        )));
    }
    let tables = (0..count)
        .map(|_| {
            let freqs = read_table(reader, u32::from(bits))?;
            Ok(r32::decode_table(&freqs, u32::from(bits)))
        })
        .collect::<Result<_>>()?;
    Ok(PlaneTables {
        tables,
        bits: u32::from(bits),
        base,
    })
}

/// Reads one table with frequencies of sum `2^bits`.
pub(super) fn read_table(reader: &mut Reader<'_>, bits: u32) -> Result<Freqs> {
    let bitmap = reader.take(BITMAP_LEN)?;
    let mut freqs = [0_u16; 256];
    let present = bitmap
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    let mut present: Vec<&mut u16> = freqs
        .iter_mut()
        .zip(present)
        .filter(|(_, present)| *present)
        .map(|(f, _)| f)
        .collect();
    let last = present.pop().filter(|_| !present.is_empty());
    let last = last.ok_or_else(|| wrong("a table of fewer than two symbols"))?;
    let mut left = 1_u16.wrapping_shl(bits);
    for f in present {
        let low = reader.byte()?;
        *f = u16::from(low & 127);
        if low & 128 != 0 {
            *f |= u16::from(reader.byte()?).wrapping_shl(7);
        }
        if *f == 0 {
            return Err(wrong("a frequency of 0"));
        }
        left = left
            .checked_sub(*f)
            .filter(|&left| left > 0)
            .ok_or_else(|| wrong(&format!("frequencies of more than 2^{bits}")))?;
    }
    *last = left;
    Ok(freqs)
}

/// The error of tables that say what they may not.
pub(super) fn wrong(what: &str) -> Error {
    Error::damaged(format!("the coding tables are damaged: {what}"))
}

/// Reads tables byte by byte.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .0
            .split_at_checked(len)
            .ok_or_else(|| wrong("they end too soon"))?;
        self.0 = rest;
        Ok(head)
    }

    fn reserved(&mut self, len: usize) -> Result<()> {
        if !simple::is_zero(self.take(len)?) {
            return Err(wrong("a reserved byte is not zero"));
        }
        Ok(())
    }

    /// An error unless all bytes have been read.
    fn finish(&self) -> Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(wrong(&format!("{} bytes are left over", self.0.len())))
    }

    pub(super) fn byte(&mut self) -> Result<u8> {
        self.take(1)
            .map(|bytes| bytes.first().copied().unwrap_or_default())
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]
mod tests {
    use super::*;
    use crate::entropy::frequency;

    #[test]
    fn tables_come_back() {
        let mut counts = [0_u64; 256];
        for (i, count) in counts.iter_mut().enumerate() {
            *count = (i as u64 * 37) % 101;
        }
        let freqs = frequency::normalise(&counts, 12);
        let plane = PlaneFreqs {
            tables: vec![freqs, freqs],
            base: 65,
        };
        let bytes = write(
            Transform::F32,
            &[plane, PlaneFreqs::default(), PlaneFreqs::default()],
        );
        let tables = SpanTables::parse(&bytes).unwrap();
        assert_eq!(tables.planes[0].base, 65);
        assert_eq!(tables.planes[0].tables[1], r32::decode_table(&freqs, 12));
        assert!(tables.planes[1].tables.is_empty());
        for len in 0..bytes.len() {
            assert!(SpanTables::parse(&bytes[..len]).is_err(), "cut at {len}");
        }
    }
}
