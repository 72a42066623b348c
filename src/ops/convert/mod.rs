//! Convert: the models under a folder become images in place, one at a time. An image was written,
//! synced, read back and compared before it has its name, and only then its original goes: at every
//! moment one of both is there, whole.

mod plan;
mod ready;

use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::archive::Archive;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::Result;
use crate::base::TreeLock;
use crate::base::Unused;
use crate::base::atomic;
use crate::base::attributes;
use crate::base::digest;
use crate::base::in_use::WatchedProgress;
use crate::base::progress::NumberedProgress;
use crate::codec::Profile;
use crate::ops::compress;
use crate::ops::compress::CompressOptions;
use crate::ops::compress::MoreOptions;
use crate::ops::folder;
use crate::ops::protect::Protected;
use crate::ops::record;
use crate::ops::record::Line;
use crate::ops::record::RecordFolders;
use crate::ops::verify;
use crate::ops::verify::VerifyOptions;

pub(crate) use crate::base::in_use::FinishedCheck;
pub(crate) use plan::Plan;
pub(crate) use plan::Planned;
pub use plan::plan;

/// How to convert.
#[derive(Debug, Clone)]
pub struct ConvertOptions {
    /// Size or latency.
    pub profile: Profile,
    /// Where originals are moved to, instead of being removed.
    pub keep: Option<PathBuf>,
    /// Threads that code.
    pub threads: usize,
}

/// What was done.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ConvertReport {
    /// Models converted.
    pub converted: u64,
    /// Parity that was made for images, since there was some of others under their names.
    pub parity: Vec<Protected>,
    /// Models that stay as they are, and why.
    pub stayed: Vec<(String, String)>,
    /// Models that could not be converted, and why; they are as they were.
    pub failed: Vec<(String, String)>,
    /// Bytes of the originals that were converted.
    pub original_bytes: u64,
    /// Bytes of their images.
    pub image_bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Keeps other runs of convert and restore from a tree.
pub(super) fn lock_tree(root: &Path) -> Result<TreeLock> {
    TreeLock::new(root).map_err(|at| {
        Error::new(ErrorKind::Busy, "another run is at work on it")
            .file(&at)
            .hint("let that one end first")
    })
}

