//! The file system without anything of the protocol: lookup, attributes, listings, opens and reads over the source tree.

pub(crate) mod ahead;
pub(crate) mod attributes;
pub(crate) mod catalog;
pub(crate) mod changes;
pub(crate) mod errno;
pub(crate) mod gate;
pub(crate) mod images;
pub(crate) mod keeper;
pub(crate) mod listing;
mod models;
mod needed;
pub(crate) mod root;
pub(crate) mod source;
pub(crate) mod through;
pub(crate) mod tree;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bigsmall::archive::Bases;
use bigsmall::archive::BlockCache;
use bigsmall::archive::DigestIndex;
use bigsmall::archive::Original;
use bigsmall::archive::Piece;
use bigsmall::base::Error;
use lru::LruCache;
use nix::errno::Errno;
use nix::sys::statvfs::Statvfs;
use parking_lot::Mutex;

use crate::fs::ahead::Ahead;
use crate::fs::catalog::EntryKind;
use crate::fs::gate::Gate;
use crate::fs::images::Image;
use crate::fs::keeper::Keeper;
use crate::fs::keeper::OpenImage;
use crate::fs::keeper::Place;
use crate::fs::listing::Listed;
use crate::fs::root::Result;
use crate::fs::root::Root;
use crate::fs::source::Source;
use crate::fs::through::PlainFile;
use crate::node::Attr;
use crate::fs::tree::Forgotten;
use crate::fs::tree::Node;
use crate::fs::tree::Tree;
use crate::fs::tree::What;
use crate::statistics::Statistics;

/// Longest name of a file, as on most disks; the protocol would allow more.
const NAME_LEN_MAX: usize = 255;
/// Numbers of handles that one worker may give.
const HANDLES: u64 = 1 << 40;

/// How a source is shown.
#[derive(Debug, Clone)]
pub(crate) struct FsOptions {
    /// Where bases are looked for beside the source; absolute.
    pub(crate) bases: Vec<PathBuf>,
    /// The bound of decoded blocks and tables.
    pub(crate) cache_bytes: u64,
    /// How far blocks are decoded before somebody asks for them.
    pub(crate) ahead_bytes: u64,
    /// The mount lies over its own source: it is for writing, too, and nothing is looked at by a path that leads into it.
    pub(crate) in_place: bool,
    /// Models can be neither renamed nor replaced nor removed there.
    pub(crate) protect_models: bool,
    /// Which of the workers of a mount this is, from 1 on: handles of others are told from its own.
    pub(crate) life: u64,
}

/// An open file of an image.
#[derive(Debug)]
struct Opened {
    file: Original,
    users: u64,
    /// Whether a read failed in a way that may have passed when it is opened the next time.
    is_doubtful: bool,
}

/// A view of the source tree.
#[derive(Debug)]
pub(crate) struct Fs {
    pub(crate) root: Root,
    /// Whether what is no image may be changed: the mount lies over its own source.
    writable: bool,
    /// Whether not even names of models may be.
    protects_models: bool,
    life: u64,
    /// Shows only this name of the root folder.
    only: Option<OsString>,
    pub(crate) tree: Tree,
    /// What earlier workers knew of, and is not looked for again yet.
    known: Mutex<BTreeMap<u64, Place>>,
    /// Images of which earlier workers had files open.
    kept_images: Mutex<BTreeMap<u64, OpenImage>>,
    /// Files of images of which the keeper was told that they are open.
    told_open: Mutex<BTreeSet<u64>>,
    keeper: Option<Arc<dyn Keeper>>,
    /// Held while the keeper is told of a node: the number of one that is forgotten may just be given to another.
    telling: Mutex<()>,
    pub(crate) cache: Arc<BlockCache>,
    ahead: Ahead,
    pub(crate) gate: Gate,
    /// Where bases are looked for, and what was found there when one was first needed.
    base_places: Vec<PathBuf>,
    digests: Option<DigestIndex>,
    deltas: Mutex<needed::Deltas>,
    bases: Mutex<Option<(Arc<Bases>, Instant)>>,
    images: Mutex<LruCache<u64, Arc<Image>>>,
    opened: Mutex<BTreeMap<u64, Opened>>,
    listings: Mutex<BTreeMap<u64, Arc<Vec<Listed>>>>,
    next_handle: AtomicU64,
    /// Open files that pass through, by their handles.
    pub(crate) plain_files: Mutex<BTreeMap<u64, PlainFile>>,
    complaints: Mutex<BTreeSet<String>>,
    pub(crate) statistics: Statistics,
}

