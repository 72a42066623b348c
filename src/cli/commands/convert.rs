//! `bigsmall convert`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::archive::hf_cache;
use crate::base::Result;
use crate::base::in_use::MIN_AGE;
use crate::cli::ask;
use crate::cli::converted;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::convert;
use crate::ops::convert::ConvertOptions;
use crate::ops::convert::FinishedCheck;

/// Words of `convert`.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
#[command(after_help = "\
One model at a time: its image is written, read back from the disk and compared, and only then \
the original is removed (or moved to `--keep`). What another program writes or has locked, and \
what looks unfinished, stays. `bigsmall mount FOLDER` then shows every path as it was; `bigsmall \
restore FOLDER` undoes it. An interrupted run goes on when it is started again.")]
pub(crate) struct Arguments {
    /// The folder with models; with `--hf-cache` that of the Hugging Face cache if none is named
    #[arg(required_unless_present = "hf_cache")]
    folder: Option<PathBuf>,
    /// Convert the Hugging Face cache
    #[arg(long)]
    hf_cache: bool,
    /// What matters more: size or latency
    #[arg(
        long,
        value_name = "PROFILE",
        default_value = "balanced",
        value_parser = ["balanced", "inference", "storage"]
    )]
    profile: String,
    /// Move originals below this folder instead of removing them
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
    /// Leave models alone that were written less than so many seconds ago; 0 takes all
    #[arg(long, value_name = "SECONDS", default_value_t = MIN_AGE.as_secs())]
    min_age: u64,
    /// Convert models with parts that were never written, too, as unfinished downloads have
    #[arg(long)]
    sparse: bool,
    /// Only say what would be saved, from a sample of each model
    #[arg(long)]
    dry_run: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let progress = Bar::new(global);
    let folder = hf_cache::folder_or(arguments.folder.as_deref())?;
    let finished_check = FinishedCheck {
        min_age: Duration::from_secs(arguments.min_age),
        sparse: arguments.sparse,
    };
    let plan = convert::plan(&folder, &finished_check, &progress)?;
    if arguments.dry_run {
        if global.json {
            render::json("bigsmall.convert-plan/1", &plan)?;
        } else {
            render::out(&converted::plan_text(&plan))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !global.quiet && !global.json {
        exit::complain(&converted::plan_text(&plan));
    }
    if plan.chosen().next().is_some() {
        let what = match &arguments.keep {
            Some(keep) => format!("Convert, and move the originals to `{}`?", keep.display()),
            None => "Convert, and remove the originals?".to_owned(),
        };
        if !ask::confirm(&what, arguments.yes)? {
            return Ok(ExitCode::SUCCESS);
        }
    }
    let options = ConvertOptions {
        profile: arguments.profile.parse()?,
        keep: arguments.keep.clone(),
        threads: global.threads(),
    };
    let report = convert::convert(&plan, &options, &progress)?;
    if global.json {
        render::json("bigsmall.convert/1", &report)?;
    } else if !global.quiet {
        render::out(&converted::text(&report))?;
    }
    Ok(exit::of_findings(report.failed.is_empty()))
}
