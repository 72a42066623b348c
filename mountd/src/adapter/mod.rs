//! Requests to calls of the file system, and what those give to replies; nothing is decided here.

mod changes;

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::IoSlice;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use nix::errno::Errno;
use serde::Deserialize;
use serde::Serialize;

use crate::fs::Fs;
use crate::node::Attr;
use crate::node::FileType;
use crate::session::Answer;
use crate::session::Handler;
use crate::shares::Share;
use crate::statistics::RequestKind;
use crate::wire;
use crate::wire::Operation;
use crate::wire::Reply;
use crate::wire::Request;
use crate::wire::reply::Entry;
use crate::wire::reply::Listing;
use crate::wire::reply::open;

/// How long the kernel may believe a name. Short, so that files that come and go in the source are
/// seen soon; an open file is not looked up again.
const NAME_TTL: Duration = Duration::from_secs(1);
/// How long it may believe attributes of a file: for ever, as another content has another inode
/// number.
const FILE_TTL: Duration = Duration::from_hours(24);

/// Parts of a reply that are sent from where they are; more, of many small tensors, are put
/// together first. The kernel takes no more than 1024.
const PARTS_MAX: usize = 64;

/// How the kernel is told to treat files that come from images.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum CacheMode {
    /// It keeps their pages.
    Kernel,
    /// Every read comes to us.
    Direct,
}

/// The adapter between requests and [`Fs`].
#[derive(Debug)]
pub(crate) struct Adapter {
    pub(crate) fs: Arc<Fs>,
    pub(crate) cache_mode: CacheMode,
    /// Requests of which workers before this one died.
    pub(crate) refused: BTreeSet<u64>,
    /// Requests that workers before this one may have done.
    pub(crate) begun: BTreeSet<u64>,
}

impl Handler for Adapter {
    fn share(&self, request: &Request<'_>) -> Share {
        match request.operation {
            Operation::Forget { .. }
            | Operation::BatchForget(_)
            | Operation::Release { .. }
            | Operation::ReleaseDir { .. }
            | Operation::ReadDir { .. }
            | Operation::Interrupt
            | Operation::Destroy
            | Operation::Init { .. }
            | Operation::Other(_) => Share::None,
            Operation::Read { .. } | Operation::Write { .. } => Share::Read(request.node),
            _ => Share::Names(request.node),
        }
    }

    fn handle(&self, request: &Request<'_>, answer: Answer<'_>) {
        if request.unique & wire::RESENT != 0 {
            if self.refused.contains(&request.unique) {
                return answer.error(Errno::EIO);
            }
            if let Some(handover) = self.fs.handover() {
                handover.trying(request.unique);
            }
        }
        let statistics = &self.fs.statistics;
        let timer = statistics.begin(kind_of(&request.operation));
        self.answer(request, answer);
        statistics.end(timer);
    }
}

impl Adapter {
    fn answer(&self, request: &Request<'_>, answer: Answer<'_>) {
        let (fs, node) = (&self.fs, request.node);
        match &request.operation {
            Operation::Read {
                handle,
                offset,
                size,
            } => self.read(node, (*handle, *offset, *size), answer),
            Operation::Forget { times } => {
                fs.forget(node, *times);
                answer.none();
            }
            Operation::BatchForget(forgotten) => {
                for (node, times) in forgotten {
                    fs.forget(*node, *times);
                }
                answer.none();
            }
            Operation::Interrupt => answer.none(),
            Operation::Destroy => answer.send(&Reply::empty()),
            Operation::Release { handle } => {
                if Fs::is_passthrough(*handle) {
                    fs.release_passthrough(*handle);
                } else {
                    fs.release(node, *handle);
                }
                answer.send(&Reply::empty());
            }
            Operation::ReleaseDir { handle } => {
                fs.release_folder(*handle);
                answer.send(&Reply::empty());
            }
            operation if changes_names(operation) => {
                let unique = request.unique & !wire::RESENT;
                let handover = fs.handover();
                if let Some(handover) = handover {
                    handover.begin(unique);
                }
                let mut done = self.change(request).unwrap_or(Err(Errno::ENOSYS));
                if self.begun.contains(&unique) {
                    done = done.or_else(|errno| self.done_before(request, errno));
                }
                answer.result(done);
                if let Some(handover) = handover {
                    handover.end(unique);
                }
            }
            _ => {
                // what is answered so once is mostly not asked for again
                let unknown = Err(Errno::ENOSYS);
                let done = self.ask(request).or_else(|| self.change(request));
                answer.result(done.unwrap_or(unknown));
            }
        }
    }

