//! A cache of what is costly to load: least recently used first out, bounded in bytes, and loaded
//! once however many wait for it.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;

use lru::LruCache;
use parking_lot::Condvar;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Result;
use crate::base::mutex::Mutex;

/// How long a reader waits for what another one loads. No wait is without a limit: after it the
/// reader gets an error.
pub(super) const WAIT_MAX: Duration = Duration::from_mins(1);
/// What holding an entry takes beside its bytes: many small ones take more of this than of those.
pub(super) const ENTRY_BYTES: u64 = 512;

/// What came of a prefetch.
#[derive(Debug)]
pub(crate) enum Prefetched {
    /// It was loaded.
    Loaded,
    /// It was there, or somebody is loading it.
    Present,
    /// It cannot be loaded; whoever needs it meets the same error.
    Failed,
}

/// What was asked of caches, since they were made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CacheCounts {
    /// Requests that found what they wanted.
    pub hits: u64,
    /// Requests that had to decode.
    pub misses: u64,
    /// Requests that waited for the decode of another.
    pub waits: u64,
    /// Bytes decoded, prefetched or for a request.
    pub decoded_bytes: u64,
    /// Blocks that were prefetched.
    pub prefetched: u64,
    /// Those of them that a request then found.
    pub prefetched_used: u64,
    /// Those of them that went before one did.
    pub prefetched_wasted: u64,
}

impl std::ops::Add for CacheCounts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            hits: self.hits + other.hits,
            misses: self.misses + other.misses,
            waits: self.waits + other.waits,
            decoded_bytes: self.decoded_bytes + other.decoded_bytes,
            prefetched: self.prefetched + other.prefetched,
            prefetched_used: self.prefetched_used + other.prefetched_used,
            prefetched_wasted: self.prefetched_wasted + other.prefetched_wasted,
        }
    }
}

#[derive(Debug, Default)]
struct Counters {
    hits: AtomicU64,
    misses: AtomicU64,
    waits: AtomicU64,
    prefetched: AtomicU64,
    prefetched_used: AtomicU64,
    prefetched_wasted: AtomicU64,
}

fn add(counter: &AtomicU64, n: u64) {
    counter.fetch_add(n, Ordering::Relaxed);
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    bytes: u64,
    /// Prefetched, and not asked for yet.
    is_prefetched: bool,
}

/// Something that is being loaded.
#[derive(Debug)]
struct Loading<V> {
    result: Mutex<Option<Result<V>>>,
    /// Nobody waits for it yet.
    is_prefetch: AtomicBool,
    done: Condvar,
}

struct Entries<K, V> {
    held: LruCache<K, Entry<V>>,
    loading: BTreeMap<K, Arc<Loading<V>>>,
    bytes: u64,
    /// Bytes that are being loaded.
    loading_bytes: u64,
    /// Bytes that others hold, who share the bound.
    charged_bytes: u64,
    bytes_max: u64,
    /// As many are held whatever their size.
    count_min: usize,
}

impl<K: Ord + Hash + Copy, V> Entries<K, V> {
    /// Keeps an entry; gives what had to go for it.
    fn keep(&mut self, key: K, entry: Entry<V>) -> Vec<Entry<V>> {
        self.bytes += entry.bytes;
        let mut gone = Vec::new();
        if let Some(old) = self.held.put(key, entry) {
            self.bytes -= old.bytes;
            gone.push(old);
        }
        self.shrink(&mut gone);
        gone
    }

    /// Holds no more than the bound, with what is being loaded.
    fn shrink(&mut self, gone: &mut Vec<Entry<V>>) {
        while self.bytes + self.loading_bytes + self.charged_bytes > self.bytes_max
            && self.held.len() > self.count_min
        {
            let Some((_, entry)) = self.held.pop_lru() else {
                break;
            };
            self.bytes -= entry.bytes;
            gone.push(entry);
        }
    }
}

/// What is done with a value that went.
type Recycle<V> = Box<dyn Fn(V) + Send + Sync>;

/// One cache. A request for what it holds takes one lock.
pub(super) struct LoadingCache<K, V> {
    entries: Mutex<Entries<K, V>>,
    recycle: Recycle<V>,
    counters: Counters,
}

