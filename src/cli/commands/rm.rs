//! `bigsmall rm`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::base::units::counted;
use crate::base::units::human_bytes;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::remove;
use crate::ops::remove::RemoveOptions;

/// Words of `rm`.
#[derive(Debug, Args)]
#[command(after_help = "\
A delta is an image that is stored as differences from another model, its base. Nothing is \
removed if a delta in the same folder, below it, in a folder beside it, or below `--among`, \
would lose its only base.")]
pub(crate) struct Arguments {
    /// Images, models, or folders
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// Where else deltas are that may need them
    #[arg(long, value_name = "FOLDER")]
    among: Vec<PathBuf>,
    /// Only say what would be removed
    #[arg(long)]
    dry_run: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let options = RemoveOptions {
        among: arguments.among.clone(),
        dry_run: arguments.dry_run,
    };
    let report = remove::remove(&arguments.paths, &options, &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.rm/1", &report)?;
    } else if !global.quiet {
        let (files, bytes) = (report.removed.len(), human_bytes(report.bytes));
        let done = if report.dry_run {
            "would be removed"
        } else {
            "removed"
        };
        let deltas = report.deltas;
        render::out(&format!(
            "{} ({bytes}) {done}; {} looked at, none needs what goes",
            counted(files as u64, "file"),
            counted(deltas, "delta")
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}
