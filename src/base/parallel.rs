//! Numbered work on all cores whose results are used in order, with a bounded number in flight.

use std::collections::BTreeMap;

use parking_lot::Condvar;
use parking_lot::Mutex;

use crate::base::Result;

/// How many results may wait or be in work for each thread: enough that no thread idles behind a
/// slow neighbour, few enough that memory stays bounded by the number of threads.
const IN_FLIGHT_PER_THREAD: usize = 3;

/// The number of threads to use when the person named none: one for each core.
pub(crate) fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

struct State<T> {
    next: usize,
    used: usize,
    stopped: bool,
    done: BTreeMap<usize, Result<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    room: Condvar,
    ready: Condvar,
    count: usize,
    in_flight_max: usize,
}

impl<T> Shared<T> {
    /// The next number to work on; none when all are taken or the work is stopped.
    fn take(&self) -> Option<usize> {
        let mut state = self.state.lock();
        while !state.stopped
            && state.next < self.count
            && state.next >= state.used + self.in_flight_max
        {
            self.room.wait(&mut state);
        }
        if state.stopped || state.next >= self.count {
            return None;
        }
        state.next += 1;
        Some(state.next - 1)
    }

    fn put(&self, number: usize, result: Result<T>) {
        self.state.lock().done.insert(number, result);
        self.ready.notify_one();
    }

    /// The result of `number`, when it is there; none if a worker panicked.
    fn wait_for(&self, number: usize) -> Option<Result<T>> {
        let mut state = self.state.lock();
        loop {
            if let Some(result) = state.done.remove(&number) {
                state.used = number + 1;
                self.room.notify_all();
                return Some(result);
            }
            if state.stopped {
                return None;
            }
            self.ready.wait(&mut state);
        }
    }

    fn stop(&self) {
        self.state.lock().stopped = true;
        self.room.notify_all();
        self.ready.notify_all();
    }
}

/// Stops everything when it is dropped, so that a panic leaves nobody waiting.
struct StopOnDrop<'a, T>(&'a Shared<T>);

impl<T> Drop for StopOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Does `work(state, 0..count)` on `threads` threads, each with a state of its own, and hands the
/// results to `sink` on the calling thread in ascending order. The first error by number, from
/// either, ends it.
pub(crate) fn ordered<S, T: Send>(
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
    let shared = Shared {
        state: Mutex::new(State {
            next: 0,
            used: 0,
            stopped: false,
            done: BTreeMap::new(),
        }),
        room: Condvar::new(),
        ready: Condvar::new(),
        count,
        in_flight_max: threads * IN_FLIGHT_PER_THREAD,
    };
    let worker = || {
        let on_panic = StopOnDrop(&shared);
        let mut state = state();
        while let Some(number) = shared.take() {
            shared.put(number, work(&mut state, number));
        }
        std::mem::forget(on_panic);
    };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(worker);
        }
        let _at_the_end = StopOnDrop(&shared);
        for number in 0..count {
            // none: a worker panicked, and the scope passes its panic on
            let Some(result) = shared.wait_for(number) else {
                break;
            };
            sink(number, result?)?;
        }
        Ok(())
    })
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
            ordered(
                3,
                50,
                || (),
                |(), n| if n == 20 { panic!("a fault") } else { Ok(()) },
                |_, ()| Ok(()),
            )
        });
        assert!(caught.is_err());
    }
}
