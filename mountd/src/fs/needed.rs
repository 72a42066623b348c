//! Whether fine-tunes need what is to go: a base that is the last of its kind stays.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bigsmall::archive;
use bigsmall::archive::Bases;
use bigsmall::archive::Files;
use bigsmall::archive::Image;
use bigsmall::archive::naming;
use bigsmall::base::FileSource;
use bigsmall::tensor::Header;
use nix::errno::Errno;

use crate::fs::catalog::EntryKind;
use crate::fs::models::Named;
use crate::fs::root::Result;
use crate::fs::view::Deltas;
use crate::fs::view::Fs;
use crate::node::FileType;

impl Fs {
    /// `EBUSY` if a file that is no image cannot be removed for those who need it.
    pub(super) fn check_removed(&self, named: &Named) -> Result<()> {
        if !self.may_be_base(named) {
            return Ok(());
        }
        self.check_unneeded(&named.path(), None)
    }

    /// `EBUSY` if something that is no image cannot have another name: for those who need what has
    /// that name, or who would not look for the first under it.
    pub(super) fn check_renamed(&self, old: &Named, new: &Named) -> Result<()> {
        let is_found = may_be_of_base(&new.name);
        if new.image().is_some() || self.may_be_base(new) {
            let arriving = old.path();
            let arriving = (is_plain(old) && is_found).then_some(&*arriving);
            self.check_unneeded(&new.path(), arriving)?;
        }
        if !is_found && self.may_be_base(old) {
            self.check_unneeded(&old.path(), None)?;
        }
        Ok(())
    }

    /// Whether a name shows a file that is no image and in which bases are looked for.
    fn may_be_base(&self, named: &Named) -> bool {
        if !is_plain(named) {
            return false;
        }
        let path = named.path();
        let may_be_model = || {
            let (file, _) = self.root.open_file(&path).ok()?;
            let file = FileSource::from_file(file, &self.root.shown(&path)).ok()?;
            Some(Header::may_be_in(&file))
        };
        naming::is_model_name(&named.name)
            || naming::has_no_extension(&named.name) && may_be_model().unwrap_or(false)
    }

    /// `EBUSY`, and a line in the log that names them, if fine-tunes in the source could not be
    /// read any more without what is at `path`, though `arriving` is to have a name under which
    /// bases are looked for.
    pub(super) fn check_unneeded(&self, path: &Path, arriving: Option<&Path>) -> Result<()> {
        let below = self.root.path_below();
        let (mut files, mut images) = (BTreeSet::new(), BTreeSet::new());
        self.walk(&mut files, &mut images);
        files.remove(path);
        images.remove(path);
        files.extend(arriving.map(Path::to_owned));
        if images.is_empty() {
            return Ok(());
        }
        let full = |paths: BTreeSet<PathBuf>| -> BTreeSet<PathBuf> {
            paths.iter().map(|path| below.join(path)).collect()
        };
        let files = Files {
            going: &full(BTreeSet::from([path.to_owned()])),
            images: &full(images),
            staying: &full(files),
        };
        let none = || {
            let mut bases = Bases::new(Arc::clone(&self.cache), self.digests.clone());
            bases.follow_no_links();
            for path in self.base_paths.iter().filter(|path| **path != below) {
                // one that is not there holds no base
                let _ = bases.add(path);
            }
            bases
        };
        let needed = archive::needed(&files, &none, &|| Ok(())).map_err(|e| self.fail(&e))?;
        if needed.lost.is_empty() {
            return Ok(());
        }
        let shown = |path: &PathBuf| {
            let relative = path.strip_prefix(&below).unwrap_or(path);
            format!("`{}`", self.root.shown(relative).display())
        };
        let lost: Vec<String> = needed.lost.iter().map(shown).collect();
        tracing::error!(
            "`{}` stays: {} could not be read any more, being stored as differences from it",
            self.root.shown(path).display(),
            lost.join(", ")
        );
        Err(Errno::EBUSY)
    }

    /// All files of the source in which bases are looked for, and those that are fine-tunes.
    /// Folders that cannot be listed hide what is in them from everybody.
    fn walk(&self, files: &mut BTreeSet<PathBuf>, images: &mut BTreeSet<PathBuf>) {
        let mut deltas = self.deltas.lock();
        let mut known = Deltas::new();
        let mut folders = vec![PathBuf::new()];
        while let Some(folder) = folders.pop() {
            for name in self.root.list(&folder).unwrap_or_default() {
                let path = folder.join(&name);
                let Ok(stat) = self.root.stat(&path) else {
                    continue;
                };
                match stat.kind {
                    FileType::Folder => folders.push(path),
                    FileType::File if may_be_of_base(&name) => {
                        files.insert(path.clone());
                        if !naming::is_image_name(&name) {
                            continue;
                        }
                        let identity = stat.identity();
                        let before = deltas.get(&identity).copied();
                        let is_delta = before.unwrap_or_else(|| self.is_delta(&path));
                        known.insert(identity, is_delta);
                        if is_delta {
                            images.insert(path);
                        }
                    }
                    _ => {}
                }
            }
        }
        *deltas = known;
    }

    fn is_delta(&self, path: &Path) -> bool {
        // one that cannot be opened is no fine-tune that could lose anything
        let image = Image::open(&self.root.path_below().join(path));
        image.is_ok_and(|image| image.is_delta())
    }
}

/// Whether a name shows a file that is no image.
fn is_plain(named: &Named) -> bool {
    let item = named.item.as_ref();
    item.is_some_and(|item| matches!(item.kind, EntryKind::Passthrough))
}

/// Whether bases are looked for in files of this name.
fn may_be_of_base(name: &OsStr) -> bool {
    naming::is_image_name(name) || naming::is_model_name(name) || naming::has_no_extension(name)
}
