//! `bigsmall scrub`.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::base::Result;
use crate::base::units;
use crate::base::units::counted;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::scrub;
use crate::ops::scrub::ScrubOptions;
use crate::ops::scrub::ScrubReport;
use crate::ops::verify::ImageReport;

/// Words of `scrub`.
#[derive(Debug, Args)]
#[command(after_help = "\
Verifies every image of a library as `bigsmall verify` does, those first that were not for the \
longest time, and remembers when each was read whole: run it from a timer, interrupt it at will. \
`scripts/install` puts a timer in place.
Exit code 0: nothing is known to be damaged. 1: something is, or the base of a fine-tune is \
missing, so that it could not be verified; both are looked at again each time.")]
pub(crate) struct Arguments {
    /// A folder of images
    folder: PathBuf,
    /// A model that images are stored as differences from, if it is not in the library
    #[arg(long, value_name = "PATH", alias = "base-dir")]
    base: Vec<PathBuf>,
    /// Leave alone what was found right within the last so many days
    #[arg(long, value_name = "DAYS", default_value_t = 30)]
    older: u32,
    /// Original bytes to verify in a second at most, such as `50m`
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    rate: Option<u64>,
    /// Stop after so many minutes; the next run goes on
    #[arg(long, value_name = "MINUTES")]
    at_most: Option<u32>,
    /// Where to remember what was verified when
    #[arg(long, value_name = "FILE")]
    memory: Option<PathBuf>,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let options = ScrubOptions {
        bases: arguments.base.clone(),
        memory: arguments.memory.clone(),
        older: Duration::from_secs(u64::from(arguments.older) * 86400),
        rate: arguments.rate,
        at_most: arguments
            .at_most
            .map(|m| Duration::from_secs(u64::from(m) * 60)),
        threads: global.threads(),
    };
    let report = scrub::scrub(&arguments.folder, &options, &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.scrub/1", &report)?;
    } else if !global.quiet || !report.ok {
        render::out(&text(&report))?;
    }
    Ok(exit::of_findings(report.ok))
}

fn text(report: &ScrubReport) -> String {
    let bad = report.images.iter().filter(|image| !image.ok);
    let mut lines: Vec<String> = bad.map(render::verified).collect();
    let without_base = report.images.iter().filter(|it| it.missing_base.is_some());
    let without_base = without_base.count();
    let damaged = lines.len() - without_base;
    let is_stale = |image: &&ImageReport| {
        let parity = image.parity.as_ref();
        image.ok && parity.is_some_and(|parity| parity.is_of_another_file)
    };
    lines.extend(report.images.iter().filter(is_stale).map(render::verified));
    let oldest = report.oldest_days.map_or_else(
        || "some were never read whole".to_owned(),
        // a day that is not over counts
        |days| format!("all were read whole within {}", counted(days + 1, "day")),
    );
    let missing = match without_base {
        0 => String::new(),
        count => format!(
            ", {} not verified as the base is missing",
            counted(count as u64, "image")
        ),
    };
    lines.push(format!(
        "{} of {} verified now, {damaged} damaged{missing}; {} verified lately, {} left for later; {oldest}",
        report.images.len() - without_base,
        counted(report.images_in_all as u64, "image"),
        report.rested,
        report.left
    ));
    lines.join("\n")
}
