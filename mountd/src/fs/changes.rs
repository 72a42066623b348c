//! Changes of the source tree, each below its descriptor: a path is opened step by step beneath
//! it, and the last name is never followed.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::fcntl::AtFlags;
use nix::fcntl::OFlag;
use nix::fcntl::RenameFlags;
use nix::fcntl::openat;
use nix::fcntl::renameat2;
use nix::sys::stat::FchmodatFlags;
use nix::sys::stat::Mode;
use nix::sys::stat::SFlag;
use nix::sys::stat::UtimensatFlags;
use nix::sys::stat::fchmodat;
use nix::sys::stat::fstat;
use nix::sys::stat::mkdirat;
use nix::sys::stat::mknodat;
use nix::sys::stat::utimensat;
use nix::sys::time::TimeSpec;
use nix::unistd::Gid;
use nix::unistd::Uid;
use nix::unistd::UnlinkatFlags;
use nix::unistd::fchownat;
use nix::unistd::linkat;
use nix::unistd::symlinkat;
use nix::unistd::unlinkat;

use crate::fs::root::Object;
use crate::fs::root::Result;
use crate::fs::root::Root;
use crate::fs::root::Stat;
use crate::node::Changes;
use crate::node::FileType;
use crate::node::SetTime;

/// The bits of a mode with which a file is run as another.
const SETID: u32 = 0o6000;
const SETGID: u32 = 0o2000;
/// Who may do what with what is made in a folder, in the words of the disk.
const DEFAULT_ACL: &str = "system.posix_acl_default";

/// How something that is made is to be: its mode as it was asked for, and who asks, to whom it will
/// belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NewAttributes {
    pub(crate) mode: u32,
    pub(crate) umask: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl NewAttributes {
    /// The mode to ask the disk for. Where a folder says itself who may do what with what is made
    /// in it, the asker's mask does not count.
    fn mode_in(&self, folder: &Object) -> Mode {
        let says = rustix::fs::getxattr_query(folder.path(), DEFAULT_ACL).is_ok();
        let umask = if says { 0 } else { self.umask };
        Mode::from_bits_truncate(self.mode & !umask & 0o7777)
    }
}

fn timespec(time: Option<SetTime>) -> TimeSpec {
    match time {
        None => TimeSpec::UTIME_OMIT,
        Some(SetTime::Now) => TimeSpec::UTIME_NOW,
        Some(SetTime::At(time)) => TimeSpec::new(time.seconds, time.ns.into()),
    }
}

impl Object {
    /// Changes size, owner, permissions and times, in this order.
    pub(crate) fn change(&self, changes: &Changes) -> Result<()> {
        if let Some(size) = changes.size {
            nix::unistd::ftruncate(self.writable()?, size.cast_signed())?;
        }
        if changes.uid.is_some() || changes.gid.is_some() {
            let uid = changes.uid.map(Uid::from_raw);
            let gid = changes.gid.map(Gid::from_raw);
            fchownat(&self.fd, "", uid, gid, AtFlags::AT_EMPTY_PATH)?;
        }
        if let Some(mode) = changes.mode {
            self.set_mode(mode)?;
        }
        if changes.atime.is_some() || changes.mtime.is_some() {
            let (atime, mtime) = (timespec(changes.atime), timespec(changes.mtime));
            let flag = UtimensatFlags::FollowSymlink;
            utimensat(AT_FDCWD, &self.path(), &atime, &mtime, flag)?;
        }
        Ok(())
    }

    fn writable(&self) -> Result<File> {
        if self.stat.kind != FileType::File {
            return Err(Errno::EINVAL);
        }
        let flags = OFlag::O_WRONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        openat(AT_FDCWD, &self.path(), flags, Mode::empty()).map(File::from)
    }

    fn set_mode(&self, mode: u32) -> Result<()> {
        let mode = Mode::from_bits_truncate(mode & 0o7777);
        fchmodat(AT_FDCWD, &self.path(), mode, FchmodatFlags::FollowSymlink)
    }

    /// Takes away the bit with which a file is run as its group, if it says so.
    pub(crate) fn drop_setgid(&self) -> Result<()> {
        let mode = fstat(&self.fd)?.st_mode;
        if mode & SETGID == 0 {
            return Ok(());
        }
        self.set_mode(mode & !SETGID)
    }

    /// Gives what was just made in `folder` to whoever asked for it. The group of a folder that
    /// hands it on stays, and so do the bits that the disk drops when the owner changes.
    fn own(&self, folder: &Object, new: NewAttributes) -> Result<()> {
        if nix::unistd::geteuid().is_root() {
            let is_handed_on = folder.stat.mode & SETGID != 0;
            let gid = (!is_handed_on).then(|| Gid::from_raw(new.gid));
            let uid = Some(Uid::from_raw(new.uid));
            fchownat(&self.fd, "", uid, gid, AtFlags::AT_EMPTY_PATH)?;
        }
        let wanted = new.mode & SETID;
        let mode = fstat(&self.fd)?.st_mode;
        if self.stat.kind == FileType::Folder || mode & wanted == wanted {
            return Ok(());
        }
        self.set_mode(mode | wanted)
    }
}