/// Converts what was planned. A model that fails stays as it is and is told of at the end; an
/// interruption ends the work.
pub fn convert(
    plan: &Plan,
    options: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<ConvertReport> {
    let begun = Instant::now();
    let mut report = ConvertReport::default();
    if let Some(keep) = &options.keep {
        folder::check_apart(&plan.folder, keep)?;
    }
    let _lock = lock_tree(&plan.folder)?;
    let record_folders = RecordFolders::of(&plan.folder);
    ready::check(plan, &record_folders, options.keep.as_deref())?;
    let count = plan.chosen().count();
    for file in &plan.files {
        if let Some(why) = &file.stays {
            let path = file.path.to_string_lossy().into_owned();
            report.stayed.push((path, why.clone()));
        }
    }
    let mut all_sure = true;
    for (number, file) in plan.chosen().enumerate() {
        progress.check()?;
        folder::check_not_mounted(&plan.folder)?;
        let progress = NumberedProgress::new(progress, number + 1, count);
        let work = Work {
            root: &plan.folder,
            record_folders: &record_folders,
            options,
        };
        let path = || file.path.to_string_lossy().into_owned();
        match work.convert(file, &mut all_sure, &progress) {
            Ok((image_bytes, parity)) => {
                report.converted += 1;
                report.parity.extend(parity);
                report.original_bytes += file.bytes;
                report.image_bytes += image_bytes;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                let full = plan.folder.join(&file.image);
                atomic::remove_stale_temporaries(&full);
                progress.warn(&error.to_string());
                if error.kind() == ErrorKind::Busy {
                    report.stayed.push((path(), error.to_string()));
                } else {
                    report.failed.push((path(), error.to_string()));
                }
            }
        }
    }
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// What all models of a run have in common.
struct Work<'a> {
    root: &'a Path,
    record_folders: &'a RecordFolders,
    options: &'a ConvertOptions,
}

impl Work<'_> {
    /// Converts one model; the bytes of its image, and its parity if that lay there of one before.
    fn convert(
        &self,
        file: &Planned,
        all_sure: &mut bool,
        progress: &dyn Progress,
    ) -> Result<(u64, Vec<Protected>)> {
        let (original, image) = (self.root.join(&file.path), self.root.join(&file.image));
        // nobody may write it from before it is read until it has gone
        let held = Unused::hold(&original)?;
        if !held.is_sure() && std::mem::replace(all_sure, false) {
            progress.warn(
                "the system cannot say here whether another program writes a file (no leases): \
                 make sure that none does",
            );
        }
        file.check_unchanged()?;
        let progress = &WatchedProgress::new(progress, &held);
        let compress_options = CompressOptions {
            resume: true,
            more: MoreOptions {
                converts: true,
                ..MoreOptions::default()
            },
            ..CompressOptions::new(&image, self.options.profile, self.options.threads)
        };
        let report = compress::compress(&original, &compress_options, progress)?;
        // whoever restores it at the same time would remove the image while this removes the
        // original
        let _image = folder::hold(&image)?;
        if report.images.is_empty() {
            // an earlier run was stopped between the image and its original: what it wrote is
            // looked at as if it were new
            prove(&original, &image, self.options.threads, progress)?;
        }
        folder::carry_attributes(&original, &image, progress)?;
        attributes::mark(&image);
        let metadata = fs::metadata(&image).map_err(|e| Error::io("cannot stat", &image, e))?;
        self.link_and_note(file, metadata.len())?;
        file.check_unchanged()?;
        held.check_name()?;
        self.take_away(file, &held)?;
        Ok((metadata.len(), report.parity))
    }

    /// Gives the image a name for each of the model's, and notes all of them. Durable before the
    /// original goes.
    fn link_and_note(&self, file: &Planned, image_len: u64) -> Result<()> {
        let image = self.root.join(&file.image);
        let archive = Archive::open(&image)?;
        let sha256 = archive
            .files()
            .first()
            .map(|file| digest::hex(&file.sha256));
        for (path, other) in file.names() {
            let full = self.root.join(other);
            if full != image && !folder::is_same_file(&full, &image) {
                fs::hard_link(&image, &full)
                    .map_err(|e| Error::io("cannot make a second name for the image", &full, e))?;
                atomic::sync_folder(atomic::folder_of(&full))?;
            }
            let folder = self.record_folders.folder_for(&full);
            let within = |path: &Path| {
                let full = self.root.join(path);
                full.strip_prefix(&folder).unwrap_or(path).to_owned()
            };
            let line = Line {
                image: within(other),
                path: within(path),
                content: sha256.clone().map(|sha256| (sha256, image_len)),
            };
            record::note(&folder, &line)?;
        }
        Ok(())
    }

    /// Removes the original, or moves it to where it is kept.
    fn take_away(&self, file: &Planned, held: &Unused) -> Result<()> {
        let Some(keep) = &self.options.keep else {
            let names: Vec<PathBuf> = file.names().map(|(path, _)| self.root.join(path)).collect();
            let names: Vec<&Path> = names.iter().map(PathBuf::as_path).collect();
            return held.remove_names(&names);
        };
        held.check()?;
        for (path, _) in file.names() {
            let from = self.root.join(path);
            move_away(&from, &keep.join(path))?;
            atomic::sync_folder(atomic::folder_of(&from))?;
        }
        Ok(())
    }
}

/// An error unless the image holds exactly the file.
fn prove(original: &Path, image: &Path, threads: usize, progress: &dyn Progress) -> Result<()> {
    let checked = verify::verify(image, &VerifyOptions::whole(&[], threads), progress)?;
    let sha256 = digest::hex(&digest::sha256_of(&FileSource::open(original)?)?);
    let is_it = |file: &verify::FileReport| file.ok && file.sha256 == sha256;
    if checked.ok && checked.images.iter().flat_map(|i| &i.files).all(is_it) {
        return Ok(());
    }
    Err(Error::invalid("is an image of another file, or damaged")
        .file(image)
        .hint("move it away, and convert again"))
}

fn move_away(from: &Path, to: &Path) -> Result<()> {
    let folder = atomic::folder_of(to);
    fs::create_dir_all(folder).map_err(|e| Error::io("cannot make the folder", folder, e))?;
    match atomic::rename(from, to, false) {
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EXDEV as i32) => {
            folder::copy_file(from, to, false)?;
            attributes::carry(from, to)
                .map_err(|e| Error::io("cannot take over owner and permissions", to, e))?;
            fs::remove_file(from).map_err(|e| Error::io("cannot remove the original", from, e))
        }
        other => other,
    }
}
