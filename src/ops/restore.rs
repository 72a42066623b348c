//! Restore: the undo of convert. Every image that was a file becomes that file again, compared with its sha256 before its image goes.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::archive;
use crate::archive::Archive;
use crate::archive::ImageKind;
use crate::archive::naming;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::Result;
use crate::base::atomic;
use crate::base::digest;
use crate::base::progress::Part;
use crate::ops::compress::Output;
use crate::ops::convert;
use crate::ops::decompress;
use crate::ops::decompress::DecompressOptions;
use crate::ops::folder;
use crate::ops::report;

/// An image and the file that it becomes.
#[derive(Debug, Clone, Serialize)]
pub struct Planned {
    /// Path of the image within the folder.
    #[serde(serialize_with = "report::path")]
    pub image: PathBuf,
    /// Path of the file.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
}

/// What would be done.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The folder.
    #[serde(serialize_with = "report::path")]
    pub folder: PathBuf,
    /// Every image that is restored.
    pub files: Vec<Planned>,
    /// Bytes that the files take more than their images.
    pub needed_bytes: u64,
}

/// What was done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RestoreReport {
    /// Images that are files again.
    pub restored: u64,
    /// Images that stay, and why.
    pub stayed: Vec<(String, String)>,
    /// Bytes of the files.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Looks at all images under `root`: those that convert has made, or all of them if `all` or if there is no record.
pub fn plan(root: &Path, all: bool) -> Result<Plan> {
    let root = fs::canonicalize(root).map_err(|e| Error::io("cannot open", root, e))?;
    if !root.is_dir() {
        return Err(Error::invalid("is no folder").file(&root));
    }
    folder::check_not_mounted(&root)?;
    let record = fs::read_to_string(root.join(convert::RECORD))
        .ok()
        .filter(|_| !all);
    let converted: Option<BTreeSet<&str>> = record.as_ref().map(|record| {
        let images = record.lines().filter_map(|line| line.split('\t').next());
        images.collect()
    });
    let mut files = Vec::new();
    for full in folder::images_under(&root)? {
        let image = full.strip_prefix(&root).unwrap_or(&full).to_owned();
        let is_ours = |known: &BTreeSet<&str>| known.contains(convert::escape(&image).as_str());
        if !converted.as_ref().is_none_or(is_ours) {
            continue;
        }
        let header = archive::peek(&FileSource::open(&full)?, &full)?;
        let name = naming::original_name(image.file_name().unwrap_or_default(), &header);
        if let Some(name) = name.filter(|_| header.kind == ImageKind::File) {
            files.push(Planned {
                path: image.with_file_name(name),
                image,
                bytes: header.original_len,
                image_bytes: header.image_len,
            });
        }
    }
    let more = |file: &Planned| file.bytes.saturating_sub(file.image_bytes);
    Ok(Plan {
        needed_bytes: files.iter().map(more).sum(),
        folder: root,
        files,
    })
}

/// Restores what was planned. An image that fails stays and is told of at the end; an interruption ends the work.
pub fn restore(plan: &Plan, threads: usize, progress: &dyn Progress) -> Result<RestoreReport> {
    let begun = Instant::now();
    let mut report = RestoreReport::default();
    for (number, file) in plan.files.iter().enumerate() {
        progress.check()?;
        let progress = Part::new(progress, number + 1, plan.files.len());
        match restore_file(&plan.folder, file, threads, &progress) {
            Ok(()) => {
                report.restored += 1;
                report.bytes += file.bytes;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                progress.warn(&error.to_string());
                let path = file.image.to_string_lossy().into_owned();
                report.stayed.push((path, error.to_string()));
            }
        }
    }
    if report.stayed.is_empty() {
        let record = plan.folder.join(convert::RECORD);
        match fs::remove_file(&record) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                return Err(Error::io("cannot remove", &record, e));
            }
            _ => atomic::sync_folder(&plan.folder)?,
        }
    }
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

fn restore_file(
    root: &Path,
    file: &Planned,
    threads: usize,
    progress: &dyn Progress,
) -> Result<()> {
    let (image, original) = (root.join(&file.image), root.join(&file.path));
    if fs::symlink_metadata(&original).is_ok() {
        // an earlier run was stopped between the file and its image, or somebody has put another file here
        let archive = Archive::open(&image)?;
        let there = digest::sha256_of(&FileSource::open(&original)?)?;
        if archive
            .files()
            .first()
            .is_none_or(|file| file.sha256 != there)
        {
            return Err(
                Error::invalid("there is another file under the name of the original")
                    .file(&original)
                    .hint("move one of both away, and restore again"),
            );
        }
    } else {
        let options = DecompressOptions {
            output: Output::Path(original.clone()),
            bases: vec![root.to_owned()],
            force: false,
            threads,
        };
        decompress::decompress(&image, &options, progress)?;
    }
    atomic::remove_stale_temporaries(&original);
    atomic::remove_stale_temporaries(&image);
    folder::take_owner(&image, &original);
    fs::remove_file(&image).map_err(|e| Error::io("cannot remove", &image, e))?;
    atomic::sync_folder(atomic::folder_of(&image))
}
