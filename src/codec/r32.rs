//! R32 blocks: descriptors and plane payloads laid out as docs/format.md, section 8 has them.

use crate::base::ByteReader;
use crate::codec::block::CodedBlock;
use crate::codec::gain;
use crate::codec::scratch::Scratch;
use crate::codec::simple;
use crate::codec::tables::PlaneTables;
use crate::codec::tables::SpanTables;
use crate::codec::transform::Split;
use crate::codec::transform::Top;
use crate::codec::transform::Transform;
use crate::entropy::cluster::STRIP_LEN;
use crate::entropy::planes;
use crate::entropy::r32;
use crate::entropy::r32::Carried;
use crate::entropy::r32::EncodeTable;
use crate::entropy::r32::LANES_MAX;
use crate::entropy::r32::R32Coded;
use crate::entropy::r32::R32Plane;
use crate::entropy::simd::dispatch;

/// What differs between the versions of the codec: since version 2 the states are packed and carry
/// the end of the block, and less is padded.
#[derive(Debug, Clone, Copy)]
struct Form {
    /// Payloads of planes begin at multiples of this.
    align: usize,
    /// Whether states are packed and carry bytes.
    carries: bool,
}

impl Form {
    fn of_version(version: u8) -> Self {
        let carries = version > 1;
        let align = if carries { 4 } else { 16 };
        Self { align, carries }
    }

    fn descriptors_len(self, planes: usize) -> usize {
        (8 * planes).next_multiple_of(self.align)
    }
}

/// Most planes of a block.
const PLANES_MAX: usize = 8;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Coding {
    #[default]
    Raw = 0,
    Const = 1,
    Rans = 2,
}

/// The encoder of one plane of a span.
#[derive(Debug, Default)]
pub(crate) struct PlaneCoder {
    /// Empty if the plane is not worth coding.
    pub(crate) tables: Vec<EncodeTable>,
    /// For each strip of the span its table; empty if there is one for all.
    pub(crate) ids: Vec<u8>,
}

impl PlaneCoder {
    /// The tables of `count` strips from `first` on. Strips that were not there when the span was
    /// looked at get the first.
    fn ids_of(&self, first: usize, count: usize, ids: &mut Vec<u8>) {
        ids.clear();
        let known = self.ids.get(first..).unwrap_or_default();
        ids.extend_from_slice(&known[..count.min(known.len())]);
        ids.resize(count, 0);
    }
}

/// Buffers of the encoder.
#[derive(Debug, Default)]
pub(crate) struct R32Scratch {
    coded: R32Coded,
    ids: Vec<u8>,
    payloads: [Payload; PLANES_MAX],
}

/// A coded plane, literals apart.
#[derive(Debug, Default)]
struct Payload {
    coding: Coding,
    value: u32,
    bytes: Vec<u8>,
}

/// Encodes a split block, 64 lanes, whose first strip is the span's `first_strip`, and appends it
/// to `out`.
pub(crate) fn encode(
    transform: Transform,
    split: &Split,
    first_strip: usize,
    coders: &[PlaneCoder],
    scratch: &mut R32Scratch,
    out: &mut Vec<u8>,
) {
    let start = out.len();
    let form = Form::of_version(transform.codec().version());
    out.resize(start + form.descriptors_len(coders.len()), 0);
    // the last plane first: its end is what the others carry, if it stays raw
    let mut tail = if transform.has_top() {
        split.packed.as_slice()
    } else {
        &[]
    };
    let mut carried_len = 0;
    for (number, coder) in coders.iter().enumerate().rev() {
        let plane = split.plane(number);
        let mut carried = [0; 2 * LANES_MAX];
        let end = tail.len() - carried_len;
        let len = end.min(carried.len());
        carried[2 * LANES_MAX - len..].copy_from_slice(&tail[end - len..end]);
        let (ids, payload) = (&mut scratch.ids, &mut scratch.payloads[number]);
        coder.ids_of(first_strip, plane.len().div_ceil(STRIP_LEN), ids);
        let coding = encode_plane(plane, coder, ids, &carried, &mut scratch.coded, payload);
        if coding == Coding::Rans {
            carried_len += len;
        } else if coding == Coding::Raw && number + 1 == coders.len() && !transform.has_top() {
            tail = plane;
        }
    }
    for (number, payload) in scratch.payloads[..coders.len()].iter().enumerate() {
        let is_tail = !transform.has_top() && number + 1 == coders.len();
        let kept = payload.bytes.len() - if is_tail { carried_len } else { 0 };
        out.extend_from_slice(&payload.bytes[..kept]);
        let lits: &[u8] = if transform.has_top() && number == 0 {
            &split.lits
        } else {
            &[]
        };
        out.extend_from_slice(lits);
        out.resize(start + (out.len() - start).next_multiple_of(form.align), 0);
        let descriptor = &mut out[start + 8 * number..][..8];
        let head = (lits.len() as u32) << 8 | payload.coding as u32;
        descriptor[..4].copy_from_slice(&head.to_le_bytes());
        descriptor[4..].copy_from_slice(&payload.value.to_le_bytes());
    }
    if transform.has_top() {
        out.extend_from_slice(&tail[..tail.len() - carried_len]);
    }
}