    fn read(&self, node: u64, (handle, offset, size): (u64, u64, u32), answer: Answer<'_>) {
        // until the reply is sent: what it is made of is held so long
        let admitted = self.fs.admission.enter();
        if Fs::is_passthrough(handle) {
            return self.read_passthrough((handle, offset, size), answer);
        }
        let mut read = match self.fs.read(node, offset, size) {
            Ok(read) => read,
            Err(errno) => {
                self.fs.statistics.failed();
                return answer.error(errno);
            }
        };
        let pieces = std::mem::take(&mut read.pieces);
        self.fs
            .statistics
            .sent(pieces.iter().map(|p| p.len()).sum());
        if pieces.len() > PARTS_MAX {
            let bytes = pieces.iter().flat_map(|p| &**p).copied();
            answer.send(&Reply::bytes(bytes.collect::<Vec<u8>>()));
        } else {
            let parts: Vec<IoSlice<'_>> = pieces.iter().map(|p| IoSlice::new(p)).collect();
            answer.send_parts(&parts);
        }
        drop((pieces, admitted));
        self.fs.read_ahead(&read);
    }

    fn read_passthrough(&self, (handle, offset, size): (u64, u64, u32), answer: Answer<'_>) {
        thread_local! {
            static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
        }
        BUFFER.with_borrow_mut(|buffer| {
            match self.fs.read_passthrough(handle, offset, size, buffer) {
                Ok(len) => {
                    self.fs.statistics.sent(len);
                    answer.send_parts(&[IoSlice::new(&buffer[..len])]);
                }
                Err(errno) => {
                    self.fs.statistics.failed();
                    answer.error(errno);
                }
            }
        });
    }

    /// Answers what only asks.
    fn ask(&self, request: &Request<'_>) -> Option<Result<Reply, Errno>> {
        let (fs, node) = (&self.fs, request.node);
        Some(match &request.operation {
            Operation::Lookup { name } => fs.lookup(node, name).map(|attr| self.entry(&attr)),
            Operation::GetAttr { handle } => {
                let attr = match handle.filter(|handle| Fs::is_passthrough(*handle)) {
                    Some(handle) => fs.attr_of_open(node, handle),
                    None => fs.attr(node),
                };
                attr.map(|attr| Reply::attr(&attr, self.attr_ttl(&attr)))
            }
            Operation::ReadLink => fs
                .read_link(node)
                .map(|target| Reply::bytes(target.into_encoded_bytes())),
            Operation::Open { flags } => self.open(node, *flags),
            Operation::OpenDir => fs
                .open_folder(node)
                .map(|handle| Reply::opened(handle, 0, 0)),
            Operation::ReadDir {
                handle,
                offset,
                size,
                with_attributes,
            } => self.list((node, *handle), *offset, *size, *with_attributes),
            Operation::StatFs => fs.statvfs().map(|stat| Reply::statfs(&stat)),
            Operation::GetXattr { name, size } => {
                let value = fs.attribute(node, name);
                value.and_then(|value| xattr(value, *size))
            }
            Operation::ListXattr { size } => {
                let names = fs.attribute_names(node);
                names.and_then(|names| xattr(names, *size))
            }
            _ => return None,
        })
    }

    fn attr_ttl(&self, attr: &Attr) -> Duration {
        if self.fs.is_writable() && attr.kind != FileType::Folder {
            // others change it below
            Duration::ZERO
        } else if attr.kind == FileType::File {
            FILE_TTL
        } else {
            NAME_TTL
        }
    }

