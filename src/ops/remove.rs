//! Remove: files go, unless a delta needs one of them and has no other.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use nix::sys::statfs::FUSE_SUPER_MAGIC;
use nix::sys::statfs::statfs;
use serde::Serialize;

use crate::archive;
use crate::archive::Bases;
use crate::archive::DigestIndex;
use crate::archive::Files;
use crate::archive::naming;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Progress;
use crate::base::Result;
use crate::base::Unused;
use crate::base::atomic;
use crate::base::in_use;
use crate::ops::companions;
use crate::ops::folder;
use crate::ops::folder::EntryKind;
use crate::ops::record;
use crate::ops::report;

/// How to remove.
#[derive(Debug, Clone, Default)]
pub(crate) struct RemoveOptions {
    /// Folders in which deltas are looked for that may need what is to go, beside those that hold
    /// it.
    pub among: Vec<PathBuf>,
    /// Only say what would be done.
    pub dry_run: bool,
}

/// What was removed.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct RemoveReport {
    /// The files.
    #[serde(serialize_with = "report::paths")]
    pub removed: Vec<PathBuf>,
    /// Their bytes.
    pub bytes: u64,
    /// Deltas that were looked at.
    pub deltas: u64,
    /// Whether nothing was removed because that was asked for.
    pub dry_run: bool,
}

/// Removes files and folders. Refused, with nothing removed, if a delta under the folders that hold
/// them would lose its base.
pub(crate) fn remove(
    paths: &[PathBuf],
    options: &RemoveOptions,
    progress: &dyn Progress,
) -> Result<RemoveReport> {
    let mut going = BTreeSet::new();
    let (mut named, mut with_file, mut roots) = (BTreeSet::new(), BTreeSet::new(), Vec::new());
    for path in paths {
        let failed = |e| Error::io("cannot find", path, e);
        fs::symlink_metadata(path).map_err(failed)?;
        let name = path.file_name();
        let name = name.ok_or_else(|| Error::invalid("names no file").file(path))?;
        let folder = fs::canonicalize(atomic::folder_of(path)).map_err(failed)?;
        // what was looked at is what goes: `link/` would be the folder behind the link
        let full = folder.join(name);
        going.extend(files_under(&full, progress)?);
        with_file.extend(companions::of(&full, progress)?);
        named.insert(full);
        roots.push(folder);
    }
    for path in &options.among {
        roots.push(fs::canonicalize(path).map_err(|e| Error::io("cannot find", path, e))?);
    }
    let mut staying = BTreeSet::new();
    for root in &roots {
        staying.extend(files_under(root, progress)?);
        staying.extend(models_beside(root));
    }
    staying.retain(|path| !going.contains(path));
    let deltas = orphans(&going, &staying, &roots, progress)?;
    going.extend(with_file.iter().cloned());
    check_unused(&going)?;
    let sizes = going
        .iter()
        .map(|path| fs::symlink_metadata(path).map_or(0, |m| m.len()));
    let bytes = sizes.sum();
    for path in named.iter().filter(|_| !options.dry_run) {
        let failed = |e| Error::io("cannot remove", path, e);
        match fs::symlink_metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                fs::remove_dir_all(path).map_err(failed)?;
                atomic::sync_folder(atomic::folder_of(path))?;
            }
            // parity that was named goes with its file
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && with_file.contains(path) => {}
            Err(e) => return Err(failed(e)),
            Ok(_) => {
                companions::remove(path, progress)?;
            }
        }
    }
    if !options.dry_run {
        let images = going.iter().filter(|path| is_image_name(path));
        let images: Vec<PathBuf> = images.cloned().collect();
        // they are gone, whatever a record says of them
        if let Err(error) = record::strike(&images) {
            progress.warn(&error.to_string());
        }
    }
    Ok(RemoveReport {
        removed: going.into_iter().collect(),
        bytes,
        deltas,
        dry_run: options.dry_run,
    })
}

fn is_image_name(path: &Path) -> bool {
    path.file_name().is_some_and(naming::is_image_name)
}

/// An error if somebody writes one of the files, has locked it or is not done fetching it.
fn check_unused(going: &BTreeSet<PathBuf>) -> Result<()> {
    for path in going {
        match Unused::hold(path) {
            Err(error) if error.kind() == ErrorKind::Busy => return Err(error),
            // a link, or what cannot be read, is not known to be in use
            _ => in_use::check_finished(path)?,
        }
    }
    Ok(())
}

/// Models in the folders beside this one, such as the steps of a series. Those that cannot be
/// listed are nobody's.
fn models_beside(folder: &Path) -> Vec<PathBuf> {
    let list = |folder: &Path| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let is_model = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        naming::is_image_name(name) || naming::is_model_name(name)
    };
    let Some(above) = folder.parent() else {
        return Vec::new();
    };
    let beside = list(above);
    let within = beside
        .iter()
        .filter(|path| path.is_dir())
        .flat_map(|path| list(path));
    let all = within.chain(beside.iter().cloned());
    all.filter(|path| is_model(path) && path.is_file())
        .collect()
}

fn files_under(path: &Path, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    let is_folder = fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    if !is_folder {
        return Ok(vec![path.to_owned()]);
    }
    let entries = folder::walk(path, progress)?.into_iter();
    let files = entries.filter(|entry| entry.kind == EntryKind::File);
    Ok(files.map(|entry| path.join(entry.path)).collect())
}

/// An error that names the deltas among `staying` that would lose a base; how many deltas there are
/// if none would.
fn orphans(
    going: &BTreeSet<PathBuf>,
    staying: &BTreeSet<PathBuf>,
    roots: &[PathBuf],
    progress: &dyn Progress,
) -> Result<u64> {
    let images = staying.iter().filter(|path| folder::is_image(path));
    let own = staying.iter().filter(|path| stays(path, going));
    let files = Files {
        going,
        images: &images.cloned().collect(),
        staying: &own.cloned().collect(),
    };
    progress.begin("looking for deltas that need it", 0);
    let none = || Bases::unshared(DigestIndex::of_user());
    let found = archive::needed(&files, &none, &|| progress.check())?;
    progress.end();
    if found.lost.is_empty() {
        return Ok(found.deltas);
    }
    let lost = found.lost.iter();
    let lost: Vec<String> = lost.map(|path| format!("`{}`", path.display())).collect();
    let roots: Vec<String> = roots
        .iter()
        .map(|root| format!("`{}`", root.display()))
        .collect();
    let what = format!(
        "not removed: {} could not be read any more, being stored as differences from it",
        lost.join(", ")
    );
    Err(Error::new(ErrorKind::Invalid, what).hint(format!(
        "restore those first, or move another copy of the base to {}",
        roots.join(", ")
    )))
}

/// Whether what is read at a path is there still without those that go: neither a link to one of
/// them nor a file of a mount, which may show one of them.
fn stays(path: &Path, going: &BTreeSet<PathBuf>) -> bool {
    let is_own = |real: &PathBuf| {
        !going.contains(real)
            && statfs(real).is_ok_and(|system| system.filesystem_type() != FUSE_SUPER_MAGIC)
    };
    fs::canonicalize(path).as_ref().is_ok_and(is_own)
}
