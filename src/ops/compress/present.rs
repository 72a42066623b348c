//! What is there already of what is to be written.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::archive::Archive;
use crate::archive::Bases;
use crate::archive::DigestIndex;
use crate::archive::naming;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::atomic;
use crate::base::digest;
use crate::format::ImageKind;
use crate::ops::folder;
use crate::ops::folder::Stamp;
use crate::ops::origin;

/// Whether there is an image of this file already, as it would be written: of its length, and of
/// its time, if that is trusted, or its content. The time counts only for a file that nobody
/// touched since: that of a file can be set, and copies may all have the same.
pub(super) fn is_image_of(image: &Path, file: &Path, trusts_time: bool) -> Result<bool> {
    if fs::symlink_metadata(image).is_err() {
        return Ok(false);
    }
    // a run may have been stopped between the image and what it had noted of it
    atomic::remove_stale_temporaries(image);
    let archive = Archive::open(image)?;
    let source = FileSource::open(file)?;
    let [record] = archive.files() else {
        return Ok(false);
    };
    let (_, suffix) = naming::image_name(file.file_name().unwrap_or_default());
    let header = archive.header();
    let is_alike = header.kind == ImageKind::File && header.suffix == suffix;
    if !is_alike || record.len != source.len() {
        return Ok(false);
    }
    // an image takes over the time of its source
    let (of_file, of_image) = (Stamp::of(file)?, Stamp::of(image)?);
    let is_same_time = of_file.mtime == of_image.mtime && of_file.rested_since(&of_image);
    Ok(trusts_time && is_same_time || digest::sha256_of(&source)? == record.sha256)
}

/// Whether two images give the same files under the same names.
pub(super) fn holds_the_same(image: &Path, other: &Path) -> Result<bool> {
    if fs::symlink_metadata(image).is_err() {
        return Ok(false);
    }
    atomic::remove_stale_temporaries(image);
    Ok(origin::hold_the_same(
        &Archive::open(image)?,
        &Archive::open(other)?,
    ))
}

/// A delta, and the files that it is differences from; none if a base is not at hand.
pub(super) type Needs = (PathBuf, Option<BTreeSet<PathBuf>>);

/// Images under `target` that are stored as differences, and from which files; none if a base is
/// not at hand.
pub(super) fn deltas_in(target: &Path, progress: &dyn Progress) -> Result<Vec<Needs>> {
    let mut bases: Option<Bases> = None;
    let mut deltas = Vec::new();
    for path in folder::images_under(target, progress)? {
        // one that cannot be opened needs nothing
        let archive = Archive::open(&path).ok();
        let Some(archive) = archive.filter(|archive| archive.index().is_delta()) else {
            continue;
        };
        if bases.is_none() {
            bases = Some(Bases::open(target, DigestIndex::of_user())?);
        }
        let index = archive.index();
        let mut needs = BTreeSet::new();
        let mut is_whole = true;
        for (bases, span) in bases
            .iter()
            .flat_map(|bases| index.spans.iter().map(move |s| (bases, s)))
        {
            progress.check()?;
            let record = span
                .base
                .map(|base| index.bases[base].named(&span.span.name));
            match record.map(|record| bases.find_file(&record, span.span.len)) {
                Some(Ok(file)) => needs.extend([folder::real(file)]),
                Some(Err(_)) => is_whole = false,
                None => {}
            }
        }
        deltas.push((path, is_whole.then_some(needs)));
    }
    Ok(deltas)
}
