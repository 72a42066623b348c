//! Threads that answer reads, so that no thread of the request loop ever waits for a disk or a decoder. A file that is slow
//! holds only its share of them: the others keep going.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Condvar;
use parking_lot::Mutex;

/// Most threads. Each has a reply of at most 1 MiB in work.
const THREADS_MAX: usize = 64;
/// Most threads that work for one file, or for names in one folder.
const PER_FILE_MAX: usize = 8;
/// A thread without work for this long ends.
const IDLE_MAX: Duration = Duration::from_secs(10);

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct State {
    ready: VecDeque<(u64, Work)>,
    waiting: BTreeMap<u64, VecDeque<Work>>,
    busy: BTreeMap<u64, usize>,
    threads: usize,
    idle: usize,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
}

/// The threads. They end some time after their work does.
#[derive(Clone, Default)]
pub(crate) struct Pool(Arc<Shared>);

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.0.state.lock();
        f.debug_struct("Pool")
            .field("threads", &state.threads)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Does `work` for `file`, soon.
    pub(crate) fn submit(&self, file: u64, work: impl FnOnce() + Send + 'static) {
        let mut state = self.0.state.lock();
        let busy = state.busy.entry(file).or_default();
        if *busy >= PER_FILE_MAX {
            state
                .waiting
                .entry(file)
                .or_default()
                .push_back(Box::new(work));
            return;
        }
        *busy += 1;
        state.ready.push_back((file, Box::new(work)));
        if state.idle >= state.ready.len() || state.threads >= THREADS_MAX {
            self.0.work.notify_one();
            return;
        }
        state.threads += 1;
        drop(state);
        let shared = Arc::clone(&self.0);
        let started = std::thread::Builder::new()
            .name("reply".into())
            .spawn(move || serve(&shared));
        if let Err(error) = started {
            tracing::error!("cannot start a thread: {error}");
            let mut state = self.0.state.lock();
            state.threads -= 1;
            // with no thread at all nobody else would ever do it
            while state.threads == 0
                && let Some((file, work)) = state.ready.pop_front()
            {
                drop(state);
                do_one(&self.0, file, work);
                state = self.0.state.lock();
            }
        }
    }
}

fn serve(shared: &Shared) {
    loop {
        let (file, work) = {
            let mut state = shared.state.lock();
            loop {
                if let Some(next) = state.ready.pop_front() {
                    break next;
                }
                state.idle += 1;
                let timed_out = shared.work.wait_for(&mut state, IDLE_MAX).timed_out();
                state.idle -= 1;
                if timed_out && state.ready.is_empty() {
                    state.threads -= 1;
                    return;
                }
            }
        };
        do_one(shared, file, work);
    }
}

/// Does a piece of work, and makes the next of its file ready.
fn do_one(shared: &Shared, file: u64, work: Work) {
    // a fault in one request is that request's fault; the reply tells EIO when it is dropped unanswered
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(work)).is_err() {
        tracing::error!("a request failed by a fault of the program");
    }
    let mut state = shared.state.lock();
    if let Some(work) = state.waiting.get_mut(&file).and_then(VecDeque::pop_front) {
        state.ready.push_back((file, work));
        return;
    }
    state.waiting.remove(&file);
    let busy = state.busy.entry(file).or_default();
    *busy -= 1;
    if *busy == 0 {
        state.busy.remove(&file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;
    use std::sync::mpsc;

    #[test]
    fn a_slow_file_does_not_stall_another() {
        let pool = Pool::default();
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(Mutex::new(gate));
        for _ in 0..100 {
            let gate = Arc::clone(&gate);
            pool.submit(1, move || {
                let _ = gate.lock().recv();
            });
        }
        let (done, finished) = mpsc::channel();
        pool.submit(2, move || done.send(()).unwrap());
        finished.recv_timeout(Duration::from_secs(5)).unwrap();
        drop(release);
    }

    #[test]
    fn all_work_is_done_and_a_panic_costs_only_itself() {
        let pool = Pool::default();
        let count = Arc::new(AtomicUsize::new(0));
        let (done, finished) = mpsc::channel::<()>();
        for i in 0..500_u64 {
            let (count, done) = (Arc::clone(&count), done.clone());
            pool.submit(i % 3, move || {
                count.fetch_add(1, Ordering::Relaxed);
                drop(done);
                assert!(i % 50 != 7, "a fault");
            });
        }
        drop(done);
        assert!(finished.recv_timeout(Duration::from_secs(10)).is_err());
        assert_eq!(count.load(Ordering::Relaxed), 500);
    }
}
