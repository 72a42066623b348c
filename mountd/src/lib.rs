//! The mount daemon: `mount`, `unmount` and `mounts`, which `bigsmall` hands over. A library only
//! so that a fuzzer can reach what reads the kernel's requests.

mod adapter;
mod args;
mod daemon;
mod fs;
pub mod fuzz;
mod helper;
mod node;
mod session;
mod shares;
mod statistics;
mod wire;

use std::ffi::OsString;
use std::process::ExitCode;

use args::Command;
use bigsmall::cli::exit;
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
            exit::complain(&format!("error: {why}"));
            ExitCode::from(helper::USAGE)
        }
    }
}

fn run(words: Vec<OsString>) -> ExitCode {
    exit::name_remedies();
    let cli = match args::Cli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => return exit::of_usage(&error),
    };
    let outcome = match cli.command {
        Command::Mount(arguments) => daemon::mount::run(&arguments),
        Command::Unmount(arguments) => daemon::control::unmount(&arguments),
        Command::Worker => daemon::worker::run(),
        Command::Mounts(arguments) => daemon::control::mounts(&arguments),
    };
    outcome.unwrap_or_else(|error| exit::of_error(&error))
}
