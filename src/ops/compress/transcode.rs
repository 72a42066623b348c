//! An image in another profile: coded anew from what it holds, without its originals on the disk.
//! What is stored as differences stays so.

use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::archive::Archive;
use crate::base::Progress;
use crate::base::Result;
use crate::codec::Profile;
use crate::ops::base::SearchPaths;
use crate::ops::compress::options::CompressOptions;
use crate::ops::compress::report::CompressReport;
use crate::ops::compress::report::ImageWritten;
use crate::ops::compress::sources::restored;
use crate::ops::compress::write::write_verified;
use crate::ops::folder;
use crate::ops::folder::EntryKind;
use crate::ops::folder::OutputFolder;
use crate::ops::origin::Replacing;

/// How to transcode.
#[derive(Debug, Clone)]
pub(crate) struct TranscodeOptions {
    /// The new profile.
    pub profile: Profile,
    /// Where the bases of deltas are looked for.
    pub bases: Vec<PathBuf>,
    /// Replace an output that exists.
    pub force: bool,
    /// Threads that code.
    pub threads: usize,
}

/// Codes the image `source` anew as `target`; or the images of a folder, whose other files are
/// copied.
pub(crate) fn transcode(
    source: &Path,
    target: &Path,
    options: &TranscodeOptions,
    progress: &dyn Progress,
) -> Result<CompressReport> {
    let begun = Instant::now();
    let search_paths = SearchPaths::new(&options.bases, source).or_beside(source);
    let mut report = CompressReport::new(options.profile);
    if source.is_dir() {
        folder::check_apart(source, target)?;
        transcode_folder(
            source,
            target,
            &search_paths,
            options,
            &mut report,
            progress,
        )?;
    } else {
        folder::check_image(source)?;
        folder::check_not_same(source, target)?;
        let image = transcode_image(source, target, &search_paths, options, progress)?;
        report.images.push(image);
    }
    report.add_up(begun);
    Ok(report)
}

fn transcode_image(
    source: &Path,
    target: &Path,
    search_paths: &SearchPaths,
    options: &TranscodeOptions,
    progress: &dyn Progress,
) -> Result<ImageWritten> {
    let is_delta = Archive::open(source)?.index().is_delta();
    let bases = is_delta.then(|| search_paths.open()).transpose()?;
    Replacing::forced(options.force).check_recoded(target, source)?;
    let contents = restored(source, bases, bases.map(|_| target))?;
    let options = CompressOptions {
        base: bases.map(Arc::clone),
        force: options.force,
        ..CompressOptions::new(target, options.profile, options.threads)
    };
    write_verified(&contents, source, target, &options, progress)
}

fn transcode_folder(
    root: &Path,
    target: &Path,
    search_paths: &SearchPaths,
    options: &TranscodeOptions,
    report: &mut CompressReport,
    progress: &dyn Progress,
) -> Result<()> {
    let entries = folder::walk(root, progress)?;
    let output = OutputFolder::create(target, options.force)
        .map_err(|e| e.hint("write into it, replacing what has the same name, with `--force`"))?;
    for entry in &entries {
        progress.check()?;
        let (full, to) = (root.join(&entry.path), output.path(&entry.path));
        match &entry.kind {
            EntryKind::File if folder::is_image(&full) => {
                let mut image = transcode_image(&full, &to, search_paths, options, progress)?;
                image.output = output.target_path(&entry.path);
                report.images.push(image);
            }
            // what is the parity of an image is none of another one
            EntryKind::File if folder::is_parity_name(&entry.path) => {}
            _ => {
                let bytes = output.copy(root, entry, options.force, progress)?;
                report.copied_files += u64::from(bytes.is_some());
                report.copied_bytes += bytes.unwrap_or(0);
            }
        }
    }
    output.commit()
}