    fn entry_of(&self, attr: &Attr) -> Entry {
        Entry {
            attr: *attr,
            attr_ttl: self.attr_ttl(attr),
            name_ttl: NAME_TTL,
        }
    }

    fn entry(&self, attr: &Attr) -> Reply {
        Reply::entry(&self.entry_of(attr))
    }

    fn open(&self, node: u64, flags: i32) -> Result<Reply, Errno> {
        let fs = &self.fs;
        if fs.passes_through(node)? {
            let file = fs.open_passthrough(node, flags)?;
            let flags = match file.backing {
                Some(_) => open::PASSTHROUGH,
                // what the kernel has of it may be older than the disk's
                None if fs.is_writable() => 0,
                None => open::KEEP_CACHE,
            };
            let backing = file.backing.map_or(0, NonZeroU32::get);
            return Ok(Reply::opened(file.handle, flags, backing));
        }
        if flags & nix::fcntl::OFlag::O_ACCMODE.bits() != 0 {
            return Err(Errno::EROFS);
        }
        fs.open(node)?;
        let flags = match self.cache_mode {
            CacheMode::Direct => open::DIRECT_IO,
            CacheMode::Kernel => open::KEEP_CACHE,
        };
        Ok(Reply::opened(fs.handle(), flags, 0))
    }

    fn list(
        &self,
        (node, handle): (u64, u64),
        offset: u64,
        size: u32,
        with_attributes: bool,
    ) -> Result<Reply, Errno> {
        let listing = self.fs.listing(node, handle)?;
        let mut reply = Listing::new(size);
        for (next, listed) in (1_u64..).zip(listing.iter()).skip(offset as usize) {
            // the kernel counts every name but these two as looked up
            let is_dot = listed.name == OsStr::new(".") || listed.name == OsStr::new("..");
            let mut entry = self.entry_of(&listed.attr);
            if is_dot {
                entry.attr.ino = 0;
            }
            let about = (listed.attr.ino, listed.attr.kind);
            let entry = with_attributes.then_some(&entry);
            if !reply.add(next, about, &listed.name, entry) {
                break;
            }
            if let Some(node) = listed.node.as_ref().filter(|_| with_attributes) {
                self.fs.remember(Arc::clone(node));
            }
        }
        Ok(reply.reply())
    }
}

/// As what a request is counted.
fn kind_of(operation: &Operation<'_>) -> RequestKind {
    match operation {
        Operation::Lookup { .. } => RequestKind::Lookup,
        Operation::GetAttr { .. } => RequestKind::GetAttr,
        Operation::Open { .. } | Operation::Create { .. } | Operation::OpenDir => RequestKind::Open,
        Operation::Read { .. } => RequestKind::Read,
        Operation::ReadDir { .. } => RequestKind::ReadDir,
        Operation::Write { .. } => RequestKind::Write,
        Operation::GetXattr { .. } | Operation::ListXattr { .. } => RequestKind::Xattr,
        _ => RequestKind::Other,
    }
}

/// Whether a request, done twice, fails the second time.
fn changes_names(operation: &Operation<'_>) -> bool {
    matches!(
        operation,
        Operation::Create { .. }
            | Operation::Link { .. }
            | Operation::MkDir { .. }
            | Operation::MkNod { .. }
            | Operation::Rename { .. }
            | Operation::RmDir { .. }
            | Operation::Symlink { .. }
            | Operation::Unlink { .. }
    )
}

/// With a size of 0 the kernel asks how long the answer would be.
fn xattr(value: Vec<u8>, size: u32) -> Result<Reply, Errno> {
    if size == 0 {
        return Ok(Reply::xattr_len(value.len() as u32));
    }
    if value.len() > size as usize {
        return Err(Errno::ERANGE);
    }
    Ok(Reply::bytes(value))
}

