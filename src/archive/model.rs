//! Models as their tensors, by name, whatever files these are in: safetensors files, images, shards
//! in a folder, an image of a folder, files of the Python package. Where a name stands in several
//! files, the index of the shards decides.
//!
//! What an executor does with a layer, in its inner loop: a tile of rows into a buffer that it has,
//! or the coded bytes in one read, decoded where and when they are used.
//!
//! ```
//! use std::path::Path;
//! use bigsmall::archive::Model;
//! use bigsmall::archive::ReadScratch;
//!
//! # fn main() -> bigsmall::base::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let path = folder.path().join("model.safetensors");
//! # let (rows, columns) = (512_u64, 64_u64);
//! # let json = format!(
//! #     r#"{{"up":{{"dtype":"BF16","shape":[{rows},{columns}],"data_offsets":[0,{}]}}}}"#,
//! #     2 * rows * columns
//! # );
//! # let mut bytes = (json.len() as u64).to_le_bytes().to_vec();
//! # bytes.extend_from_slice(json.as_bytes());
//! # bytes.extend((0..rows * columns).flat_map(|n| ((n % 251) as u16 | 0x3f00).to_le_bytes()));
//! # let mut file = std::fs::File::create(&path).unwrap();
//! # std::io::Write::write_all(&mut file, &bytes).unwrap();
//! let model = Model::open(&path)?;
//! let up = model.tensor("up")?;
//!
//! // tiles of rows: a worker takes the next, multiplies it, and no layer is ever held as a whole
//! const TILE_ROWS: u64 = 100;
//! let (rows, row_len) = (up.row_count(), up.row_len()? as usize);
//! let mut tile = vec![0; TILE_ROWS as usize * row_len];
//! let mut sum = 0_u64;
//! for first in (0..rows).step_by(TILE_ROWS as usize) {
//!     let wanted = first..rows.min(first + TILE_ROWS);
//!     let tile = &mut tile[..(wanted.end - wanted.start) as usize * row_len];
//!     up.rows(wanted, tile)?;
//!     sum += tile.iter().map(|&byte| u64::from(byte)).sum::<u64>();
//! }
//!
//! // or the coded bytes, read ahead by one thread and decoded by another; none of a plain file
//! let (mut scratch, mut buffer) = (ReadScratch::default(), Vec::new());
//! match up.coded(0..up.info().len, std::mem::take(&mut buffer))? {
//!     Some(coded) => {
//!         let mut decoded = vec![0; coded.original_len()];
//!         coded.decode(&mut decoded, &mut scratch)?;
//!         buffer = coded.into_buffer();
//!     }
//!     None => {
//!         let whole = &bytes[bytes.len() - (rows as usize * row_len)..];
//!         assert_eq!(sum, whole.iter().map(|&b| u64::from(b)).sum::<u64>());
//!     }
//! }
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::DirEntry;
use std::fs::FileType;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;

use crate::archive::cache::BlockCache;
use crate::archive::image;
use crate::archive::model_file::ModelFile;
use crate::archive::model_file::Opening;
use crate::archive::naming;
use crate::archive::precedence;
use crate::archive::precedence::Candidate;
use crate::archive::precedence::Indexes;
use crate::archive::precedence::Precedence;
use crate::archive::resolve::BoundImage;
use crate::archive::shards;
use crate::archive::shards::ShardIndex;
use crate::archive::shards::ShardLocation;
use crate::archive::shards::ShardNote;
use crate::archive::tensor_ref::Source;
use crate::archive::tensor_ref::TensorRef;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::Result;
use crate::base::error::escaped;
use crate::base::identity::Identity;
use crate::format::ImageKind;
use crate::tensor::Header;
use crate::tensor::Span;
use crate::tensor::SpanKind;

/// A tensor of a model, and where it is.
#[derive(Debug)]
pub struct Tensor {
    span: Span,
    /// What tells it from all others of the model.
    number: u32,
    /// Number of the file that it is in.
    file: u32,
    /// Number of the original file in there.
    original: u32,
    /// Where it is stored as differences: the number of its base in the image.
    base: Option<u32>,
    /// Whether its file was named, and not only lies beside one that was.
    is_named: bool,
}

