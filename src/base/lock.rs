//! Locks on files, by which runs keep out of each other's way. They are advisory; where a file
//! system has none, nobody is kept out.

use std::fs::File;
use std::fs::TryLockError;
use std::ops::Deref;
use std::ops::DerefMut;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::Instant;

/// An open file and the lock on it, which goes when this is dropped: closing alone would not do, as
/// a child that was forked a moment ago may still have the file open (flock(2)).
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

    /// Locks the file together with all others who do so; none if one has locked it for itself.
    pub fn shared(file: File) -> Option<Self> {
        match file.try_lock_shared() {
            Err(TryLockError::WouldBlock) => None,
            Ok(()) | Err(TryLockError::Error(_)) => Some(Self(file)),
        }
    }

    /// Locks the file, however long others hold it.
    pub fn wait(file: File) -> Self {
        // where there are no locks, nobody is kept out
        let _ = file.lock();
        Self(file)
    }
}

/// Keeps a folder and all that is in it for one run: it is locked, and every folder above is locked
/// together with others who have folders of their own there. So a run on a tree and one on a part
/// of it exclude each other, and runs on two parts do not. The locks go with the process, whatever
/// ends it.
#[derive(Debug)]
pub struct TreeLock {
    _folders: Vec<LockedFile>,
}

impl TreeLock {
    /// How long a lock is asked for again: programs that clean up lock folders for a moment.
    const WAIT: Duration = Duration::from_secs(1);
    const STEP: Duration = Duration::from_millis(20);

    /// Locks a folder, whose path has no links; the folder at which another run is at work if there
    /// is one.
    pub fn new(folder: &Path) -> Result<Self, PathBuf> {
        let begun = Instant::now();
        loop {
            match Self::at_once(folder) {
                Err(_) if begun.elapsed() < Self::WAIT => std::thread::sleep(Self::STEP),
                lock => return lock,
            }
        }
    }

    fn at_once(folder: &Path) -> Result<Self, PathBuf> {
        let mut folders = Vec::new();
        for (number, path) in folder.ancestors().enumerate() {
            // what cannot be listed cannot be converted as a whole either
            let Ok(file) = File::open(path) else {
                continue;
            };
            let lock = if number == 0 {
                LockedFile::new(file)
            } else {
                LockedFile::shared(file)
            };
            folders.push(lock.ok_or_else(|| path.to_owned())?);
        }
        Ok(Self { _folders: folders })
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

    #[test]
    fn a_tree_and_a_part_of_it_exclude_each_other_and_two_parts_do_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = std::fs::canonicalize(folder.path()).unwrap();
        let (a, b) = (root.join("a"), root.join("b"));
        for path in [&a, &b] {
            std::fs::create_dir(path).unwrap();
        }
        let of_a = TreeLock::new(&a).unwrap();
        let of_b = TreeLock::new(&b).unwrap();
        assert_eq!(TreeLock::new(&root).unwrap_err(), root);
        assert_eq!(TreeLock::new(&a).unwrap_err(), a);
        drop((of_a, of_b));
        let of_root = TreeLock::new(&root).unwrap();
        assert_eq!(TreeLock::new(&a).unwrap_err(), root);
        drop(of_root);
        drop(TreeLock::new(&a).unwrap());
    }
}
