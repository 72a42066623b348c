//! `bigsmall verify`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::base::units::human_bytes;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::verify;
use crate::ops::verify::ImageReport;

/// Words of `verify`.
#[derive(Debug, Args)]
#[command(after_help = "\
Decodes and checks every block, the md5 of every tensor, the sha256 of every file and both copies of the index.
Exit code 0: everything is right. 1: damage was found.")]
pub(crate) struct Arguments {
    /// An image, or a folder of images
    source: PathBuf,
    /// A model that images are stored as differences from: a file, an image, or a folder of them
    #[arg(long, value_name = "PATH", alias = "base-dir")]
    base: Vec<PathBuf>,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let report = verify::verify(
        &arguments.source,
        &arguments.base,
        global.threads(),
        &Bar::new(global),
    )?;
    if global.json {
        render::json("bigsmall.verify/1", &report)?;
    } else if !global.quiet || !report.ok {
        let lines: Vec<String> = report.images.iter().map(text).collect();
        render::out(&lines.join("\n"))?;
    }
    Ok(if report.ok {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(exit::FINDINGS)
    })
}

fn text(image: &ImageReport) -> String {
    let mut lines = Vec::new();
    let path = image.path.display();
    if image.ok {
        lines.push(format!(
            "{path}: ok, {} in {} blocks, {} file(s)",
            human_bytes(image.verified_bytes),
            image.blocks,
            image.files.len()
        ));
    } else {
        lines.push(format!(
            "{path}: DAMAGED, {} of {} blocks",
            image.damaged_blocks, image.blocks
        ));
    }
    lines.extend(
        image
            .faults
            .iter()
            .map(|fault| format!("  {}", fault.replace('\n', "\n  "))),
    );
    for file in &image.files {
        let path = if file.path.is_empty() {
            "the file"
        } else {
            &file.path
        };
        let verdict = if file.ok { "matches" } else { "DIFFERS" };
        lines.push(format!("  sha256 of {path} {verdict}: {}", file.sha256));
    }
    lines.join("\n")
}
