//! The record of what `convert` has put in the place of files, for the way back. Lines are only
//! ever added, so that nothing that another run notes is lost; it goes when all that it tells of is
//! back.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io::Write;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::path::PathBuf;

use nix::unistd::AccessFlags;
use nix::unistd::access;

use crate::archive::hf_cache;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::LockedFile;
use crate::base::Result;
use crate::base::atomic;
use crate::base::file;
use crate::base::identity::Identity;

/// Its name in a folder.
pub const NAME: &str = ".bigsmall-converted";
/// What the second field is if the first is empty: the image that the third names is no longer told
/// of.
const DONE: &str = "done";

/// An image that was put in the place of a file; paths are relative to the record's folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Line {
    /// The image.
    pub image: PathBuf,
    /// The file that it was.
    pub path: PathBuf,
    /// sha256 of that file, and length of the image: by these it is known wherever it was moved.
    /// Older records lack them.
    pub content: Option<(String, u64)>,
}

/// The record of one folder.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    folder: PathBuf,
    lines: BTreeMap<PathBuf, Line>,
}

impl Record {
    /// That of a folder; none if there is no such file.
    pub(crate) fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join(NAME);
        match file::read_regular(&path) {
            Ok(bytes) => Ok(Some(Self::parse(folder, &bytes))),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::io("cannot read", &path, e)),
        }
    }

    /// Lines that a stopped run has left half written are passed over.
    fn parse(folder: &Path, bytes: &[u8]) -> Self {
        let mut lines = BTreeMap::new();
        for line in bytes.split(|&byte| byte == b'\n') {
            let fields: Vec<&[u8]> = line.split(|&byte| byte == b'\t').collect();
            if let [b"", done, image, ..] = fields.as_slice() {
                if *done == DONE.as_bytes() {
                    lines.remove(&unescape(image));
                }
            } else if let [image, path, rest @ ..] = fields.as_slice() {
                let line = Line {
                    image: unescape(image),
                    path: unescape(path),
                    content: content(rest),
                };
                lines.insert(line.image.clone(), line);
            }
        }
        Self {
            folder: folder.to_owned(),
            lines,
        }
    }

    /// The folder that it is in.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// What it tells of.
    pub(crate) fn lines(&self) -> impl Iterator<Item = &Line> {
        self.lines.values()
    }

    /// The line of the image at this whole path.
    pub(crate) fn line_of(&self, image: &Path) -> Option<&Line> {
        self.lines.get(image.strip_prefix(&self.folder).ok()?)
    }

    /// Where the image of a line was put.
    pub(crate) fn image(&self, line: &Line) -> PathBuf {
        self.folder.join(&line.image)
    }

    /// Whether what a line tells of is over: the image has gone, and a file is under the name that
    /// it stood for.
    pub(crate) fn is_settled(&self, line: &Line) -> bool {
        fs::symlink_metadata(self.image(line)).is_err()
            && fs::symlink_metadata(self.folder.join(&line.path)).is_ok()
    }
}

fn content(fields: &[&[u8]]) -> Option<(String, u64)> {
    let [sha256, len, ..] = fields else {
        return None;
    };
    let text = |bytes: &[u8]| std::str::from_utf8(bytes).ok().map(str::to_owned);
    Some((text(sha256)?, text(len)?.parse().ok()?))
}

/// Notes an image in the record of a folder; it is durable afterwards.
pub(crate) fn note(folder: &Path, line: &Line) -> Result<()> {
    let mut text = format!("{}\t{}", escape(&line.image), escape(&line.path));
    if let Some((sha256, len)) = &line.content {
        text = format!("{text}\t{sha256}\t{len}");
    }
    add(folder, &text)
}

/// Notes that an image is no longer told of: it is the file again, or was given up.
pub(crate) fn note_done(folder: &Path, image: &Path) -> Result<()> {
    add(folder, &format!("\t{DONE}\t{}", escape(image)))
}

