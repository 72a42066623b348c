//! FUSE requests to calls of the file system and back; nothing is decided here.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::SystemTime;

use fuser::BsdFileFlags;
use fuser::FileAttr;
use fuser::FileHandle;
use fuser::FileType;
use fuser::Filesystem;
use fuser::FopenFlags;
use fuser::Generation;
use fuser::INodeNo;
use fuser::InitFlags;
use fuser::KernelConfig;
use fuser::LockOwner;
use fuser::OpenFlags;
use fuser::RenameFlags;
use fuser::ReplyAttr;
use fuser::ReplyCreate;
use fuser::ReplyData;
use fuser::ReplyDirectory;
use fuser::ReplyEmpty;
use fuser::ReplyEntry;
use fuser::ReplyOpen;
use fuser::ReplyStatfs;
use fuser::ReplyWrite;
use fuser::ReplyXattr;
use fuser::Request;
use fuser::TimeOrNow;
use fuser::WriteFlags;
use nix::errno::Errno;

use crate::attributes;
use crate::changes::Changes;
use crate::changes::Owner;
use crate::changes::Time;
use crate::fs::Fs;
use crate::pool::Pool;
use crate::tree::Attr;
use crate::tree::Kind;

/// How long the kernel may believe a name. Short, so that files that come and go in the source are seen soon; an open file
/// is not looked up again.
const NAME_TTL: Duration = Duration::from_secs(1);
/// How long it may believe attributes of a file: for ever, as another content has another inode number.
const FILE_TTL: Duration = Duration::from_hours(24);
/// Requests of 1 MiB measured best; the kernel allows no more without a changed limit.
const REQUEST_LEN: u32 = 1 << 20;
/// Reads that the kernel may have on the way before it holds back.
const BACKGROUND_MAX: u16 = 64;
const CONGESTION: u16 = 48;
const BLOCK_SIZE: u32 = 4096;

/// The adapter between `fuser` and [`Fs`].
#[derive(Debug)]
pub(crate) struct Adapter {
    fs: Arc<Fs>,
    pool: Pool,
}

impl Adapter {
    pub(crate) fn new(fs: Fs) -> Self {
        Self {
            fs: Arc::new(fs),
            pool: Pool::default(),
        }
    }
}

fn errno(errno: Errno) -> fuser::Errno {
    fuser::Errno::from_i32(errno as i32)
}

fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Folder => FileType::Directory,
        Kind::Link => FileType::Symlink,
    }
}

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino),
        size: attr.size,
        // the logical size: with less, `tar -S` takes the file for sparse and archives zeros
        blocks: attr.size.div_ceil(512),
        atime: attr.mtime,
        mtime: attr.mtime,
        ctime: attr.mtime,
        crtime: SystemTime::UNIX_EPOCH,
        kind: file_type(attr.kind),
        perm: attr.mode,
        // for folders, too: one means that nobody counts
        nlink: 1,
        uid: attr.uid,
        gid: attr.gid,
        rdev: 0,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

fn attr_ttl(fs: &Fs, attr: &Attr) -> Duration {
    if fs.passes_through(attr.ino) {
        Duration::ZERO
    } else if attr.kind == Kind::File {
        FILE_TTL
    } else {
        NAME_TTL
    }
}

fn reply_entry(fs: &Fs, attr: &Attr, reply: ReplyEntry) {
    let (ttl, generation) = (attr_ttl(fs, attr), Generation(0));
    reply.entry_with_ttls(&ttl, &NAME_TTL, &file_attr(attr), generation);
}

fn reply_entry_of(fs: &Fs, attr: Result<Attr, Errno>, reply: ReplyEntry) {
    match attr {
        Ok(attr) => reply_entry(fs, &attr, reply),
        Err(e) => reply.error(errno(e)),
    }
}

fn reply_empty(done: Result<(), Errno>, reply: ReplyEmpty) {
    match done {
        Ok(()) => reply.ok(),
        Err(e) => reply.error(errno(e)),
    }
}

