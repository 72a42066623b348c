//! Compress: a file into an image, a folder into one image, or a folder into a mirror of it. Sources are never touched,
//! and nothing counts as written before it was read back from the disk and proved equal.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::archive;
use crate::archive::Bases;
use crate::archive::naming;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest::Sha256;
use crate::base::digest::hex;
use crate::codec::Profile;
use crate::format::ImageKind;
use crate::ops::base;
use crate::ops::folder;
use crate::ops::folder::Entry;
use crate::ops::folder::EntryKind;
use crate::ops::folder::OutputFolder;
use crate::ops::folder::Stamp;
use crate::ops::report;
use crate::ops::stream;
use crate::tensor::Layout;
use crate::writer;
use crate::writer::Source;
use crate::writer::WriteOptions;

/// Where the result goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    /// Beside the source, under the name that follows from its own.
    Beside,
    /// To this path.
    Path(PathBuf),
    /// To this stream.
    Stdout,
}

/// How to compress.
#[derive(Debug, Clone)]
pub struct CompressOptions {
    /// Where to.
    pub output: Output,
    /// Size or latency.
    pub profile: Profile,
    /// The model to store differences from.
    pub base: Option<Arc<Bases>>,
    /// Replace what exists.
    pub force: bool,
    /// Store files that are not valid safetensors as plain bytes.
    pub opaque: bool,
    /// Threads that code.
    pub threads: usize,
}

