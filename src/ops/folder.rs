//! Folders: what is in them, in a fixed order, and which of it are models or images.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::archive;
use crate::archive::naming;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::LockedFile;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::Result;
use crate::base::atomic;
use crate::base::atomic::Unfinished;
use crate::base::attributes;
use crate::base::digest;
use crate::base::file;
use crate::base::file::Identity;
use crate::base::mounts;
use crate::base::mounts::Mounted;
use crate::base::progress::Reason;
use crate::base::progress::Silent;
use crate::base::progress::Skipped;
use crate::ops::companions;
use crate::ops::origin;
use crate::parity;
use crate::tensor::Header;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EntryKind {
    /// A folder.
    Folder,
    /// A regular file, or a link to one that lies outside the folder.
    File,
    /// A link that stays within the folder or leads nowhere, and its target.
    Link(PathBuf),
    /// A device, pipe or socket.
    Special,
}

/// One thing in a folder.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Path relative to the folder.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
}

/// Everything under `root`, folders before what is in them, by name. What the system does not let
/// be listed is passed over, but for `root` itself.
pub fn walk(root: &Path, progress: &dyn Progress) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for name in names_in(root)? {
        walk_into(root, Path::new(&name), &mut entries, progress)?;
    }
    Ok(entries)
}

fn names_in(folder: &Path) -> Result<Vec<OsString>> {
    let failed = |e| Error::io("cannot be listed", folder, e);
    let names = fs::read_dir(folder).map_err(failed)?;
    let names = names.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names: Vec<_> = names.collect::<io::Result<_>>().map_err(failed)?;
    names.sort();
    Ok(names)
}

/// Adds what is at `path`, and what is in it.
fn walk_into(
    root: &Path,
    path: &Path,
    entries: &mut Vec<Entry>,
    progress: &dyn Progress,
) -> Result<()> {
    let full = root.join(path);
    let skip = |error: &Error| match error.kind() {
        // gone since its name was read
        ErrorKind::NotFound => Ok(()),
        _ => progress.skip(Skipped::unreadable(&full, error)),
    };
    let kind = match kind_of(&full, path.parent().unwrap_or(Path::new(""))) {
        Ok(kind) => kind,
        Err(error) => return skip(&error),
    };
    let is_folder = kind == EntryKind::Folder;
    entries.push(Entry {
        path: path.to_owned(),
        kind,
    });
    if !is_folder {
        return Ok(());
    }
    match names_in(&full) {
        Ok(names) => {
            let mut names = names.into_iter();
            names.try_for_each(|name| walk_into(root, &path.join(name), entries, progress))
        }
        Err(error) => skip(&error),
    }
}

/// What stands at `full`, which is in folder `within` of the root.
fn kind_of(full: &Path, within: &Path) -> Result<EntryKind> {
    let metadata = fs::symlink_metadata(full).map_err(|e| Error::io("cannot stat", full, e))?;
    if metadata.is_dir() {
        return Ok(EntryKind::Folder);
    }
    if metadata.is_file() {
        return Ok(EntryKind::File);
    }
    if !metadata.is_symlink() {
        return Ok(EntryKind::Special);
    }
    let target = fs::read_link(full).map_err(|e| Error::io("cannot read the link", full, e))?;
    let leads_to_file = fs::metadata(full).is_ok_and(|m| m.is_file());
    if leads_to_file && leads_out(within, &target) {
        Ok(EntryKind::File)
    } else {
        Ok(EntryKind::Link(target))
    }
}

/// Whether a link in folder `from` (relative to the root) with this target leaves the root, by its words alone.
fn leads_out(from: &Path, target: &Path) -> bool {
    let mut depth = from.components().count();
    for component in target.components() {
        match component {
            Component::Normal(_) => depth += 1,
            Component::CurDir => {}
            Component::ParentDir if depth > 0 => depth -= 1,
            Component::ParentDir | Component::RootDir | Component::Prefix(_) => return true,
        }
    }
    false
}

