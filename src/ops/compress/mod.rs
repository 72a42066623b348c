//! Compress: a file into an image, a folder into one image, or a folder into a mirror of it.
//! Sources are never touched, and nothing counts as written before it was read back from the disk
//! and proved equal.

mod family;
mod further_names;
mod gone;
mod members;
mod mirror;
mod plan;
mod present;
mod series;
mod sources;
mod transcode;
mod write;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::archive::Bases;
use crate::archive::naming;
use crate::base::Error;
use crate::base::Progress;
use crate::base::ReadAt;
use crate::base::Result;
use crate::codec::Profile;
use crate::ops::auto_base::Choice;
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
use crate::ops::origin::Replacing;
use crate::ops::protect::Protected;
use crate::ops::protect::parity_path;
use crate::ops::report;
use crate::ops::shard_notes;
use crate::tensor::Layout;
use crate::writer::Source;

pub use gone::delete_gone;
pub use transcode::TranscodeOptions;
pub use transcode::transcode;

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

impl Output {
    /// Whether it is one image by its name; a trailing slash says folder.
    pub fn is_image(&self) -> bool {
        let Self::Path(path) = self else {
            return false;
        };
        let is_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
        !is_folder && path.file_name().is_some_and(naming::is_image_name)
    }
}

/// How to compress.
#[derive(Debug, Clone)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub struct CompressOptions {
    /// Where to.
    pub output: Output,
    /// Size or latency.
    pub profile: Profile,
    /// The model to store differences from.
    pub base: Option<Arc<Bases>>,
    /// The source is a folder of checkpoints, each of which may be stored as differences from an
    /// earlier one.
    pub series: bool,
    /// Go on where a run that was interrupted has stopped, and leave what is done for another if
    /// this one is.
    pub resume: bool,
    /// Replace what exists.
    pub force: bool,
    /// Store files that are not valid safetensors as plain bytes.
    pub opaque: bool,
    /// Threads that code.
    pub threads: usize,
    /// What only some runs ask for.
    pub more: MoreOptions,
}

/// What only some runs ask for; by default none of it.
#[derive(Debug, Clone, Default)]
pub struct MoreOptions {
    /// Images that may be replaced, whatever they are of; none where nobody can be told any.
    pub discard: Option<Vec<PathBuf>>,
    /// Tell by content, and not by time, what an earlier run has compressed already.
    pub check: bool,
    /// Choose bases among the models of the folder, and for those that have none there in these
    /// places.
    pub auto_delta: Option<Vec<PathBuf>>,
    /// Keep users' extended attributes in an image of a folder.
    pub attributes: bool,
    /// The image takes the place of its source: it says so from the moment that it has its name.
    pub converts: bool,
}

impl CompressOptions {
    /// The same for this target, which was checked: where an image was named as one that may go, it
    /// goes.
    fn allowed(&self, target: &Path) -> Self {
        Self {
            force: self.force || self.replacing().discards(target),
            ..self.clone()
        }
    }

    /// What may be replaced.
    pub fn replacing(&self) -> Replacing {
        Replacing {
            force: self.force,
            discard: self.more.discard.clone(),
        }
    }
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
    /// Bytes of what was read: of the originals, or of the image or file of the Python package that
    /// was coded anew.
    pub source_bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// Where its base is, seen from the image, if it is stored as differences.
    pub base: Option<String>,
    /// Bytes of the image that an interrupted run had left.
    pub resumed_bytes: u64,
    /// sha256 of the original; of each, joined by blanks, in an image of a folder.
    pub sha256: String,
    /// Parity that was made anew, since there was some of what stood there before.
    #[serde(skip)]
    pub parity: Option<Protected>,
}

impl ImageWritten {
    /// Its parity, where it is now: the folder that both are in may have had another name when it
    /// was written.
    fn parity_in_place(&self) -> Option<Protected> {
        let parity = self.parity.clone()?;
        Some(Protected {
            path: self.output.clone(),
            parity: parity_path(&self.output),
            ..parity
        })
    }
}

/// A further name (hard link) of a file whose image is there: of that a further name, too.
#[derive(Debug, Clone, Serialize)]
pub struct FurtherName {
    /// The name of the file.
    #[serde(serialize_with = "report::path")]
    pub source: PathBuf,
    /// That of the image.
    #[serde(serialize_with = "report::path")]
    pub output: PathBuf,
    /// The image of the first name.
    #[serde(serialize_with = "report::path")]
    pub image: PathBuf,
    /// Bytes of the copy that was made where the file system gives no second name; else 0.
    pub copied_bytes: u64,
}

