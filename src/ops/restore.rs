//! Restore: the undo of convert. Every image that was a file becomes that file again, compared with its sha256 before its image goes.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
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
use crate::ops::companions;
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
    /// Records of convert that are done with when all is restored.
    #[serde(skip)]
    pub records: Vec<PathBuf>,
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
    /// Parity of those images, which went with them.
    #[serde(serialize_with = "report::paths")]
    pub parity_removed: Vec<PathBuf>,
    /// Bytes of the files.
    pub bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Looks at all images under `root`: those that convert has made, or all of them if `all`.
pub fn plan(root: &Path, all: bool) -> Result<Plan> {
    let root = fs::canonicalize(root).map_err(|e| Error::io("cannot open", root, e))?;
    folder::check_not_mounted(&root)?;
    if !root.is_dir() {
        return Err(Error::invalid("is no folder").file(&root));
    }
    let mut records = Records::default();
    // also those of which all images are restored: a run may have been stopped just before it removed them
    for entry in folder::walk(&root)? {
        if entry.path.file_name() == Some(OsStr::new(convert::RECORD)) {
            let folder = root.join(entry.path.parent().unwrap_or(Path::new("")));
            let images = read_record(&folder)?;
            records.known.insert(folder, images);
        }
    }
    let mut files = Vec::new();
    for full in folder::images_under(&root)? {
        let image = full.strip_prefix(&root).unwrap_or(&full).to_owned();
        if !all && !records.tell_of(&full)? {
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
    let records = records.known.into_iter();
    let records = records.filter(|(at, images)| at.starts_with(&root) && !images.is_empty());
    Ok(Plan {
        needed_bytes: files.iter().map(more).sum(),
        records: records.map(|(at, _)| at.join(convert::RECORD)).collect(),
        folder: root,
        files,
    })
}

/// What was converted, by the folder whose record tells of it.
#[derive(Debug, Default)]
struct Records {
    known: BTreeMap<PathBuf, BTreeSet<String>>,
}

impl Records {
    /// Whether convert has made this image: it may have been called for any folder above.
    fn tell_of(&mut self, image: &Path) -> Result<bool> {
        for folder in image.ancestors().skip(1) {
            if !self.known.contains_key(folder) {
                self.known.insert(folder.to_owned(), read_record(folder)?);
            }
            let within = image.strip_prefix(folder).map(convert::escape);
            if within.is_ok_and(|within| self.known[folder].contains(&within)) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// The images that the record of a folder tells of.
fn read_record(folder: &Path) -> Result<BTreeSet<String>> {
    let path = folder.join(convert::RECORD);
    match fs::read(&path) {
        Ok(record) => {
            let record = String::from_utf8_lossy(&record);
            let images = record.lines().filter_map(|line| line.split('\t').next());
            Ok(images.map(str::to_owned).collect())
        }
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(e) => Err(Error::io("cannot read", &path, e)),
    }
}

/// Restores what was planned. An image that fails stays and is told of at the end; an interruption ends the work.
pub fn restore(plan: &Plan, threads: usize, progress: &dyn Progress) -> Result<RestoreReport> {
    let begun = Instant::now();
    let mut report = RestoreReport::default();
    for (number, file) in plan.files.iter().enumerate() {
        progress.check()?;
        let progress = Part::new(progress, number + 1, plan.files.len());
        match restore_file(&plan.folder, file, threads, &progress) {
            Ok(parity) => {
                report.restored += 1;
                report.parity_removed.extend(parity);
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
    for record in plan.records.iter().filter(|_| report.stayed.is_empty()) {
        fs::remove_file(record).map_err(|e| Error::io("cannot remove", record, e))?;
        atomic::sync_folder(atomic::folder_of(record))?;
    }
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

fn restore_file(
    root: &Path,
    file: &Planned,
    threads: usize,
    progress: &dyn Progress,
) -> Result<Option<PathBuf>> {
    let (image, original) = (root.join(&file.image), root.join(&file.path));
    let _lock = folder::hold(&image)?;
    if let Ok(metadata) = fs::symlink_metadata(&original) {
        // an earlier run was stopped between the file and its image, or somebody has put another file here, or a link: one into a
        // mount would show the image itself
        let archive = Archive::open(&image)?;
        let is_same = |sha256: &[u8; 32]| {
            let there = digest::sha256_of(&FileSource::open(&original)?);
            there.map(|there| there == *sha256)
        };
        let sha256 = archive.files().first().map(|file| &file.sha256);
        let sha256 = sha256.filter(|_| metadata.is_file());
        if !sha256.map(is_same).transpose()?.unwrap_or_default() {
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
    companions::remove(&image, progress)
}
