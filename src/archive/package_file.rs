//! A file of the Python package as the safetensors file that it stands for: reads of any range,
//! decoded a tensor at a time, because its codes can only be decoded from the start of one.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::archive::cache::BlockCache;
use crate::archive::cache::ImageId;
use crate::archive::tensor_cache::TensorCache;
use crate::archive::virtual_file::Piece;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::ReadAt;
use crate::base::Remedy;
use crate::base::Result;
use crate::bgsm::Package;
use crate::bgsm::Plain;

/// Shorter tensors lie among the blocks in the cache.
const BLOCK_LEN_MAX: u64 = 1 << 20;

/// One file of the package. Every byte of a tensor comes from one whose md5 matched.
#[derive(Debug, Clone)]
pub struct PackageFile {
    plain: Arc<Plain>,
    cache: Arc<BlockCache>,
    tensors: Arc<TensorCache>,
    id: ImageId,
}

impl PackageFile {
    /// Opens a file; `path` is for messages. One that is stored as differences is refused: which
    /// base it needs it does not say.
    pub fn open(
        source: Arc<dyn ReadAt>,
        path: &Path,
        cache: Arc<BlockCache>,
        tensors: Arc<TensorCache>,
    ) -> Result<Self> {
        let id = ImageId::of(&*source);
        let package = Package::open(source, path)?;
        if package.needs_base() {
            let error = Error::new(
                ErrorKind::MissingBase,
                "is stored as differences by the Python package, which does not say from what",
            );
            return Err(error.file(path).remedy(Remedy::ImportWithBase));
        }
        Ok(Self {
            plain: Arc::new(Plain::new(package).map_err(|e| e.file(path))?),
            cache,
            tensors,
            id,
        })
    }

    /// What tells it from images in a cache.
    pub fn id(&self) -> ImageId {
        self.id
    }

    /// Bytes of the safetensors file.
    pub fn byte_len(&self) -> u64 {
        self.plain.byte_len()
    }

    /// The `len` bytes from `offset`, which stay decoded while they are held. Bytes beyond the end
    /// are an error.
    pub fn pieces(&self, offset: u64, len: u64) -> Result<Vec<Piece>> {
        let end = offset
            .checked_add(len)
            .filter(|&end| end <= self.byte_len());
        let end = end.ok_or_else(|| {
            let what = format!("{len} bytes at {offset} are beyond the end");
            Error::invalid(what).file(self.plain.package().path())
        })?;
        let mut offset = offset;
        let mut pieces = Vec::with_capacity(2);
        while offset < end {
            let (block, range) = self.part(offset)?;
            let len = (range.end - offset).min(end - offset);
            let at = (offset - range.start) as usize;
            pieces.push(Piece::new(block, at..at + len as usize));
            offset += len;
        }
        Ok(pieces)
    }

    /// The header or the tensor that holds `offset`, and where it lies.
    fn part(&self, offset: u64) -> Result<(Arc<Vec<u8>>, Range<u64>)> {
        let header = self.plain.header();
        if offset < header.len() as u64 {
            return Ok((Arc::clone(header), 0..header.len() as u64));
        }
        let (number, range) = self.plain.tensor_at(offset);
        let len = range.end - range.start;
        let decode = || self.plain.decode(number);
        let bytes = if len <= BLOCK_LEN_MAX {
            self.cache.block(self.id, number, len, decode)
        } else {
            self.tensors.tensor(self.id, number, decode)
        };
        Ok((bytes?, range))
    }
}

impl ReadAt for PackageFile {
    fn len(&self) -> u64 {
        self.byte_len()
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let mut rest = out;
        for piece in self.pieces(offset, rest.len() as u64)? {
            let (now, after) = rest.split_at_mut(piece.len());
            now.copy_from_slice(&piece);
            rest = after;
        }
        Ok(())
    }
}
