//! What a file was made from, as an attribute of it says: by that a second run knows what is its
//! own to replace.

use std::fs;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;

use rustix::fs::XattrFlags;

use crate::archive;
use crate::archive::Archive;
use crate::archive::naming;
use crate::base::Error;
use crate::base::FileSource;
use crate::base::Result;
use crate::base::atomic;
use crate::base::attributes;
use crate::base::digest;
use crate::format::ImageKind;
use crate::ops::folder;

/// The attribute. It holds a digest of the path: that tells nobody else where the file came from,
/// and is never too long.
const ATTRIBUTE: &str = attributes::ORIGIN;
/// The longest that is written or read.
const LEN_MAX: usize = 4096;
/// What stands between the digests of several sources.
const AND: char = ',';

/// What is known of where a file came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// It was made from that source.
    Same,
    /// It was copied from that source, and written to since.
    Edited,
    /// It was made from something else.
    Other,
    /// Nothing: there is no attribute, or the file system has none.
    Unknown,
}

/// The name of a source that may be gone, or lie in a folder that is.
fn token(source: &Path) -> String {
    let folder = folder::real(atomic::folder_of(source));
    let path = folder.join(source.file_name().unwrap_or_default());
    let path = if source.is_dir() {
        folder::real(source)
    } else {
        path
    };
    digest::hex(&digest::blake3(path.as_os_str().as_encoded_bytes()))
}

/// As long as nobody writes to it.
fn state(metadata: &Metadata) -> String {
    let (seconds, rest) = (metadata.mtime(), metadata.mtime_nsec());
    format!("{seconds}.{rest:09} {}", metadata.len())
}

/// Marks an image as made from `source`; false where that cannot be kept.
pub(crate) fn mark_image(image: &Path, source: &Path) -> bool {
    set(image, &token(source))
}

/// Marks an image as made from `source`, too, if it has several names (hard links): such a mark is
/// that of all of them. One that has a single name is marked anew.
pub(crate) fn add_source(image: &Path, source: &Path) -> bool {
    let has_names = fs::symlink_metadata(image).is_ok_and(|metadata| metadata.nlink() > 1);
    let there = value_of(image).filter(|value| has_names && !value.contains(' '));
    let token = token(source);
    match there {
        Some(there) if there.split(AND).any(|known| known == token) => true,
        Some(there) if there.len() + 1 + token.len() <= LEN_MAX => {
            set(image, &format!("{there}{AND}{token}"))
        }
        // by its content it is known all the same
        Some(_) => false,
        None => set(image, &token),
    }
}

/// Marks a copy of `source`, which is ours as long as nobody writes to it.
pub(crate) fn mark_copy(copy: &Path, source: &Path) -> bool {
    let state = fs::symlink_metadata(copy).map(|metadata| state(&metadata));
    state.is_ok_and(|state| set(copy, &format!("{} {state}", token(source))))
}

fn set(path: &Path, value: &str) -> bool {
    rustix::fs::lsetxattr(path, ATTRIBUTE, value.as_bytes(), XattrFlags::empty()).is_ok()
}

fn value_of(path: &Path) -> Option<String> {
    let mut value = vec![0; LEN_MAX];
    let len = rustix::fs::lgetxattr(path, ATTRIBUTE, &mut value).ok()?;
    value.truncate(len);
    String::from_utf8(value).ok()
}

/// Where the file at `path` came from: from `source`?
pub(crate) fn of(path: &Path, source: &Path) -> Origin {
    let Some(value) = value_of(path) else {
        return Origin::Unknown;
    };
    let (sources, written) = value.split_once(' ').unwrap_or((&value, ""));
    let token = token(source);
    if !sources.split(AND).any(|of_source| of_source == token) {
        return Origin::Other;
    }
    let is_as_written = || {
        let metadata = fs::symlink_metadata(path);
        metadata.is_ok_and(|metadata| state(&metadata) == written)
    };
    if written.is_empty() || is_as_written() {
        Origin::Same
    } else {
        Origin::Edited
    }
}

