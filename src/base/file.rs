//! A disk file as a byte source. It is read by `pread` on a held descriptor, never mapped: a file that
//! shrinks under a mapping kills the process, under `pread` it is an error.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;

use crate::base::Error;
use crate::base::ReadAt;
use crate::base::Result;

/// An open regular file with the length that it had when it was opened.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    path: PathBuf,
    len: u64,
}

impl FileSource {
    /// Opens `path`, which must be a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        // a FIFO would block here for ever, so the kind is asked for first
        let metadata = std::fs::metadata(path).map_err(|e| Error::io("cannot open", path, e))?;
        if !metadata.is_file() {
            return Err(Error::invalid("not a regular file").file(path));
        }
        let file = File::open(path).map_err(|e| Error::io("cannot open", path, e))?;
        Self::from_file(file, path)
    }

    /// Takes an open file; `path` is for messages.
    pub fn from_file(file: File, path: &Path) -> Result<Self> {
        let metadata = file
            .metadata()
            .map_err(|e| Error::io("cannot stat", path, e))?;
        if !metadata.is_file() {
            return Err(Error::invalid("not a regular file").file(path));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            len: metadata.len(),
        })
    }

    /// The path it was opened by.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }
}

impl ReadAt for FileSource {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, offset).map_err(|e| {
            if e.kind() == std::io::ErrorKind::UnexpectedEof {
                Error::damaged(format!(
                    "the file has become shorter: {} bytes at {offset} are gone",
                    out.len()
                ))
                .file(&self.path)
            } else {
                Error::io(
                    format!("cannot read {} bytes at {offset}", out.len()),
                    &self.path,
                    e,
                )
            }
        })
    }
}
