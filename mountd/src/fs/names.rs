//! Names in a mount over its own source: made, removed, changed.

use std::ffi::OsStr;
use std::os::fd::AsFd;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::RenameFlags;

use crate::fs::changes::NewAttributes;
use crate::fs::errno::stale_if_gone;
use crate::fs::handover::NodeLocation;
use crate::fs::opened::PASSTHROUGH;
use crate::fs::opened::PINNED;
use crate::fs::opened::Passthrough;
use crate::fs::root::Object;
use crate::fs::root::Result;
use crate::fs::tree;
use crate::fs::tree::NodeKind;
use crate::fs::view::Fs;
use crate::node::Attr;
use crate::node::FileType;

impl Fs {
    /// Makes a file and opens it.
    pub(crate) fn create(
        &self,
        parent: u64,
        name: &OsStr,
        flags: i32,
        new: NewAttributes,
    ) -> Result<(Attr, Passthrough)> {
        let path = self.free(parent, name)?;
        let (file, stat) = self.root.create(&path, flags, new)?;
        let node = self.passthrough_node(path, stat);
        let attr = node.attr;
        self.remember(Arc::new(node));
        Ok((attr, self.keep(attr.ino, file)?))
    }

    /// Makes a file, pipe or socket.
    pub(crate) fn make_node(&self, parent: u64, name: &OsStr, new: NewAttributes) -> Result<Attr> {
        let path = self.free(parent, name)?;
        self.root.make_node(&path, new)?;
        self.lookup(parent, name)
    }

    /// Makes a folder.
    pub(crate) fn make_folder(
        &self,
        parent: u64,
        name: &OsStr,
        new: NewAttributes,
    ) -> Result<Attr> {
        let path = self.free(parent, name)?;
        self.root.make_folder(&path, new)?;
        self.lookup(parent, name)
    }

    /// Makes a link.
    pub(crate) fn make_link(
        &self,
        parent: u64,
        name: &OsStr,
        target: &Path,
        new: NewAttributes,
    ) -> Result<Attr> {
        let path = self.free(parent, name)?;
        self.root.make_link(&path, target, new)?;
        self.lookup(parent, name)
    }

    /// Gives what is no folder another name.
    pub(crate) fn make_name(&self, ino: u64, parent: u64, name: &OsStr) -> Result<Attr> {
        let node = self.node(ino)?;
        if !matches!(&node.what, NodeKind::Disk(kind) if kind.is_plain()) {
            return self.link_model(ino, parent, name);
        }
        let path = self.free(parent, name)?;
        let made = self.root.make_name(&self.object(&node)?, &path);
        made.map_err(stale_if_gone)?;
        self.lookup(parent, name)
    }

    /// Removes a file or an empty folder.
    pub(crate) fn remove(&self, parent: u64, name: &OsStr, is_folder: bool) -> Result<()> {
        let named = self.changeable(parent, name)?;
        if named.image().is_some() {
            return self.remove_model(&named, is_folder);
        }
        let path = named.path();
        self.finish_rename(&named)?;
        if !is_folder {
            self.check_removed(&named)?;
        }
        let pin = self.pin(&path);
        self.root
            .remove(&path, is_folder)
            .inspect_err(|_| self.unpin(pin))
    }

    /// Keeps what is about to lose its last name on the disk until the kernel has forgotten it. The
    /// disk would give its number to the next file at once, and the kernel would take that for this
    /// one, which it knows to be gone.
    pub(super) fn pin(&self, path: &Path) -> Option<u64> {
        let Object { fd, stat } = self.root.hold(path).ok()?;
        let ino = self.passthrough_node(PathBuf::new(), stat).attr.ino;
        let has_other_names = stat.kind != FileType::Folder && stat.nlink > 1;
        let is_known = self.tree.get(ino).is_some() || self.inherited.lock().contains_key(&ino);
        if has_other_names || !is_known {
            return None;
        }
        let handle = PASSTHROUGH | PINNED | self.next_handle();
        if let Some(handover) = &self.handover {
            handover.hold(handle, ino, fd.as_fd());
        }
        self.take_passthrough(handle, ino, fd.into());
        Some(handle)
    }

    pub(super) fn unpin(&self, pin: Option<u64>) {
        if let Some(handle) = pin {
            self.release_passthrough(handle);
        }
    }

    /// The kernel has forgotten a node.
    pub(super) fn unpin_all(&self, ino: u64) {
        let files = self.passthrough_files.lock();
        let pinned = files.iter().filter(|(handle, _)| *handle & PINNED != 0);
        let of_it = pinned.filter(|(_, file)| file.ino == ino);
        let handles: Vec<u64> = of_it.map(|(handle, _)| *handle).collect();
        drop(files);
        for handle in handles {
            self.release_passthrough(handle);
        }
    }

    /// Renames.
    pub(crate) fn rename(
        &self,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
        flags: u32,
    ) -> Result<()> {
        let old = self.changeable(parent, name)?;
        let new = self.changeable(new_parent, new_name)?;
        // two names that were swapped would be swapped back if the kernel asked twice, and nobody
        // could tell
        let how = RenameFlags::from_bits_truncate(flags);
        if how.contains(RenameFlags::RENAME_EXCHANGE) {
            return Err(Errno::EINVAL);
        }
        self.finish_rename(&new)?;
        match (old.image(), new.image()) {
            (Some(_), _) => return self.rename_model(&old, &new, how),
            (None, Some(_)) => return self.replace_model(&old, &new, how),
            (None, None) => {}
        }
        self.check_renamed(&old, &new)?;
        let (old, new) = (old.path(), new.path());
        let pin = self.pin(&new);
        let renamed = self.root.rename(&old, &new, flags);
        renamed.inspect_err(|_| self.unpin(pin))?;
        self.moved(&old, &new);
        Ok(())
    }

    /// Takes a rename as done that a worker before this one was asked for, if what is there now
    /// says that it was, and does what is left of it.
    pub(crate) fn renamed_before(
        &self,
        (parent, name): (u64, &OsStr),
        (new_parent, new_name): (u64, &OsStr),
    ) -> Result<()> {
        let old = self.changeable(parent, name)?;
        let new = self.changeable(new_parent, new_name)?;
        if new.item.is_none() {
            return Err(Errno::ENOENT);
        }
        self.finish_rename(&new)?;
        // what has the name by now
        let new = self.changeable(new_parent, new_name)?;
        match new.image() {
            Some(_) => self.model_moved(&old, &new.path()),
            None => self.moved(&old.path(), &new.path()),
        }
        Ok(())
    }

    pub(super) fn moved(&self, old: &Path, new: &Path) {
        let moved = self.tree.rename(old, new);
        let mut moved: Vec<_> = moved
            .iter()
            .map(|node| (node.attr.ino, NodeLocation::of(node)))
            .collect();
        for (ino, location) in self.inherited.lock().iter_mut() {
            if let Some(path) = tree::moved(&location.path, old, new) {
                location.path = path;
                moved.push((*ino, location.clone()));
            }
        }
        for ((ino, location), handover) in moved.iter().zip(self.handover.iter().cycle()) {
            handover.remember(*ino, location);
        }
    }
}
