//! What an earlier run has made from files that are not in the source any more: found, and removed
//! where that is asked for.

use std::ffi::OsString;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::archive;
use crate::archive::naming;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::Result;
use crate::ops::folder;
use crate::ops::folder::EntryKind;
use crate::ops::origin;
use crate::ops::origin::Origin;
use crate::ops::remove;
use crate::ops::remove::RemoveOptions;

/// Files in the output that an earlier run has made from what is not in the source any more.
pub(super) fn gone(root: &Path, target: &Path, progress: &dyn Progress) -> Result<Vec<PathBuf>> {
    let mut gone = Vec::new();
    for entry in folder::walk(target, progress)? {
        progress.check()?;
        let is_gone = match entry.kind {
            EntryKind::File => is_gone(root, target, &entry.path),
            EntryKind::Link(_) => leads_nowhere(root, target, &entry.path),
            EntryKind::Folder | EntryKind::Special => false,
        };
        if is_gone {
            gone.push(target.join(&entry.path));
        }
    }
    Ok(gone)
}

fn is_missing(path: &Path) -> bool {
    let there = fs::symlink_metadata(path);
    there.is_err_and(|e| e.kind() == std::io::ErrorKind::NotFound)
}

/// Whether the link at this path of the output, which the source does not have, leads to nothing
/// that stays.
fn leads_nowhere(root: &Path, target: &Path, path: &Path) -> bool {
    if origin::of(target, root) != Origin::Same || !is_missing(&root.join(path)) {
        return false;
    }
    let Ok(leads_to) = fs::canonicalize(target.join(path)) else {
        return true;
    };
    let within = fs::canonicalize(target).unwrap_or_else(|_| target.to_owned());
    let leads_to = leads_to.strip_prefix(within);
    leads_to.is_ok_and(|path| is_gone(root, target, path))
}

/// Whether the file at this path of the output was made by an earlier run, from what is not in the
/// source any more.
fn is_gone(root: &Path, target: &Path, path: &Path) -> bool {
    let made = target.join(path);
    let is_of = |source: &Path| origin::of(&made, source) == Origin::Same && is_missing(source);
    is_of(&root.join(path))
        || original_of(&made).is_some_and(|name| is_of(&root.join(path.with_file_name(name))))
}

/// Removes files that are gone from the source, and folders that hold nothing else; refused if a
/// delta that stays needs one.
pub(crate) fn delete_gone(
    (root, target): (&Path, &Path),
    gone: &[PathBuf],
    progress: &dyn Progress,
) -> Result<Vec<PathBuf>> {
    let still = |path: &&PathBuf| {
        let relative = path.strip_prefix(target);
        relative.is_ok_and(|path| is_gone(root, target, path) || leads_nowhere(root, target, path))
    };
    let gone: Vec<PathBuf> = gone.iter().filter(still).cloned().collect();
    let options = RemoveOptions {
        among: vec![target.to_owned()],
        dry_run: false,
    };
    let removed = remove::remove(&gone, &options, progress)?.removed;
    for path in &gone {
        let mut folders = path
            .ancestors()
            .skip(1)
            .take_while(|folder| *folder != target);
        let is_left = |folder: &&Path| {
            let relative = folder.strip_prefix(target).unwrap_or(folder);
            is_missing(&root.join(relative)) && fs::remove_dir(folder).is_ok()
        };
        // one that holds something else stays, and so do those above it
        while folders.next().as_ref().is_some_and(is_left) {}
    }
    Ok(removed)
}

/// The name of the file that an image is of.
fn original_of(image: &Path) -> Option<OsString> {
    let name = image
        .file_name()
        .filter(|name| naming::is_image_name(name))?;
    let header = archive::peek(&FileSource::open(image).ok()?, image).ok()?;
    naming::original_name(name, &header)
}
