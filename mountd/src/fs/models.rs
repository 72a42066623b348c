//! Models in a mount over their own source: what is done to a model's name is done to its image and
//! to the parity beside that. What takes two steps on the disk is marked on the image first, so
//! that whoever finds it half done can do the rest, and never takes it for anything else.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::path::Path;
use std::path::PathBuf;

use bigsmall::archive::naming;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::fcntl::RenameFlags;

use crate::fs::catalog;
use crate::fs::catalog::EntryKind;
use crate::fs::catalog::Item;
use crate::fs::errno::stale_if_gone;
use crate::fs::root::Object;
use crate::fs::root::Result;
use crate::fs::root::Stat;
use crate::fs::tree::NodeKind;
use crate::fs::view::Fs;
use crate::node::Attr;
use crate::node::FileType;

/// What an image that is half replaced or half renamed is marked with.
const MARK: &str = "user.bigsmall.renaming";

/// Which file, in a way that no other is: its number alone may be another file's later.
type FileVersion = [u8; 32];

fn file_version(stat: &Stat) -> FileVersion {
    let mut bytes = [0; 32];
    bytes[..16].copy_from_slice(&stat.device_and_inode());
    bytes[16..24].copy_from_slice(&stat.size.to_le_bytes());
    bytes[24..].copy_from_slice(&stat.mtime.number().to_le_bytes());
    bytes
}

/// What is to go as soon as the image, or the other file, has the name that both want.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PendingRemoval {
    /// The image, for this file.
    ForIt(FileVersion),
    /// This file, for the image.
    Other(FileVersion),
}

impl PendingRemoval {
    fn encode(self) -> Vec<u8> {
        match self {
            Self::ForIt(file) => [&b"-"[..], &file].concat(),
            Self::Other(file) => [&b"+"[..], &file].concat(),
        }
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let (sign, file) = bytes.split_first()?;
        let file = file.try_into().ok()?;
        match sign {
            b'-' => Some(Self::ForIt(file)),
            b'+' => Some(Self::Other(file)),
            _ => None,
        }
    }
}

/// A name in a folder of the source that is to be made, changed or removed.
#[derive(Debug)]
pub(super) struct Named {
    folder: PathBuf,
    pub(super) name: OsString,
    /// What it shows.
    pub(super) item: Option<Item>,
}

impl Named {
    /// Its path on the disk: of the image, if it shows one.
    pub(super) fn path(&self) -> PathBuf {
        let disk = self.item.as_ref().map(|item| &item.disk_name);
        self.folder.join(disk.unwrap_or(&self.name))
    }

    /// The path of the name as it is shown.
    pub(super) fn shown(&self) -> PathBuf {
        self.folder.join(&self.name)
    }

    /// The image that it shows.
    pub(super) fn image(&self) -> Option<&Item> {
        self.item.as_ref().filter(|item| !item.kind.is_plain())
    }
}

/// The parity beside an image.
fn parity_of(image: &Path) -> PathBuf {
    let mut path = image.as_os_str().to_owned();
    path.push(naming::PARITY_EXTENSION);
    path.into()
}

/// Why a rename with flags replaces nothing.
fn not_replaced(how: RenameFlags) -> Errno {
    if how == RenameFlags::RENAME_NOREPLACE {
        Errno::EEXIST
    } else {
        Errno::EINVAL
    }
}

fn ignore_missing(done: Result<()>) -> Result<()> {
    match done {
        Err(Errno::ENOENT) => Ok(()),
        done => done,
    }
}

impl Object {
    fn mark(&self, removal: PendingRemoval) {
        let flags = rustix::fs::XattrFlags::empty();
        // a disk without attributes: what is left half done stays, and nothing is lost
        let _ = rustix::fs::setxattr(self.path(), MARK, &removal.encode(), flags);
    }

    fn unmark(&self) {
        let _ = rustix::fs::removexattr(self.path(), MARK);
    }

    fn marked(&self) -> Option<PendingRemoval> {
        let mut bytes = [0; 64];
        let len = rustix::fs::getxattr(self.path(), MARK, &mut bytes).ok()?;
        PendingRemoval::decode(&bytes[..len])
    }
}

impl Fs {
    /// The name of what is to be made, replaced or removed. Refused for names of images that are
    /// shown under another, and for those of models if they are protected.
    pub(super) fn changeable(&self, parent: u64, name: &OsStr) -> Result<Named> {
        self.check_writable()?;
        let parent = self.node(parent)?;
        if !matches!(parent.what, NodeKind::Disk(EntryKind::Folder)) {
            return Err(Errno::EROFS);
        }
        let named = Named {
            item: catalog::find(&self.root, &parent.path, name)?,
            folder: parent.path.clone(),
            name: name.to_owned(),
        };
        let is_refused = match &named.item {
            Some(item) => !item.kind.is_plain() && self.protects_models,
            None => catalog::hides(&self.root, &named.folder, name)?,
        };
        if is_refused {
            return Err(Errno::EROFS);
        }
        Ok(named)
    }

