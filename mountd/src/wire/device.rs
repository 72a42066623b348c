//! What is asked of the device itself, beside requests and replies: files that the kernel shall
//! read and write in our place (`FUSE_DEV_IOC_BACKING_OPEN` and its end, Linux 6.9 and newer).
//! Nothing safe makes these two calls, so this file may hold `unsafe`, and nothing else does.
#![allow(
    unsafe_code,
    reason = "the device's own calls have no safe form in any crate"
)]

use std::num::NonZeroU32;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;

use nix::errno::Errno;

/// `struct fuse_backing_map`.
#[repr(C)]
#[derive(Debug)]
struct BackingMap {
    fd: i32,
    flags: u32,
    padding: u64,
}

mod call {
    use super::BackingMap;

    nix::ioctl_write_ptr!(backing_open, 229, 1, BackingMap);
    nix::ioctl_write_ptr!(backing_close, 229, 2, u32);
}

/// Gives a file to the kernel, which keeps it open; its number there. `EPERM` without
/// `CAP_SYS_ADMIN`, `ELOOP` for a file that stands on another such file system already.
pub(crate) fn give_file(device: BorrowedFd<'_>, file: BorrowedFd<'_>) -> Result<NonZeroU32, Errno> {
    let map = BackingMap {
        fd: file.as_raw_fd(),
        flags: 0,
        padding: 0,
    };
    // SAFETY: the call reads one `BackingMap`, which lives until it returns; both descriptors are
    // open as long as they are borrowed.
    let number = unsafe { call::backing_open(device.as_raw_fd(), &raw const map) }?;
    let number = u32::try_from(number).ok().and_then(NonZeroU32::new);
    number.ok_or(Errno::EPROTO)
}

/// Takes it back; files that are open on it stay so.
pub(crate) fn take_back(device: BorrowedFd<'_>, number: NonZeroU32) -> Result<(), Errno> {
    let number = number.get();
    // SAFETY: the call reads one `u32`, which lives until it returns; the descriptor is open as
    // long as it is borrowed.
    unsafe { call::backing_close(device.as_raw_fd(), &raw const number) }.map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn what_is_no_device_refuses() {
        let file = File::open("/dev/null").unwrap();
        assert!(give_file(file.as_fd(), file.as_fd()).is_err());
        assert!(take_back(file.as_fd(), NonZeroU32::MIN).is_err());
    }
}
