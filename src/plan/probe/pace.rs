//! How long is measured, and the threads that work meanwhile.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use nix::time::ClockId;
use nix::time::clock_gettime;
use parking_lot::Mutex;
use rayon::ThreadPool;
use rayon::ThreadPoolBuilder;

use crate::base::Progress;
use crate::base::Result;
use crate::base::parallel;
use crate::plan::measured::Measured;
use crate::plan::measured::Percent;

/// How long is measured, and over how much.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// How long a pass of a rate takes, about.
    pub pass: Duration,
    /// Passes of a rate, besides the first, which does not count. The best one does.
    pub passes: u32,
    /// Bytes of memory that are gone through; none: several times what the caches hold.
    pub memory_len: Option<u64>,
    /// Bytes that are read from a disk at most, and for how long.
    pub disk_len: u64,
    /// For how long.
    pub disk_time: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            pass: Duration::from_millis(40),
            passes: 3,
            memory_len: None,
            disk_len: 1 << 30,
            disk_time: Duration::from_millis(1500),
        }
    }
}

/// One pass: what was done, and how long it took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pass {
    done: u64,
    time: Duration,
}

impl Pass {
    /// What is done in a second; none where the clock did not move, or nothing was done.
    fn per_second(self) -> Option<u64> {
        per_second(self.done, self.time)
    }
}

/// So much in this time, by the second; none where that is no rate.
pub(super) fn per_second(done: u64, time: Duration) -> Option<u64> {
    let rate = u128::from(done) * 1_000_000_000 / time.as_nanos().max(1);
    u64::try_from(rate)
        .ok()
        .filter(|rate| *rate > 0 && !time.is_zero())
}

/// Threads that are waiting for work.
#[derive(Debug)]
pub(super) struct Crew {
    pool: ThreadPool,
    threads: usize,
    used: Mutex<Used>,
}

/// The time of processors.
#[derive(Debug, Clone, Copy, Default)]
struct Used {
    /// What the threads had.
    had: Duration,
    /// What they would have had if nobody else had been at work.
    wanted: Duration,
}

/// Which share of their time threads had, all of them together.
pub(super) fn share(crews: &[Crew]) -> Measured<Percent> {
    let sum = |of: fn(&Used) -> Duration| -> Duration {
        crews.iter().map(|crew| of(&crew.used.lock())).sum()
    };
    let (had, wanted) = (sum(|used| used.had), sum(|used| used.wanted));
    let percent = (had.as_nanos() * 100).checked_div(wanted.as_nanos());
    let percent = percent.filter(|_| !had.is_zero());
    let percent = percent.map(|percent| Percent(percent.min(100) as u64));
    Measured::or_not(percent, "the system does not tell")
}

/// What all threads of this process have had so far; nothing where the system does not tell.
fn processor_time() -> Duration {
    clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}

impl Crew {
    /// So many threads, or why there are none.
    pub(super) fn new(threads: usize) -> Result<Self, String> {
        let pool = ThreadPoolBuilder::new()
            .num_threads(threads)
            .thread_name(|number| format!("measure {number}"))
            .build();
        match pool {
            Ok(pool) => Ok(Self {
                pool,
                threads,
                used: Mutex::default(),
            }),
            Err(error) => Err(format!("{threads} threads cannot be started: {error}")),
        }
    }

