//! `ReadAt`: bytes of a fixed length that many threads read anywhere.

use std::ops::Range;
use std::sync::Arc;

use crate::base::Error;
use crate::base::Result;
use crate::base::file::Identity;

/// A disk file, a remote range, the original file decoded from an image: all are read this way.
pub trait ReadAt: Send + Sync + std::fmt::Debug {
    /// Length in bytes.
    fn len(&self) -> u64;

    /// Whether there are no bytes at all.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `out` from `offset`; bytes beyond the end are an error.
    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()>;

    /// These bytes will be read soon: a hint, which costs nothing where nobody listens.
    fn will_read(&self, _range: Range<u64>) {}

    /// Which file of the disk it is; none if it is none.
    fn identity(&self) -> Option<Identity> {
        None
    }

    /// `len` bytes from `offset` without a copy; none if they are not in memory, or beyond the end.
    fn slice_at(&self, _offset: u64, _len: usize) -> Option<&[u8]> {
        None
    }
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let Some(bytes) = self.slice_at(offset, out.len()) else {
            return Err(Error::damaged(format!(
                "{} bytes at {offset} are beyond the end at {}",
                out.len(),
                self.as_slice().len()
            )));
        };
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn slice_at(&self, offset: u64, len: usize) -> Option<&[u8]> {
        let start = usize::try_from(offset).ok()?;
        self.get(start..start.checked_add(len)?)
    }
}

/// A part of something, as if it were all of it.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    whole: Arc<dyn ReadAt>,
    start: u64,
    len: u64,
}

impl Part {
    /// `len` bytes of `whole` from `start`, which must lie in it.
    pub(crate) fn new(whole: Arc<dyn ReadAt>, start: u64, len: u64) -> Self {
        let end = start.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= whole.len()),
            "the part lies in the whole"
        );
        Self { whole, start, len }
    }
}

impl ReadAt for Part {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(out.len() as u64);
        if end.is_none_or(|end| end > self.len) {
            return Err(Error::damaged(format!(
                "{} bytes at {offset} are beyond the end at {}",
                out.len(),
                self.len
            )));
        }
        self.whole.read_exact_at(self.start + offset, out)
    }
}
