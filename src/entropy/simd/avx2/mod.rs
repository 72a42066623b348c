//! The kernels for AVX2: whole steps with vectors, the rest by `scalar`.
//!
//! R16 keeps the states as in `avx512`, in two halves of 32 lanes. The symbol's number is how many starts are at most the slot, by
//! up to 15 comparisons: there is no lookup of 256 bytes. What AVX-512 expands is put in place here by shuffles from a table.

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
use crate::entropy::simd::places::BYTE_PLACES;
use crate::entropy::simd::scalar;
use crate::entropy::simd::scalar::R16Place;
use crate::entropy::simd::scalar::R32Place;

const LANES: usize = 64;

/// These sets, if the processor can run them: with gathers for R32, which are slow on some processors, and with loads instead.
/// Their functions are reachable only through here, which is what makes calling
/// them sound.
pub(super) fn kernels() -> Option<[Kernels; 2]> {
    let can = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt");
    let set = |name, r32_decode, r32_encode| Kernels {
        name,
        r16_decode,
        // two at once would not fit into the registers
        r16_decode_two: None,
        r32_decode,
        r32_encode,
        merge_top,
        split_top,
        merge_rotated,
        merge_quads,
    };
    let sets = [
        set("avx2-loads", r32_decode::<false>, r32_encode::<false>),
        set("avx2", r32_decode::<true>, r32_encode::<true>),
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
    #[target_feature(enable = "avx2")]
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
    #[target_feature(enable = "avx2")]
    fn with_features(high: &[u8], low: &[u8], words: &mut [Word]) {
        planes::merge_rotated(high, low, words);
    }
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { with_features(high, low, words) }
}

fn merge_quads(upper: &[Word], one: &[u8], zero: &[u8], quads: &mut [[u8; 4]]) {
    #[target_feature(enable = "avx2")]
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
    #[target_feature(enable = "avx2")]
    fn with_features(w: &[Word], base: u8, s: &mut [u8], lits: &mut Vec<u8>, packed: &mut Vec<u8>) {
        planes::split_top(w, base, s, lits, packed);
    }
    // SAFETY: `kernels` gives this function out only where the features were detected
    unsafe { with_features(words, base, symbols, lits, packed) }
}

#[target_feature(enable = "avx2")]
fn load(bytes: &[u8; 32]) -> __m256i {
    // SAFETY: the array has the 32 bytes that are read; no alignment is needed
    unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
}

#[target_feature(enable = "avx2")]
fn store(bytes: &mut [u8; 32], vector: __m256i) {
    // SAFETY: the array has the 32 bytes that are written; no alignment is needed
    unsafe { _mm256_storeu_si256(bytes.as_mut_ptr().cast(), vector) }
}

#[target_feature(enable = "avx2")]
fn load_half(bytes: &[u8; 16]) -> __m128i {
    // SAFETY: the array has the 16 bytes that are read; no alignment is needed
    unsafe { _mm_loadu_si128(bytes.as_ptr().cast()) }
}

/// The places of `BYTE_PLACES` for eight lanes of 32 bits; lanes that take none get the first word, which is not used.
static WORD_PLACES: [[u32; 8]; 256] = {
    let mut words = [[0_u32; 8]; 256];
    let mut at = 0;
    while at < 8 * 256 {
        words[at / 8][at % 8] = BYTE_PLACES[at / 8][at % 8] as u32 & 7;
        at += 1;
    }
    words
};

/// What a table is to the vectors.
struct R16Vectors {
    /// Start of each number but the first, less one, with the sign bit flipped for a signed comparison; 0x7f for none.
    limits: [__m256i; 15],
    /// How many of them there are.
    limit_count: usize,
    freqs: __m256i,
    starts: __m256i,
    values: __m256i,
    escape: __m256i,
}

impl R16Vectors {
    #[target_feature(enable = "avx2")]
    fn of(block: &R16Block<'_>) -> Self {
        let (mut freqs, mut starts, mut values) = ([0_u8; 16], [0_u8; 16], [0_u8; 16]);
        let mut limits = [_mm256_set1_epi8(0x7f); 15];
        let mut start = 0_u8;
        for (number, &f) in block.table.freqs.iter().enumerate().take(16) {
            freqs[number] = f;
            starts[number] = start;
            values[number] = block.table.symbols.get(number).copied().unwrap_or_default();
            if number > 0 {
                let limit = start.wrapping_sub(1) ^ 0x80;
                limits[number - 1] = _mm256_set1_epi8(limit.cast_signed());
            }
            start = start.wrapping_add(f);
        }
        let twice = |bytes: &[u8; 16]| _mm256_broadcastsi128_si256(load_half(bytes));
        let escape = if block.table.has_escape() {
            block.table.symbols.len() as i8
        } else {
            -1
        };
        Self {
            limits,
            limit_count: block.table.freqs.len().clamp(1, 16) - 1,
            freqs: twice(&freqs),
            starts: twice(&starts),
            values: twice(&values),
            escape: _mm256_set1_epi8(escape),
        }
    }

    /// How many starts are at most each slot.
    #[target_feature(enable = "avx2")]
    fn numbers(&self, slots: __m256i) -> __m256i {
        let slots = _mm256_xor_si256(slots, _mm256_set1_epi8(-128));
        let mut numbers = _mm256_setzero_si256();
        for limit in &self.limits[..self.limit_count] {
            numbers = _mm256_sub_epi8(numbers, _mm256_cmpgt_epi8(slots, *limit));
        }
        numbers
    }
}

/// The next bytes of `window` from `at`, one for each lane of `set`, the other lanes 0; and where the next ones are.
#[target_feature(enable = "avx2,popcnt")]
fn spread(window: &[u8], at: usize, set: u32) -> (__m256i, usize) {
    let mut halves = [_mm_setzero_si128(); 2];
    let mut at = at;
    for (half, set) in halves.iter_mut().zip([set & 0xffff, set >> 16]) {
        let (first, second) = (set & 255, set >> 8);
        let near = u64::from_le_bytes(BYTE_PLACES[first as usize]);
        let skip = u64::from(first.count_ones()) * 0x0101_0101_0101_0101;
        let far = u64::from_le_bytes(BYTE_PLACES[second as usize]) + skip;
        let places = _mm_set_epi64x(far.cast_signed(), near.cast_signed());
        if let Some(bytes) = window.get(at..).and_then(<[u8]>::first_chunk) {
            *half = _mm_shuffle_epi8(load_half(bytes), places);
        }
        at += set.count_ones() as usize;
    }
    (_mm256_set_m128i(halves[1], halves[0]), at)
}

#[target_feature(enable = "avx2,popcnt")]
#[expect(
    clippy::too_many_lines,
    reason = "one step, in the order of its instructions"
)]
fn r16_steps(block: &R16Block<'_>, place: &mut R16Place<LANES>, out: &mut [Word]) {
    let table = R16Vectors::of(block);
    let (mut low, mut high) = ([0_u8; LANES], [0_u8; LANES]);
    for ((low, high), state) in low.iter_mut().zip(&mut high).zip(place.states) {
        [*low, *high, ..] = state.to_le_bytes();
    }
    let (lows, highs) = (low.as_chunks::<32>().0, high.as_chunks::<32>().0);
    let (mut lo, mut hi) = (
        [load(&lows[0]), load(&lows[1])],
        [load(&highs[0]), load(&highs[1])],
    );
    let even = _mm256_set1_epi16(0xff);
    let zero = _mm256_setzero_si256();
    let (steps, _) = out.as_flattened_mut().as_chunks_mut::<128>();
    let (planes, _) = block.plane.as_chunks::<64>();
    for (out, plane) in steps.iter_mut().zip(planes) {
        // 64 bytes for the lanes, and what a load of 16 may read behind the last of them
        let Some(window) = block.stream.get(place.position..place.position + 80) else {
            break;
        };
        let mut taken = 0;
        let halves = out
            .as_chunks_mut::<64>()
            .0
            .iter_mut()
            .zip(plane.as_chunks::<32>().0);
        for (half, (out, plane)) in halves.enumerate() {
            let number = table.numbers(lo[half]);
            let freq = _mm256_shuffle_epi8(table.freqs, number);
            let offset = _mm256_sub_epi8(lo[half], _mm256_shuffle_epi8(table.starts, number));
            let mut value = _mm256_shuffle_epi8(table.values, number);
            let a = _mm256_add_epi16(
                _mm256_mullo_epi16(
                    _mm256_and_si256(freq, even),
                    _mm256_and_si256(hi[half], even),
                ),
                _mm256_and_si256(offset, even),
            );
            let b = _mm256_add_epi16(
                _mm256_mullo_epi16(
                    _mm256_srli_epi16::<8>(freq),
                    _mm256_srli_epi16::<8>(hi[half]),
                ),
                _mm256_srli_epi16::<8>(offset),
            );
            let next_lo = _mm256_or_si256(_mm256_and_si256(a, even), _mm256_slli_epi16::<8>(b));
            let next_hi = _mm256_or_si256(_mm256_srli_epi16::<8>(a), _mm256_andnot_si256(even, b));
            let need = _mm256_cmpeq_epi8(next_hi, zero);
            let (bytes, after) = spread(window, taken, _mm256_movemask_epi8(need).cast_unsigned());
            taken = after;
            lo[half] = _mm256_blendv_epi8(next_lo, bytes, need);
            hi[half] = _mm256_blendv_epi8(next_hi, next_lo, need);
            let escaped = _mm256_cmpeq_epi8(number, table.escape);
            let set = _mm256_movemask_epi8(escaped).cast_unsigned();
            if set != 0 {
                let mut literals = [0_u8; 48];
                let rest = block.lits.get(place.escapes..).unwrap_or_default();
                let len = rest.len().min(32);
                literals[..len].copy_from_slice(&rest[..len]);
                let (bytes, after) = spread(&literals, 0, set);
                value = _mm256_blendv_epi8(value, bytes, escaped);
                place.escapes += after;
            }
            let plane = load(plane);
            let x = rotated(_mm256_unpacklo_epi8(plane, value));
            let y = rotated(_mm256_unpackhi_epi8(plane, value));
            let (quarters, _) = out.as_chunks_mut::<32>();
            store(&mut quarters[0], _mm256_permute2x128_si256::<0x20>(x, y));
            store(&mut quarters[1], _mm256_permute2x128_si256::<0x31>(x, y));
        }
        place.position += taken;
        place.done += LANES;
    }
    let (lows, highs) = (low.as_chunks_mut::<32>().0, high.as_chunks_mut::<32>().0);
    for half in 0..2 {
        store(&mut lows[half], lo[half]);
        store(&mut highs[half], hi[half]);
    }
    for (state, (low, high)) in place.states.iter_mut().zip(low.into_iter().zip(high)) {
        *state = u32::from(u16::from_le_bytes([low, high]));
    }
}

