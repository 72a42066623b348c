//! What passes through to the source: files that are no images, and where a mount lies over its own folder every change to whatever
//! is no model that is an image.

use std::ffi::OsStr;
use std::fs::File;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::fcntl::OFlag;
use nix::fcntl::RenameFlags;
use nix::fcntl::fallocate;

use crate::fs::Fs;
use crate::fs::catalog::EntryKind;
use crate::node::Changes;
use crate::fs::changes::New;
use crate::fs::keeper::Place;
use crate::node::FileType;
use crate::fs::root::Object;
use crate::fs::root::Result;
use crate::fs::root::Stat;
use crate::fs::tree;
use crate::node::Attr;
use crate::fs::tree::Node;
use crate::fs::tree::ROOT;
use crate::fs::tree::What;

/// Handles of files that pass through have this bit, which no inode number has.
const PLAIN: u64 = 1 << 62;
/// And those of what only has to stay on the disk this one, too.
const PINNED: u64 = 1 << 61;

/// What the kernel is told of a file that passes through and is open now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OpenPlain {
    pub(crate) handle: u64,
    /// The number under which it reads and writes the file itself.
    pub(crate) backing: Option<NonZeroU32>,
}

/// An open file that passes through.
#[derive(Debug)]
pub(crate) struct PlainFile {
    ino: u64,
    file: Arc<File>,
}

/// Nothing at a path where the kernel knows a file: it has another name by now, or none.
pub(super) fn stale_if_gone(errno: Errno) -> Errno {
    if errno == Errno::ENOENT {
        Errno::ESTALE
    } else {
        errno
    }
}

fn errno(error: &std::io::Error) -> Errno {
    error.raw_os_error().map_or(Errno::EIO, Errno::from_raw)
}

impl Fs {
    pub(super) fn check_writable(&self) -> Result<()> {
        if self.is_writable() {
            Ok(())
        } else {
            Err(Errno::EROFS)
        }
    }

    /// Whether a node is a file that passes through.
    pub(crate) fn passes_through(&self, ino: u64) -> Result<bool> {
        let node = self.node(ino)?;
        Ok(matches!(node.what, What::Disk(EntryKind::Plain)))
    }

    fn keep(&self, ino: u64, file: File) -> Result<OpenPlain> {
        let handle = PLAIN | self.next_handle();
        if let Some(keeper) = &self.keeper {
            keeper.hold(handle, ino, file.as_fd());
        }
        self.take_plain(handle, ino, file);
        let passed = self.keeper.as_ref().map(|keeper| keeper.pass(handle));
        let passed = passed
            .transpose()
            .inspect_err(|_| self.release_plain(handle));
        Ok(OpenPlain {
            handle,
            backing: passed?.flatten(),
        })
    }

    /// A file that passes through and is open, here or with an earlier worker.
    pub(crate) fn take_plain(&self, handle: u64, ino: u64, file: File) {
        let file = Arc::new(file);
        self.plain_files
            .lock()
            .insert(handle, PlainFile { ino, file });
    }

    fn plain_file(&self, handle: u64) -> Result<Arc<File>> {
        let files = self.plain_files.lock();
        let file = files.get(&handle).map(|open| Arc::clone(&open.file));
        file.ok_or(Errno::EBADF)
    }

    /// What a node stands for on the disk. Another file may have its name meanwhile, or none: then
    /// it is one that is open.
    pub(super) fn object(&self, node: &Node) -> Result<Object> {
        let is_it = |object: &Object| object.stat.place() == node.stat.place();
        match self.root.hold(&node.path) {
            Ok(object) if is_it(&object) => return Ok(object),
            Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => return Err(errno),
        }
        let files = self.plain_files.lock();
        let mut open = files.values().filter(|open| open.ino == node.attr.ino);
        let file = open.next().map(|open| Arc::clone(&open.file));
        drop(files);
        // the kernel looks the name up again, under which it may be found elsewhere
        let file = file.ok_or(Errno::ESTALE)?;
        let file = file.try_clone().map_err(|_too_many| Errno::EMFILE)?;
        Object::of(file.into())
    }

    /// What the disk says of a node now.
    pub(crate) fn stat_now(&self, node: &Node) -> Result<Stat> {
        Ok(self.object(node)?.stat)
    }

