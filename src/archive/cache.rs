//! Decoded blocks, and the tables and pages of the index that decoding them takes.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use crate::archive::loading_cache::CacheCounts;
use crate::archive::loading_cache::LoadingCache;
use crate::archive::loading_cache::Prefetched;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::SourceIdentity;
use crate::base::mutex::Mutex;
use crate::codec::SpanTables;

/// Buffers kept for blocks to come.
const SPARE_MAX: usize = 8;
/// Longer buffers are not kept.
const SPARE_LEN_MAX: usize = 4 << 20;
/// The share of the bound that tables may take: they are small and dear to build.
const TABLES_SHARE: u64 = 4;

/// Which image: two that were opened from one unchanged file are the same, so that a model and the
/// deltas that have it as their base share what is decoded of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageId {
    /// What is known to be the same whenever it is opened: a file of the disk, a remote one.
    Source(SourceIdentity),
    /// Whatever else; a number that no other open image of this process has.
    Other(u64),
}

impl ImageId {
    /// Of an image that is opened now.
    pub(super) fn of(source: &dyn ReadAt) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let identity = source.identity().known();
        identity.map_or(Self::Other(number), Self::Source)
    }
}

/// What of an image, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Number {
    Tables(usize),
    Page(usize),
}

/// What is needed to decode blocks.
#[derive(Debug, Clone)]
enum Needed {
    /// The tables of a span; `None` if it has none.
    Tables(Option<Arc<SpanTables>>),
    /// A page of the index.
    Page(Arc<Vec<u8>>),
}

/// Buffers of blocks that went, for those that come: new ones would have to be zeroed, and paged
/// in.
#[derive(Debug, Default)]
struct SpareBuffers(Mutex<Vec<Vec<u8>>>);

impl SpareBuffers {
    fn take(&self, len: usize) -> Vec<u8> {
        let mut spare = self.0.lock();
        let fits = |buffer: &Vec<u8>| (len..=len + len / 4).contains(&buffer.capacity());
        let found = spare.iter().position(fits);
        let found = found.map(|at| spare.swap_remove(at));
        drop(spare);
        let mut buffer = found.unwrap_or_else(|| Vec::with_capacity(len));
        buffer.resize(len, 0);
        buffer
    }

    fn put(&self, block: Arc<Vec<u8>>) {
        let Ok(buffer) = Arc::try_unwrap(block) else {
            return;
        };
        if buffer.capacity() > SPARE_LEN_MAX {
            return;
        }
        let mut spare = self.0.lock();
        // small ones cost little to make anew
        if spare.len() >= SPARE_MAX {
            let smallest = (0..spare.len()).min_by_key(|&at| spare[at].capacity());
            smallest.map(|at| spare.swap_remove(at));
        }
        spare.push(buffer);
    }
}

/// A cache shared by all files of a process.
#[derive(Debug)]
pub struct BlockCache {
    blocks: LoadingCache<(ImageId, usize), Arc<Vec<u8>>>,
    needed: LoadingCache<(ImageId, Number), Needed>,
    spare: Arc<SpareBuffers>,
    decoded_bytes: AtomicU64,
}

impl BlockCache {
    /// The bound used when nobody names one: the kernel's page cache is the real cache, this one
    /// only serves neighbouring requests of one block.
    pub const BYTES_DEFAULT: u64 = 32 << 20;

