//! Mounts as the kernel has them: made, found, healed and ended.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use bigsmall::base::Error;
use bigsmall::base::ErrorKind;
use bigsmall::base::Result;
use bigsmall::base::mounts;
pub(crate) use bigsmall::base::mounts::Mounted;
use nix::errno::Errno;
use nix::mount::MntFlags;
use nix::mount::MsFlags;
use nix::mount::umount2;

use crate::adapter::CacheMode;
use crate::daemon::handshake;
use crate::daemon::handshake::Connection;
use crate::daemon::kernel_readahead;
use crate::daemon::link;

const DEVICE: &str = "/dev/fuse";
/// The setuid helper of libfuse 3, for those who are not root. Its older sibling fails silently in
/// some containers.
const HELPER: &str = "fusermount3";
/// How long the helper may take to mount.
const HELPER_WAIT: Duration = Duration::from_secs(20);
/// How long a busy mount is tried again, and how often.
const BUSY_WAIT: Duration = Duration::from_millis(500);
const BUSY_STEP: Duration = Duration::from_millis(10);

/// All mounts of ours, in the order in which they were made.
pub(crate) fn all() -> Result<Vec<Mounted>> {
    let mut all = mounts::all()?;
    all.retain(Mounted::is_ours);
    Ok(all)
}

/// What is mounted at exactly this place, if anything: the last of several, which hides the others.
/// Nothing is asked of the mount itself, whose daemon may be dead or stopped.
pub(crate) fn mounted_at(mountpoint: &Path) -> Result<MountedHere> {
    let mut all = mounts::all()?.into_iter();
    Ok(
        match all.rfind(|mounted| mounted.mountpoint == mountpoint) {
            None => MountedHere::Nothing,
            Some(top) if top.is_ours() => MountedHere::Ours,
            Some(_) => MountedHere::Foreign,
        },
    )
}

/// What is mounted at a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MountedHere {
    Nothing,
    Ours,
    Foreign,
}

/// `path` absolute and without links, the last part included, and still nothing is asked of a mount
/// that may be there.
pub(crate) fn resolve(path: &Path) -> Result<PathBuf> {
    const LINKS_MAX: usize = 40;
    let failed = |e| Error::io("cannot find", path, e);
    let mut resolved = std::path::absolute(path).map_err(failed)?;
    for _ in 0..LINKS_MAX {
        let (Some(folder), Some(name)) = (resolved.parent(), resolved.file_name()) else {
            break;
        };
        resolved = std::fs::canonicalize(folder).map_err(failed)?.join(name);
        match std::fs::read_link(&resolved) {
            Ok(target) => resolved = resolved.with_file_name("").join(target),
            Err(_) => return Ok(resolved),
        }
    }
    std::fs::canonicalize(&resolved).map_err(failed)
}

/// Whether the daemon behind a mount is gone: any question is answered with ENOTCONN.
pub(crate) fn is_dead(mountpoint: &Path) -> bool {
    std::fs::read_dir(mountpoint).is_err_and(|e| e.raw_os_error() == Some(Errno::ENOTCONN as i32))
}

/// How the daemon of a mount is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Daemon {
    Lives,
    /// Its supervisor did. A worker may serve what is open; nobody would follow it.
    Died,
    /// It left no record here.
    Unknown,
}

/// Clears dead mounts of ours from the mountpoint, which is resolved. What others have mounted is
/// left alone. Whether the place is free then of ours: a living one is left, too.
pub(crate) fn heal(mountpoint: &Path, daemon_of: impl Fn(&Path) -> Daemon) -> Result<bool> {
    // each round clears one of several that may be stacked
    for _ in 0..16 {
        if mounted_at(mountpoint)? != MountedHere::Ours {
            return Ok(true);
        }
        let is_alive = match daemon_of(mountpoint) {
            Daemon::Lives => true,
            Daemon::Died => false,
            Daemon::Unknown => !is_dead(mountpoint),
        };
        if is_alive {
            return Ok(false);
        }
        tracing::info!("clearing a dead mount from `{}`", mountpoint.display());
        unmount(mountpoint, true)?;
    }
    Err(Error::new(ErrorKind::Io, "dead mounts cannot be cleared").file(mountpoint))
}

/// Who may do what in a mount.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Access {
    /// Whether other users are let in, as far as the files' permissions say.
    pub(crate) allow_other: bool,
    /// Whether what is no image may be changed.
    pub(crate) writable: bool,
}

/// What a mount shall be like.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Wanted {
    pub(crate) access: Access,
    pub(crate) cache_mode: CacheMode,
    /// How far the kernel reads ahead; 0 for as far as it does by itself.
    pub(crate) kernel_readahead_bytes: u64,
}

