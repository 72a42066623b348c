//! The file system without any of FUSE's types: lookup, attributes, listings, opens and reads over the source tree.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::num::NonZeroUsize;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bigsmall::archive::Archive;
use bigsmall::archive::Bases;
use bigsmall::archive::BlockCache;
use bigsmall::archive::DigestIndex;
use bigsmall::archive::FileRecord;
use bigsmall::archive::VirtualFile;
use bigsmall::base::Error;
use bigsmall::base::FileSource;
use bigsmall::base::ReadAt;
use lru::LruCache;
use nix::errno::Errno;
use nix::sys::statvfs::Statvfs;
use parking_lot::Mutex;

use crate::catalog;
use crate::catalog::Meaning;
use crate::errno;
use crate::root::Result;
use crate::root::Root;
use crate::through::PlainFile;
use crate::tree::Attr;
use crate::tree::Kind;
use crate::tree::Node;
use crate::tree::Tree;
use crate::tree::What;

/// Open images kept after the last file of theirs was closed: loaders open one file a thousand times.
const IMAGES_KEPT: NonZeroUsize = NonZeroUsize::new(64).unwrap();
/// Different complaints remembered, so that each is logged once.
const COMPLAINTS_MAX: usize = 10_000;
/// A base that was missing is looked for again after this: it may have been put there meanwhile.
const BASES_AGE_MAX: Duration = Duration::from_secs(2);

/// One line of a listing.
#[derive(Debug, Clone)]
pub(crate) struct Listed {
    pub(crate) name: OsString,
    pub(crate) ino: u64,
    pub(crate) kind: Kind,
}

/// What reads of an open file come from.
type OpenFile = Arc<dyn ReadAt>;

/// An open file that does not pass through.
#[derive(Debug)]
struct Opened {
    file: OpenFile,
    users: u64,
    /// Whether a read failed in a way that may have passed when it is opened the next time.
    is_doubtful: bool,
}

/// A read-only view of the source tree.
#[derive(Debug)]
pub(crate) struct Fs {
    pub(crate) root: Root,
    /// Whether what is no image may be changed: the mount lies over its own source.
    writable: bool,
    /// Shows only this name of the root folder.
    only: Option<OsString>,
    pub(crate) tree: Tree,
    cache: Arc<BlockCache>,
    /// Where bases are looked for, and what was found there when one was first needed.
    base_places: Vec<PathBuf>,
    digests: Option<DigestIndex>,
    bases: Mutex<Option<(Arc<Bases>, Instant)>>,
    images: Mutex<LruCache<u64, Arc<Archive>>>,
    opened: Mutex<BTreeMap<u64, Opened>>,
    listings: Mutex<BTreeMap<u64, Arc<Vec<Listed>>>>,
    next_listing: AtomicU64,
    /// Open files that pass through, by their handles.
    pub(crate) plain_files: Mutex<BTreeMap<u64, PlainFile>>,
    complaints: Mutex<BTreeSet<String>>,
}

