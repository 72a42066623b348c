//! The request loop. Its threads take turns at the device: whoever reads a request answers it, and there is always another one
//! that waits for the next, so that no request waits for a disk or a decoder that another one needs. A file that is slow holds
//! only its share of the threads. The crate that mounts are mostly made with cannot take over a connection that lives already,
//! and this one must: a worker that dies is followed by another (`docs/mount.md`).

use std::collections::BTreeMap;
use std::collections::VecDeque;
use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::uio::writev;
use parking_lot::Condvar;
use parking_lot::Mutex;

use crate::wire::Reply;
use crate::wire::Request;
use crate::wire::reply;

/// Most threads.
const THREADS_MAX: usize = 64;
/// Most threads that answer reads at once: the others are for names, and one for the device.
const READS_MAX: usize = 48;
/// Most threads that work for one file, or for names in one folder.
const PER_SHARE_MAX: usize = 8;
/// Threads that may wait at the device; more of them end.
const WAITING_MAX: usize = 6;
/// A reader gets an error after this: a disk or a network may never answer, and nobody shall wait without a limit.
const ANSWER_MAX: Duration = Duration::from_mins(1);

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

impl Share {
    fn key(self) -> Option<(bool, u64)> {
        match self {
            Self::None => None,
            Self::Read(ino) => Some((true, ino)),
            Self::Names(ino) => Some((false, ino)),
        }
    }
}

/// Who answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// What a request needs.
    fn share(&self, request: &Request<'_>) -> Share;
    /// Answers a request, or drops `answer` for a plain error.
    fn handle(&self, request: &Request<'_>, answer: Answer<'_>);
}

#[derive(Debug, Default)]
struct State {
    threads: usize,
    /// Threads at the device.
    waiting: usize,
    /// Threads at work, by share.
    busy: BTreeMap<(bool, u64), usize>,
    busy_reads: usize,
    /// Requests whose share is used up, in order.
    queued: BTreeMap<(bool, u64), VecDeque<Vec<u8>>>,
    /// Reads beyond the number for all of them.
    queued_reads: VecDeque<(u64, Vec<u8>)>,
    /// When each read that is being answered was taken up.
    since: BTreeMap<u64, Instant>,
    /// The mount has ended, or the device fails.
    end: Option<Result<(), Errno>>,
}

/// A connection to the kernel.
pub(crate) struct Session<H> {
    device: OwnedFd,
    buffer_len: usize,
    handler: H,
    state: Mutex<State>,
    ended: Condvar,
}

/// The right to answer one request, once.
pub(crate) struct Answer<'a> {
    device: &'a OwnedFd,
    state: &'a Mutex<State>,
    unique: u64,
    is_read: bool,
    done: bool,
}

impl Answer<'_> {
    /// Whether it is still for us to answer.
    fn take(&mut self) -> bool {
        let first = !std::mem::replace(&mut self.done, true);
        first && (!self.is_read || self.state.lock().since.remove(&self.unique).is_some())
    }

    fn write(&self, error: Option<Errno>, parts: &[IoSlice<'_>]) {
        let len = parts.iter().map(|part| part.len()).sum();
        let header = reply::header(self.unique, error, len);
        let mut all = Vec::with_capacity(parts.len() + 1);
        all.push(IoSlice::new(&header));
        all.extend_from_slice(parts);
        match writev(self.device, &all) {
            // who asked does not wait any more, or the mount has ended
            Ok(_) | Err(Errno::ENOENT | Errno::ENODEV) => {}
            Err(errno) => {
                tracing::error!("a reply was not taken: {errno}");
                // whoever asked must not wait for ever
                let header = reply::header(self.unique, Some(Errno::EIO), 0);
                let _ = writev(self.device, &[IoSlice::new(&header)]);
            }
        }
    }

    /// Sends a reply.
    pub(crate) fn send(mut self, reply: &Reply) {
        if self.take() {
            self.write(None, &[IoSlice::new(reply.body())]);
        }
    }

    /// Sends bytes straight from where they are.
    pub(crate) fn send_parts(mut self, parts: &[IoSlice<'_>]) {
        if self.take() {
            self.write(None, parts);
        }
    }

    /// Sends an error.
    pub(crate) fn error(mut self, errno: Errno) {
        if self.take() {
            self.write(Some(errno), &[]);
        }
    }

    /// Nothing is to be sent.
    pub(crate) fn none(mut self) {
        let _ = self.take();
    }

    /// A reply or an error.
    pub(crate) fn result(self, result: Result<Reply, Errno>) {
        match result {
            Ok(reply) => self.send(&reply),
            Err(errno) => self.error(errno),
        }
    }
}

impl Drop for Answer<'_> {
    fn drop(&mut self) {
        // a fault of the program on the way
        if self.take() {
            self.write(Some(Errno::EIO), &[]);
        }
    }
}