/// A mount of this process.
#[derive(Debug)]
pub(crate) struct Mount {
    pub(crate) device: OwnedFd,
    pub(crate) mountpoint: PathBuf,
    pub(crate) connection: Connection,
    source: PathBuf,
    wanted: Wanted,
}

impl Mount {
    /// Mounts, and answers the kernel's first request; the others wait for a worker.
    pub(crate) fn make(source: &Path, mountpoint: &Path, wanted: Wanted) -> Result<Self> {
        let (device, connection) = connect(source, mountpoint, wanted)?;
        Ok(Self {
            device,
            mountpoint: mountpoint.to_owned(),
            connection,
            source: source.to_owned(),
            wanted,
        })
    }

    /// Mounts again where it was.
    pub(crate) fn renew(&mut self) -> Result<()> {
        self.end(true)?;
        // whoever waits for the old one gets an error when its device is closed
        let (device, connection) = connect(&self.source, &self.mountpoint, self.wanted)?;
        self.device = device;
        self.connection = connection;
        Ok(())
    }

    /// Ends it. `lazy` detaches it although it is in use.
    pub(crate) fn end(&self, lazy: bool) -> Result<()> {
        unmount(&self.mountpoint, lazy)
    }
}

fn connect(source: &Path, mountpoint: &Path, wanted: Wanted) -> Result<(OwnedFd, Connection)> {
    let access = wanted.access;
    let failed = |e| Error::io("cannot mount", mountpoint, e);
    let device = match mount_as_root(source, mountpoint, access) {
        Ok(device) => device,
        Err(e) if e.raw_os_error() != Some(Errno::EPERM as i32) => {
            return Err(device_hint(failed(e)));
        }
        Err(_) => {
            let mounted = mount_by_helper(source, mountpoint, access);
            mounted.map_err(|e| helper_hint(mountpoint, &e))?
        }
    };
    match handshake::answer(&device, access.writable, wanted.cache_mode) {
        Ok(connection) => {
            read_ahead(mountpoint, wanted.kernel_readahead_bytes);
            Ok((device, connection))
        }
        Err(errno) => {
            // nobody will ever answer for it
            let _ = unmount(mountpoint, true);
            let error = failed(errno.into());
            Err(match errno {
                Errno::EPROTO => error.hint("the kernel is too old: Linux 5.4 or newer is needed"),
                _ => error,
            })
        }
    }
}

/// Has the kernel read ahead in the mount that was made here. Where it may not be told, reads are
/// right all the same.
fn read_ahead(mountpoint: &Path, bytes: u64) {
    let set = || {
        let all = mounts::all().map_err(io::Error::other)?;
        let mut all = all.into_iter();
        let made = all.rfind(|mounted| mounted.mountpoint == mountpoint && mounted.is_ours());
        kernel_readahead::set(&made.ok_or(io::ErrorKind::NotFound)?, bytes)
    };
    if let Err(error) = set() {
        tracing::info!("the kernel's read-ahead stays as it is: {error}");
    }
}

/// Asks the setuid helper to mount. It sends the open device over a socket, which it has as its
/// standard input here.
fn mount_by_helper(source: &Path, mountpoint: &Path, access: Access) -> io::Result<OwnedFd> {
    let (ours, theirs) = UnixStream::pair()?;
    ours.set_read_timeout(Some(HELPER_WAIT))?;
    // the helper takes commas for the ends of options
    let name = source.as_os_str().as_bytes().iter().flat_map(|&b| {
        let escaped = matches!(b, b',' | b'\\');
        [b'\\', b].into_iter().skip(usize::from(!escaped))
    });
    let mut options = b"nosuid,nodev,noatime,default_permissions,".to_vec();
    options.extend_from_slice(if access.writable {
        b"rw,"
    } else {
        b"ro,noexec,"
    });
    if access.allow_other {
        options.extend_from_slice(b"allow_other,");
    }
    options.extend_from_slice(b"subtype=bigsmall,fsname=");
    options.extend(name);
    let mut command = Command::new(HELPER);
    command
        .arg("-o")
        .arg(OsStr::from_bytes(&options))
        .arg("--")
        .arg(mountpoint)
        .env("_FUSE_COMMFD", "0")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    let child = command.spawn()?;
    // with it goes our copy of the helper's end: if that dies, there is nothing to wait for
    drop(command);
    let device = link::receive_file(&ours);
    let output = child.wait_with_output()?;
    match device {
        Some(device) if output.status.success() => Ok(device),
        _ => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Err(io::Error::other(said))
        }
    }
}

/// What the setuid helper said, on one line, and what to do about it.
fn helper_hint(mountpoint: &Path, error: &io::Error) -> Error {
    let text = error.to_string().trim().to_owned();
    let error = Error::io(
        "cannot mount",
        mountpoint,
        io::Error::new(error.kind(), text.clone()),
    );
    if text.contains("user_allow_other") {
        return error
            .hint("root may allow it: put the line `user_allow_other` into /etc/fuse.conf");
    }
    device_hint(error).hint(format!(
        "without root, `{HELPER}` (Debian's package fuse3) must be installed"
    ))
}

