//! Reshard: the tensors of a model's images in other images. Blocks are moved as they are; only the
//! headers are coded.

pub(crate) mod cut;
mod list;

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;

use crate::archive::Archive;
use crate::archive::ImageKind;
use crate::archive::ModelFile;
use crate::archive::OriginalFile;
use crate::archive::ShardIndex;
use crate::archive::naming;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::OutputFile;
use crate::base::Progress;
use crate::base::Result;
use crate::base::digest;
use crate::base::error::escaped;
use crate::format::SpanRecord;
use crate::ops::base;
use crate::ops::base::SearchPaths;
use crate::ops::folder;
use crate::ops::folder::Entry;
use crate::ops::folder::EntryKind;
use crate::ops::folder::OutputFolder;
use crate::ops::folder::Stamp;
use crate::ops::report;
use crate::ops::stream;
use crate::ops::verify::whole::FileCheck;
use crate::tensor::Header;
use crate::tensor::header;
use crate::writer;
use crate::writer::MovedSpan;

use list::List;

pub(crate) use cut::Cut;

/// What the places of a tensor far behind in a file take more in the header than those of one at
/// its beginning.
const OFFSETS_LEN: u64 = 40;

/// How to reshard.
#[derive(Debug, Clone)]
pub(crate) struct ReshardOptions {
    /// How to cut.
    pub cut: Cut,
    /// Where the bases of deltas are looked for.
    pub bases: Vec<PathBuf>,
    /// Threads to use.
    pub threads: usize,
}

/// One new image.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Shard {
    /// Where it is.
    #[serde(serialize_with = "report::path")]
    pub path: PathBuf,
    /// Its tensors.
    pub tensors: u64,
    /// Bytes of the safetensors file that it stands for.
    pub original_bytes: u64,
    /// Bytes of the image.
    pub image_bytes: u64,
    /// sha256 of the safetensors file.
    pub sha256: String,
}

/// What was done.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct ReshardReport {
    /// The new images.
    pub shards: Vec<Shard>,
    /// Images whose tensors they have.
    pub source_images: u64,
    /// Other files of the folder, copied.
    pub copied_files: u64,
    /// Wall time.
    pub seconds: f64,
}

/// The images of one model, and what else is in its folder.
struct Images {
    /// Where they are.
    source: PathBuf,
    files: Vec<ModelFile>,
    stamps: Vec<Stamp>,
    /// What its shards' names begin with.
    stem: String,
    /// The list of its shards, if there was one.
    list: Option<List>,
    /// Everything else in the folder.
    others: Vec<Entry>,
    metadata: BTreeMap<String, String>,
    tensors: Vec<MovedSpan>,
    /// Of each tensor by its name.
    numbers: BTreeMap<String, usize>,
}

/// Writes the tensors of the image `source`, or of the images in that folder, to new images in the
/// folder `target`. Each is read back and every tensor compared with its md5 before the folder
/// appears.
pub(crate) fn reshard(
    source: &Path,
    target: &Path,
    options: &ReshardOptions,
    progress: &dyn Progress,
) -> Result<ReshardReport> {
    let begun = Instant::now();
    folder::check_apart(source, target)?;
    let bases = Arc::new(SearchPaths::new(&options.bases, source).or_beside(source));
    let model = Images::open(source, &bases, options.threads, progress)?;
    let lens: Vec<(&str, u64)> = model
        .tensors
        .iter()
        .map(|tensor| (tensor.record.span.name.as_str(), tensor.record.span.len))
        .collect();
    let cut = match options.cut {
        Cut::Size(size) if size > 0 => {
            let empty = header::write(&model.metadata, std::iter::empty())?;
            Cut::Size(size.saturating_sub(empty.len() as u64).max(1))
        }
        other => other,
    };
    let shards = cut::cut(&model.sizes(cut)?, cut).map_err(|e| e.file(source))?;
    let output = OutputFolder::create(target, false)?;
    let mut copied_files = 0;
    for entry in &model.others {
        let copied = output.copy(source, entry, false, progress)?;
        copied_files += u64::from(copied.is_some());
    }
    let mut report = ReshardReport {
        shards: Vec::new(),
        source_images: model.files.len() as u64,
        copied_files,
        seconds: 0.0,
    };
    let mut map = BTreeMap::new();
    for (number, shard) in shards.iter().enumerate() {
        let name = shard_name(&model.stem, number, shards.len());
        for &tensor in shard {
            map.insert(lens[tensor].0, format!("{name}{}", naming::MODEL_EXTENSION));
        }
        let image = PathBuf::from(format!("{name}{}", naming::IMAGE_EXTENSION));
        let mut written = write_shard(
            &model,
            shard,
            &output.path(&image),
            &bases,
            options,
            progress,
        )?;
        written.path = output.target_path(&image);
        report.shards.push(written);
    }
    if shards.len() > 1 {
        let total = lens.iter().map(|(_, len)| len).sum();
        let list = model.list.clone();
        let list = list.unwrap_or_else(|| List::new(&model.stem, newest(&model.stamps)));
        list.write(&map, total, &output)?;
    }
    model.stamps.iter().try_for_each(Stamp::check)?;
    output.commit()?;
    report.seconds = begun.elapsed().as_secs_f64();
    Ok(report)
}

