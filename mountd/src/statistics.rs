//! What a mount has done: counted where it happens, added up over the workers of a mount, told to
//! whoever asks.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bigsmall::archive::BlockCache;
use bigsmall::archive::TensorCache;
use bigsmall::base::Error;
use bigsmall::base::ErrorKind;
use bigsmall::base::FileSource;
use bigsmall::base::ReadAt;
use bigsmall::base::Result;
use bigsmall::base::SourceIdentity;
use serde::Deserialize;
use serde::Serialize;

/// Kinds of requests that are counted apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RequestKind {
    Lookup,
    GetAttr,
    Open,
    Read,
    ReadDir,
    Write,
    Xattr,
    Other,
}

/// Their names, in the order of [`RequestKind`].
const KINDS: [&str; 8] = [
    "lookup", "getattr", "open", "read", "readdir", "write", "xattr", "other",
];

/// The counters of one worker.
#[derive(Debug, Default)]
pub(crate) struct Statistics {
    requests: [AtomicU64; KINDS.len()],
    nanoseconds: [AtomicU64; KINDS.len()],
    slowest_ns: AtomicU64,
    sent_bytes: AtomicU64,
    failed_reads: AtomicU64,
    damaged: AtomicU64,
    /// Bytes read from images, which their sources count.
    pub(crate) source_bytes: Arc<AtomicU64>,
}

/// A request that is being answered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Timer {
    kind: usize,
    begun: Instant,
}

impl Statistics {
    /// A request is taken up.
    pub(crate) fn begin(&self, kind: RequestKind) -> Timer {
        let kind = kind as usize;
        self.requests[kind].fetch_add(1, Ordering::Relaxed);
        Timer {
            kind,
            begun: Instant::now(),
        }
    }

    /// It was answered.
    pub(crate) fn end(&self, timer: Timer) {
        let ns = u64::try_from(timer.begun.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds[timer.kind].fetch_add(ns, Ordering::Relaxed);
        self.slowest_ns.fetch_max(ns, Ordering::Relaxed);
    }

    /// Bytes of a read went to a reader.
    pub(crate) fn sent(&self, len: usize) {
        self.sent_bytes.fetch_add(len as u64, Ordering::Relaxed);
    }

    /// A read got an error.
    pub(crate) fn failed(&self) {
        self.failed_reads.fetch_add(1, Ordering::Relaxed);
    }

    /// An error was met.
    pub(crate) fn complained(&self, error: &Error) {
        let is_damage = error.kind() == ErrorKind::Damaged;
        self.damaged
            .fetch_add(u64::from(is_damage), Ordering::Relaxed);
    }

    /// All of it now.
    pub(crate) fn counters(&self, cache: &BlockCache, tensors: &TensorCache) -> Counters {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let named = |counters: &[AtomicU64]| {
            let named = KINDS.iter().zip(counters);
            named.map(|(name, n)| ((*name).to_owned(), of(n))).collect()
        };
        let counts = cache.counts() + tensors.counts();
        Counters {
            requests: named(&self.requests),
            request_ns: named(&self.nanoseconds),
            slowest_us: of(&self.slowest_ns) / 1000,
            sent_bytes: of(&self.sent_bytes),
            source_bytes: of(&self.source_bytes),
            decoded_bytes: counts.decoded_bytes,
            cache_hits: counts.hits,
            cache_misses: counts.misses,
            cache_waits: counts.waits,
            prefetched: counts.prefetched,
            prefetched_used: counts.prefetched_used,
            prefetched_wasted: counts.prefetched_wasted,
            failed_reads: of(&self.failed_reads),
            damaged: of(&self.damaged),
            cache_bytes: cache.bytes() + tensors.bytes(),
            cache_bytes_max: cache.bytes_max() + tensors.bytes_max(),
        }
    }
}

/// What is told of a mount. All but the last two only grow.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Counters {
    /// Requests of the kernel, by kind.
    pub(crate) requests: BTreeMap<String, u64>,
    /// Nanoseconds that they took, by kind.
    pub(crate) request_ns: BTreeMap<String, u64>,
    /// Microseconds of the slowest.
    pub(crate) slowest_us: u64,
    /// Bytes that readers got.
    pub(crate) sent_bytes: u64,
    /// Bytes read from images.
    pub(crate) source_bytes: u64,
    /// Bytes decoded.
    pub(crate) decoded_bytes: u64,
    /// Blocks and tables that were there, were not, and were just being decoded.
    pub(crate) cache_hits: u64,
    pub(crate) cache_misses: u64,
    pub(crate) cache_waits: u64,
    /// Blocks that were prefetched, those that a reader then got, and those that none did.
    #[serde(rename = "ahead")]
    pub(crate) prefetched: u64,
    #[serde(rename = "ahead_used")]
    pub(crate) prefetched_used: u64,
    #[serde(rename = "ahead_wasted")]
    pub(crate) prefetched_wasted: u64,
    /// Reads that got an error.
    pub(crate) failed_reads: u64,
    /// Damage that was met, in blocks or whatever else.
    pub(crate) damaged: u64,
    /// Decoded bytes and tables held now, and their bound.
    pub(crate) cache_bytes: u64,
    pub(crate) cache_bytes_max: u64,
}

impl Counters {
    /// This, with what earlier workers did.
    pub(crate) fn after(mut self, earlier: &Self) -> Self {
        for (all, of) in [
            (&mut self.requests, &earlier.requests),
            (&mut self.request_ns, &earlier.request_ns),
        ] {
            for (name, n) in of {
                *all.entry(name.clone()).or_default() += n;
            }
        }
        self.slowest_us = self.slowest_us.max(earlier.slowest_us);
        for (counter, before) in [
            (&mut self.sent_bytes, earlier.sent_bytes),
            (&mut self.source_bytes, earlier.source_bytes),
            (&mut self.decoded_bytes, earlier.decoded_bytes),
            (&mut self.cache_hits, earlier.cache_hits),
            (&mut self.cache_misses, earlier.cache_misses),
            (&mut self.cache_waits, earlier.cache_waits),
            (&mut self.prefetched, earlier.prefetched),
            (&mut self.prefetched_used, earlier.prefetched_used),
            (&mut self.prefetched_wasted, earlier.prefetched_wasted),
            (&mut self.failed_reads, earlier.failed_reads),
            (&mut self.damaged, earlier.damaged),
        ] {
            *counter += before;
        }
        self
    }
}

/// A file whose bytes are counted as they are read.
#[derive(Debug)]
pub(crate) struct Counted {
    file: FileSource,
    bytes: Arc<AtomicU64>,
}

impl Counted {
    pub(crate) fn new(file: FileSource, bytes: &Arc<AtomicU64>) -> Self {
        let bytes = Arc::clone(bytes);
        Self { file, bytes }
    }
}

impl ReadAt for Counted {
    fn len(&self) -> u64 {
        self.file.len()
    }

    fn read_exact_at(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        self.file.read_exact_at(offset, out)?;
        self.bytes.fetch_add(out.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    fn will_read(&self, ranges: &[Range<u64>]) {
        self.file.will_read(ranges);
    }

    fn identity(&self) -> SourceIdentity {
        self.file.identity()
    }
}