/// Encodes a plane into `payload` and says how.
fn encode_plane(
    plane: &[u8],
    coder: &PlaneCoder,
    ids: &[u8],
    carried: &Carried,
    coded: &mut R32Coded,
    payload: &mut Payload,
) -> Coding {
    let Payload {
        coding,
        value,
        bytes,
    } = payload;
    bytes.clear();
    let first = plane.first().copied().unwrap_or_default();
    if plane.iter().all(|&byte| byte == first) {
        (*coding, *value) = (Coding::Const, u32::from(first));
        return *coding;
    }
    if !coder.tables.is_empty() {
        // a symbol without a frequency means that the source changed since it was analysed
        if (dispatch::kernels().r32_encode)(plane, ids, &coder.tables, carried, coded) {
            r32::write_states(&coded.states, bytes);
            bytes.extend(coded.words().iter().flat_map(|word| word.to_le_bytes()));
            pack_ids(ids, coder.tables.len(), bytes);
            if (bytes.len() as u64) < gain::least_gain(plane.len() as u64) {
                (*coding, *value) = (Coding::Rans, coded.words().len() as u32);
                return *coding;
            }
            bytes.clear();
        }
    }
    bytes.extend_from_slice(plane);
    (*coding, *value) = (Coding::Raw, 0);
    *coding
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
    block: &CodedBlock<'_>,
    tables: Option<&SpanTables>,
    out: &mut [u8],
    scratch: &mut Scratch,
) -> bool {
    tables
        .filter(|tables| tables.codec == transform.codec())
        .filter(|_| !out.is_empty() && out.len().is_multiple_of(transform.width()))
        .and_then(|tables| decode_planes(transform, block, tables, out, scratch))
        .unwrap_or(false)
}

fn decode_planes(
    transform: Transform,
    block: &CodedBlock<'_>,
    tables: &SpanTables,
    out: &mut [u8],
    scratch: &mut Scratch,
) -> Option<bool> {
    let elements = out.len() / transform.width();
    let mut reader = BlockReader::begin(transform, block, elements)?;
    scratch.planes.clear();
    scratch.planes.resize(elements * transform.plane_count(), 0);
    let planes = scratch.planes.chunks_mut(elements);
    for (number, plane) in planes.enumerate() {
        reader.plane(number, tables.planes.get(number)?, plane)?;
    }
    let base = tables.planes.first()?.base;
    let carried = reader.carried.end(reader.carried_len)?;
    let packed = reader.bytes.rest();
    if packed.len() != reader.packed_len() {
        return None;
    }
    if !transform.has_top() {
        // the end of the last plane, which is the end of all planes
        let end = scratch.planes.len();
        scratch.planes[end - carried.len()..].copy_from_slice(carried);
    }
    let top = Top {
        base,
        lits: reader.top_lits,
        packed,
        packed_end: carried,
    };
    Some(transform.merge(&scratch.planes, &top, &mut scratch.words, out))
}

/// Reads the planes of a block, one after another.
struct BlockReader<'a> {
    transform: Transform,
    form: Form,
    lanes: usize,
    descriptors: &'a [[u8; 8]],
    /// What comes next of the block.
    bytes: ByteReader<'a>,
    tail_len: usize,
    /// How much of the tail the states carry.
    carried_len: usize,
    carried: CarriedBytes,
    top_lits: &'a [u8],
}

impl<'a> BlockReader<'a> {
    fn begin(transform: Transform, block: &CodedBlock<'a>, elements: usize) -> Option<Self> {
        let form = Form::of_version(block.version);
        let plane_count = transform.plane_count();
        let mut bytes = ByteReader::new(block.bytes, "block");
        let descriptors = bytes.take(form.descriptors_len(plane_count)).ok()?;
        let (descriptors, padding) = descriptors.split_at(8 * plane_count);
        if !simple::is_zero(padding) {
            return None;
        }
        let (descriptors, _) = descriptors.as_chunks::<8>();
        let tail_len = tail_len(transform, descriptors, elements);
        let is_rans = |descriptor: &&[u8; 8]| descriptor[0] == Coding::Rans as u8;
        let rans_count = descriptors.iter().filter(is_rans).count();
        let carried_len = tail_len.min(2 * block.lanes * rans_count);
        Some(Self {
            transform,
            form,
            lanes: block.lanes,
            descriptors,
            bytes,
            tail_len,
            carried_len: if form.carries { carried_len } else { 0 },
            carried: CarriedBytes::default(),
            top_lits: &[],
        })
    }

