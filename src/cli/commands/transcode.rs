//! `bigsmall transcode`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::cli::global::Global;
use crate::cli::profile::ProfileName;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::compress;
use crate::ops::compress::TranscodeOptions;

/// Words of `transcode`.
#[derive(Debug, Args)]
#[command(after_help = "\
The originals are not needed, and appear nowhere on the disk. What is stored as differences from \
a base stays so. Of a folder all images are coded anew; other files are copied, parity is left \
out.")]
pub(crate) struct Arguments {
    /// An image, or a folder of images
    source: PathBuf,
    /// The new image, or the new folder
    target: PathBuf,
    #[command(flatten)]
    profile: ProfileName,
    /// Where the bases of deltas are looked for, instead of beside the image
    #[arg(long, value_name = "PATH", alias = "base-dir")]
    base: Vec<PathBuf>,
    /// Replace an output that exists
    #[arg(short, long)]
    force: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let options = TranscodeOptions {
        profile: arguments.profile.profile()?,
        bases: arguments.base.clone(),
        force: arguments.force,
        threads: global.threads(),
    };
    let (source, target) = (&arguments.source, &arguments.target);
    let report = compress::transcode(source, target, &options, &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.transcode/1", &report)?;
    } else if !global.quiet {
        render::out(&render::compressed(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}
