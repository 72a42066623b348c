//! `bigsmall apply`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::cli::commands::decompress;
use crate::cli::global::Global;

/// Words of `apply`.
#[derive(Debug, Args)]
#[command(after_help = "\
The same as `bigsmall decompress PATCH --base BASE`. A folder of patches, or a patch of a \
folder, needs `-o FOLDER`; the other files of the folder come back, too.")]
pub(crate) struct Arguments {
    /// The model that the patch was made from: a file, an image, or a folder of them
    base: PathBuf,
    /// The differences: an image, or a folder of images
    patch: PathBuf,
    /// Where to write; `-` is standard output
    #[arg(short, long)]
    output: Option<PathBuf>,
    /// Replace an output that exists
    #[arg(short, long)]
    force: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let words = decompress::Arguments {
        source: arguments.patch.clone(),
        output: arguments.output.clone(),
        base: vec![arguments.base.clone()],
        force: arguments.force,
    };
    decompress::run(&words, global)
}
