//! The supervisor of a mount: it keeps the device and what a worker must not take with it, starts a
//! worker, and another one when that dies. Readers wait for a moment and see nothing of it.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Child;
use std::process::Command;
use std::process::ExitCode;
use std::process::ExitStatus;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc;
use std::time::Duration;
use std::time::Instant;

use bigsmall::base::Error;
use bigsmall::base::ErrorKind;
use bigsmall::base::Result;
use bigsmall::base::mutex::Mutex;
use parking_lot::Condvar;
use signal_hook::consts::SIGKILL;

use crate::daemon::backing::BackingFiles;
use crate::daemon::link::Link;
use crate::daemon::link::Message;
use crate::daemon::mounting;
use crate::daemon::mounting::Mount;
use crate::daemon::notify;
use crate::daemon::program;
use crate::daemon::setup::Setup;
use crate::fs::handover::NodeLocation;
use crate::fs::handover::OpenImage;
use crate::fs::root::Stat;
use crate::statistics::Counters;

/// Workers in a row that died before they answered requests, before the mount is given up.
const FAILED_STARTS_MAX: u32 = 12;
/// How long to wait after the first such; after each next twice as long as before, up to the last.
const BACKOFF_FIRST: Duration = Duration::from_millis(10);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// Workers that may die by themselves while they try one request, before it gets an error.
const FAULTS_MAX: u32 = 6;
/// Workers that are killed meanwhile count as much less of one.
const TRIES_PER_FAULT: u32 = 100;
/// Most requests of which it is remembered that they were begun.
const BEGUN_MAX: usize = 4096;
/// How often a worker is asked how it is, and how long it may be silent.
const ASK: Duration = Duration::from_secs(15);
const SILENCE_MAX: Duration = Duration::from_secs(45);
/// After a signal, how long open files are still served before the process ends all the same.
const GRACE: Duration = Duration::from_secs(4);
/// How long somebody who asks what was done waits for the worker.
const COUNT_MAX: Duration = Duration::from_millis(500);

/// What outlives a worker.
#[derive(Debug, Default)]
struct SupervisorState {
    nodes: BTreeMap<u64, NodeLocation>,
    held: BTreeMap<u64, (u64, OwnedFd)>,
    images: BTreeMap<u64, OpenImage>,
    backing: BackingFiles,
    /// Requests that change names and are not answered yet, as far as is known.
    begun: BTreeSet<u64>,
    /// Requests that were resent, and how many workers tried each.
    tries: BTreeMap<u64, AttemptCounts>,
    /// What the worker has done, and those before it.
    counters: Counters,
    earlier: Counters,
    /// How many times it has said so.
    counts: u64,
    heard: Option<Instant>,
    worker: Option<Worker>,
    /// Workers that died.
    deaths: u64,
}

#[derive(Debug, Default)]
struct AttemptCounts {
    /// By workers that died since.
    all: u32,
    in_this_life: u32,
}

impl SupervisorState {
    /// What a worker that is gone had done counts on, and what it died of is remembered.
    fn reap(&mut self, status: Option<ExitStatus>) {
        let is_killed = status.and_then(|status| status.signal()) == Some(SIGKILL);
        // killed from outside: mostly that is no request's fault, and it may happen very often
        let weight = if is_killed { 1 } else { TRIES_PER_FAULT };
        for tries in self.tries.values_mut() {
            tries.all += std::mem::take(&mut tries.in_this_life) * weight;
        }
        let counters = std::mem::take(&mut self.counters);
        self.earlier = counters.after(&self.earlier);
        self.deaths += 1;
        self.worker = None;
    }

    /// Requests of which too many workers died.
    fn refused(&self) -> impl Iterator<Item = u64> {
        let refused = |tries: &AttemptCounts| tries.all >= FAULTS_MAX * TRIES_PER_FAULT;
        let tries = self.tries.iter();
        tries
            .filter(move |(_, tries)| refused(tries))
            .map(|(&unique, _)| unique)
    }
}

#[derive(Debug, Clone)]
struct Worker {
    pid: u32,
    link: Arc<Link>,
}

/// What other threads see of it.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    state: Mutex<SupervisorState>,
    counted: Condvar,
}

