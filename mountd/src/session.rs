//! The request loop. Its threads take turns at the device: whoever reads a request answers it, and
//! there is always another one that waits for the next, so that no request waits for a disk or a
//! decoder that another one needs. A file that is slow holds only its share of the threads. The
//! crate that mounts are mostly made with cannot take over a connection that lives already, and
//! this one must: a worker that dies is followed by another (`docs/mount.md`).
//!
//! A read whose block is decoded already takes three locks, which a test of `adapter` counts:
//!
//! - of the open files (`fs::open_files`);
//! - of the decoded blocks (`bigsmall::archive::BlockCache`), once for each block;
//! - of the streams (`fs::readahead`), after the reply.
//!
//! Threads at the device and reads that hold blocks (`fs::admission`) are counted without one; the
//! share that a thread works for, and a read that may be late, stand in a slot of that thread
//! (`shares`).

use std::io::IoSlice;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bigsmall::base::mutex::Mutex;
use nix::errno::Errno;
use nix::sys::uio::writev;
use parking_lot::Condvar;

use crate::shares::Share;
use crate::shares::Shares;
use crate::shares::Slot;
use crate::shares::THREADS_MAX;
use crate::wire::Reply;
use crate::wire::Request;
use crate::wire::reply;

/// Threads that may wait at the device; more of them end.
const WAITING_MAX: usize = 6;
/// A reader gets an error after this: a disk or a network may never answer, and nobody shall wait
/// without a limit.
const ANSWER_MAX: Duration = Duration::from_mins(1);

/// Who answers requests.
pub(crate) trait Handler: Send + Sync + 'static {
    /// What a request needs.
    fn share(&self, request: &Request<'_>) -> Share;
    /// Answers a request, or drops `answer` for a plain error.
    fn handle(&self, request: &Request<'_>, answer: Answer<'_>);
}

/// A connection to the kernel.
pub(crate) struct Session<H> {
    device: OwnedFd,
    buffer_len: usize,
    handler: H,
    shares: Shares,
    threads: AtomicUsize,
    /// Threads at the device.
    waiting: AtomicUsize,
    has_ended: AtomicBool,
    /// The mount has ended, or the device fails.
    end: Mutex<Option<Result<(), Errno>>>,
    ended: Condvar,
}

/// The right to answer one request, once.
pub(crate) struct Answer<'a> {
    device: &'a OwnedFd,
    slot: &'a Slot<'a>,
    unique: u64,
    is_read: bool,
    done: bool,
}

