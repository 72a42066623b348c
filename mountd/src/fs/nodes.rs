//! Inode numbers and what they stand for: looked up, remembered, forgotten.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::sync::Arc;

use nix::errno::Errno;

use crate::fs::catalog;
use crate::fs::catalog::EntryKind;
use crate::fs::handover::NodeLocation;
use crate::fs::root::Result;
use crate::fs::tree::Forgotten;
use crate::fs::tree::Node;
use crate::fs::tree::NodeKind;
use crate::fs::view::Fs;
use crate::node::Attr;

/// Longest name of a file, as on most disks; the protocol would allow more.
const NAME_LEN_MAX: usize = 255;

impl Fs {
    /// What an inode number stands for.
    pub(crate) fn node(&self, ino: u64) -> Result<Arc<Node>> {
        if let Some(node) = self.tree.get(ino) {
            return Ok(node);
        }
        let location = self.inherited.lock().get(&ino).cloned();
        let Some(location) = location else {
            // another thread may have found it again just now: it is in the tree before it is not
            // here any more
            return self.tree.get(ino).ok_or(Errno::ESTALE);
        };
        let node = match self.find_again(&location) {
            Ok(node) if node.attr.ino == ino => node,
            // it is gone, or another file has its name now
            other => match self.kept_node(ino) {
                Some(node) => node,
                None => return other.and(Err(Errno::ESTALE)),
            },
        };
        let node = Arc::new(node);
        self.tree.restore(Arc::clone(&node));
        self.inherited.lock().remove(&ino);
        Ok(node)
    }

    /// What an earlier worker knew by its place.
    fn find_again(&self, location: &NodeLocation) -> Result<Node> {
        let folder = location.path.parent().ok_or(Errno::ESTALE)?;
        let name = location.path.file_name().ok_or(Errno::ESTALE)?;
        let item = catalog::at(&self.root, folder, name)?.ok_or(Errno::ESTALE)?;
        let node = Node::of_item(folder, item, self.writable);
        let Some(inner) = &location.inner else {
            return Ok(node);
        };
        let found = self.find_within(&node, "", OsStr::new(inner))?;
        found.ok_or(Errno::ESTALE)
    }

    /// The kernel knows a node from now on, until it forgets.
    pub(crate) fn remember(&self, node: Arc<Node>) {
        let location = NodeLocation::of(&node);
        let ino = node.attr.ino;
        let _in_order = self.handing_over.lock();
        // an earlier worker told of it, too, and the kernel counts that
        let restored = self.inherited.lock().remove(&ino);
        let is_elsewhere = restored.as_ref().is_some_and(|known| *known != location);
        if (self.tree.remember(node, restored.is_some()) || is_elsewhere)
            && let Some(handover) = &self.handover
        {
            handover.remember(ino, &location);
        }
    }

    /// The kernel forgets a node that it was told of `times` times.
    pub(crate) fn forget(&self, ino: u64, times: u64) {
        let in_order = self.handing_over.lock();
        // held meanwhile: whoever does not find it in the tree looks here
        let mut known = self.inherited.lock();
        match self.tree.forget(ino, times) {
            // one that only an earlier worker told it of is forgotten, too
            Forgotten::No if known.contains_key(&ino) => {}
            Forgotten::No => return,
            Forgotten::Yes => {
                if let Some(handover) = &self.handover {
                    handover.forget(ino);
                }
            }
            // how often earlier workers told of it nobody knows
            Forgotten::Perhaps(node) => {
                known.insert(ino, NodeLocation::of(&node));
            }
        }
        drop(known);
        drop(in_order);
        self.unpin_all(ino);
        // it has closed it, too
        self.opened.lock().remove(&ino);
        self.inherited_images.lock().remove(&ino);
        self.tell_of_open(ino, None);
        self.readahead.forget(ino);
    }

