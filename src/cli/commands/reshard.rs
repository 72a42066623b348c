//! `bigsmall reshard`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::base::Result;
use crate::base::units;
use crate::base::units::counted;
use crate::base::units::human_bytes;
use crate::cli::global::Global;
use crate::cli::progress::Bar;
use crate::cli::render;
use crate::ops::reshard;
use crate::ops::reshard::Cut;
use crate::ops::reshard::ReshardOptions;
use crate::ops::reshard::ReshardReport;

/// Words of `reshard`.
#[derive(Debug, Args)]
#[command(after_help = "\
Coded blocks are moved as they are; every tensor is compared with its md5 when the new images \
are read back. Tensors lie in a file as the safetensors library writes them. Other files of the \
folder are copied, and the list of shards is written anew.")]
pub(crate) struct Arguments {
    /// An image, or the folder of a model's images
    source: PathBuf,
    /// The new folder, which appears when all of it is right
    target: PathBuf,
    #[command(flatten)]
    cut: CutArguments,
    /// Where the bases of deltas are looked for, instead of beside the images
    #[arg(long, value_name = "PATH", alias = "base-dir")]
    base: Vec<PathBuf>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct CutArguments {
    /// Files of at most this size as they were before compression, such as `5GB`
    #[arg(long, value_name = "SIZE", value_parser = units::parse_bytes)]
    size: Option<u64>,
    /// So many files of about the same size
    #[arg(long, value_name = "N")]
    shards: Option<u64>,
    /// A file for each layer, and one for everything else
    #[arg(long)]
    by_layer: bool,
    /// One file
    #[arg(long)]
    join: bool,
}

/// Runs it.
pub(crate) fn run(arguments: &Arguments, global: &Global) -> Result<ExitCode> {
    let cut = &arguments.cut;
    let cut = match (cut.size, cut.shards) {
        (Some(size), _) => Cut::Size(size),
        (_, Some(count)) => Cut::Shards(count),
        _ if cut.by_layer => Cut::ByLayer,
        _ => Cut::Join,
    };
    let options = ReshardOptions {
        cut,
        bases: arguments.base.clone(),
        threads: global.threads(),
    };
    let (source, target) = (&arguments.source, &arguments.target);
    let report = reshard::reshard(source, target, &options, &Bar::new(global))?;
    if global.json {
        render::json("bigsmall.reshard/1", &report)?;
    } else if !global.quiet {
        render::out(&text(&report))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn text(report: &ReshardReport) -> String {
    let shard = |shard: &reshard::Shard| {
        format!(
            "{}  {}, {} -> {}",
            shard.path.display(),
            counted(shard.tensors, "tensor"),
            human_bytes(shard.original_bytes),
            human_bytes(shard.image_bytes)
        )
    };
    let mut lines: Vec<String> = report.shards.iter().map(shard).collect();
    if report.copied_files > 0 {
        lines.push(format!(
            "{} copied unchanged",
            counted(report.copied_files, "other file")
        ));
    }
    let bytes = report.shards.iter().map(|shard| shard.original_bytes).sum();
    lines.push(format!(
        "{} made of {}; read back and compared; {}",
        counted(report.shards.len() as u64, "image"),
        counted(report.source_images, "image"),
        render::rate(bytes, report.seconds)
    ));
    lines.join("\n")
}
