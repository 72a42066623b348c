//! Verify: every block decoded and checked, the md5 of every tensor, the sha256 of every file, both copies of the index.

use std::path::Path;
use std::path::PathBuf;

use serde::Serialize;

use crate::archive::Archive;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Progress;
use crate::base::Result;
use crate::base::digest::Md5;
use crate::base::digest::Sha256;
use crate::base::digest::hex;
use crate::ops::base::Places;
use crate::ops::folder;
use crate::ops::report;
use crate::ops::stream;

/// How many faults of one image are listed; the rest is only counted.
const FAULTS_LISTED_MAX: usize = 100;

/// What was found in one image.
#[derive(Debug, Clone, Serialize)]
pub struct ImageReport {
    /// The image.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// Whether everything is right.
    pub ok: bool,
    /// Original bytes that were decoded and found right.
    pub verified_bytes: u64,
    /// Blocks decoded.
    pub blocks: u64,
    /// Blocks that are damaged.
    pub damaged_blocks: u64,
    /// sha256 of each original file, as recorded.
    pub files: Vec<FileReport>,
    /// What is wrong, at most a hundred lines.
    pub faults: Vec<String>,
}

/// One original file of an image.
#[derive(Debug, Clone, Serialize)]
pub struct FileReport {
    /// Path within the image; empty for an image of one file.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// The recorded sha256, in hexadecimal.
    pub sha256: String,
    /// Whether the decoded bytes have it.
    pub ok: bool,
}

/// What was found in all images.
#[derive(Debug, Clone, Serialize)]
pub struct VerifyReport {
    /// Whether everything is right.
    pub ok: bool,
    /// One for each image.
    pub images: Vec<ImageReport>,
}

/// Verifies an image, or every image under a folder. Damage is a finding in the report, not an error.
pub fn verify(
    source: &Path,
    bases: &[PathBuf],
    threads: usize,
    progress: &dyn Progress,
) -> Result<VerifyReport> {
    let places = Places::new(bases, source);
    let paths = folder::images_under(source)?;
    if paths.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "no image (`.bs`) here").file(source));
    }
    for path in folder::named_like_images(source)? {
        if !paths.contains(&path) {
            progress.warn(&format!(
                "`{}` is no image that could be known as one, and was not verified",
                path.display()
            ));
        }
    }
    let alone = !source.is_dir();
    let mut images = Vec::new();
    for path in paths {
        images.push(verify_path(&path, &places, alone, threads, progress)?);
    }
    Ok(VerifyReport {
        ok: images.iter().all(|image| image.ok),
        images,
    })
}

/// An image of a folder that cannot be opened, for whatever reason, is a finding and not the end.
fn verify_path(
    path: &Path,
    places: &Places,
    alone: bool,
    threads: usize,
    progress: &dyn Progress,
) -> Result<ImageReport> {
    let is_finding = |kind| matches!(kind, ErrorKind::Damaged | ErrorKind::OverLimit) || !alone;
    match places.open_archive(path, threads, progress) {
        Ok(archive) => verify_image(&archive, threads, progress),
        Err(error) if is_finding(error.kind()) => Ok(ImageReport {
            path: path.to_owned(),
            ok: false,
            verified_bytes: 0,
            blocks: 0,
            damaged_blocks: 0,
            files: Vec::new(),
            faults: vec![error.to_string()],
        }),
        Err(error) => Err(error),
    }
}

/// Verifies an open image.
pub fn verify_image(
    archive: &Archive,
    threads: usize,
    progress: &dyn Progress,
) -> Result<ImageReport> {
    let label = archive
        .path()
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    progress.begin(&format!("verifying {label}"), archive.header().original_len);
    let mut faults: Vec<String> = archive
        .check_copies()
        .iter()
        .map(Error::to_string)
        .collect();
    let mut report = ImageReport {
        path: archive.path().to_owned(),
        ok: true,
        verified_bytes: 0,
        blocks: 0,
        damaged_blocks: 0,
        files: Vec::new(),
        faults: Vec::new(),
    };
    for file in archive.files() {
        let mut check = FileCheck::new(archive, file.spans.start);
        stream::runs(archive, file, threads, progress, |run| {
            report.blocks += run.blocks.end - run.blocks.start;
            match check.take(&run) {
                Ok(len) => report.verified_bytes += len,
                Err(error) if error.kind() == ErrorKind::Interrupted => return Err(error),
                Err(error) => {
                    report.damaged_blocks += 1;
                    faults.push(error.to_string());
                }
            }
            let span = &archive.index().spans[run.span];
            let end = span.block_range(run.blocks.end - 1).end;
            progress.advance(end - span.block_range(run.blocks.start).start);
            Ok(())
        })?;
        let ok = check.finish(file.spans.end, &file.sha256, &mut faults);
        report.files.push(FileReport {
            path: file.path.clone(),
            bytes: file.len,
            sha256: hex(&file.sha256),
            ok,
        });
    }
    progress.end();
    report.ok = faults.is_empty();
    if faults.len() > FAULTS_LISTED_MAX {
        let more = faults.len() - FAULTS_LISTED_MAX;
        faults.truncate(FAULTS_LISTED_MAX);
        faults.push(format!("and {more} more"));
    }
    report.faults = faults;
    Ok(report)
}

/// The digests of one file, as its blocks come in.
struct FileCheck<'a> {
    archive: &'a Archive,
    sha256: Sha256,
    md5: Md5,
    span: usize,
    span_whole: bool,
    whole: bool,
    faults: Vec<String>,
}

impl<'a> FileCheck<'a> {
    fn new(archive: &'a Archive, span: usize) -> Self {
        Self {
            archive,
            sha256: Sha256::default(),
            md5: Md5::default(),
            span,
            span_whole: true,
            whole: true,
            faults: Vec::new(),
        }
    }

    fn take(&mut self, run: &stream::Run) -> Result<u64> {
        self.advance_to(run.span);
        match &run.bytes {
            Ok(bytes) => {
                self.sha256.update(bytes);
                self.md5.update(bytes);
                Ok(bytes.len() as u64)
            }
            Err(error) => {
                (self.span_whole, self.whole) = (false, false);
                Err(error.clone())
            }
        }
    }

    /// Ends the spans before `span`, those without blocks too.
    fn advance_to(&mut self, span: usize) {
        while self.span < span {
            let record = &self.archive.index().spans[self.span];
            let md5 = std::mem::take(&mut self.md5).finish();
            // a damaged block is named already, and its tensor's md5 is bound to differ
            if self.span_whole && md5 != record.md5 {
                let error = Error::damaged("the md5 differs though every block is right");
                let error = error.tensor(record.span.label()).file(self.archive.path());
                self.faults.push(error.to_string());
            }
            self.span_whole = true;
            self.span += 1;
        }
    }

    fn finish(mut self, end: usize, sha256: &[u8; 32], faults: &mut Vec<String>) -> bool {
        self.advance_to(end);
        let same = self.whole && self.sha256.finish() == *sha256;
        if self.whole && !same {
            let error = Error::damaged("the sha256 differs though every block is right");
            self.faults
                .push(error.file(self.archive.path()).to_string());
        }
        faults.append(&mut self.faults);
        same
    }
}
