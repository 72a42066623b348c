//! Read leases (fcntl(2)): while one is held on a file, nobody has it open for writing, and who
//! opens it to write waits a moment.

#![expect(unsafe_code, reason = "no crate wraps F_SETLEASE")]

use std::fs::File;
use std::os::fd::AsRawFd;

use nix::errno::Errno;
use nix::libc;

/// Which signal tells that somebody wants to write: by default one that would end the process, so
/// one that nobody hears.
const F_SETSIG: libc::c_int = 10;

/// What became of the wish for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Leased {
    /// It is held: nobody writes.
    Held,
    /// Somebody has the file open for writing.
    Written,
    /// It cannot be known: another's file, or a file system without leases.
    Unknown,
}

/// Takes a lease on a file that is open for reading. It goes with the file, or when it is released.
pub(crate) fn take(file: &File) -> Leased {
    let asked = fcntl(file, F_SETSIG, libc::SIGURG)
        .and_then(|_| fcntl(file, libc::F_SETLEASE, libc::F_RDLCK));
    match asked {
        Ok(_) => Leased::Held,
        Err(Errno::EAGAIN) => Leased::Written,
        Err(_) => Leased::Unknown,
    }
}

/// Whether the lease is held still, and nobody waits to write.
pub(crate) fn is_held(file: &File) -> bool {
    fcntl(file, libc::F_GETLEASE, 0) == Ok(libc::F_RDLCK)
}

/// Gives the lease back; who waits to write goes on.
pub(crate) fn release(file: &File) {
    // one that was broken is none to give back
    let _ = fcntl(file, libc::F_SETLEASE, libc::F_UNLCK);
}

fn fcntl(file: &File, command: libc::c_int, argument: libc::c_int) -> Result<libc::c_int, Errno> {
    // SAFETY: the descriptor is that of an open file, and all commands used here take or need no
    // more than an int
    let answer = unsafe { libc::fcntl(file.as_raw_fd(), command, argument) };
    Errno::result(answer)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;

    use super::*;

    #[test]
    fn a_writer_is_seen_before_and_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let writer = File::create(&path).unwrap();
        let file = File::open(&path).unwrap();
        assert_eq!(take(&file), Leased::Written);
        drop(writer);
        assert_eq!(take(&file), Leased::Held);
        assert!(is_held(&file));
        let late = std::thread::spawn({
            let path = path.clone();
            move || OpenOptions::new().write(true).open(path).unwrap()
        });
        // it waits, which breaks the lease, and gets the file when that is given back
        while is_held(&file) {
            std::thread::yield_now();
        }
        release(&file);
        drop(late.join().unwrap());
        assert_eq!(take(&file), Leased::Held);
    }
}
