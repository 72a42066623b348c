//! A worker: answers the requests of a mount, until the mount ends or it dies. What it must not
//! take with it then it tells the supervisor meanwhile.

use std::collections::BTreeMap;
use std::collections::BTreeSet;
use std::num::NonZeroU32;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use bigsmall::base::Error;
use bigsmall::base::Result;
use bigsmall::base::mutex::Mutex;
use nix::errno::Errno;
use parking_lot::Condvar;

use crate::adapter::Adapter;
use crate::daemon::link::Link;
use crate::daemon::link::Message;
use crate::daemon::logging;
use crate::daemon::privileges;
use crate::daemon::privileges::Role;
use crate::daemon::program;
use crate::daemon::setup::Setup;
use crate::fs::Fs;
use crate::fs::handover::Handover;
use crate::fs::handover::NodeLocation;
use crate::fs::handover::OpenImage;
use crate::fs::root::Root;
use crate::fs::root::Stat;
use crate::fs::source::Source;
use crate::session::Session;
use crate::wire;
use crate::wire::reply;

/// How often requests are looked at that nobody has answered.
const LOOK: Duration = Duration::from_secs(10);

/// How long the supervisor may take to say whether the kernel reads a file itself. It does no more
/// for that than one call.
const PASS_MAX: Duration = Duration::from_secs(2);

/// The supervisor keeps what must not be lost.
#[derive(Debug)]
struct SupervisorLink {
    link: Arc<Link>,
    can_pass: bool,
    /// What it answered, by handle.
    passed: Mutex<BTreeMap<u64, u32>>,
    answered: Condvar,
}

impl SupervisorLink {
    fn tell(&self, message: &Message, files: &[BorrowedFd<'_>]) {
        // without a supervisor there is no worker after this one, either
        let _ = self.link.send(message, files);
    }

    fn take(&self, handle: u64, number: u32) {
        self.passed.lock().insert(handle, number);
        self.answered.notify_all();
    }
}

impl Handover for SupervisorLink {
    fn remember(&self, ino: u64, location: &NodeLocation) {
        self.tell(&Message::Node(ino, location.clone()), &[]);
    }

    fn forget(&self, ino: u64) {
        self.tell(&Message::Forget(ino), &[]);
    }

    fn hold(&self, handle: u64, ino: u64, file: BorrowedFd<'_>) {
        self.tell(&Message::Held(handle, ino), &[file]);
    }

    fn pass(&self, handle: u64) -> Result<Option<NonZeroU32>, Errno> {
        if !self.can_pass {
            return Ok(None);
        }
        self.tell(&Message::Pass(handle), &[]);
        let until = Instant::now() + PASS_MAX;
        let mut passed = self.passed.lock();
        loop {
            if let Some(number) = passed.remove(&handle) {
                return Ok(NonZeroU32::new(number));
            }
            if self.answered.wait_until(&mut passed, until).timed_out() {
                return Err(Errno::EIO);
            }
        }
    }

    fn close(&self, handle: u64) {
        self.tell(&Message::Close(handle), &[]);
    }

    fn hold_image(&self, ino: u64, location: &NodeLocation, stat: &Stat, image: BorrowedFd<'_>) {
        let message = Message::HeldImage(ino, stat.numbers(), location.clone());
        self.tell(&message, &[image]);
    }

    fn close_image(&self, ino: u64) {
        self.tell(&Message::CloseImage(ino), &[]);
    }

    fn trying(&self, unique: u64) {
        self.tell(&Message::Trying(unique), &[]);
    }

    fn begin(&self, unique: u64) {
        self.tell(&Message::Begun(unique), &[]);
    }

