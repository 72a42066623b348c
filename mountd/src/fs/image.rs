//! An open image: one of ours, or a file of the Python package.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bigsmall::archive::BoundImage;
use bigsmall::archive::ImageId;
use bigsmall::archive::PackageFile;

/// Open images kept after the last file of theirs was closed: loaders open one file a thousand
/// times.
pub(super) const IMAGES_KEPT: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// An image, and its file once more.
#[derive(Debug)]
pub(super) struct Image {
    pub(super) content: Content,
    /// For whoever has to read it after this worker.
    pub(super) file: OwnedFd,
}

/// Who made the file small.
#[derive(Debug, Clone)]
pub(super) enum Content {
    Ours(Arc<BoundImage>),
    Package(PackageFile),
}

impl Content {
    pub(super) fn id(&self) -> ImageId {
        match self {
            Self::Ours(image) => image.id(),
            Self::Package(file) => file.id(),
        }
    }

    /// Bytes that are held of it while it is open.
    pub(super) fn memory_bytes(&self) -> u64 {
        match self {
            Self::Ours(image) => image.memory_bytes(),
            Self::Package(_) => 0,
        }
    }

    pub(super) fn is_delta(&self) -> bool {
        matches!(self, Self::Ours(image) if image.is_delta())
    }
}
