//! An original file, out of an image or out of a file of the Python package.

use crate::archive::PackageFile;
use crate::archive::Piece;
use crate::archive::VirtualFile;
use crate::base::Result;

/// An original file.
#[derive(Debug, Clone)]
pub enum Original {
    /// Of an image.
    Image(VirtualFile),
    /// Of a file of the Python package.
    Package(PackageFile),
}

impl Original {
    /// Its bytes.
    pub fn byte_len(&self) -> u64 {
        match self {
            Self::Image(file) => file.record().len,
            Self::Package(file) => file.byte_len(),
        }
    }

    /// The `len` bytes from `offset` where they were decoded, without a copy; they stay there while
    /// this is held. Bytes beyond the end are an error.
    pub fn pieces(&self, offset: u64, len: u64) -> Result<Vec<Piece>> {
        match self {
            Self::Image(file) => file.pieces(offset, len),
            Self::Package(file) => file.pieces(offset, len),
        }
    }
}
