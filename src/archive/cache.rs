//! Decoded blocks and tables, least recently used first out, bounded in bytes; one decode however many wait for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Condvar;
use parking_lot::Mutex;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Result;
use crate::base::file::Identity;
use crate::codec::SpanTables;

/// How long a reader waits for another reader's decode. No wait is without a limit: after it the reader gets an error.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// Buffers kept for blocks to come.
const SPARE_MAX: usize = 8;
/// The share of the bound that tables may take: they are small and dear to build.
const TABLES_SHARE: u64 = 4;

/// What the cache holds.
#[derive(Debug, Clone)]
pub enum Cached {
    /// The checked original bytes of a block.
    Block(Arc<Vec<u8>>),
    /// The tables of a span; `None` if it has none.
    Tables(Option<Arc<SpanTables>>),
}

/// Which image: two that were opened from one unchanged file are the same, so that a model and the deltas that have it as their
/// base share what is decoded of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ImageId {
    /// A file of the disk.
    File(Identity),
    /// Whatever else; a number that no other open image of this process has.
    Other(u64),
}

/// Image, and block or span of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    archive: ImageId,
    number: usize,
}

#[derive(Debug)]
struct Entry {
    value: Cached,
    bytes: u64,
}

#[derive(Debug, Default)]
struct Flight {
    result: Mutex<Option<Result<Cached>>>,
    landed: Condvar,
}

#[derive(Debug)]
struct Shelf {
    entries: LruCache<Key, Entry>,
    flights: BTreeMap<Key, Arc<Flight>>,
    bytes: u64,
    bytes_max: u64,
}

impl Shelf {
    fn new(bytes_max: u64) -> Mutex<Self> {
        let (entries, flights) = (LruCache::unbounded(), BTreeMap::new());
        Mutex::new(Self {
            entries,
            flights,
            bytes: 0,
            bytes_max,
        })
    }

    /// Keeps an entry; gives what had to go for it.
    fn keep(&mut self, key: Key, entry: Entry) -> Vec<Cached> {
        self.bytes += entry.bytes;
        let mut gone = Vec::new();
        if let Some(old) = self.entries.put(key, entry) {
            self.bytes -= old.bytes;
            gone.push(old.value);
        }
        while self.bytes > self.bytes_max {
            let Some((_, entry)) = self.entries.pop_lru() else {
                break;
            };
            self.bytes -= entry.bytes;
            gone.push(entry.value);
        }
        gone
    }
}

/// A cache shared by all files of a process.
#[derive(Debug)]
pub struct BlockCache {
    blocks: Mutex<Shelf>,
    tables: Mutex<Shelf>,
    /// Buffers of blocks that went, for those that come: new ones would have to be zeroed, and paged in.
    spare: Mutex<Vec<Vec<u8>>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl BlockCache {
    /// The bound used when nobody names one: the kernel's page cache is the real cache, this one only serves
    /// neighbouring requests of one block.
    pub const BYTES_DEFAULT: u64 = 32 << 20;

    /// A cache of at most `bytes_max` bytes.
    pub fn new(bytes_max: u64) -> Arc<Self> {
        let tables = bytes_max / TABLES_SHARE;
        Self::with_bounds(bytes_max - tables, tables)
    }

    /// A cache of at most that many bytes of blocks, and of tables.
    pub fn with_bounds(block_bytes_max: u64, table_bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            blocks: Shelf::new(block_bytes_max),
            tables: Shelf::new(table_bytes_max),
            spare: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        })
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        self.blocks.lock().bytes + self.tables.lock().bytes
    }

    /// Requests answered without and with a decode.
    pub fn hits_and_misses(&self) -> (u64, u64) {
        (
            self.hits.load(Ordering::Relaxed),
            self.misses.load(Ordering::Relaxed),
        )
    }

    /// A buffer of this length with rubbish in it.
    pub(crate) fn buffer(&self, len: usize) -> Vec<u8> {
        let mut buffer = self.spare.lock().pop().unwrap_or_default();
        buffer.resize(len, 0);
        buffer
    }

    fn recycle(&self, gone: Vec<Cached>) {
        let mut spare = self.spare.lock();
        for cached in gone {
            if let Cached::Block(block) = cached
                && spare.len() < SPARE_MAX
                && let Ok(buffer) = Arc::try_unwrap(block)
            {
                spare.push(buffer);
            }
        }
    }

    /// Block `number` (of all of the image), decoded by `decode` if it is not at hand.
    pub(crate) fn block(
        &self,
        archive: ImageId,
        number: usize,
        decode: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<Vec<u8>>> {
        let load = || decode().map(|block| (block.len() as u64, Cached::Block(Arc::new(block))));
        match self.get(&self.blocks, Key { archive, number }, load)? {
            Cached::Block(block) => Ok(block),
            Cached::Tables(_) => unreachable!("the shelf of blocks holds blocks"),
        }
    }

    /// The tables of span `number`, parsed by `read` if they are not at hand.
    pub(crate) fn tables(
        &self,
        archive: ImageId,
        number: usize,
        read: impl FnOnce() -> Result<Option<SpanTables>>,
    ) -> Result<Option<Arc<SpanTables>>> {
        let load = || {
            read().map(|tables| {
                let bytes = tables.as_ref().map_or(0, SpanTables::memory_bytes);
                (bytes, Cached::Tables(tables.map(Arc::new)))
            })
        };
        match self.get(&self.tables, Key { archive, number }, load)? {
            Cached::Tables(tables) => Ok(tables),
            Cached::Block(_) => unreachable!("the shelf of tables holds tables"),
        }
    }

    /// Forgets what is held of an image.
    pub fn forget(&self, archive: ImageId) {
        for shelf in [&self.blocks, &self.tables] {
            let mut shelf = shelf.lock();
            let keys: Vec<Key> = shelf
                .entries
                .iter()
                .map(|(key, _)| *key)
                .filter(|key| key.archive == archive)
                .collect();
            for key in keys {
                if let Some(entry) = shelf.entries.pop(&key) {
                    shelf.bytes -= entry.bytes;
                }
            }
        }
    }

    fn get(
        &self,
        shelf: &Mutex<Shelf>,
        key: Key,
        load: impl FnOnce() -> Result<(u64, Cached)>,
    ) -> Result<Cached> {
        let flight = {
            let mut locked = shelf.lock();
            if let Some(entry) = locked.entries.get(&key) {
                self.hits.fetch_add(1, Ordering::Relaxed);
                return Ok(entry.value.clone());
            }
            if let Some(flight) = locked.flights.get(&key) {
                let flight = Arc::clone(flight);
                drop(locked);
                self.hits.fetch_add(1, Ordering::Relaxed);
                return wait(&flight);
            }
            let flight = Arc::new(Flight::default());
            locked.flights.insert(key, Arc::clone(&flight));
            flight
        };
        self.misses.fetch_add(1, Ordering::Relaxed);
        // lands the flight even if `load` panics, so that nobody waits for it in vain
        let mut landing = Landing {
            cache: self,
            shelf,
            key,
            flight: &flight,
            outcome: None,
        };
        let loaded = load();
        let result = loaded
            .as_ref()
            .map(|(_, value)| value.clone())
            .map_err(Clone::clone);
        landing.outcome = Some(loaded);
        drop(landing);
        result
    }
}

