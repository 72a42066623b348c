//! The kernels for AVX-512 with VBMI2 (Ice Lake, Zen 4 and newer): whole steps with vectors, the rest by `scalar`.
//!
//! R16 keeps the 64 states as two vectors of bytes, low and high, in the order of the lanes: the slot is the low byte itself, and
//! the bytes that lanes take from the stream are spread over them by one expand.

#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls of functions for a processor that was asked for"
)]

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "instructions by their names")
)]
use std::arch::x86_64::*;

use crate::entropy::cluster::STRIP_LEN;
use crate::entropy::planes;
use crate::entropy::planes::Word;
use crate::entropy::r16::R16Block;
use crate::entropy::r32::Carried;
use crate::entropy::r32::DecodeTable;
use crate::entropy::r32::EncodePlace;
use crate::entropy::r32::EncodeTable;
use crate::entropy::r32::R32Coded;
use crate::entropy::r32::R32Plane;
use crate::entropy::simd::dispatch::Kernels;
use crate::entropy::simd::scalar;
use crate::entropy::simd::scalar::R16Place;
use crate::entropy::simd::scalar::R32Place;

const LANES: usize = 64;

/// These sets, if the processor can run them: with gathers for R32, which are slow on some processors, and with loads instead.
/// Their functions are reachable only through here, which is what makes calling
/// them sound.
pub(super) fn kernels() -> Option<[Kernels; 2]> {
    let can = is_x86_feature_detected!("avx512f")
        && is_x86_feature_detected!("avx512bw")
        && is_x86_feature_detected!("avx512vl")
        && is_x86_feature_detected!("avx512vbmi")
        && is_x86_feature_detected!("avx512vbmi2")
        && is_x86_feature_detected!("popcnt");
    let set = |name, r32_decode, r32_encode| Kernels {
        name,
        r16_decode,
        r16_decode_two: Some(r16_decode_two),
        r32_decode,
        r32_encode,
        merge_top,
        split_top,
        merge_rotated,
        merge_quads,
    };
    let sets = [
        set("avx512-loads", r32_decode::<false>, r32_encode::<false>),
        set("avx512", r32_decode::<true>, r32_encode::<true>),
    ];
    if can { Some(sets) } else { None }
}

fn r16_decode(block: &R16Block<'_>, out: &mut [Word]) -> bool {
    let Some(mut place) = R16Place::<LANES>::begin(block, out) else {
        return scalar::r16_decode(block, out);
    };
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { r16_steps(block, &mut place, out) };
    place.finish(block, out)
}