fn shard_name(stem: &str, number: usize, count: usize) -> String {
    match count {
        1 => stem.to_owned(),
        _ => format!("{stem}-{:05}-of-{count:05}", number + 1),
    }
}

impl Images {
    fn open(
        source: &Path,
        bases: &Arc<SearchPaths>,
        threads: usize,
        progress: &dyn Progress,
    ) -> Result<Self> {
        let (images, others, list) = if source.is_dir() {
            in_folder(source, progress)?
        } else {
            folder::check_image(source)?;
            (vec![source.to_owned()], Vec::new(), None)
        };
        let mut model = Self {
            source: source.to_owned(),
            files: Vec::new(),
            stamps: Vec::new(),
            stem: String::new(),
            list: None,
            others,
            metadata: BTreeMap::new(),
            tensors: Vec::new(),
            numbers: BTreeMap::new(),
        };
        let mut names = Vec::new();
        for path in &images {
            model.stamps.push(Stamp::of(path)?);
            let file = base::open_model_file(path, bases, threads, progress)?;
            let image = path.file_name().unwrap_or_default();
            let header = file.archive().map(|archive| archive.header());
            names.extend(header.and_then(|header| naming::original_name(image, header)));
            model.files.push(file);
        }
        model.stem = match &list {
            Some(list) => list.stem.clone(),
            None => common_stem(&names),
        };
        model.list = list;
        for (number, path) in images.iter().enumerate() {
            let taken = model.take_tensors(number, progress);
            taken.map_err(|e| e.file(path))?;
        }
        Ok(model)
    }

    /// Names and sizes to cut by. What the header says of a tensor counts where a file shall have a
    /// size at most.
    fn sizes(&self, cut: Cut) -> Result<Vec<(&str, u64)>> {
        let size = |moved: &'_ MovedSpan| {
            let span = &moved.record.span;
            let mut entry = 0;
            if matches!(cut, Cut::Size(_)) {
                let of = (
                    span.name.as_str(),
                    span.dtype.as_str(),
                    span.shape.as_slice(),
                    span.len,
                );
                entry = header::write(&BTreeMap::new(), std::iter::once(of))?.len() as u64;
            }
            Ok(entry + OFFSETS_LEN + span.len)
        };
        let tensors = self.tensors.iter();
        tensors
            .map(|moved| Ok((moved.record.span.name.as_str(), size(moved)?)))
            .collect()
    }

    fn take_tensors(&mut self, number: usize, progress: &dyn Progress) -> Result<()> {
        let (archive, file) = image_of_one(&self.files[number])?;
        file.check_layout(archive.path())?;
        let header = Header::read(&*file.bytes)?;
        for (key, value) in &header.metadata {
            self.metadata
                .entry(key.clone())
                .or_insert_with(|| value.clone());
        }
        let record = &archive.files()[0];
        let records = &archive.spans(record)[1..];
        let moved: Vec<MovedSpan> = records.iter().map(|r| moved(archive, number, r)).collect();
        for moved in moved {
            let name = &moved.record.span.name;
            let Some(known) = self.numbers.get(name).copied() else {
                self.numbers.insert(name.clone(), self.tensors.len());
                self.tensors.push(moved);
                continue;
            };
            if self.is_replaced(known, (&moved.record, number), progress)? {
                self.tensors[known] = moved;
            }
        }
        Ok(())
    }

    /// Whether a tensor that is known from one image is taken from image `number` instead.
    fn is_replaced(
        &self,
        known: usize,
        (record, number): (&SpanRecord, usize),
        progress: &dyn Progress,
    ) -> Result<bool> {
        let known = &self.tensors[known];
        let (known_span, span) = (&known.record.span, &record.span);
        let name = escaped(&span.name);
        let is_same = known.record.md5 == record.md5
            && known_span.dtype == span.dtype
            && known_span.shape == span.shape;
        if is_same {
            progress.warn(&format!("`{name}` is in two images: once is enough"));
            return Ok(false);
        }
        // the list of the shards decides
        let named = self.list.as_ref().and_then(|list| list.file_of(&span.name));
        let is_named = |number: usize| {
            let file = &self.files[number];
            let image = file.path().file_name().unwrap_or_default();
            let header = file.archive().map(|archive| archive.header());
            let original = header.and_then(|header| naming::original_name(image, header));
            original.is_some_and(|original| Some(original.as_os_str()) == named.map(OsStr::new))
        };
        let (is_known, is_this) = (is_named(known.image_number), is_named(number));
        if !is_known && !is_this {
            let error = Error::invalid("is in two of the images, with different bytes");
            return Err(error
                .tensor(&span.name)
                .hint("are these images of one model?"));
        }
        let file = escaped(named.unwrap_or_default());
        progress.warn(&format!(
            "`{name}` is in two images: the index of the shards says that `{file}` counts"
        ));
        Ok(is_this)
    }
}

