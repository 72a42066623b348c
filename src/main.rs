//! Starts the command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    bigsmall::cli::run(std::env::args_os())
}