fn device_hint(error: Error) -> Error {
    match File::options().read(true).write(true).open(DEVICE) {
        Ok(_) => error,
        Err(e) if e.kind() == io::ErrorKind::NotFound => error.hint(format!(
            "there is no {DEVICE}: load the kernel module with `modprobe fuse`"
        )),
        Err(e) => error.hint(format!("{DEVICE} cannot be opened by this user: {e}")),
    }
}

/// The system call, which only root may make; `EPERM` for others.
fn mount_as_root(source: &Path, mountpoint: &Path, access: Access) -> io::Result<OwnedFd> {
    if !nix::unistd::geteuid().is_root() {
        return Err(Errno::EPERM.into());
    }
    let device = File::options().read(true).write(true).open(DEVICE)?;
    let mode = std::fs::metadata(mountpoint)?.mode();
    let mut data = format!(
        "fd={},rootmode={mode:o},user_id={},group_id={},default_permissions",
        device.as_raw_fd(),
        nix::unistd::getuid(),
        nix::unistd::getgid()
    );
    if access.allow_other {
        data.push_str(",allow_other");
    }
    let mut flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOATIME;
    if !access.writable {
        flags |= MsFlags::MS_RDONLY | MsFlags::MS_NOEXEC;
    }
    nix::mount::mount(
        Some(source),
        mountpoint,
        Some(mounts::FSTYPE),
        flags,
        Some(data.as_str()),
    )?;
    Ok(device.into())
}

/// Ends a mount. `lazy` detaches it although it is in use. What is in use for a moment only, as by
/// a program that looks at every mount or by a child between fork and exec, is waited for.
pub(crate) fn unmount(mountpoint: &Path, lazy: bool) -> Result<()> {
    let begun = Instant::now();
    loop {
        match try_unmount(mountpoint, lazy) {
            Err(Errno::EBUSY) if begun.elapsed() < BUSY_WAIT => std::thread::sleep(BUSY_STEP),
            Err(Errno::EPERM) => return unmount_by_helper(mountpoint, lazy),
            Err(errno) => return Err(not_unmounted(mountpoint, errno)),
            Ok(()) => return Ok(()),
        }
    }
}

fn try_unmount(mountpoint: &Path, lazy: bool) -> Result<(), Errno> {
    let flags = MntFlags::UMOUNT_NOFOLLOW
        | if lazy {
            MntFlags::MNT_DETACH
        } else {
            MntFlags::empty()
        };
    umount2(mountpoint, flags)
}

fn unmount_by_helper(mountpoint: &Path, lazy: bool) -> Result<()> {
    let mut command = Command::new(HELPER);
    command.arg("-u");
    if lazy {
        command.arg("-z");
    }
    let output = command.arg("--").arg(mountpoint).output().map_err(|e| {
        Error::io(format!("cannot run `{HELPER}` to unmount"), mountpoint, e)
            .hint("install the package fuse3")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if text.contains("busy") {
        return Err(not_unmounted(mountpoint, Errno::EBUSY));
    }
    Err(Error::new(ErrorKind::Io, format!("cannot unmount: {text}")).file(mountpoint))
}

fn not_unmounted(mountpoint: &Path, errno: Errno) -> Error {
    Error::io("cannot unmount", mountpoint, errno.into())
}

/// Processes but this one that have something open, mapped or as working folder below the
/// mountpoint: number and name of each.
pub(crate) fn users_of(mountpoint: &Path) -> Vec<String> {
    let uses = |pid: &Path| {
        let links = ["cwd", "root", "exe"].map(|link| pid.join(link));
        let listed = |folder: &str| {
            std::fs::read_dir(pid.join(folder))
                .into_iter()
                .flatten()
                .flatten()
        };
        let open = listed("fd")
            .chain(listed("map_files"))
            .map(|entry| entry.path());
        links
            .into_iter()
            .chain(open)
            .any(|link| std::fs::read_link(link).is_ok_and(|target| target.starts_with(mountpoint)))
    };
    let own = std::process::id().to_string();
    let Ok(processes) = std::fs::read_dir("/proc") else {
        return Vec::new();
    };
    processes
        .flatten()
        .filter(|entry| {
            entry
                .file_name()
                .to_string_lossy()
                .bytes()
                .all(|b| b.is_ascii_digit())
        })
        .filter(|entry| entry.file_name().to_str() != Some(own.as_str()))
        .filter(|entry| uses(&entry.path()))
        .map(|entry| {
            let name = std::fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
            format!("{} ({})", entry.file_name().to_string_lossy(), name.trim())
        })
        .collect()
}
