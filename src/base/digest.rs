//! Digests and checksums: XXH3 of each block, md5 of each tensor, sha256 of each file, and BLAKE3
//! of the tensors of bases.

use md5::Digest as _;

use crate::base::ReadAt;
use crate::base::Result;

/// XXH3-64 without seed: the checksum of a block's original bytes. It finds accidents, not forgery.
pub fn xxh3(bytes: &[u8]) -> u64 {
    twox_hash::XxHash3_64::oneshot(bytes)
}

/// BLAKE3-256 of a few bytes.
pub fn blake3(bytes: &[u8]) -> [u8; 32] {
    blake3::hash(bytes).into()
}

/// BLAKE3-256 of all bytes of a source: what a base is known by.
pub fn blake3_of(bytes: &dyn ReadAt) -> Result<[u8; 32]> {
    let mut hasher = blake3::Hasher::new();
    in_pieces(bytes, |piece| {
        hasher.update(piece);
    })?;
    Ok(hasher.finalize().into())
}

/// sha256 of all bytes of something.
pub fn sha256_of(bytes: &dyn ReadAt) -> Result<[u8; 32]> {
    let mut hasher = Sha256::default();
    in_pieces(bytes, |piece| hasher.update(piece))?;
    Ok(hasher.finish())
}

fn in_pieces(bytes: &dyn ReadAt, mut each: impl FnMut(&[u8])) -> Result<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut offset = 0;
    while offset < bytes.len() {
        let len = (bytes.len() - offset).min(buffer.len() as u64) as usize;
        bytes.read_exact_at(offset, &mut buffer[..len])?;
        each(&buffer[..len]);
        offset += len as u64;
    }
    Ok(())
}

/// XXH3 with 64 bits over bytes that come in pieces.
#[derive(Default, Clone)]
pub struct Xxh3(twox_hash::XxHash3_64);

impl std::fmt::Debug for Xxh3 {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Xxh3").finish_non_exhaustive()
    }
}

impl Xxh3 {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        std::hash::Hasher::write(&mut self.0, bytes);
    }

    /// The hash of all bytes taken.
    pub fn finish(self) -> u64 {
        std::hash::Hasher::finish(&self.0)
    }
}

/// md5 over bytes that come in pieces.
#[derive(Debug, Default, Clone)]
pub struct Md5(md5::Md5);

impl Md5 {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> [u8; 16] {
        self.0.finalize().into()
    }
}

/// sha256 over bytes that come in pieces.
#[derive(Debug, Default, Clone)]
pub struct Sha256(sha2::Sha256);

impl Sha256 {
    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all bytes taken.
    pub fn finish(self) -> [u8; 32] {
        self.0.finalize().into()
    }
}

/// Lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// The bytes of a hexadecimal digest; none if it is none of this length.
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let pairs = text.as_bytes().as_chunks::<2>().0;
    let mut bytes = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(pairs) {
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = (digit(pair[0])? << 4 | digit(pair[1])?) as u8;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(xxh3(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(
            hex(&Md5::default().finish()),
            "d41d8cd98f00b204e9800998ecf8427e"
        );
        let mut sha = Sha256::default();
        sha.update(b"abc");
        let digest = sha.finish();
        assert!(hex(&digest).starts_with("ba7816bf8f01cfea"));
        assert_eq!(from_hex(&hex(&digest)), Some(digest));
        assert_eq!(from_hex::<32>("ba78"), None);
        assert_eq!(from_hex("bA78"), Some([0xba, 0x78]));
        assert_eq!(from_hex::<32>(&"g".repeat(64)), None);
    }
}
