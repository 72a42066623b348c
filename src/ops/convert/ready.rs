//! What a convert needs besides the models: a record that can be written, and room. Asked for
//! before the first image is written.

use std::path::Path;

use nix::sys::statvfs::statvfs;
use nix::unistd::AccessFlags;
use nix::unistd::access;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Result;
use crate::base::units::human_bytes;
use crate::ops::convert::Plan;
use crate::ops::record;
use crate::ops::record::RecordFolders;

/// What an image may take more than was estimated, in percent, and other files in bytes.
const MARGIN_PERCENT: u64 = 2;
const MARGIN_BYTES: u64 = 1 << 20;

/// An error if something is missing.
pub(super) fn check(
    plan: &Plan,
    record_folders: &RecordFolders,
    keep: Option<&Path>,
) -> Result<()> {
    for file in plan.chosen() {
        for (_, image) in file.names() {
            record::check_writable(&record_folders.folder_for(&plan.folder.join(image)))?;
        }
    }
    if plan.chosen().next().is_none() {
        return Ok(());
    }
    if let Some(keep) = keep {
        check_folder(keep)?;
    }
    let free = free_bytes(&plan.folder)?;
    let (needed, at) = needed(plan, keep.is_some());
    if free >= needed {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Io,
        format!(
            "there is not enough room: {} are free, and about {} are needed \
             until `{}` is converted",
            human_bytes(free),
            human_bytes(needed),
            at.unwrap_or(Path::new("")).display()
        ),
    )
    .file(&plan.folder)
    .hint("make room, or convert a part of the folder; nothing was changed"))
}

/// The most that is needed at any moment beyond what there is, and for which model: an image is
/// there before its original goes.
fn needed(plan: &Plan, is_kept: bool) -> (u64, Option<&Path>) {
    let mut more: i128 = 0;
    let mut most = (0, None);
    for file in plan.chosen() {
        let image = file.estimated_bytes * (100 + MARGIN_PERCENT) / 100;
        let now = more + i128::from(image);
        if now > most.0 {
            most = (now, Some(file.path.as_path()));
        }
        more = if is_kept {
            now
        } else {
            now - i128::from(file.bytes)
        };
    }
    let bytes = u64::try_from(most.0).unwrap_or(u64::MAX);
    (bytes.saturating_add(MARGIN_BYTES), most.1)
}

fn free_bytes(folder: &Path) -> Result<u64> {
    let told = statvfs(folder).map_err(|e| Error::io("cannot ask for room", folder, e.into()))?;
    let free = told.blocks_available().saturating_mul(told.fragment_size());
    // a file system that counts no blocks knows no bound
    Ok(if told.blocks() == 0 { u64::MAX } else { free })
}

/// The folder that is there, or that above in which it will be made, can be written.
fn check_folder(keep: &Path) -> Result<()> {
    let whole = std::path::absolute(keep).map_err(|e| Error::io("cannot find", keep, e))?;
    let there = whole.ancestors().find(|above| above.exists());
    let there = there.unwrap_or(Path::new("/"));
    access(there, AccessFlags::W_OK | AccessFlags::X_OK)
        .map_err(|e| Error::io("originals cannot be kept there", there, e.into()))
}
