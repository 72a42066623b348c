//! `bigsmall repair`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::base::units::counted;
use crate::base::units::human_bytes;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::repair;
use crate::ops::repair::RepairOptions;
use crate::ops::repair::RepairReport;

/// Words of `repair`.
#[derive(Debug, Args)]
#[command(after_help = "\
Needs the parity that `bigsmall protect` wrote while the file was whole. A new file is written, \
read back and compared with the digest of the one that was protected; only then it takes the \
damaged one's place, unless `-o` names another.
Exit code 0: the file is whole now. 4: more is lost than the parity makes up for; nothing was \
changed.")]
pub(crate) struct Arguments {
    /// The damaged file
    file: PathBuf,
    /// Write the whole file here, and leave the damaged one as it is
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Its parity, if that is not FILE.par
    #[arg(long, value_name = "FILE")]
    parity: Option<PathBuf>,
    /// Replace an output that exists
    #[arg(short, long)]
    force: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let options = RepairOptions {
        output: arguments.output.clone(),
        parity: arguments.parity.clone(),
        force: arguments.force,
        threads: global.threads(),
    };
    let report = repair::repair(&arguments.file, &options, &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.repair/1", &report)?;
    } else if !global.quiet {
        render::out(&text(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(report: &RepairReport) -> String {
    let path = report.path.display();
    let mut lines = vec![if report.lost + report.moved == 0 && !report.repaired {
        format!("{path}: whole, nothing to repair")
    } else {
        format!(
            "{path}: repaired; of {} of {} each, {} lost and {} elsewhere; read back and compared",
            counted(report.shards as u64, "part"),
            human_bytes(report.shard_bytes.into()),
            report.lost,
            report.moved
        )
    }];
    lines.extend(
        report
            .parity_faults
            .iter()
            .map(|fault| format!("  its parity: {fault}")),
    );
    if report.parity_lost > 0 {
        lines.push(format!(
            "  its parity: {} lost",
            counted(report.parity_lost as u64, "part")
        ));
    }
    if report.parity_renewed {
        lines.push("  its parity was written anew".to_owned());
    }
    lines.join("\n")
}
