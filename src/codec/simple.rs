//! The codecs without tables: raw, const and zstd.

use crate::entropy::cluster::STRIP_LEN;

/// zstd level for tables of integers, masks and text: more costs time and brings little there.
const ZSTD_LEVEL: i32 = 3;

/// Whether all bytes are zero, as reserved ones are.
pub(crate) fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
}

/// The shortest pattern of 1, 2, 4 or 8 bytes whose repetition is `block`; `None` if there is none.
pub(crate) fn pattern(block: &[u8]) -> Option<&[u8]> {
    let periodic =
        |period: usize| block.len() <= period || block[period..] == block[..block.len() - period];
    // a first look at the beginning spares the comparison of whole blocks
    let head = &block[..block.len().min(STRIP_LEN)];
    let hopeless = head.len() > 8 && head[8..] != head[..head.len() - 8];
    if block.is_empty() || hopeless || !periodic(8) {
        return None;
    }
    let period = [1, 2, 4, 8].into_iter().find(|&period| periodic(period))?;
    block
        .get(..period.min(block.len()))
        .filter(|pattern| pattern.len() == period)
}

/// Repeats the pattern; false unless it has 1, 2, 4 or 8 bytes.
pub(crate) fn decode_const(coded: &[u8], out: &mut [u8]) -> bool {
    if !matches!(coded.len(), 1 | 2 | 4 | 8) {
        return false;
    }
    for piece in out.chunks_mut(coded.len()) {
        piece.copy_from_slice(&coded[..piece.len()]);
    }
    true
}

/// Makes zstd frames; what that takes is kept from one to the next.
#[derive(Default)]
pub(crate) struct ZstdEncoder {
    context: Option<zstd::bulk::Compressor<'static>>,
    frame: Vec<u8>,
}

impl ZstdEncoder {
    /// One frame.
    pub(crate) fn encode(&mut self, block: &[u8]) -> Option<&[u8]> {
        let context = match &mut self.context {
            Some(context) => context,
            none => none.insert(zstd::bulk::Compressor::new(ZSTD_LEVEL).ok()?),
        };
        self.frame.clear();
        self.frame
            .reserve(zstd::zstd_safe::compress_bound(block.len()));
        context.compress_to_buffer(block, &mut self.frame).ok()?;
        Some(&self.frame)
    }
}

impl std::fmt::Debug for ZstdEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZstdEncoder").finish_non_exhaustive()
    }
}

/// Reads zstd frames; what that takes is kept from one to the next.
#[derive(Default)]
pub(crate) struct ZstdDecoder(Option<zstd::bulk::Decompressor<'static>>);

impl ZstdDecoder {
    /// Decodes one frame that must give exactly `out.len()` bytes. It is decoded straight into
    /// `out`: whatever window the frame claims, no memory is taken for it.
    pub(crate) fn decode(&mut self, coded: &[u8], out: &mut [u8]) -> bool {
        if zstd::zstd_safe::find_frame_compressed_size(coded) != Ok(coded.len()) {
            return false;
        }
        if self.0.is_none() {
            self.0 = zstd::bulk::Decompressor::new().ok();
        }
        let Some(context) = &mut self.0 else {
            return false;
        };
        matches!(context.decompress_to_buffer(coded, out), Ok(len) if len == out.len())
    }
}

impl std::fmt::Debug for ZstdDecoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZstdDecoder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns() {
        for (block, expected) in [
            (&b"aaaaaaaaaaaaaaaa"[..], Some(&b"a"[..])),
            (b"abababa", Some(b"ab")),
            (b"abcdabcdab", Some(b"abcd")),
            (b"abcdefghabcdefgha", Some(b"abcdefgh")),
            (b"abcdefghabcdefgxa", None),
            (b"abc", None),
            (b"", None),
        ] {
            assert_eq!(pattern(block), expected);
            if let Some(coded) = expected {
                let mut out = vec![0; block.len()];
                assert!(decode_const(coded, &mut out));
                assert_eq!(out, block);
            }
        }
    }

    #[test]
    fn zstd_frames_are_exact() {
        let block = b"to be or not to be, that is the question; to be or not to be".repeat(9);
        let (mut encoder, mut decoder) = (ZstdEncoder::default(), ZstdDecoder::default());
        let coded = encoder.encode(&block).unwrap().to_owned();
        let mut out = vec![0; block.len()];
        // after a frame that is wrong the next is read as if nothing had been
        for _ in 0..2 {
            assert!(decoder.decode(&coded, &mut out) && out == block);
            assert!(!decoder.decode(&coded, &mut vec![0; block.len() - 1]));
            assert!(!decoder.decode(&coded, &mut vec![0; block.len() + 1]));
            assert!(!decoder.decode(&[&coded[..], b"x"].concat(), &mut out));
        }
    }

    #[test]
    fn a_frame_does_not_depend_on_those_before_it() {
        let mut encoder = ZstdEncoder::default();
        let mut state = 1_u64;
        for round in 0..200 {
            let len = [10, 300, 5000, 70_000, 131_072][round % 5];
            let mut byte = || {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                (state >> 33) as u8 & [1, 7, 63, 255][round % 4]
            };
            let block: Vec<u8> = (0..len).map(|_| byte()).collect();
            let alone = zstd::bulk::compress(&block, ZSTD_LEVEL).unwrap();
            assert!(encoder.encode(&block).unwrap() == alone, "round {round}");
        }
    }
}
