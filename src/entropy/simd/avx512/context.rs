//! Differences by AVX-512. The 64 states are four vectors of words, the low and the high halves of
//! 32 lanes each in the order of the lanes: a lane whose high half becomes 0 moves its low half up
//! and takes the next word as its low half, which is one expand and one move for 32 lanes, and raw
//! bits leave by a shift across the two halves. Only for the step of a table the halves are joined,
//! to the states of the even lanes and of the odd ones.

#![expect(
    unsafe_code,
    reason = "vector loads and stores, and calls of functions for a processor that was asked for"
)]

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "instructions by their names")
)]
use std::arch::x86_64::*;

use crate::entropy::context::ContextBlock;
use crate::entropy::context::ContextTables;
use crate::entropy::simd::avx512::vectors::LANES;
use crate::entropy::simd::avx512::vectors::load;
use crate::entropy::simd::avx512::vectors::store;
use crate::entropy::simd::scalar;
use crate::entropy::simd::scalar::ContextDecoderState;

/// Words that the lanes of a step may take, in bytes: for the symbol, and for two times raw bits.
const WINDOW: usize = 3 * 2 * LANES;
/// Words at odd places, which are the upper halves.
const ODD: __mmask32 = 0xaaaa_aaaa;

pub(super) fn context_decode<const GATHER: bool>(block: &ContextBlock<'_>, out: &mut [u8]) -> bool {
    let Some(mut decoder) = ContextDecoderState::begin(block, out) else {
        return false;
    };
    steps::<GATHER>(block, &mut decoder, out);
    decoder.finish(block, out)
}