impl<K, V> fmt::Debug for LoadingCache<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counters = &self.counters;
        f.debug_struct("LoadingCache")
            .field("counters", counters)
            .finish_non_exhaustive()
    }
}

/// What came of looking for something.
enum Found<V> {
    Held(V),
    /// Somebody is loading it.
    Loading(Arc<Loading<V>>),
    /// Nobody is: the caller does, and tells the others.
    Missing(Arc<Loading<V>>),
}

impl<K: Ord + Hash + Copy, V: Clone> LoadingCache<K, V> {
    /// A cache of at most `bytes_max` bytes, or of `count_min` values if those take more.
    pub(super) fn new(bytes_max: u64, count_min: usize, recycle: Recycle<V>) -> Self {
        let entries = Entries {
            held: LruCache::unbounded(),
            loading: BTreeMap::new(),
            bytes: 0,
            loading_bytes: 0,
            charged_bytes: 0,
            bytes_max,
            count_min,
        };
        Self {
            entries: Mutex::new(entries),
            recycle,
            counters: Counters::default(),
        }
    }

    /// Bytes held now.
    pub(super) fn bytes(&self) -> u64 {
        self.entries.lock().bytes
    }

    /// The bound in bytes.
    pub(super) fn bytes_max(&self) -> u64 {
        self.entries.lock().bytes_max
    }

    /// What was asked of it; of bytes it counts none.
    pub(super) fn counts(&self) -> CacheCounts {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &self.counters;
        CacheCounts {
            hits: of(&counters.hits),
            misses: of(&counters.misses),
            waits: of(&counters.waits),
            decoded_bytes: 0,
            prefetched: of(&counters.prefetched),
            prefetched_used: of(&counters.prefetched_used),
            prefetched_wasted: of(&counters.prefetched_wasted),
        }
    }

    /// Takes so many bytes of the bound for what is held elsewhere.
    pub(super) fn charge(&self, bytes: u64) {
        let mut gone = Vec::new();
        let mut entries = self.entries.lock();
        entries.charged_bytes += bytes;
        entries.shrink(&mut gone);
        drop(entries);
        self.recycle(gone);
    }

    /// Gives them back.
    pub(super) fn discharge(&self, bytes: u64) {
        self.entries.lock().charged_bytes -= bytes;
    }

    fn recycle(&self, gone: Vec<Entry<V>>) {
        for entry in gone {
            let wasted = &self.counters.prefetched_wasted;
            add(wasted, u64::from(entry.is_prefetched));
            (self.recycle)(entry.value);
        }
    }

    /// Forgets what is held of some keys.
    pub(super) fn forget(&self, is_meant: impl Fn(&K) -> bool) {
        let mut entries = self.entries.lock();
        let keys = entries.held.iter().map(|(key, _)| *key);
        let keys: Vec<K> = keys.filter(is_meant).collect();
        for key in keys {
            if let Some(entry) = entries.held.pop(&key) {
                entries.bytes -= entry.bytes;
            }
        }
    }

    /// The value of a key, loaded by `load` if it is not held. While it is loaded it counts as
    /// `len` bytes; what `load` gives says how many it takes then.
    pub(super) fn get(
        &self,
        key: K,
        len: u64,
        load: impl FnOnce() -> Result<(u64, V)>,
    ) -> Result<V> {
        match self.look(key, len) {
            Found::Held(value) => Ok(value),
            Found::Loading(loading) => {
                add(&self.counters.waits, 1);
                let was_prefetch = loading.is_prefetch.swap(false, Ordering::Relaxed);
                add(&self.counters.prefetched_used, u64::from(was_prefetch));
                wait(&loading)
            }
            Found::Missing(loading) => {
                add(&self.counters.misses, 1);
                self.load(&loading, key, len, load)
            }
        }
    }

    /// Loads the value of a key, unless it is held or being loaded.
    pub(super) fn prefetch(
        &self,
        key: K,
        len: u64,
        load: impl FnOnce() -> Result<(u64, V)>,
    ) -> Prefetched {
        let mut entries = self.entries.lock();
        if entries.held.contains(&key) || entries.loading.contains_key(&key) {
            return Prefetched::Present;
        }
        let mut gone = Vec::new();
        let loading = begin(&mut entries, key, len, true, &mut gone);
        drop(entries);
        self.recycle(gone);
        add(&self.counters.prefetched, 1);
        match self.load(&loading, key, len, load) {
            Ok(_) => Prefetched::Loaded,
            Err(_) => Prefetched::Failed,
        }
    }