/// One image that was written.
#[derive(Debug, Clone, Serialize)]
pub struct ImageWritten {
    /// What was compressed.
    #[serde(serialize_with = "report::path")]
    pub source: PathBuf,
    /// The image; `-` for standard output.
    #[serde(serialize_with = "report::path")]
    pub output: PathBuf,
    /// Bytes of the originals.
    pub original_bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// sha256 of the original; of each, joined by blanks, in an image of a folder.
    pub sha256: String,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct CompressReport {
    /// The profile.
    pub profile: &'static str,
    /// Every image.
    pub images: Vec<ImageWritten>,
    /// Files copied as they are.
    pub copied_files: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Bytes of all originals, copies included.
    pub original_bytes: u64,
    /// Bytes of all that was written.
    pub output_bytes: u64,
    /// Wall time.
    pub seconds: f64,
}

/// Compresses a file or a folder.
pub fn compress(
    source: &Path,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<CompressReport> {
    let begun = Instant::now();
    let metadata = fs::metadata(source).map_err(|e| Error::io("cannot open", source, e))?;
    let mut report = CompressReport {
        profile: options.profile.name(),
        images: Vec::new(),
        copied_files: 0,
        copied_bytes: 0,
        original_bytes: 0,
        output_bytes: 0,
        seconds: 0.0,
    };
    if metadata.is_dir() {
        compress_folder(source, options, &mut report, progress)?;
    } else {
        report
            .images
            .push(compress_file(source, options, progress)?);
    }
    report.original_bytes = report.copied_bytes
        + report
            .images
            .iter()
            .map(|image| image.original_bytes)
            .sum::<u64>();
    report.output_bytes = report.copied_bytes
        + report
            .images
            .iter()
            .map(|image| image.image_bytes)
            .sum::<u64>();
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

fn compress_file(
    source: &Path,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<ImageWritten> {
    let name = source.file_name().unwrap_or_default();
    let (image_name, suffix) = naming::image_name(name);
    let target = match &options.output {
        Output::Beside => source.with_file_name(image_name),
        Output::Path(path) => path.clone(),
        Output::Stdout => return to_stdout(source, suffix, options, progress),
    };
    folder::check_not_same(source, &target)?;
    crate::base::atomic::check_target(&target, options.force)?;
    if !target.file_name().is_some_and(naming::is_image_name) {
        progress.warn(&format!(
            "`{}` does not end with `.bs`: a mount will not take it for an image",
            target.display()
        ));
    }
    let sources = [open_source(source, String::new(), options.opaque)?];
    write_verified(
        ImageKind::File,
        suffix,
        &sources,
        source,
        &target,
        options,
        progress,
    )
}

/// A file that goes into an image, and what the disk said of it before.
struct Opened {
    source: Source,
    stamp: Stamp,
}

/// Opens a file that is to go into an image. What safetensors refuses is refused here, unless `opaque`.
fn open_source(path: &Path, within: String, opaque: bool) -> Result<Opened> {
    let stamp = Stamp::of(path)?;
    let file = FileSource::open(path)?;
    let layout = match Layout::of_safetensors(&file) {
        Ok(layout) => layout,
        Err(error) if opaque && error.kind() == ErrorKind::Invalid => Layout::of_bytes(file.len()),
        Err(error) => return Err(named_better(error, &file).file(path)),
    };
    let source = Source {
        path: within,
        bytes: Arc::new(file),
        layout,
        bases: Vec::new(),
    };
    Ok(Opened { source, stamp })
}

/// An image given to be compressed is a mistake of its own kind.
fn named_better(error: Error, file: &FileSource) -> Error {
    let mut magic = [0; 8];
    let is_image =
        file.read_exact_at(0, &mut magic).is_ok() && magic == crate::format::header::MAGIC;
    if is_image {
        Error::invalid("is a bigsmall image already")
    } else {
        error
    }
}

/// Writes an image, reads it back whole from the disk and compares it with the sources, and only then puts it in place.
fn write_verified(
    kind: ImageKind,
    suffix: &str,
    sources: &[Opened],
    source: &Path,
    target: &Path,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<ImageWritten> {
    let mut output = OutputFile::create(target, options.force)?;
    let written = write_and_prove(
        kind,
        suffix,
        sources,
        source,
        &mut output,
        options,
        progress,
    )?;
    let stamp = match sources {
        [only] if kind == ImageKind::File => only.stamp.clone(),
        _ => Stamp::of(source)?,
    };
    // a folder's bits say who may list it: an image of it is a plain file
    let mode = if kind == ImageKind::Folder {
        stamp.mode & 0o666
    } else {
        stamp.mode
    };
    output.commit(Some(stamp.mtime), Some(mode))?;
    Ok(written)
}

fn write_and_prove(
    kind: ImageKind,
    suffix: &str,
    sources: &[Opened],
    source: &Path,
    output: &mut OutputFile,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<ImageWritten> {
    let stamps: Vec<&Stamp> = sources.iter().map(|opened| &opened.stamp).collect();
    let mut sources: Vec<Source> = sources.iter().map(|opened| opened.source.clone()).collect();
    let label = source.file_name().unwrap_or_default().to_string_lossy();
    if let Some(bases) = &options.base {
        progress.begin(&format!("reading the base of {label}"), 0);
        for source in &mut sources {
            source.bases = base::bases_of(bases, &source.layout.spans, options.threads, progress)?;
        }
        if sources
            .iter()
            .flat_map(|source| &source.bases)
            .flatten()
            .next()
            .is_none()
        {
            progress.warn("no tensor of the base has a name, dtype and shape that occur here");
        }
    }
    let original_bytes = sources.iter().map(|source| source.layout.len).sum();
    progress.begin(&format!("compressing {label}"), original_bytes);
    let spans = sources.iter().flat_map(|source| &source.layout.spans);
    let tensors: Vec<_> = spans.map(|span| (span.family(), span.len)).collect();
    if let Some(why) = options.profile.brings_nothing(&tensors) {
        let name = options.profile.name();
        progress.warn(&format!(
            "`{}`: the profile {name} brings nothing here: {why}",
            source.display()
        ));
    }
    let write = WriteOptions {
        profile: options.profile,
        threads: options.threads,
    };
    let written = writer::write_image(kind, suffix, &sources, &write, output, progress)?;
    output.sync()?;
    progress.begin(&format!("reading back {label}"), original_bytes);
    prove(
        output.temporary(),
        options.base.as_ref(),
        &written.sha256s,
        options.threads,
        progress,
    )
    .map_err(|e| e.file(source))?;
    // what was read is what was there all the time
    stamps.iter().try_for_each(|stamp| stamp.check())?;
    progress.end();
    Ok(ImageWritten {
        source: source.to_owned(),
        output: output.target().to_owned(),
        original_bytes,
        image_bytes: written.image_len,
        sha256: written
            .sha256s
            .iter()
            .map(|sha| hex(sha))
            .collect::<Vec<_>>()
            .join(" "),
    })
}

/// Decodes the whole image from the disk and compares the sha256 of each file with that of its source.
fn prove(
    image: &Path,
    bases: Option<&Arc<Bases>>,
    sha256s: &[[u8; 32]],
    threads: usize,
    progress: &dyn Progress,
) -> Result<()> {
    let archive = base::open_archive(image, bases)?;
    for (file, expected) in archive.files().iter().zip(sha256s) {
        let mut sha256 = Sha256::default();
        stream::runs(&archive, file, threads, progress, |run| {
            let bytes = run.bytes?;
            sha256.update(&bytes);
            progress.advance(bytes.len() as u64);
            Ok(())
        })?;
        if sha256.finish() != *expected {
            return Err(
                Error::new(ErrorKind::Io, "changed while it was being compressed")
                    .hint("compress it again when nobody writes to it"),
            );
        }
    }
    Ok(())
}

fn to_stdout(
    source: &Path,
    suffix: &str,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<ImageWritten> {
    let sources = [open_source(source, String::new(), options.opaque)?];
    stream_out(ImageKind::File, suffix, &sources, source, options, progress)
}

/// An image is finished at its beginning last, so it is made in a temporary file and then copied out.
fn stream_out(
    kind: ImageKind,
    suffix: &str,
    sources: &[Opened],
    source: &Path,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<ImageWritten> {
    let target = crate::base::atomic::temporary_for(&std::env::temp_dir().join("bigsmall"));
    let mut output = OutputFile::create(&target, true)?;
    let mut written = write_and_prove(
        kind,
        suffix,
        sources,
        source,
        &mut output,
        options,
        progress,
    )?;
    written.output = PathBuf::from("-");
    let failed = |e| Error::io("cannot write to standard output", Path::new("-"), e);
    let mut image = fs::File::open(output.temporary()).map_err(failed)?;
    io::copy(&mut image, &mut io::stdout().lock()).map_err(failed)?;
    Ok(written)
}

fn compress_folder(
    source: &Path,
    options: &CompressOptions,
    report: &mut CompressReport,
    progress: &dyn Progress,
) -> Result<()> {
    let target =
        match &options.output {
            Output::Beside => {
                return Err(Error::invalid("a folder needs an output").file(source).hint(
                "name a folder with `-o FOLDER`, or one image for all of it with `-o NAME.bs`",
            ));
            }
            Output::Stdout => {
                let sources = folder_sources(source, options.opaque, progress)?;
                let kind = ImageKind::Folder;
                report
                    .images
                    .push(stream_out(kind, "", &sources, source, options, progress)?);
                return Ok(());
            }
            Output::Path(path) => path,
        };
    folder::check_apart(source, target)?;
    // a trailing slash says folder
    let written_as_folder = target.as_os_str().as_encoded_bytes().ends_with(b"/");
    if target.file_name().is_some_and(naming::is_image_name) && !written_as_folder {
        crate::base::atomic::check_target(target, options.force)?;
        let sources = folder_sources(source, options.opaque, progress)?;
        let kind = ImageKind::Folder;
        let image = write_verified(kind, "", &sources, source, target, options, progress)?;
        report.images.push(image);
        return Ok(());
    }
    mirror(source, target, options, report, progress)
}

/// All files of a folder as they go into one image. Links to files are followed; models are split into tensors, and
/// everything else is stored as bytes.
fn folder_sources(root: &Path, opaque: bool, progress: &dyn Progress) -> Result<Vec<Opened>> {
    let (mut sources, mut faults) = (Vec::new(), Vec::new());
    for entry in folder::walk(root)? {
        let full = root.join(&entry.path);
        match &entry.kind {
            EntryKind::Folder => continue,
            EntryKind::Link(_) if !fs::metadata(&full).is_ok_and(|m| m.is_file()) => {
                progress.warn(&format!(
                    "`{}` is left out: a link to no file",
                    full.display()
                ));
                continue;
            }
            EntryKind::Special => {
                progress.warn(&format!("`{}` is left out: not a file", full.display()));
                continue;
            }
            EntryKind::File | EntryKind::Link(_) => {}
        }
        let path = entry
            .path
            .to_str()
            .filter(|path| crate::format::index::path_is_valid(path));
        let path = path.ok_or_else(|| {
            Error::invalid("the name cannot be stored in an image").file(&full).hint(
                "names in an image are UTF-8 without `\\`; compress to a folder instead (`-o FOLDER`)",
            )
        })?;
        let as_bytes = opaque || !folder::is_model(&full);
        match open_source(&full, path.to_owned(), as_bytes) {
            Ok(source) => sources.push(source),
            Err(error) => faults.push(error),
        }
    }
    refuse_faults(root, &faults)?;
    sources.sort_by(|a: &Opened, b| a.source.path.cmp(&b.source.path));
    if sources.is_empty() {
        return Err(Error::invalid("there is no file in this folder").file(root));
    }
    Ok(sources)
}

/// A file of the source folder and what becomes of it.
struct Planned {
    entry: Entry,
    /// The image's path and suffix; none for what is copied.
    image: Option<(PathBuf, &'static str)>,
}

fn mirror(
    root: &Path,
    target: &Path,
    options: &CompressOptions,
    report: &mut CompressReport,
    progress: &dyn Progress,
) -> Result<()> {
    let plan = plan_mirror(root, options.opaque)?;
    let output = OutputFolder::create(target, options.force)?;
    for Planned { entry, image } in &plan {
        progress.check()?;
        let full = root.join(&entry.path);
        match (&entry.kind, image) {
            (EntryKind::Folder, _) => output.make_folder(&entry.path)?,
            (EntryKind::Link(to), _) => output.make_link(&entry.path, to, options.force)?,
            (EntryKind::Special, _) => {
                progress.warn(&format!("`{}` is left out: not a file", full.display()));
            }
            (EntryKind::File, Some((path, suffix))) => {
                let sources = [open_source(&full, String::new(), options.opaque)?];
                let to = output.path(path);
                let kind = ImageKind::File;
                let mut image =
                    write_verified(kind, suffix, &sources, &full, &to, options, progress)?;
                image.output = target.join(path);
                report.images.push(image);
            }
            (EntryKind::File, None) => {
                let to = output.path(&entry.path);
                report.copied_bytes += folder::copy_file(&full, &to, options.force)?;
                report.copied_files += 1;
            }
        }
    }
    output.commit()
}

/// Decides for every entry before anything is written: all faults of all models are told at once.
fn plan_mirror(root: &Path, opaque: bool) -> Result<Vec<Planned>> {
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

/// One error for all files of a folder that cannot be compressed.
fn refuse_faults(root: &Path, faults: &[Error]) -> Result<()> {
    let Some(first) = faults.first() else {
        return Ok(());
    };
    let lines: Vec<String> = faults
        .iter()
        .map(|e| e.to_string().replace('\n', "; "))
        .collect();
    let what = format!(
        "{} files cannot be compressed:\n{}",
        faults.len(),
        lines.join("\n")
    );
    Err(Error::new(first.kind(), what)
        .file(root)
        .hint("mend or remove them, or store them as plain bytes with `--opaque`"))
}

/// `x.bs` for `x.safetensors`; `x.safetensors.bs`, which stands for the same, if `x.bs` is taken.
fn image_path(path: &Path, taken: &mut BTreeSet<PathBuf>) -> Result<(PathBuf, &'static str)> {
    let name = path.file_name().unwrap_or_default();
    let (short, suffix) = naming::image_name(name);
    let mut long = name.to_owned();
    long.push(naming::IMAGE_EXTENSION);
    for image in [short, long] {
        let image = path.with_file_name(image);
        if taken.insert(image.clone()) {
            return Ok((image, suffix));
        }
    }
    Err(
        Error::invalid("there is a file already under the name that its image would have")
            .file(path)
            .hint("rename one of them"),
    )
}
