//! `bigsmall compress`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::base::units::human_bytes;
use crate::base::units::percent;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::global::output;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::codec::Profile;
use crate::ops::base;
use crate::ops::compress;
use crate::ops::compress::CompressOptions;
use crate::ops::compress::CompressReport;
use crate::ops::compress::Output;

/// Words of `compress`.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
#[command(after_help = "\
A file becomes FILE.bs beside it (`.safetensors` is taken off and recorded). A folder needs `-o`: a folder gets
a `.bs` for each model and copies of the other files; a name that ends with `.bs` becomes one image of it all.
The source is never touched. The result is read back from the disk and compared before it appears.")]
pub(crate) struct Arguments {
    /// A model file, or a folder
    source: PathBuf,
    /// Where to write, as with `-o`
    #[arg(value_name = "OUTPUT", conflicts_with = "output")]
    last: Option<PathBuf>,
    /// Where to write; `-` is standard output
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// What matters more: size or latency
    #[arg(long, value_name = "PROFILE", value_parser = ["balanced", "inference", "storage"])]
    profile: Option<String>,
    /// Short for `--profile balanced` (the default)
    #[arg(long, conflicts_with_all = ["profile", "inference", "storage"])]
    balanced: bool,
    /// Short for `--profile inference`: fastest to decode
    #[arg(long, conflicts_with_all = ["profile", "storage"])]
    inference: bool,
    /// Short for `--profile storage`: smallest
    #[arg(long, conflicts_with = "profile")]
    storage: bool,
    /// The model that it is a fine-tune of: a file, an image, or a folder of them
    #[arg(long, value_name = "PATH", alias = "delta-from")]
    base: Option<PathBuf>,
    /// Replace an output that exists
    #[arg(short, long)]
    force: bool,
    /// Store files that are no valid safetensors as plain bytes
    #[arg(long)]
    opaque: bool,
}

impl Arguments {
    fn profile(&self) -> Result<Profile> {
        match &self.profile {
            Some(name) => name.parse(),
            None if self.inference => Ok(Profile::Inference),
            None if self.storage => Ok(Profile::Storage),
            None => Ok(Profile::Balanced),
        }
    }
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let options = CompressOptions {
        output: output(arguments.output.as_ref().or(arguments.last.as_ref()))?,
        profile: arguments.profile()?,
        base: base::open(arguments.base.as_deref())?,
        force: arguments.force,
        opaque: arguments.opaque,
        threads: global.threads(),
    };
    let report = compress::compress(&arguments.source, &options, &Bar::new(global))?;
    let text = text(&report);
    match (&options.output, global.json) {
        // standard output is the data
        (Output::Stdout, _) if global.quiet => {}
        (Output::Stdout, _) => exit::complain(&text),
        (_, true) => render::json("bigsmall.compress/1", &report)?,
        (_, false) if global.quiet => {}
        (_, false) => render::out(&text)?,
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn text(report: &CompressReport) -> String {
    let mut lines = Vec::new();
    for image in &report.images {
        lines.push(format!(
            "{} -> {}  {} -> {} ({:.1} %)",
            image.source.display(),
            image.output.display(),
            human_bytes(image.original_bytes),
            human_bytes(image.image_bytes),
            percent(image.image_bytes, image.original_bytes)
        ));
    }
    if report.copied_files > 0 {
        let (files, bytes) = (report.copied_files, human_bytes(report.copied_bytes));
        lines.push(format!("{files} other files copied ({bytes})"));
    }
    let saved = report.original_bytes.saturating_sub(report.output_bytes);
    lines.push(format!(
        "saved {} of {}; read back and compared; {}",
        human_bytes(saved),
        human_bytes(report.original_bytes),
        render::rate(report.original_bytes, report.seconds)
    ));
    lines.join("\n")
}