pub(super) fn context_decode_two<const GATHER: bool>(
    blocks: [&ContextBlock<'_>; 2],
    mut outs: [&mut [u8]; 2],
) -> [bool; 2] {
    let begin = |n: usize| ContextDecoderState::begin(blocks[n], outs[n]);
    let (Some(a), Some(b)) = (begin(0), begin(1)) else {
        let [a, b] = outs;
        return [
            context_decode::<GATHER>(blocks[0], a),
            context_decode::<GATHER>(blocks[1], b),
        ];
    };
    let mut decoders = [a, b];
    if std::ptr::eq(blocks[0].tables, blocks[1].tables) {
        steps_in_turns::<GATHER>(blocks, &mut decoders, &mut outs);
    }
    let [mut a, mut b] = decoders;
    let [out_a, out_b] = outs;
    // what one of them has more
    steps::<GATHER>(blocks[0], &mut a, out_a);
    steps::<GATHER>(blocks[1], &mut b, out_b);
    [a.finish(blocks[0], out_a), b.finish(blocks[1], out_b)]
}

/// The whole steps that are left.
fn steps<const GATHER: bool>(
    block: &ContextBlock<'_>,
    decoder: &mut ContextDecoderState,
    out: &mut [u8],
) {
    if !block.tables.fit_elements() {
        return;
    }
    let of_one = match block.tables.choice().layout.width {
        1 => steps_of_one::<1, GATHER>,
        2 => steps_of_one::<2, GATHER>,
        _ => steps_of_one::<4, GATHER>,
    };
    // SAFETY: `kernels` gives the functions that call this out only where the features were
    // detected
    unsafe { of_one(block, decoder, out) };
}

/// The whole steps that two blocks with the same tables have both.
fn steps_in_turns<const GATHER: bool>(
    blocks: [&ContextBlock<'_>; 2],
    decoders: &mut [ContextDecoderState; 2],
    outs: &mut [&mut [u8]; 2],
) {
    if !blocks[0].tables.fit_elements() {
        return;
    }
    let of_two = match blocks[0].tables.choice().layout.width {
        1 => steps_of_two::<1, GATHER>,
        2 => steps_of_two::<2, GATHER>,
        _ => steps_of_two::<4, GATHER>,
    };
    // SAFETY: `kernels` gives the function that calls this out only where the features were
    // detected
    unsafe { of_two(blocks, decoders, outs) };
}

/// What the tables are to the vectors.
struct Vectors<'a> {
    tables: &'a ContextTables,
    /// Where the table of each context begins, twice.
    starts: __m512i,
    highest: __m512i,
    /// How far the exponent is from the lowest bit of the word that it is in, and what is behind
    /// the sign there.
    exponent_shift: __m128i,
    exponent_mask: __m512i,
    slot_mask: __m512i,
    bits: __m128i,
}

impl<'a> Vectors<'a> {
    #[target_feature(enable = "avx512f,avx512bw")]
    fn of(tables: &'a ContextTables) -> Self {
        let choice = tables.choice();
        let mut starts = [0_u8; 64];
        let twice = tables.starts().into_iter().cycle();
        for (bytes, start) in starts.as_chunks_mut::<2>().0.iter_mut().zip(twice) {
            *bytes = start.to_le_bytes();
        }
        // of four bytes the upper word is looked at, and one byte is put into the upper half of a
        // word
        let (width, mantissa) = (choice.layout.width, choice.layout.mantissa_bits);
        let shift = match width {
            1 => mantissa + 8,
            2 => mantissa,
            _ => mantissa - 16,
        };
        let exponents = (0x7fff_u16 >> shift).cast_signed();
        let slots = ((1_u32 << tables.bits()) - 1) as u16;
        Self {
            tables,
            starts: load(&starts),
            highest: _mm512_set1_epi16(i16::from(choice.highest)),
            exponent_shift: _mm_cvtsi32_si128(shift.cast_signed()),
            exponent_mask: _mm512_set1_epi16(exponents),
            slot_mask: _mm512_set1_epi16(slots.cast_signed()),
            bits: _mm_cvtsi32_si128(tables.bits().cast_signed()),
        }
    }

    /// Where the tables of 32 elements begin, given the words with their exponents.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn starts(&self, words: __m512i) -> __m512i {
        let shifted = _mm512_srl_epi16(words, self.exponent_shift);
        let exponents = _mm512_and_si512(shifted, self.exponent_mask);
        let below = _mm512_subs_epu16(self.highest, exponents);
        let contexts = _mm512_min_epu16(below, _mm512_set1_epi16(15));
        _mm512_permutexvar_epi16(contexts, self.starts)
    }

    /// The entries of the even and of the odd ones of 32 lanes, whose places in the tables are the
    /// start of a table and a slot in it.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn look_up<const GATHER: bool>(&self, places: __m512i) -> (__m512i, __m512i) {
        let entries = self.tables.entries();
        if GATHER {
            let gather = |places| {
                // SAFETY: each place is a start that the tables gave, behind which they have 2^bits
                // entries, and a slot below that
                unsafe { _mm512_i32gather_epi32::<4>(places, entries.as_ptr().cast()) }
            };
            let even = _mm512_and_si512(places, _mm512_set1_epi32(0xffff));
            return (gather(even), gather(_mm512_srli_epi32::<16>(places)));
        }
        let mut bytes = [0_u8; 64];
        store(&mut bytes, places);
        // else they would be taken out of the vector again, which takes longer than through memory
        let (places, _) = bytes.as_chunks::<2>();
        let entry = |lane: usize| {
            let place = usize::from(u16::from_le_bytes(places[lane]));
            // SAFETY: each place is a start that the tables gave, behind which they have 2^bits
            // entries, and a slot below that
            unsafe { entries.get_unchecked(place) }.cast_signed()
        };
        let sixteen = |first: usize| {
            let four = |lane: usize| {
                let lane = first + lane;
                _mm_setr_epi32(
                    entry(lane),
                    entry(lane + 2),
                    entry(lane + 4),
                    entry(lane + 6),
                )
            };
            let eight = |lane| _mm256_set_m128i(four(lane + 8), four(lane));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(eight(0)), eight(16))
        };
        (sixteen(0), sixteen(1))
    }
}

/// 32 lanes.
struct Half {
    lo: __m512i,
    hi: __m512i,
}

