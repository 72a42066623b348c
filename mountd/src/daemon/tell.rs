//! Telling what a mount does: over a socket in the runtime folder to `mounts`, and over HTTP to whoever collects it.

use std::io::Read;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde::Serialize;

use crate::daemon::control;
use crate::daemon::control::Record;
use crate::daemon::metrics;
use crate::daemon::supervisor::Shared;
use crate::statistics::Told;

/// How long either side may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Beside decoded blocks and tables: programs, stacks and buffers (docs/semantics.md).
const BESIDE_CACHE_BYTES: u64 = 64 << 20;

/// What is told of one mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Account {
    pub(crate) supervisor_pid: u32,
    pub(crate) worker_pid: Option<u32>,
    /// Workers that died, each of which was followed by another.
    pub(crate) worker_deaths: u64,
    /// Memory of both processes, and what it should stay below.
    pub(crate) resident_bytes: u64,
    pub(crate) resident_bytes_max: u64,
    pub(crate) done: Told,
}

impl Account {
    fn take(shared: &Shared) -> Self {
        let state = shared.state();
        let own = std::process::id();
        let resident = |pid: Option<u32>| pid.and_then(resident_bytes).unwrap_or(0);
        Self {
            supervisor_pid: own,
            worker_pid: state.worker_pid,
            worker_deaths: state.deaths,
            resident_bytes: resident(Some(own)) + resident(state.worker_pid),
            resident_bytes_max: state.told.cache_bytes_max + BESIDE_CACHE_BYTES,
            done: state.told,
        }
    }
}

/// Memory that a process holds and that is its own, in bytes: the program's pages are the page cache's.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

/// Where the supervisor of a mountpoint is asked.
fn socket_path(mountpoint: &Path) -> Option<PathBuf> {
    let record = control::record_path(mountpoint).ok()?;
    Some(record.with_extension("sock"))
}

/// Begins to tell; the path of the socket, which goes with the mount.
pub(crate) fn listen(
    record: &Record,
    shared: &Arc<Shared>,
    metrics: Option<TcpListener>,
) -> Option<PathBuf> {
    let complain = |error: std::io::Error| tracing::warn!("`mounts` cannot ask us: {error}");
    let path = socket_path(&record.mountpoint)?;
    // one of a mount that died; the folder is ours alone
    let _ = std::fs::remove_file(&path);
    let listener = UnixListener::bind(&path)
        .inspect_err(|_| ())
        .map_err(complain);
    let (sharing, mountpoint) = (Arc::clone(shared), record.mountpoint.clone());
    if let Some(metrics) = metrics {
        let sharing = Arc::clone(shared);
        let serve = move || metrics::serve(&metrics, &mountpoint, || Account::take(&sharing));
        let thread = std::thread::Builder::new().name("metrics".into());
        let _ = thread.spawn(serve).map_err(complain);
    }
    let listener = listener.ok()?;
    let thread = std::thread::Builder::new().name("tell".into());
    let spawned = thread.spawn(move || {
        for asker in listener.incoming().flatten() {
            answer(asker, &Account::take(&sharing));
        }
    });
    spawned.map_err(complain).ok()?;
    Some(path)
}

fn answer(mut asker: UnixStream, account: &Account) {
    // whoever asks and does not listen is left
    let _ = asker.set_write_timeout(Some(SILENCE_MAX));
    if let Ok(text) = serde_json::to_vec(account) {
        let _ = asker.write_all(&text);
    }
}

/// Asks the supervisor of a mountpoint; none if there is none, or none that answers.
pub(crate) fn ask(mountpoint: &Path) -> Option<Account> {
    let mut supervisor = UnixStream::connect(socket_path(mountpoint)?).ok()?;
    supervisor.set_read_timeout(Some(SILENCE_MAX)).ok()?;
    let mut text = Vec::new();
    supervisor.read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}