    /// What `name` in folder `parent` is; the kernel knows it from now on, until it forgets.
    pub(crate) fn lookup(&self, parent: u64, name: &OsStr) -> Result<Attr> {
        let parent = self.node(parent)?;
        let found = match &parent.what {
            NodeKind::Disk(EntryKind::Folder) => {
                let item = catalog::find(&self.root, &parent.path, name)?;
                let shown = |disk: &OsStr| {
                    self.only
                        .as_ref()
                        .is_none_or(|only| !parent.is_top() || disk == only)
                };
                item.filter(|item| shown(&item.disk_name))
                    .map(|item| Node::of_item(&parent.path, item, self.writable))
            }
            NodeKind::Disk(EntryKind::ImageFolder) => self.find_within(&parent, "", name)?,
            NodeKind::ImageFolder(inner) => self.find_within(&parent, inner, name)?,
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
        let NodeKind::Disk(kind) = &node.what else {
            return Ok(node.attr);
        };
        if !self.writable && !matches!(kind, EntryKind::Folder) {
            return Ok(node.attr);
        }
        let stat = match self.stat_now(&node) {
            Ok(stat) if kind.is_plain() || stat.has_content_of(&node.stat) => stat,
            Err(errno) if kind.is_plain() => return Err(errno),
            // an image that was removed or replaced is read on as it was
            _ => return Ok(node.attr),
        };
        let now = Node::of_disk(node.path.clone(), kind.clone(), stat, self.writable);
        Ok(now.attr.with_number(ino))
    }

    /// The target of a link.
    pub(crate) fn read_link(&self, ino: u64) -> Result<OsString> {
        let node = self.node(ino)?;
        match &node.what {
            NodeKind::ImageLink(target, _) => Ok(target.into()),
            _ => self.root.read_link(&node.path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::handover::Handover;
    use crate::fs::root::Stat;
    use crate::fs::source::Source;
    use crate::fs::tree;
    use crate::fs::view::FsOptions;
    use bigsmall::base::mutex::Mutex;
    use std::collections::BTreeMap;
    use std::fs::File;
    use std::num::NonZeroU32;
    use std::os::fd::BorrowedFd;
    use std::path::Path;

    #[derive(Debug, Default)]
    struct RecordedNodes(Mutex<BTreeMap<u64, NodeLocation>>);

    impl Handover for RecordedNodes {
        fn remember(&self, ino: u64, location: &NodeLocation) {
            self.0.lock().insert(ino, location.clone());
        }

        fn forget(&self, ino: u64) {
            self.0.lock().remove(&ino);
        }

        fn hold(&self, _handle: u64, _ino: u64, _file: BorrowedFd<'_>) {}

        fn pass(&self, _handle: u64) -> Result<Option<NonZeroU32>> {
            Ok(None)
        }

        fn close(&self, _handle: u64) {}

        fn hold_image(
            &self,
            _ino: u64,
            _location: &NodeLocation,
            _stat: &Stat,
            _image: BorrowedFd<'_>,
        ) {
        }

        fn close_image(&self, _ino: u64) {}

        fn trying(&self, _unique: u64) {}

        fn begin(&self, _unique: u64) {}

        fn end(&self, _unique: u64) {}
    }

    fn fs(folder: &Path, life: u64, kept: &Arc<RecordedNodes>) -> Fs {
        let options = FsOptions {
            bases: Vec::new(),
            cache_bytes: 1 << 20,
            readahead_bytes: 0,
            in_place: false,
            protect_models: false,
            life,
        };
        let mut fs = Fs::new(Source::open(folder).unwrap(), &options).unwrap();
        let known = kept.0.lock().clone();
        fs.inherit(Arc::clone(kept) as _, known, BTreeMap::new());
        fs
    }

    /// The kernel counts what all workers told it, a worker only what it did: one that takes its
    /// own count for the whole would forget what the kernel still uses.
    #[test]
    fn what_an_earlier_worker_told_of_is_never_forgotten_by_count() {
        let folder = tempfile::tempdir().unwrap();
        File::create(folder.path().join("a")).unwrap();
        let kept = Arc::new(RecordedNodes::default());
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
        let kept = Arc::new(RecordedNodes::default());
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
