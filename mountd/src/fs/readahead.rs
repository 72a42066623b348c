//! Read-ahead: blocks decoded before somebody asks for them. What counts are streams of requests,
//! not handles: page faults of several processes come through one handle, and one reader may follow
//! several tensors. A stream is followed once it was sequential for a while; nothing is decoded
//! ahead while as many readers wait as there are cores.

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bigsmall::archive::VirtualFile;
use bigsmall::base::ReadAt;
use bigsmall::base::mutex::Mutex;
use parking_lot::Condvar;

/// Streams followed in one file.
const STREAMS_MAX: usize = 16;
/// Bytes that are read one after another before a stream is followed.
const RUN_MIN: u64 = 512 << 10;
/// Requests by which it is told how many streams share the window.
const RECENT: usize = 32;
/// Requests of one stream come out of order by at most this.
const SLACK: u64 = 1 << 20;
/// What a shorter block counts of the window: of tensors of a few bytes a window would hold more
/// than the cache does.
const BLOCK_LEN_MIN: u64 = 4 << 10;
/// A thread without work for this long ends.
const IDLE_MAX: Duration = Duration::from_secs(5);
/// How long a thread waits for readers to get what they wait for, at a time.
const YIELD: Duration = Duration::from_millis(5);

#[derive(Debug)]
struct Stream {
    /// Where the next request is expected.
    next: u64,
    /// Bytes read one after another.
    run: u64,
    /// What is before it was decoded ahead, or is to be.
    readahead_end: u64,
    /// Number of the last request, to find the stream that rests longest.
    last: u64,
    id: u64,
}

#[derive(Debug)]
struct Task {
    ino: u64,
    stream: u64,
    file: VirtualFile,
    offset: u64,
    /// The coded bytes from there on to here are wanted of the disk; or if there are none, the
    /// block that begins there is decoded.
    hint_to: Option<u64>,
}

#[derive(Debug, Default)]
struct State {
    files: BTreeMap<u64, Vec<Stream>>,
    queue: VecDeque<Task>,
    requests: u64,
    /// The streams of the last requests, in a ring.
    recent: [u64; RECENT],
    threads: usize,
    idle: usize,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    work: Condvar,
    /// Readers that wait now.
    demand: AtomicUsize,
    cores: usize,
}

/// The streams of all files, and the threads that decode ahead of them.
#[derive(Debug)]
pub(crate) struct Readahead {
    shared: Arc<Shared>,
    /// How far a stream is followed; 0 for not at all.
    window: u64,
}

/// A reader that waits, while this lives.
#[derive(Debug)]
pub(crate) struct Waiting<'a>(&'a Shared);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.demand.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Readahead {
    /// Follows streams so far.
    pub(crate) fn new(window: u64) -> Self {
        let cores = std::thread::available_parallelism().map_or(2, std::num::NonZero::get);
        Self {
            shared: Arc::new(Shared {
                state: Mutex::default(),
                work: Condvar::new(),
                demand: AtomicUsize::new(0),
                cores,
            }),
            window,
        }
    }

    /// Somebody waits for bytes, until what this gives is dropped.
    pub(crate) fn demand(&self) -> Waiting<'_> {
        self.shared.demand.fetch_add(1, Ordering::Relaxed);
        Waiting(&self.shared)
    }

    /// What was read of a file; decides what is read next, and has it decoded.
    pub(crate) fn note(&self, ino: u64, file: &VirtualFile, offset: u64, len: u64) {
        if self.window == 0 || len == 0 {
            return;
        }
        let mut state = self.shared.state.lock();
        let window = share(self.window, &state.recent);
        let (stream, ahead) = follow(&mut state, ino, (offset, len), window);
        let turn = state.requests as usize % RECENT;
        state.recent[turn] = stream;
        let task = |offset| Task {
            ino,
            stream,
            file: file.clone(),
            offset,
            hint_to: None,
        };
        let queued = state.queue.len();
        if ahead.is_empty() {
            let touched = first_touch(file, offset, len);
            state.queue.extend(touched.into_iter().flatten().map(task));
        }
        let hint = state.queue.len();
        let (mut at, mut room) = (ahead.start, ahead.end - ahead.start);
        while room > 0 {
            let Some(block) = file.block_at(at) else {
                break;
            };
            state.queue.push_back(task(block.start));
            at = block.end;
            room = room.saturating_sub((block.end - block.start).max(BLOCK_LEN_MIN));
        }
        if at > ahead.start {
            let hint_to = Some(at);
            let hint_task = Task {
                hint_to,
                ..task(ahead.start)
            };
            state.queue.insert(hint, hint_task);
        }
        let streams = state.files.get_mut(&ino);
        let stream = streams.and_then(|all| all.iter_mut().find(|known| known.id == stream));
        if let Some(stream) = stream {
            stream.readahead_end = stream.readahead_end.max(at);
        }
        let wanted = state.queue.len().min(self.shared.cores);
        let new = wanted.saturating_sub(state.threads);
        state.threads += new;
        let has_work = state.queue.len() > queued;
        drop(state);
        for _ in 0..new {
            let shared = Arc::clone(&self.shared);
            let thread = std::thread::Builder::new().name("ahead".into());
            if thread.spawn(move || prefetch_queued(&shared)).is_err() {
                self.shared.state.lock().threads -= 1;
            }
        }
        if has_work {
            self.shared.work.notify_all();
        }
    }

    /// Nobody has the file open any more.
    pub(crate) fn forget(&self, ino: u64) {
        let mut state = self.shared.state.lock();
        state.files.remove(&ino);
        state.queue.retain(|task| task.ino != ino);
    }
}

