//! Where the bases of deltas are looked for: models by their tensors, whatever files these are in, and each tensor known by its
//! BLAKE3-256. A base may be a delta itself, to a depth.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::archive::BlockCache;
use crate::archive::digests::DigestIndex;
use crate::archive::image::Archive;
use crate::archive::tensors::Tensor;
use crate::archive::tensors::Tensors;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::base::error::escaped;
use crate::format::BaseRecord;
use crate::tensor::Span;
use crate::tensor::SpanKind;

/// Most deltas one on another: as many blocks and one more are decoded for a block of the last.
pub const DELTAS_MAX: usize = 4;
/// Decoded blocks of bases that are images, if nobody shares a cache.
const CACHE_BYTES: u64 = 64 << 20;

/// Whether a base is at hand, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hope {
    /// Nothing has its name and length and is not known to be another.
    None,
    /// Something has its name and length, and was not compared.
    Some,
    /// It is at hand.
    Sure,
}

/// The tensors of some models, any of which may be a base.
#[derive(Debug)]
pub struct Bases {
    tensors: Tensors,
    /// Files of which a tensor was found to be a base: their other tensors are tried first.
    proven: Mutex<BTreeSet<usize>>,
}

impl Bases {
    /// None yet. Decoded blocks of images go to `cache`; digests of tensors are looked up and kept in `index`.
    pub fn new(cache: Arc<BlockCache>, index: Option<DigestIndex>) -> Self {
        Self {
            tensors: Tensors::new(cache, index),
            proven: Mutex::default(),
        }
    }

    /// The tensors of a model file, an image, or all of them under a folder.
    pub fn open(path: &Path, index: Option<DigestIndex>) -> Result<Self> {
        let mut bases = Self::new(BlockCache::new(CACHE_BYTES), index);
        bases.add(path)?;
        Ok(bases)
    }

    /// From now on links in folders are passed over.
    pub fn follow_no_links(&mut self) {
        self.tensors.follows_links = false;
    }

