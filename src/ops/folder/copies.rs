//! Files copied, with what they have besides their bytes.

use std::fs;
use std::path::Path;

use crate::base::Error;
use crate::base::FileSource;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::Result;
use crate::base::attributes;
use crate::base::digest;
use crate::base::file;
use crate::base::progress::Silent;
use crate::ops::companions;
use crate::ops::folder::Stamp;
use crate::ops::origin;

/// Gives `to` the owner, permissions, access list and extended attributes of `from`. What the
/// system refuses is told of, and no error.
pub(crate) fn carry_attributes(from: &Path, to: &Path, progress: &dyn Progress) -> Result<()> {
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

/// Copies a file with its time and permissions; the copy appears complete.
pub(crate) fn copy_file(from: &Path, to: &Path, force: bool) -> Result<u64> {
    if force {
        origin::check_copy(from, to)?;
    }
    copy(from, to, force)
}

/// The same over whatever file is there.
pub(crate) fn copy_over(from: &Path, to: &Path) -> Result<u64> {
    copy(from, to, true)
}

fn copy(from: &Path, to: &Path, force: bool) -> Result<u64> {
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
pub(crate) fn are_same(from: &Path, to: &Path) -> Result<bool> {
    if fs::symlink_metadata(to).is_err() {
        return Ok(false);
    }
    let digest = |path: &Path| digest::blake3_of(&FileSource::open(path)?);
    Ok(digest(to)? == digest(from)?)
}