impl Root {
    /// The folder that holds `relative`, and its name in there; `.` for the root itself.
    fn parent<'a>(&self, relative: &'a Path) -> Result<(Object, &'a OsStr)> {
        let folder = relative.parent().unwrap_or(Path::new(""));
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY;
        let name = relative.file_name().unwrap_or(OsStr::new("."));
        Ok((Object::of(self.open_beneath(folder, flags)?)?, name))
    }

    /// Opens a regular file with the flags of an `open`, which may ask for writing.
    pub(crate) fn open_with(&self, relative: &Path, flags: i32) -> Result<(File, Stat)> {
        let wanted = OFlag::from_bits_truncate(flags);
        let kept = OFlag::O_ACCMODE | OFlag::O_APPEND | OFlag::O_TRUNC;
        // what is appended has its place from the kernel already
        let flags = ((wanted & kept) - OFlag::O_APPEND) | OFlag::O_NONBLOCK;
        let fd = self.open_beneath(relative, flags)?;
        let stat = Stat::of(&fstat(&fd)?).filter(|stat| stat.kind == FileType::File);
        Ok((fd.into(), stat.ok_or(Errno::ENOENT)?))
    }

    /// Makes a file, or opens the one that is there meanwhile unless `O_EXCL`.
    pub(crate) fn create(
        &self,
        relative: &Path,
        flags: i32,
        new: NewAttributes,
    ) -> Result<(File, Stat)> {
        let (folder, name) = self.parent(relative)?;
        let wanted = OFlag::from_bits_truncate(flags);
        let access = wanted & OFlag::O_ACCMODE;
        let how = access | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&folder.fd, name, how, new.mode_in(&folder)) {
            Ok(fd) => {
                let made = Object::of(fd)?;
                made.own(&folder, new)?;
                let stat = Stat::of(&fstat(&made.fd)?).ok_or(Errno::EIO)?;
                Ok((made.fd.into(), stat))
            }
            Err(Errno::EEXIST) if !wanted.contains(OFlag::O_EXCL) => {
                self.open_with(relative, flags)
            }
            Err(errno) => Err(errno),
        }
    }

    /// Makes a file, pipe or socket. A device is the business of whoever may use the disk itself.
    pub(crate) fn make_node(&self, relative: &Path, new: NewAttributes) -> Result<()> {
        let kind = FileType::of_mode(new.mode).ok_or(Errno::EINVAL)?;
        if !matches!(kind, FileType::File | FileType::Fifo | FileType::Socket) {
            return Err(Errno::EPERM);
        }
        let (folder, name) = self.parent(relative)?;
        let kind = SFlag::from_bits_truncate(kind.bits());
        mknodat(&folder.fd, name, kind, new.mode_in(&folder), 0)?;
        self.hold(relative)?.own(&folder, new)
    }

    /// Makes a folder.
    pub(crate) fn make_folder(&self, relative: &Path, new: NewAttributes) -> Result<()> {
        let (folder, name) = self.parent(relative)?;
        mkdirat(&folder.fd, name, new.mode_in(&folder))?;
        self.hold(relative)?.own(&folder, new)
    }

    /// Makes a link.
    pub(crate) fn make_link(
        &self,
        relative: &Path,
        target: &Path,
        new: NewAttributes,
    ) -> Result<()> {
        let (folder, name) = self.parent(relative)?;
        symlinkat(target, &folder.fd, name)?;
        self.hold(relative)?.own(&folder, new)
    }

    /// Gives a file, pipe, socket or link another name.
    pub(crate) fn make_name(&self, object: &Object, new: &Path) -> Result<()> {
        let (folder, name) = self.parent(new)?;
        let flag = AtFlags::AT_SYMLINK_FOLLOW;
        linkat(AT_FDCWD, &object.path(), &folder.fd, name, flag)
    }

    /// Removes a name of a file or, if `folder`, an empty folder.
    pub(crate) fn remove(&self, relative: &Path, is_folder: bool) -> Result<()> {
        let (folder, name) = self.parent(relative)?;
        let flag = if is_folder {
            UnlinkatFlags::RemoveDir
        } else {
            UnlinkatFlags::NoRemoveDir
        };
        unlinkat(&folder.fd, name, flag)
    }

    /// Renames; `flags` are those of `renameat2`.
    pub(crate) fn rename(&self, relative: &Path, new: &Path, flags: u32) -> Result<()> {
        let ((from, name), (to, new)) = (self.parent(relative)?, self.parent(new)?);
        let flags = RenameFlags::from_bits(flags).ok_or(Errno::EINVAL)?;
        renameat2(&from.fd, name, &to.fd, new, flags)
    }

    /// Makes the names in a folder durable.
    pub(crate) fn sync_folder(&self, relative: &Path) -> Result<()> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY;
        let folder: OwnedFd = self.open_beneath(relative, flags)?;
        nix::unistd::fsync(folder.as_fd())
    }
}
