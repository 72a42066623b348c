//! What goes into an image: files opened, their spans found, and what the disk said of them before.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use crate::archive::Archive;
use crate::archive::Bases;
use crate::archive::BlockCache;
use crate::archive::VirtualFile;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::format::FileRecord;
use crate::format::ImageKind;
use crate::format::SpanRecord;
use crate::ops::base;
use crate::ops::folder;
use crate::ops::folder::EntryKind;
use crate::ops::folder::Stamp;
use crate::tensor::Layout;
use crate::writer::Base;
use crate::writer::Source;

/// A file that goes into an image, and what the disk said of it before.
pub(super) struct Opened {
    pub(super) source: Source,
    pub(super) stamp: Stamp,
    /// Where its base is, if it has one already.
    pub(super) base_place: Option<String>,
    /// md5 of tensors by their names, where somebody knows them who had the bytes before the source had.
    pub(super) md5s: BTreeMap<String, [u8; 16]>,
}

/// Opens a file that is to go into an image. What safetensors refuses is refused here, unless `opaque`.
pub(super) fn open_source(path: &Path, within: String, opaque: bool) -> Result<Opened> {
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
    Ok(Opened {
        source,
        stamp,
        base_place: None,
        md5s: BTreeMap::new(),
    })
}

/// An image that is to be coded anew: what it holds, as if it were restored first.
pub(super) struct Restored {
    pub(super) kind: ImageKind,
    pub(super) suffix: String,
    pub(super) sources: Vec<Opened>,
}

/// Opens an image that is to be coded anew. If it is a delta itself, its bases are looked for among `bases`; `keeps` tells whether what
/// was a difference stays one from the same base, and where that is then seen from.
pub(super) fn restored(
    path: &Path,
    bases: Option<&Arc<Bases>>,
    keeps: Option<&Path>,
) -> Result<Restored> {
    let stamp = Stamp::of(path)?;
    let mut archive = Archive::open(path)?;
    if let Some(bases) = bases {
        archive = archive.with_bases(Arc::clone(bases));
        archive.expect_bases()?;
    }
    let archive = Arc::new(archive);
    let base_place = keeps.map(|target| base::place_moved(&archive, target));
    let cache = BlockCache::new(BlockCache::BYTES_DEFAULT);
    let open = |(number, record): (usize, &FileRecord)| {
        let file = VirtualFile::new(Arc::clone(&archive), number, Arc::clone(&cache))?;
        let layout = file.layout()?;
        let kept = bases.filter(|_| keeps.is_some());
        let bases = kept.map(|bases| bases_kept(&archive, record, bases));
        let source = Source {
            path: record.path.clone(),
            bytes: Arc::new(file),
            layout,
            bases: bases.transpose()?.unwrap_or_default(),
        };
        Ok(Opened {
            source,
            stamp: stamp.clone(),
            base_place: base_place.clone(),
            md5s: BTreeMap::new(),
        })
    };
    let sources = archive.files().iter().enumerate().map(open);
    Ok(Restored {
        kind: archive.header().kind,
        suffix: archive.header().suffix.clone(),
        sources: sources.collect::<Result<_>>()?,
    })
}

/// The base that each span of a file has.
fn bases_kept(archive: &Archive, file: &FileRecord, bases: &Bases) -> Result<Vec<Option<Base>>> {
    let index = archive.index();
    let base_of = |span: &SpanRecord| {
        let stored = span.repeats.map_or(span, |of| &index.spans[of]);
        let record = stored
            .base
            .map(|base| index.bases[base].named(&stored.span.name));
        let found = record.map(|record| {
            let bytes = bases.find(&record, span.span.len)?;
            Ok(Base { record, bytes })
        });
        found.transpose()
    };
    archive.spans(file).iter().map(base_of).collect()
}

/// An image given to be compressed is a mistake of its own kind.
fn named_better(error: Error, file: &FileSource) -> Error {
    let mut magic = [0; 8];
    let is_image =
        file.read_exact_at(0, &mut magic).is_ok() && magic == crate::format::header::MAGIC;
    if is_image {
        Error::invalid("is a bigsmall image already")
            .hint("with `--base` it is coded anew, as differences; `decompress` restores it")
    } else {
        error
    }
}

/// All files of a folder as they go into one image. Links to files are followed; models are split into tensors, and
/// everything else is stored as bytes.
pub(super) fn folder_sources(
    root: &Path,
    opaque: bool,
    progress: &dyn Progress,
) -> Result<Vec<Opened>> {
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

/// One error for all files of a folder that cannot be compressed.
pub(super) fn refuse_faults(root: &Path, faults: &[Error]) -> Result<()> {
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
