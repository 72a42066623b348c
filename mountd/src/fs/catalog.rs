//! What a folder of the source shows: which files are images, and under which names they appear.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fs::File;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;

use bigsmall::archive;
use bigsmall::archive::BlockCache;
use bigsmall::archive::Header;
use bigsmall::archive::ImageKind;
use bigsmall::archive::PackageFile;
use bigsmall::archive::TensorCache;
use bigsmall::archive::naming;
use bigsmall::base::Error;
use bigsmall::base::FileSource;
use nix::errno::Errno;

use crate::fs::root::Result;
use crate::fs::root::Root;
use crate::fs::root::Stat;
use crate::node::FileType;

/// What a name stands for.
#[derive(Debug, Clone)]
pub(crate) enum EntryKind {
    /// A folder of the source.
    Folder,
    /// A link, served as one.
    Link,
    /// A file that passes through.
    Passthrough,
    /// A pipe, socket or device, which the kernel serves itself.
    Special,
    /// An image of one file, of this original size; ours or the Python package's.
    Image { original_len: u64 },
    /// An image of a folder.
    ImageFolder,
    /// An image that cannot be used: it is listed, and opening it fails.
    Broken(Error),
}

impl EntryKind {
    /// Whether it is just what the disk has: no image.
    pub(crate) fn is_plain(&self) -> bool {
        match self {
            Self::Folder | Self::Link | Self::Passthrough | Self::Special => true,
            Self::Image { .. } | Self::ImageFolder | Self::Broken(_) => false,
        }
    }
}

/// One name of a folder.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// The name on the disk.
    pub(crate) disk_name: OsString,
    /// What it stands for.
    pub(crate) kind: EntryKind,
    /// What the disk says of it.
    pub(crate) stat: Stat,
}

/// What `name` in `folder` shows, if it shows anything.
pub(crate) fn find(root: &Root, folder: &Path, name: &OsStr) -> Result<Option<Item>> {
    if let Some((shown, item)) = look(root, folder, name)?
        && shown == name
    {
        return Ok(Some(item));
    }
    for candidate in images_for(name) {
        if let Some((shown, item)) = look(root, folder, &candidate)?
            && shown == name
        {
            return Ok(Some(item));
        }
    }
    Ok(None)
}

/// What the disk's `name` in `folder` is, whatever it is shown as.
pub(crate) fn at(root: &Root, folder: &Path, name: &OsStr) -> Result<Option<Item>> {
    Ok(look(root, folder, name)?.map(|(_, item)| item))
}

/// What an image is that is open already, at `path` or not.
pub(crate) fn of_open(root: &Root, path: &Path, file: File) -> Result<EntryKind, Error> {
    let shown_path = root.shown(path);
    let source = FileSource::from_file(file, &shown_path)?;
    if archive::is_package(&source) {
        return kind_of_package(source, &shown_path);
    }
    archive::peek(&source, &shown_path).map(|header| kind_of(&header))
}

/// Whether the disk has something of this name that is shown under another.
pub(crate) fn hides(root: &Root, folder: &Path, name: &OsStr) -> Result<bool> {
    Ok(look(root, folder, name)?.is_some_and(|(shown, _)| shown != name))
}

/// The name under which the image at `path` would appear if the disk called it `name`.
pub(super) fn shown_as(root: &Root, path: &Path, name: &OsStr) -> Result<OsString> {
    let (file, _) = root.open_file(path)?;
    let shown_path = root.shown(path);
    let Ok(source) = FileSource::from_file(file, &shown_path) else {
        return Ok(guessed_name(name));
    };
    Ok(match archive::peek(&source, &shown_path) {
        Ok(header) => shown_name(name, &header),
        Err(_) if archive::claims_to_be_image(&source) => guessed_name(name),
        Err(_) => name.to_owned(),
    })
}

fn shown_name(name: &OsStr, header: &Header) -> OsString {
    naming::original_name(name, header).unwrap_or_else(|| name.to_owned())
}

/// The disk names of images that may stand for `name`: with nothing taken off, and with each
/// possible suffix taken off.
pub(super) fn images_for(name: &OsStr) -> Vec<OsString> {
    let bytes = name.as_bytes();
    let image = |stem: &[u8]| {
        let mut image = OsStr::from_bytes(stem).to_owned();
        image.push(naming::IMAGE_EXTENSION);
        image
    };
    let dots = (1..bytes.len()).filter(|&at| bytes[at] == b'.');
    std::iter::once(image(bytes))
        .chain(dots.rev().map(|at| image(&bytes[..at])))
        .collect()
}