fn r16_decode_two(blocks: [&R16Block<'_>; 2], mut outs: [&mut [Word]; 2]) -> [bool; 2] {
    let begin = |i: usize| R16Place::<LANES>::begin(blocks[i], outs[i]);
    let (Some(a), Some(b)) = (begin(0), begin(1)) else {
        let [a, b] = outs;
        return [r16_decode(blocks[0], a), r16_decode(blocks[1], b)];
    };
    let mut places = [a, b];
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { r16_steps_of_two(blocks, &mut places, &mut outs) };
    let [mut a, mut b] = places;
    // what one of them has more
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { r16_steps(blocks[0], &mut a, outs[0]) };
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { r16_steps(blocks[1], &mut b, outs[1]) };
    let [out_a, out_b] = outs;
    [a.finish(blocks[0], out_a), b.finish(blocks[1], out_b)]
}

fn r32_decode<const GATHER: bool>(plane: &R32Plane<'_>, out: &mut [u8]) -> Option<Carried> {
    let Some(mut place) = R32Place::<LANES>::begin(plane) else {
        return scalar::r32_decode(plane, out);
    };
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { r32_steps::<GATHER>(plane, &mut place, out) };
    place.finish::<128>(plane, out)
}

fn r32_encode<const GATHER: bool>(
    plane: &[u8],
    ids: &[u8],
    tables: &[EncodeTable],
    carried: &Carried,
    coded: &mut R32Coded,
) -> bool {
    let mut place = EncodePlace::<LANES>::begin(plane.len(), carried, coded);
    let whole = plane.len() / LANES;
    let last = whole..plane.len().div_ceil(LANES);
    let mut held = place.steps(last, plane, ids, tables, coded);
    // SAFETY: `kernels` gives this function out only where the features were detected
    held &= unsafe { r32_encode_steps::<GATHER>(plane, ids, tables, &mut place, coded) };
    place.finish(coded);
    held
}

fn merge_top(
    symbols: &[u8],
    base: u8,
    lits: &[u8],
    packed: &[u8],
    words: &mut [Word],
) -> Option<usize> {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    fn with_features(
        s: &[u8],
        base: u8,
        lits: &[u8],
        packed: &[u8],
        words: &mut [Word],
    ) -> Option<usize> {
        planes::merge_top(s, base, lits, packed, words)
    }
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { with_features(symbols, base, lits, packed, words) }
}

fn merge_rotated(high: &[u8], low: &[u8], words: &mut [Word]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    fn with_features(high: &[u8], low: &[u8], words: &mut [Word]) {
        planes::merge_rotated(high, low, words);
    }
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { with_features(high, low, words) }
}

fn merge_quads(upper: &[Word], one: &[u8], zero: &[u8], quads: &mut [[u8; 4]]) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    fn with_features(upper: &[Word], one: &[u8], zero: &[u8], quads: &mut [[u8; 4]]) {
        planes::merge_quads(upper, one, zero, quads);
    }
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { with_features(upper, one, zero, quads) }
}

fn split_top(
    words: &[Word],
    base: u8,
    symbols: &mut [u8],
    lits: &mut Vec<u8>,
    packed: &mut Vec<u8>,
) {
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi")]
    fn with_features(w: &[Word], base: u8, s: &mut [u8], lits: &mut Vec<u8>, packed: &mut Vec<u8>) {
        planes::split_top(w, base, s, lits, packed);
    }
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { with_features(words, base, symbols, lits, packed) }
}

#[target_feature(enable = "avx512f")]
fn load(bytes: &[u8; 64]) -> __m512i {
    // SAFETY: the array has the 64 bytes that are read; no alignment is needed
    unsafe { _mm512_loadu_si512(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f")]
fn store(bytes: &mut [u8; 64], vector: __m512i) {
    // SAFETY: the array has the 64 bytes that are written; no alignment is needed
    unsafe { _mm512_storeu_si512(bytes.as_mut_ptr().cast(), vector) }
}

/// The 16 bytes in each quarter.
#[target_feature(enable = "avx512f")]
fn repeat(bytes: &[u8; 16]) -> __m512i {
    // SAFETY: the array has the 16 bytes that are read; no alignment is needed
    let quarter = unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) };
    _mm512_broadcast_i32x4(quarter)
}

/// What a table is to the vectors: the symbol's number for each slot, and frequency, start and value by number.
struct R16Vectors {
    numbers: [__m512i; 4],
    freqs: __m512i,
    starts: __m512i,
    values: __m512i,
    escape: __m512i,
}

impl R16Vectors {
    #[target_feature(enable = "avx512f,avx512bw")]
    fn of(block: &R16Block<'_>) -> Self {
        let mut numbers = [0_u8; 256];
        let (mut freqs, mut starts, mut values) = ([0_u8; 16], [0_u8; 16], [0_u8; 16]);
        let mut slot = 0;
        for (number, &f) in block.table.freqs.iter().enumerate().take(16) {
            freqs[number] = f;
            starts[number] = slot as u8;
            values[number] = block.table.symbols.get(number).copied().unwrap_or_default();
            let end = (slot + usize::from(f)).min(256);
            numbers[slot..end].fill(number as u8);
            slot = end;
        }
        let (quarters, _) = numbers.as_chunks::<64>();
        let escape = if block.table.has_escape() {
            block.table.symbols.len() as i8
        } else {
            -1
        };
        Self {
            numbers: [
                load(&quarters[0]),
                load(&quarters[1]),
                load(&quarters[2]),
                load(&quarters[3]),
            ],
            freqs: repeat(&freqs),
            starts: repeat(&starts),
            values: repeat(&values),
            escape: _mm512_set1_epi8(escape),
        }
    }
}

/// A block being decoded by vectors: what `R16Place` holds, in registers.
struct R16Flight<'a> {
    table: R16Vectors,
    lo: __m512i,
    hi: __m512i,
    stream: &'a [u8],
    position: usize,
    lits: &'a [u8],
    escapes: usize,
}