fn wait(flight: &Flight) -> Result<Cached> {
    let mut result = flight.result.lock();
    while result.is_none() {
        if flight.landed.wait_for(&mut result, WAIT_MAX).timed_out() && result.is_none() {
            return Err(Error::new(
                ErrorKind::Io,
                "waited too long for another reader's decode",
            ));
        }
    }
    result
        .clone()
        .unwrap_or_else(|| Err(Error::new(ErrorKind::Io, "nothing was decoded")))
}

struct Landing<'a> {
    cache: &'a BlockCache,
    shelf: &'a Mutex<Shelf>,
    key: Key,
    flight: &'a Flight,
    outcome: Option<Result<(u64, Cached)>>,
}

impl Drop for Landing<'_> {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| {
            Err(Error::new(
                ErrorKind::Io,
                "the decoder failed (a fault of the program)",
            ))
        });
        let mut shelf = self.shelf.lock();
        shelf.flights.remove(&self.key);
        let gone = outcome.as_ref().map_or_else(
            |_| Vec::new(),
            |(bytes, value)| {
                let (bytes, value) = (*bytes, value.clone());
                shelf.keep(self.key, Entry { value, bytes })
            },
        );
        drop(shelf);
        self.cache.recycle(gone);
        *self.flight.result.lock() = Some(outcome.map(|(_, value)| value));
        self.flight.landed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ZERO: ImageId = ImageId::Other(0);

    use std::sync::atomic::AtomicUsize;

    #[test]
    fn stays_within_its_bound_and_keeps_what_is_used() {
        let cache = BlockCache::new(4000);
        for number in 0..10 {
            cache.block(ZERO, number, || Ok(vec![0; 1000])).unwrap();
            cache
                .block(ZERO, 0, || panic!("block 0 is in use and stays"))
                .unwrap();
            assert!(cache.bytes() <= 3000);
        }
        cache.forget(ZERO);
        assert_eq!(cache.bytes(), 0);
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
                    assert_eq!(*cache.block(ZERO, 2, decode).unwrap(), vec![7; 10]);
                });
            }
        });
        assert_eq!(decodes.load(Ordering::Relaxed), 1);
        assert!(cache.block(ZERO, 3, || Err(Error::damaged("x"))).is_err());
        assert!(cache.block(ZERO, 3, || Ok(vec![1])).is_ok());
    }

    #[test]
    fn a_decoder_that_panics_leaves_nobody_waiting() {
        let cache = BlockCache::new(1 << 20);
        let panicking = std::panic::AssertUnwindSafe(|| cache.block(ZERO, 2, || panic!("fault")));
        assert!(std::panic::catch_unwind(panicking).is_err());
        assert!(cache.block(ZERO, 2, || Ok(vec![1])).is_ok());
    }
}