/// What may be replaced.
#[derive(Debug, Clone, Default)]
pub struct Replacing {
    /// What exists, if it is no image or an image of the very source.
    pub force: bool,
    /// Images that may go, whatever they are of; none where the command cannot be told any.
    pub discard: Option<Vec<PathBuf>>,
}

impl Replacing {
    /// Of a command that cannot be told which images may go.
    pub fn forced(force: bool) -> Self {
        Self {
            force,
            discard: None,
        }
    }

    /// Whether what is at this path was named as one that may go.
    pub fn discards(&self, path: &Path) -> bool {
        let real = folder::real(path);
        let mut named = self.discard.iter().flatten();
        named.any(|named| folder::real(named) == real)
    }

    /// An error if something is at `target` that must not give way to an image of `source`.
    pub fn check(&self, target: &Path, source: &Path) -> Result<()> {
        let is_of = |image: &Archive| is_image_of(image, source);
        self.check_image(target, is_of)
    }

    /// An error if something is at `target` that must not give way to an image of the same as
    /// `source`, which is one, too.
    pub fn check_recoded(&self, target: &Path, source: &Path) -> Result<()> {
        let is_of = |image: &Archive| {
            let other = Archive::open(source);
            other.is_ok_and(|other| hold_the_same(image, &other)) || is_image_of(image, source)
        };
        self.check_image(target, is_of)
    }

    /// An error if an image, or something else without `force`, is at `target`, where something
    /// else than an image is to be.
    pub fn check_other(&self, target: &Path) -> Result<()> {
        self.check_image(target, |_| false)
    }

    fn check_image(&self, target: &Path, is_of: impl Fn(&Archive) -> bool) -> Result<()> {
        let named = self.discards(target);
        let is_image =
            FileSource::open(target).is_ok_and(|file| archive::claims_to_be_image(&file));
        // one that is damaged is of nobody knows what
        let gives_way = !is_image || Archive::open(target).is_ok_and(|image| is_of(&image));
        if gives_way || named {
            let hint = "replace it with `--force`, or choose another name";
            return atomic::check_target(target, self.force || named).map_err(|e| e.hint(hint));
        }
        let what = "is an image of something else, which might be nowhere else: never replaced";
        let shown = target.display();
        let hint = match self.discard {
            None => "choose another name".to_owned(),
            Some(_) => {
                format!("choose another name; if that image may go, add `--discard-image {shown}`")
            }
        };
        Err(Error::invalid(what).file(target).hint(hint))
    }
}

/// An error if an image is at `to` that must not give way to a copy of `from`.
pub(crate) fn check_copy(from: &Path, to: &Path) -> Result<()> {
    if of(to, from) == Origin::Same || folder::are_same(from, to).unwrap_or(false) {
        return Ok(());
    }
    Replacing::forced(true).check_recoded(to, from)
}

/// Whether an image was made from what is, or was, at `source`: as its mark says, or where it has
/// none by its name or its content.
fn is_image_of(image: &Archive, source: &Path) -> bool {
    match of(image.path(), source) {
        Origin::Same | Origin::Edited => return true,
        Origin::Other => return is_content(image, source),
        Origin::Unknown => {}
    }
    let name = image.path().file_name().unwrap_or_default();
    let original = naming::original_name(name, image.header());
    (original.is_some() && original.as_deref() == source.file_name()) || is_content(image, source)
}

fn is_content(image: &Archive, source: &Path) -> bool {
    let [record] = image.files() else {
        return false;
    };
    let is_it = |source: FileSource| digest::sha256_of(&source).is_ok_and(|it| it == record.sha256);
    image.header().kind == ImageKind::File && FileSource::open(source).is_ok_and(is_it)
}

/// Whether two images give the same files under the same names, with the same permissions and all.
pub(crate) fn hold_the_same(image: &Archive, other: &Archive) -> bool {
    let what = |archive: &Archive| (archive.header().kind, archive.header().suffix.clone());
    let files = |archive: &Archive| -> Vec<(String, [u8; 32])> {
        let files = archive.files().iter();
        files.map(|file| (file.path.clone(), file.sha256)).collect()
    };
    let members = |archive: &Archive| archive.index().members.clone();
    what(image) == what(other) && files(image) == files(other) && members(image) == members(other)
}
