//! What is in a folder, in a fixed order.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::path::Component;
use std::path::Path;
use std::path::PathBuf;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Progress;
use crate::base::Result;
use crate::base::progress::Reason;
use crate::base::progress::Skipped;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EntryKind {
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
pub(crate) struct Entry {
    /// Path relative to the folder.
    pub path: PathBuf,
    /// What it is.
    pub kind: EntryKind,
}

/// Everything under `root`, folders before what is in them, by name. What the system does not let
/// be listed is passed over, but for `root` itself.
pub(crate) fn walk(root: &Path, progress: &dyn Progress) -> Result<Vec<Entry>> {
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

/// Whether a link in folder `from` (relative to the root) with this target leaves the root, by its
/// words alone.
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

/// A device, FIFO or socket, which is never opened.
pub(crate) fn not_a_file(path: &Path) -> Skipped {
    let why = "neither a file nor a folder nor a link: left out";
    Skipped::new(path, Reason::NotAFile, why)
}

#[cfg(test)]
mod tests {
    use super::*;

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