#[cfg(test)]
#[cfg(debug_assertions)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::io::Write;
    use std::os::unix::net::UnixDatagram;
    use std::sync::Mutex;

    use bigsmall::base::mutex;
    use bigsmall::base::progress::Silent;
    use bigsmall::codec::Profile;
    use bigsmall::ops::CompressOptions;
    use bigsmall::ops::compress;

    use crate::fs::FsOptions;
    use crate::fs::source::Source;
    use crate::fs::tree::ROOT;
    use crate::session::Session;

    /// Most locks that a thread takes from one read of bytes that are decoded to the next.
    const LOCKS_MAX: u64 = 3;
    const READS: usize = 200;

    /// An adapter that notes how many locks each thread had taken whenever a request came to it.
    struct Counted {
        adapter: Adapter,
        taken: Arc<Mutex<BTreeMap<String, Vec<u64>>>>,
    }

    impl Handler for Counted {
        fn share(&self, request: &Request<'_>) -> Share {
            self.adapter.share(request)
        }

        fn handle(&self, request: &Request<'_>, answer: Answer<'_>) {
            let mut taken = self.taken.lock().unwrap();
            let thread = format!("{:?}", std::thread::current().id());
            let of_this = taken.entry(thread).or_default();
            of_this.push(mutex::taken_by_this_thread());
            drop(taken);
            self.adapter.handle(request, answer);
        }
    }

    fn source() -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        let plain = folder.path().join("m");
        let bytes: Vec<u8> = (0..100_000_u32)
            .flat_map(|n| (n / 7).to_le_bytes())
            .collect();
        File::create(&plain).unwrap().write_all(&bytes).unwrap();
        let options = CompressOptions {
            opaque: true,
            ..CompressOptions::new(&folder.path().join("m.bs"), Profile::Balanced, 1)
        };
        compress(&plain, &options, &Silent).unwrap();
        std::fs::remove_file(plain).unwrap();
        folder
    }

    fn read(unique: u64, node: u64, handle: u64, offset: u64) -> Vec<u8> {
        let mut bytes = vec![0; 80];
        bytes[0] = 80;
        bytes[4] = 15;
        for (at, number) in [(8, unique), (16, node), (40, handle), (48, offset)] {
            bytes[at..at + 8].copy_from_slice(&number.to_le_bytes());
        }
        bytes[56..60].copy_from_slice(&4096_u32.to_le_bytes());
        bytes
    }

    #[test]
    fn a_read_of_what_is_decoded_takes_three_locks() {
        let folder = source();
        let options = FsOptions {
            bases: Vec::new(),
            cache_bytes: 8 << 20,
            readahead_bytes: 1 << 20,
            in_place: false,
            protect_models: false,
            life: 1,
        };
        let fs = Fs::new(Source::open(folder.path()).unwrap(), &options).unwrap();
        let node = fs.lookup(ROOT, OsStr::new("m")).unwrap().ino;
        fs.open(node).unwrap();
        let handle = fs.handle();
        let taken = Arc::default();
        let counted = Counted {
            adapter: Adapter {
                fs: Arc::new(fs),
                cache_mode: CacheMode::Direct,
                refused: BTreeSet::new(),
                begun: BTreeSet::new(),
            },
            taken: Arc::clone(&taken),
        };
        // datagrams keep their bounds, as requests do
        let (kernel, device) = UnixDatagram::pair().unwrap();
        let session = Session::new(device.into(), 4096, counted);
        session.start();
        let mut reply = vec![0; 8192];
        for number in 0..READS as u64 {
            // none over the end of a block
            let offset = number % 2 * 200_704;
            kernel
                .send(&read(number + 1, node, handle, offset))
                .unwrap();
            assert_eq!(kernel.recv(&mut reply).unwrap(), 16 + 4096);
        }
        let taken = taken.lock().unwrap();
        // the first ones of each thread decode, and find their streams
        let of_one = |counts: &Vec<u64>| {
            let pairs = counts.windows(2).skip(8);
            pairs.map(|pair| pair[1] - pair[0]).collect::<Vec<_>>()
        };
        let mut locks: Vec<u64> = taken.values().flat_map(of_one).collect();
        locks.sort_unstable();
        assert!(locks.len() > READS / 4, "{} were counted", locks.len());
        // where threads meet, as on a busy machine, one takes more
        assert!(locks[locks.len() * 3 / 4] <= LOCKS_MAX, "{locks:?}");
    }
}
