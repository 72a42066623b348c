//! Imports point down, in the library and in the daemon, and what is low names no command.

use std::fs;
use std::path::Path;

use super::Source;
use super::names;
use super::report;
use super::sources;

/// Lowest floor first. Rooms on one floor do not see each other.
const FLOORS: &[&[&str]] = &[
    &["base"],
    &["tensor", "entropy", "kernels", "parity", "text"],
    &["codec", "format", "bgsm"],
    &["archive", "writer"],
    &["plan"],
    &["exec"],
    &["ops"],
    &["cli"],
];
/// The same of the daemon, whose rooms are folders and files.
const MOUNTD_FLOORS: &[&[&str]] = &[
    &["node", "statistics", "args", "helper"],
    &["wire", "fs", "shares"],
    &["session"],
    &["adapter"],
    &["daemon", "fuzz"],
    &["lib", "main"],
];
/// Folders without Rust: kernels for a GPU, which nothing here calls yet.
const FOREIGN: &[&str] = &["gpu"];
/// What the mount daemon may use of the library.
const MOUNTD_USES: &[&str] = &["base", "tensor", "archive"];
/// And of the end of a program, and of words for people, only by these.
const MOUNTD_ENDS: &[&str] = &[
    "mountd/src/lib.rs",
    "mountd/src/daemon/logging.rs",
    "mountd/src/daemon/mount.rs",
];
/// From this floor on the library knows its command line.
const COMMANDS_FLOOR: usize = 6;
/// What of the daemon knows it: the words themselves, and what they call.
const MOUNTD_COMMANDS: &[&str] = &[
    "mountd/src/args.rs",
    "mountd/src/helper.rs",
    "mountd/src/daemon/control.rs",
    "mountd/src/daemon/mount.rs",
];

fn floor(room: &str) -> Option<usize> {
    FLOORS.iter().position(|rooms| rooms.contains(&room))
}

fn mountd_room(source: &Source) -> &str {
    let path = source.path.trim_start_matches("mountd/src/");
    let room = path.split('/').next().unwrap_or_default();
    room.trim_end_matches(".rs")
}

fn mountd_floor(room: &str) -> Option<usize> {
    MOUNTD_FLOORS.iter().position(|rooms| rooms.contains(&room))
}

#[test]
fn imports_point_down() {
    let mut faults = Vec::new();
    for source in sources("src") {
        let Some(room) = source.room() else { continue };
        let Some(here) = floor(room) else {
            faults.push(format!("{}: room `{room}` has no floor", source.path));
            continue;
        };
        for (n, line) in source.code() {
            for used in names(line, "crate::") {
                let down = used == room || floor(used).is_some_and(|there| there < here);
                if !down {
                    faults.push(format!(
                        "{}:{n}: `{room}` may not use `{used}`",
                        source.path
                    ));
                }
            }
            let climbs = line.contains("super::super::")
                || line.contains("super::") && source.is_room_door()
                || names(line, "bigsmall::").next().is_some();
            if climbs {
                faults.push(format!(
                    "{}:{n}: a path climbs out of its room",
                    source.path
                ));
            }
        }
    }
    report(&faults);
}

#[test]
fn every_room_has_a_floor_and_every_floor_its_rooms() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for room in FLOORS.iter().copied().flatten() {
        assert!(
            root.join(room).join("mod.rs").is_file(),
            "room `{room}` is not there"
        );
    }
    for entry in fs::read_dir(root).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let known = if entry.path().is_dir() {
            floor(&name).is_some() || FOREIGN.contains(&&*name)
        } else {
            matches!(name.as_str(), "lib.rs" | "main.rs")
        };
        assert!(known, "`src/{name}` is no room");
    }
}

#[test]
fn mountd_sees_only_the_reading_rooms() {
    let mut faults = Vec::new();
    for source in sources("mountd/src") {
        for (n, line) in source.code() {
            for used in names(line, "bigsmall::") {
                let ends = MOUNTD_ENDS.contains(&&*source.path) && line.contains("cli::exit");
                if !MOUNTD_USES.contains(&used) && !ends {
                    faults.push(format!("{}:{n}: mountd may not use `{used}`", source.path));
                }
            }
        }
    }
    report(&faults);
}

#[test]
fn imports_of_mountd_point_down() {
    let mut faults = Vec::new();
    for source in sources("mountd/src") {
        let room = mountd_room(&source);
        let Some(here) = mountd_floor(room) else {
            faults.push(format!("{}: room `{room}` has no floor", source.path));
            continue;
        };
        for (n, line) in source.code() {
            for used in names(line, "crate::") {
                let down = used == room || mountd_floor(used).is_some_and(|there| there < here);
                if !down {
                    let path = &source.path;
                    faults.push(format!("{path}:{n}: `{room}` may not use `{used}`"));
                }
            }
        }
    }
    for room in MOUNTD_FLOORS.iter().copied().flatten() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("mountd/src");
        let is_there = root.join(room).is_dir() || root.join(format!("{room}.rs")).is_file();
        assert!(is_there, "room `{room}` of the daemon is not there");
    }
    report(&faults);
}

/// A hint that names a command is made where the command line is known, or is a
/// `bigsmall::base::Remedy`.
#[test]
fn low_floors_name_no_commands() {
    let mut faults = Vec::new();
    let low = sources("src").into_iter().filter(|source| {
        let floor = source.room().and_then(floor);
        floor.is_some_and(|floor| floor < COMMANDS_FLOOR)
    });
    let daemon = sources("mountd/src").into_iter();
    let daemon = daemon.filter(|source| !MOUNTD_COMMANDS.contains(&&*source.path));
    for source in low.chain(daemon) {
        for (n, line) in source.code() {
            let option = line.split("--").skip(1);
            let has_option = option
                .into_iter()
                .any(|rest| rest.starts_with(|c: char| c.is_ascii_lowercase()));
            if has_option || line.contains("`bigsmall ") {
                faults.push(format!("{}:{n}: {}", source.path, line.trim()));
            }
        }
    }
    report(&faults);
}
