//! The tensors of models at hand, by name, whatever files they are in.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs::DirEntry;
use std::fs::FileType;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::archive::BlockCache;
use crate::archive::VirtualFile;
use crate::archive::digests::DigestIndex;
use crate::archive::digests::Place;
use crate::archive::image::Image;
use crate::archive::naming;
use crate::archive::shards;
use crate::archive::shards::ShardIndex;
use crate::archive::standing;
use crate::archive::standing::Home;
use crate::archive::standing::Standing;
use crate::archive::whole::Archive;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::FileSource;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::base::file::Identity;
use crate::base::read_at::Part;
use crate::format::Header as ImageHeader;
use crate::format::ImageKind;
use crate::tensor::Header;
use crate::tensor::Layout;
use crate::tensor::Span;
use crate::tensor::SpanKind;

/// A tensor of a model at hand.
#[derive(Debug)]
pub struct Tensor {
    pub(super) span: Span,
    pub(super) bytes: Arc<dyn ReadAt>,
    /// Number of the file that it is in.
    pub(super) file: usize,
    pub(super) place: Place,
    /// Where it is stored as differences: the image, and the number of its base there.
    pub(super) delta: Option<(Arc<Image>, usize)>,
    /// How many deltas are read for it; known when its base was found.
    pub(super) depth: OnceLock<usize>,
    pub(super) blake3: Mutex<Option<[u8; 32]>>,
    /// Whether its file was named, and not only lies beside one that was.
    pub(super) is_named: bool,
}

impl Tensor {
    /// Name, dtype and shape.
    pub fn span(&self) -> &Span {
        &self.span
    }

    /// How many deltas are read for it, as far as its base was found.
    pub fn depth(&self) -> usize {
        self.depth.get().copied().unwrap_or_default()
    }

    /// Whether it is stored as differences.
    pub fn is_delta(&self) -> bool {
        self.delta.is_some()
    }
}

/// A file with tensors.
#[derive(Debug)]
pub(super) struct ModelFile {
    pub(super) path: PathBuf,
    identity: Identity,
    /// Of an image.
    pub(super) header: Option<ImageHeader>,
    /// Of each of its files, the places where it stands: links give several.
    pub(super) homes: BTreeMap<usize, Vec<Home>>,
    /// The image, if it is a delta.
    pub(super) delta: Option<Arc<Image>>,
    /// Digests that are known of it; none before they were asked for.
    known: Mutex<Option<Known>>,
}

impl ModelFile {
    /// Notes that it stands at `path`, too.
    fn stands_at(&mut self, path: &Path) {
        let name = path.file_name().unwrap_or_default();
        let name = match &self.header {
            Some(header) if header.kind == ImageKind::Folder => return,
            Some(header) => naming::original_name(name, header),
            None => Some(name.to_owned()),
        };
        let folder = crate::base::atomic::folder_of(path).to_owned();
        let home = name.map(|name| Home { folder, name });
        self.homes.entry(0).or_default().extend(home);
    }
}

#[derive(Debug, Default)]
struct Known {
    digests: BTreeMap<Place, [u8; 32]>,
    is_new: bool,
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

/// The tensors of some models.
#[derive(Debug)]
pub(super) struct Tensors {
    pub(super) places: Vec<PathBuf>,
    pub(super) files: Vec<ModelFile>,
    pub(super) by_name: BTreeMap<String, Vec<Tensor>>,
    /// Indexes of shards in the folders that were looked at, not read yet.
    pub(super) indexes: BTreeSet<PathBuf>,
    /// Those in images of folders.
    pub(super) in_images: Vec<ShardIndex>,
    /// Which tensors count, once that was asked.
    standing: OnceLock<Standing>,
    /// What could not be read, and whether it was named or under what was.
    pub(super) faults: Vec<(bool, Error)>,
    /// Whether links to files in folders are followed.
    pub(super) follows_links: bool,
    /// Whether digests that were taken before count; new ones are kept all the same.
    pub(super) trusts_index: bool,
    cache: Arc<BlockCache>,
    index: Option<DigestIndex>,
}

impl Tensors {
    pub(super) fn new(cache: Arc<BlockCache>, index: Option<DigestIndex>) -> Self {
        Self {
            places: Vec::new(),
            files: Vec::new(),
            by_name: BTreeMap::new(),
            indexes: BTreeSet::new(),
            in_images: Vec::new(),
            standing: OnceLock::new(),
            faults: Vec::new(),
            follows_links: true,
            trusts_index: true,
            cache,
            index,
        }
    }