impl Half {
    /// The symbols of the lanes, which have these elements of `WIDTH` bytes in the base. The states
    /// are left without the words that they need.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw")]
    fn decode<const WIDTH: usize, const GATHER: bool>(
        &mut self,
        vectors: &Vectors<'_>,
        base: &[u8],
    ) -> __m512i {
        // bits of either of the first two, or of the third
        const AND_OR: i32 = 0xea;
        let starts = vectors.starts(exponent_words::<WIDTH>(base));
        let places = _mm512_ternarylogic_epi32::<AND_OR>(self.lo, vectors.slot_mask, starts);
        let (even, odd) = vectors.look_up::<GATHER>(places);
        let next_even = vectors.next(even_lanes(self.lo, self.hi), even);
        let next_odd = vectors.next(odd_lanes(self.lo, self.hi), odd);
        self.lo = even_lanes(next_even, next_odd);
        self.hi = odd_lanes(next_even, next_odd);
        _mm512_and_si512(even_lanes(even, odd), _mm512_set1_epi16(0xff))
    }

    /// Takes words for the lanes that need one, from byte `taken` of the window on.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
    fn feed(&mut self, window: &[u8; WINDOW], taken: &mut usize) {
        let need = _mm512_testn_epi16_mask(self.hi, self.hi);
        // each group before has taken at most 64 bytes, so that there are 64 left
        let (words, _) = window[(*taken).min(WINDOW - 64)..].as_chunks::<64>();
        let fed = _mm512_mask_expand_epi16(self.lo, need, load(&words[0]));
        self.hi = _mm512_mask_mov_epi16(self.hi, need, self.lo);
        self.lo = fed;
        *taken += 2 * need.count_ones() as usize;
    }

    /// Takes the lowest `counts` bits, at most 15, out of each state, and puts them behind those of
    /// `top`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
    fn join(&mut self, top: __m512i, counts: __m512i) -> __m512i {
        let counts = _mm512_and_si512(counts, _mm512_set1_epi16(15));
        let raw_on_top = _mm512_shrdv_epi16(self.lo, self.lo, counts);
        self.lo = _mm512_shrdv_epi16(self.lo, self.hi, counts);
        self.hi = _mm512_srlv_epi16(self.hi, counts);
        _mm512_shldv_epi16(top, raw_on_top, counts)
    }

    /// Takes the lowest `counts` bits, at most 16, out of each state and gives them.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi2")]
    fn raw(&mut self, counts: __m512i) -> __m512i {
        let above = _mm512_sllv_epi16(_mm512_set1_epi16(-1), counts);
        let raw = _mm512_andnot_si512(above, self.lo);
        // the shift across the halves counts modulo 16
        let all = _mm512_cmpeq_epi16_mask(counts, _mm512_set1_epi16(16));
        let lo = _mm512_shrdv_epi16(self.lo, self.hi, counts);
        self.lo = _mm512_mask_mov_epi16(lo, all, self.hi);
        self.hi = _mm512_srlv_epi16(self.hi, counts);
        raw
    }
}

impl Vectors<'_> {
    /// The next states of 16 lanes, before any word is taken.
    #[inline]
    #[target_feature(enable = "avx512f")]
    fn next(&self, states: __m512i, entries: __m512i) -> __m512i {
        let f = _mm512_and_si512(_mm512_srli_epi32::<8>(entries), _mm512_set1_epi32(4095));
        let product = _mm512_mullo_epi32(f, _mm512_srl_epi32(states, self.bits));
        _mm512_add_epi32(product, _mm512_srli_epi32::<20>(entries))
    }
}

/// The words at even places of both, in turns: with low and high halves the even lanes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn even_lanes(lo: __m512i, hi: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(ODD, lo, _mm512_slli_epi32::<16>(hi))
}

/// The same for the odd places.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn odd_lanes(lo: __m512i, hi: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(ODD, _mm512_srli_epi32::<16>(lo), hi)
}

/// A block being decoded: what `ContextDecoderState` holds, in registers.
struct Flight<'a> {
    halves: [Half; 2],
    words: &'a [u8],
    position: usize,
    /// What a step may take when they end.
    padded: [u8; WINDOW],
}

