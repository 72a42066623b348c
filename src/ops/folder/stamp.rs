//! Files that must stay as they were while they are read, or held while they are replaced.

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::LockedFile;
use crate::base::Result;
use crate::base::attributes;
use crate::base::file;
use crate::base::identity::Identity;

/// What the disk says of a file; another content has another stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stamp {
    path: PathBuf,
    /// Time of change.
    pub mtime: SystemTime,
    /// Permission bits.
    pub mode: u32,
    identity: Identity,
}

impl Stamp {
    /// The stamp of what is at `path` now.
    pub(crate) fn of(path: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let failed = |e| Error::io("cannot stat", path, e);
        let metadata = fs::metadata(path).map_err(failed)?;
        let identity = Identity::of(&metadata);
        let mtime = metadata.modified().map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            mtime,
            mode: attributes::mode_without_acl(path, metadata.mode()),
            identity,
        })
    }

    /// Whether nothing of this file changed since something of the other did.
    pub(crate) fn rested_since(&self, other: &Self) -> bool {
        self.identity.rested_since(&other.identity)
    }

    /// An error if the file was changed or replaced since.
    pub(crate) fn check(&self) -> Result<()> {
        if Self::of(&self.path)? == *self {
            return Ok(());
        }
        Err(
            Error::new(ErrorKind::Busy, "changed while it was being read")
                .file(&self.path)
                .hint("do it again when nobody writes to it"),
        )
    }
}

/// Holds a file: who holds it meanwhile gets an error. Where there are no locks, nobody is kept
/// from it.
pub(crate) fn hold(path: &Path) -> Result<LockedFile> {
    let failed = |e| Error::io("cannot open", path, e);
    let file = file::open_regular(path).map_err(failed)?;
    let file = LockedFile::new(file).ok_or_else(|| {
        Error::new(ErrorKind::Busy, "another run is at work on it")
            .file(path)
            .hint("let that one end first")
    })?;
    // it may have gone before it was held
    let identity = |metadata: fs::Metadata| Identity::of(&metadata);
    let held = file.metadata().map(identity).map_err(failed)?;
    let there = fs::symlink_metadata(path).map(identity).map_err(failed)?;
    if !held.is_same_file(&there) {
        return Err(Error::new(ErrorKind::Busy, "was replaced meanwhile").file(path));
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_tells_a_file_that_was_written_to_or_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        let put = |path: &Path, bytes: &[u8]| {
            std::io::Write::write_all(&mut fs::File::create(path).unwrap(), bytes).unwrap();
        };
        put(&path, b"one");
        let stamp = Stamp::of(&path).unwrap();
        stamp.check().unwrap();
        put(&folder.path().join("n"), b"two");
        let mtime = stamp.mtime;
        let file = fs::File::options()
            .write(true)
            .open(folder.path().join("n"))
            .unwrap();
        file.set_modified(mtime).unwrap();
        fs::rename(folder.path().join("n"), &path).unwrap();
        assert!(stamp.check().is_err());
    }
}
