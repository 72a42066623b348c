//! A mount over its own source is the file system below it: the same calls, made in the mount and
//! in a folder beside it on the same disk, give the same.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a failed unwrap is a failed test"
)]

mod converted;
mod models;

use std::fmt::Debug;
use std::fs;
use std::fs::File;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::path::PathBuf;
use std::time::Duration;

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::Mode;
use nix::sys::stat::SFlag;
use nix::sys::stat::UtimensatFlags;
use nix::sys::stat::mknod;
use nix::sys::stat::utimensat;
use nix::sys::time::TimeSpec;
use rustix::fs::XattrFlags;

use crate::converted::Setup;
use crate::models::put;

/// What was seen, in words that tell where both differ.
#[derive(Default)]
struct Observations(Vec<String>);

impl Observations {
    fn note(&mut self, what: &str, seen: impl Debug) {
        self.0.push(format!("{what}: {seen:?}"));
    }

    fn stat(&mut self, what: &str, path: &Path) {
        let stat = fs::symlink_metadata(path);
        let stat = stat.map(|m| (format!("{:o}", m.mode()), m.nlink(), m.size(), m.blocks()));
        self.note(what, stat.map_err(|e| e.raw_os_error()));
    }

    fn done<T: Debug>(&mut self, what: &str, done: std::io::Result<T>) {
        self.note(what, done.map(|_| ()).map_err(|e| e.raw_os_error()));
    }
}

fn ctime(path: &Path) -> (i64, i64) {
    let stat = fs::symlink_metadata(path).unwrap();
    (stat.ctime(), stat.ctime_nsec())
}

/// A call, and whether the time of change of `of` is later after it.
fn makes_newer(of: &Path, call: impl FnOnce() -> PathBuf) -> bool {
    let before = ctime(of);
    std::thread::sleep(Duration::from_millis(20));
    let now_at = call();
    ctime(&now_at) > before
}

fn chmod(path: &Path, mode: u32) -> std::io::Result<()> {
    fs::set_permissions(path, Permissions::from_mode(mode))
}

/// The same calls in both; what each gives.
fn compare(story: impl Fn(&Path, &mut Observations)) {
    let setup = Setup::new();
    let below = setup.folder.path().join("below");
    let above = setup.root().join("above");
    let [below, above] = [below, above].map(|folder| {
        fs::create_dir(&folder).unwrap();
        let mut seen = Observations::default();
        story(&folder, &mut seen);
        seen.0
    });
    assert!(!below.is_empty());
    assert_eq!(above, below, "in the mount, and below");
    setup.models_are_whole();
}

// docs/semantics.md: Pipes and sockets are made, linked, renamed and removed there as on the disk,
// and used by programs that meet in the mount.
#[test]
fn pipes_and_sockets_are_as_on_the_disk() {
    compare(|folder, seen| {
        let (pipe, socket) = (folder.join("pipe"), folder.join("socket"));
        let mode = Mode::from_bits_truncate(0o640);
        mknod(&pipe, SFlag::S_IFIFO, mode, 0).unwrap();
        let listener = UnixListener::bind(&socket).unwrap();
        let met = std::os::unix::net::UnixStream::connect(&socket);
        seen.done("a socket is connected to", met);
        drop(listener);
        for path in [&pipe, &socket] {
            let kind = fs::symlink_metadata(path).unwrap().file_type();
            seen.note("kind", (kind.is_fifo(), kind.is_socket()));
            chmod(path, 0o604).unwrap();
            let (other, last) = (path.with_extension("b"), path.with_extension("c"));
            fs::hard_link(path, &other).unwrap();
            seen.stat("linked", path);
            let same = fs::symlink_metadata(path).unwrap().ino();
            seen.note("same", fs::symlink_metadata(&other).unwrap().ino() == same);
            fs::rename(&other, &last).unwrap();
            seen.stat("renamed", &last);
            fs::remove_file(path).unwrap();
            seen.stat("one name left", &last);
            seen.stat("gone", path);
        }
        let pipe = folder.join("pipe.c");
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs::read(pipe).unwrap()
        });
        let mut writer = File::options().write(true).open(&pipe).unwrap();
        writer.write_all(b"through").unwrap();
        drop(writer);
        seen.note("read", reader.join().unwrap());
        let mut names: Vec<_> = fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.file_name(), entry.file_type().unwrap().is_fifo()))
            .collect();
        names.sort();
        seen.note("listed", names);
    });
}