impl<'a> Flight<'a> {
    #[target_feature(enable = "avx512f,avx512bw")]
    fn begin(block: &ContextBlock<'a>, decoder: &ContextDecoderState) -> Self {
        Self {
            halves: read_halves(&decoder.states),
            words: block.words,
            position: decoder.position,
            padded: [0; WINDOW],
        }
    }

    #[target_feature(enable = "avx512f,avx512bw")]
    fn end(&self, bytes: usize, decoder: &mut ContextDecoderState) {
        write_halves(&self.halves, &mut decoder.states);
        decoder.position = self.position;
        decoder.done += bytes;
    }

    /// Decodes 64 elements of `WIDTH` bytes. There is a `COPY` for each place that calls this, so
    /// that it becomes part of it and the vectors stay in registers.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
    fn step<const WIDTH: usize, const GATHER: bool, const COPY: usize>(
        &mut self,
        vectors: &Vectors<'_>,
        base: &[u8],
        out: &mut [u8],
    ) {
        let rest = self.words.get(self.position..self.position + WINDOW);
        let window = match rest.and_then(<[u8]>::first_chunk) {
            Some(window) => window,
            None => scalar::window(self.words, self.position, &mut self.padded),
        };
        let mut taken = 0;
        let zero = _mm512_setzero_si512();
        // the three bits behind the highest, and that; and how many more there are
        let (mut tops, mut counts) = ([zero; 2], [zero; 2]);
        for (number, half) in self.halves.iter_mut().enumerate() {
            let base = &base[number * WIDTH * 32..][..WIDTH * 32];
            let symbols = half.decode::<WIDTH, GATHER>(vectors, base);
            counts[number] = raw_bits(symbols);
            tops[number] = _mm512_sub_epi16(symbols, _mm512_slli_epi16::<3>(counts[number]));
        }
        for half in &mut self.halves {
            half.feed(window, &mut taken);
        }
        let (outs, bases) = (
            out.chunks_exact_mut(WIDTH * 32),
            base.chunks_exact(WIDTH * 32),
        );
        if WIDTH < 4 {
            for (number, (out, base)) in outs.zip(bases).enumerate() {
                let differences = self.halves[number].join(tops[number], counts[number]);
                add_near::<WIDTH>(differences, base, out);
            }
            for half in &mut self.halves {
                half.feed(window, &mut taken);
            }
        } else {
            let mut raw = [[zero; 2]; 2];
            for (raw, done) in raw.iter_mut().zip([0, 16]) {
                for (number, half) in self.halves.iter_mut().enumerate() {
                    let left = _mm512_subs_epu16(counts[number], _mm512_set1_epi16(done));
                    raw[number] = half.raw(_mm512_min_epu16(left, _mm512_set1_epi16(16)));
                }
                for half in &mut self.halves {
                    half.feed(window, &mut taken);
                }
            }
            for (number, (out, base)) in outs.zip(bases).enumerate() {
                let raw = [raw[0][number], raw[1][number]];
                add_far(tops[number], counts[number], raw, base, out);
            }
        }
        self.position += taken;
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
fn steps_of_one<const WIDTH: usize, const GATHER: bool>(
    block: &ContextBlock<'_>,
    decoder: &mut ContextDecoderState,
    out: &mut [u8],
) {
    let vectors = Vectors::of(block.tables);
    let mut flight = Flight::begin(block, decoder);
    let bases = block.base[decoder.done..].chunks_exact(WIDTH * LANES);
    let outs = out[decoder.done..].chunks_exact_mut(WIDTH * LANES);
    let mut bytes = 0;
    for (base, out) in bases.zip(outs) {
        flight.step::<WIDTH, GATHER, 0>(&vectors, base, out);
        bytes += WIDTH * LANES;
    }
    flight.end(bytes, decoder);
}

/// In turns: each step of a block waits for the one before, and the other block's fills the time.
#[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512vbmi,avx512vbmi2,popcnt")]
fn steps_of_two<const WIDTH: usize, const GATHER: bool>(
    blocks: [&ContextBlock<'_>; 2],
    decoders: &mut [ContextDecoderState; 2],
    outs: &mut [&mut [u8]; 2],
) {
    let vectors = Vectors::of(blocks[0].tables);
    let [decoder_a, decoder_b] = decoders;
    let mut a = Flight::begin(blocks[0], decoder_a);
    let mut b = Flight::begin(blocks[1], decoder_b);
    let [out_a, out_b] = outs;
    let outs_a = out_a.chunks_exact_mut(WIDTH * LANES);
    let outs_b = out_b.chunks_exact_mut(WIDTH * LANES);
    let of_a = blocks[0].base.chunks_exact(WIDTH * LANES).zip(outs_a);
    let of_b = blocks[1].base.chunks_exact(WIDTH * LANES).zip(outs_b);
    let mut bytes = 0;
    for ((base_a, out_a), (base_b, out_b)) in of_a.zip(of_b) {
        a.step::<WIDTH, GATHER, 1>(&vectors, base_a, out_a);
        b.step::<WIDTH, GATHER, 2>(&vectors, base_b, out_b);
        bytes += WIDTH * LANES;
    }
    a.end(bytes, decoder_a);
    b.end(bytes, decoder_b);
}

/// How many low bits 32 symbols leave.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn raw_bits(symbols: __m512i) -> __m512i {
    _mm512_subs_epu16(_mm512_srli_epi16::<3>(symbols), _mm512_set1_epi16(1))
}

#[target_feature(enable = "avx512f,avx512bw")]
fn read_halves(states: &[u32; LANES]) -> [Half; 2] {
    let (mut low, mut high) = ([0_u8; 2 * LANES], [0_u8; 2 * LANES]);
    let bytes = low.as_chunks_mut::<2>().0.iter_mut();
    let bytes = bytes.zip(high.as_chunks_mut::<2>().0);
    for ((low, high), state) in bytes.zip(states) {
        *low = (*state as u16).to_le_bytes();
        *high = ((state >> 16) as u16).to_le_bytes();
    }
    [0, 1].map(|half| Half {
        lo: load(&low.as_chunks().0[half]),
        hi: load(&high.as_chunks().0[half]),
    })
}

#[target_feature(enable = "avx512f,avx512bw")]
fn write_halves(halves: &[Half; 2], states: &mut [u32; LANES]) {
    for (half, states) in halves.iter().zip(states.as_chunks_mut::<32>().0) {
        let (mut low, mut high) = ([0_u8; 64], [0_u8; 64]);
        store(&mut low, half.lo);
        store(&mut high, half.hi);
        let bytes = low.as_chunks::<2>().0.iter().zip(high.as_chunks::<2>().0);
        for (state, (&[a, b], &[c, d])) in states.iter_mut().zip(bytes) {
            *state = u32::from_le_bytes([a, b, c, d]);
        }
    }
}

/// The vector at a place of some bytes, counted in vectors.
#[inline]
#[target_feature(enable = "avx512f")]
fn vector(bytes: &[u8], place: usize) -> __m512i {
    load(&bytes.as_chunks().0[place])
}

/// The words in which 32 elements of `WIDTH` bytes have their exponents, a byte in the upper half
/// of its word.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn exponent_words<const WIDTH: usize>(elements: &[u8]) -> __m512i {
    match WIDTH {
        1 => upper_bytes(elements),
        2 => vector(elements, 0),
        _ => {
            let (near, far) = (vector(elements, 0), vector(elements, 1));
            let near = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(near));
            let far = _mm512_cvtepi32_epi16(_mm512_srli_epi32::<16>(far));
            _mm512_inserti64x4::<1>(_mm512_castsi256_si512(near), far)
        }
    }
}