/// Whether the file at `path` is taken for a model: by its name, or by its content if the name
/// says little: if it ends with `.sft`, or has no extension (as in the blobs of the Hugging Face
/// cache).
pub fn is_model(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default();
    match naming::model_extension(name) {
        Some(extension) if extension.eq_ignore_ascii_case(naming::MODEL_EXTENSION) => true,
        Some(_) => looks_like_safetensors(path),
        None => naming::has_no_extension(name) && looks_like_safetensors(path),
    }
}

fn looks_like_safetensors(path: &Path) -> bool {
    FileSource::open(path).is_ok_and(|source| Header::is_in(&source))
}

/// The image at `source`, or all images under it.
pub fn images_under(source: &Path, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    let named = named_like_images(source, progress)?;
    if !source.is_dir() {
        return Ok(named);
    }
    let mut images = Vec::new();
    for path in named {
        match FileSource::open(&path) {
            Ok(source) if archive::claims_to_be_image(&source) => images.push(path),
            Ok(_) => {}
            Err(error) => progress.skip(Skipped::unreadable(&path, &error))?,
        }
    }
    Ok(images)
}

/// Images of ours under a folder, or the file at `source`. Files of the Python package are told of: nothing here checks them.
pub fn own_images_under(source: &Path, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    let mut paths = images_under(source, progress)?;
    if source.is_dir() {
        paths.retain(|path| {
            let is_package =
                FileSource::open(path).is_ok_and(|source| archive::is_package(&source));
            if is_package {
                progress.warn(&format!(
                    "`{}` is a file of the Python package, and was not verified: `bigsmall migrate` makes an image of it",
                    path.display()
                ));
            }
            !is_package
        });
    }
    Ok(paths)
}

/// The file at `source`, or all files under it whose names are those of images.
pub fn named_like_images(source: &Path, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    let metadata = fs::metadata(source).map_err(|e| Error::io("cannot open", source, e))?;
    if !metadata.is_dir() {
        return Ok(vec![source.to_owned()]);
    }
    let named = |entry: &Entry| entry.path.file_name().is_some_and(naming::is_image_name);
    Ok(walk(source, progress)?
        .into_iter()
        .filter(|entry| entry.kind == EntryKind::File && named(entry))
        .map(|entry| source.join(entry.path))
        .collect())
}

/// Whether a file of this name is the parity of an image.
pub fn is_parity_name(path: &Path) -> bool {
    let name = path.as_os_str().as_bytes();
    name.ends_with(format!("{}{}", naming::IMAGE_EXTENSION, parity::EXTENSION).as_bytes())
}

/// An error unless the file at `path` is an image, or claims to be one.
pub fn check_image(path: &Path) -> Result<()> {
    if archive::claims_to_be_image(&FileSource::open(path)?) {
        return Ok(());
    }
    Err(Error::invalid("is no image")
        .file(path)
        .hint("name a `.bs`; `bigsmall compress` makes one of a safetensors file"))
}

/// Whether the file at `path` is an image, by name and content.
pub fn is_image(path: &Path) -> bool {
    path.file_name().is_some_and(naming::is_image_name)
        && FileSource::open(path).is_ok_and(|source| archive::claims_to_be_image(&source))
}

/// What the disk says of a file; another content has another stamp.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stamp {
    path: PathBuf,
    /// Time of change.
    pub mtime: SystemTime,
    /// Permission bits.
    pub mode: u32,
    identity: Identity,
}

impl Stamp {
    /// The stamp of what is at `path` now.
    pub fn of(path: &Path) -> Result<Self> {
        use std::os::unix::fs::MetadataExt;
        let failed = |e| Error::io("cannot stat", path, e);
        let metadata = fs::metadata(path).map_err(failed)?;
        let identity = Identity::of(&metadata);
        let mtime = metadata.modified().map_err(failed)?;
        Ok(Self {
            path: path.to_owned(),
            mtime,
            mode: attributes::mode_without_acl(path, metadata.mode()),
            identity,
        })
    }

