//! The header, which is also the trailer: 128 bytes (docs/format.md, section 3).

#![deny(clippy::indexing_slicing, reason = "hostile bytes")]

use crate::base::ByteReader;
use crate::base::Error;
use crate::base::Limits;
use crate::base::Remedy;
use crate::base::Result;
use crate::base::digest;

/// Bytes of the header and of the trailer.
pub const HEADER_LEN: usize = 128;
/// The first bytes of an image. The first is no ASCII and the last a line feed, so that a transfer
/// as text is noticed.
pub const MAGIC: [u8; 8] = *b"\x89BigSml\n";
/// The first bytes of a `.bs` of the Python package of the same name.
pub const MAGIC_OF_PYTHON_PACKAGE: &[u8] = b"BGSM";
/// The version of the format that this build reads and writes.
pub const VERSION: u16 = 1;
/// Zero bytes at least between the last block and the tail index.
pub const TAIL_PADDING: u64 = 64;
/// Where blocks begin: multiples of this.
pub const ALIGN: u64 = 16;
/// Longest suffix.
pub const SUFFIX_LEN_MAX: usize = 16;

/// Required feature: spans may repeat earlier ones (docs/format.md, section 4.2).
pub const FEATURE_REPEATS: u64 = 1;

/// Required feature: spans may use the tables of earlier ones (docs/format.md, section 4.3).
pub const FEATURE_SHARED_TABLES: u64 = 2;
/// All features that this build knows.
const FEATURES_KNOWN: u64 = FEATURE_REPEATS | FEATURE_SHARED_TABLES;

const CHECKED_LEN: usize = 120;

/// What an image stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ImageKind {
    /// One file.
    File,
    /// A folder of files.
    Folder,
}

/// The fixed part of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// What the image stands for.
    pub kind: ImageKind,
    /// What was taken off the file's name, such as `.safetensors`.
    pub suffix: String,
    /// What a reader must know.
    pub required_features: u64,
    /// Bytes of the image.
    pub image_len: u64,
    /// Bytes of all original files.
    pub original_len: u64,
    /// Bytes of one copy of the index.
    pub index_len: u64,
    /// Where the tail index begins.
    pub tail_index_offset: u64,
    /// XXH3 of the index.
    pub index_checksum: u64,
    /// Number of original files.
    pub file_count: u32,
}

impl Header {
    /// Where the front index begins.
    pub const FRONT_INDEX_OFFSET: u64 = HEADER_LEN as u64;

    /// Where the data begin after an index of `index_len` bytes.
    pub fn data_offset(index_len: u64) -> u64 {
        index_len
            .saturating_add(HEADER_LEN as u64)
            .next_multiple_of(ALIGN)
    }

    /// Whether `suffix` may stand in a header.
    pub fn suffix_is_valid(suffix: &str) -> bool {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        suffix.is_empty()
            || suffix.len() <= SUFFIX_LEN_MAX
                && suffix.starts_with('.')
                && suffix.bytes().all(plain)
    }

