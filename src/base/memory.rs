//! How much memory this process has taken, and how much it may take.

use std::fs;
use std::path::Path;
use std::path::PathBuf;

/// The most that this process has had in memory so far, in bytes (`VmHWM`); 0 where nobody says.
pub fn peak_bytes() -> u64 {
    status_bytes("VmHWM:")
}

/// What this process has in memory, in bytes (`VmRSS`); 0 where nobody says.
pub fn resident_bytes() -> u64 {
    status_bytes("VmRSS:")
}

fn status_bytes(field: &str) -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    kib_of(&status, field).unwrap_or(0)
}

/// A value in kB of a file like /proc/meminfo, in bytes.
fn kib_of(text: &str, field: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    let number: u64 = line.split_whitespace().next()?.parse().ok()?;
    number.checked_mul(1024)
}

/// What can be taken without pushing anybody out: free memory of the machine, or what the control
/// groups of this process leave, whichever is less. None where nobody says.
pub fn available_bytes() -> Option<u64> {
    let machine = fs::read_to_string("/proc/meminfo").ok();
    let machine = machine.and_then(|text| kib_of(&text, "MemAvailable:"));
    let groups = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let groups = group_left(&groups, Path::new("/sys/fs/cgroup"));
    match (machine, groups) {
        (Some(machine), Some(groups)) => Some(machine.min(groups)),
        (machine, groups) => machine.or(groups),
    }
}

/// What the control groups leave, those above included; of version 2 or 1. `membership` is
/// /proc/self/cgroup, lines of `number:controllers:path`.
fn group_left(membership: &str, root: &Path) -> Option<u64> {
    let left = membership.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        let (folder, names) = if controllers.is_empty() {
            (
                root.to_owned(),
                ["memory.max", "memory.current", "inactive_file "],
            )
        } else if controllers.split(',').any(|name| name == "memory") {
            let names = [
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
                "total_inactive_file ",
            ];
            (root.join("memory"), names)
        } else {
            return None;
        };
        least_of_parents(&folder, path, names)
    });
    left.min()
}

fn least_of_parents(root: &Path, path: &str, names: [&str; 3]) -> Option<u64> {
    let mut folder: PathBuf = root.join(path.trim_start_matches('/'));
    let mut least = None;
    loop {
        if let Some(left) = left_in(&folder, names) {
            least = Some(least.map_or(left, |least: u64| least.min(left)));
        }
        if folder == root || !folder.pop() {
            return least;
        }
    }
}

/// What one group leaves; pages of files that nobody uses are given up on demand.
fn left_in(folder: &Path, [max, current, inactive]: [&str; 3]) -> Option<u64> {
    let number = |name: &str| -> Option<u64> {
        fs::read_to_string(folder.join(name))
            .ok()?
            .trim()
            .parse()
            .ok()
    };
    let (max, current) = (number(max)?, number(current)?);
    let stat = fs::read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let inactive = stat.lines().find_map(|line| line.strip_prefix(inactive));
    let inactive = inactive
        .and_then(|number| number.trim().parse().ok())
        .unwrap_or(0);
    Some(max.saturating_sub(current.saturating_sub(inactive)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_knows_what_it_takes() {
        assert!(peak_bytes() >= resident_bytes());
        assert!(resident_bytes() > 1 << 16);
        assert!(available_bytes().is_some_and(|bytes| bytes > 1 << 16));
    }

    #[test]
    fn the_tightest_group_counts_of_both_versions() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::io::Write::write_all(&mut fs::File::create(path).unwrap(), text.as_bytes())
                .unwrap();
        };
        write("a/memory.max", "1000\n");
        write("a/memory.current", "700\n");
        write("a/memory.stat", "anon 1\ninactive_file 200\n");
        write("a/b/memory.max", "max\n");
        write("a/b/memory.current", "10\n");
        assert_eq!(group_left("0::/a/b\n", root.path()), Some(500));
        write("memory/c/memory.limit_in_bytes", "300\n");
        write("memory/c/memory.usage_in_bytes", "100\n");
        assert_eq!(
            group_left("3:cpu,memory:/c\n0::/a/b\n", root.path()),
            Some(200)
        );
        assert_eq!(group_left("5:pids:/c\n", root.path()), None);
    }
}