    /// The path of something new. Where a model has the name meanwhile, nothing is made.
    pub(super) fn free(&self, parent: u64, name: &OsStr) -> Result<PathBuf> {
        let named = self.changeable(parent, name)?;
        match named.image() {
            Some(_) => Err(Errno::EEXIST),
            None => Ok(named.path()),
        }
    }

    /// The path that an image is to have in order to be shown as `named`: that of the image which
    /// is shown so until now, or one that is free. `EXDEV` if it has no such name: then the bytes
    /// are copied, as between disks.
    fn image_path(&self, image: &Path, named: &Named) -> Result<PathBuf> {
        let before = named.image().map(|item| item.disk_name.clone());
        let usual = naming::image_name(&named.name).0;
        let others = catalog::images_for(&named.name);
        let candidates = before.iter().cloned().chain([usual]).chain(others);
        for candidate in candidates {
            let path = named.folder.join(&candidate);
            let is_free = || self.root.stat(&path).is_err_and(|e| e == Errno::ENOENT);
            let is_it = catalog::shown_as(&self.root, image, &candidate)? == named.name;
            if is_it && (before.as_ref() == Some(&candidate) || path == image || is_free()) {
                return Ok(path);
            }
        }
        Err(Errno::EXDEV)
    }

    /// Removes a model.
    pub(super) fn remove_model(&self, named: &Named, is_folder: bool) -> Result<()> {
        let is_image_folder = named
            .image()
            .is_some_and(|item| matches!(item.kind, EntryKind::ImageFolder));
        match (is_image_folder, is_folder) {
            // its files are those of one image, and go with that alone
            (true, true) => return Err(Errno::ENOTEMPTY),
            (true, false) => return Err(Errno::EISDIR),
            (false, true) => return Err(Errno::ENOTDIR),
            (false, false) => {}
        }
        let path = named.path();
        self.check_unneeded(&path, None)?;
        self.remove_image(&path)
    }

    /// Removes an image, then its parity: of an image that is there none is missing.
    fn remove_image(&self, path: &Path) -> Result<()> {
        self.root.remove(path, false)?;
        self.remove_parity(path);
        Ok(())
    }

    pub(super) fn remove_parity(&self, image: &Path) {
        let parity = parity_of(image);
        if let Err(errno) = ignore_missing(self.root.remove(&parity, false)) {
            let shown = self.root.shown(&parity);
            tracing::warn!("`{}` stays without its image: {errno}", shown.display());
        }
    }

    /// Gives a model another name, and takes away what had it.
    pub(super) fn rename_model(&self, old: &Named, new: &Named, how: RenameFlags) -> Result<()> {
        let from = old.path();
        let to = self.image_path(&from, new)?;
        if from == to {
            return Ok(());
        }
        if let Some(item) = &new.item {
            if !how.is_empty() {
                return Err(not_replaced(how));
            }
            if matches!(item.kind, EntryKind::Folder | EntryKind::ImageFolder) {
                return Err(Errno::ENOTEMPTY);
            }
        }
        let replaced = new.path();
        if new.image().is_some() {
            self.check_unneeded(&replaced, None)?;
        }
        let image = self.root.hold(&from)?;
        let other = new.item.as_ref().filter(|_| replaced != to);
        if let Some(item) = other {
            image.mark(PendingRemoval::Other(file_version(&item.stat)));
        }
        let replaces = new.item.is_some() && other.is_none();
        let how = if replaces {
            RenameFlags::empty()
        } else {
            RenameFlags::RENAME_NOREPLACE
        };
        let renamed = self.root.rename(&from, &to, how.bits());
        renamed.inspect_err(|_| image.unmark())?;
        self.moved(&from, &to);
        self.move_parity(&from, &to);
        if let Some(item) = other {
            self.root.sync_folder(&new.folder)?;
            self.remove_other(&replaced, !item.kind.is_plain())?;
            image.unmark();
        }
        Ok(())
    }

    /// Removes what had the name of a model that has it now.
    fn remove_other(&self, path: &Path, is_image: bool) -> Result<()> {
        if is_image {
            return self.remove_image(path);
        }
        let pin = self.pin(path);
        let removed = self.root.remove(path, false);
        removed.inspect_err(|_| self.unpin(pin))
    }

    /// The parity goes with its image; one of what was there before is that of another.
    fn move_parity(&self, from: &Path, to: &Path) {
        match self.root.rename(&parity_of(from), &parity_of(to), 0) {
            Err(Errno::ENOENT) => self.remove_parity(to),
            Err(errno) => {
                let shown = self.root.shown(&parity_of(from));
                tracing::warn!("`{}` stays without its image: {errno}", shown.display());
            }
            Ok(()) => self.moved(&parity_of(from), &parity_of(to)),
        }
    }

