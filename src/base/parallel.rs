//! Numbered work on all cores whose results are used in order, with a bounded number in flight.

use std::collections::BTreeMap;

use parking_lot::Condvar;
use parking_lot::Mutex;

use crate::base::Result;

/// How many results may wait or be in work for each thread: enough that no thread idles behind a slow
/// neighbour, few enough that memory stays bounded by the number of threads.
const IN_FLIGHT_PER_THREAD: usize = 3;

/// The number of threads to use when the person named none: one for each core.
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

struct Shared<T> {
    next: usize,
    used: usize,
    stopped: bool,
    done: BTreeMap<usize, Result<T>>,
}

/// Does `work(state, 0..count)` on `threads` threads, each with a state of its own, and hands the results to
/// `sink` on the calling thread in ascending order. The first error by number, from either, ends it.
pub fn ordered<S, T: Send>(
    threads: usize,
    count: usize,
    state: impl Fn() -> S + Sync,
    work: impl Fn(&mut S, usize) -> Result<T> + Sync,
    mut sink: impl FnMut(usize, T) -> Result<()>,
) -> Result<()> {
    let threads = threads.min(count);
    if threads <= 1 {
        let mut state = state();
        return (0..count).try_for_each(|number| sink(number, work(&mut state, number)?));
    }
    let shared = Mutex::new(Shared {
        next: 0,
        used: 0,
        stopped: false,
        done: BTreeMap::new(),
    });
    let (room, ready) = (Condvar::new(), Condvar::new());
    let worker = || {
        // a panic of `work` must not leave the sink waiting: the guard stops everything
        let mut guard = StopOnPanic {
            shared: &shared,
            room: &room,
            ready: &ready,
            armed: true,
        };
        let mut state = state();
        loop {
            let number = {
                let mut s = shared.lock();
                while !s.stopped
                    && s.next < count
                    && s.next >= s.used + threads * IN_FLIGHT_PER_THREAD
                {
                    room.wait(&mut s);
                }
                if s.stopped || s.next >= count {
                    break;
                }
                s.next += 1;
                s.next - 1
            };
            let result = work(&mut state, number);
            shared.lock().done.insert(number, result);
            ready.notify_one();
        }
        guard.armed = false;
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(worker);
        }
        let mut outcome = Ok(());
        for number in 0..count {
            let result = {
                let mut s = shared.lock();
                loop {
                    if let Some(result) = s.done.remove(&number) {
                        s.used = number + 1;
                        break Some(result);
                    }
                    if s.stopped {
                        break None;
                    }
                    ready.wait(&mut s);
                }
            };
            room.notify_all();
            // none: a worker panicked, and the scope passes its panic on
            let Some(result) = result else { break };
            outcome = result.and_then(|value| sink(number, value));
            if outcome.is_err() {
                break;
            }
        }
        shared.lock().stopped = true;
        room.notify_all();
        outcome
    })
}

struct StopOnPanic<'a, T> {
    shared: &'a Mutex<Shared<T>>,
    room: &'a Condvar,
    ready: &'a Condvar,
    armed: bool,
}

impl<T> Drop for StopOnPanic<'_, T> {
    fn drop(&mut self) {
        if self.armed {
            self.shared.lock().stopped = true;
            self.room.notify_all();
            self.ready.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Error;

    #[test]
    fn results_come_in_order_and_the_first_error_wins() {
        for threads in [1, 2, 7] {
            let mut seen = Vec::new();
            let result = ordered(
                threads,
                100,
                || (),
                |(), n| {
                    if n >= 60 {
                        Err(Error::invalid(format!("{n}")))
                    } else {
                        Ok(n * n)
                    }
                },
                |n, square| {
                    assert_eq!(square, n * n);
                    seen.push(n);
                    Ok(())
                },
            );
            assert_eq!(result.unwrap_err().to_string(), "60");
            assert_eq!(seen, (0..60).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_panic_in_the_work_does_not_hang() {
        let caught = std::panic::catch_unwind(|| {
            ordered(3, 50, || (), |(), n| Ok(assert!(n != 20)), |_, ()| Ok(()))
        });
        assert!(caught.is_err());
    }
}
