//! Open files: those of images, and what the kernel is told of those that pass through.

use std::fs::File;
use std::num::NonZeroU32;
use std::sync::Arc;

use bigsmall::archive::Original;

/// Handles of files that pass through have this bit, which no inode number has.
pub(super) const PASSTHROUGH: u64 = 1 << 62;
/// And those of what only has to stay on the disk this one, too.
pub(super) const PINNED: u64 = 1 << 61;

/// An open file of an image.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: Original,
    pub(super) users: u64,
    /// Whether a read failed in a way that may have passed when it is opened the next time.
    pub(super) is_doubtful: bool,
}

/// What the kernel is told of a file that passes through and is open now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Passthrough {
    pub(crate) handle: u64,
    /// The number under which it reads and writes the file itself.
    pub(crate) backing: Option<NonZeroU32>,
}

/// An open file that passes through.
#[derive(Debug)]
pub(crate) struct PassthroughFile {
    pub(super) ino: u64,
    pub(super) file: Arc<File>,
}
