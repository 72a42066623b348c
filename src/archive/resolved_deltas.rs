//! Deltas among models whose bases were found, so that they can be read.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::OnceLock;

use parking_lot::Mutex;

use crate::archive::cache::BlockCache;
use crate::archive::image::Need;
use crate::archive::model::Model;
use crate::archive::model::Tensor;
use crate::archive::resolve::Availability;
use crate::archive::resolve::BaseResolver;
use crate::archive::resolve::BoundImage;
use crate::archive::virtual_file::VirtualFile;
use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::error::escaped;
use crate::base::read_at::Slice;

/// What was found of all deltas of a model.
#[derive(Debug, Default)]
pub(super) struct ResolvedDeltas {
    /// How many deltas are read for a tensor that is stored as differences, by its number.
    depths: Mutex<BTreeMap<usize, usize>>,
    /// The files that are deltas, as they are read, by their number.
    deltas: Mutex<BTreeMap<usize, Delta>>,
}

/// A delta of which bases were found.
#[derive(Debug, Clone)]
struct Delta {
    found: Arc<FoundBases>,
    originals: Arc<[VirtualFile]>,
}

/// The bases of an image that were found so far, by their number.
#[derive(Debug)]
struct FoundBases(Box<[OnceLock<Arc<dyn ReadAt>>]>);

impl BaseResolver for FoundBases {
    fn resolve(&self, need: &Need) -> Result<Arc<dyn ReadAt>> {
        let found = self.0[need.number].get().map(Arc::clone);
        let name = escaped(&need.record.name);
        found.ok_or_else(|| {
            let what = format!("its base tensor `{name}` was not found");
            Error::new(ErrorKind::MissingBase, what)
        })
    }

    fn availability(&self, need: &Need) -> Availability {
        match self.0[need.number].get() {
            Some(_) => Availability::Present,
            None => Availability::Missing,
        }
    }

    fn search_paths(&self) -> &[PathBuf] {
        &[]
    }
}

impl Delta {
    fn new(image: &BoundImage, cache: &Arc<BlockCache>) -> Self {
        let found = (0..image.base_count()).map(|_| OnceLock::new());
        let found = Arc::new(FoundBases(found.collect()));
        let image = Arc::new(image.rebound(Arc::clone(&found) as Arc<dyn BaseResolver>));
        Self {
            found,
            originals: VirtualFile::all(&image, cache).into(),
        }
    }
}

/// What a tensor that is stored as differences has as its base.
pub(super) fn need_of<'m>(model: &'m Model, tensor: &Tensor) -> Option<&'m Need> {
    let image = model.file(tensor.file()).delta()?;
    tensor.base().map(|number| image.need(number))
}

impl ResolvedDeltas {
    /// How many deltas are read for a tensor; none if its base was not found yet.
    pub(super) fn depth(&self, tensor: &Tensor) -> Option<usize> {
        if !tensor.is_delta() {
            return Some(0);
        }
        self.depths.lock().get(&tensor.number()).copied()
    }

    /// The bytes of a tensor, which can be read if its base was found.
    pub(super) fn bytes(&self, model: &Model, tensor: &Tensor) -> Arc<dyn ReadAt> {
        if !tensor.is_delta() {
            return model.of(tensor).bytes();
        }
        let delta = self.delta(model, tensor);
        let file = Arc::new(delta.originals[tensor.original()].clone());
        let span = tensor.span();
        Arc::new(Slice::new(file, span.start, span.len))
    }

    /// The delta that a tensor is in.
    fn delta(&self, model: &Model, tensor: &Tensor) -> Delta {
        let mut deltas = self.deltas.lock();
        let delta = deltas.entry(tensor.file()).or_insert_with(|| {
            let image = model.file(tensor.file()).delta();
            let image = image.unwrap_or_else(|| unreachable!("differences are in a delta"));
            Delta::new(image, model.cache())
        });
        delta.clone()
    }

    /// Notes the base of a tensor, which then can be read.
    pub(super) fn settle(&self, model: &Model, tensor: &Tensor, base: &Tensor) {
        let Some(number) = tensor.base() else {
            return;
        };
        let found = &self.delta(model, tensor).found;
        found.0[number].get_or_init(|| self.bytes(model, base));
        let depth = self.depth(base).unwrap_or_default() + 1;
        self.depths.lock().entry(tensor.number()).or_insert(depth);
    }
}