    /// Decodes the next plane, `number`, with its literals and padding.
    fn plane(&mut self, number: usize, tables: &PlaneTables, plane: &mut [u8]) -> Option<()> {
        let [coding, lits @ .., v0, v1, v2, v3] = *self.descriptors.get(number)?;
        let value = u32::from_le_bytes([v0, v1, v2, v3]);
        let lits_len = u32::from_le_bytes([lits[0], lits[1], lits[2], 0]) as usize;
        let before = self.bytes.rest().len();
        let is_tail = !self.transform.has_top() && number + 1 == self.descriptors.len();
        match coding {
            coding if coding == Coding::Raw as u8 && value == 0 => {
                let carried = if is_tail { self.carried_len } else { 0 };
                let stored = plane.len() - carried;
                plane[..stored].copy_from_slice(self.bytes.take(stored).ok()?);
            }
            coding if coding == Coding::Const as u8 => plane.fill(u8::try_from(value).ok()?),
            coding if coding == Coding::Rans as u8 => self.rans(value as usize, tables, plane)?,
            _ => return None,
        }
        let lits = self.bytes.take(lits_len).ok()?;
        if self.transform.has_top() && number == 0 {
            self.top_lits = lits;
        } else if !lits.is_empty() {
            return None;
        }
        let used = before - self.bytes.rest().len();
        let padding = used.next_multiple_of(self.form.align) - used;
        self.bytes.zeros(padding).ok()
    }

    /// Decodes a plane of so many words.
    fn rans(&mut self, words: usize, tables: &PlaneTables, plane: &mut [u8]) -> Option<()> {
        if tables.tables.is_empty() {
            return None;
        }
        let packed_states;
        let states = if self.form.carries {
            let (states, len) = r32::read_states(self.bytes.rest(), self.lanes)?;
            self.bytes.take(len).ok()?;
            packed_states = states;
            &packed_states[..4 * self.lanes]
        } else {
            self.bytes.take(4 * self.lanes).ok()?
        };
        let ids_len = r32::ids_len(plane.len(), tables.tables.len());
        let coded = R32Plane {
            states,
            words: self.bytes.take(words.checked_mul(2)?).ok()?,
            ids: self.bytes.take(ids_len).ok()?,
            tables: &tables.tables,
            bits: tables.bits,
        };
        if !coded.ids_end_with_zeros(plane.len()) {
            return None;
        }
        let carried = (dispatch::kernels().r32_decode)(&coded, plane)?;
        self.carried.push(&carried, self.lanes);
        Some(())
    }

    /// How long what is behind the planes must be.
    fn packed_len(&self) -> usize {
        if self.transform.has_top() {
            self.tail_len - self.carried_len
        } else {
            0
        }
    }
}

/// Length of the tail of a block, whose last bytes the states carry: the packed plane, or the last
/// plane if it is raw.
fn tail_len(transform: Transform, descriptors: &[[u8; 8]], elements: usize) -> usize {
    if transform.has_top() {
        planes::packed_len(elements)
    } else if descriptors
        .last()
        .is_some_and(|d| d[0] == Coding::Raw as u8)
    {
        elements
    } else {
        0
    }
}

/// What the planes of a block have carried, in their order.
struct CarriedBytes {
    bytes: [u8; PLANES_MAX * 2 * LANES_MAX],
    len: usize,
}

impl Default for CarriedBytes {
    fn default() -> Self {
        let bytes = [0; PLANES_MAX * 2 * LANES_MAX];
        Self { bytes, len: 0 }
    }
}

impl CarriedBytes {
    fn push(&mut self, carried: &Carried, lanes: usize) {
        self.bytes[self.len..][..2 * lanes].copy_from_slice(&carried[..2 * lanes]);
        self.len += 2 * lanes;
    }

    /// The last `len` bytes; none if one of the others is not zero.
    fn end(&self, len: usize) -> Option<&[u8]> {
        let (unused, end) = self.bytes[..self.len].split_at_checked(self.len.checked_sub(len)?)?;
        simple::is_zero(unused).then_some(end)
    }
}