/// With a size of 0 the kernel asks how long the answer would be.
fn reply_xattr(value: Result<Vec<u8>, Errno>, size: u32, reply: ReplyXattr) {
    match value {
        Ok(value) if size == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > size as usize => reply.error(fuser::Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(e) => reply.error(errno(e)),
    }
}

fn owner(request: &Request) -> Owner {
    Owner {
        uid: request.uid(),
        gid: request.gid(),
    }
}

fn time(time: TimeOrNow) -> Time {
    match time {
        TimeOrNow::SpecificTime(time) => Time::At(time),
        TimeOrNow::Now => Time::Now,
    }
}

/// The share of the pool for names in a folder: inode numbers have 62 bits, so this is nobody's number.
fn names_in(folder: INodeNo) -> u64 {
    folder.0 | 1 << 63
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        // what an older kernel lacks is not needed, only welcome
        for flag in [
            InitFlags::FUSE_PARALLEL_DIROPS,
            InitFlags::FUSE_EXPLICIT_INVAL_DATA,
            InitFlags::FUSE_ASYNC_DIO,
            InitFlags::FUSE_CACHE_SYMLINKS,
        ] {
            if config.add_capabilities(flag).is_err() {
                tracing::debug!("the kernel has no {flag:?}");
            }
        }
        let _ = config.set_max_write(REQUEST_LEN);
        let _ = config.set_max_background(BACKGROUND_MAX);
        let _ = config.set_congestion_threshold(CONGESTION);
        Ok(())
    }

    fn lookup(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let (fs, name) = (Arc::clone(&self.fs), name.to_owned());
        // the head of an image may be read here, from a disk that may be slow
        self.pool
            .submit(names_in(parent), move || match fs.lookup(parent.0, &name) {
                Ok(attr) => reply_entry(&fs, &attr, reply),
                Err(e) => reply.error(errno(e)),
            });
    }

    fn forget(&self, _request: &Request, ino: INodeNo, times: u64) {
        self.fs.forget(ino.0, times);
    }

    fn getattr(&self, _request: &Request, ino: INodeNo, fh: Option<FileHandle>, reply: ReplyAttr) {
        let fs = Arc::clone(&self.fs);
        self.pool.submit(names_in(ino), move || {
            let attr = match fh.filter(|fh| Fs::is_plain(fh.0)) {
                Some(fh) => fs.attr_of_open(ino.0, fh.0),
                None => fs.attr(ino.0),
            };
            match attr {
                Ok(attr) => reply.attr(&attr_ttl(&fs, &attr), &file_attr(&attr)),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn readlink(&self, _request: &Request, ino: INodeNo, reply: ReplyData) {
        let fs = Arc::clone(&self.fs);
        self.pool.submit(ino.0, move || match fs.read_link(ino.0) {
            Ok(target) => reply.data(target.as_encoded_bytes()),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn open(&self, _request: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let fs = Arc::clone(&self.fs);
        // an index of some megabytes is read here
        self.pool.submit(ino.0, move || {
            if fs.passes_through(ino.0) {
                // what the kernel has of it may be older than the disk's
                return match fs.open_plain(ino.0, flags.0) {
                    Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
                    Err(e) => reply.error(errno(e)),
                };
            }
            let reads = flags.0 & nix::fcntl::OFlag::O_ACCMODE.bits() == 0;
            match fs.open(ino.0) {
                Ok(()) if reads => {
                    reply.opened(FileHandle(ino.0), FopenFlags::FOPEN_KEEP_CACHE);
                }
                Ok(()) => {
                    fs.release(ino.0);
                    reply.error(errno(Errno::EROFS));
                }
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn read(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        let fs = Arc::clone(&self.fs);
        self.pool.submit(ino.0, move || {
            BUFFER.with_borrow_mut(|buffer| {
                let read = if Fs::is_plain(fh.0) {
                    fs.read_plain(fh.0, offset, size, buffer)
                } else {
                    fs.read(ino.0, offset, size, buffer)
                };
                match read {
                    Ok(len) => reply.data(&buffer[..len]),
                    Err(e) => reply.error(errno(e)),
                }
            });
        });
    }

    fn release(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        if Fs::is_plain(fh.0) {
            self.fs.release_plain(fh.0);
        } else {
            self.fs.release(ino.0);
        }
        reply.ok();
    }

    fn write(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let (fs, data) = (Arc::clone(&self.fs), data.to_owned());
        self.pool
            .submit(ino.0, move || match fs.write_plain(fh.0, offset, &data) {
                Ok(()) => reply.written(data.len() as u32),
                Err(e) => reply.error(errno(e)),
            });
    }

    fn fsync(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        datasync: bool,
        reply: ReplyEmpty,
    ) {
        let fs = Arc::clone(&self.fs);
        self.pool.submit(ino.0, move || {
            let synced = if Fs::is_plain(fh.0) {
                fs.sync_plain(fh.0, datasync)
            } else {
                Ok(())
            };
            reply_empty(synced, reply);
        });
    }

    fn fallocate(
        &self,
        _request: &Request,
        ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let fs = Arc::clone(&self.fs);
        self.pool.submit(ino.0, move || {
            reply_empty(fs.allocate_plain(fh.0, offset, length, mode), reply);
        });
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        flags: i32,
        reply: ReplyCreate,
    ) {
        let (fs, name, owner) = (Arc::clone(&self.fs), name.to_owned(), owner(request));
        self.pool.submit(names_in(parent), move || {
            match fs.create(parent.0, &name, flags, mode, owner) {
                Ok((attr, handle)) => reply.created(
                    &attr_ttl(&fs, &attr),
                    &file_attr(&attr),
                    Generation(0),
                    FileHandle(handle),
                    FopenFlags::empty(),
                ),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let (fs, name, owner) = (Arc::clone(&self.fs), name.to_owned(), owner(request));
        self.pool.submit(names_in(parent), move || {
            reply_entry_of(&fs, fs.make_folder(parent.0, &name, mode, owner), reply);
        });
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let (fs, name, owner) = (Arc::clone(&self.fs), name.to_owned(), owner(request));
        let target = target.to_owned();
        self.pool.submit(names_in(parent), move || {
            reply_entry_of(&fs, fs.make_link(parent.0, &name, &target, owner), reply);
        });
    }

    fn link(
        &self,
        _request: &Request,
        ino: INodeNo,
        parent: INodeNo,
        name: &OsStr,
        reply: ReplyEntry,
    ) {
        let (fs, name) = (Arc::clone(&self.fs), name.to_owned());
        self.pool.submit(names_in(parent), move || {
            reply_entry_of(&fs, fs.make_name(ino.0, parent.0, &name), reply);
        });
    }

    fn unlink(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (Arc::clone(&self.fs), name.to_owned());
        self.pool.submit(names_in(parent), move || {
            reply_empty(fs.remove(parent.0, &name, false), reply);
        });
    }

    fn rmdir(&self, _request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let (fs, name) = (Arc::clone(&self.fs), name.to_owned());
        self.pool.submit(names_in(parent), move || {
            reply_empty(fs.remove(parent.0, &name, true), reply);
        });
    }

    fn rename(
        &self,
        _request: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let fs = Arc::clone(&self.fs);
        let (name, new_name) = (name.to_owned(), new_name.to_owned());
        self.pool.submit(names_in(parent), move || {
            let (old, new) = ((parent.0, &*name), (new_parent.0, &*new_name));
            reply_empty(fs.rename(old, new, flags.bits()), reply);
        });
    }

    fn setattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _ctime: Option<SystemTime>,
        fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let fs = Arc::clone(&self.fs);
        let handle = fh.map(|fh| fh.0).filter(|&handle| Fs::is_plain(handle));
        let changes = Changes {
            mode,
            uid,
            gid,
            size,
            atime: atime.map(time),
            mtime: mtime.map(time),
        };
        self.pool.submit(names_in(ino), move || {
            match fs.change(ino.0, handle, changes) {
                Ok(attr) => reply.attr(&attr_ttl(&fs, &attr), &file_attr(&attr)),
                Err(e) => reply.error(errno(e)),
            }
        });
    }

    fn opendir(&self, _request: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        let fs = Arc::clone(&self.fs);
        self.pool
            .submit(names_in(ino), move || match fs.open_folder(ino.0) {
                Ok(handle) => reply.opened(FileHandle(handle), FopenFlags::empty()),
                Err(e) => reply.error(errno(e)),
            });
    }

    fn readdir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let listing = match self.fs.listing(fh.0) {
            Ok(listing) => listing,
            Err(e) => return reply.error(errno(e)),
        };
        for (next, entry) in (1_u64..).zip(listing.iter()).skip(offset as usize) {
            if reply.add(INodeNo(entry.ino), next, file_type(entry.kind), &entry.name) {
                break;
            }
        }
        reply.ok();
    }

    fn releasedir(
        &self,
        _request: &Request,
        _ino: INodeNo,
        fh: FileHandle,
        _flags: OpenFlags,
        reply: ReplyEmpty,
    ) {
        self.fs.release_folder(fh.0);
        reply.ok();
    }

    fn statfs(&self, _request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let fs = Arc::clone(&self.fs);
        self.pool.submit(names_in(ino), move || match fs.statvfs() {
            Ok(s) => reply.statfs(
                s.blocks(),
                s.blocks_free(),
                s.blocks_available(),
                s.files(),
                s.files_free(),
                s.block_size() as u32,
                s.name_max() as u32,
                s.fragment_size() as u32,
            ),
            Err(e) => reply.error(errno(e)),
        });
    }

    fn getxattr(
        &self,
        _request: &Request,
        ino: INodeNo,
        name: &OsStr,
        size: u32,
        reply: ReplyXattr,
    ) {
        if !attributes::is_ours(name) {
            return reply.error(fuser::Errno::NO_XATTR);
        }
        let (fs, name) = (Arc::clone(&self.fs), name.to_owned());
        self.pool.submit(ino.0, move || {
            let value = fs.attribute(ino.0, &name);
            reply_xattr(value.map(String::into_bytes), size, reply);
        });
    }

    fn listxattr(&self, _request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let fs = Arc::clone(&self.fs);
        self.pool.submit(ino.0, move || {
            let names = fs.attributes(ino.0).map(|attributes| {
                let names = attributes.into_iter().map(|(name, _)| name + "\0");
                names.collect::<String>().into_bytes()
            });
            reply_xattr(names, size, reply);
        });
    }

    // answered once with "not known", after which the kernel does not ask again
    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _lock_owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(fuser::Errno::ENOSYS);
    }
}
