//! What the kernel and the file system say to each other of a node: its type, its attributes, and
//! what of them is to be changed.

use nix::sys::stat::SFlag;

/// What kind of thing a path is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FileType {
    File,
    Folder,
    Link,
    Fifo,
    Socket,
    CharacterDevice,
    BlockDevice,
}

impl FileType {
    /// What a mode says, of which only the bits of the kind are looked at.
    pub(crate) fn of_mode(mode: u32) -> Option<Self> {
        Some(match SFlag::from_bits_truncate(mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => Self::File,
            SFlag::S_IFDIR => Self::Folder,
            SFlag::S_IFLNK => Self::Link,
            SFlag::S_IFIFO => Self::Fifo,
            SFlag::S_IFSOCK => Self::Socket,
            SFlag::S_IFCHR => Self::CharacterDevice,
            SFlag::S_IFBLK => Self::BlockDevice,
            _ => return None,
        })
    }

    /// Its bits of a mode.
    pub(crate) fn bits(self) -> u32 {
        match self {
            Self::File => SFlag::S_IFREG,
            Self::Folder => SFlag::S_IFDIR,
            Self::Link => SFlag::S_IFLNK,
            Self::Fifo => SFlag::S_IFIFO,
            Self::Socket => SFlag::S_IFSOCK,
            Self::CharacterDevice => SFlag::S_IFCHR,
            Self::BlockDevice => SFlag::S_IFBLK,
        }
        .bits()
    }
}

/// A time as files have it: seconds since 1970, and nanoseconds that count up from them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) ns: u32,
}

impl Time {
    /// Of what the disk says.
    pub(crate) fn of(seconds: i64, ns: i64) -> Self {
        let ns = u32::try_from(ns).unwrap_or(0);
        Self { seconds, ns }
    }

    /// As one number, which differs from that of any other time within centuries.
    pub(crate) fn number(self) -> u64 {
        let whole = self.seconds.wrapping_mul(1_000_000_000);
        whole.wrapping_add(self.ns.into()).cast_unsigned()
    }
}

/// What the kernel is told of a node.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attr {
    pub(crate) ino: u64,
    pub(crate) kind: FileType,
    pub(crate) size: u64,
    /// What it says to take, in units of 512 bytes.
    pub(crate) blocks: u64,
    pub(crate) atime: Time,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// How many names it has; for a folder, one means that nobody counts.
    pub(crate) nlink: u32,
    /// Which device it stands for, if it is one.
    pub(crate) rdev: u64,
}

impl Attr {
    /// The same under another inode number.
    pub(crate) fn with_number(self, ino: u64) -> Self {
        Self { ino, ..self }
    }

    /// A folder that an image stands for may be entered by whoever may read the image.
    pub(crate) fn may_be_entered(&mut self) {
        self.mode |= (self.mode & 0o444) >> 2;
    }
}

/// What of a file is to be changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<SetTime>,
    pub(crate) mtime: Option<SetTime>,
}

impl Changes {
    /// Whether nothing is to be changed.
    pub(crate) fn is_empty(&self) -> bool {
        let numbers = [self.mode, self.uid, self.gid];
        let times = [self.atime, self.mtime];
        numbers.iter().all(Option::is_none)
            && times.iter().all(Option::is_none)
            && self.size.is_none()
    }
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SetTime {
    Now,
    At(Time),
}