    /// The 128 bytes.
    pub fn encode(&self) -> [u8; HEADER_LEN] {
        let mut bytes = Vec::with_capacity(HEADER_LEN);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&[0, 0]);
        bytes.push(u8::from(self.kind == ImageKind::Folder));
        bytes.push(self.suffix.len() as u8);
        bytes.extend_from_slice(self.suffix.as_bytes());
        bytes.resize(32, 0);
        let optional_features = 0;
        for field in [
            self.required_features,
            optional_features,
            self.image_len,
            self.original_len,
            self.index_len,
            self.tail_index_offset,
            self.index_checksum,
        ] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&self.file_count.to_le_bytes());
        bytes.resize(CHECKED_LEN, 0);
        let checksum = digest::xxh3(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        let mut out = [0; HEADER_LEN];
        out.copy_from_slice(&bytes);
        out
    }

    /// Reads and checks the 128 bytes. Damage is an error of kind `Damaged`, another version one of
    /// kind `Unsupported`.
    pub fn parse(bytes: &[u8; HEADER_LEN]) -> Result<Self> {
        if bytes.starts_with(MAGIC_OF_PYTHON_PACKAGE) {
            let error = Error::unsupported("made by the Python package of the same name");
            return Err(error.remedy(Remedy::Import));
        }
        let mut reader = ByteReader::new(bytes, "header");
        if reader.take(MAGIC.len())? != MAGIC {
            return Err(Error::damaged(
                "not a bigsmall image, or its first bytes are damaged",
            ));
        }
        let (checked, checksum) = bytes.split_at(CHECKED_LEN);
        let expected = checksum
            .first_chunk()
            .map_or(0, |bytes| u64::from_le_bytes(*bytes));
        if digest::xxh3(checked) != expected {
            return Err(Error::damaged("the header's checksum differs"));
        }
        let version = reader.u16()?;
        if version != VERSION {
            return Err(Error::unsupported(format!(
                "version {version} of the format, this build reads version {VERSION}"
            ))
            .hint("a newer `bigsmall` wrote this file: update"));
        }
        let _revision = reader.u16()?;
        Self::fields(&mut reader)
    }

    fn fields(reader: &mut ByteReader<'_>) -> Result<Self> {
        let kind = match reader.u8()? {
            0 => ImageKind::File,
            1 => ImageKind::Folder,
            other => return Err(Error::damaged(format!("image of unknown kind {other}"))),
        };
        let suffix_len = usize::from(reader.u8()?);
        let suffix = reader.take(SUFFIX_LEN_MAX)?.get(..suffix_len);
        let suffix = suffix
            .and_then(|s| std::str::from_utf8(s).ok())
            .unwrap_or("?");
        let folder_with_suffix = kind == ImageKind::Folder && suffix_len > 0;
        if !Self::suffix_is_valid(suffix) || folder_with_suffix {
            return Err(Error::damaged("the recorded suffix is not one"));
        }
        reader.take(2)?;
        let required_features = reader.u64()?;
        let unknown = required_features & !FEATURES_KNOWN;
        if unknown != 0 {
            return Err(Error::unsupported(format!(
                "required features {unknown:#x} are not known"
            ))
            .hint("a newer `bigsmall` wrote this file: update"));
        }
        let _optional_features = reader.u64()?;
        let header = Self {
            kind,
            suffix: suffix.to_owned(),
            required_features,
            image_len: reader.u64()?,
            original_len: reader.u64()?,
            index_len: reader.u64()?,
            tail_index_offset: reader.u64()?,
            index_checksum: reader.u64()?,
            file_count: reader.u32()?,
        };
        header.check()?;
        Ok(header)
    }

    fn check(&self) -> Result<()> {
        let limits = Limits::FORMAT_1;
        if self.index_len > limits.index_len_max || self.file_count > limits.file_count_max {
            return Err(Error::over_limit(format!(
                "an index of {} bytes with {} files",
                self.index_len, self.file_count
            )));
        }
        let end = self
            .tail_index_offset
            .checked_add(self.index_len)
            .and_then(|end| end.checked_add(HEADER_LEN as u64));
        let data_offset = Self::data_offset(self.index_len);
        let apart = data_offset
            .checked_add(TAIL_PADDING)
            .is_some_and(|end| self.tail_index_offset >= end);
        let one_file = self.kind == ImageKind::Folder || self.file_count == 1;
        if end != Some(self.image_len) || !apart || !one_file {
            return Err(Error::damaged("the header contradicts itself"));
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::indexing_slicing, reason = "a failed index is a failed test")]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: ImageKind::File,
            suffix: ".safetensors".into(),
            required_features: 0,
            image_len: 128 + 48 + 64 + 48 + 128,
            original_len: 10,
            index_len: 48,
            tail_index_offset: 128 + 48 + 64,
            index_checksum: 7,
            file_count: 1,
        }
    }

    #[test]
    fn comes_back_and_every_flipped_bit_is_noticed() {
        let bytes = header().encode();
        assert_eq!(Header::parse(&bytes).unwrap(), header());
        for bit in 0..HEADER_LEN * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(Header::parse(&flipped).is_err(), "bit {bit}");
        }
    }

    #[test]
    fn the_python_packages_files_are_named() {
        let mut bytes = [0; HEADER_LEN];
        bytes[..4].copy_from_slice(b"BGSM");
        let error = Header::parse(&bytes).unwrap_err();
        assert!(
            error.to_string().contains("made by the Python package"),
            "{error}"
        );
    }
}
