//! `mounts` and `unmount`.

use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use std::time::Instant;

use bigsmall::base::Error;
use bigsmall::base::Result;
use bigsmall::base::units;
use serde::Serialize;

use crate::args::MountsArgs;
use crate::args::UnmountArgs;
use crate::daemon::mounting;
use crate::daemon::record;
use crate::daemon::status::Status;
use crate::daemon::status_socket;

/// How long `unmount` waits for the daemon to end.
const END_WAIT: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize)]
struct Process {
    pid: u32,
    role: &'static str,
}

#[derive(Debug, Serialize)]
struct MountReport {
    mountpoint: String,
    source: String,
    alive: bool,
    pid: Option<u32>,
    supervisor_pid: Option<u32>,
    worker_pid: Option<u32>,
    processes: Vec<Process>,
    log: Option<PathBuf>,
    /// What it does; none if it is not ours to ask.
    #[serde(rename = "account")]
    status: Option<Status>,
}

#[derive(Debug, Serialize)]
struct MountsReport {
    schema: &'static str,
    mounts: Vec<MountReport>,
}

/// `bigsmall mounts`.
pub(crate) fn mounts(arguments: &MountsArgs) -> Result<ExitCode> {
    let mounts: Vec<MountReport> = mounting::all()?
        .into_iter()
        .map(|mounted| {
            let record = record::read(&mounted.mountpoint);
            let pid = record.as_ref().map(|record| record.pid);
            let status = pid.and_then(|_| status_socket::ask(&mounted.mountpoint));
            let worker_pid = status.as_ref().and_then(|status| status.worker_pid);
            let roles = [(pid, "supervisor"), (worker_pid, "worker")];
            MountReport {
                // with a record the daemon lives, and nothing needs to be asked of the mount
                alive: record.is_some() || !mounting::is_dead(&mounted.mountpoint),
                mountpoint: mounted.mountpoint.to_string_lossy().into_owned(),
                source: mounted.source.to_string_lossy().into_owned(),
                pid,
                supervisor_pid: pid,
                worker_pid,
                processes: roles
                    .into_iter()
                    .filter_map(|(pid, role)| pid.map(|pid| Process { pid, role }))
                    .collect(),
                log: record.and_then(|record| record.log),
                status,
            }
        })
        .collect();
    if arguments.output.json {
        print_json(&MountsReport {
            schema: "bigsmall.mounts/1",
            mounts,
        })?;
    } else if !arguments.output.quiet {
        for mount in mounts {
            let state = match (mount.alive, mount.pid) {
                (true, Some(pid)) => format!("process {pid}"),
                (true, None) => "process of another user".to_owned(),
                (false, _) => "DEAD: mount it again, or unmount it".to_owned(),
            };
            let (at, of) = (mount.mountpoint, mount.source);
            print(&format!("{at}  shows {of}  ({state})"))?;
            if let Some(status) = mount.status {
                print(&summary(&status))?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// What a mount does, in a few lines.
fn summary(status: &Status) -> String {
    let done = &status.done;
    let size = units::human_bytes;
    let requests: u64 = done.requests.values().sum();
    let looked = done.cache_hits + done.cache_misses + done.cache_waits;
    let hits = units::percent(done.cache_hits + done.cache_waits, looked);
    let mut lines = vec![format!(
        "  {}, the slowest {:.1} ms; {} read from images, {} decoded, {} given",
        units::counted(requests, "request"),
        f64::from(u32::try_from(done.slowest_us).unwrap_or(u32::MAX)) / 1000.0,
        size(done.source_bytes),
        size(done.decoded_bytes),
        size(done.sent_bytes),
    )];
    // of nothing there is no share
    if looked > 0 {
        lines.push(format!(
            "  {hits:.0} % of blocks and tables were at hand; {} decoded ahead, {} of them in vain",
            done.prefetched, done.prefetched_wasted
        ));
    }
    lines.push(format!(
        "  memory {} of at most {}, of these {} decoded",
        size(status.resident_bytes),
        size(status.resident_bytes_max),
        size(done.cache_bytes)
    ));
    if done.failed_reads + done.damaged + status.worker_deaths > 0 {
        lines.push(format!(
            "  {} got an error, damage was met {}, {} died",
            units::counted(done.failed_reads, "read"),
            units::counted(done.damaged, "time"),
            units::counted(status.worker_deaths, "worker")
        ));
    }
    lines.join("\n")
}

#[derive(Debug, Serialize)]
struct UnmountReport<'a> {
    schema: &'static str,
    mountpoint: &'a str,
    lazy: bool,
}

/// `bigsmall unmount`.
pub(crate) fn unmount(arguments: &UnmountArgs) -> Result<ExitCode> {
    let mountpoint = find(&arguments.mountpoint()?)?;
    let record = record::read(&mountpoint);
    let dead = record.is_none() && mounting::is_dead(&mountpoint);
    let unmounted = mounting::unmount(&mountpoint, arguments.lazy || dead);
    unmounted.map_err(|error| hint_if_busy(error, &mountpoint))?;
    if let (Some(record), false) = (record, arguments.lazy) {
        let begun = Instant::now();
        while record::is_ours(record.pid) && begun.elapsed() < END_WAIT {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    if arguments.output.json {
        let schema = "bigsmall.unmount/1";
        print_json(&UnmountReport {
            schema,
            mountpoint: &mountpoint.to_string_lossy(),
            lazy: arguments.lazy,
        })?;
    }
    Ok(ExitCode::SUCCESS)
}

/// A mount that is in use says by whom.
fn hint_if_busy(error: Error, mountpoint: &Path) -> Error {
    if error.raw_os_error() != Some(nix::errno::Errno::EBUSY as i32) {
        return error;
    }
    let users = mounting::users_of(mountpoint);
    let users = if users.is_empty() {
        String::new()
    } else {
        format!(" by {}", users.join(", "))
    };
    error.hint(format!(
        "files are in use{users}: close them, or detach with `--lazy`"
    ))
}

/// The mountpoint meant by `path`, found without asking a mount that may be dead.
fn find(path: &Path) -> Result<PathBuf> {
    let resolved = mounting::resolve(path)?;
    if mounting::all()?
        .iter()
        .any(|mounted| mounted.mountpoint == resolved)
    {
        return Ok(resolved);
    }
    Err(Error::invalid("no mount of ours is here")
        .file(path)
        .hint("list them with `bigsmall mounts`"))
}

fn print_json<R: Serialize>(report: &R) -> Result<()> {
    let text = serde_json::to_string_pretty(report).map_err(|e| Error::invalid(e.to_string()))?;
    print(&text)
}

fn print(text: &str) -> Result<()> {
    writeln!(std::io::stdout().lock(), "{text}")
        .map_err(|e| Error::io("cannot write to standard output", Path::new("-"), e))
}
