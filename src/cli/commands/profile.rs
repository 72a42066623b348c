//! `bigsmall profile`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::cli::global::Global;
use crate::cli::profiled;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::profile;
use crate::ops::profile::ProfileOptions;

/// Words of `profile`.
#[derive(Debug, Args)]
#[command(after_help = "\
Takes some seconds, and an eighth of the free memory at most. What was measured is kept in the \
user's cache folder, and shown again until processor, memory, instructions, threads or the version \
of this program are others; free memory and GPUs are always looked at anew. What cannot be \
measured is called `not measured`, with the reason: docs/profile.md.")]
pub(crate) struct Arguments {
    /// A model: the disk that it is on is measured, too
    model: Option<PathBuf>,
    /// Measure anew, whatever is kept
    #[arg(long)]
    refresh: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let options = ProfileOptions {
        model: arguments.model.clone(),
        refresh: arguments.refresh,
        ..ProfileOptions::new(global.threads())
    };
    let report = profile::profile(&options, &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.profile/1", &report)?;
    } else {
        render::out(&profiled::text(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}