impl Fs {
    /// Shows what is at `source`: a folder, or one image. `cache_bytes` bounds decoded blocks and tables.
    /// Bases are looked for there and at `bases`.
    /// Over its own source (`in_place`) the mount is for writing, too, and nothing is looked at by a path that leads into it.
    pub(crate) fn new(
        source: &Path,
        bases: &[PathBuf],
        cache_bytes: u64,
        in_place: bool,
    ) -> Result<Self, Error> {
        let failed = |e| Error::io("cannot open", source, e);
        let as_io = |errno: Errno| failed(std::io::Error::from(errno));
        let is_folder = std::fs::metadata(source).map_err(failed)?.is_dir();
        let folder = if is_folder {
            Some(source)
        } else {
            source.parent()
        };
        let root = Root::open(folder.unwrap_or(Path::new("/"))).map_err(failed)?;
        let here = Path::new("");
        let folder_stat = root.stat(here).map_err(as_io)?;
        let mut top = Node::root(here.to_owned(), Meaning::Folder, folder_stat);
        let mut only = None;
        if !is_folder {
            let name = source.file_name().unwrap_or_default();
            let items = catalog::list(&root, here).map_err(as_io)?;
            let item = items.into_values().find(|item| item.disk_name == name);
            match item.as_ref().map(|item| &item.meaning) {
                Some(Meaning::Image { .. }) => only = Some(name.to_owned()),
                Some(Meaning::ImageFolder) => {
                    let stat = item.map_or(folder_stat, |item| item.stat);
                    top = Node::root(name.into(), Meaning::ImageFolder, stat);
                }
                Some(Meaning::Broken(error)) => return Err(error.clone()),
                _ => {
                    return Err(
                        Error::invalid("is neither a folder nor an image (`.bs`)").file(source)
                    );
                }
            }
        }
        // a relative path is the caller's
        let mut base_places = Vec::new();
        for place in bases {
            base_places.push(
                place
                    .canonicalize()
                    .map_err(|e| Error::io("cannot open", place, e))?,
            );
        }
        if in_place {
            base_places.retain(|place| !place.starts_with(source));
            base_places.push(root.path_below());
        } else {
            base_places.extend(is_folder.then(|| source.to_owned()));
        }
        let digests = DigestIndex::of_user();
        let digests = digests.filter(|index| !(in_place && index.folder().starts_with(source)));
        Ok(Self {
            root,
            writable: in_place,
            digests,
            only,
            tree: Tree::new(top),
            cache: BlockCache::new(cache_bytes),
            base_places,
            bases: Mutex::default(),
            images: Mutex::new(LruCache::new(IMAGES_KEPT)),
            opened: Mutex::default(),
            listings: Mutex::default(),
            next_listing: AtomicU64::new(1),
            plain_files: Mutex::default(),
            complaints: Mutex::default(),
        })
    }

    /// Whether what is no image may be changed.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// A number that no other handle has.
    pub(crate) fn next_handle(&self) -> u64 {
        self.next_listing.fetch_add(1, Ordering::Relaxed)
    }

    pub(crate) fn node(&self, ino: u64) -> Result<Arc<Node>> {
        self.tree.get(ino).ok_or(Errno::ESTALE)
    }

    /// What `name` in folder `parent` is; the kernel knows it from now on, until it forgets.
    pub(crate) fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attr> {
        let parent = self.node(parent)?;
        let found = match &parent.what {
            What::Disk(Meaning::Folder) => {
                let item = catalog::find(&self.root, &parent.path, name)?;
                let shown = |disk: &OsStr| {
                    self.only
                        .as_ref()
                        .is_none_or(|only| !is_top(&parent) || disk == only)
                };
                item.filter(|item| shown(&item.disk_name))
                    .map(|item| Node::of_item(&parent.path, item, self.writable))
            }
            What::Disk(Meaning::ImageFolder) => self.find_within(&parent, "", name)?,
            What::ImageFolder(inner) => self.find_within(&parent, inner, name)?,
            _ => return Err(Errno::ENOTDIR),
        };
        let node = found.ok_or(Errno::ENOENT)?;
        let attr = node.attr;
        self.tree.remember(node);
        Ok(attr)
    }

    /// The kernel forgets a node that it was told of `times` times.
    pub(crate) fn forget(&self, ino: u64, times: u64) {
        self.tree.forget(ino, times);
    }

    /// What the kernel is told of a node. A folder's time changes with what is in it, so it is asked for anew.
    pub(crate) fn attr(&self, ino: u64) -> Result<Attr> {
        let node = self.node(ino)?;
        let meaning = match &node.what {
            What::Disk(Meaning::Folder) => Meaning::Folder,
            What::Disk(Meaning::Plain) if self.writable => Meaning::Plain,
            What::Disk(Meaning::Link) if self.writable => Meaning::Link,
            _ => return Ok(node.attr),
        };
        let stat = self.stat_now(&node)?;
        Ok(
            Node::of_disk(node.path.clone(), meaning, stat, self.writable)
                .attr
                .with_number(ino),
        )
    }

