//! Scan: what compressing these folders would save, from a sample of each model, and what in them
//! is there twice. Nothing is written.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::time::Instant;

use serde::Serialize;

use crate::archive::Archive;
use crate::base::Error;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::parallel;
use crate::ops::estimate::Estimate;
use crate::ops::folder;
use crate::ops::folder::EntryKind;
use crate::ops::folder::FirstNames;
use crate::ops::report;
use crate::ops::shard_notes;

/// Files that are no models are named from this size on.
const OTHER_BYTES_MIN: u64 = 1 << 20;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// A safetensors file.
    Model,
    /// An image of ours.
    Image,
    /// Anything else.
    Other,
}

/// A file.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Scanned {
    /// Where it is.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// What it is.
    pub kind: Kind,
    /// Its bytes.
    pub bytes: u64,
    /// Bytes of the original: of an image, of what it holds.
    pub original_bytes: u64,
    /// Bytes of the image: of a model, about how many it would have.
    pub image_bytes: u64,
    /// Why there is nothing to gain, if there is nothing.
    pub why_not: Option<String>,
    /// Names (hard links) that it has outside of what was scanned: while they are there, nothing is
    /// freed.
    pub names_elsewhere: u64,
    /// About how many bytes of it are F32 of numbers that BF16 holds.
    pub bf16_in_f32_bytes: u64,
    /// About how many bytes of it are F32 of numbers that F16 holds, and BF16 does not.
    pub f16_in_f32_bytes: u64,
}

impl Scanned {
    /// Bytes that its image saves, or would.
    pub(crate) fn saved_bytes(&self) -> u64 {
        self.original_bytes.saturating_sub(self.image_bytes)
    }
}

/// Files that belong together.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Group {
    /// The files.
    #[serde(serialize_with = "report::paths")]
    pub paths: Vec<PathBuf>,
    /// Bytes of each.
    pub bytes: u64,
}

/// What is there.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ScanReport {
    /// Every model and image, and other files from 1 MiB on.
    pub files: Vec<Scanned>,
    /// Models.
    pub models: u64,
    /// Their bytes.
    pub model_bytes: u64,
    /// About how many of them would be saved.
    pub estimated_saved_bytes: u64,
    /// Images.
    pub images: u64,
    /// What they save already.
    pub saved_bytes: u64,
    /// Other files.
    pub others: u64,
    /// Their bytes.
    pub other_bytes: u64,
    /// Files with several names (hard links), which are counted once.
    pub links: u64,
    /// Models and images that have the same length, and the same bytes wherever it was looked;
    /// images have the same sha256.
    pub duplicates: Vec<Group>,
    /// Models with tensors of the same names, dtypes and shapes: fine-tunes of one base, maybe.
    pub alike: Vec<Group>,
    /// What is odd about sharded models, such as a shard that is missing.
    pub notes: Vec<String>,
    /// Wall time.
    pub seconds: f64,
}

/// What is known of one file.
struct FileResult {
    scanned: Scanned,
    /// The same for the same content, as far as it was looked.
    content: Option<Vec<u8>>,
    /// The same for the same tensors.
    tensors: Option<[u8; 32]>,
}

