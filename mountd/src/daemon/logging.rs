//! The log of a mount: where it goes, and how much.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;
use std::process::Stdio;

use bigsmall::base::Error;
use bigsmall::base::Result;
use bigsmall::cli::exit::complain;
use serde::Deserialize;
use serde::Serialize;

/// Where a process logs to, and how much.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Logging {
    /// None for stderr.
    pub(crate) file: Option<OsString>,
    pub(crate) json: bool,
    pub(crate) verbose: u8,
}

impl Logging {
    /// Where a process writes what does not come from the log, as the words of a fault. Our own
    /// stderr may be a pipe that somebody reads to its end.
    pub(crate) fn stderr(&self) -> Stdio {
        let Some(path) = &self.file else {
            return Stdio::inherit();
        };
        let file = File::options().append(true).create(true).open(path);
        file.map_or_else(|_| Stdio::null(), Stdio::from)
    }
}

/// In the foreground the log goes to stderr, or to the file asked for; in the background to the
/// file, always.
pub(crate) fn start(logging: &Logging) -> Result<()> {
    use tracing_subscriber::EnvFilter;
    use tracing_subscriber::fmt::writer::BoxMakeWriter;
    let level = ["info", "debug", "trace"][usize::from(logging.verbose.min(2))];
    let filter = EnvFilter::try_from_env("BIGSMALL_LOG")
        .or_else(|_| EnvFilter::try_from_default_env())
        .unwrap_or_else(|_| EnvFilter::new(level));
    let writer = match logging.file.as_ref().map(Path::new) {
        Some(log) => {
            let file = File::options().append(true).create(true).open(log);
            BoxMakeWriter::new(file.map_err(|e| Error::io("cannot write the log", log, e))?)
        }
        None => BoxMakeWriter::new(std::io::stderr),
    };
    let logger = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(false)
        .with_writer(writer);
    let started = if logging.json {
        logger.json().try_init()
    } else {
        logger.try_init()
    };
    if let Err(error) = started {
        complain(&format!("warning: no log: {error}"));
    }
    Ok(())
}

/// Removes a log of ours that tells of nothing: the runtime folder lives in memory.
pub(crate) fn forget_if_quiet(log: &Path) {
    let loud = |text: &String| {
        [" ERROR ", " WARN ", "\"ERROR\"", "\"WARN\""]
            .iter()
            .any(|l| text.contains(l))
    };
    if !std::fs::read_to_string(log).is_ok_and(|text| loud(&text)) {
        let _ = std::fs::remove_file(log);
    }
}
