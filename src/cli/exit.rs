//! How a program of ours ends: what it says of an error, with hints that name commands, and its
//! exit code. 0 is fine, 1 findings of a verb that looks for them, the others follow from the kind
//! of the error.

use std::io;
use std::io::Write;
use std::process::ExitCode;

use crate::base::Error;
use crate::base::ErrorKind;
use crate::base::Remedy;
use crate::base::error;
use crate::base::error::escaped;
use crate::base::progress::Skipped;

/// Findings of a verb that looks for them.
const FINDINGS: u8 = 1;
/// A command line that makes no sense.
pub(super) const USAGE: u8 = 2;

/// What a verb that looks for something exits with, if all is fine and if not.
pub(super) fn of_findings(is_fine: bool) -> ExitCode {
    if is_fine {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FINDINGS)
    }
}

/// What a program that fails by this exits with.
pub fn code_of(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::Invalid => USAGE,
        ErrorKind::NotFound | ErrorKind::Io | ErrorKind::Busy => 3,
        ErrorKind::Damaged => 4,
        ErrorKind::MissingBase => 5,
        ErrorKind::Unsupported => 6,
        ErrorKind::Network => 7,
        ErrorKind::Device | ErrorKind::OverLimit => 8,
        ErrorKind::Interrupted => 130,
    }
}

/// Has errors say by which command they are mended.
pub fn name_remedies() {
    error::name_remedies(|remedy| match remedy {
        Remedy::Import => "make an image of it: `bigsmall import FILE`",
        Remedy::ImportWithBase => "make an image of it: `bigsmall import FILE --base MODEL`",
        Remedy::Migrate => "`bigsmall migrate` makes it one that is read anywhere",
        Remedy::Mount => "`bigsmall mount` shows the model to any engine as the file it came from",
        Remedy::Repair => {
            "`bigsmall repair` mends it if there is parity; else get the file from a copy"
        }
    });
}

/// Prints an error and gives its code. A reader that went away (broken pipe) is none.
pub fn of_error(error: &Error) -> ExitCode {
    const BROKEN_PIPE: i32 = 32;
    if error.raw_os_error() == Some(BROKEN_PIPE) {
        return ExitCode::SUCCESS;
    }
    complain(&format!("error: {error}"));
    ExitCode::from(code_of(error.kind()))
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
pub fn of_usage(error: &clap::Error) -> ExitCode {
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE))
}

/// Writes a line to stderr; where that is closed there is nobody to tell.
pub fn complain(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
