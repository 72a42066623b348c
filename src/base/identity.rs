//! Which file of the disk it is, and in which state: what is kept of a file counts only for both.

use std::time::Duration;
use std::time::SystemTime;

use serde::Deserialize;
use serde::Serialize;

/// What the disk says of a file: device, inode, length, and times of change of content and of
/// anything in nanoseconds. Another content has another identity, unless it was written within the
/// grain of the disk's clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Identity {
    device: u64,
    inode: u64,
    len: u64,
    mtime_ns: i64,
    ctime_ns: i64,
}

impl Identity {
    /// That of a file.
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        let ns = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000) + rest;
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            len: metadata.len(),
            mtime_ns: ns(metadata.mtime(), metadata.mtime_nsec()),
            ctime_ns: ns(metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Device and inode.
    pub fn device_and_inode(&self) -> [u64; 2] {
        [self.device, self.inode]
    }

    /// The last change of anything.
    pub fn changed(&self) -> SystemTime {
        let ns = u64::try_from(self.ctime_ns.max(self.mtime_ns)).unwrap_or(0);
        SystemTime::UNIX_EPOCH + Duration::from_nanos(ns)
    }

    /// Whether nothing of this file, not even its names, changed since something of the other did,
    /// as the clock of the disk has it.
    pub fn rested_since(&self, other: &Self) -> bool {
        self.ctime_ns <= other.ctime_ns
    }

    /// Whether both are names of one file, whatever became of it between.
    pub fn is_same_file(&self, other: &Self) -> bool {
        (self.device, self.inode) == (other.device, other.inode)
    }

    /// Whether it is the same file with the same length and time of change of its content, whatever
    /// its names and permissions.
    pub fn has_content_of(&self, other: &Self) -> bool {
        self.is_same_file(other) && (self.len, self.mtime_ns) == (other.len, other.mtime_ns)
    }

    /// As if all changes were so much longer ago.
    #[cfg(test)]
    pub(crate) fn aged(self, by: Duration) -> Self {
        let by = by.as_nanos() as i64;
        Self {
            mtime_ns: self.mtime_ns - by,
            ctime_ns: self.ctime_ns - by,
            ..self
        }
    }
}