/// What is told of a mount and its processes.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub(crate) counters: Counters,
    pub(crate) worker_pid: Option<u32>,
    pub(crate) deaths: u64,
}

impl Shared {
    /// What the mount has done until now; what the worker told last if it is slow to answer.
    pub(crate) fn state(&self) -> Snapshot {
        let mut state = self.state.lock();
        let worker = state.worker.clone();
        if let Some(worker) = &worker
            && worker.link.send(&Message::Count, &[]).is_ok()
        {
            let before = state.counts;
            while state.counts == before
                && !self.counted.wait_for(&mut state, COUNT_MAX).timed_out()
            {}
        }
        Snapshot {
            counters: state.counters.clone().after(&state.earlier),
            worker_pid: worker.map(|worker| worker.pid),
            deaths: state.deaths,
        }
    }

    fn take(&self, message: Message, mut files: Vec<OwnedFd>) -> Option<Event> {
        let mut state = self.state.lock();
        match message {
            Message::Node(ino, location) => {
                state.nodes.insert(ino, location);
            }
            Message::Forget(ino) => {
                state.nodes.remove(&ino);
            }
            Message::HeldImage(ino, stat, location) => {
                let (file, stat) = (files.pop()?, Stat::from_numbers(stat));
                state.images.insert(
                    ino,
                    OpenImage {
                        location,
                        stat,
                        file,
                    },
                );
            }
            Message::CloseImage(ino) => {
                state.images.remove(&ino);
            }
            Message::Begun(unique) => {
                state.begun.insert(unique);
                if state.begun.len() > BEGUN_MAX {
                    state.begun.pop_first();
                }
            }
            Message::Done(unique) => {
                state.begun.remove(&unique);
            }
            Message::Held(handle, ino) => {
                let file = files.pop()?;
                state.held.insert(handle, (ino, file));
            }
            Message::Pass(handle) => {
                let state = &mut *state;
                let held = state.held.get(&handle);
                let number = held.and_then(|(ino, file)| state.backing.give(*ino, file.as_fd()));
                let message = Message::Passed(handle, number.map_or(0, NonZeroU32::get));
                // a worker that is gone meanwhile does not wait
                let _ = state.worker.as_ref()?.link.send(&message, &[]);
            }
            Message::Close(handle) => {
                let (closed, _) = state.held.remove(&handle)?;
                if !state.held.values().any(|(ino, _)| *ino == closed) {
                    state.backing.take_back(closed);
                }
            }
            Message::Trying(unique) => {
                state.tries.entry(unique).or_default().in_this_life = 1;
            }
            Message::Ready => {
                state.heard = Some(Instant::now());
                return Some(Event::Ready);
            }
            Message::Counted(counters) => {
                state.counters = serde_json::from_slice(&counters).unwrap_or_default();
                state.counts += 1;
                state.heard = Some(Instant::now());
                self.counted.notify_all();
            }
            _ => {}
        }
        None
    }
}

/// What the supervisor waits for.
#[derive(Debug)]
pub(crate) enum Event {
    /// A signal to end.
    Signal(i32),
    /// A worker answers requests.
    Ready,
    /// A worker is gone.
    Ended(Option<ExitStatus>),
}

/// The supervisor of one mount.
pub(crate) struct Supervisor {
    pub(crate) mount: Mount,
    pub(crate) setup: Setup,
    /// The source's folder.
    pub(crate) folder: OwnedFd,
    pub(crate) shared: Arc<Shared>,
    pub(crate) events: mpsc::Receiver<Event>,
    pub(crate) sender: mpsc::Sender<Event>,
}

impl Supervisor {
    fn mountpoint(&self) -> &Path {
        &self.mount.mountpoint
    }

