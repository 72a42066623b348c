//! The status of a mount: its counters, and its processes.

use serde::Deserialize;
use serde::Serialize;

use crate::daemon::supervisor::Shared;
use crate::statistics::Counters;

/// Beside decoded blocks and tables: programs, stacks and buffers (docs/semantics.md).
const BESIDE_CACHE_BYTES: u64 = 64 << 20;

/// What is told of one mount.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) supervisor_pid: u32,
    pub(crate) worker_pid: Option<u32>,
    /// Workers that died, each of which was followed by another.
    pub(crate) worker_deaths: u64,
    /// Memory of both processes, and what it should stay below.
    pub(crate) resident_bytes: u64,
    pub(crate) resident_bytes_max: u64,
    pub(crate) done: Counters,
}

impl Status {
    pub(crate) fn take(shared: &Shared) -> Self {
        let snapshot = shared.state();
        let own = std::process::id();
        let resident = |pid: Option<u32>| pid.and_then(resident_bytes).unwrap_or(0);
        Self {
            supervisor_pid: own,
            worker_pid: snapshot.worker_pid,
            worker_deaths: snapshot.deaths,
            resident_bytes: resident(Some(own)) + resident(snapshot.worker_pid),
            resident_bytes_max: snapshot.counters.cache_bytes_max + BESIDE_CACHE_BYTES,
            done: snapshot.counters,
        }
    }
}

/// Memory that a process holds and that is its own, in bytes: the program's pages are the page
/// cache's.
fn resident_bytes(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|l| l.strip_prefix("RssAnon:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
