//! `bigsmall bench`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::base::units::human_bytes;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::codec::Profile;
use crate::ops::bench;
use crate::ops::bench::BenchOptions;
use crate::ops::bench::BenchReport;

/// Words of `bench`.
#[derive(Debug, Args)]
#[command(after_help = "\
Everything is measured in memory, with one thread and with all of them (`-j`), in GB of original \
bytes a second, as the median of several runs. The model is held in memory three times.
Size is that of the image in percent of the model. Decoding goes into a buffer of two blocks \
that is used again (window), into memory of the model's size that was used before (resident), or \
that is new from the system (fresh); memcpy is a plain copy into the same. 4 KiB is the median \
time of reading so much at a random place.")]
pub(crate) struct Arguments {
    /// A model file
    file: PathBuf,
    /// Only this profile; may be given several times
    #[arg(long, value_name = "PROFILE", value_parser = ["balanced", "inference", "storage"])]
    profile: Vec<String>,
    /// Only this set of kernels, `auto` for the one in use; may be given several times
    #[arg(long, value_name = "NAME")]
    simd: Vec<String>,
    /// Runs of each measurement, of which the median is given
    #[arg(
        long,
        value_name = "N",
        default_value_t = 5,
        value_parser = clap::value_parser!(u16).range(1..=1000)
    )]
    runs: u16,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let profiles: Result<Vec<Profile>> =
        arguments.profile.iter().map(|name| name.parse()).collect();
    let options = BenchOptions {
        threads: global.threads(),
        profiles: profiles?,
        simd: arguments.simd.clone(),
        runs: arguments.runs.into(),
    };
    let report = bench::bench(&arguments.file, &options, &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.bench/1", &report)?;
    } else {
        render::out(&text(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(report: &BenchReport) -> String {
    let mut lines = vec![
        format!("{}: {}", report.path.display(), human_bytes(report.bytes)),
        "                                       encode    decode into (GB/s)      memcpy  4 KiB"
            .into(),
        "profile    kernels       threads  size   GB/s  window resident   fresh    GB/s  p50 us"
            .into(),
    ];
    for row in &report.results {
        lines.push(format!(
            "{:<10} {:<13} {:>7} {:>5.2}% {:>6.2} {:>7.2} {:>8.2} {:>7.2} {:>7.1} {:>7.1}",
            row.profile,
            row.simd,
            row.threads,
            row.ratio * 100.0,
            row.encode_gbps,
            row.decode_window_gbps,
            row.decode_resident_gbps,
            row.decode_fresh_gbps,
            row.memcpy_gbps,
            row.random_4k_p50_us
        ));
    }
    lines.join("\n")
}