/// Strikes images that were removed for good, by their whole paths, from the records in the folders
/// above them.
pub(crate) fn strike(images: &[PathBuf]) -> Result<()> {
    let mut records: BTreeMap<&Path, Option<Record>> = BTreeMap::new();
    for image in images {
        for folder in image.ancestors().skip(1) {
            // nobody can have converted what is below a folder that he cannot read
            let record = records
                .entry(folder)
                .or_insert_with(|| Record::read(folder).ok().flatten());
            let line = record.as_ref().and_then(|record| record.line_of(image));
            if let Some(line) = line {
                note_done(folder, &line.image)?;
            }
        }
    }
    let told_of = records.into_iter().filter(|(_, record)| record.is_some());
    for (folder, _) in told_of {
        remove_if_settled(folder)?;
    }
    Ok(())
}

fn add(folder: &Path, line: &str) -> Result<()> {
    let path = folder.join(NAME);
    let failed = |e| Error::io("cannot write", &path, e);
    let mut options = File::options();
    let mut file = open_locked(&path, options.create(true).append(true))?;
    let is_new = file.metadata().map_err(failed)?.len() == 0;
    // begun anew, as a run may have been stopped in the middle of a line
    file.write_all(format!("\n{line}\n").as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed)?;
    if is_new {
        atomic::sync_folder(folder)?;
    }
    Ok(())
}

/// The record, locked: whoever removes it holds it meanwhile, so nobody writes into one that has
/// gone.
fn open_locked(path: &Path, options: &fs::OpenOptions) -> Result<LockedFile> {
    let failed = |e| Error::io("cannot open", path, e);
    loop {
        // what is no file is never opened: a pipe would wait for ever
        if fs::symlink_metadata(path).is_ok_and(|metadata| !metadata.is_file()) {
            return Err(Error::invalid("is no file, a record is to be written").file(path));
        }
        let file = LockedFile::wait(options.open(path).map_err(failed)?);
        let held = Identity::of(&file.metadata().map_err(failed)?);
        let there = fs::symlink_metadata(path);
        if there.is_ok_and(|there| Identity::of(&there).is_same_file(&held)) {
            return Ok(file);
        }
    }
}

/// Removes the record of a folder if it has lines and all that they tell of is over.
pub(crate) fn remove_if_settled(folder: &Path) -> Result<()> {
    let path = folder.join(NAME);
    let _held = match open_locked(&path, File::options().read(true)) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        held => held?,
    };
    let bytes = fs::read(&path).map_err(|e| Error::io("cannot read", &path, e))?;
    let record = Record::parse(folder, &bytes);
    let is_ours = bytes.contains(&b'\t');
    if !is_ours || !record.lines().all(|line| record.is_settled(line)) {
        return Ok(());
    }
    fs::remove_file(&path).map_err(|e| Error::io("cannot remove", &path, e))?;
    atomic::sync_folder(folder)
}

/// An error if no record can be written in a folder.
pub(crate) fn check_writable(folder: &Path) -> Result<()> {
    let path = folder.join(NAME);
    let refused = |e: nix::Error| {
        Error::io(
            "the record for the way back cannot be written",
            &path,
            e.into(),
        )
        .hint("without it nothing is converted: make its folder writable")
    };
    match fs::symlink_metadata(&path) {
        Ok(_) => {
            open_locked(&path, File::options().append(true))
                .map_err(|e| e.hint("without the record nothing is converted"))?;
            Ok(())
        }
        Err(_) => access(folder, AccessFlags::W_OK | AccessFlags::X_OK).map_err(refused),
    }
}

/// Where the records of a tree are: at its top, but never at the top of a Hugging Face cache, whose
/// tools would take one there for a broken model.
#[derive(Debug, Clone)]
pub(crate) struct RecordFolders {
    root: PathBuf,
    /// The root of the cache whose folder above cannot be written.
    within: Option<PathBuf>,
}

