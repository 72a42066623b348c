//! The kernels for NEON (every 64-bit ARM): whole steps with vectors, the rest by `scalar`.
//!
//! States are kept in halves, low and high, in the order of the lanes: of 8 bits in R16, of 16 in
//! R32. A lane whose high half becomes 0 moves its low half up and takes the next byte or word of
//! the stream as its low half. Which lanes do is one number of 64 bits a step, and shuffles from a
//! table put what they take in place.

#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls of functions for a processor that was asked for"
)]

mod context;
mod vectors;

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "instructions by their names")
)]
use std::arch::aarch64::*;

use crate::base::level::Level;
use crate::entropy::cluster::STRIP_LEN;
use crate::entropy::planes;
use crate::entropy::planes::Word;
use crate::entropy::r16::R16Block;
use crate::entropy::r32;
use crate::entropy::r32::Carried;
use crate::entropy::r32::DecodeTable;
use crate::entropy::r32::R32Plane;
use crate::entropy::simd::kernels::Kernels;
use crate::entropy::simd::neon::vectors::LANES;
use crate::entropy::simd::neon::vectors::R16_WINDOW;
use crate::entropy::simd::neon::vectors::R32_WINDOW;
use crate::entropy::simd::neon::vectors::Takers;
use crate::entropy::simd::neon::vectors::WORD_SHUFFLES;
use crate::entropy::simd::neon::vectors::bytes_at;
use crate::entropy::simd::neon::vectors::load;
use crate::entropy::simd::neon::vectors::low_bytes;
use crate::entropy::simd::neon::vectors::r32_next;
use crate::entropy::simd::neon::vectors::store;
use crate::entropy::simd::neon::vectors::store_in_turns;
use crate::entropy::simd::scalar;
use crate::entropy::simd::scalar::R16DecoderState;
use crate::entropy::simd::scalar::R32DecoderState;

/// This set, if the processor can run it. There is one: NEON has no gathers. `planes` is compiled
/// for NEON as it is. The functions here are reachable only through here, which is what makes
/// calling them sound.
pub(super) fn kernels() -> Option<[Kernels; 1]> {
    let set = Kernels {
        level: Level::Neon,
        name: "neon",
        r16_decode,
        // two at once would not fit into the registers
        r16_decode_two: None,
        r32_decode,
        r32_encode: r32::encode::<64>,
        context_decode: context::context_decode,
        context_decode_two: None,
        merge_top: planes::merge_top,
        split_top: planes::split_top,
        merge_rotated: planes::merge_rotated,
        merge_quads: planes::merge_quads,
    };
    Level::Neon.is_there().then_some([set])
}

fn r16_decode(block: &R16Block<'_>, out: &mut [Word]) -> bool {
    let Some(mut decoder) = R16DecoderState::<LANES>::begin(block, out) else {
        return scalar::r16_decode(block, out);
    };
    // SAFETY: `kernels` gives this function out only where the feature was detected
    unsafe { r16_steps(block, &mut decoder, out) };
    decoder.finish(block, out)
}

fn r32_decode(plane: &R32Plane<'_>, out: &mut [u8]) -> Option<Carried> {
    let Some(mut decoder) = R32DecoderState::<LANES>::begin(plane) else {
        return scalar::r32_decode(plane, out);
    };
    // SAFETY: `kernels` gives this function out only where the feature was detected
    unsafe { r32_steps(plane, &mut decoder, out) };
    decoder.finish::<128>(plane, out)
}

/// What a table is to the vectors: the symbol's number for each slot, and frequency, start and
/// value by number.
struct R16Vectors {
    numbers: [uint8x16x4_t; 4],
    freqs: uint8x16_t,
    starts: uint8x16_t,
    values: uint8x16_t,
    escape: uint8x16_t,
}

