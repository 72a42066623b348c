//! `bigsmall decompress`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::base::units::counted;
use crate::base::units::human_bytes;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::global::output;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::compress::Output;
use crate::ops::decompress;
use crate::ops::decompress::DecompressOptions;
use crate::ops::decompress::DecompressReport;

/// Words of `decompress`.
#[derive(Debug, Args)]
#[command(after_help = "\
An image of a file gives the file beside it, or at `-o`. A folder of images, or an image of a \
folder, needs `-o FOLDER`. Every block is checked, and the sha256 of every file compared, before \
a file appears. An image of a folder gives permissions, times, links and empty folders back, and \
owners where root runs it; setuid and the like, and links out of the folder, are never made.
Exit code 1: a link was not made.")]
pub(crate) struct Arguments {
    /// An image, or a folder of images
    pub(super) source: PathBuf,
    /// Where to write; `-` is standard output
    #[arg(short, long)]
    pub(super) output: Option<PathBuf>,
    /// A model that images are stored as differences from: a file, an image, or a folder of them
    #[arg(long, value_name = "PATH", alias = "base-dir")]
    pub(super) base: Vec<PathBuf>,
    /// Replace an output that exists
    #[arg(short, long)]
    pub(super) force: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let options = DecompressOptions {
        output: output(arguments.output.as_ref())?,
        bases: arguments.base.clone(),
        force: arguments.force,
        threads: global.threads(),
    };
    let report = decompress::decompress(&arguments.source, &options, &Bar::new(global))?;
    match (&options.output, global.json) {
        // standard output is the data
        (Output::Stdout, _) if global.quiet => {}
        (Output::Stdout, _) => exit::complain(&text(&report)),
        (_, true) => render::json("bigsmall.decompress/1", &report)?,
        (_, false) if global.quiet => {}
        (_, false) => render::out(&text(&report))?,
    }
    Ok(exit::of_findings(report.not_made.is_empty()))
}

fn text(report: &DecompressReport) -> String {
    let mut lines = Vec::new();
    for file in &report.files {
        lines.push(format!(
            "{} -> {}  {}  sha256 {}",
            file.source.display(),
            file.output.display(),
            human_bytes(file.bytes),
            file.sha256
        ));
    }
    lines.extend(report.parity.iter().map(render::protected));
    if report.copied_files > 0 {
        lines.push(format!(
            "{} copied unchanged",
            counted(report.copied_files, "other file")
        ));
    }
    match report.not_made.len() {
        0 => {}
        1 => lines.push("1 link was not made: it leads out of its folder".to_owned()),
        count => lines.push(format!(
            "{count} links were not made: they lead out of their folders"
        )),
    }
    lines.push(format!(
        "restored {}",
        render::rate(report.bytes, report.seconds)
    ));
    lines.join("\n")
}
