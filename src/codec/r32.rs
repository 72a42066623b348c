//! R32 blocks: descriptors and plane payloads laid out as docs/format.md, section 8 has them.

use crate::codec::decode::Scratch;
use crate::codec::simple;
use crate::codec::tables::PlaneTables;
use crate::codec::tables::SpanTables;
use crate::codec::transform::Split;
use crate::codec::transform::Transform;
use crate::entropy::cluster;
use crate::entropy::cluster::Clusters;
use crate::entropy::cluster::STRIP_LEN;
use crate::entropy::planes;
use crate::entropy::r32;
use crate::entropy::r32::EncodeTable;
use crate::entropy::r32::R32Plane;
use crate::entropy::simd::dispatch;

/// Payloads of planes begin at multiples of this.
const ALIGN: usize = 16;
/// A plane is coded only if that saves more than this share of it, as decoding costs time.
const GAIN_SHARE_MIN: usize = 128;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Raw = 0,
    Const = 1,
    Rans = 2,
}

/// The encoder of one plane of a span.
#[derive(Debug)]
pub(crate) struct PlaneCoder {
    pub(crate) clusters: Clusters,
    /// For each cluster its place among the tables.
    pub(crate) table_of: Vec<u8>,
    /// Empty if the plane is not worth coding.
    pub(crate) tables: Vec<EncodeTable>,
}

/// Encodes a split block, 64 lanes, and appends it to `out`.
pub(crate) fn encode(
    transform: Transform,
    split: &Split,
    coders: &[PlaneCoder],
    stack: &mut Vec<u16>,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    out.resize(start + descriptors_len(coders.len()), 0);
    let mut ids = Vec::new();
    for (number, coder) in coders.iter().enumerate() {
        let plane = split.plane(number);
        let lits: &[u8] = if transform.has_top() && number == 0 {
            &split.lits
        } else {
            &[]
        };
        let (coding, value) = encode_plane(plane, coder, &mut ids, stack, out);
        out.extend_from_slice(lits);
        out.resize(start + (out.len() - start).next_multiple_of(ALIGN), 0);
        let descriptor = &mut out[start + 8 * number..][..8];
        descriptor[..4].copy_from_slice(&((lits.len() as u32) << 8 | coding as u32).to_le_bytes());
        descriptor[4..].copy_from_slice(&value.to_le_bytes());
    }
    out.extend_from_slice(&split.packed);
}

fn descriptors_len(planes: usize) -> usize {
    (8 * planes).next_multiple_of(ALIGN)
}

fn encode_plane(
    plane: &[u8],
    coder: &PlaneCoder,
    ids: &mut Vec<u8>,
    stack: &mut Vec<u16>,
    out: &mut Vec<u8>,
) -> (Coding, u32) {
    let first = plane.first().copied().unwrap_or_default();
    if plane.iter().all(|&byte| byte == first) {
        return (Coding::Const, u32::from(first));
    }
    let before = out.len();
    if !coder.tables.is_empty() {
        ids.clear();
        ids.extend(plane.chunks(STRIP_LEN).map(|strip| table_for(strip, coder)));
        let held = plane
            .chunks(STRIP_LEN)
            .zip(&*ids)
            .all(|(strip, &id)| coder.tables[usize::from(id)].holds(strip));
        // a symbol without a frequency means that the source changed since it was analysed
        if held {
            let words = r32::encode::<64>(plane, ids, &coder.tables, stack, out);
            pack_ids(ids, coder.tables.len(), out);
            if out.len() - before < plane.len() - plane.len() / GAIN_SHARE_MIN {
                return (Coding::Rans, words as u32);
            }
            out.truncate(before);
        }
    }
    out.extend_from_slice(plane);
    (Coding::Raw, 0)
}

/// The table that a strip uses.
pub(crate) fn table_for(strip: &[u8], coder: &PlaneCoder) -> u8 {
    let cluster = if coder.clusters.count() == 1 {
        0
    } else {
        coder.clusters.nearest(&cluster::coarse(strip))
    };
    coder.table_of[cluster]
}

