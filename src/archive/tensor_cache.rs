//! Whole decoded tensors, of files that cannot be decoded in smaller pieces.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::archive::cache::ImageId;
use crate::archive::loading_cache::CacheCounts;
use crate::archive::loading_cache::LoadingCache;
use crate::archive::loading_cache::WAIT_MAX;
use crate::archive::loading_cache::waited_too_long;
use crate::base::Result;
use crate::base::mutex::Mutex;

/// Tensors that are held, whatever their size.
const TENSORS_MAX: usize = 4;
/// What decoding one takes, as a multiple of its bytes: it, its coded bytes, and its symbols.
const DECODING_TENSORS: u64 = 4;

/// The last few tensors that were used, of all files of a process.
#[derive(Debug)]
pub struct TensorCache {
    tensors: LoadingCache<(ImageId, usize), Arc<Vec<u8>>>,
    /// Held by who decodes one of them: one at a time, as each takes as much memory as it needs.
    decoding: Mutex<()>,
    /// Bytes of the largest of them so far.
    largest: AtomicU64,
    decoded_bytes: AtomicU64,
}

impl TensorCache {
    /// One without any tensor.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            tensors: LoadingCache::new(0, TENSORS_MAX, Box::new(drop)),
            decoding: Mutex::default(),
            largest: AtomicU64::new(0),
            decoded_bytes: AtomicU64::new(0),
        })
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.tensors.bytes()
    }

    /// What is held at most, and what decoding one takes, by the largest tensor so far.
    pub fn bytes_max(&self) -> u64 {
        (TENSORS_MAX as u64 + DECODING_TENSORS) * self.largest.load(Ordering::Relaxed)
    }

    /// What was asked of it.
    pub fn counts(&self) -> CacheCounts {
        CacheCounts {
            decoded_bytes: self.decoded_bytes.load(Ordering::Relaxed),
            ..self.tensors.counts()
        }
    }

    /// Tensor `number`, decoded by `decode` if it is not at hand.
    pub(super) fn tensor(
        &self,
        file: ImageId,
        number: usize,
        decode: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<Vec<u8>>> {
        self.tensors.get((file, number), 0, || {
            let alone = self.decoding.try_lock_for(WAIT_MAX);
            let _alone = alone.ok_or_else(waited_too_long)?;
            let bytes = decode()?;
            let len = bytes.len() as u64;
            self.decoded_bytes.fetch_add(len, Ordering::Relaxed);
            self.largest.fetch_max(len, Ordering::Relaxed);
            Ok((len, Arc::new(bytes)))
        })
    }

    /// Forgets what is held of a file.
    pub fn forget(&self, file: ImageId) {
        self.tensors.forget(|(of, _)| *of == file);
    }
}
