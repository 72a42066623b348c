//! Vectors of NEON from bytes and back, and which lanes of a step take something.

#![expect(unsafe_code, reason = "vector loads and stores")]

#[cfg_attr(
    not(test),
    expect(clippy::wildcard_imports, reason = "instructions by their names")
)]
use std::arch::aarch64::*;

use crate::entropy::simd::shuffles::BYTE_SHUFFLES;

pub(super) const LANES: usize = 64;
/// What the lanes of an R16 step may take, and what a load of 16 bytes may read behind it.
pub(super) const R16_WINDOW: usize = LANES + 16;
/// The same for the words of an R32 step.
pub(super) const R32_WINDOW: usize = 2 * LANES + 16;

#[target_feature(enable = "neon")]
pub(super) fn load(bytes: &[u8; 16]) -> uint8x16_t {
    // SAFETY: the array has the 16 bytes that are read; no alignment is needed
    unsafe { vld1q_u8(bytes.as_ptr()) }
}

#[target_feature(enable = "neon")]
pub(super) fn store(bytes: &mut [u8; 16], vector: uint8x16_t) {
    // SAFETY: the array has the 16 bytes that are written; no alignment is needed
    unsafe { vst1q_u8(bytes.as_mut_ptr(), vector) }
}

/// Stores the bytes of two vectors in turns.
#[target_feature(enable = "neon")]
pub(super) fn store_in_turns(bytes: &mut [u8; 32], first: uint8x16_t, second: uint8x16_t) {
    // SAFETY: the array has the 32 bytes that are written; no alignment is needed
    unsafe { vst2q_u8(bytes.as_mut_ptr(), uint8x16x2_t(first, second)) }
}

/// The places of `BYTE_SHUFFLES` for the two bytes of each word; 0x80 for none, which leaves a lane
/// as it is.
pub(super) static WORD_SHUFFLES: [[u8; 16]; 256] = {
    let mut words = [[0x80_u8; 16]; 256];
    let mut at = 0;
    while at < 8 * 256 {
        let place = BYTE_SHUFFLES[at / 8][at % 8];
        if place < 8 {
            words[at / 8][at % 8 * 2] = 2 * place;
            words[at / 8][at % 8 * 2 + 1] = 2 * place + 1;
        }
        at += 1;
    }
    words
};

/// The lanes of a step that take something.
pub(super) struct Takers {
    /// A bit for each lane.
    set: u64,
    /// Byte i: how many of the lanes up to 8 * i + 7 are in the set.
    up_to: u64,
}

impl Takers {
    /// From masks of all ones or zeros in each lane.
    #[target_feature(enable = "neon")]
    pub(super) fn of(masks: [uint8x16_t; 4]) -> Self {
        let weights = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
        let [a, b, c, d] = masks.map(|mask| vandq_u8(mask, weights));
        // sums of neighbours, three times: the eight weights of a group become one byte
        let sums = vpaddq_u8(vpaddq_u8(a, b), vpaddq_u8(c, d));
        let sums = vget_low_u8(vpaddq_u8(sums, sums));
        let counts = vget_lane_u64::<0>(vreinterpret_u64_u8(vcnt_u8(sums)));
        Self {
            set: vget_lane_u64::<0>(vreinterpret_u64_u8(sums)),
            up_to: counts.wrapping_mul(0x0101_0101_0101_0101),
        }
    }

    pub(super) fn count(&self) -> usize {
        (self.up_to >> 56) as usize
    }

    /// The set within the eight lanes of a number, and how many of the set come before them: at
    /// most 56.
    pub(super) fn eight(&self, number: usize) -> (usize, usize) {
        let set = self.set >> (8 * number) & 255;
        let before = self.up_to << 8 >> (8 * number) & 63;
        (set as usize, before as usize)
    }

    /// The bytes that the 16 lanes of a quarter take from `window`, the other lanes 0.
    #[target_feature(enable = "neon")]
    pub(super) fn spread(&self, window: &[u8; R16_WINDOW], quarter: usize) -> uint8x16_t {
        let half = |number| {
            let (set, before) = self.eight(number);
            let bytes = bytes_at(window, before);
            vqtbl1_u8(bytes, vcreate_u8(u64::from_le_bytes(BYTE_SHUFFLES[set])))
        };
        vcombine_u8(half(2 * quarter), half(2 * quarter + 1))
    }
}

/// 16 bytes of a window, which always has them: its length is chosen so.
#[target_feature(enable = "neon")]
pub(super) fn bytes_at(window: &[u8], at: usize) -> uint8x16_t {
    let bytes = window.get(at..).and_then(<[u8]>::first_chunk);
    bytes.map_or(vdupq_n_u8(0), |bytes| load(bytes))
}

/// The next states, before any word is taken. `shift` is less than nothing, which shifts to the
/// right.
#[target_feature(enable = "neon")]
pub(super) fn r32_next(states: uint16x8_t, entries: uint32x4_t, shift: int32x4_t) -> uint16x8_t {
    let f = vandq_u32(vshrq_n_u32::<8>(entries), vdupq_n_u32(4095));
    let quotients = vshlq_u32(vreinterpretq_u32_u16(states), shift);
    let next = vmlaq_u32(vshrq_n_u32::<20>(entries), f, quotients);
    vreinterpretq_u16_u32(next)
}

/// The low bytes of 64 lanes of 16 bits.
#[target_feature(enable = "neon")]
pub(super) fn low_bytes(lanes: &[uint16x8_t; 8]) -> [uint8x16_t; 4] {
    let two = |at: usize| {
        let (near, far) = (lanes[at], lanes[at + 1]);
        vuzp1q_u8(vreinterpretq_u8_u16(near), vreinterpretq_u8_u16(far))
    };
    [two(0), two(2), two(4), two(6)]
}
