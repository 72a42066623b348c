//! `ReadAt`: bytes of a fixed length that many threads read anywhere.

use crate::base::Error;
use crate::base::Result;

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
}

impl ReadAt for Vec<u8> {
    fn len(&self) -> u64 {
        self.as_slice().len() as u64
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset).ok();
        let range = start.and_then(|start| self.get(start..start.checked_add(out.len())?));
        let Some(bytes) = range else {
            return Err(Error::damaged(format!(
                "{} bytes at {offset} are beyond the end at {}",
                out.len(),
                self.as_slice().len()
            )));
        };
        out.copy_from_slice(bytes);
        Ok(())
    }
}