// docs/semantics.md: Devices are not made there: `EPERM`, for root, too.
#[test]
fn devices_are_not_made() {
    let setup = Setup::new();
    let device = nix::sys::stat::makedev(1, 3);
    for kind in [SFlag::S_IFCHR, SFlag::S_IFBLK] {
        let made = mknod(&setup.root().join("null"), kind, Mode::S_IRUSR, device);
        assert_eq!(made, Err(nix::errno::Errno::EPERM));
    }
    // one that lies there is shown, and can be removed
    setup.unmount();
    let below = setup.root().join("null");
    let made = mknod(&below, SFlag::S_IFCHR, Mode::S_IRUSR, device);
    setup.mount();
    if made.is_ok() {
        let stat = fs::symlink_metadata(&below).unwrap();
        assert!(stat.file_type().is_char_device() && stat.rdev() == device);
        fs::remove_file(&below).unwrap();
    }
}

// docs/semantics.md: Numbers of names, blocks, all bits of modes, and the times of access, of
// change and of change of state are those of the disk there, to the nanosecond.
#[test]
fn numbers_and_times_are_those_of_the_disk() {
    compare(|folder, seen| {
        let file = folder.join("file");
        put(&file, b"abc");
        let link = folder.join("link");
        symlink("file", &link).unwrap();
        let newer = |by: &str, seen: &mut Observations, of: &Path, call: &dyn Fn() -> PathBuf| {
            seen.note(by, makes_newer(of, call));
        };
        newer("chmod", seen, &file, &|| {
            chmod(&file, 0o600).unwrap();
            file.clone()
        });
        newer("link", seen, &file, &|| {
            fs::hard_link(&file, folder.join("second")).unwrap();
            file.clone()
        });
        seen.stat("two names", &file);
        newer("rename", seen, &file, &|| {
            fs::rename(&file, folder.join("renamed")).unwrap();
            folder.join("renamed")
        });
        let file = folder.join("renamed");
        newer("unlink", seen, &file, &|| {
            fs::remove_file(folder.join("second")).unwrap();
            file.clone()
        });
        seen.stat("one name", &file);
        newer("rename of a link", seen, &link, &|| {
            fs::rename(&link, folder.join("link2")).unwrap();
            folder.join("link2")
        });
        let link = folder.join("link2");
        fs::hard_link(&link, folder.join("link3")).unwrap();
        seen.stat("a link with two names", &link);
        // folders count those in them
        fs::create_dir_all(folder.join("a/b")).unwrap();
        seen.stat("a folder in it", &folder.join("a"));
        fs::create_dir(folder.join("a/c")).unwrap();
        seen.stat("two", &folder.join("a"));
        fs::remove_dir(folder.join("a/b")).unwrap();
        seen.stat("one", &folder.join("a"));
        newer(
            "a folder in which a file is made",
            seen,
            &folder.join("a"),
            &|| {
                put(&folder.join("a/x"), b"");
                folder.join("a")
            },
        );
        times_are_set(seen, &[&file, &link, &folder.join("a")]);
        room_is_counted(folder, seen);
    });
}

