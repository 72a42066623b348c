//! Shards: which file of a folder each tensor of a model is read from, as the index of its shards
//! says (`model.safetensors.index.json`), and what of that does not hold.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Deserialize;

use crate::archive::cache::BlockCache;
use crate::archive::image;
use crate::archive::naming;
use crate::archive::virtual_file::VirtualFile;
use crate::archive::whole::Archive;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::Limits;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::error::escaped;
use crate::format::FileRecord;
use crate::format::ImageKind;
use crate::tensor::Header;
use crate::tensor::SpanKind;

/// What it is called behind the model's name, but for the name of a variant and `.json`.
const INDEX: &str = ".safetensors.index";

/// Where a file with tensors stands: its folder, and its name there as restored.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ShardLocation {
    pub(super) folder: PathBuf,
    pub(super) name: OsString,
}

/// The index of a model's shards.
#[derive(Debug, Clone)]
pub struct ShardIndex {
    path: PathBuf,
    stem: String,
    files: Vec<String>,
    /// The number of its file.
    of_tensor: BTreeMap<String, usize>,
}

#[derive(Deserialize)]
struct IndexJson {
    weight_map: BTreeMap<String, String>,
}

impl ShardIndex {
    /// What shards are called that an index of this name lists: `model.safetensors.index.fp16.json`
    /// has those of `model.fp16`.
    pub fn stem_of(path: &Path) -> Option<String> {
        let name = path.file_name()?.to_str()?;
        let (stem, variant) = name.strip_suffix(".json")?.split_once(INDEX)?;
        let is_variant = variant.is_empty() || variant.starts_with('.');
        (is_variant && !stem.is_empty()).then(|| format!("{stem}{variant}"))
    }

    /// What such an index is called.
    pub fn name_for(stem: &str) -> String {
        format!("{stem}{INDEX}.json")
    }

    /// The bytes of one, which may not be more than a header could have.
    pub fn bytes(source: &dyn ReadAt) -> Result<Vec<u8>> {
        let most = Limits::FORMAT_1.safetensors_header_len_max;
        if source.len() > most {
            let len = source.len();
            let what = format!("an index of shards of {len} bytes, at most {most} are read");
            return Err(Error::over_limit(what));
        }
        let mut bytes = vec![0; source.len() as usize];
        source.read_exact_at(0, &mut bytes)?;
        Ok(bytes)
    }

    /// Reads the one at `path`.
    pub fn open(path: &Path) -> Result<Self> {
        let source = FileSource::open(path)?;
        Self::read(&source, path).map_err(|e| e.file(path))
    }

    fn read(source: &dyn ReadAt, path: &Path) -> Result<Self> {
        let json: IndexJson = serde_json::from_slice(&Self::bytes(source)?)
            .map_err(|e| Error::invalid(format!("is no index of shards: {e}")))?;
        let names: BTreeSet<&String> = json.weight_map.values().collect();
        let files: Vec<String> = names.into_iter().cloned().collect();
        let number = |name: &String| files.partition_point(|file| file < name);
        let map = json.weight_map.into_iter();
        Ok(Self {
            path: path.to_owned(),
            stem: Self::stem_of(path).unwrap_or_default(),
            of_tensor: map.map(|(tensor, file)| (tensor, number(&file))).collect(),
            files,
        })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The files that it names.
    pub fn files(&self) -> &[String] {
        &self.files
    }

    /// The file that a tensor is read from.
    pub fn file_of(&self, tensor: &str) -> Option<&str> {
        self.of_tensor
            .get(tensor)
            .map(|&file| self.files[file].as_str())
    }

    fn names(&self, file: &OsStr) -> bool {
        let names = |file| self.files.binary_search_by(|name| name.as_str().cmp(file));
        file.to_str().is_some_and(|file| names(file).is_ok())
    }

    /// Whether a file is called as the shards of its model are, such as `model-00001-of-00002`.
    fn is_of_its_shards(&self, file: &OsStr) -> bool {
        let is_count = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
        let shard = file
            .to_str()
            .and_then(|name| name.strip_suffix(naming::MODEL_EXTENSION))
            .and_then(|name| name.strip_prefix(self.stem.as_str()))
            .and_then(|name| name.strip_prefix('-'))
            .and_then(|name| name.split_once("-of-"));
        shard.is_some_and(|(number, count)| is_count(number) && is_count(count))
    }
}

/// What is odd about the files of a model, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ShardNote {
    /// An index that cannot be read decides nothing.
    Unreadable(PathBuf, String),
    /// An index names a file that is not there, for so many tensors.
    Missing(PathBuf, String, usize),
    /// A file is named as a shard of the model, and its index names others only.
    Unnamed(PathBuf, OsString),
    /// An index names a file that does not have the tensor, and so many like it.
    Misplaced(PathBuf, String, String, usize),
    /// A tensor, and so many in all, stands in several files; if an index decides, in which it is
    /// looked for.
    Twice {
        /// The first of them.
        tensor: String,
        /// How many there are.
        tensors: usize,
        /// The files.
        files: Vec<PathBuf>,
        /// The index, and the file that it names for this one.
        decided: Option<(PathBuf, String)>,
    },
    /// A file stands beside its image: the file counts.
    BesideImage(PathBuf, PathBuf),
}

