//! Nodes: what an inode number stands for. A number follows from path and content, so it is the
//! same after a restart, and a file that was replaced has another one: pages of the old never pass
//! for the new.

use std::collections::BTreeMap;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use bigsmall::archive::Member;
use bigsmall::base::digest;
use bigsmall::base::mutex::Mutex;

use crate::fs::catalog::EntryKind;
use crate::fs::catalog::Item;
use crate::fs::root::Stat;
use crate::node::Attr;
use crate::node::FileType;
use crate::node::Time;

/// The inode number of the root.
pub(crate) const ROOT: u64 = 1;

/// What a node stands for.
#[derive(Debug, Clone)]
pub(crate) enum NodeKind {
    /// A name of the source tree.
    Disk(EntryKind),
    /// A folder within an image of a folder; its path within, without a slash at the end.
    ImageFolder(String),
    /// A file within an image of a folder: its number, and its path within.
    ImageFile(usize, String),
    /// A link within an image of a folder: its target, and its path within.
    ImageLink(String, String),
}

/// What an inode number stands for. It never changes.
#[derive(Debug)]
pub(crate) struct Node {
    /// Path of the file on the disk, relative to the root: of the image for what is in one.
    pub(crate) path: PathBuf,
    pub(crate) what: NodeKind,
    pub(crate) stat: Stat,
    pub(crate) attr: Attr,
}

impl Node {
    /// A name of the source tree, in which files that pass through may change if `writable`.
    pub(crate) fn of_item(folder: &Path, item: Item, writable: bool) -> Self {
        let path = folder.join(&item.disk_name);
        Self::of_disk(path, item.kind, item.stat, writable)
    }

    /// The root of the mount, whatever it stands for.
    pub(crate) fn root(path: PathBuf, kind: EntryKind, stat: Stat) -> Self {
        let mut node = Self::of_disk(path, kind, stat, false);
        node.attr.ino = ROOT;
        node
    }

    /// What a path of the disk stands for.
    pub(crate) fn of_disk(path: PathBuf, kind: EntryKind, stat: Stat, writable: bool) -> Self {
        let (file_type, size) = match &kind {
            EntryKind::Folder => (FileType::Folder, stat.size),
            EntryKind::ImageFolder => (FileType::Folder, 0),
            EntryKind::Link => (FileType::Link, stat.size),
            EntryKind::Special => (stat.kind, stat.size),
            EntryKind::Passthrough | EntryKind::Broken(_) => (FileType::File, stat.size),
            EntryKind::Image { original_len } => (FileType::File, *original_len),
        };
        // a folder stays the same folder whatever is put into it
        let is_folder = matches!(kind, EntryKind::Folder);
        let identity = if is_folder { [0; 40] } else { stat.identity() };
        let ino = match &kind {
            // it stays the same file whatever is written to it, and under every name that it is
            // given
            kind if writable && kind.is_plain() => {
                number(Path::new(""), &stat.device_and_inode(), "")
            }
            _ => number(&path, &identity, ""),
        };
        let mut attr = attr(ino, file_type, size, &stat);
        if kind.is_plain() {
            (attr.blocks, attr.nlink) = (stat.blocks, stat.nlink);
        } else if file_type == FileType::Folder {
            attr.may_be_entered();
        } else {
            attr.nlink = stat.nlink;
        }
        Self {
            path,
            what: NodeKind::Disk(kind),
            stat,
            attr,
        }
    }

    /// The same with what an image has noted of it: who may read the image may look into it, and
    /// there these permissions count.
    #[must_use]
    pub(crate) fn noted_as(mut self, member: &Member) -> Self {
        self.attr.mtime = Time {
            seconds: member.modified.seconds,
            ns: member.modified.nanoseconds,
        };
        // bits that lend somebody's rights are not given
        self.attr.mode = (member.mode & 0o777) as u16;
        self
    }

    /// The same after the disk says something else of it.
    fn changed(&self, stat: Stat, writable: bool) -> Self {
        let NodeKind::Disk(kind) = &self.what else {
            return self.moved(self.path.clone());
        };
        let mut node = Self::of_disk(self.path.clone(), kind.clone(), stat, writable);
        node.attr.ino = self.attr.ino;
        node
    }

    /// Whether it is the root of the mount, or lies directly at the top of its source.
    pub(crate) fn is_top(&self) -> bool {
        self.path.as_os_str().is_empty()
    }

    /// The same at another path.
    fn moved(&self, path: PathBuf) -> Self {
        Self {
            path,
            what: self.what.clone(),
            stat: self.stat,
            attr: self.attr,
        }
    }

    /// A folder or file within the image of a folder at `image`.
    pub(crate) fn within(image: &Self, inner: &str, what: NodeKind, size: u64) -> Self {
        let kind = match what {
            NodeKind::ImageFolder(_) => FileType::Folder,
            NodeKind::ImageLink(..) => FileType::Link,
            NodeKind::ImageFile(..) | NodeKind::Disk(_) => FileType::File,
        };
        let ino = number(&image.path, &image.stat.identity(), inner);
        let mut attr = attr(ino, kind, size, &image.stat);
        if kind == FileType::Folder {
            attr.may_be_entered();
        }
        Self {
            path: image.path.clone(),
            what,
            stat: image.stat,
            attr,
        }
    }
}

