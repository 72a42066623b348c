//! What passes through to the source: files that are no images, and where a mount lies over its own
//! folder every change to whatever is no model that is an image.

use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::FallocateFlags;
use nix::fcntl::OFlag;
use nix::fcntl::fallocate;

use crate::fs::catalog::EntryKind;
use crate::fs::errno::stale_if_gone;
use crate::fs::opened::PASSTHROUGH;
use crate::fs::opened::Passthrough;
use crate::fs::opened::PassthroughFile;
use crate::fs::root::Object;
use crate::fs::root::Result;
use crate::fs::root::Stat;
use crate::fs::tree::Node;
use crate::fs::tree::NodeKind;
use crate::fs::tree::ROOT;
use crate::fs::view::Fs;
use crate::node::Attr;
use crate::node::Changes;

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
        Ok(matches!(node.what, NodeKind::Disk(EntryKind::Passthrough)))
    }

    pub(super) fn keep(&self, ino: u64, file: File) -> Result<Passthrough> {
        let handle = PASSTHROUGH | self.next_handle();
        if let Some(handover) = &self.handover {
            handover.hold(handle, ino, file.as_fd());
        }
        self.take_passthrough(handle, ino, file);
        let passed = self.handover.as_ref().map(|handover| handover.pass(handle));
        let passed = passed
            .transpose()
            .inspect_err(|_| self.release_passthrough(handle));
        Ok(Passthrough {
            handle,
            backing: passed?.flatten(),
        })
    }

    /// A file that passes through and is open, here or with an earlier worker.
    pub(crate) fn take_passthrough(&self, handle: u64, ino: u64, file: File) {
        let file = Arc::new(file);
        self.passthrough_files
            .lock()
            .insert(handle, PassthroughFile { ino, file });
    }

    fn passthrough_file(&self, handle: u64) -> Result<Arc<File>> {
        let files = self.passthrough_files.lock();
        let file = files.get(&handle).map(|open| Arc::clone(&open.file));
        file.ok_or(Errno::EBADF)
    }

    /// What a node stands for on the disk. Another file may have its name meanwhile, or none: then
    /// it is one that is open.
    pub(super) fn object(&self, node: &Node) -> Result<Object> {
        let is_it =
            |object: &Object| object.stat.device_and_inode() == node.stat.device_and_inode();
        match self.root.hold(&node.path) {
            Ok(object) if is_it(&object) => return Ok(object),
            Ok(_) | Err(Errno::ENOENT | Errno::ENOTDIR) => {}
            Err(errno) => return Err(errno),
        }
        let files = self.passthrough_files.lock();
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
    pub(crate) fn open_passthrough(&self, ino: u64, flags: i32) -> Result<Passthrough> {
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
            stat.device_and_inode() == node.stat.device_and_inode()
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
    pub(crate) fn is_passthrough(handle: u64) -> bool {
        handle & PASSTHROUGH > 0
    }

    /// Closes it.
    pub(crate) fn release_passthrough(&self, handle: u64) {
        self.passthrough_files.lock().remove(&handle);
        if let Some(handover) = &self.handover {
            handover.close(handle);
        }
    }

    /// How many bytes there are between `offset` and `offset + size`, which come into `out`.
    pub(crate) fn read_passthrough(
        &self,
        handle: u64,
        offset: u64,
        size: u32,
        out: &mut Vec<u8>,
    ) -> Result<usize> {
        let file = self.passthrough_file(handle)?;
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
    pub(crate) fn write_passthrough(&self, handle: u64, offset: u64, data: &[u8]) -> Result<()> {
        let file = self.passthrough_file(handle)?;
        file.write_all_at(data, offset).map_err(|e| errno(&e))
    }

    /// Makes what was written durable.
    pub(crate) fn sync_passthrough(&self, handle: u64, data_only: bool) -> Result<()> {
        let file = self.passthrough_file(handle)?;
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
        if self.is_writable() && matches!(node.what, NodeKind::Disk(EntryKind::Folder)) {
            self.root.sync_folder(&node.path)?;
        }
        Ok(())
    }

    /// Reserves room.
    pub(crate) fn allocate_passthrough(
        &self,
        handle: u64,
        offset: u64,
        len: u64,
        mode: i32,
    ) -> Result<()> {
        let mode = FallocateFlags::from_bits(mode).ok_or(Errno::EOPNOTSUPP)?;
        let file = self.passthrough_file(handle)?;
        fallocate(&*file, mode, offset.cast_signed(), len.cast_signed())
    }

    /// What the kernel is told of a file that passes through and is open.
    pub(crate) fn attr_of_open(&self, ino: u64, handle: u64) -> Result<Attr> {
        let file = self.passthrough_file(handle)?;
        let stat = Stat::of(&nix::sys::stat::fstat(&*file)?).ok_or(Errno::EIO)?;
        Ok(self
            .passthrough_node(PathBuf::new(), stat)
            .attr
            .with_number(ino))
    }

    pub(super) fn passthrough_node(&self, path: PathBuf, stat: Stat) -> Node {
        Node::of_disk(path, EntryKind::Passthrough, stat, self.is_writable())
    }

    /// Changes what the disk says of a file, folder or link; the length of one that is open, even
    /// if its name is gone.
    pub(crate) fn change(
        &self,
        ino: u64,
        handle: Option<u64>,
        mut changes: Changes,
    ) -> Result<Attr> {
        self.check_writable()?;
        if let (Some(handle), Some(size)) = (handle, changes.size) {
            let file = self.passthrough_file(handle)?;
            file.set_len(size).map_err(|e| errno(&e))?;
            changes.size = None;
            if changes.is_empty() {
                return self.attr_of_open(ino, handle);
            }
        }
        let node = self.node(ino)?;
        let NodeKind::Disk(kind) = &node.what else {
            return Err(Errno::EROFS);
        };
        let is_image = !kind.is_plain();
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
