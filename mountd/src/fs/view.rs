//! A view of the source tree: all that a mount knows.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bigsmall::archive::Bases;
use bigsmall::archive::BlockCache;
use bigsmall::archive::DigestIndex;
use bigsmall::archive::TensorCache;
use bigsmall::base::Error;
use bigsmall::base::mutex::Mutex;
use lru::LruCache;
use nix::sys::statvfs::Statvfs;

use crate::fs::admission::AdmissionLimit;
use crate::fs::catalog::EntryKind;
use crate::fs::handover::Handover;
use crate::fs::handover::NodeLocation;
use crate::fs::handover::OpenImage;
use crate::fs::image::IMAGES_KEPT;
use crate::fs::image::Image;
use crate::fs::listed::Listed;
use crate::fs::opened::Opened;
use crate::fs::opened::PassthroughFile;
use crate::fs::readahead::Readahead;
use crate::fs::root::Result;
use crate::fs::root::Root;
use crate::fs::source::Source;
use crate::fs::tree::NodeKind;
use crate::fs::tree::Tree;
use crate::statistics::Statistics;

/// Numbers of handles that one worker may give.
const HANDLES: u64 = 1 << 40;

/// Which images are fine-tunes, by what the disk says of them: each is opened once for that.
pub(super) type Deltas = BTreeMap<[u8; 40], bool>;

/// How a source is shown.
#[derive(Debug, Clone)]
pub(crate) struct FsOptions {
    /// Where bases are looked for beside the source; absolute.
    pub(crate) bases: Vec<PathBuf>,
    /// The bound of decoded blocks and tables.
    pub(crate) cache_bytes: u64,
    /// How far blocks are decoded before somebody asks for them.
    pub(crate) readahead_bytes: u64,
    /// The mount lies over its own source: it is for writing, too, and nothing is looked at by a
    /// path that leads into it.
    pub(crate) in_place: bool,
    /// Models can be neither renamed nor replaced nor removed there.
    pub(crate) protect_models: bool,
    /// Which of the workers of a mount this is, from 1 on: handles of others are told from its own.
    pub(crate) life: u64,
}

/// A view of the source tree.
#[derive(Debug)]
pub(crate) struct Fs {
    pub(crate) root: Root,
    /// Whether what is no image may be changed: the mount lies over its own source.
    pub(super) writable: bool,
    /// Whether not even names of models may be.
    pub(super) protects_models: bool,
    pub(super) life: u64,
    /// Shows only this name of the root folder.
    pub(super) only: Option<OsString>,
    pub(crate) tree: Tree,
    /// What earlier workers knew of, and is not looked for again yet.
    pub(super) inherited: Mutex<BTreeMap<u64, NodeLocation>>,
    /// Images of which earlier workers had files open.
    pub(super) inherited_images: Mutex<BTreeMap<u64, OpenImage>>,
    /// Files of images of which the handover was told that they are open.
    pub(super) handed_over: Mutex<BTreeSet<u64>>,
    pub(super) handover: Option<Arc<dyn Handover>>,
    /// Held while the handover is told of a node: the number of one that is forgotten may just be
    /// given to another.
    pub(super) handing_over: Mutex<()>,
    pub(crate) cache: Arc<BlockCache>,
    pub(crate) tensors: Arc<TensorCache>,
    pub(super) readahead: Readahead,
    pub(crate) admission: AdmissionLimit,
    /// Where bases are looked for, and what was found there when one was first needed.
    pub(super) base_paths: Vec<PathBuf>,
    pub(super) digests: Option<DigestIndex>,
    pub(super) deltas: Mutex<Deltas>,
    pub(super) bases: Mutex<Option<(Arc<Bases>, Instant)>>,
    pub(super) images: Mutex<LruCache<u64, Arc<Image>>>,
    pub(super) opened: Mutex<BTreeMap<u64, Opened>>,
    pub(super) listings: Mutex<BTreeMap<u64, Arc<Vec<Listed>>>>,
    pub(super) next_handle: AtomicU64,
    /// Open files that pass through, by their handles.
    pub(crate) passthrough_files: Mutex<BTreeMap<u64, PassthroughFile>>,
    pub(super) complaints: Mutex<BTreeSet<String>>,
    pub(crate) statistics: Statistics,
}

impl Fs {
    /// Shows a source.
    pub(crate) fn new(source: Source, options: &FsOptions) -> Result<Self, Error> {
        let top = source.top()?;
        let (root, path, only) = (source.root, source.path, source.only);
        let is_folder = only.is_none();
        let only = only.filter(|_| matches!(top.what, NodeKind::Disk(EntryKind::Folder)));
        let in_place = options.in_place;
        let mut base_paths = options.bases.clone();
        if in_place {
            base_paths.retain(|base| !base.starts_with(&path));
            base_paths.push(root.path_below());
        } else {
            base_paths.extend(is_folder.then(|| path.clone()));
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
            inherited: Mutex::default(),
            inherited_images: Mutex::default(),
            handed_over: Mutex::default(),
            handover: None,
            handing_over: Mutex::default(),
            admission: AdmissionLimit::new(),
            readahead: Readahead::new(options.readahead_bytes.min(options.cache_bytes / 4)),
            cache,
            tensors: TensorCache::new(),
            base_paths,
            deltas: Mutex::default(),
            bases: Mutex::default(),
            images: Mutex::new(LruCache::new(IMAGES_KEPT)),
            opened: Mutex::default(),
            listings: Mutex::default(),
            next_handle: AtomicU64::new(options.life * HANDLES),
            passthrough_files: Mutex::default(),
            complaints: Mutex::default(),
            statistics: Statistics::default(),
        })
    }

    /// Tells `handover` of whatever a worker after this one will need, and knows what workers
    /// before it told.
    pub(crate) fn inherit(
        &mut self,
        handover: Arc<dyn Handover>,
        known: BTreeMap<u64, NodeLocation>,
        images: BTreeMap<u64, OpenImage>,
    ) {
        self.handover = Some(handover);
        *self.inherited.lock() = known;
        self.handed_over.lock().extend(images.keys());
        *self.inherited_images.lock() = images;
    }

    /// Who is told of whatever a worker after this one will need.
    pub(crate) fn handover(&self) -> Option<&dyn Handover> {
        self.handover.as_deref()
    }

    /// Whether what is no image may be changed.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }

    /// A number that no other handle has.
    pub(crate) fn next_handle(&self) -> u64 {
        self.next_handle.fetch_add(1, Ordering::Relaxed)
    }

    /// Room and limits of the source's disk.
    pub(crate) fn statvfs(&self) -> Result<Statvfs> {
        self.root.statvfs()
    }
}