impl Tensor {
    /// Name, dtype and shape, and where it begins in its original file.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// Whether it is stored as differences.
    pub fn is_delta(&self) -> bool {
        self.base.is_some()
    }

    /// What tells it from all others of the model.
    pub(super) fn number(&self) -> usize {
        self.number as usize
    }

    /// The number of its file.
    pub(super) fn file(&self) -> usize {
        self.file as usize
    }

    /// The number of its original file in there.
    pub(super) fn original(&self) -> usize {
        self.original as usize
    }

    /// Where it is stored as differences: the number of its base in the image.
    pub(super) fn base(&self) -> Option<usize> {
        self.base.map(|base| base as usize)
    }
}

/// A file with tensors.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) identity: Identity,
    /// Of an image: what it is called when restored follows from it.
    header: Option<crate::format::Header>,
    /// The same, open.
    pub(super) image: Option<Arc<BoundImage>>,
    /// The original files.
    pub(super) originals: Vec<Source>,
    /// Of each of them, where it stands: links give several.
    pub(super) locations: BTreeMap<usize, Vec<ShardLocation>>,
}

impl File {
    /// Notes that it stands at `path`, too.
    fn stands_at(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or_default();
        let name = match &self.header {
            Some(header) if header.kind == ImageKind::Folder => return,
            Some(header) => naming::original_name(name, header),
            None => Some(name.to_owned()),
        };
        let folder = crate::base::atomic::folder_of(path).to_owned();
        let location = name.map(|name| ShardLocation { folder, name });
        self.locations.entry(0).or_default().extend(location);
    }

    /// The image, if it is one that needs bases.
    pub(super) fn delta(&self) -> Option<&Arc<BoundImage>> {
        self.image.as_ref().filter(|image| image.is_delta())
    }
}

/// What became of a file that was to be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Added {
    /// It is no model.
    Nothing,
    Model,
    /// A model that needs bases itself.
    Delta,
}

/// The tensors of some model files.
#[derive(Debug)]
pub struct Model {
    opening: Opening,
    paths: Vec<PathBuf>,
    pub(super) files: Vec<File>,
    tensors: Vec<Tensor>,
    /// Numbers of all tensors, in the order of their names.
    by_name: OnceLock<Vec<u32>>,
    /// Indexes of shards in the folders that were looked at, not read yet.
    indexes: BTreeSet<PathBuf>,
    /// Those in images of folders.
    in_images: Vec<ShardIndex>,
    /// Which tensors count, once that was asked.
    precedence: OnceLock<Precedence>,
    /// What could not be read, and whether it was named or under what was.
    faults: Vec<(bool, Error)>,
    follows_links: bool,
}

