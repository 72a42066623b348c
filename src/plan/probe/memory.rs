//! How much memory there is, and how much of it may be taken.

use crate::base::memory;
use crate::plan::facts::Memory;
use crate::plan::measured::Bytes;
use crate::plan::measured::Measured;
use crate::plan::probe::System;

const GROUPS: &str = "sys/fs/cgroup";

/// What is known of it. What is available is what a model that is run may take.
pub fn memory(system: &System) -> Memory {
    let meminfo = system.text("proc/meminfo");
    let field = |name: &str| memory::kib_of(meminfo.as_deref()?, name);
    let not_told = |name: &str| format!("`/proc/meminfo` has no `{name}`");
    let membership = system.text("proc/self/cgroup").unwrap_or_default();
    let groups = system.path(GROUPS);
    let left = memory::group_left(&membership, &groups);
    let available = match (field("MemAvailable:"), left) {
        (Some(machine), Some(groups)) => Some(machine.min(groups)),
        (machine, groups) => machine.or(groups),
    };
    let total = field("MemTotal:");
    let limit = memory::group_limit(&membership, &groups);
    // version 1 writes a very large number in the place of none
    let limit = limit.filter(|limit| *limit < total.unwrap_or(1 << 60));
    let no_limit = "no control group limits it below the machine's memory";
    Memory {
        total: Measured::or_not(total.map(Bytes), not_told("MemTotal")),
        available: Measured::or_not(available.map(Bytes), not_told("MemAvailable")),
        limit: Measured::or_not(limit.map(Bytes), no_limit),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::probe::put;

    #[test]
    fn a_control_group_bounds_what_is_available() {
        let root = tempfile::tempdir().unwrap();
        let system = System::within(root.path());
        let none = memory(&system);
        assert!(none.total.why_not().unwrap().contains("MemTotal"));
        assert!(none.available.why_not().unwrap().contains("MemAvailable"));
        assert!(none.limit.why_not().is_some());
        let meminfo = "MemTotal:  100 kB\nMemFree:  1 kB\nMemAvailable:  80 kB\n";
        put(root.path(), "proc/meminfo", meminfo);
        put(root.path(), "proc/self/cgroup", "0::/a/b\n");
        let free = memory(&system);
        assert_eq!(free.total, Measured::Value(Bytes(100 << 10)));
        assert_eq!(free.available, Measured::Value(Bytes(80 << 10)));
        put(root.path(), "sys/fs/cgroup/a/memory.max", "51200\n");
        put(root.path(), "sys/fs/cgroup/a/memory.current", "20480\n");
        put(root.path(), "sys/fs/cgroup/a/b/memory.max", "max\n");
        let bound = memory(&system);
        assert_eq!(bound.limit, Measured::Value(Bytes(51_200)));
        assert_eq!(bound.available, Measured::Value(Bytes(30_720)));
        put(root.path(), "proc/self/cgroup", "4:memory:/c\n");
        let unlimited = "9223372036854771712\n";
        put(
            root.path(),
            "sys/fs/cgroup/memory/c/memory.limit_in_bytes",
            unlimited,
        );
        assert!(memory(&system).limit.why_not().is_some());
    }
}