/// Words rotated right by one bit.
#[target_feature(enable = "avx2")]
fn rotated(words: __m256i) -> __m256i {
    _mm256_or_si256(
        _mm256_srli_epi16::<1>(words),
        _mm256_slli_epi16::<15>(words),
    )
}

/// The entries of 8 slots: gathered, or by a load for each, two of which are joined before they go into a vector.
#[target_feature(enable = "avx2")]
fn look_up<const GATHER: bool>(table: &DecodeTable, slots: __m256i) -> __m256i {
    let slots = _mm256_and_si256(slots, _mm256_set1_epi32(4095));
    if GATHER {
        // SAFETY: a table has 4096 entries of 4 bytes, and the slots have just been cut to below 4096
        return unsafe { _mm256_i32gather_epi32::<4>(table.as_ptr().cast(), slots) };
    }
    let mut bytes = [0_u8; 32];
    store(&mut bytes, slots);
    let (pairs, _) = bytes.as_chunks::<8>();
    let pair = |number: usize| {
        let slots = u64::from_le_bytes(pairs[number]);
        let (low, high) = (slots as usize & 4095, (slots >> 32) as usize & 4095);
        (u64::from(table[low]) | u64::from(table[high]) << 32).cast_signed()
    };
    _mm256_setr_epi64x(pair(0), pair(1), pair(2), pair(3))
}

