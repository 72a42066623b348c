//! Fields of fixed width read from bytes that may be anything.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use crate::base::error::Error;
use crate::base::error::Result;

/// Reads little-endian fields one after another; what is missing is an error of kind `Damaged`.
#[derive(Debug, Clone)]
pub struct ByteReader<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> ByteReader<'a> {
    /// Of bytes that errors call `what`.
    pub fn new(bytes: &'a [u8], what: &'static str) -> Self {
        Self { rest: bytes, what }
    }

    /// The next `len` bytes.
    pub fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (head, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| self.damaged("ends too soon"))?;
        self.rest = rest;
        Ok(head)
    }

    /// The next byte.
    pub fn u8(&mut self) -> Result<u8> {
        self.array().map(|[byte]| byte)
    }

    /// The next number of two bytes.
    pub fn u16(&mut self) -> Result<u16> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next number of four bytes.
    pub fn u32(&mut self) -> Result<u32> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next number of eight bytes.
    pub fn u64(&mut self) -> Result<u64> {
        self.array().map(u64::from_le_bytes)
    }

    /// The next `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The next bytes, which must be zero.
    pub fn zeros(&mut self, len: usize) -> Result<()> {
        if self.take(len)?.iter().all(|&byte| byte == 0) {
            return Ok(());
        }
        Err(self.damaged("has bytes that are not zero where nothing is said"))
    }

    /// What was not taken yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// An error unless all bytes are taken.
    pub fn finish(&self) -> Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        Err(self.damaged(&format!("has {} bytes too many", self.rest.len())))
    }

    fn damaged(&self, how: &str) -> Error {
        Error::damaged(format!("the {} {how}", self.what))
    }

    /// Whether all bytes are taken.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `len` bytes as text, which must be UTF-8.
    pub fn text(&mut self, len: usize) -> Result<String> {
        let bytes = self.take(len)?;
        match std::str::from_utf8(bytes) {
            Ok(text) => Ok(text.to_owned()),
            Err(_) => Err(Error::damaged(format!(
                "a name in the {} is not UTF-8",
                self.what
            ))),
        }
    }
}
