//! `bigsmall migrate`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::base::units::counted;
use crate::base::units::human_bytes;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::profile::ProfileName;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::import;
use crate::ops::import::ImportOptions;

/// Words of `migrate`.
#[derive(Debug, Args)]
#[command(after_help = "\
Each file is there until its image was written, read back and compared, and then the image has \
its name. Images of this program stay as they are. Exit code 1: some could not be migrated, and \
are as they were.")]
pub(crate) struct Arguments {
    /// `.bs` files of the Python package, or folders of them
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The model that they are stored as differences from
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    #[command(flatten)]
    profile: ProfileName,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let options = ImportOptions {
        output: None,
        base: arguments.base.clone(),
        profile: arguments.profile.profile()?,
        force: true,
        threads: global.threads(),
    };
    let report = import::migrate(&arguments.paths, &options, &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.migrate/1", &report)?;
    } else if !global.quiet {
        let mut lines: Vec<String> = report.parity.iter().map(render::protected).collect();
        let sizes = match report.images.len() {
            0 => String::new(),
            _ => format!(
                ", {} -> {}",
                human_bytes(report.bytes),
                human_bytes(report.image_bytes)
            ),
        };
        lines.push(format!(
            "{} migrated{sizes}; {} needed nothing, {} failed",
            counted(report.images.len() as u64, "file"),
            counted(report.left, "image"),
            counted(report.failed.len() as u64, "file")
        ));
        render::out(&lines.join("\n"))?;
    }
    Ok(exit::of_findings(report.failed.is_empty()))
}