    /// A cache of at most `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Arc<Self> {
        let tables = bytes_max / TABLES_SHARE;
        Self::with_bounds(bytes_max - tables, tables)
    }

    /// A cache of at most that many bytes of blocks, and of tables.
    pub fn with_bounds(block_bytes_max: u64, table_bytes_max: u64) -> Arc<Self> {
        let spare = Arc::new(SpareBuffers::default());
        let recycler = Arc::clone(&spare);
        let recycle = Box::new(move |block| recycler.put(block));
        Arc::new(Self {
            blocks: LoadingCache::new(block_bytes_max, 0, recycle),
            needed: LoadingCache::new(table_bytes_max, 0, Box::new(drop)),
            spare,
            decoded_bytes: AtomicU64::new(0),
        })
    }

    /// Takes so many bytes of the bound for what is held elsewhere, until what this gives is
    /// dropped.
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Charge {
        self.blocks.charge(bytes);
        Charge {
            cache: Arc::clone(self),
            bytes,
        }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.blocks.bytes() + self.needed.bytes()
    }

    /// The bound.
    pub fn bytes_max(&self) -> u64 {
        self.blocks.bytes_max() + self.needed.bytes_max()
    }

    /// What was asked of it.
    pub fn counts(&self) -> CacheCounts {
        let decoded = CacheCounts {
            decoded_bytes: self.decoded_bytes.load(Ordering::Relaxed),
            ..CacheCounts::default()
        };
        self.blocks.counts() + self.needed.counts() + decoded
    }

    /// A buffer of this length with rubbish in it. What it holds beyond that nobody would count, so
    /// it is never much.
    pub(crate) fn buffer(&self, len: usize) -> Vec<u8> {
        self.spare.take(len)
    }

    fn decoded(&self, block: Vec<u8>) -> (u64, Arc<Vec<u8>>) {
        let len = block.len() as u64;
        self.decoded_bytes.fetch_add(len, Ordering::Relaxed);
        (len, Arc::new(block))
    }

    /// Block `number` (of all of the image) of `len` bytes, decoded by `decode` if it is not at
    /// hand.
    pub(crate) fn block(
        &self,
        image: ImageId,
        number: usize,
        len: u64,
        decode: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<Vec<u8>>> {
        let load = || decode().map(|block| self.decoded(block));
        self.blocks.get((image, number), len, load)
    }

    /// Decodes a block before somebody waits for it.
    pub(crate) fn prefetch_block(
        &self,
        image: ImageId,
        number: usize,
        len: u64,
        decode: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Prefetched {
        let load = || decode().map(|block| self.decoded(block));
        self.blocks.prefetch((image, number), len, load)
    }

    /// The tables of span `number`, parsed by `read` if they are not at hand. What has none need
    /// not ask.
    pub(crate) fn tables(
        &self,
        image: ImageId,
        number: usize,
        read: impl FnOnce() -> Result<Option<SpanTables>>,
    ) -> Result<Option<Arc<SpanTables>>> {
        let load = || {
            read().map(|tables| {
                let bytes = tables.as_ref().map_or(0, SpanTables::memory_bytes);
                (bytes, Needed::Tables(tables.map(Arc::new)))
            })
        };
        match self.needed.get((image, Number::Tables(number)), 0, load)? {
            Needed::Tables(tables) => Ok(tables),
            Needed::Page(_) => unreachable!("tables are tables"),
        }
    }

    /// Page `number` of the records of blocks, read by `read` if it is not at hand.
    pub(crate) fn page(
        &self,
        image: ImageId,
        number: usize,
        read: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<Vec<u8>>> {
        let load = || read().map(|page| (page.len() as u64, Needed::Page(Arc::new(page))));
        match self.needed.get((image, Number::Page(number)), 0, load)? {
            Needed::Page(page) => Ok(page),
            Needed::Tables(_) => unreachable!("a page is a page"),
        }
    }

    /// Forgets what is held of an image.
    pub fn forget(&self, image: ImageId) {
        self.blocks.forget(|(of, _)| *of == image);
        self.needed.forget(|(of, _)| *of == image);
    }
}

/// Bytes of a cache's bound that others take.
#[derive(Debug)]
pub struct Charge {
    cache: Arc<BlockCache>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.cache.blocks.discharge(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::loading_cache::ENTRY_BYTES;
    use crate::base::Error;
    use std::time::Duration;

    const ZERO: ImageId = ImageId::Other(0);

    use std::sync::atomic::AtomicUsize;

    #[test]
    fn stays_within_its_bound_and_keeps_what_is_used() {
        // room for three
        let cache = BlockCache::with_bounds(3 * (1000 + ENTRY_BYTES), 0);
        for number in 0..10 {
            cache
                .block(ZERO, number, 1000, || Ok(vec![0; 1000]))
                .unwrap();
            cache
                .block(ZERO, 0, 1000, || panic!("block 0 is in use and stays"))
                .unwrap();
            assert!(cache.bytes() <= 3 * (1000 + ENTRY_BYTES));
        }
        cache.forget(ZERO);
        assert_eq!(cache.bytes(), 0);
    }

    #[test]
    fn a_small_block_gets_no_large_buffer() {
        let cache = BlockCache::with_bounds(2 * (100_000 + ENTRY_BYTES), 0);
        let large = || Ok(cache.buffer(100_000));
        for number in 0..3 {
            let block = cache.block(ZERO, number, 100_000, large);
            assert!(block.is_ok());
        }
        // one goes for this, and is put aside
        let small = cache.block(ZERO, 3, 1000, || Ok(vec![0; 1000]));
        assert!(small.is_ok());
        assert!(cache.buffer(1000).capacity() < 2000);
        assert!(cache.buffer(90_000).capacity() >= 100_000);
    }

    #[test]
    fn many_readers_one_decode_and_errors_are_not_kept() {
        let cache = BlockCache::new(1 << 20);
        let decodes = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| {
                    let decode = || {
                        decodes.fetch_add(1, Ordering::Relaxed);
                        std::thread::sleep(Duration::from_millis(50));
                        Ok(vec![7; 10])
                    };
                    assert_eq!(*cache.block(ZERO, 2, 10, decode).unwrap(), vec![7; 10]);
                });
            }
        });
        assert_eq!(decodes.load(Ordering::Relaxed), 1);
        let damaged = || Err(Error::damaged("x"));
        assert!(cache.block(ZERO, 3, 1, damaged).is_err());
        assert!(cache.block(ZERO, 3, 1, || Ok(vec![1])).is_ok());
    }

    #[test]
    fn a_decoder_that_panics_leaves_nobody_waiting() {
        let cache = BlockCache::new(1 << 20);
        let panicking =
            std::panic::AssertUnwindSafe(|| cache.block(ZERO, 2, 1, || panic!("fault")));
        assert!(std::panic::catch_unwind(panicking).is_err());
        assert!(cache.block(ZERO, 2, 1, || Ok(vec![1])).is_ok());
    }

    #[test]
    fn what_is_decoded_ahead_is_counted_once_as_used_or_wasted() {
        let cache = BlockCache::with_bounds(3 * (1000 + ENTRY_BYTES), 0);
        let decode = || Ok(vec![0; 1000]);
        for number in 0..2 {
            let ahead = cache.prefetch_block(ZERO, number, 1000, decode);
            assert!(matches!(ahead, Prefetched::Loaded));
        }
        // what is there is left as it is
        let again = cache.prefetch_block(ZERO, 0, 1000, decode);
        assert!(matches!(again, Prefetched::Present));
        let damaged = || Err(Error::damaged("x"));
        let failed = cache.prefetch_block(ZERO, 9, 0, damaged);
        assert!(matches!(failed, Prefetched::Failed));
        for _ in 0..2 {
            assert!(cache.block(ZERO, 1, 1000, decode).is_ok());
        }
        for number in 2..5 {
            assert!(cache.block(ZERO, number, 1000, decode).is_ok());
        }
        let counts = cache.counts();
        assert_eq!((counts.hits, counts.misses), (2, 3));
        let ahead = [
            counts.prefetched,
            counts.prefetched_used,
            counts.prefetched_wasted,
        ];
        assert_eq!(ahead, [3, 1, 1]);
        assert_eq!(counts.decoded_bytes, 5000);
    }

    #[test]
    fn what_others_hold_leaves_less_for_blocks() {
        let cache = BlockCache::with_bounds(3 * (1000 + ENTRY_BYTES), 0);
        let block = |number| cache.block(ZERO, number, 1000, || Ok(vec![0; 1000]));
        assert!((0..3).all(|number| block(number).is_ok()));
        let charge = cache.charge(1000);
        assert_eq!(cache.bytes(), 2 * (1000 + ENTRY_BYTES));
        assert!((3..6).all(|number| block(number).is_ok()));
        assert_eq!(cache.bytes(), 2 * (1000 + ENTRY_BYTES));
        drop(charge);
        assert!(block(6).is_ok());
        assert_eq!(cache.bytes(), 3 * (1000 + ENTRY_BYTES));
    }

    #[test]
    fn what_is_being_decoded_counts_as_held() {
        let cache = BlockCache::with_bounds(3 * (1000 + ENTRY_BYTES), 0);
        let block = |number| cache.block(ZERO, number, 1000, || Ok(vec![0; 1000]));
        assert!((0..3).all(|number| block(number).is_ok()));
        let seen = cache.block(ZERO, 9, 2000, || {
            assert_eq!(cache.bytes(), 1000 + ENTRY_BYTES);
            Ok(vec![0; 2000])
        });
        assert!(seen.is_ok());
        assert_eq!(cache.bytes(), 3000 + 2 * ENTRY_BYTES);
    }
}
