//! `bigsmall stat`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use clap::ValueEnum;

use crate::base::Result;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::cli::tables;
use crate::ops::stat;
use crate::ops::stat::SortBy;
use crate::ops::stat::StatOptions;

/// Words of `stat`.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// An image or a safetensors file, or a folder of them
    source: PathBuf,
    /// Only tensors whose names have this in them
    #[arg(long, value_name = "TEXT")]
    tensor: Option<String>,
    /// Only tensors of this dtype
    #[arg(long)]
    dtype: Option<String>,
    /// Only tensors with a block of this codec
    #[arg(long)]
    codec: Option<String>,
    /// Sort by this; sizes from the largest on
    #[arg(long, value_enum, default_value_t = Key::Place)]
    sort: Key,
    /// The other way round
    #[arg(short, long)]
    reverse: bool,
    /// Only so many
    #[arg(short = 'n', long, value_name = "N")]
    top: Option<usize>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Key {
    /// The order of the files
    Place,
    /// Names, with numbers by their value
    Name,
    /// Original bytes
    Size,
    /// Coded bytes
    Coded,
    /// Coded in percent of original bytes
    Ratio,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let options = StatOptions {
        named: arguments.tensor.clone(),
        dtype: arguments.dtype.clone(),
        codec: arguments.codec.clone(),
        sort_by: match arguments.sort {
            Key::Place => SortBy::Place,
            Key::Name => SortBy::Name,
            Key::Size => SortBy::Size,
            Key::Coded => SortBy::Coded,
            Key::Ratio => SortBy::Percent,
        },
        reverse: arguments.reverse,
        at_most: arguments.top,
    };
    let report = stat::stat(&arguments.source, &options, &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.stat/1", &report)?;
    } else {
        render::out(&tables::stat(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}