fn moved(archive: &Archive, number: usize, record: &SpanRecord) -> MovedSpan {
    let index = archive.index();
    let stored = record.repeats.map_or(record, |of| &index.spans[of]);
    MovedSpan {
        record: record.clone(),
        blocks: index.blocks[record.blocks.clone()].to_vec(),
        base: stored
            .base
            .map(|base| index.bases[base].named(&stored.span.name)),
        image: Arc::clone(archive.source()),
        image_number: number,
    }
}

/// The image, and the safetensors file that it stands for.
fn image_of_one(file: &ModelFile) -> Result<(&Archive, &OriginalFile)> {
    let archive = file
        .archive()
        .filter(|a| a.header().kind == ImageKind::File);
    let (Some(archive), [original]) = (archive, file.originals()) else {
        return Err(one_file_only());
    };
    if !original.layout.is_safetensors {
        return Err(Error::invalid("holds plain bytes and no tensors"));
    }
    Ok((archive, original))
}

fn one_file_only() -> Error {
    Error::invalid("is no image of one safetensors file")
        .hint("a folder as one image: `bigsmall decompress` it first, then `compress -o FOLDER`")
}

/// The images of the model in a folder, everything else in it, and the list of its shards.
type InFolder = (Vec<PathBuf>, Vec<Entry>, Option<List>);

fn in_folder(root: &Path, progress: &dyn Progress) -> Result<InFolder> {
    let entries = folder::walk(root, progress)?;
    let is_here =
        |entry: &&Entry| entry.kind == EntryKind::File && entry.path.components().count() == 1;
    let is_list = |entry: &Entry| is_here(&entry) && ShardIndex::stem_of(&entry.path).is_some();
    let mut lists = entries.iter().filter(|entry| is_list(entry));
    let list = lists.next();
    if lists.next().is_some() {
        return Err(Error::invalid("holds the lists of several models")
            .file(root)
            .hint("give each model a folder of its own"));
    }
    let list = list
        .map(|entry| List::read(&root.join(&entry.path)))
        .transpose()?;
    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    wanted.extend(list.iter().flat_map(List::files));
    let (mut images, mut others) = (Vec::new(), Vec::new());
    for entry in &entries {
        let full = root.join(&entry.path);
        if is_list(entry) {
            continue;
        }
        let is_ours = is_here(&entry) && folder::is_image(&full) && {
            let header = crate::archive::peek(&FileSource::open(&full)?, &full)?;
            let name = naming::original_name(entry.path.as_os_str(), &header);
            let name = name.as_deref().and_then(OsStr::to_str).unwrap_or_default();
            // in a folder with a list, what that does not name is another model
            wanted.remove(name) || list.is_none()
        };
        // what was the parity of an image is none of another one
        let is_parity = folder::is_parity_name(&entry.path);
        if is_ours {
            images.push(full);
        } else if !is_parity {
            others.push(entry.clone());
        }
    }
    let missing = wanted.first().map(|&missing| missing.to_owned());
    if let Some(missing) = missing {
        let error = Error::new(
            ErrorKind::NotFound,
            format!("has no image of `{missing}`, a shard of the model"),
        );
        return Err(error
            .file(root)
            .hint("compress it first, and have all shards there"));
    }
    if images.is_empty() {
        let error = Error::new(
            ErrorKind::NotFound,
            "no image (`.bs`) lies in this folder itself",
        );
        return Err(error
            .file(root)
            .hint("compress the model first; of a folder of models name one"));
    }
    Ok((images, others, list))
}

