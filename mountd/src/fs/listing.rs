//! Names: of the source's folders, and within images of folders.

use std::ffi::OsStr;
use std::sync::Arc;

use bigsmall::archive::FileRecord;
use bigsmall::archive::Image;
use bigsmall::archive::Member;
use bigsmall::archive::MemberKind;
use nix::errno::Errno;

use crate::fs::catalog;
use crate::fs::catalog::EntryKind;
use crate::fs::listed::Listed;
use crate::fs::root::Result;
use crate::fs::tree::Node;
use crate::fs::tree::NodeKind;
use crate::fs::view::Fs;

impl Fs {
    /// Takes a listing of a folder and gives its handle.
    pub(crate) fn open_folder(&self, ino: u64) -> Result<u64> {
        let listing = self.take_listing(ino)?;
        let handle = self.next_handle();
        self.listings.lock().insert(handle, Arc::new(listing));
        Ok(handle)
    }

    fn take_listing(&self, ino: u64) -> Result<Vec<Listed>> {
        let node = self.node(ino)?;
        let mut listing = match &node.what {
            NodeKind::Disk(EntryKind::Folder) => self.list_disk(&node)?,
            NodeKind::Disk(EntryKind::ImageFolder) => self.list_within(&node, "")?,
            NodeKind::ImageFolder(inner) => self.list_within(&node, inner)?,
            _ => return Err(Errno::ENOTDIR),
        };
        for name in [".", ".."] {
            listing.push(Listed {
                name: name.into(),
                attr: node.attr,
                node: None,
            });
        }
        Ok(listing)
    }

    /// The listing of a folder behind a handle. One that was given by a worker before this one is
    /// taken anew: it is the same unless the folder changed.
    pub(crate) fn listing(&self, ino: u64, handle: u64) -> Result<Arc<Vec<Listed>>> {
        if let Some(listing) = self.listings.lock().get(&handle) {
            return Ok(Arc::clone(listing));
        }
        let listing = Arc::new(self.take_listing(ino)?);
        self.listings.lock().insert(handle, Arc::clone(&listing));
        Ok(listing)
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
                .is_none_or(|only| !node.is_top() || disk == only)
        };
        let items = items.into_iter().filter(|(_, item)| shown(&item.disk_name));
        Ok(items
            .map(|(name, item)| {
                let node = Node::of_item(&node.path, item, self.writable);
                Listed::new(name, node)
            })
            .collect())
    }

    /// The names directly under `inner` in an image of a folder.
    fn list_within(&self, image: &Node, inner: &str) -> Result<Vec<Listed>> {
        let archive = self.image(image)?.ok_or(Errno::ENOTDIR)?;
        if !archive.members().is_empty() {
            return Ok(list_members(image, &archive, inner));
        }
        let mut listing: Vec<Listed> = Vec::new();
        // files stand in ascending order of their paths, so those of one folder are neighbours
        for (number, file) in archive.files().iter().enumerate() {
            let Some(rest) = below(inner, file) else {
                continue;
            };
            let (name, node) = child(image, inner, rest, number, file);
            if listing.last().is_none_or(|last| last.name != *name) {
                listing.push(Listed::new(name.into(), node));
            }
        }
        // `a-b` stands between `a/x` and `a` never, but between `a` and `a/x` of another kind it
        // may
        listing.sort_by(|a, b| a.name.cmp(&b.name));
        listing.dedup_by(|a, b| a.name == b.name);
        Ok(listing)
    }

    /// What `name` directly under `inner` in an image of a folder is. Files stand in ascending
    /// order of their paths, so it is found by halving.
    pub(super) fn find_within(
        &self,
        image: &Node,
        inner: &str,
        name: &OsStr,
    ) -> Result<Option<Node>> {
        let Some(wanted) = name.to_str() else {
            return Ok(None);
        };
        let archive = self.image(image)?.ok_or(Errno::ENOTDIR)?;
        let files = archive.files();
        let path = if inner.is_empty() {
            wanted.to_owned()
        } else {
            format!("{inner}/{wanted}")
        };
        let members = archive.members();
        if !members.is_empty() {
            let member = members.binary_search_by(|member| member.path.cmp(&path));
            let member = member.ok().map(|number| &members[number]);
            return Ok(member.and_then(|member| node_of(image, &archive, member)));
        }
        let number = files.partition_point(|file| file.path < path);
        if let Some(file) = files.get(number).filter(|file| file.path == path) {
            return Ok(Some(Node::within(
                image,
                &path,
                NodeKind::ImageFile(number, path.clone()),
                file.len,
            )));
        }
        let below = format!("{path}/");
        let first = files.get(files.partition_point(|file| file.path < below));
        let is_folder = first.is_some_and(|file| file.path.starts_with(&below));
        Ok(is_folder.then(|| Node::within(image, &path, NodeKind::ImageFolder(path.clone()), 0)))
    }
}

/// What an image has noted of the names directly under `inner`, in ascending order.
fn list_members(image: &Node, archive: &Image, inner: &str) -> Vec<Listed> {
    let within = if inner.is_empty() {
        String::new()
    } else {
        format!("{inner}/")
    };
    let members = archive.members();
    let first = members.partition_point(|member| member.path.as_str() <= within.as_str());
    let below = members[first..].iter();
    let below = below.map_while(|member| Some((member.path.strip_prefix(&within)?, member)));
    below
        .filter(|(name, _)| !name.contains('/'))
        .filter_map(|(name, member)| {
            let node = node_of(image, archive, member)?;
            Some(Listed::new(name.into(), node))
        })
        .collect()
}

/// The node of a member of an image of a folder. A link that could lead out of the folder is none:
/// whoever made the image would say what others read in its place.
fn node_of(image: &Node, archive: &Image, member: &Member) -> Option<Node> {
    let path = member.path.clone();
    let (what, size) = match &member.kind {
        MemberKind::Folder => (NodeKind::ImageFolder(path), 0),
        MemberKind::Link { target } if member.stays_within() => (
            NodeKind::ImageLink(target.clone(), path),
            target.len() as u64,
        ),
        MemberKind::Link { .. } => return None,
        MemberKind::File { .. } => {
            let files = archive.files();
            let number = files.partition_point(|file| file.path < path);
            let len = files.get(number)?.len;
            (NodeKind::ImageFile(number, path), len)
        }
    };
    let node = Node::within(image, &member.path, what, size);
    Some(node.noted_as(member))
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
        Node::within(image, &path, NodeKind::ImageFolder(path.clone()), 0)
    } else {
        Node::within(
            image,
            &path,
            NodeKind::ImageFile(number, path.clone()),
            file.len,
        )
    };
    (name, node)
}
