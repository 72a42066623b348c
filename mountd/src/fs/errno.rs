//! Errors as errno values.

use bigsmall::base::Error;
use bigsmall::base::ErrorKind;
use nix::errno::Errno;

/// The errno of an error.
pub(crate) fn of(error: &Error) -> Errno {
    match error.kind() {
        ErrorKind::NotFound => Errno::ENOENT,
        ErrorKind::Io => error.raw_os_error().map_or(Errno::EIO, Errno::from_raw),
        ErrorKind::Damaged
        | ErrorKind::MissingBase
        | ErrorKind::Unsupported
        | ErrorKind::Network
        | ErrorKind::Device
        // a hostile header: the file stays listed, and opening it fails
        | ErrorKind::OverLimit => Errno::EIO,
        ErrorKind::Busy => Errno::EBUSY,
        ErrorKind::Invalid => Errno::EINVAL,
        ErrorKind::Interrupted => Errno::EINTR,
    }
}

/// Nothing at a path where the kernel knows a file: it has another name by now, or none.
pub(super) fn stale_if_gone(errno: Errno) -> Errno {
    if errno == Errno::ENOENT {
        Errno::ESTALE
    } else {
        errno
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_is_an_input_output_error() {
        assert_eq!(of(&Error::damaged("x")), Errno::EIO);
        let no_space = std::io::Error::from_raw_os_error(28);
        assert_eq!(
            of(&Error::io("x", std::path::Path::new("y"), no_space)),
            Errno::ENOSPC
        );
    }
}