impl Fs {
    /// Shows a source.
    pub(crate) fn new(source: Source, options: &FsOptions) -> Result<Self, Error> {
        let top = source.top()?;
        let (root, path, only) = (source.root, source.path, source.only);
        let is_folder = only.is_none();
        let only = only.filter(|_| matches!(top.what, What::Disk(EntryKind::Folder)));
        let in_place = options.in_place;
        let mut base_places = options.bases.clone();
        if in_place {
            base_places.retain(|place| !place.starts_with(&path));
            base_places.push(root.path_below());
        } else {
            base_places.extend(is_folder.then(|| path.clone()));
        }
        let digests = DigestIndex::of_user();
        let digests = digests.filter(|index| !(in_place && index.folder().starts_with(&path)));
        let cache = BlockCache::new(options.cache_bytes);
        Ok(Self {
            root,
            writable: in_place,
            protects_models: options.protect_models,
            life: options.life,
            digests,
            only,
            tree: Tree::new(top),
            known: Mutex::default(),
            kept_images: Mutex::default(),
            told_open: Mutex::default(),
            keeper: None,
            telling: Mutex::default(),
            gate: Gate::new(),
            ahead: Ahead::new(options.ahead_bytes.min(options.cache_bytes / 4)),
            cache,
            base_places,
            deltas: Mutex::default(),
            bases: Mutex::default(),
            images: Mutex::new(LruCache::new(images::IMAGES_KEPT)),
            opened: Mutex::default(),
            listings: Mutex::default(),
            next_handle: AtomicU64::new(options.life * HANDLES),
            plain_files: Mutex::default(),
            complaints: Mutex::default(),
            statistics: Statistics::default(),
        })
    }

    /// Tells `keeper` of whatever a worker after this one will need, and knows what workers before it told.
    pub(crate) fn keep_with(
        &mut self,
        keeper: Arc<dyn Keeper>,
        known: BTreeMap<u64, Place>,
        images: BTreeMap<u64, OpenImage>,
    ) {
        self.keeper = Some(keeper);
        *self.known.lock() = known;
        self.told_open.lock().extend(images.keys());
        *self.kept_images.lock() = images;
    }

    /// Who is told of whatever a worker after this one will need.
    pub(crate) fn keeper(&self) -> Option<&dyn Keeper> {
        self.keeper.as_deref()
    }

    /// Whether what is no image may be changed.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// A number that no other handle has.
    pub(crate) fn next_handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    /// What an inode number stands for.
    pub(crate) fn node(&self, ino: u64) -> Result<Arc<Node>> {
        if let Some(node) = self.tree.get(ino) {
            return Ok(node);
        }
        let place = self.known.lock().get(&ino).cloned();
        let Some(place) = place else {
            // another thread may have found it again just now: it is in the tree before it is not here any more
            return self.tree.get(ino).ok_or(Errno::ESTALE);
        };
        let node = match self.find_again(&place) {
            Ok(node) if node.attr.ino == ino => node,
            // it is gone, or another file has its name now
            other => match self.kept_node(ino) {
                Some(node) => node,
                None => return other.and(Err(Errno::ESTALE)),
            },
        };
        let node = Arc::new(node);
        self.tree.restore(Arc::clone(&node));
        self.known.lock().remove(&ino);
        Ok(node)
    }

    /// What an earlier worker knew by its place.
    fn find_again(&self, place: &Place) -> Result<Node> {
        let folder = place.path.parent().ok_or(Errno::ESTALE)?;
        let name = place.path.file_name().ok_or(Errno::ESTALE)?;
        let item = catalog::at(&self.root, folder, name)?.ok_or(Errno::ESTALE)?;
        let node = Node::of_item(folder, item, self.writable);
        let Some(inner) = &place.inner else {
            return Ok(node);
        };
        let found = self.find_within(&node, "", OsStr::new(inner))?;
        found.ok_or(Errno::ESTALE)
    }

    /// The kernel knows a node from now on, until it forgets.
    pub(crate) fn remember(&self, node: Arc<Node>) {
        let place = Place::of(&node);
        let ino = node.attr.ino;
        let _in_order = self.telling.lock();
        // an earlier worker told of it, too, and the kernel counts that
        let restored = self.known.lock().remove(&ino);
        let is_elsewhere = restored.as_ref().is_some_and(|known| *known != place);
        if (self.tree.remember(node, restored.is_some()) || is_elsewhere)
            && let Some(keeper) = &self.keeper
        {
            keeper.remember(ino, &place);
        }
    }

    /// The kernel forgets a node that it was told of `times` times.
    pub(crate) fn forget(&self, ino: u64, times: u64) {
        let in_order = self.telling.lock();
        // held meanwhile: whoever does not find it in the tree looks here
        let mut known = self.known.lock();
        match self.tree.forget(ino, times) {
            // one that only an earlier worker told it of is forgotten, too
            Forgotten::No if known.contains_key(&ino) => {}
            Forgotten::No => return,
            Forgotten::Yes => {
                if let Some(keeper) = &self.keeper {
                    keeper.forget(ino);
                }
            }
            // how often earlier workers told of it nobody knows
            Forgotten::Perhaps(node) => {
                known.insert(ino, Place::of(&node));
            }
        }
        drop(known);
        drop(in_order);
        self.unpin_all(ino);
        // it has closed it, too
        self.opened.lock().remove(&ino);
        self.kept_images.lock().remove(&ino);
        self.tell_of_open(ino, None);
        self.ahead.forget(ino);
    }