/// 32 bytes, each in the upper half of a word.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn upper_bytes(bytes: &[u8]) -> __m512i {
    let bytes: &[u8; 32] = &bytes.as_chunks().0[0];
    // SAFETY: the array has the 32 bytes that are read; no alignment is needed
    let bytes = unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) };
    _mm512_slli_epi16::<8>(_mm512_cvtepu8_epi16(bytes))
}

/// Adds 32 differences of more than 16 bits to elements of four bytes: the highest bits of each,
/// how many more it has, and those, the lower 16 first.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_far(top: __m512i, counts: __m512i, raw: [__m512i; 2], base: &[u8], out: &mut [u8]) {
    let low_words = _mm512_set1_epi32(0xffff);
    let even = _mm512_sllv_epi32(
        _mm512_and_si512(top, low_words),
        _mm512_and_si512(counts, low_words),
    );
    let odd = _mm512_sllv_epi32(
        _mm512_srli_epi32::<16>(top),
        _mm512_srli_epi32::<16>(counts),
    );
    let even = _mm512_or_si512(even, even_lanes(raw[0], raw[1]));
    let odd = _mm512_or_si512(odd, odd_lanes(raw[0], raw[1]));
    let near = _mm512_setr_epi32(0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
    let far = _mm512_add_epi32(near, _mm512_set1_epi32(8));
    let (quads, _) = out.as_chunks_mut::<64>();
    for (number, (out, order)) in quads.iter_mut().zip([near, far]).enumerate() {
        let differences = _mm512_permutex2var_epi32(even, order, odd);
        store(out, add_32(differences, vector(base, number)));
    }
}

