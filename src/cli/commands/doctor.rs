//! `bigsmall doctor`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::base::units::counted;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::doctor;
use crate::ops::doctor::DoctorReport;

/// Words of `doctor`.
#[derive(Debug, Args)]
#[command(after_help = "\
Looks for parity that is of another file or of none, records of `convert` without their images, \
images that no record tells of, and files that a stopped run left half written, and says what to \
do about each. Changes nothing, and decodes no block: `bigsmall verify` does.
Exit code 0: nothing was found. 1: something was.")]
pub(crate) struct Arguments {
    /// The folder to look at
    #[arg(default_value = ".")]
    path: PathBuf,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let report = doctor::doctor(&arguments.path, global.threads(), &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.doctor/1", &report)?;
    } else if !global.quiet || !report.ok {
        render::out(&text(&report))?;
    }
    Ok(exit::of_findings(report.ok))
}

fn text(report: &DoctorReport) -> String {
    let mut lines = Vec::new();
    for finding in &report.findings {
        lines.push(finding.path.display().to_string());
        lines.push(format!("  {}", finding.what));
        lines.push(format!("  to do: {}", finding.advice));
    }
    lines.push(format!(
        "{}: {} found, {} looked at; nothing was changed",
        report.folder.display(),
        match report.findings.len() {
            0 => "nothing".to_owned(),
            more => counted(more as u64, "thing"),
        },
        counted(report.images, "image")
    ));
    lines.join("\n")
}
