//! Convert: the models under a folder become images in place, one at a time. An image was written, synced, read back and compared
//! before it has its name, and only then its original goes: at every moment one of both is there, whole.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::archive;
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
use crate::codec::Profile;
use crate::ops::compress;
use crate::ops::compress::CompressOptions;
use crate::ops::compress::Output;
use crate::ops::estimate::Look;
use crate::ops::folder;
use crate::ops::folder::Entry;
use crate::ops::folder::EntryKind;
use crate::ops::folder::Stamp;
use crate::ops::protect::Protected;
use crate::ops::report;
use crate::ops::verify;
use crate::ops::verify::VerifyOptions;

/// The file at the folder's top that lists what was converted, for the way back.
pub const RECORD: &str = ".bigsmall-converted";

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

/// A model, and what becomes of it.
#[derive(Debug, Clone, Serialize)]
pub struct Planned {
    /// Path within the folder.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// Path of the image within the folder.
    #[serde(serialize_with = "report::path")]
    pub image: PathBuf,
    /// Its bytes.
    pub bytes: u64,
    /// About how many bytes its image has; as many as before if it stays.
    pub estimated_bytes: u64,
    /// Why it stays as it is, if it does.
    pub stays: Option<String>,
}

/// What would be done.
#[derive(Debug, Clone, Serialize)]
pub struct Plan {
    /// The folder.
    #[serde(serialize_with = "report::path")]
    pub folder: PathBuf,
    /// Every model in it.
    pub files: Vec<Planned>,
    /// Bytes of all models.
    pub bytes: u64,
    /// About how many of them would be saved.
    pub estimated_saved_bytes: u64,
}

impl Plan {
    /// The models that are to be converted.
    pub fn chosen(&self) -> impl Iterator<Item = &Planned> {
        self.files.iter().filter(|file| file.stays.is_none())
    }
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

/// Looks at all models under `root`, and at a sample of each.
pub fn plan(root: &Path, progress: &dyn Progress) -> Result<Plan> {
    let root = fs::canonicalize(root).map_err(|e| Error::io("cannot open", root, e))?;
    folder::check_not_mounted(&root)?;
    if !root.is_dir() {
        return Err(Error::invalid("is no folder").file(&root));
    }
    let device = device_of(&root)?;
    let mut files = Vec::new();
    progress.begin("looking at the models", 0);
    for entry in folder::walk(&root)? {
        progress.check()?;
        if entry.kind == EntryKind::File && folder::is_model(&root.join(&entry.path)) {
            files.push(look(&root, &entry, device)?);
        }
    }
    progress.end();
    let saved = |file: &Planned| file.bytes.saturating_sub(file.estimated_bytes);
    Ok(Plan {
        bytes: files.iter().map(|file| file.bytes).sum(),
        estimated_saved_bytes: files.iter().map(saved).sum(),
        folder: root,
        files,
    })
}

fn device_of(path: &Path) -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let metadata = fs::symlink_metadata(path).map_err(|e| Error::io("cannot stat", path, e))?;
    Ok(metadata.dev())
}

fn look(root: &Path, entry: &Entry, device: u64) -> Result<Planned> {
    use std::os::unix::fs::MetadataExt;
    let full = root.join(&entry.path);
    let metadata = fs::symlink_metadata(&full).map_err(|e| Error::io("cannot stat", &full, e))?;
    let (image, _) = naming::image_name(entry.path.file_name().unwrap_or_default());
    let mut planned = Planned {
        path: entry.path.clone(),
        image: entry.path.with_file_name(image),
        bytes: metadata.len(),
        estimated_bytes: metadata.len(),
        stays: None,
    };
    let at_image = root.join(&planned.image);
    let is_taken = fs::symlink_metadata(&at_image).is_ok();
    let is_ours = || stands_for(&at_image, &entry.path).unwrap_or(false);
    planned.stays = if metadata.is_symlink() {
        Some("a link to a file elsewhere".to_owned())
    } else if metadata.dev() != device {
        Some("on another file system".to_owned())
    } else if metadata.nlink() > 1 {
        Some("it has several names (hard links), of which each would keep its space".to_owned())
    } else if is_taken && !is_ours() {
        Some(format!(
            "`{}` is a link, or no image of it",
            at_image.display()
        ))
    } else {
        None
    };
    if planned.stays.is_some() {
        return Ok(planned);
    }
    match Look::at(&full).and_then(|look| look.worth(metadata.len())) {
        Ok(bytes) => planned.estimated_bytes = bytes,
        // the hint would be for compress
        Err(error) => planned.stays = error.to_string().lines().next().map(str::to_owned),
    }
    Ok(planned)
}

