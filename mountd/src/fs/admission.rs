//! How many reads hold decoded blocks at once. More of them than cores bring nothing but memory
//! that no cache counts. A read that waits for a disk keeps its place, so whoever waits for one
//! goes on after a moment: a slow disk costs the others that much.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bigsmall::base::mutex::Mutex;
use parking_lot::Condvar;

/// How long a read waits for a place at most.
const WAIT_MAX: Duration = Duration::from_millis(20);

/// The places.
#[derive(Debug)]
pub(crate) struct AdmissionLimit {
    inside: AtomicUsize,
    /// Reads that wait for a place.
    waiting: AtomicUsize,
    /// Held to wait, and to wake who waits.
    turn: Mutex<()>,
    left: Condvar,
    limit: usize,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted<'a>(&'a AdmissionLimit);

impl AdmissionLimit {
    /// Two places for each core, and not fewer than four.
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            inside: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            turn: Mutex::default(),
            left: Condvar::new(),
            limit: (2 * cores).max(4),
        }
    }

    /// Waits for a place, for a moment.
    pub(crate) fn enter(&self) -> Admitted<'_> {
        if !self.take_slot() {
            let mut turn = self.turn.lock();
            // whoever leaves from now on wakes one
            self.waiting.fetch_add(1, Ordering::SeqCst);
            if !self.take_slot() {
                self.left.wait_for(&mut turn, WAIT_MAX);
                self.inside.fetch_add(1, Ordering::SeqCst);
            }
            self.waiting.fetch_sub(1, Ordering::SeqCst);
        }
        Admitted(self)
    }

    /// Takes a place, if one is free.
    fn take_slot(&self) -> bool {
        let more = |inside| (inside < self.limit).then_some(inside + 1);
        let (first, then) = (Ordering::SeqCst, Ordering::SeqCst);
        self.inside.fetch_update(first, then, more).is_ok()
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.0.inside.fetch_sub(1, Ordering::SeqCst);
        if self.0.waiting.load(Ordering::SeqCst) > 0 {
            let _turn = self.0.turn.lock();
            self.0.left.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn whoever_waits_goes_on_after_a_moment() {
        let admission = AdmissionLimit::new();
        let held: Vec<_> = (0..admission.limit).map(|_| admission.enter()).collect();
        let begun = Instant::now();
        let late = admission.enter();
        assert!(begun.elapsed() >= WAIT_MAX);
        drop((held, late));
        let begun = Instant::now();
        drop(admission.enter());
        assert!(begun.elapsed() < WAIT_MAX);
    }
}