/// Sets times in all ways.
fn times_are_set(seen: &mut Observations, paths: &[&Path]) {
    let times = |seen: &mut Observations, what: &str, path: &Path| {
        let stat = fs::symlink_metadata(path).unwrap();
        let [a, m] = [
            (stat.atime(), stat.atime_nsec()),
            (stat.mtime(), stat.mtime_nsec()),
        ];
        seen.note(what, (a, m));
    };
    let set = |path: &Path, a: TimeSpec, m: TimeSpec| {
        utimensat(AT_FDCWD, path, &a, &m, UtimensatFlags::NoFollowSymlink).unwrap();
    };
    let (early, late) = (
        TimeSpec::new(-5, 7),
        TimeSpec::new(5_000_000_000, 123_456_789),
    );
    for path in paths {
        set(path, early, late);
        times(seen, "set", path);
        set(path, TimeSpec::UTIME_OMIT, early);
        times(seen, "one of them", path);
        set(path, late, TimeSpec::UTIME_OMIT);
        times(seen, "the other", path);
        set(path, TimeSpec::UTIME_OMIT, TimeSpec::UTIME_OMIT);
        times(seen, "none", path);
    }
}

/// Gives a file room, and none.
fn room_is_counted(folder: &Path, seen: &mut Observations) {
    let sparse = File::create(folder.join("sparse")).unwrap();
    sparse.set_len(1 << 20).unwrap();
    sparse.sync_all().unwrap();
    seen.stat("a file without bytes", &folder.join("sparse"));
    nix::fcntl::posix_fallocate(&sparse, 0, 1 << 20).unwrap();
    sparse.sync_all().unwrap();
    let blocks = sparse.metadata().unwrap().blocks();
    seen.note("room for it", blocks >= 2048);
}

// docs/semantics.md: What is made there has the mode, owner and group that the disk would give it,
// whatever the folder hands on: its group, and its list of who may do what.
#[test]
fn modes_groups_and_lists_are_handed_on_as_on_the_disk() {
    compare(|folder, seen| {
        let file = folder.join("file");
        put(&file, b"abc");
        for mode in [0o6755, 0o2644, 0o1777, 0o4000, 0o0] {
            chmod(&file, mode).unwrap();
            seen.stat("mode", &file);
        }
        let shared = folder.join("shared");
        fs::create_dir(&shared).unwrap();
        if nix::unistd::geteuid().is_root() {
            std::os::unix::fs::chown(&shared, Some(3), Some(4)).unwrap();
        }
        chmod(&shared, 0o2775).unwrap();
        let made = |seen: &mut Observations, shared: &Path| {
            fs::create_dir(shared.join("folder")).unwrap();
            put(&shared.join("file"), b"x");
            let mode = Mode::from_bits_truncate(0o666);
            mknod(&shared.join("pipe"), SFlag::S_IFIFO, mode, 0).unwrap();
            symlink("file", shared.join("link")).unwrap();
            for name in ["folder", "file", "pipe", "link"] {
                let stat = fs::symlink_metadata(shared.join(name)).unwrap();
                let mode = format!("{:o}", stat.mode());
                seen.note(name, (mode, stat.uid(), stat.gid()));
            }
        };
        made(seen, &shared);
        // user::rwx, user:5:rw-, group::r-x, mask::rwx, other::---
        let entry = |tag: u16, bits: u16, id: u32| {
            [
                &tag.to_le_bytes()[..],
                &bits.to_le_bytes(),
                &id.to_le_bytes(),
            ]
            .concat()
        };
        let all = u32::MAX;
        let acl = [
            &2_u32.to_le_bytes()[..],
            &entry(1, 7, all),
            &entry(2, 6, 5),
            &entry(4, 5, all),
            &entry(16, 7, all),
            &entry(32, 0, all),
        ]
        .concat();
        let listed = folder.join("listed");
        fs::create_dir(&listed).unwrap();
        let name = "system.posix_acl_default";
        let set = rustix::fs::setxattr(&listed, name, &acl, XattrFlags::empty());
        seen.note("a default list", set);
        made(seen, &listed);
        let mut value = [0; 200];
        for inner in ["folder", "file", "pipe"] {
            let name = "system.posix_acl_access";
            let len = rustix::fs::getxattr(listed.join(inner), name, &mut value);
            seen.note(inner, len.map(|len| value[..len].to_vec()));
        }
    });
}

