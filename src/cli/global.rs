//! The flags that every command has, and what some have in common.

use std::path::PathBuf;

use clap::Args;

use crate::base::Error;
use crate::base::Result;
use crate::base::parallel;
use crate::ops::compress::Output;

/// Flags that every command has.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
pub(super) struct Global {
    /// Print one JSON object instead of text
    #[arg(long, global = true)]
    pub(super) json: bool,
    /// Print nothing but errors
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// Print more; twice, still more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    pub(super) verbose: u8,
    /// Show no progress bar
    #[arg(long, global = true)]
    pub(super) no_progress: bool,
    /// Stop at the first thing in a folder that cannot be read or is no good, in place of passing
    /// it over
    #[arg(long, global = true)]
    pub(super) strict: bool,
    /// Use this many threads [default: one for each core]
    #[arg(short = 'j', long, global = true, value_name = "N")]
    threads: Option<std::num::NonZeroUsize>,
}

/// More threads than this would only take memory: each has some megabytes in work.
const THREADS_MAX: usize = 32;

impl Global {
    /// How many threads to use.
    pub(super) fn threads(&self) -> usize {
        self.threads
            .map_or_else(parallel::default_threads, Into::into)
            .min(THREADS_MAX)
    }
}

/// Sends the library's log to stderr, filtered by `BIGSMALL_LOG`, else `RUST_LOG`, else by `-v`.
pub(super) fn start_logging(verbose: u8) {
    use tracing_subscriber::EnvFilter;
    let level = ["warn", "info", "debug"][usize::from(verbose.min(2))];
    let filter = EnvFilter::try_from_env("BIGSMALL_LOG")
        .or_else(|_| EnvFilter::try_from_default_env())
        .unwrap_or_else(|_| EnvFilter::new(level));
    // a second start (in tests) keeps the first logger
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .try_init();
}

/// Where `-o` says that the output goes. Data are not poured into a terminal.
pub(super) fn output(path: Option<&PathBuf>) -> Result<Output> {
    use std::io::IsTerminal;
    match path {
        None => Ok(Output::Beside),
        Some(path) if path.as_os_str() == "-" => {
            if std::io::stdout().is_terminal() {
                return Err(Error::invalid("standard output is a terminal").hint("redirect it"));
            }
            Ok(Output::Stdout)
        }
        Some(path) => Ok(Output::Path(path.clone())),
    }
}
