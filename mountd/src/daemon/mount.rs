//! `mount`: started in the background, announced when usable.

use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::mpsc;

use bigsmall::base::Error;
use bigsmall::base::Result;
use bigsmall::base::error::escaped;
use bigsmall::cli::exit::complain;
use signal_hook::consts::SIGHUP;
use signal_hook::consts::SIGINT;
use signal_hook::consts::SIGTERM;
use signal_hook::iterator::Signals;

use crate::adapter::CacheMode;
use crate::args::MountArgs;
use crate::daemon::logging;
use crate::daemon::logging::Logging;
use crate::daemon::metrics;
use crate::daemon::mounting;
use crate::daemon::mounting::Access;
use crate::daemon::mounting::Mount;
use crate::daemon::mounting::Wanted;
use crate::daemon::privileges;
use crate::daemon::privileges::Role;
use crate::daemon::record;
use crate::daemon::record::Record;
use crate::daemon::setup::Setup;
use crate::daemon::status_socket;
use crate::daemon::supervisor::Event;
use crate::daemon::supervisor::Shared;
use crate::daemon::supervisor::Supervisor;
use crate::fs::Fs;
use crate::fs::source::Source;

/// Set for the process that goes to the background: it tells its parent on stdout when the mount is
/// usable.
const READY_VARIABLE: &str = "BIGSMALL_MOUNTD_READY";
const READY: &[u8] = b"ready\n";

/// `bigsmall mount`.
pub(crate) fn run(arguments: &MountArgs) -> Result<ExitCode> {
    let paths = Paths::check(arguments)?;
    if arguments.foreground {
        return serve(arguments, &paths);
    }
    start(arguments, &paths)
}

/// Source and mountpoint, absolute and without links.
struct Paths {
    source: PathBuf,
    mountpoint: PathBuf,
}

impl Paths {
    fn check(arguments: &MountArgs) -> Result<Self> {
        let find = |path: &Path| {
            std::fs::canonicalize(path).map_err(|e| Error::io("cannot find", path, e))
        };
        let (source, mountpoint) = arguments.source_and_mountpoint()?;
        // a dead mount cannot be asked for anything, so it is cleared first
        let resolved = mounting::resolve(&mountpoint)?;
        if !mounting::heal(&resolved, record::daemon_of)? {
            let end = format!("end it with `bigsmall unmount {}`", resolved.display());
            let error = Error::invalid("something is mounted here already");
            return Err(error.file(&resolved).hint(end));
        }
        let (source, mountpoint) = (find(&source)?, find(&resolved)?);
        if !mountpoint.is_dir() {
            return Err(Error::invalid("the mountpoint is no folder").file(&mountpoint));
        }
        if mountpoint == source {
            return Self::in_place(arguments, source);
        }
        if mountpoint.starts_with(&source) {
            return Err(Error::invalid("the mountpoint lies in the source")
                .file(&mountpoint)
                .hint("choose a folder elsewhere: the mount would show itself"));
        }
        let mut entries = std::fs::read_dir(&mountpoint)
            .map_err(|e| Error::io("cannot look into the mountpoint", &mountpoint, e))?;
        if !arguments.force && entries.next().is_some() {
            return Err(Error::invalid("the mountpoint is not empty")
                .file(&mountpoint)
                .hint("choose an empty folder, or hide what is there with `--force`"));
        }
        Ok(Self { source, mountpoint })
    }
}

impl Paths {
    /// The mount lies over its own source.
    fn in_place(arguments: &MountArgs, source: PathBuf) -> Result<Self> {
        if mounting::mounted_at(&source)? == mounting::MountedHere::Ours {
            return Err(Error::invalid("is mounted already")
                .file(&source)
                .hint("`bigsmall mounts` lists the mounts, `bigsmall unmount` ends one"));
        }
        if let Some(log) = &arguments.log
            && std::path::absolute(log).is_ok_and(|log| log.starts_with(&source))
        {
            return Err(Error::invalid("the log would lie in the mount that it is of").file(log));
        }
        Ok(Self {
            mountpoint: source.clone(),
            source,
        })
    }

    fn is_in_place(&self) -> bool {
        self.source == self.mountpoint
    }
}