    /// Adds another place to look: a model file, an image, or a folder, in which what cannot be read is passed over.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        self.tensors.add(path)
    }

    /// Adds these files; those that are no models or cannot be read are passed over.
    pub fn add_files<'a>(&mut self, paths: impl Iterator<Item = &'a PathBuf>) {
        self.tensors.add_files(paths);
    }

    /// Adds files in which only the bases of those that were named are looked for.
    pub fn add_support<'a>(&mut self, paths: impl Iterator<Item = &'a PathBuf>) {
        self.tensors.add_support(paths);
    }

    /// Adds the models in a folder, but not those in folders below it.
    pub fn add_beside(&mut self, folder: &Path) -> Result<()> {
        self.tensors.add_beside(folder)
    }

    /// Where was looked.
    pub fn places(&self) -> &[PathBuf] {
        &self.tensors.places
    }

    /// All tensors of what was named.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        let all = self.tensors.by_name.values().flatten();
        all.filter(|tensor| tensor.is_named)
    }

    /// All files with tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.tensors.files.iter().map(|file| file.path.as_path())
    }

    /// The images among them that are deltas.
    pub fn deltas(&self) -> impl Iterator<Item = &Arc<Archive>> {
        self.tensors
            .files
            .iter()
            .filter_map(|file| file.delta.as_ref())
    }

    /// The file that a tensor is in.
    pub fn file_of(&self, tensor: &Tensor) -> &Path {
        &self.tensors.files[tensor.file].path
    }

    /// The first tensor of the same name, dtype and shape as `span`.
    pub fn like(&self, span: &Span) -> Option<&Tensor> {
        self.all_like(span).next()
    }

    /// All tensors of the same name, dtype and shape as `span`.
    pub fn all_like(&self, span: &Span) -> impl Iterator<Item = &Tensor> {
        let may_have = span.kind == SpanKind::Tensor && span.len > 0;
        let alike = self.tensors.by_name.get(&span.name).filter(|_| may_have);
        alike.into_iter().flatten().filter(|tensor| {
            let other = &tensor.span;
            tensor.is_named && other.dtype == span.dtype && other.shape == span.shape
        })
    }

    /// The bytes of a tensor. If it is stored as differences, its base is looked for.
    pub fn bytes(&self, tensor: &Tensor) -> Result<Arc<dyn ReadAt>> {
        self.settled(tensor, DELTAS_MAX)
    }

    fn settled(&self, tensor: &Tensor, deltas: usize) -> Result<Arc<dyn ReadAt>> {
        Search::new(self)
            .settle(tensor, deltas)
            .map_err(|e| e.file(self.file_of(tensor)))?;
        Ok(Arc::clone(&tensor.bytes))
    }

    /// What a tensor is as a base, and its bytes. They are read for the digest, if it is not known.
    pub fn identify(&self, tensor: &Tensor) -> Result<(BaseRecord, Arc<dyn ReadAt>)> {
        let bytes = self.settled(tensor, DELTAS_MAX - 1)?;
        let record = BaseRecord {
            blake3: self.tensors.blake3(tensor)?,
            name: tensor.span.name.clone(),
        };
        Ok((record, bytes))
    }

    /// The bytes of the base of this record and length; an error that says where it was looked for if none is it.
    pub fn find(&self, record: &BaseRecord, len: u64) -> Result<Arc<dyn ReadAt>> {
        let tensor = Search::new(self).find(record, len, DELTAS_MAX - 1)?;
        Ok(Arc::clone(&tensor.bytes))
    }

    /// The file in which the base of this record and length is.
    pub fn find_file(&self, record: &BaseRecord, len: u64) -> Result<&Path> {
        let tensor = Search::new(self).find(record, len, DELTAS_MAX - 1)?;
        Ok(self.file_of(tensor))
    }

    /// Whether there is a tensor of the name and this length, whatever its content.
    pub fn names(&self, record: &BaseRecord, len: u64) -> bool {
        let alike = self.tensors.by_name.get(&record.name);
        alike.is_some_and(|alike| alike.iter().any(|tensor| tensor.span.len == len))
    }

    /// The files in which there is a tensor of the name and this length that is not known to be another.
    pub fn files_with(&self, record: &BaseRecord, len: u64) -> Vec<&Path> {
        let alike = self.tensors.by_name.get(&record.name).into_iter().flatten();
        let may_be_it = |tensor: &&Tensor| {
            let known = self.tensors.known_blake3(tensor);
            tensor.span.len == len && known.is_none_or(|known| known == record.blake3)
        };
        alike
            .filter(may_be_it)
            .map(|tensor| self.file_of(tensor))
            .collect()
    }

    /// What can be said of the base of this record and length without reading tensors.
    pub fn hope(&self, record: &BaseRecord, len: u64) -> Hope {
        Search::new(self).hope(record, len, DELTAS_MAX - 1)
    }

    /// Keeps the digests that were taken for later searches; also done when nobody needs the bases any more.
    pub fn keep_digests(&self) {
        self.tensors.keep_digests();
    }

    fn not_found(&self, record: &BaseRecord, is_alike: bool) -> Error {
        let places: Vec<String> = self
            .places()
            .iter()
            .map(|place| format!("`{}`", place.display()))
            .collect();
        let places = if places.is_empty() {
            "no place: none was named".to_owned()
        } else {
            places.join(", ")
        };
        let faults = match self.tensors.faults.as_slice() {
            [] => String::new(),
            [first, ..] => {
                let count = self.tensors.faults.len();
                format!("; {count} files there could not be read, such as: {first}")
            }
        };
        let name = escaped(&record.name);
        if !is_alike {
            let what = format!("its base tensor `{name}` is not in {places}{faults}");
            return Error::new(ErrorKind::MissingBase, what);
        }
        let blake3 = digest::hex(&record.blake3);
        let what = format!(
            "no tensor `{name}` in {places} is its base, which was changed or is another model: BLAKE3 {blake3} expected{faults}"
        );
        Error::new(ErrorKind::MissingBase, what)
    }
}

/// One search, which may lead from delta to delta. What was not found is not looked for twice.
struct Search<'a> {
    bases: &'a Bases,
    /// What is being looked for, one delta below another.
    sought: Vec<[u8; 32]>,
    /// What was not found, with so many deltas allowed.
    missing: BTreeMap<[u8; 32], (usize, Error)>,
    hopes: BTreeMap<[u8; 32], Hope>,
}

impl<'a> Search<'a> {
    fn new(bases: &'a Bases) -> Self {
        Self {
            bases,
            sought: Vec::new(),
            missing: BTreeMap::new(),
            hopes: BTreeMap::new(),
        }
    }