    /// What `name` in folder `parent` is; the kernel knows it from now on, until it forgets.
    pub(crate) fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attr> {
        let parent = self.node(parent)?;
        let found = match &parent.what {
            What::Disk(EntryKind::Folder) => {
                let item = catalog::find(&self.root, &parent.path, name)?;
                let shown = |disk: &OsStr| {
                    self.only
                        .as_ref()
                        .is_none_or(|only| !is_top(&parent) || disk == only)
                };
                item.filter(|item| shown(&item.disk_name))
                    .map(|item| Node::of_item(&parent.path, item, self.writable))
            }
            What::Disk(EntryKind::ImageFolder) => self.find_within(&parent, "", name)?,
            What::ImageFolder(inner) => self.find_within(&parent, inner, name)?,
            _ => return Err(Errno::ENOTDIR),
        };
        let node = found.ok_or(if name.len() > NAME_LEN_MAX {
            Errno::ENAMETOOLONG
        } else {
            Errno::ENOENT
        })?;
        let attr = node.attr;
        self.remember(Arc::new(node));
        Ok(attr)
    }

    /// What the kernel is told of a node. What others may change meanwhile is asked for anew.
    pub(crate) fn attr(&self, ino: u64) -> Result<Attr> {
        let node = self.node(ino)?;
        let What::Disk(meaning) = &node.what else {
            return Ok(node.attr);
        };
        if !self.writable && !matches!(meaning, EntryKind::Folder) {
            return Ok(node.attr);
        }
        let stat = match self.stat_now(&node) {
            Ok(stat) if meaning.is_plain() || stat.has_content_of(&node.stat) => stat,
            Err(errno) if meaning.is_plain() => return Err(errno),
            // an image that was removed or replaced is read on as it was
            _ => return Ok(node.attr),
        };
        let now = Node::of_disk(node.path.clone(), meaning.clone(), stat, self.writable);
        Ok(now.attr.with_number(ino))
    }

    /// The target of a link.
    pub(crate) fn read_link(&self, ino: u64) -> Result<OsString> {
        let node = self.node(ino)?;
        match &node.what {
            What::ImageLink(target, _) => Ok(target.into()),
            _ => self.root.read_link(&node.path),
        }
    }

    /// Room and limits of the source's disk.
    pub(crate) fn statvfs(&self) -> Result<Statvfs> {
        self.root.statvfs()
    }

    /// Opens a file of an image. What is open keeps its content, whatever happens to its name.
    pub(crate) fn open(&self, ino: u64) -> Result<()> {
        if let Some(opened) = self.opened.lock().get_mut(&ino)
            && !opened.is_doubtful
        {
            opened.users += 1;
            return Ok(());
        }
        let node = self.node(ino)?;
        let file = self.open_node(&node)?;
        let image = self.open_image(&node)?;
        self.take_open(ino, file);
        self.tell_of_open(ino, Some((&node, &image)));
        Ok(())
    }

    /// Tells the keeper whether a file is open, unless it knows.
    fn tell_of_open(&self, ino: u64, opened: Option<(&Node, &Image)>) {
        let Some(keeper) = &self.keeper else {
            return;
        };
        // whoever comes last sees what is true in the end, and nobody who reads waits for this
        let mut told = self.told_open.lock();
        let is_open = self.opened.lock().contains_key(&ino);
        match opened {
            Some((node, image)) if is_open && told.insert(ino) => {
                keeper.hold_image(ino, &Place::of(node), &node.stat, image.file.as_fd());
            }
            None if !is_open && told.remove(&ino) => keeper.close_image(ino),
            _ => {}
        }
    }

    /// One more user of an open file.
    fn take_open(&self, ino: u64, file: Original) {
        let mut opened = self.opened.lock();
        let users = opened.get(&ino).map_or(0, |opened| opened.users);
        let new = Opened {
            file,
            users: users + 1,
            is_doubtful: false,
        };
        opened.insert(ino, new);
    }

    /// The handle of every file that [`open`](Self::open) opened.
    pub(crate) fn handle(&self) -> u64 {
        self.life
    }

    /// Closes what [`open`](Self::open) opened. What an earlier worker opened is closed when the kernel forgets it.
    pub(crate) fn release(&self, ino: u64, handle: u64) {
        if handle != self.life {
            return;
        }
        let mut opened = self.opened.lock();
        if let Some(known) = opened.get_mut(&ino) {
            known.users -= 1;
            if known.users > 0 {
                return;
            }
            opened.remove(&ino);
            drop(opened);
            // whether those who opened it with an earlier worker have closed it nobody knows
            if !self.kept_images.lock().contains_key(&ino) {
                self.tell_of_open(ino, None);
            }
        }
    }