fn pack_ids(ids: &[u8], table_count: usize, out: &mut Vec<u8>) {
    let bits = r32::id_bits(table_count);
    if bits == 0 {
        return;
    }
    for group in ids.chunks(8 / bits) {
        out.push(group.iter().rev().fold(0, |byte, id| byte << bits | id));
    }
}

/// Decodes a block; false if it is not well formed.
pub(crate) fn decode(
    transform: Transform,
    coded: &[u8],
    tables: Option<&SpanTables>,
    lanes: usize,
    out: &mut [u8],
    scratch: &mut Scratch,
) -> bool {
    decode_parts(transform, coded, tables, lanes, out, scratch).unwrap_or(false)
}

fn decode_parts(
    transform: Transform,
    coded: &[u8],
    tables: Option<&SpanTables>,
    lanes: usize,
    out: &mut [u8],
    scratch: &mut Scratch,
) -> Option<bool> {
    if out.is_empty() || !out.len().is_multiple_of(transform.width()) {
        return None;
    }
    let tables = tables.filter(|tables| tables.codec == transform.codec())?;
    let elements = out.len() / transform.width();
    scratch.planes.clear();
    scratch.planes.resize(elements * transform.plane_count(), 0);
    let descriptors = coded.get(..descriptors_len(transform.plane_count()))?;
    let mut rest = coded.get(descriptors.len()..)?;
    let mut top_lits: &[u8] = &[];
    if !simple::is_zero(&descriptors[8 * transform.plane_count()..]) {
        return None;
    }
    let (descriptors, _) = descriptors.as_chunks::<8>();
    let planes = scratch.planes.chunks_mut(elements);
    for (number, (plane, descriptor)) in planes.zip(descriptors).enumerate() {
        let [coding, lits @ .., v0, v1, v2, v3] = *descriptor;
        let value = u32::from_le_bytes([v0, v1, v2, v3]);
        let lits_len = u32::from_le_bytes([lits[0], lits[1], lits[2], 0]) as usize;
        let plane_tables = tables.planes.get(number)?;
        let before = rest.len();
        decode_plane(coding, value, plane_tables, lanes, &mut rest, plane)?;
        let (lits, after) = rest.split_at_checked(lits_len)?;
        if transform.has_top() && number == 0 {
            top_lits = lits;
        } else if !lits.is_empty() {
            return None;
        }
        let used = before - after.len();
        rest = simple::skip_padding(after, used, ALIGN)?;
    }
    let packed_len = if transform.has_top() {
        planes::packed_len(elements)
    } else {
        0
    };
    if rest.len() != packed_len {
        return None;
    }
    let base = tables.planes.first()?.base;
    Some(transform.merge(
        &scratch.planes,
        base,
        top_lits,
        rest,
        &mut scratch.words,
        out,
    ))
}

fn decode_plane(
    coding: u8,
    value: u32,
    tables: &PlaneTables,
    lanes: usize,
    rest: &mut &[u8],
    plane: &mut [u8],
) -> Option<()> {
    let mut take = |len: usize| {
        let (head, tail) = rest.split_at_checked(len)?;
        *rest = tail;
        Some(head)
    };
    match coding {
        coding if coding == Coding::Raw as u8 && value == 0 => {
            plane.copy_from_slice(take(plane.len())?);
        }
        coding if coding == Coding::Const as u8 => plane.fill(u8::try_from(value).ok()?),
        coding if coding == Coding::Rans as u8 => {
            if tables.tables.is_empty() {
                return None;
            }
            let coded = R32Plane {
                states: take(4 * lanes)?,
                words: take((value as usize).checked_mul(2)?)?,
                ids: take(r32::ids_len(plane.len(), tables.tables.len()))?,
                tables: &tables.tables,
                bits: tables.bits,
            };
            if !coded.ids_end_with_zeros(plane.len()) {
                return None;
            }
            return (dispatch::kernels().r32_decode)(&coded, plane).then_some(());
        }
        _ => return None,
    }
    Some(())
}
