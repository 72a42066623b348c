//! The first request of a connection, in which both sides say what they can.

use std::io::IoSlice;
use std::os::fd::OwnedFd;

use nix::errno::Errno;
use nix::sys::uio::writev;

use crate::adapter::CacheMode;
use crate::wire;
use crate::wire::Operation;
use crate::wire::Reply;
use crate::wire::Request;
use crate::wire::feature;
use crate::wire::reply;
use crate::wire::reply::NegotiatedInit;

/// Pages of one request: 1 MiB measured best, and the kernel allows no more without a changed
/// limit.
const PAGES_MAX: u16 = 256;
/// Reads that the kernel may have on the way before it holds back.
const BACKGROUND_MAX: u16 = 64;
const CONGESTION: u16 = 48;
/// Bytes of one write: every thread has a buffer for it.
const WRITE_MAX: u32 = 256 << 10;
/// Where nothing is written.
const NO_WRITE_MAX: u32 = 4096;
/// Set to see what happens on a kernel that cannot be asked again.
const OLD_KERNEL_VARIABLE: &str = "BIGSMALL_MOUNT_WITHOUT_RESEND";
/// Longest first request.
const REQUEST_MAX: usize = 64 << 10;

/// What the rest of a mount's life needs to know of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Connection {
    /// Bytes of one write at most.
    pub(crate) write_max: u32,
    /// Whether requests that a worker left unanswered can be asked for again.
    pub(crate) can_resend: bool,
    /// Whether the kernel may be given files to read and write itself.
    pub(crate) can_pass: bool,
}

/// Answers the first request.
pub(crate) fn answer(
    device: &OwnedFd,
    writable: bool,
    cache_mode: CacheMode,
) -> Result<Connection, Errno> {
    let mut buffer = vec![0; REQUEST_MAX];
    loop {
        let len = match nix::unistd::read(device, &mut buffer) {
            Err(Errno::EINTR | Errno::EAGAIN) => continue,
            read => read?,
        };
        let request = Request::parse(&buffer[..len]).map_err(|_malformed| Errno::EPROTO)?;
        let Operation::Init {
            major,
            minor,
            readahead_max,
            features,
        } = request.operation
        else {
            return Err(Errno::EPROTO);
        };
        if major > wire::MAJOR {
            // it is told ours and asks again
            let body = wire::MAJOR.to_le_bytes();
            let header = reply::header(request.unique, None, 24);
            writev(
                device,
                &[
                    IoSlice::new(&header),
                    IoSlice::new(&body),
                    IoSlice::new(&[0; 20]),
                ],
            )?;
            continue;
        }
        if major < wire::MAJOR || minor < wire::MINOR_MIN {
            let header = reply::header(request.unique, Some(Errno::EPROTO), 0);
            writev(device, &[IoSlice::new(&header)])?;
            return Err(Errno::EPROTO);
        }
        let agreed = agree(minor, readahead_max, features, (writable, cache_mode));
        let header = reply::header(request.unique, None, Reply::init(&agreed).body().len());
        let body = Reply::init(&agreed);
        writev(device, &[IoSlice::new(&header), IoSlice::new(body.body())])?;
        return Ok(Connection {
            write_max: agreed.write_max,
            can_resend: agreed.features & feature::HAS_RESEND != 0,
            can_pass: agreed.features & feature::PASSTHROUGH != 0,
        });
    }
}

fn agree(
    minor: u32,
    readahead_max: u32,
    offered: u64,
    (writable, cache_mode): (bool, CacheMode),
) -> NegotiatedInit {
    let mut wanted = feature::ASYNC_READ
        | feature::BIG_WRITES
        | feature::DONT_MASK
        | feature::READDIRPLUS
        | feature::READDIRPLUS_AUTO
        | feature::ASYNC_DIO
        | feature::PARALLEL_DIROPS
        | feature::POSIX_ACL
        | feature::MAX_PAGES
        | feature::CACHE_SYMLINKS
        | feature::EXPLICIT_INVAL_DATA
        | feature::SETXATTR_EXT
        | feature::INIT_EXT
        | feature::HAS_RESEND;
    if cache_mode == CacheMode::Direct {
        wanted |= feature::DIRECT_IO_ALLOW_MMAP;
    }
    // only root may name such files, and they have to outlive a worker
    if offered & feature::HAS_RESEND != 0 && nix::unistd::geteuid().is_root() {
        wanted |= feature::PASSTHROUGH;
    }
    if std::env::var_os(OLD_KERNEL_VARIABLE).is_some() {
        wanted &= !(feature::HAS_RESEND | feature::PASSTHROUGH);
    }
    // what an older kernel lacks is not needed, only welcome
    let features = wanted & offered;
    let has_more_words = features & feature::INIT_EXT != 0;
    NegotiatedInit {
        minor: minor.min(wire::MINOR),
        readahead_max,
        features: if has_more_words {
            features
        } else {
            features & u64::from(u32::MAX)
        },
        background_max: BACKGROUND_MAX,
        congestion: CONGESTION,
        write_max: if writable { WRITE_MAX } else { NO_WRITE_MAX },
        pages_max: PAGES_MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_offered_is_agreed_on() {
        let agreed = agree(31, 1 << 17, feature::ASYNC_READ, (false, CacheMode::Direct));
        assert_eq!(agreed.features, feature::ASYNC_READ);
        let offered = !feature::INIT_EXT;
        let agreed = agree(45, 1 << 17, offered, (true, CacheMode::Kernel));
        assert_eq!(agreed.features >> 32, 0);
        assert_eq!(agreed.minor, wire::MINOR);
        let agreed = agree(45, 1 << 17, u64::MAX, (true, CacheMode::Kernel));
        assert!(agreed.features & feature::HAS_RESEND != 0);
        assert!(agreed.features & feature::DIRECT_IO_ALLOW_MMAP == 0);
    }
}