/// Starts the daemon in the background and returns when its mount is usable.
fn start(arguments: &MountArgs, paths: &Paths) -> Result<ExitCode> {
    let own = Path::new("/proc/self/exe");
    let program = std::env::current_exe().map_err(|e| Error::io("cannot find", own, e))?;
    let mut child = background_command(&program, arguments, paths)
        .spawn()
        .map_err(|e| Error::io("cannot start", &program, e))?;
    let mut report = Vec::new();
    if let Some(stdout) = &mut child.stdout {
        // an early end of its output says that it failed, too
        let _ = stdout.take(READY.len() as u64).read_to_end(&mut report);
    }
    if report == READY {
        if arguments.output.json {
            let report = serde_json::json!({
                "schema": "bigsmall.mount/1",
                "mountpoint": paths.mountpoint.to_string_lossy(),
                "source": paths.source.to_string_lossy(),
                "pid": child.id(),
            });
            let _ = writeln!(std::io::stdout().lock(), "{report:#}");
        } else if !arguments.output.quiet {
            say_where(arguments, &paths.mountpoint);
        }
        return Ok(ExitCode::SUCCESS);
    }
    // it has said on stderr what went wrong
    let code = child.wait().ok().and_then(|status| status.code());
    Ok(ExitCode::from(
        code.and_then(|code| u8::try_from(code).ok()).unwrap_or(3),
    ))
}

/// Tells which folder was mounted, if it was not named, and whoever stands in it that the mount is
/// not yet around them.
fn say_where(arguments: &MountArgs, mountpoint: &Path) {
    if arguments.hf_cache {
        let shown = escaped(&mountpoint.to_string_lossy());
        complain(&format!("the Hugging Face cache `{shown}` is mounted"));
    }
    if std::env::current_dir().is_ok_and(|here| here.starts_with(mountpoint)) {
        complain("this shell still stands in the folder below the mount: `cd \"$PWD\"` enters it");
    }
}

/// The same mount in the foreground of another process, which runs in `/` so that it holds no
/// folder busy: hence absolute paths.
fn background_command(program: &Path, arguments: &MountArgs, paths: &Paths) -> Command {
    let mut command = Command::new(program);
    command.args([
        "mount",
        "--foreground",
        "--log-format",
        &arguments.log_format,
    ]);
    command.arg("--cache").arg(arguments.cache.to_string());
    command
        .arg("--read-ahead")
        .arg(arguments.read_ahead.to_string());
    command.arg("--cache-mode").arg(&arguments.cache_mode);
    if let Some(address) = &arguments.metrics {
        command.arg("--metrics").arg(address);
    }
    for (given, flag) in [
        (arguments.allow_other, "--allow-other"),
        (arguments.force, "--force"),
        (arguments.protect_models, "--protect-models"),
    ] {
        if given {
            command.arg(flag);
        }
    }
    command.args((0..arguments.output.verbose).map(|_| "--verbose"));
    let absolute = |path: &PathBuf| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    if let Some(log) = &arguments.log {
        command.arg("--log").arg(absolute(log));
    }
    for base in &arguments.base {
        command.arg("--base").arg(absolute(base));
    }
    command.arg("--").arg(&paths.source).arg(&paths.mountpoint);
    command.env(READY_VARIABLE, "1").current_dir("/");
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    command
}

