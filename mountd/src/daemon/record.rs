//! The records by which `mounts` and `unmount` find the daemon of a mount.

use std::path::Path;
use std::path::PathBuf;

use bigsmall::base::Error;
use bigsmall::base::ErrorKind;
use bigsmall::base::OutputFile;
use bigsmall::base::Result;
use bigsmall::base::digest;
use serde::Deserialize;
use serde::Serialize;

use crate::daemon::mounting::Daemon;
use crate::daemon::program::PROGRAM_NAME;

/// What a daemon leaves in the runtime folder while it lives.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) pid: u32,
    pub(crate) mountpoint: PathBuf,
    pub(crate) source: PathBuf,
    pub(crate) log: Option<PathBuf>,
}

/// The folder for records and logs: of this user alone, gone after a restart of the machine.
fn runtime_folder() -> Result<PathBuf> {
    use std::os::unix::fs::DirBuilderExt;
    use std::os::unix::fs::MetadataExt;
    let uid = nix::unistd::geteuid();
    let folder = match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(folder) if !folder.is_empty() && !uid.is_root() => {
            PathBuf::from(folder).join("bigsmall")
        }
        _ if uid.is_root() => PathBuf::from("/run/bigsmall"),
        _ => std::env::temp_dir().join(format!("bigsmall-{uid}")),
    };
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(&folder)
        .map_err(|e| Error::io("cannot make the runtime folder", &folder, e))?;
    let metadata = std::fs::symlink_metadata(&folder)
        .map_err(|e| Error::io("cannot stat the runtime folder", &folder, e))?;
    if !metadata.is_dir() || metadata.uid() != uid.as_raw() {
        return Err(
            Error::new(ErrorKind::Io, "the runtime folder belongs to somebody else").file(&folder),
        );
    }
    Ok(folder)
}

/// Where the record and, with another extension, the log of a mountpoint are.
pub(crate) fn path_of(mountpoint: &Path) -> Result<PathBuf> {
    let name = digest::xxh3(mountpoint.as_os_str().as_encoded_bytes());
    Ok(runtime_folder()?.join(format!("{name:016x}.json")))
}

/// Leaves the record of this daemon.
pub(crate) fn write(record: &Record) -> Result<PathBuf> {
    let path = path_of(&record.mountpoint)?;
    let text = serde_json::to_vec(record).map_err(|e| Error::invalid(e.to_string()).file(&path))?;
    let mut output = OutputFile::create(&path, true)?;
    output.write(&text)?;
    output.commit(None, Some(0o600))?;
    Ok(path)
}

/// The record of a mountpoint, whether or not its daemon lives.
fn read_any(mountpoint: &Path) -> Option<Record> {
    let text = std::fs::read(path_of(mountpoint).ok()?).ok()?;
    let record: Record = serde_json::from_slice(&text).ok()?;
    (record.mountpoint == mountpoint).then_some(record)
}

/// The record of a mountpoint, if its daemon lives.
pub(crate) fn read(mountpoint: &Path) -> Option<Record> {
    read_any(mountpoint).filter(|record| is_ours(record.pid))
}

/// How the daemon of a mountpoint is, as far as its record tells.
pub(crate) fn daemon_of(mountpoint: &Path) -> Daemon {
    match read_any(mountpoint) {
        None => Daemon::Unknown,
        Some(record) if is_ours(record.pid) => Daemon::Lives,
        Some(_) => Daemon::Died,
    }
}

/// Whether a process lives and is one of ours: numbers are used again. One that has ended and that
/// nobody has asked after yet (a zombie, as in containers without an init) does not live.
pub(crate) fn is_ours(pid: u32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
        return false;
    };
    // `123 (name) S ...`; the name may hold anything, so its end is the last parenthesis
    let Some((before, after)) = stat.rsplit_once(')') else {
        return false;
    };
    let named = before
        .split_once('(')
        .is_some_and(|(_, name)| name == PROGRAM_NAME);
    named && !matches!(after.trim_start().chars().next(), None | Some('Z' | 'X'))
}
