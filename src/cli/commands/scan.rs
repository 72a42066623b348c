//! `bigsmall scan`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::cli::scanned;
use crate::ops::scan;

/// Words of `scan`.
#[derive(Debug, Args)]
#[command(after_help = "\
A model of up to 16 MB is coded to see what it takes, and as much of any larger one: the figure \
is then an estimate, mostly within a fiftieth. Nothing is written. `bigsmall convert` makes the \
models of a folder smaller in place, `compress` elsewhere.")]
pub(crate) struct Arguments {
    /// Folders, or files
    #[arg(required = true)]
    paths: Vec<PathBuf>,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let report = scan::scan(&arguments.paths, global.threads(), &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.scan/1", &report)?;
    } else {
        render::out(&scanned::text(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}
