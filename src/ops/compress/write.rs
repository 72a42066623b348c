//! An image written, read back whole from the disk, compared with its sources, and only then put in
//! place.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use crate::archive::Archive;
use crate::archive::Bases;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::Result;
use crate::base::attributes;
use crate::base::digest::hex;
use crate::codec::Profile;
use crate::format::ImageKind;
use crate::ops::base;
use crate::ops::companions;
use crate::ops::compress::members;
use crate::ops::compress::options::CompressOptions;
use crate::ops::compress::report::ImageWritten;
use crate::ops::compress::sources::Contents;
use crate::ops::compress::sources::open_source;
use crate::ops::folder;
use crate::ops::folder::Stamp;
use crate::ops::origin;
use crate::ops::stream;
use crate::writer;
use crate::writer::Source;
use crate::writer::WriteOptions;

/// Writes an image, reads it back whole from the disk and compares it with the sources, and only
/// then puts it in place.
pub(super) fn write_verified(
    contents: &Contents,
    source: &Path,
    target: &Path,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<ImageWritten> {
    let mut output = if options.resume {
        OutputFile::resume(target, options.force)?
    } else {
        OutputFile::create(target, options.force)?
    };
    let mut written = write_and_prove(contents, source, &mut output, options, progress)?;
    let is_folder = contents.kind == ImageKind::Folder;
    let stamp = match contents.sources.as_slice() {
        [only] if !is_folder => only.stamp.clone(),
        _ => Stamp::of(source)?,
    };
    // a folder's bits say who may list it: an image of it is a plain file
    let mode = if is_folder {
        members::image_mode(stamp.mode, &contents.members) & 0o666
    } else {
        stamp.mode
    };
    let in_place = !is_folder && folder::is_same_file(source, target);
    if in_place {
        folder::carry_attributes(target, output.temporary(), progress)?;
    }
    origin::mark_image(output.temporary(), source);
    if options.more.converts {
        attributes::mark(output.temporary());
    }
    let stamp = (Some(stamp.mtime), (!in_place).then_some(mode));
    written.parity = companions::commit(output, stamp, options.threads, progress)?;
    Ok(written)
}

fn write_and_prove(
    contents: &Contents,
    source: &Path,
    output: &mut OutputFile,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<ImageWritten> {
    let (kind, suffix, opened) = (contents.kind, &contents.suffix, &contents.sources);
    let stamps: Vec<&Stamp> = opened.iter().map(|opened| &opened.stamp).collect();
    let known_md5s: Vec<_> = opened.iter().map(|opened| &opened.md5s).collect();
    let kept_path = opened.iter().find_map(|opened| opened.base_path.clone());
    let mut sources: Vec<Source> = opened.iter().map(|opened| opened.source.clone()).collect();
    let label = source.file_name().unwrap_or_default().to_string_lossy();
    if let (Some(bases), None) = (&options.base, &kept_path) {
        progress.begin(&format!("reading the base of {label}"), 0);
        for source in &mut sources {
            source.bases = base::bases_of(bases, source, options.threads, progress)?;
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
    warn_of_profile(&sources, source, options.profile, progress);
    warn_of_trailing(&sources, source, progress);
    let bases = options.base.as_ref();
    let found_path =
        || bases.map_or_else(String::new, |bases| base::path_from(bases, output.target()));
    let base_path = kept_path.unwrap_or_else(found_path);
    let write = WriteOptions {
        profile: options.profile,
        threads: options.threads,
        base_path: base_path.clone(),
        members: contents.members.clone(),
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
    .and_then(|()| compare_md5s(output.temporary(), &known_md5s))
    .map_err(|e| e.file(source))?;
    // what was read is what was there all the time
    stamps.iter().try_for_each(|stamp| stamp.check())?;
    progress.end();
    let on_disk = fs::metadata(source).ok().filter(fs::Metadata::is_file);
    Ok(ImageWritten {
        source: source.to_owned(),
        source_bytes: on_disk.map_or(original_bytes, |metadata| metadata.len()),
        output: output.target().to_owned(),
        original_bytes,
        image_bytes: written.image_len,
        resumed_bytes: written.resumed_len,
        base: written.is_delta.then_some(base_path),
        parity: None,
        sha256: written
            .sha256s
            .iter()
            .map(|sha| hex(sha))
            .collect::<Vec<_>>()
            .join(" "),
    })
}

/// Tells if the profile brings nothing to these tensors.
fn warn_of_profile(sources: &[Source], source: &Path, profile: Profile, progress: &dyn Progress) {
    let spans = sources.iter().flat_map(|source| &source.layout.spans);
    let tensors: Vec<_> = spans.map(|span| (span.family(), span.len)).collect();
    if let Some(why) = profile.brings_nothing(&tensors) {
        let name = profile.name();
        progress.warn(&format!(
            "`{}`: the profile {name} brings nothing here: {why}",
            source.display()
        ));
    }
}

/// Tells of bytes that are kept, though no loader takes a file with them.
fn warn_of_trailing(sources: &[Source], source: &Path, progress: &dyn Progress) {
    for of in sources.iter().filter(|of| of.layout.trailing() > 0) {
        let bytes = of.layout.trailing();
        let within = if of.path.is_empty() { "" } else { "/" };
        progress.warn(&format!(
            "`{}{within}{}`: {bytes} bytes after the last tensor are kept, but safetensors loads no such file",
            source.display(),
            of.path
        ));
    }
}

/// Compares what the image says of its tensors with what is known of them: its source may be a file
/// that the disk took wrongly.
fn compare_md5s(image: &Path, known: &[&BTreeMap<String, [u8; 16]>]) -> Result<()> {
    if known.iter().all(|md5s| md5s.is_empty()) {
        return Ok(());
    }
    let archive = Archive::open(image)?;
    for (file, known) in archive.files().iter().zip(known) {
        let spans = archive.spans(file).iter();
        let md5s: BTreeMap<&str, _> = spans
            .map(|record| (record.span.name.as_str(), &record.md5))
            .collect();
        let mut differing = known.iter();
        let differs = |(name, md5): &(&String, &[u8; 16])| md5s.get(name.as_str()) != Some(md5);
        if let Some((name, _)) = differing.find(differs) {
            let error = Error::new(ErrorKind::Io, "was not taken by the disk as it was written");
            return Err(error.tensor(name));
        }
    }
    Ok(())
}

/// Decodes the whole image from the disk and compares the sha256 of each file with that of its
/// source.
fn prove(
    image: &Path,
    bases: Option<&Arc<Bases>>,
    sha256s: &[[u8; 32]],
    threads: usize,
    progress: &dyn Progress,
) -> Result<()> {
    let mut archive = Archive::open(image)?;
    if let Some(bases) = bases {
        archive = archive.with_bases(bases.clone());
    }
    for (file, expected) in archive.files().iter().zip(sha256s) {
        if stream::sha256_of(&archive, file, threads, progress)? != *expected {
            return Err(
                Error::new(ErrorKind::Io, "changed while it was being compressed")
                    .hint("compress it again when nobody writes to it"),
            );
        }
    }
    Ok(())
}

pub(super) fn to_stdout(
    source: &Path,
    suffix: &str,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<ImageWritten> {
    let opened = open_source(source, String::new(), options.opaque)?;
    stream_out(
        &Contents::of_file(suffix, opened),
        source,
        options,
        progress,
    )
}

/// An image is finished at its beginning last, so it is made in a temporary file and then copied
/// out.
pub(super) fn stream_out(
    contents: &Contents,
    source: &Path,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<ImageWritten> {
    let target = crate::base::atomic::temporary_for(&std::env::temp_dir().join("bigsmall"));
    let mut output = OutputFile::create(&target, true)?;
    let mut written = write_and_prove(contents, source, &mut output, options, progress)?;
    written.output = PathBuf::from("-");
    let failed = |e| Error::io("cannot write to standard output", Path::new("-"), e);
    let mut image = fs::File::open(output.temporary()).map_err(failed)?;
    io::copy(&mut image, &mut io::stdout().lock()).map_err(failed)?;
    Ok(written)
}