    fn end(&self, unique: u64) {
        self.tell(&Message::Done(unique), &[]);
    }
}

/// All that was said before the beginning.
#[derive(Debug)]
struct Inherited {
    setup: Setup,
    device: OwnedFd,
    folder: OwnedFd,
    nodes: BTreeMap<u64, NodeLocation>,
    held: Vec<(u64, u64, OwnedFd)>,
    images: BTreeMap<u64, OpenImage>,
    refused: BTreeSet<u64>,
    begun: BTreeSet<u64>,
}

fn failed(what: &str, error: impl Into<std::io::Error>) -> Error {
    Error::io(what.to_owned(), Path::new("the mount"), error.into())
}

fn listen(link: &Link) -> Result<Inherited> {
    let silent = || Error::invalid("a worker is started by its supervisor, not by hand");
    let mut buffer = Vec::new();
    let (words, files) = link.receive(&mut buffer).ok_or_else(silent)?;
    let (Message::Begin(words), Ok([device, folder])) = (words, <[OwnedFd; 2]>::try_from(files))
    else {
        return Err(silent());
    };
    let mut inherited = Inherited {
        setup: Setup::decode(&words)?,
        device,
        folder,
        nodes: BTreeMap::new(),
        held: Vec::new(),
        images: BTreeMap::new(),
        refused: BTreeSet::new(),
        begun: BTreeSet::new(),
    };
    loop {
        let (message, files) = link.receive(&mut buffer).ok_or_else(silent)?;
        match message {
            Message::Node(ino, location) => {
                inherited.nodes.insert(ino, location);
            }
            Message::Held(handle, ino) => {
                inherited
                    .held
                    .extend(files.into_iter().map(|file| (handle, ino, file)));
            }
            Message::HeldImage(ino, stat, location) => {
                let stat = Stat::from_numbers(stat);
                let images = files.into_iter().map(|file| OpenImage {
                    location: location.clone(),
                    stat,
                    file,
                });
                inherited.images.extend(images.map(|image| (ino, image)));
            }
            Message::Refuse(unique) => {
                inherited.refused.insert(unique);
            }
            Message::Begun(unique) => {
                inherited.begun.insert(unique);
            }
            Message::Go => return Ok(inherited),
            _ => return Err(silent()),
        }
    }
}

/// The life of a worker.
pub(crate) fn run() -> Result<ExitCode> {
    // whatever the file is called that the program was started from
    let _ = rustix::thread::set_name(program::PROCESS_NAME);
    let link = Arc::new(Link::of_stdin().map_err(|e| failed("cannot be served", e))?);
    let inherited = listen(&link)?;
    let setup = inherited.setup;
    bigsmall::base::file::allow_many_files();
    logging::start(&setup.logging)?;
    privileges::give_up(Role::Worker, setup.in_place);
    // each asker has a mask, and ours does not count
    nix::sys::stat::umask(nix::sys::stat::Mode::empty());
    let path = PathBuf::from(&setup.source);
    let source = Source {
        root: Root::from_fd(inherited.folder, &path),
        path,
        only: setup.only.clone(),
    };
    let mut fs = Fs::new(source, &setup.fs_options())?;
    let supervisor = Arc::new(SupervisorLink {
        link: Arc::clone(&link),
        can_pass: setup.can_pass,
        passed: Mutex::default(),
        answered: Condvar::new(),
    });
    fs.inherit(
        Arc::clone(&supervisor) as _,
        inherited.nodes,
        inherited.images,
    );
    for (handle, ino, file) in inherited.held {
        fs.take_passthrough(handle, ino, file.into());
    }
    let adapter = Adapter {
        fs: Arc::new(fs),
        cache_mode: setup.cache_mode,
        refused: inherited.refused,
        begun: inherited.begun,
    };
    if setup.resend {
        // before anything is read, so that the oldest requests come first
        let again = reply::notification(wire::NOTIFY_RESEND);
        nix::unistd::write(&inherited.device, &again)
            .map_err(|e| failed("cannot take over the requests", e))?;
    }
    let session = Session::new(inherited.device, setup.write_max, adapter);
    session.start();
    link.send(&Message::Ready, &[])
        .map_err(|e| failed("cannot be served", e))?;
    let listener = Arc::clone(&session);
    std::thread::Builder::new()
        .name("supervisor".into())
        .spawn(move || obey(&link, &supervisor, &listener))
        .map_err(|e| failed("cannot start a thread", e))?;
    loop {
        match session.wait_for_end(LOOK) {
            None => session.give_up_late(),
            Some(Ok(())) => return Ok(ExitCode::SUCCESS),
            Some(Err(errno)) => return Err(failed("the device failed", errno)),
        }
    }
}

/// Does what the supervisor says. With that the worker ends, too, and readers get a clear error:
/// nobody would end the mount, or follow this worker.
fn obey(link: &Link, supervisor: &SupervisorLink, session: &Session<Adapter>) {
    let mut buffer = Vec::new();
    while let Some((message, _)) = link.receive(&mut buffer) {
        match message {
            Message::Count => {
                let fs = &session.handler().fs;
                let counters = fs.statistics.counters(&fs.cache, &fs.tensors);
                if let Ok(counters) = serde_json::to_vec(&counters) {
                    let _ = link.send(&Message::Counted(counters), &[]);
                }
            }
            Message::Passed(handle, number) => supervisor.take(handle, number),
            Message::End => break,
            _ => {}
        }
    }
    session.end();
}
