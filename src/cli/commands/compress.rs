//! `bigsmall compress`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::cli::exit;
use crate::cli::global::Global;
use crate::cli::global::output;
use crate::cli::mirrored;
use crate::cli::mirrored::Update;
use crate::cli::profile::ProfileWords;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::auto_base;
use crate::ops::base;
use crate::ops::compress;
use crate::ops::compress::CompressOptions;
use crate::ops::compress::Output;

/// Words of `compress`.
#[derive(Debug, Args)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is a flag of the command line"
)]
#[command(after_help = "\
A file becomes FILE.bs beside it (`.safetensors` is taken off and recorded). A folder needs \
`-o`: a folder gets a `.bs` for each model and copies of the other files, and run again it is \
brought up to date; a name that ends with `.bs` becomes one image of it all.
The source is never touched. The result is read back from the disk and compared before it \
appears.")]
pub(crate) struct Arguments {
    /// A model file, or a folder
    source: PathBuf,
    /// Where to write, as with `-o`
    #[arg(value_name = "OUTPUT", conflicts_with = "output")]
    last: Option<PathBuf>,
    /// Where to write; `-` is standard output
    #[arg(short, long)]
    output: Option<PathBuf>,
    #[command(flatten)]
    profile: ProfileWords,
    /// The model that it is a fine-tune of: a file, an image, or a folder of them
    #[arg(long, value_name = "PATH", alias = "delta-from")]
    base: Option<PathBuf>,
    /// Find bases that save much: for a file beside it or in `--base-dir`; for the models of a
    /// folder among them, and else in
    /// `--base-dir`
    #[arg(long, conflicts_with = "base")]
    auto_delta: bool,
    /// A folder in which a base is looked for
    #[arg(long, value_name = "FOLDER", requires = "auto_delta")]
    base_dir: Vec<PathBuf>,
    /// The source is a folder of checkpoints: store each as differences from an earlier one where
    /// that is smaller. Run it again when a step was added
    #[arg(long, conflicts_with_all = ["base", "auto_delta"])]
    series: bool,
    /// Write parity beside each image, by which `bigsmall repair` makes up for so many percent of
    /// it (5 if no number is given)
    #[arg(long, value_name = "PERCENT", num_args = 0..=1, default_missing_value = "5")]
    #[arg(require_equals = true, value_parser = clap::value_parser!(u32).range(1..=100))]
    ecc: Option<u32>,
    /// Go on where an interrupted run stopped; if this one is interrupted, what is done stays for
    /// another
    #[arg(long)]
    resume: bool,
    /// Replace an output that exists, unless it is an image of something else
    #[arg(short, long)]
    force: bool,
    #[command(flatten)]
    update: Update,
    /// Store files that are no valid safetensors as plain bytes
    #[arg(long)]
    opaque: bool,
    /// In one image of a folder (`-o NAME.bs`), keep users' extended attributes (`user.*`), too
    #[arg(long)]
    attributes: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let progress = Bar::new(global);
    let base_paths = arguments.base_dir.as_slice();
    let output = output(arguments.output.as_ref().or(arguments.last.as_ref()))?;
    let find = || auto_base::find(&arguments.source, base_paths, &progress);
    // the models of a folder may have each its own
    let is_one = !arguments.source.is_dir() || (output.is_image() && !base_paths.is_empty());
    let found = (arguments.auto_delta && is_one).then(find).transpose()?;
    let auto_base = found.as_ref().and_then(|choice| choice.base.as_deref());
    let mut options = CompressOptions {
        output,
        profile: arguments.profile.profile()?,
        base: base::open(arguments.base.as_deref().or(auto_base))?,
        series: arguments.series,
        resume: arguments.resume,
        force: arguments.force,
        opaque: arguments.opaque,
        threads: global.threads(),
        more: arguments
            .update
            .options(arguments.auto_delta.then_some(base_paths)),
    };
    options.more.attributes = arguments.attributes;
    let mut report = compress::compress(&arguments.source, &options, &progress)?;
    report.auto_base = found;
    if let Some(percent) = arguments.ecc {
        mirrored::protect_images(&mut report, percent, global.threads(), &progress)?;
    }
    let (source, update) = (&arguments.source, &arguments.update);
    let deleted = update.delete_gone(source, &options.output, &mut report, &progress);
    let lines = [
        Some(render::compressed(&report)),
        mirrored::summary(&report),
    ];
    let text = lines.into_iter().flatten().collect::<Vec<_>>().join("\n");
    match (&options.output, global.json) {
        // standard output is the data
        (Output::Stdout, _) if global.quiet => {}
        (Output::Stdout, _) => exit::complain(&text),
        (_, true) => render::json("bigsmall.compress/1", &report)?,
        (_, false) if global.quiet => {}
        (_, false) => render::out(&text)?,
    }
    deleted.map(|()| ExitCode::SUCCESS)
}