    /// Adds the tensors of a model file, an image, the shards that an index names, or all of them
    /// under a folder. In a folder, what cannot be read is passed over.
    pub(super) fn add(&mut self, path: &Path) -> Result<()> {
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
            if added == Added::Delta {
                // its own base mostly lies beside it
                let folder = crate::base::atomic::folder_of(path);
                let files = self.model_files(folder, false)?;
                self.add_all(&files, false);
            }
            added != Added::Nothing
        };
        self.places.push(path.to_owned());
        if !is_model {
            return Err(Error::new(ErrorKind::NotFound, "no model here").file(path));
        }
        Ok(())
    }

    /// Adds the models in a folder, but not those in folders below it.
    pub(super) fn add_beside(&mut self, folder: &Path) -> Result<()> {
        let files = self.model_files(folder, false)?;
        self.add_all(&files, true);
        self.places.push(folder.to_owned());
        Ok(())
    }

    /// Adds those of these files that are models.
    pub(super) fn add_files<'a>(&mut self, paths: impl Iterator<Item = &'a PathBuf>) {
        let is_model = |path: &PathBuf| path.file_name().is_some_and(is_model_file);
        let (paths, others): (Vec<PathBuf>, Vec<PathBuf>) = paths.cloned().partition(is_model);
        let indexes = others.into_iter();
        self.indexes
            .extend(indexes.filter(|path| ShardIndex::stem_of(path).is_some()));
        self.add_all(&paths, true);
        self.places.extend(match paths.as_slice() {
            [only] => Some(only.clone()),
            [first, ..] => Some(crate::base::atomic::folder_of(first).to_owned()),
            [] => None,
        });
    }

    /// Adds files in which bases of those that were named may be.
    pub(super) fn add_support<'a>(&mut self, paths: impl Iterator<Item = &'a PathBuf>) {
        let paths: Vec<PathBuf> = paths.cloned().collect();
        self.add_all(&paths, false);
    }

    /// Models and images in a folder, by path, and if `is_deep` in those below; links to files are followed if that is wanted,
    /// links to folders are not.
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

    /// A file that is there already is not added again; it may have been beside what was named, and be named now.
    fn add_file(&mut self, path: &Path, is_named: bool) -> Result<Added> {
        self.standing.take();
        let source = FileSource::open(path)?;
        let identity = source.on_disk();
        let known = self.files.iter().position(|file| file.identity == identity);
        if let Some(known) = known {
            self.files[known].stands_at(path);
            let all = self.by_name.values_mut().flatten();
            for tensor in all.filter(|tensor| is_named && tensor.file == known) {
                tensor.is_named = true;
            }
            let is_delta = self.files[known].delta.is_some();
            return Ok(if is_delta { Added::Delta } else { Added::Model });
        }
        let mut file = ModelFile {
            path: path.to_owned(),
            identity,
            header: None,
            homes: BTreeMap::new(),
            delta: None,
            known: Mutex::new(None),
        };
        if !crate::archive::claims_to_be_image(&source) {
            let layout = match Layout::of_safetensors(&source) {
                Ok(layout) => layout,
                // files of other programs are named so, too
                Err(_) if path.file_name().is_some_and(naming::is_image_name) => {
                    return Ok(Added::Nothing);
                }
                Err(error) => return Err(error.file(path)),
            };
            let bytes: Arc<dyn ReadAt> = Arc::new(source);
            for span in &layout.spans {
                self.add_tensor(span, &bytes, 0, None, is_named);
            }
            file.stands_at(path);
            self.files.push(file);
            return Ok(Added::Model);
        }
        let archive = Archive::from_source(Arc::new(source), path)?;
        let image = archive.image();
        for (number, record) in archive.files().iter().enumerate() {
            let virtual_file =
                VirtualFile::new(Arc::clone(image), number, Arc::clone(&self.cache))?;
            let bytes: Arc<dyn ReadAt> = Arc::new(virtual_file);
            for record in archive.spans(record) {
                let server = record
                    .repeats
                    .map_or(record, |of| &archive.index().spans[of]);
                let delta = server.base.map(|base| (Arc::clone(image), base));
                self.add_tensor(&record.span, &bytes, number, delta, is_named);
            }
        }
        file.header = Some(archive.header().clone());
        file.stands_at(path);
        if archive.header().kind == ImageKind::Folder {
            file.homes = shards::homes_in(&archive);
            let indexes = shards::indexes_in(&archive).into_iter();
            self.in_images
                .extend(indexes.filter_map(|(index, _)| index.ok()));
        }
        let is_delta = archive.is_delta();
        file.delta = is_delta.then(|| Arc::clone(image));
        self.files.push(file);
        Ok(if is_delta { Added::Delta } else { Added::Model })
    }

    fn add_tensor(
        &mut self,
        span: &Span,
        bytes: &Arc<dyn ReadAt>,
        number: usize,
        delta: Option<(Arc<Image>, usize)>,
        is_named: bool,
    ) {
        if span.kind != SpanKind::Tensor {
            return;
        }
        let depth = OnceLock::new();
        if delta.is_none() {
            depth.get_or_init(|| 0);
        }
        let part = Part::new(Arc::clone(bytes), span.start, span.len);
        let alike = self.by_name.entry(span.name.clone()).or_default();
        alike.push(Tensor {
            span: span.clone(),
            bytes: Arc::new(part),
            file: self.files.len(),
            place: (number, span.start),
            delta,
            depth,
            blake3: Mutex::new(None),
            is_named,
        });
    }

    /// Which tensors count, and what is odd about them.
    pub(super) fn standing(&self) -> &Standing {
        self.standing.get_or_init(|| standing::decide(self))
    }

    /// The digest of a tensor, if it need not be read for it.
    pub(super) fn known_blake3(&self, tensor: &Tensor) -> Option<[u8; 32]> {
        // held only while another takes the digest
        if let Some(known) = tensor.blake3.try_lock().and_then(|known| *known) {
            return Some(known);
        }
        let index = self.index.as_ref().filter(|_| self.trusts_index)?;
        let file = &self.files[tensor.file];
        let mut known = file.known.lock();
        let known = known.get_or_insert_with(|| Known {
            digests: index.read(&file.identity),
            is_new: false,
        });
        known.digests.get(&tensor.place).copied()
    }

    /// The digest of a tensor whose base, if it has one, was found.
    pub(super) fn blake3(&self, tensor: &Tensor) -> Result<[u8; 32]> {
        let before = self.known_blake3(tensor);
        let mut known = tensor.blake3.lock();
        if let Some(blake3) = known.or(before) {
            *known = Some(blake3);
            return Ok(blake3);
        }
        let blake3 = digest::blake3_of(&*tensor.bytes)?;
        *known = Some(blake3);
        self.learn(tensor, blake3);
        Ok(blake3)
    }

    fn learn(&self, tensor: &Tensor, blake3: [u8; 32]) {
        let mut known = self.files[tensor.file].known.lock();
        let known = known.get_or_insert_default();
        known.digests.insert(tensor.place, blake3);
        known.is_new = true;
    }

    /// Keeps for later what was learned.
    pub(super) fn keep_digests(&self) {
        let Some(index) = &self.index else {
            return;
        };
        for file in &self.files {
            let mut known = file.known.lock();
            if let Some(known) = known.as_mut().filter(|known| known.is_new) {
                index.write(&file.path, &file.identity, &known.digests);
                known.is_new = false;
            }
        }
    }
}

impl Drop for Tensors {
    fn drop(&mut self) {
        self.keep_digests();
    }
}

fn is_model_file(name: &OsStr) -> bool {
    naming::is_image_name(name) || naming::is_model_name(name)
}