/// All names of `folder` and what they stand for. Where two would have one name, the plain file
/// wins.
pub(crate) fn list(root: &Root, folder: &Path) -> Result<BTreeMap<OsString, Item>> {
    let mut items: BTreeMap<OsString, Item> = BTreeMap::new();
    let mut images = Vec::new();
    for name in root.list(folder)? {
        let Some((shown, item)) = look(root, folder, &name)? else {
            continue;
        };
        if shown == name {
            items.insert(shown, item);
        } else {
            images.push((shown, item));
        }
    }
    // in the order in which `find` tries them, so that both agree on collisions
    images.sort_by_key(|(shown, item)| {
        images_for(shown)
            .iter()
            .position(|candidate| *candidate == item.disk_name)
    });
    for (shown, item) in images {
        let name = item.disk_name.clone();
        if let Some(kept) = items.insert(shown.clone(), item) {
            tracing::warn!(
                "`{}` is not shown: `{}` has the same name already",
                root.shown(&folder.join(name)).display(),
                root.shown(&folder.join(&kept.disk_name)).display()
            );
            items.insert(shown, kept);
        }
    }
    Ok(items)
}

/// What the disk's `name` shows, and as what name.
fn look(root: &Root, folder: &Path, name: &OsStr) -> Result<Option<(OsString, Item)>> {
    let path = folder.join(name);
    let stat = match root.stat(&path) {
        Ok(stat) => stat,
        // gone meanwhile, or too long for the disk to have it
        Err(Errno::ENOENT | Errno::ENAMETOOLONG | Errno::ENOTDIR) => return Ok(None),
        Err(errno) => return Err(errno),
    };
    let item = |kind, stat| Item {
        disk_name: name.to_owned(),
        kind,
        stat,
    };
    let kind = match stat.kind {
        FileType::Folder => EntryKind::Folder,
        FileType::Link => EntryKind::Link,
        FileType::File if naming::is_image_name(name) => {
            return Ok(Some(look_into(root, &path, name, item, stat)));
        }
        FileType::File => EntryKind::Passthrough,
        FileType::Fifo | FileType::Socket | FileType::CharacterDevice | FileType::BlockDevice => {
            EntryKind::Special
        }
    };
    Ok(Some((name.to_owned(), item(kind, stat))))
}

fn look_into(
    root: &Root,
    path: &Path,
    name: &OsStr,
    item: impl Fn(EntryKind, Stat) -> Item,
    stat: Stat,
) -> (OsString, Item) {
    let shown_path = root.shown(path);
    let opened = root.open_file(path).map_err(|errno| {
        Error::io(
            "cannot open",
            &shown_path,
            std::io::Error::from_raw_os_error(errno as i32),
        )
    });
    let source = opened.and_then(|(file, stat)| {
        FileSource::from_file(file, &shown_path).map(|source| (source, stat))
    });
    let (source, stat) = match source {
        Ok(opened) => opened,
        // it cannot be read by us: it is listed as what it most probably is
        Err(error) => return (guessed_name(name), item(EntryKind::Broken(error), stat)),
    };
    if archive::is_package(&source) {
        let kind = kind_of_package(source, &shown_path);
        let kind = kind.unwrap_or_else(EntryKind::Broken);
        return (guessed_name(name), item(kind, stat));
    }
    match archive::peek(&source, &shown_path) {
        Ok(header) => (shown_name(name, &header), item(kind_of(&header), stat)),
        Err(error) if archive::claims_to_be_image(&source) => {
            (guessed_name(name), item(EntryKind::Broken(error), stat))
        }
        // some other program's `.bs` file passes through
        Err(_) => (name.to_owned(), item(EntryKind::Passthrough, stat)),
    }
}

fn kind_of(header: &Header) -> EntryKind {
    match header.kind {
        ImageKind::File => EntryKind::Image {
            original_len: header.original_len,
        },
        ImageKind::Folder => EntryKind::ImageFolder,
    }
}

/// A file of the Python package stands for a safetensors file, of which it says all but the
/// header's spelling.
fn kind_of_package(source: FileSource, path: &Path) -> Result<EntryKind, Error> {
    let file = PackageFile::open(
        Arc::new(source),
        path,
        BlockCache::new(0),
        TensorCache::new(),
    )?;
    Ok(EntryKind::Image {
        original_len: file.byte_len(),
    })
}

/// The name of an image whose suffix cannot be read: most images are of safetensors files.
fn guessed_name(name: &OsStr) -> OsString {
    let stem = name
        .as_bytes()
        .strip_suffix(naming::IMAGE_EXTENSION.as_bytes());
    let mut guessed = OsStr::from_bytes(stem.unwrap_or(name.as_bytes())).to_owned();
    if !naming::is_model_name(&guessed) {
        guessed.push(naming::MODEL_EXTENSION);
    }
    guessed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_suffix_is_tried() {
        let images = images_for(OsStr::new("a.b.safetensors"));
        assert_eq!(images, ["a.b.safetensors.bs", "a.b.bs", "a.bs"]);
        assert_eq!(images_for(OsStr::new(".x")), [".x.bs"]);
    }
}