impl RecordFolders {
    /// Of the tree at `folder`.
    pub(crate) fn of(folder: &Path) -> Self {
        let Some(cache) = hf_cache::root_of(folder) else {
            return Self {
                root: folder.to_owned(),
                within: None,
            };
        };
        let above = cache.parent().filter(|above| check_writable(above).is_ok());
        Self {
            root: above.unwrap_or(folder).to_owned(),
            within: above.is_none().then_some(cache),
        }
    }

    /// The folder whose record tells of the image of the file at this whole path.
    pub(crate) fn folder_for(&self, path: &Path) -> PathBuf {
        let repository = self.within.as_ref().and_then(|cache| {
            let within = path.strip_prefix(cache).ok()?;
            let repository = cache.join(within.components().next()?);
            hf_cache::is_repository(&repository).then_some(repository)
        });
        repository.unwrap_or_else(|| self.root.clone())
    }
}

/// A path on one line, whatever bytes it has.
fn escape(path: &Path) -> String {
    let bytes = path.as_os_str().as_encoded_bytes();
    bytes.escape_ascii().to_string()
}

/// The undo.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        let escaped = match (first, after) {
            (b'\\', [b'x', high, low, ..]) => {
                let digits = [*high, *low];
                let digits = std::str::from_utf8(&digits).ok();
                let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
                byte.map(|byte| (byte, 3))
            }
            (b'\\', [b't', ..]) => Some((b'\t', 1)),
            (b'\\', [b'n', ..]) => Some((b'\n', 1)),
            (b'\\', [b'r', ..]) => Some((b'\r', 1)),
            (b'\\', [other, ..]) => Some((*other, 1)),
            _ => None,
        };
        let (byte, len) = escaped.unwrap_or((first, 0));
        bytes.push(byte);
        rest = &rest[len..];
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn line(image: &str) -> Line {
        Line {
            image: image.into(),
            path: format!("{image}.was").into(),
            content: Some(("ab".to_owned(), 5)),
        }
    }

    #[test]
    fn lines_are_added_and_taken_back_and_old_ones_are_read() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        assert!(Record::read(at).unwrap().is_none());
        let odd = line("a\tb\n\\x41\"\u{e9}");
        note(at, &odd).unwrap();
        note(at, &line("second")).unwrap();
        let mut file = File::options().append(true).open(at.join(NAME)).unwrap();
        file.write_all(b"\nold.bs\told.safetensors\n\nhalf")
            .unwrap();
        note_done(at, Path::new("second")).unwrap();
        let record = Record::read(at).unwrap().unwrap();
        assert_eq!(record.lines().count(), 2);
        assert_eq!(record.line_of(&at.join(&odd.image)), Some(&odd));
        let old = record.line_of(&at.join("old.bs")).unwrap();
        assert_eq!(
            (old.path.to_str(), &old.content),
            (Some("old.safetensors"), &None)
        );
        // it goes when all is over, and not before
        remove_if_settled(at).unwrap();
        assert!(at.join(NAME).exists());
        note_done(at, &odd.image).unwrap();
        File::create(at.join("old.safetensors")).unwrap();
        remove_if_settled(at).unwrap();
        assert!(!at.join(NAME).exists());
    }

    #[test]
    fn every_byte_comes_back() {
        let bytes: Vec<u8> = (1..=255).collect();
        let path = PathBuf::from(OsString::from_vec(bytes));
        assert_eq!(unescape(escape(&path).as_bytes()), path);
        for hostile in ["\\", "\\x", "\\x4", "\\xzz", "a\\"] {
            unescape(hostile.as_bytes());
        }
    }

    #[test]
    fn a_foreign_file_of_that_name_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(NAME);
        File::create(&path).unwrap();
        remove_if_settled(folder.path()).unwrap();
        assert!(path.exists());
    }
}
