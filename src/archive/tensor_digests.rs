//! The digests of a model's tensors: taken once, by whoever asks first, and kept for later
//! searches.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::archive::digests::DigestIndex;
use crate::archive::digests::TensorKey;
use crate::archive::model::File;
use crate::archive::model::Model;
use crate::archive::model::Tensor;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::digest;

/// One digest; the lock is held by who takes it.
type Slot = Arc<Mutex<Option<[u8; 32]>>>;

/// What is known of one file.
#[derive(Debug)]
struct Page {
    digests: BTreeMap<TensorKey, [u8; 32]>,
    is_new: bool,
}

/// All digests that are known.
#[derive(Debug)]
pub(super) struct TensorDigests {
    index: Option<DigestIndex>,
    /// Whether digests that were taken before count; new ones are kept all the same.
    trusts_index: bool,
    /// By the number of the tensor; only of those that were asked for.
    taken: Mutex<BTreeMap<usize, Slot>>,
    /// By the number of the file; only of those that were asked for.
    pages: Mutex<BTreeMap<usize, Page>>,
}

fn key(tensor: &Tensor) -> TensorKey {
    (tensor.original(), tensor.span().start)
}

impl TensorDigests {
    /// None yet; they are looked up and kept in `index`.
    pub(super) fn new(index: Option<DigestIndex>) -> Self {
        Self {
            index,
            trusts_index: true,
            taken: Mutex::default(),
            pages: Mutex::default(),
        }
    }

    /// From now on what was known before does not count.
    pub(super) fn trust_no_index(&mut self) {
        self.trusts_index = false;
    }

    /// The digest of a tensor, if it need not be read for it.
    pub(super) fn known(&self, model: &Model, tensor: &Tensor) -> Option<[u8; 32]> {
        let slot = self.taken.lock().get(&tensor.number()).map(Arc::clone);
        // held only while another takes the digest
        let taken = slot.and_then(|slot| slot.try_lock().and_then(|taken| *taken));
        taken.or_else(|| self.indexed(model, tensor))
    }

    fn indexed(&self, model: &Model, tensor: &Tensor) -> Option<[u8; 32]> {
        let index = self.index.as_ref().filter(|_| self.trusts_index)?;
        let mut pages = self.pages.lock();
        let page = pages.entry(tensor.file()).or_insert_with(|| Page {
            digests: index.read(&model.file(tensor.file()).identity),
            is_new: false,
        });
        page.digests.get(&key(tensor)).copied()
    }

    /// The digest of a tensor with those bytes.
    pub(super) fn take(
        &self,
        model: &Model,
        tensor: &Tensor,
        bytes: &dyn ReadAt,
    ) -> Result<[u8; 32]> {
        let before = self.known(model, tensor);
        let slot = Arc::clone(self.taken.lock().entry(tensor.number()).or_default());
        let mut taken = slot.lock();
        if let Some(blake3) = taken.or(before) {
            *taken = Some(blake3);
            return Ok(blake3);
        }
        let blake3 = digest::blake3_of(bytes)?;
        *taken = Some(blake3);
        let mut pages = self.pages.lock();
        let page = pages.entry(tensor.file()).or_insert_with(|| Page {
            digests: BTreeMap::new(),
            is_new: false,
        });
        page.digests.insert(key(tensor), blake3);
        page.is_new = true;
        Ok(blake3)
    }

    /// Keeps for later what was learned.
    pub(super) fn keep(&self, model: &Model) {
        let Some(index) = &self.index else {
            return;
        };
        for (number, page) in self.pages.lock().iter_mut().filter(|(_, page)| page.is_new) {
            let File { path, identity, .. } = model.file(*number);
            index.write(path, identity, &page.digests);
            page.is_new = false;
        }
    }
}
