//! Images behind names: opened, kept open for a while, given their bases.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bigsmall::archive;
use bigsmall::archive::Bases;
use bigsmall::archive::BoundImage;
use bigsmall::archive::Original;
use bigsmall::archive::PackageFile;
use bigsmall::archive::VirtualFile;
use bigsmall::base::Error;
use bigsmall::base::FileSource;
use bigsmall::base::Remedy;
use lru::LruCache;
use nix::errno::Errno;

use crate::fs::catalog;
use crate::fs::catalog::EntryKind;
use crate::fs::errno;
use crate::fs::handover::OpenImage;
use crate::fs::image::Content;
use crate::fs::image::Image;
use crate::fs::root::Result;
use crate::fs::tree::Node;
use crate::fs::tree::NodeKind;
use crate::fs::view::Fs;
use crate::statistics::Counted;

/// What is known of all of them takes no more bytes than these, if they are more than one.
const INDEX_BYTES_KEPT: u64 = 8 << 20;
/// Different complaints remembered, so that each is logged once.
const COMPLAINTS_MAX: usize = 10_000;
/// A base that was missing is looked for again after this: it may have been put there meanwhile.
const BASES_AGE_MAX: Duration = Duration::from_secs(2);

impl Fs {
    pub(super) fn open_node(&self, node: &Node) -> Result<Original> {
        match &node.what {
            // it passes through, and whoever opened it has a handle of its own
            NodeKind::Disk(EntryKind::Passthrough) => Err(Errno::EBADF),
            NodeKind::Disk(EntryKind::Image { .. }) => self.original(node, 0),
            NodeKind::ImageFile(number, _) => self.original(node, *number),
            NodeKind::Disk(EntryKind::Broken(error)) => {
                self.fail(error);
                Err(Errno::EIO)
            }
            NodeKind::Disk(EntryKind::Folder | EntryKind::ImageFolder)
            | NodeKind::ImageFolder(_) => Err(Errno::EISDIR),
            NodeKind::Disk(EntryKind::Link) | NodeKind::ImageLink(..) => Err(Errno::ELOOP),
            // the kernel never asks us to
            NodeKind::Disk(EntryKind::Special) => Err(Errno::ENXIO),
        }
    }

    fn original(&self, node: &Node, number: usize) -> Result<Original> {
        match &self.open_image(node)?.content {
            Content::Ours(image) => {
                let file = VirtualFile::new(Arc::clone(image), number, Arc::clone(&self.cache));
                file.map(Original::Image).map_err(|e| self.fail(&e))
            }
            Content::Package(file) => Ok(Original::Package(file.clone())),
        }
    }

    /// The archive that a node stands for or is in; none if it is a file of the Python package.
    pub(crate) fn image(&self, node: &Node) -> Result<Option<Arc<BoundImage>>> {
        match &self.open_image(node)?.content {
            Content::Ours(image) => Ok(Some(Arc::clone(image))),
            Content::Package(_) => Ok(None),
        }
    }

    /// The open image that a node stands for or is in.
    pub(super) fn open_image(&self, node: &Node) -> Result<Arc<Image>> {
        let key = image_key(node);
        if let Some(image) = self.images.lock().get(&key) {
            return Ok(Arc::clone(image));
        }
        let file = self.image_file(node)?;
        let descriptor = file.as_fd().try_clone_to_owned();
        let descriptor = descriptor.map_err(|_too_many| Errno::EMFILE)?;
        let path = self.root.shown(&node.path);
        let content = FileSource::from_file(file, &path)
            .and_then(|source| self.content(source, &path))
            .map_err(|error| {
                self.fail(&error);
                // whatever is wrong with the image: the file is listed and cannot be opened
                Errno::EIO
            })?;
        let image = Arc::new(Image {
            content,
            file: descriptor,
        });
        let mut images = self.images.lock();
        let mut evicted = Vec::from_iter(images.push(key, Arc::clone(&image)));
        let bytes = |images: &LruCache<u64, Arc<Image>>| {
            let all = images.iter().map(|(_, image)| image.content.memory_bytes());
            all.sum::<u64>()
        };
        while images.len() > 1 && bytes(&images) > INDEX_BYTES_KEPT {
            evicted.extend(images.pop_lru());
        }
        drop(images);
        for (_, evicted) in evicted {
            self.cache.forget(evicted.content.id());
            self.tensors.forget(evicted.content.id());
        }
        Ok(image)
    }