    /// The tensor of this digest; at most `deltas` deltas may be read for it.
    fn find(&mut self, record: &BaseRecord, len: u64, deltas: usize) -> Result<&'a Tensor> {
        if let Some((allowed, error)) = self.missing.get(&record.blake3)
            && *allowed >= deltas
        {
            return Err(error.clone());
        }
        self.sought.push(record.blake3);
        let found = self.try_find(record, len, deltas);
        self.sought.pop();
        if let Err(error) = &found {
            self.missing.insert(record.blake3, (deltas, error.clone()));
        }
        found
    }

    fn try_find(&mut self, record: &BaseRecord, len: u64, deltas: usize) -> Result<&'a Tensor> {
        let bases = self.bases;
        let alike = bases
            .tensors
            .by_name
            .get(&record.name)
            .into_iter()
            .flatten();
        let mut alike: Vec<&Tensor> = alike.filter(|tensor| tensor.span.len == len).collect();
        let proven = bases.proven.lock().clone();
        // those of which the digest is known need not be read; then plain ones, which need nothing else
        alike.sort_by_key(|tensor| {
            let is_known = bases.tensors.known_blake3(tensor) == Some(record.blake3);
            let is_proven = proven.contains(&tensor.file);
            (!is_known, !is_proven, tensor.delta.is_some())
        });
        let mut first_error = None;
        for tensor in &alike {
            match self.is_it(tensor, record, deltas) {
                Ok(true) => {
                    bases.proven.lock().insert(tensor.file);
                    return Ok(tensor);
                }
                Ok(false) => {}
                Err(error) => {
                    first_error.get_or_insert(error);
                }
            }
        }
        // that it cannot be read says more than that nothing else is it
        let not_found = bases.not_found(record, !alike.is_empty());
        Err(first_error.unwrap_or(not_found))
    }

    fn hope(&mut self, record: &BaseRecord, len: u64, deltas: usize) -> Hope {
        if let Some(hope) = self.hopes.get(&record.blake3) {
            return *hope;
        }
        self.sought.push(record.blake3);
        let alike = self.bases.tensors.by_name.get(&record.name);
        let alike = alike.into_iter().flatten().filter(|t| t.span.len == len);
        let hope = alike
            .map(|tensor| self.hope_of(tensor, record, deltas))
            .max();
        self.sought.pop();
        let hope = hope.unwrap_or(Hope::None);
        self.hopes.insert(record.blake3, hope);
        hope
    }

    /// That this tensor is it.
    fn hope_of(&mut self, tensor: &Tensor, record: &BaseRecord, deltas: usize) -> Hope {
        let known = self.bases.tensors.known_blake3(tensor);
        let of_it = match known {
            Some(known) if known == record.blake3 => Hope::Sure,
            Some(_) => Hope::None,
            None => Hope::Some,
        };
        let Some((archive, number)) = &tensor.delta else {
            return of_it;
        };
        let below = archive.index().bases[*number].named(&tensor.span.name);
        match deltas.checked_sub(1) {
            Some(deltas) if !self.sought.contains(&below.blake3) => {
                of_it.min(self.hope(&below, tensor.span.len, deltas))
            }
            _ => Hope::None,
        }
    }

    fn is_it(&mut self, tensor: &Tensor, record: &BaseRecord, deltas: usize) -> Result<bool> {
        let known = self.bases.tensors.known_blake3(tensor);
        if known.is_some_and(|known| known != record.blake3) {
            return Ok(false);
        }
        if let Some((archive, number)) = &tensor.delta {
            let below = &archive.index().bases[*number].blake3;
            if self.sought.contains(below) {
                // it would be its own base
                return Ok(false);
            }
        }
        match self.settle(tensor, deltas) {
            // without its base nobody can say what it is
            Err(error) if known.is_none() && error.kind() == ErrorKind::MissingBase => {
                tracing::debug!("no base: {error}");
                return Ok(false);
            }
            settled => settled?,
        }
        Ok(self.bases.tensors.blake3(tensor)? == record.blake3)
    }

    /// Finds the base of a tensor that is stored as differences, so that it can be read.
    fn settle(&mut self, tensor: &Tensor, deltas: usize) -> Result<()> {
        let depth = if let Some(depth) = tensor.depth.get() {
            *depth
        } else if let (Some((archive, number)), Some(below)) =
            (&tensor.delta, deltas.checked_sub(1))
        {
            let record = archive.index().bases[*number].named(&tensor.span.name);
            let base = self.find(&record, tensor.span.len, below)?;
            archive.settle_base(*number, &base.bytes);
            let depth = 1 + base.depth.get().copied().unwrap_or_default();
            *tensor.depth.get_or_init(|| depth)
        } else {
            deltas + 1
        };
        if depth > deltas {
            return Err(Error::unsupported(format!(
                "tensor `{}` is the end of a chain of more than {DELTAS_MAX} deltas",
                tensor.span.name
            ))
            .file(self.bases.file_of(tensor))
            .hint("restore a model of the chain, and name the restored one as the base"));
        }
        Ok(())
    }
}