impl<H: Handler> Session<H> {
    /// On a device whose connection is made. `write_max` is what was agreed on there.
    pub(crate) fn new(device: OwnedFd, write_max: u32, handler: H) -> Arc<Self> {
        Arc::new(Self {
            device,
            // a smaller buffer is refused by the kernel
            buffer_len: (write_max as usize + 4096).max(8192),
            handler,
            state: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// Who answers.
    pub(crate) fn handler(&self) -> &H {
        &self.handler
    }

    /// Begins to answer.
    pub(crate) fn start(self: &Arc<Self>) {
        self.state.lock().threads += 1;
        self.spawn();
    }

    /// The end of the mount, waited for at most so long; none if it goes on.
    pub(crate) fn wait_for_end(&self, at_most: Duration) -> Option<Result<(), Errno>> {
        let mut state = self.state.lock();
        if state.end.is_none() {
            self.ended.wait_for(&mut state, at_most);
        }
        state.end
    }

    /// Ends, although the mount goes on.
    pub(crate) fn end(&self) {
        self.state.lock().end = Some(Ok(()));
        self.ended.notify_all();
    }

    /// Answers with an error what was asked for too long ago.
    pub(crate) fn give_up_late(&self) {
        let mut state = self.state.lock();
        let is_late = |since: &Instant| since.elapsed() > ANSWER_MAX;
        let late = state.since.iter().filter(|(_, since)| is_late(since));
        let late: Vec<u64> = late.map(|(&unique, _)| unique).collect();
        for unique in &late {
            state.since.remove(unique);
        }
        drop(state);
        for unique in late {
            tracing::error!(
                "a read got no bytes for {} s: given up",
                ANSWER_MAX.as_secs()
            );
            let header = reply::header(unique, Some(Errno::EIO), 0);
            let _ = writev(&self.device, &[IoSlice::new(&header)]);
        }
    }

    /// A thread that was counted already.
    fn spawn(self: &Arc<Self>) {
        let session = Arc::clone(self);
        let thread = std::thread::Builder::new().name("reply".into());
        if let Err(error) = thread.spawn(move || session.serve()) {
            tracing::error!("cannot start a thread: {error}");
            self.state.lock().threads -= 1;
        }
    }

    fn serve(self: &Arc<Self>) {
        // touched only as far as requests fill it
        let mut buffer = vec![0; self.buffer_len];
        loop {
            {
                let mut state = self.state.lock();
                if state.waiting >= WAITING_MAX || state.end.is_some() {
                    state.threads -= 1;
                    return;
                }
                state.waiting += 1;
            }
            let read = nix::unistd::read(&self.device, &mut buffer);
            let mut state = self.state.lock();
            state.waiting -= 1;
            let is_missed = state.waiting == 0 && state.threads < THREADS_MAX;
            match read {
                Ok(len) => {
                    state.threads += usize::from(is_missed);
                    drop(state);
                    if is_missed {
                        self.spawn();
                    }
                    self.take(&buffer[..len]);
                }
                // the request went away, or somebody looks at us with a debugger
                Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => {
                    state.threads -= 1;
                    let end = (errno == Errno::ENODEV).then_some(()).ok_or(errno);
                    state.end = Some(end);
                    self.ended.notify_all();
                    return;
                }
            }
        }
    }

    /// Whether no request is being answered or waits for that.
    pub(crate) fn is_idle(&self) -> bool {
        let state = self.state.lock();
        let queued = state.queued.is_empty() && state.queued_reads.is_empty();
        queued && state.busy.is_empty() && state.busy_reads == 0 && state.since.is_empty()
    }

    /// Answers a request if its share of the threads allows, and what was queued behind it; else queues it.
    pub(crate) fn take(&self, bytes: &[u8]) {
        let request = match Request::parse(bytes) {
            Ok(request) => request,
            Err(malformed) => {
                tracing::error!("a request that is none: {} bytes", bytes.len());
                if let Some(unique) = malformed.unique {
                    let header = reply::header(unique, Some(Errno::EIO), 0);
                    let _ = writev(&self.device, &[IoSlice::new(&header)]);
                }
                return;
            }
        };
        let Some(key) = self.handler.share(&request).key() else {
            return self.answer(&request, false);
        };
        {
            let mut state = self.state.lock();
            let (is_read, file) = key;
            if state.busy.get(&key).copied().unwrap_or(0) >= PER_SHARE_MAX {
                let queue = state.queued.entry(key).or_default();
                return queue.push_back(bytes.to_owned());
            }
            if is_read && state.busy_reads >= READS_MAX {
                return state.queued_reads.push_back((file, bytes.to_owned()));
            }
            *state.busy.entry(key).or_default() += 1;
            state.busy_reads += usize::from(is_read);
        }
        self.answer(&request, key.0);
        let mut key = key;
        while let Some((next, bytes)) = self.after(key) {
            key = next;
            if let Ok(request) = Request::parse(&bytes) {
                self.answer(&request, key.0);
            }
        }
    }

    /// What this thread does after a request of a share: the next of it, or another read. Without any its place is free.
    fn after(&self, key: (bool, u64)) -> Option<((bool, u64), Vec<u8>)> {
        let mut state = self.state.lock();
        if let Some(bytes) = state.queued.get_mut(&key).and_then(VecDeque::pop_front) {
            return Some((key, bytes));
        }
        state.queued.remove(&key);
        if let Some(busy) = state.busy.get_mut(&key) {
            *busy -= 1;
            if *busy == 0 {
                state.busy.remove(&key);
            }
        }
        if !key.0 {
            return None;
        }
        // a read whose file has used up its share meanwhile waits with the others of that file
        while let Some((file, bytes)) = state.queued_reads.pop_front() {
            let key = (true, file);
            if state.busy.get(&key).copied().unwrap_or(0) < PER_SHARE_MAX {
                *state.busy.entry(key).or_default() += 1;
                return Some((key, bytes));
            }
            state.queued.entry(key).or_default().push_back(bytes);
        }
        state.busy_reads -= 1;
        None
    }

    fn answer(&self, request: &Request<'_>, is_read: bool) {
        if is_read {
            let mut state = self.state.lock();
            state.since.insert(request.unique, Instant::now());
        }
        let answer = Answer {
            device: &self.device,
            state: &self.state,
            unique: request.unique,
            is_read,
            done: false,
        };
        // a fault in one request is that request's fault; it is answered with EIO when it is dropped unanswered
        let handle = || self.handler.handle(request, answer);
        if std::panic::catch_unwind(std::panic::AssertUnwindSafe(handle)).is_err() {
            tracing::error!("a request failed by a fault of the program");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixDatagram;
    use std::sync::atomic::AtomicUsize;
    use std::sync::atomic::Ordering;
    use std::sync::mpsc;

    /// Reads of file 1 wait for the gate, which a test may leave shut; whatever else is answered at once.
    struct Gated {
        gate: Mutex<mpsc::Receiver<()>>,
        handled: AtomicUsize,
    }

    impl Handler for Gated {
        fn share(&self, request: &Request<'_>) -> Share {
            Share::Read(request.node)
        }

        fn handle(&self, request: &Request<'_>, answer: Answer<'_>) {
            if request.node == 1 {
                let _ = self.gate.lock().recv();
            }
            assert!(request.node != 7, "a fault");
            self.handled.fetch_add(1, Ordering::Relaxed);
            answer.send(&Reply::empty());
        }
    }

    fn request(unique: u64, node: u64) -> Vec<u8> {
        let mut bytes = vec![0; 40];
        bytes[0] = 40;
        bytes[4] = 17;
        bytes[8..16].copy_from_slice(&unique.to_le_bytes());
        bytes[16..24].copy_from_slice(&node.to_le_bytes());
        bytes
    }

    fn session() -> (UnixDatagram, mpsc::Sender<()>, Arc<Session<Gated>>) {
        // datagrams keep their bounds, as requests do
        let (kernel, device) = UnixDatagram::pair().unwrap();
        kernel
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let (release, gate) = mpsc::channel();
        let gated = Gated {
            gate: Mutex::new(gate),
            handled: AtomicUsize::new(0),
        };
        let session = Session::new(device.into(), 4096, gated);
        session.start();
        (kernel, release, session)
    }

    fn answered(kernel: &UnixDatagram) -> (u64, i32) {
        let mut reply = [0; 64];
        assert_eq!(kernel.recv(&mut reply).unwrap(), 16);
        let unique = u64::from_le_bytes(reply[8..16].try_into().unwrap());
        (unique, i32::from_le_bytes(reply[4..8].try_into().unwrap()))
    }

    #[test]
    fn a_slow_file_does_not_stall_another() {
        let (kernel, release, _session) = session();
        for unique in 1..=60 {
            kernel.send(&request(unique, 1)).unwrap();
        }
        kernel.send(&request(99, 2)).unwrap();
        assert_eq!(answered(&kernel), (99, 0));
        drop(release);
        let mut rest: Vec<u64> = (0..60).map(|_| answered(&kernel).0).collect();
        rest.sort_unstable();
        assert!(rest.into_iter().eq(1..=60));
    }

    #[test]
    fn a_reply_that_is_not_taken_is_an_error_for_who_asked() {
        let (kernel, device) = UnixDatagram::pair().unwrap();
        let (device, state) = (OwnedFd::from(device), Mutex::default());
        let answer = Answer {
            device: &device,
            state: &state,
            unique: 5,
            is_read: false,
            done: false,
        };
        // more parts than one call may write
        answer.send_parts(&vec![IoSlice::new(b"x"); 2000]);
        assert_eq!(answered(&kernel), (5, -5));
    }

    #[test]
    fn a_fault_costs_only_its_request() {
        let (kernel, _release, session) = session();
        for unique in 1..=200_u64 {
            kernel.send(&request(unique, 5 + unique % 3)).unwrap();
            let expected = if unique % 3 == 2 { -5 } else { 0 };
            assert_eq!(answered(&kernel), (unique, expected));
        }
        assert_eq!(session.handler().handled.load(Ordering::Relaxed), 133);
    }
}