#[target_feature(enable = "avx2,popcnt")]
fn r32_steps<const GATHER: bool>(
    plane: &R32Plane<'_>,
    place: &mut R32Place<LANES>,
    out: &mut [u8],
) {
    let mut states = [_mm256_setzero_si256(); 8];
    let mut bytes = [0_u8; 4 * LANES];
    for (bytes, state) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(place.states) {
        *bytes = state.to_le_bytes();
    }
    for (state, bytes) in states.iter_mut().zip(bytes.as_chunks::<32>().0) {
        *state = load(bytes);
    }
    let mask = _mm256_set1_epi32((1 << plane.bits) - 1);
    let shift = _mm_cvtsi32_si128(plane.bits.cast_signed());
    let freq_mask = _mm256_set1_epi32(4095);
    let (zero, symbol_mask) = (_mm256_setzero_si256(), _mm256_set1_epi32(255));
    // packing works in each half by itself: this puts groups of four bytes in order
    let order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
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
            let mut entries = [zero; 8];
            for (state, entry) in states.iter_mut().zip(&mut entries) {
                *entry = look_up::<GATHER>(table, _mm256_and_si256(*state, mask));
                let f = _mm256_and_si256(_mm256_srli_epi32::<8>(*entry), freq_mask);
                let next = _mm256_add_epi32(
                    _mm256_mullo_epi32(f, _mm256_srl_epi32(*state, shift)),
                    _mm256_srli_epi32::<20>(*entry),
                );
                let need = _mm256_cmpeq_epi32(_mm256_srli_epi32::<16>(next), zero);
                let set = _mm256_movemask_ps(_mm256_castsi256_ps(need)).cast_unsigned();
                let words = words_for(window, taken, set);
                let fed = _mm256_or_si256(_mm256_slli_epi32::<16>(next), words);
                *state = _mm256_blendv_epi8(next, fed, need);
                taken += 2 * set.count_ones() as usize;
                *entry = _mm256_and_si256(*entry, symbol_mask);
            }
            for (four, out) in entries
                .as_chunks::<4>()
                .0
                .iter()
                .zip(symbols.as_chunks_mut::<32>().0)
            {
                let left = _mm256_packus_epi32(four[0], four[1]);
                let right = _mm256_packus_epi32(four[2], four[3]);
                let packed = _mm256_packus_epi16(left, right);
                store(out, _mm256_permutevar8x32_epi32(packed, order));
            }
            place.position += taken;
            place.done += LANES;
        }
    }
    for (state, bytes) in states.iter().zip(bytes.as_chunks_mut::<32>().0) {
        store(bytes, *state);
    }
    for (state, bytes) in place.states.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *state = u32::from_le_bytes(*bytes);
    }
}

