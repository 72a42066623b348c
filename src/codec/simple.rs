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

/// One zstd frame.
pub(crate) fn encode_zstd(block: &[u8]) -> Option<Vec<u8>> {
    zstd::bulk::compress(block, ZSTD_LEVEL).ok()
}

/// Decodes one zstd frame that must give exactly `out.len()` bytes. It is decoded straight into
/// `out`: whatever window the frame claims, no memory is taken for it.
pub(crate) fn decode_zstd(coded: &[u8], out: &mut [u8]) -> bool {
    let one_frame = zstd::zstd_safe::find_frame_compressed_size(coded) == Ok(coded.len());
    let Ok(mut decoder) = zstd::bulk::Decompressor::new() else {
        return false;
    };
    one_frame && matches!(decoder.decompress_to_buffer(coded, out), Ok(len) if len == out.len())
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
        let coded = encode_zstd(&block).unwrap();
        let mut out = vec![0; block.len()];
        assert!(decode_zstd(&coded, &mut out) && out == block);
        assert!(!decode_zstd(&coded, &mut vec![0; block.len() - 1]));
        assert!(!decode_zstd(&coded, &mut vec![0; block.len() + 1]));
        assert!(!decode_zstd(&[&coded[..], b"x"].concat(), &mut out));
    }
}
