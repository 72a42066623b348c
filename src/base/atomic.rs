//! Names on the disk: temporaries and what is left of them, renames that are durable.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::fcntl::RenameFlags;
use nix::fcntl::renameat2;
use parking_lot::Mutex;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::LockedFile;
use crate::base::Result;
use crate::base::digest;
use crate::base::file;

/// What stands in the name of a temporary, before the number of the process that writes it and a
/// random one.
const TEMPORARY_MARK: &str = ".part-";

/// What the name of a journal ends with, behind that of the temporary that it is of.
pub const JOURNAL_EXTENSION: &str = ".journal";

/// Refuses a target that must not be replaced: anything that exists, unless `force`; and with
/// `force` still everything that is neither a regular file nor a link to one.
pub fn check_target(target: &Path, force: bool) -> Result<()> {
    let Ok(link) = fs::symlink_metadata(target) else {
        return check_folder(target);
    };
    let kind = fs::metadata(target).map_or(link.file_type(), |m| m.file_type());
    if kind.is_dir() {
        return Err(Error::invalid("is a folder, a file is to be written").file(target));
    }
    if !kind.is_file() && !kind.is_symlink() {
        let what = "is neither a file nor new: devices and pipes are never replaced";
        return Err(Error::invalid(what).file(target));
    }
    if !force {
        return Err(Error::invalid("exists already").file(target));
    }
    Ok(())
}

/// An error that names the folder in which something is to be written, if that is not there. It is
/// not made: it may be a disk that is not mounted, or a slip.
pub fn check_folder(target: &Path) -> Result<()> {
    let folder = folder_of(target);
    let is_missing = |e: io::Error| e.kind() == io::ErrorKind::NotFound;
    if !fs::metadata(folder).is_err_and(is_missing) {
        return Ok(());
    }
    let folder = folder.display();
    let what = format!("cannot be written: there is no folder `{folder}`");
    Err(Error::new(ErrorKind::NotFound, what)
        .file(target)
        .hint(format!("make it first: `mkdir -p '{folder}'`")))
}

/// The folder that holds `path`; `.` for a bare name.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// What the names of all temporaries for `target` begin with. A long name is replaced by its hash:
/// the temporary's may not be longer than a file system allows.
pub(super) fn temporary_prefix(target: &Path) -> OsString {
    const NAME_LEN_MAX: usize = 200;
    let name = target.file_name().unwrap_or_default();
    let mut prefix = OsString::from(".");
    if name.len() <= NAME_LEN_MAX {
        prefix.push(name);
    } else {
        prefix.push(format!("{:016x}", digest::xxh3(name.as_encoded_bytes())));
    }
    prefix.push(TEMPORARY_MARK);
    prefix
}

/// A new name for a temporary of `target`: in the same folder, so that the rename stays in one file
/// system, and unlike that of any other process, in whatever container.
pub fn temporary_for(target: &Path) -> PathBuf {
    let mut name = temporary_prefix(target);
    let chance = RandomState::new().hash_one(std::process::id());
    name.push(format!("{}-{chance:016x}", std::process::id()));
    folder_of(target).join(name)
}

/// Removes temporaries for `target` whose writers are no more. A writer holds a lock on its
/// temporary, which the kernel releases with the process: what can be locked is left over.
pub fn remove_stale_temporaries(target: &Path) {
    let prefix = temporary_prefix(target);
    let Ok(entries) = fs::read_dir(folder_of(target)) else {
        return;
    };
    for entry in entries.flatten() {
        if !entry
            .file_name()
            .as_encoded_bytes()
            .starts_with(prefix.as_encoded_bytes())
        {
            continue;
        }
        let path = entry.path();
        // only what a run makes: files and folders
        let opened = match entry.file_type() {
            Ok(kind) if kind.is_file() => file::open_regular(&path).ok(),
            Ok(kind) if kind.is_dir() => file::open_folder(&path).ok(),
            _ => None,
        };
        let Some(_held) = opened.and_then(LockedFile::surely) else {
            continue;
        };
        // nothing depends on it: one that cannot be removed is met again next time
        let _ = if path.is_dir() {
            fs::remove_dir_all(&path)
        } else {
            fs::remove_file(&path)
        };
    }
}

/// Temporaries of this process that go if it ends before they are in place.
static UNFINISHED: Mutex<BTreeSet<PathBuf>> = Mutex::new(BTreeSet::new());

/// A temporary that goes if the process ends by [`abandon_all`] while this is there.
#[derive(Debug)]
pub struct RemovedOnExit(PathBuf);

impl RemovedOnExit {
    /// Of this file or folder.
    pub fn new(temporary: &Path) -> Self {
        UNFINISHED.lock().insert(temporary.to_owned());
        Self(temporary.to_owned())
    }
}

impl Drop for RemovedOnExit {
    fn drop(&mut self) {
        UNFINISHED.lock().remove(&self.0);
    }
}

