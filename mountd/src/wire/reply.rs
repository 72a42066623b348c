//! Replies, as they are written to the device.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::statvfs::Statvfs;

use crate::node::Attr;
use crate::node::FileType;
use crate::wire;

/// Length of what every reply begins with.
pub(crate) const HEADER_LEN: usize = 16;
const BLOCK_SIZE: u32 = 4096;

/// How the kernel is to treat an open file.
pub(crate) mod open {
    /// Every read comes to us, none to the page cache.
    pub(crate) const DIRECT_IO: u32 = 1;
    /// Pages of the last open are still right.
    pub(crate) const KEEP_CACHE: u32 = 1 << 1;
    /// Reads and writes go to the file that stands behind it, and none to us.
    pub(crate) const PASSTHROUGH: u32 = 1 << 7;
}

/// The body of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reply(Vec<u8>);

/// What is told of a name: its attributes, and how long they and the name hold.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) attr: Attr,
    pub(crate) attr_ttl: Duration,
    pub(crate) name_ttl: Duration,
}

/// What was agreed on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NegotiatedInit {
    pub(crate) minor: u32,
    pub(crate) readahead_max: u32,
    pub(crate) features: u64,
    pub(crate) background_max: u16,
    pub(crate) congestion: u16,
    pub(crate) write_max: u32,
    pub(crate) pages_max: u16,
}

impl Reply {
    /// Nothing but that it was done.
    pub(crate) fn empty() -> Self {
        Self(Vec::new())
    }

    /// These bytes.
    pub(crate) fn bytes(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }

    fn u16(mut self, n: u16) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn u32(mut self, n: u32) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn u64(mut self, n: u64) -> Self {
        self.0.extend(n.to_le_bytes());
        self
    }

    fn zeros(mut self, len: usize) -> Self {
        self.0.resize(self.0.len() + len, 0);
        self
    }

    fn attributes(self, attr: &Attr) -> Self {
        let times = [attr.atime, attr.mtime, attr.ctime];
        let head = self.u64(attr.ino).u64(attr.size).u64(attr.blocks);
        let seconds = times
            .iter()
            .fold(head, |reply, time| reply.u64(time.seconds.cast_unsigned()));
        let ns = times.iter().fold(seconds, |reply, time| reply.u32(time.ns));
        ns.u32(attr.kind.bits() | u32::from(attr.mode))
            .u32(attr.nlink)
            .u32(attr.uid)
            .u32(attr.gid)
            .u32(device_number(attr.rdev))
            .u32(BLOCK_SIZE)
            .u32(0)
    }

    fn named(self, entry: &Entry) -> Self {
        let generation = 0;
        self.u64(entry.attr.ino)
            .u64(generation)
            .u64(entry.name_ttl.as_secs())
            .u64(entry.attr_ttl.as_secs())
            .u32(entry.name_ttl.subsec_nanos())
            .u32(entry.attr_ttl.subsec_nanos())
            .attributes(&entry.attr)
    }

    /// What a name is.
    pub(crate) fn entry(entry: &Entry) -> Self {
        Self::empty().named(entry)
    }

    /// Attributes, and how long they hold.
    pub(crate) fn attr(attr: &Attr, ttl: Duration) -> Self {
        Self::empty()
            .u64(ttl.as_secs())
            .u32(ttl.subsec_nanos())
            .u32(0)
            .attributes(attr)
    }

    /// An open file or folder.
    pub(crate) fn opened(handle: u64, flags: u32, backing: u32) -> Self {
        Self::empty().handle(handle, flags, backing)
    }

    fn handle(self, handle: u64, flags: u32, backing: u32) -> Self {
        self.u64(handle).u32(flags).u32(backing)
    }

    /// A file that was made and opened.
    pub(crate) fn created(entry: &Entry, handle: u64, flags: u32, backing: u32) -> Self {
        Self::entry(entry).handle(handle, flags, backing)
    }

    /// How many bytes were written.
    pub(crate) fn written(len: u32) -> Self {
        Self::empty().u32(len).u32(0)
    }

    /// How long an attribute's value is.
    pub(crate) fn xattr_len(len: u32) -> Self {
        Self::empty().u32(len).u32(0)
    }

    /// Room and limits of a disk.
    pub(crate) fn statfs(s: &Statvfs) -> Self {
        Self::empty()
            .u64(s.blocks())
            .u64(s.blocks_free())
            .u64(s.blocks_available())
            .u64(s.files())
            .u64(s.files_free())
            .u32(s.block_size() as u32)
            .u32(s.name_max() as u32)
            .u32(s.fragment_size() as u32)
            .zeros(28)
    }

