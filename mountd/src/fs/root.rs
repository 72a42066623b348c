//! The source tree, seen only through one descriptor that was opened before mounting. No path leads
//! out of it: links are not followed, and the kernel holds every step beneath the root.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::fcntl::OpenHow;
use nix::fcntl::ResolveFlag;
use nix::fcntl::openat2;
use nix::fcntl::readlinkat;
use nix::sys::stat::FileStat;
use nix::sys::stat::fstat;
use nix::sys::statvfs::Statvfs;
use nix::sys::statvfs::fstatvfs;

use crate::node::FileType;
use crate::node::Time;

/// Result with the errno that the kernel is told.
pub(crate) type Result<T, E = Errno> = std::result::Result<T, E>;

/// What the disk says of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stat {
    pub(crate) kind: FileType,
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// What it takes on the disk, in units of 512 bytes.
    pub(crate) blocks: u64,
    pub(crate) atime: Time,
    pub(crate) mtime: Time,
    /// Time of the last change of content, name or permissions; unlike mtime nobody can set it
    /// back.
    pub(crate) ctime: Time,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// How many names it has.
    pub(crate) nlink: u32,
    /// Which device it stands for, if it is one.
    pub(crate) rdev: u64,
}

/// Numbers of a [`Stat`].
pub(crate) const NUMBERS: usize = 14;

impl Stat {
    pub(crate) fn of(stat: &FileStat) -> Option<Self> {
        Some(Self {
            kind: FileType::of_mode(stat.st_mode)?,
            device: stat.st_dev,
            inode: stat.st_ino,
            size: u64::try_from(stat.st_size).unwrap_or(0),
            blocks: u64::try_from(stat.st_blocks).unwrap_or(0),
            atime: Time::of(stat.st_atime, stat.st_atime_nsec),
            mtime: Time::of(stat.st_mtime, stat.st_mtime_nsec),
            ctime: Time::of(stat.st_ctime, stat.st_ctime_nsec),
            mode: stat.st_mode & 0o7777,
            uid: stat.st_uid,
            gid: stat.st_gid,
            nlink: u32::try_from(stat.st_nlink).unwrap_or(u32::MAX),
            rdev: stat.st_rdev,
        })
    }

    /// All of it, of a file.
    pub(crate) fn numbers(&self) -> [u64; NUMBERS] {
        let times = [self.atime, self.mtime, self.ctime];
        let [a, m, c] = times.map(|time| time.seconds.cast_unsigned());
        let [a_ns, m_ns, c_ns] = times.map(|time| u64::from(time.ns));
        let rest = [self.mode, self.uid, self.gid, self.nlink].map(u64::from);
        let [mode, uid, gid, nlink] = rest;
        let (device, inode, size, blocks) = (self.device, self.inode, self.size, self.blocks);
        [
            device, inode, size, blocks, a, m, c, a_ns, m_ns, c_ns, mode, uid, gid, nlink,
        ]
    }

    /// A file's, of its [`numbers`](Self::numbers).
    pub(crate) fn from_numbers(numbers: [u64; NUMBERS]) -> Self {
        let [
            device,
            inode,
            size,
            blocks,
            a,
            m,
            c,
            a_ns,
            m_ns,
            c_ns,
            mode,
            uid,
            gid,
            nlink,
        ] = numbers;
        let time = |seconds: u64, ns: u64| Time {
            seconds: seconds.cast_signed(),
            ns: ns as u32,
        };
        Self {
            kind: FileType::File,
            device,
            inode,
            size,
            blocks,
            atime: time(a, a_ns),
            mtime: time(m, m_ns),
            ctime: time(c, c_ns),
            mode: mode as u32,
            uid: uid as u32,
            gid: gid as u32,
            nlink: nlink as u32,
            rdev: 0,
        }
    }

    /// Whether the bytes are the same, as far as those times tell that programs can set.
    pub(crate) fn has_content_of(&self, other: &Self) -> bool {
        self.device_and_inode() == other.device_and_inode()
            && self.size == other.size
            && self.mtime == other.mtime
    }

    /// Bytes that differ if it is another file.
    pub(crate) fn device_and_inode(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.device.to_le_bytes());
        bytes[8..].copy_from_slice(&self.inode.to_le_bytes());
        bytes
    }

    /// Bytes that differ if the content does, as far as the disk can tell.
    pub(crate) fn identity(&self) -> [u8; 40] {
        let mut bytes = [0; 40];
        let times = [self.mtime.number(), self.ctime.number()];
        let fields = [self.device, self.inode, self.size, times[0], times[1]];
        for (bytes, field) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(fields) {
            *bytes = field.to_le_bytes();
        }
        bytes
    }
}

/// Something of the disk, by a descriptor that may be of `O_PATH`, and not by a name.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) fd: OwnedFd,
    /// What the disk said of it when it was taken.
    pub(crate) stat: Stat,
}

impl Object {
    pub(crate) fn of(fd: OwnedFd) -> Result<Self> {
        let stat = Stat::of(&fstat(&fd)?).ok_or(Errno::ENOENT)?;
        Ok(Self { fd, stat })
    }

    /// A path that leads to it and to nothing else, whatever its names are, while this is held.
    /// Calls that follow links stop at what it leads to, even if that is a link itself.
    pub(crate) fn path(&self) -> PathBuf {
        below(self.fd.as_fd())
    }
}

/// The path of an open file or folder, while it is open.
fn below(fd: BorrowedFd<'_>) -> PathBuf {
    use std::os::fd::AsRawFd;
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
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
        let folder = bigsmall::base::file::open_folder(path)?;
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
        below(self.folder())
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

    /// What is at `relative`, held so that whatever is done to it meets no other.
    pub(crate) fn hold(&self, relative: &Path) -> Result<Object> {
        Object::of(self.open_beneath(relative, OFlag::O_PATH | OFlag::O_NOFOLLOW)?)
    }

    /// What is at `relative`; `ENOENT` for what is not shown.
    pub(crate) fn stat(&self, relative: &Path) -> Result<Stat> {
        Ok(self.hold(relative)?.stat)
    }

    /// Opens a regular file, and says what was opened.
    pub(crate) fn open_file(&self, relative: &Path) -> Result<(File, Stat)> {
        // without O_NONBLOCK a pipe that took the file's place would hold us for ever
        let fd = self.open_beneath(relative, OFlag::O_RDONLY | OFlag::O_NONBLOCK)?;
        let stat = Stat::of(&fstat(&fd)?).filter(|stat| stat.kind == FileType::File);
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
        assert_eq!(root.stat(Path::new("link")).unwrap().kind, FileType::Link);
        assert_eq!(root.read_link(Path::new("link")).unwrap(), "../secret");
        for path in ["link", "../secret", "up/secret", "/etc/passwd"] {
            assert!(root.open_file(Path::new(path)).is_err(), "{path}");
        }
        assert_eq!(root.list(Path::new("")).unwrap(), ["link", "up"]);
    }
}
