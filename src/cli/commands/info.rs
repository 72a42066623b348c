//! `bigsmall info`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::cli::described;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::info;

/// Words of `info`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An image, or a folder of images
    source: PathBuf,
    /// List every tensor
    #[arg(short, long)]
    tensors: bool,
    /// Where the bases of deltas are looked for, instead of beside the image
    #[arg(long, value_name = "PATH", alias = "base-dir")]
    base: Vec<PathBuf>,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let report = info::info(&arguments.source, &arguments.base, &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.info/1", &report)?;
    } else {
        let images = report
            .images
            .iter()
            .map(|image| described::text(image, arguments.tensors));
        let texts: Vec<String> = images.chain(render::notes(&report.notes)).collect();
        render::out(&texts.join("\n\n"))?;
    }
    Ok(ExitCode::SUCCESS)
}
