//! Changes of the source tree, each below its descriptor: a path is opened step by step beneath it, and the last name is never
//! followed.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::AtFlags;
use nix::fcntl::OFlag;
use nix::fcntl::RenameFlags;
use nix::fcntl::openat;
use nix::fcntl::renameat2;
use nix::sys::stat::FchmodatFlags;
use nix::sys::stat::Mode;
use nix::sys::stat::UtimensatFlags;
use nix::sys::stat::fchmod;
use nix::sys::stat::fchmodat;
use nix::sys::stat::fstat;
use nix::sys::stat::mkdirat;
use nix::sys::stat::utimensat;
use nix::sys::time::TimeSpec;
use nix::unistd::Gid;
use nix::unistd::Uid;
use nix::unistd::UnlinkatFlags;
use nix::unistd::fchown;
use nix::unistd::fchownat;
use nix::unistd::linkat;
use nix::unistd::symlinkat;
use nix::unistd::unlinkat;

use crate::fs::root::DiskKind;
use crate::fs::root::Result;
use crate::fs::root::Root;
use crate::fs::root::Stat;

/// Who asks: files that are made are theirs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// What of a file is to be changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) mode: Option<u32>,
    pub(crate) uid: Option<u32>,
    pub(crate) gid: Option<u32>,
    pub(crate) size: Option<u64>,
    pub(crate) atime: Option<Time>,
    pub(crate) mtime: Option<Time>,
}

impl Changes {
    /// Whether nothing is to be changed.
    pub(crate) fn is_empty(&self) -> bool {
        let numbers = [self.mode, self.uid, self.gid];
        let times = [self.atime, self.mtime];
        numbers.iter().all(Option::is_none)
            && times.iter().all(Option::is_none)
            && self.size.is_none()
    }
}

/// A time to be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    Now,
    At(SystemTime),
}

fn timespec(time: Option<Time>) -> TimeSpec {
    match time {
        None => TimeSpec::UTIME_OMIT,
        Some(Time::Now) => TimeSpec::UTIME_NOW,
        Some(Time::At(time)) => match time.duration_since(SystemTime::UNIX_EPOCH) {
            Ok(after) => TimeSpec::from_duration(after),
            Err(before) => {
                let before = before.duration();
                // nanoseconds count up, even before the epoch
                let part = i64::from(before.subsec_nanos());
                let seconds = -before.as_secs().cast_signed() - i64::from(part > 0);
                TimeSpec::new(seconds, if part > 0 { 1_000_000_000 - part } else { 0 })
            }
        },
    }
}

fn own(fd: &OwnedFd, owner: Owner, mode: u32) -> Result<()> {
    if nix::unistd::geteuid().is_root() {
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        fchown(fd, Some(uid), Some(gid))?;
    }
    // the kernel has taken the asker's mask off already, and ours does not count
    fchmod(fd, Mode::from_bits_truncate(mode & 0o7777))
}