impl fmt::Display for ShardNote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(_, why) => write!(f, "{why}; it decides nothing"),
            Self::Missing(index, shard, tensors) => write!(
                f,
                "`{}` names `{}`, which is not there: the model lacks {}",
                index.display(),
                escaped(shard),
                counted(*tensors, "tensor")
            ),
            Self::Unnamed(index, shard) => write!(
                f,
                "`{}` is not named by `{}`: whoever loads the model by that does not read it",
                escaped(&shard.to_string_lossy()),
                index.display()
            ),
            Self::Misplaced(index, tensor, shard, tensors) => {
                let more = others(*tensors);
                write!(
                    f,
                    "`{}` says that tensor `{}`{more} is in `{}`, where it is not",
                    index.display(),
                    escaped(tensor),
                    escaped(shard)
                )
            }
            Self::Twice {
                tensor,
                tensors,
                files,
                decided,
            } => {
                let (name, more) = (escaped(tensor), others(*tensors));
                let files: Vec<String> =
                    files.iter().map(|f| format!("`{}`", f.display())).collect();
                write!(f, "tensor `{name}`{more} stands in {}", files.join(" and "))?;
                match decided {
                    Some((index, file)) => {
                        let (index, file) = (index.display(), escaped(file));
                        write!(f, ": `{index}` says that `{file}` counts")
                    }
                    None => f.write_str(", and no index of shards says which counts"),
                }
            }
            Self::BesideImage(file, image) => write!(
                f,
                "`{}` stands beside its image `{}`: the file counts",
                file.display(),
                image.display()
            ),
        }
    }
}

fn counted(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        _ => format!("{number} {what}s"),
    }
}

/// What follows the first of several tensors.
fn others(tensors: usize) -> String {
    match tensors.saturating_sub(1) {
        0 => String::new(),
        1 => " (and 1 other)".to_owned(),
        more => format!(" (and {more} others)"),
    }
}

/// The files that tensors stand in, and what decides which of these counts: the index, and the file
/// that it names.
type SharedTensors = (Vec<PathBuf>, Option<(PathBuf, String)>);

/// Tensors that stand in several files, gathered by these.
#[derive(Debug, Default)]
pub(super) struct Groups(BTreeMap<SharedTensors, (String, usize)>);

impl Groups {
    pub(super) fn add(
        &mut self,
        tensor: &str,
        files: Vec<PathBuf>,
        decided: Option<(PathBuf, String)>,
    ) {
        let group = self.0.entry((files, decided));
        group.or_insert_with(|| (tensor.to_owned(), 0)).1 += 1;
    }

