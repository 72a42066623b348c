//! `ReadAt`: bytes of a fixed length that many threads read anywhere.

use std::ops::Range;
use std::sync::Arc;

use crate::base::Error;
use crate::base::Result;
use crate::base::identity::Identity;

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
    fn will_read(&self, _ranges: &[Range<u64>]) {}

    /// What it is to whoever keeps something of it for later.
    fn identity(&self) -> SourceIdentity {
        SourceIdentity::None
    }

    /// `len` bytes from `offset` without a copy; none if they are not in memory, or beyond the end.
    fn slice_at(&self, _offset: u64, _len: usize) -> Option<&[u8]> {
        None
    }
}

/// What tells the bytes of a source from all others, for as long as something of them is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SourceIdentity {
    /// A file of the disk, in the state in which it was opened.
    Disk(Identity),
    /// Something elsewhere, in the state that its tag stands for.
    Remote(RemoteTag),
    /// Nothing is known of it: nothing can be kept.
    None,
}

impl SourceIdentity {
    /// Itself, if anything can be kept of it.
    pub fn known(self) -> Option<Self> {
        (self != Self::None).then_some(self)
    }

    /// The file of the disk that it is, if it is one.
    pub fn on_disk(self) -> Option<Identity> {
        match self {
            Self::Disk(identity) => Some(identity),
            Self::Remote(_) | Self::None => None,
        }
    }
}

/// An address and the tag of its content (such as an `ETag`), as a digest of both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RemoteTag([u8; 32]);

impl RemoteTag {
    /// Of an address, and of what its server says of the content now.
    pub fn new(address: &str, tag: &str) -> Self {
        let mut hash = blake3::Hasher::new();
        hash.update(&(address.len() as u64).to_le_bytes());
        hash.update(address.as_bytes());
        hash.update(tag.as_bytes());
        Self(*hash.finalize().as_bytes())
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

/// A range of something, as if it were all of it.
#[derive(Debug, Clone)]
pub(crate) struct Slice {
    whole: Arc<dyn ReadAt>,
    start: u64,
    len: u64,
}

impl Slice {
    /// `len` bytes of `whole` from `start`, which must lie in it.
    pub(crate) fn new(whole: Arc<dyn ReadAt>, start: u64, len: u64) -> Self {
        let end = start.checked_add(len);
        assert!(
            end.is_some_and(|end| end <= whole.len()),
            "the slice lies in the whole"
        );
        Self { whole, start, len }
    }
}

impl ReadAt for Slice {
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

    fn will_read(&self, ranges: &[Range<u64>]) {
        let moved = |range: &Range<u64>| {
            self.start + range.start.min(self.len)..self.start + range.end.min(self.len)
        };
        let moved: Vec<Range<u64>> = ranges.iter().map(moved).collect();
        self.whole.will_read(&moved);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remote_is_known_by_address_and_tag() {
        let tag = |address, tag| SourceIdentity::Remote(RemoteTag::new(address, tag));
        assert_eq!(tag("a", "1"), tag("a", "1"));
        assert_ne!(tag("a", "1"), tag("a", "2"));
        assert_ne!(tag("a", "1"), tag("a1", ""));
        assert_eq!(tag("a", "1").on_disk(), None);
        assert_eq!(vec![0_u8; 3].identity(), SourceIdentity::None);
    }
}