    /// Whether nothing of this file changed since something of the other did.
    pub fn rested_since(&self, other: &Self) -> bool {
        self.identity.rested_since(&other.identity)
    }

    /// An error if the file was changed or replaced since.
    pub fn check(&self) -> Result<()> {
        if Self::of(&self.path)? == *self {
            return Ok(());
        }
        Err(
            Error::new(ErrorKind::Busy, "changed while it was being read")
                .file(&self.path)
                .hint("do it again when nobody writes to it"),
        )
    }
}

/// An error if a mount of ours shows this folder: what is to be changed lies below it.
pub fn check_not_mounted(folder: &Path) -> Result<()> {
    let shows = |mounted: &Mounted| mounted.is_ours() && folder.starts_with(&mounted.mountpoint);
    if !mounts::all()?.iter().any(shows) {
        return Ok(());
    }
    Err(Error::invalid("is shown by a mount of bigsmall")
        .file(folder)
        .hint("end the mount first: `bigsmall unmount FOLDER`"))
}

/// Gives `to` the owner, permissions, access list and extended attributes of `from`. What the
/// system refuses is told of, and no error.
pub fn carry_attributes(from: &Path, to: &Path, progress: &dyn Progress) -> Result<()> {
    let refused = attributes::carry(from, to)
        .map_err(|e| Error::io("cannot take over owner and permissions", to, e))?;
    if !refused.is_empty() {
        progress.warn(&format!(
            "`{}`: the system refused {}",
            to.display(),
            refused.join(", ")
        ));
    }
    Ok(())
}

/// Holds a file: who holds it meanwhile gets an error. Where there are no locks, nobody is kept from it.
pub fn hold(path: &Path) -> Result<LockedFile> {
    let failed = |e| Error::io("cannot open", path, e);
    let file = file::open_regular(path).map_err(failed)?;
    let file = LockedFile::new(file).ok_or_else(|| {
        Error::new(ErrorKind::Busy, "another run is at work on it")
            .file(path)
            .hint("let that one end first")
    })?;
    // it may have gone before it was held
    let identity = |metadata: fs::Metadata| Identity::of(&metadata);
    let held = file.metadata().map(identity).map_err(failed)?;
    let there = fs::symlink_metadata(path).map(identity).map_err(failed)?;
    if !held.is_same_file(&there) {
        return Err(Error::new(ErrorKind::Busy, "was replaced meanwhile").file(path));
    }
    Ok(file)
}

/// Whether both are names of one file.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::symlink_metadata(path).map(|m| Identity::of(&m));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one.is_same_file(&other))
}

/// Copies a file with its time and permissions; the copy appears complete.
pub fn copy_file(from: &Path, to: &Path, force: bool) -> Result<u64> {
    if force {
        origin::check_copy(from, to)?;
    }
    let stamp = Stamp::of(from)?;
    let mut source = file::open_regular(from).map_err(|e| Error::io("cannot open", from, e))?;
    let mut output = OutputFile::create(to, force)?;
    let bytes = std::io::copy(&mut source, output.file())
        .map_err(|e| Error::io(format!("cannot copy `{}`", from.display()), to, e))?;
    stamp.check()?;
    let stamp = (Some(stamp.mtime), Some(stamp.mode));
    companions::commit(output, stamp, 1, &Silent)?;
    Ok(bytes)
}

/// Whether there is a file at `to` with the bytes of the one at `from`.
pub fn are_same(from: &Path, to: &Path) -> Result<bool> {
    if fs::symlink_metadata(to).is_err() {
        return Ok(false);
    }
    let digest = |path: &Path| digest::blake3_of(&FileSource::open(path)?);
    Ok(digest(to)? == digest(from)?)
}

