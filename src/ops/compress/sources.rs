//! What goes into an image: files opened, their spans found, and what the disk said of them before.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::archive::Archive;
use crate::archive::BaseResolver;
use crate::archive::Bases;
use crate::archive::ModelFile;
use crate::archive::Opening;
use crate::archive::OriginalFile;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::progress::Reason;
use crate::base::progress::Skipped;
use crate::format::FileRecord;
use crate::format::ImageKind;
use crate::format::Member;
use crate::format::SpanRecord;
use crate::ops::base;
use crate::ops::compress::members::Members;
use crate::ops::compress::members::stored_path;
use crate::ops::compress::no_model::no_model;
use crate::ops::compress::options::CompressOptions;
use crate::ops::folder;
use crate::ops::folder::EntryKind;
use crate::ops::folder::Stamp;
use crate::writer::Base;
use crate::writer::Source;

/// A file that goes into an image, and what the disk said of it before.
pub(super) struct Opened {
    pub(super) source: Source,
    pub(super) stamp: Stamp,
    /// Where its base is, if it has one already.
    pub(super) base_path: Option<String>,
    /// md5 of tensors by their names, where somebody knows them who had the bytes before the source
    /// had.
    pub(super) md5s: BTreeMap<String, [u8; 16]>,
}

impl Opened {
    /// An original file, with the bases of its spans; empty if there are none.
    fn new(file: OriginalFile, bases: Vec<Option<Base>>, stamp: Stamp) -> Self {
        Self {
            source: Source {
                path: file.path,
                bytes: file.bytes,
                layout: file.layout,
                bases,
            },
            stamp,
            base_path: None,
            md5s: BTreeMap::new(),
        }
    }
}

/// Opens a file that is to go into an image. What safetensors refuses is refused here, unless
/// `opaque`.
pub(super) fn open_source(path: &Path, within: String, opaque: bool) -> Result<Opened> {
    let stamp = Stamp::of(path)?;
    let open = || FileSource::open(path);
    let file = OriginalFile::plain(open()?, path);
    let file = file.or_else(|error| match error.kind() {
        ErrorKind::Invalid if opaque => Ok(OriginalFile::opaque(open()?)),
        _ => Err(named_better(error, &open()?)),
    })?;
    Ok(Opened::new(file.named(within), Vec::new(), stamp))
}

/// All that goes into an image.
pub(super) struct Contents {
    pub(super) kind: ImageKind,
    pub(super) suffix: String,
    pub(super) sources: Vec<Opened>,
    /// What a folder holds beside the bytes of its files.
    pub(super) members: Vec<Member>,
}

impl Contents {
    /// One file.
    pub(super) fn of_file(suffix: &str, opened: Opened) -> Self {
        Self {
            kind: ImageKind::File,
            suffix: suffix.to_owned(),
            sources: vec![opened],
            members: Vec::new(),
        }
    }
}

/// Opens an image that is to be coded anew: what it holds, as if it were restored first. If it is a
/// delta itself, its bases are looked for among `bases`; `keeps` tells whether what was a
/// difference stays one from the same base, and where that is then seen from.
pub(super) fn restored(
    path: &Path,
    bases: Option<&Arc<Bases>>,
    keeps: Option<&Path>,
) -> Result<Contents> {
    let stamp = Stamp::of(path)?;
    let opening = Opening {
        resolver: bases.map(|bases| bases.clone() as Arc<dyn BaseResolver>),
        ..Opening::default()
    };
    let file = ModelFile::of_archive(Archive::open(path)?, &opening)?;
    let archive = file
        .archive()
        .unwrap_or_else(|| unreachable!("it is an image"));
    if bases.is_some() {
        archive.expect_bases()?;
    }
    let base_path = keeps.map(|target| base::path_moved(archive, target));
    let open = |(original, record): (&OriginalFile, &FileRecord)| {
        original.check_layout(path)?;
        let kept = bases.filter(|_| keeps.is_some());
        let kept = kept.map(|bases| bases_kept(archive, record, bases));
        let bases = kept.transpose()?.unwrap_or_default();
        let opened = Opened::new(original.clone(), bases, stamp.clone());
        Ok(Opened {
            base_path: base_path.clone(),
            ..opened
        })
    };
    let sources = file.originals().iter().zip(archive.files()).map(open);
    Ok(Contents {
        kind: archive.header().kind,
        suffix: archive.header().suffix.clone(),
        sources: sources.collect::<Result<_>>()?,
        members: archive.index().members.clone(),
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
    } else if error.kind() == ErrorKind::Invalid {
        error.hint("store it as plain bytes with `--opaque`")
    } else {
        error
    }
}

/// Opens a file of a folder. What is called a model and is none is stored as any other file is;
/// none if it cannot be read.
fn open_any(full: &Path, path: &str, as_bytes: bool, skipped: &mut Vec<Skipped>) -> Option<Opened> {
    let opened = open_source(full, path.to_owned(), as_bytes);
    let opened = opened.or_else(|error| {
        let what = no_model(full, &error);
        let is_readable = what.reason != Reason::Unreadable;
        skipped.push(what);
        if is_readable {
            open_source(full, path.to_owned(), true)
        } else {
            Err(error)
        }
    });
    opened.ok()
}

/// All of a folder as it goes into one image: models are split into tensors, other files are stored
/// as bytes, folders and links are kept as what they are. A link to a file outside is stored as
/// that file.
pub(super) fn folder_contents(
    root: &Path,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<Contents> {
    let opaque = options.opaque;
    let (mut sources, mut skipped) = (Vec::new(), Vec::new());
    let mut members = Members::of(root, options.more.attributes)?;
    for entry in folder::walk(root, progress)? {
        let full = root.join(&entry.path);
        if entry.kind == EntryKind::Special {
            skipped.push(folder::not_a_file(&full));
            continue;
        }
        let path = match stored_path(&entry.path, &full) {
            Ok(path) => path,
            Err(error) => {
                let why = format!("{}: left out", error.what());
                skipped.push(Skipped::new(&full, Reason::Name, why));
                continue;
            }
        };
        match &entry.kind {
            EntryKind::Folder => members.folder(&full, path)?,
            EntryKind::Link(target) => members.link((&full, path), target, progress)?,
            EntryKind::File | EntryKind::Special => {
                let as_bytes = opaque || !folder::is_model(&full);
                if let Some(source) = open_any(&full, &path, as_bytes, &mut skipped) {
                    sources.push(source);
                    members.file(&full, path)?;
                }
            }
        }
    }
    progress.skip_all(skipped)?;
    sources.sort_by(|a: &Opened, b| a.source.path.cmp(&b.source.path));
    if sources.is_empty() {
        return Err(Error::invalid("there is no file in this folder").file(root));
    }
    Ok(Contents {
        kind: ImageKind::Folder,
        suffix: String::new(),
        sources,
        members: members.finish(root)?,
    })
}
