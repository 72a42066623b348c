//! `bigsmall convert`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::base::error::escaped;
use crate::base::units::counted;
use crate::base::units::human_bytes;
use crate::base::units::percent;
use crate::cli::ask;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::convert;
use crate::ops::convert::ConvertOptions;
use crate::ops::convert::ConvertReport;
use crate::ops::convert::Plan;
use crate::ops::hf_cache;

/// Words of `convert`.
#[derive(Debug, Args)]
#[command(after_help = "\
One model at a time: its image is written, read back from the disk and compared, and only then the original is removed (or moved to
`--keep`). `bigsmall mount FOLDER` then shows every path as it was; `bigsmall restore FOLDER` undoes it. An interrupted
run goes on when it is started again.")]
pub(crate) struct Arguments {
    /// The folder with models; with `--hf-cache` that of the Hugging Face cache if none is named
    #[arg(required_unless_present = "hf_cache")]
    folder: Option<PathBuf>,
    /// Convert the Hugging Face cache
    #[arg(long)]
    hf_cache: bool,
    /// What matters more: size or latency
    #[arg(long, value_name = "PROFILE", default_value = "balanced", value_parser = ["balanced", "inference", "storage"])]
    profile: String,
    /// Move originals below this folder instead of removing them
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,
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
    let plan = convert::plan(&folder, &progress)?;
    if arguments.dry_run {
        if global.json {
            render::json("bigsmall.convert-plan/1", &plan)?;
        } else {
            render::out(&plan_text(&plan))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    if !global.quiet && !global.json {
        exit::complain(&plan_text(&plan));
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
        render::out(&text(&report))?;
    }
    let code = if report.failed.is_empty() {
        0
    } else {
        exit::FINDINGS
    };
    Ok(ExitCode::from(code))
}

fn plan_text(plan: &Plan) -> String {
    let mut lines = Vec::new();
    for file in &plan.files {
        let path = escaped(&file.path.to_string_lossy());
        let bytes = human_bytes(file.bytes);
        lines.push(match &file.stays {
            Some(why) => format!("{path:<60} {bytes:>9} stays: {why}"),
            None => format!(
                "{path:<60} {bytes:>9} -> about {} ({:.0} % of its size)",
                human_bytes(file.estimated_bytes),
                percent(file.estimated_bytes, file.bytes)
            ),
        });
    }
    lines.push(format!(
        "{} of {}, {}: about {} would be saved",
        plan.chosen().count(),
        counted(plan.files.len() as u64, "model"),
        human_bytes(plan.bytes),
        human_bytes(plan.estimated_saved_bytes)
    ));
    lines.join("\n")
}

fn text(report: &ConvertReport) -> String {
    let mut lines: Vec<String> = report.parity.iter().map(render::protected).collect();
    lines.push(format!(
        "{} converted, {} left as they are, {} failed; {}; read back and compared; {}",
        counted(report.converted, "model"),
        report.stayed.len(),
        report.failed.len(),
        render::saved(report.original_bytes, report.image_bytes),
        render::rate(report.original_bytes, report.seconds)
    ));
    lines.join("\n")
}
