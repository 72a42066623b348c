//! `bigsmall diff`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use serde::Serialize;

use crate::base::Result;
use crate::cli::differences;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::compress::CompressReport;
use crate::ops::diff;
use crate::ops::diff::DiffReport;

/// Words of `diff`.
#[derive(Debug, Args)]
#[command(after_help = "\
Tensors are compared by name, in whatever files they are: models, images, or folders of them.
Exit code 0: all tensors are the same. 1: some differ.")]
pub(crate) struct Arguments {
    /// A model: a file, an image, or a folder of them
    a: PathBuf,
    /// Another one
    b: PathBuf,
    /// Also store B as its differences from A, in this image
    #[arg(long, value_name = "IMAGE")]
    patch: Option<PathBuf>,
    /// Replace an image that exists
    #[arg(short, long)]
    force: bool,
}

#[derive(Serialize)]
struct Report {
    #[serde(flatten)]
    diff: DiffReport,
    patch: Option<CompressReport>,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let progress = Bar::new(global);
    let diff = diff::diff(&arguments.a, &arguments.b, global.threads(), &progress)?;
    let patch = arguments.patch.as_ref().map(|image| {
        let (a, b) = (&arguments.a, &arguments.b);
        diff::patch(a, b, image, arguments.force, global.threads(), &progress)
    });
    let report = Report {
        diff,
        patch: patch.transpose()?,
    };
    if global.json {
        render::json("bigsmall.diff/1", &report)?;
    } else if !global.quiet {
        let mut lines = differences::text(&report.diff);
        lines.extend(report.patch.as_ref().map(render::compressed));
        render::out(&lines.join("\n"))?;
    }
    Ok(exit::of_findings(report.diff.same))
}