    fn content(&self, source: FileSource, path: &Path) -> Result<Content, Error> {
        let is_package = archive::is_package(&source);
        let counted = Arc::new(Counted::new(source, &self.statistics.source_bytes));
        if is_package {
            let (blocks, tensors) = (Arc::clone(&self.cache), Arc::clone(&self.tensors));
            let file = PackageFile::open(counted, path, blocks, tensors)?;
            let remedy = Remedy::Migrate.words().unwrap_or("that is slow");
            let shown = path.display();
            tracing::info!("`{shown}` is decoded a tensor at a time: {remedy}");
            return Ok(Content::Package(file));
        }
        let image = archive::Image::from_source(counted, path)?.charged_to(&self.cache);
        let image = self.with_bases(image)?;
        for fault in image.faults() {
            self.fail(&fault.clone().file(path));
        }
        Ok(Content::Ours(Arc::new(image)))
    }

    /// The file of a node's image: by its path or, if another has that meanwhile, the one that an
    /// earlier worker had open.
    fn image_file(&self, node: &Node) -> Result<File> {
        let opened = self.root.open_file(&node.path);
        match opened {
            Ok((file, stat)) if stat.identity() == node.stat.identity() => return Ok(file),
            _ => {}
        }
        let kept = self.inherited_images.lock();
        let is_it = |kept: &&OpenImage| {
            kept.location.path == node.path && kept.stat.identity() == node.stat.identity()
        };
        if let Some(kept) = kept.values().find(is_it) {
            return kept
                .file
                .try_clone()
                .map(File::from)
                .map_err(|_too_many| Errno::EMFILE);
        }
        drop(kept);
        opened.and(Err(Errno::ESTALE))
    }

    /// The node of an open image whose name is gone, or another file's, since an earlier worker
    /// opened it.
    pub(super) fn kept_node(&self, ino: u64) -> Option<Node> {
        let (location, stat, file) = {
            let kept = self.inherited_images.lock();
            let kept = kept.get(&ino)?;
            let file = kept.file.try_clone().ok()?;
            (kept.location.clone(), kept.stat, File::from(file))
        };
        let kind = catalog::of_open(&self.root, &location.path, file).ok()?;
        let image = Node::of_disk(location.path, kind, stat, self.is_writable());
        let node = match location.inner {
            None => image,
            Some(inner) => self.find_within(&image, "", OsStr::new(&inner)).ok()??,
        };
        (node.attr.ino == ino).then_some(node)
    }

    /// A delta with the places where its bases may be. What they hold is compared when it is first
    /// read.
    fn with_bases(&self, image: archive::Image) -> Result<BoundImage, Error> {
        if !image.is_delta() {
            return Ok(BoundImage::new(image, None));
        }
        let bound = BoundImage::new(image, Some(self.bases(Duration::MAX)));
        if bound.expect_bases().is_ok() {
            return Ok(bound);
        }
        let bound = bound.rebound(self.bases(BASES_AGE_MAX));
        bound.expect_bases().map(|()| bound)
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
        for location in &self.base_paths {
            if let Err(error) = bases.add(location) {
                tracing::warn!("{error}");
            }
        }
        let bases = Arc::new(bases);
        *found = Some((Arc::clone(&bases), Instant::now()));
        bases
    }

    /// After an error: where a base is wrong or was written over, the right one may come, so
    /// whoever opens the file next has it looked for again.
    pub(super) fn look_anew(&self, ino: u64) {
        let Some(node) = self.tree.get(ino) else {
            return;
        };
        let key = image_key(&node);
        let mut images = self.images.lock();
        let is_delta = |image: &Arc<Image>| image.content.is_delta();
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

    /// Logs an error, once, and gives its errno.
    pub(super) fn fail(&self, error: &Error) -> Errno {
        let text = error.to_string().replace('\n', "; ");
        self.statistics.complained(error);
        let mut complaints = self.complaints.lock();
        if complaints.len() < COMPLAINTS_MAX && complaints.insert(text.clone()) {
            tracing::error!("{text}");
        }
        errno::of(error)
    }
}

/// What an open image is kept under: the same for everything in it.
fn image_key(node: &Node) -> u64 {
    let whole = Node::within(node, "", NodeKind::ImageFolder(String::new()), 0);
    whole.attr.ino
}
