//! Where the bases of deltas are looked for: models by their tensors, whatever files these are in,
//! and each tensor known by its BLAKE3-256. A base may be a delta itself, to a depth.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::archive::cache::BlockCache;
use crate::archive::digests::DigestIndex;
use crate::archive::image::Need;
use crate::archive::model::Model;
use crate::archive::model::Tensor;
use crate::archive::model_file::Opening;
use crate::archive::resolve::Availability;
use crate::archive::resolve::BaseResolver;
use crate::archive::resolve::BoundImage;
use crate::archive::resolved_deltas;
use crate::archive::resolved_deltas::ResolvedDeltas;
use crate::archive::tensor_digests::TensorDigests;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;
use crate::base::error::escaped;
use crate::base::units::counted;
use crate::format::BaseRecord;
use crate::tensor::Span;

/// Most deltas one on another: as many blocks and one more are decoded for a block of the last.
pub const DELTAS_MAX: usize = 4;
/// Decoded blocks of bases that are images, if nobody shares a cache.
const CACHE_BYTES: u64 = 64 << 20;

/// Most tensors that one search looks at. Those of a name are looked at once; only where bases have
/// other names, each of which leads to others, are there more.
const LOOKS_MAX: usize = 1 << 20;

/// Of so many of the tensors that a delta needs it is looked whether they are what they should be.
const LOOKED_AT: usize = 32;

/// The tensors of some models, any of which may be a base.
#[derive(Debug)]
pub struct Bases {
    model: Model,
    digests: TensorDigests,
    /// Files of which a tensor was found to be a base: their other tensors are tried first.
    proven: Mutex<BTreeSet<usize>>,
    /// The deltas whose bases were found.
    resolved: ResolvedDeltas,
}

impl Drop for Bases {
    fn drop(&mut self) {
        self.keep_digests();
    }
}

impl BaseResolver for Bases {
    fn resolve(&self, need: &Need) -> Result<Arc<dyn ReadAt>> {
        self.find(&need.record, need.len)
    }

    fn availability(&self, need: &Need) -> Availability {
        self.availability_of(&need.record, need.len)
    }

    fn search_paths(&self) -> &[PathBuf] {
        self.model.paths()
    }
}

impl Bases {
    /// None yet. Decoded blocks of images go to `cache`; digests of tensors are looked up and kept
    /// in `index`.
    pub fn new(cache: Arc<BlockCache>, index: Option<DigestIndex>) -> Self {
        let opening = Opening {
            cache,
            ..Opening::default()
        };
        Self {
            model: Model::new(opening),
            digests: TensorDigests::new(index),
            proven: Mutex::default(),
            resolved: ResolvedDeltas::default(),
        }
    }

    /// None yet, with a cache that nobody shares.
    pub fn unshared(index: Option<DigestIndex>) -> Self {
        Self::new(BlockCache::new(CACHE_BYTES), index)
    }

    /// The tensors of a model file, an image, or all of them under a folder.
    pub fn open(path: &Path, index: Option<DigestIndex>) -> Result<Self> {
        let mut bases = Self::unshared(index);
        bases.add(path)?;
        Ok(bases)
    }

    /// From now on each tensor is read for its digest, whatever is known of it: what a delta names
    /// as its base must be what is there, and a file that was written to by mapping may have kept
    /// all that the disk says of it.
    pub fn trust_no_index(&mut self) {
        self.digests.trust_no_index();
    }

    /// From now on links in folders are passed over.
    pub fn follow_no_links(&mut self) {
        self.model.follow_no_links();
    }