fn attr(ino: u64, kind: FileType, size: u64, stat: &Stat) -> Attr {
    Attr {
        ino,
        kind,
        size,
        // the logical size: with less, `tar -S` takes the file for sparse and archives zeros
        blocks: size.div_ceil(512),
        atime: stat.atime,
        mtime: stat.mtime,
        ctime: stat.ctime,
        mode: stat.mode as u16,
        uid: stat.uid,
        gid: stat.gid,
        nlink: 1,
        rdev: stat.rdev,
    }
}

/// 62 bits of a hash, never 0 or the root's number.
fn number(path: &Path, identity: &[u8], inner: &str) -> u64 {
    let path = path.as_os_str().as_encoded_bytes();
    let hash = digest::xxh3(&[identity, path, b"\0", inner.as_bytes()].concat());
    (hash >> 2).max(ROOT + 1)
}

/// Where `path` is after `old` became `new`, if it is `old` or below it.
pub(crate) fn moved(path: &Path, old: &Path, new: &Path) -> Option<PathBuf> {
    let rest = path.strip_prefix(old).ok()?;
    // joined with nothing it would end with a slash
    Some(if rest.as_os_str().is_empty() {
        new.to_owned()
    } else {
        new.join(rest)
    })
}

#[derive(Debug)]
struct Remembered {
    node: Arc<Node>,
    /// How many times the kernel was told of it.
    times: u64,
    /// An earlier worker told it of this, too, nobody knows how many times.
    is_restored: bool,
}

/// Whether the kernel knows a node no more.
#[derive(Debug)]
pub(crate) enum Forgotten {
    No,
    Yes,
    /// Most probably; where it is should still be kept.
    Perhaps(Arc<Node>),
}

/// The nodes that the kernel knows.
#[derive(Debug)]
pub(crate) struct Tree {
    root: Arc<Node>,
    nodes: Mutex<BTreeMap<u64, Remembered>>,
}

impl Tree {
    pub(crate) fn new(root: Node) -> Self {
        Self {
            root: Arc::new(root),
            nodes: Mutex::default(),
        }
    }

    /// The node with this number.
    pub(crate) fn get(&self, ino: u64) -> Option<Arc<Node>> {
        if ino == ROOT {
            return Some(Arc::clone(&self.root));
        }
        self.nodes
            .lock()
            .get(&ino)
            .map(|known| Arc::clone(&known.node))
    }

    /// Remembers a node that the kernel is told of once more; whether it is new, or was found at
    /// another path. With `is_restored` an earlier worker told of it, too.
    pub(crate) fn remember(&self, node: Arc<Node>, is_restored: bool) -> bool {
        let mut nodes = self.nodes.lock();
        let before = nodes.get(&node.attr.ino);
        let is_new = !is_restored && before.is_none_or(|before| before.node.path != node.path);
        let known = Remembered {
            times: before.map_or(0, |before| before.times) + 1,
            is_restored: is_restored || before.is_some_and(|before| before.is_restored),
            // a file with several names is found under the one that was asked for last
            node,
        };
        nodes.insert(known.node.attr.ino, known);
        is_new
    }

    /// Takes over a node of an earlier worker.
    pub(crate) fn restore(&self, node: Arc<Node>) {
        let mut nodes = self.nodes.lock();
        let known = nodes.entry(node.attr.ino).or_insert(Remembered {
            node,
            times: 0,
            is_restored: true,
        });
        known.is_restored = true;
    }

    /// The disk says something else of the image behind a node, which goes on as the same one.
    pub(crate) fn change(&self, ino: u64, stat: Stat, writable: bool) {
        if let Some(known) = self.nodes.lock().get_mut(&ino) {
            known.node = Arc::new(known.node.changed(stat, writable));
        }
    }

    /// What was at `old` and below it is at `new` now; those nodes.
    pub(crate) fn rename(&self, old: &Path, new: &Path) -> Vec<Arc<Node>> {
        let mut found = Vec::new();
        for Remembered { node, .. } in self.nodes.lock().values_mut() {
            if let Some(path) = moved(&node.path, old, new) {
                *node = Arc::new(node.moved(path));
                found.push(Arc::clone(node));
            }
        }
        found
    }

    /// The kernel forgets a node that it was told of `times` times.
    pub(crate) fn forget(&self, ino: u64, times: u64) -> Forgotten {
        let mut nodes = self.nodes.lock();
        let Some(known) = nodes.get_mut(&ino) else {
            return Forgotten::No;
        };
        known.times = known.times.saturating_sub(times);
        if known.times > 0 {
            return Forgotten::No;
        }
        match nodes.remove(&ino) {
            Some(known) if known.is_restored => Forgotten::Perhaps(known.node),
            _ => Forgotten::Yes,
        }
    }
}
