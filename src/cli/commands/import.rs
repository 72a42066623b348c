//! `bigsmall import`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::cli::global::Global;
use crate::cli::profile::ProfileName;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::import;
use crate::ops::import::ImportOptions;

/// Words of `import`.
#[derive(Debug, Args)]
#[command(after_help = "\
Reads what the Python package of the same name writes, versions 1 and 2, and compares the md5 of \
every tensor, which that package does not when it restores. The image has the same tensors in \
the same order; the original's header is not in OLD any more. OLD is not touched.")]
pub(crate) struct Arguments {
    /// A `.bs` file of the Python package
    old: PathBuf,
    /// Where to write [default: OLD's name with `.safetensors.bs`]
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// The model that OLD is stored as differences from: a safetensors file, or an image of one
    #[arg(long, value_name = "PATH")]
    base: Option<PathBuf>,
    #[command(flatten)]
    profile: ProfileName,
    /// Replace an output that exists
    #[arg(short, long)]
    force: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let options = ImportOptions {
        output: arguments.output.clone(),
        base: arguments.base.clone(),
        profile: arguments.profile.profile()?,
        force: arguments.force,
        threads: global.threads(),
    };
    let report = import::import(&arguments.old, &options, &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.import/1", &report)?;
    } else if !global.quiet {
        render::out(&render::compressed(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}
