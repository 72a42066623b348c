//! Compress: a file into an image, a folder into one image, or a folder into a mirror of it.
//! Sources are never touched, and nothing counts as written before it was read back from the disk
//! and proved equal.

mod family;
mod further_names;
mod gone;
mod members;
mod mirror;
mod no_model;
mod options;
mod plan;
mod present;
mod report;
mod series;
mod sources;
mod transcode;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use crate::archive::naming;
use crate::base::Error;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::ops::compress::mirror::mirror;
use crate::ops::compress::mirror::recode;
use crate::ops::compress::present::holds_the_same;
use crate::ops::compress::present::is_image_of;
use crate::ops::compress::sources::Contents;
use crate::ops::compress::sources::Opened;
use crate::ops::compress::sources::folder_contents;
use crate::ops::compress::sources::open_source;
use crate::ops::compress::write::stream_out;
use crate::ops::compress::write::to_stdout;
use crate::ops::compress::write::write_verified;
use crate::ops::folder;
use crate::ops::folder::Stamp;
use crate::ops::shard_notes;
use crate::tensor::Layout;
use crate::writer::Source;

pub(crate) use gone::delete_gone;
pub use options::CompressOptions;
pub use options::MoreOptions;
pub use options::Output;
pub(crate) use report::AutoBase;
pub(crate) use report::CompressReport;
pub(crate) use report::FurtherName;
pub(crate) use report::ImageWritten;
pub(crate) use transcode::TranscodeOptions;
pub(crate) use transcode::transcode;

/// Compresses bytes that are a safetensors file, though another file than `source`, from which they
/// come and whose time and permissions the image takes; `stamp` is what the disk said of it before
/// they were read. The tensors have these `md5s`, or it is an error.
pub(crate) fn compress_bytes(
    bytes: Arc<dyn ReadAt>,
    (source, stamp): (&Path, Stamp),
    md5s: BTreeMap<String, [u8; 16]>,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<CompressReport> {
    let begun = Instant::now();
    let Output::Path(target) = &options.output else {
        return Err(Error::invalid("an image needs a name").file(source));
    };
    let layout = Layout::of_safetensors(&*bytes).map_err(|e| e.file(source))?;
    let opened = Opened {
        stamp,
        base_path: None,
        md5s,
        source: Source {
            path: String::new(),
            bytes,
            layout: Arc::new(layout),
            bases: Vec::new(),
        },
    };
    let contents = Contents::of_file(naming::MODEL_EXTENSION, opened);
    let image = write_verified(&contents, source, target, options, progress)?;
    let mut report = CompressReport::new(options.profile);
    report.images.push(image);
    report.add_up(begun);
    Ok(report)
}

/// Compresses a file or a folder.
pub fn compress(
    source: &Path,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<CompressReport> {
    let begun = Instant::now();
    let metadata = fs::metadata(source).map_err(|e| Error::io("cannot open", source, e))?;
    let mut report = CompressReport::new(options.profile);
    let is_one_image = options.output.is_image() || options.output == Output::Stdout;
    if options.more.attributes && !(metadata.is_dir() && is_one_image) {
        let what = "attributes are kept in one image of a whole folder, and in nothing else";
        return Err(Error::invalid(what)
            .file(source)
            .hint("name such an image with `-o NAME.bs`, or leave `--attributes` out"));
    }
    if metadata.is_dir() {
        report.notes = shard_notes::under(source);
        compress_folder(source, options, &mut report, progress)?;
    } else if options.series {
        return Err(Error::invalid("a series is a folder of models").file(source));
    } else {
        match compress_file(source, options, progress)? {
            Some(image) => report.images.push(image),
            None => report.kept_images += 1,
        }
    }
    report.add_up(begun);
    Ok(report)
}

/// Nothing if an interrupted run had come to its end.
fn compress_file(
    source: &Path,
    options: &CompressOptions,
    progress: &dyn Progress,
) -> Result<Option<ImageWritten>> {
    let name = source.file_name().unwrap_or_default();
    let (image_name, suffix) = naming::image_name(name);
    let target = match &options.output {
        Output::Beside => source.with_file_name(image_name),
        Output::Path(path) => path.clone(),
        Output::Stdout => return to_stdout(source, suffix, options, progress).map(Some),
    };
    folder::check_not_same(source, &target)?;
    let is_recoded = options.base.is_some() && folder::is_image(source);
    let is_done = || {
        if is_recoded {
            holds_the_same(&target, source)
        } else {
            is_image_of(&target, source, true)
        }
    };
    if options.resume && is_done()? {
        return Ok(None);
    }
    if is_recoded {
        options.replacing().check_recoded(&target, source)?;
    } else {
        options.replacing().check(&target, source)?;
    }
    let options = &options.allowed(&target);
    if !target.file_name().is_some_and(naming::is_image_name) {
        progress.warn(&format!(
            "`{}` does not end with `.bs`: a mount will not take it for an image",
            target.display()
        ));
    }
    if is_recoded {
        return recode(source, &target, options, progress).map(Some);
    }
    let opened = open_source(source, String::new(), options.opaque)?;
    let contents = Contents::of_file(suffix, opened);
    write_verified(&contents, source, &target, options, progress).map(Some)
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
                let contents = folder_contents(source, options, progress)?;
                report
                    .images
                    .push(stream_out(&contents, source, options, progress)?);
                return Ok(());
            }
            Output::Path(path) => path,
        };
    folder::check_apart(source, target)?;
    if options.series {
        return series::series(source, target, options, report, progress);
    }
    if options.output.is_image() {
        options.replacing().check(target, source)?;
        let options = &options.allowed(target);
        let contents = folder_contents(source, options, progress)?;
        let image = write_verified(&contents, source, target, options, progress)?;
        report.images.push(image);
        return Ok(());
    }
    mirror(source, target, options, report, progress)
}