    /// Exactly the bytes that there are of an image's file between `offset` and `offset + size`: a shorter answer would make the
    /// kernel think that the file ends there.
    pub(crate) fn read(&self, ino: u64, offset: u64, size: u32) -> Result<Vec<Piece>> {
        let open = self
            .opened
            .lock()
            .get(&ino)
            .map(|opened| opened.file.clone());
        let file = if let Some(file) = open {
            file
        } else {
            // opened with an earlier worker
            let file = self.open_node(&*self.node(ino)?)?;
            self.take_open(ino, file.clone());
            file
        };
        let len = file.byte_len().saturating_sub(offset).min(u64::from(size));
        let _demand = self.ahead.demand();
        let pieces = file.pieces(offset, len);
        if let Original::Image(file) = &file {
            self.ahead.note(ino, file, offset, len);
        }
        pieces.map_err(|error| {
            self.look_anew(ino);
            self.fail(&error)
        })
    }
}

fn is_top(node: &Node) -> bool {
    node.path.as_os_str().is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::root::Stat;
    use std::fs::File;
    use std::num::NonZeroU32;
    use std::os::fd::BorrowedFd;
    use std::path::Path;

    #[derive(Debug, Default)]
    struct Kept(Mutex<BTreeMap<u64, Place>>);

    impl Keeper for Kept {
        fn remember(&self, ino: u64, place: &Place) {
            self.0.lock().insert(ino, place.clone());
        }

        fn forget(&self, ino: u64) {
            self.0.lock().remove(&ino);
        }

        fn hold(&self, _handle: u64, _ino: u64, _file: BorrowedFd<'_>) {}

        fn pass(&self, _handle: u64) -> Result<Option<NonZeroU32>> {
            Ok(None)
        }

        fn close(&self, _handle: u64) {}

        fn hold_image(&self, _ino: u64, _place: &Place, _stat: &Stat, _image: BorrowedFd<'_>) {}

        fn close_image(&self, _ino: u64) {}

        fn trying(&self, _unique: u64) {}

        fn begin(&self, _unique: u64) {}

        fn end(&self, _unique: u64) {}
    }

    fn fs(folder: &Path, life: u64, kept: &Arc<Kept>) -> Fs {
        let options = FsOptions {
            bases: Vec::new(),
            cache_bytes: 1 << 20,
            ahead_bytes: 0,
            in_place: false,
            protect_models: false,
            life,
        };
        let mut fs = Fs::new(Source::open(folder).unwrap(), &options).unwrap();
        let known = kept.0.lock().clone();
        fs.keep_with(Arc::clone(kept) as _, known, BTreeMap::new());
        fs
    }

    /// The kernel counts what all workers told it, a worker only what it did: one that takes its own count for the whole would
    /// forget what the kernel still uses.
    #[test]
    fn what_an_earlier_worker_told_of_is_never_forgotten_by_count() {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("a")).unwrap();
        let kept = Arc::new(Kept::default());
        let first = fs(folder.path(), 1, &kept);
        let ino = first.lookup(tree::ROOT, OsStr::new("a")).unwrap().ino;
        drop(first);
        let second = fs(folder.path(), 2, &kept);
        // before this worker was told of it, and after
        second.forget(ino, 1);
        assert!(second.node(ino).is_ok());
        second.lookup(tree::ROOT, OsStr::new("a")).unwrap();
        second.forget(ino, 1);
        assert!(second.node(ino).is_ok());
        drop(second);
        let third = fs(folder.path(), 3, &kept);
        assert!(third.node(ino).is_ok());
    }

    #[test]
    fn what_one_worker_told_of_is_forgotten_when_the_kernel_does() {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("a")).unwrap();
        let kept = Arc::new(Kept::default());
        let fs = fs(folder.path(), 1, &kept);
        let name = OsStr::new("a");
        let ino = fs.lookup(tree::ROOT, name).unwrap().ino;
        fs.lookup(tree::ROOT, name).unwrap();
        fs.forget(ino, 1);
        assert!(fs.node(ino).is_ok());
        fs.forget(ino, 1);
        assert_eq!(fs.node(ino).unwrap_err(), Errno::ESTALE);
        assert!(kept.0.lock().is_empty());
        // and another file of that name is another node
        std::fs::remove_file(folder.path().join("a")).unwrap();
        File::create(folder.path().join("a"))
            .unwrap()
            .set_len(1)
            .unwrap();
        assert_ne!(fs.lookup(tree::ROOT, name).unwrap().ino, ino);
    }
}
