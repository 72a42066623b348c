//! A folder that is being written.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::base::Error;
use crate::base::LockedFile;
use crate::base::Progress;
use crate::base::Result;
use crate::base::atomic;
use crate::base::atomic::RemovedOnExit;
use crate::base::file;
use crate::ops::folder::Entry;
use crate::ops::folder::EntryKind;
use crate::ops::folder::copy_file;
use crate::ops::folder::not_a_file;

/// A folder being written. It appears under its name at [`commit`](Self::commit); before, it is a
/// temporary beside it, which is removed if nothing comes of it. With `force` and a folder already
/// there, files go straight into that.
#[derive(Debug)]
pub(crate) struct OutputFolder {
    root: PathBuf,
    target: PathBuf,
    in_place: bool,
    keep: bool,
    committed: bool,
    /// Folders in which others or links were made: their names are on the disk when these are
    /// synced.
    grown: RefCell<BTreeSet<PathBuf>>,
    /// Held while the folder is written: it tells others that somebody lives who does.
    _lock: Option<LockedFile>,
    /// None if it stays.
    _unfinished: Option<RemovedOnExit>,
}

impl OutputFolder {
    /// Makes the temporary.
    pub(crate) fn create(target: &Path, force: bool) -> Result<Self> {
        Self::begin(target, force, false)
    }

    /// Goes on with the temporary of a run that was interrupted, if there is one, and keeps it if
    /// this run is interrupted, too.
    pub(crate) fn resume(target: &Path, force: bool) -> Result<Self> {
        Self::begin(target, force, true)
    }

    fn begin(target: &Path, force: bool, keep: bool) -> Result<Self> {
        let exists = fs::symlink_metadata(target).is_ok();
        if exists && !target.is_dir() {
            return Err(Error::invalid("is no folder, a folder is to be written").file(target));
        }
        if exists && !force && !keep {
            return Err(Error::invalid("exists already").file(target));
        }
        if !exists {
            atomic::check_folder(target)?;
        }
        let left_over = atomic::left_over_folder(target).filter(|_| keep && !exists);
        atomic::remove_stale_temporaries(target);
        let is_new = !exists && left_over.is_none();
        let (lock, root) = match left_over {
            Some((lock, root)) => (Some(lock), root),
            None if exists => (None, target.to_owned()),
            None => (None, atomic::temporary_for(target)),
        };
        let goes = !exists && !keep;
        let unfinished = goes.then(|| RemovedOnExit::new(&root));
        if is_new {
            fs::create_dir(&root).map_err(|e| Error::io("cannot make the folder", target, e))?;
        }
        // where there are no locks, temporaries that are left over are for the user to remove
        let lock = lock.or_else(|| {
            let folder = is_new.then(|| file::open_folder(&root).ok());
            folder.flatten().and_then(LockedFile::new)
        });
        let target = target.to_owned();
        Ok(Self {
            root,
            target,
            in_place: exists,
            keep,
            committed: false,
            grown: RefCell::default(),
            _lock: lock,
            _unfinished: unfinished,
        })
    }

    /// Whether it was there before.
    pub(crate) fn is_in_place(&self) -> bool {
        self.in_place
    }

    /// Where a path of the folder is now.
    pub(crate) fn path(&self, relative: &Path) -> PathBuf {
        self.root.join(relative)
    }

    /// Where it will be.
    pub(crate) fn target_path(&self, relative: &Path) -> PathBuf {
        self.target.join(relative)
    }

    /// Makes a folder in it.
    pub(crate) fn make_folder(&self, relative: &Path) -> Result<()> {
        let path = self.path(relative);
        for missing in path.ancestors().take_while(|at| !at.exists()) {
            let above = atomic::folder_of(missing).to_owned();
            self.grown.borrow_mut().insert(above);
        }
        match fs::create_dir_all(&path) {
            Ok(()) => Ok(()),
            Err(e) => Err(Error::io("cannot make the folder", &path, e)),
        }
    }

    /// Makes a link in it, replacing another link if `force`.
    pub(crate) fn make_link(&self, relative: &Path, target: &Path, force: bool) -> Result<()> {
        let path = self.path(relative);
        if force && fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink()) {
            fs::remove_file(&path).map_err(|e| Error::io("cannot replace the link", &path, e))?;
        }
        if fs::read_link(&path).is_ok_and(|there| there == target) {
            return Ok(());
        }
        std::os::unix::fs::symlink(target, &path)
            .map_err(|e| Error::io("cannot make the link", &path, e))?;
        let above = atomic::folder_of(&path).to_owned();
        self.grown.borrow_mut().insert(above);
        Ok(())
    }

    /// Copies what is not a model from the folder `root`; the bytes of a file. What is no file is
    /// left out, and told of.
    pub(crate) fn copy(
        &self,
        root: &Path,
        entry: &Entry,
        force: bool,
        progress: &dyn Progress,
    ) -> Result<Option<u64>> {
        let full = root.join(&entry.path);
        match &entry.kind {
            EntryKind::Folder => self.make_folder(&entry.path)?,
            EntryKind::Link(to) => self.make_link(&entry.path, to, force)?,
            EntryKind::Special => progress.skip(not_a_file(&full))?,
            EntryKind::File => return copy_file(&full, &self.path(&entry.path), force).map(Some),
        }
        Ok(None)
    }

    /// Puts the folder in place.
    pub(crate) fn commit(mut self) -> Result<()> {
        for folder in self.grown.take() {
            atomic::sync_folder(&folder)?;
        }
        if !self.in_place {
            atomic::sync_folder(&self.root)?;
            atomic::rename(&self.root, &self.target, false)?;
        }
        self.committed = true;
        Ok(())
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        if !self.committed && !self.in_place && !self.keep {
            // a later run removes what this cannot
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}