impl R16Vectors {
    #[target_feature(enable = "neon")]
    fn of(block: &R16Block<'_>) -> Self {
        let mut numbers = [[0_u8; 16]; 16];
        let (mut freqs, mut starts, mut values) = ([0_u8; 16], [0_u8; 16], [0_u8; 16]);
        let mut slot = 0;
        for (number, &f) in block.table.freqs.iter().enumerate().take(16) {
            freqs[number] = f;
            starts[number] = slot as u8;
            values[number] = block.table.symbols.get(number).copied().unwrap_or_default();
            let end = (slot + usize::from(f)).min(256);
            numbers.as_flattened_mut()[slot..end].fill(number as u8);
            slot = end;
        }
        // numbers are below 16
        let escape = if block.table.has_escape() {
            block.table.symbols.len() as u8
        } else {
            255
        };
        let four = |at: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|i| load(&numbers[at + i]));
            uint8x16x4_t(a, b, c, d)
        };
        Self {
            numbers: [four(0), four(4), four(8), four(12)],
            freqs: load(&freqs),
            starts: load(&starts),
            values: load(&values),
            escape: vdupq_n_u8(escape),
        }
    }

    /// The numbers of the symbols at slots: each look-up has 64 of them, and leaves a lane as it is
    /// whose slot is not among them.
    #[target_feature(enable = "neon")]
    fn numbers(&self, slots: uint8x16_t) -> uint8x16_t {
        let [a, b, c, d] = self.numbers;
        let numbers = vqtbl4q_u8(a, slots);
        let numbers = vqtbx4q_u8(numbers, b, vsubq_u8(slots, vdupq_n_u8(64)));
        let numbers = vqtbx4q_u8(numbers, c, vsubq_u8(slots, vdupq_n_u8(128)));
        vqtbx4q_u8(numbers, d, vsubq_u8(slots, vdupq_n_u8(192)))
    }

    /// The halves of the next states, before any byte is taken. 255 * 255 + 255 is below 65536.
    #[target_feature(enable = "neon")]
    fn next(&self, number: uint8x16_t, lo: uint8x16_t, hi: uint8x16_t) -> (uint8x16_t, uint8x16_t) {
        let freq = vqtbl1q_u8(self.freqs, number);
        let offset = vsubq_u8(lo, vqtbl1q_u8(self.starts, number));
        let near = vmovl_u8(vget_low_u8(offset));
        let near = vmlal_u8(near, vget_low_u8(freq), vget_low_u8(hi));
        let far = vmlal_high_u8(vmovl_high_u8(offset), freq, hi);
        let (near, far) = (vreinterpretq_u8_u16(near), vreinterpretq_u8_u16(far));
        (vuzp1q_u8(near, far), vuzp2q_u8(near, far))
    }

    /// Puts literals in place of the escapes.
    #[target_feature(enable = "neon")]
    fn take_literals(
        &self,
        lits: &[u8],
        numbers: [uint8x16_t; 4],
        values: &mut [uint8x16_t; 4],
    ) -> usize {
        let escaped = numbers.map(|number| vceqq_u8(number, self.escape));
        let [a, b, c, d] = escaped;
        if vmaxvq_u8(vorrq_u8(vorrq_u8(a, b), vorrq_u8(c, d))) == 0 {
            return 0;
        }
        let mut literals = [0_u8; R16_WINDOW];
        let len = lits.len().min(LANES);
        literals[..len].copy_from_slice(&lits[..len]);
        let takers = Takers::of(escaped);
        for (quarter, (value, mask)) in values.iter_mut().zip(escaped).enumerate() {
            *value = vbslq_u8(mask, takers.spread(&literals, quarter), *value);
        }
        takers.count()
    }
}

#[target_feature(enable = "neon")]
fn r16_steps(block: &R16Block<'_>, decoder: &mut R16DecoderState<LANES>, out: &mut [Word]) {
    let table = R16Vectors::of(block);
    let (mut low, mut high) = ([[0_u8; 16]; 4], [[0_u8; 16]; 4]);
    let bytes = low.as_flattened_mut().iter_mut();
    let bytes = bytes.zip(high.as_flattened_mut());
    for ((low, high), state) in bytes.zip(decoder.states) {
        [*low, *high, ..] = state.to_le_bytes();
    }
    let (mut lo, mut hi) = (low.map(|low| load(&low)), high.map(|high| load(&high)));
    let (steps, _) = out.as_flattened_mut().as_chunks_mut::<128>();
    let (planes, _) = block.plane.as_chunks::<64>();
    for (out, plane) in steps.iter_mut().zip(planes) {
        let Some(window) = block
            .stream
            .get(decoder.position..)
            .and_then(<[u8]>::first_chunk)
        else {
            break;
        };
        let numbers = lo.map(|lo| table.numbers(lo));
        for (number, (lo, hi)) in numbers.into_iter().zip(lo.iter_mut().zip(&mut hi)) {
            (*lo, *hi) = table.next(number, *lo, *hi);
        }
        let need = hi.map(|hi| vceqzq_u8(hi));
        let takers = Takers::of(need);
        for quarter in 0..4 {
            let (next, need) = (lo[quarter], need[quarter]);
            lo[quarter] = vbslq_u8(need, takers.spread(window, quarter), next);
            hi[quarter] = vbslq_u8(need, next, hi[quarter]);
        }
        decoder.position += takers.count();
        let mut values = numbers.map(|number| vqtbl1q_u8(table.values, number));
        let lits = block.lits.get(decoder.escapes..).unwrap_or_default();
        decoder.escapes += table.take_literals(lits, numbers, &mut values);
        let quarters = out.as_chunks_mut::<32>().0.iter_mut();
        let quarters = quarters.zip(plane.as_chunks::<16>().0);
        for ((out, plane), value) in quarters.zip(values) {
            // words rotated right by one bit: the lowest bit of each byte becomes the highest of
            // the other
            let plane = load(plane);
            let first = vsliq_n_u8::<7>(vshrq_n_u8::<1>(plane), value);
            let second = vsliq_n_u8::<7>(vshrq_n_u8::<1>(value), plane);
            store_in_turns(out, first, second);
        }
        decoder.done += LANES;
    }
    for quarter in 0..4 {
        store(&mut low[quarter], lo[quarter]);
        store(&mut high[quarter], hi[quarter]);
    }
    let bytes = low.as_flattened().iter().zip(high.as_flattened());
    for (state, (&low, &high)) in decoder.states.iter_mut().zip(bytes) {
        *state = u32::from(u16::from_le_bytes([low, high]));
    }
}