/// The next words from byte `at` of the window, one for each lane of `set`. Each group before has taken at most 8: `at` is at
/// most 112.
#[target_feature(enable = "avx2")]
fn words_for(window: &[u8; 128], at: usize, set: u32) -> __m256i {
    let words = &window[at.min(112)..][..16];
    // SAFETY: the slice has the 16 bytes that are read; no alignment is needed
    let words = unsafe { _mm_loadu_si128(words.as_ptr().cast()) };
    let places = &WORD_PLACES[(set & 255) as usize];
    // SAFETY: the array has the 32 bytes that are read; no alignment is needed
    let places = unsafe { _mm256_loadu_si256(places.as_ptr().cast()) };
    _mm256_permutevar8x32_epi32(_mm256_cvtepu16_epi32(words), places)
}

/// For each set of eight words the places that put them, in order, at the end of eight.
static SPILL_PLACES: [[u8; 16]; 256] = {
    let mut places = [[0x80_u8; 16]; 256];
    let mut set = 0;
    while set < 256 {
        let (mut word, mut next) = (8_u8, 8);
        while word > 0 {
            word -= 1;
            if set >> word & 1 == 1 {
                next -= 1;
                places[set][2 * next] = 2 * word;
                places[set][2 * next + 1] = 2 * word + 1;
            }
        }
        set += 1;
    }
    places
};

/// Frequency and start of 8 symbols.
#[target_feature(enable = "avx2")]
fn entries<const GATHER: bool>(table: &EncodeTable, symbols: &[u8; 8]) -> __m256i {
    if GATHER {
        let symbols = _mm_cvtsi64_si128(i64::from_le_bytes(*symbols));
        let places = _mm256_cvtepu8_epi32(symbols);
        // SAFETY: the table has 256 entries of 4 bytes, and a byte names one of them
        return unsafe { _mm256_i32gather_epi32::<4>(table.entries.as_ptr().cast(), places) };
    }
    let mut bytes = [0_u8; 32];
    for (bytes, symbol) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(symbols) {
        *bytes = table.entries[usize::from(*symbol)].to_le_bytes();
    }
    load(&bytes)
}