    fn look(&self, key: K, len: u64) -> Found<V> {
        let mut entries = self.entries.lock();
        if let Some(entry) = entries.held.get_mut(&key) {
            add(&self.counters.hits, 1);
            let was_prefetched = std::mem::replace(&mut entry.is_prefetched, false);
            add(&self.counters.prefetched_used, u64::from(was_prefetched));
            return Found::Held(entry.value.clone());
        }
        if let Some(loading) = entries.loading.get(&key) {
            return Found::Loading(Arc::clone(loading));
        }
        let mut gone = Vec::new();
        let loading = begin(&mut entries, key, len, false, &mut gone);
        drop(entries);
        self.recycle(gone);
        Found::Missing(loading)
    }

    fn load(
        &self,
        loading: &Loading<V>,
        key: K,
        len: u64,
        load: impl FnOnce() -> Result<(u64, V)>,
    ) -> Result<V> {
        // done even if `load` panics, so that nobody waits for it in vain
        let mut publish = Publish {
            cache: self,
            key,
            len,
            loading,
            outcome: None,
        };
        let loaded = load();
        let result = loaded.as_ref().map(|(_, value)| value.clone());
        let result = result.map_err(Clone::clone);
        publish.outcome = Some(loaded);
        drop(publish);
        result
    }
}

/// Notes that a value is being loaded.
fn begin<K: Ord + Hash + Copy, V>(
    entries: &mut Entries<K, V>,
    key: K,
    len: u64,
    is_prefetch: bool,
    gone: &mut Vec<Entry<V>>,
) -> Arc<Loading<V>> {
    let loading = Arc::new(Loading {
        result: Mutex::new(None),
        is_prefetch: AtomicBool::new(is_prefetch),
        done: Condvar::new(),
    });
    entries.loading.insert(key, Arc::clone(&loading));
    entries.loading_bytes += len;
    entries.shrink(gone);
    loading
}

/// What a reader gets who has waited for so long as nobody should.
pub(super) fn waited_too_long() -> Error {
    Error::new(ErrorKind::Io, "waited too long for another reader's decode")
}

fn wait<V: Clone>(loading: &Loading<V>) -> Result<V> {
    let mut result = loading.result.lock();
    while result.is_none() {
        if loading.done.wait_for(&mut result, WAIT_MAX).timed_out() && result.is_none() {
            return Err(waited_too_long());
        }
    }
    result
        .clone()
        .unwrap_or_else(|| Err(Error::new(ErrorKind::Io, "nothing was decoded")))
}

/// Tells whoever waits what came of loading a value, and keeps it.
struct Publish<'a, K: Ord + Hash + Copy, V: Clone> {
    cache: &'a LoadingCache<K, V>,
    key: K,
    len: u64,
    loading: &'a Loading<V>,
    outcome: Option<Result<(u64, V)>>,
}

impl<K: Ord + Hash + Copy, V: Clone> Drop for Publish<'_, K, V> {
    fn drop(&mut self) {
        let outcome = self.outcome.take().unwrap_or_else(|| {
            let what = "the decoder failed (a fault of the program)";
            Err(Error::new(ErrorKind::Io, what))
        });
        let mut entries = self.cache.entries.lock();
        entries.loading.remove(&self.key);
        entries.loading_bytes -= self.len;
        let is_prefetched = self.loading.is_prefetch.load(Ordering::Relaxed);
        let gone = outcome.as_ref().map_or_else(
            |_| Vec::new(),
            |(bytes, value)| {
                let entry = Entry {
                    value: value.clone(),
                    bytes: *bytes + ENTRY_BYTES,
                    is_prefetched,
                };
                entries.keep(self.key, entry)
            },
        );
        drop(entries);
        self.cache.recycle(gone);
        *self.loading.result.lock() = Some(outcome.map(|(_, value)| value));
        self.loading.done.notify_all();
    }
}
