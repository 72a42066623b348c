//! `bigsmall restore`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::archive::hf_cache;
use crate::base::Result;
use crate::base::units::counted;
use crate::base::units::human_bytes;
use crate::cli::ask;
use crate::cli::converted;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::restore;

/// Words of `restore`.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
#[command(after_help = "\
The undo of `bigsmall convert`: each image becomes the file that it was, is compared with its \
sha256, and only then goes itself. Images that convert has not made stay, unless `--all`. What a \
record tells of and was not found is named, with exit code 1, and stays in the record until it \
is found, or given up with `--forget`.")]
pub(crate) struct Arguments {
    /// The folder that was converted; with `--hf-cache` that of the Hugging Face cache if none is
    /// named
    #[arg(required_unless_present = "hf_cache")]
    folder: Option<PathBuf>,
    /// Restore the Hugging Face cache
    #[arg(long)]
    hf_cache: bool,
    /// Restore every image of a file, whoever made it
    #[arg(long)]
    all: bool,
    /// Strike from the record what is not found in the folder
    #[arg(long)]
    forget: bool,
    /// Only say what would be done
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let folder = hf_cache::folder_or(arguments.folder.as_deref())?;
    let progress = Bar::new(global);
    let plan = restore::plan(&folder, arguments.all, &progress)?;
    let images = match plan.files.len() {
        0 => "no image to restore".to_owned(),
        count => format!(
            "{} to restore, which takes {} more than now",
            counted(count as u64, "image"),
            human_bytes(plan.needed_bytes)
        ),
    };
    let summary = images + &converted::not_found(&plan.missing);
    if arguments.dry_run {
        if global.json {
            render::json("bigsmall.restore-plan/1", &plan)?;
        } else {
            render::out(&summary)?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !plan.files.is_empty() {
        if !global.quiet && !global.json {
            exit::complain(&summary);
        }
        if !ask::confirm("Restore, and remove the images?", arguments.yes)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let report = restore::restore(&plan, global.threads(), &progress)?;
    let is_forgotten = arguments.forget && !report.missing.is_empty();
    if is_forgotten {
        restore::forget(&folder)?;
    }
    if global.json {
        render::json("bigsmall.restore/1", &report)?;
    } else if !global.quiet {
        let rate = match report.restored {
            0 => String::new(),
            _ => format!("; {}", render::rate(report.bytes, report.seconds)),
        };
        let (restored, stayed) = (report.restored, report.stayed.len());
        let parity = match report.parity_removed.len() {
            0 => String::new(),
            gone => {
                let gone = counted(gone as u64, "parity file");
                format!("; {gone} removed with the images")
            }
        };
        render::out(&format!(
            "{} restored, {} left unchanged{parity}{rate}{}",
            counted(restored, "file"),
            counted(stayed as u64, "image"),
            converted::not_found(&report.missing)
        ))?;
    }
    Ok(exit::of_findings(
        report.stayed.is_empty() && (report.missing.is_empty() || is_forgotten),
    ))
}