impl Answer<'_> {
    /// Whether it is still for us to answer.
    fn take(&mut self) -> bool {
        let first = !std::mem::replace(&mut self.done, true);
        first && (!self.is_read || self.slot.take_read(self.unique))
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
            shares: Shares::new(),
            threads: AtomicUsize::new(0),
            waiting: AtomicUsize::new(0),
            has_ended: AtomicBool::new(false),
            end: Mutex::default(),
            ended: Condvar::new(),
        })
    }

    /// Who answers.
    pub(crate) fn handler(&self) -> &H {
        &self.handler
    }

    /// Begins to answer.
    pub(crate) fn start(self: &Arc<Self>) {
        self.threads.fetch_add(1, Ordering::SeqCst);
        self.spawn();
    }

    /// The end of the mount, waited for at most so long; none if it goes on.
    pub(crate) fn wait_for_end(&self, at_most: Duration) -> Option<Result<(), Errno>> {
        let mut end = self.end.lock();
        if end.is_none() {
            self.ended.wait_for(&mut end, at_most);
        }
        *end
    }

    /// Ends, although the mount goes on.
    pub(crate) fn end(&self) {
        self.end_with(Ok(()));
    }

    fn end_with(&self, end: Result<(), Errno>) {
        self.has_ended.store(true, Ordering::SeqCst);
        *self.end.lock() = Some(end);
        self.ended.notify_all();
    }

    /// Answers with an error what was asked for too long ago.
    pub(crate) fn give_up_late(&self) {
        for unique in self.shares.take_late(ANSWER_MAX) {
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
            self.threads.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn serve(self: &Arc<Self>) {
        let slot = self.shares.slot();
        // touched only as far as requests fill it
        let mut buffer = vec![0; self.buffer_len];
        while self.may_wait_at_device() {
            let read = nix::unistd::read(&self.device, &mut buffer);
            let is_missed = self.waiting.fetch_sub(1, Ordering::SeqCst) == 1;
            match read {
                Ok(len) => {
                    if is_missed && Self::one_more(&self.threads, THREADS_MAX) {
                        self.spawn();
                    }
                    self.take_in(&slot, &buffer[..len]);
                }
                // the request went away, or somebody looks at us with a debugger
                Err(Errno::ENOENT | Errno::EINTR | Errno::EAGAIN) => {}
                Err(errno) => {
                    self.end_with((errno == Errno::ENODEV).then_some(()).ok_or(errno));
                    break;
                }
            }
        }
        drop(slot);
        self.threads.fetch_sub(1, Ordering::SeqCst);
    }

    /// Whether a thread is to wait for the next request: it is counted then.
    fn may_wait_at_device(&self) -> bool {
        !self.has_ended.load(Ordering::SeqCst) && Self::one_more(&self.waiting, WAITING_MAX)
    }

    /// Counts one more, unless there are that many.
    fn one_more(counter: &AtomicUsize, most: usize) -> bool {
        let more = |n| (n < most).then_some(n + 1);
        let counted = counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, more);
        counted.is_ok()
    }

    /// Whether no request is being answered or waits for that.
    pub(crate) fn is_idle(&self) -> bool {
        self.shares.are_idle()
    }

    /// Answers a request as one of the threads does, on this one.
    pub(crate) fn take(&self, bytes: &[u8]) {
        self.take_in(&self.shares.slot(), bytes);
    }

    /// Answers a request if its share of the threads allows, and what was queued behind it; else
    /// queues it.
    fn take_in(&self, slot: &Slot<'_>, bytes: &[u8]) {
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
            return self.answer(slot, &request, false);
        };
        if !slot.enter(key, bytes) {
            return;
        }
        self.answer(slot, &request, key.is_read());
        let mut key = key;
        while let Some((next, bytes)) = slot.leave(key) {
            key = next;
            if let Ok(request) = Request::parse(&bytes) {
                self.answer(slot, &request, key.is_read());
            }
        }
    }

    fn answer(&self, slot: &Slot<'_>, request: &Request<'_>, is_read: bool) {
        if is_read {
            slot.begin_read(request.unique);
        }
        let answer = Answer {
            device: &self.device,
            slot,
            unique: request.unique,
            is_read,
            done: false,
        };
        // a fault in one request is that request's fault; it is answered with EIO when it is
        // dropped unanswered
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

    /// Reads of file 1 wait until a test releases them; whatever else is answered at
    /// once.
    struct BlockedReads {
        released: Mutex<mpsc::Receiver<()>>,
        handled: AtomicUsize,
    }

    impl Handler for BlockedReads {
        fn share(&self, request: &Request<'_>) -> Share {
            Share::Read(request.node)
        }

        fn handle(&self, request: &Request<'_>, answer: Answer<'_>) {
            if request.node == 1 {
                let _ = self.released.lock().recv();
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

    fn session() -> (UnixDatagram, mpsc::Sender<()>, Arc<Session<BlockedReads>>) {
        // datagrams keep their bounds, as requests do
        let (kernel, device) = UnixDatagram::pair().unwrap();
        kernel
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        let (release, released) = mpsc::channel();
        let blocked = BlockedReads {
            released: Mutex::new(released),
            handled: AtomicUsize::new(0),
        };
        let session = Session::new(device.into(), 4096, blocked);
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
        let (device, shares) = (OwnedFd::from(device), Shares::new());
        let slot = shares.slot();
        let answer = Answer {
            device: &device,
            slot: &slot,
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