/// Whether there is an image, and no link, that a mount would show under this name.
fn stands_for(image: &Path, path: &Path) -> Result<bool> {
    let header = archive::peek(&FileSource::open(image)?, image)?;
    let name = naming::original_name(image.file_name().unwrap_or_default(), &header);
    let is_link = fs::symlink_metadata(image).is_ok_and(|metadata| metadata.is_symlink());
    let is_name = name.as_deref() == path.file_name();
    Ok(!is_link && is_name && header.kind == ImageKind::File)
}

/// Converts what was planned. A model that fails stays as it is and is told of at the end; an interruption ends the work.
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
    let count = plan.chosen().count();
    for file in &plan.files {
        if let Some(why) = &file.stays {
            let path = file.path.to_string_lossy().into_owned();
            report.stayed.push((path, why.clone()));
        }
    }
    for (number, file) in plan.chosen().enumerate() {
        progress.check()?;
        let progress = Part::new(progress, number + 1, count);
        match convert_file(&plan.folder, file, options, &progress) {
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
                let path = file.path.to_string_lossy().into_owned();
                report.failed.push((path, error.to_string()));
            }
        }
    }
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// Converts one model; the bytes of its image, and its parity if that lay there of one before.
fn convert_file(
    root: &Path,
    file: &Planned,
    options: &ConvertOptions,
    progress: &dyn Progress,
) -> Result<(u64, Vec<Protected>)> {
    let (original, image) = (root.join(&file.path), root.join(&file.image));
    let stamp = Stamp::of(&original)?;
    let compress_options = CompressOptions {
        output: Output::Path(image.clone()),
        profile: options.profile,
        base: None,
        series: false,
        resume: true,
        force: false,
        opaque: false,
        threads: options.threads,
    };
    let report = compress::compress(&original, &compress_options, progress)?;
    // whoever restores it at the same time would remove the image while this removes the original
    let _lock = folder::hold(&image)?;
    if report.images.is_empty() {
        // an earlier run was stopped between the image and its original: what it wrote is looked at as if it were new
        prove(&original, &image, options.threads, progress)?;
    }
    folder::take_owner(&original, &image);
    note(root, &file.path, &file.image)?;
    stamp.check()?;
    match &options.keep {
        Some(keep) => move_away(&original, &keep.join(&file.path))?,
        None => fs::remove_file(&original)
            .map_err(|e| Error::io("cannot remove the original", &original, e))?,
    }
    atomic::sync_folder(atomic::folder_of(&original))?;
    let metadata = fs::metadata(&image).map_err(|e| Error::io("cannot stat", &image, e))?;
    Ok((metadata.len(), report.parity))
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

/// Notes for the way back that this image was a file. Synced before the original goes.
fn note(root: &Path, path: &Path, image: &Path) -> Result<()> {
    let record = root.join(RECORD);
    let failed = |e| Error::io("cannot write", &record, e);
    let mut file = fs::File::options()
        .create(true)
        .append(true)
        .open(&record)
        .map_err(failed)?;
    // begun anew, as a run may have been stopped in the middle of a line
    let line = format!("\n{}\t{}\n", escape(image), escape(path));
    file.write_all(line.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(failed)
}

/// A path on one line, whatever bytes it has.
pub(super) fn escape(path: &Path) -> String {
    path.as_os_str()
        .as_encoded_bytes()
        .escape_ascii()
        .to_string()
}

fn move_away(from: &Path, to: &Path) -> Result<()> {
    let folder = atomic::folder_of(to);
    fs::create_dir_all(folder).map_err(|e| Error::io("cannot make the folder", folder, e))?;
    match atomic::rename(from, to, false) {
        Err(error) if error.raw_os_error() == Some(nix::errno::Errno::EXDEV as i32) => {
            folder::copy_file(from, to, false)?;
            folder::take_owner(from, to);
            fs::remove_file(from).map_err(|e| Error::io("cannot remove the original", from, e))
        }
        other => other,
    }
}
