//! `bigsmall protect`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::base::units::counted;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::protect;
use crate::ops::protect::PERCENT_DEFAULT;
use crate::ops::protect::ProtectOptions;

/// Words of `protect`.
#[derive(Debug, Args)]
#[command(after_help = "\
Writes FILE.par beside each file: parity by which `bigsmall repair` can put it together again \
after sectors went bad, its end was cut off, or bytes were put in or taken out. Any file can be \
protected; of folders, every image.")]
pub(crate) struct Arguments {
    /// Files, or folders of images
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// How much of a file may be lost in one piece
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = PERCENT_DEFAULT,
        value_parser = clap::value_parser!(u32).range(1..=100)
    )]
    percent: u32,
    /// Replace parity that is there already
    #[arg(short, long)]
    force: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let options = ProtectOptions {
        percent: arguments.percent,
        force: arguments.force,
        threads: global.threads(),
    };
    let report = protect::protect(&arguments.paths, &options, &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.protect/1", &report)?;
    } else if !global.quiet {
        let mut lines: Vec<String> = report.files.iter().map(render::protected).collect();
        if report.kept > 0 {
            lines.push(format!(
                "{} had parity already",
                counted(report.kept as u64, "file")
            ));
        }
        if !lines.is_empty() {
            render::out(&lines.join("\n"))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
