//! A mutex that counts, where debug assertions are on, how often each thread has locked one: so a
//! test can hold a path to a number of locks.

use std::time::Duration;

pub use parking_lot::MutexGuard;

/// A lock around `T`.
#[derive(Debug, Default)]
pub struct Mutex<T>(parking_lot::Mutex<T>);

impl<T> Mutex<T> {
    /// A lock that nobody holds.
    pub const fn new(value: T) -> Self {
        Self(parking_lot::Mutex::new(value))
    }

    /// Waits until nobody else holds it.
    #[inline]
    pub fn lock(&self) -> MutexGuard<'_, T> {
        counted::one_more();
        self.0.lock()
    }

    /// The same for so long at most; none after that.
    pub fn try_lock_for(&self, timeout: Duration) -> Option<MutexGuard<'_, T>> {
        counted::one_more();
        self.0.try_lock_for(timeout)
    }
}

/// How often this thread has locked a [`Mutex`] until now; always 0 without debug assertions.
pub fn taken_by_this_thread() -> u64 {
    counted::so_far()
}

#[cfg(debug_assertions)]
mod counted {
    use std::cell::Cell;

    thread_local! {
        static TAKEN: Cell<u64> = const { Cell::new(0) };
    }

    pub(super) fn one_more() {
        TAKEN.set(TAKEN.get() + 1);
    }

    pub(super) fn so_far() -> u64 {
        TAKEN.get()
    }
}

#[cfg(not(debug_assertions))]
mod counted {
    #[inline]
    pub(super) fn one_more() {}

    pub(super) fn so_far() -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(debug_assertions)]
    fn locks_of_one_thread_are_counted() {
        let mutex = Mutex::new(1);
        let before = taken_by_this_thread();
        *mutex.lock() += 1;
        assert!(mutex.try_lock_for(Duration::ZERO).is_some());
        std::thread::scope(|scope| scope.spawn(|| *mutex.lock()).join()).unwrap();
        assert_eq!(taken_by_this_thread() - before, 2);
    }
}
