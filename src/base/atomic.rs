//! Outputs that appear complete or not at all: a temporary beside the target, fsync, rename, fsync
//! of the folder.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::hash::BuildHasher;
use std::hash::RandomState;
use std::io;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::fcntl::RenameFlags;
use nix::fcntl::renameat2;
use parking_lot::Mutex;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::LockedFile;
use crate::base::Result;
use crate::base::Unused;
use crate::base::digest;
use crate::base::file;
use crate::base::file::Identity;

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
fn temporary_prefix(target: &Path) -> OsString {
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
pub struct Unfinished(PathBuf);

impl Unfinished {
    /// Of this file or folder.
    pub fn new(temporary: &Path) -> Self {
        UNFINISHED.lock().insert(temporary.to_owned());
        Self(temporary.to_owned())
    }
}

impl Drop for Unfinished {
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
fn taken() -> io::Error {
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

/// The longest temporary for `target` whose writer is no more and that has a journal; both locked.
fn left_over(target: &Path) -> Option<(LockedFile, PathBuf, (LockedFile, PathBuf))> {
    let prefix = temporary_prefix(target);
    let open = |path: &Path| {
        let file = file::open_with(path, OpenOptions::new().read(true).write(true));
        file.ok().and_then(LockedFile::surely)
    };
    let mut best: Option<(u64, LockedFile, PathBuf, (LockedFile, PathBuf))> = None;
    for entry in fs::read_dir(folder_of(target)).ok()?.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let begins = name
            .as_encoded_bytes()
            .starts_with(prefix.as_encoded_bytes());
        let journal = journal_of(&path);
        if !begins || !entry.file_type().is_ok_and(|kind| kind.is_file()) || !journal.is_file() {
            continue;
        }
        let len = entry.metadata().map_or(0, |metadata| metadata.len());
        if best.as_ref().is_none_or(|best| best.0 < len)
            && let (Some(file), Some(journal_file)) = (open(&path), open(&journal))
        {
            best = Some((len, file, path, (journal_file, journal)));
        }
    }
    best.map(|(_, file, path, journal)| (file, path, journal))
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

/// Gives the file at `from` another name (a hard link), in the place of what is there if `replace`;
/// false if the file system gives it none.
pub fn link(from: &Path, to: &Path, replace: bool) -> Result<bool> {
    let temporary = temporary_for(to);
    let unfinished = Unfinished::new(&temporary);
    if fs::hard_link(from, &temporary).is_err() {
        return Ok(false);
    }
    // held until it is replaced
    let renamed = look_at_replaced(to, replace).and_then(|_held| rename(&temporary, to, replace));
    // still there after an error, and after the rename of one name of a file to another
    let _ = fs::remove_file(&temporary);
    drop(unfinished);
    renamed.map(|()| true)
}

/// Makes renames and removals in `folder` durable.
pub fn sync_folder(folder: &Path) -> Result<()> {
    file::open_folder(folder)
        .and_then(|f| f.sync_all())
        .map_err(|e| Error::io("cannot sync the folder", folder, e))
}

/// What is to be replaced at `target`, if that is a file; an error if somebody writes it or has
/// locked it.
fn look_at_replaced(target: &Path, replace: bool) -> Result<Option<Unused>> {
    if !replace || !fs::symlink_metadata(target).is_ok_and(|there| there.is_file()) {
        return Ok(None);
    }
    match Unused::hold(target) {
        Err(error) if error.kind() == ErrorKind::Busy => Err(error),
        // one that cannot be read is not known to be in use
        held => Ok(held.ok()),
    }
}

/// A file being written. Nothing is at the target until [`commit`](Self::commit); dropped before
/// that, the temporary is removed.
#[derive(Debug)]
pub struct OutputFile {
    file: LockedFile,
    temporary: PathBuf,
    /// What was done so far, for a run that goes on.
    journal: Option<(LockedFile, PathBuf)>,
    target: PathBuf,
    replace: bool,
    /// The file at the target when this was begun.
    replaced: Option<Identity>,
    /// Whether the temporary stays for a later run if this one does not commit it.
    keep: bool,
    committed: bool,
    unfinished: Option<Unfinished>,
}

impl OutputFile {
    /// Goes on with the temporary of a run that was interrupted, if one with a journal is there;
    /// else makes a new one. It stays if this run is interrupted, too.
    pub fn resume(target: &Path, force: bool) -> Result<Self> {
        check_target(target, force)?;
        let replaced = look_at_replaced(target, force)?.map(|file| file.identity());
        let adopted = left_over(target);
        let mut output = match adopted {
            Some((file, temporary, journal)) => {
                remove_stale_temporaries(target);
                Self {
                    file,
                    temporary,
                    journal: Some(journal),
                    target: target.to_owned(),
                    replace: force,
                    replaced,
                    keep: true,
                    committed: false,
                    unfinished: None,
                }
            }
            None => Self::create(target, force)?,
        };
        output.keep = true;
        output.unfinished = None;
        Ok(output)
    }

    /// The open journal, made if there is none: a file beside the temporary that goes when that
    /// does.
    pub fn journal(&mut self) -> Result<&mut File> {
        if self.journal.is_none() {
            let path = journal_of(&self.temporary);
            let failed = |e| Error::io("cannot write", &self.target, e);
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            let file = options.open(&path).map_err(failed)?;
            let file = LockedFile::new(file).ok_or_else(|| failed(taken()))?;
            self.journal = Some((file, path));
        }
        match &mut self.journal {
            Some((file, _)) => Ok(file),
            None => unreachable!("it was made above"),
        }
    }

    /// Goes on writing at `len`; what is behind is gone.
    pub fn cut(&mut self, len: u64) -> Result<()> {
        self.file
            .set_len(len)
            .and_then(|()| self.file.seek(SeekFrom::Start(len)))
            .map(|_| ())
            .map_err(|e| Error::io("cannot write", &self.target, e))
    }

    /// Opens a temporary for `target`.
    pub fn create(target: &Path, force: bool) -> Result<Self> {
        check_target(target, force)?;
        let replaced = look_at_replaced(target, force)?.map(|file| file.identity());
        remove_stale_temporaries(target);
        let temporary = temporary_for(target);
        let unfinished = Unfinished::new(&temporary);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(|e| Error::io("cannot write", target, e))?;
        // where there are no locks, temporaries that are left over are for the user to remove
        let file =
            LockedFile::new(file).ok_or_else(|| Error::io("cannot write", target, taken()))?;
        Ok(Self {
            file,
            temporary,
            journal: None,
            target: target.to_owned(),
            replace: force,
            replaced,
            keep: false,
            committed: false,
            unfinished: Some(unfinished),
        })
    }

    /// Where the bytes are before the commit.
    pub fn temporary(&self) -> &Path {
        &self.temporary
    }

    /// Where they will be.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// The open temporary, for copying into it.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Appends bytes.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all(bytes)
            .map_err(|e| Error::io("cannot write", &self.target, e))
    }

    /// Writes bytes at `offset`, leaving the place of [`write`](Self::write) as it is.
    pub fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<()> {
        self.file
            .write_all_at(bytes, offset)
            .map_err(|e| Error::io("cannot write", &self.target, e))
    }

    /// Makes the bytes written so far durable, before they are read back from the temporary.
    pub fn sync(&self) -> Result<()> {
        self.file
            .sync_data()
            .map_err(|e| Error::io("cannot write", &self.target, e))
    }

    /// Makes the bytes durable and puts them in place, with `mtime` and `mode` if given.
    pub fn commit(mut self, mtime: Option<SystemTime>, mode: Option<u32>) -> Result<()> {
        let failed = |e| Error::io("cannot write", &self.target, e);
        if let Some(mode) = mode {
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode & 0o777);
            self.file.set_permissions(permissions).map_err(failed)?;
        }
        if let Some(mtime) = mtime {
            self.file.set_modified(mtime).map_err(failed)?;
        }
        self.file.sync_all().map_err(failed)?;
        // held until it is replaced
        let there = look_at_replaced(&self.target, self.replace)?;
        if let (Some(there), Some(before)) = (&there, &self.replaced)
            && !there.identity().has_content_of(before)
        {
            return Err(Error::new(ErrorKind::Busy, "was changed meanwhile")
                .file(&self.target)
                .hint("do it again when nobody writes to it"));
        }
        rename(&self.temporary, &self.target, self.replace)?;
        self.committed = true;
        Ok(())
    }
}

/// The permissions of a file that nobody asked particular ones for.
pub fn mode_of_new_file() -> u32 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    let umask = line.and_then(|umask| u32::from_str_radix(umask.trim(), 8).ok());
    0o666 & !umask.unwrap_or(0o077)
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.committed && self.keep && self.journal.is_some() {
            return;
        }
        // a later run removes what this cannot
        if !self.committed {
            let _ = fs::remove_file(&self.temporary);
        }
        if let Some((_, journal)) = &self.journal {
            let _ = fs::remove_file(journal);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_there_before_the_commit() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.bs");
        let mut output = OutputFile::create(&target, false).unwrap();
        output.write(b"abc").unwrap();
        assert!(!target.exists());
        output.commit(None, None).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"abc");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(OutputFile::create(&target, false).is_err());
    }

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

    #[test]
    fn an_abandoned_output_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        drop(OutputFile::create(&folder.path().join("x.bs"), false).unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_target_that_appears_meanwhile_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.bs");
        let output = OutputFile::create(&target, false).unwrap();
        File::create(&target).unwrap();
        assert!(output.commit(None, None).is_err());
    }

    #[test]
    fn what_somebody_writes_has_locked_or_has_changed_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.bs");
        let put = |bytes: &[u8]| File::create(&target).unwrap().write_all(bytes).unwrap();
        put(b"one");
        let locked = File::open(&target).unwrap();
        locked.lock().unwrap();
        let refused = OutputFile::create(&target, true).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Busy);
        drop(locked);
        let output = OutputFile::create(&target, true).unwrap();
        put(b"other");
        assert_eq!(
            output.commit(None, None).unwrap_err().kind(),
            ErrorKind::Busy
        );
        assert_eq!(fs::read(&target).unwrap(), b"other");
        let output = OutputFile::create(&target, true).unwrap();
        output.commit(None, None).unwrap();
        assert_eq!(fs::read(&target).unwrap(), b"");
    }

    #[test]
    fn temporaries_of_dead_processes_go() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("x.bs");
        let stale = temporary_for(&target);
        File::create(&stale).unwrap();
        let living = OutputFile::create(&target, false).unwrap();
        assert!(!stale.exists());
        remove_stale_temporaries(&target);
        assert!(living.temporary().exists());
    }
}
