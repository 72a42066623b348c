//! Protect: a parity file beside a file, by which it can be put together again when it was damaged.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::base::Error;
use crate::base::FileSource;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::identity::Identity;
use crate::base::output_file;
use crate::ops::folder;
use crate::ops::folder::FirstNames;
use crate::ops::own_parity;
use crate::ops::report;
use crate::parity;
use crate::parity::Layout;

/// How much of a file its parity makes up for, unless somebody says otherwise.
pub(crate) const PERCENT_DEFAULT: u32 = 5;

/// How to protect.
#[derive(Debug, Clone)]
pub struct ProtectOptions {
    /// How much of the file may be lost in one run, in percent of it; 1 to 100.
    pub percent: u32,
    /// Replace parity that is there already.
    pub force: bool,
    /// Threads to use.
    pub threads: usize,
}

/// What was done for one file.
#[derive(Debug, Clone, Serialize)]
pub struct Protected {
    /// The file.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// Its parity.
    #[serde(serialize_with = "report::path")]
    pub parity: PathBuf,
    /// Bytes of the file.
    pub bytes: u64,
    /// Bytes of the parity file.
    pub parity_bytes: u64,
    /// Bytes of a shard, the least that is lost.
    pub shard_bytes: u32,
    /// Sets that the shards are shared among, and parity shards of each.
    pub sets: u32,
    /// Shards that each set may lose.
    pub parity_shards: u32,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct ProtectReport {
    /// Every file that has parity now and had none.
    pub files: Vec<Protected>,
    /// Files that had it.
    pub kept: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Protects files, and of folders every image below them. In a folder those that have parity
/// already are left alone.
pub fn protect(
    paths: &[PathBuf],
    options: &ProtectOptions,
    progress: &dyn Progress,
) -> Result<ProtectReport> {
    let begun = Instant::now();
    let mut report = ProtectReport {
        files: Vec::new(),
        kept: 0,
        seconds: 0.0,
    };
    for path in paths {
        let is_folder = path.is_dir();
        let files = folder::images_under(path, progress)?;
        if files.is_empty() {
            progress.warn(&format!("`{}`: no image (`.bs`) here", path.display()));
        }
        for file in files {
            let mut force = options.force;
            if is_folder && !force && folder::parity_path(&file).exists() {
                if own_parity::is_of(&FileSource::open(&file)?, &folder::parity_path(&file)) {
                    report.kept += 1;
                    continue;
                }
                // it is another file's, mostly that of an image that was replaced
                force = true;
            }
            let done = protect_file(&file, force, options, progress)?;
            report.files.push(done);
        }
    }
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// Protects images that were written just now; what went to standard output is out of reach.
pub(crate) fn protect_written<'a>(
    images: impl Iterator<Item = &'a Path>,
    options: &ProtectOptions,
    progress: &dyn Progress,
) -> Result<Vec<Protected>> {
    let files = images.filter(|image| *image != Path::new("-"));
    files
        .map(|image| protect_file(image, options.force, options, progress))
        .collect()
}

/// Protects those of these images that have no parity of their own.
pub(crate) fn protect_unprotected(
    images: &[PathBuf],
    options: &ProtectOptions,
    progress: &dyn Progress,
) -> Result<Vec<Protected>> {
    let (mut done, mut names) = (Vec::new(), FirstNames::default());
    for path in images {
        let (parity, file) = (folder::parity_path(path), FileSource::open(path)?);
        let metadata = file.file().metadata();
        let metadata = metadata.map_err(|e| Error::io("cannot stat", path, e))?;
        let first: Option<&PathBuf> = names.met(&metadata, || path.clone());
        if parity.exists() && own_parity::is_of(&file, &parity) {
            continue;
        }
        match first {
            Some(first) => put_name(first, path)?,
            None => done.push(protect_file(path, options.force, options, progress)?),
        }
    }
    Ok(done)
}

/// Gives the parity of `from`, if there is some, a name for `to`, which is another name of that
/// file or a copy of it.
pub(crate) fn put_name(from: &Path, to: &Path) -> Result<()> {
    let (from, to) = (folder::parity_path(from), folder::parity_path(to));
    let is_there = from.is_file() && !folder::is_same_file(&from, &to);
    if is_there && !output_file::link(&from, &to, true)? {
        folder::copy_over(&from, &to)?;
    }
    Ok(())
}

fn protect_file(
    path: &Path,
    force: bool,
    options: &ProtectOptions,
    progress: &dyn Progress,
) -> Result<Protected> {
    let file = FileSource::open(path)?;
    let layout = Layout::choose(file.len(), options.percent).ok_or_else(|| {
        let error = Error::invalid("has no bytes to protect, or too many for its parity");
        error.file(path)
    })?;
    let how = (force, None);
    write_parity(path, &file, &layout, how, options.threads, progress)
}

/// Writes the parity of an open file, cut as `layout` says, beside it. With `expected` the file
/// must have that digest.
pub(super) fn write_parity(
    path: &Path,
    file: &FileSource,
    layout: &Layout,
    (force, expected): (bool, Option<[u8; 32]>),
    threads: usize,
    progress: &dyn Progress,
) -> Result<Protected> {
    let mut output = OutputFile::create(&folder::parity_path(path), force)
        .map_err(|e| e.hint("replace it with `--force`"))?;
    let blake3 = write_to(path, file, layout, &mut output, threads, progress)?;
    if expected.is_some_and(|expected| expected != blake3) {
        let error = Error::damaged("is not the file that was protected: its parity stays as it is");
        return Err(error.file(path));
    }
    let metadata = fs::metadata(path).map_err(|e| Error::io("cannot stat", path, e))?;
    if Identity::of(&metadata) != file.on_disk() {
        let error = Error::invalid("was changed while its parity was made");
        return Err(error.file(path).hint("run it again"));
    }
    output.commit(None, Some(metadata.permissions().mode()))?;
    protected(path, layout)
}

/// Writes the parity of the open file that is or will be at `path`; the digest of that.
pub(super) fn write_to(
    path: &Path,
    file: &FileSource,
    layout: &Layout,
    output: &mut OutputFile,
    threads: usize,
    progress: &dyn Progress,
) -> Result<[u8; 32]> {
    let label = path.file_name().unwrap_or_default().to_string_lossy();
    progress.begin(&format!("protecting {label}"), layout.data_len);
    let header = parity::protect(file, layout, output, threads, progress);
    let header = header.map_err(|e| e.file(path))?;
    progress.end();
    Ok(header.blake3)
}

/// What is said of a file whose parity was written just now.
pub(super) fn protected(path: &Path, layout: &Layout) -> Result<Protected> {
    let parity = folder::parity_path(path);
    let written = fs::metadata(&parity).map_err(|e| Error::io("cannot stat", &parity, e))?;
    Ok(Protected {
        path: path.to_owned(),
        parity,
        bytes: layout.data_len,
        parity_bytes: written.len(),
        shard_bytes: layout.shard_len,
        sets: layout.set_count,
        parity_shards: layout.parity_count,
    })
}