/// Removes all that is not finished, and lets nothing new begin: for the end of a process whose
/// threads cannot be waited for.
pub fn abandon_all() {
    const TRIES: usize = 10;
    let unfinished = UNFINISHED.lock();
    for path in unfinished.iter() {
        // somebody may still write into a folder
        for _ in 0..TRIES {
            let removed = match fs::symlink_metadata(path) {
                Ok(metadata) if metadata.is_dir() => fs::remove_dir_all(path),
                Ok(_) => fs::remove_file(path),
                Err(_) => break,
            };
            if removed.is_ok() {
                break;
            }
        }
        // a later run removes what this could not
        let _ = fs::remove_file(journal_of(path));
    }
    std::mem::forget(unfinished);
}

/// Another run, which looks for what was left over, took a file the moment it was made.
pub(super) fn taken() -> io::Error {
    io::ErrorKind::WouldBlock.into()
}

/// The journal of a temporary.
pub fn journal_of(temporary: &Path) -> PathBuf {
    let mut name = temporary.as_os_str().to_owned();
    name.push(JOURNAL_EXTENSION);
    name.into()
}

/// What the name of a temporary says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Temporary {
    /// The name of what it is written for; a hash of that if it is long.
    pub target: OsString,
    /// Whether it is the journal of one.
    pub is_journal: bool,
}

/// Whether a name is that of a temporary: `.NAME.part-PROCESS-CHANCE`, or that of its journal.
pub fn temporary_named(name: &OsStr) -> Option<Temporary> {
    let bytes = name.as_bytes();
    let plain = bytes.strip_suffix(JOURNAL_EXTENSION.as_bytes());
    let (is_journal, rest) = (plain.is_some(), plain.unwrap_or(bytes).strip_prefix(b".")?);
    let mark = TEMPORARY_MARK.as_bytes();
    let at = rest
        .windows(mark.len())
        .rposition(|window| window == mark)?;
    let numbers = std::str::from_utf8(&rest[at + mark.len()..]).ok()?;
    let (process, chance) = numbers.split_once('-')?;
    let is_ours = process.parse::<u32>().is_ok()
        && chance.len() == 16
        && chance.bytes().all(|byte| byte.is_ascii_hexdigit());
    (at > 0 && is_ours).then(|| Temporary {
        target: OsStr::from_bytes(&rest[..at]).to_owned(),
        is_journal,
    })
}

/// The folder that a run that was interrupted has left half made for `target`, locked.
pub fn left_over_folder(target: &Path) -> Option<(LockedFile, PathBuf)> {
    let prefix = temporary_prefix(target);
    let entries = fs::read_dir(folder_of(target)).ok()?.flatten();
    let mut folders = entries.filter_map(|entry| {
        let name = entry.file_name();
        let begins = name
            .as_encoded_bytes()
            .starts_with(prefix.as_encoded_bytes());
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if !begins || !is_folder {
            return None;
        }
        let folder = file::open_folder(&entry.path()).ok();
        let lock = folder.and_then(LockedFile::surely)?;
        Some((lock, entry.path()))
    });
    folders.next()
}

/// Moves `from` to `to`, which must not exist unless `replace`, and makes the move durable.
pub fn rename(from: &Path, to: &Path, replace: bool) -> Result<()> {
    let failed = |e: io::Error| {
        if e.kind() == io::ErrorKind::AlreadyExists {
            Error::invalid("exists already").file(to)
        } else {
            Error::io(format!("cannot rename `{}`", from.display()), to, e)
        }
    };
    if replace {
        fs::rename(from, to).map_err(failed)?;
    } else {
        match renameat2(AT_FDCWD, from, AT_FDCWD, to, RenameFlags::RENAME_NOREPLACE) {
            // some network file systems know no such flag
            Err(Errno::EINVAL | Errno::ENOSYS) if fs::symlink_metadata(to).is_err() => {
                fs::rename(from, to).map_err(failed)?;
            }
            Err(Errno::EINVAL | Errno::ENOSYS) => {
                return Err(failed(io::ErrorKind::AlreadyExists.into()));
            }
            other => other.map_err(|e| failed(e.into()))?,
        }
    }
    sync_folder(folder_of(to))
}

/// Makes renames and removals in `folder` durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    file::open_folder(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| Error::io("cannot sync the folder", folder, e))
}

/// The permissions of a file that nobody asked particular ones for.
pub fn mode_of_new_file() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let umask = line.and_then(|umask| u32::from_str_radix(umask.trim(), 8).ok());
    0o666 & !umask.unwrap_or(0o077)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_is_known_by_its_name() {
        let temporary = temporary_for(Path::new("a.part-b.bs"));
        let named = |path: &Path| temporary_named(path.file_name().unwrap());
        let expected = |is_journal| Temporary {
            target: "a.part-b.bs".into(),
            is_journal,
        };
        assert_eq!(named(&temporary), Some(expected(false)));
        assert_eq!(named(&journal_of(&temporary)), Some(expected(true)));
        for other in [
            ".x.part-1",
            ".part-1-0123456789abcdef",
            "x.part-1-0123456789abcdef",
            ".x",
        ] {
            assert_eq!(named(Path::new(other)), None, "{other}");
        }
    }
}
