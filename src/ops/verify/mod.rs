//! Verify: is what an image holds what was put into it? As a whole, in its structure only, or in a
//! sample of its blocks.

mod members;
mod report;
mod sample;
pub(crate) mod whole;

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::archive;
use crate::archive::Archive;
use crate::archive::naming;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::Result;
use crate::ops::base;
use crate::ops::base::SearchPaths;
use crate::ops::folder;
use crate::ops::own_parity;
use crate::ops::own_parity::ParityState;
use crate::ops::shard_notes;

pub(crate) use report::Checked;
pub(crate) use report::FileReport;
pub(crate) use report::ImageReport;
pub use whole::verify_image;

/// How deep to look.
#[derive(Debug, Clone, Copy)]
pub enum Depth {
    /// Every block.
    Whole,
    /// Header, index and parity, and no block.
    Structure,
    /// This part of the blocks, chosen by this seed.
    Sample {
        /// More than 0, at most 1.
        share: f64,
        /// The same seed chooses the same blocks.
        seed: u64,
    },
}

/// How to verify.
#[derive(Debug, Clone)]
pub struct VerifyOptions {
    /// Where the bases of deltas are looked for.
    pub bases: Vec<PathBuf>,
    /// How deep to look.
    pub depth: Depth,
    /// The original, to compare with byte by byte: of an image its file or folder, of a folder of
    /// images the folder of originals.
    pub original: Option<PathBuf>,
    /// Threads to use.
    pub threads: usize,
}

impl VerifyOptions {
    /// Everything, with bases under these paths.
    pub fn whole(bases: &[PathBuf], threads: usize) -> Self {
        Self {
            bases: bases.to_owned(),
            depth: Depth::Whole,
            original: None,
            threads,
        }
    }
}

/// What was found in all images.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Whether everything is right, and every original that was given has the bytes of its image.
    pub ok: bool,
    /// One for each image.
    pub images: Vec<ImageReport>,
    /// What is odd about sharded models, such as a shard that is missing.
    pub notes: Vec<String>,
}

/// Verifies an image, or every image under a folder. Damage is a finding in the report, not an
/// error.
pub fn verify(
    source: &Path,
    options: &VerifyOptions,
    progress: &dyn Progress,
) -> Result<VerifyReport> {
    let bases = Arc::new(SearchPaths::new(&options.bases, source));
    let paths = folder::own_images_under(source, progress)?;
    if paths.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "no image (`.bs`) here").file(source));
    }
    let known = folder::images_under(source, progress)?;
    for path in folder::named_like_images(source, progress)? {
        if !known.contains(&path) {
            progress.warn(&format!(
                "`{}` is no image that could be known as one, and was not verified",
                path.display()
            ));
        }
    }
    let alone = !source.is_dir();
    let mut images = Vec::new();
    for path in paths {
        let original = options.original.as_deref();
        let original = original.map(|original| original_of(&path, source, original));
        let original = original.transpose()?;
        images.push(verify_path(
            &path,
            &bases,
            (alone, original.as_deref()),
            options,
            progress,
        )?);
    }
    Ok(VerifyReport {
        ok: images
            .iter()
            .all(|image| image.ok && image.is_equal_to_source != Some(false)),
        images,
        notes: shard_notes::under(source),
    })
}

/// Where the original of an image is: where it would be restored to, were it restored into the
/// folder of originals.
fn original_of(image: &Path, source: &Path, original: &Path) -> Result<PathBuf> {
    let Ok(relative) = image.strip_prefix(source) else {
        return Ok(original.to_owned());
    };
    if relative.as_os_str().is_empty() {
        return Ok(original.to_owned());
    }
    let header = archive::peek(&FileSource::open(image)?, image)?;
    let name = image.file_name().unwrap_or_default();
    let name = naming::original_name(name, &header).unwrap_or_else(|| name.to_owned());
    Ok(original.join(relative).with_file_name(name))
}

/// An image of a folder that cannot be opened, for whatever reason, is a finding and not the end.
pub(super) fn verify_path(
    path: &Path,
    bases: &Arc<SearchPaths>,
    (alone, original): (bool, Option<&Path>),
    options: &VerifyOptions,
    progress: &dyn Progress,
) -> Result<ImageReport> {
    let is_finding = |kind| matches!(kind, ErrorKind::Damaged | ErrorKind::OverLimit) || !alone;
    let threads = options.threads;
    let checked = match options.depth {
        // the base is not needed for that
        Depth::Structure => Archive::open(path).map(|archive| structure(&archive)),
        _ => match base::open_archive(path, bases, threads, progress) {
            Ok(archive) => match options.depth {
                Depth::Sample { share, seed } => {
                    Ok(sample::verify(&archive, share, seed, threads, progress)?)
                }
                _ => Ok(verify_image(&archive, original, threads, progress)?),
            },
            Err(error) => Err(error),
        },
    };
    let mut report = match checked {
        Ok(report) => report,
        Err(error) if error.kind() == ErrorKind::MissingBase && !alone => {
            let mut report = structure(&Archive::open(path)?);
            report.missing_base = Some(error.to_string());
            report.ok = false;
            report
        }
        Err(error) if is_finding(error.kind()) => {
            let mut report = ImageReport::new(path, Checked::Structure);
            report.conclude(vec![error.to_string()]);
            report
        }
        Err(error) => return Err(error),
    };
    let holds = match report.checked {
        Checked::Whole => Some(report.ok),
        _ => (!report.ok).then_some(false),
    };
    report.parity = own_parity::look(path, holds, threads, progress)?;
    // parity of another file says nothing of this one
    let is_wrong = |parity: &ParityState| !parity.ok && !parity.is_of_another_file;
    report.ok &= !report.parity.as_ref().is_some_and(is_wrong);
    Ok(report)
}

/// Header and index, both copies of each: opening has checked one.
fn structure(archive: &Archive) -> ImageReport {
    let mut report = ImageReport::new(archive.path(), Checked::Structure);
    report.blocks_in_all = archive.index().blocks.len() as u64;
    let faults = archive.check_copies();
    report.conclude(faults.iter().map(Error::to_string).collect());
    report
}