    pub(super) fn notes(self) -> Vec<ShardNote> {
        let note = |((files, decided), (tensor, tensors))| ShardNote::Twice {
            tensor,
            tensors,
            files,
            decided,
        };
        self.0.into_iter().map(note).collect()
    }
}

/// What is odd about the model of an index, as far as it can be told from these files: their names,
/// and the names of their tensors, which are asked for only of those that the index names.
fn notes_of(
    index: &ShardIndex,
    files: &BTreeMap<OsString, PathBuf>,
    tensors_of: &mut dyn FnMut(&Path) -> Result<Vec<String>>,
) -> Vec<ShardNote> {
    let mut notes = Vec::new();
    let mut lacking: BTreeMap<&str, usize> = BTreeMap::new();
    for &file in index.of_tensor.values() {
        let file = index.files[file].as_str();
        if !files.contains_key(OsStr::new(file)) {
            *lacking.entry(file).or_default() += 1;
        }
    }
    for (file, tensors) in &lacking {
        let (path, file) = (index.path.clone(), (*file).to_owned());
        notes.push(ShardNote::Missing(path, file, *tensors));
    }
    for file in files.keys() {
        if index.is_of_its_shards(file) && !index.names(file) {
            notes.push(ShardNote::Unnamed(index.path.clone(), file.clone()));
        }
    }
    let mut found: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    let mut unread = BTreeSet::new();
    for (number, file) in index.files.iter().enumerate() {
        let Some(path) = files.get(OsStr::new(file)) else {
            continue;
        };
        match tensors_of(path) {
            Ok(names) => {
                for name in names {
                    found.entry(name).or_default().push(number);
                }
            }
            // whoever reads the file tells what is wrong with it
            Err(_) => {
                unread.insert(number);
            }
        }
    }
    notes.extend(twice(index, &found, files));
    let mut misplaced: BTreeMap<usize, (&str, usize)> = BTreeMap::new();
    for (tensor, file) in &index.of_tensor {
        let is_there = found
            .get(tensor)
            .is_some_and(|in_files| in_files.contains(file));
        let is_known = files.contains_key(OsStr::new(&index.files[*file]));
        if !is_there && is_known && !unread.contains(file) {
            misplaced.entry(*file).or_insert((tensor, 0)).1 += 1;
        }
    }
    notes.extend(misplaced.into_iter().map(|(file, (tensor, count))| {
        let (path, shard) = (index.path.clone(), index.files[file].clone());
        ShardNote::Misplaced(path, tensor.to_owned(), shard, count)
    }));
    notes
}

/// The tensors that stand in several of the files that an index names.
fn twice(
    index: &ShardIndex,
    found: &BTreeMap<String, Vec<usize>>,
    files: &BTreeMap<OsString, PathBuf>,
) -> Vec<ShardNote> {
    let mut groups = Groups::default();
    for (tensor, in_files) in found.iter().filter(|(_, in_files)| in_files.len() > 1) {
        let path = |&number: &usize| files.get(OsStr::new(&index.files[number])).cloned();
        let paths = in_files.iter().filter_map(path).collect();
        // what the index says of a file without the tensor is told apart
        let file = index.of_tensor.get(tensor);
        let file = file.filter(|file| in_files.contains(file));
        let decided = file.map(|&file| (index.path.clone(), index.files[file].clone()));
        groups.add(tensor, paths, decided);
    }
    groups.notes()
}

/// What is odd about the sharded models in this folder itself: files and images of them.
pub(crate) fn notes_in(folder: &Path) -> Result<Vec<ShardNote>> {
    let (indexes, files) = listed(folder)?;
    let mut notes = Vec::new();
    for path in indexes {
        match ShardIndex::open(&path) {
            Ok(index) => notes.extend(notes_of(&index, &files, &mut tensor_names)),
            Err(error) => notes.push(unreadable(path, &error)),
        }
    }
    Ok(notes)
}