/// A base that was chosen for a model of a folder.
#[derive(Debug, Clone, Serialize)]
pub struct AutoBase {
    /// The model: a file, or a folder of shards.
    #[serde(serialize_with = "report::path")]
    pub source: PathBuf,
    /// Its base.
    #[serde(serialize_with = "report::path")]
    pub base: PathBuf,
    /// About how many percent of its bytes the model takes against it.
    pub estimated_percent: f64,
    /// About how many it takes alone.
    pub alone_percent: f64,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub struct CompressReport {
    /// The profile.
    pub profile: &'static str,
    /// Parity that was written for the images, where that was asked for or there was some before.
    pub parity: Vec<Protected>,
    /// What was looked for as a base, and found, where that was asked for.
    pub auto_base: Option<Choice>,
    /// The same for the models of a folder.
    pub auto_bases: Vec<AutoBase>,
    /// Every image.
    pub images: Vec<ImageWritten>,
    /// Further names (hard links) of files whose images are among those above or were there:
    /// counted once.
    pub links: Vec<FurtherName>,
    /// Images that were there already, of a series or from an interrupted run, and are not among
    /// those above.
    pub kept_images: u64,
    /// Those, where the output was brought up to date.
    #[serde(skip)]
    pub kept: Vec<PathBuf>,
    /// Copies that were there already.
    pub kept_files: u64,
    /// Files in the output that an earlier run has made from what is not in the source any more.
    #[serde(serialize_with = "report::paths")]
    pub gone: Vec<PathBuf>,
    /// Those of them that were deleted.
    #[serde(serialize_with = "report::paths")]
    pub deleted: Vec<PathBuf>,
    /// Whether the output was there already.
    #[serde(skip)]
    pub brings_up_to_date: bool,
    /// Whether there is no file in the source.
    #[serde(skip)]
    pub is_source_empty: bool,
    /// Files copied as they are.
    pub copied_files: u64,
    /// Their bytes.
    pub copied_bytes: u64,
    /// Bytes of all originals, copies included.
    pub original_bytes: u64,
    /// Bytes of all that was read, copies included.
    pub source_bytes: u64,
    /// Bytes of all that was written.
    pub output_bytes: u64,
    /// What is odd about sharded models in the source, such as a shard that is missing.
    pub notes: Vec<String>,
    /// Wall time.
    pub seconds: f64,
}

impl CompressReport {
    fn new(profile: Profile) -> Self {
        Self {
            profile: profile.name(),
            parity: Vec::new(),
            auto_base: None,
            auto_bases: Vec::new(),
            images: Vec::new(),
            links: Vec::new(),
            kept_images: 0,
            kept: Vec::new(),
            kept_files: 0,
            gone: Vec::new(),
            deleted: Vec::new(),
            brings_up_to_date: false,
            is_source_empty: false,
            copied_files: 0,
            copied_bytes: 0,
            original_bytes: 0,
            source_bytes: 0,
            output_bytes: 0,
            notes: Vec::new(),
            seconds: 0.0,
        }
    }

    fn add_up(&mut self, begun: Instant) {
        let originals = self.images.iter().map(|image| image.original_bytes);
        self.original_bytes = self.copied_bytes + originals.sum::<u64>();
        let sources = self.images.iter().map(|image| image.source_bytes);
        self.source_bytes = self.copied_bytes + sources.sum::<u64>();
        let images = self.images.iter().map(|image| image.image_bytes);
        let copies = self.links.iter().map(|link| link.copied_bytes);
        self.output_bytes = self.copied_bytes + images.sum::<u64>() + copies.sum::<u64>();
        let renewed = self.images.iter().filter_map(ImageWritten::parity_in_place);
        self.parity = renewed.collect();
        self.seconds = begun.elapsed().as_secs_f64();
    }
}

/// Compresses bytes that are a safetensors file, though another file than `source`, from which they
/// come and whose time and permissions the image takes; `stamp` is what the disk said of it before
/// they were read. The tensors have these `md5s`, or it is an error.
pub fn compress_bytes(
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
        base_place: None,
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