impl Root {
    /// The folder that holds `relative`, and its name in there; `.` for the root itself.
    fn parent<'a>(&self, relative: &'a Path) -> Result<(OwnedFd, &'a OsStr)> {
        let folder = relative.parent().unwrap_or(Path::new(""));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let name = relative.file_name().unwrap_or(OsStr::new("."));
        Ok((self.open_beneath(folder, flags)?, name))
    }

    /// Opens a regular file with the flags of an `open`, which may ask for writing.
    pub(crate) fn open_with(&self, relative: &Path, flags: i32) -> Result<(File, Stat)> {
        let wanted = OFlag::from_bits_truncate(flags);
        let kept = OFlag::O_ACCMODE | OFlag::O_APPEND | OFlag::O_TRUNC;
        // what is appended has its place from the kernel already
        let flags = ((wanted & kept) - OFlag::O_APPEND) | OFlag::O_NONBLOCK;
        let fd = self.open_beneath(relative, flags)?;
        let stat = Stat::of(&fstat(&fd)?).filter(|stat| stat.kind == DiskKind::File);
        Ok((fd.into(), stat.ok_or(Errno::ENOENT)?))
    }

    /// Makes a file, or opens the one that is there meanwhile unless `O_EXCL`.
    pub(crate) fn create(
        &self,
        relative: &Path,
        flags: i32,
        mode: u32,
        owner: Owner,
    ) -> Result<(File, Stat)> {
        let (folder, name) = self.parent(relative)?;
        let wanted = OFlag::from_bits_truncate(flags);
        let access = wanted & OFlag::O_ACCMODE;
        let new = access | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&folder, name, new, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(fd) => {
                own(&fd, owner, mode)?;
                let stat = Stat::of(&fstat(&fd)?).ok_or(Errno::EIO)?;
                Ok((fd.into(), stat))
            }
            Err(Errno::EEXIST) if !wanted.contains(OFlag::O_EXCL) => {
                self.open_with(relative, flags)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Makes a folder.
    pub(crate) fn make_folder(&self, relative: &Path, mode: u32, owner: Owner) -> Result<()> {
        let (folder, name) = self.parent(relative)?;
        mkdirat(&folder, name, Mode::S_IRWXU)?;
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        own(&self.open_beneath(relative, flags)?, owner, mode)
    }

    /// Makes a link.
    pub(crate) fn make_link(&self, relative: &Path, target: &Path, owner: Owner) -> Result<()> {
        let (folder, name) = self.parent(relative)?;
        symlinkat(target, &folder, name)?;
        if !nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        let flag = AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(&folder, name, Some(uid), Some(gid), flag)
    }

    /// Gives a file another name.
    pub(crate) fn make_name(&self, relative: &Path, new: &Path) -> Result<()> {
        let ((from, name), (to, new)) = (self.parent(relative)?, self.parent(new)?);
        linkat(&from, name, &to, new, AtFlags::empty())
    }

    /// Removes a name of a file or, if `folder`, an empty folder.
    pub(crate) fn remove(&self, relative: &Path, is_folder: bool) -> Result<()> {
        let (folder, name) = self.parent(relative)?;
        let flag = if is_folder {
            UnlinkatFlags::RemoveDir
        } else {
            UnlinkatFlags::NoRemoveDir
        };
        unlinkat(&folder, name, flag)
    }

    /// Renames; `flags` are those of `renameat2`.
    pub(crate) fn rename(&self, relative: &Path, new: &Path, flags: u32) -> Result<()> {
        let ((from, name), (to, new)) = (self.parent(relative)?, self.parent(new)?);
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        renameat2(&from, name, &to, new, flags)
    }

    /// Changes size, permissions, owner and times, in this order.
    pub(crate) fn change(&self, relative: &Path, changes: &Changes) -> Result<()> {
        if let Some(size) = changes.size {
            let (file, _) = self.open_with(relative, OFlag::O_WRONLY.bits())?;
            nix::unistd::ftruncate(&file, size.cast_signed())?;
        }
        let (folder, name) = self.parent(relative)?;
        if changes.uid.is_some() || changes.gid.is_some() {
            let (uid, gid) = (
                changes.uid.map(Uid::from_raw),
                changes.gid.map(Gid::from_raw),
            );
            fchownat(&folder, name, uid, gid, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        }
        if let Some(mode) = changes.mode {
            let mode = Mode::from_bits_truncate(mode & 0o7777);
            // never through a link: what is one has no permissions of its own
            if self.stat(relative)?.kind == DiskKind::Link {
                return Err(Errno::EOPNOTSUPP);
            }
            fchmodat(&folder, name, mode, FchmodatFlags::FollowSymlink)?;
        }
        if changes.atime.is_some() || changes.mtime.is_some() {
            let (atime, mtime) = (timespec(changes.atime), timespec(changes.mtime));
            let flag = UtimensatFlags::NoFollowSymlink;
            utimensat(&folder, name, &atime, &mtime, flag)?;
        }
        Ok(())
    }
}