/// A folder being written. It appears under its name at [`commit`](Self::commit); before, it is a temporary beside it,
/// which is removed if nothing comes of it. With `force` and a folder already there, files go straight into that.
#[derive(Debug)]
pub struct OutputFolder {
    root: PathBuf,
    target: PathBuf,
    in_place: bool,
    keep: bool,
    committed: bool,
    /// Folders in which others or links were made: their names are on the disk when these are
    /// synced.
    grown: RefCell<BTreeSet<PathBuf>>,
    /// Held while the folder is written: it tells others that somebody lives who does.
    _lock: Option<LockedFile>,
    /// None if it stays.
    _unfinished: Option<Unfinished>,
}

impl OutputFolder {
    /// Makes the temporary.
    pub fn create(target: &Path, force: bool) -> Result<Self> {
        Self::begin(target, force, false)
    }

    /// Goes on with the temporary of a run that was interrupted, if there is one, and keeps it if this run is interrupted, too.
    pub fn resume(target: &Path, force: bool) -> Result<Self> {
        Self::begin(target, force, true)
    }

    fn begin(target: &Path, force: bool, keep: bool) -> Result<Self> {
        let exists = fs::symlink_metadata(target).is_ok();
        if exists && !target.is_dir() {
            return Err(Error::invalid("is no folder, a folder is to be written").file(target));
        }
        if exists && !force && !keep {
            return Err(Error::invalid("exists already").file(target));
        }
        if !exists {
            atomic::check_folder(target)?;
        }
        let left_over = atomic::left_over_folder(target).filter(|_| keep && !exists);
        atomic::remove_stale_temporaries(target);
        let is_new = !exists && left_over.is_none();
        let (lock, root) = match left_over {
            Some((lock, root)) => (Some(lock), root),
            None if exists => (None, target.to_owned()),
            None => (None, atomic::temporary_for(target)),
        };
        let goes = !exists && !keep;
        let unfinished = goes.then(|| Unfinished::new(&root));
        if is_new {
            fs::create_dir(&root).map_err(|e| Error::io("cannot make the folder", target, e))?;
        }
        // where there are no locks, temporaries that are left over are for the user to remove
        let lock = lock.or_else(|| {
            let folder = is_new.then(|| file::open_folder(&root).ok());
            folder.flatten().and_then(LockedFile::new)
        });
        let target = target.to_owned();
        Ok(Self {
            root,
            target,
            in_place: exists,
            keep,
            committed: false,
            grown: RefCell::default(),
            _lock: lock,
            _unfinished: unfinished,
        })
    }

    /// Whether it was there before.
    pub fn is_in_place(&self) -> bool {
        self.in_place
    }

    /// Where a path of the folder is now.
    pub fn path(&self, relative: &Path) -> PathBuf {
        self.root.join(relative)
    }

    /// Where it will be.
    pub fn target_path(&self, relative: &Path) -> PathBuf {
        self.target.join(relative)
    }

    /// Makes a folder in it.
    pub fn make_folder(&self, relative: &Path) -> Result<()> {
        let path = self.path(relative);
        for missing in path.ancestors().take_while(|at| !at.exists()) {
            let above = atomic::folder_of(missing).to_owned();
            self.grown.borrow_mut().insert(above);
        }
        match fs::create_dir_all(&path) {
            Ok(()) => Ok(()),
            Err(e) => Err(Error::io("cannot make the folder", &path, e)),
        }
    }