// docs/semantics.md: A file that is open there can be changed in every way after its name is gone.
#[test]
fn what_is_open_is_changed_without_a_name() {
    compare(|folder, seen| {
        let path = folder.join("file");
        put(&path, b"abcdef");
        let file = File::options().read(true).write(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        seen.done("mode", file.set_permissions(Permissions::from_mode(0o604)));
        let then = std::time::UNIX_EPOCH + Duration::new(1_600_000_000, 5);
        seen.done("time", file.set_modified(then));
        seen.done("length", file.set_len(3));
        seen.done(
            "owner",
            std::os::unix::fs::fchown(&file, None, Some(nix::unistd::getegid().as_raw())),
        );
        let set = rustix::fs::fsetxattr(&file, "user.a", b"b", XattrFlags::empty());
        seen.note("attribute", set);
        seen.done("bytes", (&file).write_all(b"xy"));
        let stat = file.metadata().unwrap();
        seen.note(
            "stat",
            (format!("{:o}", stat.mode()), stat.size(), stat.nlink()),
        );
    });
}

// docs/semantics.md: Extended attributes and lists of who may do what are set, read, listed and
// removed there as on the disk, and what the disk refuses is refused with its own error.
#[test]
fn attributes_are_those_of_the_disk() {
    compare(|folder, seen| {
        let file = folder.join("file");
        put(&file, b"abc");
        symlink("file", folder.join("link")).unwrap();
        let none = XattrFlags::empty();
        let long = vec![1; 65_537];
        for (what, name, value, flags) in [
            ("new", "user.a", &b"one"[..], none),
            ("again", "user.a", b"two", none),
            ("not there", "user.b", b"x", XattrFlags::REPLACE),
            ("there", "user.a", b"x", XattrFlags::CREATE),
            ("empty", "user.empty", b"", none),
            ("no such kind", "nobody.a", b"x", none),
            ("too long", "user.long", &long, none),
            ("too long for the disk", "user.long", &long[..60_000], none),
        ] {
            seen.note(what, rustix::fs::setxattr(&file, name, value, flags));
        }
        let link = folder.join("link");
        seen.note(
            "of a link",
            rustix::fs::lsetxattr(&link, "user.a", b"x", none),
        );
        let mut value = [0; 100];
        for name in ["user.a", "user.empty", "user.none"] {
            let len = rustix::fs::getxattr(&file, name, &mut value);
            seen.note(name, len.map(|len| value[..len].to_vec()));
        }
        let short = rustix::fs::getxattr(&file, "user.a", &mut [0; 2]);
        seen.note("no room", short);
        let mut names = [0; 200];
        let len = rustix::fs::listxattr(&file, &mut names).unwrap();
        let mut names: Vec<_> = names[..len].split(|&b| b == 0).collect();
        names.sort_unstable();
        seen.note("names", names);
        seen.note("removed", rustix::fs::removexattr(&file, "user.a"));
        seen.note("removed again", rustix::fs::removexattr(&file, "user.a"));
        // a list that says more than the mode, and one that the mode can say
        let acl = |group: u8| {
            let mut acl = vec![2, 0, 0, 0];
            for (tag, bits) in [(1, 6), (4, group), (32, 0)] {
                acl.extend([tag, 0, bits, 0, 255, 255, 255, 255]);
            }
            acl
        };
        let name = "system.posix_acl_access";
        seen.note("list", rustix::fs::setxattr(&file, name, &acl(4), none));
        seen.stat("mode after it", &file);
        seen.note("no list", rustix::fs::setxattr(&file, name, b"\x02", none));
    });
}