    /// Opens a file that passes through.
    pub(crate) fn open_plain(&self, ino: u64, flags: i32) -> Result<OpenPlain> {
        let node = self.node(ino)?;
        let access = flags & OFlag::O_ACCMODE.bits();
        if access != OFlag::O_RDONLY.bits() {
            self.check_writable()?;
        }
        // what cuts a file off must not meet another one
        let truncates = flags & OFlag::O_TRUNC.bits();
        let opened = self.root.open_with(&node.path, flags & !truncates);
        // the kernel looks the name up again, under which it may be found elsewhere
        let (file, stat) = opened.map_err(stale_if_gone)?;
        let is_it = if self.is_writable() {
            stat.place() == node.stat.place()
        } else {
            // what was written to it since makes it another one
            stat.identity() == node.stat.identity()
        };
        if !is_it {
            return Err(Errno::ESTALE);
        }
        if truncates != 0 {
            file.set_len(0).map_err(|e| errno(&e))?;
        }
        self.keep(ino, file)
    }

    /// Whether a handle is that of a file that passes through.
    pub(crate) fn is_plain(handle: u64) -> bool {
        handle & PLAIN > 0
    }

    /// Closes it.
    pub(crate) fn release_plain(&self, handle: u64) {
        self.plain_files.lock().remove(&handle);
        if let Some(keeper) = &self.keeper {
            keeper.close(handle);
        }
    }

    /// How many bytes there are between `offset` and `offset + size`, which come into `out`.
    pub(crate) fn read_plain(
        &self,
        handle: u64,
        offset: u64,
        size: u32,
        out: &mut Vec<u8>,
    ) -> Result<usize> {
        let file = self.plain_file(handle)?;
        let size = size as usize;
        if out.len() < size {
            out.resize(size, 0);
        }
        let mut len = 0;
        while len < size {
            match file.read_at(&mut out[len..size], offset + len as u64) {
                Ok(0) => break,
                Ok(more) => len += more,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Err(errno(&e)),
            }
        }
        Ok(len)
    }

    /// Writes all of `data`.
    pub(crate) fn write_plain(&self, handle: u64, offset: u64, data: &[u8]) -> Result<()> {
        let file = self.plain_file(handle)?;
        file.write_all_at(data, offset).map_err(|e| errno(&e))
    }

    /// Makes what was written durable.
    pub(crate) fn sync_plain(&self, handle: u64, data_only: bool) -> Result<()> {
        let file = self.plain_file(handle)?;
        let synced = if data_only {
            file.sync_data()
        } else {
            file.sync_all()
        };
        synced.map_err(|e| errno(&e))
    }

    /// Makes the names in a folder durable.
    pub(crate) fn sync_folder(&self, ino: u64) -> Result<()> {
        let node = self.node(ino)?;
        if self.is_writable() && matches!(node.what, What::Disk(EntryKind::Folder)) {
            self.root.sync_folder(&node.path)?;
        }
        Ok(())
    }

