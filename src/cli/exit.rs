//! Exit codes: 0 fine, 1 findings of a verb that looks for them, the others by the kind of the error.

use std::io;
use std::io::Write;
use std::process::ExitCode;

use crate::base::Error;
use crate::base::error::escaped;
use crate::base::progress::Skipped;

/// Findings of a verb that looks for them.
pub(super) const FINDINGS: u8 = 1;
/// A command line that makes no sense.
pub(super) const USAGE: u8 = 2;

/// Prints an error and gives its code. A reader that went away (broken pipe) is none.
pub(super) fn of_error(error: &Error) -> ExitCode {
    const BROKEN_PIPE: i32 = 32;
    if error.raw_os_error() == Some(BROKEN_PIPE) {
        return ExitCode::SUCCESS;
    }
    complain(&format!("error: {error}"));
    ExitCode::from(error.kind().exit_code())
}

/// Names what was passed over; then the code says so, too, unless it says something worse.
pub(super) fn with_skipped(code: ExitCode, skipped: &[Skipped]) -> ExitCode {
    if skipped.is_empty() {
        return code;
    }
    complain(&format!("passed over, {} in all:", skipped.len()));
    let mut skipped: Vec<&Skipped> = skipped.iter().collect();
    skipped.sort_by_key(|skipped| skipped.reason);
    for Skipped { path, why, .. } in skipped {
        let path = escaped(&path.to_string_lossy());
        complain(&format!("  `{path}`: {why}"));
    }
    if code == ExitCode::SUCCESS {
        ExitCode::from(FINDINGS)
    } else {
        code
    }
}

/// Prints what clap has to say: help and version to stdout, faults to stderr.
pub(super) fn of_usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE))
}

/// Writes a line to stderr; where that is closed there is nobody to tell.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
