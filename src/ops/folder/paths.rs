//! Where paths lead: to the same file, into each other, into a mount.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::base::Error;
use crate::base::Result;
use crate::base::identity::Identity;
use crate::base::mounts;
use crate::base::mounts::Mounted;

/// An error if a mount of ours shows this folder: what is to be changed lies below it.
pub(crate) fn check_not_mounted(folder: &Path) -> Result<()> {
    let shows = |mounted: &Mounted| mounted.is_ours() && folder.starts_with(&mounted.mountpoint);
    if !mounts::all()?.iter().any(shows) {
        return Ok(());
    }
    Err(Error::invalid("is shown by a mount of bigsmall")
        .file(folder)
        .hint("end the mount first: `bigsmall unmount FOLDER`"))
}

/// Whether both are names of one file.
pub(crate) fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::symlink_metadata(path).map(|m| Identity::of(&m));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one.is_same_file(&other))
}

/// An error if `output` is `source` itself, under whatever name.
pub(crate) fn check_not_same(source: &Path, output: &Path) -> Result<()> {
    let real = |path: &Path| fs::canonicalize(path).ok();
    if real(output).is_some_and(|output| real(source) == Some(output)) {
        return Err(Error::invalid("source and output are the same file").file(output));
    }
    Ok(())
}

/// Where a path leads, as far as there is something.
pub(crate) fn real(path: &Path) -> PathBuf {
    let whole = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let there = whole.ancestors().find_map(|ancestor| {
        let rest = whole.strip_prefix(ancestor).ok()?;
        Some(fs::canonicalize(ancestor).ok()?.join(rest))
    });
    there.unwrap_or(whole)
}

/// An error if `output` is `source` or one lies in the other: a walk over the source would meet its
/// own output, or files of the source would be replaced.
pub(crate) fn check_apart(source: &Path, output: &Path) -> Result<()> {
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