impl Model {
    /// The model at `path`: a file with tensors in any form, the index of its shards, or all of
    /// them in a folder. Of a delta only what stands alone can be read.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_with(path, Opening::default())
    }

    /// The same, with bases and a cache.
    pub fn open_with(path: &Path, opening: Opening) -> Result<Self> {
        let mut model = Self::new(opening);
        model.add(path)?;
        Ok(model)
    }

    /// No tensors yet.
    pub fn new(opening: Opening) -> Self {
        Self {
            opening,
            paths: Vec::new(),
            files: Vec::new(),
            tensors: Vec::new(),
            by_name: OnceLock::new(),
            indexes: BTreeSet::new(),
            in_images: Vec::new(),
            precedence: OnceLock::new(),
            faults: Vec::new(),
            follows_links: true,
        }
    }

    /// From now on links to files in folders are passed over.
    pub fn follow_no_links(&mut self) {
        self.follows_links = false;
    }

    /// Adds the tensors of a model file, an image, the shards that an index names, or all of them
    /// under a folder. In a folder, what cannot be read is passed over.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        let metadata = std::fs::metadata(path).map_err(|e| Error::io("cannot open", path, e))?;
        let is_model = if metadata.is_dir() {
            let files = self.model_files(path, true)?;
            self.add_all(&files, true)
        } else if ShardIndex::stem_of(path).is_some() {
            self.indexes.insert(path.to_owned());
            let files = shards::files_of(path)?;
            self.add_all(&files, true)
        } else {
            let added = self.add_file(path, true)?;
            if added == Added::Delta && self.opening.resolver.is_none() {
                // its own base mostly lies beside it
                let folder = crate::base::atomic::folder_of(path);
                let files = self.model_files(folder, false)?;
                self.add_all(&files, false);
            }
            added != Added::Nothing
        };
        self.paths.push(path.to_owned());
        if !is_model {
            return Err(Error::new(ErrorKind::NotFound, "no model here").file(path));
        }
        Ok(())
    }

    /// Adds the models in a folder, but not those in folders below it.
    pub fn add_beside(&mut self, folder: &Path) -> Result<()> {
        let files = self.model_files(folder, false)?;
        self.add_all(&files, true);
        self.paths.push(folder.to_owned());
        Ok(())
    }

    /// Adds those of these files that are models.
    pub fn add_files<'a>(&mut self, paths: impl Iterator<Item = &'a PathBuf>) {
        let is_model = |path: &PathBuf| path.file_name().is_some_and(is_model_file);
        let (paths, others): (Vec<PathBuf>, Vec<PathBuf>) = paths.cloned().partition(is_model);
        let indexes = others.into_iter();
        self.indexes
            .extend(indexes.filter(|path| ShardIndex::stem_of(path).is_some()));
        self.add_all(&paths, true);
        self.paths.extend(match paths.as_slice() {
            [only] => Some(only.clone()),
            [first, ..] => Some(crate::base::atomic::folder_of(first).to_owned()),
            [] => None,
        });
    }

    /// Adds files whose tensors are no tensors of what was named, but may be their bases.
    pub fn add_support<'a>(&mut self, paths: impl Iterator<Item = &'a PathBuf>) {
        let paths: Vec<PathBuf> = paths.cloned().collect();
        self.add_all(&paths, false);
    }

    /// Models and images in a folder, by path, and if `is_deep` in those below; links to files are
    /// followed if that is wanted, links to folders are not.
    fn model_files(&mut self, folder: &Path, is_deep: bool) -> Result<Vec<PathBuf>> {
        let (mut files, mut folders) = (Vec::new(), Vec::new());
        self.list(folder, &mut files, &mut folders)?;
        while let Some(folder) = folders.pop().filter(|_| is_deep) {
            // one that may not be read, or has just gone, hides nothing that is elsewhere
            if let Err(error) = self.list(&folder, &mut files, &mut folders) {
                tracing::debug!("passed over: {error}");
                self.faults.push((true, error));
            }
        }
        files.sort();
        Ok(files)
    }

    /// What is in one folder: files that may be models, and folders.
    fn list(
        &mut self,
        folder: &Path,
        files: &mut Vec<PathBuf>,
        folders: &mut Vec<PathBuf>,
    ) -> Result<()> {
        let failed = |e| Error::io("cannot list", folder, e);
        for entry in std::fs::read_dir(folder).map_err(failed)? {
            let entry = entry.map_err(failed)?;
            let kind = entry.file_type().map_err(failed)?;
            if kind.is_dir() {
                folders.push(entry.path());
            } else if self.is_model(&entry, kind) {
                files.push(entry.path());
            } else if ShardIndex::stem_of(&entry.path()).is_some()
                && (self.follows_links || !kind.is_symlink())
            {
                self.indexes.insert(entry.path());
            }
        }
        Ok(())
    }

    /// Whether an entry of a folder is a model or an image. Where links are not followed, those
    /// that name the blobs of a Hugging Face cache do not count, so these do, which have no
    /// extension.
    fn is_model(&self, entry: &DirEntry, kind: FileType) -> bool {
        let name = entry.file_name();
        if is_model_file(&name) {
            return self.follows_links || !kind.is_symlink();
        }
        let may_be_blob = !self.follows_links && kind.is_file() && naming::has_no_extension(&name);
        may_be_blob && FileSource::open(&entry.path()).is_ok_and(|file| Header::may_be_in(&file))
    }

    /// Whether one of them is a model.
    fn add_all(&mut self, paths: &[PathBuf], is_named: bool) -> bool {
        let mut is_model = false;
        for path in paths {
            match self.add_file(path, is_named) {
                Ok(added) => is_model |= added != Added::Nothing,
                Err(error) => {
                    tracing::debug!("passed over: {error}");
                    self.faults.push((is_named, error));
                }
            }
        }
        is_model
    }

    /// A file that is there already is not added again; it may have been beside what was named, and
    /// be named now.
    fn add_file(&mut self, path: &Path, is_named: bool) -> Result<Added> {
        self.precedence.take();
        let source = FileSource::open(path)?;
        let identity = source.on_disk();
        if let Some(known) = self.files.iter().position(|file| file.identity == identity) {
            return Ok(self.add_again(known, path, is_named));
        }
        let is_named_as_image = path.file_name().is_some_and(naming::is_image_name);
        let is_image = image::claims_to_be_image(&source);
        let opened = match ModelFile::from_source(source, path, &self.opening) {
            Ok(opened) => opened,
            // files of other programs are named so, too
            Err(_) if is_named_as_image && !is_image => return Ok(Added::Nothing),
            Err(error) => return Err(error),
        };
        Ok(self.take(opened, identity, is_named))
    }

    fn add_again(&mut self, known: usize, path: &Path, is_named: bool) -> Added {
        self.files[known].stands_at(path);
        for tensor in self.tensors.iter_mut().filter(|_| is_named) {
            tensor.is_named |= tensor.file as usize == known;
        }
        match self.files[known].delta() {
            Some(_) => Added::Delta,
            None => Added::Model,
        }
    }

    fn take(&mut self, opened: ModelFile, identity: Identity, is_named: bool) -> Added {
        let (path, archive, originals) = opened.into_parts();
        let archive = archive.as_ref();
        let mut file = File {
            identity,
            header: archive.map(|archive| archive.header().clone()),
            image: archive.map(|archive| Arc::clone(archive.image())),
            originals: originals.iter().map(Source::of).collect(),
            locations: BTreeMap::new(),
            path: path.clone(),
        };
        file.stands_at(&path);
        if let Some(archive) = archive.filter(|a| a.header().kind == ImageKind::Folder) {
            file.locations = shards::locations_in(archive);
            let indexes = shards::indexes_in(archive).into_iter();
            let indexes = indexes.filter_map(|(index, _)| index.ok());
            self.in_images.extend(indexes);
        }
        let number = self.files.len() as u32;
        for (original, source) in originals.into_iter().enumerate() {
            let spans = Arc::unwrap_or_clone(source.layout).spans.into_iter();
            let spans = spans
                .enumerate()
                .filter(|(_, s)| s.kind == SpanKind::Tensor);
            for (at, span) in spans {
                self.tensors.push(Tensor {
                    span,
                    number: self.tensors.len() as u32,
                    file: number,
                    original: original as u32,
                    base: archive.and_then(|a| a.base_of(original, at)),
                    is_named,
                });
            }
        }
        self.by_name.take();
        let added = match file.delta() {
            Some(_) => Added::Delta,
            None => Added::Model,
        };
        self.files.push(file);
        added
    }

    /// Where was looked: what was added.
    pub fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// The cache that decoded blocks of images go to.
    pub(super) fn cache(&self) -> &Arc<BlockCache> {
        &self.opening.cache
    }

    /// All files with tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.files.iter().map(|file| file.path.as_path())
    }

    /// The same, by their number.
    pub(super) fn file(&self, number: usize) -> &File {
        &self.files[number]
    }

    /// What could not be read of what was named, or is under it.
    pub fn faults(&self) -> impl Iterator<Item = &Error> {
        let faults = self.faults.iter();
        faults
            .filter(|(is_named, _)| *is_named)
            .map(|fault| &fault.1)
    }

    /// All that could not be read.
    pub(super) fn all_faults(&self) -> impl ExactSizeIterator<Item = &Error> {
        self.faults.iter().map(|(_, fault)| fault)
    }

    /// What is odd about which tensors count, as far as no index of shards decides.
    pub fn shard_notes(&self) -> &[ShardNote] {
        &self.precedence().notes
    }

    /// The images of which some is stored as differences.
    pub fn deltas(&self) -> impl Iterator<Item = &Arc<BoundImage>> {
        self.files.iter().filter_map(File::delta)
    }

    /// The file that a tensor is in.
    pub fn file_of(&self, tensor: &Tensor) -> &Path {
        &self.file(tensor.file()).path
    }

    /// The folders in which the file of a tensor stands.
    pub fn folders_of(&self, tensor: &Tensor) -> impl Iterator<Item = &Path> {
        let locations = self.file(tensor.file()).locations.get(&tensor.original());
        locations
            .into_iter()
            .flatten()
            .map(|location| location.folder.as_path())
    }

    fn by_name(&self) -> &[u32] {
        self.by_name.get_or_init(|| {
            let mut numbers: Vec<u32> = (0..self.tensors.len() as u32).collect();
            let name = |number: u32| &self.tensors[number as usize].span.name;
            numbers.sort_by(|&a, &b| name(a).cmp(name(b)));
            numbers
        })
    }

    /// The tensors of a name, in whatever file, whether they count or not.
    pub(super) fn all_named(&self, name: &str) -> impl Iterator<Item = &Tensor> {
        let numbers = self.by_name();
        let tensor = |number: &u32| &self.tensors[*number as usize];
        let first = numbers.partition_point(|number| tensor(number).span.name.as_str() < name);
        let rest = numbers[first..].iter().map(tensor);
        rest.take_while(move |tensor| tensor.span.name == name)
    }

    fn precedence(&self) -> &Precedence {
        self.precedence.get_or_init(|| {
            let tensor = |number: &u32| &self.tensors[*number as usize];
            let groups = self
                .by_name()
                .chunk_by(|a, b| tensor(a).span.name == tensor(b).span.name);
            let groups = groups.filter_map(|group| {
                let named = group.iter().map(tensor).filter(|tensor| tensor.is_named);
                let candidates: Vec<_> = named.map(|tensor| self.candidate(tensor)).collect();
                (candidates.len() > 1).then(|| (tensor(&group[0]).span.name.as_str(), candidates))
            });
            let indexes = Indexes {
                in_images: &self.in_images,
                on_disk: &self.indexes,
            };
            precedence::decide(groups, indexes)
        })
    }

    fn candidate(&self, tensor: &Tensor) -> Candidate<'_> {
        let file = self.file(tensor.file());
        let locations = file.locations.get(&tensor.original());
        Candidate {
            number: tensor.number(),
            locations: locations.map(Vec::as_slice).unwrap_or_default(),
            path: &file.path,
            is_image: file.header.is_some(),
        }
    }

    fn counts(&self, tensor: &Tensor) -> bool {
        tensor.is_named && self.precedence().counts(tensor.number())
    }

    /// All tensors of what was named, by name, but for those in other files than the index of the
    /// shards says.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let numbers = self.by_name().iter();
        let all = numbers.map(|&number| &self.tensors[number as usize]);
        all.filter(|tensor| self.counts(tensor))
    }

    /// All tensors of the same name, dtype and shape as `span`.
    pub fn all_like(&self, span: &Span) -> impl Iterator<Item = &Tensor> {
        let may_have = span.kind == SpanKind::Tensor && span.len > 0;
        let alike = may_have.then(|| self.all_named(&span.name));
        alike.into_iter().flatten().filter(move |tensor| {
            let other = &tensor.span;
            other.dtype == span.dtype && other.shape == span.shape && self.counts(tensor)
        })
    }

    /// The tensor of a name; an error that names the files if several count.
    pub fn tensor(&self, name: &str) -> Result<TensorRef<'_>> {
        let mut counting = self.all_named(name).filter(|tensor| self.counts(tensor));
        let shown = || format!("`{}`", escaped(name));
        let Some(tensor) = counting.next() else {
            let what = format!("has no tensor {}", shown());
            let error = Error::new(ErrorKind::NotFound, what);
            return Err(self.paths.first().into_iter().fold(error, |e, p| e.file(p)));
        };
        if let Some(other) = counting.next() {
            let (file, other) = (self.file_of(tensor), self.file_of(other));
            let what = format!(
                "tensor {} stands in `{}` and `{}`, and no index of shards says which counts",
                shown(),
                file.display(),
                other.display()
            );
            return Err(Error::invalid(what).hint("name one of these files"));
        }
        Ok(self.of(tensor))
    }

    /// What reads a tensor of this model.
    pub fn of<'m>(&'m self, tensor: &'m Tensor) -> TensorRef<'m> {
        let file = self.file(tensor.file());
        TensorRef::new(&tensor.span, &file.originals[tensor.original()], &file.path)
    }
}

fn is_model_file(name: &OsStr) -> bool {
    naming::is_image_name(name) || naming::is_model_name(name)
}
