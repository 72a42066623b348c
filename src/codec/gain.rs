//! When coding pays: decoding takes time, so it must save more than next to nothing.

/// Of a span, a plane or a block coding must save more than this share.
const GAIN_SHARE_MIN: u64 = 128;

/// What `len` bytes must take less than, coded.
pub(crate) fn least_gain(len: u64) -> u64 {
    len - len / GAIN_SHARE_MIN
}