    /// Adds another place to look: a model file, an image, or a folder, in which what cannot be
    /// read is passed over.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        self.model.add(path)
    }

    /// Adds these files; those that are no models or cannot be read are passed over.
    pub fn add_files<'a>(&mut self, paths: impl Iterator<Item = &'a PathBuf>) {
        self.model.add_files(paths);
    }

    /// Adds files in which only the bases of those that were named are looked for.
    pub fn add_support<'a>(&mut self, paths: impl Iterator<Item = &'a PathBuf>) {
        self.model.add_support(paths);
    }

    /// Adds the models in a folder, but not those in folders below it.
    pub fn add_beside(&mut self, folder: &Path) -> Result<()> {
        self.model.add_beside(folder)
    }

    /// What could not be read of what was named, or is under it.
    pub fn faults(&self) -> impl Iterator<Item = &Error> {
        self.model.faults()
    }

    /// Where was looked.
    pub fn search_paths(&self) -> &[PathBuf] {
        self.model.paths()
    }

    /// All tensors of what was named, but for those in other files than the index of the shards
    /// says.
    pub fn tensors(&self) -> impl Iterator<Item = &Tensor> {
        self.model.tensors()
    }

    /// All files with tensors.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.model.files()
    }

    /// The images among them that are deltas.
    pub fn deltas(&self) -> impl Iterator<Item = &Arc<BoundImage>> {
        self.model.deltas()
    }

    /// The file that a tensor is in.
    pub fn file_of(&self, tensor: &Tensor) -> &Path {
        self.model.file_of(tensor)
    }

    /// The first tensor of the same name, dtype and shape as `span`.
    pub fn like(&self, span: &Span) -> Option<&Tensor> {
        self.all_like(span).next()
    }

    /// All tensors of the same name, dtype and shape as `span`.
    pub fn all_like(&self, span: &Span) -> impl Iterator<Item = &Tensor> {
        self.model.all_like(span)
    }

    /// How many deltas are read for a tensor, as far as its base was found.
    pub fn depth(&self, tensor: &Tensor) -> usize {
        self.resolved.depth(tensor).unwrap_or_default()
    }

    /// The bytes of a tensor. If it is stored as differences, its base is looked for.
    pub fn bytes(&self, tensor: &Tensor) -> Result<Arc<dyn ReadAt>> {
        self.resolved(tensor, DELTAS_MAX)
    }

    fn resolved(&self, tensor: &Tensor, deltas: usize) -> Result<Arc<dyn ReadAt>> {
        Search::new(self)
            .settle(tensor, deltas)
            .map_err(|e| e.file(self.file_of(tensor)))?;
        Ok(self.resolved.bytes(&self.model, tensor))
    }

    /// The digest of a tensor whose base, if it has one, was found.
    fn blake3(&self, tensor: &Tensor) -> Result<[u8; 32]> {
        let bytes = self.resolved.bytes(&self.model, tensor);
        self.digests.take(&self.model, tensor, &*bytes)
    }

    /// The digest of a tensor, if it need not be read for it.
    fn known_blake3(&self, tensor: &Tensor) -> Option<[u8; 32]> {
        self.digests.known(&self.model, tensor)
    }

    /// What a tensor is as a base, and its bytes. They are read for the digest, if it is not known.
    pub fn identify(&self, tensor: &Tensor) -> Result<(BaseRecord, Arc<dyn ReadAt>)> {
        let bytes = self.resolved(tensor, DELTAS_MAX - 1)?;
        let record = BaseRecord {
            blake3: self.blake3(tensor)?,
            name: tensor.span().name.clone(),
        };
        Ok((record, bytes))
    }

    /// The bytes of the base of this record and length; an error that says where it was looked for
    /// if none is it.
    pub fn find(&self, record: &BaseRecord, len: u64) -> Result<Arc<dyn ReadAt>> {
        let tensor = Search::new(self).find(record, len, DELTAS_MAX - 1)?;
        Ok(self.resolved.bytes(&self.model, tensor))
    }

    /// The file in which the base of this record and length is.
    pub fn find_file(&self, record: &BaseRecord, len: u64) -> Result<&Path> {
        let tensor = Search::new(self).find(record, len, DELTAS_MAX - 1)?;
        Ok(self.file_of(tensor))
    }

    /// Whether there is a tensor of the name and this length, whatever its content.
    pub fn names(&self, record: &BaseRecord, len: u64) -> bool {
        self.alike(record, len).next().is_some()
    }

    /// The files that have bases of these records and lengths, or may have them: none of which is
    /// known to have another tensor in the place of one.
    pub fn files_of(&self, records: &[(BaseRecord, u64)]) -> BTreeSet<&Path> {
        let (mut may_be, mut others) = (BTreeSet::new(), BTreeSet::new());
        for (record, len) in records {
            for tensor in self.alike(record, *len) {
                let known = self.known_blake3(tensor);
                if known.is_none_or(|known| known == record.blake3) {
                    may_be.insert(tensor.file());
                } else {
                    others.insert(tensor.file());
                }
            }
        }
        let files = may_be.difference(&others);
        files
            .map(|&file| self.model.file(file).path.as_path())
            .collect()
    }

    /// Reads what may be the bases of some of these records, spread over all of them, so that it is
    /// known: of all together about `bytes_max` at most.
    pub fn look_at_some(&self, records: &[(BaseRecord, u64)], bytes_max: u64) {
        let mut left = bytes_max;
        let step = records.len().div_ceil(LOOKED_AT).max(1);
        for (record, len) in records.iter().step_by(step) {
            for tensor in self.alike(record, *len) {
                if *len > left {
                    return;
                }
                if self.known_blake3(tensor).is_none() {
                    left -= len;
                    // one that cannot be read stays unknown
                    let resolved = self.resolved(tensor, DELTAS_MAX - 1);
                    let _ = resolved.and_then(|_| self.blake3(tensor));
                }
            }
        }
    }

    fn alike(&self, record: &BaseRecord, len: u64) -> impl Iterator<Item = &Tensor> {
        let alike = self.model.all_named(&record.name);
        alike.filter(move |tensor| tensor.span().len == len)
    }

    /// What can be said of the base of this record and length without reading tensors.
    pub fn availability_of(&self, record: &BaseRecord, len: u64) -> Availability {
        Search::new(self).availability(record, len)
    }

    /// Keeps the digests that were taken for later searches; also done when nobody needs the bases
    /// any more.
    pub fn keep_digests(&self) {
        self.digests.keep(&self.model);
    }

    fn not_found(&self, record: &BaseRecord, is_alike: bool) -> Error {
        let paths = self.search_paths().iter();
        let paths: Vec<String> = paths.map(|path| format!("`{}`", path.display())).collect();
        let paths = if paths.is_empty() {
            "no place: none was named".to_owned()
        } else {
            paths.join(", ")
        };
        let mut all_faults = self.model.all_faults();
        let count = counted(all_faults.len() as u64, "file");
        let faults = all_faults.next().map_or_else(String::new, |first| {
            format!("; {count} there could not be read, such as: {first}")
        });
        let name = escaped(&record.name);
        if !is_alike {
            let what = format!("its base tensor `{name}` is not in {paths}{faults}");
            return Error::new(ErrorKind::MissingBase, what);
        }
        let blake3 = digest::hex(&record.blake3);
        let what = format!(
            "no tensor `{name}` in {paths} is its base, which was changed or is another model: \
             BLAKE3 {blake3} expected{faults}"
        );
        Error::new(ErrorKind::MissingBase, what)
    }
}