/// What the names of a model's files begin with; `model` if they differ.
fn common_stem(names: &[std::ffi::OsString]) -> String {
    let stem = |name: &std::ffi::OsString| {
        let name = name.to_str()?.strip_suffix(naming::MODEL_EXTENSION)?;
        let is_count =
            |text: &str| text.len() == 5 && text.bytes().all(|byte| byte.is_ascii_digit());
        let stem = name
            .rsplit_once("-of-")
            .filter(|(_, count)| is_count(count))
            .and_then(|(rest, _)| rest.rsplit_once('-'))
            .filter(|(_, number)| is_count(number))
            .map_or(name, |(stem, _)| stem);
        Some(stem.to_owned())
    };
    let mut stems = names.iter().map(stem);
    let first = stems.next().flatten().filter(|first| !first.is_empty());
    first
        .filter(|first| stems.all(|stem| stem.as_ref() == Some(first)))
        .unwrap_or_else(|| "model".to_owned())
}

/// Writes one image, reads it back and puts it in place.
fn write_shard(
    model: &Images,
    shard: &[usize],
    to: &Path,
    bases: &SearchPaths,
    options: &ReshardOptions,
    progress: &dyn Progress,
) -> Result<Shard> {
    let mut spans: Vec<MovedSpan> = shard
        .iter()
        .map(|&tensor| model.tensors[tensor].clone())
        .collect();
    spans.sort_by(|a, b| {
        let key = |moved: &'_ MovedSpan| {
            (
                moved.record.span.name.clone(),
                moved.record.span.dtype.clone(),
            )
        };
        let (a, b) = (key(a), key(b));
        header::cmp_as_written((&a.0, &a.1), (&b.0, &b.1))
    });
    let of_header = spans.iter().map(|moved| {
        let span = &moved.record.span;
        (
            span.name.as_str(),
            span.dtype.as_str(),
            span.shape.as_slice(),
            span.len,
        )
    });
    let header = header::write(&model.metadata, of_header)?;
    let label = to.file_name().unwrap_or_default().to_string_lossy();
    let tensor_bytes: u64 = spans.iter().map(|moved| moved.record.span.len).sum();
    let original_bytes = header.len() as u64 + tensor_bytes;
    let mut output = OutputFile::create(to, false)?;
    progress.begin(&format!("moving to {label}"), original_bytes);
    let archives = model.files.iter().filter_map(ModelFile::archive);
    let mut deltas = archives.filter(|archive| archive.is_delta());
    let base_path = deltas.next().map(|archive| base::path_moved(archive, to));
    let unsealed = writer::write_moved(
        naming::MODEL_EXTENSION,
        &header,
        &spans,
        &base_path.unwrap_or_default(),
        &mut output,
        progress,
    )?;
    output.sync()?;
    progress.begin(&format!("reading back {label}"), original_bytes);
    let sha256 = read_back(&output, model, bases, options.threads, progress)?;
    let image_bytes = unsealed.image_len();
    unsealed.seal(sha256, &output)?;
    let sealed = Archive::open(output.temporary())?;
    if let Some(fault) = sealed.check_copies().into_iter().next() {
        return Err(fault);
    }
    progress.end();
    let newest = newest(&model.stamps);
    output.commit(
        newest.map(|stamp| stamp.mtime),
        newest.map(|stamp| stamp.mode),
    )?;
    Ok(Shard {
        path: to.to_owned(),
        tensors: spans.len() as u64,
        original_bytes,
        image_bytes,
        sha256: digest::hex(&sha256),
    })
}

fn newest(stamps: &[Stamp]) -> Option<&Stamp> {
    stamps.iter().max_by_key(|stamp| stamp.mtime)
}

/// Decodes all of an image from the disk; every block has its checksum and every tensor its md5, or
/// it is an error.
fn read_back(
    output: &OutputFile,
    model: &Images,
    bases: &SearchPaths,
    threads: usize,
    progress: &dyn Progress,
) -> Result<[u8; 32]> {
    let written = FileSource::open(output.temporary())?;
    // what is wrong came from there
    let mut archive = Archive::from_source(Arc::new(written), &model.source)?;
    if archive.index().is_delta() {
        archive = archive.with_bases(bases.open()?.clone());
    }
    let [file] = archive.files() else {
        return Err(one_file_only());
    };
    let mut check = FileCheck::new(&archive, file.spans.start);
    stream::runs(&archive, file, threads, progress, |run| {
        progress.advance(check.take(&run)?);
        Ok(())
    })?;
    let (sha256, faults) = check.finish(file.spans.end);
    match faults.into_iter().next() {
        Some(fault) => Err(Error::damaged(fault)),
        None => Ok(sha256),
    }
}