impl<'a> R16Flight<'a> {
    #[target_feature(enable = "avx512f,avx512bw")]
    fn begin(block: &'a R16Block<'_>, place: &R16Place<LANES>) -> Self {
        let (mut low, mut high) = ([0_u8; LANES], [0_u8; LANES]);
        for ((low, high), state) in low.iter_mut().zip(&mut high).zip(place.states) {
            [*low, *high, ..] = state.to_le_bytes();
        }
        Self {
            table: R16Vectors::of(block),
            lo: load(&low),
            hi: load(&high),
            stream: block.stream,
            position: place.position,
            lits: block.lits,
            escapes: place.escapes,
        }
    }

    #[target_feature(enable = "avx512f")]
    fn end(self, steps: usize, place: &mut R16Place<LANES>) {
        let (mut low, mut high) = ([0_u8; LANES], [0_u8; LANES]);
        store(&mut low, self.lo);
        store(&mut high, self.hi);
        for (state, (low, high)) in place.states.iter_mut().zip(low.into_iter().zip(high)) {
            *state = u32::from(u16::from_le_bytes([low, high]));
        }
        place.position = self.position;
        place.escapes = self.escapes;
        place.done += steps * LANES;
    }

    /// The 64 bytes of which a step takes some; none near the end of the stream.
    #[inline]
    fn window(&self) -> Option<&'a [u8; 64]> {
        self.stream.get(self.position..)?.first_chunk()
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
    fn step(&mut self, window: &[u8; 64], plane: &[u8; 64], out: &mut [u8; 128]) {
        let even = _mm512_set1_epi16(0xff);
        let table = &self.table;
        let near = _mm512_permutex2var_epi8(table.numbers[0], self.lo, table.numbers[1]);
        let far = _mm512_permutex2var_epi8(table.numbers[2], self.lo, table.numbers[3]);
        let number = _mm512_mask_blend_epi8(_mm512_movepi8_mask(self.lo), near, far);
        let freq = _mm512_shuffle_epi8(table.freqs, number);
        let offset = _mm512_sub_epi8(self.lo, _mm512_shuffle_epi8(table.starts, number));
        let value = _mm512_shuffle_epi8(table.values, number);
        let a = _mm512_add_epi16(
            _mm512_mullo_epi16(
                _mm512_and_si512(freq, even),
                _mm512_and_si512(self.hi, even),
            ),
            _mm512_and_si512(offset, even),
        );
        let b = _mm512_add_epi16(
            _mm512_mullo_epi16(_mm512_srli_epi16(freq, 8), _mm512_srli_epi16(self.hi, 8)),
            _mm512_srli_epi16(offset, 8),
        );
        let next_lo = _mm512_or_si512(_mm512_and_si512(a, even), _mm512_slli_epi16(b, 8));
        let next_hi = _mm512_or_si512(_mm512_srli_epi16(a, 8), _mm512_andnot_si512(even, b));
        let need = _mm512_testn_epi8_mask(next_hi, next_hi);
        self.lo = _mm512_mask_expand_epi8(next_lo, need, load(window));
        self.hi = _mm512_mask_mov_epi8(next_hi, need, next_lo);
        self.position += need.count_ones() as usize;
        let escaped = _mm512_cmpeq_epi8_mask(number, table.escape);
        let low = plane;
        let plane = load(plane);
        let x = _mm512_unpacklo_epi8(plane, value);
        let y = _mm512_unpackhi_epi8(plane, value);
        let x = _mm512_shrdi_epi16::<1>(x, x);
        let y = _mm512_shrdi_epi16::<1>(y, y);
        // what unpack leaves apart, put in order
        let first = _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11);
        let second = _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15);
        let (halves, _) = out.as_chunks_mut::<64>();
        store(&mut halves[0], _mm512_permutex2var_epi64(x, first, y));
        store(&mut halves[1], _mm512_permutex2var_epi64(x, second, y));
        if escaped != 0 {
            self.escapes = put_literals(escaped, self.lits, self.escapes, low, out);
        }
    }
}