/// One search. It goes up from what is plain: a delta can be read once its base is at hand, and
/// then may be a base itself. So nothing is ever its own base.
struct Search<'a> {
    bases: &'a Bases,
    /// What is being looked for, one below another where names differ.
    sought: Vec<[u8; 32]>,
    /// What was not found with so many deltas allowed.
    missing: BTreeMap<(String, [u8; 32], usize), Error>,
    /// How often a search ended at what is being looked for: what was not found then may be found
    /// from elsewhere.
    circles: usize,
    /// How many tensors were looked at.
    looks: usize,
}

/// The tensors of one name and length that were read so far, by their digests.
#[derive(Default)]
struct ReadTensors<'a> {
    by_digest: BTreeMap<[u8; 32], &'a Tensor>,
    /// Why the first of those that could not be read could not.
    fault: Option<Error>,
}

impl<'a> ReadTensors<'a> {
    /// The base of a tensor, if it is among these.
    fn base_of(&self, bases: &Bases, tensor: &Tensor) -> Option<&'a Tensor> {
        let blake3 = &resolved_deltas::need_of(&bases.model, tensor)?
            .record
            .blake3;
        self.by_digest.get(blake3).copied()
    }
}

impl<'a> Search<'a> {
    fn new(bases: &'a Bases) -> Self {
        Self {
            bases,
            sought: Vec::new(),
            missing: BTreeMap::new(),
            circles: 0,
            looks: 0,
        }
    }

