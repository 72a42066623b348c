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
pub(crate) fn kib_of(text: &str, field: &str) -> Option<u64> {
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
pub(crate) fn group_left(membership: &str, root: &Path) -> Option<u64> {
    least_of_groups(membership, root, left_in)
}

/// The tightest limit of the control groups, those above included, whatever they hold already.
#[cfg(any(feature = "run", test))]
pub(crate) fn group_limit(membership: &str, root: &Path) -> Option<u64> {
    least_of_groups(membership, root, |folder, [max, ..]| number_in(folder, max))
}

/// Bytes of one group, whose files for limit, use and unused pages have these names.
type BytesOf = fn(&Path, [&str; 3]) -> Option<u64>;

fn least_of_groups(membership: &str, root: &Path, bytes_of: BytesOf) -> Option<u64> {
    let least = membership.lines().filter_map(|line| {
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
        least_of_parents(&folder, path, |folder| bytes_of(folder, names))
    });
    least.min()
}

fn least_of_parents(
    root: &Path,
    path: &str,
    bytes_of: impl Fn(&Path) -> Option<u64>,
) -> Option<u64> {
    let mut folder: PathBuf = root.join(path.trim_start_matches('/'));
    let mut least = None;
    loop {
        if let Some(bytes) = bytes_of(&folder) {
            least = Some(least.map_or(bytes, |least: u64| least.min(bytes)));
        }
        if folder == root || !folder.pop() {
            return least;
        }
    }
}

/// The number that is all of a file.
fn number_in(folder: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(folder.join(name)).ok()?;
    text.trim().parse().ok()
}

/// What one group leaves; pages of files that nobody uses are given up on demand.
fn left_in(folder: &Path, [max, current, inactive]: [&str; 3]) -> Option<u64> {
    let (max, current) = (number_in(folder, max)?, number_in(folder, current)?);
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
        // first, as other tests take more meanwhile
        let resident = resident_bytes();
        assert!(peak_bytes() >= resident);
        assert!(resident > 1 << 16);
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
        assert_eq!(group_limit("0::/a/b\n", root.path()), Some(1000));
        write("memory/c/memory.limit_in_bytes", "300\n");
        write("memory/c/memory.usage_in_bytes", "100\n");
        assert_eq!(
            group_left("3:cpu,memory:/c\n0::/a/b\n", root.path()),
            Some(200)
        );
        assert_eq!(group_left("5:pids:/c\n", root.path()), None);
    }
}