/// Serves the mount until it ends.
fn serve(arguments: &MountArgs, paths: &Paths) -> Result<ExitCode> {
    let in_background = std::env::var_os(READY_VARIABLE).is_some();
    if in_background {
        // a terminal that closes must not take the mount with it
        let _ = nix::unistd::setsid();
    }
    bigsmall::base::file::allow_many_files();
    let log = log_path(arguments, &paths.mountpoint, in_background);
    let logging = Logging {
        file: log.clone().map(Into::into),
        json: arguments.log_format == "json",
        verbose: arguments.output.verbose,
    };
    logging::start(&logging)?;
    // from here on a signal is an event, so that none can leave a dead mount behind
    let (sender, events) = mpsc::channel();
    watch_signals(&paths.mountpoint, sender.clone())?;
    let metrics = arguments.metrics.as_deref().map(metrics::bind);
    let metrics = metrics.transpose()?;
    let setup = setup(arguments, paths, logging)?;
    let source = Source::open(&paths.source)?;
    let setup = Setup {
        only: source.only.clone(),
        ..setup
    };
    let folder = source.root.folder().try_clone_to_owned();
    let folder = folder.map_err(|e| Error::io("cannot open", &paths.source, e))?;
    // whatever is wrong with the source is said now
    Fs::new(source, &setup.fs_options())?;
    let (at, of) = (&paths.mountpoint, &paths.source);
    let mount = Mount::make(of, at, wanted(arguments, &setup))?;
    privileges::give_up(Role::Supervisor, setup.in_place);
    let shared = Arc::new(Shared::default());
    let record = Record {
        pid: std::process::id(),
        mountpoint: at.clone(),
        source: of.clone(),
        log: log.clone(),
    };
    let socket = status_socket::listen(at, &shared);
    if let Some(metrics) = metrics {
        metrics::start(metrics, at, &shared);
    }
    let supervisor = Supervisor {
        setup: Setup {
            write_max: mount.connection.write_max,
            ..setup
        },
        mount,
        folder,
        shared,
        events,
        sender,
    };
    let mut kept = None;
    let outcome = supervisor.run(|| {
        tracing::info!("`{}` shows `{}`", at.display(), of.display());
        kept = record::write(&record)
            .inspect_err(|error| tracing::warn!("`mounts` will not know us: {error}"))
            .ok();
        if in_background {
            announce(log.as_deref(), at)?;
        }
        Ok(())
    });
    for path in kept.into_iter().chain(socket) {
        // the next mount here writes its own
        let _ = std::fs::remove_file(path);
    }
    if let Some(log) = log.filter(|_| arguments.log.is_none() && outcome.is_ok()) {
        logging::forget_if_quiet(&log);
    }
    outcome
}

fn wanted(arguments: &MountArgs, setup: &Setup) -> Wanted {
    Wanted {
        access: Access {
            allow_other: arguments.allow_other,
            writable: setup.in_place,
        },
        cache_mode: setup.cache_mode,
        kernel_readahead_bytes: arguments.read_ahead,
    }
}

fn watch_signals(mountpoint: &Path, events: mpsc::Sender<Event>) -> Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP])
        .map_err(|e| Error::io("cannot watch for signals", mountpoint, e))?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            for signal in signals.forever() {
                let _ = events.send(Event::Signal(signal));
            }
        })
        .map_err(|e| Error::io("cannot start a thread", mountpoint, e))?;
    Ok(())
}

/// What the workers of the mount are told.
fn setup(arguments: &MountArgs, paths: &Paths, logging: Logging) -> Result<Setup> {
    // a relative path is the caller's
    let absolute = |path: &PathBuf| {
        let found = path.canonicalize();
        found
            .map(Into::into)
            .map_err(|e| Error::io("cannot open", path, e))
    };
    let bases: Result<Vec<_>> = arguments.base.iter().map(absolute).collect();
    Ok(Setup {
        source: paths.source.clone().into(),
        only: None,
        bases: bases?,
        cache_bytes: arguments.cache,
        readahead_bytes: arguments.read_ahead,
        in_place: paths.is_in_place(),
        protect_models: arguments.protect_models,
        cache_mode: if arguments.cache_mode == "direct" {
            CacheMode::Direct
        } else {
            CacheMode::Kernel
        },
        write_max: 0,
        life: 1,
        resend: false,
        can_pass: false,
        logging,
    })
}

/// Tells the parent that the mount is usable, and lets go of its terminal and pipes.
fn announce(log: Option<&Path>, mountpoint: &Path) -> Result<()> {
    let failed = |e| Error::io("cannot go to the background", mountpoint, e);
    let stderr = match log {
        Some(log) => File::options().append(true).create(true).open(log),
        None => File::options().write(true).open("/dev/null"),
    };
    nix::unistd::dup2_stderr(stderr.map_err(failed)?).map_err(|e| failed(e.into()))?;
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(READY)
        .and_then(|()| stdout.flush())
        .map_err(failed)?;
    let null = File::options()
        .write(true)
        .open("/dev/null")
        .map_err(failed)?;
    nix::unistd::dup2_stdout(null).map_err(|e| failed(e.into()))
}

fn log_path(arguments: &MountArgs, mountpoint: &Path, in_background: bool) -> Option<PathBuf> {
    match &arguments.log {
        Some(log) => Some(log.clone()),
        None if in_background => record::path_of(mountpoint)
            .ok()
            .map(|path| path.with_extension("log")),
        None => None,
    }
}