    /// Tensors of the name and length of a base: those of files that were bases before come first.
    fn alike(&self, record: &BaseRecord, len: u64) -> Vec<&'a Tensor> {
        let mut alike: Vec<&Tensor> = self.bases.alike(record, len).collect();
        let proven = self.bases.proven.lock();
        alike.sort_by_key(|tensor| !proven.contains(&tensor.file()));
        alike
    }

    /// The tensor of this digest; at most `deltas` deltas may be read for it.
    fn find(&mut self, record: &BaseRecord, len: u64, deltas: usize) -> Result<&'a Tensor> {
        if self.sought.contains(&record.blake3) {
            self.circles += 1;
            return Err(self.bases.not_found(record, true));
        }
        let key = (record.name.clone(), record.blake3, deltas);
        if let Some(error) = self.missing.get(&key) {
            return Err(error.clone());
        }
        let circles = self.circles;
        self.sought.push(record.blake3);
        let found = self.try_find(record, len, deltas);
        self.sought.pop();
        match found {
            Ok(found) => {
                self.bases.proven.lock().insert(found.file());
                Ok(found)
            }
            Err(error) => {
                if self.circles == circles {
                    self.missing.insert(key, error.clone());
                }
                Err(error)
            }
        }
    }

    fn try_find(&mut self, record: &BaseRecord, len: u64, deltas: usize) -> Result<&'a Tensor> {
        if self.looks > LOOKS_MAX {
            return Err(Error::over_limit("too many tensors may be its base")
                .hint("look only where the model is that it was made from"));
        }
        let alike = self.alike(record, len);
        self.looks += alike.len();
        let known = |tensor: &&&Tensor| {
            let known = self.bases.known_blake3(tensor);
            known == Some(record.blake3)
        };
        let known: Vec<&Tensor> = alike.iter().filter(known).copied().collect();
        let mut at_hand = ReadTensors::default();
        for tensor in known {
            match self.settle(tensor, deltas) {
                Ok(()) => return Ok(tensor),
                Err(error) => {
                    at_hand.fault.get_or_insert(error);
                }
            }
        }
        let is_plain = |tensor: &&&Tensor| !tensor.is_delta();
        for tensor in alike.iter().filter(is_plain) {
            if self.is_it(tensor, record, &mut at_hand) {
                return Ok(tensor);
            }
        }
        let mut above: Vec<&Tensor> = alike.iter().filter(|t| !is_plain(t)).copied().collect();
        for depth in 1..=deltas {
            let mut unread = Vec::new();
            for tensor in above {
                if !self.base_is_at_hand(tensor, depth, &at_hand) {
                    unread.push(tensor);
                } else if self.is_it(tensor, record, &mut at_hand) {
                    return Ok(tensor);
                }
            }
            above = unread;
        }
        if let Some(fault) = at_hand.fault {
            // that it cannot be read says more than that nothing else is it
            return Err(fault);
        }
        // only among those of its name: a search without end for others would say no more
        let is_next = |tensor: &&&Tensor| at_hand.base_of(self.bases, tensor).is_some();
        if let Some(too_deep) = above.iter().find(is_next) {
            return Err(self.too_deep(too_deep));
        }
        Err(self.bases.not_found(record, !alike.is_empty()))
    }

    /// Whether this tensor, which can be read, has the digest; then it is at hand for others, too.
    fn is_it(
        &self,
        tensor: &'a Tensor,
        record: &BaseRecord,
        at_hand: &mut ReadTensors<'a>,
    ) -> bool {
        match self.bases.blake3(tensor) {
            Ok(blake3) => {
                at_hand.by_digest.entry(blake3).or_insert(tensor);
                blake3 == record.blake3
            }
            Err(error) => {
                at_hand.fault.get_or_insert(error);
                false
            }
        }
    }

    /// Whether the base of a tensor that is stored as differences is at hand, so that at most
    /// `depth` deltas are read for the tensor.
    fn base_is_at_hand(
        &mut self,
        tensor: &Tensor,
        depth: usize,
        at_hand: &ReadTensors<'a>,
    ) -> bool {
        let bases = self.bases;
        if let Some(known) = bases.resolved.depth(tensor) {
            return known <= depth;
        }
        let Some(need) = resolved_deltas::need_of(&bases.model, tensor) else {
            return true;
        };
        let base = if need.record.name == tensor.span().name {
            at_hand.base_of(bases, tensor)
        } else {
            self.find(&need.record, tensor.span().len, depth - 1).ok()
        };
        let base = base.filter(|base| bases.depth(base) < depth);
        base.inspect(|base| bases.resolved.settle(&bases.model, tensor, base))
            .is_some()
    }

    /// Finds the base of a tensor that is stored as differences, so that it can be read.
    fn settle(&mut self, tensor: &Tensor, deltas: usize) -> Result<()> {
        let bases = self.bases;
        if let Some(need) = resolved_deltas::need_of(&bases.model, tensor)
            && bases.resolved.depth(tensor).is_none()
        {
            let Some(below) = deltas.checked_sub(1) else {
                return Err(self.too_deep(tensor));
            };
            let base = self.find(&need.record, tensor.span().len, below)?;
            bases.resolved.settle(&bases.model, tensor, base);
        }
        if bases.depth(tensor) > deltas {
            return Err(self.too_deep(tensor));
        }
        Ok(())
    }

    fn too_deep(&self, tensor: &Tensor) -> Error {
        Error::unsupported(format!(
            "tensor `{}` is the end of a chain of more than {DELTAS_MAX} deltas",
            escaped(&tensor.span().name)
        ))
        .file(self.bases.file_of(tensor))
        .hint("restore a model of the chain, and name the restored one as the base")
    }

    /// As [`Search::find`] goes, by what is known of digests alone.
    fn availability(&self, record: &BaseRecord, len: u64) -> Availability {
        let alike = self.alike(record, len);
        let mut known: BTreeMap<[u8; 32], Availability> = BTreeMap::new();
        // for whatever digest, as something is not compared yet
        let mut any = Availability::Missing;
        for tensor in alike.iter().filter(|tensor| !tensor.is_delta()) {
            if let Some(blake3) = self.bases.known_blake3(tensor) {
                known.insert(blake3, Availability::Present);
            } else {
                any = Availability::Unchecked;
            }
        }
        let of =
            |known: &BTreeMap<[u8; 32], Availability>, any: Availability, blake3: &[u8; 32]| {
                let known = known.get(blake3).copied();
                any.max(known.unwrap_or(Availability::Missing))
            };
        for _ in 1..DELTAS_MAX {
            let before = known.clone();
            for tensor in &alike {
                let Some(need) = resolved_deltas::need_of(&self.bases.model, tensor) else {
                    continue;
                };
                let below = &need.record;
                // what is called otherwise is not looked into
                let of_base = if below.name == record.name {
                    of(&before, any, &below.blake3)
                } else {
                    Availability::Unchecked
                };
                match self.bases.known_blake3(tensor) {
                    Some(blake3) => {
                        let found = known.entry(blake3).or_insert(Availability::Missing);
                        *found = of_base.max(*found);
                    }
                    // it may be the base of any, but not what it is itself made from
                    None if below.blake3 != record.blake3 => {
                        any = any.max(of_base.min(Availability::Unchecked));
                    }
                    None => {}
                }
            }
        }
        of(&known, any, &record.blake3)
    }
}
