//! A disk file as a byte source. It is read by `pread` on a held descriptor, never mapped: a file
//! that shrinks under a mapping kills the process, under `pread` it is an error.

use std::fs::File;
use std::fs::OpenOptions;
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;

use nix::fcntl::OFlag;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use rustix::fs::Advice;

use crate::base::Error;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::SourceIdentity;
use crate::base::identity::Identity;

/// The kernel takes no longer hint than a disk takes in one request.
const HINT_LEN_MAX: u64 = 128 << 10;

/// Every open model is an open file: takes as many as the system gives.
pub fn allow_many_files() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        // with fewer, only the last of very many opens fail
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Opens a regular file, wherever links lead to it, as these options say. Nothing else is ever
/// opened: a FIFO would block until somebody else comes, and a device may act on being opened.
pub fn open_with(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    if !std::fs::metadata(path)?.is_file() {
        return Err(not_regular());
    }
    // another may take its place meanwhile
    let flags = OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let file = match options.custom_flags(flags.bits()).open(path) {
        // only a regular file has a lease, which its holder gives back when it is asked
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => options.custom_flags(0).open(path)?,
        opened => opened?,
    };
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(not_regular())
    }
}

/// Opens a regular file for reading.
pub fn open_regular(path: &Path) -> io::Result<File> {
    open_with(path, OpenOptions::new().read(true))
}

/// Opens a folder, as it is opened to be locked or synced.
pub fn open_folder(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NONBLOCK;
    let mut options = OpenOptions::new();
    options.read(true).custom_flags(flags.bits()).open(path)
}

/// All bytes of a regular file.
pub fn read_regular(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    io::Read::read_to_end(&mut open_regular(path)?, &mut bytes)?;
    Ok(bytes)
}

fn not_regular() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")
}

/// An open regular file with the length that it had when it was opened.
#[derive(Debug)]
pub struct FileSource {
    file: File,
    path: PathBuf,
    len: u64,
    identity: Identity,
}

impl FileSource {
    /// Opens `path`, which must be a regular file.
    pub fn open(path: &Path) -> Result<Self> {
        let file = open_regular(path).map_err(|e| match e.kind() {
            io::ErrorKind::InvalidInput => Error::invalid("not a regular file").file(path),
            _ => Error::io("cannot open", path, e),
        })?;
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
            identity: Identity::of(&metadata),
        })
    }

    /// What the disk said of it when it was opened.
    pub fn on_disk(&self) -> Identity {
        self.identity
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

    /// Has the kernel begin to read them from the disk.
    fn will_read(&self, ranges: &[Range<u64>]) {
        for range in ranges {
            let mut at = range.start;
            while let Some(len) = NonZeroU64::new(range.end.saturating_sub(at).min(HINT_LEN_MAX)) {
                // whatever comes of it, the bytes can be read
                let _ = rustix::fs::fadvise(&self.file, at, Some(len), Advice::WillNeed);
                at += len.get();
            }
        }
    }

    fn identity(&self) -> SourceIdentity {
        SourceIdentity::Disk(self.identity)
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(out, offset).map_err(|e| {
            if e.kind() == io::ErrorKind::UnexpectedEof {
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
