//! Which requests are answered at once and which wait, so that a slow file leaves threads for the
//! others. A request that need not wait takes no lock for it: each thread notes in a slot of its
//! own what it works for, and counts the slots of the others. Where threads note something at the
//! same time each may see the others, and those that wait are looked at again under the lock.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use bigsmall::base::mutex::Mutex;

/// Most threads.
pub(crate) const THREADS_MAX: usize = 64;
/// Most threads that answer reads at once: the others are for names, and one for the device.
const READS_MAX: usize = 48;
/// Most threads that work for one file, or for names in one folder.
pub(crate) const PER_SHARE_MAX: usize = 8;

/// What a request needs of the threads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Share {
    /// Nothing that could take time.
    None,
    /// One of those for reads of this file.
    Read(u64),
    /// One of those for names in this folder.
    Names(u64),
}

/// A share as one number, which is not 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key(u64);

/// No share.
const NONE: u64 = 0;

impl Share {
    /// Its number, if it is one.
    pub(crate) fn key(self) -> Option<Key> {
        // inode numbers have 62 bits; what has more may meet another one, and shares with it
        match self {
            Self::None => None,
            Self::Read(ino) => Some(Key(ino << 2 | 0b11)),
            Self::Names(ino) => Some(Key(ino << 2 | 0b10)),
        }
    }
}

impl Key {
    /// Whether it is for reads.
    pub(crate) fn is_read(self) -> bool {
        self.0 & 1 == 1
    }
}

/// What waits: a request, and its share.
type Waiting = (Key, Vec<u8>);

#[derive(Debug, Default)]
struct Queues {
    /// Requests whose share is used up, in order.
    by_share: BTreeMap<Key, VecDeque<Vec<u8>>>,
    /// Reads beyond the number for all of them.
    reads: VecDeque<Waiting>,
}

/// What each thread works for, and what waits.
#[derive(Debug)]
pub(crate) struct Shares {
    /// By slot: whether a thread has it.
    taken: [AtomicBool; THREADS_MAX],
    /// By slot: the share that is worked for, or none.
    keys: [AtomicU64; THREADS_MAX],
    /// By slot: the read that is being answered, until somebody does; or 0.
    reads: [AtomicU64; THREADS_MAX],
    /// By slot: when it was taken up, in milliseconds of `begun`.
    since: [AtomicU64; THREADS_MAX],
    /// No slot from here on was ever taken.
    slots_used: AtomicUsize,
    /// Slots that work for reads.
    busy_reads: AtomicUsize,
    /// Requests in the queues, or about to be.
    queued: AtomicUsize,
    queues: Mutex<Queues>,
    begun: Instant,
}

/// A slot of a thread, until it is dropped.
#[derive(Debug)]
pub(crate) struct Slot<'a> {
    shares: &'a Shares,
    number: usize,
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        self.shares.taken[self.number].store(false, Ordering::Release);
    }
}

impl Shares {
    pub(crate) fn new() -> Self {
        Self {
            taken: [const { AtomicBool::new(false) }; THREADS_MAX],
            keys: [const { AtomicU64::new(NONE) }; THREADS_MAX],
            reads: [const { AtomicU64::new(0) }; THREADS_MAX],
            since: [const { AtomicU64::new(0) }; THREADS_MAX],
            slots_used: AtomicUsize::new(0),
            busy_reads: AtomicUsize::new(0),
            queued: AtomicUsize::new(0),
            queues: Mutex::default(),
            begun: Instant::now(),
        }
    }