    /// The target of a link.
    pub(crate) fn read_link(&self, ino: u64) -> Result<OsString> {
        self.root.read_link(&self.node(ino)?.path)
    }

    /// Room and limits of the source's disk.
    pub(crate) fn statvfs(&self) -> Result<Statvfs> {
        self.root.statvfs()
    }

    /// Opens a file. What is open keeps its content, whatever happens to its name.
    pub(crate) fn open(&self, ino: u64) -> Result<()> {
        if let Some(opened) = self.opened.lock().get_mut(&ino)
            && !opened.is_doubtful
        {
            opened.users += 1;
            return Ok(());
        }
        let file = self.open_node(&*self.node(ino)?)?;
        let mut opened = self.opened.lock();
        let users = opened.get(&ino).map_or(0, |opened| opened.users);
        let new = Opened {
            file,
            users: users + 1,
            is_doubtful: false,
        };
        opened.insert(ino, new);
        Ok(())
    }

    /// Closes what [`open`](Self::open) opened.
    pub(crate) fn release(&self, ino: u64) {
        let mut opened = self.opened.lock();
        if let Some(known) = opened.get_mut(&ino) {
            known.users -= 1;
            if known.users == 0 {
                opened.remove(&ino);
            }
        }
    }

    /// Puts at the beginning of `out` exactly the bytes that there are between `offset` and `offset + size`, and says how many: a
    /// shorter answer would make the kernel think that the file ends there. What is behind them is rubbish.
    pub(crate) fn read(
        &self,
        ino: u64,
        offset: u64,
        size: u32,
        out: &mut Vec<u8>,
    ) -> Result<usize> {
        let open = self
            .opened
            .lock()
            .get(&ino)
            .map(|opened| Arc::clone(&opened.file));
        let file = match open {
            Some(file) => file,
            None => self.open_node(&*self.node(ino)?)?,
        };
        let len = file.len().saturating_sub(offset).min(u64::from(size)) as usize;
        // never shrunk: what it once had need not be zeroed again
        if out.len() < len {
            out.resize(len, 0);
        }
        if len == 0 {
            return Ok(0);
        }
        file.read_exact_at(offset, &mut out[..len])
            .map_err(|error| {
                self.look_anew(ino);
                self.fail(&error)
            })?;
        Ok(len)
    }

    /// After an error: where a base is wrong or was written over, the right one may come, so whoever opens the file next has it
    /// looked for again.
    fn look_anew(&self, ino: u64) {
        let Some(node) = self.tree.get(ino) else {
            return;
        };
        let key = image_key(&node);
        let mut images = self.images.lock();
        let is_delta = |archive: &Arc<Archive>| archive.index().is_delta();
        if !images.peek(&key).is_some_and(is_delta) {
            return;
        }
        images.pop(&key);
        drop(images);
        if let Some(opened) = self.opened.lock().get_mut(&ino) {
            opened.is_doubtful = true;
        }
        let mut bases = self.bases.lock();
        *bases = bases
            .take()
            .filter(|(_, when)| when.elapsed() <= BASES_AGE_MAX);
    }

    /// Takes a listing of a folder and gives its handle.
    pub(crate) fn open_folder(&self, ino: u64) -> Result<u64> {
        let node = self.node(ino)?;
        let mut listing = match &node.what {
            What::Disk(Meaning::Folder) => self.list_disk(&node)?,
            What::Disk(Meaning::ImageFolder) => self.list_within(&node, "")?,
            What::ImageFolder(inner) => self.list_within(&node, inner)?,
            _ => return Err(Errno::ENOTDIR),
        };
        for name in [".", ".."] {
            listing.push(Listed {
                name: name.into(),
                ino,
                kind: Kind::Folder,
            });
        }
        let handle = self.next_handle();
        self.listings.lock().insert(handle, Arc::new(listing));
        Ok(handle)
    }

    /// The listing behind a handle.
    pub(crate) fn listing(&self, handle: u64) -> Result<Arc<Vec<Listed>>> {
        self.listings
            .lock()
            .get(&handle)
            .cloned()
            .ok_or(Errno::EBADF)
    }

