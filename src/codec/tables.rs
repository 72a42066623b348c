//! The tables of a span: what R32 blocks refer to (docs/format.md, section 8.1).

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use crate::base::ByteReader;
use crate::base::CodecId;
use crate::base::Result;
use crate::codec::delta;
use crate::codec::delta::DeltaTables;
use crate::codec::frequency_table;
use crate::codec::frequency_table::Freqs;
use crate::codec::frequency_table::wrong;
use crate::codec::transform::Transform;
use crate::entropy::planes::BASE_MAX;
use crate::entropy::r32;
use crate::entropy::r32::DecodeTable;

/// What errors call the bytes.
const TABLES: &str = "list of coding tables";
/// Most tables of a plane.
const TABLES_MAX: u8 = 16;
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
            frequency_table::write(freqs, &mut out);
        }
    }
    out
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
        let mut reader = ByteReader::new(bytes, TABLES);
        let codec = CodecId(reader.u8()?);
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
        let plane_count = reader.u8()?;
        if usize::from(plane_count) != transform.plane_count() {
            return Err(wrong(&format!(
                "{plane_count} planes, {} expected",
                transform.plane_count()
            )));
        }
        reader.zeros(2)?;
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

fn read_plane(reader: &mut ByteReader<'_>) -> Result<PlaneTables> {
    let (count, bits, base) = (reader.u8()?, reader.u8()?, reader.u8()?);
    reader.zeros(1)?;
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
            let freqs = frequency_table::read(reader, u32::from(bits))?;
            Ok(r32::decode_table(&freqs, u32::from(bits)))
        })
        .collect::<Result<_>>()?;
    Ok(PlaneTables {
        tables,
        bits: u32::from(bits),
        base,
    })
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
