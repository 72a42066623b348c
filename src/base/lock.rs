//! Locks on files, by which runs keep out of each other's way. They are advisory; where a file system has none, nobody is kept out.

use std::fs::File;
use std::fs::TryLockError;
use std::ops::Deref;
use std::ops::DerefMut;

/// An open file and the lock on it, which goes when this is dropped: closing alone would not do, as a child that was forked a
/// moment ago may still have the file open (flock(2)).
#[derive(Debug)]
pub struct LockedFile(File);

impl LockedFile {
    /// Locks the file; none if another holds it.
    pub fn new(file: File) -> Option<Self> {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => None,
            Ok(()) | Err(TryLockError::Error(_)) => Some(Self(file)),
        }
    }

    /// Locks the file; none if another holds it, or if it cannot be known.
    pub fn surely(file: File) -> Option<Self> {
        file.try_lock().ok().map(|()| Self(file))
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // where there are no locks there is none to release
        let _ = self.0.unlock();
    }
}

impl Deref for LockedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl DerefMut for LockedFile {
    fn deref_mut(&mut self) -> &mut File {
        &mut self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_goes_although_another_has_the_file_open() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        let file = File::create(&path).unwrap();
        // what a child has of it between fork and exec: the same open file
        let of_a_child = file.try_clone().unwrap();
        let held = LockedFile::new(file).unwrap();
        assert!(LockedFile::surely(File::open(&path).unwrap()).is_none());
        drop(held);
        assert!(LockedFile::surely(File::open(&path).unwrap()).is_some());
        drop(of_a_child);
    }
}
