//! The mount daemon: `mount`, `unmount` and `mounts`, which `bigsmall` hands over. A library only so that a fuzzer can reach what
//! reads the kernel's requests.

mod adapter;
mod args;
mod daemon;
mod fs;
pub mod fuzz;
mod helper;
mod session;
mod statistics;
mod wire;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use args::Command;
use clap::Parser;
use helper::Call;

/// Runs the daemon's command line and gives the exit code.
pub fn main() -> ExitCode {
    let program = std::env::args_os().next().unwrap_or_default();
    if !helper::is_called(&program) {
        return run(std::env::args_os().collect());
    }
    match helper::words(std::env::args_os().skip(1)) {
        Ok(Call::Fake) => ExitCode::SUCCESS,
        Ok(Call::Mount(words)) => {
            let code = run(words);
            if code == ExitCode::SUCCESS {
                return code;
            }
            ExitCode::from(helper::FAILURE)
        }
        Err(why) => {
            complain(&format!("error: {why}"));
            ExitCode::from(helper::USAGE)
        }
    }
}

fn run(words: Vec<OsString>) -> ExitCode {
    let cli = match args::Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let outcome = match cli.command {
        Command::Mount(arguments) => daemon::mount(&arguments),
        Command::Unmount(arguments) => daemon::control::unmount(&arguments),
        Command::Worker => daemon::worker::run(),
        Command::Mounts(arguments) => daemon::control::mounts(&arguments),
    };
    outcome.unwrap_or_else(|error| {
        // who read what was printed went away
        if error.raw_os_error() == Some(nix::errno::Errno::EPIPE as i32) {
            return ExitCode::SUCCESS;
        }
        complain(&format!("error: {error}"));
        ExitCode::from(error.kind().exit_code())
    })
}

/// Writes a line to stderr; where that is closed there is nobody to tell.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}
