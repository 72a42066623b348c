//! Exit codes: 0 fine, 1 findings of a verb that looks for them, the others by the kind of the error.

use std::io;
use std::io::Write;
use std::process::ExitCode;

use crate::base::Error;

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

/// Prints what clap has to say: help and version to stdout, faults to stderr.
pub(super) fn of_usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE))
}

/// Writes a line to stderr; where that is closed there is nobody to tell.
pub(super) fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
