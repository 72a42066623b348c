//! What outlives a worker: where the nodes are that the kernel knows, and the files that pass through and are open.

use std::os::fd::BorrowedFd;
use std::path::PathBuf;

use crate::fs::tree::Node;
use crate::fs::tree::What;

/// Where a node is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// Path of the file on the disk, relative to the root.
    pub(crate) path: PathBuf,
    /// Path within the image of a folder, for what is in one.
    pub(crate) inner: Option<String>,
}

impl Place {
    /// That of a node.
    pub(crate) fn of(node: &Node) -> Self {
        let inner = match &node.what {
            What::Disk(_) => None,
            What::ImageFolder(inner) | What::ImageFile(_, inner) => Some(inner.clone()),
        };
        Self {
            path: node.path.clone(),
            inner,
        }
    }
}

/// Who keeps it.
pub(crate) trait Keeper: Send + Sync + std::fmt::Debug {
    /// The kernel knows this node.
    fn remember(&self, ino: u64, place: &Place);
    /// It does not any more.
    fn forget(&self, ino: u64);
    /// A file is open under this handle.
    fn hold(&self, handle: u64, ino: u64, file: BorrowedFd<'_>);
    /// It is closed.
    fn close(&self, handle: u64);
    /// A request that a worker before this one did not answer is tried.
    fn trying(&self, unique: u64);
}
