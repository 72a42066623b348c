//! `bigsmall xray`.

use std::path::Path;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Error;
use crate::base::OutputFile;
use crate::base::Result;
use crate::base::atomic;
use crate::cli::global::Global;
use crate::cli::page;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::cli::tables;
use crate::ops::folder;
use crate::ops::xray;
use crate::ops::xray::XrayOptions;

/// Words of `xray`.
#[derive(Debug, Args)]
#[command(after_help = "\
Every number is read and counted. The bits that sign, exponent and mantissa carry (their \
entropies) stand beside those of random numbers of a normal distribution of the same deviation; \
docs/xray.md tells what each flag means and when it is raised.")]
pub(crate) struct Arguments {
    /// A safetensors file, or an image of one
    model: PathBuf,
    /// List all tensors, not only those with something to say of
    #[arg(short, long)]
    tensors: bool,
    /// Only tensors whose names have this in them
    #[arg(long, value_name = "TEXT")]
    tensor: Option<String>,
    /// Only tensors of at least so many elements
    #[arg(long, value_name = "N", default_value_t = 0)]
    min_elements: u64,
    /// Also how much of each matrix lies in its strongest direction; takes longer
    #[arg(long)]
    spectrum: bool,
    /// Write a page with a picture and a table
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Write the picture alone
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Where the bases of deltas are looked for, instead of beside the image
    #[arg(long, value_name = "PATH", alias = "base-dir")]
    base: Vec<PathBuf>,
    /// Replace pages that exist
    #[arg(short, long)]
    force: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let options = XrayOptions {
        bases: arguments.base.clone(),
        named: arguments.tensor.clone(),
        elements_min: arguments.min_elements,
        spectrum: arguments.spectrum,
        threads: global.threads(),
    };
    check_pages(arguments)?;
    let report = xray::xray(&arguments.model, &options, &Bar::new(global))?;
    if let Some(path) = &arguments.html {
        write(path, &page::html(&report), arguments.force)?;
    }
    if let Some(path) = &arguments.svg {
        write(path, &page::svg(&report), arguments.force)?;
    }
    if global.json {
        render::json("bigsmall.xray/1", &report)?;
    } else if !global.quiet {
        render::out(&tables::xray(&report, arguments.tensors))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Pages replace pages: neither the model nor one another, and nothing is written if one of them
/// cannot be.
fn check_pages(arguments: &Arguments) -> Result<()> {
    let pages = [&arguments.html, &arguments.svg];
    for page in pages.into_iter().flatten() {
        folder::check_not_same(&arguments.model, page)?;
        atomic::check_target(page, arguments.force)
            .map_err(|e| e.hint("replace it with `--force`"))?;
    }
    if arguments.html.is_some() && arguments.html == arguments.svg {
        return Err(Error::invalid("two pages cannot have one name"));
    }
    Ok(())
}

fn write(path: &Path, text: &str, force: bool) -> Result<()> {
    let mut output = OutputFile::create(path, force)?;
    output.write(text.as_bytes())?;
    output.commit(None, Some(atomic::mode_of_new_file()))
}