/// The files that the index at `path` names, each itself or its image.
pub(super) fn files_of(path: &Path) -> Result<Vec<PathBuf>> {
    let index = ShardIndex::open(path)?;
    let (_, files) = listed(crate::base::atomic::folder_of(path))?;
    let found = index.files.iter().map(|name| {
        let lacks = || {
            let what = format!("names `{}`, which is not there", escaped(name));
            Error::new(ErrorKind::NotFound, what).file(path)
        };
        files.get(OsStr::new(name)).cloned().ok_or_else(lacks)
    });
    found.collect()
}

/// The indexes of shards in a folder itself, and by their names the files that they may name, each
/// itself or its image. Where there is no index, nothing is looked at.
fn listed(folder: &Path) -> Result<(Vec<PathBuf>, BTreeMap<OsString, PathBuf>)> {
    let failed = |e| Error::io("cannot list", folder, e);
    let (mut indexes, mut files) = (Vec::new(), BTreeMap::new());
    let mut names: Vec<OsString> = fs::read_dir(folder)
        .map_err(failed)?
        .filter_map(|entry| entry.ok().map(|entry| entry.file_name()))
        .collect();
    names.sort();
    let is_index = |name: &OsString| ShardIndex::stem_of(Path::new(name)).is_some();
    if !names.iter().any(is_index) {
        return Ok((indexes, files));
    }
    for name in names {
        let path = folder.join(&name);
        // a pipe is not opened
        if !fs::metadata(&path).is_ok_and(|metadata| metadata.is_file()) {
            continue;
        }
        if is_index(&name) {
            indexes.push(path);
        } else if naming::is_model_name(&name) {
            // the file itself counts, not its image
            files.insert(name, path);
        } else if let Some(original) = original_of(&path) {
            files.entry(original).or_insert(path);
        }
    }
    Ok((indexes, files))
}

/// The same of the files of an image, if it is one of a folder.
pub(crate) fn notes_of_image(archive: &Archive) -> Vec<ShardNote> {
    let mut notes = Vec::new();
    for (index, folder) in indexes_in(archive) {
        let index = match index {
            Ok(index) => index,
            Err(note) => {
                notes.push(note);
                continue;
            }
        };
        let beside = |record: &&FileRecord| Path::new(&record.path).parent() == Some(&folder);
        let named = |record: &FileRecord| {
            let path = Path::new(&record.path);
            Some((path.file_name()?.to_owned(), path.to_owned()))
        };
        let files = archive.files().iter().filter(beside).filter_map(named);
        let mut tensors_of = |path: &Path| {
            let is_it = |record: &&FileRecord| Path::new(&record.path) == path;
            let spans = archive.files().iter().find(is_it).map(|r| archive.spans(r));
            let tensors = spans.unwrap_or_default().iter().map(|record| &record.span);
            let tensors = tensors.filter(|span| span.kind == SpanKind::Tensor);
            Ok(tensors.map(|span| span.name.clone()).collect())
        };
        notes.extend(notes_of(&index, &files.collect(), &mut tensors_of));
    }
    notes
}

/// The indexes among the files of an image, each with its folder in there.
pub(super) fn indexes_in(
    archive: &Archive,
) -> Vec<(std::result::Result<ShardIndex, ShardNote>, PathBuf)> {
    let mut found = Vec::new();
    if archive.header().kind != ImageKind::Folder {
        return found;
    }
    for (number, record) in archive.files().iter().enumerate() {
        let path = Path::new(&record.path);
        if record.is_safetensors || ShardIndex::stem_of(path).is_none() {
            continue;
        }
        let index_path = archive.path().join(path);
        let read = || {
            let cache = BlockCache::new(BlockCache::BYTES_DEFAULT);
            let file = VirtualFile::new(Arc::clone(archive.image()), number, cache)?;
            ShardIndex::read(&file, &index_path).map_err(|e| e.file(&index_path))
        };
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        found.push((
            read().map_err(|error| unreadable(index_path.clone(), &error)),
            folder,
        ));
    }
    found
}

