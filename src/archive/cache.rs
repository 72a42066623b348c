//! Decoded blocks and tables, least recently used first out, bounded in bytes; one decode however many wait for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Condvar;
use parking_lot::Mutex;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::ReadAt;
use crate::base::Result;
use crate::base::file::Identity;
use crate::codec::SpanTables;

/// How long a reader waits for another reader's decode. No wait is without a limit: after it the reader gets an error.
const WAIT_MAX: Duration = Duration::from_mins(1);
/// Buffers kept for blocks to come.
const SPARE_MAX: usize = 8;
/// Longer buffers are not kept.
const SPARE_LEN_MAX: usize = 4 << 20;
/// Whole tensors held that are too large for the bound.
const TENSORS_MAX: usize = 4;
/// What decoding one takes, as a multiple of its bytes: it, its coded bytes, and its symbols.
const DECODING_TENSORS: u64 = 4;
/// What holding an entry takes beside its bytes: many small ones take more of this than of those.
const ENTRY_BYTES: u64 = 512;
/// The share of the bound that tables may take: they are small and dear to build.
const TABLES_SHARE: u64 = 4;

/// What the cache holds.
#[derive(Debug, Clone)]
pub enum Cached {
    /// The checked original bytes of a block.
    Block(Arc<Vec<u8>>),
    /// The tables of a span; `None` if it has none.
    Tables(Option<Arc<SpanTables>>),
    /// A page of the index.
    Page(Arc<Vec<u8>>),
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

impl ImageId {
    /// Of an image that is opened now.
    pub(super) fn of(source: &dyn ReadAt) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        source.identity().map_or(Self::Other(number), Self::File)
    }
}

/// Image, and what of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Key {
    archive: ImageId,
    part: Part,
}

/// What of an image, by its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    Block(usize),
    Tensor(usize),
    Tables(usize),
    Page(usize),
}

/// Why something is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Somebody waits for it.
    Now,
    /// Somebody may, soon.
    Ahead,
}

/// What was asked of a cache, since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Requests that found what they wanted.
    pub hits: u64,
    /// Requests that had to decode.
    pub misses: u64,
    /// Requests that waited for the decode of another.
    pub waits: u64,
    /// Bytes decoded, ahead of a request or for one.
    pub decoded_bytes: u64,
    /// Blocks decoded ahead of a request.
    pub ahead: u64,
    /// Those of them that a request then found.
    pub ahead_used: u64,
    /// Those of them that went before one did.
    pub ahead_wasted: u64,
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    waits: AtomicU64,
    decoded_bytes: AtomicU64,
    ahead: AtomicU64,
    ahead_used: AtomicU64,
    ahead_wasted: AtomicU64,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

#[derive(Debug)]
struct Entry {
    value: Cached,
    bytes: u64,
    /// Decoded ahead, and not asked for yet.
    is_ahead: bool,
}

#[derive(Debug, Default)]
struct Flight {
    result: Mutex<Option<Result<Cached>>>,
    /// Nobody waits for it yet.
    is_ahead: AtomicBool,
    landed: Condvar,
}

#[derive(Debug)]
struct Shelf {
    entries: LruCache<Key, Entry>,
    flights: BTreeMap<Key, Arc<Flight>>,
    bytes: u64,
    /// Bytes that are being decoded.
    flying_bytes: u64,
    /// Bytes that others hold, who share the bound.
    charged_bytes: u64,
    bytes_max: u64,
    /// As many are held whatever their size.
    entries_min: usize,
}

impl Shelf {
    fn new(bytes_max: u64, entries_min: usize) -> Mutex<Self> {
        let (entries, flights) = (LruCache::unbounded(), BTreeMap::new());
        Mutex::new(Self {
            entries,
            flights,
            bytes: 0,
            flying_bytes: 0,
            charged_bytes: 0,
            bytes_max,
            entries_min,
        })
    }

    /// Keeps an entry; gives what had to go for it.
    fn keep(&mut self, key: Key, entry: Entry) -> Vec<Entry> {
        self.bytes += entry.bytes;
        let mut gone = Vec::new();
        if let Some(old) = self.entries.put(key, entry) {
            self.bytes -= old.bytes;
            gone.push(old);
        }
        self.shrink(&mut gone);
        gone
    }

