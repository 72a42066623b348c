//! Outputs that appear complete or not at all: a temporary beside the target, fsync, rename, fsync
//! of the folder.

use std::fs;
use std::fs::File;
use std::fs::OpenOptions;
use std::io::Seek;
use std::io::SeekFrom;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::LockedFile;
use crate::base::Result;
use crate::base::Unused;
use crate::base::atomic::RemovedOnExit;
use crate::base::atomic::check_target;
use crate::base::atomic::folder_of;
use crate::base::atomic::journal_of;
use crate::base::atomic::remove_stale_temporaries;
use crate::base::atomic::rename;
use crate::base::atomic::taken;
use crate::base::atomic::temporary_for;
use crate::base::atomic::temporary_prefix;
use crate::base::file;
use crate::base::identity::Identity;

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

/// Gives the file at `from` another name (a hard link), in the place of what is there if `replace`;
/// false if the file system gives it none.
pub(crate) fn link(from: &Path, to: &Path, replace: bool) -> Result<bool> {
    let temporary = temporary_for(to);
    let unfinished = RemovedOnExit::new(&temporary);
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
    unfinished: Option<RemovedOnExit>,
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
        let unfinished = RemovedOnExit::new(&temporary);
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
