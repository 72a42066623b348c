//! A folder into another one with an image for each model and copies of the other files.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;

use crate::archive;
use crate::archive::Archive;
use crate::archive::naming;
use crate::base::Error;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::atomic;
use crate::base::digest;
use crate::format::ImageKind;
use crate::ops::compress::CompressOptions;
use crate::ops::compress::CompressReport;
use crate::ops::compress::ImageWritten;
use crate::ops::compress::sources::Contents;
use crate::ops::compress::sources::open_source;
use crate::ops::compress::sources::refuse_faults;
use crate::ops::compress::sources::restored;
use crate::ops::compress::write::write_verified;
use crate::ops::folder;
use crate::ops::folder::Entry;
use crate::ops::folder::EntryKind;
use crate::ops::folder::OutputFolder;
use crate::ops::folder::Stamp;

/// A file of the source folder and what becomes of it.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) entry: Entry,
    /// The image's path and suffix; none for what is copied.
    pub(super) image: Option<(PathBuf, String)>,
}

pub(super) fn mirror(
    root: &Path,
    target: &Path,
    options: &CompressOptions,
    report: &mut CompressReport,
    progress: &dyn Progress,
) -> Result<()> {
    let plan = plan_mirror(root, options.opaque)?;
    let output = if options.resume {
        OutputFolder::resume(target, options.force)?
    } else {
        OutputFolder::create(target, options.force)?
    };
    // what an interrupted run has left is nobody's; of a folder that was there, only what `--force` allows is replaced
    let may_replace = options.force || !output.is_in_place();
    for Planned { entry, image } in &plan {
        progress.check()?;
        let full = root.join(&entry.path);
        match (&entry.kind, image) {
            (EntryKind::Folder | EntryKind::Link(_) | EntryKind::Special, _) => {
                output.copy(root, entry, may_replace, progress)?;
            }
            (EntryKind::File, Some((path, suffix))) => {
                let to = output.path(path);
                if options.resume && is_image_of(&to, &full)? {
                    report.kept_images += 1;
                    continue;
                }
                if !output.is_in_place() && fs::symlink_metadata(&to).is_ok() {
                    fs::remove_file(&to).map_err(|e| Error::io("cannot replace", &to, e))?;
                }
                let opened = open_source(&full, String::new(), options.opaque)?;
                let contents = Contents::of_file(suffix, opened);
                let mut image = write_verified(&contents, &full, &to, options, progress)?;
                image.output = target.join(path);
                report.images.push(image);
            }
            (EntryKind::File, None) if options.base.is_some() && folder::is_image(&full) => {
                let to = output.path(&entry.path);
                if options.resume && holds_the_same(&to, &full)? {
                    report.kept_images += 1;
                    continue;
                }
                let mut image = recode(&full, &to, options, progress)?;
                image.output = target.join(&entry.path);
                report.images.push(image);
            }
            (EntryKind::File, None) => {
                let to = output.path(&entry.path);
                let is_there = options.resume && folder::are_same(&full, &to)?;
                if !is_there {
                    report.copied_bytes += folder::copy_file(&full, &to, may_replace)?;
                }
                report.copied_files += 1;
            }
        }
    }
    if options.resume && !output.is_in_place() {
        remove_others(&output, &plan)?;
    }
    output.commit()
}

