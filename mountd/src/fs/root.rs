//! The source tree, seen only through one descriptor that was opened before mounting. No path leads out of it: links are
//! not followed, and the kernel holds every step beneath the root.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;
use std::time::SystemTime;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::fcntl::OpenHow;
use nix::fcntl::ResolveFlag;
use nix::fcntl::openat2;
use nix::fcntl::readlinkat;
use nix::sys::stat::FileStat;
use nix::sys::stat::SFlag;
use nix::sys::stat::fstat;
use nix::sys::statvfs::Statvfs;
use nix::sys::statvfs::fstatvfs;

/// Result with the errno that the kernel is told.
pub(crate) type Result<T, E = Errno> = std::result::Result<T, E>;

/// What kind of thing a path is; others (pipes, devices, sockets) are not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DiskKind {
    File,
    Folder,
    Link,
}

/// What the disk says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) kind: DiskKind,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    pub(crate) mtime_ns: i64,
    /// Time of the last change of content, name or permissions; unlike mtime nobody can set it back.
    pub(crate) ctime_ns: i64,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

fn nanoseconds(seconds: i64, rest: i64) -> i64 {
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

impl Stat {
    pub(crate) fn of(stat: &FileStat) -> Option<Self> {
        let kind = match SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFREG => DiskKind::File,
            SFlag::S_IFDIR => DiskKind::Folder,
            SFlag::S_IFLNK => DiskKind::Link,
            _ => return None,
        };
        Some(Self {
            kind,
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            mtime_ns: nanoseconds(stat.st_mtime, stat.st_mtime_nsec),
            ctime_ns: nanoseconds(stat.st_ctime, stat.st_ctime_nsec),
            mode: stat.st_mode & 0o777,
            uid: stat.st_uid,
            gid: stat.st_gid,
        })
    }

    /// All of it, of a file.
    pub(crate) fn numbers(&self) -> [u64; 8] {
        let [mtime, ctime] = [self.mtime_ns, self.ctime_ns].map(i64::cast_unsigned);
        let [mode, uid, gid] = [self.mode, self.uid, self.gid].map(u64::from);
        [
            self.device,
            self.inode,
            self.size,
            mtime,
            ctime,
            mode,
            uid,
            gid,
        ]
    }

    /// A file's, of its [`numbers`](Self::numbers).
    pub(crate) fn from_numbers(numbers: [u64; 8]) -> Self {
        let [device, inode, size, mtime, ctime, mode, uid, gid] = numbers;
        Self {
            kind: DiskKind::File,
            device,
            inode,
            size,
            mtime_ns: mtime.cast_signed(),
            ctime_ns: ctime.cast_signed(),
            mode: mode as u32,
            uid: uid as u32,
            gid: gid as u32,
        }
    }

    /// The time of change.
    pub(crate) fn mtime(&self) -> SystemTime {
        let since = Duration::from_nanos(self.mtime_ns.unsigned_abs());
        if self.mtime_ns >= 0 {
            SystemTime::UNIX_EPOCH + since
        } else {
            SystemTime::UNIX_EPOCH - since
        }
    }

    /// Bytes that differ if it is another file.
    pub(crate) fn place(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.device.to_le_bytes());
        bytes[8..].copy_from_slice(&self.inode.to_le_bytes());
        bytes
    }

    /// Bytes that differ if the content does, as far as the disk can tell.
    pub(crate) fn identity(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        let times = [self.mtime_ns, self.ctime_ns].map(i64::cast_unsigned);
        let fields = [self.device, self.inode, self.size, times[0], times[1]];
        for (bytes, field) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *bytes = field.to_le_bytes();
        }
        bytes
    }
}

/// The source folder.
#[derive(Debug)]
pub(crate) struct Root {
    folder: OwnedFd,
    path: PathBuf,
}

impl Root {
    /// Opens the folder at `path`.
    pub(crate) fn open(path: &Path) -> std::io::Result<Self> {
        let folder = File::open(path)?;
        Ok(Self {
            folder: folder.into(),
            path: path.to_owned(),
        })
    }

    /// A folder that was opened before; `path` is for messages.
    pub(crate) fn from_fd(folder: OwnedFd, path: &Path) -> Self {
        let path = path.to_owned();
        Self { folder, path }
    }

    /// The open folder.
    pub(crate) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// The same folder as a path that leads below whatever is mounted over it, while this is open.
    pub(crate) fn path_below(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        PathBuf::from(format!("/proc/self/fd/{}", self.folder.as_raw_fd()))
    }

    /// Where `relative` is, for messages only.
    pub(crate) fn shown(&self, relative: &Path) -> PathBuf {
        self.path.join(relative)
    }

    pub(crate) fn open_beneath(&self, relative: &Path, flags: OFlag) -> Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(resolve);
        let path = if relative.as_os_str().is_empty() {
            Path::new(".")
        } else {
            relative
        };
        openat2(&self.folder, path, how)
    }

    /// What is at `relative`; `ENOENT` for what is not shown.
    pub(crate) fn stat(&self, relative: &Path) -> Result<Stat> {
        let fd = self.open_beneath(relative, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        Stat::of(&fstat(&fd)?).ok_or(Errno::ENOENT)
    }

    /// Opens a regular file, and says what was opened.
    pub(crate) fn open_file(&self, relative: &Path) -> Result<(File, Stat)> {
        // without O_NONBLOCK a pipe that took the file's place would hold us for ever
        let fd = self.open_beneath(relative, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
        let stat = Stat::of(&fstat(&fd)?).filter(|stat| stat.kind == DiskKind::File);
        Ok((fd.into(), stat.ok_or(Errno::ENOENT)?))
    }

    /// The names in a folder, sorted.
    pub(crate) fn list(&self, relative: &Path) -> Result<Vec<OsString>> {
        let fd = self.open_beneath(relative, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?;
        let mut names = Vec::new();
        for entry in Dir::from_fd(fd)?.iter() {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    }

    /// The target of a link.
    pub(crate) fn read_link(&self, relative: &Path) -> Result<OsString> {
        let fd = self.open_beneath(relative, OFlag::O_PATH | OFlag::O_NOFOLLOW)?;
        readlinkat(&fd, "")
    }

    /// Room and limits of the disk.
    pub(crate) fn statvfs(&self) -> Result<Statvfs> {
        fstatvfs(&self.folder)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_out() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("inside");
        std::fs::create_dir(&inside).unwrap();
        File::create(folder.path().join("secret")).unwrap();
        std::os::unix::fs::symlink("../secret", inside.join("link")).unwrap();
        std::os::unix::fs::symlink("..", inside.join("up")).unwrap();
        let root = Root::open(&inside).unwrap();
        assert_eq!(root.stat(Path::new("link")).unwrap().kind, DiskKind::Link);
        assert_eq!(root.read_link(Path::new("link")).unwrap(), "../secret");
        for path in ["link", "../secret", "up/secret", "/etc/passwd"] {
            assert!(root.open_file(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(root.list(Path::new("")).unwrap(), ["link", "up"]);
    }
}
