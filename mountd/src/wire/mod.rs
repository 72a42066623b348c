//! The bytes of the FUSE protocol, revision 7.31 and newer (`include/uapi/linux/fuse.h` of Linux):
//! requests as the kernel writes them, and what it takes as replies. Numbers are in the machine's
//! order, which is little-endian on all that we are built for.

pub(crate) mod device;
pub(crate) mod reply;
pub(crate) mod request;

#[cfg(target_endian = "big")]
compile_error!("the protocol's numbers are read as little-endian");

pub(crate) use reply::Reply;
pub(crate) use request::Operation;
pub(crate) use request::Request;

/// The revision spoken.
pub(crate) const MAJOR: u32 = 7;
/// What of it is used; a kernel with an older one leaves the rest out, a newer one is told this.
pub(crate) const MINOR: u32 = 41;
/// Older kernels (before Linux 5.4) have other layouts.
pub(crate) const MINOR_MIN: u32 = 31;

/// What the two sides can, as bits of INIT: the low half in its first word, the other in its
/// second.
pub(crate) mod feature {
    /// Reads of one file at the same time.
    pub(crate) const ASYNC_READ: u64 = 1;
    /// Writes of more than a page.
    pub(crate) const BIG_WRITES: u64 = 1 << 5;
    /// The asker's mask is not taken off modes, but told beside them.
    pub(crate) const DONT_MASK: u64 = 1 << 6;
    /// Listings with attributes.
    pub(crate) const READDIRPLUS: u64 = 1 << 13;
    /// Listings with attributes only while they are used.
    pub(crate) const READDIRPLUS_AUTO: u64 = 1 << 14;
    /// Parts of one direct read at the same time.
    pub(crate) const ASYNC_DIO: u64 = 1 << 15;
    /// Lookups and listings of one folder at the same time.
    pub(crate) const PARALLEL_DIROPS: u64 = 1 << 18;
    /// Access lists of the disk are looked at by the kernel, beside permissions.
    pub(crate) const POSIX_ACL: u64 = 1 << 20;
    /// Requests of more than 128 KiB.
    pub(crate) const MAX_PAGES: u64 = 1 << 22;
    /// Targets of links are kept by the kernel.
    pub(crate) const CACHE_SYMLINKS: u64 = 1 << 23;
    /// Pages go only when they are told to.
    pub(crate) const EXPLICIT_INVAL_DATA: u64 = 1 << 25;
    /// Attributes that are set come with flags of their own.
    pub(crate) const SETXATTR_EXT: u64 = 1 << 29;
    /// There is a second word.
    pub(crate) const INIT_EXT: u64 = 1 << 30;
    /// Files opened for direct reads may be mapped all the same.
    pub(crate) const DIRECT_IO_ALLOW_MMAP: u64 = 1 << 36;
    /// Files that the kernel reads and writes itself.
    pub(crate) const PASSTHROUGH: u64 = 1 << 37;
    /// Requests that were not answered can be asked for again.
    pub(crate) const HAS_RESEND: u64 = 1 << 39;
}

/// Set in the number of a request that was asked for again.
pub(crate) const RESENT: u64 = 1 << 63;
/// The notification that asks for it.
pub(crate) const NOTIFY_RESEND: i32 = 7;