/// Adds 32 differences of at most 16 bits to elements of one or two bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_near<const WIDTH: usize>(differences: __m512i, base: &[u8], out: &mut [u8]) {
    if WIDTH == 2 {
        let sum = add_16(differences, vector(base, 0));
        store(&mut out.as_chunks_mut().0[0], sum);
        return;
    }
    // an element is the upper half of its word: what is below it is 0 in the difference, and
    // nothing is carried
    let d = signed_16(differences);
    let sum = add_ordered_16(_mm512_slli_epi16::<8>(d), upper_bytes(base));
    let bytes = _mm512_cvtepi16_epi8(_mm512_srli_epi16::<8>(sum));
    let out: &mut [u8; 32] = &mut out.as_chunks_mut().0[0];
    // SAFETY: the array has the 32 bytes that are written; no alignment is needed
    unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes) };
}

/// Zigzagged differences added to elements of two bytes.
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_16(differences: __m512i, base: __m512i) -> __m512i {
    add_ordered_16(signed_16(differences), base)
}

/// 0, 1, 2, 3, ... as 0, -1, 1, -2, ...
#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn signed_16(zigzagged: __m512i) -> __m512i {
    let odd = _mm512_and_si512(zigzagged, _mm512_set1_epi16(1));
    let flip = _mm512_sub_epi16(_mm512_setzero_si512(), odd);
    _mm512_xor_si512(_mm512_srli_epi16::<1>(zigzagged), flip)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn add_ordered_16(d: __m512i, base: __m512i) -> __m512i {
    ordered_16(_mm512_add_epi16(ordered_16(base), d))
}

/// Bits of the first, flipped where the other two have one.
const FLIP: i32 = 0x78;

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn ordered_16(bits: __m512i) -> __m512i {
    let sign = _mm512_srai_epi16::<15>(bits);
    _mm512_ternarylogic_epi32::<FLIP>(bits, sign, _mm512_set1_epi16(0x7fff))
}

/// Zigzagged differences added to elements of four bytes.
#[inline]
#[target_feature(enable = "avx512f")]
fn add_32(differences: __m512i, base: __m512i) -> __m512i {
    let odd = _mm512_and_si512(differences, _mm512_set1_epi32(1));
    let flip = _mm512_sub_epi32(_mm512_setzero_si512(), odd);
    let d = _mm512_xor_si512(_mm512_srli_epi32::<1>(differences), flip);
    ordered_32(_mm512_add_epi32(ordered_32(base), d))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn ordered_32(bits: __m512i) -> __m512i {
    let sign = _mm512_srai_epi32::<31>(bits);
    _mm512_ternarylogic_epi32::<FLIP>(bits, sign, _mm512_set1_epi32(0x7fff_ffff))
}
