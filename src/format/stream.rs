//! The payload of a section of the index, read from first to last in pieces: an index may be larger
//! than the memory that there is for it.

#![deny(
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "hostile bytes"
)]

use std::io;
use std::io::BufReader;
use std::io::Read;

use crate::base::ByteReader;
use crate::base::Error;
use crate::base::ReadAt;
use crate::base::Result;

/// Bytes that are read at once.
const PIECE_LEN: usize = 64 << 10;
/// A zstd frame says how long its content is in at most as many bytes.
const FRAME_HEADER_LEN_MAX: usize = 18;

/// A run of bytes of the image.
#[derive(Debug)]
struct Stored<'a> {
    source: &'a dyn ReadAt,
    at: u64,
    left: u64,
}

impl Read for Stored<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let len = (out.len() as u64).min(self.left);
        let out = out.get_mut(..len as usize).unwrap_or_default();
        self.source
            .read_exact_at(self.at, out)
            .map_err(io::Error::other)?;
        self.at = self.at.saturating_add(len);
        self.left = self.left.saturating_sub(len);
        Ok(len as usize)
    }
}

/// A payload that is read record by record.
pub(super) struct Stream<'a> {
    bytes: Box<dyn Read + 'a>,
    /// Bytes that were read and not taken.
    buffer: Vec<u8>,
    taken: usize,
    /// Bytes that are still to be read.
    left: u64,
    what: &'static str,
}

impl<'a> Stream<'a> {
    /// `stored_len` bytes of `source` from `at`, `plain_len` after zstd if they are a frame.
    pub(super) fn new(
        source: &'a dyn ReadAt,
        (at, stored_len): (u64, u64),
        plain_len: u64,
        is_frame: bool,
        what: &'static str,
    ) -> Result<Self> {
        let stored = Stored {
            source,
            at,
            left: stored_len,
        };
        let bytes: Box<dyn Read + 'a> = if is_frame {
            check_frame(source, (at, stored_len), plain_len)?;
            let stored = BufReader::with_capacity(PIECE_LEN, stored);
            let frame = zstd::stream::read::Decoder::with_buffer(stored);
            Box::new(frame.map_err(|e| failed(e, what))?)
        } else if stored_len == plain_len {
            Box::new(stored)
        } else {
            return Err(wrong_len());
        };
        Ok(Self {
            bytes,
            buffer: Vec::new(),
            taken: 0,
            left: plain_len,
            what,
        })
    }

    /// Bytes that were not taken yet.
    pub(super) fn len(&self) -> u64 {
        let held = self.buffer.len().saturating_sub(self.taken) as u64;
        self.left.saturating_add(held)
    }

    /// The next `len` bytes, which stay the next.
    pub(super) fn peek(&mut self, len: usize) -> Result<&[u8]> {
        if len as u64 > self.len() {
            return Err(Error::damaged(format!("the {} ends too soon", self.what)));
        }
        if self.buffer.len().saturating_sub(self.taken) < len {
            self.fill(len)?;
        }
        let end = self.taken.saturating_add(len);
        Ok(self.buffer.get(self.taken..end).unwrap_or_default())
    }

    /// Takes the next `len` bytes.
    pub(super) fn take(&mut self, len: usize) -> Result<ByteReader<'_>> {
        self.peek(len)?;
        let end = self.taken.saturating_add(len);
        let taken = self.buffer.get(self.taken..end).unwrap_or_default();
        self.taken = end;
        Ok(ByteReader::new(taken, self.what))
    }

    /// Reads on until at least `len` bytes are held.
    fn fill(&mut self, len: usize) -> Result<()> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        let held = self.buffer.len();
        let least = len.saturating_sub(held).max(PIECE_LEN) as u64;
        let more = least.min(self.left);
        let piece = (&mut self.bytes).take(more);
        let got = { piece }.read_to_end(&mut self.buffer);
        let got = got.map_err(|e| failed(e, self.what))? as u64;
        self.left = self.left.saturating_sub(got);
        if got == more {
            Ok(())
        } else {
            Err(wrong_len())
        }
    }

    /// An error unless all bytes were taken, and there are no more.
    pub(super) fn finish(mut self) -> Result<()> {
        if self.len() > 0 {
            return Err(Error::damaged(format!(
                "{} bytes are left over in the {}",
                self.len(),
                self.what
            )));
        }
        match self.bytes.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(wrong_len()),
            Err(error) => Err(failed(error, self.what)),
        }
    }
}

/// A frame that does not say how long its content is, or says otherwise, is refused before it is
/// unpacked.
fn check_frame(source: &dyn ReadAt, (at, stored_len): (u64, u64), plain_len: u64) -> Result<()> {
    let mut beginning = [0; FRAME_HEADER_LEN_MAX];
    let len = stored_len.min(FRAME_HEADER_LEN_MAX as u64) as usize;
    let beginning = beginning.get_mut(..len).unwrap_or_default();
    source.read_exact_at(at, beginning)?;
    let stated = zstd::zstd_safe::get_frame_content_size(beginning);
    if matches!(stated, Ok(Some(len)) if len == plain_len) {
        Ok(())
    } else {
        Err(wrong_len())
    }
}

fn wrong_len() -> Error {
    Error::damaged("a section of the index does not have the stated length")
}

/// What reading the image failed with; whatever else is a frame that cannot be unpacked.
fn failed(error: io::Error, what: &str) -> Error {
    let unpacking = |_| Error::damaged(format!("the {what} cannot be unpacked"));
    error.downcast::<Error>().unwrap_or_else(unpacking)
}
