//! How many reads hold decoded blocks at once. More of them than cores bring nothing but memory that no cache counts. A read that
//! waits for a disk keeps its place, so whoever waits for one goes on after a moment: a slow disk costs the others that much.

use std::time::Duration;

use parking_lot::Condvar;
use parking_lot::Mutex;

/// How long a read waits for a place at most.
const WAIT_MAX: Duration = Duration::from_millis(20);

/// The places.
#[derive(Debug)]
pub(crate) struct AdmissionLimit {
    inside: Mutex<usize>,
    left: Condvar,
    places: usize,
}

/// A place, until it is dropped.
#[derive(Debug)]
pub(crate) struct Admitted<'a>(&'a AdmissionLimit);

impl AdmissionLimit {
    /// Two places for each core, and not fewer than four.
    pub(crate) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            inside: Mutex::default(),
            left: Condvar::new(),
            places: (2 * cores).max(4),
        }
    }

    /// Waits for a place, for a moment.
    pub(crate) fn enter(&self) -> Admitted<'_> {
        let mut inside = self.inside.lock();
        if *inside >= self.places {
            self.left.wait_for(&mut inside, WAIT_MAX);
        }
        *inside += 1;
        Admitted(self)
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        *self.0.inside.lock() -= 1;
        self.0.left.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn whoever_waits_goes_on_after_a_moment() {
        let admission = AdmissionLimit::new();
        let held: Vec<_> = (0..admission.places).map(|_| admission.enter()).collect();
        let begun = Instant::now();
        let late = admission.enter();
        assert!(begun.elapsed() >= WAIT_MAX);
        drop((held, late));
        let begun = Instant::now();
        drop(admission.enter());
        assert!(begun.elapsed() < WAIT_MAX);
    }
}