/// Looks at all files under `paths`.
pub(crate) fn scan(
    paths: &[PathBuf],
    threads: usize,
    progress: &dyn Progress,
) -> Result<ScanReport> {
    let begun = Instant::now();
    progress.begin("listing", 0);
    let (files, links) = listed(paths, progress)?;
    progress.begin(
        "looking at the models",
        files.iter().map(|file| file.bytes).sum(),
    );
    let mut found = Vec::with_capacity(files.len());
    parallel::ordered(
        threads,
        files.len(),
        || (),
        |(), number| {
            progress.check()?;
            let file = &files[number];
            let mut found = estimate(&file.path, file.bytes);
            found.scanned.names_elsewhere = file.names_elsewhere;
            progress.advance(file.bytes);
            Ok(found)
        },
        |_, file| {
            found.push(file);
            Ok(())
        },
    )?;
    progress.end();
    let mut report = add_up(found);
    report.links = links;
    report.notes = shard_notes::beside(files.iter().map(|file| file.path.clone()));
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

/// A file to be looked at.
struct ListedFile {
    path: PathBuf,
    bytes: u64,
    /// Names (hard links) that it has beside those that were met.
    names_elsewhere: u64,
}

/// Each file once, and how many further names of them were met.
fn listed(paths: &[PathBuf], progress: &dyn Progress) -> Result<(Vec<ListedFile>, u64)> {
    let mut files: Vec<ListedFile> = Vec::new();
    let mut seen = FirstNames::default();
    let mut links = 0;
    let mut take = |path: PathBuf| -> Result<()> {
        progress.check()?;
        let metadata = fs::metadata(&path).map_err(|e| Error::io("cannot stat", &path, e))?;
        let first = seen.met(&metadata, || (files.len(), path.clone()));
        if let Some((known, name)) = first {
            links += 1;
            // the same name may be met twice, and so may a symbolic link to it
            let is_link = fs::symlink_metadata(&path).is_ok_and(|m| m.is_symlink());
            if !is_link && *name != path {
                let known = &mut files[*known];
                known.names_elsewhere = known.names_elsewhere.saturating_sub(1);
            }
            return Ok(());
        }
        files.push(ListedFile {
            path,
            bytes: metadata.len(),
            names_elsewhere: metadata.nlink().saturating_sub(1),
        });
        Ok(())
    };
    for path in paths {
        if !path.is_dir() {
            take(path.clone())?;
            continue;
        }
        for entry in folder::walk(path, progress)? {
            if entry.kind == EntryKind::File {
                take(path.join(entry.path))?;
            }
        }
    }
    Ok((files, links))
}

fn estimate(path: &Path, bytes: u64) -> FileResult {
    let mut found = FileResult {
        scanned: Scanned {
            path: path.to_owned(),
            kind: Kind::Other,
            bytes,
            original_bytes: bytes,
            image_bytes: bytes,
            why_not: None,
            names_elsewhere: 0,
            bf16_in_f32_bytes: 0,
            f16_in_f32_bytes: 0,
        },
        content: None,
        tensors: None,
    };
    let scanned = &mut found.scanned;
    // the file is named beside it, and the hint of an error would be for another command
    let why = |error: Error| Some(error.what());
    if folder::is_image(path) {
        scanned.kind = Kind::Image;
        match Archive::open(path) {
            Ok(archive) => {
                scanned.original_bytes = archive.header().original_len;
                let shas = archive.files().iter().flat_map(|file| file.sha256);
                found.content = Some(shas.collect());
            }
            Err(error) => scanned.why_not = why(error),
        }
    } else if folder::is_model(path) {
        scanned.kind = Kind::Model;
        match Estimate::of_file(path) {
            Ok(estimate) => {
                scanned.bf16_in_f32_bytes = estimate.bf16_in_f32_bytes;
                scanned.f16_in_f32_bytes = estimate.f16_in_f32_bytes;
                match estimate.worth(bytes) {
                    Ok(smaller) => scanned.image_bytes = smaller,
                    Err(error) => scanned.why_not = why(error),
                }
                found.content = Some([&bytes.to_le_bytes(), &estimate.sample[..]].concat());
                found.tensors = Some(estimate.tensors);
            }
            Err(error) => scanned.why_not = why(error),
        }
    } else {
        scanned.why_not = Some(what_else(path).to_owned());
    }
    found
}

/// What a file is that is no model, from its first bytes and its name.
fn what_else(path: &Path) -> &'static str {
    let mut magic = [0; 4];
    let source = FileSource::open(path);
    let is_read = source.is_ok_and(|source| source.read_exact_at(0, &mut magic).is_ok());
    let extension = path.extension().and_then(|extension| extension.to_str());
    let is_torch = matches!(extension, Some("pt" | "pth" | "ckpt" | "bin"));
    match (is_read, &magic) {
        (true, b"GGUF") => "GGUF: mostly quantised, and stays as it is",
        (true, b"PK\x03\x04") if is_torch => {
            "a PyTorch checkpoint: saved as safetensors it could be smaller"
        }
        (true, [0x80, 2..=5, ..]) => "a pickle: saved as safetensors it could be smaller",
        _ if folder::is_parity_name(path) => "parity",
        _ => "no safetensors file",
    }
}

fn add_up(found: Vec<FileResult>) -> ScanReport {
    let mut report = ScanReport {
        files: Vec::new(),
        models: 0,
        model_bytes: 0,
        estimated_saved_bytes: 0,
        images: 0,
        saved_bytes: 0,
        others: 0,
        other_bytes: 0,
        links: 0,
        duplicates: Vec::new(),
        alike: Vec::new(),
        notes: Vec::new(),
        seconds: 0.0,
    };
    let mut contents: BTreeMap<Vec<u8>, Group> = BTreeMap::new();
    let mut alike: BTreeMap<[u8; 32], Group> = BTreeMap::new();
    for FileResult {
        scanned,
        content,
        tensors,
    } in found
    {
        let new = || Group {
            paths: Vec::new(),
            bytes: scanned.bytes,
        };
        let mut is_first = true;
        if let Some(content) = content {
            let group = contents.entry(content).or_insert_with(new);
            group.paths.push(scanned.path.clone());
            is_first = group.paths.len() == 1;
        }
        if let Some(tensors) = tensors.filter(|_| is_first) {
            let group = alike.entry(tensors).or_insert_with(new);
            group.paths.push(scanned.path.clone());
        }
        let (bytes, saved) = (scanned.bytes, scanned.saved_bytes());
        match scanned.kind {
            Kind::Model => {
                report.models += 1;
                report.model_bytes += bytes;
                report.estimated_saved_bytes += saved;
            }
            Kind::Image => {
                report.images += 1;
                report.saved_bytes += saved;
            }
            Kind::Other => {
                report.others += 1;
                report.other_bytes += bytes;
            }
        }
        if scanned.kind != Kind::Other || bytes >= OTHER_BYTES_MIN {
            report.files.push(scanned);
        }
    }
    let several = |group: &Group| group.paths.len() > 1;
    report.duplicates = contents.into_values().filter(several).collect();
    report.alike = alike.into_values().filter(several).collect();
    report
}