/// An image of the source becomes one of differences.
pub(super) fn recode(
    full: &Path,
    to: &Path,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<ImageWritten> {
    let bases = options.base.as_ref();
    let bases = bases.ok_or_else(|| Error::invalid("coded anew without a base").file(full))?;
    let contents = restored(full, Some(bases), None)?;
    write_verified(&contents, full, to, options, progress)
}

/// Whether there is an image of this file already, as it would be written: of its length, and of its time or its content. The time
/// counts only for a file that nobody touched since: that of a file can be set, and copies may all have the same.
pub(super) fn is_image_of(image: &Path, file: &Path) -> Result<bool> {
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
    Ok(is_same_time || digest::sha256_of(&source)? == record.sha256)
}

/// Whether two images give the same files under the same names.
pub(super) fn holds_the_same(image: &Path, other: &Path) -> Result<bool> {
    if fs::symlink_metadata(image).is_err() {
        return Ok(false);
    }
    atomic::remove_stale_temporaries(image);
    let (image, other) = (Archive::open(image)?, Archive::open(other)?);
    let what = |archive: &Archive| (archive.header().kind, archive.header().suffix.clone());
    let files = |archive: &Archive| -> Vec<(String, [u8; 32])> {
        let files = archive.files().iter();
        files.map(|file| (file.path.clone(), file.sha256)).collect()
    };
    Ok(what(&image) == what(&other) && files(&image) == files(&other))
}

/// What an interrupted run has left of another source, or of files that are no more.
fn remove_others(output: &OutputFolder, plan: &[Planned]) -> Result<()> {
    let made = plan.iter().map(|planned| match &planned.image {
        Some((image, _)) => image.as_path(),
        None => planned.entry.path.as_path(),
    });
    let made: BTreeSet<&Path> = made.collect();
    let entries = folder::walk(&output.path(Path::new("")))?;
    // what is in a folder goes before it
    for entry in entries.iter().rev() {
        if made.contains(entry.path.as_path()) {
            continue;
        }
        let full = output.path(&entry.path);
        let removed = match entry.kind {
            EntryKind::Folder => fs::remove_dir(&full),
            _ => fs::remove_file(&full),
        };
        removed.map_err(|e| Error::io("cannot remove", &full, e))?;
    }
    Ok(())
}

/// Decides for every entry before anything is written: all faults of all models are told at once.
pub(super) fn plan_mirror(root: &Path, opaque: bool) -> Result<Vec<Planned>> {
    let entries = folder::walk(root)?;
    let mut taken: BTreeSet<PathBuf> = BTreeSet::new();
    let mut plan = Vec::new();
    let mut faults = Vec::new();
    for entry in &entries {
        let full = root.join(&entry.path);
        if entry.kind == EntryKind::File && folder::is_model(&full) {
            if let Err(error) = open_source(&full, String::new(), opaque) {
                faults.push(error);
            }
        } else {
            if entry.kind == EntryKind::File && folder::is_image(&full) {
                faults.extend(image_in_the_way(root, entry));
            }
            taken.insert(entry.path.clone());
        }
    }
    refuse_faults(root, &faults)?;
    for entry in entries {
        let full = root.join(&entry.path);
        let is_model = entry.kind == EntryKind::File && folder::is_model(&full);
        let image = is_model
            .then(|| image_path(&entry.path, &mut taken))
            .transpose()?;
        plan.push(Planned { entry, image });
    }
    Ok(plan)
}

/// An image in the source is copied as it is. If the file that it stands for is there, too, the copy could not be told from the
/// image of that file: only one of both would come back.
fn image_in_the_way(root: &Path, entry: &Entry) -> Option<Error> {
    let full = root.join(&entry.path);
    let source = FileSource::open(&full).ok()?;
    let header = archive::peek(&source, &full).ok()?;
    let original = naming::original_name(entry.path.file_name()?, &header)?;
    let original = full.with_file_name(original);
    fs::symlink_metadata(&original).ok()?;
    Some(
        Error::invalid(format!(
            "is an image of `{}`, which is there, too",
            original.display()
        ))
        .file(&full),
    )
}

/// `x.bs` for `x.safetensors`; `x.safetensors.bs`, which stands for the same, if `x.bs` is taken.
fn image_path(path: &Path, taken: &mut BTreeSet<PathBuf>) -> Result<(PathBuf, String)> {
    let name = path.file_name().unwrap_or_default();
    let (short, suffix) = naming::image_name(name);
    for image in [short, naming::long_image_name(name)] {
        let image = path.with_file_name(image);
        if taken.insert(image.clone()) {
            return Ok((image, suffix.to_owned()));
        }
    }
    Err(
        Error::invalid("there is a file already under the name that its image would have")
            .file(path)
            .hint("rename one of them"),
    )
}