    /// Serves the mount until it ends. `announce` is called when it is usable.
    pub(crate) fn run(mut self, announce: impl FnOnce() -> Result<()>) -> Result<ExitCode> {
        let mut announce = Some(announce);
        let mut failed_starts = 0;
        self.begin_passthrough();
        loop {
            self.start_worker()?;
            failed_starts += 1;
            let status = loop {
                match self.events.recv_timeout(ASK) {
                    Ok(Event::Ready) => {
                        failed_starts = 0;
                        if let Some(announce) = announce.take() {
                            announce()?;
                            notify::say("READY=1");
                        }
                    }
                    Ok(Event::Signal(signal)) => return self.stop(signal),
                    Ok(Event::Ended(status)) => break status,
                    Err(mpsc::RecvTimeoutError::Timeout) => self.look_after_worker(),
                    Err(mpsc::RecvTimeoutError::Disconnected) => {
                        unreachable!("this has a sender, too")
                    }
                }
            };
            self.shared.state.lock().reap(status);
            if status.is_some_and(|status| status.success()) {
                return Ok(ExitCode::SUCCESS);
            }
            let is_hopeless = announce.is_some() || failed_starts > FAILED_STARTS_MAX;
            if is_hopeless {
                // readers get an error, and nothing hangs
                let _ = self.mount.end(true);
                let error = Error::new(ErrorKind::Io, "the worker cannot be kept alive");
                return Err(error.file(self.mountpoint()));
            }
            let how = status.map(|status| status.to_string());
            tracing::warn!(
                "a worker died ({}): another one follows",
                how.unwrap_or_default()
            );
            if let Some(code) = self.back_off(failed_starts)? {
                return Ok(code);
            }
            if !self.mount.connection.can_resend {
                self.mount_again()?;
            }
        }
    }

    /// Sees whether the kernel takes files of this source to read and write itself.
    fn begin_passthrough(&mut self) {
        let connection = &self.mount.connection;
        if connection.can_pass
            && connection.can_resend
            && let Ok(device) = self.mount.device.try_clone()
        {
            let backing = BackingFiles::new(device, self.folder.as_fd());
            self.setup.can_pass = backing.is_allowed();
            self.shared.state.lock().backing = backing;
        }
    }

    /// After workers that never answered anything the next one waits; a signal may come meanwhile.
    fn back_off(&self, failed_starts: u32) -> Result<Option<ExitCode>> {
        let Some(doublings) = failed_starts.checked_sub(1) else {
            return Ok(None);
        };
        let wait = BACKOFF_FIRST.saturating_mul(1 << doublings);
        match self.events.recv_timeout(wait.min(BACKOFF_MAX)) {
            Ok(Event::Signal(signal)) => self.stop(signal).map(Some),
            _ => Ok(None),
        }
    }

    /// An older kernel asks for nothing twice: who waits gets an error, and the mount is made anew.
    fn mount_again(&mut self) -> Result<()> {
        tracing::warn!(
            "this kernel cannot ask again: readers get errors, and the mount is made anew"
        );
        self.mount.renew()?;
        *self.shared.state.lock() = SupervisorState::default();
        self.setup.write_max = self.mount.connection.write_max;
        Ok(())
    }

    fn start_worker(&mut self) -> Result<()> {
        let mountpoint = self.mount.mountpoint.clone();
        let failed = |e| Error::io("cannot start a worker", &mountpoint, e);
        let (link, theirs) = Link::pair().map_err(failed)?;
        // this program, even if another one has its name meanwhile
        let child = Command::new("/proc/self/exe")
            .arg0(program::PROGRAM_NAME)
            .arg(program::WORKER)
            // many threads come and go: what one has freed another shall take
            .env("MALLOC_ARENA_MAX", "2")
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .stderr(self.setup.logging.stderr())
            .current_dir("/")
            // a signal for us from a terminal is not for it
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let link = Arc::new(link);
        {
            let mut state = self.shared.state.lock();
            state.heard = Some(Instant::now());
            state.worker = Some(Worker {
                pid: child.id(),
                link: Arc::clone(&link),
            });
            // one that dies while it is told this is followed by another
            let _ = self.hand_over(&link, &state);
        }
        self.setup.life += 1;
        self.setup.resend = self.mount.connection.can_resend;
        let (shared, sender) = (Arc::clone(&self.shared), self.sender.clone());
        std::thread::Builder::new()
            .name("worker".into())
            .spawn(move || listen(&link, child, &shared, &sender))
            .map_err(failed)?;
        Ok(())
    }