    /// A slot that no other thread has. There are as many as threads, so one is free, or will be
    /// as soon as a thread that ends has gone.
    pub(crate) fn slot(&self) -> Slot<'_> {
        loop {
            let free = (0..THREADS_MAX).find(|&number| {
                let taken = &self.taken[number];
                !taken.load(Ordering::Relaxed) && !taken.swap(true, Ordering::Acquire)
            });
            if let Some(number) = free {
                self.slots_used.fetch_max(number + 1, Ordering::SeqCst);
                return Slot {
                    shares: self,
                    number,
                };
            }
            std::thread::yield_now();
        }
    }

    /// Threads that work for a share.
    fn busy(&self, key: Key) -> usize {
        let used = self.slots_used.load(Ordering::SeqCst);
        let keys = self.keys[..used].iter();
        keys.filter(|slot| slot.load(Ordering::SeqCst) == key.0)
            .count()
    }

    fn has_room(&self, key: Key) -> bool {
        let has_room_for_reads = || self.busy_reads.load(Ordering::SeqCst) <= READS_MAX;
        self.busy(key) <= PER_SHARE_MAX && (!key.is_read() || has_room_for_reads())
    }

    /// Whether nothing is worked for or waits.
    pub(crate) fn are_idle(&self) -> bool {
        let none = |slots: &[AtomicU64]| slots.iter().all(|slot| slot.load(Ordering::SeqCst) == 0);
        self.queued.load(Ordering::SeqCst) == 0 && none(&self.keys) && none(&self.reads)
    }

    /// Takes the reads that were taken up longer ago than this from whoever answers them; their
    /// numbers.
    pub(crate) fn take_late(&self, age_max: Duration) -> Vec<u64> {
        let now = self.now();
        let late = (0..THREADS_MAX).filter_map(|slot| {
            // in this order: the time is that of this read, or of a later one
            let read = self.reads[slot].load(Ordering::SeqCst);
            let age = now.saturating_sub(self.since[slot].load(Ordering::SeqCst));
            let is_late = read != 0 && u128::from(age) > age_max.as_millis();
            (is_late && take(&self.reads[slot], read)).then_some(read)
        });
        late.collect()
    }

    fn now(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

fn take(slot: &AtomicU64, read: u64) -> bool {
    slot.compare_exchange(read, 0, Ordering::SeqCst, Ordering::SeqCst)
        .is_ok()
}

impl Slot<'_> {
    fn hold(&self, key: Key) {
        self.shares.keys[self.number].store(key.0, Ordering::SeqCst);
        let reads = usize::from(key.is_read());
        self.shares.busy_reads.fetch_add(reads, Ordering::SeqCst);
    }

    fn release(&self, key: Key) {
        self.shares.keys[self.number].store(NONE, Ordering::SeqCst);
        let reads = usize::from(key.is_read());
        self.shares.busy_reads.fetch_sub(reads, Ordering::SeqCst);
    }

    /// Begins to work for a share; not if that is used up, and then `request` waits.
    pub(crate) fn enter(&self, key: Key, request: &[u8]) -> bool {
        let shares = self.shares;
        self.hold(key);
        if shares.has_room(key) {
            return true;
        }
        let mut queues = shares.queues.lock();
        // whoever leaves from now on looks into the queues; whoever left before is not counted
        shares.queued.fetch_add(1, Ordering::SeqCst);
        if shares.has_room(key) {
            shares.queued.fetch_sub(1, Ordering::SeqCst);
            return true;
        }
        self.release(key);
        if shares.busy(key) >= PER_SHARE_MAX {
            let queue = queues.by_share.entry(key).or_default();
            queue.push_back(request.to_owned());
        } else {
            queues.reads.push_back((key, request.to_owned()));
        }
        false
    }

    /// Ends to work for a share, or goes on with what has waited: the next of the same share, or
    /// another read.
    pub(crate) fn leave(&self, key: Key) -> Option<Waiting> {
        let shares = self.shares;
        let nothing_waits = || shares.queued.load(Ordering::SeqCst) == 0;
        let has_left = nothing_waits();
        if has_left {
            self.release(key);
            if nothing_waits() {
                return None;
            }
        }
        let mut queues = shares.queues.lock();
        if has_left {
            // something came to wait just then, and others may have come instead of us
            self.hold(key);
        }
        let may_go_on = !has_left || shares.busy(key) <= PER_SHARE_MAX;
        let next = self.next(key, may_go_on, &mut queues);
        let taken = usize::from(next.is_some());
        shares.queued.fetch_sub(taken, Ordering::SeqCst);
        next
    }

    /// The next request for a thread that works for a share until now: of that, if it may go on.
    fn next(&self, key: Key, may_go_on: bool, queues: &mut Queues) -> Option<Waiting> {
        if may_go_on && let Some(queue) = queues.by_share.get_mut(&key) {
            let next = queue.pop_front();
            if queue.is_empty() {
                queues.by_share.remove(&key);
            }
            if let Some(next) = next {
                return Some((key, next));
            }
        }
        self.release(key);
        if !key.is_read() {
            return None;
        }
        // a read whose file has used up its share meanwhile waits with the others of that file
        while let Some((key, request)) = queues.reads.pop_front() {
            self.hold(key);
            if self.shares.busy(key) <= PER_SHARE_MAX {
                return Some((key, request));
            }
            self.release(key);
            queues.by_share.entry(key).or_default().push_back(request);
        }
        None
    }

    /// A read is being answered from now on.
    pub(crate) fn begin_read(&self, unique: u64) {
        let (shares, slot) = (self.shares, self.number);
        shares.since[slot].store(shares.now(), Ordering::SeqCst);
        shares.reads[slot].store(unique, Ordering::SeqCst);
    }

    /// Whether that read is still to be answered by who asks.
    pub(crate) fn take_read(&self, unique: u64) -> bool {
        take(&self.shares.reads[self.number], unique)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ino: u64) -> Key {
        Share::Read(ino).key().unwrap()
    }

    #[test]
    fn one_file_has_its_share_and_the_next_of_it_follows_who_leaves() {
        let shares = Shares::new();
        let slots: Vec<_> = (0..=PER_SHARE_MAX).map(|_| shares.slot()).collect();
        let (late, first) = slots.split_last().unwrap();
        assert!(first.iter().all(|slot| slot.enter(key(1), b"a")));
        assert!(!late.enter(key(1), b"b"));
        assert!(late.enter(key(2), b"c"));
        assert_eq!(late.leave(key(2)), None);
        assert_eq!(first[0].leave(key(1)), Some((key(1), b"b".to_vec())));
        for slot in first {
            assert_eq!(slot.leave(key(1)), None);
        }
        assert!(shares.are_idle());
    }

    #[test]
    fn reads_leave_threads_for_names() {
        let shares = Shares::new();
        let slots: Vec<_> = (0..=READS_MAX).map(|_| shares.slot()).collect();
        let (late, first) = slots.split_last().unwrap();
        for (ino, slot) in (0..).zip(first) {
            assert!(slot.enter(key(ino), b"a"));
        }
        assert!(!late.enter(key(99), b"b"));
        let names = Share::Names(99).key().unwrap();
        assert!(late.enter(names, b"c"));
        assert_eq!(late.leave(names), None);
        assert_eq!(first[0].leave(key(0)), Some((key(99), b"b".to_vec())));
    }

    /// Whatever the order of many threads, each request is worked for once, and none is left.
    #[test]
    fn nothing_waits_for_ever() {
        const EACH: usize = 2000;
        const THREADS: usize = 24;
        let shares = Shares::new();
        let (worked, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        let busy = AtomicUsize::new(0);
        let work = || {
            most.fetch_max(busy.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            std::hint::spin_loop();
            busy.fetch_sub(1, Ordering::SeqCst);
            worked.fetch_add(1, Ordering::SeqCst);
        };
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                scope.spawn(|| {
                    let slot = shares.slot();
                    for _ in 0..EACH {
                        let mut next = slot.enter(key(1), b"x").then_some(key(1));
                        while let Some(key) = next {
                            work();
                            next = slot.leave(key).map(|(key, _)| key);
                        }
                    }
                });
            }
        });
        assert_eq!(worked.load(Ordering::SeqCst), THREADS * EACH);
        assert!(most.load(Ordering::SeqCst) <= PER_SHARE_MAX);
        assert!(shares.are_idle());
    }

    #[test]
    fn a_late_read_is_answered_by_one() {
        let shares = Shares::new();
        let (slot, other) = (shares.slot(), shares.slot());
        slot.begin_read(7);
        other.begin_read(8);
        assert!(shares.take_late(Duration::from_mins(1)).is_empty());
        std::thread::sleep(Duration::from_millis(20));
        other.begin_read(9);
        assert_eq!(shares.take_late(Duration::from_millis(10)), [7]);
        assert!(!slot.take_read(7));
        assert!(other.take_read(9));
        assert!(!other.take_read(9));
        assert!(shares.are_idle());
    }
}