    /// Reserves room.
    pub(crate) fn allocate_plain(
        &self,
        handle: u64,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Result<()> {
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
        let file = self.plain_file(handle)?;
        fallocate(&*file, mode, offset.cast_signed(), len.cast_signed())
    }

    /// What the kernel is told of a file that passes through and is open.
    pub(crate) fn attr_of_open(&self, ino: u64, handle: u64) -> Result<Attr> {
        let file = self.plain_file(handle)?;
        let stat = Stat::of(&nix::sys::stat::fstat(&*file)?).ok_or(Errno::EIO)?;
        Ok(self.plain_node(PathBuf::new(), stat).attr.with_number(ino))
    }

    fn plain_node(&self, path: PathBuf, stat: Stat) -> Node {
        Node::of_disk(path, EntryKind::Plain, stat, self.is_writable())
    }

    /// Makes a file and opens it.
    pub(crate) fn create(
        &self,
        parent: u64,
        name: &OsStr,
        flags: i32,
        new: New,
    ) -> Result<(Attr, OpenPlain)> {
        let path = self.free(parent, name)?;
        let (file, stat) = self.root.create(&path, flags, new)?;
        let node = self.plain_node(path, stat);
        let attr = node.attr;
        self.remember(Arc::new(node));
        Ok((attr, self.keep(attr.ino, file)?))
    }

    /// Makes a file, pipe or socket.
    pub(crate) fn make_node(&self, parent: u64, name: &OsStr, new: New) -> Result<Attr> {
        let path = self.free(parent, name)?;
        self.root.make_node(&path, new)?;
        self.lookup(parent, name)
    }

    /// Makes a folder.
    pub(crate) fn make_folder(&self, parent: u64, name: &OsStr, new: New) -> Result<Attr> {
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
        new: New,
    ) -> Result<Attr> {
        let path = self.free(parent, name)?;
        self.root.make_link(&path, target, new)?;
        self.lookup(parent, name)
    }

    /// Gives what is no folder another name.
    pub(crate) fn make_name(&self, ino: u64, parent: u64, name: &OsStr) -> Result<Attr> {
        let node = self.node(ino)?;
        if !matches!(&node.what, What::Disk(meaning) if meaning.is_plain()) {
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

    /// Keeps what is about to lose its last name on the disk until the kernel has forgotten it. The disk would give its number to the
    /// next file at once, and the kernel would take that for this one, which it knows to be gone.
    pub(super) fn pin(&self, path: &Path) -> Option<u64> {
        let Object { fd, stat } = self.root.hold(path).ok()?;
        let ino = self.plain_node(PathBuf::new(), stat).attr.ino;
        let has_other_names = stat.kind != FileType::Folder && stat.nlink > 1;
        let is_known = self.tree.get(ino).is_some() || self.known.lock().contains_key(&ino);
        if has_other_names || !is_known {
            return None;
        }
        let handle = PLAIN | PINNED | self.next_handle();
        if let Some(keeper) = &self.keeper {
            keeper.hold(handle, ino, fd.as_fd());
        }
        self.take_plain(handle, ino, fd.into());
        Some(handle)
    }

    pub(super) fn unpin(&self, pin: Option<u64>) {
        if let Some(handle) = pin {
            self.release_plain(handle);
        }
    }

    /// The kernel has forgotten a node.
    pub(super) fn unpin_all(&self, ino: u64) {
        let files = self.plain_files.lock();
        let pinned = files.iter().filter(|(handle, _)| *handle & PINNED != 0);
        let of_it = pinned.filter(|(_, file)| file.ino == ino);
        let handles: Vec<u64> = of_it.map(|(handle, _)| *handle).collect();
        drop(files);
        for handle in handles {
            self.release_plain(handle);
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
        // two names that were swapped would be swapped back if the kernel asked twice, and nobody could tell
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
            .map(|node| (node.attr.ino, Place::of(node)))
            .collect();
        for (ino, place) in self.known.lock().iter_mut() {
            if let Some(path) = tree::moved(&place.path, old, new) {
                place.path = path;
                moved.push((*ino, place.clone()));
            }
        }
        for ((ino, place), keeper) in moved.iter().zip(self.keeper.iter().cycle()) {
            keeper.remember(*ino, place);
        }
    }

    /// Changes what the disk says of a file, folder or link; the length of one that is open, even if its name is gone.
    pub(crate) fn change(
        &self,
        ino: u64,
        handle: Option<u64>,
        mut changes: Changes,
    ) -> Result<Attr> {
        self.check_writable()?;
        if let (Some(handle), Some(size)) = (handle, changes.size) {
            let file = self.plain_file(handle)?;
            file.set_len(size).map_err(|e| errno(&e))?;
            changes.size = None;
            if changes.is_empty() {
                return self.attr_of_open(ino, handle);
            }
        }
        let node = self.node(ino)?;
        let What::Disk(meaning) = &node.what else {
            return Err(Errno::EROFS);
        };
        let is_image = !meaning.is_plain();
        let is_too_much = changes.size.is_some() || self.protects_models;
        if (is_image && is_too_much) || (ino == ROOT && changes.size.is_some()) {
            return Err(Errno::EROFS);
        }
        let object = self.object(&node)?;
        object.change(&changes)?;
        if is_image {
            let stat = Object::of(object.fd)?.stat;
            self.tree.change(ino, stat, self.is_writable());
        }
        self.attr(ino)
    }
}
