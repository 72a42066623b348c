//! Requests that change something, and what is answered where a worker before this one has done
//! them already.

use std::ffi::OsStr;
use std::num::NonZeroU32;
use std::path::Path;

use nix::errno::Errno;

use crate::adapter::Adapter;
use crate::fs::Fs;
use crate::fs::changes::NewAttributes;
use crate::node::Attr;
use crate::node::FileType;
use crate::wire::Operation;
use crate::wire::Reply;
use crate::wire::Request;
use crate::wire::reply::open;

impl Adapter {
    /// Answers what changes something.
    pub(super) fn change(&self, request: &Request<'_>) -> Option<Result<Reply, Errno>> {
        let (fs, node) = (&self.fs, request.node);
        let new = |mode: u32, umask: u32| NewAttributes {
            mode,
            umask,
            uid: request.uid,
            gid: request.gid,
        };
        let entry = |attr: Result<Attr, Errno>| attr.map(|attr| self.entry(&attr));
        let done = |done: Result<(), Errno>| done.map(|()| Reply::empty());
        Some(match &request.operation {
            Operation::SetAttr { handle, changes } => {
                let handle = handle.filter(|handle| Fs::is_passthrough(*handle));
                let attr = fs.change(node, handle, *changes);
                attr.map(|attr| Reply::attr(&attr, self.attr_ttl(&attr)))
            }
            Operation::Create {
                name,
                flags,
                mode,
                umask,
            } => {
                let made = fs.create(node, name, *flags, new(*mode, *umask));
                made.map(|(attr, open)| {
                    let flags = if open.backing.is_some() {
                        open::PASSTHROUGH
                    } else {
                        0
                    };
                    let backing = open.backing.map_or(0, NonZeroU32::get);
                    Reply::created(&self.entry_of(&attr), open.handle, flags, backing)
                })
            }
            Operation::MkNod { name, mode, umask } => {
                entry(fs.make_node(node, name, new(*mode, *umask)))
            }
            Operation::MkDir { name, mode, umask } => {
                entry(fs.make_folder(node, name, new(*mode, *umask)))
            }
            Operation::Symlink { name, target } => {
                entry(fs.make_link(node, name, Path::new(target), new(0o777, 0)))
            }
            Operation::Link { node: of, name } => entry(fs.make_name(*of, node, name)),
            Operation::Unlink { name } => done(fs.remove(node, name, false)),
            Operation::RmDir { name } => done(fs.remove(node, name, true)),
            Operation::Rename {
                name,
                new_parent,
                new_name,
                flags,
            } => done(fs.rename((node, name), (*new_parent, new_name), *flags)),
            _ => return self.write(request),
        })
    }

    /// Answers what changes what is in files or beside them.
    fn write(&self, request: &Request<'_>) -> Option<Result<Reply, Errno>> {
        let (fs, node) = (&self.fs, request.node);
        let done = |done: Result<(), Errno>| done.map(|()| Reply::empty());
        Some(match &request.operation {
            Operation::Write {
                handle,
                offset,
                data,
            } => fs
                .write_passthrough(*handle, *offset, data)
                .map(|()| Reply::written(data.len() as u32)),
            Operation::SetXattr {
                name,
                value,
                flags,
                drops_setgid,
            } => done(fs.set_attribute(node, name, value, *flags, *drops_setgid)),
            Operation::RemoveXattr { name } => done(fs.remove_attribute(node, name)),
            Operation::FsyncDir => done(fs.sync_folder(node)),
            Operation::Fsync { handle, .. } if !Fs::is_passthrough(*handle) => Ok(Reply::empty()),
            Operation::Fsync { handle, data_only } => {
                done(fs.sync_passthrough(*handle, *data_only))
            }
            Operation::Fallocate {
                handle,
                offset,
                len,
                mode,
            } => done(fs.allocate_passthrough(*handle, *offset, *len, *mode)),
            _ => return None,
        })
    }

    /// The reply to a request that a worker before this one began, and that fails with `errno`: it
    /// is not the second one that should fail if the first was done.
    pub(super) fn done_before(&self, request: &Request<'_>, errno: Errno) -> Result<Reply, Errno> {
        let (fs, node) = (&self.fs, request.node);
        let there = |name: &OsStr, is_it: &dyn Fn(&Attr) -> bool| {
            let attr = fs.lookup(node, name).map_err(|_gone| errno)?;
            if is_it(&attr) {
                Ok(self.entry(&attr))
            } else {
                fs.forget(attr.ino, 1);
                Err(errno)
            }
        };
        match (&request.operation, errno) {
            (Operation::Unlink { name }, Errno::ENOENT) => {
                fs.removed_before(node, name);
                Ok(Reply::empty())
            }
            (Operation::RmDir { .. }, Errno::ENOENT) => Ok(Reply::empty()),
            (Operation::MkDir { name, .. }, Errno::EEXIST) => {
                there(name, &|attr| attr.kind == FileType::Folder)
            }
            (Operation::MkNod { name, mode, .. }, Errno::EEXIST) => {
                there(name, &|attr| Some(attr.kind) == FileType::of_mode(*mode))
            }
            (Operation::Symlink { name, target }, Errno::EEXIST) => there(name, &|attr| {
                attr.kind == FileType::Link && fs.read_link(attr.ino).is_ok_and(|to| to == *target)
            }),
            // what it is a name of has changed with that
            (Operation::Link { node: of, name }, Errno::EEXIST | Errno::ESTALE) => {
                there(name, &|attr| fs.is_same(attr.ino, *of))
            }
            (
                Operation::Create {
                    name,
                    flags,
                    mode,
                    umask,
                },
                Errno::EEXIST,
            ) => {
                let flags = flags & !nix::fcntl::OFlag::O_EXCL.bits();
                let (mode, umask) = (*mode, *umask);
                let operation = Operation::Create {
                    name,
                    flags,
                    mode,
                    umask,
                };
                let again = Request {
                    operation,
                    ..*request
                };
                self.change(&again).unwrap_or(Err(errno))
            }
            (
                Operation::Rename {
                    name,
                    new_parent,
                    new_name,
                    ..
                },
                Errno::ENOENT,
            ) => fs
                .renamed_before((node, name), (*new_parent, new_name))
                .map(|()| Reply::empty()),
            _ => Err(errno),
        }
    }
}