/// The entries of 8 slots, by a load for each, two of which are joined before they go into a
/// vector.
#[target_feature(enable = "neon")]
fn look_up(table: &DecodeTable, slots: uint16x8_t) -> [uint32x4_t; 2] {
    let slots = vreinterpretq_u64_u16(slots);
    let pair = |slots: u64| {
        let (low, high) = (slots as usize & 4095, (slots >> 16) as usize & 4095);
        vcreate_u32(u64::from(table[low]) | u64::from(table[high]) << 32)
    };
    let four = |slots: u64| vcombine_u32(pair(slots), pair(slots >> 32));
    [
        four(vgetq_lane_u64::<0>(slots)),
        four(vgetq_lane_u64::<1>(slots)),
    ]
}

#[target_feature(enable = "neon")]
fn r32_steps(plane: &R32Plane<'_>, decoder: &mut R32DecoderState<LANES>, out: &mut [u8]) {
    let (mut low, mut high) = ([[0_u8; 16]; 8], [[0_u8; 16]; 8]);
    let bytes = low.as_flattened_mut().as_chunks_mut::<2>().0.iter_mut();
    let bytes = bytes.zip(high.as_flattened_mut().as_chunks_mut::<2>().0);
    for ((low, high), state) in bytes.zip(decoder.states) {
        *low = (state as u16).to_le_bytes();
        *high = ((state >> 16) as u16).to_le_bytes();
    }
    let mut lo = low.map(|low| vreinterpretq_u16_u8(load(&low)));
    let mut hi = high.map(|high| vreinterpretq_u16_u8(load(&high)));
    let mask = vdupq_n_u16((1 << plane.bits) - 1);
    let shift = vdupq_n_s32(-plane.bits.cast_signed());
    'strips: for (number, strip) in out.chunks_mut(STRIP_LEN).enumerate() {
        let Some(table) = plane.tables.get(plane.table_id(number)) else {
            break;
        };
        for symbols in strip.as_chunks_mut::<LANES>().0 {
            let Some(window) = plane
                .words
                .get(decoder.position..)
                .and_then(<[u8]>::first_chunk::<R32_WINDOW>)
            else {
                break 'strips;
            };
            let (mut entries, mut need) = ([vdupq_n_u16(0); 8], [vdupq_n_u16(0); 8]);
            for eight in 0..8 {
                let [near, far] = look_up(table, vandq_u16(lo[eight], mask));
                entries[eight] =
                    vuzp1q_u16(vreinterpretq_u16_u32(near), vreinterpretq_u16_u32(far));
                let near = r32_next(vzip1q_u16(lo[eight], hi[eight]), near, shift);
                let far = r32_next(vzip2q_u16(lo[eight], hi[eight]), far, shift);
                lo[eight] = vuzp1q_u16(near, far);
                hi[eight] = vuzp2q_u16(near, far);
                need[eight] = vceqzq_u16(hi[eight]);
            }
            let quarters = symbols.as_chunks_mut::<16>().0.iter_mut();
            for (out, symbols) in quarters.zip(low_bytes(&entries)) {
                store(out, symbols);
            }
            let takers = Takers::of(low_bytes(&need));
            for eight in 0..8 {
                let (set, before) = takers.eight(eight);
                let (words, next) = (bytes_at(window, 2 * before), lo[eight]);
                let fed = vqtbx1q_u8(vreinterpretq_u8_u16(next), words, load(&WORD_SHUFFLES[set]));
                lo[eight] = vreinterpretq_u16_u8(fed);
                hi[eight] = vbslq_u16(need[eight], next, hi[eight]);
            }
            decoder.position += 2 * takers.count();
            decoder.done += LANES;
        }
    }
    for eight in 0..8 {
        store(&mut low[eight], vreinterpretq_u8_u16(lo[eight]));
        store(&mut high[eight], vreinterpretq_u8_u16(hi[eight]));
    }
    let bytes = low.as_flattened().as_chunks::<2>().0.iter();
    let bytes = bytes.zip(high.as_flattened().as_chunks::<2>().0);
    for (state, (&[a, b], &[c, d])) in decoder.states.iter_mut().zip(bytes) {
        *state = u32::from_le_bytes([a, b, c, d]);
    }
}