/// Where each file of an image of a folder stands, by its number.
pub(super) fn locations_in(archive: &Archive) -> BTreeMap<usize, Vec<ShardLocation>> {
    let location = |record: &FileRecord| {
        let path = archive.path().join(&record.path);
        let name = path.file_name().unwrap_or_default().to_owned();
        let folder = crate::base::atomic::folder_of(&path).to_owned();
        vec![ShardLocation { folder, name }]
    };
    archive.files().iter().map(location).enumerate().collect()
}

pub(super) fn unreadable(path: PathBuf, error: &Error) -> ShardNote {
    let text = error.to_string();
    let line = text.lines().next().unwrap_or_default();
    ShardNote::Unreadable(path, line.to_owned())
}

/// What the image at `path` is called when restored, if it is one of a file.
fn original_of(path: &Path) -> Option<OsString> {
    let name = path.file_name()?;
    if !naming::is_image_name(name) {
        return None;
    }
    let source = FileSource::open(path).ok()?;
    let header = image::peek(&source, path).ok()?;
    let is_file = header.kind == ImageKind::File;
    naming::original_name(name, &header).filter(|_| is_file)
}

/// The names of the tensors of a file or an image.
fn tensor_names(path: &Path) -> Result<Vec<String>> {
    let source = FileSource::open(path)?;
    if !image::claims_to_be_image(&source) {
        let header = Header::read(&source)?;
        return Ok(header
            .tensors
            .into_iter()
            .map(|tensor| tensor.name)
            .collect());
    }
    let archive = Archive::from_source(Arc::new(source), path)?;
    let spans = archive.index().spans.iter();
    let tensors = spans.filter(|record| record.span.kind == SpanKind::Tensor);
    Ok(tensors.map(|record| record.span.name.clone()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_have_indexes_of_their_own() {
        let of = |name: &str| ShardIndex::stem_of(Path::new(name));
        assert_eq!(of("model.safetensors.index.json").as_deref(), Some("model"));
        let variant = of("model.safetensors.index.fp16.json");
        assert_eq!(variant.as_deref(), Some("model.fp16"));
        for other in [
            "model.json",
            "model.safetensors",
            ".safetensors.index.json",
            "a.safetensors.indexed.json",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_hostile_index_is_an_error() {
        let path = Path::new("model.safetensors.index.json");
        for text in [
            &b""[..],
            b"[]",
            b"{}",
            b"{\"weight_map\":[]}",
            b"{\"weight_map\":{\"a\":1}}",
            b"{\"weight_map\":{\"a\":\"\xff\"}}",
        ] {
            assert!(ShardIndex::read(&text.to_vec(), path).is_err(), "{text:?}");
        }
        let deep = "[".repeat(100_000).into_bytes();
        assert!(ShardIndex::read(&deep, path).is_err());
        let text = br#"{"metadata":{"x":[1]},"weight_map":{"a":"../b","c":"b"}}"#;
        let index = ShardIndex::read(&text.to_vec(), path).unwrap();
        assert_eq!(index.file_of("a"), Some("../b"));
        let notes = notes_of(&index, &BTreeMap::new(), &mut |_| Ok(Vec::new()));
        assert_eq!(notes.len(), 2, "{notes:?}");
    }

    #[test]
    fn shards_are_known_by_their_names() {
        let text = br#"{"weight_map":{"a":"m-00001-of-00001.safetensors"}}"#;
        let path = Path::new("m.safetensors.index.json");
        let index = ShardIndex::read(&text.to_vec(), path).unwrap();
        for (name, is_shard) in [
            ("m-00002-of-00002.safetensors", true),
            ("m.safetensors", false),
            ("m-old.safetensors", false),
            ("n-00001-of-00001.safetensors", false),
        ] {
            assert_eq!(index.is_of_its_shards(OsStr::new(name)), is_shard, "{name}");
        }
    }
}