    /// Makes a link in it, replacing another link if `force`.
    pub fn make_link(&self, relative: &Path, target: &Path, force: bool) -> Result<()> {
        let path = self.path(relative);
        if force && fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink()) {
            fs::remove_file(&path).map_err(|e| Error::io("cannot replace the link", &path, e))?;
        }
        if fs::read_link(&path).is_ok_and(|there| there == target) {
            return Ok(());
        }
        std::os::unix::fs::symlink(target, &path)
            .map_err(|e| Error::io("cannot make the link", &path, e))?;
        let above = atomic::folder_of(&path).to_owned();
        self.grown.borrow_mut().insert(above);
        Ok(())
    }

    /// Copies what is not a model from the folder `root`; the bytes of a file. What is no file is left out, and told of.
    pub fn copy(
        &self,
        root: &Path,
        entry: &Entry,
        force: bool,
        progress: &dyn Progress,
    ) -> Result<Option<u64>> {
        let full = root.join(&entry.path);
        match &entry.kind {
            EntryKind::Folder => self.make_folder(&entry.path)?,
            EntryKind::Link(to) => self.make_link(&entry.path, to, force)?,
            EntryKind::Special => progress.skip(not_a_file(&full))?,
            EntryKind::File => return copy_file(&full, &self.path(&entry.path), force).map(Some),
        }
        Ok(None)
    }

    /// Puts the folder in place.
    pub fn commit(mut self) -> Result<()> {
        for folder in self.grown.take() {
            atomic::sync_folder(&folder)?;
        }
        if !self.in_place {
            atomic::sync_folder(&self.root)?;
            atomic::rename(&self.root, &self.target, false)?;
        }
        self.committed = true;
        Ok(())
    }
}

impl Drop for OutputFolder {
    fn drop(&mut self) {
        if !self.committed && !self.in_place && !self.keep {
            // a later run removes what this cannot
            let _ = fs::remove_dir_all(&self.root);
        }
    }
}

/// A device, FIFO or socket, which is never opened.
pub fn not_a_file(path: &Path) -> Skipped {
    let why = "neither a file nor a folder nor a link: left out";
    Skipped::new(path, Reason::NotAFile, why)
}

/// An error if `output` is `source` itself, under whatever name.
pub fn check_not_same(source: &Path, output: &Path) -> Result<()> {
    let real = |path: &Path| fs::canonicalize(path).ok();
    if real(output).is_some_and(|output| real(source) == Some(output)) {
        return Err(Error::invalid("source and output are the same file").file(output));
    }
    Ok(())
}

/// Where a path leads, as far as there is something.
pub fn real(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = whole.ancestors().find_map(|ancestor| {
        let rest = whole.strip_prefix(ancestor).ok()?;
        Some(fs::canonicalize(ancestor).ok()?.join(rest))
    });
    there.unwrap_or(whole)
}

/// An error if `output` is `source` or one lies in the other: a walk over the source would meet its own output, or files of
/// the source would be replaced.
pub fn check_apart(source: &Path, output: &Path) -> Result<()> {
    let (real_output, real_source) = (real(output), real(source));
    if real_source.starts_with(&real_output) && real_source != real_output {
        return Err(Error::invalid(format!(
            "the source `{}` lies in the output",
            source.display()
        ))
        .file(output)
        .hint("choose a folder that does not hold the source"));
    }
    if real_output.starts_with(&real_source) {
        return Err(Error::invalid(format!(
            "the output lies in the source `{}`",
            source.display()
        ))
        .file(output)
        .hint("choose a folder outside the source"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_tells_a_file_that_was_written_to_or_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("m");
        let put = |path: &Path, bytes: &[u8]| {
            std::io::Write::write_all(&mut fs::File::create(path).unwrap(), bytes).unwrap();
        };
        put(&path, b"one");
        let stamp = Stamp::of(&path).unwrap();
        stamp.check().unwrap();
        put(&folder.path().join("n"), b"two");
        let mtime = stamp.mtime;
        let file = fs::File::options()
            .write(true)
            .open(folder.path().join("n"))
            .unwrap();
        file.set_modified(mtime).unwrap();
        fs::rename(folder.path().join("n"), &path).unwrap();
        assert!(stamp.check().is_err());
    }

    #[test]
    fn links_that_leave_are_told_from_those_that_stay() {
        for (from, target, out) in [
            ("snapshots/r", "../../blobs/x", false),
            ("", "x", false),
            ("", "../x", true),
            ("a", "../../x", true),
            ("a", "/x", true),
            ("a/b", "../c/./d", false),
        ] {
            assert_eq!(
                leads_out(Path::new(from), Path::new(target)),
                out,
                "{from} -> {target}"
            );
        }
    }
}