/// Puts literals into the elements of the lanes that escaped, one step in ten has such; gives the number of literals taken.
#[cold]
#[inline(never)]
fn put_literals(
    escaped: u64,
    lits: &[u8],
    mut taken: usize,
    low: &[u8; 64],
    out: &mut [u8; 128],
) -> usize {
    let mut left = escaped;
    while left != 0 {
        let lane = (left.trailing_zeros() & 63) as usize;
        // a missing one is found out at the end, by their number
        let high = lits.get(taken).copied().unwrap_or_default();
        let word = u16::from_le_bytes([low[lane], high]).rotate_right(1);
        out.as_chunks_mut::<2>().0[lane] = word.to_le_bytes();
        taken += 1;
        left &= left - 1;
    }
    taken
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
fn r16_steps(block: &R16Block<'_>, place: &mut R16Place<LANES>, out: &mut [Word]) {
    let mut flight = R16Flight::begin(block, place);
    let first = place.done / LANES;
    let (outs, _) = out.as_flattened_mut().as_chunks_mut::<128>();
    let (planes, _) = block.plane.as_chunks::<64>();
    let mut steps = 0;
    for (out, plane) in outs.iter_mut().zip(planes).skip(first) {
        let Some(window) = flight.window() else {
            break;
        };
        flight.step(window, plane, out);
        steps += 1;
    }
    flight.end(steps, place);
}

/// The steps that two blocks have both, in turns: each step of a block waits for the one before, and the other block's
/// fills the time.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
fn r16_steps_of_two(
    blocks: [&R16Block<'_>; 2],
    places: &mut [R16Place<LANES>; 2],
    outs: &mut [&mut [Word]; 2],
) {
    let [mut a, mut b] = [0, 1].map(|i| R16Flight::begin(blocks[i], &places[i]));
    let [out_a, out_b] = outs;
    let (outs_a, outs_b) = (
        out_a.as_flattened_mut().as_chunks_mut::<128>().0,
        out_b.as_flattened_mut().as_chunks_mut::<128>().0,
    );
    let planes_a = blocks[0].plane.as_chunks::<64>().0;
    let planes_b = blocks[1].plane.as_chunks::<64>().0;
    let mut steps = 0;
    let of_a = outs_a.iter_mut().zip(planes_a);
    let of_b = outs_b.iter_mut().zip(planes_b);
    for ((out_a, plane_a), (out_b, plane_b)) in of_a.zip(of_b) {
        let (Some(window_a), Some(window_b)) = (a.window(), b.window()) else {
            break;
        };
        a.step(window_a, plane_a, out_a);
        b.step(window_b, plane_b, out_b);
        steps += 1;
    }
    let [place_a, place_b] = places;
    a.end(steps, place_a);
    b.end(steps, place_b);
}

/// The entries of 16 slots: gathered, or by a load for each, two of which are joined before they go into a vector.
#[target_feature(enable = "avx512f")]
fn look_up<const GATHER: bool>(table: &DecodeTable, slots: __m512i) -> __m512i {
    let slots = _mm512_and_si512(slots, _mm512_set1_epi32(4095));
    if GATHER {
        // SAFETY: a table has 4096 entries of 4 bytes, and the slots have just been cut to below 4096
        return unsafe { _mm512_i32gather_epi32::<4>(slots, table.as_ptr().cast()) };
    }
    let mut bytes = [0_u8; 64];
    store(&mut bytes, slots);
    let (pairs, _) = bytes.as_chunks::<8>();
    let pair = |number: usize| {
        let slots = u64::from_le_bytes(pairs[number]);
        let (low, high) = (slots as usize & 4095, (slots >> 32) as usize & 4095);
        (u64::from(table[low]) | u64::from(table[high]) << 32).cast_signed()
    };
    _mm512_setr_epi64(
        pair(0),
        pair(1),
        pair(2),
        pair(3),
        pair(4),
        pair(5),
        pair(6),
        pair(7),
    )
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
fn r32_steps<const GATHER: bool>(
    plane: &R32Plane<'_>,
    place: &mut R32Place<LANES>,
    out: &mut [u8],
) {
    let mut states = [_mm512_setzero_si512(); 4];
    let mut bytes = [0_u8; 4 * LANES];
    for (bytes, state) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(place.states) {
        *bytes = state.to_le_bytes();
    }
    for (state, bytes) in states.iter_mut().zip(bytes.as_chunks::<64>().0) {
        *state = load(bytes);
    }
    let mask = _mm512_set1_epi32((1 << plane.bits) - 1);
    let shift = _mm_cvtsi32_si128(plane.bits.cast_signed());
    let freq_mask = _mm512_set1_epi32(4095);
    let least = _mm512_set1_epi32(1 << 16);
    'strips: for (number, strip) in out.chunks_mut(STRIP_LEN).enumerate() {
        let Some(table) = plane.tables.get(plane.table_id(number)) else {
            break;
        };
        for symbols in strip.as_chunks_mut::<LANES>().0 {
            // a step takes at most 64 words
            let Some(window) = plane
                .words
                .get(place.position..)
                .and_then(<[u8]>::first_chunk::<128>)
            else {
                break 'strips;
            };
            let mut taken = 0;
            for (state, symbols) in states.iter_mut().zip(symbols.as_chunks_mut::<16>().0) {
                let entry = look_up::<GATHER>(table, _mm512_and_si512(*state, mask));
                let f = _mm512_and_si512(_mm512_srli_epi32::<8>(entry), freq_mask);
                let next = _mm512_add_epi32(
                    _mm512_mullo_epi32(f, _mm512_srl_epi32(*state, shift)),
                    _mm512_srli_epi32::<20>(entry),
                );
                let need = _mm512_cmplt_epu32_mask(next, least);
                let words = words_at(window, taken);
                let words = _mm512_maskz_expand_epi32(need, _mm512_cvtepu16_epi32(words));
                *state = _mm512_or_si512(_mm512_mask_slli_epi32::<16>(next, need, next), words);
                taken += 2 * need.count_ones() as usize;
                let narrow = _mm512_cvtepi32_epi8(entry);
                // SAFETY: the array has the 16 bytes that are written; no alignment is needed
                unsafe { _mm_storeu_si128(symbols.as_mut_ptr().cast(), narrow) };
            }
            place.position += taken;
            place.done += LANES;
        }
    }
    for (state, bytes) in states.iter().zip(bytes.as_chunks_mut::<64>().0) {
        store(bytes, *state);
    }
    for (state, bytes) in place.states.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *state = u32::from_le_bytes(*bytes);
    }
}

/// 16 words from byte `at` of the window, of which each group before has taken at most 16: `at` is at most 96.
#[target_feature(enable = "avx512f")]
fn words_at(window: &[u8; 128], at: usize) -> __m256i {
    let words = &window[at.min(96)..][..32];
    // SAFETY: the slice has the 32 bytes that are read; no alignment is needed
    unsafe { _mm256_loadu_si256(words.as_ptr().cast()) }
}

/// Frequency and start of 16 symbols.
#[target_feature(enable = "avx512f")]
fn entries<const GATHER: bool>(table: &EncodeTable, symbols: &[u8; 16]) -> __m512i {
    if GATHER {
        // SAFETY: the array has the 16 bytes that are read; no alignment is needed
        let symbols = unsafe { _mm_loadu_si128(symbols.as_ptr().cast()) };
        let places = _mm512_cvtepu8_epi32(symbols);
        // SAFETY: the table has 256 entries of 4 bytes, and a byte names one of them
        return unsafe { _mm512_i32gather_epi32::<4>(places, table.entries.as_ptr().cast()) };
    }
    let mut bytes = [0_u8; 64];
    for (bytes, symbol) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(symbols) {
        *bytes = table.entries[usize::from(*symbol)].to_le_bytes();
    }
    load(&bytes)
}

/// Codes the whole steps of `plane`, the last of them first. False if a symbol has no frequency.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
fn r32_encode_steps<const GATHER: bool>(
    plane: &[u8],
    ids: &[u8],
    tables: &[EncodeTable],
    place: &mut EncodePlace<LANES>,
    coded: &mut R32Coded,
) -> bool {
    let mut states = [_mm512_setzero_si512(); 4];
    let mut bytes = [0_u8; 4 * LANES];
    for (bytes, state) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(place.states) {
        *bytes = state.to_le_bytes();
    }
    for (state, bytes) in states.iter_mut().zip(bytes.as_chunks::<64>().0) {
        *state = load(bytes);
    }
    let half = _mm512_set1_epi32(0xffff);
    let zero = _mm512_setzero_si512();
    let mut missing = 0;
    for (number, step) in plane.as_chunks::<LANES>().0.iter().enumerate().rev() {
        let table = &tables[usize::from(ids[number * LANES / STRIP_LEN])];
        let groups = states.iter_mut().zip(step.as_chunks::<16>().0);
        for (state, symbols) in groups.rev() {
            let entry = entries::<GATHER>(table, symbols);
            let freq = _mm512_and_si512(entry, half);
            missing |= _mm512_testn_epi32_mask(freq, freq);
            let spill = _mm512_cmpge_epu32_mask(*state, _mm512_slli_epi32::<20>(freq));
            let words = _mm256_maskz_compress_epi16(spill, _mm512_cvtepi32_epi16(*state));
            place.top -= spill.count_ones() as usize;
            put_words(&mut coded.stack[place.top..], words, spill.count_ones());
            let x = _mm512_mask_srli_epi32::<16>(*state, spill, *state);
            // the quotient by way of floats is at most one off, as it is below 2^20: what is left over tells
            let near = _mm512_div_ps(_mm512_cvtepu32_ps(x), _mm512_cvtepi32_ps(freq));
            let mut quotient = _mm512_cvttps_epi32(near);
            let mut rest = _mm512_sub_epi32(x, _mm512_mullo_epi32(quotient, freq));
            let below = _mm512_cmplt_epi32_mask(rest, zero);
            let ones = _mm512_set1_epi32(1);
            quotient = _mm512_mask_sub_epi32(quotient, below, quotient, ones);
            rest = _mm512_mask_add_epi32(rest, below, rest, freq);
            let above = _mm512_cmpge_epi32_mask(rest, freq);
            quotient = _mm512_mask_add_epi32(quotient, above, quotient, ones);
            rest = _mm512_mask_sub_epi32(rest, above, rest, freq);
            let high = _mm512_slli_epi32::<12>(quotient);
            *state = _mm512_add_epi32(_mm512_add_epi32(high, rest), _mm512_srli_epi32::<16>(entry));
        }
    }
    for (state, bytes) in states.iter().zip(bytes.as_chunks_mut::<64>().0) {
        store(bytes, *state);
    }
    for (state, bytes) in place.states.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *state = u32::from_le_bytes(*bytes);
    }
    missing == 0
}

/// Writes the first `count` of 16 words.
#[target_feature(enable = "avx512f,avx512bw,avx512vl")]
fn put_words(out: &mut [u16], words: __m256i, count: u32) {
    let out = &mut out[..count as usize];
    let first = ((1_u32 << count) - 1) as u16;
    // SAFETY: the slice has as many words as the mask has bits, and no other is written; no alignment is needed
    unsafe { _mm256_mask_storeu_epi16(out.as_mut_ptr().cast(), first, words) };
}
