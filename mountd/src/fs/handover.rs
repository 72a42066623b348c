//! What outlives a worker: where the nodes are that the kernel knows, the files that are open, and
//! what was begun.

use std::fmt::Debug;
use std::num::NonZeroU32;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::fs::root::Result;
use crate::fs::root::Stat;
use crate::fs::tree::Node;
use crate::fs::tree::NodeKind;

/// Where a node is found again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NodeLocation {
    /// Path of the file on the disk, relative to the root.
    pub(crate) path: PathBuf,
    /// Path within the image of a folder, for what is in one.
    pub(crate) inner: Option<String>,
}

impl NodeLocation {
    /// That of a node.
    pub(crate) fn of(node: &Node) -> Self {
        let inner = match &node.what {
            NodeKind::Disk(_) => None,
            NodeKind::ImageFolder(inner)
            | NodeKind::ImageFile(_, inner)
            | NodeKind::ImageLink(_, inner) => Some(inner.clone()),
        };
        Self {
            path: node.path.clone(),
            inner,
        }
    }
}

/// An image of which a file is open: it is read on even if its name is gone, or another file has
/// it.
#[derive(Debug)]
pub(crate) struct OpenImage {
    pub(crate) location: NodeLocation,
    /// What the disk said of it when the node was made.
    pub(crate) stat: Stat,
    pub(crate) file: OwnedFd,
}

/// Who keeps it.
pub(crate) trait Handover: Send + Sync + Debug {
    /// The kernel knows this node.
    fn remember(&self, ino: u64, location: &NodeLocation);
    /// It does not any more.
    fn forget(&self, ino: u64);
    /// A file that passes through is open under this handle.
    fn hold(&self, handle: u64, ino: u64, file: BorrowedFd<'_>);
    /// The number under which the kernel reads and writes that file itself; none if it cannot. An
    /// error if nobody can say: the kernel mixes both ways never, so the file cannot be opened
    /// either way then.
    fn pass(&self, handle: u64) -> Result<Option<NonZeroU32>>;
    /// It is closed.
    fn close(&self, handle: u64);
    /// A file of an image is open.
    fn hold_image(&self, ino: u64, location: &NodeLocation, stat: &Stat, image: BorrowedFd<'_>);
    /// All who had it open have closed it.
    fn close_image(&self, ino: u64);
    /// A request that a worker before this one did not answer is tried.
    fn trying(&self, unique: u64);
    /// A request that changes names, and may not be done twice, is begun.
    fn begin(&self, unique: u64);
    /// It was answered.
    fn end(&self, unique: u64);
}