    pub(super) fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work` on one of the threads, which then has the others at hand.
    pub(super) fn install<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        self.pool.install(work)
    }

    /// How much `work` does in a second, on all threads. Each has a state of its own, takes the
    /// next number, and says how much it has done with it.
    pub(super) fn rate<S: Send>(
        &self,
        pace: &Pace,
        progress: &dyn Progress,
        state: impl Fn() -> S,
        work: impl Fn(&mut S, usize) -> Result<u64, String> + Sync,
    ) -> Result<Measured<u64>> {
        let states: Vec<Mutex<S>> = (0..self.threads).map(|_| Mutex::new(state())).collect();
        let next = AtomicUsize::new(0);
        let mut passes = Vec::new();
        let (processor_begun, all_begun) = (processor_time(), Instant::now());
        for _ in 0..=pace.passes {
            progress.check()?;
            let begun = Instant::now();
            let until = begun + pace.pass;
            let done = self.pool.broadcast(|thread| {
                let mut state = states[thread.index()].lock();
                let mut done = 0;
                loop {
                    done += work(&mut state, next.fetch_add(1, Ordering::Relaxed))?;
                    if Instant::now() >= until {
                        return Ok(done);
                    }
                }
            });
            let time = begun.elapsed();
            match done.into_iter().sum::<Result<u64, String>>() {
                Ok(done) => passes.push(Pass { done, time }),
                Err(reason) => return Ok(Measured::not(reason)),
            }
        }
        let at_once = self.threads.min(parallel::default_threads()) as u32;
        let mut used = self.used.lock();
        used.had += processor_time().saturating_sub(processor_begun);
        used.wanted += all_begun.elapsed() * at_once;
        Ok(best(&passes))
    }
}

/// The rate of the best pass; the first does not count, as memory and caches are cold.
fn best(passes: &[Pass]) -> Measured<u64> {
    let rates = passes.iter().skip(1).filter_map(|pass| pass.per_second());
    Measured::or_not(rates.max(), "the clock is too coarse")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Error;
    use crate::base::ErrorKind;
    use crate::base::progress::Silent;

    const SHORT: Pace = Pace {
        pass: Duration::ZERO,
        passes: 2,
        memory_len: None,
        disk_len: 0,
        disk_time: Duration::ZERO,
    };

    fn pass(done: u64, ms: u64) -> Pass {
        Pass {
            done,
            time: Duration::from_millis(ms),
        }
    }

    #[test]
    fn the_best_pass_counts_but_for_the_first() {
        let passes = [pass(9_000, 1), pass(50, 10), pass(120, 20), pass(40, 10)];
        assert_eq!(best(&passes), Measured::Value(6_000));
        assert!(best(&passes[..1]).why_not().is_some());
        assert!(
            best(&[pass(1, 1), pass(5, 0), pass(0, 5)])
                .why_not()
                .is_some()
        );
        assert_eq!(per_second(u64::MAX, Duration::from_nanos(1)), None);
    }

    #[test]
    fn every_thread_has_a_state_and_no_number_comes_twice() {
        let crew = Crew::new(3).unwrap();
        let seen = Mutex::new(Vec::new());
        let work = |mine: &mut usize, number: usize| {
            *mine += 1;
            seen.lock().push(number);
            Ok(1_000_000)
        };
        let rate = crew.rate(&SHORT, &Silent, || 0, work).unwrap();
        assert!(rate.value().is_some(), "{rate}");
        let mut seen = seen.into_inner();
        seen.sort_unstable();
        // three threads, three passes, one number each at least
        assert!(seen.len() >= 9);
        assert_eq!(seen, (0..seen.len()).collect::<Vec<_>>());
    }

    #[test]
    fn the_share_is_that_of_all_crews_together() {
        let crews = [Crew::new(1).unwrap(), Crew::new(2).unwrap()];
        assert!(share(&crews).why_not().is_some(), "nothing was done yet");
        let put = |crew: &Crew, had, wanted| {
            *crew.used.lock() = Used {
                had: Duration::from_millis(had),
                wanted: Duration::from_millis(wanted),
            };
        };
        put(&crews[0], 10, 10);
        put(&crews[1], 5, 20);
        assert_eq!(share(&crews), Measured::Value(Percent(50)));
        put(&crews[1], 25, 20);
        assert_eq!(share(&crews), Measured::Value(Percent(100)));
        put(&crews[0], 0, 10);
        put(&crews[1], 0, 20);
        assert!(share(&crews).why_not().is_some());
    }

    #[test]
    fn work_that_fails_gives_its_reason() {
        let crew = Crew::new(2).unwrap();
        let failed = |(): &mut (), number: usize| {
            if number == 3 {
                Err("it broke".to_owned())
            } else {
                Ok(1)
            }
        };
        let rate = crew.rate(&SHORT, &Silent, || (), failed).unwrap();
        assert_eq!(rate, Measured::not("it broke"));
    }

    #[test]
    fn somebody_who_wants_it_to_stop_is_heard() {
        struct Impatient;
        impl Progress for Impatient {
            fn check(&self) -> Result<()> {
                Err(Error::new(ErrorKind::Interrupted, "interrupted"))
            }
        }
        let crew = Crew::new(1).unwrap();
        let stopped = crew.rate(&SHORT, &Impatient, || (), |(), _| Ok(1));
        assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Interrupted);
    }
}
