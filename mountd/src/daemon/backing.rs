//! Files that the kernel reads and writes itself. It is given one when somebody opens it, and has
//! it back when the last one closes it: whoever opens it meanwhile gets the same, for the kernel
//! refuses to mix. The supervisor holds this, as it outlives workers and may make the call.

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;

use nix::errno::Errno;

use crate::wire::device;

/// What the kernel was given.
#[derive(Debug, Default)]
pub(crate) struct BackingFiles {
    /// None where it takes none.
    device: Option<OwnedFd>,
    /// By inode: its number; none for a file that it did not take.
    numbers: BTreeMap<u64, Option<NonZeroU32>>,
}

impl BackingFiles {
    /// On the device of a mount whose kernel takes files, if it takes them from this process:
    /// `example` is an open file of any kind.
    pub(crate) fn new(device: OwnedFd, example: BorrowedFd<'_>) -> Self {
        let is_allowed = match device::give_file(device.as_fd(), example) {
            Ok(number) => {
                let _ = device::take_back(device.as_fd(), number);
                true
            }
            // a source that stands on such a file system itself, or another user; else it is the
            // example that it does not like
            Err(errno) => ![Errno::EPERM, Errno::ELOOP, Errno::ENOTTY].contains(&errno),
        };
        Self {
            device: is_allowed.then_some(device),
            numbers: BTreeMap::new(),
        }
    }

    /// Whether it takes any.
    pub(crate) fn is_allowed(&self) -> bool {
        self.device.is_some()
    }

    /// The kernel's number of the file with this inode number in the mount; none if it is not to
    /// read it itself.
    pub(crate) fn give(&mut self, ino: u64, file: BorrowedFd<'_>) -> Option<NonZeroU32> {
        let device = self.device.as_ref()?;
        *self.numbers.entry(ino).or_insert_with(|| {
            let given = device::give_file(device.as_fd(), file);
            given
                .inspect_err(|errno| tracing::debug!("the kernel does not take a file: {errno}"))
                .ok()
        })
    }

    /// Nobody has the file open any more.
    pub(crate) fn take_back(&mut self, ino: u64) {
        if let (Some(Some(number)), Some(device)) = (self.numbers.remove(&ino), &self.device)
            && let Err(errno) = device::take_back(device.as_fd(), number)
        {
            tracing::warn!("the kernel does not give a file back: {errno}");
        }
    }
}