    /// Drops the listing behind a handle.
    pub(crate) fn release_folder(&self, handle: u64) {
        self.listings.lock().remove(&handle);
    }

    fn list_disk(&self, node: &Node) -> Result<Vec<Listed>> {
        let items = catalog::list(&self.root, &node.path)?;
        let shown = |disk: &OsStr| {
            self.only
                .as_ref()
                .is_none_or(|only| !is_top(node) || disk == only)
        };
        let items = items.into_iter().filter(|(_, item)| shown(&item.disk_name));
        Ok(items
            .map(|(name, item)| {
                let attr = Node::of_item(&node.path, item, self.writable).attr;
                Listed {
                    name,
                    ino: attr.ino,
                    kind: attr.kind,
                }
            })
            .collect())
    }

    /// The names directly under `inner` in an image of a folder.
    fn list_within(&self, image: &Node, inner: &str) -> Result<Vec<Listed>> {
        let archive = self.image(image)?;
        let mut listing: Vec<Listed> = Vec::new();
        // files stand in ascending order of their paths, so those of one folder are neighbours
        for (number, file) in archive.files().iter().enumerate() {
            let Some(rest) = below(inner, file) else {
                continue;
            };
            let (name, node) = child(image, inner, rest, number, file);
            if listing.last().is_none_or(|last| last.name != *name) {
                let attr = node.attr;
                listing.push(Listed {
                    name: name.into(),
                    ino: attr.ino,
                    kind: attr.kind,
                });
            }
        }
        // `a-b` stands between `a/x` and `a` never, but between `a` and `a/x` of another kind it may
        listing.sort_by(|a, b| a.name.cmp(&b.name));
        listing.dedup_by(|a, b| a.name == b.name);
        Ok(listing)
    }

    /// What `name` directly under `inner` in an image of a folder is. Files stand in ascending order of their paths, so it
    /// is found by halving.
    fn find_within(&self, image: &Node, inner: &str, name: &OsStr) -> Result<Option<Node>> {
        let Some(wanted) = name.to_str() else {
            return Ok(None);
        };
        let archive = self.image(image)?;
        let files = archive.files();
        let path = if inner.is_empty() {
            wanted.to_owned()
        } else {
            format!("{inner}/{wanted}")
        };
        let number = files.partition_point(|file| file.path < path);
        if let Some(file) = files.get(number).filter(|file| file.path == path) {
            return Ok(Some(Node::within(
                image,
                &path,
                What::ImageFile(number),
                file.len,
            )));
        }
        let below = format!("{path}/");
        let first = files.get(files.partition_point(|file| file.path < below));
        let is_folder = first.is_some_and(|file| file.path.starts_with(&below));
        Ok(is_folder.then(|| Node::within(image, &path, What::ImageFolder(path.clone()), 0)))
    }

    fn open_node(&self, node: &Node) -> Result<OpenFile> {
        match &node.what {
            What::Disk(Meaning::Plain) => {
                let (file, stat) = self.root.open_file(&node.path)?;
                if stat.identity() != node.stat.identity() {
                    // the kernel looks the name up again and finds what is there now
                    return Err(Errno::ESTALE);
                }
                let path = self.root.shown(&node.path);
                let source = FileSource::from_file(file, &path).map_err(|e| self.fail(&e))?;
                Ok(Arc::new(source))
            }
            What::Disk(Meaning::Image { .. }) => self.virtual_file(node, 0),
            What::ImageFile(number) => self.virtual_file(node, *number),
            What::Disk(Meaning::Broken(error)) => {
                self.fail(error);
                Err(Errno::EIO)
            }
            What::Disk(Meaning::Folder | Meaning::ImageFolder) | What::ImageFolder(_) => {
                Err(Errno::EISDIR)
            }
            What::Disk(Meaning::Link) => Err(Errno::ELOOP),
        }
    }

    fn virtual_file(&self, node: &Node, number: usize) -> Result<OpenFile> {
        let archive = self.image(node)?;
        let file = VirtualFile::new(archive, number, Arc::clone(&self.cache));
        Ok(Arc::new(file.map_err(|e| self.fail(&e))?))
    }