    fn hand_over(&self, link: &Link, state: &SupervisorState) -> std::io::Result<()> {
        let words = self.setup.encode().map_err(std::io::Error::other)?;
        let files = [self.mount.device.as_fd(), self.folder.as_fd()];
        link.send(&Message::Begin(words), &files)?;
        for (ino, location) in &state.nodes {
            link.send(&Message::Node(*ino, location.clone()), &[])?;
        }
        for (handle, (ino, file)) in &state.held {
            link.send(&Message::Held(*handle, *ino), &[file.as_fd()])?;
        }
        for (ino, image) in &state.images {
            let message = Message::HeldImage(*ino, image.stat.numbers(), image.location.clone());
            link.send(&message, &[image.file.as_fd()])?;
        }
        for unique in &state.begun {
            link.send(&Message::Begun(*unique), &[])?;
        }
        for unique in state.refused() {
            tracing::error!("too many workers died of one request: it gets an error");
            link.send(&Message::Refuse(unique), &[])?;
        }
        link.send(&Message::Go, &[])
    }

    /// Asks the worker what it has done. One that is silent for long is ended: another one will do.
    fn look_after_worker(&self) {
        let mut state = self.shared.state.lock();
        let Some(worker) = state.worker.clone() else {
            return;
        };
        if state
            .heard
            .is_some_and(|heard| heard.elapsed() > SILENCE_MAX)
        {
            tracing::error!("the worker says nothing: it is ended, another one follows");
            state.heard = None;
            drop(state);
            end_process(worker.pid);
            return;
        }
        let _ = worker.link.send(&Message::Count, &[]);
        // what was tried this long ago did not kill it
        state.tries.clear();
    }

    /// Ends the mount: first gently, then without asking; whatever is open goes on for a short
    /// while.
    fn stop(&self, signal: i32) -> Result<ExitCode> {
        let mountpoint = self.mountpoint();
        tracing::info!("signal {signal}: unmounting `{}`", mountpoint.display());
        notify::say("STOPPING=1");
        let worker = self.shared.state.lock().worker.clone();
        if mounting::mounted_at(mountpoint)? == mounting::MountedHere::Foreign {
            // unmounting works by name, and would take that away
            tracing::warn!(
                "something else is mounted over `{}`: ours ends below it",
                mountpoint.display()
            );
        } else {
            self.mount.end(false).or_else(|_| self.mount.end(true))?;
            let begun = Instant::now();
            while let Some(left) = GRACE.checked_sub(begun.elapsed()) {
                match self.events.recv_timeout(left) {
                    Ok(Event::Ended(_)) => return Ok(ExitCode::SUCCESS),
                    Ok(_) => {}
                    Err(_) => break,
                }
            }
            tracing::warn!("`{}` had open files", mountpoint.display());
        }
        if let Some(worker) = worker {
            let _ = worker.link.send(&Message::End, &[]);
            if self.events.recv_timeout(COUNT_MAX).is_err() {
                end_process(worker.pid);
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Ends a worker that does not end by itself. Its number is its own until it was waited for, which
/// is after its link has ended.
fn end_process(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        let pid = nix::unistd::Pid::from_raw(pid);
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL);
    }
}

/// Takes what a worker says, until it is gone.
fn listen(link: &Link, mut child: Child, shared: &Shared, sender: &mpsc::Sender<Event>) {
    let mut buffer = Vec::new();
    while let Some((message, files)) = link.receive(&mut buffer) {
        if let Some(event) = shared.take(message, files) {
            let _ = sender.send(event);
        }
    }
    let _ = sender.send(Event::Ended(child.wait().ok()));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A worker tries request 7 and dies of it.
    fn die(shared: &Shared, raw_status: i32) -> Vec<u64> {
        assert!(shared.take(Message::Trying(7), Vec::new()).is_none());
        let mut state = shared.state.lock();
        state.reap(Some(ExitStatus::from_raw(raw_status)));
        state.refused().collect()
    }

    #[test]
    fn a_request_of_which_workers_die_again_and_again_is_refused() {
        let shared = Shared::default();
        for _ in 1..FAULTS_MAX {
            assert!(die(&shared, nix::libc::SIGABRT).is_empty());
        }
        assert_eq!(die(&shared, nix::libc::SIGABRT), [7]);
        assert_eq!(shared.state.lock().deaths, u64::from(FAULTS_MAX));
    }

    #[test]
    fn workers_that_are_killed_count_little_against_a_request() {
        let shared = Shared::default();
        for _ in 0..200 {
            assert!(die(&shared, SIGKILL).is_empty());
        }
    }
}