/// Codes the whole steps of `plane`, the last of them first. False if a symbol has no frequency.
#[target_feature(enable = "avx2,popcnt")]
fn r32_encode_steps<const GATHER: bool>(
    plane: &[u8],
    ids: &[u8],
    tables: &[EncodeTable],
    place: &mut EncodePlace<LANES>,
    coded: &mut R32Coded,
) -> bool {
    let mut states = [_mm256_setzero_si256(); 8];
    let mut bytes = [0_u8; 4 * LANES];
    for (bytes, state) in bytes.as_chunks_mut::<4>().0.iter_mut().zip(place.states) {
        *bytes = state.to_le_bytes();
    }
    for (state, bytes) in states.iter_mut().zip(bytes.as_chunks::<32>().0) {
        *state = load(bytes);
    }
    let half = _mm256_set1_epi32(0xffff);
    let zero = _mm256_setzero_si256();
    let mut missing = zero;
    for (number, step) in plane.as_chunks::<LANES>().0.iter().enumerate().rev() {
        let table = &tables[usize::from(ids[number * LANES / STRIP_LEN])];
        let groups = states.iter_mut().zip(step.as_chunks::<8>().0);
        for (state, symbols) in groups.rev() {
            let entry = entries::<GATHER>(table, symbols);
            let freq = _mm256_and_si256(entry, half);
            missing = _mm256_or_si256(missing, _mm256_cmpeq_epi32(freq, zero));
            let limit = _mm256_slli_epi32::<20>(freq);
            let spill = _mm256_cmpeq_epi32(_mm256_max_epu32(*state, limit), *state);
            let set = _mm256_movemask_ps(_mm256_castsi256_ps(spill)).cast_unsigned();
            put_words(&mut coded.stack[..place.top], *state, set);
            place.top -= set.count_ones() as usize;
            let x = _mm256_blendv_epi8(*state, _mm256_srli_epi32::<16>(*state), spill);
            // the quotient by way of floats is at most one off, as it is below 2^20: what is left over tells
            let near = _mm256_div_ps(to_float(x), _mm256_cvtepi32_ps(freq));
            let mut quotient = _mm256_cvttps_epi32(near);
            let mut rest = _mm256_sub_epi32(x, _mm256_mullo_epi32(quotient, freq));
            // masks are -1: adding one takes one away
            let below = _mm256_cmpgt_epi32(zero, rest);
            quotient = _mm256_add_epi32(quotient, below);
            rest = _mm256_add_epi32(rest, _mm256_and_si256(below, freq));
            let within = _mm256_cmpgt_epi32(freq, rest);
            quotient =
                _mm256_sub_epi32(quotient, _mm256_andnot_si256(within, _mm256_set1_epi32(-1)));
            rest = _mm256_sub_epi32(rest, _mm256_andnot_si256(within, freq));
            let high = _mm256_slli_epi32::<12>(quotient);
            *state = _mm256_add_epi32(_mm256_add_epi32(high, rest), _mm256_srli_epi32::<16>(entry));
        }
    }
    for (state, bytes) in states.iter().zip(bytes.as_chunks_mut::<32>().0) {
        store(bytes, *state);
    }
    for (state, bytes) in place.states.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *state = u32::from_le_bytes(*bytes);
    }
    _mm256_testz_si256(missing, missing) == 1
}

/// Unsigned integers as floats, rounded once.
#[target_feature(enable = "avx2")]
fn to_float(x: __m256i) -> __m256 {
    let low = _mm256_cvtepi32_ps(_mm256_and_si256(x, _mm256_set1_epi32(0xffff)));
    let high = _mm256_cvtepi32_ps(_mm256_srli_epi32::<16>(x));
    _mm256_add_ps(_mm256_mul_ps(high, _mm256_set1_ps(65_536.0)), low)
}

/// Writes the low halves of those states that are in `set` to the end of `out`, of which at least 8 words must be left.
#[target_feature(enable = "avx2")]
fn put_words(out: &mut [u16], states: __m256i, set: u32) {
    let halves = _mm256_packus_epi32(
        _mm256_and_si256(states, _mm256_set1_epi32(0xffff)),
        _mm256_setzero_si256(),
    );
    let words = _mm256_castsi256_si128(_mm256_permute4x64_epi64::<0b1000>(halves));
    let spilled = _mm_shuffle_epi8(words, load_half(&SPILL_PLACES[(set & 255) as usize]));
    if let Some(out) = out.last_chunk_mut::<8>() {
        // SAFETY: the array has the 16 bytes that are written; no alignment is needed
        unsafe { _mm_storeu_si128(out.as_mut_ptr().cast(), spilled) };
    }
}