    /// What was agreed on at the beginning.
    pub(crate) fn init(agreed: &NegotiatedInit) -> Self {
        Self::empty()
            .u32(wire::MAJOR)
            .u32(agreed.minor)
            .u32(agreed.readahead_max)
            .u32(agreed.features as u32)
            .u16(agreed.background_max)
            .u16(agreed.congestion)
            .u32(agreed.write_max)
            // grain of times in nanoseconds
            .u32(1)
            .u16(agreed.pages_max)
            .u16(0)
            .u32((agreed.features >> 32) as u32)
            // how deep files may stand over others that the kernel reads itself
            .u32(1)
            .zeros(24)
    }

    /// The bytes behind the header.
    pub(crate) fn body(&self) -> &[u8] {
        &self.0
    }
}

/// A listing, of at most so many bytes.
#[derive(Debug)]
pub(crate) struct Listing {
    reply: Reply,
    len_max: usize,
}

impl Listing {
    pub(crate) fn new(len_max: u32) -> Self {
        Self {
            reply: Reply::empty(),
            len_max: len_max as usize,
        }
    }

    /// Adds a name if there is room: `next` is where the listing goes on behind it. With attributes
    /// if `entry` has some; an inode of 0 in there means that they are not told.
    pub(crate) fn add(
        &mut self,
        next: u64,
        (ino, kind): (u64, FileType),
        name: &OsStr,
        entry: Option<&Entry>,
    ) -> bool {
        let before = self.reply.0.len();
        let kind = kind.bits() >> 12;
        let mut reply = std::mem::replace(&mut self.reply, Reply::empty());
        if let Some(entry) = entry {
            reply = reply.named(entry);
        }
        reply = reply.u64(ino).u64(next).u32(name.len() as u32).u32(kind);
        reply.0.extend(name.as_bytes());
        let padding = reply.0.len().next_multiple_of(8) - reply.0.len();
        self.reply = reply.zeros(padding);
        let fits = self.reply.0.len() <= self.len_max;
        if !fits {
            self.reply.0.truncate(before);
        }
        fits
    }

    /// The reply.
    pub(crate) fn reply(self) -> Reply {
        self.reply
    }
}

/// The header of a reply with so many bytes behind it, or of an error.
pub(crate) fn header(unique: u64, error: Option<Errno>, body_len: usize) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    let len = (HEADER_LEN + body_len) as u32;
    let error = error.map_or(0, |errno| -(errno as i32));
    header[..4].copy_from_slice(&len.to_le_bytes());
    header[4..8].copy_from_slice(&error.to_le_bytes());
    header[8..].copy_from_slice(&unique.to_le_bytes());
    header
}

/// A notification of this kind without a body.
pub(crate) fn notification(kind: i32) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..4].copy_from_slice(&(HEADER_LEN as u32).to_le_bytes());
    header[4..8].copy_from_slice(&kind.to_le_bytes());
    header
}

/// The number of a device as the kernel has it: minor numbers of more than a byte stand above the
/// major one.
fn device_number(rdev: u64) -> u32 {
    let (major, minor) = (nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
    (minor & 0xff | major << 8 | (minor & !0xff) << 12) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::Time;

    fn time(seconds: i64) -> Time {
        Time { seconds, ns: 0 }
    }

    fn attr() -> Attr {
        Attr {
            ino: 9,
            kind: FileType::File,
            size: 1000,
            blocks: 2,
            atime: time(1),
            mtime: Time {
                seconds: -1,
                ns: 750_000_000,
            },
            ctime: time(2),
            mode: 0o644,
            uid: 1,
            gid: 2,
            nlink: 3,
            rdev: 0,
        }
    }

    #[test]
    fn replies_have_the_lengths_of_the_protocol() {
        let entry = Entry {
            attr: attr(),
            attr_ttl: Duration::from_secs(1),
            name_ttl: Duration::from_secs(1),
        };
        assert_eq!(Reply::attr(&attr(), Duration::ZERO).body().len(), 104);
        assert_eq!(Reply::entry(&entry).body().len(), 128);
        assert_eq!(Reply::created(&entry, 1, 0, 0).body().len(), 144);
        assert_eq!(Reply::opened(1, 0, 0).body().len(), 16);
        let agreed = NegotiatedInit {
            minor: 41,
            readahead_max: 1 << 17,
            features: u64::MAX,
            background_max: 1,
            congestion: 1,
            write_max: 4096,
            pages_max: 256,
        };
        assert_eq!(Reply::init(&agreed).body().len(), 64);
        assert_eq!(device_number(nix::sys::stat::makedev(8, 257)), 0x10_0801);
        let reply = Reply::attr(&attr(), Duration::ZERO);
        let [seconds, ns] = [&reply.body()[48..56], &reply.body()[68..72]];
        assert_eq!(seconds, (-1_i64).to_le_bytes());
        assert_eq!(ns, 750_000_000_u32.to_le_bytes());
    }

    #[test]
    fn a_listing_stays_within_its_bound() {
        let mut listing = Listing::new(100);
        let added =
            (0..10).take_while(|n| listing.add(*n, (3, FileType::File), OsStr::new("abc"), None));
        assert_eq!(added.count(), 3);
        assert_eq!(listing.reply().body().len(), 96);
    }
}
