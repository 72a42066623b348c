//! `mount -t bigsmall` and lines of fstab: mount(8) runs `mount.bigsmall SOURCE MOUNTPOINT
//! [-fnrsvw] [-o OPTIONS]`, which is this program under another name. Options are our flags, with
//! `_` or `-` in them, and those that every file system gets.

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The names under which mount(8) looks for it.
const NAMES: [&str; 2] = ["mount.bigsmall", "mount.fuse.bigsmall"];
/// Exit codes as mount(8) has them.
pub(crate) const USAGE: u8 = 1;
pub(crate) const FAILURE: u8 = 32;

/// Options with a value that are flags of `mount`.
const VALUED: [&str; 8] = [
    "base",
    "base-dir",
    "cache",
    "cache-mode",
    "log",
    "log-format",
    "metrics",
    "read-ahead",
];
/// Flags of `mount` without one.
const FLAGS: [&str; 3] = ["allow-other", "force", "protect-models"];
/// What every file system gets. What is read-only or writable follows from the mountpoint, and what
/// is private stays it.
const COMMON: [&str; 26] = [
    "_netdev",
    "async",
    "atime",
    "auto",
    "defaults",
    "dev",
    "diratime",
    "exec",
    "group",
    "noatime",
    "noauto",
    "nodev",
    "nodiratime",
    "noexec",
    "nofail",
    "norelatime",
    "nostrictatime",
    "nosuid",
    "nouser",
    "owner",
    "relatime",
    "ro",
    "rw",
    "suid",
    "user",
    "users",
];

/// Whether the program was called by mount(8).
pub(crate) fn is_called(program: &OsStr) -> bool {
    let name = Path::new(program).file_name();
    NAMES.iter().any(|known| name == Some(OsStr::new(known)))
}

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Call {
    /// These words for the command line.
    Mount(Vec<OsString>),
    /// Nothing: it was only asked whether this makes sense.
    Fake,
}

/// The words of the command line for those of mount(8).
pub(crate) fn words(given: impl Iterator<Item = OsString>) -> Result<Call, String> {
    let mut given = given;
    let mut paths: Vec<OsString> = Vec::new();
    let mut options: Vec<OsString> = Vec::new();
    let (mut is_fake, mut is_sloppy) = (false, false);
    while let Some(word) = given.next() {
        match word.as_bytes() {
            b"-o" => options.push(given.next().ok_or("-o needs options")?),
            b"-t" | b"-N" => {
                given.next();
            }
            [b'-', letters @ ..] if !letters.is_empty() => {
                for letter in letters {
                    match letter {
                        b'f' => is_fake = true,
                        b's' => is_sloppy = true,
                        b'n' | b'v' | b'r' | b'w' => {}
                        _ => return Err(format!("unknown option {}", word.display())),
                    }
                }
            }
            _ => paths.push(word),
        }
    }
    let [source, mountpoint] = &paths[..] else {
        return Err("usage: mount.bigsmall SOURCE MOUNTPOINT [-fnrsvw] [-o OPTIONS]".to_owned());
    };
    let mut words: Vec<OsString> = vec!["bigsmall".into(), "mount".into()];
    for option in options
        .iter()
        .flat_map(|o| o.as_bytes().split(|&b| b == b','))
    {
        words.extend(flag(option, is_sloppy)?);
    }
    words.extend(["--".into(), source.clone(), mountpoint.clone()]);
    Ok(if is_fake {
        Call::Fake
    } else {
        Call::Mount(words)
    })
}

/// The flag for one option; none for what needs none.
fn flag(option: &[u8], is_sloppy: bool) -> Result<Option<OsString>, String> {
    let name_len = option.iter().position(|&b| b == b'=');
    let name = &option[..name_len.unwrap_or(option.len())];
    let name = String::from_utf8_lossy(name).replace('_', "-");
    let is_for_others = name.starts_with("x-") || name.starts_with("X-") || name == "comment";
    let as_given = String::from_utf8_lossy(option);
    if is_for_others || option.is_empty() || COMMON.contains(&&*as_given) {
        return Ok(None);
    }
    let valued = name_len.map(|len| &option[len + 1..]);
    match valued {
        Some(value) if VALUED.contains(&&*name) => {
            let mut flag = OsString::from(format!("--{name}="));
            flag.push(OsStr::from_bytes(value));
            Ok(Some(flag))
        }
        None if FLAGS.contains(&&*name) => Ok(Some(format!("--{name}").into())),
        _ if is_sloppy => Ok(None),
        _ => Err(format!("unknown mount option `{as_given}`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(line: &str) -> Result<Call, String> {
        words(line.split(' ').map(OsString::from))
    }

    #[test]
    fn a_line_of_fstab_becomes_a_command() {
        let options = "rw,nosuid,nofail,_netdev,cache=64m,allow_other,base=/b,x-systemd.automount";
        let Ok(Call::Mount(words)) = call(&format!("/src /mnt -o {options}")) else {
            panic!("it makes sense");
        };
        let expected = [
            "bigsmall",
            "mount",
            "--cache=64m",
            "--allow-other",
            "--base=/b",
            "--",
            "/src",
            "/mnt",
        ];
        assert_eq!(words, expected);
        assert_eq!(call("/src /mnt -f"), Ok(Call::Fake));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for line in [
            "/src",
            "/src /mnt -o cash=1m",
            "/src /mnt -o cache",
            "/a /b -x",
            "/a /b -o",
        ] {
            assert!(call(line).is_err(), "{line}");
        }
        assert!(call("/src /mnt -s -o cash=1m").is_ok());
    }

    #[test]
    fn the_name_tells() {
        assert!(is_called(OsStr::new("/sbin/mount.bigsmall")));
        assert!(!is_called(OsStr::new("/usr/bin/bigsmall-mountd")));
    }
}