    /// Gives a file that is no image the name of a model, whose image goes when that is durable.
    pub(super) fn replace_model(&self, old: &Named, new: &Named, how: RenameFlags) -> Result<()> {
        if !how.is_empty() {
            return Err(not_replaced(how));
        }
        let (from, to, image_path) = (old.path(), new.shown(), new.path());
        let is_folder = |named: &Named| {
            let kind = named.item.as_ref().map(|item| &item.kind);
            matches!(kind, Some(EntryKind::Folder | EntryKind::ImageFolder))
        };
        match (is_folder(old), is_folder(new)) {
            (true, true) => return Err(Errno::ENOTEMPTY),
            (true, false) => return Err(Errno::ENOTDIR),
            (false, true) => return Err(Errno::EISDIR),
            (false, false) => {}
        }
        self.check_renamed(old, new)?;
        let stat = self.root.stat(&from)?;
        if stat.kind == FileType::File {
            let (file, _) = self.root.open_with(&from, OFlag::O_RDONLY.bits())?;
            nix::unistd::fsync(&file)?;
        }
        let image = self.root.hold(&image_path)?;
        image.mark(PendingRemoval::ForIt(file_version(&stat)));
        let flags = RenameFlags::RENAME_NOREPLACE.bits();
        let renamed = self.root.rename(&from, &to, flags);
        renamed.inspect_err(|_| image.unmark())?;
        self.moved(&from, &to);
        self.root.sync_folder(&new.folder)?;
        self.remove_image(&image_path)?;
        // it may have another name
        image.unmark();
        Ok(())
    }

    /// Does the rest of what was done in part to an image and another file that want the name
    /// `named`, as far as a mark says so.
    pub(super) fn finish_rename(&self, named: &Named) -> Result<()> {
        let candidates: Vec<PathBuf> = catalog::images_for(&named.name)
            .iter()
            .map(|name| named.folder.join(name))
            .collect();
        let is_there = |path: &PathBuf, file: &FileVersion| {
            let stat = self.root.stat(path);
            stat.is_ok_and(|stat| file_version(&stat) == *file)
        };
        for path in &candidates {
            let Ok(image) = self.root.hold(path) else {
                continue;
            };
            match image.marked() {
                Some(PendingRemoval::ForIt(file)) if is_there(&named.shown(), &file) => {
                    self.root.sync_folder(&named.folder)?;
                    self.remove_image(path)?;
                    image.unmark();
                }
                Some(PendingRemoval::Other(file)) => {
                    let others = candidates.iter().filter(|other| *other != path);
                    for other in others.chain([&named.shown()]) {
                        if is_there(other, &file) {
                            self.root.sync_folder(&named.folder)?;
                            self.remove_other(other, *other != named.shown())?;
                        }
                    }
                    image.unmark();
                }
                Some(PendingRemoval::ForIt(_)) => image.unmark(),
                None => {}
            }
        }
        Ok(())
    }

    /// A model was renamed by a worker before this one, and its image is at `new`: what else has
    /// its old name goes along.
    pub(super) fn model_moved(&self, old: &Named, new: &Path) {
        for name in catalog::images_for(&old.name) {
            let before = old.folder.join(name);
            if self.root.stat(&before) == Err(Errno::ENOENT) {
                self.moved(&before, new);
                if self.root.stat(&parity_of(&before)).is_ok() {
                    self.move_parity(&before, new);
                }
            }
        }
    }

    /// A model was removed by a worker before this one.
    pub(crate) fn removed_before(&self, parent: u64, name: &OsStr) {
        let Ok(named) = self.changeable(parent, name) else {
            return;
        };
        let image = named.folder.join(naming::image_name(name).0);
        if named.item.is_none() && self.root.stat(&image) == Err(Errno::ENOENT) {
            self.remove_parity(&image);
        }
    }

    /// Whether two nodes stand for one thing of the disk, of which they may know another state.
    pub(crate) fn is_same(&self, one: u64, other: u64) -> bool {
        let file_id = |ino| {
            if let Ok(node) = self.node(ino) {
                return Some(node.stat.device_and_inode());
            }
            let known = self.inherited.lock().get(&ino).cloned()?;
            self.root
                .stat(&known.path)
                .ok()
                .map(|stat| stat.device_and_inode())
        };
        let one = file_id(one);
        one.is_some() && one == file_id(other)
    }

    /// Gives a model one more name.
    pub(super) fn link_model(&self, ino: u64, parent: u64, name: &OsStr) -> Result<Attr> {
        let new = self.changeable(parent, name)?;
        if new.item.is_some() {
            return Err(Errno::EEXIST);
        }
        let node = self.node(ino)?;
        if self.protects_models || !matches!(node.what, NodeKind::Disk(EntryKind::Image { .. })) {
            return Err(Errno::EROFS);
        }
        let path = self.image_path(&node.path, &new).map_err(stale_if_gone)?;
        let made = self.root.make_name(&self.object(&node)?, &path);
        made.map_err(stale_if_gone)?;
        if let Ok(parity) = self.root.hold(&parity_of(&node.path)) {
            let _ = self.root.make_name(&parity, &parity_of(&path));
        }
        self.lookup(parent, name)
    }
}