    /// The open image that a node stands for or is in.
    pub(crate) fn image(&self, node: &Node) -> Result<Arc<Archive>> {
        let key = image_key(node);
        if let Some(archive) = self.images.lock().get(&key) {
            return Ok(Arc::clone(archive));
        }
        let (file, stat) = self.root.open_file(&node.path)?;
        if stat.identity() != node.stat.identity() {
            return Err(Errno::ESTALE);
        }
        let path = self.root.shown(&node.path);
        let archive = FileSource::from_file(file, &path)
            .and_then(|source| Archive::from_source(Arc::new(source), &path))
            .and_then(|archive| self.with_bases(archive))
            .map_err(|error| {
                self.fail(&error);
                // whatever is wrong with the image: the file is listed and cannot be opened
                Errno::EIO
            })?;
        for fault in archive.faults() {
            self.fail(&fault.clone().file(&path));
        }
        let archive = Arc::new(archive);
        let evicted = self.images.lock().push(key, Arc::clone(&archive));
        if let Some((_, evicted)) = evicted {
            self.cache.forget(evicted.id());
        }
        Ok(archive)
    }

    /// A delta with the places where its bases may be. What they hold is compared when it is first read.
    fn with_bases(&self, archive: Archive) -> Result<Archive, Error> {
        if !archive.index().is_delta() {
            return Ok(archive);
        }
        let archive = archive.with_bases(self.bases(Duration::MAX));
        if archive.expect_bases().is_ok() {
            return Ok(archive);
        }
        let archive = archive.with_bases(self.bases(BASES_AGE_MAX));
        archive.expect_bases().map(|()| archive)
    }

    /// What may be bases, as it was found at most so long ago.
    fn bases(&self, age_max: Duration) -> Arc<Bases> {
        let mut found = self.bases.lock();
        if let Some((bases, when)) = &*found
            && when.elapsed() <= age_max
        {
            return Arc::clone(bases);
        }
        let mut bases = Bases::new(Arc::clone(&self.cache), self.digests.clone());
        if self.writable {
            // a link may lead back into the mount, which then would wait for itself
            bases.follow_no_links();
        }
        for place in &self.base_places {
            if let Err(error) = bases.add(place) {
                tracing::warn!("{error}");
            }
        }
        let bases = Arc::new(bases);
        *found = Some((Arc::clone(&bases), Instant::now()));
        bases
    }

    /// Logs an error, once, and gives its errno.
    fn fail(&self, error: &Error) -> Errno {
        let text = error.to_string().replace('\n', "; ");
        let mut complaints = self.complaints.lock();
        if complaints.len() < COMPLAINTS_MAX && complaints.insert(text.clone()) {
            tracing::error!("{text}");
        }
        errno::of(error)
    }
}

/// What an open image is kept under: the same for everything in it.
fn image_key(node: &Node) -> u64 {
    let whole = Node::within(node, "", What::ImageFolder(String::new()), 0);
    whole.attr.ino
}

fn is_top(node: &Node) -> bool {
    node.path.as_os_str().is_empty()
}

/// The path of `file` below folder `inner`, if it is there.
fn below<'a>(inner: &str, file: &'a FileRecord) -> Option<&'a str> {
    if inner.is_empty() {
        return Some(&file.path);
    }
    file.path.strip_prefix(inner)?.strip_prefix('/')
}

/// The first part of `rest`, and the node that it is.
fn child<'a>(
    image: &Node,
    inner: &str,
    rest: &'a str,
    number: usize,
    file: &FileRecord,
) -> (&'a str, Node) {
    let (name, deeper) = rest
        .split_once('/')
        .map_or((rest, false), |(name, _)| (name, true));
    let path = if inner.is_empty() {
        name.to_owned()
    } else {
        format!("{inner}/{name}")
    };
    let node = if deeper {
        Node::within(image, &path, What::ImageFolder(path.clone()), 0)
    } else {
        Node::within(image, &path, What::ImageFile(number), file.len)
    };
    (name, node)
}
