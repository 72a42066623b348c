//! `mount`, `unmount` and `mounts` are run by the daemon's binary, found beside this one, else on
//! PATH. (The daemon depends on this library, so this package cannot depend on the daemon.)

use std::ffi::OsStr;
use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::process::ExitCode;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Result;
use crate::cli::global::Global;

/// The words that the daemon knows.
pub(super) const WORDS: [&str; 4] = ["mount", "unmount", "umount", "mounts"];
const DAEMON: &str = "bigsmall-mountd";

/// Hands `words` over as they stand; global flags given before them go along. `commands` are all
/// that there are, for suggestions.
pub(super) fn run(words: &[OsString], global: &Global, commands: &[String]) -> Result<ExitCode> {
    let word = words.first().map(OsString::as_os_str).unwrap_or_default();
    if !WORDS.iter().any(|known| *known == word) {
        return Err(no_such_command(word, commands));
    }
    let mut command = Command::new(daemon_path());
    command.args(words);
    for (given, flag) in [(global.json, "--json"), (global.quiet, "--quiet")] {
        if given {
            command.arg(flag);
        }
    }
    command.args((0..global.verbose).map(|_| "--verbose"));
    let error = command.exec();
    Err(if error.kind() == std::io::ErrorKind::NotFound {
        Error::new(
            ErrorKind::NotFound,
            format!("`{DAEMON}` is neither beside `bigsmall` nor on PATH"),
        )
        .hint("build both with `cargo build --release` and keep them in one folder")
    } else {
        Error::io("cannot run", &daemon_path(), error)
    })
}

fn daemon_path() -> PathBuf {
    let own = std::env::current_exe()
        .and_then(std::fs::canonicalize)
        .unwrap_or_default();
    let beside = own.with_file_name(DAEMON);
    if beside.is_file() {
        beside
    } else {
        PathBuf::from(DAEMON)
    }
}

fn no_such_command(word: &OsStr, commands: &[String]) -> Error {
    let word = word.to_string_lossy();
    let error = Error::invalid(format!(
        "there is no command `{}`",
        crate::base::error::escaped(&word)
    ));
    let nearest = commands
        .iter()
        .map(|name| (distance(name, &word), name))
        .min()
        .filter(|(distance, _)| *distance <= 2);
    match nearest {
        Some((_, name)) => error.hint(format!("did you mean `{name}`? see `bigsmall --help`")),
        None => error.hint("see `bigsmall --help`"),
    }
}

/// Levenshtein distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(40).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_answered_with_the_command_meant() {
        assert_eq!(distance("mount", "mout"), 1);
        let commands = ["compress", "decompress"].map(str::to_owned);
        let error = no_such_command(OsStr::new("compres"), &commands);
        assert!(
            error.to_string().contains("did you mean `compress`"),
            "{error}"
        );
    }
}