/// The part of the window that each of the streams has which were read lately: together they must
/// not push each other's blocks out.
fn share(window: u64, recent: &[u64; RECENT]) -> u64 {
    let mut streams = *recent;
    streams.sort_unstable();
    let changes = streams.windows(2).filter(|pair| pair[0] != pair[1]).count();
    window / (changes as u64 + 1)
}

/// What is read next, most probably, when a request touches the beginning of a tensor: the rest of
/// that, or the beginning of the next, as loaders do that map a file and look at every tensor
/// first.
fn first_touch(file: &VirtualFile, offset: u64, len: u64) -> [Option<u64>; 2] {
    let end = offset + len;
    let Some(span) = file.span_at(end - 1) else {
        return [None; 2];
    };
    if span.start < offset || span.end <= end {
        return [None; 2];
    }
    let next = file.block_at(end).map(|block| block.start.max(end));
    [next, Some(span.end)]
}

/// Finds the stream that a request belongs to, or begins one; its number, and the bytes that are to
/// be decoded ahead of it.
fn follow(
    state: &mut State,
    ino: u64,
    (offset, len): (u64, u64),
    window: u64,
) -> (u64, std::ops::Range<u64>) {
    state.requests += 1;
    let (now, end) = (state.requests, offset + len);
    let streams = state.files.entry(ino).or_default();
    let distance = |stream: &Stream| stream.next.abs_diff(offset);
    let nearest = streams.iter_mut().min_by_key(|stream| distance(stream));
    if let Some(stream) = nearest.filter(|stream| distance(stream) <= SLACK) {
        stream.run += end.saturating_sub(stream.next);
        stream.next = stream.next.max(end);
        stream.last = now;
        if stream.run < RUN_MIN {
            return (stream.id, end..end);
        }
        let from = stream.next.max(stream.readahead_end);
        return (stream.id, from..(stream.next + window).max(from));
    }
    // whoever was here last has gone elsewhere: what was queued for it is not wanted any more
    let left = streams.iter().find(|stream| stream.last + 1 == now);
    let left = left.map(|stream| stream.id);
    if streams.len() >= STREAMS_MAX {
        let oldest = (0..streams.len()).min_by_key(|&i| streams[i].last);
        oldest.map(|oldest| streams.swap_remove(oldest));
    }
    streams.push(Stream {
        next: end,
        run: len,
        readahead_end: 0,
        last: now,
        id: now,
    });
    state.queue.retain(|task| Some(task.stream) != left);
    (now, end..end)
}

fn prefetch_queued(shared: &Shared) {
    loop {
        let mut state = shared.state.lock();
        let task = loop {
            if shared.demand.load(Ordering::Relaxed) >= shared.cores && !state.queue.is_empty() {
                shared.work.wait_for(&mut state, YIELD);
                continue;
            }
            if let Some(task) = state.queue.pop_front() {
                break task;
            }
            state.idle += 1;
            let timed_out = shared.work.wait_for(&mut state, IDLE_MAX).timed_out();
            state.idle -= 1;
            if timed_out && state.queue.is_empty() {
                state.threads -= 1;
                return;
            }
        };
        let streams = state.files.get(&task.ino);
        let stream = streams.and_then(|all| all.iter().find(|known| known.id == task.stream));
        let is_past = stream.is_none_or(|stream| stream.next > task.hint_to.unwrap_or(task.offset));
        // a block may be decoded in turns with the next
        let wanted_end = stream.map_or(0, |stream| stream.readahead_end);
        drop(state);
        if !is_past {
            // a fault in here would meet whoever reads there, too
            let work = std::panic::AssertUnwindSafe(|| match task.hint_to {
                Some(end) => task
                    .file
                    .will_read(std::slice::from_ref(&(task.offset..end))),
                None => task.file.prefetch(task.offset, wanted_end),
            });
            let _ = std::panic::catch_unwind(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: u64 = 4 << 20;
    const STEP: u64 = 128 << 10;

    fn readahead_of(state: &mut State, offset: u64) -> u64 {
        let (_, ahead) = follow(state, 7, (offset, STEP), WINDOW);
        ahead.end - ahead.start
    }

    #[test]
    fn a_stream_is_followed_once_it_was_sequential_for_a_while() {
        let mut state = State::default();
        for n in 0..3 {
            assert_eq!(readahead_of(&mut state, n * STEP), 0);
        }
        assert_eq!(readahead_of(&mut state, 3 * STEP), WINDOW);
    }

    #[test]
    fn streams_share_the_window() {
        let mut recent = [7; RECENT];
        assert_eq!(share(WINDOW, &recent), WINDOW);
        recent[5] = 9;
        recent[8] = 9;
        assert_eq!(share(WINDOW, &recent), WINDOW / 2);
        recent[20] = 1;
        assert_eq!(share(WINDOW, &recent), WINDOW / 3);
    }

    #[test]
    fn random_requests_have_nothing_decoded_ahead() {
        let mut state = State::default();
        let mut at = 1_u64;
        for _ in 0..1000 {
            at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            assert_eq!(readahead_of(&mut state, (at >> 20) & !0xfff), 0);
        }
        assert!(state.files[&7].len() <= STREAMS_MAX);
    }

    #[test]
    fn several_streams_of_one_file_are_told_apart() {
        let mut state = State::default();
        for n in 0..10 {
            for stream in 0..STREAMS_MAX as u64 {
                let ahead = readahead_of(&mut state, (stream << 30) + n * STEP);
                assert_eq!(ahead > 0, n >= 3, "request {n} of stream {stream}");
            }
        }
    }
}