    /// Holds no more than the bound, with what is being decoded.
    fn shrink(&mut self, gone: &mut Vec<Entry>) {
        while self.bytes + self.flying_bytes + self.charged_bytes > self.bytes_max
            && self.entries.len() > self.entries_min
        {
            let Some((_, entry)) = self.entries.pop_lru() else {
                break;
            };
            self.bytes -= entry.bytes;
            gone.push(entry);
        }
    }
}

/// A cache shared by all files of a process.
#[derive(Debug)]
pub struct BlockCache {
    blocks: Mutex<Shelf>,
    tables: Mutex<Shelf>,
    /// Whole tensors of files that can only be decoded so.
    tensors: Mutex<Shelf>,
    /// Held by who decodes one of them: one at a time, as each takes as much memory as it needs.
    whole: Mutex<()>,
    /// Bytes of the largest of them so far.
    largest: AtomicU64,
    /// Buffers of blocks that went, for those that come: new ones would have to be zeroed, and paged in.
    spare: Mutex<Vec<Vec<u8>>>,
    counters: Counters,
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
            blocks: Shelf::new(block_bytes_max, 0),
            tables: Shelf::new(table_bytes_max, 0),
            tensors: Shelf::new(0, TENSORS_MAX),
            whole: Mutex::default(),
            largest: AtomicU64::new(0),
            spare: Mutex::default(),
            counters: Counters::default(),
        })
    }

    /// Takes so many bytes of the bound for what is held elsewhere, until what this gives is
    /// dropped.
    pub fn charge(self: &Arc<Self>, bytes: u64) -> Charge {
        let mut gone = Vec::new();
        let mut blocks = self.blocks.lock();
        blocks.charged_bytes += bytes;
        blocks.shrink(&mut gone);
        drop(blocks);
        self.recycle(gone);
        Charge {
            cache: Arc::clone(self),
            bytes,
        }
    }

    /// Bytes held now.
    pub fn bytes(&self) -> u64 {
        let bytes = |shelf: &Mutex<Shelf>| shelf.lock().bytes;
        bytes(&self.blocks) + bytes(&self.tables) + bytes(&self.tensors)
    }

    /// The bound. Whole tensors, of files that can only be decoded so, come on top: those that are held, and what decoding one of them takes.
    pub fn bytes_max(&self) -> u64 {
        let tensors =
            (TENSORS_MAX as u64 + DECODING_TENSORS) * self.largest.load(Ordering::Relaxed);
        self.blocks.lock().bytes_max + self.tables.lock().bytes_max + tensors
    }

    /// What was asked of it.
    pub fn counts(&self) -> CacheCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        CacheCounts {
            hits: of(&counters.hits),
            misses: of(&counters.misses),
            waits: of(&counters.waits),
            decoded_bytes: of(&counters.decoded_bytes),
            ahead: of(&counters.ahead),
            ahead_used: of(&counters.ahead_used),
            ahead_wasted: of(&counters.ahead_wasted),
        }
    }

    /// A buffer of this length with rubbish in it. What it holds beyond that nobody would count, so it is never much.
    pub(crate) fn buffer(&self, len: usize) -> Vec<u8> {
        let mut spare = self.spare.lock();
        let fits = |buffer: &Vec<u8>| (len..=len + len / 4).contains(&buffer.capacity());
        let found = spare.iter().position(fits);
        let found = found.map(|at| spare.swap_remove(at));
        drop(spare);
        let mut buffer = found.unwrap_or_else(|| Vec::with_capacity(len));
        buffer.resize(len, 0);
        buffer
    }

    fn recycle(&self, gone: Vec<Entry>) {
        if gone.is_empty() {
            return;
        }
        let mut spare = self.spare.lock();
        for entry in gone {
            add(&self.counters.ahead_wasted, u64::from(entry.is_ahead));
            if let Cached::Block(block) = entry.value
                && let Ok(buffer) = Arc::try_unwrap(block)
                && buffer.capacity() <= SPARE_LEN_MAX
            {
                // small ones cost little to make anew
                if spare.len() >= SPARE_MAX {
                    let smallest = (0..spare.len()).min_by_key(|&at| spare[at].capacity());
                    smallest.map(|at| spare.swap_remove(at));
                }
                spare.push(buffer);
            }
        }
    }

    /// Block `number` (of all of the image) of `len` bytes, decoded by `decode` if it is not at hand.
    pub(crate) fn block(
        &self,
        archive: ImageId,
        number: usize,
        len: u64,
        demand: Demand,
        decode: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<Vec<u8>>> {
        let load = || {
            let block = decode()?;
            add(&self.counters.decoded_bytes, block.len() as u64);
            Ok((block.len() as u64, Cached::Block(Arc::new(block))))
        };
        let part = Part::Block(number);
        match self.get(&self.blocks, Key { archive, part }, len, demand, load)? {
            Cached::Block(block) => Ok(block),
            Cached::Tables(_) | Cached::Page(_) => unreachable!("a block is a block"),
        }
    }

    /// Tensor `number`, decoded by `decode` if it is not at hand. The last few are held, whatever their size.
    pub(crate) fn tensor(
        &self,
        archive: ImageId,
        number: usize,
        decode: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<Vec<u8>>> {
        let load = || {
            let alone = self.whole.try_lock_for(WAIT_MAX);
            let _alone = alone.ok_or_else(waited_too_long)?;
            let bytes = decode()?;
            let len = bytes.len() as u64;
            add(&self.counters.decoded_bytes, len);
            self.largest.fetch_max(len, Ordering::Relaxed);
            Ok((len, Cached::Block(Arc::new(bytes))))
        };
        let part = Part::Tensor(number);
        match self.get(&self.tensors, Key { archive, part }, 0, Demand::Now, load)? {
            Cached::Block(bytes) => Ok(bytes),
            Cached::Tables(_) | Cached::Page(_) => unreachable!("a tensor is a block"),
        }
    }

    /// The tables of span `number`, parsed by `read` if they are not at hand. What has none need
    /// not ask.
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
        let part = Part::Tables(number);
        match self.get(&self.tables, Key { archive, part }, 0, Demand::Now, load)? {
            Cached::Tables(tables) => Ok(tables),
            Cached::Block(_) | Cached::Page(_) => unreachable!("tables are tables"),
        }
    }

    /// Page `number` of the records of blocks, read by `read` if it is not at hand.
    pub(crate) fn page(
        &self,
        archive: ImageId,
        number: usize,
        read: impl FnOnce() -> Result<Vec<u8>>,
    ) -> Result<Arc<Vec<u8>>> {
        let load = || read().map(|page| (page.len() as u64, Cached::Page(Arc::new(page))));
        let part = Part::Page(number);
        match self.get(&self.tables, Key { archive, part }, 0, Demand::Now, load)? {
            Cached::Page(page) => Ok(page),
            Cached::Block(_) | Cached::Tables(_) => unreachable!("a page is a page"),
        }
    }

    /// Forgets what is held of an image.
    pub fn forget(&self, archive: ImageId) {
        for shelf in [&self.blocks, &self.tables, &self.tensors] {
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
        len: u64,
        demand: Demand,
        load: impl FnOnce() -> Result<(u64, Cached)>,
    ) -> Result<Cached> {
        let is_ahead = demand == Demand::Ahead;
        let flight = {
            let mut locked = shelf.lock();
            if is_ahead && (locked.entries.contains(&key) || locked.flights.contains_key(&key)) {
                return Err(Error::new(ErrorKind::Interrupted, "is at hand already"));
            }
            if let Some(entry) = locked.entries.get_mut(&key) {
                add(&self.counters.hits, 1);
                let was_ahead = std::mem::replace(&mut entry.is_ahead, false);
                add(&self.counters.ahead_used, u64::from(was_ahead));
                return Ok(entry.value.clone());
            }
            if let Some(flight) = locked.flights.get(&key) {
                let flight = Arc::clone(flight);
                drop(locked);
                add(&self.counters.waits, 1);
                let was_ahead = flight.is_ahead.swap(false, Ordering::Relaxed);
                add(&self.counters.ahead_used, u64::from(was_ahead));
                return wait(&flight);
            }
            let flight = Arc::new(Flight {
                is_ahead: AtomicBool::new(is_ahead),
                ..Flight::default()
            });
            locked.flights.insert(key, Arc::clone(&flight));
            locked.flying_bytes += len;
            let mut gone = Vec::new();
            locked.shrink(&mut gone);
            drop(locked);
            self.recycle(gone);
            flight
        };
        let counter = if is_ahead {
            &self.counters.ahead
        } else {
            &self.counters.misses
        };
        add(counter, 1);
        // lands the flight even if `load` panics, so that nobody waits for it in vain
        let mut landing = Landing {
            cache: self,
            shelf,
            key,
            len,
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

/// Bytes of a cache's bound that others take.
#[derive(Debug)]
pub struct Charge {
    cache: Arc<BlockCache>,
    bytes: u64,
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.cache.blocks.lock().charged_bytes -= self.bytes;
    }
}

fn waited_too_long() -> Error {
    Error::new(ErrorKind::Io, "waited too long for another reader's decode")
}

fn wait(flight: &Flight) -> Result<Cached> {
    let mut result = flight.result.lock();
    while result.is_none() {
        if flight.landed.wait_for(&mut result, WAIT_MAX).timed_out() && result.is_none() {
            return Err(waited_too_long());
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
    len: u64,
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
        shelf.flying_bytes -= self.len;
        let is_ahead = self.flight.is_ahead.load(Ordering::Relaxed);
        let gone = outcome.as_ref().map_or_else(
            |_| Vec::new(),
            |(bytes, value)| {
                let (bytes, value) = (*bytes + ENTRY_BYTES, value.clone());
                let entry = Entry {
                    value,
                    bytes,
                    is_ahead,
                };
                shelf.keep(self.key, entry)
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
        // room for three
        let cache = BlockCache::with_bounds(3 * (1000 + ENTRY_BYTES), 0);
        for number in 0..10 {
            cache
                .block(ZERO, number, 1000, Demand::Now, || Ok(vec![0; 1000]))
                .unwrap();
            cache
                .block(ZERO, 0, 1000, Demand::Now, || {
                    panic!("block 0 is in use and stays")
                })
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
            let block = cache.block(ZERO, number, 100_000, Demand::Now, large);
            assert!(block.is_ok());
        }
        // one goes for this, and is put aside
        let small = cache.block(ZERO, 3, 1000, Demand::Now, || Ok(vec![0; 1000]));
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
                    assert_eq!(
                        *cache.block(ZERO, 2, 10, Demand::Now, decode).unwrap(),
                        vec![7; 10]
                    );
                });
            }
        });
        assert_eq!(decodes.load(Ordering::Relaxed), 1);
        let damaged = || Err(Error::damaged("x"));
        assert!(cache.block(ZERO, 3, 1, Demand::Now, damaged).is_err());
        assert!(cache.block(ZERO, 3, 1, Demand::Now, || Ok(vec![1])).is_ok());
    }

    #[test]
    fn a_decoder_that_panics_leaves_nobody_waiting() {
        let cache = BlockCache::new(1 << 20);
        let panicking = std::panic::AssertUnwindSafe(|| {
            cache.block(ZERO, 2, 1, Demand::Now, || panic!("fault"))
        });
        assert!(std::panic::catch_unwind(panicking).is_err());
        assert!(cache.block(ZERO, 2, 1, Demand::Now, || Ok(vec![1])).is_ok());
    }

    #[test]
    fn what_is_decoded_ahead_is_counted_once_as_used_or_wasted() {
        let cache = BlockCache::with_bounds(3 * (1000 + ENTRY_BYTES), 0);
        let decode = || Ok(vec![0; 1000]);
        for number in 0..2 {
            let ahead = cache.block(ZERO, number, 1000, Demand::Ahead, decode);
            assert!(ahead.is_ok());
        }
        // what is there is left as it is
        assert!(cache.block(ZERO, 0, 1000, Demand::Ahead, decode).is_err());
        for _ in 0..2 {
            assert!(cache.block(ZERO, 1, 1000, Demand::Now, decode).is_ok());
        }
        for number in 2..5 {
            assert!(cache.block(ZERO, number, 1000, Demand::Now, decode).is_ok());
        }
        let counts = cache.counts();
        assert_eq!((counts.hits, counts.misses), (2, 3));
        let ahead = [counts.ahead, counts.ahead_used, counts.ahead_wasted];
        assert_eq!(ahead, [2, 1, 1]);
        assert_eq!(counts.decoded_bytes, 5000);
    }

    #[test]
    fn what_others_hold_leaves_less_for_blocks() {
        let cache = BlockCache::with_bounds(3 * (1000 + ENTRY_BYTES), 0);
        let block = |number| cache.block(ZERO, number, 1000, Demand::Now, || Ok(vec![0; 1000]));
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
        let block = |number| cache.block(ZERO, number, 1000, Demand::Now, || Ok(vec![0; 1000]));
        assert!((0..3).all(|number| block(number).is_ok()));
        let seen = cache.block(ZERO, 9, 2000, Demand::Now, || {
            assert_eq!(cache.bytes(), 1000 + ENTRY_BYTES);
            Ok(vec![0; 2000])
        });
        assert!(seen.is_ok());
        assert_eq!(cache.bytes(), 3000 + 2 * ENTRY_BYTES);
    }
}
